//! Services as the HTTP API takes them.

use serde_json::{Value, json};

use crate::{Listener, Upstream};

/// An `http` service of fleet 1 for all that comes to a port.
pub fn http(name: &str, listener: &Listener, upstream: &Upstream) -> Value {
    json!({
        "name": name,
        "cluster_id": 1,
        "listener_port": listener.port(),
        "upstream_host": "127.0.0.1",
        "upstream_port": upstream.port(),
        "protocol": "http",
    })
}

/// The same service, but for these fields.
pub fn but(service: &Value, fields: &Value) -> Value {
    let mut service = service.clone();
    for (field, value) in fields.as_object().into_iter().flatten() {
        service[field] = value.clone();
    }
    service
}
