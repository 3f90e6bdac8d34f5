//! Raw resources from the HTTP API, or from who writes past it, to the cache.

use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use deltaplane::fleets::scope;
use deltaplane_server::envoy_types::pb::envoy::config::core::v3::Node;
use deltaplane_server::envoy_types::pb::envoy::config::listener::v3::{Listener, filter};
use deltaplane_server::envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, http_connection_manager::RouteSpecifier,
};
use deltaplane_server::{Resource, Scope, TypeUrl, View as _};
use prost::Message as _;
use serde_json::{Value, json};

use crate::database::{Postgres, Sqlite, execute, until};
use crate::publisher::Server;
use crate::rest::{router, send};

const TRANSACTIONS: &str = "/api/v1/xds/transactions";
const STRANGE: &str = "type.example.com/shop.v1.Price";

impl Server {
    /// What the Envoys of a fleet see.
    fn view(&self, cluster: &str) -> deltaplane_server::CacheView {
        let node = Node { cluster: cluster.to_owned(), ..Node::default() };
        let scopes: Arc<[Scope]> = scope::choose(&node, None, &self.app.fleets, &self.cache).into();
        self.cache.view(&scopes)
    }

    fn get(&self, cluster: &str, type_url: impl Into<TypeUrl>, name: &str) -> Option<Resource> {
        self.view(cluster).get(&type_url.into(), name)
    }

    fn sees(&self, cluster: &str, type_url: impl Into<TypeUrl>, name: &str) -> bool {
        self.get(cluster, type_url, name).is_some()
    }
}

/// Stores a transaction and returns its revision.
async fn post(router: &Router, body: Value) -> i64 {
    let (status, answer) = send(router, "POST", TRANSACTIONS, &body.to_string()).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    answer["revision"].as_i64().unwrap()
}

/// Where a transaction is refused.
async fn refused(router: &Router, body: Value) -> String {
    let (status, answer) = send(router, "POST", TRANSACTIONS, &body.to_string()).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{answer}");
    answer["errors"][0]["field"].as_str().unwrap().to_owned()
}

async fn list(router: &Router, scope: &str) -> Value {
    let path = format!("/api/v1/xds/scopes/{scope}/resources?content=true");
    let (status, answer) = send(router, "GET", &path, "").await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    answer
}

fn cluster(name: &str, connect_timeout: &str) -> Value {
    json!({
        "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
        "name": name, "connect_timeout": connect_timeout,
    })
}

fn upsert(scope: &str, resource: Value) -> Value {
    json!({"scope": scope, "upserts": [{"resource": resource}]})
}

fn listener() -> Value {
    let router = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";
    let manager = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.\
                   HttpConnectionManager";
    json!({
        "@type": "type.googleapis.com/envoy.config.listener.v3.Listener",
        "name": "front",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 10000}},
        "filter_chains": [{"filters": [{
            "name": "http",
            "typed_config": {
                // Not first, as a writer that sorts would have it.
                "stat_prefix": "front",
                "@type": manager,
                "route_config": {"name": "inline", "virtual_hosts": []},
                "http_filters": [{"name": "router", "typed_config": {"@type": router}}],
            },
        }]}],
    })
}

/// What both databases do alike.
async fn contract(url: &str) {
    let (router, server) = (router(url).await, Server::start(url).await);
    of_every_kind(&router, &server).await;
    all_or_nothing(&router, &server).await;
    versions(&router, &server).await;
    over_services(&router, &server, url).await;
    known_though_empty(&router, &server).await;
    long_names(&router, &server).await;
    by_others(&router, &server, url).await;
    old_log(url).await;

    let before = list(&router, "fleet").await;
    let version = server.view("fleet").version(&TypeUrl::LISTENER).to_string();
    drop(server);
    let server = Server::start(url).await;
    assert_eq!(list(&router, "fleet").await, before);
    assert!(server.sees("fleet", TypeUrl::LISTENER, "front"));
    let again = server.view("fleet").version(&TypeUrl::LISTENER).to_string();
    let tail = |version: &str| version.split_once('.').unwrap().1.to_owned();
    assert_eq!(tail(&again), tail(&version), "sum and label outlive the process");
    assert!(server.view("empty").is_complete() && server.view("cleared").is_complete());
    assert!(!server.view("unheard of").is_complete());
}

async fn of_every_kind(router: &Router, server: &Server) {
    let revision = post(
        router,
        json!({
            "scope": "fleet", "label": "spring",
            "upserts": [
                {"resource": listener()},
                {"resource": cluster("shop", "1s")},
                {"type_url": STRANGE, "name": "apple", "value": STANDARD.encode(b"\xff\x00 any")},
                {
                    "name": "one more",
                    "resource": {"@type": "type.googleapis.com/google.protobuf.Duration", "value": "3s"},
                },
            ],
        }),
    )
    .await;
    until("the transaction", async || server.get("fleet", TypeUrl::LISTENER, "front")).await;
    assert!(revision > 0);
    let seen = server.get("fleet", TypeUrl::LISTENER, "front").unwrap();
    let seen = Listener::decode(seen.value()).unwrap();
    let filter = &seen.filter_chains[0].filters[0];
    let Some(filter::ConfigType::TypedConfig(any)) = &filter.config_type else { panic!() };
    let manager = HttpConnectionManager::decode(&*any.value).unwrap();
    assert_eq!(manager.stat_prefix, "front");
    assert!(matches!(manager.route_specifier, Some(RouteSpecifier::RouteConfig(_))));
    assert_eq!(manager.http_filters[0].name, "router");
    let strange = server.get("fleet", STRANGE, "apple").unwrap();
    assert_eq!(&*strange.value(), b"\xff\x00 any");
    assert!(server.sees("fleet", "type.googleapis.com/google.protobuf.Duration", "one more"));
    let version = server.view("fleet").version(&TypeUrl::LISTENER).to_string();
    assert!(version.ends_with("+spring"), "{version}");

    let items = list(router, "fleet").await;
    let front = items.as_array().unwrap().iter().find(|item| item["name"] == "front").unwrap();
    assert_eq!(front["resource"], {
        let mut shown = listener();
        // What is at its default is left out.
        let manager = &mut shown["filter_chains"][0]["filters"][0]["typed_config"];
        manager["route_config"].as_object_mut().unwrap().remove("virtual_hosts");
        shown
    });
    assert_eq!(front["label"], "spring");
    assert!(
        items.as_array().unwrap().iter().all(|item| item["revision"] == revision),
        "one for all"
    );
    let visible = server.get("fleet", TypeUrl::LISTENER, "front").unwrap();
    assert_eq!(front["version"], visible.version());
    assert_eq!(front["size"], visible.value().len());
    let apple = items.as_array().unwrap().iter().find(|item| item["name"] == "apple").unwrap();
    assert_eq!(apple["value"], STANDARD.encode(b"\xff\x00 any"));
}

async fn all_or_nothing(router: &Router, server: &Server) {
    let before = (list(router, "fleet").await, server.cache.revision());
    let mut body = upsert("fleet", cluster("new", "1s"));
    body["removes"] = json!([{"type_url": TypeUrl::CLUSTER.as_str(), "name": "shop"}]);
    body["upserts"].as_array_mut().unwrap().push(json!({"resource": {"@type": "nonsense"}}));
    assert_eq!(refused(router, body.clone()).await, "upserts[1].resource.@type");
    assert_eq!((list(router, "fleet").await, server.cache.revision()), before);

    body["upserts"].as_array_mut().unwrap().pop();
    post(router, body).await;
    until("the new cluster", async || server.get("fleet", TypeUrl::CLUSTER, "new")).await;
    assert!(!server.sees("fleet", TypeUrl::CLUSTER, "shop"), "both at one revision");
    let version = server.view("fleet").version(&TypeUrl::CLUSTER).to_string();
    assert!(!version.contains('+'), "what has no label shows none: {version}");
}

async fn versions(router: &Router, server: &Server) {
    let body = |timeout: &str, version: &str| {
        let mut body = upsert("versions", cluster("shop", timeout));
        body["upserts"][0]["version"] = version.into();
        body
    };
    post(router, body("1s", "v1")).await;
    let resource = until("v1", async || server.get("versions", TypeUrl::CLUSTER, "shop")).await;
    assert_eq!(resource.version(), "v1");
    assert_eq!(refused(router, body("2s", "v1")).await, "upserts[0].version");
    let before = list(router, "versions").await[0]["revision"].clone();
    assert_eq!(post(router, body("1s", "v1")).await, before, "it is there already");
    post(router, body("2s", "v2")).await;
    // Faster than anybody looks: the database knows no harm of it, the cache would.
    post(router, body("3s", "v3")).await;
    post(router, body("4s", "v1")).await;
    let shown = until("4 s", async || {
        let resource = server.get("versions", TypeUrl::CLUSTER, "shop")?;
        let whole: deltaplane_server::envoy_types::pb::envoy::config::cluster::v3::Cluster =
            prost::Message::decode(resource.value()).unwrap();
        (whole.connect_timeout?.seconds == 4).then(|| resource.version().to_owned())
    })
    .await;
    assert!(shown == "v1" || shown.len() == 16, "{shown}");
}

async fn over_services(router: &Router, server: &Server, url: &str) {
    let sql = "INSERT INTO services (name, cluster_id, listener_port, upstream_host, \
               upstream_port) VALUES ('shop', 1, 80, '127.0.0.1', 1), ('bare', 1, 81, '::1', 1)";
    execute(url, sql).await;
    let below =
        until("the service", async || server.get("cluster-1", TypeUrl::CLUSTER, "shop")).await;
    post(router, upsert("cluster-1", cluster("shop", "9s"))).await;
    until("what lies over it", async || {
        (server.get("cluster-1", TypeUrl::CLUSTER, "shop")? != below).then_some(())
    })
    .await;
    assert!(server.sees("cluster-1", TypeUrl::CLUSTER, "bare"));
    assert_eq!(server.view("cluster-1").resources(&TypeUrl::CLUSTER).count(), 2);

    execute(url, "DELETE FROM raw_resources WHERE scope = 'cluster-1'").await;
    until("what was below", async || {
        (server.get("cluster-1", TypeUrl::CLUSTER, "shop")? == below).then_some(())
    })
    .await;
}

async fn known_though_empty(router: &Router, server: &Server) {
    assert!(!server.view("empty").is_complete());
    let revision = post(router, json!({"scope": "empty"})).await;
    until("the scope", async || server.view("empty").is_complete().then_some(())).await;
    assert_eq!(post(router, json!({"scope": "empty"})).await, revision, "nothing changed");

    post(router, upsert("cleared", cluster("a", "1s"))).await;
    until("a cluster", async || server.get("cleared", TypeUrl::CLUSTER, "a")).await;
    let path = "/api/v1/xds/scopes/cleared";
    let (status, answer) = send(router, "DELETE", path, "").await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    until("none", async || (!server.sees("cleared", TypeUrl::CLUSTER, "a")).then_some(())).await;
    assert!(server.view("cleared").is_complete());
    assert_eq!(list(router, "cleared").await, json!([]));
    assert_eq!(send(router, "DELETE", path, "").await, (StatusCode::OK, answer));
    for (method, path) in
        [("DELETE", "/api/v1/xds/scopes/x"), ("GET", "/api/v1/xds/scopes/x/resources")]
    {
        assert_eq!(send(router, method, path, "").await.0, StatusCode::NOT_FOUND);
    }
    let (_, scopes) = send(router, "GET", "/api/v1/xds/scopes", "").await;
    let named = |name: &str| scopes.as_array().unwrap().iter().find(|s| s["scope"] == name);
    assert_eq!(named("cleared").unwrap()["resources"], 0);
    assert_eq!(named("fleet").unwrap()["resources"], 4);
}

/// Longer than an index of PostgreSQL takes, and alike for longer than that.
async fn long_names(router: &Router, server: &Server) {
    let name = |i: u32| {
        let noise = (0..1020).map(|n| char::from_u32(0x10000 + (n * 7919) % 50000).unwrap());
        format!("{}{i:04}", noise.collect::<String>())
    };
    let scope = "/% ?\u{1F980}";
    for i in 1..=2 {
        let body = json!({"scope": scope, "upserts": (i..=2).map(|i| {
            json!({"type_url": STRANGE, "name": name(i), "value": STANDARD.encode([i as u8])})
        }).collect::<Vec<_>>()});
        post(router, body).await;
    }
    let seen = until("the last", async || server.get(scope, STRANGE, &name(2))).await;
    assert_eq!(*seen.value(), [2]);
    let remove = json!({"scope": scope, "removes": [{"type_url": STRANGE, "name": name(1)}]});
    post(router, remove).await;
    until("the end", async || (!server.sees(scope, STRANGE, &name(1))).then_some(())).await;
    assert!(server.sees(scope, STRANGE, &name(2)));
    assert_eq!(list(router, "%2F%25%20%3F%F0%9F%A6%80").await.as_array().unwrap().len(), 1);
}

/// Rows that somebody writes with SQL.
async fn by_others(router: &Router, server: &Server, url: &str) {
    let type_url = TypeUrl::SCOPED_ROUTE;
    let bytes = if url.starts_with("sqlite") { "x''" } else { "''" };
    let sql = format!(
        "INSERT INTO raw_resources (scope, type_url, name, value) VALUES \
         ('theirs', '{type_url}', 'a', {bytes}), ('theirs', '{type_url}', 'b', {bytes})"
    );
    execute(url, &sql).await;
    until("their rows", async || server.get("theirs", type_url.clone(), "b")).await;
    let sql = "UPDATE raw_resources SET name = 'c', version = 'mine' WHERE name = 'a'";
    execute(url, sql).await;
    let c = until("the renamed row", async || server.get("theirs", type_url.clone(), "c")).await;
    assert_eq!(c.version(), "mine");
    assert!(!server.sees("theirs", type_url.clone(), "a"));
    execute(url, "DELETE FROM raw_resources WHERE scope = 'theirs'").await;
    until("their end", async || (!server.sees("theirs", type_url.clone(), "b")).then_some(()))
        .await;
    assert_eq!(list(router, "theirs").await, json!([]));
    for (field, value) in
        [("name", "'*'"), ("name", "''"), ("scope", "''"), ("version", "''"), ("value", "good")]
    {
        let columns = ["scope", "type_url", "name", "version"];
        let values = columns.map(|column| if column == field { value } else { "'x'" }).join(", ");
        let sql = format!("INSERT INTO raw_resources VALUES ({values}, {bytes})");
        let mut connection = crate::database::connect(url).await;
        let written = sqlx::Executor::execute(&mut connection, sqlx::AssertSqlSafe(sql)).await;
        assert_eq!(written.is_ok(), field == "value", "{field} {value}");
    }
}

/// What is there stays in the log, and what went leaves it.
async fn old_log(url: &str) {
    execute(url, "UPDATE revision SET value = value + 10000").await;
    let sql = "UPDATE raw_resources SET value = value WHERE name = 'apple'";
    execute(url, sql).await;
    assert_eq!(logged(url).await, [true].repeat(resources(url).await));
}

/// For each entry of the log, whether its resource is there.
async fn logged(url: &str) -> Vec<bool> {
    let sql = "SELECT CASE WHEN gone THEN 0 ELSE 1 END AS there FROM raw_changes";
    let mut connection = crate::database::connect(url).await;
    let entries: Vec<i32> = sqlx::query_scalar(sql).fetch_all(&mut connection).await.unwrap();
    entries.into_iter().map(|there| there == 1).collect()
}

async fn resources(url: &str) -> usize {
    let mut connection = crate::database::connect(url).await;
    let sql = "SELECT count(*) FROM raw_resources";
    let count: i64 = sqlx::query_scalar(sql).fetch_one(&mut connection).await.unwrap();
    count.try_into().unwrap()
}

#[tokio::test]
async fn sqlite_keeps_raw_resources() {
    contract(&Sqlite::new().url()).await;
}

#[tokio::test]
async fn postgres_keeps_raw_resources() {
    let postgres = Postgres::start();
    contract(&postgres.url()).await;

    let server = Server::start(&postgres.url()).await;
    assert!(server.sees("fleet", TypeUrl::LISTENER, "front"));
    postgres
        .psql("CREATE ROLE guest LOGIN; GRANT SELECT, INSERT, DELETE ON raw_resources TO guest");
    let sql = format!("INSERT INTO raw_resources VALUES ('fleet', '{STRANGE}', 'pear', 'v', '')");
    execute(&postgres.url_of("guest"), &sql).await;
    until("the guest's row", async || server.get("fleet", STRANGE, "pear")).await;
    postgres.psql("TRUNCATE raw_resources");
    assert!(!logged(&postgres.url()).await.contains(&true));
    until("the end of all", async || {
        (!server.sees("fleet", TypeUrl::LISTENER, "front")).then_some(())
    })
    .await;
    assert!(server.view("fleet").is_complete(), "empty, not unknown");
}

/// What changed while the database was away, or while the server was.
#[tokio::test]
async fn what_was_missed_is_read_again() {
    let postgres = Postgres::start();
    let url = postgres.url();
    let (router, server) = (router(&url).await, Server::start(&url).await);
    let mut body = upsert("fleet", cluster("a", "1s"));
    body["upserts"].as_array_mut().unwrap().push(json!({"resource": listener()}));
    post(&router, body).await;
    until("a cluster", async || server.get("fleet", TypeUrl::CLUSTER, "a")).await;
    execute(&url, "UPDATE revision SET value = value + 20000").await;
    execute(&url, "DELETE FROM raw_resources WHERE name = 'front'").await;
    post(&router, upsert("late", cluster("b", "1s"))).await;
    until("the late one", async || server.get("late", TypeUrl::CLUSTER, "b")).await;
    assert!(!server.sees("fleet", TypeUrl::LISTENER, "front"));
    assert!(server.sees("fleet", TypeUrl::CLUSTER, "a"));
}
