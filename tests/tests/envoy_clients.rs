//! Real Envoys over the library's server, in this process: both variants, with all types on one stream,
//! and with a stream for each subscription.
//!
//! Each scenario is one function, run for the four at once; what they see differently is said there.
//! What they do when something is rejected is in `envoy_rejections.rs`, and when the server goes away in
//! `envoy_restarts.rs`.

#![allow(missing_docs, clippy::panic)]

use deltaplane_server::{TypeUrl, Variant};
use deltaplane_tests::envoy::certificate::Certificate;
use deltaplane_tests::envoy::control_plane::REPORTS;
use deltaplane_tests::envoy::mesh::{FLAG, in_modes};
use deltaplane_tests::envoy::mode::Mode;
use deltaplane_tests::envoy::record::Entry;
use deltaplane_tests::envoy::resources::{
    cluster, endpoints, faults, listener, routes, runtime, tls_cluster,
};
use deltaplane_tests::envoy::traffic::Traffic;
use deltaplane_tests::listener::PATIENCE;
use deltaplane_tests::wait_until;

const CDS: TypeUrl = TypeUrl::CLUSTER;
const EDS: TypeUrl = TypeUrl::ENDPOINT;
const LDS: TypeUrl = TypeUrl::LISTENER;
const RDS: TypeUrl = TypeUrl::ROUTE;
const SDS: TypeUrl = TypeUrl::SECRET;
const ECDS: TypeUrl = TypeUrl::EXTENSION_CONFIG;

#[test]
fn first_sync() {
    in_modes(Mode::ALL, |mesh| {
        mesh.has(&mesh.content());
        mesh.has_flag(Some("one"));
        mesh.has_faults(418);
        let record = mesh.plane.record();
        record.settles();
        // CDS, LDS, the runtime layer, the filter; three clusters' endpoints, three listeners' routes,
        // two secrets.
        let streams = if mesh.mode.aggregated { 1 } else { 4 + 3 + 3 + 2 };
        assert_eq!(record.open(), streams);
        for resource in mesh.content() {
            let (type_url, name) = (resource.type_url(), resource.name());
            // Endpoints follow their cluster, and are asked for besides, if Envoy is quick to do so.
            let most = if *type_url == EDS { 2 } else { 1 };
            assert!((1..=most).contains(&record.times(type_url, name)), "{name} of {type_url}");
        }
        assert_eq!(mesh.updates(), [1, 1]);
    });
}

#[test]
fn update() {
    in_modes(Mode::ALL, |mesh| {
        let (plane, mode, front) = (&mesh.plane, mesh.mode, &mesh.ports.front);
        let traffic = Traffic::start(front.port(), "/");

        plane.put([endpoints("main", mesh.b.port())]);
        front.moves("/", &mesh.a, &mesh.b);
        assert_eq!(mesh.updates(), [1, 1]);

        // Its endpoints do not change, and still Envoy waits for them: on an aggregated stream they are
        // told again, otherwise Envoy opens another stream and asks for them.
        let told = plane.record().times(&EDS, "main");
        plane.put([cluster(mode, "main", 7)]);
        mesh.uses_timeout("main", 7);
        plane.record().settles();
        assert_eq!(plane.record().times(&EDS, "main"), told + 1);
        front.reaches("/", &mesh.b);
        // It does not wait for a secret that it has.
        plane.put([tls_cluster(mode, "secure", 7, "authority")]);
        mesh.uses_timeout("secure", 7);
        front.reaches("/secure", &mesh.b);
        assert_eq!(plane.record().times(&SDS, "authority"), 1);
        assert_eq!(mesh.updates(), [3, 1]);

        let certificate = Certificate::make("second");
        plane.put([certificate.secret("certificate"), certificate.authority("authority")]);
        wait_until("both sides use the secrets", PATIENCE, || {
            let uses = mesh.envoy.admin("/certs").matches("\"dns\": \"second\"").count();
            (uses == 2).then_some(())
        });
        front.reaches("/secure", &mesh.b);

        plane.put([faults(451), runtime(FLAG, "two")]);
        mesh.has_faults(451);
        mesh.has_flag(Some("two"));

        let side = &mesh.ports.side;
        plane.put([endpoints("extra", mesh.a.port())]);
        side.moves("/", &mesh.b, &mesh.a);
        plane.put([routes("front", &[("/extra", "extra"), ("/", "main")])]);
        front.moves("/extra", &mesh.b, &mesh.a);
        plane.put([listener(mode, "side", side.port(), "front")]);
        side.moves("/", &mesh.a, &mesh.b);
        plane.record().settles();
        assert_eq!(mesh.updates(), [3, 2]);
        // Among it is `side`, for that listener's old connections.
        mesh.has(&mesh.content());
        traffic.ends_well();
    });
}

#[test]
fn deletion() {
    in_modes(Mode::ALL, |mesh| {
        let (plane, ports, record) = (&mesh.plane, &mesh.ports, mesh.plane.record());
        let traffic = Traffic::start(ports.front.port(), "/");
        let delta = mesh.mode.variant == Variant::Delta;

        let gone = [(RDS, "side"), (LDS, "side"), (CDS, "extra"), (EDS, "extra")];
        plane.change([], gone.clone());
        wait_until("the port closes", PATIENCE, || ports.side.get("/").is_none().then_some(()));
        let mut rest = mesh.content();
        rest.retain(|resource| !gone.contains(&(resource.type_url().clone(), resource.name())));
        // Until Envoy gives the routes of the old connections up, their cluster stays.
        mesh.has(&rest);
        record.settles();
        assert_eq!(mesh.updates(), [2, 2]);
        let last = |type_url: &TypeUrl| record.sent(type_url).pop();
        if delta {
            // Endpoints apart: whether Envoy still asks for them depends on who is faster.
            for (type_url, name) in &gone[..3] {
                assert_eq!(last(type_url), Some((vec![], vec![(*name).to_owned()])), "{type_url}");
            }
        } else {
            let names = |names: &[&str]| names.iter().map(ToString::to_string).collect();
            assert_eq!(last(&CDS), Some((names(&["main", "secure"]), vec![])));
            assert_eq!(last(&LDS), Some((names(&["back", "front"]), vec![])));
        }
        if mesh.mode.aggregated {
            let all = record.all();
            let sent = |type_url: &TypeUrl| {
                let is_it = |entry: &Entry| matches!(entry, Entry::Sent { type_url: it, .. } if it == type_url);
                all.iter().rposition(|(_, entry)| is_it(entry))
            };
            assert!(sent(&LDS) < sent(&CDS), "what uses a cluster goes before it");
        }

        // These are still referred to, and Envoy keeps them; delta can say that they are gone, and State
        // of the World cannot.
        for (type_url, name, back) in [
            (RDS, "front", routes("front", &[("/", "main")])),
            (EDS, "main", endpoints("main", mesh.b.port())),
        ] {
            let before = record.sent(&type_url).len();
            plane.change([], [(type_url.clone(), name)]);
            if delta {
                wait_until("it is said", PATIENCE, || {
                    (record.sent(&type_url).len() > before).then_some(())
                });
                assert_eq!(last(&type_url), Some((vec![], vec![name.to_owned()])));
            }
            // Whatever was said, was said before this.
            plane.put([faults(500 + u32::from(type_url == EDS))]);
            mesh.has_faults(500 + u16::from(type_url == EDS));
            record.settles();
            assert_eq!(record.sent(&type_url).len(), before + usize::from(delta));
            mesh.has(&rest);
            ports.front.reaches("/", &mesh.a);
            plane.put([back]);
        }
        ports.front.moves("/", &mesh.a, &mesh.b);
        traffic.ends_well();
    });
}

/// Where nobody can say that a secret does not exist, its cluster waits for it.
#[test]
fn late_secret() {
    in_modes(Mode::ALL, |mesh| {
        let (plane, mode, record) = (&mesh.plane, mesh.mode, mesh.plane.record());
        let waits = mode.variant == Variant::Sotw;
        let late =
            [tls_cluster(mode, "late", 5, "later"), endpoints("late", mesh.ports.back.port())];
        plane.put(late.clone());
        if waits {
            wait_until("the cluster waits", PATIENCE, || (mesh.warming() == 1).then_some(()));
        } else {
            // It is told that there is no such secret.
            mesh.has(&mesh.content_with(&late));
        }
        // It hears of everything else meanwhile, be it clusters.
        let prompt = [cluster(mode, "prompt", 5), endpoints("prompt", mesh.b.port())];
        plane.put(prompt.clone());
        plane.put([routes("front", &[("/prompt", "prompt"), ("/", "main")])]);
        mesh.ports.front.reaches("/prompt", &mesh.b);
        // What names the late cluster waits for it.
        plane.put([routes("front", &[("/prompt", "prompt"), ("/late", "late"), ("/", "main")])]);
        plane.put([faults(451)]);
        mesh.has_faults(451);
        wait_until("the filter is accepted", PATIENCE, || {
            (record.accepted(&ECDS) == record.sent(&ECDS).len()).then_some(())
        });
        // On an aggregated stream, Envoy answers for clusters when none waits any longer. Elsewhere, it
        // does so at once.
        let answered = record.accepted(&CDS);
        assert_eq!(mesh.warming(), u64::from(waits));
        let withheld = waits && mode.aggregated;
        if withheld {
            assert_eq!((record.sent(&CDS).len(), answered), (3, 1));
        } else {
            wait_until("clusters are accepted", PATIENCE, || {
                (record.accepted(&CDS) == 3).then_some(())
            });
        }

        let later = mesh.certificate.authority("later");
        plane.put([later.clone()]);
        let all = [&late[..], &prompt, &[later]].concat();
        mesh.has(&mesh.content_with(&all));
        mesh.ports.front.reaches("/late", &mesh.a);
        // The newest answer is for those before it, too (S-18).
        let accepted = if withheld { 2 } else { 3 };
        wait_until("clusters are accepted", PATIENCE, || {
            (record.accepted(&CDS) == accepted).then_some(())
        });
        assert_eq!(record.rejections(&CDS), []);
    });
}

#[test]
fn load() {
    in_modes([Mode::ALL[0]], |mesh| {
        let traffic = Traffic::start(mesh.ports.front.port(), "/");
        let (key, load) = wait_until("Envoy reports load", PATIENCE, || {
            let mut loads = mesh.plane.server().loads().into_iter();
            loads.find(|(key, load)| key.cluster == "main" && load.total().successful >= 10)
        });
        assert_eq!(load.total().failed, 0, "{key:?}");
        // What was under way when Envoy began to count ends in it, and did not begin in it.
        assert!(load.total().issued > 0, "{load:?}");
        assert!(load.reported > REPORTS / 2, "{load:?}");
        drop(traffic);
    });
}
