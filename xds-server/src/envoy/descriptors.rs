//! The Envoy API as descriptors: what fields a message has, and by what rules, known at run time.

use std::sync::LazyLock;

use deltaplane_core::TypeUrl;
use prost_reflect::{DescriptorPool, MessageDescriptor};

/// Made from the protos in the package of `envoy-types`; `tests/schema.rs` keeps it up to date.
const DESCRIPTORS: &[u8] = include_bytes!("descriptors.binpb.zlib");

/// The types that are named by a field of their own, and which field that is.
const NAMED: [(TypeUrl, &str); 9] = [
    (TypeUrl::CLUSTER, "name"),
    (TypeUrl::ENDPOINT, "cluster_name"),
    (TypeUrl::EXTENSION_CONFIG, "name"),
    (TypeUrl::LISTENER, "name"),
    (TypeUrl::ROUTE, "name"),
    (TypeUrl::RUNTIME, "name"),
    (TypeUrl::SCOPED_ROUTE, "name"),
    (TypeUrl::SECRET, "name"),
    (TypeUrl::VIRTUAL_HOST, "name"),
];

/// All descriptors, with their options. Costs tens of milliseconds at the first call, and nothing to
/// whoever never asks.
#[must_use]
pub fn pool() -> &'static DescriptorPool {
    static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
        // A test proves that it can be read. A server would rather know no type than panic.
        DescriptorPool::decode(&*encoded()).unwrap_or_default()
    });
    &POOL
}

/// The same, as an encoded `FileDescriptorSet`.
pub(crate) fn encoded() -> Vec<u8> {
    miniz_oxide::inflate::decompress_to_vec_zlib(DESCRIPTORS).unwrap_or_default()
}

/// The message that a type URL names, if it is one of the Envoy API.
#[must_use]
pub fn message(type_url: &str) -> Option<MessageDescriptor> {
    let (_, name) = type_url.rsplit_once('/')?;
    pool().get_message_by_name(name)
}

/// The field that is the name of resources of this type.
#[must_use]
pub fn name_field(type_url: &str) -> Option<&'static str> {
    NAMED.iter().find(|(named, _)| named.as_str() == type_url).map(|(_, field)| *field)
}
