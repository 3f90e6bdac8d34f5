//! Very many clients that do the same at once, on thousands of connections to the real server.

#![allow(missing_docs, clippy::expect_used)]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use deltaplane_server::envoy_types::pb::envoy::config::core::v3::Node;
use deltaplane_server::testing::{Connection, ModelClient, Update};
use deltaplane_server::{TypeUrl, Variant};
use deltaplane_tests::{
    Database, Deltaplane, Kind, Listener, Upstream, machine, service, wait_until,
};
use serde_json::json;
use tokio::runtime::Runtime;
use tokio::time::{sleep, timeout_at};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

/// As far as there may be as many files at each end.
const CONNECTIONS: usize = 2_000;

/// How many clients share a connection.
const SHARE: usize = 5;

/// How many files are left for everything else.
const OTHER_FILES: usize = 500;

/// How long all of them may take for anything that they do, on a machine that does other things, too.
const PATIENCE: Duration = Duration::from_secs(120);

/// Between an attempt to connect that fails and the next.
const PAUSE: Duration = Duration::from_millis(20);

const CLUSTERS: [&str; 3] = ["cart", "shop", "user"];

const RESPONSES: &str = "deltaplane_xds_responses_total{type=\"envoy.config.cluster.v3.Cluster\"}";
const NACKS: &str = "deltaplane_xds_nacks_total{type=\"envoy.config.cluster.v3.Cluster\"}";

/// Clients on one connection, every second of which speaks delta.
type Group = Vec<ModelClient<Connection>>;

/// A server with three services, and its clients.
struct Storm {
    server: Deltaplane,
    shop: i64,
    runtime: Runtime,
    groups: Vec<Group>,
    _database: Database,
}

impl Storm {
    /// All are connected, and have what there is.
    fn gather() -> Storm {
        let files = machine::raise_file_limit();
        let count = files.saturating_sub(OTHER_FILES).min(CONNECTIONS);
        let database = Database::create(Kind::Sqlite);
        // Who is slow since the machine is busy is not to be taken for gone.
        let server = Deltaplane::start_with(&database.url(), &["--keepalive-s", "600"]);
        let upstream = Upstream::start("a");
        let create = |name| server.create(&service::http(name, &Listener::reserve(), &upstream));
        let [_, shop, _] = CLUSTERS.map(create);
        let runtime = Runtime::new().expect("threads can be had");
        let xds = server.xds;
        let groups = at_once(&runtime, (0..count).map(|number| connect(xds, number)));
        Storm { server, shop, runtime, groups, _database: database }
    }

    fn clients(&self) -> usize {
        self.groups.iter().map(Vec::len).sum()
    }

    /// All come back to a server that was killed, as soon as it is there again.
    fn comes_back(&mut self) {
        self.server.kill();
        self.server.resume();
        let (start, xds) = (Instant::now(), self.server.xds);
        self.each(move |group| come_back(group, xds));
        self.counts("deltaplane_xds_streams_opened_total", self.clients());
        println!("{} clients are back: {:?}", self.clients(), start.elapsed());
    }

    /// The shop changes, and all are told of that next, and of nothing else.
    fn changes(&mut self, timeout: u32, answer: Answer) {
        self.server.patch(self.shop, &json!({"connect_timeout_ms": timeout}));
        self.each(move |group| answered(group, answer));
    }

    /// Something is done by each group, at the same time.
    fn each<F>(&mut self, work: impl Fn(Group) -> F)
    where
        F: Future<Output = Group> + Send + 'static,
    {
        let groups = std::mem::take(&mut self.groups);
        self.groups = at_once(&self.runtime, groups.into_iter().map(work));
    }

    /// Waits until the server has counted as many.
    fn counts(&self, metric: &str, count: usize) {
        wait_until(&format!("{metric} is {count}"), PATIENCE, || {
            (self.server.metric(metric) == count as f64).then_some(())
        });
    }
}

fn at_once<F>(runtime: &Runtime, work: impl Iterator<Item = F>) -> Vec<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    runtime.block_on(async {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let tasks: Vec<_> = work.map(tokio::spawn).collect();
        let mut done = Vec::with_capacity(tasks.len());
        for task in tasks {
            let ended = timeout_at(deadline, task).await.expect("all get there in time");
            done.push(ended.expect("none panics"));
        }
        done
    })
}

/// A connection, however often that has to be tried.
async fn channel(address: SocketAddr) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
    loop {
        match endpoint.connect().await {
            Ok(channel) => return channel,
            Err(_) => sleep(PAUSE).await,
        }
    }
}

/// Clients that have what there is.
async fn connect(address: SocketAddr, number: usize) -> Group {
    let mut shared = channel(address).await;
    let mut group = Group::new();
    while group.len() < SHARE {
        let variant = if is_delta(group.len()) { Variant::Delta } else { Variant::Sotw };
        let id = (number * SHARE + group.len()).to_string();
        let node = Node { id, cluster: "cluster-1".to_owned(), ..Node::default() };
        match open(shared.clone(), node, variant).await {
            Ok(client) => group.push(client),
            Err(_) => shared = channel(address).await,
        }
    }
    group
}

async fn open(
    channel: Channel,
    node: Node,
    variant: Variant,
) -> Result<ModelClient<Connection>, Status> {
    let mut client = ModelClient::connect(channel, node, variant).await?;
    client.subscribe(TypeUrl::CLUSTER, &[]);
    let update = told(&mut client).await?;
    assert_eq!(sorted(&update), CLUSTERS);
    client.ack(&update);
    Ok(client)
}

fn is_delta(place: usize) -> bool {
    place % 2 == 1
}

async fn come_back(mut group: Group, address: SocketAddr) -> Group {
    let mut shared = channel(address).await;
    for client in &mut group {
        while client.reconnect(shared.clone()).await.is_err() {
            sleep(PAUSE).await;
            shared = channel(address).await;
        }
    }
    group
}

/// What a client is told next, whenever that is.
async fn told(client: &mut ModelClient<Connection>) -> Result<Update, Status> {
    loop {
        match client.next().await {
            Err(status) if status.code() == Code::DeadlineExceeded => {}
            told => return told?.ok_or_else(|| Status::aborted("the stream ended")),
        }
    }
}

fn sorted(update: &Update) -> Vec<&str> {
    let mut names = update.names();
    names.sort_unstable();
    names
}

#[derive(Clone, Copy, PartialEq)]
enum Answer {
    Ack,
    Nack,
}

/// What each is told next is what changed: in State of the World, with all that is as it was.
async fn answered(mut group: Group, answer: Answer) -> Group {
    for (place, client) in group.iter_mut().enumerate() {
        let update = told(client).await.expect("the stream goes on");
        let expected = if is_delta(place) { &CLUSTERS[1..2] } else { &CLUSTERS[..] };
        assert_eq!(sorted(&update), expected);
        match answer {
            Answer::Ack => client.ack(&update),
            Answer::Nack => client.nack(&update, "no, thanks"),
        }
    }
    group
}

#[test]
fn ten_thousand_come_back_at_once_and_then_reject_everything() {
    let mut storm = Storm::gather();
    let clients = storm.clients();
    storm.comes_back();
    // They hold what there is, and so the first that they are told is what changes.
    storm.changes(1001, Answer::Ack);
    storm.changes(1002, Answer::Nack);
    storm.counts(NACKS, clients);
    // Nothing comes of a rejection; of the next change they are told again, once.
    storm.changes(1003, Answer::Nack);
    storm.counts(NACKS, 2 * clients);
    storm.counts(RESPONSES, 3 * clients);
}
