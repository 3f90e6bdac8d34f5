//! Clusters: `envoy.config.cluster.v3`.

use deltaplane_core::TypeUrl;
use prost::Message;

use super::{
    Any, ConfigSource, Found, Named, Refers, TypedExtensionConfig,
    filter::{ClusterFilter, HttpFilter},
    transport_socket::TransportSocket,
};

/// `Cluster.DiscoveryType.EDS`.
const EDS: i32 = 3;

#[derive(Clone, PartialEq, Message)]
pub(super) struct Cluster {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(int32, tag = "2")]
    discovery_type: i32,
    #[prost(message, optional, tag = "3")]
    eds: Option<EdsClusterConfig>,
    #[prost(message, repeated, tag = "8")]
    health_checks: Vec<()>,
    #[prost(message, optional, tag = "24")]
    transport_socket: Option<TransportSocket>,
    #[prost(message, repeated, tag = "36")]
    protocol_options: Vec<ProtocolOptions>,
    #[prost(message, optional, tag = "38")]
    cluster_type: Option<TypedExtensionConfig>,
    #[prost(message, repeated, tag = "40")]
    filters: Vec<ClusterFilter>,
    #[prost(message, repeated, tag = "43")]
    transport_socket_matches: Vec<TransportSocketMatch>,
}

#[derive(Clone, PartialEq, Message)]
struct EdsClusterConfig {
    #[prost(message, optional, tag = "1")]
    source: Option<ConfigSource>,
    #[prost(string, tag = "2")]
    service_name: String,
}

/// An entry of the map `typed_extension_protocol_options`.
#[derive(Clone, PartialEq, Message)]
struct ProtocolOptions {
    #[prost(message, optional, tag = "2")]
    options: Option<Any>,
}

#[derive(Clone, PartialEq, Message)]
struct TransportSocketMatch {
    #[prost(message, optional, tag = "3")]
    transport_socket: Option<TransportSocket>,
}

impl Refers for Cluster {
    fn refer(self, found: &mut Found) {
        let matches = self.transport_socket_matches.into_iter();
        let sockets = matches.filter_map(|choice| choice.transport_socket);
        sockets.chain(self.transport_socket).for_each(|socket| socket.refer(found));
        self.filters.into_iter().for_each(|filter| filter.refer(found));
        for options in self.protocol_options.into_iter().filter_map(|entry| entry.options) {
            if options.message_name() == "envoy.extensions.upstreams.http.v3.HttpProtocolOptions" {
                options.refer::<HttpProtocolOptions>(found);
            }
        }
        if let Some(config) = self.cluster_type.and_then(|custom| custom.typed_config) {
            refer_to_parts(&config, found);
        }
        let has_eds = self.discovery_type == EDS;
        if has_eds {
            refer_to_endpoints(self.name, self.eds.unwrap_or_default(), found);
        }
        let has_health_checks = !self.health_checks.is_empty();
        found.warms_unseen = !has_eds || has_health_checks || found.needs_others;
    }
}

/// The `ClusterLoadAssignment` that Envoy asks for, O-10.
fn refer_to_endpoints(cluster: String, eds: EdsClusterConfig, found: &mut Found) {
    let name = if eds.service_name.is_empty() { cluster } else { eds.service_name };
    match eds.source {
        Some(source) => found.add_from(&source, TypeUrl::ENDPOINT, name),
        // It is not said that they come from elsewhere.
        None => found.add(TypeUrl::ENDPOINT, name),
    }
}

/// The clusters that a cluster is made of.
fn refer_to_parts(config: &Any, found: &mut Found) {
    let names = match config.message_name() {
        "envoy.extensions.clusters.aggregate.v3.ClusterConfig" => {
            config.decode::<AggregateCluster>().clusters
        }
        "envoy.extensions.clusters.composite.v3.ClusterConfig" => {
            let parts = config.decode::<CompositeCluster>().clusters;
            parts.into_iter().map(|part| part.name).collect()
        }
        _ => return,
    };
    names.into_iter().for_each(|name| found.add(TypeUrl::CLUSTER, name));
}

#[derive(Clone, PartialEq, Message)]
struct AggregateCluster {
    #[prost(string, repeated, tag = "1")]
    clusters: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct CompositeCluster {
    #[prost(message, repeated, tag = "1")]
    clusters: Vec<Named>,
}

#[derive(Clone, PartialEq, Message)]
struct HttpProtocolOptions {
    #[prost(message, repeated, tag = "6")]
    http_filters: Vec<HttpFilter>,
}

impl Refers for HttpProtocolOptions {
    fn refer(self, found: &mut Found) {
        self.http_filters.into_iter().for_each(|filter| filter.refer(found));
    }
}

#[cfg(test)]
mod tests {
    use deltaplane_core::Key;
    use envoy_types::pb::envoy::{
        config::{
            cluster::v3::{
                Cluster, Filter,
                cluster::{
                    ClusterDiscoveryType, CustomClusterType, DiscoveryType, EdsClusterConfig,
                    TransportSocketMatch,
                },
            },
            core::v3::{ConfigSource, HealthCheck},
        },
        extensions::{
            clusters::{aggregate, composite},
            filters::network::http_connection_manager::v3::{HttpFilter, http_filter::ConfigType},
            upstreams::http::v3::HttpProtocolOptions,
        },
    };
    use prost::Name;

    use super::{
        super::{
            tests::{ads, ecds, file, keys, of, pack},
            transport_socket::tests::{socket, upstream},
            warms_unseen,
        },
        *,
    };

    fn cluster(discovery: Option<ClusterDiscoveryType>, service_name: &str) -> Cluster {
        Cluster {
            name: "cluster".into(),
            cluster_discovery_type: discovery,
            eds_cluster_config: Some(EdsClusterConfig {
                service_name: service_name.into(),
                eds_config: Some(ads()),
            }),
            alt_stat_name: "another field".into(),
            ..Cluster::default()
        }
    }

    fn typed(discovery: DiscoveryType) -> Option<ClusterDiscoveryType> {
        Some(ClusterDiscoveryType::Type(discovery as i32))
    }

    fn custom<M: Message + Name>(config: &M) -> Cluster {
        let typed_config = Some(pack(config));
        let custom = CustomClusterType { typed_config, ..CustomClusterType::default() };
        cluster(Some(ClusterDiscoveryType::ClusterType(custom)), "")
    }

    fn eds() -> Cluster {
        cluster(typed(DiscoveryType::Eds), "")
    }

    fn warms(cluster: &Cluster) -> bool {
        warms_unseen(&TypeUrl::CLUSTER, &cluster.encode_to_vec())
    }

    fn endpoint(name: &str) -> Vec<Key> {
        keys(&TypeUrl::ENDPOINT, [name])
    }

    #[test]
    fn o10_only_eds_clusters_refer_to_endpoints() {
        let endpoints = |discovery, service_name| of(&cluster(discovery, service_name));
        assert_eq!(endpoints(typed(DiscoveryType::Eds), "service"), endpoint("service"));
        assert_eq!(endpoints(typed(DiscoveryType::Eds), ""), endpoint("cluster"));
        assert_eq!(endpoints(typed(DiscoveryType::Static), "service"), []);
        assert_eq!(endpoints(typed(DiscoveryType::StrictDns), "service"), []);
        let custom = ClusterDiscoveryType::ClusterType(CustomClusterType::default());
        assert_eq!(endpoints(Some(custom), "service"), []);
        assert_eq!(endpoints(None, "service"), []);
    }

    #[test]
    fn endpoints_from_elsewhere_are_left_out() {
        let from = |eds_config: Option<ConfigSource>| Cluster {
            eds_cluster_config: Some(EdsClusterConfig { eds_config, ..Default::default() }),
            ..eds()
        };
        assert_eq!(of(&from(Some(file()))), []);
        assert!(warms(&from(Some(file()))));
        assert_eq!(of(&from(None)), endpoint("cluster"));
        assert!(!warms(&from(None)));
        let bare = Cluster { eds_cluster_config: None, ..eds() };
        assert_eq!(of(&bare), endpoint("cluster"));
    }

    #[test]
    fn clusters_refer_to_secrets_of_all_their_sockets() {
        let socket = |name| Some(socket(&upstream(name, Some(ads()))));
        let choice = |name| TransportSocketMatch {
            transport_socket: socket(name),
            ..TransportSocketMatch::default()
        };
        let cluster = Cluster {
            transport_socket: socket("a"),
            transport_socket_matches: vec![choice("c"), choice("b"), choice("a")],
            ..eds()
        };
        let secrets = keys(&TypeUrl::SECRET, ["a", "b", "c"]);
        assert_eq!(of(&cluster), [endpoint("cluster"), secrets].concat());
        assert!(!warms(&cluster));
    }

    #[test]
    fn clusters_refer_to_the_configurations_of_filters() {
        let discovery = Some(ecds(ads()));
        let filter = Filter { name: "tcp".into(), config_discovery: discovery, typed_config: None };
        let http = HttpFilter {
            name: "http".into(),
            config_type: Some(ConfigType::ConfigDiscovery(ecds(ads()))),
            ..HttpFilter::default()
        };
        let options = HttpProtocolOptions { http_filters: vec![http], ..Default::default() };
        let cluster = Cluster {
            filters: vec![filter],
            typed_extension_protocol_options: [("http".into(), pack(&options))].into(),
            ..eds()
        };
        let filters = keys(&TypeUrl::EXTENSION_CONFIG, ["http", "tcp"]);
        assert_eq!(of(&cluster), [filters, endpoint("cluster")].concat());
    }

    #[test]
    fn clusters_refer_to_those_that_they_are_made_of() {
        let clusters = ["b", "a", "b"];
        let aggregate =
            aggregate::v3::ClusterConfig { clusters: clusters.map(String::from).to_vec() };
        assert_eq!(of(&custom(&aggregate)), keys(&TypeUrl::CLUSTER, ["a", "b"]));
        let entry = |name: &str| composite::v3::cluster_config::ClusterEntry { name: name.into() };
        let composite = composite::v3::ClusterConfig { clusters: clusters.map(entry).to_vec() };
        assert_eq!(of(&custom(&composite)), keys(&TypeUrl::CLUSTER, ["a", "b"]));
        // Another kind, which might be decoded as the one.
        assert_eq!(of(&custom(&entry("a"))), []);
    }

    #[test]
    fn o12_what_more_than_endpoints_and_secrets_have_to_prove() {
        assert!(!warms(&eds()));
        assert!(warms(&Cluster { health_checks: vec![HealthCheck::default()], ..eds() }));
        for discovery in
            [DiscoveryType::Static, DiscoveryType::StrictDns, DiscoveryType::LogicalDns]
        {
            assert!(warms(&cluster(typed(discovery), "")));
        }
        assert!(warms(&cluster(None, "")));
        assert!(warms(&custom(&aggregate::v3::ClusterConfig::default())));
        let secret = |source| Some(socket(&upstream("secret", source)));
        assert!(warms(&Cluster { transport_socket: secret(Some(file())), ..eds() }));
        // The client has had that since its start.
        assert!(!warms(&Cluster { transport_socket: secret(None), ..eds() }));
    }
}
