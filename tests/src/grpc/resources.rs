//! Resources as gRPC clients want them.

use std::net::SocketAddr;

use deltaplane_server::envoy_types::pb::envoy::config::cluster::v3::Cluster;
use deltaplane_server::envoy_types::pb::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, DiscoveryType, EdsClusterConfig, LbPolicy,
};
use deltaplane_server::envoy_types::pb::envoy::config::core::v3::{
    Address, AggregatedConfigSource, ConfigSource, Locality, SelfConfigSource, SocketAddress, address,
    config_source::ConfigSourceSpecifier, socket_address::PortSpecifier,
};
use deltaplane_server::envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint::HostIdentifier,
};
use deltaplane_server::envoy_types::pb::envoy::config::listener::v3::{ApiListener, Listener};
use deltaplane_server::envoy_types::pb::envoy::config::route::v3::{
    Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost, route::Action,
    route_action::ClusterSpecifier, route_match::PathSpecifier,
};
use deltaplane_server::envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use deltaplane_server::envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, Rds, http_connection_manager::RouteSpecifier,
    http_filter::ConfigType,
};
use deltaplane_server::envoy_types::pb::google::protobuf::{Any, UInt32Value};
use deltaplane_server::{Resource, envoy};
use prost::{Message, Name};

/// A client's listener: whoever dials `xds:///<name>` has these routes.
pub fn listener(name: &str, routes: &str) -> Resource {
    listener_with(name, routes, vec![router()])
}

/// A listener that no gRPC client accepts: it has a filter twice.
pub fn listener_with_two_routers(name: &str, routes: &str) -> Resource {
    listener_with(name, routes, vec![router(), router()])
}

fn router() -> HttpFilter {
    let router = ConfigType::TypedConfig(any(&Router::default()));
    HttpFilter { name: "router".into(), config_type: Some(router), ..HttpFilter::default() }
}

fn listener_with(name: &str, routes: &str, http_filters: Vec<HttpFilter>) -> Resource {
    let rds = Rds { config_source: Some(ads()), route_config_name: routes.into() };
    let manager = HttpConnectionManager {
        route_specifier: Some(RouteSpecifier::Rds(rds)),
        http_filters,
        ..HttpConnectionManager::default()
    };
    let api_listener = Some(ApiListener { api_listener: Some(any(&manager)) });
    envoy::resource(&Listener { name: name.into(), api_listener, ..Listener::default() })
}

/// Routes: each method has a cluster.
pub fn routes(name: &str, methods: &[(&str, &str)]) -> Resource {
    let route = |(method, cluster): &(&str, &str)| Route {
        r#match: Some(RouteMatch {
            path_specifier: Some(PathSpecifier::Path(format!("/deltaplane.Backend/{method}"))),
            ..RouteMatch::default()
        }),
        action: Some(Action::Route(RouteAction {
            cluster_specifier: Some(ClusterSpecifier::Cluster((*cluster).into())),
            ..RouteAction::default()
        })),
        ..Route::default()
    };
    let all = VirtualHost {
        name: "all".into(),
        domains: vec!["*".into()],
        routes: methods.iter().map(route).collect(),
        ..VirtualHost::default()
    };
    let name = name.into();
    envoy::resource(&RouteConfiguration { name, virtual_hosts: vec![all], ..Default::default() })
}

/// A cluster whose endpoints come by another name.
pub fn cluster(name: &str, service: &str) -> Resource {
    envoy::resource(&cluster_message(name, service))
}

/// The same, whose load clients report to whoever told them of it (L-06).
pub fn reporting_cluster(name: &str, service: &str) -> Resource {
    let this = ConfigSourceSpecifier::Self_(SelfConfigSource::default());
    let lrs_server =
        Some(ConfigSource { config_source_specifier: Some(this), ..ConfigSource::default() });
    envoy::resource(&Cluster { lrs_server, ..cluster_message(name, service) })
}

/// A cluster that no gRPC client accepts: none knows this policy.
pub fn maglev_cluster(name: &str, service: &str) -> Resource {
    let lb_policy = LbPolicy::Maglev as i32;
    envoy::resource(&Cluster { lb_policy, ..cluster_message(name, service) })
}

fn cluster_message(name: &str, service: &str) -> Cluster {
    Cluster {
        name: name.into(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds as i32)),
        eds_cluster_config: Some(EdsClusterConfig {
            eds_config: Some(ads()),
            service_name: service.into(),
        }),
        ..Cluster::default()
    }
}

/// Endpoints: this one.
pub fn endpoints(service: &str, address: SocketAddr) -> Resource {
    endpoints_of_priority(service, address, 0)
}

/// Endpoints of priority 1, of which none has priority 0: no gRPC client accepts that.
pub fn endpoints_with_gap(service: &str, address: SocketAddr) -> Resource {
    endpoints_of_priority(service, address, 1)
}

fn endpoints_of_priority(service: &str, address: SocketAddr, priority: u32) -> Resource {
    let address = address::Address::SocketAddress(SocketAddress {
        address: address.ip().to_string(),
        port_specifier: Some(PortSpecifier::PortValue(address.port().into())),
        ..SocketAddress::default()
    });
    let endpoint =
        Endpoint { address: Some(Address { address: Some(address) }), ..Endpoint::default() };
    let endpoint = LbEndpoint {
        host_identifier: Some(HostIdentifier::Endpoint(endpoint)),
        ..LbEndpoint::default()
    };
    let locality = LocalityLbEndpoints {
        locality: Some(Locality { zone: "here".into(), ..Locality::default() }),
        lb_endpoints: vec![endpoint],
        load_balancing_weight: Some(UInt32Value { value: 1 }),
        priority,
        ..LocalityLbEndpoints::default()
    };
    envoy::resource(&ClusterLoadAssignment {
        cluster_name: service.into(),
        endpoints: vec![locality],
        ..ClusterLoadAssignment::default()
    })
}

fn ads() -> ConfigSource {
    let ads = ConfigSourceSpecifier::Ads(AggregatedConfigSource {});
    ConfigSource { config_source_specifier: Some(ads), ..ConfigSource::default() }
}

fn any<M: Message + Name>(message: &M) -> Any {
    Any { type_url: M::type_url(), value: message.encode_to_vec() }
}
