//! PostgreSQL goes away and comes back.

#![allow(missing_docs)]

use std::time::Duration;

use deltaplane_tests::{
    Deltaplane, Envoy, Listener, Postgres, Upstream, Variant, service, wait_until,
};

/// The server asks a lost database every two seconds.
const RECOVERY: Duration = Duration::from_secs(10);

#[test]
fn the_server_serves_on_without_its_database() {
    let mut postgres = Postgres::start();
    let database = postgres.create_database();
    let server = Deltaplane::start(&postgres.url(&database));
    let (a, b) = (Upstream::start("a"), Upstream::start("b"));
    let shop = Listener::reserve();
    server.create(&service::http("shop", &shop, &a));
    let _envoy = Envoy::start(&server.bootstrap("envoy-1", "cluster-1", Variant::Delta));
    shop.reaches("/", &a);
    assert_eq!(server.ask("GET", "/readyz", None).status, 200);

    postgres.stop();
    let why = wait_until("/readyz tells", RECOVERY, || {
        let answer = server.ask("GET", "/readyz", None);
        (answer.status == 503).then(|| answer.json()["errors"][0].clone())
    });
    assert_eq!(why["field"], "database", "{why}");
    // It is as good for Envoys as before: who routes them would take every server from them.
    let for_envoys = server.ask("GET", "/readyz?for=envoys", None);
    assert_eq!(for_envoys.status, 200, "{}", for_envoys.body);
    // It is alive all the same, and nobody should start it anew.
    let alive = server.ask("GET", "/healthz", None);
    assert_eq!((alive.status, &alive.json()["status"]), (200, &"degraded".into()));
    let services = server.ask("GET", "/api/v1/services/", None);
    assert_eq!(services.status, 503, "{}", services.body);
    assert!(services.body.contains("database"), "{}", services.body);

    // Who has its configuration keeps it, and who comes now gets it.
    shop.reaches("/", &a);
    let late = Envoy::start(&server.bootstrap("envoy-2", "cluster-1", Variant::Sotw));
    wait_until("a new Envoy is served", Duration::from_secs(5), || {
        (late.listeners() == [format!("listener-{}", shop.port())]).then_some(())
    });
    drop(late);

    postgres.resume();
    postgres.psql(&database, &format!("UPDATE services SET upstream_port = {}", b.port()));
    shop.moves_within("/", &a, &b, RECOVERY);
    wait_until("/readyz is content", RECOVERY, || {
        (server.ask("GET", "/readyz", None).status == 200).then_some(())
    });
    // It listens again, and does not only read once.
    postgres.psql(&database, &format!("UPDATE services SET upstream_port = {}", a.port()));
    shop.moves("/", &b, &a);
}
