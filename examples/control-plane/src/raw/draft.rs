//! A transaction of raw resources as JSON, on its way in.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost::bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::delivery::Wait;
use crate::fleets::scope;
use crate::raw::proto_json::{self, Encoded};
use crate::raw::{
    NAME_MAX, RawKey, RawResource, RawTransaction, SCOPE_MAX, TYPE_URL_MAX, VERSION_MAX,
};
use crate::rest::document::{Document, Object};
use crate::rest::problem::{Fault, Problem};
use crate::translate::validate::Form;

/// A transaction with whatever was given of it, so that all that is wrong is
/// told in one answer.
#[derive(Deserialize, ToSchema)]
#[schema(as = Transaction)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawDraft {
    #[schema(
        required,
        nullable = false,
        min_length = 1,
        max_length = 256,
        pattern = "^[^\\x00]+$"
    )]
    scope: Option<String>,
    #[serde(default)]
    #[schema(value_type = Vec<Upsert>)]
    upserts: Vec<Object<Upsert>>,
    #[serde(default)]
    #[schema(value_type = Vec<Remove>)]
    removes: Vec<Object<Remove>>,
    /// It shows behind `version_info`.
    #[schema(min_length = 1, max_length = 256)]
    label: Option<String>,
    /// Whether the answer waits for clients.
    #[schema(value_type = Option<Wait>)]
    wait: Option<Object<Wait>>,
}

/// A transaction that can be stored.
pub(crate) struct Defined {
    pub(crate) transaction: RawTransaction,
    /// How each upsert was given.
    pub(crate) forms: Vec<Form>,
    pub(crate) wait: Option<Wait>,
}

/// A resource as JSON, or as bytes of any type.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Upsert {
    /// Read from `resource`, if that is given.
    #[schema(min_length = 1, max_length = 512)]
    type_url: Option<String>,
    /// Read from `resource`, if that is given and its type has names.
    #[schema(min_length = 1, max_length = 4096)]
    name: Option<String>,
    /// What clients see in place of the content's hash.
    #[schema(min_length = 1, max_length = 256)]
    version: Option<String>,
    /// Any type's message, in base64.
    #[schema(content_encoding = "base64")]
    value: Option<String>,
    /// A message of the Envoy API by protobuf's own mapping to JSON, with its `@type`.
    #[schema(value_type = Option<Object>)]
    resource: Option<Box<RawValue>>,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Remove {
    #[schema(required, nullable = false, min_length = 1, max_length = 512)]
    type_url: Option<String>,
    #[schema(required, nullable = false, min_length = 1, max_length = 4096)]
    name: Option<String>,
}

impl RawDraft {
    /// The scope, if one is given.
    pub(crate) fn scope(&self) -> &str {
        self.scope.as_deref().unwrap_or_default()
    }

    /// Encodes and checks. Costs what the resources weigh, and once what it
    /// takes to know the Envoy API.
    pub(crate) fn define(self) -> Result<Defined, Problem> {
        let mut faults = Faults(Vec::new());
        let scope = faults.required("scope", self.scope, SCOPE_MAX);
        if scope::is_of_canary(&scope) {
            let why = format!("{scope:?} is kept for what a canary is told first; choose another");
            faults.add("scope", why);
        }
        let label = faults.optional("label", self.label, VERSION_MAX);
        let wait = self.wait.map(|Object(wait)| wait);
        faults.0.extend(wait.iter().flat_map(Wait::faults));
        let form = |Object(upsert): &Object<Upsert>| match upsert.resource {
            Some(_) => Form::Json,
            None => Form::Bytes,
        };
        let forms = self.upserts.iter().map(form).collect();
        let mut places = HashMap::new();
        let mut upserts = Vec::with_capacity(self.upserts.len());
        for (i, Object(upsert)) in self.upserts.into_iter().enumerate() {
            let path = format!("upserts[{i}]");
            let resource = upsert.define(&path, &mut faults);
            faults.once(&mut places, path, &resource.key);
            upserts.push(resource);
        }
        let mut removes = Vec::with_capacity(self.removes.len());
        for (i, Object(remove)) in self.removes.into_iter().enumerate() {
            let path = format!("removes[{i}]");
            let key = faults.key(&path, remove.type_url, remove.name);
            faults.once(&mut places, path, &key);
            removes.push(key);
        }
        match faults.0.is_empty() {
            true => {
                let transaction = RawTransaction { scope, upserts, removes, label };
                Ok(Defined { transaction, forms, wait })
            }
            false => Err(Problem::unprocessable(faults.0)),
        }
    }
}

impl Upsert {
    fn define(self, path: &str, faults: &mut Faults) -> RawResource {
        let version = faults.optional(&format!("{path}.version"), self.version, VERSION_MAX);
        let content = match (self.resource, self.value) {
            (Some(json), None) => faults.encode(path, &json, self.type_url, self.name),
            (None, Some(value)) => Some((self.type_url, self.name, faults.decode(path, &value))),
            (Some(_), Some(_)) => {
                faults.add(format!("{path}.value"), "stands beside \"resource\"; give one of them");
                None
            }
            (None, None) => {
                let why = "has no content; give \"resource\", or \"value\" with \"type_url\"";
                faults.add(path, why);
                None
            }
        };
        let Some((type_url, name, value)) = content else {
            return RawResource::default();
        };
        let key = faults.key(path, type_url, name);
        RawResource { key, version, value }
    }
}

/// What a resource is and what is in it, as far as it was given.
type Content = (Option<String>, Option<String>, Bytes);

/// All that is wrong, each with its path from the document's root.
struct Faults(Vec<Fault>);

impl Faults {
    fn add(&mut self, path: impl Into<String>, why: impl Into<String>) {
        self.0.push(Fault::new(path, why));
    }

    fn required(&mut self, path: &str, text: Option<String>, longest: usize) -> String {
        if text.is_none() {
            self.add(path, "is missing; give it");
        }
        self.optional(path, text, longest).unwrap_or_default()
    }

    fn optional(&mut self, path: &str, text: Option<String>, longest: usize) -> Option<String> {
        match text.as_deref() {
            Some("") => self.add(path, "is empty; write at least one character"),
            Some(text) if text.len() > longest => {
                self.add(path, format!("has {} bytes; write at most {longest}", text.len()));
            }
            // PostgreSQL stores none.
            Some(text) if text.contains('\0') => {
                self.add(path, "holds a NUL character; leave it out");
            }
            _ => {}
        }
        text
    }

    fn key(&mut self, path: &str, type_url: Option<String>, name: Option<String>) -> RawKey {
        if name.as_deref() == Some("*") {
            let why = "\"*\" means all resources and names none; write another name";
            self.add(format!("{path}.name"), why);
        }
        RawKey {
            type_url: self.required(&format!("{path}.type_url"), type_url, TYPE_URL_MAX),
            name: self.required(&format!("{path}.name"), name, NAME_MAX),
        }
    }

    /// A key that comes twice is a fault of the second place.
    fn once(&mut self, places: &mut HashMap<RawKey, String>, path: String, key: &RawKey) {
        if key.name.is_empty() {
            return;
        }
        match places.get(key) {
            Some(first) => self.add(path, format!("names what {first} names; name it once")),
            None => drop(places.insert(key.clone(), path)),
        }
    }

    fn decode(&mut self, path: &str, value: &str) -> Bytes {
        let decoded = STANDARD.decode(value);
        if let Err(error) = &decoded {
            let why = format!("is not base64: {error}; encode the message's bytes");
            self.add(format!("{path}.value"), why);
        }
        decoded.unwrap_or_default().into()
    }

    /// Encodes a resource, whose type and name must be what is given beside it,
    /// if anything is.
    fn encode(
        &mut self,
        path: &str,
        json: &RawValue,
        type_url: Option<String>,
        name: Option<String>,
    ) -> Option<Content> {
        let encoded = proto_json::encode(json);
        let encoded = encoded.map_err(|fault| {
            self.0.push(fault.within(&format!("{path}.resource")));
        });
        let Encoded { type_url: own_type, name: own_name, value } = encoded.ok()?;
        self.same(&format!("{path}.type_url"), type_url.as_deref(), &own_type);
        if let Some(own_name) = &own_name {
            self.same(&format!("{path}.name"), name.as_deref(), own_name);
        }
        Some((Some(own_type), own_name.or(name), value))
    }

    fn same(&mut self, path: &str, given: Option<&str>, own: &str) {
        if let Some(given) = given
            && given != own
        {
            self.add(
                path,
                format!("is {given:?}, but the resource's own is {own:?}; leave it out"),
            );
        }
    }
}

impl Document for RawDraft {
    const TOO_LARGE: &str = "a transaction takes at most 64 MiB; write several";

    fn advice(path: &str) -> &'static str {
        match path.rsplit('.').next() {
            Some("upserts" | "removes") => "write a list of objects",
            Some("wait") => "write an object such as {\"settled\": 1, \"timeout_ms\": 10000}",
            Some("settled" | "timeout_ms") => "write a number",
            Some(entry) if entry.ends_with(']') => "write an object",
            _ => "write a string",
        }
    }
}
