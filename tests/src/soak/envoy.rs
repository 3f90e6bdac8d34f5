//! The Envoys, each of which belongs to a fleet.

use std::collections::BTreeMap;

use deltaplane_server::envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use deltaplane_server::{TypeUrl, envoy};
use prost::Message;
use serde_json::Value;

use super::client::Held;
use super::gate::Gate;
use super::ledger::{hash, ports};
use super::servers::Doors;
use crate::envoy::beliefs::Beliefs;
use crate::server::{Variant, bootstrap};

/// An Envoy, and its way to a replica.
#[derive(Debug)]
pub(super) struct Proxied {
    pub(super) name: String,
    pub(super) fleet: usize,
    pub(super) gate: Gate,
    /// Where it is when nothing is out of the ordinary.
    pub(super) home: usize,
    variant: Variant,
    envoy: crate::Envoy,
}

impl Proxied {
    /// Starts one that belongs to this fleet.
    pub(super) fn start(fleet: usize, variant: Variant, doors: &Doors, home: usize) -> Proxied {
        let (name, gate) = (format!("envoy-{fleet}"), Gate::to(doors, home));
        let envoy = start(&name, fleet, variant, &gate);
        Proxied { name, fleet, gate, home, variant, envoy }
    }

    /// Ends it, and starts another one in its place.
    pub(super) fn restart(&mut self) {
        self.envoy = start(&self.name, self.fleet, self.variant, &self.gate);
    }

    /// It does nothing any more.
    pub(super) fn pause(&self) {
        self.envoy.pause();
    }

    /// It goes on.
    pub(super) fn resume(&self) {
        self.envoy.resume();
    }

    /// What it does not use as it should, by what clients of its fleet should have.
    pub(super) fn differences(&self, wanted: &Held) -> Vec<String> {
        let (beliefs, mut wrong) = (Beliefs::of(&self.envoy), Vec::new());
        let mut used: BTreeMap<(TypeUrl, &str), &Value> = BTreeMap::new();
        for (type_url, name) in beliefs.names() {
            if let Some(resource) = beliefs.get(&type_url, name) {
                used.insert((type_url, name), resource);
            }
        }
        for (key, value) in wanted {
            let (kind, name) = (key.0.message_name(), &key.1);
            match used.remove(&(key.0.clone(), &**name)) {
                None => wrong.push(format!("{kind} {name} is not used")),
                Some(used) if key.0 == TypeUrl::ENDPOINT => {
                    let assignment = ClusterLoadAssignment::decode(value.clone());
                    let wanted = ports(&assignment.unwrap_or_default());
                    if used_ports(used) != wanted {
                        wrong.push(format!("{kind} {name} is {used}, and not at {wanted:?}"));
                    }
                }
                Some(used) => {
                    let wanted = envoy::raw(key.0.clone(), name, value.clone()).build().hash();
                    if hash(key, used) != wanted {
                        wrong.push(format!(
                            "{kind} {name} is used as {used}, which is not how it should be"
                        ));
                    }
                }
            }
        }
        // Clusters by DNS have endpoints, too, which come from nowhere.
        let others = used.keys().filter(|(type_url, _)| *type_url != TypeUrl::ENDPOINT);
        wrong.extend(
            others.map(|(kind, name)| format!("{} {name} is left over", kind.message_name())),
        );
        wrong
    }
}

fn start(name: &str, fleet: usize, variant: Variant, gate: &Gate) -> crate::Envoy {
    let cluster = format!("cluster-{fleet}");
    crate::Envoy::start(&bootstrap(&[gate.address()], name, &cluster, variant, &[]))
}

/// The ports of endpoints as Envoy shows them.
fn used_ports(assignment: &Value) -> Vec<u16> {
    let list = |of: &Value, field: &str| of[field].as_array().cloned().unwrap_or_default();
    let endpoints = list(assignment, "endpoints").into_iter();
    let endpoints = endpoints.flat_map(|locality| list(&locality, "lb_endpoints"));
    let port = endpoints.filter_map(|endpoint| {
        endpoint.pointer("/endpoint/address/socket_address/port_value")?.as_u64()?.try_into().ok()
    });
    port.collect()
}
