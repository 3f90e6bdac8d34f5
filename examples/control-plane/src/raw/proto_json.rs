//! Messages of the Envoy API as JSON, by protobuf's own mapping.

use deltaplane_server::envoy::descriptors;
use prost::Message as _;
use prost::bytes::Bytes;
use prost_reflect::{DynamicMessage, ReflectMessage as _, SerializeOptions, Value};
use serde::Deserialize;
use serde_json::value::RawValue;
use thiserror::Error;

use crate::raw::envoy_api;
use crate::rest::problem::Fault;

const ANY: &str = "google.protobuf.Any";

/// How deep messages may lie in each other to be shown.
const DEPTH_MAX: u32 = 64;

/// A message that was written as JSON.
pub(crate) struct Encoded {
    pub(crate) type_url: String,
    /// What stands in the field that names resources of this type, if there is
    /// such a field.
    pub(crate) name: Option<String>,
    pub(crate) value: Bytes,
}

/// Why a message cannot be shown.
#[derive(Debug, Error)]
pub(crate) enum Hidden {
    #[error("its type is not one of the Envoy API")]
    Unknown,
    #[error("secrets are not shown")]
    Secret,
    #[error("it is no {type_url} that can be shown: {why}")]
    Unreadable { type_url: String, why: String },
}

/// What must be known of a resource before it is read.
#[derive(Deserialize)]
struct Head {
    #[serde(rename = "@type")]
    type_url: Option<String>,
}

/// The two fields that names of resources stand in; whether they are strings is
/// checked by the type.
#[derive(Default, Deserialize)]
struct Names {
    name: Option<serde_json::Value>,
    #[serde(alias = "clusterName")]
    cluster_name: Option<serde_json::Value>,
}

/// Encodes `{"@type": …}` of any type of the Envoy API. The field of an error
/// is a path from there.
pub(crate) fn encode(json: &RawValue) -> Result<Encoded, Fault> {
    let type_url = type_url(json)?;
    let any = descriptors::pool().get_message_by_name(ANY);
    let any = any.ok_or_else(|| Fault::new("", "cannot be read: the Envoy API is not known"))?;
    let mut deserializer = serde_json::Deserializer::from_str(json.get());
    let mut track = serde_path_to_error::Track::new();
    let path = serde_path_to_error::Deserializer::new(&mut deserializer, &mut track);
    let message = DynamicMessage::deserialize(any, path);
    let message = message.map_err(|error| fault(track.path(), &error))?;
    let value = message.get_field_by_name("value");
    let value = value.and_then(|value| value.as_bytes().cloned()).unwrap_or_default();
    let name = match descriptors::name_field(&type_url) {
        None => None,
        Some(field) => Some(name(json, field).ok_or_else(|| {
            Fault::new(field, "is missing or empty, and it is the resource's name; give it")
        })?),
    };
    Ok(Encoded { type_url, name, value })
}

fn type_url(json: &RawValue) -> Result<String, Fault> {
    let advice = "write an object whose \"@type\" names a type of the Envoy API";
    let head = serde_json::from_str(json.get());
    let Head { type_url: Some(type_url) } = head.map_err(|_| Fault::new("", advice))? else {
        return Err(Fault::new("@type", format!("is missing; {advice}")));
    };
    let known = descriptors::message(&type_url).is_some();
    if known && type_url.starts_with("type.googleapis.com/") {
        return Ok(type_url);
    }
    let why = format!(
        "{type_url:?} is no type of the Envoy API that is known here; write \
         \"type.googleapis.com/…\", or give any type's bytes as \"value\""
    );
    Err(Fault::new("@type", why))
}

fn name(json: &RawValue, field: &str) -> Option<String> {
    let names: Names = serde_json::from_str(json.get()).unwrap_or_default();
    let name = if field == "name" { names.name } else { names.cluster_name };
    let name = name.and_then(|name| name.as_str().map(str::to_owned));
    name.filter(|name| !name.is_empty())
}

fn fault(path: serde_path_to_error::Path, error: &serde_json::Error) -> Fault {
    let path = path.to_string();
    let path = if path == "." { "" } else { &path };
    let why = error.to_string();
    // Lines and columns would be those of this resource, not of the document.
    let why = why.rsplit_once(" at line ").map_or(&*why, |(why, _)| why);
    let Some(field) = why.strip_prefix("unrecognized field name ") else {
        return Fault::new(path, format!("{why}; write it as the Envoy API has it"));
    };
    let field = field.trim_matches('\'');
    let parent = path.strip_suffix(field).map_or(path, |parent| parent.trim_end_matches('.'));
    Fault::new(parent, format!("unknown field {field:?}; leave it out or correct its name"))
}

/// Shows a message, without what the API marks as sensitive.
pub(crate) fn show(type_url: &str, value: &Bytes) -> Result<serde_json::Value, Hidden> {
    if envoy_api::is_secret(type_url) {
        return Err(Hidden::Secret);
    }
    if descriptors::message(type_url).is_none() {
        return Err(Hidden::Unknown);
    }
    let unreadable = |why: String| Hidden::Unreadable { type_url: type_url.to_owned(), why };
    let any = descriptors::pool().get_message_by_name(ANY).ok_or(Hidden::Unknown)?;
    let mut any = DynamicMessage::new(any);
    any.set_field_by_name("type_url", Value::String(type_url.to_owned()));
    any.set_field_by_name("value", Value::Bytes(value.clone()));
    censor(&mut any, DEPTH_MAX).map_err(unreadable)?;
    let options = SerializeOptions::new().use_proto_field_name(true);
    let shown = any.serialize_with_options(serde_json::value::Serializer, &options);
    shown.map_err(|error| unreadable(error.to_string()))
}

/// Takes out what is sensitive, however deep, and refuses what is too deep:
/// each `Any` is decoded by itself, so no decoder counts.
fn censor(message: &mut DynamicMessage, depth: u32) -> Result<(), String> {
    let depth = depth.checked_sub(1).ok_or("messages lie too deep in each other")?;
    if message.descriptor().full_name() == ANY {
        return censor_any(message, depth);
    }
    let sensitive = envoy_api::sensitive_fields();
    let mut secrets = Vec::new();
    for (field, value) in message.fields_mut() {
        if sensitive.contains(field.full_name()) {
            secrets.push(field);
        } else {
            censor_value(value, depth)?;
        }
    }
    secrets.iter().for_each(|field| message.clear_field(field));
    Ok(())
}

fn censor_value(value: &mut Value, depth: u32) -> Result<(), String> {
    match value {
        Value::Message(message) => censor(message, depth),
        Value::List(values) => values.iter_mut().try_for_each(|value| censor_value(value, depth)),
        Value::Map(map) => map.values_mut().try_for_each(|value| censor_value(value, depth)),
        _ => Ok(()),
    }
}

fn censor_any(any: &mut DynamicMessage, depth: u32) -> Result<(), String> {
    let type_url = any.get_field_by_name("type_url");
    let type_url = type_url.and_then(|url| url.as_str().map(str::to_owned)).unwrap_or_default();
    let message = descriptors::message(&type_url);
    let message = message.ok_or_else(|| format!("{type_url:?} in it is not known here"))?;
    let mut held = DynamicMessage::new(message);
    if !envoy_api::is_secret(&type_url)
        && let Some(value) = any.get_field_by_name("value").as_deref().and_then(Value::as_bytes)
    {
        held.merge(value.clone()).map_err(|error| error.to_string())?;
        censor(&mut held, depth)?;
    }
    any.set_field_by_name("value", Value::Bytes(held.encode_to_vec().into()));
    Ok(())
}
