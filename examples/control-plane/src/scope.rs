//! Which fleet a client belongs to.

use deltaplane_server::envoy_types::pb::envoy::config::core::v3::Node;
use deltaplane_server::{Cache, Scope};

/// What the names of raw layers begin with.
const RAW: &str = "raw/";

/// The scope of the services of a fleet.
pub fn of_cluster(cluster_id: i64) -> Scope {
    Scope::from(format!("cluster-{cluster_id}"))
}

/// The layer of the raw resources of a scope.
pub fn of_raw(scope: &str) -> Scope {
    Scope::from(format!("{RAW}{scope}"))
}

/// Of the scopes named by `node.cluster`, by `node.id` and by `fallback`, the
/// first that was ever filled, by services or by a transaction: its raw
/// resources over what its services become. Of none, nothing is known, and
/// nothing is said.
pub fn choose(node: &Node, fallback: Option<&str>, cache: &Cache) -> Vec<Scope> {
    let named = [Some(node.cluster.as_str()), Some(&node.id), fallback];
    let mut views = named.into_iter().flatten().map(layers);
    let known = |layers: &Vec<Scope>| layers.iter().any(|layer| cache.is_known(layer));
    views.find(known).unwrap_or_default()
}

/// The layer that is not filled yet stands there already: when it is, a client
/// that sees it need not move.
fn layers(name: &str) -> Vec<Scope> {
    // A raw layer is nobody's scope, or one could be seen without the other.
    let services = (!name.starts_with(RAW)).then(|| Scope::from(name));
    std::iter::once(of_raw(name)).chain(services).collect()
}

/// The scope whose layers these are: what people call what a client sees.
pub fn name(layers: &[Scope]) -> Option<&str> {
    let first = layers.first()?.as_str();
    Some(first.strip_prefix(RAW).unwrap_or(first))
}
