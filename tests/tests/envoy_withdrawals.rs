//! Commits that real Envoys reject, each with good resources beside the bad one, are taken back by
//! themselves while requests flow.

#![allow(missing_docs, clippy::panic)]

use deltaplane_server::{HowMany, Resource, TypeUrl};
use deltaplane_tests::envoy_mesh::{Mesh, RECONNECT, in_modes};
use deltaplane_tests::envoy_mode::Mode;
use deltaplane_tests::envoy_resources::{
    ambiguous_routes, cluster, cluster_from_nowhere, endpoints, endpoints_beyond_all,
    listener_without_filters,
};
use deltaplane_tests::envoy_traffic::Traffic;
use deltaplane_tests::{port, wait_until};

#[test]
fn a_bad_cluster_is_taken_back() {
    in_modes(Mode::AGGREGATED, |mesh| is_taken_back(mesh, cluster_from_nowhere("bad")));
}

#[test]
fn bad_endpoints_are_taken_back() {
    in_modes(Mode::AGGREGATED, |mesh| {
        let bad = endpoints_beyond_all("main", mesh.a.port());
        is_taken_back(mesh, bad);
    });
}

#[test]
fn a_bad_listener_is_taken_back() {
    in_modes(Mode::AGGREGATED, |mesh| {
        is_taken_back(mesh, listener_without_filters("bad", port::reserve()));
    });
}

#[test]
fn bad_routes_are_taken_back() {
    in_modes(Mode::AGGREGATED, |mesh| {
        is_taken_back(mesh, ambiguous_routes("front", &[("/", "main")]));
    });
}

/// Commits this among ten good clusters with their endpoints.
fn is_taken_back(mut mesh: Mesh, bad: Resource) {
    mesh.plane.withdraw_rejected();
    wait_until("Envoy is back", RECONNECT, || {
        (mesh.plane.record().subscriptions(&TypeUrl::ROUTE) > 1).then_some(())
    });
    mesh.plane.record().settles();
    let traffic = Traffic::start(mesh.ports.front.port(), "/");
    let names: Vec<_> = (0..10).map(|i| format!("good-{i}")).collect();
    let good =
        names.iter().flat_map(|name| [cluster(mesh.mode, name, 5), endpoints(name, mesh.b.port())]);
    let revision = mesh.plane.put(good.chain([bad]));
    let withdrawal = wait_until("it is taken back", RECONNECT, || mesh.plane.withdrawals().pop());
    println!("{}: {}", mesh.mode.name(), withdrawal.rejection.error.message);
    assert_eq!(withdrawal.culprit, revision);
    mesh.has(&mesh.content());
    assert!(mesh.plane.delivery(withdrawal.commit.revision).has_settled(HowMany::All));
    // What comes next flows, and the good ones may come without the bad one.
    let again = [cluster(mesh.mode, "good-0", 7), endpoints("good-0", mesh.b.port())];
    mesh.plane.put(again.clone());
    mesh.has(&mesh.content_with(&again));
    traffic.ends_well();
}
