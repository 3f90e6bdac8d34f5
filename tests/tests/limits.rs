//! What bounds the clients of a server, and its end.

#![allow(missing_docs, clippy::expect_used)]

use std::time::{Duration, Instant};

use deltaplane_tests::{
    Database, Deltaplane, Envoy, Kind, Listener, Upstream, Variant, service, wait_until,
};

const PATIENCE: Duration = Duration::from_secs(30);

fn envoy(server: &Deltaplane, id: &str) -> Envoy {
    Envoy::start(&server.bootstrap(id, "cluster-1", Variant::Delta))
}

#[test]
fn one_stream_too_many_is_refused_until_there_is_room() {
    let database = Database::create(Kind::Sqlite);
    let server = Deltaplane::start_with(&database.url(), &["--streams-max", "1"]);
    let (upstream, shop) = (Upstream::start("a"), Listener::reserve());
    server.create(&service::http("shop", &shop, &upstream));
    let first = envoy(&server, "first");
    shop.reaches("/", &upstream);
    let second = envoy(&server, "second");
    wait_until("it is refused", PATIENCE, || {
        (server.metric("deltaplane_xds_streams_refused_total") >= 1.0).then_some(())
    });
    assert_eq!(second.listeners(), [""; 0]);
    assert_eq!(first.stat("control_plane.connected_state"), 1, "who is there is served");
    drop(first);
    wait_until("there is room", PATIENCE, || (second.listeners().len() == 1).then_some(()));
}

#[test]
fn connections_grow_old_and_nothing_is_sent_again() {
    let database = Database::create(Kind::Sqlite);
    let server = Deltaplane::start_with(&database.url(), &["--connection-age-s", "1"]);
    let (upstream, shop) = (Upstream::start("a"), Listener::reserve());
    server.create(&service::http("shop", &shop, &upstream));
    let envoy = envoy(&server, "envoy-1");
    shop.reaches("/", &upstream);
    let updates = || {
        ["cluster_manager.cds.update_success", "listener_manager.lds.update_success"]
            .map(|name| envoy.stat(name))
    };
    let before = updates();
    wait_until("it has come back more than once", PATIENCE, || {
        let ended = server.metric("deltaplane_xds_connections_ended_total{reason=\"age\"}");
        (ended >= 2.0 && envoy.stat("cluster._deltaplane.upstream_cx_total") >= 3).then_some(())
    });
    wait_until("it is there", PATIENCE, || {
        (envoy.stat("control_plane.connected_state") == 1).then_some(())
    });
    assert_eq!(updates(), before);
}

/// Whoever does not take notice is not waited for longer than that.
#[test]
fn the_end_comes_in_time() {
    let database = Database::create(Kind::Sqlite);
    let mut server = Deltaplane::start_with(&database.url(), &["--shutdown-s", "1"]);
    let (upstream, shop) = (Upstream::start("a"), Listener::reserve());
    server.create(&service::http("shop", &shop, &upstream));
    let envoy = envoy(&server, "envoy-1");
    shop.reaches("/", &upstream);
    envoy.pause();
    let start = Instant::now();
    server.stop();
    let took = start.elapsed();
    envoy.resume();
    assert!(took < Duration::from_secs(4), "{took:?}");
}
