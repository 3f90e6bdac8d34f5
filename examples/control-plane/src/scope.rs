//! Which fleet a client belongs to.

use deltaplane_server::envoy_types::pb::envoy::config::core::v3::Node;
use deltaplane_server::{Cache, Scope};

/// The scope of the services of a fleet.
pub fn of_cluster(cluster_id: i64) -> Scope {
    Scope::from(format!("cluster-{cluster_id}"))
}

/// Of the scopes named by `node.cluster`, by `node.id` and by `fallback`, the
/// first that was ever filled. Of none, nothing is known, and nothing is said.
pub fn choose(node: &Node, fallback: Option<&str>, cache: &Cache) -> Vec<Scope> {
    let named = [Some(node.cluster.as_str()), Some(&node.id), fallback];
    let mut scopes = named.into_iter().flatten().map(Scope::from);
    scopes.find(|scope| cache.is_known(scope)).into_iter().collect()
}
