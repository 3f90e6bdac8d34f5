//! Real Envoys that reject what they are sent, over the library's server, in this process: both
//! variants, with all types on one stream, and with a stream for each subscription.

#![allow(missing_docs, clippy::panic)]

use std::slice::from_ref;

use deltaplane_server::{TypeUrl, Variant};
use deltaplane_tests::envoy::mesh::{Mesh, RECONNECT, in_modes};
use deltaplane_tests::envoy::mistakes::{GoodServices, Mistake};
use deltaplane_tests::envoy::mode::Mode;
use deltaplane_tests::envoy::resources::{
    cluster, cluster_from_nowhere, endpoints, endpoints_beyond_all, listener, routes,
};
use deltaplane_tests::envoy::traffic::Traffic;
use deltaplane_tests::{port, wait_until};

const CDS: TypeUrl = TypeUrl::CLUSTER;
const EDS: TypeUrl = TypeUrl::ENDPOINT;
const LDS: TypeUrl = TypeUrl::LISTENER;
const RDS: TypeUrl = TypeUrl::ROUTE;

#[test]
fn cluster_among_good_ones() {
    in_modes(Mode::ALL, |mesh| {
        let (plane, mode, front) = (&mesh.plane, mesh.mode, &mesh.ports.front);
        let record = plane.record();
        let traffic = Traffic::start(front.port(), "/");
        // What a response of clusters has in it: what is new, or everything.
        let response = |new: &[&str], old: &[&str]| {
            let old = if mode.variant == Variant::Delta { &[] } else { old };
            let mut names: Vec<_> = new.iter().chain(old).map(ToString::to_string).collect();
            names.sort();
            (names, vec![])
        };

        let others_endpoints = || ["main", "extra", "secure"].map(|name| record.times(&EDS, name));
        let told = others_endpoints();

        let good = [cluster(mode, "good", 5), endpoints("good", mesh.b.port())];
        plane.put([&good[..], &[cluster_from_nowhere("bad")]].concat());
        let (names, words) = record.rejects(&CDS);
        assert_eq!(names, ["bad", "good"]);
        let expected = "Error adding/updating cluster(s) bad: \
                        cannot create an EDS cluster without an EDS config";
        assert_eq!(words, expected);
        mesh.has(&mesh.content_with(&good));

        // Other clusters come, and routes; the bad one does not come again.
        let later = [cluster(mode, "later", 5), endpoints("later", mesh.b.port())];
        plane.put(later.clone());
        let all = [&good[..], &later].concat();
        mesh.has(&mesh.content_with(&all));
        plane.put([routes("front", &[("/good", "good"), ("/later", "later"), ("/", "main")])]);
        front.reaches("/good", &mesh.b);
        front.reaches("/later", &mesh.b);
        record.settles();
        let sent = record.sent(&CDS);
        assert_eq!(sent.len(), 3, "the first, the rejected, and what came later: {sent:?}");
        assert_eq!(sent.last(), Some(&response(&["later"], &["extra", "good", "main", "secure"])));

        // With a new `bad`, `good` is told again, which was in the same response.
        let fixed = [cluster(mode, "bad", 5), endpoints("bad", mesh.b.port())];
        plane.put(fixed.clone());
        let all = [&all[..], &fixed].concat();
        mesh.has(&mesh.content_with(&all));
        record.settles();
        let sent = record.sent(&CDS);
        assert_eq!(sent.len(), 4, "{sent:?}");
        let old = ["extra", "later", "main", "secure"];
        assert_eq!(sent.last(), Some(&response(&["bad", "good"], &old)));
        assert_eq!(record.rejections(&CDS).len(), 1);
        assert_eq!(mesh.envoy.stat("cluster_manager.cds.update_rejected"), 1);
        assert_eq!(others_endpoints(), told, "nobody else's endpoints were told again");
        traffic.ends_well();
    });
}

#[test]
fn cluster_that_is_in_use() {
    in_modes(Mode::ALL, |mesh| is_rejected(&mesh, Mistake::cluster));
}

#[test]
fn endpoints_that_are_in_use() {
    in_modes(Mode::ALL, |mesh| is_rejected(&mesh, Mistake::endpoints));
}

#[test]
fn impossible_listener() {
    in_modes(Mode::ALL, |mesh| is_rejected(&mesh, Mistake::listener));
}

#[test]
fn routes_that_are_in_use() {
    in_modes(Mode::ALL, |mesh| is_rejected(&mesh, Mistake::routes));
}

#[test]
fn routes_that_envoy_does_not_name() {
    in_modes(Mode::ALL, |mesh| is_rejected(&mesh, Mistake::nameless_routes));
}

/// Ten good services change in the same transaction. Nobody takes anything back, so the mistake stays. It is
/// told once, or as often as it takes to find it among the good ones; then nothing is said of it again until
/// it is mended, whatever else is.
fn is_rejected(mesh: &Mesh, mistake: fn(&Mesh) -> Mistake) {
    let (plane, mode, record) = (&mesh.plane, mesh.mode, mesh.plane.record());
    let traffic = Traffic::start(mesh.ports.front.port(), "/");
    let (mistake, services) = (mistake(mesh), GoodServices::reserve());
    let [first, changed] = [services.at_first(mesh), services.changed(mesh)];
    plane.put(first.clone());
    services.are_used(mesh, false);
    record.settles();

    let revision = plane.put([&changed[..], from_ref(&mistake.bad)].concat());
    services.are_used(mesh, true);
    let rejected = plane.rejected(revision);
    let [(client, rejection)] = &rejected[..] else { panic!("once, and not {rejected:#?}") };
    assert_eq!(client.node.id, mode.name());
    assert!(mistake.is_told(&rejection.error.message), "{rejection:?}");
    let blamed = if rejection.blamed.is_empty() { &rejection.names } else { &rejection.blamed };
    assert!(blamed.iter().eq([mistake.bad.name()]), "{rejection:?}");

    // Others of each type come, each with one response, or two: endpoints follow their cluster.
    record.settles();
    let types = [CDS, EDS, LDS, RDS];
    let rejections = || types.each_ref().map(|type_url| record.rejections(type_url).len());
    let rejected_before = rejections();
    let count = rejected_before.iter().sum::<usize>();
    println!("{}: {count} rejections", mode.name());
    assert!((1..=mistake.rejections).contains(&count), "{count} rejections");
    let sent = || types.each_ref().map(|type_url| record.sent(type_url).len());
    let before = sent();
    let extra = port::reserve();
    plane.put([cluster(mode, "extra", 7)]);
    mesh.uses_timeout("extra", 7);
    plane.put([endpoints("extra", mesh.a.port())]);
    mesh.ports.side.moves("/", &mesh.b, &mesh.a);
    plane.put([routes("side", &[("/more", "main"), ("/", "extra")])]);
    mesh.uses(&RDS, "side", "/more");
    plane.put([listener(mode, "extra", extra, "side")]);
    mesh.uses(&LDS, "extra", "\"route_config_name\":\"side\"");
    record.settles();
    let after = sent();
    let said = [0, 1, 2, 3].map(|at| after[at] - before[at]);
    assert_eq!(said, [1, 2, 1, 1], "{types:?}");
    assert_eq!((plane.rejected(revision).len(), rejections()), (1, rejected_before));

    let revision = plane.put([mistake.mended.clone()]);
    plane.delivers(revision);
    let all = [first, changed, vec![mistake.mended, listener(mode, "extra", extra, "side")]];
    mesh.has(&mesh.content_with(&all.concat()));
    services.are_used(mesh, true);
    record.settles();
    assert_eq!(rejections(), rejected_before, "{types:?}");
    traffic.ends_well();
}

#[test]
fn endpoints_that_others_wait_with() {
    in_modes(Mode::ALL, are_waited_for);
}

/// On an aggregated stream, Envoy tells every cluster that waits for endpoints that some were rejected,
/// and it waits no longer, with none. Those are sent again (N-13). On a stream of their own, endpoints
/// concern their cluster alone.
fn are_waited_for(mesh: Mesh) {
    let (plane, mode, record) = (&mesh.plane, mesh.mode, mesh.plane.record());
    let new = [cluster(mode, "new", 5), endpoints("new", mesh.b.port())];
    let [new_cluster, new_endpoints] = new.clone();
    plane.put([
        cluster(mode, "main", 7),
        new_cluster,
        new_endpoints,
        cluster(mode, "extra", 7),
        endpoints_beyond_all("extra", mesh.b.port()),
        routes("front", &[("/new", "new"), ("/", "main")]),
    ]);
    let (_, words) = record.rejects(&EDS);
    assert!(words.contains("Priority: value must be less than or equal to 128"), "{words}");
    mesh.ports.front.reaches("/new", &mesh.b);
    mesh.ports.front.reaches("/", &mesh.a);
    plane.put([endpoints("extra", mesh.a.port())]);
    mesh.ports.side.reaches("/", &mesh.a);
    mesh.uses_timeout("main", 7);
    mesh.uses_timeout("extra", 7);
    mesh.has(&mesh.content_with(&new));
}

#[test]
fn cut_off_before_it_is_repaired() {
    in_modes(Mode::ALL, is_cut_off);
}

/// Envoy runs the good part of what it rejected and reports the version before. Who remembers the
/// rejection does not believe it.
fn is_cut_off(mut mesh: Mesh) {
    let mode = mesh.mode;
    mesh.plane.put([cluster(mode, "main", 9), cluster_from_nowhere("bad")]);
    mesh.plane.record().rejects(&CDS);
    mesh.uses_timeout("main", 9);
    mesh.plane.cut();
    mesh.plane.change([cluster(mode, "main", 5)], [(CDS, "bad")]);
    mesh.plane.resume();
    wait_until("Envoy is back", RECONNECT, || {
        (mesh.plane.record().subscriptions(&CDS) == 2).then_some(())
    });
    mesh.uses_timeout("main", 5);
    mesh.has(&mesh.content());
}

/// The server that knows of the rejection is killed, and another one sees that what Envoy says it has was something
/// else meanwhile: that is sent again, and what came and went is removed.
#[test]
fn killed_while_it_is_changed_back_at_another_server() {
    in_modes(Mode::ALL, |mut mesh| {
        let mode = mesh.mode;
        let before = mesh.content();
        let new = endpoints("new", mesh.a.port());
        mesh.plane.put([new.clone()]);
        let bad = [cluster(mode, "main", 9), cluster(mode, "new", 9), cluster_from_nowhere("bad")];
        mesh.plane.put(bad.clone());
        mesh.plane.record().rejects(&CDS);
        mesh.uses_timeout("main", 9);
        mesh.uses_timeout("new", 9);
        mesh.plane.kill(before);
        mesh.plane.put([new].into_iter().chain(bad));
        mesh.plane.change([cluster(mode, "main", 5)], [(CDS, "new"), (CDS, "bad"), (EDS, "new")]);
        mesh.plane.resume();
        let record = mesh.plane.record();
        wait_until("Envoy is back", RECONNECT, || (record.subscriptions(&CDS) == 1).then_some(()));
        mesh.uses_timeout("main", 5);
        mesh.has(&mesh.content());
    });
}

/// Nobody knows of the rejection, nor of what was between, and Envoy keeps what it should not have until that is changed: it runs what it
/// rejected, and tells a new stream the version before.
#[test]
fn killed_before_it_is_repaired() {
    in_modes(Mode::ALL, |mut mesh| {
        let mode = mesh.mode;
        mesh.plane.put([cluster(mode, "main", 9), cluster_from_nowhere("bad")]);
        mesh.plane.record().rejects(&CDS);
        mesh.uses_timeout("main", 9);
        let content = mesh.content();
        mesh.plane.kill(content);
        mesh.plane.resume();
        let record = mesh.plane.record();
        wait_until("Envoy is back", RECONNECT, || (record.subscriptions(&CDS) == 1).then_some(()));
        // Envoy says that it has the clusters that this server has.
        mesh.plane.put([endpoints("extra", mesh.a.port())]);
        mesh.ports.side.moves_within("/", &mesh.b, &mesh.a, RECONNECT);
        record.settles();
        assert_eq!(record.sent(&CDS), []);
        mesh.uses_timeout("main", 9);
        mesh.plane.put([cluster(mode, "main", 7)]);
        mesh.uses_timeout("main", 7);
    });
}
