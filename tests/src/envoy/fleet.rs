//! Others beside the first Envoy of a mesh: Envoys that listen on ports of their own, and model clients.

use std::time::Duration;

use deltaplane_server::envoy_types::pb::envoy::config::core::v3::Node;
use deltaplane_server::testing::{Connection, ModelClient};
use deltaplane_server::{Transaction, TypeUrl, Variant};
use tonic::transport::Endpoint;

use crate::envoy::beliefs::Beliefs;
use crate::envoy::control_plane::DRAIN;
use crate::envoy::mesh::Mesh;
use crate::envoy::mode::Mode;
use crate::envoy::resources::listener;
use crate::{Envoy, Listener, wait_until};

const PATIENCE: Duration = Duration::from_secs(10);

/// An Envoy beside the first one: it differs in the port of `front`, and has no other listeners.
#[derive(Debug)]
#[allow(missing_docs, reason = "said above")]
pub struct Neighbour {
    pub envoy: Envoy,
    pub front: Listener,
}

impl Neighbour {
    /// Starts it, and waits until it serves.
    pub fn join(mesh: &Mesh, mode: Mode, node: &str) -> Neighbour {
        let front = Listener::reserve();
        let mut transaction = Transaction::new();
        transaction.upsert(node, listener(mode, "front", front.port(), "front"));
        for name in ["back", "side"] {
            transaction.hide(node, TypeUrl::LISTENER, name);
        }
        mesh.plane.commit(transaction);
        let drain = DRAIN.as_secs().to_string();
        let bootstrap = mode.bootstrap_of(node, mesh.plane.port());
        let envoy = Envoy::start_with(&bootstrap, &["--drain-time-s", &drain]);
        front.reaches("/", &mesh.a);
        Neighbour { envoy, front }
    }
}

/// Waits until an Envoy uses just these clusters, and `main` with this timeout in seconds.
pub fn uses_clusters(envoy: &Envoy, names: &[&str], timeout: i64) {
    let text = format!("\"connect_timeout\":\"{timeout}s\"");
    wait_until("the clusters are used", PATIENCE, || {
        let beliefs = Beliefs::of(envoy);
        let main = beliefs.get(&TypeUrl::CLUSTER, "main")?.to_string();
        let all = beliefs.names().into_iter().filter(|(type_url, _)| *type_url == TypeUrl::CLUSTER);
        (all.map(|(_, name)| name).eq(names.iter().copied()) && main.contains(&text)).then_some(())
    });
}

/// A model client that has accepted all clusters.
///
/// # Panics
/// If it is not served.
pub async fn model(mesh: &Mesh, node: &str, variant: Variant) -> ModelClient<Connection> {
    let endpoint = format!("http://127.0.0.1:{}", mesh.plane.port());
    let channel = Endpoint::from_shared(endpoint).expect("this is an address").connect().await;
    let node = Node { id: node.to_owned(), ..Node::default() };
    let client = ModelClient::connect(channel.expect("the server listens"), node, variant).await;
    let mut client = client.expect("the server takes a client");
    client.subscribe(TypeUrl::CLUSTER, &[]);
    let clusters = client.expect(TypeUrl::CLUSTER).await;
    client.ack(&clusters);
    client.silence().await;
    client
}
