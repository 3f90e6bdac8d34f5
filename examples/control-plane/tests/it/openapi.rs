//! The document of the HTTP API, and the page that shows it.

use axum::Router;
use axum::body::to_bytes;
use axum::http::{Request, StatusCode, header};
use serde_json::Value;
use tower::ServiceExt;

use crate::database::Sqlite;
use crate::rest::{router, send};

/// What is at a path: its type, and its text.
async fn text(router: &Router, path: &str) -> (String, String) {
    let request = Request::get(path).body(String::new()).unwrap();
    let response = router.clone().oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK, "{path}");
    let kind = response.headers()[header::CONTENT_TYPE].to_str().unwrap().to_owned();
    let bytes = to_bytes(response.into_body(), usize::MAX).await.unwrap();
    (kind, String::from_utf8(bytes.to_vec()).unwrap())
}

#[tokio::test]
async fn all_that_is_described_is_there() {
    let sqlite = Sqlite::new();
    let router = router(&sqlite.url()).await;
    let (status, document) = send(&router, "GET", "/openapi.json", "").await;
    assert_eq!((status, &document["openapi"]), (StatusCode::OK, &"3.1.0".into()));
    let paths = document["paths"].as_object().unwrap();
    assert!(paths.contains_key("/api/v1/services/{id}"), "{paths:?}");
    for (path, methods) in paths {
        for (method, operation) in methods.as_object().unwrap() {
            assert!(operation["summary"].is_string(), "{method} {path} says what it does");
            let asked = path
                .replace("{id}", "7")
                .replace("{revision}", "7")
                .replace("{scope}", "none")
                .replace("{node}", "none")
                .replace("{name}", "none");
            for asked in [asked.trim_end_matches('/'), &format!("{}/", asked.trim_end_matches('/'))]
            {
                if matches!(path.as_str(), "/healthz" | "/readyz") && asked.ends_with('/') {
                    continue;
                }
                let (status, answer) =
                    send(&router, &method.to_uppercase(), asked, "nonsense").await;
                assert_ne!(status, StatusCode::METHOD_NOT_ALLOWED, "{method} {asked}");
                let said = answer["detail"].as_str().unwrap_or_default();
                assert!(!said.starts_with("nothing is at"), "{method} {asked}: {said}");
            }
        }
    }
}

#[tokio::test]
async fn whatever_is_referred_to_is_described() {
    let sqlite = Sqlite::new();
    let (_, document) = text(&router(&sqlite.url()).await, "/openapi.json").await;
    let whole: Value = serde_json::from_str(&document).unwrap();
    let mut references = 0;
    for rest in document.split("\"$ref\":\"#").skip(1) {
        let pointer = rest.split('"').next().unwrap();
        assert!(whole.pointer(pointer).is_some(), "{pointer}");
        references += 1;
    }
    assert!(references > 10, "{references}");
}

#[tokio::test]
async fn the_page_needs_nobody_else() {
    let sqlite = Sqlite::new();
    let router = router(&sqlite.url()).await;
    for path in ["/docs", "/docs/"] {
        let (kind, page) = text(&router, path).await;
        assert!(kind.starts_with("text/html") && !page.contains("://"), "{kind}\n{page}");
        let quoted: Vec<&str> = page.split('"').filter(|part| part.starts_with('/')).collect();
        assert_eq!(quoted.len(), 3, "a style, a script and the document: {quoted:?}");
        for asset in quoted {
            assert!(text(&router, asset).await.1.len() > 1000, "{asset}");
        }
    }
}
