//! Listeners, and those of their filters that send what they accept to clusters.

use deltaplane_core::TypeUrl;
use prost::Message;

use super::{
    Any, ConfigSource, Found, Named, Refers,
    filter::{ClusterFilter, HttpFilter, ListenerFilter, NetworkFilter},
    matcher::Matcher,
    route::{RouteConfiguration, ScopedRouteConfiguration, WeightedCluster},
    transport_socket::TransportSocket,
};

#[derive(Clone, PartialEq, Message)]
pub(super) struct Listener {
    #[prost(message, repeated, tag = "3")]
    filter_chains: Vec<FilterChain>,
    #[prost(message, repeated, tag = "9")]
    listener_filters: Vec<ListenerFilter>,
    #[prost(message, optional, tag = "19")]
    api_listener: Option<ApiListener>,
    #[prost(message, optional, tag = "25")]
    default_filter_chain: Option<FilterChain>,
}

#[derive(Clone, PartialEq, Message)]
struct FilterChain {
    #[prost(message, repeated, tag = "3")]
    filters: Vec<NetworkFilter>,
    #[prost(message, optional, tag = "6")]
    transport_socket: Option<TransportSocket>,
}

#[derive(Clone, PartialEq, Message)]
struct ApiListener {
    #[prost(message, optional, tag = "1")]
    api_listener: Option<Any>,
}

impl Refers for Listener {
    fn refer(self, found: &mut Found) {
        for chain in self.filter_chains.into_iter().chain(self.default_filter_chain) {
            if let Some(socket) = chain.transport_socket {
                socket.refer(found);
            }
            for filter in chain.filters {
                refer_by_filter(filter.refer(found), found);
            }
        }
        for filter in self.listener_filters {
            refer_by_filter(filter.refer(found), found);
        }
        refer_by_filter(self.api_listener.and_then(|api| api.api_listener), found);
    }
}

/// What the configuration of a filter refers to.
fn refer_by_filter(config: Option<Any>, found: &mut Found) {
    let Some(config) = config else { return };
    match config.message_name().strip_prefix("envoy.extensions.filters.") {
        Some("network.http_connection_manager.v3.HttpConnectionManager") => {
            config.refer::<HttpConnectionManager>(found);
        }
        Some("network.http_connection_manager.v3.EnvoyMobileHttpConnectionManager") => {
            config.refer::<EnvoyMobileHttpConnectionManager>(found);
        }
        Some("network.tcp_proxy.v3.TcpProxy") => config.refer::<TcpProxy>(found),
        Some("udp.udp_proxy.v3.UdpProxyConfig") => config.refer::<UdpProxyConfig>(found),
        _ => {}
    }
}

#[derive(Clone, PartialEq, Message)]
struct EnvoyMobileHttpConnectionManager {
    #[prost(message, optional, tag = "1")]
    config: Option<HttpConnectionManager>,
}

impl Refers for EnvoyMobileHttpConnectionManager {
    fn refer(self, found: &mut Found) {
        if let Some(config) = self.config {
            config.refer(found);
        }
    }
}

#[derive(Clone, PartialEq, Message)]
struct HttpConnectionManager {
    #[prost(message, optional, tag = "3")]
    rds: Option<Rds>,
    #[prost(message, optional, tag = "4")]
    route_config: Option<RouteConfiguration>,
    #[prost(message, repeated, tag = "5")]
    http_filters: Vec<HttpFilter>,
    #[prost(message, repeated, tag = "23")]
    upgrades: Vec<UpgradeConfig>,
    #[prost(message, optional, tag = "31")]
    scoped_routes: Option<ScopedRoutes>,
}

#[derive(Clone, PartialEq, Message)]
struct Rds {
    #[prost(message, optional, tag = "1")]
    source: Option<ConfigSource>,
    #[prost(string, tag = "2")]
    route_config_name: String,
}

#[derive(Clone, PartialEq, Message)]
struct UpgradeConfig {
    #[prost(message, repeated, tag = "2")]
    filters: Vec<HttpFilter>,
}

impl Refers for HttpConnectionManager {
    fn refer(self, found: &mut Found) {
        if let Some(Rds { source: Some(source), route_config_name }) = self.rds {
            found.add_from(&source, TypeUrl::ROUTE, route_config_name);
        }
        if let Some(routes) = self.route_config {
            routes.refer(found);
        }
        if let Some(scoped_routes) = self.scoped_routes {
            scoped_routes.refer(found);
        }
        let upgrades = self.upgrades.into_iter().flat_map(|upgrade| upgrade.filters);
        self.http_filters.into_iter().chain(upgrades).for_each(|filter| filter.refer(found));
    }
}

/// Scoped routes that are delivered by SRDS are subscribed to as a whole: no name stands here.
#[derive(Clone, PartialEq, Message)]
struct ScopedRoutes {
    #[prost(message, optional, tag = "3")]
    source: Option<ConfigSource>,
    #[prost(message, optional, tag = "4")]
    inline: Option<ScopedRouteConfigurationsList>,
}

#[derive(Clone, PartialEq, Message)]
struct ScopedRouteConfigurationsList {
    #[prost(message, repeated, tag = "1")]
    scopes: Vec<ScopedRouteConfiguration>,
}

impl ScopedRoutes {
    fn refer(self, found: &mut Found) {
        let scopes = self.inline.unwrap_or_default().scopes;
        scopes.into_iter().for_each(|scope| scope.refer_from(self.source.as_ref(), found));
    }
}

#[derive(Clone, PartialEq, Message)]
struct TcpProxy {
    #[prost(string, tag = "2")]
    cluster: String,
    #[prost(message, optional, tag = "10")]
    weighted_clusters: Option<WeightedCluster>,
}

impl Refers for TcpProxy {
    fn refer(self, found: &mut Found) {
        found.add(TypeUrl::CLUSTER, self.cluster);
        self.weighted_clusters.unwrap_or_default().refer(found);
    }
}

#[derive(Clone, PartialEq, Message)]
struct UdpProxyConfig {
    #[prost(string, tag = "2")]
    cluster: String,
    #[prost(message, optional, tag = "9")]
    matcher: Option<Matcher>,
    #[prost(message, repeated, tag = "11")]
    session_filters: Vec<ClusterFilter>,
}

impl Refers for UdpProxyConfig {
    fn refer(self, found: &mut Found) {
        found.add(TypeUrl::CLUSTER, self.cluster);
        self.session_filters.into_iter().for_each(|filter| filter.refer(found));
        for action in self.matcher.unwrap_or_default().actions() {
            if action.message_name() == "envoy.extensions.filters.udp.udp_proxy.v3.Route" {
                found.add(TypeUrl::CLUSTER, action.decode::<Named>().name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::{
        envoy::{
            config::{
                core::v3::ConfigSource,
                listener::v3::{
                    ApiListener, Filter, FilterChain, Listener, ListenerFilter, filter,
                    listener_filter,
                },
                route::v3::ScopedRouteConfiguration,
            },
            extensions::filters::{
                network::{
                    http_connection_manager::v3::{
                        EnvoyMobileHttpConnectionManager, HttpConnectionManager, HttpFilter, Rds,
                        ScopedRds, ScopedRouteConfigurationsList, ScopedRoutes,
                        http_connection_manager::{RouteSpecifier, UpgradeConfig},
                        http_filter,
                        scoped_routes::ConfigSpecifier,
                    },
                    tcp_proxy::v3::{
                        TcpProxy,
                        tcp_proxy::{
                            ClusterSpecifier, WeightedCluster, weighted_cluster::ClusterWeight,
                        },
                    },
                },
                udp::udp_proxy::v3::{
                    Route, UdpProxyConfig,
                    udp_proxy_config::{self, SessionFilter, session_filter},
                },
            },
        },
        google::protobuf::Any,
    };

    use super::{
        super::{
            matcher::tests::map,
            route::tests::routes_to,
            tests::{ads, ecds, file, keys, of, pack},
            transport_socket::tests::{downstream, socket},
        },
        *,
    };

    fn chain(configs: Vec<Any>) -> FilterChain {
        let filter = |config| Filter {
            name: "filter".into(),
            config_type: Some(filter::ConfigType::TypedConfig(config)),
        };
        FilterChain { filters: configs.into_iter().map(filter).collect(), ..Default::default() }
    }

    fn listener(configs: Vec<Any>) -> Listener {
        Listener {
            name: "listener".into(),
            filter_chains: vec![chain(configs)],
            ..Listener::default()
        }
    }

    fn http(routes: RouteSpecifier) -> HttpConnectionManager {
        HttpConnectionManager { route_specifier: Some(routes), ..Default::default() }
    }

    fn rds(name: &str, source: Option<ConfigSource>) -> HttpConnectionManager {
        let route_config_name = name.into();
        http(RouteSpecifier::Rds(Rds { config_source: source, route_config_name }))
    }

    fn http_filter(name: &str, source: ConfigSource) -> HttpFilter {
        HttpFilter {
            name: name.into(),
            config_type: Some(http_filter::ConfigType::ConfigDiscovery(ecds(source))),
            ..HttpFilter::default()
        }
    }

    #[test]
    fn route_configurations_are_found_in_every_chain() {
        let to = |name| pack(&rds(name, Some(ads())));
        let listener = Listener {
            filter_chains: vec![chain(vec![to("d"), to("a")]), chain(vec![to("b"), to("a")])],
            default_filter_chain: Some(chain(vec![to("c")])),
            api_listener: Some(ApiListener { api_listener: Some(to("e")) }),
            ..Listener::default()
        };
        assert_eq!(of(&listener), keys(&TypeUrl::ROUTE, ["a", "b", "c", "d", "e"]));
        let mobile = EnvoyMobileHttpConnectionManager { config: Some(rds("a", Some(ads()))) };
        let api_listener = Some(ApiListener { api_listener: Some(pack(&mobile)) });
        let listener = Listener { api_listener, ..Listener::default() };
        assert_eq!(of(&listener), keys(&TypeUrl::ROUTE, ["a"]));
    }

    #[test]
    fn routes_from_elsewhere_are_left_out() {
        let to = |source| pack(&rds("routes", source));
        assert_eq!(of(&listener(vec![to(Some(file())), to(None)])), []);
        let other = Any { type_url: "type.googleapis.com/other".into(), ..to(Some(ads())) };
        assert_eq!(of(&listener(vec![other])), []);
        let malformed = Any { value: vec![0xff], ..to(Some(ads())) };
        let listener = listener(vec![malformed, to(Some(ads()))]);
        assert_eq!(of(&listener), keys(&TypeUrl::ROUTE, ["routes"]));
    }

    #[test]
    fn inline_routes_refer_to_clusters() {
        let inline = http(RouteSpecifier::RouteConfig(routes_to("a")));
        assert_eq!(of(&listener(vec![pack(&inline)])), keys(&TypeUrl::CLUSTER, ["a"]));
    }

    #[test]
    fn inline_scopes_refer_to_route_configurations() {
        let scopes = |source: Option<ConfigSource>| {
            let by_name = ScopedRouteConfiguration {
                route_configuration_name: "routes".into(),
                ..ScopedRouteConfiguration::default()
            };
            let inline = ScopedRouteConfiguration {
                route_configuration: Some(routes_to("cluster")),
                ..ScopedRouteConfiguration::default()
            };
            let list = ScopedRouteConfigurationsList {
                scoped_route_configurations: vec![by_name, inline],
            };
            let specifier = ConfigSpecifier::ScopedRouteConfigurationsList(list);
            let scoped = ScopedRoutes {
                rds_config_source: source,
                config_specifier: Some(specifier),
                ..ScopedRoutes::default()
            };
            of(&listener(vec![pack(&http(RouteSpecifier::ScopedRoutes(scoped)))]))
        };
        let cluster = keys(&TypeUrl::CLUSTER, ["cluster"]);
        let routes = keys(&TypeUrl::ROUTE, ["routes"]);
        assert_eq!(scopes(Some(ads())), [&*cluster, &*routes].concat());
        assert_eq!(scopes(Some(file())), cluster);

        let srds = ConfigSpecifier::ScopedRds(ScopedRds {
            scoped_rds_config_source: Some(ads()),
            ..ScopedRds::default()
        });
        let scoped = ScopedRoutes { config_specifier: Some(srds), ..ScopedRoutes::default() };
        assert_eq!(of(&listener(vec![pack(&http(RouteSpecifier::ScopedRoutes(scoped)))])), []);
    }

    #[test]
    fn tcp_proxies_refer_to_clusters() {
        let proxy = |specifier| {
            pack(&TcpProxy { cluster_specifier: Some(specifier), ..TcpProxy::default() })
        };
        let weight = |name: &str| ClusterWeight { name: name.into(), ..Default::default() };
        let weighted = WeightedCluster { clusters: ["c", "b"].map(weight).to_vec() };
        let listener = listener(vec![
            proxy(ClusterSpecifier::Cluster("a".into())),
            proxy(ClusterSpecifier::WeightedClusters(weighted)),
        ]);
        assert_eq!(of(&listener), keys(&TypeUrl::CLUSTER, ["a", "b", "c"]));
    }

    #[test]
    #[expect(deprecated)]
    fn udp_proxies_refer_to_clusters() {
        let proxy = |specifier| {
            let session = SessionFilter {
                name: "session".into(),
                config_type: Some(session_filter::ConfigType::ConfigDiscovery(ecds(ads()))),
            };
            let config = UdpProxyConfig {
                route_specifier: Some(specifier),
                session_filters: vec![session],
                ..UdpProxyConfig::default()
            };
            let config_type = Some(listener_filter::ConfigType::TypedConfig(pack(&config)));
            let filter = ListenerFilter { config_type, ..ListenerFilter::default() };
            of(&Listener { listener_filters: vec![filter], ..Listener::default() })
        };
        let found = [keys(&TypeUrl::CLUSTER, ["a"]), keys(&TypeUrl::EXTENSION_CONFIG, ["session"])]
            .concat();
        let matcher = map(pack(&Route { cluster: "a".into() }), None);
        assert_eq!(proxy(udp_proxy_config::RouteSpecifier::Cluster("a".into())), found);
        assert_eq!(proxy(udp_proxy_config::RouteSpecifier::Matcher(matcher)), found);
    }

    #[test]
    fn listeners_refer_to_secrets() {
        let with = |name| FilterChain {
            transport_socket: Some(socket(&downstream(name))),
            ..FilterChain::default()
        };
        let listener = Listener {
            filter_chains: vec![with("b")],
            default_filter_chain: Some(with("a")),
            ..Listener::default()
        };
        assert_eq!(of(&listener), keys(&TypeUrl::SECRET, ["a", "b"]));
    }

    #[test]
    fn listeners_refer_to_the_configurations_of_filters() {
        let upgrade = UpgradeConfig {
            filters: vec![http_filter("upgrade", ads())],
            ..UpgradeConfig::default()
        };
        let manager = HttpConnectionManager {
            http_filters: vec![http_filter("http", ads()), http_filter("file", file())],
            upgrade_configs: vec![upgrade],
            ..HttpConnectionManager::default()
        };
        let mut listener = listener(vec![pack(&manager)]);
        listener.filter_chains[0].filters.push(Filter {
            name: "network".into(),
            config_type: Some(filter::ConfigType::ConfigDiscovery(ecds(ads()))),
        });
        listener.listener_filters.push(ListenerFilter {
            name: "listener".into(),
            config_type: Some(listener_filter::ConfigType::ConfigDiscovery(ecds(ads()))),
            ..ListenerFilter::default()
        });
        let names = ["http", "listener", "network", "upgrade"];
        assert_eq!(of(&listener), keys(&TypeUrl::EXTENSION_CONFIG, names));
    }
}
