//! How a server is made.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use deltaplane_cache::{Cache, Scope};
use deltaplane_core::Order;
use envoy_types::pb::envoy::config::core::v3::{ControlPlane, Node};
use tokio::sync::watch;
use tonic::service::Routes;

use super::{NodeRule, Shared, ViewRule, XdsServer};
use crate::{
    authorizer::Authorizer,
    client::Observer,
    connections::{Aging, Connections},
    limits::Limits,
    load::Loads,
    memory::Memory,
    on_demand::{OnDemand, Searches},
    pace::Pace,
    rejections::Rejections,
    rollout::Canaries,
    serve::{Drain, Keepalive, Port},
    status::Clients,
    withdrawal::{Withdrawal, Withdrawing},
};

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
    /// which [revision of their source](deltaplane_cache::Transaction::source_revision) they bring, and what is
    /// [up to date](deltaplane_cache::Transaction::up_to_date) with it; see
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
    /// itself beside discovery: health, load reports and, behind the features `csds` and `reflection`, client
    /// status and reflection.
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

/// Encodes `control_plane { identifier }` under this tag.
fn encode_identity(tag: u32, identifier: &str) -> Bytes {
    let mut field = BytesMut::new();
    if !identifier.is_empty() {
        let control_plane = ControlPlane { identifier: identifier.to_owned() };
        prost::encoding::message::encode(tag, &control_plane, &mut field);
    }
    field.freeze()
}
