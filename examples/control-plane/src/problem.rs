//! How the REST face says no: problem details by RFC 9457.

use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::service::FieldError;
use crate::store::{StoreError, WriteError};

/// An error answer.
#[derive(Clone, Debug, Serialize)]
pub struct Problem {
    r#type: &'static str,
    title: &'static str,
    status: u16,
    detail: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<Fault>,
}

/// One field and what is wrong with it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Fault {
    pub(crate) field: String,
    pub(crate) message: String,
}

impl From<FieldError> for Fault {
    fn from(error: FieldError) -> Fault {
        Fault { field: error.field.to_owned(), message: error.message }
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

    pub(crate) fn no_service(id: &str) -> Problem {
        let detail = format!("there is no service {id:?}; GET /api/v1/services/ lists them");
        Problem::new(StatusCode::NOT_FOUND, detail)
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Problem {
        tracing::warn!(%error, "a request failed");
        let detail = format!("{error}; try again when GET /healthz says that it is back");
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail)
    }
}

impl From<WriteError> for Problem {
    fn from(error: WriteError) -> Problem {
        match error {
            WriteError::Invalid(errors) => {
                Problem::of_fields(StatusCode::UNPROCESSABLE_ENTITY, errors)
            }
            WriteError::Conflict(error) => Problem::of_fields(StatusCode::CONFLICT, [error]),
            WriteError::Absent => Problem::new(StatusCode::NOT_FOUND, error.to_string()),
            WriteError::Store(error) => error.into(),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let kind = [(header::CONTENT_TYPE, "application/problem+json")];
        (status, kind, Json(self)).into_response()
    }
}
