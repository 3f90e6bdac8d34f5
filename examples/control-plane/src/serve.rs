//! The whole server: both faces, the publisher between them, and the end.

pub(crate) mod lifetime;
pub mod running;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use deltaplane_server::{
    Aging, Cache, Client, ClientEvent, Drain, Keepalive, Limits, LoadReporting, Observer, Order,
    Tls, XdsServer,
};
use rustls::ServerConfig;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinSet, spawn_blocking};
use tracing::field::display;

use crate::access::audit;
use crate::access::identity::{FLEET, Identities};
use crate::access::token::TokenError;
use crate::access::{Access, Pass};
use crate::canary::rollouts::Rollouts;
use crate::certificates::vault::Vault;
use crate::cli::{DatabaseOptions, HttpTokens, Serve};
use crate::database::changes::Snapshot;
use crate::database::last_known_good::Keeper;
use crate::database::reload;
use crate::database::reload::Reloads;
use crate::database::store::Store;
use crate::database::writes;
use crate::database::{Database, OpenError};
use crate::delivery;
use crate::fleets::scope;
use crate::fleets::{Directory, wrong_pattern};
use crate::history::retention;
use crate::publisher::{PublishError, Publisher};
use crate::replicas;
use crate::rest;
use crate::rest::listener;
use crate::serve::lifetime::{Stop, to_leave};
use crate::serve::running::Running;
use crate::status::client_log::ClientLog;
use crate::status::health::Health;
use crate::status::metrics::Metrics;
use crate::status::traffic::Traffic;
use crate::tls::{Files, Loaded, TlsError};

/// Why the server does not run.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ServeError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {why}; give a free HOST:PORT with {flag}")]
    Listen {
        /// As it was given.
        address: String,
        /// What chooses it.
        flag: &'static str,
        /// What was in the way.
        why: io::Error,
    },
    /// The key of secrets is none.
    #[error("{flag} {why}")]
    Key {
        /// Where it is from.
        flag: String,
        /// What is wrong with it.
        why: String,
    },
    /// There is no TLS by the files that are named.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Nobody could be told from others.
    #[error("--client-identity {0}")]
    Identity(String),
    /// There is no randomness.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The database cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The database cannot be read.
    #[error("cannot read the database: {0}; check that deltaplane may read and write its tables")]
    Read(#[from] PublishError),
    /// A listener or a signal handler failed.
    #[error("the server failed: {0}; start it again")]
    Failed(#[from] io::Error),
}

/// Serves until the process is told to end.
pub async fn run(arguments: &Serve) -> Result<(), ServeError> {
    let vault = arguments.vault()?;
    let secured = Secured::read(arguments)?;
    let stop = Stop::by_signal()?;
    let xds = listen(&arguments.xds_listen(), "--xds-listen").await?;
    let http = listen(&arguments.http_listen(), "--http-listen").await?;
    let (xds_address, http_address) = (xds.local_addr()?, http.local_addr()?);
    let measured = match &arguments.metrics_listen {
        Some(address) => Some(listen(address, "--metrics-listen").await?),
        None => None,
    };
    let metrics_address = measured.as_ref().map(TcpListener::local_addr).transpose()?;
    let database = Database::parse(&arguments.database.database_url)?;
    let name = database.to_string();
    let keeper = arguments.last_known_good.as_deref().map(Keeper::new);
    let (store, kept) = tokio::select! {
        opened = open(database, keeper.as_ref()) => opened?,
        // Its tables may be brought up to date for minutes.
        () = stop.told() => return Ok(()),
    };
    let access = access(arguments.http_tokens, http_address).with_pass(Pass::issue()?);
    let identity = arguments.client_identity.as_ref();
    secured.complain(xds_address, http_address, &access, identity);
    let (running, reloads) = assemble(arguments, store, vault, access, &secured);
    let metrics = Metrics::new().map_err(io::Error::other)?;
    accompany(arguments, &running, &metrics, &stop);
    let spread = replicas::spread(running.clone(), arguments.fair_share, stop.told());
    let spread = tokio::spawn(spread);

    let Secured { xds: xds_tls, http: http_tls } = secured;
    let http_tls = http_tls.map(|files| follow(files, &running.health)).transpose()?;
    let router = rest::router(running.clone(), metrics.clone());
    let http = listener::serve(http, listener::CONNECTIONS, http_tls, router, stop.clone());
    let measured = serve_metrics(measured, running.clone(), metrics, stop.clone());
    let xds = async {
        let publisher = start_publisher(arguments, &running, reloads, kept).await?;
        if let Some(keeper) = keeper {
            tokio::spawn(keeper.keep(running.clone()));
        }
        let metrics = metrics_address.map(display);
        tracing::info!(xds = %xds_address, http = %http_address, metrics, database = name, "serving");
        serve_envoys(&running, publisher, xds, xds_tls, stop.clone()).await
    };
    let http = async {
        tokio::join!(http, measured);
        Ok(())
    };
    let faces = async { tokio::try_join!(xds, http).map(drop) };
    stop.end(faces, spread, &running.store, seconds(arguments.shutdown_s)).await?;
    tracing::info!("stopped");
    Ok(())
}

/// Tells whoever reaches this listener, if there is one, how the server is.
async fn serve_metrics(
    listener: Option<TcpListener>,
    running: Running,
    metrics: Metrics,
    stop: Stop,
) {
    let Some(listener) = listener else { return };
    let is_local = listener.local_addr().is_ok_and(|address| address.ip().is_loopback());
    let router = rest::metrics_router(running, metrics, is_local);
    listener::serve(listener, listener::METRICS_CONNECTIONS, None, router, stop).await;
}

/// Puts together what a server consists of.
fn assemble(
    arguments: &Serve,
    store: Store,
    vault: Vault,
    access: Access,
    secured: &Secured,
) -> (Running, Reloads) {
    let (cache, traffic, fleets) = (Cache::new(), Traffic::default(), Directory::default());
    let identities = secured.xds.as_ref().is_some_and(Files::wants_clients).then(|| Identities {
        fleets: fleets.clone(),
        cache: cache.clone(),
        fallback: arguments.node_id.clone(),
        usual: arguments.client_identity.clone(),
        pass: access.pass().clone(),
    });
    let server = xds_server(cache.clone(), traffic.clone(), fleets.clone(), arguments, identities);
    let (reloader, reloads) = reload::channel();
    let (health, rollouts) = (Health::default(), Rollouts::default());
    let running = Running {
        store,
        cache,
        health,
        server,
        traffic,
        fleets,
        rollouts,
        vault,
        reloader,
        access,
    };
    (running, reloads)
}

/// Starts what is done beside serving.
fn accompany(arguments: &Serve, running: &Running, metrics: &Metrics, stop: &Stop) {
    stop.beside(metrics.clone().measure(running.clone()));
    stop.beside(delivery::note(running.clone()));
    stop.beside(writes::follow(running.clone()));
    let (kept, log) = (arguments.retention(), running.health.clone());
    stop.beside(retention::run(running.store.clone(), log, kept));
    stop.beside(audit::keep(running.store.clone(), days(arguments.audit_days)));
}

async fn start_publisher(
    arguments: &Serve,
    running: &Running,
    reloads: Reloads,
    kept: Option<Kept>,
) -> Result<Publisher, PublishError> {
    let (running, address) = (running.clone(), arguments.listener_address);
    match kept {
        None => Publisher::start(running, reloads, address).await,
        Some(Kept { state, why }) => Publisher::start_from(running, reloads, address, &state, why),
    }
}

/// Serves Envoys what the publisher reads, until it is told to stop.
async fn serve_envoys(
    running: &Running,
    publisher: Publisher,
    listener: TcpListener,
    tls: Option<Files>,
    stop: Stop,
) -> Result<(), ServeError> {
    let Running { health, server, fleets, .. } = running;
    health.update(|status| status.serves_xds = true);
    let mut publishing = JoinSet::new();
    publishing.spawn(publisher.run());
    let stopping = async {
        stop.told().await;
        health.update(|status| status.serves_xds = false);
    };
    let ended = tokio::select! {
        result = serve_xds(server, listener, tls, health, stopping) => result,
        () = regroup(fleets, server) => Ok(()),
        // Rather none at all than a server that no change reaches.
        Some(ended) = publishing.join_next() => {
            Err(ended.map_or_else(io::Error::other, |()| io::Error::other("no change is read")).into())
        }
    };
    // Before the database is closed, which it would take for a fault.
    publishing.shutdown().await;
    ended
}

fn days(days: u32) -> Duration {
    Duration::from_secs(u64::from(days) * 24 * 60 * 60)
}

/// Who gets in; and what is not safe about it is said.
fn access(tokens: HttpTokens, address: SocketAddr) -> Access {
    let is_here = address.ip().is_loopback();
    match tokens {
        HttpTokens::Never if !is_here => tracing::warn!(
            %address,
            "whoever reaches the HTTP API can do everything; leave --http-tokens out, and give \
             out tokens made by deltaplane token create"
        ),
        HttpTokens::Never => {}
        HttpTokens::Auto if is_here => {}
        HttpTokens::Auto | HttpTokens::Always => return Access::by_token(),
    }
    if is_here { Access::on_loopback() } else { Access::default() }
}

/// What a server starts from whose database cannot be reached, for this reason.
struct Kept {
    state: Snapshot,
    why: String,
}

/// Opens a database, or else, if it cannot be reached, what was kept of it. With one that answers and is not for
/// this program, nobody starts: it will not be so when it is asked again, either.
async fn open(
    database: Database,
    keeper: Option<&Keeper>,
) -> Result<(Store, Option<Kept>), ServeError> {
    let error = match Store::open(database.clone()).await {
        Ok(store) => return Ok((store, None)),
        Err(error @ OpenError::Connect { .. }) => error,
        Err(error) => return Err(error.into()),
    };
    let Some(keeper) = keeper else { return Err(error.into()) };
    match keeper.load() {
        Ok(Some(state)) => {
            tracing::warn!(
                %error,
                revision = state.revision,
                "the database cannot be reached: the last known good state is served until it can"
            );
            let why = error.to_string();
            Ok((Store::unprepared(database), Some(Kept { state, why })))
        }
        Ok(None) => Err(error.into()),
        Err(useless) => {
            tracing::error!("{useless}");
            Err(error.into())
        }
    }
}

/// The files of TLS for each face, if it has any.
struct Secured {
    xds: Option<Files>,
    http: Option<Files>,
}

impl Secured {
    fn read(arguments: &Serve) -> Result<Secured, ServeError> {
        let Serve { tls_cert, tls_key, client_ca, http_tls_cert, http_tls_key, .. } = arguments;
        let xds = Files::new("xds", tls_cert.as_ref(), tls_key.as_ref(), client_ca.as_ref())?;
        let http = Files::new("http", http_tls_cert.as_ref(), http_tls_key.as_ref(), None)?;
        if let Some(pattern) = &arguments.client_identity {
            if client_ca.is_none() {
                let why = "needs --client-ca beside it, by which certificates are known";
                return Err(ServeError::Identity(why.to_owned()));
            }
            if let Some(why) = wrong_pattern(pattern) {
                return Err(ServeError::Identity(why));
            }
        }
        for files in xds.iter().chain(&http) {
            files.load()?;
        }
        Ok(Secured { xds, http })
    }

    /// Says what is not safe.
    fn complain(
        &self,
        xds: SocketAddr,
        http: SocketAddr,
        access: &Access,
        identity: Option<&String>,
    ) {
        if !xds.ip().is_loopback() && !self.xds.as_ref().is_some_and(Files::wants_clients) {
            tracing::warn!(
                address = %xds,
                "whoever reaches xDS is told all that it asks for, secrets included; give \
                 --tls-cert, --tls-key and --client-ca, or let only the right ones reach it"
            );
        }
        if let Some(pattern) = identity.filter(|pattern| !pattern.contains(FLEET)) {
            tracing::warn!(
                pattern,
                "whoever has a certificate that fits --client-identity belongs to which fleet he likes, of \
                 those without an identity of their own; write {{fleet}} where it names that, or give each \
                 fleet its identity"
            );
        }
        if !http.ip().is_loopback() && self.http.is_none() && access.is_by_token() {
            tracing::warn!(
                address = %http,
                "tokens cross the network in the clear; give --http-tls-cert and --http-tls-key, \
                 or put something that speaks TLS before it"
            );
        }
    }
}

/// What TLS is by these files, now and when they change.
fn follow(files: Files, health: &Health) -> Result<watch::Receiver<Arc<ServerConfig>>, ServeError> {
    let loaded = files.load()?;
    let (config, taken) = watch::channel(loaded.config.clone());
    let take = move |new: &Loaded| drop(config.send_replace(new.config.clone()));
    tokio::spawn(files.follow(loaded, health.clone(), take));
    Ok(taken)
}

async fn serve_xds(
    server: &XdsServer,
    listener: TcpListener,
    files: Option<Files>,
    health: &Health,
    stopping: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let Some(files) = files else { return Ok(server.serve(listener, stopping).await?) };
    let loaded = files.load()?;
    let tls = Tls::from(loaded.config.clone());
    let (kept, connected) = (tls.clone(), server.clone());
    let following = files.follow(loaded, health.clone(), move |new| {
        kept.replace(new.config.clone());
        let (clients, connected) = (new.clients.clone(), connected.clone());
        // There may be thousands, each of which takes some calculation.
        spawn_blocking(move || {
            let ended = connected.end_connections(|peer| !clients.accept(peer));
            if ended > 0 {
                tracing::info!(
                    ended,
                    "connections end whose certificates --client-ca does not accept"
                );
            }
        });
    });
    tokio::select! {
        served = server.serve_tls(listener, tls, stopping) => Ok(served?),
        () = following => Ok(()),
    }
}

/// Brings the tables of a database up to date.
pub async fn migrate(arguments: &DatabaseOptions) -> Result<(), OpenError> {
    Store::open(Database::parse(&arguments.database_url)?).await?.close().await;
    Ok(())
}

/// Whoever belongs to another fleet by what was stored moves there.
async fn regroup(fleets: &Directory, server: &XdsServer) {
    let mut changed = fleets.watch();
    while changed.changed().await.is_ok() {
        server.choose_views();
    }
}

fn xds_server(
    cache: Cache,
    traffic: Traffic,
    fleets: Directory,
    arguments: &Serve,
    identities: Option<Identities>,
) -> XdsServer {
    let fallback = arguments.node_id.clone();
    let (drain, shutdown) = (seconds(arguments.drain_time_s), seconds(arguments.shutdown_s));
    let server = XdsServer::builder(cache)
        .order(Order::default().with_drain(drain))
        .view(move |node, cache| scope::choose(node, fallback.as_deref(), &fleets, cache))
        .limits(limits(arguments))
        .drain(Drain::within(to_leave(shutdown)))
        .catch_up(seconds(arguments.catch_up_s))
        .keepalive(keepalive(seconds(arguments.keepalive_s)))
        .observer(Arc::new(Observers(ClientLog, traffic)));
    let server = match arguments.connection_age_s {
        0 => server,
        age => server.aging(Aging::after(seconds(age))),
    };
    let server = match identities {
        Some(identities) => server.authorizer(identities.authorizer()),
        None => server,
    };
    match arguments.load_report_interval_s {
        0 => server.build(),
        seconds => {
            let reporting = LoadReporting::every(Duration::from_secs(seconds));
            // They are summed up, which is all that is wanted of them.
            server.load_reports(reporting, |_, _| {}).build()
        }
    }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Clients are asked that often whether they are there, and have as long to answer, or as the library has it.
fn keepalive(interval: Duration) -> Keepalive {
    let mut keepalive = Keepalive::default();
    keepalive.interval = interval;
    keepalive.timeout = keepalive.timeout.min(interval);
    keepalive
}

/// What clients may take; where nothing is said, as the library has it.
fn limits(arguments: &Serve) -> Limits {
    let mut limits = Limits::default();
    if arguments.connections_max > 0 {
        limits.connections = arguments.connections_max;
    }
    if arguments.accepts_per_second > 0 {
        limits.accepts_per_second = arguments.accepts_per_second;
    }
    if arguments.streams_max > 0 {
        limits.streams = arguments.streams_max;
    }
    if arguments.memory_max_mb > 0 {
        limits.memory = arguments.memory_max_mb.saturating_mul(1 << 20);
    }
    limits
}

/// Who hears what happens to clients: the log, and who counts.
struct Observers(ClientLog, Traffic);

impl Observer for Observers {
    fn observe(&self, client: &Client, event: &ClientEvent<'_>) {
        self.0.observe(client, event);
        self.1.observe(client, event);
    }
}

async fn listen(address: &str, flag: &'static str) -> Result<TcpListener, ServeError> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|why| ServeError::Listen { address: address.to_owned(), flag, why })
}
