//! The history, and back to what it holds.

use std::time::Duration;

use axum::Router;
use axum::http::{Request, StatusCode, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use deltaplane::access::token::Rights;
use deltaplane::database::write::Origin;
use deltaplane::history::retention::Retention;
use deltaplane::history::rollback::{Rollback, roll_back};
use deltaplane::serve::running::Running;
use serde_json::{Value, json};

use crate::database::{Postgres, Sqlite, execute};
use crate::rest::{answer, router_of, running, send};
use crate::schema::migrate;

const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";

/// A server that nobody but the test asks.
struct Server {
    router: Router,
    running: Running,
    url: String,
}

impl Server {
    async fn start(url: &str) -> Server {
        let running = running(url).await;
        Server { router: router_of(running.clone()), running, url: url.to_owned() }
    }

    async fn ask(&self, status: u16, method: &str, path: &str, body: Value) -> Value {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let (got, answer) = send(&self.router, method, path, &body).await;
        assert_eq!(got.as_u16(), status, "{method} {path}: {answer}");
        answer
    }

    async fn get(&self, path: &str) -> Value {
        self.ask(200, "GET", path, Value::Null).await
    }

    /// The counter.
    async fn revision(&self) -> i64 {
        self.running.store.revision().await.unwrap()
    }

    /// Asks as somebody, who calls it something.
    async fn as_somebody(&self, author: &str, label: &str, method: &str, path: &str, body: &Value) {
        let request = Request::builder().method(method).uri(path);
        let request = request.header(header::CONTENT_TYPE, "application/json");
        let request = request.header("X-Deltaplane-Author", author);
        let request = request.header("X-Deltaplane-Label", label).body(body.to_string().into());
        let (status, answer) = answer(&self.router, request.unwrap()).await;
        assert!(status.is_success(), "{answer}");
    }

    /// The last revision.
    async fn last(&self) -> Value {
        self.get(&format!("/api/v1/revisions/{}", self.revision().await)).await
    }

    /// What the last revision did to the first thing that it changed.
    async fn last_change(&self) -> (String, String, String) {
        let last = self.last().await;
        let text = |field: &str| last["changes"][0][field].as_str().unwrap_or_default().to_owned();
        (text("change"), text("name"), text("diff"))
    }

    async fn back(&self, status: u16, to: i64, query: &str) -> Value {
        let path = format!("/api/v1/rollback/{to}{query}");
        self.ask(status, "POST", &path, Value::Null).await
    }

    /// All that is stored, but for when it was stored.
    async fn stored(&self) -> Value {
        let mut all = json!({
            "services": self.get("/api/v1/services/").await,
            "fleets": self.get("/api/v1/fleets").await,
            "routes": self.get("/api/v1/routes").await,
            "certificates": self.get("/api/v1/certificates").await,
        });
        for scope in self.get("/api/v1/xds/scopes").await.as_array().unwrap() {
            let scope = scope["scope"].as_str().unwrap();
            let path = format!("/api/v1/xds/scopes/{scope}/resources?content=true");
            all[format!("resources of {scope}")] = self.get(&path).await;
        }
        for list in all.as_object_mut().unwrap().values_mut() {
            for one in list.as_array_mut().unwrap() {
                one.as_object_mut().unwrap().remove("revision");
                one.as_object_mut().unwrap().remove("label");
            }
        }
        all
    }

    async fn execute(&self, sql: &str) {
        execute(&self.url, sql).await;
    }
}

fn service(name: &str, port: i64) -> Value {
    json!({"name": name, "listener_port": port, "upstream_host": "127.0.0.1", "upstream_port": 1})
}

fn upsert(name: &str, timeout: &str) -> Value {
    json!({"resource": {"@type": CLUSTER, "name": name, "connect_timeout": timeout}})
}

async fn contract(url: &str, writer: &str) {
    let server = Server::start(url).await;
    whoever_changes_something(&server, writer).await;
    nothing_secret(&server).await;
    back_and_forth(&server).await;
    only_a_fleet(&server).await;
    refusals(&server).await;
    by_itself(&server).await;
    retention(&server).await;
}

/// Each change has its author, its name and its difference.
async fn whoever_changes_something(server: &Server, writer: &str) {
    let services = "/api/v1/services/";
    server.as_somebody("Änne", "spring", "POST", services, &service("shop", 80)).await;
    let last = server.last().await;
    assert_eq!((&last["author"], &last["label"]), (&json!("Änne"), &json!("spring")));
    assert_eq!((&last["changed"], &last["back_to"]), (&json!(1), &Value::Null));
    assert!(last["at"].as_str().unwrap().starts_with("20"), "{last}");
    let change = &last["changes"][0];
    assert_eq!((&change["kind"], &change["scope"]), (&json!("service"), &json!("cluster-1")));
    assert_eq!((&change["id"], &change["change"]), (&json!(1), &json!("added")));
    assert!(change["diff"].as_str().unwrap().contains("+name: shop\n"), "{change}");

    server.ask(200, "PATCH", "/api/v1/services/1", json!({"upstream_port": 2})).await;
    assert_eq!(server.last().await["author"], "anonymous");
    let (change, name, diff) = server.last_change().await;
    assert_eq!((&*change, &*name), ("changed", "shop"));
    assert!(diff.contains("-upstream_port: 1\n+upstream_port: 2\n"), "{diff}");

    // By hand, past the HTTP API.
    server.execute("UPDATE services SET prefix = '/x', http2 = (1 = 1) WHERE id = 1").await;
    let last = server.last().await;
    assert_eq!((&last["author"], &last["label"]), (&json!(writer), &Value::Null));
    let (_, _, diff) = server.last_change().await;
    assert!(diff.contains("-prefix: /\n+prefix: /x\n"), "{diff}");
    assert!(diff.contains("-http2: false\n+http2: true\n"), "{diff}");
    server.execute("UPDATE services SET cluster_id = 3 WHERE id = 1").await;
    let of = async |fleet: &str| server.get(&format!("/api/v1/revisions?fleet={fleet}")).await;
    let (left, entered) = (of("cluster-1").await, of("cluster-3").await);
    assert!(left[0]["revision"].as_i64() >= Some(server.revision().await - 1), "{left}");
    assert_eq!(entered[0]["revision"], server.revision().await);
    server.execute("UPDATE services SET cluster_id = 1 WHERE id = 1").await;

    // A transaction is one revision, whatever it changes.
    let transaction = json!({
        "scope": "edge", "label": "two", "upserts": [upsert("a", "1s"), upsert("b", "1s")],
    });
    server.as_somebody("bob", "not this", "POST", "/api/v1/xds/transactions", &transaction).await;
    let last = server.last().await;
    assert_eq!((&last["author"], &last["label"]), (&json!("bob"), &json!("two")));
    assert_eq!((&last["changed"], &last["changes"][1]["name"]), (&json!(2), &json!("b")));
    let transaction = json!({"scope": "edge", "upserts": [upsert("a", "2s")], "removes": [
        {"type_url": CLUSTER, "name": "b"}
    ]});
    server.ask(200, "POST", "/api/v1/xds/transactions", transaction).await;
    let changes = server.last().await["changes"].clone();
    let all: Vec<_> = changes.as_array().unwrap().iter().map(|one| &one["change"]).collect();
    assert_eq!(all.len(), 2, "{changes}");
    assert!(all.contains(&&json!("changed")) && all.contains(&&json!("removed")), "{changes}");

    // Whatever else has a name.
    server.ask(201, "PUT", "/api/v1/fleets/edge", json!({"rank": 1})).await;
    server.ask(200, "PUT", "/api/v1/fleets/edge", json!({"rank": 2})).await;
    let (_, name, diff) = server.last_change().await;
    assert_eq!(name, "edge");
    assert!(diff.contains("-rank: 1\n+rank: 2\n"), "{diff}");
    server.ask(204, "DELETE", "/api/v1/fleets/edge", Value::Null).await;
    assert_eq!(server.last_change().await.0, "removed");

    // The newest first, in pages, and those that are wanted.
    let revision = server.revision().await;
    let page = server.get("/api/v1/revisions?limit=2").await;
    assert_eq!(
        (&page[0]["revision"], &page[1]["revision"]),
        (&json!(revision), &json!(revision - 1))
    );
    assert_eq!(page.as_array().unwrap().len(), 2);
    let page = server.get(&format!("/api/v1/revisions?before={}&limit=1", revision - 1)).await;
    assert_eq!(page[0]["revision"], revision - 2);
    assert_eq!(of("edge").await.as_array().unwrap().len(), 5);
    let bobs = server.get("/api/v1/revisions?author=bob").await;
    assert_eq!((bobs.as_array().unwrap().len(), &bobs[0]["label"]), (1, &json!("two")));
    assert_eq!(server.get("/api/v1/revisions?label=spring").await[0]["author"], "Änne");
    server.ask(422, "GET", "/api/v1/revisions?limit=0", Value::Null).await;
    server.ask(400, "GET", "/api/v1/revisions?fleets=a", Value::Null).await;
    server.ask(404, "GET", "/api/v1/revisions/1000000", Value::Null).await;
    server.ask(404, "GET", "/api/v1/revisions/last", Value::Null).await;
}

/// Neither keys of certificates nor what Envoys keep secret.
async fn nothing_secret(server: &Server) {
    let definition = json!({"certificate": "PEM", "sealed_key": "c2VjcmV0"}).to_string();
    server
        .execute(&format!(
            "INSERT INTO objects (kind, name, definition) \
             VALUES ('certificate', 'web', '{definition}')"
        ))
        .await;
    let other = definition.replace("c2VjcmV0", "b3RoZXI=");
    server.execute(&format!("UPDATE objects SET definition = '{other}' WHERE name = 'web'")).await;
    let (change, name, diff) = server.last_change().await;
    assert_eq!((&*change, &*name), ("changed", "web"));
    assert_eq!(diff, "(only what is not shown differs)\n");
    server.execute("DELETE FROM objects WHERE name = 'web'").await;
    let secret = json!({"resource": {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
        "name": "hidden", "generic_secret": {"secret": {"inline_string": "open sesame"}},
    }});
    let transaction = json!({"scope": "edge", "upserts": [secret]});
    server.ask(200, "POST", "/api/v1/xds/transactions", transaction).await;
    let last = server.last().await.to_string();
    assert!(last.contains("hidden") && last.contains("not shown"), "{last}");
    assert!(!last.contains("sesame") && !last.contains(&STANDARD.encode("open sesame")), "{last}");
}

/// All that is stored goes back as one change, and that change goes back as well.
async fn back_and_forth(server: &Server) {
    let (then, before) = (server.revision().await, server.stored().await);
    server.ask(201, "POST", "/api/v1/services/", service("new", 81)).await;
    let swapped = [("new", "x"), ("shop", "new"), ("x", "shop")];
    for (from, to) in swapped {
        server.execute(&format!("UPDATE services SET name = '{to}' WHERE name = '{from}'")).await;
    }
    server.ask(201, "PUT", "/api/v1/fleets/west", json!({"cluster_id": 7})).await;
    let route = json!({"listener_port": 80, "prefix": "/r", "targets": [{"service": "new"}]});
    server.ask(201, "PUT", "/api/v1/routes/r", route).await;
    let removes = json!({"scope": "edge", "removes": [{"type_url": CLUSTER, "name": "a"}],
        "upserts": [{"type_url": "x/y", "name": "n", "version": "v1", "value": "AAA="}]});
    server.ask(200, "POST", "/api/v1/xds/transactions", removes).await;
    let (later, after) = (server.revision().await, server.stored().await);
    assert_ne!(before, after);

    let tried = server.back(200, then, "?dry_run=true").await;
    assert_eq!((server.revision().await, server.stored().await), (later, after.clone()));
    let done = server.back(200, then, "?label=back").await;
    assert_eq!(server.stored().await, before);
    assert_eq!((&done["revision"], &done["back_to"]), (&json!(later + 1), &json!(then)));
    assert_eq!(done["changes"], tried["changes"]);
    let last = server.last().await;
    assert_eq!((&last["label"], &last["back_to"]), (&json!("back"), &json!(then)));
    assert_eq!(last["changed"], done["changes"].as_array().unwrap().len());
    assert_eq!(
        last["changes"].as_array().unwrap().len(),
        done["changes"].as_array().unwrap().len()
    );

    // Once more, there is nothing to do.
    let nothing = server.back(200, then, "").await;
    assert_eq!((&nothing["revision"], &nothing["changes"]), (&json!(later + 1), &json!([])));
    server.back(200, later, "").await;
    assert_eq!(server.stored().await, after, "a rollback is a change like any other");
    assert_eq!(server.last().await["label"], format!("rollback to {later}"));
    server.back(200, then, "").await;
}

/// What is others' stays as it is.
async fn only_a_fleet(server: &Server) {
    let then = server.revision().await;
    server.ask(200, "PATCH", "/api/v1/services/1", json!({"upstream_port": 9})).await;
    let changed = json!({"scope": "edge", "upserts": [upsert("a", "3s")]});
    server.ask(200, "POST", "/api/v1/xds/transactions", changed).await;
    let done = server.back(200, then, "?fleet=edge").await;
    let changes = done["changes"].as_array().unwrap();
    assert_eq!((changes.len(), &changes[0]["name"]), (1, &json!("a")), "{done}");
    assert_eq!(server.get("/api/v1/services/1").await["upstream_port"], 9);
    server.back(404, then, "?fleet=nobody").await;

    // One that went to another fleet is not taken away from it.
    server.ask(200, "PATCH", "/api/v1/services/1", json!({"cluster_id": 2})).await;
    for fleet in ["cluster-1", "cluster-2"] {
        let answer = server.back(409, then, &format!("?fleet={fleet}")).await;
        assert_eq!(answer["errors"][0]["field"], "service \"shop\"", "{answer}");
    }
    server.back(200, then, "").await;
    assert_eq!(server.get("/api/v1/services/1").await["cluster_id"], 1);
}

/// What would come back has to be valid still.
async fn refusals(server: &Server) {
    let bound = async |body: Value| {
        server.ask(200, "PATCH", "/api/v1/services/1", body).await;
        server.revision().await
    };
    // Its name was given to another one, which stays.
    let then = server.revision().await;
    server.ask(204, "DELETE", "/api/v1/services/1", Value::Null).await;
    let mut other = service("shop", 80);
    other["cluster_id"] = json!(5);
    server.ask(201, "POST", "/api/v1/services/", other).await;
    let before = server.stored().await;
    let answer = server.back(409, then, "?fleet=cluster-1").await;
    assert_eq!(answer["errors"][0]["field"], "service \"shop\".name", "{answer}");
    assert_eq!(server.stored().await, before, "nothing is written");
    server.back(200, then, "").await;

    // Its certificates are gone, and are not the fleet's.
    let authorities = rcgen::generate_simple_self_signed(["a.example".to_owned()]).unwrap();
    let authorities = json!({"authorities": authorities.cert.pem()});
    server.ask(201, "PUT", "/api/v1/certificates/ca", authorities).await;
    let then = bound(json!({"protocol": "https", "tls_ca": "ca"})).await;
    bound(json!({"protocol": "http", "tls_ca": null})).await;
    server.ask(204, "DELETE", "/api/v1/certificates/ca", Value::Null).await;
    let answer = server.back(422, then, "?fleet=cluster-1").await;
    assert_eq!(answer["errors"][0]["field"], "service \"shop\".tls_ca", "{answer}");
    // Together with them, it is.
    server.back(200, then, "").await;
    assert_eq!(server.get("/api/v1/services/1").await["tls_ca"], "ca");

    // One that nobody could have stored by the HTTP API.
    server.execute("UPDATE services SET prefix = 'no slash' WHERE id = 1").await;
    let wrong = server.revision().await;
    bound(json!({"prefix": "/"})).await;
    let answer = server.back(422, wrong, "").await;
    assert_eq!(answer["errors"][0]["field"], "service \"shop\".prefix", "{answer}");
}

/// By a program: only what changed in between, and not since.
async fn by_itself(server: &Server) {
    let transact = async |name: &str, timeout: &str| {
        let transaction = json!({"scope": "edge", "upserts": [upsert(name, timeout)]});
        server.ask(200, "POST", "/api/v1/xds/transactions", transaction).await;
    };
    transact("a", "1s").await;
    transact("b", "1s").await;
    let then = server.revision().await;
    transact("a", "4s").await;
    transact("b", "4s").await;
    let bad = server.revision().await;
    transact("b", "5s").await;
    let mut rollback = Rollback::to(then);
    (rollback.fleet, rollback.until) = (Some("edge".to_owned()), Some(bad));
    let origin = Origin::of("deltaplane").called(Some("canary-1 rejects it".to_owned()));
    let done = roll_back(&server.running, &rollback, origin).await.unwrap();
    assert_eq!((done.changes.len(), &*done.changes[0].name), (1, "a"), "b is another's by now");
    let last = server.last().await;
    assert_eq!(
        (&last["author"], &last["label"]),
        (&json!("deltaplane"), &json!("canary-1 rejects it"))
    );
}

/// What is dropped cannot be returned to; all else still can.
async fn retention(server: &Server) {
    let store = &server.running.store;
    let (last, before) = (server.revision().await, server.stored().await);
    let keep = |revisions| Retention { revisions: Some(revisions), age: None };
    // What somebody was told he can return to stays for a while.
    server.execute("UPDATE revisions SET kept_until = 0").await;
    server.back(200, last - 5, "?dry_run=true").await;
    assert_eq!(store.drop_history(keep(2)).await.unwrap(), last - 5);
    assert_eq!(server.back(200, last - 5, "?dry_run=true").await["back_to"], last - 5);
    server.execute("UPDATE revisions SET kept_until = 0").await;
    assert_eq!(store.drop_history(keep(2)).await.unwrap(), last - 1);
    let answer = server.back(410, last - 5, "").await;
    let said = answer["detail"].as_str().unwrap();
    assert!(said.contains(&format!("is {}", last - 1)), "{said}");
    server.ask(410, "GET", &format!("/api/v1/revisions/{}", last - 5), Value::Null).await;
    assert_eq!(server.get("/api/v1/revisions").await.as_array().unwrap().len(), 2);
    server.execute("UPDATE revisions SET kept_until = 0").await;

    // Whatever was stored long ago, and is still there, comes back.
    server.execute("DELETE FROM services").await;
    server.execute("DELETE FROM raw_resources").await;
    server.back(200, last, "").await;
    assert_eq!(server.stored().await, before);

    // By age: the last one stays.
    server.execute("UPDATE revisions SET made_ms = 0, kept_until = 0").await;
    let day = Retention { revisions: None, age: Some(Duration::from_secs(86_400)) };
    let last = server.revision().await;
    assert_eq!(store.drop_history(day).await.unwrap(), last);
    server.execute("DELETE FROM services").await;
    server.back(200, last, "").await;
    assert_eq!(server.stored().await, before);
    let listed = server.get("/api/v1/revisions").await;
    assert_eq!(listed.as_array().unwrap().last().unwrap()["revision"], last);
}

#[tokio::test]
async fn sqlite() {
    let sqlite = Sqlite::new();
    contract(&sqlite.url(), "sqlite").await;
}

#[tokio::test]
async fn postgres() {
    let postgres = Postgres::start();
    contract(&postgres.url(), "postgres").await;
}

/// What `OR REPLACE` pushes out is gone, by the history as well.
#[tokio::test]
async fn replaced_rows() {
    let sqlite = Sqlite::new();
    let server = Server::start(&sqlite.url()).await;
    for (name, port) in [("a", 80), ("b", 81)] {
        server.ask(201, "POST", "/api/v1/services/", service(name, port)).await;
    }
    let (then, before) = (server.revision().await, server.stored().await);
    let columns = "(name, listener_port, upstream_host, upstream_port)";
    let values = "VALUES ('a', 82, 'h', 1)";
    server.execute(&format!("INSERT OR IGNORE INTO services {columns} {values}")).await;
    assert_eq!(server.stored().await, before);
    assert_eq!(server.back(200, then, "").await["changes"], json!([]), "nothing was replaced");
    server.execute(&format!("INSERT OR REPLACE INTO services {columns} {values}")).await;
    server.execute("UPDATE OR REPLACE services SET name = 'a' WHERE name = 'b'").await;
    assert_eq!(server.get("/api/v1/services/").await.as_array().unwrap().len(), 1);
    server.back(200, then, "").await;
    assert_eq!(server.stored().await, before);
}

/// What there was before the history began is what it begins with.
async fn begins(url: &str, bytes: &str) {
    migrate(url, 5).await;
    for sql in [
        "INSERT INTO services (name, listener_port, upstream_host, upstream_port, upstreams) \
         VALUES ('shop', 80, 'h', 1, '[{\"host\": \"a\", \"port\": 2}]')",
        "INSERT INTO objects (kind, name, definition) VALUES ('fleet', 'edge', '{\"rank\": 7}')",
        "INSERT INTO objects (kind, name, definition) VALUES \
         ('route', 'r', '{\"listener_port\": 80, \"prefix\": \"/r\", \"targets\": [{\"service\": \"shop\"}]}')",
    ] {
        execute(url, sql).await;
    }
    let columns = "(scope, type_url, name, version, value)";
    let raw =
        format!("INSERT INTO raw_resources {columns} VALUES ('edge', 'x/y', 'n', 'v', {bytes})");
    execute(url, &raw).await;

    let server = Server::start(url).await;
    let (first, stored) = (server.revision().await, server.stored().await);
    assert_eq!(server.last().await["changes"], json!([]), "nobody changed anything");
    for table in ["services", "objects", "raw_resources"] {
        server.execute(&format!("DELETE FROM {table}")).await;
    }
    server.back(200, first, "").await;
    assert_eq!(server.stored().await, stored);
    assert_eq!(stored["services"][0]["upstreams"][0]["port"], 2);
    assert_eq!(stored["resources of edge"][0]["version"], "v");
}

#[tokio::test]
async fn the_history_of_sqlite_begins_with_what_is_there() {
    let sqlite = Sqlite::empty();
    begins(&sqlite.url(), "X'0001'").await;
}

#[tokio::test]
async fn the_history_of_postgres_begins_with_what_is_there() {
    begins(&Postgres::start().url(), r"'\x0001'").await;
}

/// Who shows a token is the author by its name, whatever he says.
#[tokio::test]
async fn a_token_names_the_author() {
    let sqlite = Sqlite::new();
    let server = Server::start(&sqlite.url()).await;
    let rights = Rights { write: ["*".to_owned()].into(), ..Rights::default() };
    let token = server.running.store.create_token("ci", &rights, None).await.unwrap();
    let request = Request::builder().method("PUT").uri("/api/v1/fleets/edge");
    let request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    let request = request.header(header::CONTENT_TYPE, "application/json");
    let request = request.header("X-Deltaplane-Author", "somebody else");
    let (status, _) = answer(&server.router, request.body("{}".into()).unwrap()).await;
    assert_eq!(status, StatusCode::CREATED);
    assert_eq!(server.last().await["author"], "ci");
}

#[tokio::test]
async fn headers_that_are_no_names() {
    let sqlite = Sqlite::new();
    let server = Server::start(&sqlite.url()).await;
    let long = "a".repeat(257);
    for (header, value) in [("X-Deltaplane-Author", &long), ("X-Deltaplane-Label", &long)] {
        let request = Request::builder().method("DELETE").uri("/api/v1/fleets/a");
        let request = request.header(header, value).body(String::new().into()).unwrap();
        let (status, problem) = answer(&server.router, request).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert!(problem["detail"].as_str().unwrap().contains("256 bytes"), "{problem}");
    }
}
