//! What the HTTP API of raw resources refuses, and what it does not show.

use axum::Router;
use axum::http::{Request, StatusCode};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use deltaplane_server::envoy_types::pb::google::protobuf::Any;
use prost::Message as _;
use serde_json::{Value, json};

use crate::database::Sqlite;
use crate::publisher::Server;
use crate::rest::{answer, router, send};

const TRANSACTIONS: &str = "/api/v1/xds/transactions";
const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
const TLS: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3";

async fn post(router: &Router, body: &Value) -> (StatusCode, Value) {
    send(router, "POST", TRANSACTIONS, &body.to_string()).await
}

async fn contents(router: &Router, scope: &str) -> Value {
    let path = format!("/api/v1/xds/scopes/{scope}/resources?content=true");
    send(router, "GET", &path, "").await.1
}

/// A document with this upsert as its fourth.
fn fourth(upsert: Value) -> Value {
    let plain = |name: &str| json!({"type_url": "a/b", "name": name, "value": ""});
    json!({"scope": "s", "upserts": [plain("a"), plain("b"), plain("c"), upsert]})
}

#[tokio::test]
async fn what_is_wrong_is_named_by_its_path() {
    let sqlite = Sqlite::new();
    let router = router(&sqlite.url()).await;
    let manager = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.\
                   HttpConnectionManager";
    let deep = |manager: Value| {
        let filters = json!([{"name": "http", "typed_config": manager}]);
        json!({"resource": {"@type": LISTENER, "name": "l", "filter_chains": [{"filters": filters}]}})
    };
    let config = "upserts[3].resource.filter_chains[0].filters[0].typed_config";
    let named = |name: Value| json!({"type_url": "a/b", "value": "", "name": name});
    let versioned =
        |version: Value| json!({"type_url": "a/b", "value": "", "name": "x", "version": version});
    let cases = [
        (
            json!({"resource": {"@type": CLUSTER, "name": "x", "nmae": 1}}),
            "upserts[3].resource",
            "unknown field \"nmae\"",
        ),
        (deep(json!({"@type": manager, "stat_prefx": "x"})), config, "\"stat_prefx\""),
        (
            deep(json!({"@type": manager, "route_config": {"virtual_hosts": [{"routs": []}]}})),
            "upserts[3].resource.filter_chains[0].filters[0].typed_config.route_config.\
             virtual_hosts[0]",
            "\"routs\"",
        ),
        (deep(json!({"@type": "x/y.Z"})), config, "y.Z"),
        (deep(json!({"stat_prefix": "x"})), config, "@type"),
        (
            json!({"resource": {"@type": CLUSTER, "name": "x", "connect_timeout": "soon"}}),
            "upserts[3].resource.connect_timeout",
            "",
        ),
        (json!({"resource": {"@type": CLUSTER, "name": 7}}), "upserts[3].resource.name", "7"),
        (json!({"resource": {"@type": CLUSTER}}), "upserts[3].resource.name", "missing"),
        (json!({"resource": {"name": "x"}}), "upserts[3].resource.@type", "missing"),
        (json!({"resource": {"@type": "a/b"}}), "upserts[3].resource.@type", "\"value\""),
        (
            json!({"resource": {"@type": "elsewhere/envoy.config.cluster.v3.Cluster"}}),
            "upserts[3].resource.@type",
            "type.googleapis.com",
        ),
        (json!({"resource": "x"}), "upserts[3].resource", "object"),
        (
            json!({"resource": {"@type": CLUSTER, "name": "x"}, "name": "y"}),
            "upserts[3].name",
            "\"y\"",
        ),
        (
            json!({"resource": {"@type": "type.googleapis.com/google.protobuf.Empty", "value": {}}}),
            "upserts[3].name",
            "missing",
        ),
        (json!({"resource": {"@type": CLUSTER, "name": "x"}, "value": ""}), "upserts[3].value", ""),
        (json!({"type_url": "a/b", "name": "x"}), "upserts[3]", "resource"),
        (json!({"name": "x", "value": ""}), "upserts[3].type_url", "missing"),
        (json!({"type_url": "a/b", "name": "x", "value": "?"}), "upserts[3].value", "base64"),
        (named(json!("")), "upserts[3].name", "empty"),
        (named(json!("*")), "upserts[3].name", "\"*\""),
        (named(json!("x".repeat(4097))), "upserts[3].name", "4096"),
        (named(json!("x\u{0}")), "upserts[3].name", "NUL"),
        (named(json!("a")), "upserts[3]", "upserts[0]"),
        (named(json!(7)), "upserts[3].name", "string"),
        (versioned(json!("")), "upserts[3].version", "empty"),
        (versioned(json!("x".repeat(257))), "upserts[3].version", "256"),
        (json!({"type_url": "a/b", "nmae": "x"}), "upserts[3].nmae", "unknown field"),
        (json!(["a/b", "x", null, "", null]), "upserts[3]", "object"),
    ];
    for (upsert, field, word) in cases {
        let (status, problem) = post(&router, &fourth(upsert.clone())).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{upsert}");
        assert_eq!(problem["errors"].as_array().unwrap().len(), 1, "{problem}");
        assert_eq!(problem["errors"][0]["field"], field, "{problem}");
        let message = problem["errors"][0]["message"].as_str().unwrap();
        assert!(message.contains(word), "{problem}");
    }
    let none = send(&router, "GET", "/api/v1/xds/scopes/", "").await;
    assert_eq!(none, (StatusCode::OK, json!([])), "nothing was stored");
}

/// A document in YAML is as good as one in JSON, and what is wrong with it is told alike.
#[tokio::test]
async fn yaml_says_the_same_as_json() {
    let sqlite = Sqlite::new();
    let router = router(&sqlite.url()).await;
    let post = async |yaml: &str| {
        let request = Request::post(TRANSACTIONS).header("content-type", "application/yaml");
        answer(&router, request.body(yaml.to_owned().into()).unwrap()).await
    };
    let cluster = |more: &str| {
        format!(
            "scope: s\nupserts:\n- resource:\n    \"@type\": {CLUSTER}\n    name: x\n    {more}\n"
        )
    };
    let (status, done) = post(&cluster("connect_timeout: 1s # soon")).await;
    assert_eq!((status, &done["revision"]), (StatusCode::OK, &json!(1)), "{done}");
    let shown = contents(&router, "s").await;
    assert_eq!(shown[0]["resource"]["connect_timeout"], "1s");
    for (yaml, field) in [
        (cluster("connect_timeout: soon"), "upserts[0].resource.connect_timeout"),
        (cluster("connect_timeout: 0s"), "upserts[0].resource.connect_timeout"),
        (cluster("nmae: y"), "upserts[0].resource"),
        ("scope: 7".to_owned(), "scope"),
        ("scope: s\nupserts: {}".to_owned(), "upserts"),
        ("scope: s\nwait: {settled: 2}".to_owned(), "wait.settled"),
        ("scope: s\nwait: {timeout_ms: 1000000}".to_owned(), "wait.timeout_ms"),
        ("scope: s\nwait: soon".to_owned(), "wait"),
    ] {
        let (status, problem) = post(&yaml).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{yaml}: {problem}");
        assert_eq!(problem["errors"][0]["field"], field, "{yaml}: {problem}");
    }
    let mut bomb = "a0: &a0 [x, x]\n".to_owned();
    for i in 1..40 {
        let (below, this) = (i - 1, i);
        bomb += &format!("a{this}: &a{this} [*a{below}, *a{below}]\n");
    }
    for yaml in ["scope: [", "- scope: s", "", "scope: s\n---\nscope: t", "\u{0}", &bomb] {
        let (status, problem) = post(yaml).await;
        assert!(matches!(status.as_u16(), 400 | 422), "{yaml:?}: {problem}");
        assert!(problem["detail"].as_str().unwrap().contains("send one"), "{problem}");
    }
}

#[tokio::test]
async fn documents_that_are_none() {
    let sqlite = Sqlite::new();
    let router = router(&sqlite.url()).await;
    let key = json!({"type_url": "a/b", "name": "x"});
    let value = json!({"type_url": "a/b", "name": "x", "value": ""});
    let cases = [
        (json!({}), "scope"),
        (json!({"scope": ""}), "scope"),
        (json!({"scope": "x".repeat(257)}), "scope"),
        (json!({"scope": "s~canary-1"}), "scope"),
        (json!({"scope": "s", "label": ""}), "label"),
        (json!({"scope": "s", "colour": 1}), "colour"),
        (json!({"scope": "s", "upserts": {}}), "upserts"),
        (json!({"scope": "s", "removes": [7]}), "removes[0]"),
        (json!({"scope": "s", "removes": [key, key]}), "removes[1]"),
        (json!({"scope": "s", "upserts": [value], "removes": [key]}), "removes[0]"),
        (json!({"scope": "s", "removes": [{"type_url": "a/b"}]}), "removes[0].name"),
        (json!({"scope": "s", "removes": [value]}), "removes[0].value"),
    ];
    for (body, field) in cases {
        let (status, problem) = post(&router, &body).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{body}");
        assert_eq!(problem["errors"][0]["field"], field, "{problem}");
    }
    for body in ["", "{", "{\"scope\": \"s\", \"upserts\": [{\"resource\": {x}}]}"] {
        let (status, problem) = send(&router, "POST", TRANSACTIONS, body).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{problem}");
    }
    let large = format!("{{\"scope\": \"{}\"}}", "x".repeat(64 << 20));
    let (status, problem) = send(&router, "POST", TRANSACTIONS, &large).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(problem["detail"].as_str().unwrap().contains("64 MiB"), "{problem}");
    for query in ["?colour=red", "?content=7"] {
        let path = format!("/api/v1/xds/scopes/s/resources{query}");
        assert_eq!(send(&router, "GET", &path, "").await.0, StatusCode::BAD_REQUEST);
    }
}

#[tokio::test]
async fn secrets_are_not_shown() {
    let sqlite = Sqlite::new();
    // What is no message of its type gets here only where nobody looks.
    let server = Server::start(&sqlite.url()).await;
    server.put_fleet("s", json!({"validation": "none"})).await;
    let router = server.router();
    let certificate = json!({
        "certificate_chain": {"inline_string": "public"},
        "private_key": {"inline_string": "do not tell"},
    });
    let secret = json!({
        "@type": format!("{TLS}.Secret"), "name": "key", "tls_certificate": certificate,
    });
    let context = json!({
        "@type": format!("{TLS}.UpstreamTlsContext"),
        "common_tls_context": {"tls_certificates": [certificate]},
    });
    let cluster = json!({
        "@type": CLUSTER, "name": "shop",
        "transport_socket": {"name": "tls", "typed_config": context},
    });
    let strange = json!({"type_url": format!("{TLS}.Secret"), "name": "b", "value": "/w=="});
    let elsewhere = "x/envoy.extensions.transport_sockets.tls.v3.Secret";
    let elsewhere = json!({"type_url": elsewhere, "name": "c", "value": "/w=="});
    let upserts = json!([{"resource": secret}, {"resource": cluster}, strange, elsewhere]);
    let (status, answer) = post(&router, &json!({"scope": "s", "upserts": upserts})).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let shown = contents(&router, "s").await;
    let text = shown.to_string();
    assert!(!text.contains("do not tell") && !text.contains("/w=="), "{text}");
    assert!(!text.contains(&STANDARD.encode("do not tell")), "{text}");
    assert_eq!(shown.as_array().unwrap().len(), 4);
    assert!(text.contains("public"), "{text}");
    let filter = format!("/api/v1/xds/scopes/s/resources/?type_url={CLUSTER}");
    let (_, filtered) = send(&router, "GET", &filter, "").await;
    assert_eq!(filtered[0]["name"], "shop");
    assert_eq!(filtered.as_array().unwrap().len(), 1);
    assert!(filtered[0].get("resource").is_none());
}

#[tokio::test]
async fn what_cannot_be_shown_harms_nobody() {
    let sqlite = Sqlite::new();
    // What is no message of its type gets here only where nobody looks.
    let server = Server::start(&sqlite.url()).await;
    server.put_fleet("s", json!({"validation": "none"})).await;
    let router = server.router();
    let url = "type.googleapis.com/google.protobuf.Any";
    let mut nested = Any { type_url: "a/b".to_owned(), ..Any::default() };
    for _ in 0..20_000 {
        nested = Any { type_url: url.to_owned(), value: nested.encode_to_vec() };
    }
    let upserts = json!([
        {"type_url": url, "name": "deep", "value": STANDARD.encode(nested.encode_to_vec())},
        {"type_url": CLUSTER, "name": "malformed", "value": "/w=="},
    ]);
    let (status, answer) = post(&router, &json!({"scope": "s", "upserts": upserts})).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let shown = contents(&router, "s").await;
    for item in shown.as_array().unwrap() {
        assert!(item["hidden"].is_string(), "{item}");
    }
}
