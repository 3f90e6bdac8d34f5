//! What is stored: services as rows, and raw resources.

use deltaplane_server::TypeUrl;
use serde_json::{Value, json};

use crate::envoy::json::{address, endpoint};

/// What all that is meant to be rejected has in it somewhere, for model clients to know it by.
pub(super) const MISTAKE: &str = "mistake";

/// What Envoys say of it, and model clients.
pub(super) const WORDS: [&str; 4] = [
    "cannot create an EDS cluster without an EDS config",
    "Address already in use",
    "Only a single wildcard domain is permitted",
    "there is a mistake in ",
];

/// A raw resource's type and name.
pub(super) type Key = (TypeUrl, String);

/// What of a service changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) upstream_port: u16,
    pub(super) connect_timeout_ms: i64,
}

/// What of a service stays.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) listener_port: u16,
    /// Whether it is there when nothing is out of the ordinary.
    pub(super) is_usual: bool,
}

/// What kind of service it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// Beside others, with this prefix.
    Http(String),
    /// The same, at a host name.
    Dns(String),
    /// By itself.
    Tcp,
}

impl Slot {
    /// The service as the HTTP API takes it.
    pub(super) fn service(&self, fleet: usize, row: &Row) -> Value {
        let mut service = json!({
            "name": self.name,
            "cluster_id": fleet,
            "listener_port": self.listener_port,
            "upstream_host": "127.0.0.1",
            "upstream_port": row.upstream_port,
            "connect_timeout_ms": row.connect_timeout_ms,
            "protocol": "http",
        });
        match &self.kind {
            Kind::Http(prefix) => service["prefix"] = prefix.as_str().into(),
            Kind::Dns(prefix) => {
                service["prefix"] = prefix.as_str().into();
                service["upstream_host"] = "localhost".into();
            }
            Kind::Tcp => service["protocol"] = "tcp".into(),
        }
        service
    }
}

impl Row {
    /// What the HTTP API says of one.
    pub(super) fn of(service: &Value) -> Option<Row> {
        let upstream_port = service["upstream_port"].as_u64()?.try_into().ok()?;
        Some(Row { upstream_port, connect_timeout_ms: service["connect_timeout_ms"].as_i64()? })
    }
}

fn source() -> Value {
    json!({"ads": {}, "resource_api_version": "V3"})
}

/// A cluster whose endpoints come by its name.
pub(super) fn cluster(name: &str, timeout: usize) -> Value {
    json!({
        "name": name, "type": "EDS", "connect_timeout": format!("{timeout}s"),
        "eds_cluster_config": {"eds_config": source()},
    })
}

/// Its endpoints.
pub(super) fn endpoints(name: &str, port: u16) -> Value {
    json!({"cluster_name": name, "endpoints": endpoint(port)})
}

/// A listener whose routes come by its name.
pub(super) fn listener(name: &str, port: u16, routes: &str) -> Value {
    let filters = "type.googleapis.com/envoy.extensions.filters";
    let router = json!({"@type": format!("{filters}.http.router.v3.Router")});
    let manager = json!({
        "@type": format!("{filters}.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": name,
        "rds": {"config_source": source(), "route_config_name": routes},
        "http_filters": [{"name": "router", "typed_config": router}],
    });
    json!({
        "name": name, "address": address(port),
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    })
}

/// Routes that lead to one cluster.
pub(super) fn routes(name: &str, cluster: &str) -> Value {
    json!({"name": name, "virtual_hosts": [host("all", cluster)]})
}

fn host(name: &str, cluster: &str) -> Value {
    let route = json!({"match": {"prefix": "/"}, "route": {"cluster": cluster}});
    json!({"name": name, "domains": ["*"], "routes": [route]})
}

/// A cluster that does not say where its endpoints come from.
pub(super) fn bad_cluster(name: &str) -> Value {
    json!({"name": name, "type": "EDS", "alt_stat_name": MISTAKE, "connect_timeout": "1s"})
}

/// A listener on a port that somebody has who does not share it.
pub(super) fn bad_listener(name: &str, taken: u16, routes: &str) -> Value {
    let mut listener = listener(name, taken, routes);
    listener["stat_prefix"] = MISTAKE.into();
    listener
}

/// Routes of which two are for everything.
pub(super) fn bad_routes(name: &str, cluster: &str) -> Value {
    json!({"name": name, "virtual_hosts": [host("all", cluster), host(MISTAKE, cluster)]})
}

/// Whether an encoded resource is meant to be rejected.
pub(super) fn is_mistake(value: &[u8]) -> bool {
    value.windows(MISTAKE.len()).any(|text| text == MISTAKE.as_bytes())
}
