//! Commits that real Envoys reject, each with ten good services beside the bad resource, are taken back by
//! themselves under constant load, of which no request fails. What becomes of them otherwise is in
//! `envoy_rejections.rs`.

#![allow(missing_docs, clippy::panic)]

use std::slice::from_ref;

use deltaplane_server::{TypeUrl, Withdrawal};
use deltaplane_tests::envoy::mesh::{Mesh, RECONNECT, in_modes};
use deltaplane_tests::envoy::mistakes::{GoodServices, Mistake};
use deltaplane_tests::envoy::mode::Mode;
use deltaplane_tests::load::{self, Load, Plan};
use deltaplane_tests::wait_until;

/// How often each is tried.
const ROUNDS: usize = 10;

#[test]
fn a_bad_cluster_is_taken_back() {
    under_load(|mesh| is_taken_back(mesh, Mistake::cluster));
}

#[test]
fn bad_endpoints_are_taken_back() {
    under_load(|mesh| is_taken_back(mesh, Mistake::endpoints));
}

#[test]
fn an_impossible_listener_is_taken_back() {
    under_load(|mesh| is_taken_back(mesh, Mistake::listener));
}

#[test]
fn bad_routes_are_taken_back() {
    under_load(|mesh| is_taken_back(mesh, Mistake::routes));
}

fn under_load(scenario: fn(Mesh)) {
    let _turn = load::alone();
    in_modes(Mode::AGGREGATED, scenario);
}

fn is_taken_back(mut mesh: Mesh, mistake: fn(&Mesh) -> Mistake) {
    mesh.plane.withdraw_rejected();
    wait_until("Envoy is back", RECONNECT, || {
        (mesh.plane.record().subscriptions(&TypeUrl::ROUTE) > 1).then_some(())
    });
    mesh.plane.record().settles();
    let load = Load::start(Plan::constant(mesh.ports.front.port(), &["/"]));
    load.reaches("/", &mesh.a);

    let (mistake, services) = (mistake(&mesh), GoodServices::reserve());
    let [first, changed] = [services.at_first(&mesh), services.changed(&mesh)];
    mesh.plane.put(first.clone());
    services.are_used(&mesh, false);
    for round in 1..=ROUNDS {
        // Of what was taken back, the server takes nothing any more, unless one insists.
        let revision = mesh.plane.insist([&changed[..], from_ref(&mistake.bad)].concat());
        let withdrawals = wait_until("it is taken back", RECONNECT, || {
            Some(mesh.plane.withdrawals()).filter(|all| all.len() == round)
        });
        let Withdrawal { culprit, commit, rejection, .. } = &withdrawals[round - 1];
        let words = &rejection.error.message;
        assert!(mistake.is_told(words), "{words}");
        assert_eq!(*culprit, revision);
        mesh.has(&mesh.content_with(&first));
        services.are_used(&mesh, false);
        mesh.plane.delivers(commit.revision);
    }

    // Nothing is held against the good ones, nor against the bad one when it is as it should be.
    mesh.plane.put(changed.clone());
    services.are_used(&mesh, true);
    let revision = mesh.plane.put([mistake.mended.clone()]);
    mesh.has(&mesh.content_with(&[first, changed, vec![mistake.mended]].concat()));
    mesh.plane.delivers(revision);
    assert_eq!(mesh.plane.withdrawals().len(), ROUNDS);
    load.ends_well();
}
