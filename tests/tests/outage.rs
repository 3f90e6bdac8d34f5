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
    assert_eq!(healthz(&server), (200, "ok".to_owned()));

    postgres.stop();
    let (_, why) = wait_until("/healthz tells", RECOVERY, || {
        Some(healthz(&server)).filter(|(status, _)| *status == 503)
    });
    assert_ne!(why, "ok");
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
    wait_until("/healthz is content", RECOVERY, || {
        (healthz(&server) == (200, "ok".to_owned())).then_some(())
    });
    // It listens again, and does not only read once.
    postgres.psql(&database, &format!("UPDATE services SET upstream_port = {}", a.port()));
    shop.moves("/", &b, &a);
}

/// Its status, and what it says about the database.
fn healthz(server: &Deltaplane) -> (u16, String) {
    let answer = server.ask("GET", "/healthz", None);
    let database = answer.json()["database"].as_str().map(str::to_owned);
    (answer.status, database.unwrap_or_default())
}
