//! What writers were told is stored, and what clients should make of it.

use std::collections::BTreeMap;
use std::fmt::Debug;

use deltaplane_server::envoy_types::pb::envoy::config::cluster::v3::Cluster;
use deltaplane_server::envoy_types::pb::envoy::config::core::v3::{
    Address, address::Address as AddressKind, socket_address::PortSpecifier,
};
use deltaplane_server::envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, lb_endpoint::HostIdentifier,
};
use deltaplane_server::envoy_types::pb::envoy::config::listener::v3::Listener;
use deltaplane_server::envoy_types::pb::envoy::config::route::v3::{
    RouteConfiguration, route::Action, route_action::ClusterSpecifier, route_match::PathSpecifier,
};
use deltaplane_server::{TypeUrl, envoy};
use prost::Message;
use serde_json::Value;

use super::client::Held;
use super::content::{Key, Kind, Row, Slot};
use crate::envoy::json::builder;

/// One of these is stored. There are several if a writer got no answer.
#[derive(Debug, Clone)]
pub(super) struct Fact<T>(Vec<Option<T>>);

impl<T: Clone + PartialEq> Fact<T> {
    /// It is certain that there is none.
    pub(super) fn nothing() -> Fact<T> {
        Fact(vec![None])
    }

    /// What is stored, if that is certain.
    pub(super) fn certain(&self) -> Option<&Option<T>> {
        match self.0.as_slice() {
            [one] => Some(one),
            _ => None,
        }
    }

    /// It was written, and that was confirmed or not.
    pub(super) fn write(&mut self, value: Option<T>, is_confirmed: bool) {
        if is_confirmed {
            self.0.clear();
        }
        self.0.push(value);
    }

    /// This is stored. Whether it may be.
    pub(super) fn settle(&mut self, found: Option<T>) -> bool {
        let may_be = self.0.contains(&found);
        self.0 = vec![found];
        may_be
    }
}

/// What of a fleet is stored.
#[derive(Debug)]
pub(super) struct Ledger {
    pub(super) fleet: usize,
    pub(super) slots: Vec<Slot>,
    /// As many as there are slots.
    pub(super) rows: Vec<Fact<Row>>,
    /// Resources by protobuf's JSON.
    pub(super) resources: BTreeMap<Key, Fact<Value>>,
}

impl Ledger {
    /// Nothing is stored.
    pub(super) fn new(fleet: usize, slots: Vec<Slot>) -> Ledger {
        let rows = slots.iter().map(|_| Fact::nothing()).collect();
        Ledger { fleet, slots, rows, resources: BTreeMap::new() }
    }

    /// A raw resource, if it is certain that it is there.
    pub(super) fn resource(&self, key: &Key) -> Option<&Value> {
        self.resources.get(key)?.certain()?.as_ref()
    }

    /// Whether nobody has to ask how a raw resource is.
    pub(super) fn is_certain(&self, key: &Key) -> bool {
        self.resources.get(key).is_none_or(|fact| fact.certain().is_some())
    }

    /// A raw resource was written.
    pub(super) fn wrote(&mut self, key: Key, value: Option<Value>, is_confirmed: bool) {
        let fact = self.resources.entry(key).or_insert_with(Fact::nothing);
        fact.write(value, is_confirmed);
    }

    /// Compares with what the HTTP API says is stored, and says what of it cannot be. From then on all of it is
    /// certain.
    pub(super) fn settle(&mut self, services: &Value, resources: &Value) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut stored: BTreeMap<&str, &Value> = BTreeMap::new();
        for service in services.as_array().into_iter().flatten() {
            stored.insert(service["name"].as_str().unwrap_or_default(), service);
        }
        for (slot, fact) in self.slots.iter().zip(&mut self.rows) {
            let found = stored.remove(&*slot.name).and_then(Row::of);
            settle(fact, found, &slot.name, &mut wrong);
        }
        wrong.extend(stored.keys().map(|name| format!("{name} is stored, and nobody wrote it")));
        let mut stored: BTreeMap<Key, Value> = BTreeMap::new();
        for resource in resources.as_array().into_iter().flatten() {
            let text = |field: &str| resource[field].as_str().unwrap_or_default().to_owned();
            let key = (TypeUrl::from(text("type_url")), text("name"));
            stored.insert(key, plain(&resource["resource"]));
        }
        for (key, fact) in &mut self.resources {
            // JSON has more than one way to say a thing.
            let found = stored.remove(key).map(|found| {
                let same = fact.0.iter().flatten().find(|one| hash(key, one) == hash(key, &found));
                same.cloned().unwrap_or(found)
            });
            settle(fact, found, &key.1, &mut wrong);
        }
        wrong.extend(stored.keys().map(|key| format!("{key:?} is stored, and nobody wrote it")));
        self.resources.retain(|_, fact| fact.certain() != Some(&None));
        wrong
    }

    /// What is not as it should be of what a client of this fleet has that asks for everything.
    pub(super) fn differences(&self, held: &Held) -> Vec<String> {
        let mut wanted = self.wanted();
        let mut wrong = Vec::new();
        for (key, value) in held {
            match wanted.remove(key) {
                None => wrong.push(format!("{} {} is left over", key.0.message_name(), key.1)),
                Some(wanted) => {
                    let found = Content::of(key, value);
                    if !wanted.is_met(&found) {
                        let name = key.0.message_name();
                        wrong.push(format!("{name} {} is {found:?}, not {wanted:?}", key.1));
                    }
                }
            }
        }
        wrong.extend(
            wanted.keys().map(|(kind, name)| format!("{} {name} is missing", kind.message_name())),
        );
        wrong
    }

    fn wanted(&self) -> BTreeMap<Key, Content> {
        let mut wanted = BTreeMap::new();
        for (key, fact) in &self.resources {
            if let Some(Some(json)) = fact.certain() {
                wanted.insert(key.clone(), Content::Hash(hash(key, json)));
            }
        }
        let mut routes: BTreeMap<u16, Vec<(String, String)>> = BTreeMap::new();
        for (slot, fact) in self.slots.iter().zip(&self.rows) {
            let Some(Some(row)) = fact.certain() else { continue };
            let (name, port) = (slot.name.clone(), slot.listener_port);
            let by_dns = matches!(slot.kind, Kind::Dns(_)).then_some(row.upstream_port);
            let cluster = Content::Cluster(row.connect_timeout_ms, by_dns);
            wanted.insert((TypeUrl::CLUSTER, name.clone()), cluster);
            if by_dns.is_none() {
                let key = (TypeUrl::ENDPOINT, name.clone());
                wanted.insert(key, Content::Endpoints(vec![row.upstream_port]));
            }
            let key = (TypeUrl::LISTENER, format!("listener-{port}"));
            wanted.insert(key, Content::Listener(port));
            if let Kind::Http(prefix) | Kind::Dns(prefix) = &slot.kind {
                routes.entry(port).or_default().push((prefix.clone(), name));
            }
        }
        for (port, mut routes) in routes {
            routes.sort();
            wanted.insert((TypeUrl::ROUTE, format!("routes-{port}")), Content::Routes(routes));
        }
        wanted
    }
}

/// What is in a resource, as far as somebody chose it.
#[derive(Debug, PartialEq)]
enum Content {
    /// All of a raw resource.
    Hash(u64),
    /// How many milliseconds a connection may take, and to which port of a host name.
    Cluster(i64, Option<u16>),
    /// The ports.
    Endpoints(Vec<u16>),
    /// The port.
    Listener(u16),
    /// The prefixes, each with its cluster.
    Routes(Vec<(String, String)>),
}

/// What was found: what it is, and its hash.
#[derive(Debug)]
struct Found(Option<Content>, u64);

impl Content {
    fn of((type_url, name): &Key, value: &[u8]) -> Found {
        let hash = envoy::raw(type_url.clone(), name, value.to_vec()).build().hash();
        Found(Content::read(type_url, value), hash)
    }

    fn read(type_url: &TypeUrl, value: &[u8]) -> Option<Content> {
        if *type_url == TypeUrl::CLUSTER {
            let cluster = Cluster::decode(value).ok()?;
            let timeout = cluster.connect_timeout?;
            let ms = timeout.seconds * 1000 + i64::from(timeout.nanos / 1_000_000);
            let port = cluster.load_assignment.and_then(|it| ports(&it).first().copied());
            Some(Content::Cluster(ms, port))
        } else if *type_url == TypeUrl::ENDPOINT {
            Some(Content::Endpoints(ports(&ClusterLoadAssignment::decode(value).ok()?)))
        } else if *type_url == TypeUrl::LISTENER {
            Some(Content::Listener(port(&Listener::decode(value).ok()?.address?)?))
        } else if *type_url == TypeUrl::ROUTE {
            Some(Content::Routes(routes(RouteConfiguration::decode(value).ok()?)))
        } else {
            None
        }
    }

    fn is_met(&self, Found(content, hash): &Found) -> bool {
        match self {
            Content::Hash(wanted) => wanted == hash,
            wanted => content.as_ref() == Some(wanted),
        }
    }
}

/// The ports of all endpoints.
pub(super) fn ports(assignment: &ClusterLoadAssignment) -> Vec<u16> {
    let endpoints = assignment.endpoints.iter().flat_map(|locality| &locality.lb_endpoints);
    let port = endpoints.filter_map(|endpoint| match endpoint.host_identifier.as_ref()? {
        HostIdentifier::Endpoint(endpoint) => port(endpoint.address.as_ref()?),
        HostIdentifier::EndpointName(_) => None,
    });
    port.collect()
}

fn port(address: &Address) -> Option<u16> {
    match address.address.as_ref()? {
        AddressKind::SocketAddress(socket) => match socket.port_specifier.as_ref()? {
            PortSpecifier::PortValue(port) => u16::try_from(*port).ok(),
            PortSpecifier::NamedPort(_) => None,
        },
        _ => None,
    }
}

fn routes(config: RouteConfiguration) -> Vec<(String, String)> {
    let routes = config.virtual_hosts.into_iter().flat_map(|host| host.routes);
    let mut routes: Vec<_> = routes
        .filter_map(|route| {
            let PathSpecifier::Prefix(prefix) = route.r#match?.path_specifier? else { return None };
            let Action::Route(action) = route.action? else { return None };
            let ClusterSpecifier::Cluster(cluster) = action.cluster_specifier? else { return None };
            Some((prefix, cluster))
        })
        .collect();
    routes.sort();
    routes
}

fn settle<T: Clone + PartialEq + Debug>(
    fact: &mut Fact<T>,
    found: Option<T>,
    name: &str,
    wrong: &mut Vec<String>,
) {
    let said = format!("{:?}", fact.0);
    let shown = format!("{found:?}");
    if !fact.settle(found) {
        wrong.push(format!("{name} is stored as {shown}, and its writer was told {said}"));
    }
}

/// The hash of a resource in JSON, by which contents are compared.
pub(super) fn hash((type_url, name): &Key, json: &Value) -> u64 {
    builder(type_url.clone(), name, &plain(json)).schema(envoy::schema()).build().hash()
}

/// The message itself, of which its place says what it is.
fn plain(json: &Value) -> Value {
    let mut json = json.clone();
    if let Some(fields) = json.as_object_mut() {
        fields.remove("@type");
    }
    json
}
