//! Fields of messages that are encoded by hand.

use bytes::BytesMut;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};

/// The tag of `resources` in both responses, and of `Resource.resource`: that they agree is what lets
/// one buffer be all of them.
pub(crate) const RESOURCES: u32 = 2;

/// The encoded length of a length-delimited field.
pub(crate) fn field_len(tag: u32, len: usize) -> usize {
    key_len(tag) + encoded_len_varint(len as u64) + len
}

/// Encodes a length-delimited field.
pub(crate) fn put_field(tag: u32, value: &[u8], buffer: &mut BytesMut) {
    put_head(tag, value.len(), buffer);
    buffer.extend_from_slice(value);
}

/// Encodes what comes before the value of a length-delimited field.
pub(crate) fn put_head(tag: u32, len: usize, buffer: &mut BytesMut) {
    encode_key(tag, WireType::LengthDelimited, buffer);
    encode_varint(len as u64, buffer);
}
