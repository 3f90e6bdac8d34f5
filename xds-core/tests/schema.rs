//! Equal messages hash alike, and different ones differently.

#![allow(clippy::disallowed_types, reason = "maps in random order are what is tested")]
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::collections::HashMap;

use deltaplane_core::Schema;
use proptest::prelude::*;
use prost::Message;
use xxhash_rust::xxh3::xxh3_64;

const SCHEMA: &str = "
# what may be a map, and what may lead to one
test.Tree 1=map 2=map 3=map:test.Tree 4=map:google.protobuf.Any 5=test.Tree 6=test.Tree 7=google.protobuf.Any
";

const TREE: &str = "test.Tree";

#[derive(Clone, PartialEq, Message)]
struct Tree {
    #[prost(map = "string, string", tag = "1")]
    labels: HashMap<String, String>,
    #[prost(map = "string, string", tag = "2")]
    notes: HashMap<String, String>,
    #[prost(map = "string, message", tag = "3")]
    branches: HashMap<String, Tree>,
    #[prost(map = "uint32, message", tag = "4")]
    options: HashMap<u32, Any>,
    #[prost(message, optional, boxed, tag = "5")]
    only: Option<Box<Tree>>,
    #[prost(message, repeated, tag = "6")]
    list: Vec<Tree>,
    #[prost(message, optional, tag = "7")]
    any: Option<Any>,
    #[prost(string, repeated, tag = "8")]
    words: Vec<String>,
    #[prost(message, optional, tag = "9")]
    leaf: Option<Leaf>,
    #[prost(double, tag = "10")]
    double: f64,
    #[prost(fixed32, tag = "11")]
    fixed: u32,
    #[prost(int64, tag = "12")]
    int: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Leaf {
    #[prost(string, tag = "1")]
    name: String,
}

#[derive(Clone, PartialEq, Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

impl Any {
    fn of(tree: &Tree) -> Self {
        Self { type_url: format!("type.googleapis.com/{TREE}"), value: tree.encode_to_vec() }
    }
}

fn schema() -> Schema {
    Schema::parse(SCHEMA).unwrap()
}

fn hash(tree: &Tree) -> u64 {
    schema().hash(TREE, &tree.encode_to_vec())
}

fn strings(prefix: &str, len: usize) -> HashMap<String, String> {
    (0..len).map(|i| (format!("{prefix}{i}"), format!("value {i}"))).collect()
}

/// Each call makes new maps, which the standard library seeds differently.
fn grow(depth: usize, len: usize) -> Tree {
    let mut tree = Tree {
        labels: strings("label", len),
        notes: strings("note", len),
        words: vec!["first".into(), "second".into()],
        leaf: Some(Leaf { name: "leaf".into() }),
        double: 0.5,
        fixed: 7,
        int: -1,
        ..Tree::default()
    };
    if let Some(depth) = depth.checked_sub(1) {
        let child = || grow(depth, len);
        tree.branches = (0..3).map(|i| (format!("branch{i}"), child())).collect();
        tree.options = (0..3).map(|i| (i, Any::of(&child()))).collect();
        tree.only = Some(Box::new(child()));
        tree.list = vec![child(), Tree::default(), child()];
        tree.any = Some(Any::of(&child()));
    }
    tree
}

/// The hash, and how many encodings were seen, of a message encoded again and again.
fn encodings(times: usize, make: impl Fn() -> Tree) -> (u64, usize) {
    let schema = schema();
    let mut bytes: Vec<Vec<u8>> = (0..times).map(|_| make().encode_to_vec()).collect();
    let mut hashes: Vec<u64> = bytes.iter().map(|bytes| schema.hash(TREE, bytes)).collect();
    hashes.dedup();
    assert_eq!(hashes.len(), 1, "equal messages have several hashes");
    bytes.sort_unstable();
    bytes.dedup();
    (hashes[0], bytes.len())
}

#[test]
fn a_thousand_encodings_of_large_maps_have_one_hash() {
    let (_, distinct) = encodings(1000, || grow(0, 100));
    assert!(distinct > 900, "only {distinct} encodings differ");
}

#[test]
fn maps_inside_of_maps_lists_and_anys_are_seen_through() {
    let (_, distinct) = encodings(100, || grow(2, 3));
    assert!(distinct > 90, "only {distinct} encodings differ");
}

/// One place of a message at a time, so that no other can make up for what is missed there.
#[test]
fn every_place_that_can_hold_a_map_is_seen_through() {
    let child = || grow(0, 5);
    let places: [fn(Tree) -> Tree; 5] = [
        |child| Tree { branches: [("key".into(), child)].into(), ..Tree::default() },
        |child| Tree { options: [(1, Any::of(&child))].into(), ..Tree::default() },
        |child| Tree { only: Some(Box::new(child)), ..Tree::default() },
        |child| Tree { list: vec![child], ..Tree::default() },
        |child| Tree { any: Some(Any::of(&child)), ..Tree::default() },
    ];
    for place in places {
        let (_, distinct) = encodings(100, || place(child()));
        assert!(distinct > 50, "only {distinct} encodings differ");
    }
}

#[test]
fn every_difference_in_content_is_a_different_hash() {
    let changes: [fn(&mut Tree); 14] = [
        |tree| drop(tree.labels.insert("label0".into(), "changed".into())),
        |tree| drop(tree.labels.insert("new".into(), String::new())),
        |tree| drop(tree.labels.remove("label0")),
        |tree| {
            let value = tree.labels.remove("label0").unwrap();
            tree.labels.insert("renamed".into(), value);
        },
        |tree| {
            let value = tree.labels.remove("label0").unwrap();
            tree.notes.insert("label0".into(), value);
        },
        |tree| {
            // the same keys and the same values, paired differently
            let value = tree.labels.insert("label0".into(), "value 1".into()).unwrap();
            tree.labels.insert("label1".into(), value);
        },
        |tree| std::mem::swap(&mut tree.labels, &mut tree.notes),
        |tree| tree.words.reverse(),
        |tree| tree.list.swap(0, 1),
        |tree| tree.list.push(Tree::default()),
        |tree| drop(tree.branches.get_mut("branch0").unwrap().labels.remove("label0")),
        |tree| tree.options.get_mut(&0).unwrap().type_url.insert(0, 'x'),
        |tree| tree.any = Some(Any::of(tree.only.as_ref().unwrap().list.first().unwrap())),
        |tree| {
            let list = std::mem::take(&mut tree.list);
            tree.only = list.into_iter().next().map(Box::new);
        },
    ];
    let mut hashes = vec![hash(&grow(2, 3))];
    for change in changes {
        let mut tree = grow(2, 3);
        change(&mut tree);
        hashes.push(hash(&tree));
    }
    let len = hashes.len();
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!(hashes.len(), len);
}

#[test]
fn the_same_content_in_another_field_is_another_message() {
    let entry = || [("key".to_owned(), "value".to_owned())].into();
    let labels = Tree { labels: entry(), ..Tree::default() };
    let notes = Tree { notes: entry(), ..Tree::default() };
    assert_ne!(hash(&labels), hash(&notes));

    let only = Tree { only: Some(Box::new(labels.clone())), ..Tree::default() };
    let list = Tree { list: vec![labels], ..Tree::default() };
    assert_ne!(hash(&only), hash(&list));
}

#[test]
fn a_map_with_two_equal_entries_is_not_one_without() {
    let entry = Tree { labels: [("key".into(), "value".into())].into(), ..Tree::default() };
    let once = entry.encode_to_vec();
    let twice = once.repeat(2);
    assert_ne!(schema().hash(TREE, &once), schema().hash(TREE, &twice));
    assert_ne!(schema().hash(TREE, &[]), schema().hash(TREE, &twice));
}

#[test]
fn what_the_schema_does_not_know_hashes_as_encoded() {
    let bytes = grow(1, 3).encode_to_vec();
    assert_eq!(Schema::empty().hash(TREE, &bytes), xxh3_64(&bytes));
    assert_eq!(schema().hash("test.Leaf", &bytes), xxh3_64(&bytes));
    assert_ne!(schema().hash(TREE, &bytes), xxh3_64(&bytes));

    let plain = Tree { words: vec!["no map".into()], int: 3, ..Tree::default() }.encode_to_vec();
    assert_eq!(schema().hash(TREE, &plain), xxh3_64(&plain));
}

#[test]
fn a_map_beside_malformed_bytes_is_hashed_as_encoded() {
    let mut bytes = grow(0, 3).encode_to_vec();
    // a group, an unknown wire type, field number 0, a length beyond the end, an endless varint
    for tail in [&[0x0b][..], &[0x0f], &[0x02, 0x00], &[0x0a, 0x7f], &[0x60, 0xff]] {
        let len = bytes.len();
        bytes.extend_from_slice(tail);
        assert_eq!(schema().hash(TREE, &bytes), xxh3_64(&bytes), "{tail:x?}");
        bytes.truncate(len);
    }
}

#[test]
fn a_malformed_message_does_not_make_its_parent_opaque() {
    let bad = Any { type_url: format!("type.googleapis.com/{TREE}"), value: vec![0x0a, 0x7f] };
    let (_, distinct) = encodings(50, || Tree { any: Some(bad.clone()), ..grow(0, 5) });
    assert!(distinct > 1);
}

fn wrap(depth: usize, tree: Tree) -> Vec<u8> {
    let mut bytes = tree.encode_to_vec();
    for _ in 0..depth {
        let mut parent = Vec::new();
        prost::encoding::bytes::encode(5, &bytes, &mut parent);
        bytes = parent;
    }
    bytes
}

#[test]
fn nesting_is_followed_a_hundred_deep_and_no_deeper() {
    let hashes = |depth| {
        let mut hashes: Vec<u64> =
            (0..50).map(|_| schema().hash(TREE, &wrap(depth, grow(0, 20)))).collect();
        hashes.sort_unstable();
        hashes.dedup();
        hashes.len()
    };
    assert_eq!(hashes(99), 1);
    assert!(hashes(100) > 1);
}

#[test]
fn a_bomb_does_not_overflow_the_stack() {
    let tree = wrap(100_000 / 8, Tree::default());
    let _ = schema().hash(TREE, &tree);
    let mut any = Any::default();
    for _ in 0..1000 {
        let type_url = "type.googleapis.com/google.protobuf.Any".to_owned();
        any = Any { type_url, value: any.encode_to_vec() };
    }
    let _ = schema().hash("google.protobuf.Any", &any.encode_to_vec());
}

#[test]
fn a_text_that_is_no_schema_is_refused_with_its_line() {
    let cases = [
        ("a.B", 1, "a message without fields needs no line"),
        ("# fine\n\na.B 1=map\na.B 2=map", 4, "`a.B` already has a line"),
        ("a.B 1=map 1=a.B", 1, "field 1 is there twice"),
        ("a.B 1=map\na.C 1=a.D", 2, "`a.D` has no line"),
        ("a.B 1=map:a.D", 1, "`a.D` has no line"),
        ("google.protobuf.Any 1=map", 1, "`google.protobuf.Any` needs no line"),
    ];
    for (text, line, reason) in cases {
        let error = Schema::parse(text).unwrap_err();
        assert_eq!(error.line(), line, "{text}");
        assert_eq!(error.to_string(), format!("schema, line {line}: {reason}"));
    }
    for field in ["1", "1=", "=map", "x=map", "0=map", "536870912=map", "-1=map", "1=map:"] {
        let error = Schema::parse(&format!("a.B 2=map {field}")).unwrap_err();
        assert_eq!(error.line(), 1, "{field}");
    }
    assert!(Schema::parse("a.B 536870911=map 1=mapped.C\nmapped.C 1=map").is_ok());
}

/// Bytes that look like the test's message often enough to reach deep into the code.
fn almost_a_message() -> impl Strategy<Value = Vec<u8>> {
    let any_bytes = || prop::collection::vec(any::<u8>(), 0..40);
    let url = Just(format!("type.googleapis.com/{TREE}").into_bytes());
    let leaf = prop_oneof![any_bytes(), url, Just(vec![0x0b]), Just(vec![0x0a, 0xff, 0xff, 0x03])];
    leaf.prop_recursive(8, 64, 4, move |inner| {
        prop::collection::vec((1_u32..10, inner, any::<bool>()), 0..4).prop_map(|fields| {
            let mut message = Vec::new();
            for (number, content, whole) in fields {
                prost::encoding::bytes::encode(number, &content, &mut message);
                if !whole {
                    message.pop();
                }
            }
            message
        })
    })
}

proptest! {
    #[test]
    fn arbitrary_bytes_hash_the_same_twice(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        for name in [TREE, "google.protobuf.Any", "unknown"] {
            prop_assert_eq!(schema().hash(name, &bytes), schema().hash(name, &bytes));
        }
    }

    #[test]
    fn malformed_messages_hash_the_same_twice(bytes in almost_a_message()) {
        for name in [TREE, "google.protobuf.Any"] {
            prop_assert_eq!(schema().hash(name, &bytes), schema().hash(name, &bytes));
        }
    }

    #[test]
    fn arbitrary_text_is_read_or_refused(text in "([a-z.]{0,5}[ =:#\n]|map|[0-9]{1,2}=){0,20}") {
        let _ = Schema::parse(&text);
    }
}
