//! A server of your own: one listener for every Envoy that comes, until Ctrl-C.
//!
//! ```sh
//! cargo run -p deltaplane-server --example serve
//! cargo run -p deltaplane -- bootstrap --node-id envoy-1 > target/envoy.yaml
//! envoy -c target/envoy.yaml
//! curl http://127.0.0.1:10000/
//! ```
//!
//! The first argument is where it listens, if not at 127.0.0.1:18000, and the second the port of Envoy's listener.

use std::error::Error;

use deltaplane_server::envoy_types::pb::{
    envoy::{
        config::{core::v3 as common, listener::v3 as listener, route::v3 as route},
        extensions::filters::http::router::v3::Router,
        extensions::filters::network::http_connection_manager::v3 as http,
    },
    google::protobuf::Any,
};
use deltaplane_server::{Cache, Transaction, XdsServer, envoy};
use prost::{Message, Name};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:18000".to_owned());
    let port = arguments.next().map_or(Ok(10_000), |port| port.parse())?;

    let cache = Cache::new();
    let mut transaction = Transaction::new();
    transaction.upsert("default", envoy::resource(&greeting(port)));
    cache.commit(transaction)?;

    let listener = TcpListener::bind(&address).await?;
    println!("serving at {}", listener.local_addr()?);
    let stop = async {
        // Where signals cannot be had, it ends at once.
        let _ = tokio::signal::ctrl_c().await;
    };
    XdsServer::builder(cache).build().serve(listener, stop).await?;
    Ok(())
}

/// A listener that answers by itself.
fn greeting(port: u32) -> listener::Listener {
    let text = common::data_source::Specifier::InlineString("hello\n".into());
    let body = Some(common::DataSource { specifier: Some(text), ..Default::default() });
    let answer = route::DirectResponseAction { status: 200, body, ..Default::default() };
    let prefix = Some(route::route_match::PathSpecifier::Prefix("/".into()));
    let all = route::RouteMatch { path_specifier: prefix, ..Default::default() };
    let action = Some(route::route::Action::DirectResponse(answer));
    let routes = vec![route::Route { r#match: Some(all), action, ..Default::default() }];
    let (name, domains) = ("all".into(), vec!["*".into()]);
    let hosts = vec![route::VirtualHost { name, domains, routes, ..Default::default() }];
    let routes = route::RouteConfiguration { virtual_hosts: hosts, ..Default::default() };

    let config_type = Some(http::http_filter::ConfigType::TypedConfig(any(&Router::default())));
    let router = http::HttpFilter { name: "router".into(), config_type, ..Default::default() };
    let manager = http::HttpConnectionManager {
        stat_prefix: "greeting".into(),
        route_specifier: Some(http::http_connection_manager::RouteSpecifier::RouteConfig(routes)),
        http_filters: vec![router],
        ..Default::default()
    };
    let config_type = Some(listener::filter::ConfigType::TypedConfig(any(&manager)));
    let filters = vec![listener::Filter { name: "http".into(), config_type }];
    let filter_chains = vec![listener::FilterChain { filters, ..Default::default() }];

    let port_specifier = Some(common::socket_address::PortSpecifier::PortValue(port));
    let address = "127.0.0.1".into();
    let address = common::SocketAddress { address, port_specifier, ..Default::default() };
    let address = Some(common::address::Address::SocketAddress(address));
    let address = Some(common::Address { address });
    listener::Listener { name: "greeting".into(), address, filter_chains, ..Default::default() }
}

fn any<M: Message + Name>(message: &M) -> Any {
    Any { type_url: M::type_url(), value: message.encode_to_vec() }
}
