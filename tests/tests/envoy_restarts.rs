//! Real Envoys whose server goes away, and comes back the same or as another, over the library's server,
//! in this process: both variants, with all types on one stream, and with a stream for each subscription.

#![allow(missing_docs, clippy::panic)]

use std::time::Duration;

use deltaplane_server::{Resource, TypeUrl, Variant};
use deltaplane_tests::envoy::mesh::{RECONNECT, in_modes};
use deltaplane_tests::envoy::mode::Mode;
use deltaplane_tests::envoy::resources::{cluster, endpoints, faults, listener, routes};
use deltaplane_tests::envoy::traffic::Traffic;
use deltaplane_tests::listener::PATIENCE;
use deltaplane_tests::wait_until;

const CDS: TypeUrl = TypeUrl::CLUSTER;
const LDS: TypeUrl = TypeUrl::LISTENER;

#[test]
fn killed_and_restarted() {
    in_modes(Mode::ALL, |mut mesh| {
        let streams = mesh.plane.record().open();
        let traffic = Traffic::start(mesh.ports.front.port(), "/");
        let content = mesh.content();
        mesh.plane.kill(content.clone());
        let so_far = traffic.answered();
        wait_until("requests do not notice", PATIENCE, || {
            (traffic.answered() > so_far + 20).then_some(())
        });
        mesh.plane.resume();
        let (plane, mode, record) = (&mesh.plane, mesh.mode, mesh.plane.record());
        // Envoy tries again later and later, with each of its streams by itself.
        let by_name: Vec<_> =
            content.iter().filter(|it| ![CDS, LDS].contains(it.type_url())).collect();
        let times = |it: &&Resource| record.times(it.type_url(), it.name());
        wait_until("Envoy is back", RECONNECT, || {
            let asked = [CDS, LDS].iter().all(|type_url| record.subscriptions(type_url) > 0);
            let told = by_name.iter().all(|it| times(it) > 0);
            (asked && told && record.open() == streams).then_some(())
        });
        record.settles();

        plane.put([endpoints("main", mesh.b.port())]);
        mesh.ports.front.moves("/", &mesh.a, &mesh.b);
        record.settles();
        // Envoy says which clusters and listeners it has, and they are what they were. What it asks for
        // by name it is told.
        assert_eq!([record.sent(&CDS), record.sent(&LDS)], [[], []]);
        assert_eq!(mesh.updates(), [1, 1]);
        for it in &by_name {
            // Of `main`, these are the endpoints, which changed.
            let expected = if &**it.name() == "main" { 2 } else { 1 };
            assert_eq!(times(it), expected, "{} of {}", it.name(), it.type_url());
        }

        plane.put([cluster(mode, "main", 7)]);
        mesh.uses_timeout("main", 7);
        assert_eq!(mesh.updates(), [2, 1]);
        assert_eq!([record.sent(&CDS).len(), record.sent(&LDS).len()], [1, 0]);
        mesh.has(&content);
        traffic.ends_well();
    });
}

#[test]
fn other_content() {
    in_modes(Mode::ALL, |mut mesh| {
        let (mode, ports) = (mesh.mode, &mesh.ports);
        let content = [
            cluster(mode, "other", 5),
            endpoints("other", mesh.b.port()),
            listener(mode, "front", ports.front.port(), "others"),
            routes("others", &[("/", "other")]),
            faults(418),
        ];
        mesh.plane.kill(content.clone());
        mesh.plane.resume();
        // Clusters go before the routes to them: another server knows of no routes that a client had.
        wait_until("requests go elsewhere", RECONNECT, || {
            ports.front.get("/").filter(|answer| answer.body == mesh.b.name())
        });
        wait_until("other ports close", RECONNECT, || {
            [&ports.side, &ports.back].iter().all(|it| it.get("/").is_none()).then_some(())
        });
        wait_until("other clusters are gone", RECONNECT, || {
            (mesh.envoy.clusters() == ["other"]).then_some(())
        });
        assert_eq!(mesh.envoy.listeners(), ["front"]);
        mesh.has(&content);
        // State of the World cannot say that a layer is gone.
        mesh.has_flag((mode.variant == Variant::Sotw).then_some("one"));
        // It is in step with this server as with any other.
        mesh.plane.put([endpoints("other", mesh.a.port())]);
        ports.front.moves("/", &mesh.b, &mesh.a);
        mesh.plane.record().settles();
    });
}

#[test]
fn k03_connections_end_for_their_age() {
    in_modes(Mode::AGGREGATED, |mut mesh| {
        let traffic = Traffic::start(mesh.ports.front.port(), "/");
        let content = mesh.content();
        mesh.plane.age(Duration::from_millis(1500));
        let (plane, mode, record) = (&mesh.plane, mesh.mode, mesh.plane.record());
        let sent = || [record.sent(&CDS), record.sent(&LDS)];
        let before = sent();
        wait_until("Envoy has come back some times", 2 * RECONNECT, || {
            (plane.server().occupancy().aged >= 3).then_some(())
        });
        // Whenever that was, it said what it has, and was told none of it again.
        assert_eq!(sent(), before);
        // It is in step, old connections or new ones.
        plane.put([endpoints("main", mesh.b.port())]);
        mesh.ports.front.moves("/", &mesh.a, &mesh.b);
        plane.put([cluster(mode, "main", 7)]);
        mesh.uses_timeout("main", 7);
        mesh.has(&content);
        traffic.ends_well();
    });
}
