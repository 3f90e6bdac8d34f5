//! A model client that goes from one server to another, as Envoys do: when one lets it go, the next one gets
//! it, with what it holds by then.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use deltaplane_server::envoy_types::pb::envoy::config::cluster::v3::Cluster;
use deltaplane_server::envoy_types::pb::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, DiscoveryType,
};
use deltaplane_server::envoy_types::pb::envoy::config::core::v3::Node;
use deltaplane_server::testing::{Connection, ModelClient, Received, Update};
use deltaplane_server::{TypeUrl, TypeVersion, Variant};
use tokio::runtime::{Builder, Runtime};
use tokio::time::sleep;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use crate::wait_until;

const PATIENCE: Duration = Duration::from_secs(20);

/// Between one server that does not take it and the next.
const PAUSE: Duration = Duration::from_millis(20);

/// All of these it asks for, and for the endpoints of its clusters by name.
const WILDCARDS: [TypeUrl; 2] = [TypeUrl::CLUSTER, TypeUrl::LISTENER];

/// A client that accepts everything, in threads of its own. It ends when it is dropped.
#[derive(Debug)]
pub struct Follower {
    told: Arc<Mutex<Told>>,
    _runtime: Runtime,
}

/// What it was told, on all of its streams.
#[derive(Debug, Default)]
struct Told {
    running: HashMap<TypeUrl, BTreeMap<String, Received>>,
    /// The version of what it was told last, by type.
    versions: HashMap<TypeUrl, String>,
    streams: usize,
    /// How often it was told of each resource that it did not name.
    times: BTreeMap<String, usize>,
    /// What it did not name, and was told though it had just that.
    repeated: Vec<String>,
}

impl Follower {
    /// Goes to the first of these servers.
    pub fn start(
        servers: Vec<SocketAddr>,
        node_id: &str,
        cluster: &str,
        variant: crate::Variant,
    ) -> Follower {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a thread can be had");
        let node = Node { id: node_id.into(), cluster: cluster.into(), ..Node::default() };
        let variant = Variant::from(variant);
        let told = Arc::<Mutex<Told>>::default();
        runtime.spawn(follow(servers, node, variant, told.clone()));
        Follower { told, _runtime: runtime }
    }

    /// Waits until it runs just the clusters of these names, which may take so many milliseconds to connect.
    pub fn runs(&self, clusters: &BTreeMap<String, i64>) {
        wait_until("a model client has what is stored", PATIENCE, || {
            (self.clusters() == *clusters).then_some(())
        });
    }

    /// The clusters that it runs, and how many milliseconds each may take to connect.
    pub fn clusters(&self) -> BTreeMap<String, i64> {
        let told = self.told();
        let clusters = told.running.get(&TypeUrl::CLUSTER).into_iter().flatten();
        clusters.map(|(name, it)| (name.clone(), milliseconds(&it.decode()))).collect()
    }

    /// How many streams it had.
    pub fn streams(&self) -> usize {
        self.told().streams
    }

    /// How often it was told of a cluster or listener.
    pub fn times(&self, name: &str) -> usize {
        self.told().times.get(name).copied().unwrap_or(0)
    }

    /// The clusters and listeners that it was told though it had just these; in State of the World, the types
    /// of which it was told again all that it had.
    pub fn repeated(&self) -> Vec<String> {
        self.told().repeated.clone()
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        lock(&self.told)
    }
}

fn lock(told: &Mutex<Told>) -> MutexGuard<'_, Told> {
    told.lock().unwrap_or_else(PoisonError::into_inner)
}

fn milliseconds(cluster: &Cluster) -> i64 {
    let timeout = cluster.connect_timeout.as_ref();
    timeout.map_or(0, |it| it.seconds * 1_000 + i64::from(it.nanos) / 1_000_000)
}

async fn follow(servers: Vec<SocketAddr>, node: Node, variant: Variant, told: Arc<Mutex<Told>>) {
    let mut servers = servers.into_iter().cycle();
    let mut client = loop {
        let channel = next(&mut servers).await;
        if let Ok(client) = ModelClient::connect(channel, node.clone(), variant).await {
            break client;
        }
        sleep(PAUSE).await;
    };
    for type_url in WILDCARDS {
        client.subscribe(type_url, &[]);
    }
    lock(&told).streams += 1;
    loop {
        match client.next().await {
            Ok(Some(update)) => {
                take(&mut client, &update, variant, &mut lock(&told));
            }
            // There is no news.
            Err(status) if status.code() == Code::DeadlineExceeded => {}
            Ok(None) | Err(_) => {
                while client.reconnect(next(&mut servers).await).await.is_err() {
                    sleep(PAUSE).await;
                }
                lock(&told).streams += 1;
            }
        }
    }
}

/// A connection to the next server that is there.
async fn next(servers: &mut impl Iterator<Item = SocketAddr>) -> Channel {
    for server in servers {
        let endpoint = Endpoint::from_shared(format!("http://{server}")).expect("an address");
        if let Ok(channel) = endpoint.connect_timeout(PATIENCE).connect().await {
            return channel;
        }
        sleep(PAUSE).await;
    }
    unreachable!("they take turns")
}

fn take(client: &mut ModelClient<Connection>, update: &Update, variant: Variant, told: &mut Told) {
    let type_url = &update.type_url;
    if WILDCARDS.contains(type_url) {
        told.count(update, variant);
    }
    client.ack(update);
    if *type_url == TypeUrl::CLUSTER {
        let had = told.running.get(type_url);
        let is_new = |it: &&Received| had.is_none_or(|had| !had.contains_key(&it.name));
        let new = update.resources.iter().filter(is_new).filter(|it| is_eds(it));
        let names: Vec<&str> = new.map(|it| it.name.as_str()).collect();
        if !names.is_empty() {
            client.subscribe(TypeUrl::ENDPOINT, &names);
        }
    }
    let running = client.running(type_url).map(|it| (it.name.clone(), it.clone())).collect();
    told.running.insert(type_url.clone(), running);
}

fn is_eds(resource: &Received) -> bool {
    let cluster: Cluster = resource.decode();
    cluster.cluster_discovery_type == Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into()))
}

impl Told {
    /// Counts what is told before it is accepted.
    fn count(&mut self, update: &Update, variant: Variant) {
        let type_url = &update.type_url;
        for resource in &update.resources {
            *self.times.entry(resource.name.clone()).or_default() += 1;
            let had = self.running.get(type_url).and_then(|all| all.get(&resource.name));
            if variant == Variant::Delta && had == Some(resource) {
                self.repeated.push(resource.name.clone());
            }
        }
        let version = update.version.clone();
        let had = self.versions.insert(type_url.clone(), version.clone());
        let content = |version: String| version.parse::<TypeVersion>().ok();
        if variant == Variant::Sotw && had.and_then(content) == content(version) {
            self.repeated.push(type_url.to_string());
        }
    }
}
