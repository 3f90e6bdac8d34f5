//! What is wrong with a resource by itself.

use std::collections::HashMap;

use envoy_types::{
    pb::{
        envoy::{
            config::{
                cluster::v3::{OutlierDetection, cluster::CommonLbConfig},
                core::v3::{
                    Address, DataSource, HeaderValue, HeaderValueOption, HealthCheck, Metadata,
                    SocketAddress, address, data_source, socket_address::PortSpecifier,
                },
                endpoint::v3::{
                    Endpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint::HostIdentifier,
                },
                listener::v3::{Filter, FilterChain, Listener, filter::ConfigType},
                route::v3::{
                    Route, RouteAction, RouteMatch, VirtualHost, route::Action,
                    route_action::ClusterSpecifier, route_match::PathSpecifier,
                },
            },
            extensions::{
                filters::network::http_connection_manager::v3::{
                    HttpConnectionManager, http_connection_manager,
                },
                transport_sockets::tls::v3::{Secret, TlsCertificate, secret},
            },
            r#type::v3::Percent,
        },
        google::protobuf::{Any, Duration, Struct, UInt32Value},
    },
    util::pack_any,
};

use super::*;

/// The fields that violate a rule, and how.
fn violations(resource: Resource) -> Vec<(String, String)> {
    let rules = problems(resource).into_iter().map(|problem| match problem {
        Problem::Rule { field, rule, .. } => (field, rule),
        other => panic!("{other}"),
    });
    rules.collect()
}

#[track_caller]
fn violates(resource: Resource, field: &str, rule: &str) {
    assert_eq!(violations(resource), [(field.to_owned(), rule.to_owned())]);
}

fn cluster(change: impl FnOnce(&mut Cluster)) -> Resource {
    let mut cluster = Cluster { name: "c".into(), ..Cluster::default() };
    change(&mut cluster);
    envoy::resource(&cluster)
}

fn address(port: u32) -> Address {
    let address = SocketAddress {
        address: "::1".into(),
        port_specifier: Some(PortSpecifier::PortValue(port)),
        ..SocketAddress::default()
    };
    Address { address: Some(address::Address::SocketAddress(address)) }
}

fn listener(filter: Any) -> Resource {
    let filter = Filter { name: "f".into(), config_type: Some(ConfigType::TypedConfig(filter)) };
    envoy::resource(&Listener {
        name: "l".into(),
        address: Some(address(80)),
        filter_chains: vec![FilterChain { filters: vec![filter], ..FilterChain::default() }],
        ..Listener::default()
    })
}

#[test]
fn bytes_that_are_no_such_message_are_malformed() {
    let found = problems(envoy::raw(CDS, "c", vec![0xff]).build());
    let [problem @ Problem::Malformed { scope, key, .. }] = &*found else { panic!("{found:?}") };
    assert_eq!((scope, key), (&"s".into(), &Key::new(CDS, "c")));
    assert!(
        problem.to_string().contains("Cluster \"c\" in scope s cannot be decoded"),
        "{problem}"
    );
    let other = TypeUrl::from("type.googleapis.com/of.somebody.Else");
    assert_eq!(problems(envoy::raw(other, "c", vec![0xff]).build()), []);
}

#[test]
fn a_resource_has_its_own_name_in_it() {
    let endpoints = ClusterLoadAssignment { cluster_name: "other".into(), ..Default::default() };
    let found = problems(envoy::raw(EDS, "mine", endpoints.encode_to_vec()).build());
    let expected = Problem::Misnamed {
        scope: "s".into(),
        key: Key::new(EDS, "mine"),
        field: "cluster_name",
        name: "other".into(),
    };
    assert_eq!(found, [expected]);
    let host = VirtualHost { name: "host".into(), domains: vec!["d".into()], ..Default::default() };
    let host = envoy::raw(TypeUrl::VIRTUAL_HOST, "routes/d", host.encode_to_vec()).build();
    assert_eq!(problems(host), [], "a virtual host is asked for by another");
}

#[test]
fn what_keeps_all_rules_has_no_problem() {
    let manager = HttpConnectionManager {
        stat_prefix: "s".into(),
        route_specifier: Some(http_connection_manager::RouteSpecifier::RouteConfig(
            RouteConfiguration::default(),
        )),
        ..HttpConnectionManager::default()
    };
    for resource in [
        listener(pack_any(manager)),
        eds_cluster("c", ""),
        static_cluster("c"),
        endpoints("c"),
        routes("r", &[]),
        virtual_host(|host| host.routes = vec![route()]),
        listener(Any { type_url: "type.googleapis.com/my.Filter".into(), value: vec![0xff] }),
    ] {
        let mut found = problems(resource);
        found.retain(|problem| !matches!(problem, Problem::Dangling { .. }));
        assert_eq!(found, []);
    }
}

#[test]
fn numbers_lie_within_their_bounds() {
    let endpoint = Endpoint { address: Some(address(70_000)), ..Endpoint::default() };
    let endpoint = LbEndpoint {
        host_identifier: Some(HostIdentifier::Endpoint(endpoint)),
        ..LbEndpoint::default()
    };
    let endpoints = envoy::resource(&ClusterLoadAssignment {
        cluster_name: "e".into(),
        endpoints: vec![
            LocalityLbEndpoints::default(),
            LocalityLbEndpoints { lb_endpoints: vec![endpoint], ..Default::default() },
        ],
        ..ClusterLoadAssignment::default()
    });
    violates(
        endpoints,
        "endpoints[1].lb_endpoints[0].endpoint.address.socket_address.port_value",
        "is 70000, and must be at most 65535",
    );
    let negative = |cluster: &mut Cluster| {
        let cleanup = Duration { seconds: 0, nanos: -500_000 };
        cluster.cleanup_interval = Some(cleanup);
    };
    violates(cluster(negative), "cleanup_interval", "is -0.0005s, and must be above 0s");
    // A wrapper is held to the rules of what it wraps.
    let outliers = |cluster: &mut Cluster| {
        cluster.outlier_detection = Some(OutlierDetection {
            max_ejection_percent: Some(UInt32Value { value: 101 }),
            ..OutlierDetection::default()
        });
    };
    violates(
        cluster(outliers),
        "outlier_detection.max_ejection_percent",
        "is 101, and must be at most 100",
    );
    let much = |cluster: &mut Cluster| {
        cluster.common_lb_config = Some(CommonLbConfig {
            healthy_panic_threshold: Some(Percent { value: 101. }),
            ..Default::default()
        });
    };
    violates(
        cluster(much),
        "common_lb_config.healthy_panic_threshold.value",
        "is 101, and must be at least 0 and at most 100",
    );
}

#[test]
fn what_is_required_is_there() {
    let check = |cluster: &mut Cluster| {
        let second = Some(Duration { seconds: 1, nanos: 0 });
        let check = HealthCheck {
            timeout: second,
            unhealthy_threshold: Some(UInt32Value { value: 1 }),
            healthy_threshold: Some(UInt32Value { value: 1 }),
            ..HealthCheck::default()
        };
        cluster.health_checks = vec![check];
    };
    let found = violations(cluster(check));
    let fields: Vec<_> = found.iter().map(|(field, rule)| (&**field, &rule[..10])).collect();
    assert_eq!(
        fields,
        [
            ("health_checks[0].health_checker", "is missing"),
            ("health_checks[0].interval", "is missing")
        ]
    );
    assert!(found[0].1.contains("set one of `http_health_check`, "), "{found:?}");
}

#[test]
fn values_of_enumerations_are_defined() {
    violates(
        cluster(|c| c.lb_policy = 77),
        "lb_policy",
        "is 77, which is no value of its enumeration",
    );
}

#[test]
fn the_keys_of_a_map_have_rules() {
    let metadata = |cluster: &mut Cluster| {
        let filter_metadata = HashMap::from([(String::new(), Struct::default())]);
        cluster.metadata = Some(Metadata { filter_metadata, ..Metadata::default() });
    };
    violates(
        cluster(metadata),
        "metadata.filter_metadata[\"\"]",
        "has 0 characters, and must have at least 1",
    );
}

/// Of its match, one member is set where others would be required if they were meant.
fn route() -> Route {
    Route {
        r#match: Some(RouteMatch {
            path_specifier: Some(PathSpecifier::Prefix("/".into())),
            ..RouteMatch::default()
        }),
        action: Some(Action::Route(RouteAction {
            cluster_specifier: Some(ClusterSpecifier::Cluster("c".into())),
            ..RouteAction::default()
        })),
        ..Route::default()
    }
}

fn virtual_host(change: impl FnOnce(&mut VirtualHost)) -> Resource {
    let mut host =
        VirtualHost { name: "h".into(), domains: vec!["*".into()], ..Default::default() };
    change(&mut host);
    envoy::resource(&RouteConfiguration {
        name: "r".into(),
        virtual_hosts: vec![host],
        ..RouteConfiguration::default()
    })
}

#[test]
fn lists_have_rules_and_so_have_their_items() {
    let none = "has 0 items, and must have at least 1";
    violates(virtual_host(|h| h.domains.clear()), "virtual_hosts[0].domains", none);
    violates(
        virtual_host(|h| h.request_headers_to_remove = vec!["fine".into(), "n\no".into()]),
        "virtual_hosts[0].request_headers_to_remove[1]",
        "has characters that the name of a header cannot have",
    );
    let header = |value: &str| {
        let header = HeaderValue { key: "k".into(), value: value.into(), ..Default::default() };
        vec![HeaderValueOption { header: Some(header), ..HeaderValueOption::default() }]
    };
    violates(
        virtual_host(|h| h.request_headers_to_add = header("a\0b")),
        "virtual_hosts[0].request_headers_to_add[0].header.value",
        "has characters that the value of a header cannot have",
    );
    assert_eq!(violations(virtual_host(|h| h.request_headers_to_add = header("a\tb"))), []);
}

#[test]
fn what_is_packed_is_looked_at_too() {
    violates(
        listener(pack_any(HttpConnectionManager { stat_prefix: "s".into(), ..Default::default() })),
        "filter_chains[0].filters[0].typed_config.route_specifier",
        "is missing: set one of `rds`, `route_config`, `scoped_routes`",
    );
}

#[test]
fn what_is_packed_and_no_such_message_is_reported() {
    let type_url = TypeUrl::of::<HttpConnectionManager>().to_string();
    let found = violations(listener(Any { type_url, value: vec![0xff] }));
    let [(field, rule)] = &*found else { panic!("{found:?}") };
    assert_eq!(field, "filter_chains[0].filters[0].typed_config");
    assert!(rule.starts_with("holds no envoy.extensions.filters.network.http_conn"), "{rule}");
}

#[test]
fn of_one_resource_twenty_violations_are_enough() {
    let all = |cluster: &mut Cluster| cluster.health_checks = vec![HealthCheck::default(); 100];
    assert_eq!(violations(cluster(all)).len(), 20);
}

#[test]
fn what_is_wrong_with_a_secret_does_not_show_it() {
    let key = DataSource {
        specifier: Some(data_source::Specifier::EnvironmentVariable(String::new())),
        ..DataSource::default()
    };
    let certificate = TlsCertificate {
        private_key: Some(key),
        password: Some(DataSource {
            specifier: Some(data_source::Specifier::InlineString("swordfish".into())),
            ..DataSource::default()
        }),
        ..TlsCertificate::default()
    };
    let secret = envoy::resource(&Secret {
        name: "s".into(),
        r#type: Some(secret::Type::TlsCertificate(certificate)),
    });
    let found = problems(secret);
    assert_eq!(found.len(), 1);
    assert!(!found[0].to_string().contains("swordfish"), "{}", found[0]);
}
