//! A real Envoy routes by what is in the database, whoever wrote it there.

#![allow(missing_docs)]

use std::time::Duration;

use deltaplane_tests::{
    Database, Deltaplane, Envoy, Kind, Listener, Upstream, Variant, listener, service, wait_until,
};
use serde_json::json;

#[test]
fn delta_on_sqlite() {
    follows_the_database(Variant::Delta, Kind::Sqlite);
}

#[test]
fn delta_on_postgres() {
    follows_the_database(Variant::Delta, Kind::Postgres);
}

#[test]
fn sotw_on_sqlite() {
    follows_the_database(Variant::Sotw, Kind::Sqlite);
}

#[test]
fn sotw_on_postgres() {
    follows_the_database(Variant::Sotw, Kind::Postgres);
}

fn follows_the_database(variant: Variant, kind: Kind) {
    let database = Database::create(kind);
    let server = Deltaplane::start(&database.url());
    let (a, b, c) = (Upstream::start("a"), Upstream::start("b"), Upstream::start("c"));

    // Another fleet, with an Envoy of its own: it is left alone by all that follows.
    let other = Listener::reserve();
    let other_service =
        service::but(&service::http("other", &other, &c), &json!({"cluster_id": 2}));
    let other_id = server.create(&other_service);
    let other_envoy = Envoy::start(&server.bootstrap("envoy-2", "cluster-2", variant));
    other.reaches("/", &c);

    // A request reaches the upstream that the HTTP API named.
    let shop = Listener::reserve();
    let shop_service = service::http("shop", &shop, &a);
    let shop_id = server.create(&shop_service);
    let envoy = Envoy::start(&server.bootstrap("envoy-1", "cluster-1", variant));
    shop.reaches("/", &a);

    // PUT moves it, and so does a row that was changed past the server.
    server.replace(shop_id, &service::but(&shop_service, &json!({"upstream_port": b.port()})));
    shop.moves("/", &a, &b);
    database
        .execute(&format!("UPDATE services SET upstream_port = {} WHERE name = 'shop'", a.port()));
    shop.moves("/", &b, &a);

    // Services share a port by prefix; others are found by DNS, or want whole connections.
    let cart = service::but(&service::http("cart", &shop, &b), &json!({"prefix": "/cart"}));
    let cart_id = server.create(&cart);
    shop.reaches("/cart", &b);
    let (named, raw) = (Listener::reserve(), Listener::reserve());
    let by_name = json!({"upstream_host": "localhost"});
    server.create(&service::but(&service::http("named", &named, &b), &by_name));
    named.reaches("/", &b);
    server.create(&service::but(&service::http("raw", &raw, &b), &json!({"protocol": "tcp"})));
    raw.reaches("/", &b);

    // A health check, and another path for it, are in use at once, and no request suffers.
    for path in ["/healthy", "/healthier"] {
        let checked = service::but(&shop_service, &json!({"health_check_path": path}));
        server.replace(shop_id, &checked);
        wait_until(&format!("{path} is checked"), listener::PATIENCE, || {
            let answer = shop.get("/").map(|answer| (answer.status, answer.body));
            assert_eq!(answer, Some((200, "a".to_owned())), "while {path} comes into use");
            let warm = envoy.stat("cluster_manager.warming_clusters") == 0;
            (warm && a.requests(path) > 0).then_some(())
        });
    }

    // DELETE ends it: a part of a port, and then the whole port.
    server.delete(cart_id);
    shop.moves("/cart", &b, &a);
    server.delete(shop_id);
    shop.closes("/");
    assert_eq!(envoy.stat("cluster_manager.cds.update_rejected"), 0);
    assert_eq!(envoy.stat("listener_manager.lds.update_rejected"), 0);

    // The other Envoy heard nothing before what is its own, which comes last.
    server.replace(other_id, &service::but(&other_service, &json!({"upstream_port": a.port()})));
    other.moves("/", &c, &a);
    assert_eq!(other_envoy.clusters(), ["other"]);
    assert_eq!(other_envoy.listeners(), [format!("listener-{}", other.port())]);
    assert_eq!(other_envoy.stat("cluster_manager.cds.update_success"), 1);
    assert_eq!(other_envoy.stat("listener_manager.lds.update_success"), 1);
    assert!(!envoy.clusters().contains(&"other".to_owned()));
}

#[test]
fn delta_meets_the_unknown_with_silence() {
    is_silent_until_a_fleet_is_filled(Variant::Delta);
}

#[test]
fn sotw_meets_the_unknown_with_silence() {
    is_silent_until_a_fleet_is_filled(Variant::Sotw);
}

fn is_silent_until_a_fleet_is_filled(variant: Variant) {
    let database = Database::create(Kind::Sqlite);
    let server = Deltaplane::start(&database.url());
    let upstream = Upstream::start("a");
    let unknown = Envoy::start(&server.bootstrap("lonely", "cluster-9", variant));
    wait_until("it asks", Duration::from_secs(10), || {
        (unknown.stat("cluster_manager.cds.update_attempt") == 1).then_some(())
    });
    wait_until("the log warns", listener::PATIENCE, || {
        server.log_line(&["WARN", "lonely", "cluster-9", "nothing is known"])
    });

    // Another's answer is not its answer.
    let port = Listener::reserve();
    server.create(&service::http("shop", &port, &upstream));
    let _known = Envoy::start(&server.bootstrap("envoy-1", "cluster-1", variant));
    port.reaches("/", &upstream);
    assert_eq!(unknown.stat("cluster_manager.cds.update_success"), 0);

    // It moves when there is something for it, and the log says so.
    let late = Listener::reserve();
    let service = service::http("late", &late, &upstream);
    server.create(&service::but(&service, &json!({"cluster_id": 9})));
    late.reaches("/", &upstream);
    assert!(server.log_line(&["lonely", "moved", "to=cluster-9"]).is_some());
    assert_eq!(unknown.clusters(), ["late"]);
}
