//! The server: a cache, the rule of who sees what, and the streams that connect them.

use std::{
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use deltaplane_cache::{Cache, Scope};
use envoy_types::pb::envoy::config::core::v3::Node;
use tokio::net::TcpListener;
use tonic::transport::{Server, server::TcpIncoming};

use crate::{ads::AdsService, client::Observer};

/// Serves a cache to a fleet.
///
/// [`serve`](XdsServer::serve) is all it takes; or add [`ads`](XdsServer::ads) to a tonic router of your
/// own, with your own TLS, interceptors and further services. Clones share one server.
#[derive(Clone)]
pub struct XdsServer {
    shared: Arc<Shared>,
}

/// Chooses what a client sees: scopes, the first over the others. An empty list says that nothing is
/// known for it, which it is met with silence for.
type ViewRule = dyn Fn(&Node, &Cache) -> Vec<Scope> + Send + Sync;

/// What all streams of a server share.
pub(crate) struct Shared {
    pub(crate) cache: Cache,
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) closing: AtomicBool,
    pub(crate) streams: AtomicU64,
    view: Box<ViewRule>,
}

impl Shared {
    pub(crate) fn scopes_of(&self, node: &Node) -> Arc<[Scope]> {
        (self.view)(node, &self.cache).into()
    }
}

/// A server that is being made; see [`XdsServer::builder`].
#[must_use = "a server comes into being by `build`"]
pub struct XdsServerBuilder {
    cache: Cache,
    view: Box<ViewRule>,
    observer: Arc<dyn Observer>,
}

/// Detects clients that are gone without a word: a ping this often, and this long to answer it (K-02).
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(10));

impl XdsServer {
    /// Starts a server of this cache, in which every client sees the scope `default`.
    pub fn builder(cache: Cache) -> XdsServerBuilder {
        XdsServerBuilder {
            cache,
            view: Box::new(|_, _| vec![Scope::from("default")]),
            observer: Arc::new(()),
        }
    }

    /// The aggregated discovery service, both variants.
    #[must_use]
    pub fn ads(&self) -> AdsService {
        AdsService::new(self.shared.clone())
    }

    /// Serves on a listener until `shutdown` is done; then ends all streams, and returns when their
    /// clients have been told.
    ///
    /// # Errors
    /// If the listener fails.
    pub async fn serve(
        &self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()>,
    ) -> io::Result<()> {
        let (interval, timeout) = KEEPALIVE;
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        Server::builder()
            .http2_keepalive_interval(Some(interval))
            .http2_keepalive_timeout(Some(timeout))
            .add_service(self.ads())
            .serve_with_incoming_shutdown(incoming, async {
                shutdown.await;
                self.shutdown();
            })
            .await
            .map_err(io::Error::other)
    }

    /// Ends all streams, present and future. Their clients are told to reconnect.
    pub fn shutdown(&self) {
        self.shared.closing.store(true, Ordering::Release);
        self.shared.cache.wake_all();
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
    /// The rule is asked when a client connects, and again when something becomes known in the cache; a
    /// client then moves, with all that differs.
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

    /// The server.
    #[must_use]
    pub fn build(self) -> XdsServer {
        XdsServer {
            shared: Arc::new(Shared {
                cache: self.cache,
                observer: self.observer,
                closing: AtomicBool::new(false),
                streams: AtomicU64::new(0),
                view: self.view,
            }),
        }
    }
}

impl fmt::Debug for XdsServerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("XdsServerBuilder").field("cache", &self.cache).finish_non_exhaustive()
    }
}
