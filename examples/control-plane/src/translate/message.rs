//! The Envoy messages that services become.
//!
//! Each function is given the whole of what its message depends on, so that
//! [`translate`](crate::translate) can compare that instead of messages.

use std::collections::BTreeSet;
use std::net::IpAddr;

use deltaplane_server::envoy_types::pb::envoy::config::{
    cluster::v3::{Cluster, cluster},
    core::v3::{
        Address, AggregatedConfigSource, ApiConfigSource, ApiVersion, ConfigSource, DataSource,
        GrpcService, HealthCheck, Http2ProtocolOptions, SocketAddress, TransportSocket, address,
        api_config_source::ApiType, config_source::ConfigSourceSpecifier, data_source,
        grpc_service, health_check, socket_address, transport_socket,
    },
    endpoint::v3::{ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint},
    listener::v3::{Filter, FilterChain, Listener, filter},
    route::v3::{RouteConfiguration, VirtualHost},
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
use deltaplane_server::envoy_types::pb::envoy::extensions::{
    transport_sockets::tls::v3::{
        CertificateValidationContext, CommonTlsContext, DownstreamTlsContext, SdsSecretConfig,
        Secret as EnvoySecret, SubjectAltNameMatcher, TlsCertificate, UpstreamTlsContext,
        common_tls_context::{CombinedCertificateValidationContext, ValidationContextType},
        secret,
        subject_alt_name_matcher::SanType,
    },
    upstreams::http::v3::{
        HttpProtocolOptions,
        http_protocol_options::{
            ExplicitHttpConfig, UpstreamProtocolOptions, explicit_http_config::ProtocolConfig,
        },
    },
};
use deltaplane_server::envoy_types::pb::envoy::r#type::{
    matcher::v3::{StringMatcher, string_matcher},
    v3::CodecClientType,
};
use deltaplane_server::envoy_types::pb::google::protobuf::{Any, Duration, UInt32Value};

use crate::certificates::Secret;
use crate::cli::bootstrap::CONTROL_PLANE;
use crate::fleets::Source;
use crate::service::host::Host;
use crate::service::upstream::{self, Authorities};
use crate::translate::route_message::{self, RouteInputs};

/// Where the authorities are that Envoy's own system trusts, on Debian, in
/// Envoy's images, and elsewhere.
const SYSTEM_AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// A message, ready to be encoded as a resource.
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::exhaustive_enums)] // a service needs these five types
pub enum Message {
    /// Where Envoy connects to.
    Cluster(Box<Cluster>),
    /// Its addresses.
    Endpoints(Box<ClusterLoadAssignment>),
    /// Where Envoy accepts connections.
    Listener(Box<Listener>),
    /// Which request goes to which cluster.
    Routes(Box<RouteConfiguration>),
    /// What is shown, or who is trusted.
    Secret(Box<EnvoySecret>),
}

/// All that a cluster depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ClusterInputs<'a> {
    pub(crate) name: &'a str,
    /// The endpoints, if there is one of them for DNS; `None` if they come over
    /// EDS.
    pub(crate) resolved: Option<&'a Vec<upstream::Endpoint>>,
    pub(crate) connect_timeout_ms: u64,
    pub(crate) health_check: Option<&'a upstream::HealthCheck>,
    pub(crate) http2: bool,
    pub(crate) tls: Option<&'a upstream::Tls>,
}

/// All that the endpoints of a cluster depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EndpointInputs<'a> {
    pub(crate) name: &'a str,
    pub(crate) endpoints: &'a [upstream::Endpoint],
}

/// All that a listener depends on, but for what it does with connections.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ListenerInputs<'a> {
    pub(crate) address: IpAddr,
    pub(crate) port: u16,
    pub(crate) source: Source,
    /// Which it shows; without any, it is open.
    pub(crate) certificates: &'a BTreeSet<String>,
}

pub(crate) fn listener_name(port: u16) -> String {
    format!("listener-{port}")
}

pub(crate) fn routes_name(port: u16) -> String {
    format!("routes-{port}")
}

pub(crate) fn cluster(inputs: ClusterInputs<'_>, source: Source) -> Message {
    let is_eds = inputs.resolved.is_none();
    let kind = match is_eds {
        true => cluster::DiscoveryType::Eds,
        false => cluster::DiscoveryType::StrictDns,
    };
    let family = match is_eds {
        true => cluster::DnsLookupFamily::default(),
        false => cluster::DnsLookupFamily::V4Preferred,
    };
    Message::Cluster(Box::new(Cluster {
        name: inputs.name.to_owned(),
        connect_timeout: Some(milliseconds(inputs.connect_timeout_ms)),
        cluster_discovery_type: Some(cluster::ClusterDiscoveryType::Type(kind.into())),
        eds_cluster_config: is_eds.then(|| cluster::EdsClusterConfig {
            eds_config: Some(config_source(source)),
            service_name: String::new(),
        }),
        dns_lookup_family: family.into(),
        load_assignment: inputs.resolved.map(|endpoints| load_assignment(inputs.name, endpoints)),
        health_checks: inputs
            .health_check
            .map(|check| health_check(check, inputs.http2))
            .into_iter()
            .collect(),
        // Otherwise an upstream that was replaced serves on for as long as it
        // passes its health checks.
        ignore_health_on_host_removal: inputs.health_check.is_some(),
        typed_extension_protocol_options: inputs.http2.then(http2).into_iter().collect(),
        transport_socket: inputs.tls.map(|tls| upstream_tls(tls, inputs.http2, source)),
        ..Cluster::default()
    }))
}

fn health_check(check: &upstream::HealthCheck, http2: bool) -> HealthCheck {
    let codec = if http2 { CodecClientType::Http2 } else { CodecClientType::Http1 };
    let http = health_check::HttpHealthCheck {
        path: check.path.clone(),
        codec_client_type: codec.into(),
        ..health_check::HttpHealthCheck::default()
    };
    let interval = Some(milliseconds(check.interval_ms));
    HealthCheck {
        timeout: Some(milliseconds(check.interval_ms.min(1000))),
        interval,
        // Before its first request Envoy would ask only once a minute.
        no_traffic_interval: interval,
        unhealthy_threshold: Some(UInt32Value { value: 3 }),
        healthy_threshold: Some(UInt32Value { value: 2 }),
        health_checker: Some(health_check::HealthChecker::HttpHealthCheck(http)),
        ..HealthCheck::default()
    }
}

/// What makes Envoy speak HTTP/2 to an upstream, without asking.
fn http2() -> (String, Any) {
    let protocol = ProtocolConfig::Http2ProtocolOptions(Http2ProtocolOptions::default());
    let explicit = ExplicitHttpConfig { protocol_config: Some(protocol) };
    let options = HttpProtocolOptions {
        upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(explicit)),
        ..HttpProtocolOptions::default()
    };
    ("envoy.extensions.upstreams.http.v3.HttpProtocolOptions".to_owned(), pack(&options))
}

fn upstream_tls(tls: &upstream::Tls, http2: bool, source: Source) -> TransportSocket {
    let context = UpstreamTlsContext {
        sni: tls.sni.clone().unwrap_or_default(),
        common_tls_context: Some(CommonTlsContext {
            alpn_protocols: http2.then(|| "h2".to_owned()).into_iter().collect(),
            validation_context_type: tls.trust.as_ref().map(|trust| validation(trust, source)),
            ..CommonTlsContext::default()
        }),
        ..UpstreamTlsContext::default()
    };
    tls_socket(pack(&context))
}

fn tls_socket(context: Any) -> TransportSocket {
    TransportSocket {
        name: "envoy.transport_sockets.tls".to_owned(),
        config_type: Some(transport_socket::ConfigType::TypedConfig(context)),
    }
}

fn validation(trust: &upstream::Trust, source: Source) -> ValidationContextType {
    let names = trust.names.iter().map(subject).collect();
    let mut context = CertificateValidationContext {
        match_typed_subject_alt_names: names,
        ..CertificateValidationContext::default()
    };
    match &trust.authorities {
        Authorities::Given(pem) => context.trusted_ca = Some(inline(pem)),
        Authorities::System => {
            let specifier = data_source::Specifier::Filename(SYSTEM_AUTHORITIES.to_owned());
            let specifier = Some(specifier);
            context.trusted_ca = Some(DataSource { specifier, ..DataSource::default() });
        }
        Authorities::Stored(name) => {
            let combined = CombinedCertificateValidationContext {
                default_validation_context: Some(context),
                validation_context_sds_secret_config: Some(sds(name, source)),
                ..CombinedCertificateValidationContext::default()
            };
            return ValidationContextType::CombinedValidationContext(combined);
        }
    }
    ValidationContextType::ValidationContext(context)
}

fn subject(host: &Host) -> SubjectAltNameMatcher {
    let (kind, exact) = match host {
        Host::Name(name) => (SanType::Dns, name.trim_end_matches('.').to_owned()),
        Host::Ip(ip) => (SanType::IpAddress, ip.to_string()),
    };
    let pattern = Some(string_matcher::MatchPattern::Exact(exact));
    SubjectAltNameMatcher {
        san_type: kind.into(),
        matcher: Some(StringMatcher { match_pattern: pattern, ..StringMatcher::default() }),
        ..SubjectAltNameMatcher::default()
    }
}

fn sds(name: &str, source: Source) -> SdsSecretConfig {
    SdsSecretConfig { name: name.to_owned(), sds_config: Some(config_source(source)) }
}

fn inline(text: &str) -> DataSource {
    let specifier = Some(data_source::Specifier::InlineString(text.to_owned()));
    DataSource { specifier, ..DataSource::default() }
}

pub(crate) fn secret(name: &str, secret: &Secret) -> Message {
    let content = match secret {
        Secret::Pair { certificate, key } => secret::Type::TlsCertificate(TlsCertificate {
            certificate_chain: Some(inline(certificate)),
            private_key: Some(inline(key)),
            ..TlsCertificate::default()
        }),
        Secret::Authorities(pem) => secret::Type::ValidationContext(CertificateValidationContext {
            trusted_ca: Some(inline(pem)),
            ..CertificateValidationContext::default()
        }),
    };
    Message::Secret(Box::new(EnvoySecret { name: name.to_owned(), r#type: Some(content) }))
}

pub(crate) fn endpoints(inputs: EndpointInputs<'_>) -> Message {
    Message::Endpoints(Box::new(load_assignment(inputs.name, inputs.endpoints)))
}

fn load_assignment(cluster: &str, endpoints: &[upstream::Endpoint]) -> ClusterLoadAssignment {
    let lb_endpoints = endpoints.iter().map(|endpoint| lb_endpoint(endpoint, endpoints.len()));
    ClusterLoadAssignment {
        cluster_name: cluster.to_owned(),
        endpoints: vec![LocalityLbEndpoints {
            lb_endpoints: lb_endpoints.collect(),
            ..LocalityLbEndpoints::default()
        }],
        ..ClusterLoadAssignment::default()
    }
}

/// One of so many. Of one alone, no weight need be told.
fn lb_endpoint(inputs: &upstream::Endpoint, of: usize) -> LbEndpoint {
    let host = match &inputs.host {
        Host::Ip(ip) => ip.to_string(),
        Host::Name(name) => name.clone(),
    };
    let endpoint = lb_endpoint::HostIdentifier::Endpoint(Endpoint {
        address: Some(socket(&host, inputs.port)),
        ..Endpoint::default()
    });
    LbEndpoint {
        load_balancing_weight: (of > 1).then_some(UInt32Value { value: inputs.weight }),
        host_identifier: Some(endpoint),
        ..LbEndpoint::default()
    }
}

pub(crate) fn http_listener(inputs: ListenerInputs<'_>) -> Message {
    let config_source = Some(config_source(inputs.source));
    let rds = Rds { config_source, route_config_name: routes_name(inputs.port) };
    let router = HttpFilter {
        name: "envoy.filters.http.router".to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(pack(&Router::default()))),
        ..HttpFilter::default()
    };
    let manager = HttpConnectionManager {
        stat_prefix: listener_name(inputs.port),
        route_specifier: Some(http_connection_manager::RouteSpecifier::Rds(rds)),
        http_filters: vec![router],
        ..HttpConnectionManager::default()
    };
    let name = "envoy.filters.network.http_connection_manager";
    listener(inputs, name, pack(&manager), &["h2", "http/1.1"])
}

pub(crate) fn tcp_listener(inputs: ListenerInputs<'_>, cluster: &str) -> Message {
    let proxy = TcpProxy {
        stat_prefix: listener_name(inputs.port),
        cluster_specifier: Some(tcp_proxy::ClusterSpecifier::Cluster(cluster.to_owned())),
        ..TcpProxy::default()
    };
    listener(inputs, "envoy.filters.network.tcp_proxy", pack(&proxy), &[])
}

fn listener(inputs: ListenerInputs<'_>, filter: &str, config: Any, alpn: &[&str]) -> Message {
    let ListenerInputs { address, port, source, certificates } = inputs;
    let filter = Filter {
        name: filter.to_owned(),
        config_type: Some(filter::ConfigType::TypedConfig(config)),
    };
    let is_open = certificates.is_empty();
    let context = || DownstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            alpn_protocols: alpn.iter().map(|&protocol| protocol.to_owned()).collect(),
            tls_certificate_sds_secret_configs: certificates
                .iter()
                .map(|name| sds(name, source))
                .collect(),
            ..CommonTlsContext::default()
        }),
        ..DownstreamTlsContext::default()
    };
    Message::Listener(Box::new(Listener {
        name: listener_name(port),
        address: Some(socket(&address.to_string(), port)),
        filter_chains: vec![FilterChain {
            filters: vec![filter],
            transport_socket: (!is_open).then(|| tls_socket(pack(&context()))),
            ..FilterChain::default()
        }],
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
        routes: routes.iter().map(route_message::route).collect(),
        ..VirtualHost::default()
    };
    Message::Routes(Box::new(RouteConfiguration {
        name: routes_name(port),
        virtual_hosts: hosts.into_iter().map(virtual_host).collect(),
        ..RouteConfiguration::default()
    }))
}

/// Where Envoy gets what a message refers to.
fn config_source(source: Source) -> ConfigSource {
    let specifier = match source {
        Source::Ads => ConfigSourceSpecifier::Ads(AggregatedConfigSource::default()),
        Source::Grpc => separate(ApiType::Grpc),
        Source::DeltaGrpc => separate(ApiType::DeltaGrpc),
    };
    ConfigSource {
        resource_api_version: ApiVersion::V3.into(),
        config_source_specifier: Some(specifier),
        ..ConfigSource::default()
    }
}

fn separate(kind: ApiType) -> ConfigSourceSpecifier {
    let envoy = grpc_service::EnvoyGrpc {
        cluster_name: CONTROL_PLANE.to_owned(),
        ..grpc_service::EnvoyGrpc::default()
    };
    let target = Some(grpc_service::TargetSpecifier::EnvoyGrpc(envoy));
    ConfigSourceSpecifier::ApiConfigSource(ApiConfigSource {
        api_type: kind.into(),
        transport_api_version: ApiVersion::V3.into(),
        grpc_services: vec![GrpcService { target_specifier: target, ..GrpcService::default() }],
        set_node_on_first_message_only: true,
        ..ApiConfigSource::default()
    })
}

fn socket(host: &str, port: u16) -> Address {
    let socket = SocketAddress {
        address: host.to_owned(),
        port_specifier: Some(socket_address::PortSpecifier::PortValue(port.into())),
        ..SocketAddress::default()
    };
    Address { address: Some(address::Address::SocketAddress(socket)) }
}

pub(crate) fn milliseconds(ms: u64) -> Duration {
    let time = std::time::Duration::from_millis(ms);
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    Duration { seconds, nanos: time.subsec_nanos().cast_signed() }
}

fn pack<M: prost::Message + prost::Name>(message: &M) -> Any {
    Any { type_url: M::type_url(), value: message.encode_to_vec() }
}
