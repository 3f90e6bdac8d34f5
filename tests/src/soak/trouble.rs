//! What befalls clients, their networks and the servers: each trouble passes after a while.

use std::time::{Duration, Instant};

use super::client::{Client, Pace};
use super::deck::Deck;
use super::envoy::Proxied;
use super::gate::Gate;
use super::servers::{Doors, Servers};
use super::tally::Tally;
use crate::random::Random;

/// How long a trouble takes, in steps of a tenth of a second: as long as two of this, at most.
const LONG: usize = 40;

/// How late everything is on a slow network.
const SLOW: Duration = Duration::from_millis(100);

/// Of how many clusters some clients ask.
pub(super) const NAMES: usize = 8;

/// What may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    Reconnect,
    ReadSlowly,
    StopReading,
    SlowNetwork,
    DeadNetwork,
    Forget,
    AskForOthers,
    MoveEnvoy,
    PauseEnvoy,
    RestartEnvoy,
    Kill,
    Stop,
}

const EVENTS: [(Event, usize); 12] = [
    (Event::Reconnect, 8),
    (Event::ReadSlowly, 4),
    (Event::StopReading, 4),
    (Event::SlowNetwork, 3),
    (Event::DeadNetwork, 3),
    (Event::Forget, 4),
    (Event::AskForOthers, 5),
    (Event::MoveEnvoy, 3),
    (Event::PauseEnvoy, 2),
    (Event::RestartEnvoy, 1),
    (Event::Kill, 2),
    (Event::Stop, 2),
];

/// What passes when its time has come.
#[derive(Debug, Clone, Copy)]
enum Relief {
    Reading(usize),
    Network(usize),
    Envoy(usize),
    Replica(usize),
}

/// A model client and its way to a replica.
#[derive(Debug)]
pub(super) struct Inhabitant {
    pub(super) client: Client,
    pub(super) gate: Gate,
    /// Where it is when nothing is out of the ordinary.
    pub(super) home: usize,
}

/// Everybody whom trouble may befall.
#[derive(Debug)]
pub(super) struct World {
    pub(super) servers: Servers,
    pub(super) inhabitants: Vec<Inhabitant>,
    pub(super) envoys: Vec<Proxied>,
    /// The names of clusters that there may be, by fleet.
    pub(super) clusters: Vec<Vec<String>>,
}

/// Brings trouble, and ends it.
#[derive(Debug)]
pub(super) struct Trouble {
    random: Random,
    deck: Deck<Event>,
    reliefs: Vec<(Instant, Relief)>,
    tally: Tally,
}

impl Trouble {
    /// None so far.
    pub(super) fn new(random: Random, tally: &Tally) -> Trouble {
        Trouble { random, deck: Deck::new(&EVENTS), reliefs: Vec::new(), tally: tally.clone() }
    }

    /// How many kinds of it there are in a deck: so many times trouble has to come for all of them.
    pub(super) fn deck() -> usize {
        EVENTS.iter().map(|(_, times)| times).sum()
    }

    /// Something happens.
    pub(super) fn comes(&mut self, world: &mut World) {
        let doors = world.servers.doors().clone();
        match self.deck.draw(&mut self.random) {
            Event::Reconnect => {
                let (_, inhabitant) = self.anybody(world);
                let replica = doors.any(&mut self.random);
                inhabitant.gate.moves(&doors, replica);
                self.tally.note("a client's connection was cut");
            }
            Event::ReadSlowly => self.reads(world, Pace::Slowly, "a client read slowly"),
            Event::StopReading => self.reads(world, Pace::Never, "a client stopped reading"),
            Event::SlowNetwork => {
                let (who, inhabitant) = self.anybody(world);
                inhabitant.gate.delays(SLOW);
                self.later(Relief::Network(who), "a network was slow");
            }
            Event::DeadNetwork => {
                let (who, inhabitant) = self.anybody(world);
                inhabitant.gate.stalls();
                self.later(Relief::Network(who), "a network stood still");
            }
            Event::Forget => {
                self.anybody(world).1.client.forgets();
                self.tally.note("a client forgot everything");
            }
            Event::AskForOthers => self.asks_for_others(world),
            Event::MoveEnvoy => {
                let replica = doors.any(&mut self.random);
                let which = self.random.below(world.envoys.len());
                world.envoys[which].gate.moves(&doors, replica);
                self.tally.note("an Envoy's connection was cut");
            }
            Event::PauseEnvoy => {
                let which = self.frail(world);
                world.envoys[which].pause();
                self.later(Relief::Envoy(which), "an Envoy stood still");
            }
            Event::RestartEnvoy => {
                let which = self.frail(world);
                world.envoys[which].restart();
                self.tally.note("an Envoy was started anew");
            }
            Event::Kill => {
                if let Some(replica) = self.mortal(&doors) {
                    world.servers.kill(replica);
                    self.leave(world, replica);
                    self.later(Relief::Replica(replica), "a replica was killed");
                }
            }
            Event::Stop => {
                if let Some(replica) = self.mortal(&doors) {
                    // Some go when they are told to, and others went before.
                    self.leave(world, replica);
                    world.servers.stop(replica);
                    self.leave(world, replica);
                    self.later(Relief::Replica(replica), "a replica was stopped");
                }
            }
        }
    }

    /// Ends what has lasted long enough.
    pub(super) fn passes(&mut self, world: &mut World) {
        let now = Instant::now();
        let (over, lasting) = self.reliefs.drain(..).partition(|(at, _)| *at <= now);
        self.reliefs = lasting;
        self.relieve(world, over);
    }

    /// Ends all of it: everybody is there, and listens.
    pub(super) fn ends(&mut self, world: &mut World) {
        let all = std::mem::take(&mut self.reliefs);
        self.relieve(world, all);
        for inhabitant in &mut world.inhabitants {
            inhabitant.client.reads(Pace::Well);
            inhabitant.gate.flows();
        }
    }

    fn relieve(&self, world: &mut World, reliefs: Vec<(Instant, Relief)>) {
        for (_, relief) in reliefs {
            match relief {
                Relief::Reading(who) => world.inhabitants[who].client.reads(Pace::Well),
                Relief::Network(who) => world.inhabitants[who].gate.flows(),
                Relief::Envoy(which) => world.envoys[which].resume(),
                Relief::Replica(replica) => world.servers.resume(replica),
            }
        }
    }

    fn later(&mut self, relief: Relief, what: &'static str) {
        self.tally.note(what);
        let steps = u32::try_from(5 + self.random.below(2 * LONG)).unwrap_or_default();
        self.reliefs.push((Instant::now() + Duration::from_millis(100) * steps, relief));
    }

    fn anybody<'a>(&mut self, world: &'a mut World) -> (usize, &'a mut Inhabitant) {
        let who = self.random.below(world.inhabitants.len());
        (who, &mut world.inhabitants[who])
    }

    fn reads(&mut self, world: &mut World, pace: Pace, what: &'static str) {
        let (who, inhabitant) = self.anybody(world);
        inhabitant.client.reads(pace);
        self.later(Relief::Reading(who), what);
    }

    fn asks_for_others(&mut self, world: &mut World) {
        let by_name = |inhabitant: &&mut Inhabitant| inhabitant.client.identity.clusters.is_some();
        let mut some: Vec<_> = world.inhabitants.iter_mut().filter(by_name).collect();
        if some.is_empty() {
            return;
        }
        let who = self.random.below(some.len());
        let client = &mut some[who].client;
        client.asks(names(&world.clusters[client.identity.fleet - 1], &mut self.random));
        self.tally.note("a client asked for other clusters");
    }

    /// Any Envoy but the last one, through which there is traffic.
    fn frail(&mut self, world: &World) -> usize {
        self.random.below(world.envoys.len() - 1)
    }

    /// Any replica that is there but the first one, whose memory is watched from the beginning to the end.
    fn mortal(&mut self, doors: &Doors) -> Option<usize> {
        let replicas: Vec<_> = doors.all().skip(1).filter(|it| doors.is_open(*it)).collect();
        (!replicas.is_empty()).then(|| replicas[self.random.below(replicas.len())])
    }

    /// Some of those who are at a replica are led to others, as a load balancer would when it notices.
    fn leave(&mut self, world: &mut World, replica: usize) {
        let doors = world.servers.doors().clone();
        let others: Vec<_> =
            doors.all().filter(|it| *it != replica && doors.is_open(*it)).collect();
        let gates = world.inhabitants.iter_mut().map(|inhabitant| &mut inhabitant.gate);
        let gates = gates.chain(world.envoys.iter_mut().map(|envoy| &mut envoy.gate));
        for gate in gates.filter(|gate| gate.replica() == replica) {
            if self.random.below(2) == 0 {
                gate.leads(&doors, others[self.random.below(others.len())]);
            }
        }
    }
}

/// Some of these names.
pub(super) fn names(all: &[String], random: &mut Random) -> Vec<String> {
    let mut all = all.to_vec();
    (0..NAMES.min(all.len())).map(|_| all.swap_remove(random.below(all.len()))).collect()
}
