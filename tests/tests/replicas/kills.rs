//! One server is killed, again and again, while something is written by it or by another.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use deltaplane_tests::envoy::traffic::Traffic;
use deltaplane_tests::http::{self, Answer};
use deltaplane_tests::load;
use deltaplane_tests::random::Random;
use deltaplane_tests::{
    Envoy, Follower, Listener, Replicas, Upstream, Variant, service, wait_until,
};
use serde_json::{Value, json};

use crate::{CDS, RECOVERY, VARIANTS, seconds, uses};

/// Of what chance is made.
const SEED: u64 = 8;

/// How often one is killed.
const KILLS: i64 = 12;

/// Within so many microseconds a change is stored, mostly; and then published and delivered.
const CYCLE: [usize; 2] = [60_000, 15_000];

#[test]
fn what_was_confirmed_reaches_all_when_a_replica_is_killed_at_any_instant() {
    let _turn = load::alone();
    println!("the seed is {SEED}");
    let mut random = Random::new(SEED);
    let mut replicas = Replicas::start(3);
    let (upstream, shop) = (Upstream::start("a"), Listener::reserve());
    let mut stored = Stored::new(&replicas, &shop, &upstream);
    let followers =
        VARIANTS.map(|it| Follower::start(replicas.xds(), &it.to_string(), "cluster-1", it));
    let envoy = Envoy::start(&replicas.bootstrap("envoy", "cluster-1", Variant::Delta));
    shop.reaches("/", &upstream);
    followers.iter().for_each(|follower| follower.runs(&stored.clusters()));
    let traffic = Traffic::start(shop.port(), "/");
    let mut confirmed = 0;
    for kill in 1..=KILLS {
        let (writer, victim) = (random.below(3), random.below(4));
        // Every other time it is the writer itself.
        let victim = if victim == 3 { writer } else { victim };
        // It is on its way, or else confirmed by then.
        let phase = random.below(2);
        let instant = Duration::from_micros(random.below(CYCLE[phase]) as u64);
        let write = stored.next(1_000 + kill);
        let url = format!("http://{}{}", replicas.all[writer].http, write.path);
        let answer = thread::scope(|scope| {
            let answering = scope.spawn(|| http::request("POST", &url, Some(&write.body)));
            while phase == 1 && !answering.is_finished() {
                thread::yield_now();
            }
            thread::sleep(instant);
            replicas.all[victim].kill();
            answering.join().expect("it does not panic")
        });
        let is_confirmed = is_good(answer.as_ref().ok(), writer == victim);
        confirmed += i64::from(is_confirmed);
        let since = ["the beginning", "the end"][phase];
        println!(
            "{instant:?} after {since} of a write by {writer}, {victim} is killed: {is_confirmed}"
        );
        stored.look(&replicas, &write, is_confirmed);
        followers.iter().for_each(|follower| follower.runs(&stored.clusters()));
        replicas.all[victim].resume();
    }
    println!("{confirmed} of {KILLS} writes were confirmed");
    assert!(confirmed > KILLS / 4, "then nothing here proves anything");
    // All is well again, whoever is asked.
    for writer in 0..3 {
        replicas.catch_up();
        let write = stored.next(2_000 + writer as i64);
        let answer = replicas.all[writer].ask("POST", write.path, Some(&write.body));
        assert!(is_good(Some(&answer), false));
        stored.look(&replicas, &write, true);
        followers.iter().for_each(|follower| follower.runs(&stored.clusters()));
    }
    wait_until("Envoy has all of it, too", RECOVERY, || {
        let clusters = stored.clusters();
        clusters.iter().all(|(name, timeout)| uses(&envoy, name, *timeout)).then_some(())
    });
    traffic.ends_well();
    for follower in &followers {
        assert_eq!(follower.repeated(), [""; 0]);
    }
}

/// Whether a write was confirmed. Who was not killed answers, and does it.
fn is_good(answer: Option<&Answer>, may_be_dead: bool) -> bool {
    match answer {
        Some(answer) => {
            assert_eq!(answer.status, 200, "{}", answer.body);
            true
        }
        None => {
            assert!(may_be_dead, "somebody else was killed");
            false
        }
    }
}

/// What should be in the database: services and raw clusters, which change together or not at all.
struct Stored {
    services: Vec<Value>,
    /// How many milliseconds services may take to connect, and raw clusters.
    timeouts: [i64; 2],
    is_raw: bool,
}

/// What is asked for.
struct Write {
    path: &'static str,
    body: String,
    milliseconds: i64,
    is_raw: bool,
}

const IMPORT: &str = "/api/v1/services/import";
const TRANSACT: &str = "/api/v1/xds/transactions";

impl Stored {
    fn new(replicas: &Replicas, shop: &Listener, upstream: &Upstream) -> Stored {
        let service = |index: usize| {
            let own =
                json!({"name": format!("s{index}"), "prefix": format!("/{}", &"xx"[..index])});
            service::but(&service::http("", shop, upstream), &own)
        };
        let services = (0..3).map(service).collect();
        let mut stored = Stored { services, timeouts: [0; 2], is_raw: false };
        for _ in 0..2 {
            let write = stored.next(1_000);
            let answer = replicas.all[0].ask("POST", write.path, Some(&write.body));
            assert!(is_good(Some(&answer), false));
            stored.look(replicas, &write, true);
        }
        replicas.catch_up();
        stored
    }

    /// Services and raw clusters take turns.
    fn next(&mut self, milliseconds: i64) -> Write {
        let is_raw = self.is_raw;
        self.is_raw = !is_raw;
        let (path, body) = match is_raw {
            false => {
                let timeout = json!({"connect_timeout_ms": milliseconds});
                let services = self.services.iter().map(|it| service::but(it, &timeout));
                (IMPORT, json!({"services": services.collect::<Vec<_>>()}))
            }
            true => {
                let upsert = |index: i64| {
                    json!({"version": milliseconds.to_string(), "resource": {
                        "@type": CDS.as_str(), "name": format!("r{index}"),
                        "connect_timeout": seconds(milliseconds)}})
                };
                let upserts: Vec<Value> = (0..3).map(upsert).collect();
                (TRANSACT, json!({"scope": "cluster-1", "upserts": upserts}))
            }
        };
        Write { path, body: body.to_string(), milliseconds, is_raw }
    }

    /// Finds out what became of a write: all of it, if it was confirmed, and otherwise that or nothing.
    fn look(&mut self, replicas: &Replicas, write: &Write, is_confirmed: bool) {
        let column = match write.is_raw {
            false => "connect_timeout_ms::text FROM services",
            true => "version FROM raw_resources",
        };
        // Nobody is in the middle of a write, be he dead.
        let locked = "SELECT FROM revision FOR UPDATE";
        let found = replicas.sql(&format!("{locked}; SELECT DISTINCT {column}"));
        let found: Vec<i64> = found.split_whitespace().flat_map(str::parse::<i64>).collect();
        let before = &mut self.timeouts[usize::from(write.is_raw)];
        let is_stored = found == [write.milliseconds];
        let is_as_before = found == [*before] && !is_confirmed;
        assert!(is_stored || is_as_before, "{found:?} after {before} and {}", write.milliseconds);
        *before = found[0];
    }

    /// What clients should run.
    fn clusters(&self) -> BTreeMap<String, i64> {
        let [services, raw] = self.timeouts;
        let of = |kind, timeout| (0..3).map(move |index| (format!("{kind}{index}"), timeout));
        of("s", services).chain(of("r", raw)).collect()
    }
}
