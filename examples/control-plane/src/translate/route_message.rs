//! One route of Envoy's, of whatever it is made.

use std::cmp::Reverse;

use deltaplane_server::envoy_types::pb::envoy::config::route::v3::{
    HeaderMatcher, RedirectAction, RetryPolicy, Route, RouteAction, RouteMatch, WeightedCluster,
    header_matcher, redirect_action, route, route_action, route_match, weighted_cluster,
};
use deltaplane_server::envoy_types::pb::envoy::r#type::matcher::v3::{
    RegexMatchAndSubstitute, RegexMatcher, StringMatcher, string_matcher,
};
use deltaplane_server::envoy_types::pb::google::protobuf::UInt32Value;

use crate::routes::{self, HeaderMatch, Redirect, Rewrite};
use crate::service::{Forwarding, Routing};
use crate::translate::message::milliseconds;

/// Which requests, and what becomes of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RouteInputs {
    path: Path,
    headers: Vec<HeaderMatch>,
    action: Action,
}

/// In the order in which they are tried.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Path {
    Exact(String),
    Regex(String),
    Prefix(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Action {
    Forward { to: Vec<(String, u32)>, rewrite: Option<Rewrite>, how: Forwarding },
    Redirect(Redirect),
}

impl RouteInputs {
    /// What a service says of itself.
    pub(crate) fn of_service(name: &str, routing: &Routing) -> RouteInputs {
        let how = routing.forwarding.clone();
        let action = Action::Forward { to: vec![(name.to_owned(), 1)], rewrite: None, how };
        let path = Path::Prefix(routing.prefix.clone());
        RouteInputs { path, headers: Vec::new(), action }
    }

    /// A route of its own, as far as its targets are there; nothing, if none is.
    pub(crate) fn of_route(
        route: &routes::Route,
        is_there: impl Fn(&str) -> bool,
    ) -> Option<RouteInputs> {
        let path = match (&route.prefix, &route.path, &route.regex) {
            (Some(prefix), ..) => Path::Prefix(prefix.clone()),
            (_, Some(path), _) => Path::Exact(path.clone()),
            (.., Some(regex)) => Path::Regex(regex.clone()),
            _ => return None,
        };
        let action = match &route.redirect {
            Some(redirect) => Action::Redirect(redirect.clone()),
            None => {
                let there = route.targets.iter().filter(|target| is_there(&target.service));
                let weight = |weight| u32::try_from(weight).unwrap_or_default();
                let to: Vec<_> =
                    there.map(|target| (target.service.clone(), weight(target.weight))).collect();
                if to.iter().all(|(_, weight)| *weight == 0) {
                    return None;
                }
                let how = Forwarding {
                    timeout_ms: route.timeout_ms.map(i64::unsigned_abs),
                    retries: weight(route.retries),
                    websocket: route.websocket,
                    grpc: false,
                };
                Action::Forward { to, rewrite: route.rewrite.clone(), how }
            }
        };
        Some(RouteInputs { path, headers: route.headers.clone(), action })
    }

    /// Envoy takes the first that fits: the more a route asks for, the earlier.
    pub(crate) fn place(&self) -> impl Ord + use<> {
        let (kind, length) = match &self.path {
            Path::Exact(path) => (0, path.len()),
            // Which of them asks for more, nobody can say: they go by name.
            Path::Regex(_) => (1, 0),
            Path::Prefix(prefix) => (2, prefix.len()),
        };
        (kind, Reverse(length), Reverse(self.headers.len()))
    }
}

pub(crate) fn route(inputs: &RouteInputs) -> Route {
    let path = match &inputs.path {
        Path::Exact(path) => route_match::PathSpecifier::Path(path.clone()),
        Path::Regex(regex) => route_match::PathSpecifier::SafeRegex(matcher(regex)),
        Path::Prefix(prefix) => route_match::PathSpecifier::Prefix(prefix.clone()),
    };
    let action = match &inputs.action {
        Action::Redirect(redirect) => route::Action::Redirect(self::redirect(redirect)),
        Action::Forward { to, rewrite, how } => {
            route::Action::Route(forward(to, rewrite.as_ref(), &inputs.path, how))
        }
    };
    Route {
        r#match: Some(RouteMatch {
            path_specifier: Some(path),
            headers: inputs.headers.iter().map(header).collect(),
            ..RouteMatch::default()
        }),
        action: Some(action),
        ..Route::default()
    }
}

fn header(inputs: &HeaderMatch) -> HeaderMatcher {
    let pattern = match (&inputs.exact, &inputs.prefix, &inputs.regex) {
        (Some(text), ..) => Some(string_matcher::MatchPattern::Exact(text.clone())),
        (_, Some(text), _) => Some(string_matcher::MatchPattern::Prefix(text.clone())),
        (.., Some(regex)) => Some(string_matcher::MatchPattern::SafeRegex(matcher(regex))),
        _ => None,
    };
    let specifier = match pattern {
        None => header_matcher::HeaderMatchSpecifier::PresentMatch(true),
        pattern => header_matcher::HeaderMatchSpecifier::StringMatch(StringMatcher {
            match_pattern: pattern,
            ..StringMatcher::default()
        }),
    };
    HeaderMatcher {
        name: inputs.name.clone(),
        invert_match: inputs.not,
        header_match_specifier: Some(specifier),
        ..HeaderMatcher::default()
    }
}

fn matcher(regex: &str) -> RegexMatcher {
    RegexMatcher { regex: regex.to_owned(), ..RegexMatcher::default() }
}

fn redirect(inputs: &Redirect) -> RedirectAction {
    use redirect_action::{
        PathRewriteSpecifier::{PathRedirect, PrefixRewrite},
        RedirectResponseCode::{
            Found, MovedPermanently, PermanentRedirect, SeeOther, TemporaryRedirect,
        },
    };
    let code = match inputs.status {
        302 => Found,
        303 => SeeOther,
        307 => TemporaryRedirect,
        308 => PermanentRedirect,
        _ => MovedPermanently,
    };
    let path = inputs.path.clone().map(PathRedirect);
    let https = redirect_action::SchemeRewriteSpecifier::HttpsRedirect(true);
    RedirectAction {
        host_redirect: inputs.host.clone().unwrap_or_default(),
        response_code: code.into(),
        scheme_rewrite_specifier: inputs.https.then_some(https),
        path_rewrite_specifier: path.or(inputs.prefix.clone().map(PrefixRewrite)),
        ..RedirectAction::default()
    }
}

fn forward(
    to: &[(String, u32)],
    rewrite: Option<&Rewrite>,
    path: &Path,
    how: &Forwarding,
) -> RouteAction {
    let websocket = || route_action::UpgradeConfig {
        upgrade_type: "websocket".to_owned(),
        ..route_action::UpgradeConfig::default()
    };
    // What is meant to last has no limit, unless somebody sets one.
    let timeout_ms = how.timeout_ms.or((how.grpc || how.websocket).then_some(0));
    let host = rewrite.and_then(|rewrite| rewrite.host.clone());
    let substitution = |rewrite: &Rewrite| {
        let Path::Regex(regex) = path else { return None };
        let substitution = rewrite.regex.clone()?;
        Some(RegexMatchAndSubstitute { pattern: Some(matcher(regex)), substitution })
    };
    RouteAction {
        cluster_specifier: Some(clusters(to)),
        timeout: timeout_ms.map(milliseconds),
        retry_policy: (how.retries > 0).then(|| retry_policy(how)),
        upgrade_configs: how.websocket.then(websocket).into_iter().collect(),
        prefix_rewrite: rewrite.and_then(|rewrite| rewrite.prefix.clone()).unwrap_or_default(),
        regex_rewrite: rewrite.and_then(substitution),
        host_rewrite_specifier: host.map(route_action::HostRewriteSpecifier::HostRewriteLiteral),
        ..RouteAction::default()
    }
}

fn clusters(to: &[(String, u32)]) -> route_action::ClusterSpecifier {
    if let [(only, _)] = to {
        return route_action::ClusterSpecifier::Cluster(only.clone());
    }
    let cluster = |(name, weight): &(String, u32)| weighted_cluster::ClusterWeight {
        name: name.clone(),
        weight: Some(UInt32Value { value: *weight }),
        ..weighted_cluster::ClusterWeight::default()
    };
    route_action::ClusterSpecifier::WeightedClusters(WeightedCluster {
        clusters: to.iter().map(cluster).collect(),
        ..WeightedCluster::default()
    })
}

/// Only what no upstream has begun to work on, or says that it has not.
fn retry_policy(how: &Forwarding) -> RetryPolicy {
    let retry_on = match how.grpc {
        true => "connect-failure,refused-stream,reset-before-request,unavailable",
        false => "connect-failure,refused-stream,reset-before-request",
    };
    RetryPolicy {
        retry_on: retry_on.to_owned(),
        num_retries: Some(UInt32Value { value: how.retries }),
        ..RetryPolicy::default()
    }
}
