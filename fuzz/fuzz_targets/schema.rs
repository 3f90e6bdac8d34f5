//! Bytes into the reader of schemas, and into the hash by Envoy's: no panic, and a hash that does not
//! know the order of a map's entries, but all else.
#![no_main]

use std::{hint::black_box, sync::LazyLock};

use deltaplane_core::{Any, Schema};
use libfuzzer_sys::fuzz_target;
use prost::{Message, encoding::bytes};

const ANY: &str = "google.protobuf.Any";
const TEXT: &str = include_str!("../../xds-server/src/schema.txt");
static SCHEMA: LazyLock<Schema> = LazyLock::new(|| Schema::parse(TEXT).expect("a schema"));
/// The messages, each with its fields, and whether they are maps.
static MESSAGES: LazyLock<Vec<(&str, Vec<(u32, bool)>)>> = LazyLock::new(|| {
    let field = |word: &str| {
        let (number, holds) = word.split_once('=').expect("a field");
        (number.parse().expect("a number"), holds.starts_with("map"))
    };
    let message = |line: &'static str| {
        let mut words = line.split(' ');
        (words.next().expect("a name"), words.map(field).collect())
    };
    TEXT.lines().filter(|line| !line.starts_with('#')).map(message).collect()
});

/// A field's number, whether it is a map, and its content.
type Field<'a> = (u32, bool, &'a [u8]);

fn fields<'a>(known: &[(u32, bool)], mut input: &'a [u8]) -> Vec<Field<'a>> {
    let mut fields = Vec::new();
    while let Some((&[number, len], rest)) = input.split_first_chunk() {
        let number = usize::from(number);
        // Twice as many numbers as fields, so that half of them are ordinary, or other fields.
        let (number, is_map) =
            known.get(number % (2 * known.len())).copied().unwrap_or_else(|| {
                let number = number as u32 + 1;
                (number, known.contains(&(number, true)))
            });
        let (content, rest) = rest.split_at(usize::from(len).min(rest.len()));
        fields.push((number, is_map, content));
        input = rest;
    }
    fields
}

fn encode<'a, 'b: 'a>(fields: impl IntoIterator<Item = &'a Field<'b>>) -> Vec<u8> {
    let mut message = Vec::new();
    for (number, _, content) in fields {
        bytes::encode(*number, &content.to_vec(), &mut message);
    }
    message
}

fn in_any(name: &str, value: &[u8]) -> u64 {
    let any = Any { type_url: format!("type.googleapis.com/{name}"), value: value.to_vec().into() };
    SCHEMA.hash(ANY, &any.encode_to_vec())
}

fn check_order(name: &str, fields: &[Field<'_>]) {
    let given = encode(fields);
    let (maps, others): (Vec<_>, Vec<_>) = fields.iter().partition(|(_, is_map, _)| *is_map);
    let reordered = encode(others.into_iter().chain(maps.into_iter().rev()));
    assert_eq!(SCHEMA.hash(name, &given), SCHEMA.hash(name, &reordered));
    assert_eq!(in_any(name, &given), in_any(name, &reordered));
    if let Some((_, fewer)) = fields.split_last() {
        assert_ne!(SCHEMA.hash(name, &given), SCHEMA.hash(name, &encode(fewer)));
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((&[mode, high, low], value)) = input.split_first_chunk() else { return };
    let (name, known) = &MESSAGES[usize::from(u16::from_be_bytes([high, low])) % MESSAGES.len()];
    match (mode % 4, str::from_utf8(value)) {
        (0, Ok(text)) => {
            if let Ok(schema) = Schema::parse(text) {
                text.split_whitespace().for_each(|name| _ = black_box(schema.hash(name, value)));
            }
        }
        (0 | 1, _) => _ = black_box(SCHEMA.hash(name, value)),
        _ => check_order(name, &fields(known, value)),
    }
});
