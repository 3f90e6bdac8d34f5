//! Content hashes of protobuf messages: equal messages hash alike, however their maps were encoded.
//!
//! On the wire a map is a repeated message with a key and a value. Encoders write its entries in
//! any order (prost in the random order of a `HashMap`), so the same message has many encodings.
//! In every other repeated field the order has a meaning: routes are tried from first to last. The
//! bytes alone do not tell the two apart; a [`Schema`] does.

use prost::encoding::{WireType, decode_key, decode_varint};
use xxhash_rust::xxh3::{Xxh3Default, xxh3_64};

mod parse;

pub use parse::SchemaError;

const ANY: &str = "google.protobuf.Any";

/// Deeper messages are hashed as encoded. Protobuf decoders, prost's and Envoy's, refuse them.
const MAX_DEPTH: u32 = 100;

/// The number of an `Any`'s type URL.
const TYPE_URL: u32 = 1;

/// The number of a map entry's value, and of an `Any`'s.
const VALUE: u32 = 2;

/// Which fields of which messages are maps, or hold messages in which there may be maps.
///
/// Only messages that can reach a map or a `google.protobuf.Any` have a place in it. All others
/// are hashed as encoded, as are messages it does not know, and all of them in an empty schema,
/// which is the default.
#[derive(Debug, Clone, Default)]
pub struct Schema {
    /// Sorted by name; [`Holds::Message`] is an index into it.
    messages: Vec<Message>,
}

#[derive(Debug, Clone)]
struct Message {
    name: Box<str>,
    /// Sorted by number.
    fields: Box<[Field]>,
}

/// A field that is not hashed as encoded.
#[derive(Debug, Clone, Copy)]
struct Field {
    number: u32,
    is_map: bool,
    /// What the field holds, or, if it is a map, each of its values.
    holds: Holds,
}

#[derive(Debug, Clone, Copy)]
enum Holds {
    /// Scalars, and messages that reach no map: hashed as encoded.
    Opaque,
    Any,
    Message(usize),
}

impl Schema {
    /// A schema that knows no message: everything hashes as encoded.
    #[must_use]
    pub const fn empty() -> Self {
        Self { messages: Vec::new() }
    }

    /// Hashes the encoded message `value`, whose full name is `message_name` (no leading dot).
    ///
    /// Two encodings hash alike if they differ only in the order of entries in maps that the
    /// schema knows, wherever in the message those are. The hash is the same in every process. A
    /// message without maps or `Any`s has the XXH3 hash of its bytes.
    ///
    /// Bytes that are no message of that name are no error: what cannot be read, is a group, or
    /// lies more than 100 messages deep is hashed as encoded.
    ///
    /// Costs one pass over the bytes, a binary search for the name and for each `Any`'s, and an
    /// allocation for each message that has a map; one XXH3 call if the schema lacks the name.
    #[must_use]
    pub fn hash(&self, message_name: &str, value: &[u8]) -> u64 {
        self.hash_held(self.find(message_name.as_bytes()), value, MAX_DEPTH)
    }

    fn find(&self, name: &[u8]) -> Holds {
        if name == ANY.as_bytes() {
            return Holds::Any;
        }
        self.messages
            .binary_search_by(|message| message.name.as_bytes().cmp(name))
            .map_or(Holds::Opaque, Holds::Message)
    }

    fn hash_held(&self, holds: Holds, value: &[u8], depth: u32) -> u64 {
        let structural = match (holds, depth.checked_sub(1)) {
            (Holds::Opaque, _) | (_, None) => None,
            (Holds::Any, Some(depth)) => self.hash_any(value, depth),
            (Holds::Message(index), Some(depth)) => self
                .messages
                .get(index)
                .and_then(|message| self.hash_fields(&message.fields, value, depth)),
        };
        structural.unwrap_or_else(|| xxh3_64(value))
    }

    /// `None` if there is nothing structural in it, or it is malformed.
    fn hash_any(&self, any: &[u8], depth: u32) -> Option<u64> {
        match self.find(message_name(any)?) {
            Holds::Opaque => None,
            holds => self.hash_fields(&[Field::value(holds)], any, depth),
        }
    }

    /// `None` if `message` is malformed: its parent then takes it as opaque, and is itself read on.
    ///
    /// What is fed to the hasher can be read back, so that different messages feed different bytes:
    /// ordinary fields as they stand; each of `fields`, behind a zero (no field starts with one), as
    /// its number and its hash; and last the maps in the same way.
    fn hash_fields(&self, fields: &[Field], message: &[u8], depth: u32) -> Option<u64> {
        let mut hasher = Xxh3Default::new();
        let mut maps = MapSums::default();
        // Ordinary fields are fed in runs, as long as possible: hashing is faster than reading.
        let mut run = message;
        let mut rest = message;
        while !rest.is_empty() {
            let before = rest.len();
            let (number, payload) = read_field(&mut rest)?;
            let Some((field, payload)) = find_field(fields, number).zip(payload) else {
                continue;
            };
            hasher.update(run.get(..run.len().checked_sub(before)?)?);
            run = rest;
            if field.is_map {
                maps.add(number, self.hash_entry(field.holds, payload, depth));
            } else {
                let hash = self.hash_held(field.holds, payload, depth);
                feed(&mut hasher, number, &[hash]);
            }
        }
        hasher.update(run);
        maps.feed(&mut hasher);
        Some(hasher.digest())
    }

    fn hash_entry(&self, holds: Holds, entry: &[u8], depth: u32) -> u64 {
        let structural = match holds {
            Holds::Opaque => None,
            holds => self.hash_fields(&[Field::value(holds)], entry, depth),
        };
        structural.unwrap_or_else(|| xxh3_64(entry))
    }
}

impl Field {
    fn value(holds: Holds) -> Self {
        Self { number: VALUE, is_map: false, holds }
    }
}

/// The maps of one message, each by its field's number: a sum does not know the order of entries.
#[derive(Default)]
struct MapSums(Vec<MapSum>);

struct MapSum {
    number: u32,
    entries: u64,
    sum: u64,
}

impl MapSums {
    fn add(&mut self, number: u32, entry: u64) {
        // Entries of one map come in a row, save for unusual encoders.
        let index = match self.0.last() {
            Some(last) if last.number == number => Ok(self.0.len() - 1),
            _ => self.0.binary_search_by_key(&number, |map| map.number),
        };
        let new = MapSum { number, entries: 1, sum: entry };
        match index.map(|index| self.0.get_mut(index)) {
            Ok(Some(map)) => {
                map.entries = map.entries.wrapping_add(1);
                map.sum = map.sum.wrapping_add(entry);
            }
            Ok(None) => self.0.push(new),
            Err(index) => self.0.insert(index, new),
        }
    }

    fn feed(&self, hasher: &mut Xxh3Default) {
        for map in &self.0 {
            feed(hasher, map.number, &[map.entries, map.sum]);
        }
    }
}

fn feed(hasher: &mut Xxh3Default, number: u32, hashes: &[u64]) {
    hasher.update(&[0]);
    hasher.update(&number.to_le_bytes());
    for hash in hashes {
        hasher.update(&hash.to_le_bytes());
    }
}

fn find_field(fields: &[Field], number: u32) -> Option<&Field> {
    let index = fields.binary_search_by_key(&number, |field| field.number).ok()?;
    fields.get(index)
}

/// The name of the message in an `Any`: what its type URL has after the last slash.
fn message_name(any: &[u8]) -> Option<&[u8]> {
    let mut type_url = None;
    let mut rest = any;
    while !rest.is_empty() {
        if let (TYPE_URL, Some(content)) = read_field(&mut rest)? {
            type_url = Some(content);
        }
    }
    type_url?.rsplit(|byte| *byte == b'/').next()
}

/// Takes a field off the front: its number and, if it is length-delimited, its content. `None` if it
/// is malformed or a group.
fn read_field<'a>(rest: &mut &'a [u8]) -> Option<(u32, Option<&'a [u8]>)> {
    let (number, wire_type) = decode_key(rest).ok()?;
    let len = match wire_type {
        WireType::Varint => {
            decode_varint(rest).ok()?;
            0
        }
        WireType::ThirtyTwoBit => 4,
        WireType::SixtyFourBit => 8,
        WireType::LengthDelimited => usize::try_from(decode_varint(rest).ok()?).ok()?,
        WireType::StartGroup | WireType::EndGroup => return None,
    };
    let (content, after) = rest.split_at_checked(len)?;
    *rest = after;
    Some((number, (wire_type == WireType::LengthDelimited).then_some(content)))
}
