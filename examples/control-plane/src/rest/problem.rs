//! How the HTTP API says no: problem details by RFC 9457.

use std::fmt;

use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::{IntoResponses, ToSchema};

use crate::database::reload::ReloadError;
use crate::database::store::{StoreError, WriteError};
use crate::raw::store::TransactError;
use crate::service::FieldError;

/// How much of what is wrong is told at once.
const FAULTS_MAX: usize = 50;

/// An error answer.
#[derive(Clone, Debug, Serialize, ToSchema, IntoResponses)]
#[response(
    status = "default",
    description = "What is wrong, and what to change",
    content_type = "application/problem+json"
)]
pub struct Problem {
    r#type: &'static str,
    /// The status in words.
    title: &'static str,
    status: u16,
    /// What is wrong, and what to change.
    detail: String,
    /// The same for each field that is wrong.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<Fault>,
    /// The database did not do what was asked of it.
    #[serde(skip)]
    is_of_database: bool,
}

/// An answer has this among its extensions if the database did not do what was asked of it: why.
#[derive(Clone, Debug)]
pub(crate) struct OfDatabase(pub(crate) String);

/// One field and what is wrong with it.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[non_exhaustive]
pub struct Fault {
    /// A path into the document, such as `upserts[3].resource`.
    pub field: String,
    /// What is wrong, and what to write instead.
    pub message: String,
}

impl Fault {
    pub(crate) fn new(field: impl Into<String>, message: impl Into<String>) -> Fault {
        Fault { field: field.into(), message: message.into() }
    }

    /// The same fault, seen from where `path` begins.
    pub(crate) fn within(self, path: &str) -> Fault {
        let joint = if self.field.is_empty() || self.field.starts_with('[') { "" } else { "." };
        Fault { field: format!("{path}{joint}{}", self.field), ..self }
    }
}

impl From<FieldError> for Fault {
    fn from(error: FieldError) -> Fault {
        Fault { field: error.field.into_owned(), message: error.message }
    }
}

impl Problem {
    pub(crate) fn new(status: StatusCode, detail: impl Into<String>) -> Problem {
        Problem {
            r#type: "about:blank",
            title: status.canonical_reason().unwrap_or("Error"),
            status: status.as_u16(),
            detail: detail.into(),
            errors: Vec::new(),
            is_of_database: false,
        }
    }

    /// A problem with fields; its detail says all of it in one line.
    pub(crate) fn of_fields(
        status: StatusCode,
        errors: impl IntoIterator<Item = impl Into<Fault>>,
    ) -> Problem {
        let errors: Vec<Fault> = errors.into_iter().map(Into::into).collect();
        let said = |fault: &Fault| format!("{}: {}", fault.field, fault.message);
        let detail = errors.iter().map(said).collect::<Vec<_>>().join("; ");
        let problem = Problem::new(status, detail);
        Problem { errors, ..problem }
    }

    /// Of very many faults, the first ones.
    pub(crate) fn of_many(status: StatusCode, mut faults: Vec<Fault>) -> Problem {
        faults.truncate(FAULTS_MAX);
        Problem::of_fields(status, faults)
    }

    /// A document whose content is wrong.
    pub(crate) fn unprocessable(faults: Vec<Fault>) -> Problem {
        Problem::of_many(StatusCode::UNPROCESSABLE_ENTITY, faults)
    }

    /// What is wrong, and what to change.
    pub(crate) fn detail(&self) -> &str {
        &self.detail
    }

    pub(crate) fn failed() -> Problem {
        let detail = "the server failed at this request; its log says why";
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, detail)
    }

    pub(crate) fn no_scope(scope: &str) -> Problem {
        let detail = format!(
            "no transaction ever named the scope {scope:?}; GET /api/v1/xds/scopes lists those \
             that have raw resources"
        );
        Problem::new(StatusCode::NOT_FOUND, detail)
    }

    pub(crate) fn no_service(id: &str) -> Problem {
        let detail = format!("there is no service {id:?}; GET /api/v1/services/ lists them");
        Problem::new(StatusCode::NOT_FOUND, detail)
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Problem {
        tracing::warn!(%error, "a request failed");
        let problem = if error.is_full() {
            let detail = format!("{error}; make room where the database has its files");
            Problem::new(StatusCode::INSUFFICIENT_STORAGE, detail)
        } else {
            let detail = format!("{error}; try again when GET /healthz says that all is well");
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail)
        };
        Problem { is_of_database: true, ..problem }
    }
}

impl From<ReloadError> for Problem {
    fn from(error: ReloadError) -> Problem {
        let detail = format!("{error}; try again when GET /healthz says that all is well");
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail)
    }
}

impl From<TransactError> for Problem {
    fn from(error: TransactError) -> Problem {
        let reused = match error {
            TransactError::Store(error) => return error.into(),
            TransactError::VersionReused(reused) => reused,
        };
        let why = "denotes another content of this resource already; give each content its own";
        let faults = reused.iter().map(|i| Fault::new(format!("upserts[{i}].version"), why));
        Problem::unprocessable(faults.collect())
    }
}

impl From<WriteError> for Problem {
    fn from(error: WriteError) -> Problem {
        match error {
            WriteError::Invalid(errors) => {
                Problem::of_fields(StatusCode::UNPROCESSABLE_ENTITY, errors)
            }
            WriteError::Conflict(error) => Problem::of_fields(StatusCode::CONFLICT, [error]),
            WriteError::Lost(revision) => {
                let detail = format!(
                    "it was changed meanwhile and is at revision {revision}: GET it, and \
                     send what is to be different with its ETag in If-Match"
                );
                Problem::new(StatusCode::PRECONDITION_FAILED, detail)
            }
            WriteError::Absent => Problem::new(StatusCode::NOT_FOUND, error.to_string()),
            WriteError::Store(error) => error.into(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let kind = [(header::CONTENT_TYPE, "application/problem+json")];
        let why = self.is_of_database.then(|| OfDatabase(self.detail.clone()));
        let mut response = (status, kind, Json(self)).into_response();
        if let Some(why) = why {
            response.extensions_mut().insert(why);
        }
        response
    }
}
