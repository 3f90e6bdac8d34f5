//! An Envoy, its control plane, what it routes to, and what it is told at first.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use deltaplane_server::{Resource, TypeUrl};
use serde_json::Value;

use crate::envoy::beliefs::Beliefs;
use crate::envoy::certificate::Certificate;
use crate::envoy::control_plane::{DRAIN, EnvoyControlPlane};
use crate::envoy::mode::Mode;
use crate::envoy::resources::{
    cluster, endpoints, faults, listener, routes, runtime, tls_cluster, tls_listener,
};
use crate::listener::PATIENCE;
use crate::{Envoy, Listener, Upstream, wait_until};

/// How long an Envoy may take that has to connect first: it tries again after half a second, and later
/// after longer.
pub const RECONNECT: Duration = Duration::from_secs(20);

const INTERVAL: Duration = Duration::from_millis(10);

/// The runtime value that is told.
pub const FLAG: &str = "deltaplane.flag";

/// On the listener `front`, requests go to the cluster `main`, which is upstream `a`; those for
/// `/secure` take a way around: by TLS to the listener `back`, and from there to the same cluster. On
/// the listener `side`, they go to the cluster `extra`, which is upstream `b`.
#[derive(Debug)]
#[allow(missing_docs, reason = "said above")]
pub struct Mesh {
    pub mode: Mode,
    pub plane: EnvoyControlPlane,
    pub envoy: Envoy,
    pub ports: Ports,
    pub a: Upstream,
    pub b: Upstream,
    pub certificate: Certificate,
}

/// What resources are about.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs, reason = "said above")]
pub struct Parts<'a> {
    pub ports: &'a Ports,
    pub a: &'a Upstream,
    pub b: &'a Upstream,
    pub certificate: &'a Certificate,
}

/// What Envoy listens on.
#[derive(Debug)]
#[allow(missing_docs, reason = "they are called what they are")]
pub struct Ports {
    pub front: Listener,
    pub back: Listener,
    pub side: Listener,
}

/// Runs a scenario in each of these modes, all at once, each with an Envoy of its own.
///
/// # Panics
/// If one of them did. The name of its thread says which.
pub fn in_modes(modes: impl IntoIterator<Item = Mode>, scenario: fn(Mesh)) {
    in_modes_from(modes, Mesh::start, scenario);
}

/// The same for a mesh, or what has one, that is started in another way.
///
/// # Panics
/// If one of them did.
pub fn in_modes_from<T: 'static>(
    modes: impl IntoIterator<Item = Mode>,
    start: fn(Mode) -> T,
    scenario: fn(T),
) {
    let spawn = |mode: Mode| {
        let thread = thread::Builder::new().name(mode.name());
        thread.spawn(move || scenario(start(mode))).expect("threads can be had")
    };
    let threads: Vec<_> = modes.into_iter().map(|mode| (mode.name(), spawn(mode))).collect();
    let ends = threads.into_iter().map(|(mode, thread)| (mode, thread.join()));
    let failed: Vec<_> = ends.filter(|(_, end)| end.is_err()).map(|(mode, _)| mode).collect();
    assert_eq!(failed, [""; 0], "what went wrong is said above");
}

impl Mesh {
    /// Starts all of it.
    pub fn start(mode: Mode) -> Mesh {
        Mesh::start_with(mode, |parts| content(mode, parts))
    }

    /// The same where it is told something else at first. For the paths `/` and `/secure`, this must be
    /// the same.
    pub fn start_with(mode: Mode, content: impl FnOnce(Parts<'_>) -> Vec<Resource>) -> Mesh {
        let [front, back, side] = [(); 3].map(|()| Listener::reserve());
        let ports = Ports { front, back, side };
        let (a, b) = (Upstream::start("a"), Upstream::start("b"));
        let certificate = Certificate::make("first");
        let parts = Parts { ports: &ports, a: &a, b: &b, certificate: &certificate };
        let plane = EnvoyControlPlane::start(content(parts));
        let drain = DRAIN.as_secs().to_string();
        let envoy = Envoy::start_with(&mode.bootstrap(plane.port()), &["--drain-time-s", &drain]);
        let mesh = Mesh { mode, plane, envoy, ports, a, b, certificate };
        mesh.ports.front.reaches("/", &mesh.a);
        mesh.ports.front.reaches("/secure", &mesh.a);
        mesh.ports.side.reaches("/", &mesh.b);
        mesh.plane.record().settles();
        mesh
    }

    /// What resources are about.
    pub fn parts(&self) -> Parts<'_> {
        let Mesh { ports, a, b, certificate, .. } = self;
        Parts { ports, a, b, certificate }
    }

    /// What it is told at first.
    pub fn content(&self) -> Vec<Resource> {
        content(self.mode, self.parts())
    }

    /// What it is told at first, and this, which may replace some of it.
    pub fn content_with(&self, more: &[Resource]) -> Vec<Resource> {
        let key = |resource: &Resource| (resource.type_url().clone(), resource.name().clone());
        let mut all = self.content();
        all.retain(|resource| more.iter().all(|it| key(it) != key(resource)));
        [all, more.to_vec()].concat()
    }

    /// Waits until Envoy uses just these resources, by name. Those that only serve the old connections of
    /// a listener that is changed or gone stay for Envoy's drain time, be there such connections or not.
    pub fn has(&self, resources: &[Resource]) {
        self.has_within(resources, DRAIN + PATIENCE);
    }

    /// The same for what takes longer.
    pub fn has_within(&self, resources: &[Resource], patience: Duration) {
        let shown = resources.iter().filter(|resource| *resource.type_url() != TypeUrl::RUNTIME);
        let shown = shown.map(|resource| (resource.type_url().clone(), &**resource.name()));
        let expected: BTreeSet<_> = shown.collect();
        let start = Instant::now();
        loop {
            let beliefs = Beliefs::of(&self.envoy);
            let held = beliefs.names();
            if held == expected && self.warming() == 0 {
                return;
            }
            let in_time = start.elapsed() < patience;
            let [more, missing] = [&held - &expected, &expected - &held];
            assert!(in_time, "Envoy has {more:#?}, which it should not, but not {missing:#?}");
            thread::sleep(INTERVAL);
        }
    }

    /// How many clusters wait for something before they are put to use.
    pub fn warming(&self) -> u64 {
        self.envoy.stat("cluster_manager.warming_clusters")
    }

    /// Waits until a resource in use has this text in it.
    pub fn uses(&self, type_url: &TypeUrl, name: &str, text: &str) {
        let what = format!("{}: {name} has {text} in it", self.mode.name());
        wait_until(&what, PATIENCE, || {
            let beliefs = Beliefs::of(&self.envoy);
            beliefs.get(type_url, name)?.to_string().contains(text).then_some(())
        });
    }

    /// Waits until a cluster's connections may take so many seconds, and no cluster is waited for.
    pub fn uses_timeout(&self, cluster: &str, seconds: i64) {
        self.uses(&TypeUrl::CLUSTER, cluster, &format!("\"connect_timeout\":\"{seconds}s\""));
        wait_until("no cluster waits", PATIENCE, || (self.warming() == 0).then_some(()));
    }

    /// Waits until the runtime value is this, or is gone.
    pub fn has_flag(&self, value: Option<&str>) {
        wait_until("the runtime value is as it should be", PATIENCE, || {
            let runtime: Value = serde_json::from_str(&self.envoy.admin("/runtime")).ok()?;
            let found = runtime["entries"][FLAG]["final_value"].as_str();
            (found == value).then_some(())
        });
    }

    /// Waits until faults have this status.
    pub fn has_faults(&self, status: u16) {
        wait_until("the filter is in use", PATIENCE, || {
            self.ports.front.get("/fault").filter(|answer| answer.status == status)
        });
    }

    /// How often Envoy took up clusters and listeners.
    pub fn updates(&self) -> [u64; 2] {
        ["cluster_manager.cds.update_success", "listener_manager.lds.update_success"]
            .map(|name| self.envoy.stat(name))
    }
}

fn content(mode: Mode, Parts { ports, a, b, certificate }: Parts<'_>) -> Vec<Resource> {
    vec![
        cluster(mode, "main", 5),
        tls_cluster(mode, "secure", 5, "authority"),
        cluster(mode, "extra", 5),
        endpoints("main", a.port()),
        endpoints("secure", ports.back.port()),
        endpoints("extra", b.port()),
        listener(mode, "front", ports.front.port(), "front"),
        tls_listener(mode, "back", ports.back.port(), "back"),
        listener(mode, "side", ports.side.port(), "side"),
        routes("front", &[("/secure", "secure"), ("/", "main")]),
        routes("back", &[("/", "main")]),
        routes("side", &[("/", "extra")]),
        certificate.secret("certificate"),
        certificate.authority("authority"),
        faults(418),
        runtime(FLAG, "one"),
    ]
}
