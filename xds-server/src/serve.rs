//! Connections: they are accepted, secured if they should be, and speak HTTP/2 until they are told to end.

use std::{convert::Infallible, future::ready, io, pin::pin, sync::Arc, time::Duration};

use hyper::{server::conn::http2, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};

use crate::{discovery, server::Shared};

/// How long the end of the server waits for clients to take notice.
const DRAIN: Duration = Duration::from_secs(5);

/// How long nobody is accepted when the machine has no room for one more connection.
const PAUSE: Duration = Duration::from_millis(200);

/// Serves until `shutdown` is done; then ends all streams, and waits for their clients to be told. What
/// carries a connection's bytes, `secure` makes of it.
pub(crate) async fn serve<S, F, T>(
    shared: &Arc<Shared>,
    listener: TcpListener,
    shutdown: impl Future<Output = ()>,
    secure: S,
) -> io::Result<()>
where
    S: Fn(TcpStream) -> F + Clone + Send + 'static,
    F: Future<Output = io::Result<T>> + Send + 'static,
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let connections = GracefulShutdown::new();
    let http2 = http2(shared);
    let mut shutdown = pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut shutdown => break,
        };
        let (tcp, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) if is_of_one_connection(&error) => continue,
            Err(error) if is_exhaustion(&error) => {
                tracing::warn!(%error, "no further client can connect for now");
                sleep(PAUSE).await;
                continue;
            }
            Err(error) => return Err(error),
        };
        let (shared, http2, secure) = (shared.clone(), http2.clone(), secure.clone());
        let watcher = connections.watcher();
        tokio::spawn(async move {
            // Who is gone already gets no answer anyway.
            let _ = tcp.set_nodelay(true);
            let secured = timeout(shared.limits.handshake, secure(tcp)).await;
            match secured.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Err(error) => tracing::info!(%peer, %error, "a client did not get through TLS"),
                Ok(io) => {
                    let answer = |request| {
                        ready(Ok::<_, Infallible>(discovery::answer(&shared, request, peer)))
                    };
                    let serving = http2.serve_connection(TokioIo::new(io), service_fn(answer));
                    if let Err(error) = watcher.watch(serving).await {
                        tracing::debug!(%peer, %error, "a connection broke");
                    }
                }
            }
        });
    }
    drop(listener);
    shared.shutdown();
    // Whoever does not read is not waited for.
    let _ = timeout(DRAIN, connections.shutdown()).await;
    Ok(())
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
