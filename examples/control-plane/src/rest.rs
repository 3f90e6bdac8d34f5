//! The REST face: services in and out, raw resources beside them, and how the
//! server is.

use axum::body::to_bytes;
use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use axum::{Json, Router};
use deltaplane_server::XdsServer;
use serde_json::json;

use crate::document::Body;
use crate::draft::Draft;
use crate::health::Health;
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
    let services = get(list).post(create);
    let service = get(read).put(replace).delete(remove);
    Router::new()
        .route("/api/v1/services", services.clone())
        .route("/api/v1/services/", services)
        .route("/api/v1/services/{id}", service.clone())
        .route("/api/v1/services/{id}/", service)
        .merge(raw_rest::router())
        .with_state(store)
        .route("/healthz", get(healthz).with_state(health))
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

async fn list(State(store): State<Store>) -> Result<Json<Vec<Row>>, Problem> {
    Ok(Json(store.list().await?))
}

async fn create(State(store): State<Store>, Body(draft): Body<Draft>) -> Result<Response, Problem> {
    let row = store.create(draft.define(None)?).await?;
    let place = [(header::LOCATION, format!("/api/v1/services/{}", row.id))];
    Ok((StatusCode::CREATED, place, Json(row)).into_response())
}

async fn read(State(store): State<Store>, Path(id): Path<String>) -> Result<Json<Row>, Problem> {
    let row = store.get(number(&id)?).await?;
    row.map(Json).ok_or_else(|| Problem::no_service(&id))
}

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

async fn remove(State(store): State<Store>, Path(id): Path<String>) -> Result<StatusCode, Problem> {
    let existed = store.delete(number(&id)?).await?;
    existed.then_some(StatusCode::NO_CONTENT).ok_or_else(|| Problem::no_service(&id))
}

/// An id that is no number is the id of no service.
fn number(id: &str) -> Result<i64, Problem> {
    id.parse().map_err(|_| Problem::no_service(id))
}

async fn healthz(State(health): State<Health>) -> Response {
    let status = health.status();
    let (code, word) = match status.trouble {
        None => (StatusCode::OK, "ok"),
        Some(_) => (StatusCode::SERVICE_UNAVAILABLE, "degraded"),
    };
    let database = status.trouble.as_deref().unwrap_or("ok");
    let body = json!({
        "status": word,
        "database": database,
        "revision": status.revision,
        "rows_translated": status.rows_translated,
        "resources_built": status.resources_built,
    });
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
