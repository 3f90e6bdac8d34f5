//! Services behind an Envoy, each of which changes in its own way.

use deltaplane_server::{Resource, TypeUrl};

use crate::Upstream;
use crate::envoy::mesh::Parts;
use crate::envoy::mode::Mode;
use crate::envoy::resources::{
    cluster, endpoints, faults, faults_named, listener, listener_with_filter, restless_tls_cluster,
    routes, runtime, tls_listener,
};

/// The paths that the listener `front` has routes for, and with each what changes about it.
pub const PATHS: [&str; 6] = ["/swapped", "/exchanged", "/moved", "/secure", "/touched", "/"];

/// What a transaction removes.
pub type Gone = Vec<(TypeUrl, String)>;

/// How often each of it has changed, which says how it is now.
///
/// Of these, the listener `front` has all and changes itself. The listener `side` has some of them, and
/// never changes itself: what takes long is not cut off there with a listener's old connections.
#[derive(Debug)]
#[allow(missing_docs, reason = "said above")]
pub struct Services {
    pub mode: Mode,
    pub front: u16,
    /// `/swapped` and, on `side`, `/slow`: the cluster.
    pub swaps: usize,
    /// `/exchanged`: on which of the two listeners it is which of two clusters.
    pub exchanges: usize,
    /// `/moved`: the endpoints.
    pub moves: usize,
    /// `/touched`: the cluster's timeout.
    pub touches: usize,
    /// The name by which `front` has its routes.
    pub names: usize,
    /// Its filter.
    pub filters: usize,
}

impl Services {
    /// As they are at first.
    pub fn new(mode: Mode, parts: Parts<'_>) -> Services {
        let front = parts.ports.front.port();
        let (swaps, exchanges, moves, touches, names, filters) = (0, 0, 0, 0, 0, 0);
        Services { mode, front, swaps, exchanges, moves, touches, names, filters }
    }

    /// All there is.
    pub fn content(&self, parts: Parts<'_>) -> Vec<Resource> {
        let (mode, Parts { ports, a, b, certificate }) = (self.mode, parts);
        let mut content = vec![
            cluster(mode, "main", 5),
            endpoints("main", a.port()),
            restless_tls_cluster(mode, "secure", "authority"),
            endpoints("secure", ports.back.port()),
            tls_listener(mode, "back", ports.back.port(), "back"),
            routes("back", &[("/", "main")]),
            certificate.secret("certificate"),
            certificate.authority("authority"),
            cluster(mode, "extra", 5),
            endpoints("extra", b.port()),
            cluster(mode, "left", 5),
            endpoints("left", a.port()),
            cluster(mode, "right", 5),
            endpoints("right", b.port()),
            cluster(mode, "moved", 5),
            self.moved_to(parts),
            self.touched(),
            endpoints("touched", a.port()),
            self.filter(),
            self.listener(),
            self.front_routes(),
            listener(mode, "side", ports.side.port(), "side"),
            faults(418),
            self.side_routes(),
            runtime("unused", "one"),
        ];
        content.extend(self.swapped(parts));
        content
    }

    /// The upstream of `/swapped`.
    pub fn swapped_upstream<'a>(&self, parts: Parts<'a>) -> &'a Upstream {
        alternate(parts, self.swaps)
    }

    /// The upstream of `/exchanged` on `front`.
    pub fn exchanged_upstream<'a>(&self, parts: Parts<'a>) -> &'a Upstream {
        alternate(parts, self.exchanges)
    }

    /// The upstream of `/moved`.
    pub fn moved_upstream<'a>(&self, parts: Parts<'a>) -> &'a Upstream {
        alternate(parts, self.moves)
    }

    /// The timeout of `/touched`, in seconds.
    pub fn timeout(&self) -> i64 {
        5 + i64::try_from(self.touches).expect("nobody changes that much")
    }

    /// The cluster of `/swapped`, and its endpoints.
    pub fn swapped(&self, parts: Parts<'_>) -> [Resource; 2] {
        let name = self.swapped_name();
        let upstream = self.swapped_upstream(parts);
        [cluster(self.mode, &name, 5), endpoints(&name, upstream.port())]
    }

    /// Their names.
    pub fn swapped_gone(&self) -> Gone {
        let name = self.swapped_name();
        vec![(TypeUrl::CLUSTER, name.clone()), (TypeUrl::ENDPOINT, name)]
    }

    /// The endpoints of `/moved`.
    pub fn moved_to(&self, parts: Parts<'_>) -> Resource {
        endpoints("moved", self.moved_upstream(parts).port())
    }

    /// The cluster of `/touched`.
    pub fn touched(&self) -> Resource {
        cluster(self.mode, "touched", self.timeout())
    }

    /// The listener `front`.
    pub fn listener(&self) -> Resource {
        let (routes, filter) = (self.routes_name(), self.filter_name());
        listener_with_filter(self.mode, "front", self.front, &routes, &filter)
    }

    /// Its routes.
    pub fn front_routes(&self) -> Resource {
        let (swapped, [exchanged, _]) = (self.swapped_name(), self.exchanged());
        let prefixes = [
            ("/swapped", &*swapped),
            ("/exchanged", exchanged),
            ("/moved", "moved"),
            ("/secure", "secure"),
            ("/touched", "touched"),
            ("/", "main"),
        ];
        routes(&self.routes_name(), &prefixes)
    }

    /// The routes of `side`.
    pub fn side_routes(&self) -> Resource {
        let (swapped, [_, exchanged]) = (self.swapped_name(), self.exchanged());
        routes("side", &[("/slow", &*swapped), ("/exchanged", exchanged), ("/", "extra")])
    }

    /// The name by which `front` has its routes.
    pub fn routes_gone(&self) -> Gone {
        vec![(TypeUrl::ROUTE, self.routes_name())]
    }

    /// Its filter.
    pub fn filter(&self) -> Resource {
        faults_named(&self.filter_name(), 418)
    }

    /// The filter's name.
    pub fn filter_gone(&self) -> Gone {
        vec![(TypeUrl::EXTENSION_CONFIG, self.filter_name())]
    }

    fn swapped_name(&self) -> String {
        format!("swapped-{}", self.swaps)
    }

    fn exchanged(&self) -> [&'static str; 2] {
        if self.exchanges.is_multiple_of(2) { ["left", "right"] } else { ["right", "left"] }
    }

    fn routes_name(&self) -> String {
        format!("front-{}", self.names)
    }

    fn filter_name(&self) -> String {
        format!("faults-{}", self.filters)
    }
}

/// Upstreams take turns.
pub fn alternate(parts: Parts<'_>, turn: usize) -> &Upstream {
    if turn.is_multiple_of(2) { parts.a } else { parts.b }
}
