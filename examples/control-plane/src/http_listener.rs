//! Connections to the HTTP API, with TLS or without.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsAcceptor;

/// How long a client may take to shake hands.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// How long nobody is accepted when the machine has no room for one more connection.
const PAUSE: Duration = Duration::from_millis(200);

/// How many connections may wait to be taken.
const WAITING: usize = 64;

/// Where somebody connected from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PeerAddress(pub(crate) SocketAddr);

impl Connected<IncomingStream<'_, HttpListener>> for PeerAddress {
    fn connect_info(stream: IncomingStream<'_, HttpListener>) -> PeerAddress {
        PeerAddress(*stream.remote_addr())
    }
}

/// What carries a connection's bytes.
pub(crate) trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

type Connection = (Box<dyn Wire>, SocketAddr);

/// Where the HTTP API listens.
#[derive(Debug)]
pub(crate) struct HttpListener {
    address: SocketAddr,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Plain(TcpListener),
    /// Those whose handshakes are done, each of which was on a task of its own.
    Secured(mpsc::Receiver<Connection>),
}

impl HttpListener {
    pub(crate) fn plain(listener: TcpListener) -> io::Result<HttpListener> {
        Ok(HttpListener { address: listener.local_addr()?, source: Source::Plain(listener) })
    }

    /// Each connection is secured by the configuration that is in force when it comes.
    pub(crate) fn secured(
        listener: TcpListener,
        tls: watch::Receiver<Arc<ServerConfig>>,
    ) -> io::Result<HttpListener> {
        let address = listener.local_addr()?;
        let (sender, receiver) = mpsc::channel(WAITING);
        tokio::spawn(secure(listener, tls, sender));
        Ok(HttpListener { address, source: Source::Secured(receiver) })
    }
}

impl Listener for HttpListener {
    type Io = Box<dyn Wire>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> Connection {
        match &mut self.source {
            Source::Plain(listener) => {
                let (tcp, peer) = Listener::accept(listener).await;
                (Box::new(tcp), peer)
            }
            Source::Secured(connections) => match connections.recv().await {
                Some(connection) => connection,
                // It ends with this listener, and not before.
                None => std::future::pending().await,
            },
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

/// Accepts and secures connections until nobody takes them any more.
async fn secure(
    listener: TcpListener,
    tls: watch::Receiver<Arc<ServerConfig>>,
    connections: mpsc::Sender<Connection>,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = connections.closed() => return,
        };
        match accepted {
            Ok((tcp, peer)) => {
                let acceptor = TlsAcceptor::from(tls.borrow().clone());
                tokio::spawn(shake_hands(acceptor, tcp, peer, connections.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "nobody can connect to the HTTP API for now");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn shake_hands(
    acceptor: TlsAcceptor,
    tcp: TcpStream,
    peer: SocketAddr,
    connections: mpsc::Sender<Connection>,
) {
    match tokio::time::timeout(HANDSHAKE, acceptor.accept(tcp)).await {
        // Nobody takes it if the server ends.
        Ok(Ok(secured)) => drop(connections.send((Box::new(secured), peer)).await),
        Ok(Err(error)) => tracing::debug!(%peer, %error, "somebody did not get through TLS"),
        Err(_) => tracing::debug!(%peer, "somebody took too long for TLS"),
    }
}
