//! What was stored comes back, to real Envoys.

#![allow(missing_docs, clippy::expect_used, clippy::panic)]

use deltaplane_tests::listener::PATIENCE;
use deltaplane_tests::{
    Database, Deltaplane, Envoy, Kind, Listener, Upstream, Variant, service, wait_until,
};
use serde_json::{Value, json};

fn get(server: &Deltaplane, path: &str) -> Value {
    let answer = server.ask("GET", path, None);
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.json()
}

/// A deleted service, a moved one and a change that Envoy rejects are all undone by one
/// rollback, and the history tells who did what, and what Envoy said of it.
#[test]
fn a_rollback_reaches_an_envoy() {
    let database = Database::create(Kind::Postgres);
    let server = Deltaplane::start(&database.url());
    let (a, b) = (Upstream::start("a"), Upstream::start("b"));
    let (one, two) = (Listener::reserve(), Listener::reserve());
    let shop = server.create(&service::http("shop", &one, &a));
    let files = server.create(&service::http("files", &two, &b));
    let envoy = Envoy::start(&server.bootstrap("envoy-1", "cluster-1", Variant::Delta));
    one.reaches("/", &a);
    two.reaches("/", &b);
    let good = get(&server, "/healthz")["revision"].as_i64().expect("a number");

    server.patch(shop, &json!({"upstream_port": b.port()}));
    database.execute(&format!("DELETE FROM services WHERE id = {files}"));
    one.reaches("/", &b);
    two.closes("/");
    let fleet = server.ask("PUT", "/api/v1/fleets/cluster-1", Some("{\"validation\": \"none\"}"));
    assert_eq!(fleet.status, 201, "{}", fleet.body);
    // No machine here has this address, which only the Envoy can know.
    let bad = json!({"scope": "cluster-1", "label": "bad", "upserts": [{"resource": {
        "@type": "type.googleapis.com/envoy.config.listener.v3.Listener", "name": "elsewhere",
        "address": {"socket_address": {"address": "192.0.2.1", "port_value": 10000}},
        "filter_chains": [{"filters": [{"name": "echo", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo"}}]}],
    }}]});
    let stored = server.ask("POST", "/api/v1/xds/transactions", Some(&bad.to_string()));
    assert_eq!(stored.status, 200, "{}", stored.body);
    let path = format!("/api/v1/revisions/{}", stored.json()["revision"]);
    let rejected = wait_until("the rejection is noted", PATIENCE, || {
        let revision = get(&server, &path);
        let other = revision["delivery"][0]["others"][0].clone();
        (other["fate"] == "rejected").then_some(other)
    });
    assert_eq!(rejected["node"], "envoy-1");
    let words = rejected["rejections"][0]["message"].as_str().unwrap_or_default();
    assert!(words.contains("192.0.2.1"), "{rejected}");

    let done = server.run(&["rollback", &good.to_string(), "--wait", "--author", "ann"]);
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success() && said.contains("4 changes back to revision"), "{said}");
    one.reaches("/", &a);
    two.reaches("/", &b);
    let last = &get(&server, "/api/v1/revisions?limit=1")[0];
    assert_eq!((&last["author"], &last["back_to"]), (&json!("ann"), &json!(good)));
    wait_until("Envoy knows no other listener", PATIENCE, || {
        (envoy.stat("listener_manager.total_listeners_active") == 2).then_some(())
    });
}

/// What is beyond the bound of the settings goes by itself.
#[test]
fn the_history_ends_where_it_is_told_to() {
    let database = Database::create(Kind::Sqlite);
    let server = Deltaplane::start_with(&database.url(), &["--history-revisions", "3"]);
    for port in 1..9 {
        let service = json!({"name": format!("s{port}"), "listener_port": port,
            "upstream_host": "127.0.0.1", "upstream_port": 1});
        server.create(&service);
    }
    wait_until("the rest is dropped", PATIENCE, || {
        let revisions = get(&server, "/api/v1/revisions");
        (revisions.as_array().map(Vec::len) == Some(3)).then_some(())
    });
    let answer = server.run(&["rollback", "2"]);
    let said = String::from_utf8_lossy(&answer.stderr);
    assert_eq!(answer.status.code(), Some(1), "{said}");
    assert!(said.contains("the oldest revision that can be returned to is 6"), "{said}");
}
