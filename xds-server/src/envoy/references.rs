//! Which resources refer to which: read once, when a resource enters.
//!
//! The messages here are those of the Envoy API, with no more of their fields than it takes to find the
//! names: they have many, and decoding all of them costs far more than reading past them.

mod cluster;
mod filter;
mod listener;
mod matcher;
mod route;
mod transport_socket;

use deltaplane_core::{Key, TypeUrl};
use prost::Message;

use self::{
    cluster::Cluster,
    listener::Listener,
    route::{RouteConfiguration, ScopedRouteConfiguration, VirtualHost},
};

/// The resources that the encoded message `value` of this type refers to by name, sorted.
///
/// * A cluster refers to its endpoints, if it gets them by EDS, to its secrets, to the configurations of
///   its filters, and to other clusters that it is made of.
/// * A listener refers to its route configurations, to the clusters that it names without those, to its
///   secrets, and to the configurations of its filters.
/// * A scoped route refers to its route configuration, or to the clusters of one that it holds.
/// * A route configuration or virtual host refers to the clusters of its routes.
///
/// What is not to come from this server is left out: that which has a config source other than `ads` or
/// `self`, and secrets that have none, since they are in the client's bootstrap. So is what only a request
/// tells, such as a cluster in a header, and what is in configurations of other filters or plugins.
///
/// What cannot be decoded refers to nothing. Costs one pass over the parts that have names in them, and
/// nothing for other types.
///
/// ```
/// use deltaplane_server::{Key, TypeUrl, envoy};
/// use deltaplane_server::envoy_types::pb::envoy::config::route::v3::ScopedRouteConfiguration;
/// use prost::Message;
///
/// let scope = ScopedRouteConfiguration {
///     name: "scope".into(),
///     route_configuration_name: "routes".into(),
///     ..Default::default()
/// };
/// let references = envoy::references(&TypeUrl::SCOPED_ROUTE, &scope.encode_to_vec());
/// assert_eq!(references, [Key::new(TypeUrl::ROUTE, "routes")]);
/// ```
#[must_use]
pub fn references(type_url: &str, value: &[u8]) -> Vec<Key> {
    read(type_url, value).references
}

/// Whether a client may need more than what the encoded message `value` refers to before it can use it.
///
/// So it is with a cluster that is health-checked, that gets its endpoints other than by EDS, or that waits
/// for something that does not come from this server (O-12). It is also with a cluster that cannot be
/// decoded, and never with another type.
///
/// ```
/// use deltaplane_server::{TypeUrl, envoy};
/// use deltaplane_server::envoy_types::pb::envoy::config::cluster::v3::{
///     Cluster,
///     cluster::{ClusterDiscoveryType, DiscoveryType},
/// };
/// use prost::Message;
///
/// let warms_unseen = |discovery: DiscoveryType| {
///     let discovery = Some(ClusterDiscoveryType::Type(discovery as i32));
///     let cluster = Cluster { cluster_discovery_type: discovery, ..Default::default() };
///     envoy::warms_unseen(&TypeUrl::CLUSTER, &cluster.encode_to_vec())
/// };
/// assert!(warms_unseen(DiscoveryType::StrictDns));
/// assert!(!warms_unseen(DiscoveryType::Eds));
/// ```
#[must_use]
pub fn warms_unseen(type_url: &str, value: &[u8]) -> bool {
    read(type_url, value).warms_unseen
}

/// Adds what an encoded message refers to.
type Read = fn(&[u8], &mut Found);

/// The types that refer to others, each with what reads it.
const READERS: &[(TypeUrl, Read)] = &[
    (TypeUrl::CLUSTER, read_as::<Cluster>),
    (TypeUrl::LISTENER, read_as::<Listener>),
    (TypeUrl::SCOPED_ROUTE, read_as::<ScopedRouteConfiguration>),
    (TypeUrl::ROUTE, read_as::<RouteConfiguration>),
    (TypeUrl::VIRTUAL_HOST, read_as::<VirtualHost>),
];

/// Reads all that there is to find in the encoded message `value` of this type.
pub(super) fn read(type_url: &str, value: &[u8]) -> Found {
    let mut found = Found::default();
    if let Some((_, read)) = READERS.iter().find(|(known, _)| known.as_str() == type_url) {
        read(value, &mut found);
    }
    // Many routes go to one cluster.
    found.references.sort_unstable();
    found.references.dedup();
    found
}

fn read_as<M: Refers + Default>(value: &[u8], found: &mut Found) {
    M::decode(value).unwrap_or_default().refer(found);
}

/// A message that refers to resources.
trait Refers: Message {
    /// Adds what it refers to.
    fn refer(self, found: &mut Found);
}

/// What was found in a resource.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) references: Vec<Key>,
    pub(super) warms_unseen: bool,
    /// Something is to come from elsewhere, so this server does not see it arrive.
    needs_others: bool,
}

impl Found {
    /// Something that this server is to deliver, whatever its config source.
    fn add(&mut self, type_url: TypeUrl, name: String) {
        // An unset field names nothing.
        if !name.is_empty() {
            self.references.push(Key::new(type_url, name));
        }
    }

    /// Something that is to come from that source.
    fn add_from(&mut self, source: &ConfigSource, type_url: TypeUrl, name: String) {
        if source.is_this_server() {
            self.add(type_url, name);
        } else {
            self.needs_others = true;
        }
    }
}

/// `envoy.config.core.v3.ConfigSource`.
#[derive(Clone, PartialEq, Message)]
struct ConfigSource {
    #[prost(message, optional, tag = "3")]
    ads: Option<()>,
    #[prost(message, optional, tag = "5")]
    this: Option<()>,
}

impl ConfigSource {
    /// Whether what comes from there comes from the server that this source came from. What has a gRPC
    /// service of its own may, too, but on a stream of its own, so that this one knows nothing of it.
    fn is_this_server(&self) -> bool {
        self.ads.is_some() || self.this.is_some()
    }
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

impl Any {
    /// The full name of the message in it.
    fn message_name(&self) -> &str {
        self.type_url.rsplit_once('/').map_or(&self.type_url, |(_, name)| name)
    }

    /// The message in it. One that cannot be decoded is as good as empty.
    fn decode<M: Message + Default>(&self) -> M {
        M::decode(&*self.value).unwrap_or_default()
    }

    /// Adds what the message in it refers to.
    fn refer<M: Refers + Default>(&self, found: &mut Found) {
        read_as::<M>(&self.value, found);
    }
}

/// `envoy.config.core.v3.TypedExtensionConfig`, and what is like it.
#[derive(Clone, PartialEq, Message)]
struct TypedExtensionConfig {
    #[prost(message, optional, tag = "2")]
    typed_config: Option<Any>,
}

/// Any message that has nothing but a name to look for, in its first field.
#[derive(Clone, PartialEq, Message)]
struct Named {
    #[prost(string, tag = "1")]
    name: String,
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::{
        envoy::config::core::v3::{
            AggregatedConfigSource, ApiConfigSource, ConfigSource, ExtensionConfigSource,
            PathConfigSource, SelfConfigSource, config_source::ConfigSourceSpecifier,
        },
        google::protobuf::Any,
    };
    use prost::Name;

    use super::*;

    /// What a message refers to.
    pub(super) fn of<M: Message + Name>(message: &M) -> Vec<Key> {
        references(&TypeUrl::of::<M>(), &message.encode_to_vec())
    }

    /// The keys of one type.
    pub(super) fn keys<const N: usize>(type_url: &TypeUrl, names: [&str; N]) -> Vec<Key> {
        names.map(|name| Key::new(type_url.clone(), name)).to_vec()
    }

    pub(super) fn pack<M: Message + Name>(message: &M) -> Any {
        Any { type_url: M::type_url(), value: message.encode_to_vec() }
    }

    fn source(specifier: ConfigSourceSpecifier) -> ConfigSource {
        ConfigSource { config_source_specifier: Some(specifier), ..ConfigSource::default() }
    }

    pub(super) fn ads() -> ConfigSource {
        source(ConfigSourceSpecifier::Ads(AggregatedConfigSource {}))
    }

    pub(super) fn file() -> ConfigSource {
        source(ConfigSourceSpecifier::PathConfigSource(PathConfigSource::default()))
    }

    /// What gets its configuration by ECDS.
    pub(super) fn ecds(source: ConfigSource) -> ExtensionConfigSource {
        ExtensionConfigSource {
            config_source: Some(source),
            type_urls: vec!["type.googleapis.com/a".into()],
            ..ExtensionConfigSource::default()
        }
    }

    #[test]
    #[expect(deprecated)]
    fn only_ads_and_self_are_this_server() {
        let is_this_server = |specifier| {
            let bytes = source(specifier).encode_to_vec();
            super::ConfigSource::decode(&*bytes).unwrap().is_this_server()
        };
        assert!(is_this_server(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})));
        assert!(is_this_server(ConfigSourceSpecifier::Self_(SelfConfigSource::default())));
        let api = ConfigSourceSpecifier::ApiConfigSource(ApiConfigSource::default());
        assert!(!is_this_server(api));
        let path = PathConfigSource::default();
        assert!(!is_this_server(ConfigSourceSpecifier::PathConfigSource(path)));
        assert!(!is_this_server(ConfigSourceSpecifier::Path("path".into())));
        assert!(!super::ConfigSource::default().is_this_server());
    }

    #[test]
    fn other_types_and_malformed_messages_refer_to_nothing() {
        // A name in its first field, and nothing else.
        let bytes = Named { name: "name".into() }.encode_to_vec();
        for type_url in [TypeUrl::ENDPOINT, TypeUrl::EXTENSION_CONFIG, TypeUrl::from("other")] {
            assert_eq!(references(&type_url, &bytes), []);
            assert!(!warms_unseen(&type_url, &bytes));
        }
        for (type_url, _) in READERS {
            let malformed = [&*bytes, &[0xff]].concat();
            assert_eq!(references(type_url, &malformed), []);
            assert_eq!(warms_unseen(type_url, &malformed), *type_url == TypeUrl::CLUSTER);
        }
    }
}
