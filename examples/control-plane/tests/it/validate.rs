//! What the library finds wrong is refused before it is stored.

use axum::http::StatusCode;
use deltaplane::service::host::Host;
use deltaplane::service::upstream::HealthCheck;
use deltaplane::service::{Protocol, Service};
use deltaplane::translate::validate;
use serde_json::{Value, json};

use crate::database::{Sqlite, execute};
use crate::publisher::Server;
use crate::rest::send;
use crate::{definition, row};

const TRANSACTIONS: &str = "/api/v1/xds/transactions";
const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";

/// The fields that are found fault with in a service that its own checks let pass.
fn faults(change: fn(&mut Service)) -> Vec<String> {
    let mut written = definition("shop", 80, 8080);
    written.health_check_path = Some("/up".to_owned());
    let mut service = Service::parse(&row(1, written)).unwrap();
    assert!(validate::service(&service).is_empty());
    change(&mut service);
    validate::service(&service).into_iter().map(|error| error.field.into_owned()).collect()
}

fn check(service: &mut Service) -> &mut HealthCheck {
    service.upstream.health_check.as_mut().unwrap()
}

#[test]
fn a_problem_of_a_resource_is_one_of_the_field_that_it_comes_from() {
    assert_eq!(faults(|s| s.upstream.connect_timeout_ms = 0), ["connect_timeout_ms"]);
    assert_eq!(faults(|s| check(s).path.clear()), ["health_check_path"]);
    assert_eq!(faults(|s| check(s).path = "/\n".into())[0], "health_check_path");
    assert!(faults(|s| check(s).interval_ms = 0).iter().all(|f| f == "health_check_interval_ms"));
    assert_eq!(
        faults(|s| {
            let Protocol::Http(routing) = &mut s.protocol else { panic!() };
            routing.domains = vec!["a\nb".into()];
        }),
        ["domains"]
    );
    assert_eq!(
        faults(|s| {
            s.upstream.endpoints[0].host = Host::Name(String::new());
            s.upstream.health_check = None;
        }),
        ["upstreams"]
    );
}

fn upsert(resource: Value) -> Value {
    json!({"scope": "edge", "upserts": [{"resource": resource}]})
}

fn eds_cluster(name: &str) -> Value {
    json!({"@type": CLUSTER, "name": name, "type": "EDS",
           "eds_cluster_config": {"eds_config": {"ads": {}, "resource_api_version": "V3"}}})
}

/// A listener whose HTTP lies two `Any` deep.
fn listener(prefix: &str, cluster: &str) -> Value {
    json!({
        "@type": LISTENER, "name": "front",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 10000}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.\
                      http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": prefix,
            "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
                {"match": {"prefix": "/"}, "route": {"cluster": cluster}}]}]},
        }}]}],
    })
}

#[tokio::test]
async fn raw_resources_that_clients_would_reject_are_refused_by_their_path() {
    let sqlite = Sqlite::new();
    let server = Server::start(&sqlite.url()).await;
    let router = server.router();
    let config = "upserts[0].resource.filter_chains[0].filters[0].typed_config";
    let cases = [
        (upsert(listener("", "x")), format!("{config}.stat_prefix")),
        (
            upsert(json!({"@type": CLUSTER, "name": "x", "connect_timeout": "0s"})),
            "upserts[0].resource.connect_timeout".to_owned(),
        ),
        (
            json!({"scope": "edge", "upserts": [
                {"type_url": CLUSTER, "name": "x", "value": "////"}]}),
            "upserts[0].value".to_owned(),
        ),
        (
            json!({"scope": "edge", "upserts": [
                {"type_url": CLUSTER, "name": "x", "value": "CgF5"}]}),
            "upserts[0].value".to_owned(),
        ),
    ];
    for (body, path) in cases {
        let (status, problem) = send(&router, "POST", TRANSACTIONS, &body.to_string()).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{body}: {problem}");
        assert_eq!(problem["errors"][0]["field"], path, "{problem}");
    }
    let scopes = send(&router, "GET", "/api/v1/xds/scopes", "").await.1;
    assert_eq!(scopes, json!([]), "nothing was stored");
}

#[tokio::test]
async fn what_is_not_there_is_told_or_refused_as_the_fleet_wants_it() {
    let sqlite = Sqlite::new();
    let server = Server::start(&sqlite.url()).await;
    let router = server.router();
    let post = async |body: &Value| send(&router, "POST", TRANSACTIONS, &body.to_string()).await;

    // That a scope has clusters at all must be known, for one to be missed.
    let (status, answer) = post(&upsert(json!({"@type": CLUSTER, "name": "there"}))).await;
    assert_eq!((status, &answer["warnings"]), (StatusCode::OK, &Value::Null));
    server.is_current().await;
    let (status, answer) = post(&upsert(listener("front", "absent"))).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(answer["warnings"][0]["field"], "upserts[0]", "{answer}");
    assert!(answer["warnings"][0]["message"].as_str().unwrap().contains("\"absent\""));

    let strict = json!({"validation": "all"}).to_string();
    let (status, _) = send(&router, "PUT", "/api/v1/fleets/edge", &strict).await;
    assert_eq!(status, StatusCode::CREATED);
    server.is_current().await;
    let (status, problem) = post(&upsert(listener("other", "absent"))).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{problem}");
    assert_eq!(problem["errors"][0]["field"], "upserts[0]");
    // What was stored a moment ago counts, though nobody waited for it.
    assert_eq!(post(&upsert(json!({"@type": CLUSTER, "name": "absent"}))).await.0.as_u16(), 200);
    assert_eq!(post(&upsert(listener("other", "absent"))).await.0, StatusCode::OK);
    server.is_current().await;
    let remove = json!({"scope": "edge", "removes": [{"type_url": CLUSTER, "name": "absent"}]});
    let (status, problem) = post(&remove).await;
    assert_eq!((status.as_u16(), &problem["errors"][0]["field"]), (422, &json!("removes[0]")));

    let blind = json!({"validation": "none"}).to_string();
    send(&router, "PUT", "/api/v1/fleets/edge", &blind).await;
    server.is_current().await;
    assert_eq!(post(&upsert(listener("", "nobody"))).await.0, StatusCode::OK);
    assert_eq!(post(&upsert(eds_cluster("no-endpoints"))).await.1["warnings"], Value::Null);
}

/// Whoever writes past the HTTP API is not asked.
#[tokio::test]
async fn the_database_is_not_judged() {
    let sqlite = Sqlite::new();
    let server = Server::start(&sqlite.url()).await;
    let sql = format!("INSERT INTO raw_resources VALUES ('edge', '{CLUSTER}', 'x', NULL, x'ff')");
    execute(&sqlite.url(), &sql).await;
    server.is_current().await;
}
