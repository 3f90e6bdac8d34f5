//! TLS, by a configuration that can be replaced.

use std::{
    io,
    sync::{Arc, PoisonError, RwLock},
};

use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::peer::Peer;

/// The configuration of TLS for [`XdsServer::serve_tls`](crate::XdsServer::serve_tls). Clones share one, so that
/// whoever keeps a clone can replace it while it is served by:
///
/// ```no_run
/// # use std::sync::Arc;
/// # use deltaplane_server::{Tls, XdsServer, rustls::ServerConfig};
/// # fn read_files() -> Result<ServerConfig, Box<dyn std::error::Error>> { unimplemented!() }
/// # async fn run(server: XdsServer, listener: tokio::net::TcpListener)
/// # -> Result<(), Box<dyn std::error::Error>> {
/// let tls = Tls::from(Arc::new(read_files()?));
/// let kept = tls.clone();
/// tokio::spawn(async move { server.serve_tls(listener, tls, std::future::pending()).await });
///
/// // When the files have changed; what cannot be read leaves the old ones in force.
/// kept.replace(Arc::new(read_files()?));
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Tls(Arc<RwLock<Arc<ServerConfig>>>);

impl From<Arc<ServerConfig>> for Tls {
    fn from(config: Arc<ServerConfig>) -> Self {
        Self(Arc::new(RwLock::new(config)))
    }
}

impl Tls {
    /// From now on, connections are secured by this configuration: they are shown its certificate, and have to
    /// show what it asks for. Connections that are there go on as they are, until their certificates end, or
    /// they are told to by [`end_connections`](crate::XdsServer::end_connections) or for their
    /// [age](crate::Aging).
    pub fn replace(&self, config: Arc<ServerConfig>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = config;
    }

    /// Secures a connection, and tells who it is from.
    pub(crate) fn accept(
        &self,
        tcp: TcpStream,
        peer: Peer,
    ) -> impl Future<Output = io::Result<(TlsStream<TcpStream>, Peer)>> + Send + use<> {
        let config = self.0.read().unwrap_or_else(PoisonError::into_inner).clone();
        async move {
            let secured = TlsAcceptor::from(config).accept(tcp).await?;
            let chain = secured.get_ref().1.peer_certificates().unwrap_or_default();
            let chain = chain.iter().map(|certificate| certificate.clone().into_owned()).collect();
            let peer = peer.with_certificates(chain).map_err(io::Error::other)?;
            // Who resumes a session shows none, and TLS does not look at the one of then again.
            if peer.certificate.as_ref().is_some_and(|certificate| certificate.left().is_none()) {
                return Err(io::Error::other("the client's certificate has ended"));
            }
            Ok((secured, peer))
        }
    }
}
