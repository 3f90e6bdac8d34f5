//! The Envoy messages that services become.
//!
//! Each function is given the whole of what its message depends on, so that
//! [`translate`](crate::translate) can compare that instead of messages.

use std::net::IpAddr;

use deltaplane_server::envoy_types::pb::envoy::config::{
    cluster::v3::{Cluster, cluster},
    core::v3::{
        Address, AggregatedConfigSource, ApiVersion, ConfigSource, HealthCheck, SocketAddress,
        address, config_source, health_check, socket_address,
    },
    endpoint::v3::{ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint},
    listener::v3::{Filter, FilterChain, Listener, filter},
    route::v3::{
        Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost, route, route_action,
        route_match,
    },
};
use deltaplane_server::envoy_types::pb::envoy::extensions::filters::{
    http::router::v3::Router,
    network::{
        http_connection_manager::v3::{
            HttpConnectionManager, HttpFilter, Rds, http_connection_manager, http_filter,
        },
        tcp_proxy::v3::{TcpProxy, tcp_proxy},
    },
};
use deltaplane_server::envoy_types::pb::google::protobuf::{Any, Duration, UInt32Value};

/// A message, ready to be encoded as a resource.
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::exhaustive_enums)] // a service needs these four types
pub enum Message {
    /// Where Envoy connects to.
    Cluster(Box<Cluster>),
    /// Its addresses.
    Endpoints(Box<ClusterLoadAssignment>),
    /// Where Envoy accepts connections.
    Listener(Box<Listener>),
    /// Which request goes to which cluster.
    Routes(Box<RouteConfiguration>),
}

/// All that a cluster depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ClusterInputs<'a> {
    pub(crate) name: &'a str,
    /// A host and port for DNS; `None` if the addresses come over EDS.
    pub(crate) host: Option<(&'a str, u16)>,
    pub(crate) health_check_path: Option<&'a str>,
}

/// All that the endpoints of a cluster depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EndpointInputs<'a> {
    pub(crate) name: &'a str,
    pub(crate) ip: IpAddr,
    pub(crate) port: u16,
}

/// One route: requests that begin with `prefix` go to `cluster`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RouteInputs {
    pub(crate) prefix: String,
    pub(crate) cluster: String,
}

pub(crate) fn listener_name(port: u16) -> String {
    format!("listener-{port}")
}

pub(crate) fn routes_name(port: u16) -> String {
    format!("routes-{port}")
}

pub(crate) fn cluster(inputs: ClusterInputs<'_>) -> Message {
    let kind = match inputs.host {
        None => cluster::DiscoveryType::Eds,
        Some(_) => cluster::DiscoveryType::StrictDns,
    };
    Message::Cluster(Box::new(Cluster {
        name: inputs.name.to_owned(),
        connect_timeout: seconds(1),
        cluster_discovery_type: Some(cluster::ClusterDiscoveryType::Type(kind.into())),
        eds_cluster_config: inputs.host.is_none().then(|| cluster::EdsClusterConfig {
            eds_config: Some(ads()),
            service_name: String::new(),
        }),
        dns_lookup_family: inputs
            .host
            .map_or_else(Default::default, |_| cluster::DnsLookupFamily::V4Preferred.into()),
        load_assignment: inputs.host.map(|(host, port)| load_assignment(inputs.name, host, port)),
        health_checks: inputs.health_check_path.map(health_check).into_iter().collect(),
        // Otherwise an upstream that was replaced serves on for as long as it
        // passes its health checks.
        ignore_health_on_host_removal: inputs.health_check_path.is_some(),
        ..Cluster::default()
    }))
}

fn health_check(path: &str) -> HealthCheck {
    let http = health_check::HttpHealthCheck {
        path: path.to_owned(),
        ..health_check::HttpHealthCheck::default()
    };
    HealthCheck {
        timeout: seconds(1),
        interval: seconds(5),
        // Before its first request Envoy would ask only once a minute.
        no_traffic_interval: seconds(5),
        unhealthy_threshold: Some(UInt32Value { value: 3 }),
        healthy_threshold: Some(UInt32Value { value: 2 }),
        health_checker: Some(health_check::HealthChecker::HttpHealthCheck(http)),
        ..HealthCheck::default()
    }
}

pub(crate) fn endpoints(inputs: EndpointInputs<'_>) -> Message {
    let ip = inputs.ip.to_string();
    Message::Endpoints(Box::new(load_assignment(inputs.name, &ip, inputs.port)))
}

fn load_assignment(cluster: &str, host: &str, port: u16) -> ClusterLoadAssignment {
    let endpoint = lb_endpoint::HostIdentifier::Endpoint(Endpoint {
        address: Some(socket(host, port)),
        ..Endpoint::default()
    });
    ClusterLoadAssignment {
        cluster_name: cluster.to_owned(),
        endpoints: vec![LocalityLbEndpoints {
            lb_endpoints: vec![LbEndpoint {
                host_identifier: Some(endpoint),
                ..LbEndpoint::default()
            }],
            ..LocalityLbEndpoints::default()
        }],
        ..ClusterLoadAssignment::default()
    }
}

pub(crate) fn http_listener(address: IpAddr, port: u16) -> Message {
    let rds = Rds { config_source: Some(ads()), route_config_name: routes_name(port) };
    let router = HttpFilter {
        name: "envoy.filters.http.router".to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(pack(&Router::default()))),
        ..HttpFilter::default()
    };
    let manager = HttpConnectionManager {
        stat_prefix: listener_name(port),
        route_specifier: Some(http_connection_manager::RouteSpecifier::Rds(rds)),
        http_filters: vec![router],
        ..HttpConnectionManager::default()
    };
    let name = "envoy.filters.network.http_connection_manager";
    listener(address, port, name, pack(&manager))
}

pub(crate) fn tcp_listener(address: IpAddr, port: u16, cluster: &str) -> Message {
    let proxy = TcpProxy {
        stat_prefix: listener_name(port),
        cluster_specifier: Some(tcp_proxy::ClusterSpecifier::Cluster(cluster.to_owned())),
        ..TcpProxy::default()
    };
    listener(address, port, "envoy.filters.network.tcp_proxy", pack(&proxy))
}

fn listener(address: IpAddr, port: u16, filter: &str, config: Any) -> Message {
    let filter = Filter {
        name: filter.to_owned(),
        config_type: Some(filter::ConfigType::TypedConfig(config)),
    };
    Message::Listener(Box::new(Listener {
        name: listener_name(port),
        address: Some(socket(&address.to_string(), port)),
        filter_chains: vec![FilterChain { filters: vec![filter], ..FilterChain::default() }],
        ..Listener::default()
    }))
}

/// `hosts` are domains with their routes; Envoy takes the first route that fits.
pub(crate) fn routes<'a>(
    port: u16,
    hosts: impl IntoIterator<Item = (&'a String, &'a Vec<RouteInputs>)>,
) -> Message {
    let virtual_host = |(domain, routes): (&String, &Vec<RouteInputs>)| VirtualHost {
        name: domain.clone(),
        domains: vec![domain.clone()],
        routes: routes.iter().map(route).collect(),
        ..VirtualHost::default()
    };
    Message::Routes(Box::new(RouteConfiguration {
        name: routes_name(port),
        virtual_hosts: hosts.into_iter().map(virtual_host).collect(),
        ..RouteConfiguration::default()
    }))
}

fn route(inputs: &RouteInputs) -> Route {
    let prefix = route_match::PathSpecifier::Prefix(inputs.prefix.clone());
    let cluster = route_action::ClusterSpecifier::Cluster(inputs.cluster.clone());
    Route {
        r#match: Some(RouteMatch { path_specifier: Some(prefix), ..RouteMatch::default() }),
        action: Some(route::Action::Route(RouteAction {
            cluster_specifier: Some(cluster),
            ..RouteAction::default()
        })),
        ..Route::default()
    }
}

fn ads() -> ConfigSource {
    let ads = AggregatedConfigSource::default();
    ConfigSource {
        resource_api_version: ApiVersion::V3.into(),
        config_source_specifier: Some(config_source::ConfigSourceSpecifier::Ads(ads)),
        ..ConfigSource::default()
    }
}

fn socket(host: &str, port: u16) -> Address {
    let socket = SocketAddress {
        address: host.to_owned(),
        port_specifier: Some(socket_address::PortSpecifier::PortValue(port.into())),
        ..SocketAddress::default()
    };
    Address { address: Some(address::Address::SocketAddress(socket)) }
}

fn seconds(seconds: i64) -> Option<Duration> {
    Some(Duration { seconds, nanos: 0 })
}

fn pack<M: prost::Message + prost::Name>(message: &M) -> Any {
    Any { type_url: M::type_url(), value: message.encode_to_vec() }
}
