//! No request fails because configuration changed: real Envoys under constant load, over the library's
//! server, in this process, with all types on one stream, which alone has an order; in both variants.

#![allow(missing_docs, clippy::panic)]

use std::thread;
use std::time::Duration;

use deltaplane_server::TypeUrl;
use deltaplane_tests::envoy_mesh::{Mesh, in_modes};
use deltaplane_tests::envoy_mode::Mode;
use deltaplane_tests::envoy_resources::{cluster, endpoints, routes};
use deltaplane_tests::load::{Load, Plan};
use deltaplane_tests::upstream::SLOW;
use deltaplane_tests::wait_until;

const CDS: TypeUrl = TypeUrl::CLUSTER;
const EDS: TypeUrl = TypeUrl::ENDPOINT;

const PATIENCE: Duration = Duration::from_secs(20);

fn swap(mesh: &Mesh, n: usize) {
    let upstream = if n.is_multiple_of(2) { &mesh.a } else { &mesh.b };
    let (new, old) = (format!("main-{n}"), format!("main-{}", n.wrapping_sub(1)));
    let gone = (n > 0).then_some([(CDS, &*old), (EDS, &*old)]);
    mesh.plane.change(
        [
            cluster(mesh.mode, &new, 5),
            endpoints(&new, upstream.port()),
            routes("front", &[("/secure", "secure"), ("/", &new)]),
        ],
        gone.into_iter().flatten(),
    );
}

fn ends_well(mesh: &Mesh, load: Load) {
    let outcome = load.stop();
    println!("{}: {outcome}", mesh.mode.name());
    assert!(outcome.failures.is_empty(), "what failed is said above");
}

#[test]
fn swaps_paced() {
    in_modes(Mode::AGGREGATED, |mesh| {
        swap(&mesh, 0);
        mesh.plane.record().settles();
        let load = Load::start(Plan::constant(mesh.ports.front.port(), &["/"]));
        for n in 1..=200 {
            thread::sleep(Duration::from_millis(25));
            swap(&mesh, n);
        }
        ends_well(&mesh, load);
    });
}

#[test]
fn swaps_awaited() {
    in_modes(Mode::AGGREGATED, |mesh| {
        swap(&mesh, 0);
        mesh.plane.record().settles();
        let load = Load::start(Plan::constant(mesh.ports.front.port(), &["/"]));
        for n in 1..=200 {
            let upstream = if n % 2 == 0 { &mesh.a } else { &mesh.b };
            swap(&mesh, n);
            mesh.plane.record().settles();
            let before = load.answered_by(upstream.name(), "/");
            wait_until("in use", PATIENCE, || (load.answered_by(upstream.name(), "/") > before + 5).then_some(()));
        }
        ends_well(&mesh, load);
    });
}

#[test]
fn swaps_slow() {
    in_modes(Mode::AGGREGATED, |mesh| {
        swap(&mesh, 0);
        mesh.plane.record().settles();
        let load = Load::start(Plan::constant(mesh.ports.front.port(), &["/"]));
        let slow = Load::start(Plan::waiting(mesh.ports.front.port(), &[SLOW]));
        wait_until("some", PATIENCE, || (slow.answered() > 5).then_some(()));
        for n in 1..=40 {
            thread::sleep(Duration::from_millis(100));
            swap(&mesh, n);
        }
        ends_well(&mesh, load);
        ends_well(&mesh, slow);
    });
}

    in_modes([Mode::ALL[0]], |mesh| {
        let load = Load::start(Plan::constant(mesh.ports.front.port(), &["/"]));
        thread::sleep(Duration::from_secs(6));
        let me = std::process::id();
        let out = std::process::Command::new("sh").arg("-c").arg(format!("cat /proc/{me}/stat; for t in /proc/{me}/task/*; do echo $(cat $t/comm) $(cut -d' ' -f14,15 $t/stat); done; for p in $(pgrep -P {me}); do echo ENVOY; cut -d' ' -f14,15 /proc/$p/stat; done")).output().unwrap();
        println!("{}", String::from_utf8_lossy(&out.stdout));
        ends_well(&mesh, load);
    });
}
