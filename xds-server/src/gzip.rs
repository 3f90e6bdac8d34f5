//! Compression of responses.

use bytes::Bytes;
use deltaplane_core::Response;

/// What gRPC calls it.
pub(crate) const NAME: &str = "gzip";

/// A response as one compressed message of gRPC; nothing if it cannot be compressed.
#[cfg(feature = "gzip")]
pub(crate) fn message(response: &Response, identity: &[u8]) -> Option<Bytes> {
    use std::io::Write as _;

    use bytes::{BufMut, BytesMut};
    use flate2::{Compression, write::GzEncoder};

    use crate::requests::PREFIX;

    let mut head = BytesMut::new();
    response.encode_head(&mut head);
    let mut encoder = GzEncoder::new(BytesMut::zeroed(PREFIX).writer(), Compression::fast());
    for part in [&head[..], identity, &response.body] {
        encoder.write_all(part).ok()?;
    }
    let mut message = encoder.finish().ok()?.into_inner();
    let length = u32::try_from(message.len() - PREFIX).ok()?;
    message.get_mut(..PREFIX)?.copy_from_slice(&[&[1], &length.to_be_bytes()[..]].concat());
    Some(message.freeze())
}

/// Nobody can ask for it.
#[cfg(not(feature = "gzip"))]
pub(crate) fn message(_: &Response, _: &[u8]) -> Option<Bytes> {
    None
}
