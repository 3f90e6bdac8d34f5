//! A gRPC server that is configured by the library's own server: it serves when its listener says so.

#![allow(missing_docs, clippy::expect_used, clippy::panic)]

use std::net::SocketAddr;

use deltaplane_server::{Resource, TypeUrl};
use deltaplane_tests::envoy::json::resource;
use deltaplane_tests::grpc::backend::Backends;
use deltaplane_tests::grpc::client::{GrpcClient, Language};
use deltaplane_tests::grpc::control_plane::ControlPlane;
use deltaplane_tests::grpc::resources::{cluster, endpoints, listener, routes};
use deltaplane_tests::port;
use serde_json::json;

const LDS: TypeUrl = TypeUrl::LISTENER;

/// What a server asks for that is to listen there.
fn name(address: SocketAddr) -> String {
    format!("grpc/server?xds.resource.listening_address={address}")
}

/// The listener of that server, which says this port.
fn server_listener(address: SocketAddr, port: u16) -> Resource {
    let extensions = "type.googleapis.com/envoy.extensions.filters";
    let router = json!({"@type": format!("{extensions}.http.router.v3.Router")});
    let route = json!({"match": {"prefix": ""}, "non_forwarding_action": {}});
    let hosts = json!([{"name": "all", "domains": ["*"], "routes": [route]}]);
    let manager = json!({
        "@type":
            format!("{extensions}.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "served",
        "route_config": {"name": "inline", "virtual_hosts": hosts},
        "http_filters": [{"name": "router", "typed_config": router}],
    });
    let address_of = json!({"socket_address": {"address": "127.0.0.1", "port_value": port}});
    let json = json!({
        "name": name(address), "address": address_of,
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    });
    resource(LDS, &name(address), &json)
}

/// G-13.
#[test]
fn a_server_serves_what_its_listener_says() {
    let plane = ControlPlane::start();
    let mut servers = Backends::start_with("server", plane.port());
    let address = servers.serve_on("served", port::reserve());
    let mut client = GrpcClient::start(Language::Python, "customer", plane.port());
    plane.put([
        listener("shop", "routes"),
        routes("routes", &[("A", "a")]),
        cluster("a", "a-1"),
        endpoints("a-1", address),
    ]);
    let failure = client.call("shop", "A").expect_err("it was not told to serve");
    assert_eq!(failure.code, "UNAVAILABLE");
    plane.put([server_listener(address, address.port())]);
    client.reaches("shop", "A", "served");

    // While it says another address, there is no server.
    plane.put([server_listener(address, address.port() ^ 1)]);
    client.fails("shop", "A", "served");
    plane.put([server_listener(address, address.port())]);
    client.reaches("shop", "A", "served");
}
