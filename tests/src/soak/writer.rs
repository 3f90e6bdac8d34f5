//! Who changes one fleet: rows by the HTTP API and in the database itself, and raw resources.

use std::net::TcpListener;
use std::sync::Arc;

use deltaplane_server::TypeUrl;
use serde_json::{Value, json};

use super::content::{
    Key, Kind, Row, Slot, bad_cluster, bad_listener, bad_routes, cluster, endpoints, is_mistake,
    listener, routes,
};
use super::deck::Deck;
use super::ledger::Ledger;
use super::servers::Doors;
use super::tally::Tally;
use crate::database::Database;
use crate::http::Answer;
use crate::random::Random;
use crate::{Listener, Upstream};

/// How many services share ports with others, and how many have one of their own.
const SHARED: usize = 24;
const OWN: usize = 4;
/// Over how many ports the former are spread.
const PORTS: usize = 3;
/// How many raw clusters there may be.
const CLUSTERS: usize = 12;
/// How many of them there are when nothing is out of the ordinary.
const USUAL_CLUSTERS: usize = 4;

/// What a writer may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Create,
    Replace,
    Patch,
    Delete,
    Import,
    Statement,
    Touch,
    Move,
    Add,
    Remove,
    Swap,
    SpoilCluster,
    SpoilListener,
    SpoilRoutes,
    Mend,
}

const CHANGES: [(Change, usize); 15] = [
    (Change::Create, 5),
    (Change::Replace, 3),
    (Change::Patch, 5),
    (Change::Delete, 5),
    (Change::Import, 2),
    (Change::Statement, 2),
    (Change::Touch, 3),
    (Change::Move, 4),
    (Change::Add, 3),
    (Change::Remove, 3),
    (Change::Swap, 4),
    (Change::SpoilCluster, 1),
    (Change::SpoilListener, 1),
    (Change::SpoilRoutes, 1),
    (Change::Mend, 3),
];

/// The only one who changes his fleet.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) ledger: Ledger,
    random: Random,
    deck: Deck<Change>,
    doors: Doors,
    database: Arc<Database>,
    upstreams: Arc<[Upstream]>,
    /// Which of the clusters that take turns behind `front` it is; nothing, if that is not certain.
    turn: Option<usize>,
    /// The ports of the raw listeners.
    front: Listener,
    beside: Listener,
    /// A port that nobody gets, and who has it.
    taken: (u16, TcpListener),
    tally: Tally,
    /// What the server refused, which it should not have.
    refusals: Vec<String>,
}

impl Writer {
    /// Nothing is stored yet.
    pub(super) fn new(
        fleet: usize,
        random: Random,
        doors: &Doors,
        database: &Arc<Database>,
        upstreams: &Arc<[Upstream]>,
        tally: &Tally,
    ) -> Writer {
        let holder = TcpListener::bind("127.0.0.1:0").expect("some port is free");
        let port = holder.local_addr().expect("a bound socket has an address").port();
        Writer {
            ledger: Ledger::new(fleet, slots(fleet)),
            random,
            deck: Deck::new(&CHANGES),
            doors: doors.clone(),
            database: database.clone(),
            upstreams: upstreams.clone(),
            turn: None,
            front: Listener::reserve(),
            beside: Listener::reserve(),
            taken: (port, holder),
            tally: tally.clone(),
            refusals: Vec::new(),
        }
    }

    /// The port on which the first service is, which nobody changes.
    pub(super) fn steady_port(&self) -> u16 {
        self.ledger.slots[0].listener_port
    }

    /// The names of clusters that there may be.
    pub(super) fn clusters(&self) -> Vec<String> {
        let rows = self.ledger.slots.iter().map(|slot| slot.name.clone());
        rows.chain((0..CLUSTERS).map(|i| self.raw(i))).collect()
    }

    /// What was refused that should not have been.
    pub(super) fn refusals(&mut self) -> Vec<String> {
        std::mem::take(&mut self.refusals)
    }

    /// Changes something.
    pub(super) fn change(&mut self) {
        let change = self.deck.draw(&mut self.random);
        match change {
            Change::Create => self.create(),
            Change::Replace => self.replace(),
            Change::Patch => self.patch(),
            Change::Delete => self.delete(),
            Change::Import => self.import(),
            Change::Statement => self.execute(),
            Change::Touch => self.touch(),
            Change::Move => self.moves(),
            Change::Add => self.add(),
            Change::Remove => self.remove(),
            Change::Swap => self.swap(),
            Change::SpoilCluster => self.spoil_cluster(),
            Change::SpoilListener => self.spoil_listener(),
            Change::SpoilRoutes => self.spoil_routes(),
            Change::Mend => self.mend(),
        }
    }

    /// Stores what there is when nothing is out of the ordinary, and nothing else. All must be certain.
    pub(super) fn restore(&mut self) {
        let row = Row { upstream_port: self.upstreams[0].port(), connect_timeout_ms: 1000 };
        let (usual, others): (Vec<_>, Vec<_>) =
            (0..self.ledger.slots.len()).partition(|slot| self.ledger.slots[*slot].is_usual);
        self.store(&usual.into_iter().map(|slot| (slot, row.clone())).collect::<Vec<_>>());
        for slot in others {
            if self.row(slot).is_some() {
                self.take_out(slot);
            }
        }
        let port = self.upstreams[0].port();
        let mut upserts = vec![
            (
                self.key(TypeUrl::LISTENER, "front"),
                listener(&self.name("front"), self.front.port(), &self.name("front")),
            ),
            (self.key(TypeUrl::ROUTE, "front"), routes(&self.name("front"), &self.turn_name(0))),
        ];
        let clusters = (0..USUAL_CLUSTERS).map(|i| self.raw(i)).chain([self.turn_name(0)]);
        for name in clusters {
            upserts.push(((TypeUrl::CLUSTER, name.clone()), cluster(&name, 1)));
            upserts.push(((TypeUrl::ENDPOINT, name.clone()), endpoints(&name, port)));
        }
        let stays = |key: &Key| upserts.iter().any(|(upsert, _)| upsert == key);
        let removes = self.ledger.resources.keys().filter(|key| !stays(key)).cloned().collect();
        self.transact(upserts, removes);
        self.turn = Some(0);
    }

    /// Mends all that is meant to be rejected. All must be certain.
    pub(super) fn mend_all(&mut self) {
        while !self.mistakes().is_empty() {
            let before = self.mistakes().len();
            self.mend();
            if self.mistakes().len() == before {
                self.refusals.push("what is bad cannot be mended".to_owned());
                return;
            }
        }
    }

    /// Compares what is stored with what its writer was told.
    pub(super) fn settle(&mut self) -> Vec<String> {
        let fleet = self.ledger.fleet;
        let rows = format!("/api/v1/services/?cluster_id={fleet}");
        let raw = format!("/api/v1/xds/scopes/cluster-{fleet}/resources?content=true");
        let mut read = |path: &str| {
            let answer = self.doors.ask(self.doors.any(&mut self.random), "GET", path, None)?;
            (answer.status == 200).then(|| answer.json())
        };
        let (Some(rows), Some(raw)) = (read(&rows), read(&raw)) else {
            return vec![format!("what is stored of fleet {fleet} cannot be read")];
        };
        let wrong = self.ledger.settle(&rows, &raw);
        let prefix = self.name("turn-");
        let turn = |(kind, name): &Key| {
            let number = name.strip_prefix(&prefix).filter(|_| *kind == TypeUrl::CLUSTER)?;
            number.parse::<usize>().ok()
        };
        self.turn = self.ledger.resources.keys().find_map(turn);
        wrong
    }

    // Rows.

    fn row(&self, slot: usize) -> Option<&Row> {
        self.ledger.rows[slot].certain()?.as_ref()
    }

    /// Any service but the first that is there, or that is not.
    fn any(&mut self, is_there: bool) -> Option<usize> {
        let is_so = |slot: &usize| {
            self.ledger.rows[*slot].certain().is_some_and(|row| row.is_some() == is_there)
        };
        let slots: Vec<_> = (1..self.ledger.slots.len()).filter(is_so).collect();
        (!slots.is_empty()).then(|| slots[self.random.below(slots.len())])
    }

    fn any_row(&mut self) -> Row {
        let upstream_port = self.upstreams[self.random.below(self.upstreams.len())].port();
        let connect_timeout_ms =
            1000 + 500 * i64::try_from(self.random.below(9)).unwrap_or_default();
        Row { upstream_port, connect_timeout_ms }
    }

    fn create(&mut self) {
        let Some(slot) = self.any(false) else { return };
        let row = self.any_row();
        let service = self.ledger.slots[slot].service(self.ledger.fleet, &row);
        let done = self.write("a service was created", "POST", "/api/v1/services/", Some(&service));
        self.wrote(slot, Some(row), done);
    }

    fn replace(&mut self) {
        let Some((slot, path)) = self.find() else { return };
        let row = self.any_row();
        let service = self.ledger.slots[slot].service(self.ledger.fleet, &row);
        let done = self.write("a service was replaced", "PUT", &path, Some(&service));
        self.wrote(slot, Some(row), done);
    }

    fn patch(&mut self) {
        let Some((slot, path)) = self.find() else { return };
        let row = self.any_row();
        let fields = json!({
            "upstream_port": row.upstream_port, "connect_timeout_ms": row.connect_timeout_ms,
        });
        let done = self.write("a service was patched", "PATCH", &path, Some(&fields));
        self.wrote(slot, Some(row), done);
    }

    fn delete(&mut self) {
        if let Some(slot) = self.any(true) {
            self.take_out(slot);
        }
    }

    fn take_out(&mut self, slot: usize) {
        let Some(path) = self.path(slot) else { return };
        let done = self.write("a service was deleted", "DELETE", &path, None);
        self.wrote(slot, None, done);
    }

    fn import(&mut self) {
        let slots = [self.any(false), self.any(true), self.any(true)];
        let mut slots: Vec<_> = slots.into_iter().flatten().collect();
        slots.dedup();
        let rows: Vec<_> = slots.into_iter().map(|slot| (slot, self.any_row())).collect();
        self.store(&rows);
    }

    fn store(&mut self, rows: &[(usize, Row)]) {
        let service =
            |(slot, row): &(usize, Row)| self.ledger.slots[*slot].service(self.ledger.fleet, row);
        let services: Vec<_> = rows.iter().map(service).collect();
        let (path, body) = ("/api/v1/services/import", json!({"services": services}));
        let done = self.write("services were imported", "POST", path, Some(&body));
        for (slot, row) in rows {
            self.wrote(*slot, Some(row.clone()), done);
        }
    }

    /// As somebody at the database might.
    fn execute(&mut self) {
        let Some(slot) = self.any(true) else { return };
        let (row, name) = (self.any_row(), &self.ledger.slots[slot].name);
        let Row { upstream_port, connect_timeout_ms } = row;
        self.database.execute(&format!(
            "UPDATE services SET upstream_port = {upstream_port}, \
             connect_timeout_ms = {connect_timeout_ms} WHERE name = '{name}'"
        ));
        self.tally.note("a row was changed in the database itself");
        self.wrote(slot, Some(row), Some(true));
    }

    fn wrote(&mut self, slot: usize, row: Option<Row>, done: Option<bool>) {
        if done != Some(false) {
            self.ledger.rows[slot].write(row, done.is_some());
        }
    }

    /// Any service that is there but the first, and where it is.
    fn find(&mut self) -> Option<(usize, String)> {
        let slot = self.any(true)?;
        Some((slot, self.path(slot)?))
    }

    /// Where a service is that is there; nothing, if no answer came.
    fn path(&mut self, slot: usize) -> Option<String> {
        let name = self.ledger.slots[slot].name.clone();
        let path = format!("/api/v1/services/?name={name}");
        let answer = self.ask("GET", &path, None)?;
        let services = answer.json();
        let mut services = services.as_array().into_iter().flatten();
        let found = services.find(|service| service["name"] == *name);
        if found.is_none() {
            self.refusals.push(format!("{name} was stored, and is not there: {}", answer.body));
        }
        Some(format!("/api/v1/services/{}", found?["id"]))
    }

    // Raw resources.

    fn name(&self, name: &str) -> String {
        format!("f{}-{name}", self.ledger.fleet)
    }

    fn raw(&self, number: usize) -> String {
        self.name(&format!("raw-{number}"))
    }

    fn turn_name(&self, turn: usize) -> String {
        self.name(&format!("turn-{turn}"))
    }

    fn key(&self, type_url: TypeUrl, name: &str) -> Key {
        (type_url, self.name(name))
    }

    /// Any raw cluster that is certainly there with its endpoints, or certainly not.
    fn any_raw(&mut self, is_there: bool) -> Option<String> {
        let is_so = |name: &String| {
            [TypeUrl::CLUSTER, TypeUrl::ENDPOINT].into_iter().all(|type_url| {
                let key = (type_url, name.clone());
                self.ledger.is_certain(&key) && self.ledger.resource(&key).is_some() == is_there
            })
        };
        let names: Vec<_> = (0..CLUSTERS).map(|i| self.raw(i)).filter(is_so).collect();
        (!names.is_empty()).then(|| names[self.random.below(names.len())].clone())
    }

    fn any_port(&mut self) -> u16 {
        self.upstreams[self.random.below(self.upstreams.len())].port()
    }

    fn touch(&mut self) {
        let Some(name) = self.any_raw(true) else { return };
        let value = cluster(&name, 1 + self.random.below(9));
        self.tally.note("a raw cluster was changed");
        self.transact(vec![((TypeUrl::CLUSTER, name), value)], Vec::new());
    }

    fn moves(&mut self) {
        let Some(name) = self.any_raw(true) else { return };
        let value = endpoints(&name, self.any_port());
        self.tally.note("raw endpoints were changed");
        self.transact(vec![((TypeUrl::ENDPOINT, name), value)], Vec::new());
    }

    fn add(&mut self) {
        let Some(name) = self.any_raw(false) else { return };
        let upserts = vec![
            ((TypeUrl::CLUSTER, name.clone()), cluster(&name, 1)),
            ((TypeUrl::ENDPOINT, name.clone()), endpoints(&name, self.any_port())),
        ];
        self.tally.note("a raw cluster was added");
        self.transact(upserts, Vec::new());
    }

    fn remove(&mut self) {
        let Some(name) = self.any_raw(true) else { return };
        self.tally.note("a raw cluster was removed");
        let removes = [TypeUrl::CLUSTER, TypeUrl::ENDPOINT].map(|kind| (kind, name.clone()));
        self.transact(Vec::new(), removes.into());
    }

    /// The routes of `front` lead to another cluster, and the one before goes, all at once.
    fn swap(&mut self) {
        let routes_key = self.key(TypeUrl::ROUTE, "front");
        let Some(turn) = self.turn.filter(|_| self.ledger.is_certain(&routes_key)) else { return };
        let (old, new) = (self.turn_name(turn), self.turn_name(turn + 1));
        let upserts = vec![
            ((TypeUrl::CLUSTER, new.clone()), cluster(&new, 1)),
            ((TypeUrl::ENDPOINT, new.clone()), endpoints(&new, self.any_port())),
            (routes_key, routes(&self.name("front"), &new)),
        ];
        let removes = [TypeUrl::CLUSTER, TypeUrl::ENDPOINT].map(|kind| (kind, old.clone()));
        self.tally.note("a raw cluster was swapped for another");
        self.turn = match self.transact(upserts, removes.into()) {
            Some(true) => Some(turn + 1),
            Some(false) => Some(turn),
            None => None,
        };
    }

    fn spoil_cluster(&mut self) {
        let key = self.key(TypeUrl::CLUSTER, "bad");
        if self.ledger.is_certain(&key) {
            self.tally.note("a bad cluster came");
            self.transact(vec![(key.clone(), bad_cluster(&key.1))], Vec::new());
        }
    }

    fn spoil_listener(&mut self) {
        let key = self.key(TypeUrl::LISTENER, "bad");
        if self.ledger.is_certain(&key) {
            let bad = bad_listener(&key.1, self.taken.0, &self.name("front"));
            self.tally.note("a bad listener came");
            self.transact(vec![(key, bad)], Vec::new());
        }
    }

    fn spoil_routes(&mut self) {
        let key = self.key(TypeUrl::ROUTE, "front");
        let Some(turn) = self.turn.filter(|_| self.ledger.is_certain(&key)) else { return };
        let bad = bad_routes(&key.1, &self.turn_name(turn));
        self.tally.note("routes became bad");
        self.transact(vec![(key, bad)], Vec::new());
    }

    /// What is certainly there and meant to be rejected.
    fn mistakes(&self) -> Vec<Key> {
        let text = |value: &Value| is_mistake(value.to_string().as_bytes());
        let keys = self.ledger.resources.keys();
        keys.filter(|key| self.ledger.resource(key).is_some_and(text)).cloned().collect()
    }

    /// Puts what is good in place of what is bad, or takes it away.
    fn mend(&mut self) {
        let mistakes = self.mistakes();
        let Some(key) = mistakes.get(self.random.below(mistakes.len().max(1))) else { return };
        let (key, goes) = (key.clone(), self.random.below(2) == 0);
        if key.0 == TypeUrl::ROUTE {
            let Some(turn) = self.turn else { return };
            let good = routes(&key.1, &self.turn_name(turn));
            self.tally.note("bad routes were mended");
            self.transact(vec![(key, good)], Vec::new());
        } else if goes {
            self.tally.note("something bad was removed");
            let endpoints = (TypeUrl::ENDPOINT, key.1.clone());
            let its = (key.0 == TypeUrl::CLUSTER).then_some(endpoints);
            self.transact(Vec::new(), [key].into_iter().chain(its).collect());
        } else if key.0 == TypeUrl::CLUSTER {
            let upserts = vec![
                (key.clone(), cluster(&key.1, 2)),
                ((TypeUrl::ENDPOINT, key.1.clone()), endpoints(&key.1, self.any_port())),
            ];
            self.tally.note("a bad cluster was mended");
            self.transact(upserts, Vec::new());
        } else {
            let good = listener(&key.1, self.beside.port(), &self.name("front"));
            self.tally.note("a bad listener was mended");
            self.transact(vec![(key, good)], Vec::new());
        }
    }

    /// Whether it is stored, as far as that is known.
    fn transact(&mut self, upserts: Vec<(Key, Value)>, removes: Vec<Key>) -> Option<bool> {
        let resource = |((type_url, _), value): &(Key, Value)| {
            let mut resource = value.clone();
            resource["@type"] = type_url.as_str().into();
            json!({"resource": resource})
        };
        let gone = |(type_url, name): &Key| json!({"type_url": type_url.as_str(), "name": name});
        let body = json!({
            "scope": format!("cluster-{}", self.ledger.fleet),
            "upserts": upserts.iter().map(resource).collect::<Vec<_>>(),
            "removes": removes.iter().map(gone).collect::<Vec<_>>(),
        });
        let path = "/api/v1/xds/transactions";
        let done = self.write("raw resources were stored", "POST", path, Some(&body));
        if done != Some(false) {
            let upserts = upserts.into_iter().map(|(key, value)| (key, Some(value)));
            for (key, value) in upserts.chain(removes.into_iter().map(|key| (key, None))) {
                self.ledger.wrote(key, value, done.is_some());
            }
        }
        done
    }

    // Requests.

    /// Whether it is done, as far as that is known.
    fn write(
        &mut self,
        what: &'static str,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Option<bool> {
        let body = body.map(Value::to_string);
        let Some(answer) = self.ask(method, path, body.as_deref()) else {
            self.tally.note("a write was not answered");
            return None;
        };
        if answer.status < 300 {
            self.tally.note(what);
            return Some(true);
        }
        self.refusals.push(format!("{method} {path}: {} {}", answer.status, answer.body));
        Some(false)
    }

    /// What any replica answers, if it can.
    fn ask(&mut self, method: &str, path: &str, body: Option<&str>) -> Option<Answer> {
        let replica = self.doors.any(&mut self.random);
        let answer = self.doors.ask(replica, method, path, body)?;
        (answer.status < 500).then_some(answer)
    }
}

/// The services that a fleet may have.
fn slots(fleet: usize) -> Vec<Slot> {
    let ports = [(); PORTS].map(|()| Listener::reserve().port());
    let shared = (0..SHARED).map(|i| {
        let prefix = format!("/s{i}");
        // The first of them is asked for all the time.
        let kind = if i % 8 == 7 { Kind::Dns(prefix) } else { Kind::Http(prefix) };
        let name = format!("f{fleet}-s{i}");
        Slot { name, kind, listener_port: ports[i % PORTS], is_usual: i % 2 == 0 }
    });
    let own = (0..OWN).map(|i| Slot {
        name: format!("f{fleet}-t{i}"),
        kind: Kind::Tcp,
        listener_port: Listener::reserve().port(),
        is_usual: i % 2 == 0,
    });
    shared.chain(own).collect()
}
