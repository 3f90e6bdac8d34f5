//! What must be so of a row for it to be written: `If-Match`.

use axum::extract::FromRequestParts;
use axum::http::StatusCode;
use axum::http::header::{self, HeaderValue};
use axum::http::request::Parts;

use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::{IntoParams, PartialSchema as _};

use crate::rest::problem::Problem;

/// Which revisions of a row may be overwritten.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums)] // RFC 9110 knows these
pub enum Precondition {
    /// Any.
    #[default]
    None,
    /// One of these.
    Revisions(Vec<i64>),
}

impl Precondition {
    /// Whether a row of this revision may be written.
    pub fn admits(&self, revision: i64) -> bool {
        match self {
            Precondition::None => true,
            Precondition::Revisions(revisions) => revisions.contains(&revision),
        }
    }

    /// The same; but if it asks for nothing, this revision alone may be overwritten.
    pub(crate) fn or_revision(self, revision: i64) -> Precondition {
        match self {
            Precondition::None => Precondition::Revisions(vec![revision]),
            revisions => revisions,
        }
    }

    /// Reads a list of tags; nothing if it is none. That a row exists, which `*`
    /// asks for, is asked anyway. Tags that are not ours match nothing.
    fn parse(header: &HeaderValue) -> Option<Precondition> {
        let text = header.to_str().ok()?.trim();
        if text == "*" {
            return Some(Precondition::None);
        }
        let tag = |tag: &str| {
            let is_tag = tag.trim_start_matches("W/").starts_with('"') && tag.ends_with('"');
            let revision = tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"'));
            is_tag.then(|| revision.and_then(|revision| revision.parse().ok()))
        };
        let revisions = text.split(',').map(|text| tag(text.trim())).collect::<Option<Vec<_>>>()?;
        Some(Precondition::Revisions(revisions.into_iter().flatten().collect()))
    }
}

/// For the document of the HTTP API.
impl IntoParams for Precondition {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let header = ParameterBuilder::new()
            .name("If-Match")
            .parameter_in(ParameterIn::Header)
            .description(Some(
                "The ETag of what was read: if it changed meanwhile, the answer is 412",
            ))
            .schema(Some(String::schema()));
        vec![header.build()]
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Precondition {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Precondition, Problem> {
        let Some(header) = parts.headers.get(header::IF_MATCH) else {
            return Ok(Precondition::None);
        };
        Precondition::parse(header).ok_or_else(|| {
            let why = "the header If-Match is no list of tags; send the ETag of a GET, as it came";
            Problem::new(StatusCode::BAD_REQUEST, why)
        })
    }
}

/// The tag of a row.
pub(crate) fn etag(revision: i64) -> String {
    format!("\"{revision}\"")
}
