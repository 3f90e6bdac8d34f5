//! A connected client, and what is told of it.

use std::sync::Arc;

use deltaplane_cache::Scope;
use deltaplane_core::{Event, Response, Variant};
use envoy_types::pb::envoy::config::core::v3::Node;
use tonic::Status;

use crate::peer::Peer;

/// One stream of one client. Two streams of one node are two clients (B-13).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Client {
    /// Tells this stream from all others of the server.
    pub id: u64,
    /// Who the client says it is, by the first request of its stream, without its list of extensions
    /// (which in Envoy's case is 61 KiB long).
    pub node: Node,
    /// What the client speaks.
    pub variant: Variant,
    /// Where it connected from, and the certificate that it showed.
    pub peer: Peer,
    /// What it sees: the first scope over the others. Empty if nothing is known for it, which it is met
    /// with silence for.
    pub scopes: Arc<[Scope]>,
}

/// What happens to a client.
#[derive(Debug)]
#[non_exhaustive]
pub enum ClientEvent<'a> {
    /// Its first request was read, and it is served.
    Connected,
    /// Its first request was read, and the [authorizer](crate::Authorizer) did not let it in.
    Refused(&'a Status),
    /// It sees other scopes than before; these were the old ones.
    Moved {
        /// What it saw.
        from: Arc<[Scope]>,
    },
    /// A response was handed to HTTP/2.
    Sent(&'a Response),
    /// A request told something: a subscription, an ACK, a NACK.
    Told(&'a Event),
    /// Its stream is over: by itself if there is no status.
    Disconnected(Option<&'a Status>),
}

/// Hears what happens to clients, for logs and metrics.
///
/// It is called on the streams' own tasks, and should return quickly: a stream waits for it.
pub trait Observer: Send + Sync + 'static {
    /// Something happened to a client.
    fn observe(&self, client: &Client, event: &ClientEvent<'_>);
}

/// Hears nothing.
impl Observer for () {
    fn observe(&self, _: &Client, _: &ClientEvent<'_>) {}
}
