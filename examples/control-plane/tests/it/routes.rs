//! Routes of their own, as they are taken and laid out.

use axum::http::StatusCode;
use deltaplane_server::TypeUrl;
use serde_json::{Value, json};

use crate::database::{Sqlite, execute, until};
use crate::publisher::Server;
use crate::rest::send;

async fn put(server: &Server, name: &str, body: &Value) -> (StatusCode, Value) {
    let path = format!("/api/v1/routes/{name}");
    let answer = send(&server.router(), "PUT", &path, &body.to_string()).await;
    server.is_current().await;
    answer
}

async fn service(server: &Server, name: &str, protocol: &str, port: i64) {
    let body = json!({"name": name, "listener_port": port, "upstream_host": "127.0.0.1",
                      "upstream_port": 1, "protocol": protocol});
    let answer = send(&server.router(), "POST", "/api/v1/services/", &body.to_string()).await;
    assert_eq!(answer.0, StatusCode::CREATED, "{}", answer.1);
    server.is_current().await;
}

#[tokio::test]
async fn what_is_wrong_is_named() {
    let sqlite = Sqlite::new();
    let server = Server::start(&sqlite.url()).await;
    service(&server, "a", "http", 80).await;
    let good = json!({"listener_port": 80, "prefix": "/x", "targets": [{"service": "a"}]});
    let but = |fields: Value| {
        let mut body = good.clone();
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        body
    };
    for (fields, field) in [
        (json!({"listener_port": 0}), "listener_port"),
        (json!({"listener_port": 70000}), "listener_port"),
        (json!({"cluster_id": 0}), "cluster_id"),
        (json!({"domains": []}), "domains"),
        (json!({"path": "/y"}), "prefix"),
        (json!({"prefix": null}), "prefix"),
        (json!({"prefix": "x"}), "prefix"),
        (json!({"prefix": null, "path": "/a?b"}), "path"),
        (json!({"prefix": null, "regex": "("}), "regex"),
        (json!({"headers": [{"name": "a b"}]}), "headers[0].name"),
        (json!({"headers": [{"name": "a", "exact": "x", "prefix": "y"}]}), "headers[0]"),
        (json!({"headers": [{"name": "a", "regex": "("}]}), "headers[0].regex"),
        (json!({"headers": [{"name": "a", "exact": ""}]}), "headers[0].exact"),
        (json!({"targets": []}), "targets"),
        (json!({"targets": [{"service": "b"}]}), "targets[0].service"),
        (json!({"targets": [{"service": "a"}, {"service": "a"}]}), "targets[1].service"),
        (json!({"targets": [{"service": "a", "weight": -1}]}), "targets[0].weight"),
        (json!({"targets": [{"service": "a", "weight": 0}]}), "targets"),
        (json!({"redirect": {"https": true}}), "targets"),
        (json!({"targets": [], "redirect": {}}), "redirect"),
        (json!({"targets": [], "redirect": {"https": true, "status": 200}}), "redirect.status"),
        (json!({"targets": [], "redirect": {"host": "a b"}}), "redirect.host"),
        (json!({"targets": [], "redirect": {"path": "x"}}), "redirect.path"),
        (json!({"targets": [], "redirect": {"https": true}, "retries": 1}), "retries"),
        (json!({"rewrite": {}}), "rewrite"),
        (json!({"rewrite": {"regex": "/y"}}), "rewrite.regex"),
        (json!({"prefix": null, "regex": "/.*", "rewrite": {"prefix": "/"}}), "rewrite.prefix"),
        (json!({"timeout_ms": -1}), "timeout_ms"),
        (json!({"colour": "red"}), "colour"),
    ] {
        let (status, problem) = put(&server, "r", &but(fields.clone())).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{fields}: {problem}");
        assert_eq!(problem["errors"][0]["field"], field, "{fields}: {problem}");
    }
    assert_eq!(put(&server, "r", &good).await.0, StatusCode::CREATED);
    let (status, problem) = put(&server, "s", &good).await;
    assert_eq!((status, &problem["errors"][0]["field"]), (StatusCode::CONFLICT, &json!("domains")));
}

#[tokio::test]
async fn a_route_lives_as_long_as_its_targets() {
    let sqlite = Sqlite::new();
    let server = Server::start(&sqlite.url()).await;
    let has = |kind: TypeUrl, name: &str| server.has(1, &kind, name);
    for name in ["a", "b"] {
        service(&server, name, "http", if name == "a" { 80 } else { 81 }).await;
    }
    // On a port where no service is.
    let both = json!({"listener_port": 90, "prefix": "/",
                      "targets": [{"service": "a", "weight": 9}, {"service": "b"}]});
    put(&server, "both", &both).await;
    assert!(has(TypeUrl::LISTENER, "listener-90") && has(TypeUrl::ROUTE, "routes-90"));
    let version = || server.version(1, &TypeUrl::ROUTE, "routes-90");
    let whole = version();
    execute(&sqlite.url(), "DELETE FROM services WHERE name = 'b'").await;
    until("one target less", async || (version() != whole).then_some(())).await;
    execute(&sqlite.url(), "UPDATE services SET is_active = false").await;
    until("no target", async || (!has(TypeUrl::LISTENER, "listener-90")).then_some(())).await;
    execute(&sqlite.url(), "UPDATE services SET is_active = true").await;
    until("it is back", async || has(TypeUrl::LISTENER, "listener-90").then_some(())).await;
    let path = "/api/v1/routes/both";
    assert_eq!(send(&server.router(), "DELETE", path, "").await.0, StatusCode::NO_CONTENT);
    server.is_current().await;
    assert!(!has(TypeUrl::LISTENER, "listener-90") && !has(TypeUrl::ROUTE, "routes-90"));

    // So it is for who starts anew, with a redirect that needs nobody.
    let away = json!({"cluster_id": 7, "listener_port": 80, "prefix": "/",
                      "redirect": {"https": true}});
    put(&server, "away", &away).await;
    let other = Server::start(&sqlite.url()).await;
    for server in [&server, &other] {
        assert!(server.has(7, &TypeUrl::LISTENER, "listener-80"));
    }
    assert_eq!(
        other.version(7, &TypeUrl::ROUTE, "routes-80"),
        server.version(7, &TypeUrl::ROUTE, "routes-80")
    );
}

#[tokio::test]
async fn reading_again_says_what_was_not_as_it_should_be() {
    let sqlite = Sqlite::new();
    let server = Server::start(&sqlite.url()).await;
    service(&server, "a", "http", 80).await;
    service(&server, "b", "http", 81).await;
    let reload = async |path: &str| {
        let path = format!("/api/v1/services/{path}reload-xds");
        let (status, answer) = send(&server.router(), "POST", &path, "").await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        assert_eq!(answer["revision"], server.health.status().revision);
        answer["changes"].clone()
    };
    for path in ["", "1/", "2/"] {
        assert_eq!(reload(path).await, json!([]), "all is as it should be");
    }
    let spoil = || {
        let mut transaction = deltaplane_server::Transaction::new();
        transaction.remove("cluster-1", TypeUrl::CLUSTER, "a");
        transaction.remove("cluster-1", TypeUrl::ROUTE, "routes-81");
        let _ = server.cache.commit(transaction).unwrap();
    };
    let added = |type_url: TypeUrl, name: &str| {
        json!({"scope": "cluster-1", "type_url": type_url.as_str(), "name": name,
               "change": "added"})
    };
    spoil();
    assert_eq!(reload("1/").await, json!([added(TypeUrl::CLUSTER, "a")]));
    assert_eq!(reload("2/").await, json!([added(TypeUrl::ROUTE, "routes-81")]));
    spoil();
    assert_eq!(reload("").await.as_array().unwrap().len(), 2);
    let (status, _) = send(&server.router(), "POST", "/api/v1/services/9/reload-xds", "").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}
