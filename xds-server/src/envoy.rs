//! What this crate knows of the Envoy API: which fields are maps, which resources refer to which, and
//! where a resource has its name.

use std::sync::LazyLock;

use bytes::Bytes;
use deltaplane_core::{Key, Resource, ResourceBuilder, Schema, TypeUrl};
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
/// use envoy_types::pb::envoy::config::cluster::v3::Cluster;
///
/// let cluster = envoy::resource(&Cluster { name: "shop".into(), ..Default::default() });
/// assert_eq!(&**cluster.name(), "shop");
/// ```
#[must_use]
pub fn resource<M: EnvoyResource>(message: &M) -> Resource {
    raw(TypeUrl::of::<M>(), message.resource_name(), message.encode_to_vec()).build()
}

/// Starts a resource from an encoded message of the Envoy API, or of any other type, which then is
/// hashed as it is encoded. What this crate knows of the type, it applies: references and schema.
pub fn raw(
    type_url: impl Into<TypeUrl>,
    name: &str,
    value: impl Into<Bytes>,
) -> ResourceBuilder<'static> {
    let (type_url, value) = (type_url.into(), value.into());
    let references = references(&type_url, &value);
    Resource::raw(type_url, name, value).schema(schema()).references(references)
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

/// The resources that the encoded message `value` of this type refers to by name.
///
/// So far a cluster refers to its endpoints, if it gets them by EDS. What cannot be decoded refers to
/// nothing. Costs one pass over the top level of the message, and nothing for other types.
#[must_use]
pub fn references(type_url: &str, value: &[u8]) -> Vec<Key> {
    if type_url != TypeUrl::CLUSTER.as_str() {
        return Vec::new();
    }
    let cluster = Cluster::decode(value).unwrap_or_default();
    cluster.endpoints().map(|name| Key::new(TypeUrl::ENDPOINT, name)).into_iter().collect()
}

/// As much of `envoy.config.cluster.v3.Cluster` as it takes to find its endpoints: the whole message
/// has some fifty fields, and decoding them costs far more than reading past them.
#[derive(Clone, PartialEq, Message)]
struct Cluster {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(int32, tag = "2")]
    discovery_type: i32,
    #[prost(message, optional, tag = "3")]
    eds: Option<EdsClusterConfig>,
}

#[derive(Clone, PartialEq, Message)]
struct EdsClusterConfig {
    #[prost(string, tag = "2")]
    service_name: String,
}

impl Cluster {
    /// The name of the `ClusterLoadAssignment` that Envoy asks for.
    fn endpoints(self) -> Option<String> {
        /// `Cluster.DiscoveryType.EDS`.
        const EDS: i32 = 3;
        if self.discovery_type != EDS {
            return None;
        }
        let service_name = self.eds.map(|eds| eds.service_name);
        Some(service_name.filter(|name| !name.is_empty()).unwrap_or(self.name))
    }
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::config::cluster::v3::{
        Cluster,
        cluster::{ClusterDiscoveryType, CustomClusterType, DiscoveryType, EdsClusterConfig},
    };

    use super::*;

    #[test]
    fn the_text_is_a_schema() {
        Schema::parse(SCHEMA_TEXT).unwrap();
    }

    fn endpoints(discovery: Option<ClusterDiscoveryType>, service_name: &str) -> Vec<Key> {
        let cluster = Cluster {
            name: "cluster".into(),
            cluster_discovery_type: discovery,
            eds_cluster_config: Some(EdsClusterConfig {
                service_name: service_name.into(),
                ..EdsClusterConfig::default()
            }),
            alt_stat_name: "another field".into(),
            ..Cluster::default()
        };
        references(&TypeUrl::of::<Cluster>(), &cluster.encode_to_vec())
    }

    #[test]
    fn only_eds_clusters_refer_to_endpoints() {
        let of = |discovery: DiscoveryType| Some(ClusterDiscoveryType::Type(discovery as i32));
        let endpoint = |name: &str| vec![Key::new(TypeUrl::ENDPOINT, name)];
        assert_eq!(endpoints(of(DiscoveryType::Eds), "service"), endpoint("service"));
        assert_eq!(endpoints(of(DiscoveryType::Eds), ""), endpoint("cluster"));
        assert_eq!(endpoints(of(DiscoveryType::Static), "service"), []);
        assert_eq!(endpoints(of(DiscoveryType::StrictDns), "service"), []);
        let custom = ClusterDiscoveryType::ClusterType(CustomClusterType::default());
        assert_eq!(endpoints(Some(custom), "service"), []);
        assert_eq!(endpoints(None, "service"), []);
    }

    #[test]
    fn other_types_and_malformed_clusters_refer_to_nothing() {
        let cluster = Cluster {
            name: "cluster".into(),
            cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds as i32)),
            ..Cluster::default()
        };
        let mut bytes = cluster.encode_to_vec();
        assert_eq!(references(&TypeUrl::LISTENER, &bytes), []);
        assert_eq!(references(&TypeUrl::CLUSTER, &bytes).len(), 1);
        bytes.push(0xff);
        assert_eq!(references(&TypeUrl::CLUSTER, &bytes), []);
    }
}
