use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request, StatusCode, header};
use deltaplane::access::Access;
use deltaplane::canary::rollouts::Rollouts;
use deltaplane::certificates::vault::Vault;
use deltaplane::database::reload::{self, Reloads};
use deltaplane::fleets::Directory;
use deltaplane::rest;
use deltaplane::serve::running::Running;
use deltaplane::status::health::Health;
use deltaplane::status::metrics::Metrics;
use deltaplane::status::traffic::Traffic;
use deltaplane_server::{Cache, XdsServer};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::database::{Postgres, Sqlite, open};

const SERVICES: &str = "/api/v1/services/";

pub(crate) async fn router(url: &str) -> Router {
    router_of(running(url).await)
}

pub(crate) fn router_of(running: Running) -> Router {
    rest::router(running, Metrics::new().unwrap())
}

/// A server that follows nothing and listens nowhere.
pub(crate) async fn running(url: &str) -> Running {
    running_with(url).await.0
}

/// The same, with what it is asked to read again.
pub(crate) async fn running_with(url: &str) -> (Running, Reloads) {
    let (cache, store) = (Cache::new(), open(url).await);
    let server = XdsServer::builder(cache.clone()).build();
    let (reloader, reloads) = reload::channel();
    let running = Running {
        store,
        cache,
        health: Health::default(),
        server,
        traffic: Traffic::default(),
        fleets: Directory::default(),
        rollouts: Rollouts::default(),
        vault: Vault::default(),
        reloader,
        access: Access::default(),
    };
    (running, reloads)
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

pub(crate) async fn answer(router: &Router, request: Request<Body>) -> (StatusCode, Value) {
    let (status, _, body) = whole(router, request).await;
    (status, body)
}

/// An answer with its headers.
async fn whole(router: &Router, request: Request<Body>) -> (StatusCode, HeaderMap, Value) {
    let response = router.clone().oneshot(request).await.unwrap();
    let status = response.status();
    let headers = response.headers().clone();
    let bytes = to_bytes(response.into_body(), usize::MAX).await.unwrap();
    let body: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    if status.is_client_error() || status.is_server_error() {
        assert_eq!(headers[header::CONTENT_TYPE], "application/problem+json");
        assert_eq!(body["status"], status.as_u16());
        assert_eq!(body["type"], "about:blank");
        assert!(body["title"].is_string() && body["detail"].is_string(), "{body}");
    }
    (status, headers, body)
}

fn shop() -> Value {
    json!({"name": "shop", "listener_port": 80, "upstream_host": "127.0.0.1", "upstream_port": 8080})
}

#[tokio::test]
async fn a_service_lives() {
    let sqlite = Sqlite::new();
    let router = router(&sqlite.url()).await;
    let stored = json!({
        "id": 1, "revision": 1, "name": "shop", "cluster_id": 1, "listener_port": 80,
        "upstream_host": "127.0.0.1", "upstream_port": 8080, "protocol": "http",
        "health_check_path": null, "domains": ["*"], "prefix": "/", "upstreams": [],
        "timeout_ms": null, "connect_timeout_ms": 1000, "retries": 0, "http2": false,
        "websocket": false, "upstream_tls": null, "tls_verify": true, "tls_sni": null,
        "tls_ca": null, "health_check_interval_ms": 5000, "is_active": true, "collection": null,
        "certificate": null,
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
    changed["revision"] = 2.into();
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
    let first = json!({"host": "127.0.0.1", "port": 8080});
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
        ("timeout_ms", json!(-1)),
        ("retries", json!("many")),
        ("websocket", json!(1)),
        ("collection", json!("")),
        ("upstreams", json!("a")),
        ("upstreams[0]", json!([{"port": 80}])),
        ("upstreams[0]", json!([["127.0.0.1", 8080, 1]])),
        ("upstreams[0].port", json!([{"host": "127.0.0.1", "port": "80"}])),
        ("upstreams[0].size", json!([{"host": "127.0.0.1", "port": 8080, "size": 1}])),
        ("upstreams[1].weight", json!([first, {"host": "b", "port": 80, "weight": 0}])),
        ("upstream_port", json!([{"host": "127.0.0.1", "port": 81}])),
    ];
    for (field, value) in cases {
        let mut body = shop();
        let wrong = if value.is_array() && field != "domains" { "upstreams" } else { field };
        body[wrong] = value;
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
    assert_eq!(send(&router, "PATCH", "/api/v1/services/1", "[]").await.0.as_u16(), 422);
    for path in ["/", "/api", "/api/v1/services/x", "/api/v1/services/99999999999999999999"] {
        assert_eq!(send(&router, "GET", path, "").await.0, StatusCode::NOT_FOUND, "{path}");
    }
}

async fn conditional(
    router: &Router,
    method: &str,
    tag: &str,
    body: &Value,
) -> (StatusCode, HeaderMap, Value) {
    let request = Request::builder().method(method).uri("/api/v1/services/1");
    let request = request.header(header::CONTENT_TYPE, "application/json");
    let request = request.header(header::IF_MATCH, tag);
    whole(router, request.body(body.to_string().into()).unwrap()).await
}

#[tokio::test]
async fn a_lost_race_is_told_and_writes_nothing() {
    let sqlite = Sqlite::new();
    let router = router(&sqlite.url()).await;
    let request = Request::post(SERVICES).header(header::CONTENT_TYPE, "application/json");
    let created = whole(&router, request.body(shop().to_string().into()).unwrap()).await;
    let old = created.1[header::ETAG].to_str().unwrap().to_owned();
    let mut changed = shop();
    changed["upstream_port"] = 1.into();
    let (status, headers, _) = conditional(&router, "PUT", &old, &changed).await;
    assert_eq!(status, StatusCode::OK);
    let new = headers[header::ETAG].to_str().unwrap().to_owned();
    let get = Request::get("/api/v1/services/1").body(Body::empty()).unwrap();
    assert_eq!(whole(&router, get).await.1[header::ETAG], new);

    let weak = format!("W/{new}");
    for (method, body) in
        [("PUT", shop()), ("PATCH", json!({"prefix": "/x"})), ("DELETE", json!({}))]
    {
        for tag in [&*old, "\"of another server\"", &weak] {
            let (status, _, problem) = conditional(&router, method, tag, &body).await;
            assert_eq!(status, StatusCode::PRECONDITION_FAILED, "{method} {tag}");
            assert!(problem["detail"].as_str().unwrap().contains("GET it"), "{problem}");
        }
        let (status, ..) = conditional(&router, method, "no tag", &body).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
    }
    let stored = send(&router, "GET", "/api/v1/services/1", "").await.1;
    assert_eq!((&stored["upstream_port"], &stored["prefix"]), (&json!(1), &json!("/")));
    let either = format!("{old}, {new}");
    let patched = conditional(&router, "PATCH", &either, &json!({"prefix": "/x"})).await;
    assert_eq!((patched.0, &patched.2["prefix"]), (StatusCode::OK, &json!("/x")));
    assert_eq!(conditional(&router, "DELETE", "*", &json!({})).await.0, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn a_patch_changes_what_it_names() {
    let sqlite = Sqlite::new();
    let router = router(&sqlite.url()).await;
    let mut body = shop();
    body["timeout_ms"] = 5.into();
    body["collection"] = "web".into();
    let mut stored = send(&router, "POST", SERVICES, &body.to_string()).await.1;
    let patch =
        async |patch: Value| send(&router, "PATCH", "/api/v1/services/1", &patch.to_string()).await;
    let (status, patched) = patch(json!({"retries": 2, "timeout_ms": null})).await;
    (stored["retries"], stored["timeout_ms"]) = (2.into(), Value::Null);
    stored["revision"] = 2.into();
    assert_eq!((status, &patched), (StatusCode::OK, &stored));

    // To several upstreams and back, without a word of the one.
    let two = json!([{"host": "127.0.0.1", "port": 1}, {"host": "127.0.0.1", "port": 2}]);
    let (_, patched) = patch(json!({"upstreams": two})).await;
    assert_eq!(
        (&patched["upstream_port"], &patched["upstreams"][1]["weight"]),
        (&json!(1), &json!(1))
    );
    let (status, problem) = patch(json!({"upstream_port": 3})).await;
    assert_eq!((status.as_u16(), &problem["errors"][0]["field"]), (422, &json!("upstream_port")));
    let one = json!({"upstreams": null, "upstream_host": "127.0.0.1", "upstream_port": 4});
    let (_, patched) = patch(one).await;
    assert_eq!((&patched["upstream_port"], &patched["upstreams"]), (&json!(4), &json!([])));

    for (wrong, field) in [
        (json!({"name": null}), "name"),
        (json!({"retries": "many"}), "retries"),
        (json!({"colour": "red"}), "colour"),
        (json!({"id": 2}), "id"),
        (json!({"websocket": true, "http2": true}), "websocket"),
    ] {
        let (status, problem) = patch(wrong).await;
        assert_eq!((status.as_u16(), &problem["errors"][0]["field"]), (422, &json!(field)));
    }
    assert_eq!(send(&router, "GET", "/api/v1/services/1", "").await.1, patched);
    assert_eq!(send(&router, "PATCH", "/api/v1/services/2", "{}").await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn patches_at_the_same_time_all_come_to_pass() {
    let sqlite = Sqlite::new();
    let router = router(&sqlite.url()).await;
    send(&router, "POST", SERVICES, &shop().to_string()).await;
    let patches = [json!({"retries": 1}), json!({"timeout_ms": 2}), json!({"collection": "c"})];
    let patches = patches.map(|patch| {
        let router = router.clone();
        let send =
            async move { send(&router, "PATCH", "/api/v1/services/1", &patch.to_string()).await };
        tokio::spawn(send)
    });
    for patch in patches {
        assert_eq!(patch.await.unwrap().0, StatusCode::OK);
    }
    let all = send(&router, "GET", "/api/v1/services/1", "").await.1;
    let all = (&all["retries"], &all["timeout_ms"], &all["collection"]);
    assert_eq!(all, (&json!(1), &json!(2), &json!("c")));
}

/// What both databases do alike.
async fn lists(url: &str) {
    let router = router(url).await;
    for (name, port, fleet, collection) in
        [("a_1", 81, 1, "web"), ("B.2", 82, 1, "web"), ("ab1", 83, 2, "db"), ("c", 84, 2, "web")]
    {
        let fields = json!({
            "name": name, "listener_port": port, "cluster_id": fleet, "collection": collection,
            "upstream_host": "127.0.0.1", "upstream_port": 1, "is_active": name != "c",
        });
        assert_eq!(send(&router, "POST", SERVICES, &fields.to_string()).await.0.as_u16(), 201);
    }
    let list = async |query: &str| {
        let request = Request::get(format!("{SERVICES}{query}")).body(Body::empty()).unwrap();
        let (status, headers, body) = whole(&router, request).await;
        assert_eq!(status, StatusCode::OK, "{query}: {body}");
        let names = body.as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap());
        let header = |name: &str| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
        (names.collect::<Vec<_>>().join(" "), header("x-total-count").unwrap(), header("link"))
    };
    for (query, names) in [
        ("", "a_1 B.2 ab1 c"),
        ("?cluster_id=2", "ab1 c"),
        ("?collection=web&is_active=true", "a_1 B.2"),
        ("?is_active=false", "c"),
        ("?name=B", "B.2 ab1"),
        ("?name=a_", "a_1"),
        ("?name=%25", ""),
        ("?listener_port=83&protocol=http", "ab1"),
        ("?protocol=tcp", ""),
    ] {
        let total = names.split_whitespace().count().to_string();
        assert_eq!(list(query).await, (names.to_owned(), total, None), "{query}");
    }
    let (names, total, link) = list("?limit=2&collection=web").await;
    assert_eq!((&*names, &*total), ("a_1 B.2", "3"));
    let link = link.unwrap();
    let next = link.strip_prefix(&format!("<{SERVICES}")).unwrap();
    let next = next.strip_suffix(">; rel=\"next\"").unwrap();
    assert_eq!(list(next).await, ("c".to_owned(), "3".to_owned(), None));
    for query in ["?limit=0", "?limit=1001", "?limit=x", "?colour=red"] {
        let wrong = send(&router, "GET", &format!("{SERVICES}{query}"), "").await;
        assert_eq!(wrong.0, StatusCode::BAD_REQUEST, "{query}");
    }
}

#[tokio::test]
async fn lists_can_be_filtered_and_paged() {
    lists(&Sqlite::new().url()).await;
    lists(&Postgres::start().url()).await;
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
    assert!(lost.1["detail"].as_str().unwrap().contains("/healthz"));
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

#[tokio::test]
async fn many_at_once_are_stored_or_none() {
    for url in [Sqlite::new().url(), Postgres::start().url()] {
        let app = running(&url).await;
        let router = rest::router(app.clone(), Metrics::new().unwrap());
        send(&router, "POST", SERVICES, &shop().to_string()).await;
        let before = app.store.revision().await.unwrap();
        let import = |services: Value| json!({"services": services}).to_string();
        let path = "/api/v1/services/import";
        let service = |name: &str, prefix: &str| {
            json!({"name": name, "listener_port": 80, "prefix": prefix, "upstream_host": "h",
                   "upstream_port": 1})
        };

        // Each fault says where it is, and nothing is stored.
        let wrong = json!([service("a", "/a"), {"name": "b"}, service("a", "/c"), service("d", "d"),
                           {"name": "e", "retries": "many"}]);
        let (status, body) = send(&router, "POST", path, &import(wrong)).await;
        assert_eq!(
            (status, &body["errors"][0]["field"]),
            (StatusCode::UNPROCESSABLE_ENTITY, &json!("services[4].retries"))
        );
        let wrong =
            json!([service("a", "/a"), {"name": "b"}, service("a", "/c"), service("d", "d")]);
        let (status, body) = send(&router, "POST", path, &import(wrong)).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
        let fields: Vec<&str> = body["errors"]
            .as_array()
            .unwrap()
            .iter()
            .map(|e| e["field"].as_str().unwrap())
            .collect();
        let expected = [
            "services[1].listener_port",
            "services[1].upstream_host",
            "services[1].upstream_port",
            "services[2].name",
            "services[3].prefix",
        ];
        assert_eq!(fields, expected, "{body}");
        let mut shown = service("a", "/a");
        shown["certificate"] = "none".into();
        let (status, body) = send(&router, "POST", path, &import(json!([shown]))).await;
        assert_eq!(
            (status, &body["errors"][0]["field"]),
            (StatusCode::UNPROCESSABLE_ENTITY, &json!("services[0].certificate"))
        );
        // In the way of one that stays, of one that comes, and of a whole port.
        let mut tcp =
            json!({"name": "t", "protocol": "tcp", "upstream_host": "h", "upstream_port": 1});
        tcp["listener_port"] = 80.into();
        let wrong = json!([service("a", "/"), service("b", "/b"), service("c", "/b"), tcp]);
        let (status, body) = send(&router, "POST", path, &import(wrong)).await;
        assert_eq!(status, StatusCode::CONFLICT);
        let fields: Vec<&str> = body["errors"]
            .as_array()
            .unwrap()
            .iter()
            .map(|e| e["field"].as_str().unwrap())
            .collect();
        assert_eq!(
            fields,
            ["services[0].prefix", "services[2].prefix", "services[3].listener_port"]
        );
        assert_eq!(app.store.revision().await.unwrap(), before);

        // One revision for all, and for the same again none. What is not named stays.
        let many: Vec<Value> =
            (0..120).map(|i| service(&format!("s{i}"), &format!("/{i}"))).collect();
        let (status, body) = send(&router, "POST", path, &import(many.clone().into())).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        let done = json!({"revision": before + 1, "created": 120, "replaced": 0, "unchanged": 0});
        assert_eq!(body, done);
        let (_, rows) = send(&router, "GET", SERVICES, "").await;
        assert_eq!(rows.as_array().unwrap().len(), 121);
        let mut again = rows.clone();
        for row in again.as_array_mut().unwrap().iter_mut().take(60) {
            row["retries"] = 2.into();
            row["collection"] = "web".into();
            row["http2"] = true.into();
        }
        let (status, body) = send(&router, "POST", path, &import(again)).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        let done = json!({"revision": before + 2, "created": 0, "replaced": 60, "unchanged": 61});
        assert_eq!(body, done);
        let (_, rows) = send(&router, "GET", "/api/v1/services/?collection=web", "").await;
        let row = &rows[59];
        assert_eq!(
            (row["name"].as_str(), &row["http2"], &row["retries"]),
            (Some("s58"), &json!(true), &json!(2))
        );
        assert_eq!(row["revision"], before + 2);
        let (status, body) = send(&router, "POST", path, &import(many[70..].to_vec().into())).await;
        assert_eq!((status, &body["revision"]), (StatusCode::OK, &json!(before + 2)), "{body}");
    }
}
