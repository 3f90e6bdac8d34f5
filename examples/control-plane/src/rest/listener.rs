//! Connections to the HTTP API, with TLS or without: how many there are, and how long each is waited for.

use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, Request};
use hyper::body::{Body as Frames, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;

use crate::serve::lifetime::Stop;

/// How many connections the HTTP API may have; the others wait. Of the files that a process may usually have open, that
/// leaves half for Envoys.
pub(crate) const CONNECTIONS: usize = 512;

/// How many there may be where only metrics and health are.
pub(crate) const METRICS_CONNECTIONS: usize = 64;

/// How long a client may take to shake hands.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// How long is waited for what a client does next: from when it connected, or was answered, until it has sent the
/// whole head of a request; for the next piece of a request's body; until it takes something of an answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long the body of a request may take as a whole.
const BODY: Duration = Duration::from_secs(5 * 60);

/// How long nobody is accepted when the machine has no room for one more connection.
const PAUSE: Duration = Duration::from_millis(200);

/// Where somebody connected from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PeerAddress(pub(crate) SocketAddr);

/// A client was waited for long enough.
#[derive(Debug, Error)]
#[error("the client was waited for long enough")]
pub(crate) struct TooSlow;

/// Serves until it is told to stop, and then until those are answered who asked before. Beyond so many connections the
/// others wait. Each is secured by the configuration that is in force when it comes, if there is one.
pub(crate) async fn serve(
    listener: TcpListener,
    most: usize,
    tls: Option<watch::Receiver<Arc<ServerConfig>>>,
    router: Router,
    stop: Stop,
) {
    // What is left of them when this is dropped is cut.
    let mut connections = JoinSet::new();
    let mut stopping = pin!(stop.told());
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < most => match accepted {
                Ok((tcp, peer)) => {
                    let acceptor = tls.as_ref().map(|tls| TlsAcceptor::from(tls.borrow().clone()));
                    connections.spawn(secure(acceptor, tcp, peer, router.clone(), stop.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "nobody can connect to the HTTP API for now");
                    tokio::time::sleep(PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
            () = &mut stopping => break,
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn secure(
    acceptor: Option<TlsAcceptor>,
    tcp: TcpStream,
    peer: SocketAddr,
    router: Router,
    stop: Stop,
) {
    let tcp = Wire { tcp, wait: Wait::default() };
    let Some(acceptor) = acceptor else { return converse(tcp, peer, router, stop).await };
    let shaken = tokio::select! {
        shaken = timeout(HANDSHAKE, acceptor.accept(tcp)) => shaken,
        () = stop.told() => return,
    };
    match shaken {
        Ok(Ok(secured)) => converse(secured, peer, router, stop).await,
        Ok(Err(error)) => tracing::debug!(%peer, %error, "somebody did not get through TLS"),
        Err(_) => tracing::debug!(%peer, "somebody took too long for TLS"),
    }
}

/// Answers what is asked on a connection.
async fn converse(
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: SocketAddr,
    router: Router,
    stop: Stop,
) {
    let router = TowerToHyperService::new(router);
    let answer = service_fn(move |request: hyper::Request<Incoming>| {
        let mut request: Request = request.map(|body| Body::new(InTime::new(body)));
        request.extensions_mut().insert(ConnectInfo(PeerAddress(peer)));
        router.call(request)
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(PATIENCE);
    let mut serving = pin!(http.serve_connection(TokioIo::new(io), answer));
    let served = tokio::select! {
        served = &mut serving => served,
        () = stop.told() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%peer, %error, "a connection to the HTTP API broke");
    }
}

/// What is waited for what a client does next.
#[derive(Debug, Default)]
struct Wait(Option<Pin<Box<Sleep>>>);

impl Wait {
    /// What was polled; or an error, if it has been pending for [`PATIENCE`] or until `latest`.
    fn bounds<T>(
        &mut self,
        cx: &mut Context<'_>,
        latest: Option<Instant>,
        polled: Poll<T>,
    ) -> Poll<Result<T, TooSlow>> {
        if polled.is_ready() {
            self.0 = None;
            return polled.map(Ok);
        }
        let wait = self.0.get_or_insert_with(|| {
            let next = Instant::now() + PATIENCE;
            Box::pin(sleep_until(latest.map_or(next, |latest| latest.min(next))))
        });
        wait.as_mut().poll(cx).map(|()| Err(TooSlow))
    }
}

/// The body of a request, which is to come in time.
struct InTime {
    body: Incoming,
    wait: Wait,
    latest: Instant,
}

impl InTime {
    fn new(body: Incoming) -> InTime {
        InTime { body, wait: Wait::default(), latest: Instant::now() + BODY }
    }
}

impl Frames for InTime {
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::BoxError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        let latest = Some(self.latest);
        self.wait.bounds(cx, latest, polled).map(|came| match came {
            Ok(frame) => frame.map(|frame| frame.map_err(Into::into)),
            Err(error) => Some(Err(error.into())),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A connection whose client is to take what it is sent.
#[derive(Debug)]
struct Wire {
    tcp: TcpStream,
    wait: Wait,
}

impl Wire {
    fn bounds(
        &mut self,
        cx: &mut Context<'_>,
        sent: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let sent = self.wait.bounds(cx, None, sent);
        sent.map(|sent| {
            sent.unwrap_or_else(|error| Err(io::Error::new(io::ErrorKind::TimedOut, error)))
        })
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let sent = Pin::new(&mut self.tcp).poll_write(cx, bytes);
        self.bounds(cx, sent)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let sent = Pin::new(&mut self.tcp).poll_write_vectored(cx, bytes);
        self.bounds(cx, sent)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}
