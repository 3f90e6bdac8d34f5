//! What this crate knows of the Envoy API: which fields are maps, which resources refer to which, and
//! where a resource has its name.

#[cfg(any(feature = "csds", feature = "reflection", feature = "validation"))]
pub mod descriptors;
#[cfg(feature = "csds")]
mod redact;
mod references;

use std::sync::LazyLock;

use bytes::Bytes;
use deltaplane_core::{Resource, ResourceBuilder, Schema, TypeUrl};
use envoy_types::pb::envoy::{
    config::{
        cluster::v3::Cluster as EnvoyCluster,
        core::v3::TypedExtensionConfig,
        endpoint::v3::ClusterLoadAssignment,
        listener::v3::Listener,
        route::v3::{RouteConfiguration, ScopedRouteConfiguration, VirtualHost},
    },
    extensions::transport_sockets::tls::v3::Secret,
    service::runtime::v3::Runtime,
};
use prost::{Message, Name};

#[cfg(feature = "csds")]
pub use redact::redacted;
pub use references::{references, warms_unseen};

/// A message of the Envoy API that is a resource, which has its own name in it.
pub trait EnvoyResource: Message + Name {
    /// The name by which clients subscribe to it.
    fn resource_name(&self) -> &str;
}

macro_rules! envoy_resources {
    ($($message:ty: $name:ident),* $(,)?) => {
        $(impl EnvoyResource for $message {
            fn resource_name(&self) -> &str {
                &self.$name
            }
        })*
    };
}

envoy_resources! {
    EnvoyCluster: name,
    ClusterLoadAssignment: cluster_name,
    Listener: name,
    RouteConfiguration: name,
    ScopedRouteConfiguration: name,
    VirtualHost: name,
    Secret: name,
    TypedExtensionConfig: name,
    Runtime: name,
}

/// A resource from a message of the Envoy API, encoded and hashed here, once.
///
/// ```
/// use deltaplane_server::envoy;
/// use deltaplane_server::envoy_types::pb::envoy::config::cluster::v3::Cluster;
///
/// let cluster = envoy::resource(&Cluster { name: "shop".into(), ..Default::default() });
/// assert_eq!(&**cluster.name(), "shop");
/// ```
#[must_use]
pub fn resource<M: EnvoyResource>(message: &M) -> Resource {
    raw(TypeUrl::of::<M>(), message.resource_name(), message.encode_to_vec()).build()
}

/// Starts a resource from an encoded message of the Envoy API, or of any other type, which then is
/// hashed as it is encoded. What this crate knows of the type, it applies: the schema, what the resource
/// refers to, and whether it [`warms_unseen`].
pub fn raw(
    type_url: impl Into<TypeUrl>,
    name: &str,
    value: impl Into<Bytes>,
) -> ResourceBuilder<'static> {
    let (type_url, value) = (type_url.into(), value.into());
    let found = references::read(&type_url, &value);
    Resource::raw(type_url, name, value)
        .schema(schema())
        .references(found.references)
        .warming_unseen(found.warms_unseen)
}

/// Made from the protos in the package of `envoy-types`; `tests/schema.rs` keeps it up to date.
const SCHEMA_TEXT: &str = include_str!("schema.txt");

/// The schema of the Envoy API: `envoy.*` and all that it refers to.
///
/// Hashing by it is what gives equal resources equal versions in every process, since prost encodes
/// maps in random order. Costs reading about 100 KiB of text at the first call.
#[must_use]
pub fn schema() -> &'static Schema {
    // A test proves that the text is a schema. A server would rather hash as encoded than panic.
    static SCHEMA: LazyLock<Schema> =
        LazyLock::new(|| Schema::parse(SCHEMA_TEXT).unwrap_or_default());
    &SCHEMA
}

#[cfg(test)]
mod tests {
    use deltaplane_core::Key;

    use super::*;

    #[test]
    fn the_text_is_a_schema() {
        Schema::parse(SCHEMA_TEXT).unwrap();
    }

    #[test]
    fn what_is_known_of_a_type_is_applied_to_its_resources() {
        let cluster = EnvoyCluster { name: "cluster".into(), ..EnvoyCluster::default() };
        let bytes = cluster.encode_to_vec();
        // A cluster without a type is `STATIC`.
        assert!(resource(&cluster).warms_unseen());
        assert!(!raw(TypeUrl::LISTENER, "listener", bytes).build().warms_unseen());
        let scope = ScopedRouteConfiguration {
            name: "scope".into(),
            route_configuration_name: "routes".into(),
            ..ScopedRouteConfiguration::default()
        };
        assert_eq!(resource(&scope).references(), [Key::new(TypeUrl::ROUTE, "routes")]);
    }
}
