//! Resources of the Envoy API, written as JSON.

use deltaplane_server::envoy::descriptors;
use deltaplane_server::{Cache, Resource, ResourceBuilder, Transaction, TypeUrl};
use prost::Message;
use prost_reflect::DynamicMessage;
use serde_json::{Value, json};

/// A port of this machine.
pub fn address(port: u16) -> Value {
    json!({"socket_address": {"address": "127.0.0.1", "port_value": port}})
}

/// Endpoints: this port of this machine.
pub fn endpoint(port: u16) -> Value {
    json!([{"lb_endpoints": [{"endpoint": {"address": address(port)}}]}])
}

/// A resource that is still being made.
pub fn builder(type_url: TypeUrl, name: &str, json: &Value) -> ResourceBuilder<'static> {
    let descriptor = descriptors::message(&type_url).expect("it is one of the Envoy API");
    let message = DynamicMessage::deserialize(descriptor, json).expect("it is one");
    Resource::raw(type_url, name, message.encode_to_vec())
}

/// A resource.
pub fn resource(type_url: TypeUrl, name: &str, json: &Value) -> Resource {
    builder(type_url, name, json).build()
}

/// Adds and changes resources in the scope `default`, all at once.
pub fn put(cache: &Cache, resources: impl IntoIterator<Item = Resource>) {
    let mut transaction = Transaction::new();
    for resource in resources {
        transaction.upsert("default", resource);
    }
    cache.commit(transaction).expect("a test contradicts nobody");
}
