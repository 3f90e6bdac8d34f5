//! What real Envoys reject, and what they say of it; and good services to come along with it.

use std::net::TcpListener;

use deltaplane_server::{Resource, TypeUrl};

use crate::envoy::beliefs::Beliefs;
use crate::envoy::mesh::Mesh;
use crate::envoy::resources::{
    ambiguous_routes, cluster, cluster_from_nowhere, endpoints, endpoints_beyond_all, listener,
    routes, routes_by_broken_expression,
};
use crate::listener::PATIENCE;
use crate::{Listener, port, wait_until};

/// A resource that Envoy rejects.
#[derive(Debug)]
pub struct Mistake {
    /// Itself. But for the listener, it is about what requests for `/` on `front` need.
    pub bad: Resource,
    /// What Envoy says of it, in part.
    pub words: String,
    /// How often Envoy may reject something until it is clear what: when its words name it, once, otherwise
    /// with each half of what came with it.
    pub rejections: usize,
    /// What it should have been.
    pub mended: Resource,
    /// Whose port it wants, and does not get.
    _holder: Option<TcpListener>,
}

impl Mistake {
    /// A cluster that does not say where its endpoints come from.
    pub fn cluster(mesh: &Mesh) -> Mistake {
        Mistake {
            bad: cluster_from_nowhere("main"),
            words: "Error adding/updating cluster(s) main: \
                    cannot create an EDS cluster without an EDS config"
                .into(),
            rejections: 1,
            mended: cluster(mesh.mode, "main", 7),
            _holder: None,
        }
    }

    /// Endpoints of a priority that there is not.
    pub fn endpoints(mesh: &Mesh) -> Mistake {
        Mistake {
            bad: endpoints_beyond_all("main", mesh.a.port()),
            words: "Priority: value must be less than or equal to 128".into(),
            rejections: 1,
            mended: endpoints("main", mesh.b.port()),
            _holder: None,
        }
    }

    /// A listener on a port that somebody else has, who does not share it.
    pub fn listener(mesh: &Mesh) -> Mistake {
        let taken = TcpListener::bind("127.0.0.1:0").expect("some port is free");
        let address = taken.local_addr().expect("a bound socket has an address");
        Mistake {
            bad: listener(mesh.mode, "bad", address.port(), "front"),
            words: format!("cannot bind '{address}': Address already in use"),
            rejections: 1,
            mended: listener(mesh.mode, "bad", port::reserve(), "front"),
            _holder: Some(taken),
        }
    }

    /// Routes with two virtual hosts that both want to be all.
    pub fn routes(_: &Mesh) -> Mistake {
        Mistake {
            bad: ambiguous_routes("front", &[("/", "main")]),
            words: "Only a single wildcard domain is permitted in route front".into(),
            rejections: 1,
            mended: mended_routes(),
            _holder: None,
        }
    }

    /// Routes of which Envoy does not say that they are what is bad.
    pub fn nameless_routes(_: &Mesh) -> Mistake {
        Mistake {
            bad: routes_by_broken_expression("front", "main"),
            words: "missing ): (".into(),
            // Of eleven, six, three and two; and alone.
            rejections: 5,
            mended: mended_routes(),
            _holder: None,
        }
    }

    /// Whether this is what Envoy says of it.
    pub fn is_told(&self, words: &str) -> bool {
        words.contains(&self.words)
    }
}

fn mended_routes() -> Resource {
    routes("front", &[("/mended", "extra"), ("/secure", "secure"), ("/", "main")])
}

/// Ten services that are as they should be, each with a cluster, its endpoints, routes and a listener.
#[derive(Debug)]
pub struct GoodServices(Vec<Service>);

#[derive(Debug)]
struct Service {
    name: String,
    ports: [Listener; 2],
}

impl GoodServices {
    /// Some that nobody has yet.
    pub fn reserve() -> GoodServices {
        let service =
            |i| Service { name: format!("good-{i}"), ports: [(); 2].map(|()| Listener::reserve()) };
        GoodServices((0..10).map(service).collect())
    }

    /// All that there is of them at first.
    pub fn at_first(&self, mesh: &Mesh) -> Vec<Resource> {
        self.all(|Service { name, ports: [port, _] }| {
            [
                cluster(mesh.mode, name, 5),
                endpoints(name, mesh.a.port()),
                routes(name, &[("/", name)]),
                listener(mesh.mode, name, port.port(), name),
            ]
        })
    }

    /// What changes: another timeout, endpoint and route each, and a listener more.
    pub fn changed(&self, mesh: &Mesh) -> Vec<Resource> {
        self.all(|Service { name, ports: [_, port] }| {
            [
                cluster(mesh.mode, name, 7),
                endpoints(name, mesh.b.port()),
                routes(name, &[("/changed", "main"), ("/", name)]),
                listener(mesh.mode, &format!("{name}-more"), port.port(), name),
            ]
        })
    }

    /// Waits until Envoy uses them as they are after the change, or before it.
    pub fn are_used(&self, mesh: &Mesh, changed: bool) {
        let (timeout, upstream) = if changed { ("7s", &mesh.b) } else { ("5s", &mesh.a) };
        let timeout = &format!("\"connect_timeout\":\"{timeout}\"");
        let port = &format!("\"port_value\":{}", upstream.port());
        wait_until("the good services are used", PATIENCE, || {
            let beliefs = Beliefs::of(&mesh.envoy);
            let has = |type_url: TypeUrl, name: &str, text: &str| {
                beliefs.get(&type_url, name).is_some_and(|it| it.to_string().contains(text))
            };
            let is_used = |Service { name, .. }: &Service| {
                has(TypeUrl::CLUSTER, name, timeout)
                    && has(TypeUrl::ENDPOINT, name, port)
                    && has(TypeUrl::ROUTE, name, "/changed") == changed
                    && has(TypeUrl::LISTENER, &format!("{name}-more"), "") == changed
            };
            self.0.iter().all(is_used).then_some(())
        });
    }

    fn all(&self, of: impl FnMut(&Service) -> [Resource; 4]) -> Vec<Resource> {
        self.0.iter().flat_map(of).collect()
    }
}
