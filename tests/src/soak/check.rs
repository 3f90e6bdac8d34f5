//! Whether everybody has what is stored.

use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use deltaplane_server::{TypeUrl, Variant, envoy};
use tokio::runtime::Handle;

use super::client::{Client, Held, Identity};
use super::tally::Tally;
use super::trouble::World;
use super::writer::Writer;

/// How long it may take until everybody has what is stored: an Envoy that came in vain waits up to half a
/// minute until it comes again, and then what it may use still stays for the 20 s that an answer may take, and
/// the time that a listener drains.
const PATIENCE: Duration = Duration::from_secs(90);

/// How often one looks.
const LOOK: Duration = Duration::from_millis(200);

/// Of so much that is wrong, one has seen enough.
const ENOUGH: usize = 12;

/// Waits until everybody has what is stored, and says how long that took, or what is wrong still.
pub(super) fn all_is_right(
    world: &World,
    writers: &[Writer],
    runtime: &Handle,
    round: usize,
) -> Result<Duration, Vec<String>> {
    let visitors = visitors(world, writers, runtime, round);
    let start = Instant::now();
    loop {
        let wrong = differences(world, writers, &visitors);
        let took = start.elapsed();
        if wrong.is_empty() {
            return Ok(took);
        }
        if took > PATIENCE {
            return Err(wrong.into_iter().chain(unsettled(world)).collect());
        }
        thread::sleep(LOOK);
    }
}

/// What servers say of clients that have not all that they should.
fn unsettled(world: &World) -> Vec<String> {
    let doors = world.servers.doors();
    let mut said = Vec::new();
    for replica in doors.all() {
        let clients = doors.ask(replica, "GET", "/xds/clients", None).map(|answer| answer.json());
        let clients = clients.iter().filter_map(|clients| clients.as_array()).flatten();
        let clients = clients.filter(|client| client["state"] != "settled");
        said.extend(clients.map(|client| format!("replica {replica} says of a client: {client}")));
    }
    enough(said)
}

/// At each replica, for each fleet, somebody who was never there before and asks for everything.
fn visitors(
    world: &World,
    writers: &[Writer],
    runtime: &Handle,
    round: usize,
) -> Vec<(usize, Client)> {
    let doors = world.servers.doors();
    let mut visitors = Vec::new();
    for replica in doors.all() {
        for fleet in writers.iter().map(|writer| writer.ledger.fleet) {
            let variant = if (round + replica + fleet).is_multiple_of(2) {
                Variant::Delta
            } else {
                Variant::Sotw
            };
            let name = format!("visitor-{round}-{replica}-{fleet}");
            let identity = Identity { name, fleet, variant, clusters: None };
            let at = doors.xds(replica);
            visitors.push((replica, Client::start(runtime, identity, at, &Tally::default())));
        }
    }
    visitors
}

/// What is wrong at first sight: of visitors, then of clients, then of Envoys, since each is compared with
/// what those before have.
fn differences(world: &World, writers: &[Writer], visitors: &[(usize, Client)]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut wanted: Vec<Held> = Vec::new();
    for writer in writers {
        let of_fleet = visitors.iter().filter(|(_, it)| it.identity.fleet == writer.ledger.fleet);
        let all: Vec<_> = of_fleet.map(|(replica, visitor)| (replica, visitor.held())).collect();
        for (replica, held) in &all {
            let fleet = writer.ledger.fleet;
            let differences = writer.ledger.differences(held).into_iter();
            wrong.extend(differences.map(|it| format!("replica {replica}, fleet {fleet}: {it}")));
            wrong.extend(unlike(held, &all[0].1).map(|it| {
                format!("replica {replica}, fleet {fleet}: {it} is not as at the first replica")
            }));
        }
        wanted.extend(all.into_iter().map(|(_, held)| held).next());
    }
    if !wrong.is_empty() {
        return enough(wrong);
    }
    for inhabitant in &world.inhabitants {
        let identity = &inhabitant.client.identity;
        let wanted = asked_for(&wanted[identity.fleet - 1], identity);
        let held = inhabitant.client.held();
        let replica = inhabitant.gate.replica();
        let who = format!("{}, {:?}, at replica {replica}", identity.name, identity.variant);
        let missing = wanted.keys().filter(|key| !held.contains_key(*key));
        wrong.extend(missing.map(|key| format!("{who}: {} is missing", shown(key))));
        let others = held.keys().filter(|key| !wanted.contains_key(*key));
        wrong.extend(others.map(|key| format!("{who}: {} is left over", shown(key))));
        wrong
            .extend(unlike(&held, &wanted).map(|it| format!("{who}: {it} is not as it should be")));
    }
    if !wrong.is_empty() {
        return enough(wrong);
    }
    for envoy in &world.envoys {
        let (name, replica) = (&envoy.name, envoy.gate.replica());
        let differences = envoy.differences(&wanted[envoy.fleet - 1]).into_iter();
        wrong.extend(differences.map(|it| format!("{name}, at replica {replica}: {it}")));
    }
    enough(wrong)
}

/// What a client should have of all that there is.
fn asked_for(all: &Held, identity: &Identity) -> Held {
    let Some(names) = &identity.clusters else { return all.clone() };
    let is_asked_for = |(type_url, name): &(TypeUrl, String)| {
        [TypeUrl::CLUSTER, TypeUrl::ENDPOINT].contains(type_url) && names.contains(name)
    };
    let asked = all.iter().filter(|(key, _)| is_asked_for(key));
    asked.map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// What both have, with another content.
fn unlike(one: &Held, other: &Held) -> impl Iterator<Item = String> {
    let differs = |(key, value): &(&(TypeUrl, String), &Bytes)| {
        other.get(*key).is_some_and(|other| other != *value && hash(key, other) != hash(key, value))
    };
    one.iter().filter(differs).map(|(key, _)| shown(key))
}

/// Equal content may be encoded in more than one way.
fn hash((type_url, name): &(TypeUrl, String), value: &Bytes) -> u64 {
    envoy::raw(type_url.clone(), name, value.clone()).build().hash()
}

fn shown((type_url, name): &(TypeUrl, String)) -> String {
    format!("{} {name}", type_url.message_name())
}

fn enough(mut wrong: Vec<String>) -> Vec<String> {
    let more = wrong.len().saturating_sub(ENOUGH);
    wrong.truncate(ENOUGH);
    if more > 0 {
        wrong.push(format!("and {more} more"));
    }
    wrong
}
