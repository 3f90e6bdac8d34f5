//! Model clients that live on their own: they come back when their connection broke, follow what their
//! clusters and listeners refer to, and reject what is meant to be rejected.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use deltaplane_server::envoy_types::pb::envoy::config::core::v3::Node;
use deltaplane_server::testing::{Connection, ModelClient, Update};
use deltaplane_server::{TypeUrl, Variant, envoy};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};
use tonic::transport::Endpoint;

use super::content::{Key, is_mistake};
use super::tally::Tally;

/// How long it takes at most to connect.
const PATIENCE: Duration = Duration::from_secs(5);

/// After that, it tries again to connect.
const RETRY: Duration = Duration::from_millis(200);

/// After that, it looks again whether something is said: the model client would take longer silence for a
/// fault, and there may be nothing to say.
const LOOK: Duration = Duration::from_secs(5);

/// How long a slow reader takes for each response.
const SLOW: Duration = Duration::from_millis(150);

/// What a client refers to by what it has: for each type, the type that follows.
static FOLLOWED: [(TypeUrl, TypeUrl); 2] =
    [(TypeUrl::CLUSTER, TypeUrl::ENDPOINT), (TypeUrl::LISTENER, TypeUrl::ROUTE)];

/// What a client has.
pub(super) type Held = BTreeMap<Key, Bytes>;

/// Who a client is.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    pub(super) name: String,
    pub(super) fleet: usize,
    pub(super) variant: Variant,
    /// Of which clusters it asks; without that, of all of them, and of listeners.
    pub(super) clusters: Option<Vec<String>>,
}

impl Identity {
    /// Whether it asks for a resource, and not only because another one refers to that.
    fn asks(&self, type_url: &TypeUrl, name: &String) -> bool {
        let names = self.clusters.as_ref().filter(|_| *type_url == TypeUrl::CLUSTER);
        names.is_none_or(|names| names.contains(name))
    }
}

/// A client that is there until this is dropped.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) identity: Identity,
    commands: mpsc::UnboundedSender<Command>,
}

/// What may happen to a client.
#[derive(Debug)]
enum Command {
    Read(Pace),
    Forget,
    Ask(Vec<String>),
    Tell(oneshot::Sender<Held>),
}

/// How a client reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    /// As it should.
    Well,
    /// With pauses.
    Slowly,
    /// Not at all.
    Never,
}

impl Client {
    /// Comes to life, and connects there.
    pub(super) fn start(
        runtime: &Handle,
        identity: Identity,
        at: SocketAddr,
        tally: &Tally,
    ) -> Client {
        let (commands, queue) = mpsc::unbounded_channel();
        let endpoint = Endpoint::from_shared(format!("http://{at}")).expect("this is an address");
        let endpoint = endpoint
            .connect_timeout(PATIENCE)
            .http2_keep_alive_interval(PATIENCE)
            .keep_alive_timeout(PATIENCE)
            .keep_alive_while_idle(true);
        let life = Life {
            identity: identity.clone(),
            endpoint,
            client: None,
            is_connected: false,
            pace: Pace::Well,
            followed: BTreeMap::new(),
            references: BTreeMap::new(),
            tally: tally.clone(),
        };
        runtime.spawn(life.live(queue));
        Client { identity, commands }
    }

    /// From now on it reads like that.
    pub(super) fn reads(&self, pace: Pace) {
        self.command(Command::Read(pace));
    }

    /// It starts again, and knows nothing of what it had.
    pub(super) fn forgets(&self) {
        self.command(Command::Forget);
    }

    /// It asks for these clusters in place of those that it asked for.
    pub(super) fn asks(&mut self, clusters: Vec<String>) {
        self.identity.clusters = Some(clusters.clone());
        self.command(Command::Ask(clusters));
    }

    /// What it has.
    ///
    /// # Panics
    /// If it is gone.
    pub(super) fn held(&self) -> Held {
        let (sender, receiver) = oneshot::channel();
        self.command(Command::Tell(sender));
        receiver.blocking_recv().expect("a client lives until it is dropped")
    }

    fn command(&self, command: Command) {
        // If it is gone, who asks what it has is told.
        let _ = self.commands.send(command);
    }
}

type References = HashMap<String, (Bytes, Vec<Key>)>;

/// A client, as itself.
struct Life {
    identity: Identity,
    endpoint: Endpoint,
    client: Option<ModelClient<Connection>>,
    is_connected: bool,
    pace: Pace,
    /// The names that it asks for because what it has refers to them.
    followed: BTreeMap<TypeUrl, BTreeSet<String>>,
    /// What each resource that it has refers to, by type and name, with what that was read from.
    references: BTreeMap<TypeUrl, References>,
    tally: Tally,
}

impl Life {
    async fn live(mut self, mut commands: mpsc::UnboundedReceiver<Command>) {
        loop {
            if !self.is_connected {
                self.is_connected = timeout(PATIENCE, self.connect()).await.unwrap_or_default();
            }
            let reads = self.is_connected && self.pace != Pace::Never;
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => self.obey(command),
                    None => return,
                },
                update = next(&mut self.client), if reads => match update {
                    Some(update) => self.take(&update).await,
                    None => self.is_connected = false,
                },
                () = sleep(RETRY), if !self.is_connected => {}
            }
        }
    }

    /// Whether it worked.
    async fn connect(&mut self) -> bool {
        let Ok(channel) = self.endpoint.connect().await else { return false };
        if let Some(client) = &mut self.client {
            let is_back = client.reconnect(channel).await.is_ok();
            if is_back {
                self.tally.note("a client came back with what it had");
            }
            return is_back;
        }
        let Identity { name, fleet, variant, clusters } = &self.identity;
        let (id, cluster) = (name.clone(), format!("cluster-{fleet}"));
        let node = Node { id, cluster, ..Node::default() };
        let Ok(mut client) = ModelClient::connect(channel, node, *variant).await else {
            return false;
        };
        match clusters {
            Some(names) => client.subscribe(TypeUrl::CLUSTER, &texts(names)),
            None => {
                client.subscribe(TypeUrl::CLUSTER, &[]);
                client.subscribe(TypeUrl::LISTENER, &[]);
            }
        }
        self.client = Some(client);
        self.tally.note("a client came with nothing");
        true
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Read(pace) => self.pace = pace,
            Command::Forget => {
                self.client = None;
                self.is_connected = false;
                self.followed.clear();
                self.references.clear();
            }
            Command::Ask(names) => {
                let old = self.identity.clusters.replace(names.clone()).unwrap_or_default();
                if let Some(client) = &mut self.client {
                    change(client, &TypeUrl::CLUSTER, &set(&old), &set(&names));
                    self.follow(&TypeUrl::CLUSTER);
                }
            }
            // Whoever asked may not be there any more.
            Command::Tell(sender) => drop(sender.send(self.held())),
        }
    }

    async fn take(&mut self, update: &Update) {
        if self.pace == Pace::Slowly {
            sleep(SLOW).await;
        }
        let Some(client) = &mut self.client else { return };
        let bad = update.resources.iter().filter(|resource| is_mistake(&resource.value));
        let bad: Vec<_> = bad.map(|resource| resource.name.as_str()).collect();
        if bad.is_empty() {
            client.ack(update);
            self.tally.note("a response was accepted");
            self.follow(&update.type_url);
        } else {
            client.nack(update, &format!("there is a mistake in {}", bad.join(" and ")));
            self.tally.note("a response was rejected");
        }
    }

    /// Asks for what it refers to now, and not any more for what it does not.
    fn follow(&mut self, type_url: &TypeUrl) {
        let Some((_, child)) = FOLLOWED.iter().find(|(parent, _)| parent == type_url) else {
            return;
        };
        let Some(client) = &mut self.client else { return };
        let references = self.references.entry(type_url.clone()).or_default();
        let (mut known, mut names) = (std::mem::take(references), BTreeSet::new());
        let asked = client.running(type_url).filter(|it| self.identity.asks(type_url, &it.name));
        for resource in asked {
            let known = known.remove(&resource.name).filter(|(value, _)| *value == resource.value);
            let (value, found) = known.unwrap_or_else(|| {
                let found = envoy::references(type_url, &resource.value).into_iter();
                let found = found.map(|key| (key.type_url, key.name.to_string()));
                (resource.value.clone(), found.collect())
            });
            let followed = found.iter().filter(|(found, _)| found == child);
            names.extend(followed.map(|(_, name)| name.clone()));
            references.insert(resource.name.clone(), (value, found));
        }
        let old = self.followed.insert(child.clone(), names.clone()).unwrap_or_default();
        change(client, child, &old, &names);
    }

    fn held(&self) -> Held {
        let mut held = Held::new();
        let Some(client) = &self.client else { return held };
        for type_url in FOLLOWED.iter().flat_map(|(parent, child)| [parent, child]) {
            // What came when it was given up already is nothing that it has.
            let followed = self.followed.get(type_url);
            let is_child = FOLLOWED.iter().any(|(_, child)| child == type_url);
            for resource in client.running(type_url) {
                let is_followed = followed.is_some_and(|names| names.contains(&resource.name));
                let is_asked_for = self.identity.asks(type_url, &resource.name);
                if (is_child && is_followed) || (!is_child && is_asked_for) {
                    held.insert((type_url.clone(), resource.name.clone()), resource.value.clone());
                }
            }
        }
        held
    }
}

/// What the server says next; nothing, if the stream is over.
async fn next(client: &mut Option<ModelClient<Connection>>) -> Option<Update> {
    let client = client.as_mut()?;
    loop {
        if let Ok(next) = timeout(LOOK, client.next()).await {
            return next.ok().flatten();
        }
    }
}

fn change(
    client: &mut ModelClient<Connection>,
    type_url: &TypeUrl,
    old: &BTreeSet<String>,
    new: &BTreeSet<String>,
) {
    let more: Vec<_> = new.difference(old).map(String::as_str).collect();
    if !more.is_empty() {
        client.subscribe(type_url.clone(), &more);
    }
    let gone: Vec<_> = old.difference(new).map(String::as_str).collect();
    if !gone.is_empty() {
        client.unsubscribe(type_url.clone(), &gone);
    }
}

fn texts(names: &[String]) -> Vec<&str> {
    names.iter().map(String::as_str).collect()
}

fn set(names: &[String]) -> BTreeSet<String> {
    names.iter().cloned().collect()
}
