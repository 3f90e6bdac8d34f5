//! Envoys that share raw resources: what is written for them, and what becomes of it.

use serde_json::{Value, json};

use crate::{Deltaplane, Envoy, Listener, Upstream, Variant};

const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";

/// An Envoy of a fleet of its own, which has a listener, and below that what all share.
#[derive(Debug)]
#[allow(missing_docs, reason = "said above")]
pub struct Member {
    pub envoy: Envoy,
    pub port: Listener,
}

impl Member {
    /// Is served by a server.
    pub fn join(server: &Deltaplane, node: &str, variant: Variant) -> Member {
        let port = Listener::reserve();
        put(server, node, &json!({"nodes": {"id": node}, "below": "shared"}));
        let router = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";
        let manager = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
        let routes = json!([{"match": {"prefix": "/"}, "route": {"cluster": "web"}}]);
        let hosts = json!([{"name": "all", "domains": ["*"], "routes": routes}]);
        let listener = json!({
            "@type": "type.googleapis.com/envoy.config.listener.v3.Listener",
            "name": "front",
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": port.port()}},
            "filter_chains": [{"filters": [{"name": "http", "typed_config": {
                "@type": manager, "stat_prefix": "front", "route_config": {"virtual_hosts": hosts},
                "http_filters": [{"name": "router", "typed_config": {"@type": router}}]}}]}],
        });
        transact(server, &json!({"scope": node, "upserts": [{"resource": listener}]}));
        let envoy = Envoy::start(&server.bootstrap(node, "shop", variant));
        Member { envoy, port }
    }

    /// How often it rejected clusters.
    pub fn rejections(&self) -> u64 {
        self.envoy.stat("cluster_manager.cds.update_rejected")
    }
}

/// Stores the row of a fleet.
///
/// # Panics
/// If it is refused.
pub fn put(server: &Deltaplane, fleet: &str, definition: &Value) {
    let path = format!("/api/v1/fleets/{fleet}");
    let answer = server.ask("PUT", &path, Some(&definition.to_string()));
    assert!(matches!(answer.status, 200 | 201), "{}", answer.body);
}

/// Stores a transaction of raw resources, and returns the answer.
///
/// # Panics
/// If it is refused.
pub fn transact(server: &Deltaplane, transaction: &Value) -> Value {
    let answer = server.ask("POST", "/api/v1/xds/transactions", Some(&transaction.to_string()));
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.json()
}

/// The cluster of which all members' listeners are.
pub fn web(upstream: &Upstream) -> Value {
    json!({"resource": {
        "@type": CLUSTER, "name": "web", "type": "STATIC", "connect_timeout": "1s",
        "load_assignment": {"cluster_name": "web", "endpoints": [{"lb_endpoints": [{"endpoint": {
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": upstream.port()}}}}]}]},
    }})
}

/// A cluster that nobody has requests for. One of the type `EDS` is rejected.
pub fn cluster(name: &str, kind: &str) -> Value {
    json!({"resource": {"@type": CLUSTER, "name": name, "type": kind, "connect_timeout": "1s"}})
}

/// What is stored in a scope, but for when it came to be so.
pub fn stored(server: &Deltaplane, scope: &str) -> Vec<(Value, Value)> {
    let path = format!("/api/v1/xds/scopes/{scope}/resources");
    let resources = server.ask("GET", &path, None).json();
    let resources = resources.as_array().into_iter().flatten();
    resources.map(|it| (it["name"].clone(), it["version"].clone())).collect()
}
