//! The schema of the Envoy API: which fields of which messages are maps, or lead to one.

use std::collections::{BTreeMap, BTreeSet};

use protox::prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};

use super::protos;

const ANY: &str = "google.protobuf.Any";

/// A message's fields that are messages or maps, by number: whether it is a map, and what message the
/// field or the map's values are, if any.
type Fields = BTreeMap<u32, (bool, Option<String>)>;

/// The text of the schema.
pub(crate) fn schema_text() -> String {
    let mut text = String::from(
        "# The maps in the Envoy API, and the messages through which they are reached.\n\
         # Made by `UPDATE_SCHEMA=1 cargo test -p deltaplane-server --test schema` from the protos\n\
         # of envoy-types. `deltaplane_core::Schema::parse` documents the format.\n",
    );
    let mut messages = messages();
    let structural = reaching_a_map(&messages);
    messages.retain(|name, _| name != ANY && structural.contains(name));
    for (name, fields) in messages {
        text.push_str(&name);
        for (number, (is_map, message)) in fields {
            let message = message.filter(|message| structural.contains(message));
            match (is_map, message) {
                (false, None) => {}
                (false, Some(message)) => text.push_str(&format!(" {number}={message}")),
                (true, None) => text.push_str(&format!(" {number}=map")),
                (true, Some(message)) => text.push_str(&format!(" {number}=map:{message}")),
            }
        }
        text.push('\n');
    }
    text
}

/// `Any`, the messages that have a map, and those that hold one of these, however deep.
fn reaching_a_map(messages: &BTreeMap<String, Fields>) -> BTreeSet<String> {
    let mut reaching = BTreeSet::from([ANY.to_owned()]);
    loop {
        let before = reaching.len();
        for (name, fields) in messages {
            let reaches = |(is_map, message): &(bool, Option<String>)| {
                *is_map || message.as_ref().is_some_and(|message| reaching.contains(message))
            };
            if fields.values().any(reaches) {
                reaching.insert(name.clone());
            }
        }
        if reaching.len() == before {
            return reaching;
        }
    }
}

/// All messages of all protos, with those that they import from protobuf itself.
fn messages() -> BTreeMap<String, Fields> {
    let mut messages = BTreeMap::new();
    for message in protos::pool().all_messages() {
        if !message.is_map_entry() {
            messages.insert(message.full_name().to_owned(), fields(&message));
        }
    }
    messages
}

fn fields(message: &MessageDescriptor) -> Fields {
    let message_of = |field: &FieldDescriptor| match field.kind() {
        Kind::Message(message) => Some(message.full_name().to_owned()),
        _ => None,
    };
    let field = |field: FieldDescriptor| {
        assert!(!field.is_group(), "{}: groups cannot be hashed", field.full_name());
        let Kind::Message(entry) = field.kind() else {
            return None;
        };
        let held = match field.is_map() {
            true => message_of(&entry.map_entry_value_field()),
            false => message_of(&field),
        };
        Some((field.number(), (field.is_map(), held)))
    };
    message.fields().filter_map(field).collect()
}
