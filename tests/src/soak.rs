//! Replicas on one PostgreSQL, and all that befalls them and their clients in an hour: random changes,
//! connections that break, clients that reject, read slowly or not at all, servers that are killed.
//!
//! It goes in rounds. In a storm writers change what is stored while trouble comes; then all trouble ends, what
//! is bad is mended, and everybody must have what is stored, resource by resource. Then all is made as it was at
//! the beginning, and what servers use must be what they used then.
//!
//! # Layout
//!
//! * [`Plan`] and [`run`]: how much of it, and doing it
//! * `writer`, with what it may store in `content` and what it was told in `ledger`: the changes
//! * `trouble`, with `client`, `envoy`, `gate` and `servers`, whom it befalls
//! * `check` and `usage`: what must be so at quiet points
//! * `log`: what servers said
//! * [`Outcome`]: the verdict, and a page of figures
//! * `deck`, `tally`: chance, and counting

mod check;
mod client;
mod content;
mod deck;
mod envoy;
mod gate;
mod ledger;
mod log;
mod outcome;
mod servers;
mod tally;
mod trouble;
mod usage;
mod writer;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use deltaplane_server::Variant;
use tokio::runtime::{Builder, Runtime};

use self::client::{Client, Identity};
use self::envoy::Proxied;
use self::gate::Gate;
pub use self::outcome::Outcome;
use self::outcome::Sample;
use self::servers::{Doors, Servers};
use self::tally::Tally;
use self::trouble::{Inhabitant, Trouble, World, names};
use self::usage::Usage;
use self::writer::Writer;
use crate::database::{Database, Kind};
use crate::load::{Load, Plan as Traffic};
use crate::random::Random;
use crate::{Upstream, http, server, wait_until};

const REPLICAS: usize = 3;
const FLEETS: usize = 3;

/// How long it may take until a server has given back what it used.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often one looks.
const LOOK: Duration = Duration::from_millis(200);

/// The path of the service that nobody changes.
const STEADY: &[&str] = &["/s0"];

/// How much of it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Plan {
    /// What chance begins with: the same choices again, though not at the same moments.
    pub seed: u64,
    /// For how long there is another round.
    pub duration: Duration,
    /// How many model clients there are in each fleet.
    pub clients: usize,
    /// How long each writer rests after a change.
    pub after_change: Duration,
    /// How long it is between one trouble and the next.
    pub after_trouble: Duration,
    /// How many times the usual number of troubles there are in a storm.
    pub longer: usize,
}

impl Plan {
    /// For so many minutes.
    pub fn minutes(minutes: u64, seed: u64) -> Plan {
        Plan {
            seed,
            duration: Duration::from_secs(60 * minutes),
            clients: 12,
            after_change: Duration::from_millis(150),
            after_trouble: Duration::from_millis(500),
            longer: 3,
        }
    }

    /// One short round, in which there is some of everything.
    pub fn brief(seed: u64) -> Plan {
        Plan {
            seed,
            duration: Duration::ZERO,
            clients: 6,
            after_change: Duration::from_millis(50),
            after_trouble: Duration::from_millis(100),
            longer: 1,
        }
    }
}

/// Does it, and tells each minute how far it is.
///
/// # Panics
/// If a program that it needs cannot be started.
pub fn run(plan: &Plan) -> Outcome {
    let mut soak = Soak::begin(plan);
    let mut goes_on = soak.comes_to_rest();
    while goes_on {
        soak.storm();
        goes_on = soak.is_right() && soak.comes_to_rest() && soak.elapsed() < plan.duration;
        soak.progress();
    }
    soak.end()
}

/// A soak under way.
struct Soak {
    plan: Plan,
    start: Instant,
    /// How many minutes were told of.
    told: u64,
    tally: Tally,
    trouble: Trouble,
    writers: Vec<Writer>,
    load: Load,
    world: World,
    runtime: Runtime,
    /// What each replica used at first.
    first: Vec<Usage>,
    outcome: Outcome,
}

impl Soak {
    fn begin(plan: &Plan) -> Soak {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("threads can be had");
        let (tally, mut random) = (Tally::default(), Random::new(plan.seed));
        let mut fork = || Random::new(random.below(usize::MAX) as u64);
        let database = Arc::new(Database::create(Kind::Postgres));
        let servers = Servers::start(&database.url(), REPLICAS);
        let doors = servers.doors().clone();
        let upstreams: Arc<[Upstream]> = Arc::from(["a", "b", "c"].map(Upstream::start));
        let writer = |fleet| Writer::new(fleet, fork(), &doors, &database, &upstreams, &tally);
        let mut writers: Vec<_> = (1..=FLEETS).map(writer).collect();
        // Clients of a fleet of which nothing is known would be told nothing.
        writers.iter_mut().for_each(Writer::restore);
        servers.read_all();
        let clusters: Vec<_> = writers.iter().map(Writer::clusters).collect();
        let mut chance = fork();
        let inhabitant = |number| {
            let home = number / FLEETS % REPLICAS;
            let (identity, gate) =
                (identity(number, &clusters, &mut chance), Gate::to(&doors, home));
            let client = Client::start(runtime.handle(), identity, gate.address(), &tally);
            Inhabitant { client, gate, home }
        };
        let inhabitants = (0..FLEETS * plan.clients).map(inhabitant).collect();
        let envoy = |fleet| {
            let variant = if fleet == 2 { server::Variant::Sotw } else { server::Variant::Delta };
            Proxied::start(fleet, variant, &doors, fleet % REPLICAS)
        };
        let envoys = (1..=FLEETS).map(envoy).collect();
        Soak {
            plan: plan.clone(),
            start: Instant::now(),
            told: 0,
            trouble: Trouble::new(fork(), &tally),
            load: traffic(writers[FLEETS - 1].steady_port()),
            world: World { servers, inhabitants, envoys, clusters },
            outcome: Outcome::new(plan),
            first: Vec::new(),
            tally,
            writers,
            runtime,
        }
    }

    /// Everything changes while everything goes wrong.
    fn storm(&mut self) {
        let is_over = AtomicBool::new(false);
        let Soak { writers, trouble, world, plan, .. } = self;
        let plan = &*plan;
        thread::scope(|scope| {
            // Whatever happens, nobody is waited for in vain.
            let over = Over(&is_over);
            for writer in writers.iter_mut() {
                let is_over = &is_over;
                scope.spawn(move || {
                    while !is_over.load(Ordering::Relaxed) {
                        writer.change();
                        thread::sleep(plan.after_change);
                    }
                });
            }
            for _ in 0..plan.longer * Trouble::deck() {
                trouble.comes(world);
                thread::sleep(plan.after_trouble);
                trouble.passes(world);
            }
            drop(over);
        });
        self.trouble.ends(&mut self.world);
    }

    /// Whether everybody has what is stored, when nothing is bad any more.
    fn is_right(&mut self) -> bool {
        self.outcome.rounds += 1;
        for writer in &mut self.writers {
            let wrong = writer.settle();
            writer.mend_all();
            self.outcome.blame("a write was lost, or done though it was not", wrong);
            self.outcome.blame("a request was refused", writer.refusals());
        }
        self.all_have_what_is_stored()
    }

    /// Whether everybody has what there is when nothing is out of the ordinary, and servers use no more
    /// than they did at first.
    fn comes_to_rest(&mut self) -> bool {
        for writer in &mut self.writers {
            writer.restore();
            self.outcome.blame("a request was refused", writer.refusals());
        }
        let doors = self.world.servers.doors().clone();
        for inhabitant in &mut self.world.inhabitants {
            inhabitant.gate.returns(&doors, inhabitant.home);
        }
        for envoy in &mut self.world.envoys {
            envoy.gate.returns(&doors, envoy.home);
        }
        let is_right = self.all_have_what_is_stored();
        if is_right {
            for replica in doors.all() {
                self.measure(&doors, replica);
            }
        }
        is_right
    }

    fn all_have_what_is_stored(&mut self) -> bool {
        let number = self.outcome.waits.len();
        let found = check::all_is_right(&self.world, &self.writers, self.runtime.handle(), number);
        match found {
            Ok(took) => {
                self.outcome.waits.push(took);
                true
            }
            Err(wrong) => {
                self.outcome.blame("somebody has not what is stored", wrong);
                false
            }
        }
    }

    /// Measures a replica when it has given back what it used.
    fn measure(&mut self, doors: &Doors, replica: usize) {
        let inhabitants = self.world.inhabitants.iter().map(|inhabitant| inhabitant.home);
        let homes = inhabitants.chain(self.world.envoys.iter().map(|envoy| envoy.home));
        let streams = homes.filter(|home| *home == replica).count();
        let start = Instant::now();
        loop {
            let usage = Usage::of(doors, replica);
            let first = self.first.get(replica).copied();
            let excess = usage.map(|usage| usage.excess(&first.unwrap_or(usage), streams));
            let excess = excess.unwrap_or_else(|| vec!["no answer".to_owned()]);
            if let Some(usage) = usage.filter(|_| excess.is_empty()) {
                if first.is_none() {
                    self.first.push(usage);
                }
                let at = self.elapsed();
                return self.outcome.samples.push(Sample { at, replica, usage });
            }
            if start.elapsed() > PATIENCE {
                let wrong = excess.into_iter().map(|it| format!("replica {replica}: {it}"));
                return self.outcome.blame("a server does not give back what it used", wrong);
            }
            thread::sleep(LOOK);
        }
    }

    fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    fn progress(&mut self) {
        let minutes = self.elapsed().as_secs() / 60;
        if minutes > self.told {
            self.told = minutes;
            let Outcome { rounds, problems, .. } = &self.outcome;
            let (rounds, problems) = (rounds, problems.len());
            println!("{minutes} minutes: {rounds} rounds, {problems} problems");
        }
    }

    fn end(self) -> Outcome {
        let Soak { start, tally, load, world, mut outcome, .. } = self;
        outcome.duration = start.elapsed();
        outcome.events = tally.all();
        let traffic = load.stop();
        outcome.requests = traffic.answered;
        if !traffic.failures.is_empty() {
            outcome.blame("a request through an Envoy failed", [traffic.to_string()]);
        }
        outcome.judge(world.servers.logs());
        outcome
    }
}

/// Says that it is over when it is dropped.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Who the client of this number is: in each fleet, some ask for everything, and some by name.
fn identity(number: usize, clusters: &[Vec<String>], random: &mut Random) -> Identity {
    let (fleet, place) = (1 + number % FLEETS, number / FLEETS);
    let is_delta = place.is_multiple_of(2);
    let by_name = (place / 2).is_multiple_of(2);
    Identity {
        name: format!("client-{number}"),
        fleet,
        variant: if is_delta { Variant::Delta } else { Variant::Sotw },
        clusters: by_name.then(|| names(&clusters[fleet - 1], random)),
    }
}

/// Some requests in a second for the service that nobody changes, as soon as they get through.
fn traffic(port: u16) -> Load {
    let url = format!("http://127.0.0.1:{port}{}", STEADY[0]);
    wait_until("requests get through", PATIENCE, || {
        http::get(&url).ok().filter(|answer| answer.status == 200)
    });
    Load::start(Traffic { port, paths: STEADY, kept: 4, on_kept: 40, on_fresh: 10, least: 0 })
}
