use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode, header};
use deltaplane::health::Health;
use deltaplane::metrics::Metrics;
use deltaplane::rest;
use deltaplane::running::Running;
use deltaplane::traffic::Traffic;
use deltaplane_server::{Cache, XdsServer};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::database::{Sqlite, open};

const SERVICES: &str = "/api/v1/services/";

pub(crate) async fn router(url: &str) -> Router {
    rest::router(running(url).await, Metrics::new().unwrap())
}

/// A server that follows nothing and listens nowhere.
pub(crate) async fn running(url: &str) -> Running {
    let (cache, store) = (Cache::new(), open(url).await);
    let server = XdsServer::builder(cache.clone()).build();
    Running { store, cache, health: Health::default(), server, traffic: Traffic::default() }
}

pub(crate) async fn send(
    router: &Router,
    method: &str,
    path: &str,
    body: &str,
) -> (StatusCode, Value) {
    let request = Request::builder().method(method).uri(path);
    let request = request.header(header::CONTENT_TYPE, "application/json");
    answer(router, request.body(body.to_owned().into()).unwrap()).await
}

async fn answer(router: &Router, request: Request<Body>) -> (StatusCode, Value) {
    let response = router.clone().oneshot(request).await.unwrap();
    let status = response.status();
    let kind = response.headers().get(header::CONTENT_TYPE).cloned();
    let bytes = to_bytes(response.into_body(), usize::MAX).await.unwrap();
    let body: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    if status.is_client_error() || status.is_server_error() {
        assert_eq!(kind.unwrap(), "application/problem+json");
        assert_eq!(body["status"], status.as_u16());
        assert_eq!(body["type"], "about:blank");
        assert!(body["title"].is_string() && body["detail"].is_string(), "{body}");
    }
    (status, body)
}

fn shop() -> Value {
    json!({"name": "shop", "listener_port": 80, "upstream_host": "127.0.0.1", "upstream_port": 8080})
}

#[tokio::test]
async fn a_service_lives() {
    let sqlite = Sqlite::new();
    let router = router(&sqlite.url()).await;
    let stored = json!({
        "id": 1, "name": "shop", "cluster_id": 1, "listener_port": 80,
        "upstream_host": "127.0.0.1", "upstream_port": 8080, "protocol": "http",
        "health_check_path": null, "domains": ["*"], "prefix": "/",
    });
    let created = send(&router, "POST", SERVICES, &shop().to_string()).await;
    assert_eq!(created, (StatusCode::CREATED, stored.clone()));
    for path in ["/api/v1/services", SERVICES] {
        assert_eq!(send(&router, "GET", path, "").await, (StatusCode::OK, json!([stored])));
    }
    for path in ["/api/v1/services/1", "/api/v1/services/1/"] {
        assert_eq!(send(&router, "GET", path, "").await, (StatusCode::OK, stored.clone()));
    }

    // What was read may be changed and sent back.
    let mut changed = stored.clone();
    changed["upstream_port"] = 8081.into();
    changed["domains"] = json!(["a.example"]);
    let put = send(&router, "PUT", "/api/v1/services/1", &changed.to_string()).await;
    assert_eq!(put, (StatusCode::OK, changed.clone()));
    assert_eq!(send(&router, "GET", "/api/v1/services/1", "").await.1, changed);

    assert_eq!(send(&router, "DELETE", "/api/v1/services/1", "").await.0, StatusCode::NO_CONTENT);
    for method in ["GET", "DELETE"] {
        let gone = send(&router, method, "/api/v1/services/1", "").await;
        assert_eq!(gone.0, StatusCode::NOT_FOUND);
    }
    let put = send(&router, "PUT", "/api/v1/services/1", &shop().to_string()).await;
    assert_eq!(put.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn what_is_wrong_is_named() {
    let sqlite = Sqlite::new();
    let router = router(&sqlite.url()).await;
    let cases = [
        ("name", json!("")),
        ("name", json!("x".repeat(300))),
        ("name", json!(7)),
        ("name", json!(null)),
        ("listener_port", json!(0)),
        ("listener_port", json!("80")),
        ("upstream_port", json!(70000)),
        ("upstream_port", json!(80.5)),
        ("upstream_host", json!("a b")),
        ("protocol", json!("udp")),
        ("prefix", json!("x")),
        ("domains", json!([])),
        ("health_check_path", json!("x")),
        ("id", json!(5)),
        ("colour", json!("red")),
    ];
    for (field, value) in cases {
        let mut body = shop();
        body[field] = value;
        let (status, problem) = send(&router, "POST", SERVICES, &body.to_string()).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{body}");
        assert_eq!(problem["errors"].as_array().unwrap().len(), 1, "{problem}");
        assert_eq!(problem["errors"][0]["field"], field);
        assert!(problem["detail"].as_str().unwrap().contains(field));
    }
    let (status, problem) = send(&router, "POST", SERVICES, "{}").await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    let fields = problem["errors"].as_array().unwrap().iter().map(|error| &error["field"]);
    let missing = ["name", "listener_port", "upstream_host", "upstream_port"];
    assert_eq!(fields.collect::<Vec<_>>(), missing);
    assert_eq!(send(&router, "GET", SERVICES, "").await.1, json!([]), "nothing was stored");
}

#[tokio::test]
async fn conflicts_name_the_other_service() {
    let sqlite = Sqlite::new();
    let router = router(&sqlite.url()).await;
    send(&router, "POST", SERVICES, &shop().to_string()).await;
    let cases = [
        ("name", json!({"listener_port": 81})),
        ("prefix", json!({"name": "b"})),
        ("listener_port", json!({"name": "b", "protocol": "tcp"})),
    ];
    for (field, change) in cases {
        let mut body = shop();
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let (status, problem) = send(&router, "POST", SERVICES, &body.to_string()).await;
        assert_eq!((status, &problem["errors"][0]["field"]), (StatusCode::CONFLICT, &json!(field)));
        assert!(problem["errors"][0]["message"].as_str().unwrap().contains("\"shop\""));
    }
}

#[tokio::test]
async fn bodies_and_paths_that_are_none() {
    let sqlite = Sqlite::new();
    let router = router(&sqlite.url()).await;
    let (status, problem) = send(&router, "POST", SERVICES, "{\n \"name\": }").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(problem["detail"].as_str().unwrap().contains("line 2 column 10"), "{problem}");
    for body in ["", "{", "{}{}", "nonsense"] {
        assert_eq!(
            send(&router, "POST", SERVICES, body).await.0,
            StatusCode::BAD_REQUEST,
            "{body}"
        );
    }
    for body in ["[]", "7", "[null,\"a\",1,80,\"h\",80,\"http\",null,[\"*\"],\"/\"]"] {
        let (status, problem) = send(&router, "POST", SERVICES, body).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{body}");
        assert!(problem["detail"].as_str().unwrap().contains("JSON object"), "{problem}");
    }
    let long = format!("{{\"name\":\"{}\"}}", "x".repeat(70_000));
    assert_eq!(send(&router, "POST", SERVICES, &long).await.0, StatusCode::PAYLOAD_TOO_LARGE);
    let untyped = Request::post(SERVICES).body(shop().to_string().into()).unwrap();
    assert_eq!(answer(&router, untyped).await.0, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert_eq!(send(&router, "PATCH", SERVICES, "").await.0, StatusCode::METHOD_NOT_ALLOWED);
    for path in ["/", "/api", "/api/v1/services/x", "/api/v1/services/99999999999999999999"] {
        assert_eq!(send(&router, "GET", path, "").await.0, StatusCode::NOT_FOUND, "{path}");
    }
}

#[tokio::test]
async fn names_that_are_no_text() {
    let sqlite = Sqlite::new();
    let router = router(&sqlite.url()).await;
    for path in ["/api/v1/services/%FF", "/api/v1/xds/scopes/%FF/resources", "/xds/clients/%C3"] {
        let (status, problem) = send(&router, "GET", path, "").await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{path}");
        assert!(problem["detail"].as_str().unwrap().contains("percent-encoded"), "{problem}");
    }
}

#[tokio::test]
async fn a_lost_database_is_told_and_nothing_is_written_past_it() {
    let sqlite = Sqlite::new();
    let router = router(&sqlite.url()).await;
    assert_eq!(send(&router, "GET", "/healthz", "").await.0, StatusCode::OK);
    send(&router, "POST", SERVICES, &shop().to_string()).await;
    std::fs::remove_file(sqlite.file()).unwrap();
    let lost = send(&router, "POST", SERVICES, &shop().to_string()).await;
    assert_eq!(lost.0, StatusCode::SERVICE_UNAVAILABLE);
    assert!(lost.1["detail"].as_str().unwrap().contains("/readyz"));
}

#[tokio::test]
async fn polls_and_client_status_are_beside_services() {
    let sqlite = Sqlite::new();
    let router = router(&sqlite.url()).await;
    let (status, body) = send(&router, "POST", "/v3/discovery:client_status", "{}").await;
    assert_eq!((status, body), (StatusCode::OK, json!({})));
    let (status, body) = send(&router, "POST", "/v3/discovery:clusters", "{}").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{body}");
    let (status, body) = send(&router, "POST", "/v3/nothing", "{}").await;
    assert_eq!(status, StatusCode::NOT_FOUND, "{body}");
    let (status, _) = send(&router, "GET", "/v3/discovery:clusters", "").await;
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
    let long = format!("{{\"unknown\": \"{}\"}}", "x".repeat(5 << 20));
    let (status, body) = send(&router, "POST", "/v3/discovery:clusters", &long).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE, "{body}");
}
