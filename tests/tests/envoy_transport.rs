//! Real Envoys that ask for clusters (ODCDS) and virtual hosts (VHDS) when a request needs them; whose clusters
//! and listeners are collections with names of `xdstp:`; and that are told how long things are good.

#![allow(missing_docs, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use deltaplane_server::{Cache, Found, OnDemand, Resource, TypeUrl, XdsServer};
use deltaplane_tests::envoy::Envoy;
use deltaplane_tests::envoy::json::{address, builder, endpoint, put, resource};
use deltaplane_tests::http::{self, Answer};
use deltaplane_tests::listener::{Listener, PATIENCE};
use deltaplane_tests::upstream::Upstream;
use deltaplane_tests::{port, wait_until};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;

/// What Envoy calls the cluster of its control plane.
const CONTROL_PLANE: &str = "xds";

/// Envoy gives up a request that has waited for its cluster for so long, so whatever is there sooner was
/// answered.
const GIVEN_UP: Duration = Duration::from_secs(5);

fn ads() -> Value {
    json!({"resource_api_version": "V3", "ads": {}})
}

fn bootstrap(port: u16, dynamic: &Value) -> String {
    let options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    let mut resources = json!({"ads_config": {
        "api_type": "DELTA_GRPC", "transport_api_version": "V3",
        "set_node_on_first_message_only": true,
        "grpc_services": [{"envoy_grpc": {"cluster_name": CONTROL_PLANE}}],
    }});
    for (name, value) in dynamic.as_object().expect("it is one") {
        resources[name] = value.clone();
    }
    json!({
        "node": {"id": "on-demand", "cluster": "tests"},
        "admin": {"address": address(0)},
        "dynamic_resources": resources,
        "static_resources": {"clusters": [{
            "name": CONTROL_PLANE,
            "typed_extension_protocol_options": {options: {
                "@type": format!("type.googleapis.com/{options}"),
                "explicit_http_config": {"http2_protocol_options": {}},
            }},
            "load_assignment": {"cluster_name": CONTROL_PLANE, "endpoints": endpoint(port)},
        }]},
    })
    .to_string()
}

fn serve(server: XdsServer) -> (Runtime, u16) {
    let port = port::reserve();
    (serve_on(port, server), port)
}

/// Serves as long as the runtime is there.
fn serve_on(port: u16, server: XdsServer) -> Runtime {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.expect("threads can be had");
    // Another process may be trying whether the port is free.
    let bind = || runtime.block_on(TcpListener::bind(("127.0.0.1", port))).ok();
    let listener = wait_until("the port is this server's own", PATIENCE, bind);
    runtime.spawn(async move { server.serve(listener, std::future::pending()).await });
    runtime
}

fn cluster(name: &str, service: &str) -> Resource {
    let json = json!({
        "name": name, "type": "EDS", "connect_timeout": "1s",
        "eds_cluster_config": {"eds_config": ads(), "service_name": service},
    });
    resource(TypeUrl::CLUSTER, name, &json)
}

fn endpoints(service: &str, port: u16) -> Resource {
    let json = json!({"cluster_name": service, "endpoints": endpoint(port)});
    resource(TypeUrl::ENDPOINT, service, &json)
}

/// A listener whose routes are these, with filters before the router.
fn listener(name: &str, port: u16, routes: &Value, mut filters: Vec<Value>) -> Resource {
    let extensions = "type.googleapis.com/envoy.extensions.filters";
    let router = json!({"@type": format!("{extensions}.http.router.v3.Router")});
    filters.push(json!({"name": "router", "typed_config": router}));
    let mut manager = json!({
        "@type":
            format!("{extensions}.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "front", "http_filters": filters,
    });
    for (name, value) in routes.as_object().expect("it is one") {
        manager[name] = value.clone();
    }
    let json = json!({
        "name": name, "address": address(port),
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    });
    resource(TypeUrl::LISTENER, name, &json)
}

/// The filter that lets a request wait for its virtual host, and for its cluster.
fn on_demand() -> Value {
    let name = "envoy.extensions.filters.http.on_demand.v3.OnDemand";
    let clusters = json!({"source": ads(), "timeout": "5s"});
    json!({"name": "on_demand", "typed_config": {
        "@type": format!("type.googleapis.com/{name}"), "odcds": clusters,
    }})
}

/// The host of this name, whose requests go to the cluster that their header names.
fn host(name: &str, domain: &str) -> Resource {
    let route = json!({"match": {"prefix": "/"}, "route": {"cluster_header": "x-cluster"}});
    let json = json!({"name": name, "domains": [domain], "routes": [route]});
    let full = format!("routes/{name}");
    let host = builder(TypeUrl::VIRTUAL_HOST, &full, &json);
    host.aliases([format!("routes/{domain}")]).build()
}

/// Answers a request that names its host and its cluster, and how long that took.
fn ask(front: &Listener, host: &str, cluster: &str) -> (Answer, Duration) {
    let url = format!("http://127.0.0.1:{}/", front.port());
    let start = Instant::now();
    let answer = http::get_with(&url, &[("host", host), ("x-cluster", cluster)]);
    (answer.expect("Envoy answers"), start.elapsed())
}

/// How often each name was looked for.
type Asked = Arc<Mutex<BTreeMap<String, usize>>>;

/// Clusters `now-…` are found at once, `later-…` when the gate opens, and others never; the same with hosts.
fn finding(upstream: u16, gate: watch::Receiver<bool>, asked: Asked) -> OnDemand {
    OnDemand::new([TypeUrl::CLUSTER, TypeUrl::VIRTUAL_HOST], move |wanted| {
        let (mut gate, asked) = (gate.clone(), asked.clone());
        async move {
            let name = wanted.key.name.to_string();
            *asked.lock().expect("nobody panicked with it").entry(name.clone()).or_default() += 1;
            let domain = name.strip_prefix("routes/").unwrap_or(&name);
            if domain.starts_with("later-") {
                gate.wait_for(|open| *open).await.expect("the test has the other end");
            } else if !domain.starts_with("now-") {
                return Found::Done;
            }
            let found = match wanted.key.type_url == TypeUrl::CLUSTER {
                true => vec![cluster(&name, &name), endpoints(&name, upstream)],
                false => vec![host(&domain.replace('.', "-"), domain)],
            };
            Found::Resources("default".into(), found)
        }
    })
}

#[test]
fn v04_v05_v07_requests_wait_for_what_they_need() {
    let (upstream, front) = (Upstream::start("a"), Listener::reserve());
    let cache = Cache::new();
    let routes = json!({"name": "routes", "vhds": {"config_source": ads()}});
    let rds = json!({"rds": {"config_source": ads(), "route_config_name": "routes"}});
    put(
        &cache,
        [
            listener("front", front.port(), &rds, vec![on_demand()]),
            resource(TypeUrl::ROUTE, "routes", &routes),
            // V-03: until there is one, the listener is not.
            host("first", "first.test"),
            cluster("general", "general"),
            endpoints("general", upstream.port()),
        ],
    );
    let (open, gate) = watch::channel(false);
    let asked = Asked::default();
    let on_demand = finding(upstream.port(), gate, asked.clone());
    let server = XdsServer::builder(cache.clone()).on_demand(on_demand).build();
    let (_runtime, port) = serve(server);
    let dynamic = json!({"cds_config": ads(), "lds_config": ads()});
    let envoy = Envoy::start(&bootstrap(port, &dynamic));
    let served = |host: &str, cluster: &str| {
        let (answer, took) = ask(&front, host, cluster);
        assert_eq!((answer.status, &*answer.body), (200, "a"), "{host} {cluster}");
        assert!(took < GIVEN_UP, "{host} {cluster} took {took:?}");
    };
    wait_until("the listener is there", PATIENCE, || front.get("/"));
    served("first.test", "general");

    // What can be had at once, and what cannot be had at all.
    served("first.test", "now-a");
    served("now-b.test", "now-a");
    let (answer, took) = ask(&front, "first.test", "never");
    assert_eq!(answer.status, 503);
    assert!(took < GIVEN_UP, "an unknown cluster took {took:?}");
    let (answer, took) = ask(&front, "never.test", "now-a");
    assert_eq!(answer.status, 404);
    assert!(took < GIVEN_UP, "an unknown host took {took:?}");

    // What comes only when the request has waited for a while.
    let is_asked = |name: &str| asked.lock().expect("nobody panicked").contains_key(name);
    thread::scope(|scope| {
        let waiting = [
            scope.spawn(|| served("first.test", "later-a")),
            scope.spawn(|| served("later-b.test", "now-a")),
        ];
        for name in ["later-a", "routes/later-b.test"] {
            wait_until(&format!("{name} is asked for"), PATIENCE, || is_asked(name).then_some(()));
        }
        assert!(waiting.iter().all(|request| !request.is_finished()));
        open.send_replace(true);
    });

    // What appears although nobody found it serves the next request (V-07).
    put(&cache, [cluster("never", "never").on_demand(), endpoints("never", upstream.port())]);
    wait_until("the cluster is there", PATIENCE, || {
        (ask(&front, "first.test", "never").0.status == 200).then_some(())
    });
    assert_eq!(envoy.stat("listener_manager.lds.update_rejected"), 0);
    assert_eq!(envoy.stat("cluster_manager.cds.update_rejected"), 0);
    assert!(asked.lock().expect("nobody panicked").values().all(|times| *times == 1));
}

/// Members of a collection by these names, and one each of a deeper collection, which is none of it.
#[test]
fn x03_x05_an_envoy_runs_the_members_of_its_collections() {
    let (a, b) = (Upstream::start("a"), Upstream::start("b"));
    let (front, other, deep) = (Listener::reserve(), Listener::reserve(), Listener::reserve());
    let directory = |of_type: &str| format!("xdstp://tests/envoy.config.{of_type}/fleet");
    let clusters = directory("cluster.v3.Cluster");
    let listeners = directory("listener.v3.Listener");
    let cluster_of = |name: &str, upstream: &Upstream| {
        let name = format!("{clusters}/{name}");
        let json = json!({
            "name": name, "type": "STATIC", "connect_timeout": "1s",
            "load_assignment": {"cluster_name": name, "endpoints": endpoint(upstream.port())},
        });
        resource(TypeUrl::CLUSTER, &name, &json)
    };
    let listener_of = |name: &str, port: u16| {
        let route =
            json!({"match": {"prefix": "/"}, "route": {"cluster": format!("{clusters}/main")}});
        let hosts = json!([{"name": "all", "domains": ["*"], "routes": [route]}]);
        let routes = json!({"route_config": {"name": "routes", "virtual_hosts": hosts}});
        listener(&format!("{listeners}/{name}"), port, &routes, Vec::new())
    };
    let cache = Cache::new();
    put(
        &cache,
        [
            cluster_of("main", &a),
            cluster_of("sub/deep", &a),
            listener_of("front", front.port()),
            listener_of("sub/deep", deep.port()),
        ],
    );
    let (_runtime, port) = serve(XdsServer::builder(cache.clone()).build());
    let dynamic = json!({
        "cds_resources_locator": format!("{clusters}/*"),
        "lds_resources_locator": format!("{listeners}/*"),
        "cds_config": ads(), "lds_config": ads(),
    });
    let envoy = Envoy::start(&bootstrap(port, &dynamic));
    front.reaches("/", &a);
    put(&cache, [cluster_of("main", &b)]);
    front.moves("/", &a, &b);
    put(&cache, [listener_of("other", other.port())]);
    other.reaches("/", &b);
    let mut gone = deltaplane_server::Transaction::new();
    gone.remove("default", TypeUrl::LISTENER, format!("{listeners}/other"));
    cache.commit(gone).expect("it contradicts nobody");
    other.closes("/");
    front.reaches("/", &b);
    assert_eq!(envoy.clusters(), [format!("{clusters}/main")]);
    assert!(deep.get("/").is_none());
    assert_eq!(envoy.stat("cluster_manager.cds.update_rejected"), 0);
    assert_eq!(envoy.stat("listener_manager.lds.update_rejected"), 0);
}

/// Whether an Envoy has a cluster.
fn has(envoy: &Envoy, name: &str) -> bool {
    envoy.clusters().iter().any(|cluster| cluster == name)
}

/// As long as there is a server, what has a time stays; without one it goes, and comes back with it.
fn lives_as_long_as_it_is_told(api_type: &str) {
    let upstream = Upstream::start("a");
    let named = |name: &str| {
        let json = json!({
            "name": name, "type": "STATIC", "connect_timeout": "1s",
            "load_assignment": {"cluster_name": name, "endpoints": endpoint(upstream.port())},
        });
        builder(TypeUrl::CLUSTER, name, &json)
    };
    let cache = Cache::new();
    put(&cache, [named("leased").ttl(Duration::from_secs(1)).build(), named("kept").build()]);
    let server = XdsServer::builder(cache).time_to_live(|_| true).build();
    let (runtime, port) = serve(server.clone());
    let dynamic = json!({"cds_config": ads(), "lds_config": ads()});
    let envoy = Envoy::start(&bootstrap(port, &dynamic).replace("DELTA_GRPC", api_type));
    wait_until("both are there", PATIENCE, || {
        (has(&envoy, "leased") && has(&envoy, "kept")).then_some(())
    });
    let heard = || envoy.stat("cluster_manager.cds.update_success");
    let start = heard();
    // Three are told in each second; without them it would be gone by then.
    wait_until("Envoy hears of it for some seconds", PATIENCE, || {
        assert!(has(&envoy, "leased") && has(&envoy, "kept"));
        (heard() >= start + 9).then_some(())
    });
    assert_eq!(envoy.stat("cluster_manager.cds.update_rejected"), 0);
    runtime.shutdown_timeout(PATIENCE);
    wait_until("its time is over", PATIENCE, || (!has(&envoy, "leased")).then_some(()));
    assert!(has(&envoy, "kept"));
    let _runtime = serve_on(port, server);
    wait_until("it is back", 2 * PATIENCE, || has(&envoy, "leased").then_some(()));
}

#[test]
fn t04_t10_in_delta_heartbeats_keep_alive_what_has_a_time() {
    lives_as_long_as_it_is_told("DELTA_GRPC");
}

#[test]
fn t07_t08_in_state_of_the_world_content_does() {
    lives_as_long_as_it_is_told("GRPC");
}
