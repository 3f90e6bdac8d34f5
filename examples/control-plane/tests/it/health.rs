//! What the server says of itself before it is ready, and to whom.

use axum::http::StatusCode;
use serde_json::json;

use crate::database::Sqlite;
use crate::rest::{router, send};

#[tokio::test]
async fn one_that_has_read_nothing_is_alive_and_not_ready() {
    let sqlite = Sqlite::new();
    let router = router(&sqlite.url()).await;
    let (status, body) = send(&router, "GET", "/healthz", "").await;
    assert_eq!(
        (status, &body["status"], &body["revision"]),
        (StatusCode::OK, &json!("ok"), &json!(0))
    );
    let (status, body) = send(&router, "GET", "/readyz", "").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    let missing = body["errors"].as_array().unwrap().iter().map(|error| &error["field"]);
    assert_eq!(missing.collect::<Vec<_>>(), ["first_load", "xds"], "{body}");
    assert!(body["detail"].as_str().unwrap().contains("still being read"), "{body}");
}

#[tokio::test]
async fn what_is_in_the_way_of_writers_alone_is_in_nobody_elses() {
    let sqlite = Sqlite::new();
    let router = router(&sqlite.url()).await;
    let (status, body) = send(&router, "GET", "/readyz?for=envoys", "").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    let missing = body["errors"].as_array().unwrap().iter().map(|error| &error["field"]);
    assert_eq!(missing.collect::<Vec<_>>(), ["first_load", "xds"], "{body}");
    for query in ["for=writers", "for=", "For=envoys", "for=envoys&verbose=1", "envoys"] {
        let (status, body) = send(&router, "GET", &format!("/readyz?{query}"), "").await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{query}: {body}");
        assert!(body["detail"].as_str().unwrap().contains("?for=envoys"), "{query}: {body}");
    }
}

#[tokio::test]
async fn without_clients_there_is_nothing_to_tell_of_them() {
    let sqlite = Sqlite::new();
    let router = router(&sqlite.url()).await;
    let (status, stats) = send(&router, "GET", "/xds/stats", "").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(stats["last_update"], json!(null));
    assert_eq!(
        (&stats["acks"], &stats["clients"], &stats["types"]),
        (&json!(0), &json!([]), &json!({}))
    );
    for path in ["/xds/clients", "/xds/clients/", "/xds/clients?state=rejected&scope=x"] {
        assert_eq!(send(&router, "GET", path, "").await, (StatusCode::OK, json!([])), "{path}");
    }
    for query in ["state=happy", "colour=red"] {
        let (status, body) = send(&router, "GET", &format!("/xds/clients?{query}"), "").await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
    }
    let (status, body) = send(&router, "GET", "/xds/clients/a%2Fb", "").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert!(body["detail"].as_str().unwrap().contains("\"a/b\""), "{body}");
}
