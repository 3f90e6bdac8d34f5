//! Resources without what is secret in them, to be shown.

use std::{collections::HashSet, sync::LazyLock};

use deltaplane_core::Resource;
use envoy_types::pb::google::protobuf::Any;
use prost::Message;
use prost_reflect::{DynamicMessage, ReflectMessage, Value};

use super::descriptors;

/// What is shown in the place of something secret.
const REDACTED: &str = "[redacted]";

/// Types of which any other may be inside.
const ANY: &str = "google.protobuf.Any";

/// The fields that the Envoy API marks as sensitive.
static SENSITIVE: LazyLock<HashSet<String>> = LazyLock::new(|| {
    let pool = descriptors::pool();
    let Some(mark) = pool.get_extension_by_name("udpa.annotations.sensitive") else {
        return HashSet::new();
    };
    let fields = pool.all_messages().flat_map(|message| message.fields().collect::<Vec<_>>());
    let marked = fields.filter(|field| {
        let options = field.options();
        options.has_extension(&mark) && options.get_extension(&mark).as_bool().unwrap_or_default()
    });
    marked.map(|field| field.full_name().to_owned()).collect()
});

/// The message in a resource, with `[redacted]` in the place of every text that the Envoy API marks as
/// sensitive, however deep: private keys, passwords, tokens. Nothing if it is of a type that the Envoy API
/// does not have; and an extension that it does not have, inside another message, is shown without its
/// content. Costs a decoding.
#[must_use]
pub fn redacted(resource: &Resource) -> Option<Any> {
    let type_url = resource.type_url().to_string();
    let value = Redaction::default().of(&type_url, &resource.value())?;
    Some(Any { type_url, value })
}

/// Where in a message something is.
#[derive(Debug, Clone, Copy, Default)]
struct Redaction {
    /// It is in something that is sensitive as a whole.
    is_sensitive: bool,
    /// How many messages of any type it is in.
    depth: usize,
}

/// What is deeper in messages of any type is left out.
const DEEPEST: usize = 16;

impl Redaction {
    fn of(self, type_url: &str, value: &[u8]) -> Option<Vec<u8>> {
        let descriptor = descriptors::message(type_url).filter(|_| self.depth < DEEPEST)?;
        let mut message = DynamicMessage::decode(descriptor, value).ok()?;
        self.clean(&mut message);
        Some(message.encode_to_vec())
    }

    fn clean(self, message: &mut DynamicMessage) {
        if message.descriptor().full_name() == ANY {
            return self.clean_any(message);
        }
        let fields: Vec<_> = message.fields().map(|(field, _)| field).collect();
        for field in fields {
            let is_sensitive = self.is_sensitive || SENSITIVE.contains(field.full_name());
            Self { is_sensitive, ..self }.clean_value(message.get_field_mut(&field));
        }
    }

    fn clean_value(self, value: &mut Value) {
        match value {
            Value::String(text) if self.is_sensitive => REDACTED.clone_into(text),
            Value::Bytes(bytes) if self.is_sensitive => *bytes = REDACTED.into(),
            Value::Message(message) => self.clean(message),
            Value::List(values) => values.iter_mut().for_each(|value| self.clean_value(value)),
            Value::Map(values) => values.values_mut().for_each(|value| self.clean_value(value)),
            _ => {}
        }
    }

    /// What is inside is cleaned, too; what cannot be looked at is left out.
    fn clean_any(self, any: &mut DynamicMessage) {
        let inside = Self { depth: self.depth + 1, ..self };
        let cleaned = any
            .get_field_by_name("type_url")
            .zip(any.get_field_by_name("value"))
            .and_then(|(type_url, value)| inside.of(type_url.as_str()?, value.as_bytes()?));
        any.set_field_by_name("value", Value::Bytes(cleaned.unwrap_or_default().into()));
    }
}
