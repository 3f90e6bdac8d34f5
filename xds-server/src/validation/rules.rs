//! The rules that the protos of the Envoy API state for themselves, by `validate.rules`.
//!
//! `prost-reflect-validate` would do much of it, but its dependencies need `protoc` to build, it stops at
//! the first violation, names no path, copies each message for each rule, and does not look into an `Any`,
//! where filters have most of what can be wrong.

use std::{
    collections::HashMap,
    fmt::{Display, Write as _},
    sync::LazyLock,
};

use envoy_types::pb::validate::{FieldRules, MapRules, RepeatedRules, field_rules::Type};
use prost::Message as _;
use prost_reflect::{
    DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, OneofDescriptor,
    ReflectMessage as _, Value,
};

use super::rule;
use crate::envoy::descriptors;

const ANY: &str = "google.protobuf.Any";

/// What gRPC clients serve by. They do not check these rules, and many a connection manager that was made
/// for them has no `stat_prefix`.
const API_LISTENER: &str = "envoy.config.listener.v3.Listener.api_listener";

/// How deep messages may lie in each other and still be looked at. By itself a message decodes to 100 at
/// most; only an `Any` in an `Any` goes on.
const DEPTH_MAX: usize = 100;

/// How many violations of one resource are reported.
const VIOLATIONS_MAX: usize = 20;

/// The path of a field, and what is wrong with it.
pub(super) type Violation = (String, String);

/// What a message, and all that it holds, violates.
pub(super) fn violations(message: &DynamicMessage) -> Vec<Violation> {
    let mut walk = Walk::default();
    walk.message(message);
    // Maps are walked in any order.
    walk.found.sort_unstable();
    walk.found
}

/// The rules of a message type.
#[derive(Debug, Default)]
pub(super) struct MessageRules {
    /// One field of each of these must be set.
    pub(super) required: Vec<OneofDescriptor>,
    pub(super) fields: Vec<(FieldDescriptor, FieldRules)>,
    /// The numbers of fields in which messages are left alone.
    skipped: Vec<u32>,
}

/// The rules of all messages that have some. Costs reading all options at the first call.
pub(super) fn all() -> &'static HashMap<String, MessageRules> {
    static RULES: LazyLock<HashMap<String, MessageRules>> = LazyLock::new(|| {
        let rules = descriptors::pool().all_messages().filter_map(|message| {
            let rules = read(&message)?;
            Some((message.full_name().to_owned(), rules))
        });
        rules.collect()
    });
    &RULES
}

fn read(message: &MessageDescriptor) -> Option<MessageRules> {
    let pool = message.parent_pool();
    let of_field = pool.get_extension_by_name("validate.rules")?;
    let of_oneof = pool.get_extension_by_name("validate.required")?;
    let required =
        |oneof: &OneofDescriptor| oneof.options().get_extension(&of_oneof).as_bool() == Some(true);
    let rules = |field: FieldDescriptor| {
        let options = field.options();
        if !options.has_extension(&of_field) {
            return None;
        }
        let rules = options.get_extension(&of_field).as_message()?.encode_to_vec();
        Some((field, FieldRules::decode(&*rules).ok()?))
    };
    let required: Vec<_> = message.oneofs().filter(required).collect();
    let fields: Vec<_> = message.fields().filter_map(rules).collect();
    let skipped = fields.iter().filter(|(_, rules)| rule::is_skipped(rules));
    let mut skipped: Vec<_> = skipped.map(|(field, _)| field.number()).collect();
    let for_grpc = message.fields().find(|field| field.full_name() == API_LISTENER);
    skipped.extend(for_grpc.map(|field| field.number()));
    let has_rules = !required.is_empty() || !fields.is_empty();
    has_rules.then_some(MessageRules { required, fields, skipped })
}

/// A walk through a message.
#[derive(Default)]
struct Walk {
    path: String,
    depth: usize,
    found: Vec<Violation>,
}

impl Walk {
    fn message(&mut self, message: &DynamicMessage) {
        if self.depth == DEPTH_MAX || self.found.len() >= VIOLATIONS_MAX {
            return;
        }
        self.depth += 1;
        let descriptor = message.descriptor();
        let rules = all().get(descriptor.full_name());
        if let Some(rules) = rules {
            self.rules(message, rules);
        }
        let is_skipped = |field: &FieldDescriptor| {
            rules.is_some_and(|rules| rules.skipped.contains(&field.number()))
        };
        if descriptor.full_name() == ANY {
            self.any(message);
        } else {
            for (field, value) in message.fields().filter(|(field, _)| !is_skipped(field)) {
                self.at_field(&field, |walk| walk.value(value));
            }
        }
        self.depth -= 1;
    }

    /// The message that is packed, if its type is known: extensions of the user's own are not.
    fn any(&mut self, any: &DynamicMessage) {
        let (type_url, value) = (any.get_field_by_number(1), any.get_field_by_number(2));
        let descriptor = type_url.as_ref().and_then(|url| descriptors::message(url.as_str()?));
        let value = value.as_ref().and_then(|value| value.as_bytes());
        let (Some(descriptor), Some(value)) = (descriptor, value) else { return };
        let name = descriptor.full_name().to_owned();
        match DynamicMessage::decode(descriptor, value.clone()) {
            Ok(message) => self.message(&message),
            Err(why) => self.violated(format!("holds no {name}: {why}")),
        }
    }

    /// The messages in a value.
    fn value(&mut self, value: &Value) {
        match value {
            Value::Message(message) => self.message(message),
            Value::List(items) => {
                for (at, item) in items.iter().enumerate() {
                    // All are of one type.
                    let Value::Message(message) = item else { return };
                    self.at(format_args!("[{at}]"), |walk| walk.message(message));
                }
            }
            Value::Map(entries) => {
                for (key, value) in entries {
                    let Value::Message(message) = value else { return };
                    self.at(format_args!("[{}]", rule::key(key)), |walk| walk.message(message));
                }
            }
            _ => {}
        }
    }

    fn rules(&mut self, message: &DynamicMessage, rules: &MessageRules) {
        for oneof in &rules.required {
            if !oneof.fields().any(|field| message.has_field(&field)) {
                let names: Vec<_> =
                    oneof.fields().map(|field| format!("`{}`", field.name())).collect();
                let needed = format!("is missing: set one of {}", names.join(", "));
                self.at_step(oneof.name(), |walk| walk.violated(needed));
            }
        }
        for (field, rules) in &rules.fields {
            // What cannot be absent is checked as its default.
            let is_absent = field.supports_presence() && !message.has_field(field);
            let value = (!is_absent).then(|| message.get_field(field));
            self.at_field(field, |walk| walk.field(field, value.as_deref(), rules));
        }
    }

    fn field(&mut self, field: &FieldDescriptor, value: Option<&Value>, rules: &FieldRules) {
        let Some(value) = value else {
            // Another member of a `oneof` may be set in its place.
            if rule::is_required(rules) && field.containing_oneof().is_none() {
                self.violated("is missing, and it is required");
            }
            return;
        };
        match (value, &rules.r#type) {
            (Value::List(items), Some(Type::Repeated(rules))) => self.list(field, items, rules),
            (Value::Map(entries), Some(Type::Map(rules))) => self.map(field, entries, rules),
            (value, Some(rules)) => {
                if let Some(why) = rule::scalar(field, value, rules) {
                    self.violated(why);
                }
            }
            (_, None) => {}
        }
    }

    fn list(&mut self, field: &FieldDescriptor, items: &[Value], rules: &RepeatedRules) {
        if let Some(why) = rule::list(items, rules) {
            self.violated(why);
        }
        let Some(rules) = &rules.items else { return };
        for (at, item) in items.iter().enumerate() {
            self.at(format_args!("[{at}]"), |walk| walk.field(field, Some(item), rules));
        }
    }

    fn map(&mut self, field: &FieldDescriptor, entries: &HashMap<MapKey, Value>, rules: &MapRules) {
        if let Some(why) = rule::map(entries.len(), rules) {
            self.violated(why);
        }
        let Kind::Message(entry) = field.kind() else { return };
        for (key, value) in entries {
            self.at(format_args!("[{}]", rule::key(key)), |walk| {
                if let Some(rules) = &rules.keys {
                    let key = Value::from(key.clone());
                    walk.field(&entry.map_entry_key_field(), Some(&key), rules);
                }
                if let Some(rules) = &rules.values {
                    walk.field(&entry.map_entry_value_field(), Some(value), rules);
                }
            });
        }
    }

    fn at_field(&mut self, field: &FieldDescriptor, look: impl FnOnce(&mut Self)) {
        self.at_step(field.name(), look);
    }

    fn at_step(&mut self, name: &str, look: impl FnOnce(&mut Self)) {
        let dot = if self.path.is_empty() { "" } else { "." };
        self.at(format_args!("{dot}{name}"), look);
    }

    /// Looks at what is one step further.
    fn at(&mut self, step: impl Display, look: impl FnOnce(&mut Self)) {
        let length = self.path.len();
        // Writing to a string does not fail.
        let _ = write!(self.path, "{step}");
        look(self);
        self.path.truncate(length);
    }

    fn violated(&mut self, why: impl Into<String>) {
        if self.found.len() < VIOLATIONS_MAX {
            self.found.push((self.path.clone(), why.into()));
        }
    }
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::validate::string_rules::WellKnown;
    use prost_reflect::DynamicMessage;

    use super::*;

    /// The rules of a field, and of its items, keys and values.
    fn flatten(rules: &FieldRules) -> Vec<&FieldRules> {
        let nested = match &rules.r#type {
            Some(Type::Repeated(rules)) => vec![&rules.items],
            Some(Type::Map(rules)) => vec![&rules.keys, &rules.values],
            _ => Vec::new(),
        };
        let nested = nested.into_iter().flatten().flat_map(|rules| flatten(rules));
        std::iter::once(rules).chain(nested).collect()
    }

    /// What is said by rules of this type, without what is looked at.
    fn unknown(rules: &Type) -> bool {
        match rules.clone() {
            Type::String(rules) => {
                let well_known = rules.well_known;
                let is_known = matches!(well_known, None | Some(WellKnown::WellKnownRegex(_)));
                let is_compiled =
                    rules.pattern.as_ref().is_none_or(|p| regex_lite::Regex::new(p).is_ok());
                let others = (rules.r#const, rules.contains, rules.not_contains, rules.not_in);
                !is_known || !is_compiled || others != Default::default()
            }
            Type::Bytes(rules) => {
                let others = (rules.r#const, rules.pattern, rules.prefix, rules.suffix);
                let more = (rules.contains, rules.r#in, rules.not_in, rules.well_known);
                others != Default::default() || more != Default::default()
            }
            Type::Map(rules) => rules.no_sparse(),
            Type::Any(rules) => !rules.r#in.is_empty() || !rules.not_in.is_empty(),
            Type::Timestamp(_) => true,
            _ => false,
        }
    }

    #[test]
    fn every_rule_that_the_api_states_is_looked_at() {
        assert!(all().len() > 400, "only {} messages have rules", all().len());
        for (field, rules) in all().values().flat_map(|rules| &rules.fields) {
            for rules in flatten(rules).into_iter().filter_map(|rules| rules.r#type.as_ref()) {
                assert!(!unknown(rules), "{}: {rules:?}", field.full_name());
            }
        }
        let pool = descriptors::pool();
        for name in ["validate.disabled", "validate.ignored"] {
            let extension = pool.get_extension_by_name(name).unwrap();
            for message in pool.all_messages() {
                assert!(!message.options().has_extension(&extension), "{}", message.full_name());
            }
        }
    }

    #[test]
    fn an_any_in_an_any_ends_somewhere() {
        let pool = descriptors::pool();
        let packed = |depth| {
            let cluster = pool.get_message_by_name("envoy.config.cluster.v3.Cluster").unwrap();
            (0..depth).fold(DynamicMessage::new(cluster), |inner, _| {
                let type_url = format!("t/{}", inner.descriptor().full_name());
                let mut any = DynamicMessage::new(pool.get_message_by_name(ANY).unwrap());
                any.set_field_by_name("type_url", Value::String(type_url));
                any.set_field_by_name("value", Value::Bytes(inner.encode_to_vec().into()));
                any
            })
        };
        assert_eq!(violations(&packed(10)).len(), 1, "it has no name");
        assert_eq!(violations(&packed(1000)), []);
    }
}
