//! The server: a cache, the rule of who sees what, and the streams that connect them.

use std::{
    fmt,
    future::{pending, ready},
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use deltaplane_cache::{Cache, CommitError, Scope, Transaction};
use deltaplane_core::{Order, Revision, StreamLimits, Variant};
use envoy_types::pb::envoy::config::core::v3::{ControlPlane, Node};
use tokio::{net::TcpListener, sync::watch};
use tonic::service::Routes;

#[cfg(feature = "tls")]
use crate::tls::Tls;
use crate::{
    authorizer::{Authorizer, Grant},
    client::{Client, Observer},
    connections::{Aging, Connection, Connections},
    delivery::{Delivery, HowMany},
    discovery::{self, Aggregated, Discovery, DiscoveryService},
    load::Loads,
    memory::Memory,
    on_demand::{OnDemand, Searches},
    pace::Pace,
    rejections::Rejections,
    rollout::{self, Canaries, Canary, Rollout},
    serve::{self, Drain, Port},
    status::{ClientResource, ClientStatus, Clients},
    withdrawal::{Withdrawal, Withdrawing},
};

/// Serves a cache to a fleet.
///
/// [`serve`](XdsServer::serve) is all it takes; or add [`routes`](XdsServer::routes), or single services, to
/// a tonic router of your own, with your own TLS, interceptors and further services. Clones share one server.
#[derive(Clone)]
pub struct XdsServer {
    pub(crate) shared: Arc<Shared>,
    port: Port,
}

/// Chooses what a client sees: scopes, the first over the others. An empty list says that nothing is
/// known for it, which it is met with silence for.
pub(crate) type ViewRule = dyn Fn(&Node, &Cache) -> Vec<Scope> + Send + Sync;

/// Tells something of a node.
type NodeRule = dyn Fn(&Node) -> bool + Send + Sync;

/// How gRPC's clients begin to call themselves; C's says `gRPC C-core`, Node's `gRPC Node …`.
const GRPC: &str = "gRPC";

/// How clients say that they read resources in a wrapper; documents differ.
const WRAPPED: [&str; 2] = ["xds.config.resource-in-sotw", "xds.config.supports-resource-in-sotw"];

/// What all streams of a server share.
pub(crate) struct Shared {
    pub(crate) cache: Cache,
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) closing: AtomicBool,
    pub(crate) streams: AtomicU64,
    pub(crate) connections: Connections,
    pub(crate) aging: Aging,
    pub(crate) drain: Drain,
    pub(crate) catch_up: Duration,
    pub(crate) memory: Memory,
    pub(crate) limits: Limits,
    pub(crate) rejections: Rejections,
    pub(crate) clients: Clients,
    pub(crate) canaries: Canaries,
    pub(crate) withdrawing: Option<Withdrawing>,
    pub(crate) isolates: bool,
    pub(crate) order: Order,
    pub(crate) pace: Pace,
    pub(crate) loads: Option<Loads>,
    pub(crate) searches: Option<Arc<Searches>>,
    tells_errors: Box<NodeRule>,
    bears_ttl: Box<NodeRule>,
    /// Above how many bytes responses are compressed for who accepts it.
    pub(crate) compresses_above: Option<usize>,
    /// Set once all streams end, like `closing`, for those who wait for it.
    over: watch::Sender<bool>,
    pub(crate) keepalive: Keepalive,
    view: Box<ViewRule>,
    pub(crate) authorizer: Option<Arc<Authorizer>>,
    /// The encoded `control_plane` of both responses, whose tags differ.
    identity: [Bytes; 2],
}

/// What clients may ask of the server. Beyond what one of them may, its stream ends with a status that names the
/// limit; beyond what all of them may, new ones wait or are refused, and those that are there are served.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Limits {
    /// What a stream may ask for.
    pub stream: StreamLimits,
    /// How large a request may be, in bytes: lists of names and of initial versions grow with the
    /// configuration (K-05). 32 MiB unless set.
    pub request_size: usize,
    /// How many requests a stream may send in a second. 5,000 unless set.
    pub requests_per_second: u32,
    /// How many streams a connection may have at once, on [`XdsServer::serve`]; HTTP/2 tells clients, which
    /// wait with further ones. An Envoy without ADS opens one for each subscription (K-04). 100,000
    /// unless set.
    pub streams_per_connection: u32,
    /// How many connections there may be on [`XdsServer::serve`]. Further clients wait until one ends. Not
    /// limited unless set.
    pub connections: usize,
    /// How many connections are accepted in a second; the others wait. Not limited unless set.
    pub accepts_per_second: u32,
    /// How many discovery streams there may be. Further ones are refused with `RESOURCE_EXHAUSTED`, so that
    /// their clients try again later, or elsewhere. Not limited unless set.
    pub streams: usize,
    /// Above how many bytes [in use](XdsServerBuilder::memory_in_use) further connections wait, and further
    /// streams are refused as above. Not limited unless set.
    pub memory: u64,
    /// How long a client may take to get through TLS, on `XdsServer::serve_tls`. 10 s unless set.
    pub handshake: Duration,
    /// How long a connection may take until it asks for something, and a stream until its first request
    /// begins. 30 s unless set.
    pub first_request: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            stream: StreamLimits::default(),
            request_size: 32 << 20,
            requests_per_second: 5_000,
            streams_per_connection: 100_000,
            connections: usize::MAX,
            accepts_per_second: u32::MAX,
            streams: usize::MAX,
            memory: u64::MAX,
            handshake: Duration::from_secs(10),
            first_request: Duration::from_secs(30),
        }
    }
}

impl Shared {
    /// Ends all streams, present and future.
    pub(crate) fn shutdown(&self) {
        self.closing.store(true, Ordering::Release);
        self.over.send_replace(true);
        self.cache.wake_all();
    }

    /// Done when all streams end, or those of the connection that a request came from.
    pub(crate) fn over_with<T>(
        &self,
        request: &tonic::Request<T>,
    ) -> impl Future<Output = ()> + Send + use<T> {
        let connection = request.extensions().get::<Arc<Connection>>();
        let ended = connection.map(|connection| connection.ended());
        let mut over = self.over.subscribe();
        async move {
            let ended = async {
                match ended {
                    Some(ended) => ended.await,
                    None => pending().await,
                }
            };
            tokio::select! {
                // Nobody ends anything any more if the sender is gone.
                _ = over.wait_for(|over| *over) => {}
                () = ended => {}
            }
        }
    }

    /// What a node sees by the embedder's rule, which may be its own.
    pub(crate) fn view(&self, node: &Node, grant: Option<&Grant>) -> Vec<Scope> {
        match grant.and_then(Grant::rule) {
            Some(rule) => rule(node, &self.cache),
            None => (self.view)(node, &self.cache),
        }
    }

    /// Whether a client is told by `resource_errors` what there is nothing of.
    pub(crate) fn tells_errors(&self, node: &Node) -> bool {
        (self.tells_errors)(node)
    }

    /// Whether a client is told how long things are good: those that say that they know of it, and those of
    /// which the operator says so (T-01, T-02). gRPC's reject heartbeats (T-09).
    pub(crate) fn bears_ttl(&self, node: &Node, variant: Variant) -> bool {
        let says = |feature: &str| node.client_features.iter().any(|known| known == feature);
        let reads = variant == Variant::Delta || WRAPPED.iter().copied().any(says);
        !node.user_agent_name.starts_with(GRPC)
            && ((says("xds.config.supports-resource-ttl") && reads) || (self.bears_ttl)(node))
    }

    /// Who answers, encoded as a field of a response (B-11).
    pub(crate) fn identity(&self, variant: Variant) -> &Bytes {
        let [sotw, delta] = &self.identity;
        if variant == Variant::Delta { delta } else { sotw }
    }
}

/// Encodes `control_plane { identifier }` under this tag.
fn encode_identity(tag: u32, identifier: &str) -> Bytes {
    let mut field = BytesMut::new();
    if !identifier.is_empty() {
        let control_plane = ControlPlane { identifier: identifier.to_owned() };
        prost::encoding::message::encode(tag, &control_plane, &mut field);
    }
    field.freeze()
}

/// A server that is being made; see [`XdsServer::builder`].
#[must_use = "a server comes into being by `build`"]
pub struct XdsServerBuilder {
    cache: Cache,
    view: Box<ViewRule>,
    pub(crate) authorizer: Option<Arc<Authorizer>>,
    observer: Arc<dyn Observer>,
    limits: Limits,
    pub(crate) memory_in_use: Option<Box<dyn Fn() -> u64 + Send + Sync>>,
    pub(crate) aging: Aging,
    drain: Drain,
    catch_up: Duration,
    order: Order,
    pace: Pace,
    isolates: bool,
    withdrawing: Option<Withdrawing>,
    keepalive: Keepalive,
    pub(crate) loads: Option<Loads>,
    compresses_above: Option<usize>,
    on_demand: Option<OnDemand>,
    tells_errors: Box<NodeRule>,
    bears_ttl: Box<NodeRule>,
    services: Routes,
    identifier: String,
}

/// How a connection whose client is gone without a word is noticed, on [`XdsServer::serve`] (K-02).
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Keepalive {
    /// How often an HTTP/2 ping is sent. 30 s unless set.
    pub interval: Duration,
    /// How long it may take to answer one. 10 s unless set.
    pub timeout: Duration,
}

impl Default for Keepalive {
    fn default() -> Self {
        Self { interval: Duration::from_secs(30), timeout: Duration::from_secs(10) }
    }
}

impl XdsServer {
    /// Starts a server of this cache, in which every client sees the scope `default`.
    pub fn builder(cache: Cache) -> XdsServerBuilder {
        XdsServerBuilder {
            cache,
            view: Box::new(|_, _| vec![Scope::from("default")]),
            authorizer: None,
            observer: Arc::new(()),
            limits: Limits::default(),
            memory_in_use: None,
            aging: Aging::default(),
            drain: Drain::default(),
            catch_up: Duration::from_secs(5),
            order: Order::default(),
            pace: Pace::default(),
            isolates: true,
            withdrawing: None,
            keepalive: Keepalive::default(),
            loads: None,
            compresses_above: None,
            on_demand: None,
            tells_errors: Box::new(|_| false),
            bears_ttl: Box::new(|_| false),
            services: Routes::default(),
            identifier: String::new(),
        }
    }

    /// The aggregated discovery service, both variants.
    #[must_use]
    pub fn ads(&self) -> DiscoveryService<Aggregated> {
        self.service()
    }

    /// One discovery service, such as that for [`Clusters`](crate::Clusters).
    #[must_use]
    pub fn service<D: Discovery>(&self) -> DiscoveryService<D> {
        DiscoveryService::new(self.shared.clone())
    }

    /// All discovery services: the aggregated one and one for each type.
    #[must_use]
    pub fn routes(&self) -> Routes {
        discovery::routes(&self.shared)
    }

    /// Serves on a listener until `shutdown` is done; then ends all streams, and returns when their
    /// clients have been told, or after a [set time](XdsServerBuilder::drain): whoever does not read is not
    /// waited for. Dropping it cuts its connections.
    ///
    /// # Errors
    /// If the listener fails for good. That the machine has no file left for one more connection passes: it
    /// is logged, and the client waits.
    pub async fn serve(
        &self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()>,
    ) -> io::Result<()> {
        serve::serve(&self.port, listener, shutdown, |tcp, peer| ready(Ok((tcp, peer)))).await
    }

    /// The same over TLS. The configuration says which certificates are shown, and which clients have to
    /// show; it can be [replaced](Tls::replace) while it serves. HTTP/2 must be among its `alpn_protocols`:
    /// gRPC clients insist.
    ///
    /// ```no_run
    /// # use std::sync::Arc;
    /// # use deltaplane_server::{XdsServer, rustls};
    /// # use rustls::{RootCertStore, ServerConfig, server::WebPkiClientVerifier};
    /// # use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    /// # async fn run(server: XdsServer, listener: tokio::net::TcpListener,
    /// #     certificate: CertificateDer<'static>, key: PrivateKeyDer<'static>, ca: RootCertStore)
    /// # -> Result<(), Box<dyn std::error::Error>> {
    /// let clients = WebPkiClientVerifier::builder(Arc::new(ca)).build()?;
    /// let mut tls = ServerConfig::builder()
    ///     .with_client_cert_verifier(clients)
    ///     .with_single_cert(vec![certificate], key)?;
    /// tls.alpn_protocols = vec![b"h2".to_vec()];
    /// server.serve_tls(listener, Arc::new(tls), std::future::pending()).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`serve`](XdsServer::serve).
    #[cfg(feature = "tls")]
    pub async fn serve_tls(
        &self,
        listener: TcpListener,
        tls: impl Into<Tls>,
        shutdown: impl Future<Output = ()>,
    ) -> io::Result<()> {
        let tls = tls.into();
        serve::serve(&self.port, listener, shutdown, move |tcp, peer| tls.accept(tcp, peer)).await
    }

    /// The cache that it serves.
    #[must_use]
    pub fn cache(&self) -> &Cache {
        &self.shared.cache
    }

    /// Every connected client, with what it was told and accepted. Costs what is known of each.
    #[must_use]
    pub fn clients(&self) -> Vec<ClientStatus> {
        self.shared.clients.all()
    }

    /// How each resource that a client subscribes to stands with it, if it is connected: `client` is the
    /// [id](Client::id) of its stream. Costs the number of these resources, and holds its stream up
    /// meanwhile.
    pub async fn resources(&self, client: u64) -> Option<Vec<ClientResource>> {
        self.shared.clients.resources(client).await
    }

    /// What became of a revision at each connected client. Costs the number of clients, and not of
    /// resources.
    #[must_use]
    pub fn delivery(&self, revision: Revision) -> Delivery {
        Delivery::of(&self.shared.cache, &self.shared.clients, revision, |_| true)
    }

    /// Waits until so many of those clients have settled at a revision, or one later; until none is left
    /// that has neither settled nor rejected it; or until the time is over. The report says who is missing,
    /// and who rejected what.
    ///
    /// With none of those clients connected it returns at once. Dropping it ends the waiting.
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # use deltaplane_server::{Cache, HowMany, Transaction, XdsServer};
    /// # async fn publish(cache: Cache, server: XdsServer, transaction: Transaction)
    /// # -> Result<(), Box<dyn std::error::Error>> {
    /// let revision = cache.commit(transaction)?.revision;
    /// let in_canary = |client: &deltaplane_server::Client| client.node.cluster == "canary";
    /// let delivery = server.wait(revision, in_canary, HowMany::All, Duration::from_secs(30)).await;
    /// for client in delivery.pending() {
    ///     println!("{} has not answered", client.node.id);
    /// }
    /// for (client, rejections) in delivery.rejected() {
    ///     println!("{} says {}", client.node.id, rejections[0].error.message);
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn wait(
        &self,
        revision: Revision,
        who: impl Fn(&Client) -> bool,
        how_many: HowMany,
        timeout: Duration,
    ) -> Delivery {
        let Shared { cache, clients, .. } = &*self.shared;
        Delivery::wait((cache, clients), revision, who, how_many, timeout).await
    }

    /// Commits a transaction to some nodes first: when all of these have settled for long enough, it
    /// reaches the others; if one of them rejects it, does not settle in time, or disconnects and stays
    /// away, it is withdrawn, and the others never saw it. Other commits reach everybody meanwhile; what
    /// they make of the same resources stays. With none of these nodes connected, it is committed at once.
    ///
    /// Dropping it withdraws the change.
    ///
    /// # Errors
    /// If the transaction contradicts itself; then nothing of it is done.
    pub async fn roll_out(
        &self,
        transaction: Transaction,
        canary: Canary,
    ) -> Result<Rollout, CommitError> {
        rollout::roll_out(&self.shared, transaction, canary).await
    }

    /// Asks again who may have what, and the rule of who sees what, for every client: for who changes what that
    /// depends on beside the cache.
    pub fn choose_views(&self) {
        self.shared.authorizer.iter().for_each(|authorizer| authorizer.ask_again());
        self.shared.canaries.choose_again();
        self.shared.cache.wake_all();
    }

    /// Ends all streams, present and future. Their clients are told to reconnect.
    pub fn shutdown(&self) {
        self.shared.shutdown();
    }
}

impl fmt::Debug for XdsServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("XdsServer").field("cache", &self.shared.cache).finish_non_exhaustive()
    }
}

impl XdsServerBuilder {
    /// What a client sees: scopes, the first over the others, chosen from its node. An empty list says
    /// that nothing is known for it, and it gets no answer until something is.
    ///
    /// The rule is asked when a client connects, and again when something becomes known in the cache, or by
    /// [`choose_views`](XdsServer::choose_views); a client then moves, with all that differs.
    pub fn view(
        mut self,
        rule: impl Fn(&Node, &Cache) -> Vec<Scope> + Send + Sync + 'static,
    ) -> Self {
        self.view = Box::new(rule);
        self
    }

    /// Who hears what happens to clients.
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observer = observer;
        self
    }

    /// What clients may ask for.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// In which order clients are told what changes, on aggregated streams; gated unless set. On a stream
    /// of one type there is nothing to wait for but that removals come last.
    pub fn order(mut self, order: Order) -> Self {
        self.order = order;
        self
    }

    /// Whether the good siblings of rejected endpoints, routes or secrets are sent again without the bad
    /// one, which they are unless this says otherwise: see
    /// [`Machine::set_isolation`](deltaplane_core::Machine::set_isolation).
    pub fn isolation(mut self, isolates: bool) -> Self {
        self.isolates = isolates;
        self
    }

    /// Takes back by itself any commit that a client rejects, with those that refer to what it brought, and
    /// tells `heard`, which should tell the source, lest that publishes it again: see
    /// [`Cache::withdraw`]. Without this, what is rejected stays until somebody changes it.
    ///
    /// The commit to blame is the one that brought what the client's words name, or what is left when what
    /// it rejected was halved. What was there when the client connected is not taken back: others run it.
    /// Whoever may connect may reject; so this is for fleets that are trusted.
    ///
    /// `heard` is called on the task of the client's stream, which waits for it: it should return quickly.
    pub fn withdraw_rejected(
        mut self,
        heard: impl Fn(&Withdrawal) + Send + Sync + 'static,
    ) -> Self {
        self.withdrawing = Some(Withdrawing(Box::new(heard)));
        self
    }

    /// How a client that is gone without a word is noticed.
    pub fn keepalive(mut self, keepalive: Keepalive) -> Self {
        self.keepalive = keepalive;
        self
    }

    /// How the end of [`XdsServer::serve`] goes.
    pub fn drain(mut self, drain: Drain) -> Self {
        self.drain = drain;
        self
    }

    /// How long a client waits that comes back with something newer than there is here, as after it left a
    /// replica that is ahead of this one: 5 s unless set. Then it is served what there is, which
    /// [`Event::ServedOlder`](deltaplane_core::Event::ServedOlder) tells. It takes transactions that say
    /// which [revision of their source](Transaction::source_revision) they bring; see
    /// [`Machine::set_catch_up`](deltaplane_core::Machine::set_catch_up).
    pub fn catch_up(mut self, patience: Duration) -> Self {
        self.catch_up = patience;
        self
    }

    /// How soon after a commit clients are told of it; at once unless set.
    pub fn pace(mut self, pace: Pace) -> Self {
        self.pace = pace;
        self
    }

    /// Compresses responses of more than so many bytes by gzip, to clients that accept it. None is unless
    /// this says so: it saves the network what it costs in CPU, which is for each client anew, however many
    /// are told the same.
    #[cfg(feature = "gzip")]
    pub fn compress_above(mut self, bytes: usize) -> Self {
        self.compresses_above = Some(bytes);
        self
    }

    /// Who looks for what clients ask for by name and is not there.
    pub fn on_demand(mut self, on_demand: OnDemand) -> Self {
        self.on_demand = Some(on_demand);
        self
    }

    /// Which clients are told by `resource_errors` what there is nothing of; none unless this says so.
    ///
    /// gRPC's clients read them if `GRPC_EXPERIMENTAL_XDS_DATA_ERROR_HANDLING` is set, and then fail at once
    /// what they would otherwise wait 15 s for. Those that do not read them take the answer that there is
    /// no such listener or cluster for its end, so that what comes a moment later is a moment too late for
    /// calls that do not wait. Envoy does not read them. See
    /// [`Machine::set_resource_errors`](deltaplane_core::Machine::set_resource_errors).
    pub fn resource_errors(
        mut self,
        tells: impl Fn(&Node) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.tells_errors = Box::new(tells);
        self
    }

    /// Which clients are told of the [time to live](crate::ResourceBuilder::ttl) of resources, beside those
    /// that say that they know of it (Envoy does, and does not say so). In State of the World resources
    /// then come wrapped. gRPC's clients never are.
    ///
    /// A client that is told drops a resource when its time is over and it has heard nothing, as when every
    /// server is gone: that is the purpose, and the risk.
    pub fn time_to_live(mut self, bears: impl Fn(&Node) -> bool + Send + Sync + 'static) -> Self {
        self.bears_ttl = Box::new(bears);
        self
    }

    /// Further gRPC services on the port of [`XdsServer::serve`]. They come before those that it has by
    /// itself beside discovery: health, load reports and, behind the feature of that name, reflection.
    pub fn services(mut self, services: Routes) -> Self {
        self.services = services;
        self
    }

    /// What this server calls itself in its responses; Envoy shows it as `control_plane.identifier`.
    pub fn identifier(mut self, identifier: impl Into<String>) -> Self {
        self.identifier = identifier.into();
        self
    }

    /// The server.
    #[must_use]
    pub fn build(self) -> XdsServer {
        let searches =
            self.on_demand.map(|on_demand| Arc::new(Searches::new(self.cache.clone(), on_demand)));
        let shared = Arc::new(Shared {
            cache: self.cache,
            searches,
            tells_errors: self.tells_errors,
            bears_ttl: self.bears_ttl,
            observer: self.observer,
            closing: AtomicBool::new(false),
            streams: AtomicU64::new(0),
            connections: Connections::default(),
            aging: self.aging,
            drain: self.drain,
            catch_up: self.catch_up,
            memory: Memory::new(self.limits.memory, self.memory_in_use),
            limits: self.limits,
            order: self.order,
            pace: self.pace,
            keepalive: self.keepalive,
            rejections: Rejections::default(),
            clients: Clients::default(),
            canaries: Canaries::default(),
            withdrawing: self.withdrawing,
            loads: self.loads,
            compresses_above: self.compresses_above,
            over: watch::Sender::new(false),
            isolates: self.isolates,
            view: self.view,
            authorizer: self.authorizer,
            identity: [6, 7].map(|tag| encode_identity(tag, &self.identifier)),
        });
        let port = Port::new(shared.clone(), self.services);
        XdsServer { shared, port }
    }
}

impl fmt::Debug for XdsServerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("XdsServerBuilder").field("cache", &self.cache).finish_non_exhaustive()
    }
}
