//! From services to Envoy's messages, paying for what changed only.
//!
//! A [`Fleet`] knows the services of one scope. Given the rows that changed, it
//! answers with the messages that differ. What a message is made of is compared
//! before the message is built, so one changed upstream port among a thousand
//! services builds one message.
//!
//! The result depends on the services alone, not on how they came about: ties
//! are settled by the lower id.

pub mod message;
pub(crate) mod route_message;
pub mod validate;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::certificates::Secret;
use crate::fleets::Source;
use crate::routes::Route;
use crate::service::upstream::Upstream;
use crate::service::{FieldError, Protocol, Service};
use crate::translate::message::{ClusterInputs, EndpointInputs, ListenerInputs, Message};
use crate::translate::route_message::RouteInputs;

/// The name of a message that is no longer wanted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(clippy::exhaustive_enums)] // as `Message`
pub enum Removal {
    /// A cluster.
    Cluster(String),
    /// The endpoints of a cluster.
    Endpoints(String),
    /// A listener.
    Listener(String),
    /// A route configuration.
    Routes(String),
    /// A certificate.
    Secret(String),
}

/// A service or route that requests do not get to, because of one that goes before.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Conflict {
    /// The service or route.
    pub name: String,
    /// What it wants and cannot have.
    pub error: FieldError,
}

/// What a change of rows means to Envoy.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Difference {
    /// How many rows were looked at.
    pub rows: usize,
    /// Messages that are new or different: each was built just now.
    pub upserts: Vec<Message>,
    /// Messages that go; none of them is in `upserts`.
    pub removals: BTreeSet<Removal>,
    /// Conflicts that were not there before.
    pub conflicts: Vec<Conflict>,
}

/// What there is beside the services of a scope.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Surroundings {
    /// Where Envoys get what messages refer to.
    pub source: Source,
    /// The routes that lead to these services, by name.
    pub routes: BTreeMap<String, Route>,
    /// What listeners and clusters may name.
    pub secrets: Arc<BTreeMap<String, Secret>>,
}

/// The services of one scope and what they were translated to.
#[derive(Clone, Debug)]
pub struct Fleet {
    listener_address: IpAddr,
    surroundings: Surroundings,
    services: BTreeMap<i64, Service>,
    ports: BTreeMap<u16, Port>,
    /// Those of the surroundings that are needed.
    secrets: BTreeMap<String, Secret>,
}

#[derive(Clone, Debug, Default)]
struct Port {
    services: BTreeSet<i64>,
    plan: Option<Plan>,
    conflicts: Vec<Conflict>,
}

/// What one listener port does.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Plan {
    kind: PlanKind,
    /// The certificates that it shows: without one, it is open.
    certificates: BTreeSet<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum PlanKind {
    Tcp { cluster: String },
    Http { hosts: BTreeMap<String, Vec<RouteInputs>> },
}

impl Fleet {
    /// An empty fleet whose listeners will bind to this address.
    pub fn new(listener_address: IpAddr) -> Fleet {
        Fleet {
            listener_address,
            surroundings: Surroundings::default(),
            services: BTreeMap::new(),
            ports: BTreeMap::new(),
            secrets: BTreeMap::new(),
        }
    }

    /// Takes over what is beside the services.
    #[must_use]
    pub fn surround(&mut self, surroundings: Surroundings) -> Difference {
        let mut difference = Difference::default();
        let source = surroundings.source;
        let old_source = self.surroundings.source;
        let old = std::mem::replace(&mut self.surroundings, surroundings);
        self.surroundings.source = old_source;
        for port in changed_ports(&old.routes, &self.surroundings.routes) {
            self.replan(port, &mut difference);
        }
        if source != old_source {
            self.surroundings.source = source;
            self.rebuild(&mut difference);
        }
        self.need_secrets(&mut difference);
        difference.settle()
    }

    /// Builds anew whatever says where Envoys get something.
    fn rebuild(&mut self, difference: &mut Difference) {
        let source = self.surroundings.source;
        let clusters = self.services.values().map(cluster_inputs);
        difference.upserts.extend(clusters.map(|inputs| message::cluster(inputs, source)));
        for number in self.ports.keys().copied().collect::<Vec<_>>() {
            self.ports.entry(number).or_default().plan = None;
            self.replan(number, difference);
        }
    }

    /// The service of this id, if it is served.
    pub(crate) fn service(&self, id: i64) -> Option<&Service> {
        self.services.get(&id)
    }

    /// Takes over changed rows, each id with its service or, if it has left or
    /// is not valid, with nothing. One that is not active is as one that left.
    #[must_use]
    pub fn apply(
        &mut self,
        changes: impl IntoIterator<Item = (i64, Option<Service>)>,
    ) -> Difference {
        let mut difference = Difference::default();
        let mut ports = BTreeSet::new();
        let mut needs_secrets = false;
        for (id, new) in changes {
            difference.rows += 1;
            let new = new.filter(|service| service.is_active);
            let old = self.services.remove(&id);
            difference.upstream(self.surroundings.source, old.as_ref(), new.as_ref());
            if old.as_ref().map(routing) != new.as_ref().map(routing) {
                for port in old.iter().chain(&new).map(|service| service.listener_port) {
                    ports.insert(port);
                    self.ports.entry(port).or_default().services.remove(&id);
                }
            }
            if old.as_ref().map(|old| &old.name) != new.as_ref().map(|new| &new.name) {
                // A route may lead there, or have led there.
                ports.extend(self.surroundings.routes.values().map(Route::port));
            }
            needs_secrets |=
                old.iter().chain(&new).any(|service| service.certificates().next().is_some());
            if let Some(service) = new {
                let port = self.ports.entry(service.listener_port).or_default();
                port.services.insert(id);
                self.services.insert(id, service);
            }
        }
        for port in ports {
            self.replan(port, &mut difference);
        }
        if needs_secrets {
            self.need_secrets(&mut difference);
        }
        difference.settle()
    }

    /// All that a service is in, built anew.
    pub(crate) fn messages_of(&self, id: i64) -> Vec<Message> {
        let Some(service) = self.services.get(&id) else { return Vec::new() };
        let mut built = Difference::default();
        built.upstream(self.surroundings.source, None, Some(service));
        let number = service.listener_port;
        let plan = self.ports.get(&number).and_then(|port| port.plan.as_ref());
        let how = (self.listener_address, self.surroundings.source);
        built.listener(how, number, None, plan);
        built.routes(number, None, plan);
        built.upserts
    }

    /// Works out anew what a port does, and builds what differs.
    fn replan(&mut self, number: u16, difference: &mut Difference) {
        let mut port = self.ports.remove(&number).unwrap_or_default();
        let services = port.services.iter().filter_map(|id| self.services.get(id));
        let here = |(_, route): &(&String, &Route)| route.port() == number && route.is_active;
        let routes: Vec<_> = self.surroundings.routes.iter().filter(here).collect();
        let names = self.services.values().map(|service| &*service.name);
        let names = if routes.is_empty() { BTreeSet::new() } else { names.collect() };
        let (plan, conflicts) = plan(services, &routes, &names);
        let how = (self.listener_address, self.surroundings.source);
        difference.listener(how, number, port.plan.as_ref(), plan.as_ref());
        difference.routes(number, port.plan.as_ref(), plan.as_ref());
        let known = |conflict: &&Conflict| !port.conflicts.contains(conflict);
        difference.conflicts.extend(conflicts.iter().filter(known).cloned());
        if plan.is_some() || !port.services.is_empty() {
            port.plan = plan;
            port.conflicts = conflicts;
            self.ports.insert(number, port);
        }
    }

    /// Brings the secrets that services name, as they are now, and takes away those
    /// that none names.
    fn need_secrets(&mut self, difference: &mut Difference) {
        let needed = self.services.values().flat_map(Service::certificates);
        let mut needed: BTreeMap<String, Secret> = needed
            .filter_map(|name| {
                let secret = self.surroundings.secrets.get(name)?;
                Some((name.clone(), secret.clone()))
            })
            .collect();
        for (name, secret) in &needed {
            if self.secrets.get(name) != Some(secret) {
                difference.upserts.push(message::secret(name, secret));
            }
        }
        std::mem::swap(&mut self.secrets, &mut needed);
        let gone = needed.into_keys().filter(|name| !self.secrets.contains_key(name));
        difference.removals.extend(gone.map(Removal::Secret));
    }
}

/// The ports at which routes differ.
fn changed_ports(old: &BTreeMap<String, Route>, new: &BTreeMap<String, Route>) -> BTreeSet<u16> {
    let differs = |name: &&String| old.get(*name) != new.get(*name);
    let names = old.keys().chain(new.keys()).filter(differs);
    names.flat_map(|name| old.get(name).into_iter().chain(new.get(name))).map(Route::port).collect()
}

impl Difference {
    fn upstream(&mut self, source: Source, old: Option<&Service>, new: Option<&Service>) {
        let (before, after) = (old.map(cluster_inputs), new.map(cluster_inputs));
        if before != after {
            self.upserts.extend(after.map(|inputs| message::cluster(inputs, source)));
            self.removals.extend(before.map(|inputs| Removal::Cluster(inputs.name.to_owned())));
        }
        let (before, after) = (old.and_then(endpoint_inputs), new.and_then(endpoint_inputs));
        if before != after {
            self.upserts.extend(after.map(message::endpoints));
            self.removals.extend(before.map(|inputs| Removal::Endpoints(inputs.name.to_owned())));
        }
    }

    fn listener(
        &mut self,
        (address, source): (IpAddr, Source),
        port: u16,
        old: Option<&Plan>,
        new: Option<&Plan>,
    ) {
        let Some(new) = new else {
            let gone = old.map(|_| Removal::Listener(message::listener_name(port)));
            self.removals.extend(gone);
            return;
        };
        if old.is_some_and(|old| old.is_same_listener(new)) {
            return;
        }
        let tls = ListenerInputs { address, port, source, certificates: &new.certificates };
        self.upserts.push(match &new.kind {
            PlanKind::Http { .. } => message::http_listener(tls),
            PlanKind::Tcp { cluster } => message::tcp_listener(tls, cluster),
        });
    }

    fn routes(&mut self, port: u16, old: Option<&Plan>, new: Option<&Plan>) {
        let (old, new) = (old.and_then(Plan::hosts), new.and_then(Plan::hosts));
        match (old, new) {
            (_, Some(hosts)) if old != new => self.upserts.push(message::routes(port, hosts)),
            (Some(_), None) => {
                self.removals.insert(Removal::Routes(message::routes_name(port)));
            }
            _ => {}
        }
    }

    /// Whether it changes nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.upserts.is_empty() && self.removals.is_empty()
    }

    /// What comes after this one, which may take back what it says.
    pub(crate) fn follow(&mut self, later: Difference) {
        self.rows += later.rows;
        self.upserts.extend(later.upserts);
        // A later message brings back what an earlier removal took.
        let settled = std::mem::take(self).settle();
        *self = settled;
        self.removals.extend(later.removals);
        self.conflicts.extend(later.conflicts);
    }

    /// A name that one service gave up and another took is not removed; of what was
    /// built more than once, the last counts.
    fn settle(mut self) -> Difference {
        let mut built = BTreeSet::new();
        self.upserts.reverse();
        self.upserts.retain(|message| built.insert(removal(message)));
        self.upserts.reverse();
        self.removals.retain(|removal| !built.contains(removal));
        self
    }
}

/// What would take a message away.
fn removal(message: &Message) -> Removal {
    match message {
        Message::Cluster(cluster) => Removal::Cluster(cluster.name.clone()),
        Message::Endpoints(endpoints) => Removal::Endpoints(endpoints.cluster_name.clone()),
        Message::Listener(listener) => Removal::Listener(listener.name.clone()),
        Message::Routes(routes) => Removal::Routes(routes.name.clone()),
        Message::Secret(secret) => Removal::Secret(secret.name.clone()),
    }
}

impl Plan {
    fn hosts(&self) -> Option<&BTreeMap<String, Vec<RouteInputs>>> {
        match &self.kind {
            PlanKind::Http { hosts } => Some(hosts),
            PlanKind::Tcp { .. } => None,
        }
    }

    /// The routes of HTTP are no part of its listener.
    fn is_same_listener(&self, other: &Plan) -> bool {
        let is_same_kind = match (&self.kind, &other.kind) {
            (PlanKind::Http { .. }, PlanKind::Http { .. }) => true,
            (PlanKind::Tcp { cluster }, PlanKind::Tcp { cluster: other }) => cluster == other,
            _ => false,
        };
        is_same_kind && self.certificates == other.certificates
    }
}

fn cluster_inputs(service: &Service) -> ClusterInputs<'_> {
    let Upstream { endpoints, connect_timeout_ms, health_check, http2, tls } = &service.upstream;
    ClusterInputs {
        name: &service.name,
        resolved: (!service.upstream.is_addresses()).then_some(endpoints),
        connect_timeout_ms: *connect_timeout_ms,
        health_check: health_check.as_ref(),
        http2: *http2,
        tls: tls.as_ref(),
    }
}

fn endpoint_inputs(service: &Service) -> Option<EndpointInputs<'_>> {
    let endpoints = &service.upstream.endpoints;
    let inputs = EndpointInputs { name: &service.name, endpoints };
    service.upstream.is_addresses().then_some(inputs)
}

fn routing(service: &Service) -> (u16, &str, &Protocol, Option<&String>) {
    let Service { listener_port, name, protocol, certificate, .. } = service;
    (*listener_port, name, protocol, certificate.as_ref())
}

/// Lays out one port. The services come by id, and whoever is first stays; routes
/// lead to those of these names.
fn plan<'a>(
    services: impl Iterator<Item = &'a Service>,
    routes: &[(&String, &Route)],
    names: &BTreeSet<&str>,
) -> (Option<Plan>, Vec<Conflict>) {
    let mut services = services.peekable();
    let mut conflicts = Vec::new();
    let first = services.peek().copied();
    if let Some(first) = first.filter(|first| first.protocol == Protocol::Tcp) {
        services.next();
        conflicts.extend(services.filter_map(|service| conflict(service, first)));
        conflicts.extend(routes.iter().map(|(name, _)| route_conflict(name, first)));
        let kind = PlanKind::Tcp { cluster: first.name.clone() };
        let certificates = first.certificate.iter().cloned().collect();
        return (Some(Plan { kind, certificates }), conflicts);
    }
    let mut plan = HttpPlan::default();
    plan.routes(routes, names, &mut conflicts);
    if let Some(first) = first {
        plan.services(services, first, &mut conflicts);
    }
    // Who shares several domains with one owner conflicts with it once.
    conflicts.dedup();
    (plan.finish(), conflicts)
}

#[derive(Default)]
struct HttpPlan {
    hosts: BTreeMap<String, Vec<RouteInputs>>,
    certificates: BTreeSet<String>,
}

impl HttpPlan {
    /// Of two that are for the same requests, a route goes before a service.
    fn routes(
        &mut self,
        routes: &[(&String, &Route)],
        names: &BTreeSet<&str>,
        conflicts: &mut Vec<Conflict>,
    ) {
        for (name, route) in routes {
            let Some(inputs) = RouteInputs::of_route(route, |target| names.contains(target)) else {
                let why = "none of them is there; store one, or delete the route";
                let error = FieldError::new("targets", why);
                conflicts.push(Conflict { name: (*name).clone(), error });
                continue;
            };
            for domain in route.domains() {
                self.hosts.entry(domain).or_default().push(inputs.clone());
            }
        }
    }

    fn services<'a>(
        &mut self,
        services: impl Iterator<Item = &'a Service>,
        first: &Service,
        conflicts: &mut Vec<Conflict>,
    ) {
        let mut owners: BTreeMap<(&str, &str), &Service> = BTreeMap::new();
        for service in services {
            let Protocol::Http(routing) = &service.protocol else {
                conflicts.extend(conflict(service, first));
                continue;
            };
            self.certificates.extend(service.certificate.clone());
            for domain in &routing.domains {
                let owner = owners.entry((domain, &routing.prefix)).or_insert(service);
                if owner.id != service.id {
                    conflicts.extend(conflict(service, owner));
                    continue;
                }
                let inputs = RouteInputs::of_service(&service.name, routing);
                self.hosts.entry(domain.clone()).or_default().push(inputs);
            }
        }
    }

    /// Nothing, if there is neither a service nor a route.
    fn finish(mut self) -> Option<Plan> {
        for routes in self.hosts.values_mut() {
            // The sort is stable: then routes by name, and services by id.
            routes.sort_by_key(RouteInputs::place);
        }
        let HttpPlan { hosts, certificates } = self;
        (!hosts.is_empty()).then_some(Plan { kind: PlanKind::Http { hosts }, certificates })
    }
}

fn route_conflict(name: &str, with: &Service) -> Conflict {
    let why = format!(
        "port {} belongs to the tcp service {:?}; choose another listener_port",
        with.listener_port, with.name
    );
    Conflict { name: name.to_owned(), error: FieldError::new("listener_port", why) }
}

fn conflict(service: &Service, with: &Service) -> Option<Conflict> {
    let name = service.name.clone();
    let error = service.conflict(with)?;
    Some(Conflict { name, error })
}
