//! A document on its way in, in JSON or YAML, and what is wrong with it.

use std::error::Error;
use std::fmt;
use std::marker::PhantomData;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::JsonRejection;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, StatusCode, header};
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use crate::rest::listener::TooSlow;
use crate::rest::problem::{Fault, Problem};

/// What a client may send.
pub(crate) trait Document: DeserializeOwned {
    /// What to say of one that is too large.
    const TOO_LARGE: &str;

    /// What to write into the field at this path, in words of JSON.
    fn advice(path: &str) -> &'static str;
}

/// The body of a request.
pub(crate) struct Body<T>(pub(crate) T);

/// A JSON object, and not the list that serde would take for a struct as well.
#[derive(Debug)]
pub(crate) struct Object<T>(pub(crate) T);

impl<S: Send + Sync, T: Document> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Body<T>, Problem> {
        if is_yaml(request.headers()) {
            return yaml(request, state).await.map(Body);
        }
        let json = Json::from_request(request, state).await;
        json.map(|Json(Object(body))| Body(body)).map_err(|rejection| refuse::<T>(&rejection))
    }
}

fn is_yaml(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let kind = kind.and_then(|kind| kind.split(';').next()).unwrap_or_default().trim();
    ["application/yaml", "application/x-yaml", "text/yaml", "text/x-yaml"].contains(&kind)
}

/// Reads what JSON can say as well.
async fn yaml<T: Document, S: Send + Sync>(request: Request, state: &S) -> Result<T, Problem> {
    let bytes = Bytes::from_request(request, state).await.map_err(|rejection| {
        let status = rejection.status();
        match status {
            StatusCode::PAYLOAD_TOO_LARGE => too_large::<T>(),
            _ if is_too_slow(&rejection) => too_slow(),
            _ => Problem::new(status, rejection.body_text()),
        }
    })?;
    let value: Value = serde_saphyr::from_slice(&bytes).map_err(|error| {
        let why = error.to_string();
        let why = why.lines().next().unwrap_or_default();
        Problem::new(
            StatusCode::BAD_REQUEST,
            format!("the body is not YAML: {why}; send one YAML document"),
        )
    })?;
    read(value)
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Object<T>, D::Error> {
        struct Fields<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }
        deserializer.deserialize_map(Fields(PhantomData))
    }
}

type PathError = serde_path_to_error::Error<serde_json::Error>;

/// Reads what was put together here from what clients sent.
pub(crate) fn read<T: Document>(json: Value) -> Result<T, Problem> {
    // As text, since parts of it may be kept as such.
    let text = json.to_string();
    let mut deserializer = serde_json::Deserializer::from_str(&text);
    let read = serde_path_to_error::deserialize(&mut deserializer);
    read.map(|Object(read)| read).map_err(|error: PathError| {
        let status = StatusCode::UNPROCESSABLE_ENTITY;
        if error.path().iter().next().is_none() {
            return Problem::new(status, format!("{}; send one object", plain(error.inner())));
        }
        Problem::of_fields(status, [fault::<T>(&error, None)])
    })
}

/// Applies a JSON merge patch (RFC 7396).
pub(crate) fn merge(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Some(target) = target.as_object_mut() else { return };
    for (key, value) in patch {
        if value.is_null() {
            target.remove(&key);
        } else {
            merge(target.entry(key).or_insert(Value::Null), value);
        }
    }
}

/// What serde says, without where.
fn plain(error: &serde_json::Error) -> String {
    let why = error.to_string();
    why.rsplit_once(" at line ").map_or(&*why, |(why, _)| why).to_owned()
}

fn refuse<T: Document>(rejection: &JsonRejection) -> Problem {
    let status = rejection.status();
    match rejection {
        JsonRejection::JsonDataError(error) => match cause::<PathError>(error) {
            Some(error) if error.path().iter().next().is_some() => {
                Problem::of_fields(status, [fault::<T>(error, Some(error.inner()))])
            }
            Some(error) => Problem::new(status, format!("{}; send one JSON object", error.inner())),
            None => Problem::new(status, rejection.body_text()),
        },
        JsonRejection::JsonSyntaxError(error) => {
            let why = cause::<PathError>(error)
                .map(PathError::inner)
                .or_else(|| cause(error))
                .map(ToString::to_string);
            let why = why.unwrap_or_else(|| rejection.body_text());
            Problem::new(status, format!("the body is not JSON: {why}; send one JSON object"))
        }
        JsonRejection::MissingJsonContentType(_) => {
            Problem::new(status, "send JSON, with the header Content-Type: application/json")
        }
        _ if status == StatusCode::PAYLOAD_TOO_LARGE => too_large::<T>(),
        other if is_too_slow(other) => too_slow(),
        other => Problem::new(status, other.body_text()),
    }
}

fn too_large<T: Document>() -> Problem {
    let detail = format!("the body is too large; {}", T::TOO_LARGE);
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
}

/// Whether a body did not come in time.
pub(crate) fn is_too_slow(error: &(dyn Error + 'static)) -> bool {
    cause::<TooSlow>(error).is_some()
}

pub(crate) fn too_slow() -> Problem {
    let detail = "the body did not come in time; send it without a pause";
    Problem::new(StatusCode::REQUEST_TIMEOUT, detail)
}

/// What axum wrapped, however deep.
fn cause<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// The fault of a document; `placed` says where in its text, if that is the client's.
fn fault<T: Document>(error: &PathError, placed: Option<&serde_json::Error>) -> Fault {
    let path = error.path().to_string();
    let why = plain(error.inner());
    if why.starts_with("unknown field") {
        return Fault::new(path, format!("{why}; leave it out or correct its name"));
    }
    // What serde expected is a type of Rust; we say it in words of JSON.
    let what = why.split(", expected").next().unwrap_or(&why);
    let place = placed.map(|at| format!(" at line {} column {}", at.line(), at.column()));
    let advice = T::advice(&path);
    Fault::new(path, format!("{what}{}; {advice}", place.unwrap_or_default()))
}
