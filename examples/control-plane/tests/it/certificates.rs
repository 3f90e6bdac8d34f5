//! Certificates: what is taken, what is shown, and what lies in the database.

use axum::http::StatusCode;
use deltaplane_server::TypeUrl;
use rcgen::{CertificateParams, CertifiedKey, KeyPair};
use serde_json::{Value, json};
use sqlx::Row as _;

use crate::database::{Sqlite, connect, execute, until};
use crate::publisher::Server;
use crate::rest::{router, send};

const CERTIFICATES: &str = "/api/v1/certificates";

pub(crate) fn pair(name: &str) -> (String, String) {
    let CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    (cert.pem(), signing_key.serialize_pem())
}

async fn put(server: &Server, name: &str, body: &Value) -> (StatusCode, Value) {
    let path = format!("{CERTIFICATES}/{name}");
    let answer = send(&server.router(), "PUT", &path, &body.to_string()).await;
    server.is_current().await;
    answer
}

async fn create(server: &Server, certificate: &str) -> (StatusCode, Value) {
    let body = json!({"name": "shop", "listener_port": 443, "upstream_host": "127.0.0.1",
                      "upstream_port": 1, "certificate": certificate});
    let answer = send(&server.router(), "POST", "/api/v1/services/", &body.to_string()).await;
    server.is_current().await;
    answer
}

#[tokio::test]
async fn a_key_is_delivered_and_neither_shown_nor_stored_as_it_is() {
    let sqlite = Sqlite::new();
    let server = Server::start(&sqlite.url()).await;
    let (certificate, key) = pair("shop.test");
    let secret = key.lines().nth(1).unwrap();
    let (status, problem) = create(&server, "shop").await;
    assert_eq!((status.as_u16(), &problem["errors"][0]["field"]), (422, &json!("certificate")));
    let body = json!({"certificate": certificate, "key": key});
    let (status, shown) = put(&server, "shop", &body).await;
    assert_eq!((status, &shown["has"]), (StatusCode::CREATED, &json!("certificate")));
    assert_eq!(shown["not_after"], "4096-01-01T00:00:00Z");
    assert_eq!(create(&server, "shop").await.0, StatusCode::CREATED);
    assert!(server.has(1, &TypeUrl::SECRET, "shop"));

    for path in [CERTIFICATES, "/api/v1/certificates/shop", "/api/v1/services/", "/healthz"] {
        let said = send(&server.router(), "GET", path, "").await.1.to_string();
        assert!(!said.contains("BEGIN") && !said.contains(secret), "{path}: {said}");
    }
    let mut connection = connect(&sqlite.url()).await;
    let row = sqlx::query("SELECT definition FROM objects").fetch_one(&mut connection).await;
    let stored: String = row.unwrap().get(0);
    assert!(!stored.contains(secret) && !stored.contains("PRIVATE"), "{stored}");
    assert_eq!(server.health.status().certificates["shop"], 67_090_118_400);

    // A new one reaches clients as a new version of the secret, and nothing else.
    let before = ["shop", "listener-443"].map(|name| {
        let kind = if name == "shop" { TypeUrl::SECRET } else { TypeUrl::LISTENER };
        server.version(1, &kind, name)
    });
    let (certificate, key) = pair("shop.test");
    put(&server, "shop", &json!({"certificate": certificate, "key": key})).await;
    assert_ne!(server.version(1, &TypeUrl::SECRET, "shop"), before[0]);
    assert_eq!(server.version(1, &TypeUrl::LISTENER, "listener-443"), before[1]);

    // What is needed stays; who needs it no more gives it up.
    let path = format!("{CERTIFICATES}/shop");
    let (status, problem) = send(&server.router(), "DELETE", &path, "").await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert!(problem["detail"].as_str().unwrap().contains("\"shop\""), "{problem}");
    execute(&sqlite.url(), "UPDATE services SET certificate = NULL").await;
    until("it is given up", async || (!server.has(1, &TypeUrl::SECRET, "shop")).then_some(()))
        .await;
    assert_eq!(send(&server.router(), "DELETE", &path, "").await.0, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn what_is_wrong_is_named() {
    let sqlite = Sqlite::new();
    let server = Server::start(&sqlite.url()).await;
    let ((certificate, key), (_, other)) = (pair("a.test"), pair("b.test"));
    for (body, field) in [
        (json!({}), "certificate"),
        (json!({"certificate": certificate}), "key"),
        (json!({"certificate": certificate, "key": other}), "key"),
        (json!({"certificate": certificate, "key": "none"}), "key"),
        (json!({"certificate": key, "key": key}), "certificate"),
        (json!({"certificate": "none", "key": key}), "certificate"),
        (json!({"authorities": "none"}), "authorities"),
        (json!({"authorities": certificate, "key": key}), "certificate"),
        (json!({"authorities": 7}), "authorities"),
        (json!({"sealed_key": "AAAA", "certificate": certificate}), "key"),
    ] {
        let (status, problem) = put(&server, "shop", &body).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{problem}");
        assert_eq!(problem["errors"][0]["field"], field, "{problem}");
        assert!(!problem.to_string().contains("BEGIN PRIVATE"), "{problem}");
    }
    let (status, shown) = put(&server, "ca", &json!({"authorities": certificate})).await;
    assert_eq!((status, &shown["has"]), (StatusCode::CREATED, &json!("authorities")));
}

#[tokio::test]
async fn without_a_key_nothing_secret_is_stored() {
    let sqlite = Sqlite::new();
    let router = router(&sqlite.url()).await;
    let (certificate, key) = pair("a.test");
    let body = json!({"certificate": certificate, "key": key}).to_string();
    let (status, problem) = send(&router, "PUT", &format!("{CERTIFICATES}/a"), &body).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(problem["detail"].as_str().unwrap().contains("--secret-key-file"), "{problem}");
    assert_eq!(send(&router, "GET", CERTIFICATES, "").await.1, json!([]));
}

/// A sealed key is of no use under another name, or with another certificate.
#[tokio::test]
async fn a_sealed_key_is_for_its_name() {
    let sqlite = Sqlite::new();
    let server = Server::start(&sqlite.url()).await;
    let (certificate, key) = pair("a.test");
    put(&server, "shop", &json!({"certificate": certificate, "key": key})).await;
    assert_eq!(create(&server, "shop").await.0, StatusCode::CREATED);
    execute(&sqlite.url(), "UPDATE objects SET name = 'other'").await;
    execute(&sqlite.url(), "UPDATE services SET certificate = 'other'").await;
    until("it is given up", async || (!server.has(1, &TypeUrl::SECRET, "shop")).then_some(()))
        .await;
    assert!(!server.has(1, &TypeUrl::SECRET, "other"));

    let params = CertificateParams::new(["b.test".to_owned()]).unwrap();
    let stranger = params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem();
    execute(&sqlite.url(), "UPDATE objects SET name = 'shop'").await;
    let path = format!("{CERTIFICATES}/shop");
    let patch = json!({"certificate": stranger}).to_string();
    let (status, problem) = send(&server.router(), "PATCH", &path, &patch).await;
    assert_eq!((status.as_u16(), &problem["errors"][0]["field"]), (422, &json!("key")));
}
