//! Who may use the HTTP API, for which fleets, and what is written down of it.

use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode, header};
use deltaplane::access::Access;
use deltaplane::access::token::Rights;
use deltaplane::database::store::Store;
use deltaplane::rest;
use deltaplane::serve::running::Running;
use deltaplane::status::metrics::Metrics;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::binary::{Running as Process, deltaplane, serve};
use crate::database::{Postgres, Sqlite, execute, until};
use crate::publisher::Server;
use crate::rest::running;

const SERVICES: &str = "/api/v1/services/";
const TRANSACTIONS: &str = "/api/v1/xds/transactions";

/// A server that wants tokens, and is shown one.
struct Asked<'a>(&'a Router, &'a str);

impl Asked<'_> {
    async fn whole(&self, method: &str, path: &str, body: &Value) -> (StatusCode, String, Value) {
        let mut request = Request::builder().method(method).uri(path);
        if !self.1.is_empty() {
            request = request.header(header::AUTHORIZATION, self.1);
        }
        let request = request.header(header::CONTENT_TYPE, "application/json");
        let body = if body.is_null() { Body::empty() } else { body.to_string().into() };
        let response = self.0.clone().oneshot(request.body(body).unwrap()).await.unwrap();
        let challenge = response.headers().get(header::WWW_AUTHENTICATE);
        let challenge = challenge.map(|text| text.to_str().unwrap().to_owned());
        let status = response.status();
        let bytes = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        let answer = serde_json::from_slice(&bytes).unwrap_or_default();
        (status, challenge.unwrap_or_default(), answer)
    }

    async fn status(&self, method: &str, path: &str, body: &Value) -> u16 {
        self.whole(method, path, body).await.0.as_u16()
    }

    async fn get(&self, path: &str) -> u16 {
        self.status("GET", path, &Value::Null).await
    }
}

async fn by_token(url: &str) -> (Running, Router) {
    let running = Running { access: Access::by_token(), ..running(url).await };
    let router = rest::router(running.clone(), Metrics::new().unwrap());
    (running, router)
}

async fn token(store: &Store, name: &str, read: &[&str], write: &[&str]) -> String {
    let fleets = |fleets: &[&str]| fleets.iter().map(|fleet| (*fleet).to_owned()).collect();
    let rights = Rights { read: fleets(read), write: fleets(write) };
    format!("Bearer {}", store.create_token(name, &rights, None).await.unwrap())
}

fn service(name: &str, cluster_id: i64) -> Value {
    json!({"name": name, "cluster_id": cluster_id, "listener_port": 80,
           "upstream_host": "127.0.0.1", "upstream_port": 1})
}

fn transaction(scope: &str) -> Value {
    json!({"scope": scope, "upserts": [{"type_url": "a/b", "name": "x", "value": ""}]})
}

#[tokio::test]
async fn nobody_gets_in_without_a_token_but_for_health() {
    let sqlite = Sqlite::new();
    let (running, router) = by_token(&sqlite.url()).await;
    let document = Asked(&router, "").whole("GET", "/openapi.json", &Value::Null).await.2;
    let operations = document["paths"].as_object().unwrap().iter().flat_map(|(path, methods)| {
        methods.as_object().unwrap().keys().map(move |method| (path.clone(), method.to_uppercase()))
    });
    let operations: Vec<(String, String)> = operations.collect();
    assert!(operations.len() > 30, "{operations:?}");
    let others = ["/metrics", "/v3/discovery:clusters", "/no/such/path", "/"];
    let others = others.map(|path| (path.to_owned(), "GET".to_owned()));
    for (path, method) in operations.iter().chain(&others) {
        let open = ["/healthz", "/readyz"].contains(&path.as_str());
        for path in [path.clone(), format!("{path}/")] {
            let (status, challenge, body) =
                Asked(&router, "").whole(method, &path, &Value::Null).await;
            if open && !path.ends_with('/') {
                assert_ne!(status, StatusCode::UNAUTHORIZED, "{method} {path}");
                continue;
            }
            assert_eq!(status, StatusCode::UNAUTHORIZED, "{method} {path}: {body}");
            assert_eq!(challenge, "Bearer realm=\"deltaplane\"");
            assert_eq!(body["status"], 401, "{body}");
        }
    }
    assert_eq!(document["security"], json!([{"token": []}]));
    assert_eq!(document["components"]["securitySchemes"]["token"]["scheme"], "bearer");
    assert_eq!(document["paths"]["/healthz"]["get"]["security"], json!([{}]));
    assert_eq!(Asked(&router, "").get("/docs").await, 200);
    assert_eq!(running.store.audit(&Default::default()).await.unwrap(), []);
}

#[tokio::test]
async fn a_token_of_one_fleet_is_refused_wherever_it_is_not_about_that() {
    let sqlite = Sqlite::new();
    let (running, router) = by_token(&sqlite.url()).await;
    let nothing = token(&running.store, "prometheus", &[], &[]).await;
    let asked = Asked(&router, &nothing);
    assert_eq!(asked.get("/metrics").await, 200);
    let document = asked.whole("GET", "/openapi.json", &Value::Null).await.2;
    // What says who belongs to a fleet, or is for all of them.
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys().map(|method| method.to_uppercase()) {
            let body = match (path.as_str(), method.as_str()) {
                (path, "POST") if path.contains("services") => service("x", 1),
                (TRANSACTIONS, _) => transaction("x"),
                _ => json!({}),
            };
            let asked_path = path.replace("{id}", "7").replace("{scope}", "x");
            let asked_path = asked_path.replace("{name}", "x").replace("{revision}", "1");
            let (status, _, answer) = asked.whole(&method, &asked_path, &body).await;
            let is_empty = answer == json!([]) || path == "/xds/stats";
            let open = ["/healthz", "/readyz"].contains(&path.as_str());
            // Of a route that is none, nobody knows whose it would be.
            let is_refused = [403, 404, 422].contains(&status.as_u16());
            assert!(open || is_refused || is_empty, "{method} {path}: {status} {answer}");
        }
    }
    let (status, challenge, body) = asked.whole("POST", TRANSACTIONS, &transaction("edge")).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert!(challenge.contains("insufficient_scope"), "{challenge}");
    let detail = body["detail"].as_str().unwrap();
    assert!(detail.contains("\"prometheus\"") && detail.contains("--write edge"), "{detail}");
}

/// What both databases do alike.
async fn rights(url: &str) {
    let (running, router) = by_token(url).await;
    let admin = token(&running.store, "admin", &[], &["*"]).await;
    let edge = token(&running.store, "edge", &["base"], &["edge", "cluster-2"]).await;
    let (admin, edge) = (Asked(&router, &admin), Asked(&router, &edge));
    assert_eq!(admin.status("POST", TRANSACTIONS, &transaction("base")).await, 200);
    assert_eq!(admin.status("POST", TRANSACTIONS, &transaction("other")).await, 200);
    assert_eq!(edge.status("POST", TRANSACTIONS, &transaction("edge")).await, 200);
    for scope in ["base", "other", "raw/edge", ""] {
        assert_eq!(edge.status("POST", TRANSACTIONS, &transaction(scope)).await, 403, "{scope}");
    }
    let resources = |scope: &str| format!("/api/v1/xds/scopes/{scope}/resources");
    for (scope, status) in [("edge", 200), ("base", 200), ("other", 403)] {
        assert_eq!(edge.get(&resources(scope)).await, status, "{scope}");
    }
    let scopes = edge.whole("GET", "/api/v1/xds/scopes", &Value::Null).await.2;
    let named = scopes.as_array().unwrap().iter().map(|scope| &scope["scope"]);
    assert_eq!(named.collect::<Vec<_>>(), ["base", "edge"]);
    for (scope, status) in [("edge", 200), ("base", 403)] {
        let path = format!("/api/v1/xds/scopes/{scope}");
        assert_eq!(edge.status("DELETE", &path, &Value::Null).await, status, "{scope}");
    }

    // Services, by the fleet that they are in and the one that they would go to.
    assert_eq!(admin.status("POST", SERVICES, &service("one", 1)).await, 201);
    assert_eq!(edge.status("POST", SERVICES, &service("two", 2)).await, 201);
    assert_eq!(edge.status("POST", SERVICES, &service("three", 3)).await, 403);
    assert_eq!(edge.status("PUT", "/api/v1/services/1", &service("one", 2)).await, 403);
    for (method, body) in [("PATCH", json!({"cluster_id": 1})), ("PUT", service("two", 1))] {
        assert_eq!(edge.status(method, "/api/v1/services/2", &body).await, 403, "{method}");
    }
    assert_eq!(edge.status("PATCH", "/api/v1/services/2", &json!({"prefix": "/x"})).await, 200);
    assert_eq!(edge.status("PUT", "/api/v1/services/2", &service("two", 2)).await, 200);
    assert_eq!(edge.status("DELETE", "/api/v1/services/1", &Value::Null).await, 403);
    assert_eq!((edge.get("/api/v1/services/1").await, edge.get(SERVICES).await), (403, 403));
    for path in ["/api/v1/services/2", "/api/v1/services?cluster_id=2"] {
        assert_eq!(edge.get(path).await, 200, "{path}");
    }

    // Routes go with the services that they name; who belongs to a fleet, and what all share, is not for one.
    let route = |id: i64, name: &str| json!({"cluster_id": id, "listener_port": 80, "targets": [{"service": name}], "path": "/"});
    assert_eq!(admin.status("PUT", "/api/v1/routes/a", &route(1, "one")).await, 201);
    assert_eq!(edge.status("PUT", "/api/v1/routes/b", &route(2, "two")).await, 201);
    assert_eq!(edge.status("PUT", "/api/v1/routes/c", &route(1, "one")).await, 403);
    assert_eq!(edge.status("PUT", "/api/v1/routes/a", &route(2, "two")).await, 403);
    assert_eq!(edge.status("DELETE", "/api/v1/routes/a", &Value::Null).await, 403);
    let routes = edge.whole("GET", "/api/v1/routes", &Value::Null).await.2;
    assert_eq!((routes[0]["name"].as_str(), routes.as_array().unwrap().len()), (Some("b"), 1));
    assert_eq!(edge.status("PUT", "/api/v1/fleets/edge", &json!({"rank": -1})).await, 403);
    assert_eq!(edge.get("/api/v1/certificates").await, 403);
    assert_eq!(edge.get("/api/v1/audit").await, 403);

    // Every write stands in the log, with who it was and what came of it.
    let log = admin.whole("GET", "/api/v1/audit?limit=1000", &Value::Null).await.2;
    let log: Vec<&Value> = log.as_array().unwrap().iter().collect();
    let line = |entry: &Value| {
        let text = |field: &str| entry[field].as_str().unwrap_or_default().to_owned();
        let (status, revision) = (&entry["status"], &entry["revision"]);
        format!("{} {} {} {status} {revision}", text("caller"), text("method"), text("path"))
    };
    let lines: Vec<String> = log.iter().rev().map(|entry| line(entry)).collect();
    assert_eq!(lines[0], "the command line token create admin 200 null");
    assert_eq!(lines[2], format!("admin POST {TRANSACTIONS} 200 1"));
    assert_eq!(lines[5], format!("edge POST {TRANSACTIONS} 403 null"));
    assert_eq!(log[log.len() - 5 - 1]["fleets"], json!(["base"]));
    let by_edge = "/api/v1/audit?caller=edge&limit=2";
    let page = admin.whole("GET", by_edge, &Value::Null).await.2;
    assert!(page.as_array().unwrap().iter().all(|entry| entry["caller"] == "edge"), "{page}");
    let next = format!("{by_edge}&before={}", page[1]["id"]);
    let next = admin.whole("GET", &next, &Value::Null).await.2;
    assert!(next[0]["id"].as_i64() < page[1]["id"].as_i64(), "{page} {next}");
    assert_eq!(running.store.prune_audit(Duration::from_secs(60)).await.unwrap(), 0);
    let all = log.len() as u64;
    assert_eq!(running.store.prune_audit(Duration::ZERO).await.unwrap(), all);
}

#[tokio::test]
async fn rights_on_sqlite() {
    rights(&Sqlite::new().url()).await;
}

#[tokio::test]
async fn rights_on_postgres() {
    rights(&Postgres::start().url()).await;
}

/// What both databases do alike.
async fn only_their_history(url: &str) {
    let (running, router) = by_token(url).await;
    let admin = token(&running.store, "admin", &[], &["*"]).await;
    let edge = token(&running.store, "edge", &[], &["edge", "cluster-2"]).await;
    let reader = token(&running.store, "reader", &["edge"], &[]).await;
    let nobody = token(&running.store, "nobody", &[], &[]).await;
    let [admin, edge, reader, nobody] =
        [&admin, &edge, &reader, &nobody].map(|token| Asked(&router, token));
    let last = async || running.store.revision().await.unwrap();
    let listed = async |asked: &Asked<'_>, query: &str| {
        let path = format!("/api/v1/revisions{query}");
        let (status, _, answer) = asked.whole("GET", &path, &Value::Null).await;
        assert_eq!(status, 200, "{answer}");
        let revisions = answer.as_array().unwrap().iter();
        revisions.map(|it| (it["revision"].as_i64(), it["changed"].as_i64())).collect::<Vec<_>>()
    };
    let admin_does = async |method: &str, path: &str, body: Value| {
        let status = admin.status(method, path, &body).await;
        assert!((200..300).contains(&status), "{method} {path}: {status}");
        last().await
    };
    let of_edge = admin_does("POST", TRANSACTIONS, transaction("edge")).await;
    let of_one = admin_does("POST", SERVICES, service("one", 1)).await;
    let then = admin_does("POST", SERVICES, service("two", 2)).await;
    admin_does("POST", TRANSACTIONS, transaction("other")).await;
    admin_does("PATCH", "/api/v1/services/1", json!({"prefix": "/hidden"})).await;
    let changed = admin_does("PATCH", "/api/v1/services/2", json!({"prefix": "/two"})).await;

    // Each sees its own.
    let one_of = |revision: i64| (Some(revision), Some(1));
    let theirs = [one_of(changed), one_of(then), one_of(of_edge)];
    assert_eq!(listed(&edge, "").await, theirs);
    assert_eq!(listed(&edge, "?fleet=edge").await, [one_of(of_edge)]);
    assert_eq!(listed(&reader, "").await, [one_of(of_edge)]);
    assert_eq!(listed(&nobody, "").await, []);
    assert!(listed(&admin, "").await.len() > 5);
    for (path, status) in [
        ("/api/v1/revisions?fleet=cluster-1".to_owned(), 403),
        (format!("/api/v1/revisions/{of_one}"), 403),
        (format!("/api/v1/revisions/{then}"), 200),
        ("/api/v1/revisions/1000000".to_owned(), 404),
    ] {
        assert_eq!(edge.get(&path).await, status, "{path}");
    }

    // Each goes back with its own.
    let rollback = |query: &str| format!("/api/v1/rollback/{then}{query}");
    for query in ["", "?fleet=cluster-1", "?fleet=other", "?fleet=nothing"] {
        assert_eq!(edge.status("POST", &rollback(query), &Value::Null).await, 403, "{query}");
    }
    assert_eq!(reader.status("POST", &rollback("?fleet=edge"), &Value::Null).await, 403);
    let back = edge.whole("POST", &rollback("?fleet=cluster-2"), &Value::Null).await.2;
    let changes = back["changes"].as_array().unwrap();
    assert_eq!((changes.len(), &changes[0]["name"]), (1, &json!("two")), "{back}");
    let services = admin.whole("GET", SERVICES, &Value::Null).await.2;
    assert_eq!((&services[0]["prefix"], &services[1]["prefix"]), (&json!("/hidden"), &json!("/")));

    // Of what changed others as well, it sees its part.
    admin_does("PATCH", "/api/v1/services/2", json!({"prefix": "/two"})).await;
    let both = admin_does("POST", &rollback(""), Value::Null).await;
    assert_eq!(listed(&edge, "?limit=1").await, [one_of(both)]);
    assert_eq!(listed(&admin, "?limit=1").await, [(Some(both), Some(3))]);
    let seen = edge.whole("GET", &format!("/api/v1/revisions/{both}"), &Value::Null).await.2;
    assert_eq!((&seen["changed"], &seen["changes"][0]["name"]), (&json!(1), &json!("two")));
    assert!(!seen.to_string().contains("hidden"), "{seen}");

    // What came from others begins there; and it does not go back to them.
    admin_does("PATCH", "/api/v1/services/1", json!({"prefix": "/hidden"})).await;
    let moves = json!({"cluster_id": 2, "prefix": "/mine"});
    let moved = admin_does("PATCH", "/api/v1/services/1", moves).await;
    let seen = edge.whole("GET", &format!("/api/v1/revisions/{moved}"), &Value::Null).await.2;
    assert_eq!(seen["changes"][0]["change"], "added", "{seen}");
    let (status, _, refused) =
        edge.whole("POST", &rollback("?fleet=cluster-2"), &Value::Null).await;
    assert_eq!(status, StatusCode::CONFLICT, "{refused}");
    for answer in [seen, refused] {
        let answer = answer.to_string();
        assert!(!answer.contains("hidden") && !answer.contains("cluster-1"), "{answer}");
    }

    // Who belongs to a fleet is not for the fleet to say, neither now nor by going back.
    let settled = admin_does("PUT", "/api/v1/fleets/edge", json!({"rank": 1})).await;
    assert_eq!(listed(&edge, "?limit=1").await, [one_of(settled)]);
    let query = "?fleet=edge&dry_run=true";
    let back = edge.whole("POST", &rollback(query), &Value::Null).await.2;
    assert_eq!(back["changes"], json!([]), "{back}");
    let back = admin.whole("POST", &rollback(query), &Value::Null).await.2;
    assert_eq!(back["changes"][0]["kind"], "fleet", "{back}");
}

#[tokio::test]
async fn a_token_of_one_fleet_sees_and_brings_back_what_is_its_own_on_sqlite() {
    only_their_history(&Sqlite::new().url()).await;
}

#[tokio::test]
async fn a_token_of_one_fleet_sees_and_brings_back_what_is_its_own_on_postgres() {
    only_their_history(&Postgres::start().url()).await;
}

#[tokio::test]
async fn tokens_end() {
    let sqlite = Sqlite::new();
    let (running, router) = by_token(&sqlite.url()).await;
    let store = &running.store;
    let kept = token(store, "kept", &["*"], &[]).await;
    let revoked = token(store, "revoked", &["*"], &[]).await;
    let rights = Rights { read: ["*".to_owned()].into(), ..Rights::default() };
    let expired = store.create_token("expired", &rights, Some(Duration::ZERO)).await.unwrap();
    assert_eq!(Asked(&router, &revoked).get(SERVICES).await, 200);
    store.revoke_token("revoked").await.unwrap();
    let unknown = kept.replace("dpt_", "dpt-");
    let wrong = [&revoked, &format!("Bearer {expired}"), &unknown, "Bearer", "Basic eDp5", "x"];
    for shown in wrong {
        let (status, challenge, _) =
            Asked(&router, shown).whole("GET", SERVICES, &Value::Null).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{shown}");
        assert!(challenge.contains("invalid_token"), "{challenge}");
    }
    assert_eq!(Asked(&router, &kept.replace("Bearer", "bearer")).get(SERVICES).await, 200);

    // Who has the database has no token by it.
    let whole = std::fs::read(sqlite.file()).unwrap();
    let wal = std::fs::read(sqlite.file().with_extension("db-wal")).unwrap_or_default();
    let secret = kept.strip_prefix("Bearer ").unwrap().as_bytes();
    for file in [whole, wal] {
        assert!(!file.windows(secret.len()).any(|window| window == secret));
    }
    // Nonsense in its row makes it good for nothing.
    execute(&sqlite.url(), "UPDATE tokens SET rights = '{\"read\": 7}' WHERE name = 'kept'").await;
    assert_eq!(Asked(&router, &kept).get(SERVICES).await, 403);
    for name in ["", "a b", "a/b", &"x".repeat(129), "kept"] {
        assert!(store.create_token(name, &rights, None).await.is_err(), "{name}");
    }
}

#[tokio::test]
async fn where_none_is_wanted_one_that_is_shown_is_looked_at() {
    let sqlite = Sqlite::new();
    let running = running(&sqlite.url()).await;
    let router = rest::router(running.clone(), Metrics::new().unwrap());
    let edge = token(&running.store, "edge", &[], &["edge"]).await;
    assert_eq!(Asked(&router, "").status("POST", TRANSACTIONS, &transaction("x")).await, 200);
    assert_eq!(Asked(&router, &edge).status("POST", TRANSACTIONS, &transaction("x")).await, 403);
    assert_eq!(Asked(&router, "Bearer wrong").get(SERVICES).await, 401);
    let audit = running.store.audit(&Default::default()).await.unwrap();
    let callers: Vec<Option<&str>> = audit.iter().map(|entry| entry.caller.as_deref()).collect();
    assert_eq!(callers, [Some("edge"), None, Some("the command line")]);
}

/// Whatever somebody does is in the log before it is done; and if it cannot be, it is not done.
#[tokio::test]
async fn what_cannot_be_written_down_is_not_done() {
    let sqlite = Sqlite::new();
    let router = rest::router(running(&sqlite.url()).await, Metrics::new().unwrap());
    let asked = Asked(&router, "");
    let not_before = "CREATE TRIGGER not_before BEFORE INSERT ON services \
        WHEN NOT EXISTS (SELECT 1 FROM audit WHERE method = 'POST' AND status IS NULL) \
        BEGIN SELECT RAISE(ABORT, 'it is not in the log'); END";
    execute(&sqlite.url(), not_before).await;
    assert_eq!(asked.status("POST", SERVICES, &service("one", 1)).await, 201);
    let no_log = "CREATE TRIGGER no_log BEFORE INSERT ON audit \
        BEGIN SELECT RAISE(ABORT, 'there is no log'); END";
    execute(&sqlite.url(), &format!("DROP TRIGGER not_before; {no_log}")).await;
    let (status, _, answer) = asked.whole("POST", SERVICES, &service("two", 2)).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{answer}");
    assert_eq!(asked.status("DELETE", "/api/v1/services/1", &Value::Null).await, 503);
    let services = asked.whole("GET", SERVICES, &Value::Null).await.2;
    assert_eq!(services.as_array().map(Vec::len), Some(1), "{services}");
}

/// What was known of tokens is good while the database is away.
#[tokio::test]
async fn tokens_outlive_the_database() {
    let postgres = Postgres::start();
    let (running, router) = by_token(&postgres.url()).await;
    let known = token(&running.store, "known", &["*"], &[]).await;
    let other = token(&running.store, "other", &["*"], &[]).await;
    assert_eq!(Asked(&router, &known).get("/xds/clients").await, 200);
    postgres.stop();
    assert_eq!(Asked(&router, &known).get("/xds/clients").await, 200);
    assert_eq!(Asked(&router, &other).get("/xds/clients").await, 503);
    postgres.resume();
    until("the other one is known again", async || {
        (Asked(&router, &other).get("/xds/clients").await == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_token_that_was_revoked_is_over_though_the_database_cannot_be_followed() {
    let sqlite = Sqlite::new();
    let mut server = Server::start(&sqlite.url()).await;
    server.app.access = Access::by_token();
    let (router, store) = (server.router(), &server.app.store);
    let admin = token(store, "admin", &[], &["*"]).await;
    let asked = Asked(&router, &admin);
    assert_eq!(asked.status("POST", SERVICES, &service("one", 1)).await, 201);
    execute(&sqlite.url(), "ALTER TABLE raw_scopes RENAME TO hidden").await;
    assert_eq!(asked.status("POST", SERVICES, &service("two", 2)).await, 201);
    until("trouble", async || server.health.status().trouble).await;
    store.revoke_token("admin").await.unwrap();
    assert_eq!(asked.status("POST", SERVICES, &service("three", 3)).await, 401);
    assert_eq!(asked.get(SERVICES).await, 401);
}

#[test]
fn the_command_line_makes_shows_and_ends_tokens() {
    let sqlite = Sqlite::empty();
    let url = sqlite.url();
    let database = ["--database-url", &url];
    let run = |arguments: &[&str], token: &[(&str, &str)]| {
        let mut command = deltaplane(arguments);
        command.envs(token.iter().copied()).env("XDS_LISTEN", "127.0.0.1:0");
        let output = command.output().unwrap();
        let (out, err) = (String::from_utf8(output.stdout), String::from_utf8(output.stderr));
        (output.status.code().unwrap(), out.unwrap(), err.unwrap())
    };
    let create = ["token", "create", "ci", "--read", "base", "--write", "edge", "--expires", "1h"];
    let (code, token, note) = run(&[&create[..], &database].concat(), &[]);
    assert_eq!(code, 0, "{note}");
    let token = token.trim();
    assert!(token.starts_with("dpt_") && token.len() == 47 && note.contains("once"), "{note}");
    let (_, listed, _) = run(&[&["token", "list"][..], &database].concat(), &[]);
    assert!(listed.contains("[\"base\"]") && !listed.contains(token), "{listed}");

    let mut command = serve(&url);
    command.args(["--http-tokens", "always"]);
    let (_server, _, http) = Process::start(command);
    let get = ["get", "audit", "--server", &http];
    let scopes = ["get", "scopes", "--server", &http];
    let (code, _, said) = run(&scopes, &[]);
    assert!(code == 1 && said.contains("a token is needed"), "{said}");
    assert_eq!(run(&scopes, &[("DELTAPLANE_TOKEN", token)]).0, 0);
    let file = sqlite.file().with_extension("token");
    std::fs::write(&file, format!("{token}\n")).unwrap();
    let from_file = [&scopes[..], &["--token-file", file.to_str().unwrap()]].concat();
    assert_eq!(run(&from_file, &[]).0, 0);
    let (code, _, said) = run(&[&scopes[..], &["--token-file", "/no/such"]].concat(), &[]);
    assert!(code == 1 && said.contains("/no/such") && said.contains("--token-file"), "{said}");
    let (code, _, said) = run(&get, &[("DELTAPLANE_TOKEN", token)]);
    assert!(code == 1 && said.contains("may not read every fleet"), "{said}");

    let revoke = [&["token", "revoke", "ci"][..], &database].concat();
    assert_eq!(run(&revoke, &[]).0, 0);
    let (code, _, said) = run(&revoke, &[]);
    assert!(code == 1 && said.contains("token list"), "{said}");
    let (code, _, said) = run(&scopes, &[("DELTAPLANE_TOKEN", token)]);
    assert!(code == 1 && said.contains("revoked") && !said.contains(token), "{said}");
    let help = run(&["get", "--help"], &[("DELTAPLANE_TOKEN", "do-not-tell")]).1;
    assert!(!help.contains("do-not-tell"), "{help}");
}

/// It would be good for nothing, and the one that was meant is another.
#[test]
fn a_database_that_is_not_there_is_not_made_for_a_token() {
    let sqlite = Sqlite::new();
    let url = sqlite.url();
    let run = |arguments: &[&str]| {
        let output = deltaplane(arguments).args(["--database-url", &url]).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let commands = [&["token", "create", "ci"][..], &["token", "list"], &["token", "revoke", "ci"]];
    for command in commands {
        let (code, said) = run(command);
        assert_eq!(code, Some(1), "{said}");
        for word in ["there is no database", "deltaplane migrate", "--database-url"] {
            assert!(said.contains(word), "{word}: {said}");
        }
        assert!(!sqlite.file().exists(), "{command:?}");
    }
    assert_eq!(run(&["migrate"]), (Some(0), String::new()));
    assert_eq!(run(&["token", "create", "ci"]).0, Some(0));
}

#[test]
fn beyond_this_machine_a_token_is_wanted_unless_somebody_says_otherwise() {
    for (flags, code) in [(&[][..], 1), (&["--http-tokens", "never"][..], 0)] {
        let sqlite = Sqlite::new();
        let mut command = deltaplane(&["serve", "--database-url", &sqlite.url()]);
        command.args(["--xds-listen", "127.0.0.1:0", "--http-listen", "0.0.0.0:0"]).args(flags);
        let (_server, _, http) = Process::start(command);
        let http = http.replace("0.0.0.0", "127.0.0.1");
        let answer = deltaplane(&["get", "services", "--server", &http]).output().unwrap();
        assert_eq!(answer.status.code(), Some(code), "{answer:?}");
    }
}
