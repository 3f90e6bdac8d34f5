//! The Envoy API as descriptors: what fields a message has, known at run time.

use std::collections::HashSet;
use std::sync::LazyLock;

use deltaplane_server::TypeUrl;
use prost_reflect::{DescriptorPool, MessageDescriptor};

/// Made from the protos in the package of `envoy-types`;
/// `tests/it/envoy_api.rs` keeps it up to date.
const DESCRIPTORS: &[u8] = include_bytes!("envoy_api.binpb.zlib");

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

/// All descriptors. Costs tens of milliseconds at the first call, and nothing
/// to whoever never asks.
pub fn pool() -> &'static DescriptorPool {
    static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
        // A test proves that it can be read. A server would rather know no
        // type than panic.
        let bytes = miniz_oxide::inflate::decompress_to_vec_zlib(DESCRIPTORS);
        DescriptorPool::decode(&*bytes.unwrap_or_default()).unwrap_or_default()
    });
    &POOL
}

/// The message that a type URL names, if it is one of the Envoy API.
pub(crate) fn message(type_url: &str) -> Option<MessageDescriptor> {
    let (_, name) = type_url.rsplit_once('/')?;
    pool().get_message_by_name(name)
}

/// The field that is the name of resources of this type.
pub(crate) fn name_field(type_url: &str) -> Option<&'static str> {
    NAMED.iter().find(|(named, _)| named.as_str() == type_url).map(|(_, field)| *field)
}

/// Whether a type is made of secrets, whatever host its URL names.
pub(crate) fn is_secret(type_url: &str) -> bool {
    type_url.rsplit('/').next() == Some(TypeUrl::SECRET.message_name())
}

/// The full names of the fields that the API itself marks as sensitive, such as
/// private keys.
pub(crate) fn sensitive_fields() -> &'static HashSet<String> {
    static FIELDS: LazyLock<HashSet<String>> = LazyLock::new(|| {
        let Some(sensitive) = pool().get_extension_by_name("udpa.annotations.sensitive") else {
            return HashSet::new();
        };
        let fields = pool().all_messages().flat_map(|message| message.fields().collect::<Vec<_>>());
        fields
            .filter(|field| field.options().get_extension(&sensitive).as_bool() == Some(true))
            .map(|field| field.full_name().to_owned())
            .collect()
    });
    &FIELDS
}
