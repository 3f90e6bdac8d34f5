//! No request fails because configuration changed: real Envoys under constant load, over the library's
//! server, in this process, with all types on one stream, which alone has an order; in both variants.
//!
//! In each scenario, what is no longer used is removed in the very transaction that stops using it. One
//! runs at a time, for there are requests by the thousand; `--nocapture` shows how many, and how long
//! changes took.

#![allow(missing_docs, clippy::panic)]

use std::thread;
use std::time::{Duration, Instant};

use deltaplane_server::TypeUrl;
use deltaplane_tests::envoy::changes::Changes;
use deltaplane_tests::envoy::control_plane::DRAIN;
use deltaplane_tests::envoy::mesh::{RECONNECT, in_modes_from};
use deltaplane_tests::envoy::mode::Mode;
use deltaplane_tests::envoy::services::PATHS;
use deltaplane_tests::listener::PATIENCE;
use deltaplane_tests::load::{self, Load, Plan};
use deltaplane_tests::random::Random;
use deltaplane_tests::upstream::SLOW;
use deltaplane_tests::wait_until;

/// How long all changes go on at once.
const STORM: Duration = Duration::from_secs(60);

/// Of what the storm is made.
const SEED: u64 = 1_040;

#[test]
fn a_cluster_is_replaced_every_25_milliseconds() {
    under_load(|mut changes| {
        let load = changes.load(&["/swapped"]);
        for _ in 0..200 {
            pause(25);
            changes.swap_cluster();
        }
        load.reaches("/swapped", changes.swapped());
        changes.end_well([load]);
        changes.has_settled();
    });
}

#[test]
fn a_cluster_is_replaced_when_the_one_before_is_in_use() {
    under_load(|mut changes| {
        let load = changes.load(&["/swapped"]);
        for _ in 0..200 {
            load.reaches("/swapped", changes.swap_cluster());
        }
        changes.end_well([load]);
        changes.has_settled();
    });
}

#[test]
fn a_cluster_is_replaced_while_hundreds_wait_for_its_answers() {
    under_load(|mut changes| {
        let (load, slow) = (changes.load(&["/swapped"]), changes.slow_load());
        for _ in 0..40 {
            pause(100);
            changes.swap_cluster();
        }
        slow.reaches(SLOW, changes.swapped());
        changes.end_well([load, slow]);
        changes.has_settled();
    });
}

#[test]
fn a_listener_has_its_routes_by_another_name() {
    under_load(|mut changes| {
        let load = changes.load(&["/swapped"]);
        for _ in 0..5 {
            load.reaches("/swapped", changes.rename_routes());
            pause(300);
        }
        // Old connections lead where they led until they end.
        changes.swap_cluster();
        changes.has_drained();
        changes.end_well([load]);
    });
}

#[test]
fn two_services_exchange_clusters() {
    under_load(|mut changes| {
        let load = changes.load(&["/exchanged"]);
        for _ in 0..40 {
            load.reaches("/exchanged", changes.exchange_clusters());
        }
        changes.end_well([load]);
        changes.has_settled();
    });
}

#[test]
fn all_endpoints_of_a_cluster_are_others() {
    under_load(|mut changes| {
        let load = changes.load(&["/moved"]);
        for _ in 0..40 {
            load.reaches("/moved", changes.move_endpoints());
        }
        changes.end_well([load]);
        changes.has_settled();
    });
}

#[test]
fn a_secret_rotates() {
    under_load(|mut changes| {
        let load = changes.load(&["/secure", "/"]);
        for _ in 0..4 {
            for _ in 0..3 {
                changes.rotate_secrets();
            }
            changes.shows_its_certificate();
        }
        changes.end_well([load]);
        changes.has_settled();
    });
}

#[test]
fn a_filter_is_replaced() {
    under_load(|mut changes| {
        let load = changes.load(&["/"]);
        for _ in 0..5 {
            changes.replace_filter();
            pause(300);
        }
        changes.has_drained();
        changes.end_well([load]);
    });
}

#[test]
fn the_server_restarts_in_the_middle_of_a_swap() {
    under_load(|mut changes| {
        let load = changes.load(&["/swapped"]);
        for keeps in [true, false] {
            for after in 0..5 {
                changes.restart(after, keeps);
                wait_until("Envoy is back", RECONNECT, || {
                    (changes.mesh.plane.record().subscriptions(&TypeUrl::CLUSTER) > 0).then_some(())
                });
                load.reaches("/swapped", changes.swapped());
            }
        }
        changes.end_well([load]);
        changes.has_settled();
    });
}

#[test]
fn a_listener_with_its_routes_in_it_leads_to_another_cluster() {
    under_load(|mut changes| {
        let upstream = changes.swap_inline().name().to_owned();
        wait_until("it is there", PATIENCE, || {
            changes.simple.get("/").filter(|answer| answer.body == upstream)
        });
        let load = Load::start(Plan::constant(changes.simple.port(), &["/"]));
        for _ in 0..5 {
            load.reaches("/", changes.swap_inline());
            pause(300);
        }
        pause(DRAIN.as_millis() as u64);
        changes.end_well([load]);
    });
}

/// Connections that are kept would be cut with the drain time, whatever is said.
#[test]
fn a_listener_passes_connections_on_to_another_cluster() {
    under_load(|mut changes| {
        let upstream = changes.swap_tcp().name().to_owned();
        wait_until("it is there", PATIENCE, || {
            changes.simple.get("/").filter(|answer| answer.body == upstream)
        });
        let load = Load::start(Plan::fresh(changes.simple.port(), &["/"]));
        for _ in 0..40 {
            load.reaches("/", changes.swap_tcp());
        }
        changes.end_well([load]);
    });
}

#[test]
fn a_cluster_has_another_timeout_at_once() {
    under_load(|mut changes| {
        let load = changes.load(&["/touched"]);
        let mut slowest = Duration::ZERO;
        for _ in 0..10 {
            let seconds = changes.touch_cluster();
            let start = Instant::now();
            changes.mesh.uses_timeout("touched", seconds);
            slowest = slowest.max(start.elapsed());
            load.goes_on_for(100);
        }
        println!("{}: in use after {slowest:?} at most", changes.mesh.mode.name());
        // On a machine that does nothing else it is a tenth of this. Without its endpoints, it is 15 s.
        assert!(slowest < Duration::from_secs(2), "{slowest:?}");
        changes.end_well([load]);
    });
}

#[test]
fn all_of_this_at_once() {
    under_load(|mut changes| {
        println!("{}: the seed is {SEED}", changes.mesh.mode.name());
        let mut random = Random::new(SEED + changes.mesh.mode.variant as u64);
        let (load, slow) = (changes.load(&PATHS), changes.slow_load());
        let start = Instant::now();
        while start.elapsed() < STORM {
            match random.below(200) {
                0..80 => _ = changes.swap_cluster(),
                80..120 => _ = changes.exchange_clusters(),
                120..160 => _ = changes.move_endpoints(),
                160..175 => _ = changes.touch_cluster(),
                175..180 => changes.rotate_secrets(),
                180..189 => _ = changes.rename_routes(),
                189..198 => changes.replace_filter(),
                _ => changes.restart(random.below(5), random.below(2) == 0),
            }
            pause(random.below(50) as u64);
        }
        load.reaches("/swapped", changes.swapped());
        changes.end_well([load, slow]);
        changes.mesh.has_within(&changes.content(), RECONNECT + DRAIN + PATIENCE);
    });
}

/// What the order is for.
#[test]
fn without_an_order_requests_fail() {
    under_load(|mut changes| {
        let subscribed =
            |changes: &Changes| changes.mesh.plane.record().subscriptions(&TypeUrl::CLUSTER);
        let before = subscribed(&changes);
        changes.mesh.plane.forget_order();
        wait_until("Envoy is back", RECONNECT, || (subscribed(&changes) > before).then_some(()));
        let load = changes.load(&["/swapped"]);
        for _ in 0..40 {
            load.reaches("/swapped", changes.swap_cluster());
        }
        let outcome = load.stop();
        println!("{}: {} failed", changes.mesh.mode.name(), outcome.failures.len());
        assert!(!outcome.failures.is_empty(), "then nothing here proves anything");
    });
}

/// Runs a scenario in both variants, and no other one meanwhile.
fn under_load(scenario: fn(Changes)) {
    let _turn = load::alone();
    in_modes_from(Mode::AGGREGATED, Changes::start, scenario);
}

/// Between changes, not for them.
fn pause(milliseconds: u64) {
    thread::sleep(Duration::from_millis(milliseconds));
}
