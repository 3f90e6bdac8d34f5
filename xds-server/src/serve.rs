//! Connections: they are accepted, secured if they should be, and speak HTTP/2 until they are told to end.

use std::{convert::Infallible, future::ready, io, pin::pin, sync::Arc, time::Duration};

use futures::{FutureExt, future::Either};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};

use tonic::service::Routes;
use tonic_health::{ServingStatus, server::HealthReporter};
use tower_service::Service;

#[cfg(feature = "csds")]
use crate::csds;
#[cfg(feature = "reflection")]
use crate::envoy::descriptors;
use crate::{body::AnyBody, discovery, load, peer::Peer, server::Shared};

/// How long the end of the server waits for clients to take notice.
const DRAIN: Duration = Duration::from_secs(5);

/// How long nobody is accepted when the machine has no room for one more connection.
const PAUSE: Duration = Duration::from_millis(200);

/// Serves until `shutdown` is done; then ends all streams, and waits for their clients to be told. What
/// carries a connection's bytes, and who is at its other end, `secure` finds out.
pub(crate) async fn serve<S, F, T>(
    port: &Port,
    listener: TcpListener,
    shutdown: impl Future<Output = ()>,
    secure: S,
) -> io::Result<()>
where
    S: Fn(TcpStream, Peer) -> F + Clone + Send + 'static,
    F: Future<Output = io::Result<(T, Peer)>> + Send + 'static,
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let connections = GracefulShutdown::new();
    let http2 = http2(&port.shared);
    let mut shutdown = pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut shutdown => break,
        };
        let (tcp, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) if is_of_one_connection(&error) => continue,
            Err(error) if is_exhaustion(&error) => {
                tracing::warn!(%error, "no further client can connect for now");
                sleep(PAUSE).await;
                continue;
            }
            Err(error) => return Err(error),
        };
        let (port, http2, secure) = (port.clone(), http2.clone(), secure.clone());
        let watcher = connections.watcher();
        tokio::spawn(async move {
            // Who is gone already gets no answer anyway.
            let _ = tcp.set_nodelay(true);
            let secured = secure(tcp, Peer::at(Some(address)));
            let secured = timeout(port.shared.limits.handshake, secured).await;
            match secured.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Err(error) => {
                    tracing::info!(peer = %address, %error, "a client did not get through TLS");
                }
                Ok((io, peer)) => {
                    let answer = |mut request: http::Request<Incoming>| {
                        request.extensions_mut().insert(peer.clone());
                        match discovery::find(request.uri().path()) {
                            Some(service) => {
                                let response = service.answer(&port.shared, request);
                                Either::Left(ready(Ok(response.map(AnyBody::Stream))))
                            }
                            None => Either::Right(port.clone().answer(request)),
                        }
                    };
                    let serving = http2.serve_connection(TokioIo::new(io), service_fn(answer));
                    if let Err(error) = watcher.watch(serving).await {
                        tracing::debug!(peer = %address, %error, "a connection broke");
                    }
                }
            }
        });
    }
    drop(listener);
    port.shared.shutdown();
    port.health.set_service_status(discovery::ADS, ServingStatus::NotServing).await;
    port.health.set_service_status("", ServingStatus::NotServing).await;
    // Whoever does not read is not waited for.
    let _ = timeout(DRAIN, connections.shutdown()).await;
    Ok(())
}

/// What is served on a port.
#[derive(Clone)]
pub(crate) struct Port {
    pub(crate) shared: Arc<Shared>,
    /// What there is beside the discovery services.
    services: Routes,
    health: HealthReporter,
}

impl Port {
    /// These services come before ours: health, load reports, and whatever else a feature brings.
    pub(crate) fn new(shared: Arc<Shared>, mut services: Routes) -> Self {
        let (health, health_service) = tonic_health::server::health_reporter();
        // Nobody else has it yet.
        let _ = health.set_service_status(discovery::ADS, ServingStatus::Serving).now_or_never();
        let ours = Routes::new(health_service).add_service(load::service(&shared));
        #[cfg(feature = "csds")]
        let ours = ours.add_service(csds::service(&shared));
        #[cfg(feature = "reflection")]
        let ours = reflect(ours.clone()).unwrap_or_else(|error| {
            tracing::error!(%error, "the services cannot be described");
            ours
        });
        let router = services.axum_router_mut();
        *router = std::mem::take(router).fallback_service(ours.prepare().into_axum_router());
        Self { shared, services: services.prepare(), health }
    }

    /// Answers what is for no discovery service.
    async fn answer(
        mut self,
        request: http::Request<Incoming>,
    ) -> Result<http::Response<AnyBody>, Infallible> {
        let response = self.services.call(request).await?;
        Ok(response.map(AnyBody::Routed))
    }
}

fn http2(shared: &Shared) -> http2::Builder<TokioExecutor> {
    let mut http2 = http2::Builder::new(TokioExecutor::new());
    http2
        .timer(TokioTimer::new())
        .keep_alive_interval(shared.keepalive.interval)
        .keep_alive_timeout(shared.keepalive.timeout)
        .max_concurrent_streams(shared.limits.streams_per_connection);
    http2
}

/// Whether a connection ended before it was accepted, which is nobody else's concern.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, TimedOut};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted | TimedOut)
}

/// Whether the machine has no file or no memory left for a connection, which passes.
fn is_exhaustion(error: &io::Error) -> bool {
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    const ENOBUFS: i32 = 105;
    error.kind() == io::ErrorKind::OutOfMemory
        || matches!(error.raw_os_error(), Some(ENFILE | EMFILE | ENOBUFS))
}

/// Adds what tells generic tools how the services look, in both versions that are in use.
#[cfg(feature = "reflection")]
fn reflect(services: Routes) -> Result<Routes, tonic_reflection::server::Error> {
    let ours = [
        #[cfg(feature = "csds")]
        "envoy.service.status.v3.ClientStatusDiscoveryService",
        "envoy.service.load_stats.v3.LoadReportingService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
    ];
    let descriptors = descriptors::encoded();
    let builder = || {
        let builder = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(&descriptors);
        discovery::NAMES
            .iter()
            .chain(&ours)
            .fold(builder, |builder, name| builder.with_service_name(*name))
    };
    Ok(services.add_service(builder().build_v1()?).add_service(builder().build_v1alpha()?))
}
