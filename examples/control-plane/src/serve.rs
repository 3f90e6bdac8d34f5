//! The whole server: both faces, the publisher between them, and the end.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use deltaplane_server::{Cache, Order, XdsServer};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::cli::Serve;
use crate::client_log::ClientLog;
use crate::database::{Database, OpenError};
use crate::health::Health;
use crate::publisher::{PublishError, Publisher};
use crate::store::Store;
use crate::{rest, scope};

/// How long connections may take to end once they were told to.
const DRAIN: Duration = Duration::from_secs(3);

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
    let stop = stop_signal()?;
    let xds = listen(&arguments.xds_listen(), "--xds-listen").await?;
    let http = listen(&arguments.http_listen(), "--http-listen").await?;
    let database = Database::parse(&arguments.database_url)?;
    let name = database.to_string();
    let store = Store::open(database).await?;
    let (cache, health) = (Cache::new(), Health::default());
    let address = arguments.listener_address;
    let publisher = Publisher::start(store.clone(), cache.clone(), health.clone(), address).await?;
    let (xds_address, http_address) = (xds.local_addr()?, http.local_addr()?);
    tracing::info!(xds = %xds_address, http = %http_address, database = name, "serving");

    let server = xds_server(cache, arguments);
    let router = rest::router(store.clone(), health, server.clone());
    let faces = async {
        tokio::try_join!(
            server.serve(xds, stopped(stop.clone())),
            axum::serve(http, router).with_graceful_shutdown(stopped(stop.clone())).into_future(),
        )
    };
    tokio::select! {
        result = faces => result.map(drop)?,
        // Rather none at all than a server that no change reaches.
        ended = tokio::spawn(publisher.run()) => ended.map_err(io::Error::other)?,
        () = late(stop.clone()) => tracing::warn!("some connections did not end in time"),
    }
    store.close().await;
    tracing::info!("stopped");
    Ok(())
}

fn xds_server(cache: Cache, arguments: &Serve) -> XdsServer {
    let fallback = arguments.node_id.clone();
    let drain = Duration::from_secs(arguments.drain_time_s);
    XdsServer::builder(cache)
        .order(Order::default().with_drain(drain))
        .view(move |node, cache| scope::choose(node, fallback.as_deref(), cache))
        .observer(Arc::new(ClientLog))
        .build()
}

async fn listen(address: &str, flag: &'static str) -> Result<TcpListener, ServeError> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|why| ServeError::Listen { address: address.to_owned(), flag, why })
}

/// Becomes true when SIGTERM or SIGINT arrives.
fn stop_signal() -> io::Result<watch::Receiver<bool>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (sender, receiver) = watch::channel(false);
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping: clients are told to go elsewhere");
        sender.send_replace(true);
    });
    Ok(receiver)
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    // An error says that nobody is left who could stop us: then we are stopped.
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn late(stop: watch::Receiver<bool>) {
    stopped(stop).await;
    tokio::time::sleep(DRAIN).await;
}
