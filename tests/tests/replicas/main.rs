//! Several servers on one database: clients move between them and notice nothing, one that lags takes nothing
//! from anybody, and each may be replaced, or killed, while requests are under way.

#![allow(missing_docs, clippy::expect_used, clippy::panic)]

mod kills;
mod lag;
mod moves;
mod upgrade;

use std::time::Duration;

use deltaplane_server::TypeUrl;
use deltaplane_server::envoy_types::pb::envoy::config::core::v3::Node;
use deltaplane_server::testing::{Connection, ModelClient};
use deltaplane_tests::envoy::beliefs::Beliefs;
use deltaplane_tests::{Deltaplane, Envoy, Variant};
use tonic::transport::{Channel, Endpoint};

const CDS: TypeUrl = TypeUrl::CLUSTER;
const EDS: TypeUrl = TypeUrl::ENDPOINT;
const LDS: TypeUrl = TypeUrl::LISTENER;
const RDS: TypeUrl = TypeUrl::ROUTE;
const SDS: TypeUrl = TypeUrl::SECRET;

/// Envoy tries again after half a second, and later after longer; a server asks a lost database for seconds.
const RECOVERY: Duration = Duration::from_secs(30);

const VARIANTS: [Variant; 2] = [Variant::Delta, Variant::Sotw];

async fn channel(replica: &Deltaplane) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{}", replica.xds)).expect("an address");
    endpoint.connect().await.expect("the server listens")
}

/// A model client of the fleet `cluster-1`.
async fn connect(replica: &Deltaplane, variant: Variant) -> ModelClient<Connection> {
    let node = Node { id: "model".into(), cluster: "cluster-1".into(), ..Node::default() };
    let client = ModelClient::connect(channel(replica).await, node, variant.into()).await;
    client.expect("the server takes a client")
}

/// How often an Envoy was told of clusters and listeners.
fn unnamed(envoy: &Envoy) -> [u64; 2] {
    ["cluster_manager.cds.update_success", "listener_manager.lds.update_success"]
        .map(|name| envoy.stat(name))
}

/// Whether connections of a cluster that an Envoy uses may take so many milliseconds.
fn uses(envoy: &Envoy, cluster: &str, milliseconds: i64) -> bool {
    let beliefs = Beliefs::of(envoy);
    let cluster = beliefs.get(&CDS, cluster);
    cluster.is_some_and(|it| it["connect_timeout"] == seconds(milliseconds).as_str())
}

/// A duration as protobuf's JSON has it.
fn seconds(milliseconds: i64) -> String {
    match milliseconds % 1_000 {
        0 => format!("{}s", milliseconds / 1_000),
        rest => format!("{}.{rest:03}s", milliseconds / 1_000),
    }
}
