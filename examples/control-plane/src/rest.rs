//! The REST face: services in and out, raw resources beside them, and how the
//! server is.

use axum::body::to_bytes;
use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use axum::{Json, Router};
use deltaplane_server::XdsServer;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::document::Body;
use crate::draft::Draft;
use crate::health::Health;
use crate::openapi::{self, both};
use crate::problem::Problem;
use crate::raw_rest;
use crate::service::Row;
use crate::store::{Store, WriteError};

/// A service is some hundred bytes; 64 domains of 253 characters fit as well.
const BODY_MAX: usize = 64 * 1024;

/// A poll names what it asks for.
const POLL_MAX: usize = 4 * 1024 * 1024;

/// All routes, with and without a slash at the end.
pub fn router(store: Store, health: Health, server: XdsServer) -> Router {
    let router = both(openapi::router(), routes!(list, create));
    let router = both(router, routes!(read, replace, remove))
        .merge(raw_rest::router())
        .with_state(store)
        .merge(OpenApiRouter::new().routes(routes!(healthz)).with_state(health));
    openapi::documented(router)
        .merge(polls(server))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(DefaultBodyLimit::max(BODY_MAX))
}

/// What Envoys poll, and tools ask for, by HTTP instead of gRPC.
fn polls(server: XdsServer) -> Router {
    Router::new().route("/v3/{asked}", any(poll).with_state(server))
}

async fn poll(State(server): State<XdsServer>, request: Request) -> Result<Response, Problem> {
    let (head, body) = request.into_parts();
    let body = to_bytes(body, POLL_MAX).await.map_err(|_| {
        let detail = format!("a poll may have {POLL_MAX} bytes: name less in it");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
    })?;
    let answer = server.poll(&Request::from_parts(head, body)).await;
    Ok(answer.map(Into::into))
}

/// All services, by id.
#[utoipa::path(
    get,
    path = "/api/v1/services/",
    tag = "services",
    operation_id = "list_services",
    responses((status = 200, description = "All services", body = Vec<Row>), Problem)
)]
async fn list(State(store): State<Store>) -> Result<Json<Vec<Row>>, Problem> {
    Ok(Json(store.list().await?))
}

/// Stores a new service.
#[utoipa::path(
    post,
    path = "/api/v1/services/",
    tag = "services",
    operation_id = "create_service",
    request_body = Draft,
    responses(
        (
            status = 201,
            description = "As it is stored",
            body = Row,
            headers(("location" = String, description = "Where it is"))
        ),
        Problem
    )
)]
async fn create(State(store): State<Store>, Body(draft): Body<Draft>) -> Result<Response, Problem> {
    let row = store.create(draft.define(None)?).await?;
    let place = [(header::LOCATION, format!("/api/v1/services/{}", row.id))];
    Ok((StatusCode::CREATED, place, Json(row)).into_response())
}

/// One service.
#[utoipa::path(
    get,
    path = "/api/v1/services/{id}",
    tag = "services",
    operation_id = "read_service",
    params(("id" = i64, Path)),
    responses((status = 200, description = "As it is stored", body = Row), Problem)
)]
async fn read(State(store): State<Store>, Path(id): Path<String>) -> Result<Json<Row>, Problem> {
    let row = store.get(number(&id)?).await?;
    row.map(Json).ok_or_else(|| Problem::no_service(&id))
}

/// Replaces the whole of a service: what is left out goes back to its default.
#[utoipa::path(
    put,
    path = "/api/v1/services/{id}",
    tag = "services",
    operation_id = "replace_service",
    params(("id" = i64, Path)),
    request_body = Draft,
    responses((status = 200, description = "As it is stored", body = Row), Problem)
)]
async fn replace(
    State(store): State<Store>,
    Path(id): Path<String>,
    Body(draft): Body<Draft>,
) -> Result<Json<Row>, Problem> {
    let key = number(&id)?;
    match store.update(key, draft.define(Some(key))?).await {
        Err(WriteError::Absent) => Err(Problem::no_service(&id)),
        done => Ok(Json(done?)),
    }
}

/// Deletes a service.
#[utoipa::path(
    delete,
    path = "/api/v1/services/{id}",
    tag = "services",
    operation_id = "delete_service",
    params(("id" = i64, Path)),
    responses((status = 204, description = "It is gone"), Problem)
)]
async fn remove(State(store): State<Store>, Path(id): Path<String>) -> Result<StatusCode, Problem> {
    let existed = store.delete(number(&id)?).await?;
    existed.then_some(StatusCode::NO_CONTENT).ok_or_else(|| Problem::no_service(&id))
}

/// An id that is no number is the id of no service.
fn number(id: &str) -> Result<i64, Problem> {
    id.parse().map_err(|_| Problem::no_service(id))
}

/// What `/healthz` answers.
#[derive(Serialize, ToSchema)]
struct Healthy {
    /// `ok` or `degraded`.
    status: &'static str,
    /// `ok`, or why the database cannot be followed.
    database: String,
    /// The revision of the database that clients are served.
    revision: i64,
    /// How many rows were translated since the start.
    rows_translated: u64,
    /// How many resources were built, encoded and hashed since the start.
    resources_built: u64,
}

/// How the server is.
#[utoipa::path(
    get,
    path = "/healthz",
    tag = "server",
    responses(
        (status = 200, description = "All is well", body = Healthy),
        (status = 503, description = "The database cannot be followed", body = Healthy)
    )
)]
async fn healthz(State(health): State<Health>) -> Response {
    let status = health.status();
    let (code, word) = match status.trouble {
        None => (StatusCode::OK, "ok"),
        Some(_) => (StatusCode::SERVICE_UNAVAILABLE, "degraded"),
    };
    let body = Healthy {
        status: word,
        database: status.trouble.unwrap_or_else(|| "ok".to_owned()),
        revision: status.revision,
        rows_translated: status.rows_translated,
        resources_built: status.resources_built,
    };
    (code, Json(body)).into_response()
}

async fn no_such_path(uri: Uri) -> Problem {
    let detail = format!(
        "nothing is at {}; services are at /api/v1/services/, raw resources at /api/v1/xds/scopes",
        uri.path()
    );
    Problem::new(StatusCode::NOT_FOUND, detail)
}

async fn no_such_method(method: Method, uri: Uri) -> Problem {
    let path = uri.path();
    let detail = format!("{path} does not know {method}; the header Allow names what it knows");
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail)
}
