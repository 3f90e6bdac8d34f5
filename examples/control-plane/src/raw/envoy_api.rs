//! What the Envoy API says of itself: which of it is secret.

use std::collections::HashSet;
use std::sync::LazyLock;

use deltaplane_server::TypeUrl;
use deltaplane_server::envoy::descriptors;

/// Whether a type is made of secrets, whatever host its URL names.
pub(crate) fn is_secret(type_url: &str) -> bool {
    type_url.rsplit('/').next() == Some(TypeUrl::SECRET.message_name())
}

/// The full names of the fields that the API itself marks as sensitive, such as
/// private keys.
pub(crate) fn sensitive_fields() -> &'static HashSet<String> {
    static FIELDS: LazyLock<HashSet<String>> = LazyLock::new(|| {
        let pool = descriptors::pool();
        let Some(sensitive) = pool.get_extension_by_name("udpa.annotations.sensitive") else {
            return HashSet::new();
        };
        let fields = pool.all_messages().flat_map(|message| message.fields().collect::<Vec<_>>());
        fields
            .filter(|field| field.options().get_extension(&sensitive).as_bool() == Some(true))
            .map(|field| field.full_name().to_owned())
            .collect()
    });
    &FIELDS
}
