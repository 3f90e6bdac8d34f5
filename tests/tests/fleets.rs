//! Fleets that differ in who belongs to them and how they are served, with real Envoys.

#![allow(missing_docs, clippy::expect_used, clippy::panic)]

use deltaplane_tests::listener::PATIENCE;
use deltaplane_tests::{
    Database, Deltaplane, Envoy, Kind, Listener, Upstream, Variant, service, wait_until,
};
use serde_json::{Value, json};

fn put(server: &Deltaplane, fleet: &str, settings: &Value) {
    let path = format!("/api/v1/fleets/{fleet}");
    let answer = server.ask("PUT", &path, Some(&settings.to_string()));
    assert!(matches!(answer.status, 200 | 201), "{}", answer.body);
}

/// A node goes where its fleet's selector leads it, with what is below, and moves when that changes.
#[test]
fn a_node_moves_with_its_fleet() {
    let database = Database::create(Kind::Sqlite);
    let server = Deltaplane::start(&database.url());
    let (a, b, base) = (Upstream::start("a"), Upstream::start("b"), Upstream::start("base"));
    let (own, below) = (Listener::reserve(), Listener::reserve());
    let on = |name: &str, id: i64, listener: &Listener, upstream: &Upstream| {
        let service = service::http(name, listener, upstream);
        server.create(&service::but(&service, &json!({"cluster_id": id})));
    };
    on("of-a", 1, &own, &a);
    on("of-b", 2, &own, &b);
    on("shared", 9, &below, &base);
    put(
        &server,
        "east",
        &json!({"cluster_id": 1, "below": "cluster-9", "nodes": {"id": "edge-*"}}),
    );
    put(&server, "west", &json!({"cluster_id": 2, "rank": 1, "nodes": {"cluster": "*"}}));
    let envoy = Envoy::start(&server.bootstrap("edge-7", "anything", Variant::Delta));
    own.reaches("/", &a);
    below.reaches("/", &base);

    put(&server, "west", &json!({"cluster_id": 2, "rank": -1, "nodes": {"cluster": "*"}}));
    own.moves("/", &a, &b);
    below.closes("/");
    put(&server, "west", &json!({"cluster_id": 2, "rank": 1, "nodes": {"cluster": "*"}}));
    own.moves("/", &b, &a);
    below.reaches("/", &base);
    for kind in ["cluster_manager.cds", "listener_manager.lds"] {
        assert_eq!(envoy.stat(&format!("{kind}.update_rejected")), 0, "{kind}");
    }
}

/// An Envoy without ADS gets each kind from a stream of its own.
#[test]
fn separate_sources() {
    for (variant, source) in [(Variant::Delta, "delta_grpc"), (Variant::Sotw, "grpc")] {
        let database = Database::create(Kind::Sqlite);
        let server = Deltaplane::start(&database.url());
        put(&server, "cluster-1", &json!({"source": source}));
        let (port, a, b) = (Listener::reserve(), Upstream::start("a"), Upstream::start("b"));
        let shop = service::http("shop", &port, &a);
        let id = server.create(&shop);
        let bootstrap = server.bootstrap_with("envoy-1", "cluster-1", variant, &["--separate"]);
        let envoy = Envoy::start(&bootstrap);
        port.reaches("/", &a);
        server.patch(id, &json!({"upstream_port": b.port()}));
        port.moves("/", &a, &b);
        assert!(!bootstrap.contains("ads"), "{bootstrap}");
        drop(envoy);
    }
}

/// A burst of changes reaches a fleet that has a pace in few updates.
#[test]
fn a_burst_is_few_updates() {
    let database = Database::create(Kind::Sqlite);
    let server = Deltaplane::start(&database.url());
    put(&server, "cluster-1", &json!({"pace": {"quiet_ms": 200, "longest_ms": 2000}}));
    let (port, a) = (Listener::reserve(), Upstream::start("a"));
    let shop = service::http("shop", &port, &a);
    server.create(&shop);
    let envoy = Envoy::start(&server.bootstrap("envoy-1", "cluster-1", Variant::Delta));
    port.reaches("/", &a);
    let before = envoy.stat("cluster_manager.cds.update_success");
    for i in 0..20 {
        let other = json!({"name": format!("s{i}"), "prefix": format!("/{i}")});
        server.create(&service::but(&shop, &other));
    }
    port.reaches("/19", &a);
    wait_until("all of them", PATIENCE, || (envoy.clusters().len() == 21).then_some(()));
    let updates = envoy.stat("cluster_manager.cds.update_success") - before;
    assert!(updates <= 10, "{updates} updates for 20 services");
}

/// Raw resources in YAML, and an answer that waits for who gets them.
#[test]
fn yaml_and_waiting() {
    let database = Database::create(Kind::Sqlite);
    let server = Deltaplane::start(&database.url());
    let post = |yaml: &str| {
        let answer = server.send("/api/v1/xds/transactions", "application/yaml", yaml);
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json()
    };
    let cluster = |name: &str, more: &str| {
        format!(
            "scope: edge
wait: {{settled: 1, timeout_ms: 20000}}
upserts:
- resource:
    '@type': type.googleapis.com/envoy.config.cluster.v3.Cluster
    name: {name}
    connect_timeout: 1s
{more}"
        )
    };
    let nobody = post(&cluster("first", ""));
    assert_eq!(nobody["delivery"], json!({"settled": true, "clients": []}));
    let envoy = Envoy::start(&server.bootstrap("edge-1", "edge", Variant::Delta));
    wait_until("the first", PATIENCE, || (envoy.clusters() == ["first"]).then_some(()));
    let good = post(&cluster("good", ""));
    assert_eq!(good["delivery"]["settled"], true, "{good}");
    let told = &good["delivery"]["clients"][0];
    assert_eq!((&told["node"], &told["fate"]), (&json!("edge-1"), &json!("settled")));
    assert!(envoy.clusters().contains(&"good".to_owned()), "it is there when the answer is");

    // What no rule finds, Envoy may; and its words come back.
    let bad = post(&cluster("bad", "    type: EDS\n"));
    let told = &bad["delivery"]["clients"][0];
    assert_eq!((&bad["delivery"]["settled"], &told["fate"]), (&json!(false), &json!("rejected")));
    assert!(told["rejections"][0]["message"].as_str().expect("words").contains("bad"), "{bad}");
    let fixed = post(&cluster("bad", ""));
    assert_eq!(fixed["delivery"]["settled"], true, "{fixed}");
}
