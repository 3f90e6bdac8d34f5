//! From services to Envoy's messages, paying for what changed only.
//!
//! A [`Fleet`] knows the services of one scope. Given the rows that changed, it
//! answers with the messages that differ. What a message is made of is compared
//! before the message is built, so one changed upstream port among a thousand
//! services builds one message.
//!
//! The result depends on the services alone, not on how they came about: ties
//! are settled by the lower id.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::host::Host;
use crate::message::{self, ClusterInputs, EndpointInputs, Message, RouteInputs};
use crate::service::{FieldError, Protocol, Service};

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
}

/// A service that is not routed to, because of one with a lower id.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Conflict {
    /// The service.
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

/// The services of one scope and what they were translated to.
#[derive(Clone, Debug)]
pub struct Fleet {
    listener_address: IpAddr,
    services: BTreeMap<i64, Service>,
    ports: BTreeMap<u16, Port>,
}

#[derive(Clone, Debug, Default)]
struct Port {
    services: BTreeSet<i64>,
    plan: Option<Plan>,
    conflicts: Vec<Conflict>,
}

/// What one listener port does.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Plan {
    Tcp { cluster: String },
    Http { hosts: BTreeMap<String, Vec<RouteInputs>> },
}

impl Fleet {
    /// An empty fleet whose listeners will bind to this address.
    pub fn new(listener_address: IpAddr) -> Fleet {
        Fleet { listener_address, services: BTreeMap::new(), ports: BTreeMap::new() }
    }

    /// Takes over changed rows, each id with its service or, if it has left or
    /// is not valid, with nothing.
    #[must_use]
    pub fn apply(
        &mut self,
        changes: impl IntoIterator<Item = (i64, Option<Service>)>,
    ) -> Difference {
        let mut difference = Difference::default();
        let mut ports = BTreeSet::new();
        for (id, new) in changes {
            difference.rows += 1;
            let old = self.services.remove(&id);
            difference.upstream(old.as_ref(), new.as_ref());
            if old.as_ref().map(routing) != new.as_ref().map(routing) {
                for port in old.iter().chain(&new).map(|service| service.listener_port) {
                    ports.insert(port);
                    self.ports.entry(port).or_default().services.remove(&id);
                }
            }
            if let Some(service) = new {
                let port = self.ports.entry(service.listener_port).or_default();
                port.services.insert(id);
                self.services.insert(id, service);
            }
        }
        for port in ports {
            self.replan(port, &mut difference);
        }
        difference.settle()
    }

    /// Works out anew what a port does, and builds what differs.
    fn replan(&mut self, number: u16, difference: &mut Difference) {
        let mut port = self.ports.remove(&number).unwrap_or_default();
        let services = port.services.iter().filter_map(|id| self.services.get(id));
        let (plan, conflicts) = plan(services);
        difference.listener(self.listener_address, number, port.plan.as_ref(), plan.as_ref());
        difference.routes(number, port.plan.as_ref(), plan.as_ref());
        let known = |conflict: &&Conflict| !port.conflicts.contains(conflict);
        difference.conflicts.extend(conflicts.iter().filter(known).cloned());
        if plan.is_some() {
            port.plan = plan;
            port.conflicts = conflicts;
            self.ports.insert(number, port);
        }
    }
}

impl Difference {
    fn upstream(&mut self, old: Option<&Service>, new: Option<&Service>) {
        let (before, after) = (old.map(cluster_inputs), new.map(cluster_inputs));
        if before != after {
            self.upserts.extend(after.map(message::cluster));
            self.removals.extend(before.map(|inputs| Removal::Cluster(inputs.name.to_owned())));
        }
        let (before, after) = (old.and_then(endpoint_inputs), new.and_then(endpoint_inputs));
        if before != after {
            self.upserts.extend(after.map(message::endpoints));
            self.removals.extend(before.map(|inputs| Removal::Endpoints(inputs.name.to_owned())));
        }
    }

    fn listener(&mut self, address: IpAddr, port: u16, old: Option<&Plan>, new: Option<&Plan>) {
        match (old, new) {
            (Some(Plan::Http { .. }), Some(Plan::Http { .. })) => {}
            (Some(Plan::Tcp { cluster: before }), Some(Plan::Tcp { cluster: after }))
                if before == after => {}
            (_, Some(Plan::Http { .. })) => {
                self.upserts.push(message::http_listener(address, port));
            }
            (_, Some(Plan::Tcp { cluster })) => {
                self.upserts.push(message::tcp_listener(address, port, cluster));
            }
            (Some(_), None) => {
                self.removals.insert(Removal::Listener(message::listener_name(port)));
            }
            (None, None) => {}
        }
    }

    fn routes(&mut self, port: u16, old: Option<&Plan>, new: Option<&Plan>) {
        match (old, new) {
            (_, Some(Plan::Http { hosts })) if old != new => {
                self.upserts.push(message::routes(port, hosts));
            }
            (Some(Plan::Http { .. }), None | Some(Plan::Tcp { .. })) => {
                self.removals.insert(Removal::Routes(message::routes_name(port)));
            }
            _ => {}
        }
    }

    /// A name that one service gave up and another took is not removed.
    fn settle(mut self) -> Difference {
        for message in &self.upserts {
            self.removals.remove(&match message {
                Message::Cluster(cluster) => Removal::Cluster(cluster.name.clone()),
                Message::Endpoints(endpoints) => Removal::Endpoints(endpoints.cluster_name.clone()),
                Message::Listener(listener) => Removal::Listener(listener.name.clone()),
                Message::Routes(routes) => Removal::Routes(routes.name.clone()),
            });
        }
        self
    }
}

fn cluster_inputs(service: &Service) -> ClusterInputs<'_> {
    let host = match &service.upstream {
        Host::Ip(_) => None,
        Host::Name(name) => Some((name.as_str(), service.upstream_port)),
    };
    ClusterInputs {
        name: &service.name,
        host,
        health_check_path: service.health_check_path.as_deref(),
    }
}

fn endpoint_inputs(service: &Service) -> Option<EndpointInputs<'_>> {
    match service.upstream {
        Host::Ip(ip) => {
            Some(EndpointInputs { name: &service.name, ip, port: service.upstream_port })
        }
        Host::Name(_) => None,
    }
}

fn routing(service: &Service) -> (u16, &str, &Protocol) {
    (service.listener_port, &service.name, &service.protocol)
}

/// Lays out one port. The services come by id, and whoever is first stays.
fn plan<'a>(services: impl Iterator<Item = &'a Service>) -> (Option<Plan>, Vec<Conflict>) {
    let mut services = services.peekable();
    let mut conflicts = Vec::new();
    let Some(first) = services.peek().copied() else {
        return (None, conflicts);
    };
    let plan = if first.protocol == Protocol::Tcp {
        services.next();
        let cluster = first.name.clone();
        conflicts.extend(services.filter_map(|service| conflict(service, first)));
        Plan::Tcp { cluster }
    } else {
        http_plan(services, first, &mut conflicts)
    };
    (Some(plan), conflicts)
}

fn http_plan<'a>(
    services: impl Iterator<Item = &'a Service>,
    first: &Service,
    conflicts: &mut Vec<Conflict>,
) -> Plan {
    let mut owners: BTreeMap<(&str, &str), &Service> = BTreeMap::new();
    let mut hosts: BTreeMap<String, Vec<RouteInputs>> = BTreeMap::new();
    for service in services {
        let Protocol::Http { domains, prefix } = &service.protocol else {
            conflicts.extend(conflict(service, first));
            continue;
        };
        for domain in domains {
            let owner = owners.entry((domain, prefix)).or_insert(service);
            if owner.id != service.id {
                conflicts.extend(conflict(service, owner));
                continue;
            }
            hosts
                .entry(domain.clone())
                .or_default()
                .push(RouteInputs { prefix: prefix.clone(), cluster: service.name.clone() });
        }
    }
    for routes in hosts.values_mut() {
        // Envoy takes the first that fits. The sort is stable: then by id.
        routes.sort_by_key(|route| Reverse(route.prefix.len()));
    }
    // Who shares several domains with one owner conflicts with it once.
    conflicts.dedup();
    Plan::Http { hosts }
}

fn conflict(service: &Service, with: &Service) -> Option<Conflict> {
    let name = service.name.clone();
    let error = service.conflict(with)?;
    Some(Conflict { name, error })
}
