//! A control plane as an embedder builds it, for Envoys: the library's own server in this process, and
//! a record of what it heard and said in either variant.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use deltaplane_server::envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryResponse, DiscoveryResponse,
};
use deltaplane_server::{
    Cache, Client, ClientEvent, Delivery, Event, HowMany, Observer, Order, Rejection, Resource,
    Response, Revision, Transaction, TypeUrl, Variant, Withdrawal, XdsServer, XdsServerBuilder,
};
use prost::Message;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};

use crate::deadline::wait_quietly;
use crate::{port, wait_until};

const PATIENCE: Duration = Duration::from_secs(20);

/// How much of its record a control plane shows when a test failed.
const LAST_ENTRIES: usize = 400;

/// For so long an Envoy serves the old connections of a listener that changed, whole seconds: both sides
/// are told so. In each second, one more of so many answers ends its connection, and those that are left
/// then are cut. A connection with some requests in a second has long ended by then.
pub const DRAIN: Duration = Duration::from_secs(5);

/// What all clients see.
const SCOPE: &str = "default";

/// A control plane on a port that stays its own while it is down.
#[derive(Debug)]
pub struct EnvoyControlPlane {
    port: u16,
    cache: Cache,
    record: Arc<Record>,
    server: XdsServer,
    withdrawals: Arc<Mutex<Vec<Withdrawal>>>,
    runtime: Option<Runtime>,
}

/// What happened on the streams of one server, in order.
#[derive(Debug, Default)]
pub struct Record(Mutex<Vec<(u64, Entry)>>);

/// What happened on a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "they are called what they are")]
pub enum Entry {
    Connected,
    Subscribed { type_url: TypeUrl },
    Sent { type_url: TypeUrl, nonce: String, names: Vec<String>, removed: Vec<String> },
    Accepted { type_url: TypeUrl, nonce: String },
    Rejected { type_url: TypeUrl, nonce: String, names: Vec<String>, words: String },
    Disconnected,
}

impl EnvoyControlPlane {
    /// Starts one that serves these resources.
    pub fn start(resources: impl IntoIterator<Item = Resource>) -> EnvoyControlPlane {
        let port = port::reserve();
        let (cache, server, record) = server(resources);
        let withdrawals = Arc::default();
        let mut plane =
            EnvoyControlPlane { port, cache, record, server, withdrawals, runtime: None };
        plane.resume();
        plane
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What happened since it was started last.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Adds and changes resources, all at once.
    pub fn put(&self, resources: impl IntoIterator<Item = Resource>) -> Revision {
        self.change(resources, [])
    }

    /// Adds, changes and removes resources, all at once.
    pub fn change<'a>(
        &self,
        resources: impl IntoIterator<Item = Resource>,
        gone: impl IntoIterator<Item = (TypeUrl, &'a str)>,
    ) -> Revision {
        self.commit(transaction(resources, gone))
    }

    /// Adds and changes resources, be it to what was rejected and taken back.
    pub fn insist(&self, resources: impl IntoIterator<Item = Resource>) -> Revision {
        self.commit(std::mem::take(transaction(resources, []).insist()))
    }

    /// Makes any other change.
    pub fn commit(&self, transaction: Transaction) -> Revision {
        commit(&self.cache, transaction)
    }

    /// Cuts all connections, and accepts no others. What it knows it keeps.
    pub fn cut(&mut self) {
        let runtime = self.runtime.take().expect("only what runs can be cut off");
        runtime.shutdown_timeout(PATIENCE);
    }

    /// Accepts connections again.
    pub fn resume(&mut self) {
        assert!(self.runtime.is_none(), "only what was cut off can be resumed");
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("threads can be had");
        // Another process may be trying whether the port is free.
        let bind = || runtime.block_on(TcpListener::bind(("127.0.0.1", self.port))).ok();
        let listener = wait_until("the port is this control plane's own", PATIENCE, bind);
        let server = self.server.clone();
        runtime.spawn(async move { server.serve(listener, std::future::pending()).await });
        self.runtime = Some(runtime);
    }

    /// From now on, changes reach clients as they come, in no order. They have to connect again.
    pub fn forget_order(&mut self) {
        self.cut();
        self.server = builder(&self.cache, &self.record).order(Order::AtOnce).build();
        self.resume();
    }

    /// From now on, what a client rejects is taken back. Clients have to connect again.
    pub fn withdraw_rejected(&mut self) {
        self.cut();
        let heard = self.withdrawals.clone();
        let server = builder(&self.cache, &self.record).withdraw_rejected(move |it| {
            heard.lock().expect("nobody panicked with it").push(it.clone());
        });
        self.server = server.build();
        self.resume();
    }

    /// What was taken back.
    pub fn withdrawals(&self) -> Vec<Withdrawal> {
        self.withdrawals.lock().expect("nobody panicked with it").clone()
    }

    /// What became of a revision.
    pub fn delivery(&self, revision: Revision) -> Delivery {
        self.server.delivery(revision)
    }

    /// Waits until all clients have settled at a revision.
    pub fn delivers(&self, revision: Revision) {
        wait_until("all have settled", PATIENCE, || {
            self.delivery(revision).has_settled(HowMany::All).then_some(())
        });
    }

    /// Waits until somebody rejected something of a revision and nobody still has to answer, and returns what.
    pub fn rejected(&self, revision: Revision) -> Vec<(Client, Rejection)> {
        wait_until("it is rejected", PATIENCE, || {
            let delivery = self.delivery(revision);
            let all = delivery.rejected();
            let each =
                all.flat_map(|(client, all)| all.iter().map(|it| (client.clone(), it.clone())));
            let rejected: Vec<_> = each.collect();
            (!rejected.is_empty() && delivery.pending().next().is_none()).then_some(rejected)
        })
    }

    /// Kills the server: its connections break, nothing is said, and all that it knew is lost, the
    /// record included. The next one, when it is resumed, serves these resources.
    pub fn kill(&mut self, resources: impl IntoIterator<Item = Resource>) {
        self.cut();
        (self.cache, self.server, self.record) = server(resources);
    }
}

fn server(resources: impl IntoIterator<Item = Resource>) -> (Cache, XdsServer, Arc<Record>) {
    let (cache, record) = (Cache::new(), Arc::<Record>::default());
    commit(&cache, transaction(resources, []));
    let server = builder(&cache, &record).build();
    (cache, server, record)
}

fn builder(cache: &Cache, record: &Arc<Record>) -> XdsServerBuilder {
    let order = Order::Gated { patience: PATIENCE, drain: DRAIN };
    XdsServer::builder(cache.clone()).observer(record.clone()).order(order)
}

/// What adds, changes and removes resources that all clients see.
pub fn transaction<'a>(
    resources: impl IntoIterator<Item = Resource>,
    gone: impl IntoIterator<Item = (TypeUrl, &'a str)>,
) -> Transaction {
    let mut transaction = Transaction::new();
    for resource in resources {
        transaction.upsert(SCOPE, resource);
    }
    for (type_url, name) in gone {
        transaction.remove(SCOPE, type_url, name);
    }
    transaction
}

fn commit(cache: &Cache, transaction: Transaction) -> Revision {
    let commit = cache.commit(transaction).expect("a test contradicts nobody");
    assert!(commit.changes > 0, "the test says what was said before");
    commit.revision
}

impl Drop for EnvoyControlPlane {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut text = format!("---- the control plane on port {} heard and said", self.port);
            let all = self.record.all();
            for (stream, entry) in &all[all.len().saturating_sub(LAST_ENTRIES)..] {
                text.push_str(&format!("\n{stream}: {entry:?}"));
            }
            eprintln!("{text}");
        }
    }
}

impl Record {
    /// All of it, so far, with the streams that it happened on.
    pub fn all(&self) -> Vec<(u64, Entry)> {
        self.entries().clone()
    }

    /// How often any stream subscribed to a type first.
    pub fn subscriptions(&self, type_url: &TypeUrl) -> usize {
        let is_it =
            |entry: &Entry| matches!(entry, Entry::Subscribed { type_url: it } if it == type_url);
        self.entries().iter().filter(|(_, entry)| is_it(entry)).count()
    }

    /// How many streams are open.
    pub fn open(&self) -> usize {
        let entries = self.entries();
        let count = |what| entries.iter().filter(|(_, entry)| *entry == what).count();
        count(Entry::Connected) - count(Entry::Disconnected)
    }

    /// The responses of a type: the names of what was in them, sorted, and the names of what they
    /// removed.
    pub fn sent(&self, type_url: &TypeUrl) -> Vec<(Vec<String>, Vec<String>)> {
        let entries = self.entries();
        let sent = entries.iter().filter_map(|(_, entry)| match entry {
            Entry::Sent { type_url: it, names, removed, .. } if it == type_url => {
                Some((names.clone(), removed.clone()))
            }
            _ => None,
        });
        sent.collect()
    }

    /// How many responses there were, of all types.
    pub fn responses(&self) -> usize {
        let is_it = |entry: &Entry| matches!(entry, Entry::Sent { .. });
        self.entries().iter().filter(|(_, entry)| is_it(entry)).count()
    }

    /// How often a resource was sent.
    pub fn times(&self, type_url: &TypeUrl, name: &str) -> usize {
        let all = self.sent(type_url);
        all.iter().filter(|(names, _)| names.iter().any(|it| it == name)).count()
    }

    /// How many responses of a type were accepted.
    pub fn accepted(&self, type_url: &TypeUrl) -> usize {
        let is_it =
            |entry: &Entry| matches!(entry, Entry::Accepted { type_url: it, .. } if it == type_url);
        self.entries().iter().filter(|(_, entry)| is_it(entry)).count()
    }

    /// What was rejected of a type: the names, and Envoy's words.
    pub fn rejections(&self, type_url: &TypeUrl) -> Vec<(Vec<String>, String)> {
        let entries = self.entries();
        let rejections = entries.iter().filter_map(|(_, entry)| match entry {
            Entry::Rejected { type_url: it, names, words, .. } if it == type_url => {
                Some((names.clone(), words.clone()))
            }
            _ => None,
        });
        rejections.collect()
    }

    /// Waits for the rejection of a type, of which there is one, and returns its names and words.
    pub fn rejects(&self, type_url: &TypeUrl) -> (Vec<String>, String) {
        wait_until("Envoy rejects", PATIENCE, || self.rejections(type_url).pop())
    }

    /// Waits until each response was answered that Envoy still can answer. The answer to a type's newest
    /// is for those before it, too (S-18).
    pub fn settles(&self) {
        wait_quietly("all is answered", PATIENCE, || self.is_settled().then_some(()));
    }

    /// Whether that is so now.
    pub fn is_settled(&self) -> bool {
        let (entries, mut open, mut any) = (self.entries(), HashMap::new(), false);
        for (stream, entry) in entries.iter() {
            match entry {
                Entry::Sent { type_url, nonce, .. } => {
                    open.insert((*stream, type_url), nonce);
                    any = true;
                }
                Entry::Accepted { type_url, nonce } | Entry::Rejected { type_url, nonce, .. } => {
                    let key = (*stream, type_url);
                    if open.get(&key) == Some(&nonce) {
                        open.remove(&key);
                    }
                }
                Entry::Disconnected => open.retain(|(it, _), _| it != stream),
                Entry::Connected | Entry::Subscribed { .. } => {}
            }
        }
        any && open.is_empty()
    }

    fn entries(&self) -> MutexGuard<'_, Vec<(u64, Entry)>> {
        self.0.lock().expect("no holder of it panics")
    }
}

impl Observer for Record {
    fn observe(&self, client: &Client, event: &ClientEvent<'_>) {
        let entry = match event {
            ClientEvent::Connected => Entry::Connected,
            ClientEvent::Sent(response) => sent(client.variant, response),
            ClientEvent::Told(Event::Subscribed { type_url, is_first: true, .. }) => {
                Entry::Subscribed { type_url: type_url.clone() }
            }
            ClientEvent::Told(Event::Acknowledged { type_url, nonce, .. }) => {
                Entry::Accepted { type_url: type_url.clone(), nonce: nonce.clone() }
            }
            ClientEvent::Told(Event::Rejected { type_url, nonce, names, error, .. }) => {
                let (type_url, nonce) = (type_url.clone(), nonce.clone());
                let names = names.iter().map(ToString::to_string).collect();
                Entry::Rejected { type_url, nonce, names, words: error.message.clone() }
            }
            ClientEvent::Disconnected(_) => Entry::Disconnected,
            _ => return,
        };
        self.entries().push((client.id, entry));
    }
}

/// A response's body is all of it but the nonce.
fn sent(variant: Variant, response: &Response) -> Entry {
    let (mut names, removed) = if variant == Variant::Delta {
        let message = DeltaDiscoveryResponse::decode(&*response.body);
        let message = message.expect("a response can be read");
        let names = message.resources.into_iter().map(|resource| resource.name);
        (names.collect::<Vec<_>>(), message.removed_resources)
    } else {
        let message = DiscoveryResponse::decode(&*response.body);
        let message = message.expect("a response can be read");
        let names = message.resources.iter().map(|resource| name(&resource.value));
        (names.collect(), Vec::new())
    };
    names.sort();
    let (type_url, nonce) = (response.type_url.clone(), response.nonce.clone());
    Entry::Sent { type_url, nonce, names, removed }
}

/// What all types here have in common: the first field is the name.
#[derive(Clone, PartialEq, Message)]
struct Named {
    #[prost(string, tag = "1")]
    name: String,
}

fn name(resource: &[u8]) -> String {
    Named::decode(resource).expect("a resource of a known type can be read").name
}
