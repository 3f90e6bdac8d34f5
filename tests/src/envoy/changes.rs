//! What happens to an Envoy while requests flow that should not notice: each change is one transaction,
//! with all that it adds, moves and removes.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use deltaplane_server::{Resource, TypeUrl, Variant};

use crate::deadline::wait_quietly;
use crate::envoy::certificate::Certificate;
use crate::envoy::control_plane::DRAIN;
use crate::envoy::listeners::{inline_listener, tcp_listener};
use crate::envoy::mesh::{Mesh, RECONNECT};
use crate::envoy::mode::Mode;
use crate::envoy::resources::{cluster, endpoints};
use crate::envoy::services::{Gone, Services, alternate};
use crate::listener::PATIENCE;
use crate::load::{Load, Outcome, Plan};
use crate::upstream::SLOW;
use crate::{Listener, Upstream, wait_until};

/// Of how many failures it is told what came before them.
const TOLD: usize = 12;

/// What was said for so long before the first failure, and after it, is told as well.
const BEFORE: Duration = Duration::from_secs(3);
const AFTER: Duration = Duration::from_millis(300);

/// After so many handshakes, there is none that began before the first of them.
const HANDSHAKES: u64 = 10;

/// An Envoy with its services, and what its control plane has said of them so far.
#[derive(Debug)]
pub struct Changes {
    /// What is changed.
    pub mesh: Mesh,
    /// A listener that leads to one cluster only, and says so itself. It is not there at first.
    pub simple: Listener,
    services: Services,
    simple_swaps: usize,
    certificates: Vec<Certificate>,
    rotations: usize,
    shaken_hands: u64,
    content: BTreeMap<(TypeUrl, Arc<str>), Resource>,
    /// What was removed of late, and when.
    removed: Vec<(Instant, Resource)>,
    journal: Vec<(Instant, String)>,
}

impl Changes {
    /// Starts all of it.
    pub fn start(mode: Mode) -> Changes {
        let mesh = Mesh::start_with(mode, |parts| Services::new(mode, parts).content(parts));
        let others = ["second", "third", "fourth"].map(Certificate::make);
        let certificates = [vec![mesh.certificate.clone()], others.into()].concat();
        let services = Services::new(mode, mesh.parts());
        let content = services.content(mesh.parts()).into_iter();
        let content = content.map(|it| ((it.type_url().clone(), it.name().clone()), it)).collect();
        Changes {
            mesh,
            simple: Listener::reserve(),
            services,
            simple_swaps: 0,
            certificates,
            rotations: 0,
            shaken_hands: 0,
            content,
            removed: Vec::new(),
            journal: Vec::new(),
        }
    }

    /// All that there should be now.
    pub fn content(&self) -> Vec<Resource> {
        self.content.values().cloned().collect()
    }

    /// Waits until Envoy has what there should be, and nothing else: what was removed may have been held
    /// back, but not for longer than it was used.
    pub fn has_settled(&self) {
        self.mesh.has(&self.content());
    }

    /// The same where listeners changed, and for their old connections something is used for longer.
    pub fn has_drained(&self) {
        self.mesh.has_within(&self.content(), DRAIN + PATIENCE);
    }

    /// The upstream of `/swapped`.
    pub fn swapped(&self) -> &Upstream {
        self.services.swapped_upstream(self.mesh.parts())
    }

    /// `/swapped` has another cluster; the old one is gone. Returns the upstream.
    pub fn swap_cluster(&mut self) -> &Upstream {
        let (put, gone) = self.next_swap();
        self.commit(&format!("cluster {}", self.services.swaps), put, gone);
        self.swapped()
    }

    /// `front` has its routes by another name, and `/swapped` another cluster; the old routes are gone, and
    /// the old cluster. Returns the upstream.
    pub fn rename_routes(&mut self) -> &Upstream {
        let routes = self.services.routes_gone();
        self.services.names += 1;
        let (mut put, mut gone) = self.next_swap();
        put.push(self.services.listener());
        gone.extend(routes);
        self.commit(&format!("name {}", self.services.names), put, gone);
        self.swapped()
    }

    /// `front` has another filter; the old one is gone.
    pub fn replace_filter(&mut self) {
        let gone = self.services.filter_gone();
        self.services.filters += 1;
        let put = vec![self.services.filter(), self.services.listener()];
        self.commit(&format!("filter {}", self.services.filters), put, gone);
    }

    /// Two services exchange clusters. Returns the upstream of `/exchanged`.
    pub fn exchange_clusters(&mut self) -> &Upstream {
        self.services.exchanges += 1;
        let put = vec![self.services.front_routes(), self.services.side_routes()];
        self.commit(&format!("exchange {}", self.services.exchanges), put, Gone::new());
        self.services.exchanged_upstream(self.mesh.parts())
    }

    /// All endpoints of `/moved` are others. Returns the upstream.
    pub fn move_endpoints(&mut self) -> &Upstream {
        self.services.moves += 1;
        let put = vec![self.services.moved_to(self.mesh.parts())];
        self.commit(&format!("move {}", self.services.moves), put, Gone::new());
        self.services.moved_upstream(self.mesh.parts())
    }

    /// The cluster of `/touched` has another timeout, and the same endpoints. Returns the seconds.
    pub fn touch_cluster(&mut self) -> i64 {
        self.services.touches += 1;
        let put = vec![self.services.touched()];
        self.commit(&format!("touch {}", self.services.touches), put, Gone::new());
        self.services.timeout()
    }

    /// `/secure` is a step nearer to another certificate, as it should be done: the client trusts both,
    /// then the server shows the new one, then the old one is not trusted any more. Requests flow to it.
    pub fn rotate_secrets(&mut self) {
        // There is no order among secrets, so a publisher waits for the client to have one; and a
        // connection that began with the old one is still to have its handshake.
        let next = self.shaken_hands + HANDSHAKES;
        wait_quietly("there are handshakes", RECONNECT, || {
            (self.handshakes() >= next).then_some(())
        });
        let [old, new] = [0, 1].map(|turn| self.certificate(self.rotations / 3 + turn));
        let secret = match self.rotations % 3 {
            0 => new.authority_beside(old, "authority"),
            1 => new.secret("certificate"),
            _ => new.authority("authority"),
        };
        self.rotations += 1;
        let accepted = |it: &Changes| it.mesh.plane.record().accepted(&TypeUrl::SECRET);
        let before = accepted(self);
        self.commit(&format!("secret {}", self.rotations), vec![secret], Gone::new());
        wait_quietly("the secret is accepted", RECONNECT, || {
            (accepted(self) > before).then_some(())
        });
        self.shaken_hands = self.handshakes();
    }

    /// Waits until both sides of `/secure` use the newest certificate, and there are handshakes with it.
    pub fn shows_its_certificate(&self) {
        assert_eq!(self.rotations % 3, 0, "there is no other certificate about");
        let name = format!("\"dns\": \"{}\"", self.certificate(self.rotations / 3).name());
        wait_until("both sides use the certificate", PATIENCE, || {
            (self.mesh.envoy.admin("/certs").matches(&name).count() == 2).then_some(())
        });
        let next = self.handshakes() + HANDSHAKES;
        wait_until("there are handshakes", PATIENCE, || (self.handshakes() >= next).then_some(()));
    }

    fn certificate(&self, turn: usize) -> &Certificate {
        &self.certificates[turn % self.certificates.len()]
    }

    fn handshakes(&self) -> u64 {
        self.mesh.envoy.stat("cluster.secure.ssl.handshake")
    }

    /// The server is killed while `/swapped` gets another cluster, after so many responses, and comes back.
    ///
    /// It may have kept what it removed of late, or know only what there is now. In delta, the client says
    /// what it has, which can be held; in State of the World, a server cannot tell it to keep what it
    /// does not have itself.
    pub fn restart(&mut self, responses: usize, keeps: bool) {
        let before = self.content();
        let (put, gone) = self.next_swap();
        let start = self.mesh.plane.record().responses();
        let words = format!("cluster {}, then a restart", self.services.swaps);
        self.commit(&words, put.clone(), gone.clone());
        let record = self.mesh.plane.record();
        let said = || {
            let said = record.responses() - start;
            // There may be fewer, and none where nobody listens.
            let all = record.open() == 0 || (said > 0 && record.is_settled());
            (said >= responses || all).then_some(())
        };
        wait_quietly("a part of the change is told", RECONNECT, said);
        if keeps || self.mesh.mode.variant == Variant::Sotw {
            self.removed.retain(|(at, _)| at.elapsed() < 2 * DRAIN);
            let now = |it: &Resource| {
                self.content.contains_key(&(it.type_url().clone(), it.name().clone()))
            };
            let removed = self.removed.iter().map(|(_, gone)| gone).filter(|gone| !now(gone));
            let removed: Vec<_> = removed.cloned().collect();
            let key = |it: &Resource| (it.type_url().clone(), it.name().to_string());
            let gone = removed.iter().map(key).chain(gone).collect();
            // As a source does that keeps them: what is gone was there, and then is not.
            self.mesh.plane.kill([before, removed].concat());
            self.mesh.plane.change(put, borrowed(&gone));
        } else {
            self.mesh.plane.kill(self.content());
        }
        self.journal.push((Instant::now(), "killed".into()));
        self.mesh.plane.resume();
        self.journal.push((Instant::now(), "back".into()));
    }

    /// The listener `simple` has routes in it, which lead to another cluster; the old one is gone. Returns
    /// the upstream.
    pub fn swap_inline(&mut self) -> &Upstream {
        self.swap_simple(|port, cluster| inline_listener("simple", port, &[("/", cluster)]))
    }

    /// The listener `simple` passes connections on to another cluster; the old one is gone. Returns the
    /// upstream.
    pub fn swap_tcp(&mut self) -> &Upstream {
        self.swap_simple(|port, cluster| tcp_listener("simple", port, cluster))
    }

    fn swap_simple(&mut self, listener: fn(u16, &str) -> Resource) -> &Upstream {
        let name = |swaps| format!("simple-{swaps}");
        let mut gone = Gone::new();
        if self.simple_swaps > 0 {
            gone.push((TypeUrl::CLUSTER, name(self.simple_swaps)));
            gone.push((TypeUrl::ENDPOINT, name(self.simple_swaps)));
        }
        self.simple_swaps += 1;
        let name = name(self.simple_swaps);
        let put = vec![
            cluster(self.mesh.mode, &name, 5),
            endpoints(&name, alternate(self.mesh.parts(), self.simple_swaps).port()),
            listener(self.simple.port(), &name),
        ];
        self.commit(&name, put, gone);
        alternate(self.mesh.parts(), self.simple_swaps)
    }

    fn next_swap(&mut self) -> (Vec<Resource>, Gone) {
        let gone = self.services.swapped_gone();
        self.services.swaps += 1;
        let mut put = vec![self.services.front_routes(), self.services.side_routes()];
        put.extend(self.services.swapped(self.mesh.parts()));
        (put, gone)
    }

    fn commit(&mut self, words: &str, put: Vec<Resource>, gone: Gone) {
        for resource in &put {
            let key = (resource.type_url().clone(), resource.name().clone());
            self.content.insert(key, resource.clone());
        }
        for (type_url, name) in &gone {
            let gone = self.content.remove(&(type_url.clone(), name.as_str().into()));
            self.removed.extend(gone.map(|gone| (Instant::now(), gone)));
        }
        self.journal.push((Instant::now(), words.to_owned()));
        self.mesh.plane.change(put, borrowed(&gone));
    }

    /// Thousands of requests in a second to `front`.
    pub fn load(&self, paths: &'static [&'static str]) -> Load {
        Load::start(Plan::constant(self.mesh.ports.front.port(), paths))
    }

    /// Hundreds of requests at a time to `side`, where answers take long. The first have come.
    pub fn slow_load(&self) -> Load {
        let load = Load::start(Plan::waiting(self.mesh.ports.side.port(), &[SLOW]));
        load.reaches(SLOW, self.swapped());
        load
    }

    /// Stops all load. No request failed, and there were enough in a second.
    pub fn end_well(&self, loads: impl IntoIterator<Item = Load>) {
        let (mode, changes) = (self.mesh.mode.name(), self.journal.len());
        let outcomes: Vec<_> = loads.into_iter().map(Load::stop).collect();
        for outcome in &outcomes {
            println!("{mode}: {changes} changes: {outcome}{}", self.blame(outcome));
        }
        outcomes.iter().for_each(Outcome::check);
    }

    /// What happened last before requests failed.
    fn blame(&self, outcome: &Outcome) -> String {
        let mut text = String::new();
        let mut blamed: Vec<_> = outcome.failures.iter().map(|failure| failure.at).collect();
        blamed.dedup_by_key(|at| self.journal.partition_point(|(change, _)| change <= at));
        for at in blamed.iter().take(TOLD) {
            let change = self.journal.iter().rfind(|(change, _)| change <= at);
            let Some((change, words)) = change else { continue };
            let [later, start] = [at.duration_since(*change), change.duration_since(outcome.start)];
            // Writing to a string does not fail.
            let _ = write!(text, "\n  {later:.3?} after {words}, which was at {start:.3?}");
        }
        if let Some(&first) = blamed.first() {
            let (from, to) = (first - BEFORE, first + AFTER);
            let _ = write!(text, "\n  from {BEFORE:?} before the first:");
            text.push_str(&self.mesh.plane.story(from, to));
        }
        text
    }
}

fn borrowed(gone: &Gone) -> Vec<(TypeUrl, &str)> {
    gone.iter().map(|(type_url, name)| (type_url.clone(), name.as_str())).collect()
}
