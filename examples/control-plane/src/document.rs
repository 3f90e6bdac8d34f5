//! A JSON document on its way in, and what is wrong with it.

use std::error::Error;
use std::fmt;
use std::marker::PhantomData;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::problem::{Fault, Problem};

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
pub(crate) struct Object<T>(pub(crate) T);

impl<S: Send + Sync, T: Document> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Body<T>, Problem> {
        let json = Json::from_request(request, state).await;
        json.map(|Json(Object(body))| Body(body)).map_err(|rejection| refuse::<T>(&rejection))
    }
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

fn refuse<T: Document>(rejection: &JsonRejection) -> Problem {
    let status = rejection.status();
    match rejection {
        JsonRejection::JsonDataError(error) => match cause::<PathError>(error) {
            Some(error) if error.path().iter().next().is_some() => {
                Problem::of_fields(status, [fault::<T>(error)])
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
            Problem::new(status, format!("the body is too large; {}", T::TOO_LARGE))
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

fn fault<T: Document>(error: &PathError) -> Fault {
    let path = error.path().to_string();
    let why = error.inner().to_string();
    if why.starts_with("unknown field") {
        // The message ends with where serde noticed it; the path says it better.
        let why = why.rsplit_once(" at line ").map_or(&*why, |(why, _)| why);
        return Fault::new(path, format!("{why}; leave it out or correct its name"));
    }
    // What serde expected is a type of Rust; we say it in words of JSON.
    let (what, line, column) =
        (why.split(", expected").next(), error.inner().line(), error.inner().column());
    let what = what.unwrap_or(&why);
    let advice = T::advice(&path);
    Fault::new(path, format!("{what} at line {line} column {column}; {advice}"))
}
