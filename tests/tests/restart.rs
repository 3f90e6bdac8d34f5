//! The server restarts, and Envoy has what the database says: no more work than what changed meanwhile.

#![allow(missing_docs)]

use std::time::Duration;

use deltaplane_tests::{
    Database, Deltaplane, Envoy, Kind, Listener, Postgres, Upstream, Variant, service, wait_until,
};
use serde_json::json;

/// Envoy tries again after half a second at first, and later after longer.
const RECONNECT: Duration = Duration::from_secs(20);

#[test]
fn delta_on_sqlite() {
    survives_restarts(Variant::Delta, Kind::Sqlite);
}

#[test]
fn delta_on_postgres() {
    survives_restarts(Variant::Delta, Kind::Postgres);
}

#[test]
fn sotw_on_sqlite() {
    survives_restarts(Variant::Sotw, Kind::Sqlite);
}

#[test]
fn sotw_on_postgres() {
    survives_restarts(Variant::Sotw, Kind::Postgres);
}

fn survives_restarts(variant: Variant, kind: Kind) {
    let database = Database::create(kind);
    let mut server = Deltaplane::start(&database.url());
    let (a, b) = (Upstream::start("a"), Upstream::start("b"));

    let (stays, moves, goes) = (Listener::reserve(), Listener::reserve(), Listener::reserve());
    let stays_service = service::http("stays", &stays, &a);
    let stays_id = server.create(&stays_service);
    server.create(&service::http("moves", &moves, &a));
    server.create(&service::http("goes", &goes, &a));
    let last = Listener::reserve();
    let fleet_2 = json!({"cluster_id": 2});
    let last_service = service::but(&service::http("last", &last, &a), &fleet_2);
    let last_id = server.create(&last_service);

    let envoy = Envoy::start(&server.bootstrap("envoy-1", "cluster-1", variant));
    let emptied = Envoy::start(&server.bootstrap("envoy-2", "cluster-2", variant));
    for listener in [&stays, &moves, &goes, &last] {
        listener.reaches("/", &a);
    }

    // Nothing changed: the Envoys come back, and are told nothing. The next changes are of endpoints,
    // and what was sent before them would arrive before them.
    let before = (updates(&envoy), updates(&emptied));
    server.stop();
    for envoy in [&envoy, &emptied] {
        wait_until("Envoy notices", RECONNECT, || connected(envoy, 0));
    }
    server.resume();
    for (envoy, name) in [(&envoy, "envoy-1"), (&emptied, "envoy-2")] {
        wait_until("Envoy is back", RECONNECT, || connected(envoy, 1));
        wait_until("so says the log", RECONNECT, || server.log_line(&["client connected", name]));
    }
    let elsewhere = json!({"upstream_port": b.port()});
    server.replace(stays_id, &service::but(&stays_service, &elsewhere));
    server.replace(last_id, &service::but(&last_service, &elsewhere));
    stays.moves("/", &a, &b);
    last.moves("/", &a, &b);
    assert_eq!((updates(&envoy), updates(&emptied)), before);

    // Rows change and go while nobody looks: one of many, and the last of a fleet.
    server.stop();
    database
        .execute(&format!("UPDATE services SET upstream_port = {} WHERE name = 'moves'", b.port()));
    database.execute("DELETE FROM services WHERE name IN ('goes', 'last')");
    server.resume();
    moves.moves_within("/", &a, &b, RECONNECT);
    goes.closes_within("/", RECONNECT);
    last.closes_within("/", RECONNECT);
    wait_until("the clusters are gone, too", RECONNECT, || {
        let gone = envoy.clusters().len() == 2 && emptied.clusters().is_empty();
        gone.then_some(())
    });
    assert_eq!(emptied.listeners(), [""; 0]);
    stays.reaches("/", &b);

    // A client that never was here before is told the same.
    let fresh = Envoy::start(&server.bootstrap("envoy-3", "cluster-2", variant));
    wait_until("a fresh Envoy is told that its fleet is empty", RECONNECT, || {
        (fresh.stat("listener_manager.lds.update_success") == 1).then_some(())
    });
    assert_eq!(fresh.clusters(), [""; 0]);
}

/// A client that leaves because the server ends says nothing of what it was sent.
#[test]
fn who_ends_notes_nothing() {
    let postgres = Postgres::shared();
    let database = postgres.create_database();
    let settings = ["--shutdown-s", "1"];
    let mut server = Deltaplane::start_with(&postgres.url(&database), &settings);
    let (upstream, shop, cart) = (Upstream::start("a"), Listener::reserve(), Listener::reserve());
    server.create(&service::http("shop", &shop, &upstream));
    let envoy = Envoy::start(&server.bootstrap("envoy-1", "cluster-1", Variant::Delta));
    shop.reaches("/", &upstream);
    envoy.pause();
    let id = server.create(&service::http("cart", &cart, &upstream));
    let service = server.ask("GET", &format!("/api/v1/services/{id}"), None).json();
    wait_until("it is served", RECONNECT, || {
        let served = server.ask("GET", "/healthz", None).json()["revision"].clone();
        (served == service["revision"]).then_some(())
    });
    let log = server.stop();
    assert!(!log.contains("cannot be noted"), "{log}");
    let sql = format!("SELECT count(*) FROM deliveries WHERE revision >= {}", service["revision"]);
    assert_eq!(postgres.psql(&database, &sql).trim(), "0");
}

fn updates(envoy: &Envoy) -> [u64; 2] {
    ["cluster_manager.cds.update_success", "listener_manager.lds.update_success"]
        .map(|name| envoy.stat(name))
}

fn connected(envoy: &Envoy, state: u64) -> Option<()> {
    (envoy.stat("control_plane.connected_state") == state).then_some(())
}
