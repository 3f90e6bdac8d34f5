//! The HTTP API: services in and out, raw resources beside them, and how the
//! server is.

pub(crate) mod audit;
pub(crate) mod client;
pub(crate) mod document;
pub(crate) mod health;
pub(crate) mod history;
pub(crate) mod import;
pub(crate) mod listener;
pub(crate) mod object;
pub(crate) mod openapi;
pub mod precondition;
pub mod problem;
pub(crate) mod raw;
pub(crate) mod rollout;
pub(crate) mod service;

use axum::Router;
use axum::body::to_bytes;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{Method, StatusCode, Uri, header};
use axum::middleware::{Next, from_fn_with_state, map_response};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use prometheus::TEXT_FORMAT;

use crate::access::{self, browser};
use crate::rest::document::{is_too_slow, too_slow};
use crate::rest::problem::Problem;
use crate::serve::running::Running;
use crate::status::metrics::Metrics;

/// A service is some hundred bytes; 64 domains of 253 characters fit as well.
const BODY_MAX: usize = 64 * 1024;

/// A poll names what it asks for.
const POLL_MAX: usize = 4 * 1024 * 1024;

/// All routes, with and without a slash at the end.
pub fn router(running: Running, metrics: Metrics) -> Router {
    let router = openapi::router()
        .merge(service::router())
        .merge(import::router())
        .merge(object::router())
        .merge(rollout::router())
        .merge(raw::router())
        .merge(audit::router())
        .merge(history::router())
        .with_state(running.clone())
        .merge(health::router().with_state(running.health.clone()))
        .merge(client::router().with_state(running.clone()));
    let is_by_token = running.access.is_by_token();
    openapi::documented(router, is_by_token)
        .layer(map_response(as_problem))
        .merge(polls(running.clone()))
        .route("/metrics", get(prometheus).with_state((running.clone(), metrics)))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .layer(from_fn_with_state(running, access::gate))
}

/// How the server is, and nothing else, for whoever reaches it. On one that is `local` to its machine, metrics are for
/// who asks by a name of that.
pub(crate) fn metrics_router(running: Running, metrics: Metrics, local: bool) -> Router {
    let health = health::router().with_state(running.health.clone());
    let (health, _) = health.split_for_parts();
    Router::new()
        .route("/metrics", get(prometheus).with_state((running, metrics)))
        .layer(from_fn_with_state(local, admit))
        .merge(health)
        .fallback(no_such_metrics)
        .method_not_allowed_fallback(no_such_method)
        .layer(DefaultBodyLimit::max(BODY_MAX))
}

/// What Envoys poll, and tools ask for, by HTTP instead of gRPC.
fn polls(running: Running) -> Router {
    Router::new().route("/v3/{asked}", any(poll).with_state(running))
}

async fn poll(State(running): State<Running>, request: Request) -> Result<Response, Problem> {
    let (mut head, body) = request.into_parts();
    let body = to_bytes(body, POLL_MAX).await.map_err(|error| {
        if is_too_slow(&error) {
            return too_slow();
        }
        let detail = format!("a poll may have {POLL_MAX} bytes: name less in it");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
    })?;
    if let Some(pass) = running.access.pass().header() {
        head.headers.insert(header::AUTHORIZATION, pass);
    }
    let answer = running.server.poll(&Request::from_parts(head, body)).await;
    Ok(answer.map(Into::into))
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

/// Refuses what a page of somebody else has a browser ask for.
async fn admit(State(local): State<bool>, request: Request, next: Next) -> Response {
    match browser::admit(&request, local) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

async fn no_such_path(uri: Uri) -> Problem {
    let detail = format!(
        "nothing is at {}; services are at /api/v1/services/, raw resources at /api/v1/xds/scopes",
        uri.path()
    );
    Problem::new(StatusCode::NOT_FOUND, detail)
}

async fn no_such_metrics(uri: Uri) -> Problem {
    let path = uri.path();
    let detail = format!("nothing is at {path} here, but at /metrics, /healthz and /readyz");
    Problem::new(StatusCode::NOT_FOUND, detail)
}

async fn no_such_method(method: Method, uri: Uri) -> Problem {
    let path = uri.path();
    let detail = format!("{path} does not know {method}; the header Allow names what it knows");
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail)
}
