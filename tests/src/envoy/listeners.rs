//! Listeners that say themselves where requests go, and by which filters.

use deltaplane_server::envoy_types::pb::envoy::config::listener::v3::{
    Filter, FilterChain, Listener, filter,
};
use deltaplane_server::envoy_types::pb::envoy::config::route::v3::RouteConfiguration;
use deltaplane_server::envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use deltaplane_server::envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, http_connection_manager::RouteSpecifier,
    http_filter::ConfigType,
};
use deltaplane_server::envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::{
    TcpProxy, tcp_proxy::ClusterSpecifier,
};
use deltaplane_server::{Resource, envoy};

use crate::envoy::resources::{any, bare_listener, virtual_host};

/// A listener with its routes in it.
pub fn inline_listener(name: &str, port: u16, prefixes: &[(&str, &str)]) -> Resource {
    envoy::resource(&inline(name, port, prefixes))
}

fn inline(name: &str, port: u16, prefixes: &[(&str, &str)]) -> Listener {
    let config_type = Some(ConfigType::TypedConfig(any(&Router::default())));
    let router = HttpFilter { name: "router".into(), config_type, ..HttpFilter::default() };
    let routes = RouteConfiguration {
        name: name.into(),
        virtual_hosts: vec![virtual_host("all", prefixes)],
        ..RouteConfiguration::default()
    };
    let manager = HttpConnectionManager {
        stat_prefix: "http".into(),
        route_specifier: Some(RouteSpecifier::RouteConfig(routes)),
        http_filters: vec![router],
        ..HttpConnectionManager::default()
    };
    let config_type = Some(filter::ConfigType::TypedConfig(any(&manager)));
    chain(name, port, Filter { name: "http".into(), config_type })
}

/// A listener that passes connections on, whatever is said on them.
pub fn tcp_listener(name: &str, port: u16, cluster: &str) -> Resource {
    let proxy = TcpProxy {
        stat_prefix: "tcp".into(),
        cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.into())),
        ..TcpProxy::default()
    };
    let config_type = Some(filter::ConfigType::TypedConfig(any(&proxy)));
    envoy::resource(&chain(name, port, Filter { name: "tcp".into(), config_type }))
}

fn chain(name: &str, port: u16, filter: Filter) -> Listener {
    let chain = FilterChain { filters: vec![filter], ..FilterChain::default() };
    Listener { filter_chains: vec![chain], ..bare_listener(name, port) }
}
