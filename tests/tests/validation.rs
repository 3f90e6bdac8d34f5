//! What real clients accept, as the other tests show, is not found fault with.

#![allow(missing_docs, clippy::expect_used, clippy::panic)]

use std::net::{Ipv4Addr, SocketAddr};

use deltaplane_server::{
    Cache, Resource, Transaction, TypeUrl,
    validation::{Policy, Severity, Validator},
};
use deltaplane_tests::{envoy::mode::Mode, envoy::resources as envoy, grpc::resources as grpc};

fn accepted() -> Vec<Resource> {
    let of_envoy = Mode::ALL.into_iter().flat_map(|mode| {
        [
            envoy::listener(mode, "l", 80, "r"),
            envoy::tls_listener(mode, "l", 80, "r"),
            envoy::cluster(mode, "c", 1),
            envoy::tls_cluster(mode, "c", 1, "authority"),
        ]
    });
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 80));
    let others = [
        envoy::routes("r", &[("/", "c")]),
        envoy::endpoints("c", 80),
        envoy::faults(500),
        envoy::runtime("key", "value"),
        grpc::listener("l", "r"),
        grpc::routes("r", &[("method", "c")]),
        grpc::cluster("c", "e"),
        grpc::endpoints("e", address),
    ];
    of_envoy.chain(others).collect()
}

#[test]
fn what_clients_accept_is_not_found_fault_with() {
    for resource in accepted() {
        let mut transaction = Transaction::new();
        // What these refer to is elsewhere.
        transaction.declare("s", TypeUrl::ENDPOINT);
        transaction.upsert("s", resource);
        let report = Validator::new(Policy::Warn).commit(&Cache::new(), transaction);
        let (_, report) = report.expect("a commit");
        assert!(report.severity() < Some(Severity::Error), "{report}");
    }
}
