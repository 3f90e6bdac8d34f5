//! What an Envoy has, read from its administration.

use std::collections::BTreeSet;

use deltaplane_server::TypeUrl;
use serde_json::Value;

use crate::Envoy;

/// Where `/config_dump` shows the resources of a type: the list, the resource in an entry of it, and its
/// name in that.
const PLACES: [(TypeUrl, &str, &str, &str); 6] = [
    (TypeUrl::CLUSTER, "dynamic_active_clusters", "/cluster", "/name"),
    (TypeUrl::ENDPOINT, "dynamic_endpoint_configs", "/endpoint_config", "/cluster_name"),
    (TypeUrl::LISTENER, "dynamic_listeners", "/active_state/listener", "/name"),
    (TypeUrl::ROUTE, "dynamic_route_configs", "/route_config", "/name"),
    (TypeUrl::SECRET, "dynamic_active_secrets", "/secret", "/name"),
    (TypeUrl::EXTENSION_CONFIG, "ecds_filters", "/ecds_filter", "/name"),
];

/// A resource that is in use.
#[derive(Debug, Clone, PartialEq)]
pub struct Belief {
    /// Its type.
    pub type_url: TypeUrl,
    /// Its name.
    pub name: String,
    /// Itself.
    pub resource: Value,
}

/// What an Envoy uses of what it got from its control plane, runtime layers apart. What it has not put
/// to use, or rejected, is not among it.
#[derive(Debug, Clone, PartialEq)]
pub struct Beliefs(Vec<Belief>);

impl Beliefs {
    /// Asks.
    pub fn of(envoy: &Envoy) -> Beliefs {
        let dump: Value = serde_json::from_str(&envoy.config_dump()).expect("Envoy writes JSON");
        let configs = dump["configs"].as_array().expect("a dump is a list");
        let mut beliefs = Vec::new();
        for (type_url, list, at, name) in &PLACES {
            let lists = configs.iter().filter_map(|config| config.get(list)?.as_array());
            for resource in lists.flatten().filter_map(|entry| entry.pointer(at)) {
                let name = resource.pointer(name).and_then(Value::as_str).unwrap_or_default();
                let (type_url, name) = (type_url.clone(), name.to_owned());
                beliefs.push(Belief { type_url, name, resource: resource.clone() });
            }
        }
        Beliefs(beliefs)
    }

    /// The types and names.
    pub fn names(&self) -> BTreeSet<(TypeUrl, &str)> {
        self.0.iter().map(|belief| (belief.type_url.clone(), &*belief.name)).collect()
    }

    /// A resource.
    pub fn get(&self, type_url: &TypeUrl, name: &str) -> Option<&Value> {
        let is_it = |belief: &&Belief| belief.type_url == *type_url && belief.name == name;
        self.0.iter().find(is_it).map(|belief| &belief.resource)
    }
}
