//! The schema of the Envoy API is up to date, and by it equal resources hash alike in all processes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests are tests"
)]

use std::{
    collections::{BTreeMap, HashMap},
    env, fs,
    process::Command,
};

use deltaplane_core::Schema;
use deltaplane_server::envoy;
use envoy_types::{
    pb::{
        envoy::{
            config::{
                cluster::v3::Cluster,
                core::v3::Metadata,
                endpoint::v3::{ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints},
                listener::v3::{Filter, FilterChain, Listener, filter::ConfigType},
                route::v3::{Route, RouteConfiguration, VirtualHost},
            },
            extensions::filters::network::http_connection_manager::v3::{
                HttpConnectionManager, http_connection_manager::RouteSpecifier,
            },
        },
        google::protobuf::{Any, ListValue, Struct, Value, value::Kind},
    },
    util::pack_any,
};
use prost::{Message, Name};

#[path = "schema/descriptors.rs"]
mod descriptors;
#[path = "schema/protos.rs"]
mod protos;
#[path = "schema/text.rs"]
mod text;

#[test]
fn the_schema_is_that_of_the_protos() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/schema.txt");
    let made = text::schema_text();
    if env::var_os("UPDATE_SCHEMA").is_some() {
        fs::write(path, &made).unwrap();
    }
    let kept = fs::read_to_string(path).unwrap();
    let first = made.lines().zip(kept.lines()).find(|(made, kept)| made != kept);
    assert!(
        made == kept,
        "src/schema.txt is not what the protos of envoy-types say; update it by\n\
         UPDATE_SCHEMA=1 cargo test -p deltaplane-server --test schema\n\
         first difference (protos, file): {first:#?}"
    );
    Schema::parse(&made).unwrap();
}

/// A map that iterates in another order each time that it is made.
fn map<V>(value: impl Fn(usize) -> V) -> HashMap<String, V> {
    (0..8).map(|i| (format!("key-{i}"), value(i))).collect()
}

fn structure(depth: usize) -> Struct {
    let kind = |i| match depth.checked_sub(1) {
        Some(depth) if i == 0 => Kind::StructValue(structure(depth)),
        Some(depth) if i == 1 => Kind::ListValue(ListValue {
            values: vec![Value { kind: Some(Kind::StructValue(structure(depth))) }],
        }),
        _ => Kind::StringValue(format!("value-{i}")),
    };
    Struct { fields: map(|i| Value { kind: Some(kind(i)) }) }
}

fn metadata() -> Metadata {
    Metadata {
        filter_metadata: map(|_| structure(0)),
        typed_filter_metadata: map(|_| pack_any(structure(0))),
    }
}

fn assignment() -> ClusterLoadAssignment {
    let lb_endpoint = LbEndpoint { metadata: Some(metadata()), ..LbEndpoint::default() };
    ClusterLoadAssignment {
        cluster_name: "cluster".into(),
        endpoints: vec![LocalityLbEndpoints {
            lb_endpoints: vec![lb_endpoint],
            ..LocalityLbEndpoints::default()
        }],
        named_endpoints: map(|i| Endpoint { hostname: i.to_string(), ..Endpoint::default() }),
        ..ClusterLoadAssignment::default()
    }
}

fn cluster() -> Cluster {
    Cluster {
        name: "cluster".into(),
        metadata: Some(metadata()),
        typed_extension_protocol_options: map(|_| pack_any(structure(1))),
        load_assignment: Some(assignment()),
        ..Cluster::default()
    }
}

fn route_configuration(routes: &[&str]) -> RouteConfiguration {
    let route = |name: &&str| Route {
        name: (*name).to_owned(),
        metadata: Some(metadata()),
        typed_per_filter_config: map(|_| pack_any(structure(0))),
        ..Route::default()
    };
    RouteConfiguration {
        name: "routes".into(),
        virtual_hosts: vec![VirtualHost {
            name: "host".into(),
            domains: vec!["*".into()],
            routes: routes.iter().map(route).collect(),
            ..VirtualHost::default()
        }],
        ..RouteConfiguration::default()
    }
}

fn listener() -> Listener {
    let manager = HttpConnectionManager {
        stat_prefix: "listener".into(),
        route_specifier: Some(RouteSpecifier::RouteConfig(route_configuration(&["one", "two"]))),
        ..HttpConnectionManager::default()
    };
    let filter = Filter {
        name: "http".into(),
        config_type: Some(ConfigType::TypedConfig(pack_any(manager))),
    };
    Listener {
        name: "listener".into(),
        filter_chains: vec![FilterChain { filters: vec![filter], ..FilterChain::default() }],
        ..Listener::default()
    }
}

/// Resources of several types, encoded anew.
fn resources() -> Vec<Any> {
    vec![
        pack_any(structure(3)),
        pack_any(assignment()),
        pack_any(cluster()),
        pack_any(route_configuration(&["one", "two"])),
        pack_any(listener()),
        // an `Any` is a message too, and may be all that there is
        pack_any(pack_any(structure(1))),
    ]
}

fn hash<M: Message + Name>(message: &M) -> u64 {
    envoy::schema().hash(&M::full_name(), &message.encode_to_vec())
}

fn hash_any(any: &Any) -> u64 {
    let (_, name) = any.type_url.rsplit_once('/').unwrap();
    envoy::schema().hash(name, &any.value)
}

#[test]
fn a_thousand_encodings_of_a_resource_have_one_hash() {
    let mut hashes = BTreeMap::<String, Vec<u64>>::new();
    let mut encodings = BTreeMap::<String, Vec<Vec<u8>>>::new();
    for any in (0..1000).flat_map(|_| resources()) {
        hashes.entry(any.type_url.clone()).or_default().push(hash_any(&any));
        encodings.entry(any.type_url).or_default().push(any.value);
    }
    assert_eq!(hashes.len(), 6);
    for (type_url, mut hashes) in hashes {
        assert_eq!(hashes.len(), 1000);
        hashes.dedup();
        assert_eq!(hashes.len(), 1, "equal resources of {type_url} have several hashes");
    }
    for (type_url, mut encodings) in encodings {
        encodings.sort_unstable();
        encodings.dedup();
        assert!(encodings.len() > 900, "{type_url}: {} encodings prove little", encodings.len());
    }
}

/// What this process has for each resource: its type, its hash, and the hash of its bytes.
fn report() -> Vec<[String; 3]> {
    let line = |any: Any| {
        let encoded = Schema::empty().hash("", &any.value);
        [any.type_url.clone(), hash_any(&any).to_string(), encoded.to_string()]
    };
    resources().into_iter().map(line).collect()
}

#[test]
fn equal_resources_hash_alike_in_two_processes() {
    const SECOND: &str = "DELTAPLANE_TEST_SECOND_PROCESS";
    const MARK: &str = "hashes:";
    if env::var_os(SECOND).is_some() {
        for line in report() {
            println!("\n{MARK} {}", line.join(" "));
        }
        return;
    }
    let output = Command::new(env::current_exe().unwrap())
        .args(["--exact", "equal_resources_hash_alike_in_two_processes", "--nocapture"])
        .env(SECOND, "1")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let output = String::from_utf8(output.stdout).unwrap();
    let theirs: Vec<Vec<&str>> = output
        .lines()
        .filter_map(|line| line.strip_prefix(MARK))
        .map(|line| line.split_whitespace().collect())
        .collect();
    let ours = report();
    assert_eq!(theirs.len(), ours.len(), "{output}");
    for (ours, theirs) in ours.iter().zip(&theirs) {
        assert_eq!(ours[..2], theirs[..2]);
        assert_ne!(ours[2], theirs[2], "{}: the same bytes prove nothing", ours[0]);
    }
}

#[test]
fn the_order_of_routes_is_content() {
    let one_two = hash(&route_configuration(&["one", "two"]));
    assert_eq!(one_two, hash(&route_configuration(&["one", "two"])));
    assert_ne!(one_two, hash(&route_configuration(&["two", "one"])));
}

#[test]
fn what_a_map_holds_is_content() {
    let changes: [fn(&mut Cluster); 5] = [
        |cluster| {
            let metadata = cluster.metadata.as_mut().unwrap();
            let value = metadata.filter_metadata.get_mut("key-3").unwrap();
            value.fields.insert("key-4".into(), Value { kind: Some(Kind::BoolValue(true)) });
        },
        |cluster| drop(cluster.metadata.as_mut().unwrap().filter_metadata.remove("key-3")),
        |cluster| {
            let options = &mut cluster.typed_extension_protocol_options;
            options.insert("key-3".into(), pack_any(structure(0)));
        },
        |cluster| {
            let options = &mut cluster.typed_extension_protocol_options;
            let value = options.remove("key-3").unwrap();
            options.insert("key-three".into(), value);
        },
        |cluster| {
            let assignment = cluster.load_assignment.as_mut().unwrap();
            assignment.named_endpoints.get_mut("key-3").unwrap().hostname.push('x');
        },
    ];
    assert_eq!(hash(&cluster()), hash(&cluster()));
    for change in changes {
        let mut changed = cluster();
        change(&mut changed);
        assert_ne!(hash(&cluster()), hash(&changed));
    }
}
