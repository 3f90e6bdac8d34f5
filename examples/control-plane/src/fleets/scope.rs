//! Which fleet a client belongs to, and what it sees.

use deltaplane_server::envoy_types::pb::envoy::config::core::v3::Node;
use deltaplane_server::{Cache, Canary, Scope};

use crate::fleets::Directory;

/// What the names of raw layers begin with.
const RAW: &str = "raw/";
/// What the names of the scopes of services begin with.
const CLUSTER: &str = "cluster-";

/// The scope of the services of a fleet.
pub fn of_cluster(cluster_id: i64) -> Scope {
    Scope::from(format!("{CLUSTER}{cluster_id}"))
}

/// Whose services a scope has, by its name.
pub(crate) fn cluster_of(scope: &str) -> Option<i64> {
    let id = scope.strip_prefix(CLUSTER)?.parse().ok()?;
    (of_cluster(id).as_str() == scope && id > 0).then_some(id)
}

/// The layer of the raw resources of a scope.
pub fn of_raw(scope: &str) -> Scope {
    Scope::from(format!("{RAW}{scope}"))
}

/// Whether no fleet can have this name.
pub(crate) fn is_reserved(scope: &str) -> bool {
    scope.starts_with(RAW) || is_of_canary(scope)
}

/// Whether this names a layer of a canary, which is for those who see what it lies over, and for nobody by its
/// name.
pub(crate) fn is_of_canary(scope: &str) -> bool {
    Canary::below(&Scope::from(scope)).is_some()
}

/// What the fleet sees that selects the node. If none does: of the scopes named by
/// `node.cluster`, by `node.id` and by `fallback`, the first that was ever filled,
/// by services or by a transaction. In each scope, its raw resources lie over what
/// its services become. Of what was never filled, nothing is known, and nothing is
/// said; nor is it to who names a canary's layer.
pub fn choose(
    node: &Node,
    fallback: Option<&str>,
    fleets: &Directory,
    cache: &Cache,
) -> Vec<Scope> {
    let known = |layers: &Vec<Scope>| layers.iter().any(|layer| cache.is_known(layer));
    if let Some(scopes) = fleets.select(node) {
        return Some(seen(&scopes)).filter(known).unwrap_or_default();
    }
    let named = [Some(node.cluster.as_str()), Some(&node.id), fallback];
    let named = named.into_iter().flatten().filter(|name| !is_of_canary(name));
    let mut views = named.map(|name| view(name, fleets));
    views.find(known).unwrap_or_default()
}

/// What is seen by who belongs to the scope, or the fleet, of this name.
pub(crate) fn view(name: &str, fleets: &Directory) -> Vec<Scope> {
    seen(&fleets.named(name))
}

fn seen(scopes: &[String]) -> Vec<Scope> {
    let mut seen = Vec::new();
    for layer in scopes.iter().flat_map(|scope| layers(scope)) {
        if !seen.contains(&layer) {
            seen.push(layer);
        }
    }
    seen
}

/// The layer that is not filled yet stands there already: when it is, a client
/// that sees it need not move.
pub(crate) fn layers(name: &str) -> Vec<Scope> {
    // A raw layer is nobody's scope, or one could be seen without the other.
    let services = (!name.starts_with(RAW)).then(|| Scope::from(name));
    std::iter::once(of_raw(name)).chain(services).collect()
}

/// The scopes whose layers these are, the first over the others.
pub(crate) fn names(layers: &[Scope]) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for name in layers.chunks(1).filter_map(name) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// The scope whose layers these are: what people call what a client sees.
pub fn name(layers: &[Scope]) -> Option<&str> {
    // Those of canaries lie over those that people have names for.
    let first = layers.iter().find(|layer| Canary::below(layer).is_none())?.as_str();
    Some(first.strip_prefix(RAW).unwrap_or(first))
}
