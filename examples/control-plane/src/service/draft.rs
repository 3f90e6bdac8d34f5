//! A service as JSON, on its way in.

use std::fmt::Debug;

use axum::http::StatusCode;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::rest::document::{self, Document, Object};
use crate::rest::problem::Problem;
use crate::service::upstream::Place;
use crate::service::{Definition, FieldError, Row};

/// A service with whatever was given of it.
///
/// Everything may be missing here, so that what is missing is told in one
/// answer with what is wrong.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = ServiceDraft)]
#[serde(deny_unknown_fields)]
pub(crate) struct Draft {
    /// These two are only there because a row that was read may be sent back.
    id: Option<i64>,
    #[serde(default, rename = "revision")]
    #[schema(value_type = Option<i64>)]
    _revision: IgnoredAny,
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
    /// This and the port are required, unless there are `upstreams`.
    #[schema(min_length = 1, max_length = 254)]
    upstream_host: Option<String>,
    #[schema(minimum = 1, maximum = 65535)]
    upstream_port: Option<i64>,
    #[schema(pattern = "^(http|https|grpc|tcp)$")]
    protocol: Option<String>,
    #[schema(max_length = 2048, pattern = "^/[!-~]*$")]
    health_check_path: Option<String>,
    #[schema(min_items = 1, max_items = 64)]
    domains: Option<Vec<String>>,
    #[schema(max_length = 2048, pattern = "^/[!-~]*$")]
    prefix: Option<String>,
    #[schema(value_type = Option<Vec<Place>>, max_items = 256)]
    upstreams: Option<Vec<Object<Place>>>,
    #[schema(minimum = 0, maximum = 86400000)]
    timeout_ms: Option<i64>,
    #[schema(minimum = 1, maximum = 86400000)]
    connect_timeout_ms: Option<i64>,
    #[schema(minimum = 0, maximum = 10)]
    retries: Option<i64>,
    http2: Option<bool>,
    websocket: Option<bool>,
    upstream_tls: Option<bool>,
    tls_verify: Option<bool>,
    tls_sni: Option<String>,
    tls_ca: Option<String>,
    #[schema(minimum = 100, maximum = 86400000)]
    health_check_interval_ms: Option<i64>,
    is_active: Option<bool>,
    #[schema(min_length = 1, max_length = 128)]
    collection: Option<String>,
    #[schema(min_length = 1, max_length = 128)]
    certificate: Option<String>,
}

/// What is to be different about a service: a JSON merge patch (RFC 7396).
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = ServicePatch, value_type = Object)]
#[serde(transparent)]
pub(crate) struct Patch(Map<String, Value>);

impl Patch {
    /// The service as it is then. A list is replaced whole.
    pub(crate) fn apply(&self, row: &Row) -> Result<Definition, Problem> {
        let mut service = serde_json::json!(row);
        // Who says where it is says it whole.
        if self.0.contains_key("upstreams")
            && let Some(fields) = service.as_object_mut()
        {
            fields.retain(|field, _| field != "upstream_host" && field != "upstream_port");
        }
        document::merge(&mut service, Value::Object(self.0.clone()));
        let draft: Draft = document::read(service)?;
        draft.define(Some(row.id))
    }
}

impl Draft {
    /// The same for a fleet, whose services have this number.
    pub(crate) fn of_fleet(self, cluster_id: i64) -> Result<Draft, Problem> {
        if self.cluster_id.is_some_and(|own| own != cluster_id) {
            let why = format!("is another than the fleet's, which is {cluster_id}; leave it out");
            let error = FieldError::new("cluster_id", why);
            return Err(Problem::of_fields(StatusCode::UNPROCESSABLE_ENTITY, [error]));
        }
        Ok(Draft { cluster_id: Some(cluster_id), ..self })
    }

    /// Fills in the defaults. `id` is that of the path, if it has one.
    pub(crate) fn define(self, id: Option<i64>) -> Result<Definition, Problem> {
        let defined = self.fill(id);
        defined.map_err(|errors| Problem::of_fields(StatusCode::UNPROCESSABLE_ENTITY, errors))
    }

    /// The same for one that is known by its name: its id, where it was read, plays no part.
    pub(crate) fn define_by_name(self) -> Result<Definition, Vec<FieldError>> {
        Draft { id: None, ..self }.fill(None)
    }

    fn fill(self, id: Option<i64>) -> Result<Definition, Vec<FieldError>> {
        let mut errors = Vec::new();
        if self.id.is_some() && self.id != id {
            let why = "is chosen by the server and never changes; leave it out";
            errors.push(FieldError::new("id", why));
        }
        let upstreams = self.upstreams.unwrap_or_default();
        let upstreams: Vec<Place> = upstreams.into_iter().map(|Object(place)| place).collect();
        let first = upstreams.first();
        let host = first.map(|place| place.host.clone());
        let host = agree("upstream_host", self.upstream_host, host, &mut errors);
        let port = first.map(|place| place.port);
        let port = agree("upstream_port", self.upstream_port, port, &mut errors);
        let name = required("name", self.name, &mut errors);
        let listener_port = required("listener_port", self.listener_port, &mut errors);
        let host = required("upstream_host", host, &mut errors);
        let port = required("upstream_port", port, &mut errors);
        let usual = Definition::new(name, listener_port, host, port);
        let definition = Definition {
            cluster_id: self.cluster_id.unwrap_or(usual.cluster_id),
            protocol: self.protocol.unwrap_or(usual.protocol),
            health_check_path: self.health_check_path,
            domains: self.domains.unwrap_or(usual.domains),
            prefix: self.prefix.unwrap_or(usual.prefix),
            upstreams,
            timeout_ms: self.timeout_ms,
            connect_timeout_ms: self.connect_timeout_ms.unwrap_or(usual.connect_timeout_ms),
            retries: self.retries.unwrap_or(usual.retries),
            http2: self.http2.unwrap_or(usual.http2),
            websocket: self.websocket.unwrap_or(usual.websocket),
            upstream_tls: self.upstream_tls,
            tls_verify: self.tls_verify.unwrap_or(usual.tls_verify),
            tls_sni: self.tls_sni,
            tls_ca: self.tls_ca,
            health_check_interval_ms: self
                .health_check_interval_ms
                .unwrap_or(usual.health_check_interval_ms),
            is_active: self.is_active.unwrap_or(usual.is_active),
            collection: self.collection,
            certificate: self.certificate,
            ..usual
        };
        if errors.is_empty() { Ok(definition) } else { Err(errors) }
    }
}

fn required<T: Default>(field: &'static str, value: Option<T>, errors: &mut Vec<FieldError>) -> T {
    value.unwrap_or_else(|| {
        errors.push(FieldError::new(field, "is missing; give it"));
        T::default()
    })
}

/// The first of several upstreams is the one upstream, too: whoever says both says
/// the same.
fn agree<T: PartialEq + Debug>(
    field: &'static str,
    given: Option<T>,
    first: Option<T>,
    errors: &mut Vec<FieldError>,
) -> Option<T> {
    if let (Some(given), Some(first)) = (&given, &first)
        && given != first
    {
        let why = format!("is {given:?}, but that of upstreams[0] is {first:?}; leave it out");
        errors.push(FieldError::new(field, why));
    }
    first.or(given)
}

impl Document for Draft {
    const TOO_LARGE: &str = "a service takes at most 64 KiB";

    fn advice(path: &str) -> &'static str {
        match path.rsplit('.').next() {
            Some(
                "id"
                | "cluster_id"
                | "listener_port"
                | "upstream_port"
                | "port"
                | "weight"
                | "timeout_ms"
                | "connect_timeout_ms"
                | "retries"
                | "health_check_interval_ms",
            ) => "write a whole number",
            Some("http2" | "websocket" | "upstream_tls" | "tls_verify" | "is_active") => {
                "write true or false"
            }
            Some(field) if field.starts_with("domains") => "write a list of strings",
            Some("upstreams") => "write a list of objects",
            Some(field) if field.starts_with("upstreams[") => {
                "write an object such as {\"host\": \"10.0.0.1\", \"port\": 80}"
            }
            _ => "write a string",
        }
    }
}

impl Document for Patch {
    const TOO_LARGE: &str = Draft::TOO_LARGE;

    fn advice(path: &str) -> &'static str {
        Draft::advice(path)
    }
}
