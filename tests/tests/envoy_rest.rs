//! A real Envoy that polls everything by REST, from an HTTP server around `XdsServer::poll`.

#![allow(missing_docs, clippy::expect_used, clippy::panic)]

use std::convert::Infallible;
use std::net::{Ipv4Addr, TcpListener};

use deltaplane_server::{Cache, Resource, TypeUrl, XdsServer};
use deltaplane_tests::envoy::Envoy;
use deltaplane_tests::envoy::json::{address, endpoint, put, resource};
use deltaplane_tests::listener::{Listener, PATIENCE};
use deltaplane_tests::upstream::Upstream;
use deltaplane_tests::wait_until;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};

/// What Envoy calls the cluster of its control plane.
const CONTROL_PLANE: &str = "rest";

fn source() -> Value {
    json!({
        "resource_api_version": "V3",
        "api_config_source": {
            "api_type": "REST", "transport_api_version": "V3", "cluster_names": [CONTROL_PLANE],
            "refresh_delay": "0.1s",
        },
    })
}

fn bootstrap(port: u16) -> String {
    json!({
        "node": {"id": "rest", "cluster": "tests"},
        "admin": {"address": address(0)},
        "dynamic_resources": {"cds_config": source(), "lds_config": source()},
        "static_resources": {"clusters": [{
            "name": CONTROL_PLANE,
            "load_assignment": {"cluster_name": CONTROL_PLANE, "endpoints": endpoint(port)},
        }]},
    })
    .to_string()
}

fn cluster(timeout: &str) -> Resource {
    let json = json!({
        "name": "main", "type": "EDS", "connect_timeout": timeout,
        "eds_cluster_config": {"eds_config": source()},
    });
    resource(TypeUrl::CLUSTER, "main", &json)
}

fn endpoints(upstream: &Upstream) -> Resource {
    let json = json!({"cluster_name": "main", "endpoints": endpoint(upstream.port())});
    resource(TypeUrl::ENDPOINT, "main", &json)
}

fn routes() -> Resource {
    let route = json!({"match": {"prefix": "/"}, "route": {"cluster": "main"}});
    let host = json!({"name": "all", "domains": ["*"], "routes": [route]});
    resource(TypeUrl::ROUTE, "routes", &json!({"name": "routes", "virtual_hosts": [host]}))
}

fn listener(port: u16) -> Resource {
    let extensions = "type.googleapis.com/envoy.extensions.filters";
    let router = json!({"@type": format!("{extensions}.http.router.v3.Router")});
    let manager = json!({
        "@type":
            format!("{extensions}.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "front",
        "rds": {"config_source": source(), "route_config_name": "routes"},
        "http_filters": [{"name": "router", "typed_config": router}],
    });
    let json = json!({
        "name": "front", "address": address(port),
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    });
    resource(TypeUrl::LISTENER, "front", &json)
}

/// Serves polls, as long as the runtime is there.
fn serve(server: XdsServer) -> (Runtime, u16) {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.expect("threads can be had");
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port can be had");
    socket.set_nonblocking(true).expect("a socket need not block");
    let port = socket.local_addr().expect("it has one").port();
    runtime.spawn(async move {
        let socket = tokio::net::TcpListener::from_std(socket).expect("it is one");
        loop {
            let (connection, _) = socket.accept().await.expect("a listener does not fail");
            let server = server.clone();
            let service = service_fn(move |request| answer(server.clone(), request));
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(connection), service));
        }
    });
    (runtime, port)
}

async fn answer(
    server: XdsServer,
    request: Request<Incoming>,
) -> Result<Response<Full<prost::bytes::Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.expect("a client sends what it began").to_bytes();
    Ok(server.poll(&Request::from_parts(head, body)).await.map(Full::new))
}

#[test]
fn an_envoy_polls_everything() {
    let (a, b, front) = (Upstream::start("a"), Upstream::start("b"), Listener::reserve());
    let cache = Cache::new();
    put(&cache, [cluster("1s"), endpoints(&a), routes(), listener(front.port())]);
    let (_runtime, port) = serve(XdsServer::builder(cache.clone()).build());
    let envoy = Envoy::start(&bootstrap(port));
    front.reaches("/", &a);

    put(&cache, [endpoints(&b)]);
    front.moves("/", &a, &b);
    put(&cache, [cluster("7s")]);
    wait_until("Envoy uses what changed", PATIENCE, || {
        envoy.config_dump().contains("\"connect_timeout\": \"7s\"").then_some(())
    });
    front.reaches("/", &b);

    // Of polls that find nothing new it makes no updates, and calls none a failure.
    let successes = || envoy.stat("cluster_manager.cds.update_success");
    let before = successes();
    let attempts = || envoy.stat("cluster_manager.cds.update_attempt");
    let start = attempts();
    wait_until("Envoy polls on", PATIENCE, || (attempts() >= start + 5).then_some(()));
    assert_eq!(successes(), before);
    assert_eq!(envoy.stat("cluster_manager.cds.update_failure"), 0);
    assert_eq!(envoy.stat("listener_manager.lds.update_rejected"), 0);

    // What it rejects it polls for again, and goes on with what it has.
    let rejected = || envoy.stat("cluster_manager.cds.update_rejected");
    let bad = json!({"name": "main", "type": "EDS"});
    put(&cache, [resource(TypeUrl::CLUSTER, "main", &bad)]);
    wait_until("Envoy rejects it", PATIENCE, || (rejected() >= 2).then_some(()));
    front.reaches("/", &b);
    put(&cache, [cluster("3s")]);
    wait_until("Envoy uses what is good again", PATIENCE, || {
        envoy.config_dump().contains("\"connect_timeout\": \"3s\"").then_some(())
    });
}
