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

use bytes::Bytes;
use deltaplane_cache::{Cache, CommitError, Scope, Transaction};
use deltaplane_core::{Order, Revision, Variant};
use envoy_types::pb::envoy::config::core::v3::Node;
use tokio::{net::TcpListener, sync::watch};
use tonic::service::Routes;

mod builder;

pub use self::builder::XdsServerBuilder;
#[cfg(feature = "tls")]
use crate::tls::Tls;
use crate::{
    authorizer::{Authorizer, Grant},
    client::{Client, Observer},
    connections::{Aging, Connection, Connections},
    delivery::{Delivery, HowMany},
    discovery::{self, Aggregated, Discovery, DiscoveryService},
    limits::Limits,
    load::Loads,
    memory::Memory,
    on_demand::Searches,
    pace::Pace,
    rejections::Rejections,
    rollout::{self, Canaries, Canary, Rollout},
    serve::{self, Drain, Keepalive, Port},
    status::{ClientResource, ClientStatus, Clients},
    withdrawal::Withdrawing,
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

impl XdsServer {
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
    /// show; it can be [replaced](Tls::replace) while it serves. A connection ends with the certificate that its
    /// client showed, which is asked for another one when it comes back. HTTP/2 must be among its `alpn_protocols`:
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
    /// With none of those clients connected it returns at once. What changes is noticed within some 20 ms.
    /// Dropping it ends the waiting.
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
    /// A node that comes back has not settled before it asked again for each type that this brings something
    /// of and that it had asked for. What one that is new will ask for, nobody knows: it counts as settled
    /// once it accepted what it asked for so far. That the content of a type becomes known, or is yet to,
    /// nobody is told first.
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
