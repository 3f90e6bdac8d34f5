//! The HTTP API of the audit log.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::access::audit::{Entry, LIMIT_MAX, Wanted};
use crate::database::store::Store;
use crate::rest::openapi::both;
use crate::rest::problem::Problem;
use crate::serve::running::Running;
use crate::service::within;

pub(crate) fn router() -> OpenApiRouter<Running> {
    both(OpenApiRouter::new(), routes!(list))
}

/// Who wrote what, the newest first.
#[utoipa::path(
    get,
    path = "/api/v1/audit",
    tag = "server",
    operation_id = "list_audit",
    params(Wanted),
    responses((status = 200, description = "The newest first", body = Vec<Entry>), Problem)
)]
async fn list(
    State(store): State<Store>,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Result<Json<Vec<Entry>>, Problem> {
    let Query(wanted) = wanted.map_err(|error| {
        let why = format!("{}; give ?caller=…, ?before=… and ?limit=…", error.body_text());
        Problem::new(error.status(), why)
    })?;
    if let Some(limit) = wanted.limit {
        let checked = within("limit", limit, 1..=LIMIT_MAX, "number of entries");
        checked.map_err(|error| Problem::of_fields(StatusCode::BAD_REQUEST, [error]))?;
    }
    // No token has such a name, and PostgreSQL no such text.
    if wanted.caller.as_ref().is_some_and(|caller| caller.contains('\0')) {
        return Ok(Json(Vec::new()));
    }
    Ok(Json(store.audit(&wanted).await?))
}
