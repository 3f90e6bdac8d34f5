//! What is wrong with resources, before anybody sees them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests are tests"
)]

mod contents;
mod policy;
mod references;

use std::sync::Arc;

use deltaplane_server::{
    Cache, Key, Resource, Scope, Transaction, TypeUrl, envoy,
    validation::{Policy, Problem, Report, Validator},
};
use envoy_types::pb::envoy::config::{
    cluster::v3::{
        Cluster,
        cluster::{ClusterDiscoveryType, DiscoveryType, EdsClusterConfig},
    },
    core::v3::{ConfigSource, config_source::ConfigSourceSpecifier},
    endpoint::v3::ClusterLoadAssignment,
    route::v3::RouteConfiguration,
};
use prost::Message;

const CDS: TypeUrl = TypeUrl::CLUSTER;
const EDS: TypeUrl = TypeUrl::ENDPOINT;
const RDS: TypeUrl = TypeUrl::ROUTE;

fn static_cluster(name: &str) -> Resource {
    envoy::resource(&Cluster { name: name.into(), ..Cluster::default() })
}

/// A cluster that gets its endpoints by EDS under this name, or its own.
fn eds_cluster(name: &str, service_name: &str) -> Resource {
    let ads = ConfigSourceSpecifier::Ads(Default::default());
    envoy::resource(&Cluster {
        name: name.into(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds as i32)),
        eds_cluster_config: Some(EdsClusterConfig {
            service_name: service_name.into(),
            eds_config: Some(ConfigSource {
                config_source_specifier: Some(ads),
                ..ConfigSource::default()
            }),
        }),
        ..Cluster::default()
    })
}

fn endpoints(name: &str) -> Resource {
    envoy::resource(&ClusterLoadAssignment { cluster_name: name.into(), ..Default::default() })
}

/// A route configuration that refers to these clusters.
fn routes(name: &str, clusters: &[&str]) -> Resource {
    // Another content for other clusters.
    let internal_only_headers = clusters.iter().map(|cluster| cluster.to_string()).collect();
    let message = RouteConfiguration {
        name: name.into(),
        internal_only_headers,
        ..RouteConfiguration::default()
    };
    let references = clusters.iter().map(|cluster| Key::new(CDS, *cluster));
    let resource = Resource::raw(RDS, name, message.encode_to_vec()).schema(envoy::schema());
    resource.references(references.collect::<Vec<_>>()).build()
}

fn scopes(names: &[&str]) -> Arc<[Scope]> {
    names.iter().map(|name| Scope::from(*name)).collect()
}

fn transaction(fill: impl FnOnce(&mut Transaction)) -> Transaction {
    let mut transaction = Transaction::new();
    fill(&mut transaction);
    transaction
}

/// Commits, and tells what was wrong.
fn commit(validator: &Validator, cache: &Cache, fill: impl FnOnce(&mut Transaction)) -> Report {
    validator.commit(cache, transaction(fill)).unwrap().1
}

/// What is wrong with one resource by itself.
fn problems(resource: Resource) -> Vec<Problem> {
    let report = commit(&Validator::new(Policy::Warn), &Cache::new(), |t| {
        t.declare("s", EDS).upsert("s", resource);
    });
    report.problems().to_vec()
}

/// Who refers to what, that is missing.
fn missing(report: &Report) -> Vec<(&str, &str)> {
    let names = report.problems().iter().map(|problem| match problem {
        Problem::Dangling { from, to, .. } => (&*from.name, &*to.name),
        Problem::NoEndpoints { cluster, endpoints, .. } => (&**cluster, &**endpoints),
        other => panic!("{other}"),
    });
    names.collect()
}
