//! A control plane as an embedder builds it, for Envoys: the library's own server in this process, and
//! a record of what it heard and said.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use deltaplane_server::{
    Aging, Cache, Client, Delivery, HowMany, Keepalive, LoadReporting, Order, Rejection, Resource,
    Revision, Scope, Transaction, TypeUrl, Withdrawal, XdsServer, XdsServerBuilder,
};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};

use crate::envoy::record::Record;
use crate::{port, wait_until};

const PATIENCE: Duration = Duration::from_secs(20);

/// How much of its record a control plane shows when a test failed.
const LAST_ENTRIES: usize = 400;

/// For so long an Envoy serves the old connections of a listener that changed, whole seconds: both sides
/// are told so. In each second, one more of so many answers ends its connection, and those that are left
/// then are cut. A connection with some requests in a second has long ended by then.
pub const DRAIN: Duration = Duration::from_secs(5);

/// How often it is asked whether a quiet connection is still there.
const KEEPALIVE: Duration = Duration::from_secs(1);

/// How often an Envoy reports load: as often as it can.
pub const REPORTS: Duration = Duration::from_secs(1);

/// What all clients see. Over it, each sees what its node's id is the scope of.
const SCOPE: &str = "default";

/// A control plane on a port that stays its own while it is down.
#[derive(Debug)]
pub struct EnvoyControlPlane {
    port: u16,
    cache: Cache,
    record: Arc<Record>,
    /// Those of the servers that were killed.
    past: Vec<Arc<Record>>,
    server: XdsServer,
    withdrawals: Arc<Mutex<Vec<Withdrawal>>>,
    runtime: Option<Runtime>,
}

impl EnvoyControlPlane {
    /// Starts one that serves these resources.
    pub fn start(resources: impl IntoIterator<Item = Resource>) -> EnvoyControlPlane {
        let port = port::reserve();
        let (cache, server, record) = server(resources);
        let (past, withdrawals) = (Vec::new(), Arc::default());
        let mut plane =
            EnvoyControlPlane { port, cache, record, past, server, withdrawals, runtime: None };
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

    /// What happened in that time, be it to a server that was killed since.
    pub fn story(&self, from: Instant, to: Instant) -> String {
        let records = self.past.iter().chain([&self.record]);
        records.map(|record| record.story(from, to)).collect::<Vec<_>>().join("\n  -")
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

    /// From now on, connections end when they are that old. Clients have to connect again.
    pub fn age(&mut self, age: Duration) {
        self.cut();
        self.server = builder(&self.cache, &self.record).aging(Aging::after(age)).build();
        self.resume();
    }

    /// The library's server. Another one after it was killed, or made to do other things.
    pub fn server(&self) -> &XdsServer {
        &self.server
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
    pub fn rejected(&self, revision: Revision) -> Vec<(Client, Arc<Rejection>)> {
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
        self.past.push(self.record.clone());
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
    let mut keepalive = Keepalive::default();
    keepalive.interval = KEEPALIVE;
    XdsServer::builder(cache.clone())
        .view(|node, _| vec![Scope::from(&*node.id), Scope::from(SCOPE)])
        .observer(record.clone())
        .order(order)
        .keepalive(keepalive)
        .load_reports(LoadReporting::every(REPORTS), |_, _| {})
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
