//! Real Envoys that reject what they are sent, over the library's server, in this process: both
//! variants, with all types on one stream, and with a stream for each subscription.

#![allow(missing_docs, clippy::panic)]

use deltaplane_server::{TypeUrl, Variant};
use deltaplane_tests::envoy_mesh::{Mesh, RECONNECT, in_modes};
use deltaplane_tests::envoy_mode::Mode;
use deltaplane_tests::envoy_resources::{
    ambiguous_routes, cluster, cluster_from_nowhere, endpoints, endpoints_beyond_all, listener,
    listener_without_filters, routes,
};
use deltaplane_tests::envoy_traffic::Traffic;
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
fn listener_routes_and_endpoints() {
    in_modes(Mode::ALL, |mesh| {
        let (plane, mode, ports) = (&mesh.plane, mesh.mode, &mesh.ports);
        let (record, front, side) = (plane.record(), &ports.front, &ports.side);
        let traffic = [front, side].map(|listener| Traffic::start(listener.port(), "/"));

        plane.put([listener_without_filters("side", side.port())]);
        let (names, words) = record.rejects(&LDS);
        assert_eq!(names, ["side"]);
        assert!(words.starts_with("Error adding/updating listener(s) side: "), "{words}");
        assert!(words.ends_with("no filter chains specified\n"), "{words}");

        plane.put([ambiguous_routes("front", &[("/", "extra")])]);
        let (names, words) = record.rejects(&RDS);
        assert_eq!(names, ["front"]);
        assert_eq!(words, "Only a single wildcard domain is permitted in route front");

        plane.put([endpoints_beyond_all("main", mesh.b.port())]);
        let (names, words) = record.rejects(&EDS);
        assert_eq!(names, ["main"]);
        assert!(words.contains("Priority: value must be less than or equal to 128"), "{words}");

        // Others of each type come, and those do not come again.
        let sent = || [LDS, RDS, EDS].map(|type_url| record.sent(&type_url).len());
        let bad = || [(RDS, "front"), (EDS, "main")].map(|(of, name)| record.times(&of, name));
        let before = (sent(), bad());
        let more = [
            cluster(mode, "more", 5),
            endpoints("more", mesh.b.port()),
            listener(mode, "more", port::reserve(), "more"),
            routes("more", &[("/", "more")]),
        ];
        plane.put(more.clone());
        mesh.has(&mesh.content_with(&more));
        record.settles();
        assert_eq!((sent(), bad()), (before.0.map(|count| count + 1), before.1));
        front.reaches("/", &mesh.a);

        plane.put([
            endpoints("main", mesh.b.port()),
            routes("front", &[("/fixed", "main"), ("/", "main")]),
            listener(mode, "side", side.port(), "front"),
        ]);
        front.moves("/", &mesh.a, &mesh.b);
        mesh.uses(&RDS, "front", "/fixed");
        mesh.uses(&LDS, "side", "\"route_config_name\":\"front\"");
        record.settles();
        for type_url in [LDS, RDS, EDS] {
            assert_eq!(record.rejections(&type_url).len(), 1, "{type_url}");
        }
        traffic.into_iter().for_each(Traffic::ends_well);
    });
}

#[test]
fn endpoints_that_others_wait_with() {
    in_modes(Mode::ALL, are_waited_for);
}

/// On an aggregated stream, Envoy tells every cluster that waits for endpoints that some were rejected,
/// and it waits no longer, with none. Those are sent again (N-13). On a stream of their own, endpoints
/// concern their cluster alone: `clients.md` has its row 41 from aggregated streams.
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

/// Nobody remembers the rejection, and Envoy keeps what it should not have until it is changed: row 42
/// of `clients.md`.
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
