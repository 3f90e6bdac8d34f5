//! The tests' own parts: if one of these fails, look at the machine before you look at Deltaplane.

#![allow(missing_docs, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use deltaplane_tests::{Envoy, Postgres, Upstream, http, port, wait_until};

#[test]
fn envoy_routes_to_an_upstream() {
    let upstream = Upstream::start("static");
    let port = port::reserve();
    let envoy = Envoy::start(&static_bootstrap(port, upstream.port()));
    let body = wait_until("the route works", Duration::from_secs(5), || {
        http::get(&format!("http://127.0.0.1:{port}/here")).ok().map(|answer| answer.body)
    });
    assert_eq!(body, "static");
    assert_eq!(upstream.requests("/here"), 1);
    assert_eq!(envoy.stat("cluster.upstream.upstream_rq_total"), 1);
    assert_eq!(envoy.listeners(), ["listener"]);
    assert!(envoy.clusters().is_empty(), "this one is not from a control plane");
    assert!(envoy.config_dump().contains("ClustersConfigDump"));
}

#[test]
fn postgres_keeps_its_port_and_content() {
    let mut postgres = Postgres::start();
    let database = postgres.create_database();
    postgres.psql(&database, "CREATE TABLE kept (value TEXT)");
    postgres.psql(&database, "INSERT INTO kept VALUES ('here')");
    let url = postgres.url(&database);
    postgres.stop();
    postgres.resume();
    assert_eq!(postgres.url(&database), url);
    assert_eq!(postgres.psql(&database, "SELECT value FROM kept").trim(), "here");
}

#[test]
fn postgres_is_shared_while_it_is_used() {
    let (one, other) = (Postgres::shared(), Postgres::shared());
    assert_ne!(one.create_database(), other.create_database());
}

fn static_bootstrap(port: u16, upstream: u16) -> String {
    format!(
        r#"
admin:
  address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
static_resources:
  listeners:
  - name: listener
    address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: listener
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes: [{{match: {{prefix: /}}, route: {{cluster: upstream}}}}]
          http_filters:
          - name: envoy.filters.http.router
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
  clusters:
  - name: upstream
    load_assignment:
      cluster_name: upstream
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {upstream}}}}}}}
"#
    )
}
