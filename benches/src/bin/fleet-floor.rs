//! The floor: HTTP/2, and the same bytes to every stream. It knows nothing of xDS.
//!
//! A stream's first request is met with what was encoded at the last load, and from then on it gets what
//! was encoded at each update. What else it says is read and forgotten.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    net::Ipv4Addr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker, ready as poll_ready},
};

use bytes::Bytes;
use clap::Parser;
use deltaplane_benches::{
    Result,
    cluster::{Variant, cluster, response},
    control::{self, Command, Ports},
    tls,
};
use http::{HeaderValue, Request, Response, header::CONTENT_TYPE};
use http_body::{Body, Frame};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

/// Sends what is encoded beforehand to every stream, and nothing else: what HTTP/2 alone costs.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    ports: Ports,
    /// For which protocol to encode.
    #[arg(long, value_enum, default_value_t = Variant::Delta)]
    variant: Variant,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    let content = Arc::new(Content { variant: args.variant, state: Mutex::default() });
    let grpc = TcpListener::bind((Ipv4Addr::LOCALHOST, args.ports.grpc)).await?;
    let http = args.ports.control().await?;
    let controlled = content.clone();
    tokio::spawn(control::serve(http, move |command| ready(controlled.execute(command))));
    let tls = args.ports.tls.as_deref().map(tls::server).transpose()?.map(TlsAcceptor::from);
    loop {
        let (connection, _) = grpc.accept().await?;
        connection.set_nodelay(true)?;
        let content = content.clone();
        match tls.clone() {
            None => {
                tokio::spawn(serve(connection, content));
            }
            Some(tls) => {
                tokio::spawn(async move {
                    if let Ok(connection) = tls.accept(connection).await {
                        serve(connection, content).await;
                    }
                });
            }
        }
    }
}

/// Serves one connection, as long as it lasts.
async fn serve(
    connection: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    content: Arc<Content>,
) {
    let service = service_fn(move |request| content.call(request));
    let serving = http2::Builder::new(TokioExecutor::new())
        .max_concurrent_streams(100_000)
        .serve_connection(TokioIo::new(connection), service);
    // The load generator tells when it fails.
    let _ = serving.await;
}

/// What is sent, and who waits for it.
struct Content {
    variant: Variant,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    count: usize,
    everything: Bytes,
    change: Bytes,
    changes: u64,
    waiting: Vec<Waker>,
}

impl Content {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn execute(&self, command: Command) -> Result<()> {
        let waiting = match command {
            Command::Load(n) => {
                let clusters: Vec<_> = (0..n).map(|i| cluster(i, 0)).collect();
                let everything = response(self.variant, &clusters);
                let mut state = self.state();
                (state.count, state.everything) = (n, everything);
                Vec::new()
            }
            Command::Update { i, generation, .. } => {
                let change = response(self.variant, &[cluster(i, generation)]);
                let mut state = self.state();
                // The state of the world has one size, whatever changed in it.
                state.change = match self.variant {
                    Variant::Sotw => state.everything.clone(),
                    _ => change,
                };
                state.changes += 1;
                std::mem::take(&mut state.waiting)
            }
            _ => return Err(format!("{command:?} is not known here").into()),
        };
        waiting.into_iter().for_each(Waker::wake);
        Ok(())
    }

    fn call(
        self: &Arc<Self>,
        request: Request<Incoming>,
    ) -> Ready<std::result::Result<Response<Stream>, Infallible>> {
        let seen = self.state().changes;
        let (content, requests) = (self.clone(), request.into_body());
        let stream = Stream { content, requests, first: true, seen, waits: false };
        let mut response = Response::new(stream);
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        ready(Ok(response))
    }
}

/// What one stream is sent.
struct Stream {
    content: Arc<Content>,
    requests: Incoming,
    first: bool,
    seen: u64,
    waits: bool,
}

impl Stream {
    /// Reads what the client says; ready when there is nothing more to come.
    fn discard(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while let Some(Ok(frame)) = poll_ready!(Pin::new(&mut self.requests).poll_frame(cx)) {
            if self.first && frame.data_ref().is_some_and(|data| !data.is_empty()) {
                self.first = false;
                self.seen = u64::MAX;
            }
        }
        Poll::Ready(())
    }
}

impl Body for Stream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, Infallible>>> {
        if self.discard(cx).is_ready() {
            return Poll::Ready(None);
        }
        if self.first {
            return Poll::Pending;
        }
        let content = self.content.clone();
        let mut state = content.state();
        if self.seen == state.changes {
            // Hyper polls a body from one task, so that once is enough however often an ACK wakes it.
            if !std::mem::replace(&mut self.waits, true) {
                state.waiting.push(cx.waker().clone());
            }
            return Poll::Pending;
        }
        self.waits = false;
        let is_first = self.seen == u64::MAX;
        self.seen = state.changes;
        let bytes = if is_first { &state.everything } else { &state.change };
        Poll::Ready(Some(Ok(Frame::data(bytes.clone()))))
    }
}
