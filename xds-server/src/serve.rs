//! Connections: they are accepted, secured if they should be, and speak HTTP/2 until they are told to end.

use std::{
    convert::Infallible,
    future::{poll_fn, ready},
    io,
    net::SocketAddr,
    pin::pin,
    sync::{Arc, Weak},
    task::Poll,
    time::Duration,
};

use futures::{FutureExt, future::Either};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout},
};
use tonic::service::Routes;
use tonic_health::{ServingStatus, server::HealthReporter};
use tower_service::Service;

#[cfg(feature = "csds")]
use crate::csds;
#[cfg(feature = "reflection")]
use crate::envoy::descriptors;
use crate::{
    body::{AnyBody, CallBody},
    connections::{Call, Connection, Presence, TICK, Why},
    discovery,
    limits::Limits,
    load,
    peer::Peer,
    server::Shared,
    spread,
};

/// How long nobody is accepted when the machine has no room for one more connection.
const PAUSE: Duration = Duration::from_millis(200);

/// How the end of [`XdsServer::serve`](crate::XdsServer::serve) goes: health says that it does not serve, nobody
/// is accepted any more, connections are told to end and their streams do, and those that did not are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Drain {
    /// Over which time connections are told, evenly, so that not all clients come to others at once. None
    /// unless set: all are told at once.
    pub spread: Duration,
    /// How long all of it takes at most. 5 s unless set.
    pub within: Duration,
}

impl Default for Drain {
    fn default() -> Self {
        Self { spread: Duration::ZERO, within: Duration::from_secs(5) }
    }
}

impl Drain {
    /// It takes so long at most.
    #[must_use]
    pub fn within(within: Duration) -> Self {
        Self { within, ..Self::default() }
    }

    /// Connections are told over this time.
    #[must_use]
    pub fn spread(self, spread: Duration) -> Self {
        Self { spread, ..self }
    }
}

/// How a connection whose client is gone without a word is noticed, on
/// [`XdsServer::serve`](crate::XdsServer::serve) (K-02).
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
    let Shared { connections, drain, .. } = &*port.shared;
    // What is left of them when this is dropped is cut.
    let mut tasks = JoinSet::new();
    let mut present = Vec::<Weak<Connection>>::new();
    let mut door = Door::new(listener, port.shared.clone());
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut shutdown = pin!(shutdown);
    loop {
        let (tcp, address) = tokio::select! {
            accepted = door.accept() => accepted?,
            Some(_) = tasks.join_next() => continue,
            _ = tick.tick() => {
                connections.shed();
                present.retain(|connection| connection.strong_count() > 0);
                continue;
            }
            () = &mut shutdown => break,
        };
        let presence = Presence::enter(&port.shared);
        present.push(Arc::downgrade(&presence.connection));
        let secured = secure.clone();
        let port = port.clone();
        tasks.spawn(async move {
            // Who is gone already gets no answer anyway.
            let _ = tcp.set_nodelay(true);
            let secured = secured(tcp, Peer::at(Some(address)));
            let secured = timeout(port.shared.limits.handshake, secured);
            let secured = tokio::select! {
                secured = secured => secured,
                _ = presence.connection.goes() => return,
            };
            match secured.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok((io, peer)) if presence.meets(&peer) => port.converse(io, peer, &presence).await,
                Ok(_) => {
                    tracing::info!(peer = %address, "certificates changed while a client came")
                }
                Err(error) => {
                    tracing::info!(peer = %address, %error, "a client did not get through TLS");
                }
            }
        });
    }
    drop(door);
    port.health.set_service_status(discovery::ADS, ServingStatus::NotServing).await;
    port.health.set_service_status("", ServingStatus::NotServing).await;
    for connection in present.iter().filter_map(Weak::upgrade) {
        connection.go(spread::within(drain.spread), Why::Shutdown);
    }
    // Whoever does not read is not waited for.
    let ended = async { while tasks.join_next().await.is_some() {} };
    if timeout(drain.within, ended).await.is_err() {
        tracing::warn!(left = tasks.len(), "connections that did not end in time are cut");
    }
    // Streams that came another way.
    port.shared.shutdown();
    Ok(())
}

/// Where connections are accepted, as far as there is room.
struct Door {
    listener: TcpListener,
    shared: Arc<Shared>,
    /// Who is next, and may have to wait.
    next: Option<(TcpStream, SocketAddr)>,
    /// How many were accepted in which second.
    second: Instant,
    count: u32,
}

impl Door {
    fn new(listener: TcpListener, shared: Arc<Shared>) -> Self {
        Self { listener, shared, next: None, second: Instant::now(), count: 0 }
    }

    /// The next connection. Nothing is lost if this is dropped and called again.
    async fn accept(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        let Limits { connections, accepts_per_second, .. } = self.shared.limits;
        loop {
            if self.next.is_some() {
                self.shared.connections.room(connections).await;
                while self.shared.memory.is_short() {
                    sleep(PAUSE).await;
                }
                if self.count >= accepts_per_second.max(1) {
                    sleep_until(self.second + Duration::from_secs(1)).await;
                }
                if self.second.elapsed() >= Duration::from_secs(1) {
                    (self.second, self.count) = (Instant::now(), 0);
                }
            }
            if let Some(next) = self.next.take() {
                self.count += 1;
                return Ok(next);
            }
            match self.listener.accept().await {
                Ok(accepted) => self.next = Some(accepted),
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) if is_exhaustion(&error) => {
                    tracing::warn!(%error, "no further client can connect for now");
                    sleep(PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        }
    }
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

    /// Speaks HTTP/2 on a connection, until one side ends it.
    async fn converse(
        self,
        io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        peer: Peer,
        presence: &Presence,
    ) {
        let address = peer.address;
        let connection = presence.connection.clone();
        let answer = |request| self.answer(request, &peer, &connection);
        let serving = http2(&self.shared).serve_connection(TokioIo::new(io), service_fn(answer));
        let mut serving = pin!(serving);
        let Limits { first_request, connection_idle, .. } = self.shared.limits;
        let grace = self.shared.aging.grace;
        let mut is_told = false;
        let why = loop {
            let unasked = if is_told { grace } else { first_request };
            tokio::select! {
                // What a client asked, and nobody read yet, is not silence.
                biased;
                ended = &mut serving => {
                    if let Err(error) = ended {
                        tracing::debug!(peer = address.map(tracing::field::display), %error, "a connection broke");
                    }
                    return;
                }
                why = connection.goes() => break why,
                () = connection.is_idle(unasked, connection_idle) => {
                    if is_told {
                        tracing::debug!(peer = address.map(tracing::field::display), "an idle connection is cut");
                        return;
                    }
                    is_told = true;
                    presence.count_idle();
                    // What is asked before the client hears of it is answered all the same.
                    serving.as_mut().graceful_shutdown();
                }
                () = peer.is_outdated() => {
                    let peer = address.map(tracing::field::display);
                    tracing::info!(peer, "a client's certificate has ended");
                    break Why::Certificate;
                }
            }
        };
        serving.as_mut().graceful_shutdown();
        // Clients hear that the connection ends before its streams do, and open the next ones elsewhere.
        let is_over = poll_fn(|cx| Poll::Ready(serving.as_mut().poll(cx).is_ready())).await;
        presence.end(why);
        if !is_over {
            let _ = timeout(grace, serving).await;
        }
    }

    /// Answers what is asked on a connection.
    fn answer(
        &self,
        mut request: http::Request<Incoming>,
        peer: &Peer,
        connection: &Arc<Connection>,
    ) -> impl Future<Output = Result<http::Response<CallBody>, Infallible>> + Send + use<> {
        let call = Call::begin(connection);
        request.extensions_mut().insert(peer.clone());
        request.extensions_mut().insert(connection.clone());
        match discovery::find(request.uri().path()) {
            Some(service) => {
                let response = service.answer(&self.shared, request);
                let body = |stream| CallBody::new(AnyBody::Stream(stream), call);
                Either::Left(ready(Ok(response.map(body))))
            }
            None => Either::Right(self.clone().route(request, call)),
        }
    }

    /// Answers what is for no discovery service.
    async fn route(
        mut self,
        request: http::Request<Incoming>,
        call: Call,
    ) -> Result<http::Response<CallBody>, Infallible> {
        let response = self.services.call(request).await?;
        Ok(response.map(|body| CallBody::new(AnyBody::Routed(body), call)))
    }
}

fn http2(shared: &Shared) -> http2::Builder<TokioExecutor> {
    let mut http2 = http2::Builder::new(TokioExecutor::new());
    http2
        .timer(TokioTimer::new())
        .keep_alive_interval(spread::bounded(shared.keepalive.interval))
        .keep_alive_timeout(spread::bounded(shared.keepalive.timeout))
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
