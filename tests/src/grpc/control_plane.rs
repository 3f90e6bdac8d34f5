//! A control plane as an embedder builds it: a cache, and the library's own server, in this process.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use deltaplane_server::envoy_types::pb::envoy::config::core::v3::Node;
use deltaplane_server::envoy_types::pb::envoy::service::discovery::v3::DiscoveryResponse;
use deltaplane_server::{
    Cache, Client, ClientEvent, Event, Load, LoadKey, LoadReporting, Nonce, Observer, Order,
    Resource, Transaction, TypeUrl, Variant, XdsServer,
};
use prost::Message;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::{port, wait_until};

const PATIENCE: Duration = Duration::from_secs(20);

/// How long the control plane waits for a client that says nothing.
const SILENCE: Duration = Duration::from_secs(1);

/// What all clients see.
const SCOPE: &str = "default";

/// Above how many bytes a response is compressed: some of each type are, and some are not.
const LARGE: usize = 250;

/// How often clients report load: as often as they can.
const REPORTS: Duration = Duration::from_secs(1);

/// A control plane on a port that stays its own while it is down.
#[derive(Debug)]
pub struct ControlPlane {
    port: u16,
    cache: Cache,
    story: Arc<Story>,
    tells_errors: bool,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    runtime: Runtime,
    stop: oneshot::Sender<()>,
    server: JoinHandle<()>,
    loads: XdsServer,
}

/// What happened on the streams of one server, in order.
#[derive(Debug, Default)]
pub struct Story(Mutex<Vec<Told>>);

/// Something that happened on a stream.
#[derive(Debug, Clone)]
pub struct Told {
    /// The stream.
    pub stream: u64,
    /// Whose it is.
    pub node: Node,
    /// What.
    pub what: What,
}

/// What happens on a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "they are called what they are")]
pub enum What {
    Connected(Variant),
    Sent { type_url: TypeUrl, nonce: Nonce, version: String, names: Vec<String> },
    Accepted { type_url: TypeUrl, nonce: Nonce },
    Rejected { type_url: TypeUrl, nonce: Nonce, names: Vec<String>, words: String },
    Disconnected,
}

impl ControlPlane {
    /// Starts one that knows of nothing.
    pub fn start() -> ControlPlane {
        ControlPlane::start_as(false)
    }

    /// The same that tells clients what there is nothing of.
    pub fn start_telling_errors() -> ControlPlane {
        ControlPlane::start_as(true)
    }

    fn start_as(tells_errors: bool) -> ControlPlane {
        let mut plane = ControlPlane {
            tells_errors,
            port: port::reserve(),
            cache: Cache::new(),
            story: Arc::default(),
            running: None,
        };
        plane.resume();
        plane
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What happened since it was started last.
    pub fn story(&self) -> &Story {
        &self.story
    }

    /// Adds and changes resources, all at once.
    pub fn put(&self, resources: impl IntoIterator<Item = Resource>) {
        let mut transaction = Transaction::new();
        for resource in resources {
            transaction.upsert(SCOPE, resource);
        }
        self.commit(transaction);
    }

    /// Removes a resource.
    pub fn take(&self, type_url: TypeUrl, name: &str) {
        let mut transaction = Transaction::new();
        transaction.remove(SCOPE, type_url, name);
        self.commit(transaction);
    }

    fn commit(&self, transaction: Transaction) {
        let commit = self.cache.commit(transaction).expect("a test contradicts nobody");
        assert!(commit.changes > 0, "the test says what was said before");
    }

    /// The load that was reported to the server that runs.
    pub fn loads(&self) -> BTreeMap<LoadKey, Load> {
        self.running.as_ref().map(|running| running.loads.loads()).unwrap_or_default()
    }

    /// Kills the server: its connections break, nothing is said, and what it knew is lost.
    pub fn kill(&mut self) {
        let running = self.running.take().expect("only what runs can be killed");
        running.runtime.shutdown_timeout(PATIENCE);
        self.cache = Cache::new();
    }

    /// Shuts the server down as a good citizen does, which forgets what it knew.
    pub fn stop(&mut self) {
        let Running { runtime, stop, server, .. } =
            self.running.take().expect("only what runs can be stopped");
        stop.send(()).expect("the server waits for this");
        let stopped = async { tokio::time::timeout(PATIENCE, server).await };
        runtime.block_on(stopped).expect("a server stops in time").expect("it does not panic");
        self.cache = Cache::new();
    }

    /// Starts the server again, on the same port.
    pub fn resume(&mut self) {
        assert!(self.running.is_none(), "only what does not run can be started");
        self.story = Arc::default();
        // What is taken away although something refers to it goes soon.
        let order = Order::Gated { patience: SILENCE, drain: SILENCE };
        let server =
            XdsServer::builder(self.cache.clone()).observer(self.story.clone()).order(order);
        let tells_errors = self.tells_errors;
        let server = server.resource_errors(move |_| tells_errors);
        let reporting = LoadReporting::every(REPORTS);
        // To who accepts that, of which some are.
        let server = server.compress_above(LARGE);
        let server = server.load_reports(reporting, |_, _| {}).build();
        let loads = server.clone();
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("threads can be had");
        let listener = runtime.block_on(TcpListener::bind(("127.0.0.1", self.port)));
        let listener = listener.expect("the port is this control plane's own");
        let (stop, stopped) = oneshot::channel::<()>();
        let server = runtime.spawn(async move {
            let stopped = async { drop(stopped.await) };
            server.serve(listener, stopped).await.expect("a listener does not fail");
        });
        self.running = Some(Running { runtime, stop, server, loads });
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- what the control plane heard and said");
            for told in self.story.told() {
                eprintln!("{}: {:?}", told.stream, told.what);
            }
        }
    }
}

impl Story {
    /// All of it, so far.
    pub fn told(&self) -> Vec<Told> {
        self.lines().clone()
    }

    /// The node of each stream that is open.
    pub fn connected(&self) -> Vec<Node> {
        let lines = self.lines();
        let ended = |stream| {
            lines.iter().any(|line| line.stream == stream && line.what == What::Disconnected)
        };
        let opened = lines.iter().filter(|line| matches!(line.what, What::Connected(_)));
        opened.filter(|line| !ended(line.stream)).map(|line| line.node.clone()).collect()
    }

    /// The types of the responses that were sent, in order.
    pub fn sent(&self) -> Vec<TypeUrl> {
        let lines = self.lines();
        let sent = lines.iter().filter_map(|line| match &line.what {
            What::Sent { type_url, .. } => Some(type_url.clone()),
            _ => None,
        });
        sent.collect()
    }

    /// How many responses of a type were sent.
    pub fn sent_of(&self, type_url: &TypeUrl) -> usize {
        self.sent().iter().filter(|sent| *sent == type_url).count()
    }

    /// The names that were sent of a type, in order, each as often as it was sent.
    pub fn names(&self, type_url: &TypeUrl) -> Vec<String> {
        let lines = self.lines();
        let names = lines.iter().filter_map(|line| match &line.what {
            What::Sent { type_url: sent, names, .. } if sent == type_url => Some(names.clone()),
            _ => None,
        });
        names.flatten().collect()
    }

    /// The versions of the responses that carried a resource, the last one last.
    pub fn versions(&self, type_url: &TypeUrl, name: &str) -> Vec<String> {
        let lines = self.lines();
        let versions = lines.iter().filter_map(|line| match &line.what {
            What::Sent { type_url: sent, version, names, .. } => {
                (sent == type_url && names.iter().any(|it| it == name)).then(|| version.clone())
            }
            _ => None,
        });
        versions.collect()
    }

    /// The names and the words of the responses of a type that were rejected.
    pub fn rejections(&self, type_url: &TypeUrl) -> Vec<(Vec<String>, String)> {
        let lines = self.lines();
        let rejections = lines.iter().filter_map(|line| match &line.what {
            What::Rejected { type_url: rejected, names, words, .. } if rejected == type_url => {
                Some((names.clone(), words.clone()))
            }
            _ => None,
        });
        rejections.collect()
    }

    /// How many responses of a type were under way when the first of them was rejected.
    pub fn sent_before_rejection(&self, type_url: &TypeUrl) -> usize {
        let lines = self.lines();
        let rejects =
            |what: &What| matches!(what, What::Rejected { type_url: it, .. } if it == type_url);
        let before = lines.iter().map(|line| &line.what).take_while(|what| !rejects(what));
        before
            .filter(|what| matches!(what, What::Sent { type_url: it, .. } if it == type_url))
            .count()
    }

    /// Waits for a rejection of a type, and returns the names and words of the last.
    pub fn rejects(&self, type_url: &TypeUrl) -> (Vec<String>, String) {
        wait_until("the client rejects", PATIENCE, || self.rejections(type_url).pop())
    }

    /// Waits until something was sent, and the last response of each type on each open stream was
    /// answered: a client may leave it at that one's answer (S-18).
    pub fn settles(&self) {
        wait_until("all is answered", PATIENCE, || {
            let lines = self.lines();
            let mut unanswered = BTreeMap::new();
            for line in lines.iter() {
                match &line.what {
                    What::Connected(_) => {}
                    What::Sent { type_url, nonce, .. } => {
                        unanswered.insert((line.stream, type_url), Some(nonce));
                    }
                    What::Accepted { type_url, nonce } | What::Rejected { type_url, nonce, .. } => {
                        let last = unanswered.entry((line.stream, type_url)).or_default();
                        *last = last.filter(|last| *last != nonce);
                    }
                    What::Disconnected => {
                        unanswered.retain(|(stream, _), _| *stream != line.stream)
                    }
                }
            }
            let settled = !unanswered.is_empty() && unanswered.values().all(Option::is_none);
            settled.then_some(())
        });
    }

    /// Waits until this many streams are open.
    pub fn connects(&self, streams: usize) {
        let what = format!("{streams} streams are open");
        wait_until(&what, PATIENCE, || (self.connected().len() == streams).then_some(()));
    }

    fn lines(&self) -> MutexGuard<'_, Vec<Told>> {
        self.0.lock().expect("no holder of it panics")
    }
}

impl Observer for Story {
    fn observe(&self, client: &Client, event: &ClientEvent<'_>) {
        let what = match event {
            ClientEvent::Connected => What::Connected(client.variant),
            ClientEvent::Sent(response) => {
                // All but the nonce, which is not in this part.
                let message = DiscoveryResponse::decode(&*response.body);
                let message = message.expect("a response can be read");
                let version = message.version_info;
                let names = message.resources.iter().map(|resource| name(&resource.value));
                let names = names.collect();
                let (type_url, nonce) = (response.type_url.clone(), response.nonce);
                What::Sent { type_url, nonce, version, names }
            }
            ClientEvent::Told(Event::Acknowledged { type_url, nonce, .. }) => {
                What::Accepted { type_url: type_url.clone(), nonce: *nonce }
            }
            ClientEvent::Told(Event::Rejected { type_url, nonce, names, error, .. }) => {
                let names = names.iter().map(ToString::to_string).collect();
                let (type_url, nonce) = (type_url.clone(), *nonce);
                What::Rejected { type_url, nonce, names, words: error.message.clone() }
            }
            ClientEvent::Disconnected(_) => What::Disconnected,
            _ => return,
        };
        let node = client.node.clone();
        self.lines().push(Told { stream: client.id, node, what });
    }
}

/// What all types that gRPC knows have in common: the first field is the name.
#[derive(Clone, PartialEq, Message)]
struct Named {
    #[prost(string, tag = "1")]
    name: String,
}

fn name(resource: &[u8]) -> String {
    Named::decode(resource).expect("a resource of a known type can be read").name
}
