//! A service as JSON, on its way in.

use axum::http::StatusCode;
use serde::Deserialize;
use utoipa::ToSchema;

use crate::document::Document;
use crate::problem::Problem;
use crate::service::{Definition, FieldError};

/// A service with whatever was given of it.
///
/// Everything may be missing here, so that what is missing is told in one
/// answer with what is wrong.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = ServiceDraft)]
#[serde(deny_unknown_fields)]
pub(crate) struct Draft {
    /// Only there because a row that was read may be sent back.
    id: Option<i64>,
    #[schema(
        required,
        nullable = false,
        max_length = 128,
        pattern = "^[A-Za-z0-9][A-Za-z0-9._-]*$"
    )]
    name: Option<String>,
    #[schema(minimum = 1)]
    cluster_id: Option<i64>,
    #[schema(required, nullable = false, minimum = 1, maximum = 65535)]
    listener_port: Option<i64>,
    #[schema(required, nullable = false, min_length = 1, max_length = 254)]
    upstream_host: Option<String>,
    #[schema(required, nullable = false, minimum = 1, maximum = 65535)]
    upstream_port: Option<i64>,
    #[schema(pattern = "^(http|tcp)$")]
    protocol: Option<String>,
    #[schema(max_length = 2048, pattern = "^/[!-~]*$")]
    health_check_path: Option<String>,
    #[schema(min_items = 1, max_items = 64)]
    domains: Option<Vec<String>>,
    #[schema(max_length = 2048, pattern = "^/[!-~]*$")]
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

impl Document for Draft {
    const TOO_LARGE: &str = "a service takes a few hundred bytes";

    fn advice(path: &str) -> &'static str {
        match path.split(['[', '.']).next() {
            Some("id" | "cluster_id" | "listener_port" | "upstream_port") => "write a whole number",
            Some("domains") => "write a list of strings",
            _ => "write a string",
        }
    }
}
