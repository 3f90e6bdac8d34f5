//! A service as JSON, on its way in.

use std::error::Error;
use std::fmt;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::problem::{Fault, Problem};
use crate::service::{Definition, FieldError};

/// The body of `POST` and `PUT`: an object, and not the list that serde would
/// take for a struct as well.
#[derive(Debug)]
struct Body(Draft);

/// A service with whatever was given of it.
///
/// Everything may be missing here, so that what is missing is told in one
/// answer with what is wrong.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Draft {
    /// Only there because a row that was read may be sent back.
    id: Option<i64>,
    name: Option<String>,
    cluster_id: Option<i64>,
    listener_port: Option<i64>,
    upstream_host: Option<String>,
    upstream_port: Option<i64>,
    protocol: Option<String>,
    health_check_path: Option<String>,
    domains: Option<Vec<String>>,
    prefix: Option<String>,
}

impl Draft {
    /// Fills in the defaults. `id` is that of the path, if it has one.
    pub(crate) fn define(self, id: Option<i64>) -> Result<Definition, Problem> {
        let mut errors = Vec::new();
        if self.id.is_some() && self.id != id {
            let why = "is chosen by the server and never changes; leave it out";
            errors.push(FieldError::new("id", why));
        }
        let definition = Definition {
            name: required("name", self.name, &mut errors),
            cluster_id: self.cluster_id.unwrap_or(1),
            listener_port: required("listener_port", self.listener_port, &mut errors),
            upstream_host: required("upstream_host", self.upstream_host, &mut errors),
            upstream_port: required("upstream_port", self.upstream_port, &mut errors),
            protocol: self.protocol.unwrap_or_else(|| "http".to_owned()),
            health_check_path: self.health_check_path,
            domains: self.domains.unwrap_or_else(|| vec!["*".to_owned()]),
            prefix: self.prefix.unwrap_or_else(|| "/".to_owned()),
        };
        if errors.is_empty() {
            return Ok(definition);
        }
        Err(Problem::of_fields(StatusCode::UNPROCESSABLE_ENTITY, errors))
    }
}

fn required<T: Default>(field: &'static str, value: Option<T>, errors: &mut Vec<FieldError>) -> T {
    value.unwrap_or_else(|| {
        errors.push(FieldError::new(field, "is missing; give it"));
        T::default()
    })
}

impl<S: Send + Sync> FromRequest<S> for Draft {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Draft, Problem> {
        let json = Json::from_request(request, state).await;
        json.map(|Json(Body(draft))| draft).map_err(|rejection| refuse(&rejection))
    }
}

impl<'de> Deserialize<'de> for Body {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Body, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Body;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Body, A::Error> {
                Draft::deserialize(MapAccessDeserializer::new(map)).map(Body)
            }
        }
        deserializer.deserialize_map(Object)
    }
}

type PathError = serde_path_to_error::Error<serde_json::Error>;

fn refuse(rejection: &JsonRejection) -> Problem {
    let status = rejection.status();
    match rejection {
        JsonRejection::JsonDataError(error) => match cause::<PathError>(error) {
            Some(error) if error.path().iter().next().is_some() => {
                Problem::of_fields(status, [fault(error)])
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
        _ if status == StatusCode::PAYLOAD_TOO_LARGE => {
            Problem::new(status, "the body is too large; a service takes a few hundred bytes")
        }
        other => Problem::new(status, other.body_text()),
    }
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

fn fault(error: &PathError) -> Fault {
    let field = error.path().to_string();
    let why = error.inner().to_string();
    if why.starts_with("unknown field") {
        let field = why.split('`').nth(1).unwrap_or(&field).to_owned();
        let message = format!("{why}; leave it out or correct its name");
        return Fault { field, message };
    }
    // What serde expected is a type of Rust; we say it in words of JSON.
    let (what, line, column) =
        (why.split(", expected").next(), error.inner().line(), error.inner().column());
    let what = what.unwrap_or(&why);
    let advice = match field.split(['[', '.']).next() {
        Some("id" | "cluster_id" | "listener_port" | "upstream_port") => "write a whole number",
        Some("domains") => "write a list of strings",
        _ => "write a string",
    };
    let message = format!("{what} at line {line} column {column}; {advice}");
    Fault { field, message }
}
