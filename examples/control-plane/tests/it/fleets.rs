//! Fleets as rows: who belongs to one, and how it is told.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use deltaplane::fleets::scope;
use deltaplane_server::envoy_types::pb::envoy::config::core::v3::Node;
use deltaplane_server::envoy_types::pb::google::protobuf::{Struct, Value as Field, value::Kind};
use deltaplane_server::{Scope, TypeUrl, View as _};
use serde_json::{Value, json};

use crate::database::{Postgres, Sqlite, execute, until};
use crate::definition;
use crate::publisher::Server;
use crate::rest::send;

const FLEETS: &str = "/api/v1/fleets";

fn node(cluster: &str, id: &str, zone: Option<&str>) -> Node {
    let field = |zone: &str| Field { kind: Some(Kind::StringValue(zone.to_owned())) };
    let fields = zone.map(|zone| [("zone".to_owned(), field(zone))].into());
    Node {
        cluster: cluster.to_owned(),
        id: id.to_owned(),
        metadata: fields.map(|fields| Struct { fields }),
        ..Node::default()
    }
}

impl Server {
    fn seen(&self, node: &Node) -> String {
        let scopes = scope::choose(node, Some("last"), &self.app.fleets, &self.cache);
        scopes.iter().map(Scope::as_str).collect::<Vec<_>>().join(" ")
    }

    pub(crate) async fn put_fleet(&self, name: &str, fleet: Value) {
        let path = format!("{FLEETS}/{name}");
        let (status, answer) = send(&self.router(), "PUT", &path, &fleet.to_string()).await;
        assert!(status.is_success(), "{answer}");
        self.is_current().await;
    }

    /// Something in a scope, so that it is known.
    async fn fill(&self, scope: &str) {
        let body = json!({"scope": scope, "upserts": [
            {"type_url": "a/b", "name": "x", "value": ""}]});
        let path = "/api/v1/xds/transactions";
        assert_eq!(send(&self.router(), "POST", path, &body.to_string()).await.0, StatusCode::OK);
        self.is_current().await;
    }
}

/// What both databases do alike.
async fn belonging(url: &str) {
    let server = Server::start(url).await;
    for scope in ["edge", "base", "last", "cluster-3"] {
        server.fill(scope).await;
    }
    assert_eq!(server.seen(&node("edge", "a", None)), "raw/edge edge");
    let edge = json!({"cluster_id": 3, "below": "base", "nodes": {"cluster": "edge-*"}});
    server.put_fleet("edge", edge).await;
    let whole = "raw/edge edge raw/cluster-3 cluster-3 raw/base base";
    assert_eq!(server.seen(&node("edge-1", "a", None)), whole);
    assert_eq!(server.seen(&node("edge", "a", None)), whole, "by its name as well");
    assert_eq!(server.seen(&node("other", "a", None)), "raw/last last");

    // The lowest rank goes first, and metadata select as well.
    let east = json!({"rank": -1, "nodes": {"id": "*-east-*", "metadata": {"zone": "e"}}});
    server.put_fleet("east", east).await;
    assert_eq!(server.seen(&node("edge-1", "a-east-1", Some("e"))), "", "it has nothing yet");
    server.fill("east").await;
    assert_eq!(server.seen(&node("edge-1", "a-east-1", Some("e"))), "raw/east east");
    for (id, zone) in [("a-east", Some("e")), ("a-east-1", Some("w")), ("a-east-1", None)] {
        assert_eq!(server.seen(&node("edge-1", id, zone)), whole, "{id} {zone:?}");
    }

    // A star is any text, and all else has to be there in its order.
    let order = json!({"rank": -2, "nodes": {"id": "b*c*d"}});
    server.put_fleet("last", order).await;
    for id in ["bcd", "b1c2d", "bcdcd"] {
        assert_eq!(server.seen(&node("edge-1", id, None)), "raw/last last", "{id}");
    }
    for id in ["bd", "bcde", "abcd", "bdc", "bc"] {
        assert_eq!(server.seen(&node("edge-1", id, None)), whole, "{id}");
    }

    // Written past the HTTP API, and valid or not.
    let sql = |definition: &str| {
        format!("UPDATE objects SET definition = '{definition}' WHERE name = 'edge'")
    };
    execute(url, &sql(r#"{"nodes": {"id": "a"}}"#)).await;
    until("the new selector", async || {
        (server.seen(&node("x", "a", None)) == "raw/edge edge").then_some(())
    })
    .await;
    execute(url, &sql(r#"{"colour": "red"}"#)).await;
    server.tells_of_invalid_rows(1).await;
    assert_eq!(server.seen(&node("x", "a", None)), "raw/edge edge", "it stays as it was");
    execute(url, "DELETE FROM objects").await;
    until("no fleets", async || server.app.fleets.fleets().is_empty().then_some(())).await;
    drop(server);
    Server::start(url).await;
}

#[tokio::test]
async fn nodes_belong_to_fleets() {
    belonging(&Sqlite::new().url()).await;
    belonging(&Postgres::start().url()).await;
}

/// A role needs rights on the table only, and whatever is done to it is noticed.
#[tokio::test]
async fn a_stranger_writes_to_postgres() {
    let postgres = Postgres::start();
    let server = Server::start(&postgres.url()).await;
    postgres.psql("CREATE ROLE guest LOGIN; GRANT SELECT, INSERT, UPDATE ON objects TO guest");
    let sql = "INSERT INTO objects (kind, name, definition) VALUES ('fleet', 'edge', '{}'), \
               ('fleet', 'east', '{\"rank\": 1}')";
    execute(&postgres.url_of("guest"), sql).await;
    let names = || server.app.fleets.fleets().keys().cloned().collect::<Vec<_>>();
    until("both fleets", async || (names() == ["east", "edge"]).then_some(())).await;
    let sql = "UPDATE objects SET name = 'west' WHERE name = 'east'";
    execute(&postgres.url_of("guest"), sql).await;
    until("the other name", async || (names() == ["edge", "west"]).then_some(())).await;
    let listed = send(&server.router(), "GET", FLEETS, "").await.1;
    assert_eq!(listed[1]["revision"], server.app.store.revision().await.unwrap());
    postgres.psql("TRUNCATE objects");
    until("no fleets", async || names().is_empty().then_some(())).await;
}

#[tokio::test]
async fn a_fleet_lives() {
    let sqlite = Sqlite::new();
    let router = Server::start(&sqlite.url()).await.router();
    let edge = format!("{FLEETS}/edge");
    let stored = json!({
        "name": "edge", "revision": 1, "cluster_id": null, "nodes": null, "rank": 0,
        "below": "base", "source": "ads", "validation": "errors",
        "pace": {"quiet_ms": 0, "longest_ms": 0, "per_second": 5},
        "rollout": null, "on_rejection": "keep", "identity": [],
    });
    let body = json!({"below": "base", "pace": {"per_second": 5}}).to_string();
    let created = send(&router, "PUT", &edge, &body).await;
    assert_eq!(created, (StatusCode::CREATED, stored.clone()));
    assert_eq!(send(&router, "GET", &edge, "").await, (StatusCode::OK, stored.clone()));
    assert_eq!(send(&router, "GET", FLEETS, "").await, (StatusCode::OK, json!([stored])));
    // What was read may be sent back.
    let (status, again) = send(&router, "PUT", &edge, &stored.to_string()).await;
    assert_eq!((status, &again["below"]), (StatusCode::OK, &json!("base")));
    let patch = json!({"below": null, "pace": {"quiet_ms": 7}}).to_string();
    let (status, patched) = send(&router, "PATCH", &edge, &patch).await;
    assert_eq!(status, StatusCode::OK);
    let pace = json!({"quiet_ms": 7, "longest_ms": 0, "per_second": 5});
    assert_eq!((&patched["below"], &patched["pace"]), (&Value::Null, &pace));
    assert_eq!(send(&router, "DELETE", &edge, "").await.0, StatusCode::NO_CONTENT);
    for method in ["GET", "DELETE", "PATCH"] {
        assert_eq!(send(&router, method, &edge, "{}").await.0, StatusCode::NOT_FOUND, "{method}");
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_fleet_is_named() {
    let sqlite = Sqlite::new();
    let router = Server::start(&sqlite.url()).await.router();
    let edge = format!("{FLEETS}/edge");
    for (body, field) in [
        (json!({"colour": "red"}), "colour"),
        (json!({"name": "other"}), "name"),
        (json!({"below": ""}), "below"),
        (json!({"below": "edge"}), "below"),
        (json!({"below": "raw/x"}), "below"),
        (json!({"below": "x~canary-1"}), "below"),
        (json!({"cluster_id": 0}), "cluster_id"),
        (json!({"cluster_id": "1"}), "cluster_id"),
        (json!({"nodes": {}}), "nodes"),
        (json!({"nodes": {"zone": "e"}}), "nodes.zone"),
        (json!({"source": "rest"}), "source"),
        (json!({"validation": "some"}), "validation"),
        (json!({"pace": {"per_second": 1001}}), "pace.per_second"),
        (json!({"pace": {"quiet_ms": -1}}), "pace.quiet_ms"),
        (json!({"on_rejection": "panic"}), "on_rejection"),
        (json!({"rollout": {}}), "rollout"),
        (json!({"rollout": {"canary": {}}}), "rollout.canary"),
        (json!({"rollout": {"canary": {"share": 0.5, "nodes": {"id": "a"}}}}), "rollout.canary"),
        (json!({"rollout": {"canary": {"share": 0}}}), "rollout.canary.share"),
        (json!({"rollout": {"canary": {"share": 1.5}}}), "rollout.canary.share"),
        (json!({"rollout": {"canary": {"share": "half"}}}), "rollout.canary.share"),
        (json!({"rollout": {"canary": {"nodes": {}}}}), "rollout.canary.nodes"),
        (json!({"rollout": {"canary": {"share": 1}, "timeout_ms": 0}}), "rollout.timeout_ms"),
        (
            json!({"rollout": {"canary": {"share": 1}, "settled_for_ms": 4_000_000}}),
            "rollout.settled_for_ms",
        ),
    ] {
        let (status, problem) = send(&router, "PUT", &edge, &body.to_string()).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{body}: {problem}");
        assert_eq!(problem["errors"][0]["field"], field, "{problem}");
    }
    let nothing = send(&router, "GET", &format!("{edge}/rollout"), "").await;
    assert_eq!(nothing.0, StatusCode::NOT_FOUND);
    let one = json!({"cluster_id": 1}).to_string();
    assert_eq!(send(&router, "PUT", &edge, &one).await.0, StatusCode::CREATED);
    let (status, problem) = send(&router, "PUT", &format!("{FLEETS}/b"), &one).await;
    assert_eq!(
        (status, &problem["errors"][0]["field"]),
        (StatusCode::CONFLICT, &json!("cluster_id"))
    );
    let other = json!({"cluster_id": 2}).to_string();
    let (status, _) = send(&router, "PUT", &format!("{FLEETS}/cluster-1"), &other).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
}

#[tokio::test]
async fn a_fleet_has_its_own_services() {
    let sqlite = Sqlite::new();
    let server = Server::start(&sqlite.url()).await;
    let router = server.router();
    server.put_fleet("edge", json!({"cluster_id": 3})).await;
    server.put_fleet("bare", json!({})).await;
    let service = |name: &str, fields: Value| {
        let mut body = json!({"name": name, "listener_port": 80, "upstream_port": 1,
                              "upstream_host": "127.0.0.1", "prefix": format!("/{name}")});
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        body.to_string()
    };
    let of = |fleet: &str| format!("{FLEETS}/{fleet}/services/");
    let a = service("a", json!({}));
    let (status, created) = send(&router, "POST", &of("edge"), &a).await;
    assert_eq!((status, &created["cluster_id"]), (StatusCode::CREATED, &json!(3)));
    let b = service("b", json!({"cluster_id": 3}));
    assert_eq!(send(&router, "POST", &of("cluster-3"), &b).await.0, StatusCode::CREATED);
    let c = service("c", json!({"cluster_id": 4}));
    let (status, problem) = send(&router, "POST", &of("edge"), &c).await;
    assert_eq!((status.as_u16(), &problem["errors"][0]["field"]), (422, &json!("cluster_id")));
    assert_eq!(send(&router, "POST", "/api/v1/services", &c).await.0, StatusCode::CREATED);
    let names = async |fleet: &str, query: &str| {
        let (status, rows) = send(&router, "GET", &format!("{}{query}", of(fleet)), "").await;
        assert_eq!(status, StatusCode::OK, "{rows}");
        let rows = rows.as_array().unwrap().clone();
        rows.iter().map(|row| row["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names("edge", "").await, ["a", "b"]);
    assert_eq!(names("edge", "?limit=1&after=1").await, ["b"]);
    assert_eq!(names("cluster-4", "").await, ["c"]);
    for (fleet, word) in [("bare", "cluster_id"), ("nobody", "no fleet")] {
        let (status, problem) = send(&router, "GET", &of(fleet), "").await;
        assert_eq!(status, StatusCode::NOT_FOUND);
        assert!(problem["detail"].as_str().unwrap().contains(word), "{problem}");
    }
}

/// Stores a service of a fleet, and returns the revision of that.
async fn create(server: &Server, cluster: i64, name: &str) -> i64 {
    let mut written = definition(name, 80, 1);
    (written.cluster_id, written.prefix) = (cluster, format!("/{name}"));
    server.app.store.create(written).await.unwrap().revision
}

#[tokio::test]
async fn a_fleet_with_a_pace_is_told_together_what_came_close_together() {
    let sqlite = Sqlite::new();
    let server = Server::start(&sqlite.url()).await;
    let create = async |cluster, name| create(&server, cluster, name).await;
    create(2, "first").await;
    let quiet = Duration::from_millis(1000);
    let pace = json!({"quiet_ms": quiet.as_millis(), "longest_ms": 10_000});
    server.put_fleet("slow", json!({"cluster_id": 1, "pace": pace})).await;
    let before = server.health.status().coalesced;
    let of_a = create(1, "a").await;
    create(2, "other").await;
    until("the other fleet", async || server.has(2, &TypeUrl::CLUSTER, "other").then_some(()))
        .await;
    let start = Instant::now();
    create(1, "b").await;
    until("it was read", async || (server.health.status().coalesced > before).then_some(())).await;
    assert!(!server.has(1, &TypeUrl::CLUSTER, "a"), "it waits");
    assert!(server.health.status().revision < of_a, "what waits is not there yet");
    until("both", async || server.has(1, &TypeUrl::CLUSTER, "b").then_some(())).await;
    assert!(start.elapsed() >= quiet && server.has(1, &TypeUrl::CLUSTER, "a"));
    server.is_current().await;
    assert_eq!(server.health.status().coalesced, before + 1);
}

/// Another server may have told its clients what was between: this one waits, or is asked to read all anew.
#[tokio::test]
async fn a_fleet_with_a_pace_has_what_went_back_before_it_was_told() {
    for (quiet_ms, is_asked) in [(2_000, false), (60_000, true)] {
        let sqlite = Sqlite::new();
        let server = Server::start(&sqlite.url()).await;
        let id = server.app.store.create(definition("a", 80, 1)).await.unwrap().id;
        server.is_current().await;
        let pace = json!({"cluster_id": 1, "pace": {"quiet_ms": quiet_ms}});
        server.put_fleet("slow", pace).await;
        let before = server.health.status().coalesced;
        for by in [1000, -1000] {
            let sql = format!(
                "UPDATE services SET connect_timeout_ms = connect_timeout_ms + ({by}) WHERE id = {id}"
            );
            execute(&sqlite.url(), &sql).await;
            let revision = server.app.store.revision().await.unwrap();
            let is_read = async || (server.health.status().read >= revision).then_some(());
            until("it is read", is_read).await;
        }
        assert_eq!(server.health.status().coalesced, before + 1);
        if is_asked {
            let _ = server.app.reloader.reload(None).await.unwrap();
        }
        server.is_current().await;
        assert_eq!(server.went_back(scope::of_cluster(1)), ["a"]);
    }
}

/// Who sees a fleet that is behind, and something else besides, is not to be told that all is there.
#[tokio::test]
async fn nothing_is_up_to_date_while_a_fleet_waits() {
    let sqlite = Sqlite::new();
    let server = Server::start(&sqlite.url()).await;
    let create = async |cluster, name| create(&server, cluster, name).await.unsigned_abs();
    create(1, "a").await;
    create(2, "b").await;
    server.is_current().await;
    server.put_fleet("slow", json!({"cluster_id": 1, "pace": {"quiet_ms": 60_000}})).await;
    create(1, "c").await;
    let last = create(2, "d").await;
    until("the other fleet", async || server.has(2, &TypeUrl::CLUSTER, "d").then_some(())).await;
    let source = |cluster| {
        let view = server.cache.view(&Arc::from([scope::of_cluster(cluster)]));
        view.source_revision(&TypeUrl::SECRET)
    };
    assert!(source(1) < Some(last) && source(2) < Some(last));
    let _ = server.app.reloader.reload(None).await.unwrap();
    assert_eq!((source(1), source(2)), (Some(last), Some(last)));
}

#[tokio::test]
async fn what_services_refer_to_comes_from_where_the_fleet_says() {
    let sqlite = Sqlite::new();
    let server = Server::start(&sqlite.url()).await;
    let body = json!({"name": "a", "listener_port": 80, "upstream_host": "127.0.0.1",
                      "upstream_port": 1});
    send(&server.router(), "POST", "/api/v1/services/", &body.to_string()).await;
    server.is_current().await;
    let of = |type_url| server.version(1, &type_url, "a");
    let (ads, endpoints) = (of(TypeUrl::CLUSTER), of(TypeUrl::ENDPOINT));
    server.put_fleet("cluster-1", json!({"source": "delta_grpc"})).await;
    let separate = of(TypeUrl::CLUSTER);
    assert!(separate.is_some() && separate != ads);
    assert_eq!(of(TypeUrl::ENDPOINT), endpoints);
    // So it is from the start.
    let other = Server::start(&sqlite.url()).await;
    assert_eq!(other.version(1, &TypeUrl::CLUSTER, "a"), separate);
    server.put_fleet("cluster-1", json!({})).await;
    assert_eq!(of(TypeUrl::CLUSTER), ads);
}
