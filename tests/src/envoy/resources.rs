//! Resources as Envoys want them, with what they refer to coming the way their [`Mode`] says.

use std::collections::HashMap;

use deltaplane_server::envoy_types::pb::envoy::config::cluster::v3::Cluster;
use deltaplane_server::envoy_types::pb::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, DiscoveryType, EdsClusterConfig,
};
use deltaplane_server::envoy_types::pb::envoy::config::core::v3::{
    Address, ExtensionConfigSource, Http1ProtocolOptions, HttpProtocolOptions, SocketAddress, TransportSocket, TypedExtensionConfig, address,
    socket_address::PortSpecifier, transport_socket,
};
use deltaplane_server::envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint::HostIdentifier,
};
use deltaplane_server::envoy_types::pb::envoy::config::listener::v3::{
    Filter, FilterChain, Listener, filter,
};
use deltaplane_server::envoy_types::pb::envoy::config::route::v3::{
    HeaderMatcher, Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost,
    header_matcher::HeaderMatchSpecifier, route::Action, route_action::ClusterSpecifier,
    route_match::PathSpecifier,
};
use deltaplane_server::envoy_types::pb::envoy::extensions::filters::http::fault::v3::{
    FaultAbort, HttpFault, fault_abort::ErrorType,
};
use deltaplane_server::envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use deltaplane_server::envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, Rds, http_connection_manager::RouteSpecifier,
    http_filter::ConfigType,
};
use deltaplane_server::envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CommonTlsContext, DownstreamTlsContext, SdsSecretConfig, UpstreamTlsContext,
    common_tls_context::ValidationContextType,
};
use deltaplane_server::envoy_types::pb::envoy::extensions::upstreams::http::v3::{
    HttpProtocolOptions as UpstreamProtocolOptions,
    http_protocol_options::{
        ExplicitHttpConfig, UpstreamProtocolOptions as UpstreamProtocol,
        explicit_http_config::ProtocolConfig as ProtocolOptions,
    },
};
use deltaplane_server::envoy_types::pb::envoy::r#type::matcher::v3::{
    RegexMatcher, StringMatcher, string_matcher::MatchPattern,
};
use deltaplane_server::envoy_types::pb::envoy::r#type::v3::FractionalPercent;
use deltaplane_server::envoy_types::pb::envoy::service::runtime::v3::Runtime;
use deltaplane_server::envoy_types::pb::google::protobuf::{
    Any, Duration, Struct, UInt32Value, Value, value::Kind,
};
use deltaplane_server::{Resource, envoy};
use prost::{Message, Name};

use crate::envoy::mode::{Mode, RUNTIME_LAYER};

/// A listener that gets its routes by name, and its filter that injects faults by the name `faults`.
pub fn listener(mode: Mode, name: &str, port: u16, routes: &str) -> Resource {
    listener_with_filter(mode, name, port, routes, "faults")
}

/// The same with a filter by any name.
pub fn listener_with_filter(
    mode: Mode,
    name: &str,
    port: u16,
    routes: &str,
    filter: &str,
) -> Resource {
    let source = ExtensionConfigSource {
        config_source: Some(mode.source()),
        type_urls: vec![HttpFault::type_url()],
        ..ExtensionConfigSource::default()
    };
    let config_type = Some(ConfigType::ConfigDiscovery(source));
    let filter = HttpFilter { name: filter.into(), config_type, ..HttpFilter::default() };
    envoy::resource(&Listener {
        filter_chains: vec![filter_chain(mode, routes, vec![filter])],
        ..bare_listener(name, port)
    })
}

/// A listener with TLS, whose certificate is the secret `certificate`.
pub fn tls_listener(mode: Mode, name: &str, port: u16, routes: &str) -> Resource {
    let common = CommonTlsContext {
        tls_certificate_sds_secret_configs: vec![secret_by_name(mode, "certificate")],
        ..CommonTlsContext::default()
    };
    let common_tls_context = Some(common);
    let tls = DownstreamTlsContext { common_tls_context, ..DownstreamTlsContext::default() };
    let transport_socket = Some(tls_socket(&tls));
    let chain = FilterChain { transport_socket, ..filter_chain(mode, routes, Vec::new()) };
    envoy::resource(&Listener { filter_chains: vec![chain], ..bare_listener(name, port) })
}

pub(crate) fn bare_listener(name: &str, port: u16) -> Listener {
    Listener { name: name.into(), address: Some(address(port)), ..Listener::default() }
}

pub(crate) fn filter_chain(
    mode: Mode,
    routes: &str,
    mut http_filters: Vec<HttpFilter>,
) -> FilterChain {
    let config_type = Some(ConfigType::TypedConfig(any(&Router::default())));
    http_filters.push(HttpFilter { name: "router".into(), config_type, ..HttpFilter::default() });
    let rds = Rds { config_source: Some(mode.source()), route_config_name: routes.into() };
    let manager = HttpConnectionManager {
        stat_prefix: "http".into(),
        route_specifier: Some(RouteSpecifier::Rds(rds)),
        http_filters,
        ..HttpConnectionManager::default()
    };
    let config_type = Some(filter::ConfigType::TypedConfig(any(&manager)));
    let filters = vec![Filter { name: "http".into(), config_type }];
    FilterChain { filters, ..FilterChain::default() }
}

/// Routes: each path prefix has a cluster.
pub fn routes(name: &str, prefixes: &[(&str, &str)]) -> Resource {
    envoy::resource(&RouteConfiguration {
        name: name.into(),
        virtual_hosts: vec![virtual_host("all", prefixes)],
        ..RouteConfiguration::default()
    })
}

/// Routes that Envoy does not accept: two virtual hosts want to be all.
pub fn ambiguous_routes(name: &str, prefixes: &[(&str, &str)]) -> Resource {
    envoy::resource(&RouteConfiguration {
        name: name.into(),
        virtual_hosts: vec![virtual_host("all", prefixes), virtual_host("others", prefixes)],
        ..RouteConfiguration::default()
    })
}

/// Routes that Envoy does not accept: no path can be meant by this expression.
pub fn routes_by_broken_expression(name: &str, cluster: &str) -> Resource {
    let expression = RegexMatcher { regex: "(".into(), ..RegexMatcher::default() };
    let mut host = virtual_host("all", &[("/", cluster)]);
    host.routes.iter_mut().for_each(|route| {
        let path_specifier = Some(PathSpecifier::SafeRegex(expression.clone()));
        route.r#match = Some(RouteMatch { path_specifier, ..RouteMatch::default() });
    });
    envoy::resource(&RouteConfiguration {
        name: name.into(),
        virtual_hosts: vec![host],
        ..RouteConfiguration::default()
    })
}

pub(crate) fn virtual_host(name: &str, prefixes: &[(&str, &str)]) -> VirtualHost {
    let route = |(prefix, cluster): &(&str, &str)| Route {
        r#match: Some(RouteMatch {
            path_specifier: Some(PathSpecifier::Prefix((*prefix).into())),
            ..RouteMatch::default()
        }),
        action: Some(Action::Route(RouteAction {
            cluster_specifier: Some(ClusterSpecifier::Cluster((*cluster).into())),
            ..RouteAction::default()
        })),
        ..Route::default()
    };
    let (domains, routes) = (vec!["*".into()], prefixes.iter().map(route).collect());
    VirtualHost { name: name.into(), domains, routes, ..VirtualHost::default() }
}

/// A cluster whose endpoints come by its own name, and how many seconds a connection may take.
pub fn cluster(mode: Mode, name: &str, connect_timeout: i64) -> Resource {
    envoy::resource(&eds_cluster(mode, name, connect_timeout))
}

/// The same with TLS, where a secret says whom to trust.
pub fn tls_cluster(mode: Mode, name: &str, connect_timeout: i64, authority: &str) -> Resource {
    envoy::resource(&tls(mode, name, connect_timeout, authority))
}

/// The same, where a connection serves only a few requests, so that there is always a handshake.
pub fn restless_tls_cluster(mode: Mode, name: &str, authority: &str) -> Resource {
    let common = HttpProtocolOptions {
        max_requests_per_connection: Some(UInt32Value { value: 10 }),
        ..HttpProtocolOptions::default()
    };
    let protocol = ProtocolOptions::HttpProtocolOptions(Http1ProtocolOptions::default());
    let protocol_config = Some(protocol);
    let options = UpstreamProtocolOptions {
        common_http_protocol_options: Some(common),
        upstream_protocol_options: Some(UpstreamProtocol::ExplicitHttpConfig(ExplicitHttpConfig {
            protocol_config,
        })),
        ..UpstreamProtocolOptions::default()
    };
    let name_of_them = UpstreamProtocolOptions::full_name();
    let options = HashMap::from([(name_of_them, any(&options))]);
    envoy::resource(&Cluster {
        typed_extension_protocol_options: options,
        ..tls(mode, name, 5, authority)
    })
}

fn tls(mode: Mode, name: &str, connect_timeout: i64, authority: &str) -> Cluster {
    let authority = secret_by_name(mode, authority);
    let authority = ValidationContextType::ValidationContextSdsSecretConfig(authority);
    let validation_context_type = Some(authority);
    let common = CommonTlsContext { validation_context_type, ..CommonTlsContext::default() };
    let common_tls_context = Some(common);
    let tls = UpstreamTlsContext { common_tls_context, ..UpstreamTlsContext::default() };
    let transport_socket = Some(tls_socket(&tls));
    Cluster { transport_socket, ..eds_cluster(mode, name, connect_timeout) }
}

/// A cluster that Envoy does not accept: it wants EDS, and does not say from where.
pub fn cluster_from_nowhere(name: &str) -> Resource {
    let cluster_discovery_type = Some(ClusterDiscoveryType::Type(DiscoveryType::Eds as i32));
    envoy::resource(&Cluster { name: name.into(), cluster_discovery_type, ..Cluster::default() })
}

pub(crate) fn eds_cluster(mode: Mode, name: &str, connect_timeout: i64) -> Cluster {
    let eds = EdsClusterConfig { eds_config: Some(mode.source()), ..EdsClusterConfig::default() };
    Cluster {
        name: name.into(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds as i32)),
        eds_cluster_config: Some(eds),
        connect_timeout: Some(Duration { seconds: connect_timeout, ..Duration::default() }),
        ..Cluster::default()
    }
}

/// A cluster's endpoints: this port of this machine.
pub fn endpoints(cluster: &str, port: u16) -> Resource {
    endpoints_of_priority(cluster, port, 0)
}

/// Endpoints that Envoy does not accept: nothing has a priority beyond 128.
pub fn endpoints_beyond_all(cluster: &str, port: u16) -> Resource {
    endpoints_of_priority(cluster, port, 129)
}

fn endpoints_of_priority(cluster: &str, port: u16, priority: u32) -> Resource {
    let endpoint = Endpoint { address: Some(address(port)), ..Endpoint::default() };
    let host_identifier = Some(HostIdentifier::Endpoint(endpoint));
    let lb_endpoints = vec![LbEndpoint { host_identifier, ..LbEndpoint::default() }];
    let locality = LocalityLbEndpoints { lb_endpoints, priority, ..LocalityLbEndpoints::default() };
    envoy::resource(&ClusterLoadAssignment {
        cluster_name: cluster.into(),
        endpoints: vec![locality],
        ..ClusterLoadAssignment::default()
    })
}

/// The filter `faults`: requests for `/fault` are answered with this status.
pub fn faults(status: u32) -> Resource {
    faults_named("faults", status)
}

/// The same by another name.
pub fn faults_named(name: &str, status: u32) -> Resource {
    let path = StringMatcher {
        match_pattern: Some(MatchPattern::Exact("/fault".into())),
        ..StringMatcher::default()
    };
    let path = HeaderMatcher {
        name: ":path".into(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(path)),
        ..HeaderMatcher::default()
    };
    let abort = FaultAbort {
        percentage: Some(FractionalPercent { numerator: 100, ..FractionalPercent::default() }),
        error_type: Some(ErrorType::HttpStatus(status)),
        ..FaultAbort::default()
    };
    let fault = HttpFault { abort: Some(abort), headers: vec![path], ..HttpFault::default() };
    let typed_config = Some(any(&fault));
    envoy::resource(&TypedExtensionConfig { name: name.into(), typed_config })
}

/// The layer of runtime values, with one of them in it.
pub fn runtime(key: &str, value: &str) -> Resource {
    let value = Value { kind: Some(Kind::StringValue(value.into())) };
    let layer = Struct { fields: HashMap::from([(key.into(), value)]) };
    envoy::resource(&Runtime { name: RUNTIME_LAYER.into(), layer: Some(layer) })
}

pub(crate) fn secret_by_name(mode: Mode, name: &str) -> SdsSecretConfig {
    SdsSecretConfig { name: name.into(), sds_config: Some(mode.source()) }
}

pub(crate) fn tls_socket<M: Message + Name>(tls: &M) -> TransportSocket {
    let config_type = Some(transport_socket::ConfigType::TypedConfig(any(tls)));
    TransportSocket { name: "envoy.transport_sockets.tls".into(), config_type }
}

pub(crate) fn address(port: u16) -> Address {
    let address = address::Address::SocketAddress(SocketAddress {
        address: "127.0.0.1".into(),
        port_specifier: Some(PortSpecifier::PortValue(port.into())),
        ..SocketAddress::default()
    });
    Address { address: Some(address) }
}

pub(crate) fn any<M: Message + Name>(message: &M) -> Any {
    Any { type_url: M::type_url(), value: message.encode_to_vec() }
}
