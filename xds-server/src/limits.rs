//! What clients may ask of the server.

use std::time::Duration;

use deltaplane_core::StreamLimits;

/// What clients may ask of the server. Beyond what one of them may, its stream ends with a status that names the
/// limit; beyond what all of them may, new ones wait or are refused, and those that are there are served.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Limits {
    /// What a stream may ask for.
    pub stream: StreamLimits,
    /// How large a request may be, in bytes: lists of names and of initial versions grow with the
    /// configuration (K-05). 32 MiB unless set.
    pub request_size: usize,
    /// How many requests a stream may send in a second. 5,000 unless set.
    pub requests_per_second: u32,
    /// How many streams a connection may have at once, on [`XdsServer::serve`](crate::XdsServer::serve);
    /// HTTP/2 tells clients, which wait with further ones. An Envoy without ADS opens one for each
    /// subscription (K-04). 100,000 unless set.
    pub streams_per_connection: u32,
    /// How many connections there may be on [`XdsServer::serve`](crate::XdsServer::serve). Further clients
    /// wait until one ends. Not limited unless set.
    pub connections: usize,
    /// How many connections are accepted in a second; the others wait. Not limited unless set.
    pub accepts_per_second: u32,
    /// How many discovery streams there may be. Further ones are refused with `RESOURCE_EXHAUSTED`, so that
    /// their clients try again later, or elsewhere. Not limited unless set.
    pub streams: usize,
    /// Above how many bytes [in use](crate::XdsServerBuilder::memory_in_use) further connections wait, and
    /// further streams are refused as above. Not limited unless set.
    pub memory: u64,
    /// How long a client may take to get through TLS, on `XdsServer::serve_tls`. 10 s unless set.
    pub handshake: Duration,
    /// How long a connection may take until it asks for something, and a stream until its first request
    /// begins, counted anew from that of any other stream of its connection: theirs come one after another.
    /// 30 s unless set.
    pub first_request: Duration,
    /// How long a connection may be without a stream, or anything else under way, once something was asked on
    /// it. Then it is told to end (GOAWAY), so that it takes nobody's place; who wants more connects anew. 60 s
    /// unless set: an Envoy may wait for 30 s between two streams.
    pub connection_idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            stream: StreamLimits::default(),
            request_size: 32 << 20,
            requests_per_second: 5_000,
            streams_per_connection: 100_000,
            connections: usize::MAX,
            accepts_per_second: u32::MAX,
            streams: usize::MAX,
            memory: u64::MAX,
            handshake: Duration::from_secs(10),
            first_request: Duration::from_secs(30),
            connection_idle: Duration::from_secs(60),
        }
    }
}
