//! Routes: `envoy.config.route.v3`.

use deltaplane_core::TypeUrl;
use prost::Message;

use super::{ConfigSource, Found, Named, Refers, matcher::Matcher};

#[derive(Clone, PartialEq, Message)]
pub(super) struct ScopedRouteConfiguration {
    #[prost(string, tag = "2")]
    route_configuration_name: String,
    #[prost(message, optional, tag = "5")]
    route_configuration: Option<RouteConfiguration>,
}

impl ScopedRouteConfiguration {
    /// What one within a listener refers to, which says where route configurations come from.
    pub(super) fn refer_from(self, source: Option<&ConfigSource>, found: &mut Found) {
        if let Some(source) = source {
            found.add_from(source, TypeUrl::ROUTE, self.route_configuration_name);
        }
        if let Some(routes) = self.route_configuration {
            routes.refer(found);
        }
    }
}

impl Refers for ScopedRouteConfiguration {
    /// Where its routes come from is for the listener to say. This server delivers the one, so likely the
    /// other, too.
    fn refer(self, found: &mut Found) {
        found.add(TypeUrl::ROUTE, self.route_configuration_name);
        if let Some(routes) = self.route_configuration {
            routes.refer(found);
        }
    }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct RouteConfiguration {
    #[prost(message, repeated, tag = "2")]
    virtual_hosts: Vec<VirtualHost>,
    #[prost(message, repeated, tag = "13")]
    mirrors: Vec<Named>,
}

impl Refers for RouteConfiguration {
    fn refer(self, found: &mut Found) {
        refer_to_clusters(self.mirrors, found);
        self.virtual_hosts.into_iter().for_each(|host| host.refer(found));
    }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct VirtualHost {
    #[prost(message, repeated, tag = "3")]
    routes: Vec<Route>,
    #[prost(message, optional, tag = "21")]
    matcher: Option<Matcher>,
    #[prost(message, repeated, tag = "22")]
    mirrors: Vec<Named>,
}

impl Refers for VirtualHost {
    fn refer(self, found: &mut Found) {
        refer_to_clusters(self.mirrors, found);
        self.routes.into_iter().for_each(|route| route.refer(found));
        for action in self.matcher.unwrap_or_default().actions() {
            match action.message_name() {
                "envoy.config.route.v3.Route" => action.refer::<Route>(found),
                "envoy.config.route.v3.RouteList" => action.refer::<RouteList>(found),
                _ => {}
            }
        }
    }
}

#[derive(Clone, PartialEq, Message)]
struct RouteList {
    #[prost(message, repeated, tag = "1")]
    routes: Vec<Route>,
}

impl Refers for RouteList {
    fn refer(self, found: &mut Found) {
        self.routes.into_iter().for_each(|route| route.refer(found));
    }
}

#[derive(Clone, PartialEq, Message)]
struct Route {
    #[prost(message, optional, tag = "2")]
    action: Option<RouteAction>,
}

#[derive(Clone, PartialEq, Message)]
struct RouteAction {
    #[prost(string, tag = "1")]
    cluster: String,
    #[prost(message, optional, tag = "3")]
    weighted_clusters: Option<WeightedCluster>,
    #[prost(message, repeated, tag = "30")]
    mirrors: Vec<Named>,
}

impl Refers for Route {
    fn refer(self, found: &mut Found) {
        let action = self.action.unwrap_or_default();
        found.add(TypeUrl::CLUSTER, action.cluster);
        action.weighted_clusters.unwrap_or_default().refer(found);
        refer_to_clusters(action.mirrors, found);
    }
}

/// `WeightedCluster` of a route's action, and that of `TcpProxy`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct WeightedCluster {
    #[prost(message, repeated, tag = "1")]
    clusters: Vec<Named>,
}

impl Refers for WeightedCluster {
    fn refer(self, found: &mut Found) {
        refer_to_clusters(self.clusters, found);
    }
}

fn refer_to_clusters(clusters: Vec<Named>, found: &mut Found) {
    clusters.into_iter().for_each(|cluster| found.add(TypeUrl::CLUSTER, cluster.name));
}

#[cfg(test)]
pub(super) mod tests {
    use deltaplane_core::Key;
    use envoy_types::pb::envoy::config::route::v3::{
        FilterAction, Route, RouteAction, RouteConfiguration, RouteList, ScopedRouteConfiguration,
        Vhds, VirtualHost, WeightedCluster,
        route::Action,
        route_action::{ClusterSpecifier, RequestMirrorPolicy},
        weighted_cluster::ClusterWeight,
    };

    use super::{
        super::{
            matcher::tests::{chain, map},
            tests::{ads, keys, of, pack},
        },
        *,
    };

    fn clusters<const N: usize>(names: [&str; N]) -> Vec<Key> {
        keys(&TypeUrl::CLUSTER, names)
    }

    fn by(specifier: ClusterSpecifier) -> Route {
        let action = RouteAction { cluster_specifier: Some(specifier), ..Default::default() };
        Route { action: Some(Action::Route(action)), ..Route::default() }
    }

    fn to(cluster: &str) -> Route {
        by(ClusterSpecifier::Cluster(cluster.into()))
    }

    fn mirrors<const N: usize>(names: [&str; N]) -> Vec<RequestMirrorPolicy> {
        let mirror =
            |name: &str| RequestMirrorPolicy { cluster: name.into(), ..Default::default() };
        names.map(mirror).to_vec()
    }

    fn host(routes: Vec<Route>) -> VirtualHost {
        VirtualHost { name: "host".into(), routes, ..VirtualHost::default() }
    }

    /// A route configuration that routes to that cluster.
    pub(in super::super) fn routes_to(cluster: &str) -> RouteConfiguration {
        let virtual_hosts = vec![host(vec![to(cluster)])];
        RouteConfiguration { name: "routes".into(), virtual_hosts, ..Default::default() }
    }

    #[test]
    fn routes_refer_to_clusters() {
        let weight = |name: &str| ClusterWeight { name: name.into(), ..Default::default() };
        let weighted = WeightedCluster {
            clusters: ["b", "a"].map(weight).to_vec(),
            ..WeightedCluster::default()
        };
        let mut mirrored = to("c");
        if let Some(Action::Route(action)) = &mut mirrored.action {
            action.request_mirror_policies = mirrors(["d"]);
        }
        let host = VirtualHost {
            request_mirror_policies: mirrors(["e"]),
            ..host(vec![by(ClusterSpecifier::WeightedClusters(weighted)), mirrored, to("a")])
        };
        assert_eq!(of(&host), clusters(["a", "b", "c", "d", "e"]));
        let routes = RouteConfiguration {
            virtual_hosts: vec![host],
            request_mirror_policies: mirrors(["f"]),
            ..routes_to("z")
        };
        assert_eq!(of(&routes), clusters(["a", "b", "c", "d", "e", "f"]));
    }

    #[test]
    fn what_only_a_request_tells_is_left_out() {
        let header = ClusterSpecifier::ClusterHeader("header".into());
        let plugin = ClusterSpecifier::ClusterSpecifierPlugin("plugin".into());
        let other = Route {
            action: Some(Action::FilterAction(FilterAction::default())),
            ..Route::default()
        };
        let by_header = ClusterWeight { cluster_header: "header".into(), ..Default::default() };
        let weighted = WeightedCluster { clusters: vec![by_header], ..Default::default() };
        let weighted = ClusterSpecifier::WeightedClusters(weighted);
        let host = host(vec![by(header), by(plugin), other, by(weighted)]);
        assert_eq!(of(&host), []);
        let vhds = Some(Vhds { config_source: Some(ads()) });
        assert_eq!(of(&RouteConfiguration { vhds, ..Default::default() }), []);
    }

    #[test]
    fn routes_are_found_in_matchers() {
        let list = RouteList { routes: vec![to("c"), to("b")] };
        let matcher = map(pack(&to("a")), chain(pack(&list), chain(pack(&Vhds::default()), None)));
        let host = VirtualHost { matcher: Some(matcher), ..VirtualHost::default() };
        assert_eq!(of(&host), clusters(["a", "b", "c"]));
    }

    #[test]
    fn scopes_refer_to_route_configurations_or_hold_them() {
        let by_name = ScopedRouteConfiguration {
            name: "scope".into(),
            route_configuration_name: "routes".into(),
            ..ScopedRouteConfiguration::default()
        };
        assert_eq!(of(&by_name), keys(&TypeUrl::ROUTE, ["routes"]));
        let inline = ScopedRouteConfiguration {
            route_configuration: Some(routes_to("a")),
            ..ScopedRouteConfiguration::default()
        };
        assert_eq!(of(&inline), clusters(["a"]));
    }
}
