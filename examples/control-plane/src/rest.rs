//! The REST face: services in and out, raw resources beside them, and how the
//! server is.

use axum::body::to_bytes;
use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::http::{Method, StatusCode, Uri, header};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use axum::{Json, Router};
use deltaplane_server::XdsServer;
use prometheus::TEXT_FORMAT;
use utoipa_axum::routes;

use crate::document::Body;
use crate::draft::Draft;
use crate::metrics::Metrics;
use crate::openapi::{self, both};
use crate::problem::Problem;
use crate::running::Running;
use crate::service::Row;
use crate::store::{Store, WriteError};
use crate::{client_rest, health_rest, raw_rest};

/// A service is some hundred bytes; 64 domains of 253 characters fit as well.
const BODY_MAX: usize = 64 * 1024;

/// A poll names what it asks for.
const POLL_MAX: usize = 4 * 1024 * 1024;

/// All routes, with and without a slash at the end.
pub fn router(running: Running, metrics: Metrics) -> Router {
    let router = both(openapi::router(), routes!(list, create));
    let router = both(router, routes!(read, replace, remove))
        .merge(raw_rest::router())
        .with_state(running.store.clone())
        .merge(health_rest::router().with_state(running.health.clone()))
        .merge(client_rest::router().with_state(running.clone()));
    openapi::documented(router)
        .layer(map_response(as_problem))
        .merge(polls(running.server.clone()))
        .route("/metrics", get(prometheus).with_state((running, metrics)))
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

/// What is refused before a handler sees it: a path that is no text.
async fn as_problem(response: Response) -> Response {
    let kind = response.headers().get(header::CONTENT_TYPE);
    let is_text = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/plain"));
    if !response.status().is_client_error() || !is_text {
        return response;
    }
    let (head, body) = response.into_parts();
    let why = to_bytes(body, BODY_MAX).await.unwrap_or_default();
    let why = String::from_utf8_lossy(&why);
    let detail = format!("{why}; write names in UTF-8, percent-encoded");
    Problem::new(head.status, detail).into_response()
}

/// What Prometheus is told.
async fn prometheus(
    State((running, metrics)): State<(Running, Metrics)>,
) -> Result<Response, Problem> {
    let text = metrics.text(&running).map_err(|error| {
        tracing::error!(%error, "the metrics cannot be written");
        Problem::failed()
    })?;
    Ok(([(header::CONTENT_TYPE, TEXT_FORMAT)], text).into_response())
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
