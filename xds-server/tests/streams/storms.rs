//! Very many clients that do the same at once: what that costs is bounded by how many they are.

use std::time::Duration;

use deltaplane_server::{
    ClientStatus, Variant,
    envoy_types::pb::envoy::service::discovery::v3::{
        DeltaDiscoveryRequest,
        aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
    },
    testing::ModelClient,
};
use futures::future::join_all;
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::Channel;

use crate::served::{CDS, Served, node, serve, subscribe, until};

/// Connections that clients share.
async fn channels(served: &Served, count: usize) -> Vec<Channel> {
    join_all((0..count).map(|_| served.channel())).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_clients_that_reject_everything_are_told_each_change_once() {
    const CLIENTS: usize = 1_000;
    const CHANGES: usize = 5;
    let served = serve().await;
    served.put("c", "a", "0");
    let channels = channels(&served, 10).await;
    let mut clients = Vec::new();
    for id in 0..CLIENTS {
        let (channel, variant) =
            (channels[id % 10].clone(), [Variant::Sotw, Variant::Delta][id % 2]);
        let mut node = node(&id.to_string(), "c").unwrap();
        node.extensions.clear();
        let mut client = ModelClient::connect(channel, node, variant).await.unwrap();
        client.subscribe(CDS, &[]);
        let update = client.expect(CDS).await;
        client.ack(&update);
        clients.push(client);
    }
    for change in 1..=CHANGES {
        served.put("c", "a", &change.to_string());
        join_all(clients.iter_mut().map(|client| async {
            let update = client.expect(CDS).await;
            client.nack(&update, "no, thanks");
        }))
        .await;
        // What crosses the next change would be asked about again.
        until("all rejections are read", || served.heard.count_of("rejected") == CLIENTS * change)
            .await;
    }
    let is_rejecting =
        |client: &ClientStatus| client.types.get(&CDS).is_some_and(|of_type| of_type.is_rejected);
    until("all stand as rejecting", || served.server.clients().iter().all(is_rejecting)).await;
    assert_eq!(served.heard.count_of("sent"), CLIENTS * (1 + CHANGES));
    // Nothing comes of a rejection.
    for client in clients.iter_mut().step_by(99) {
        client.silence().await;
    }
}

/// How many bytes of this process are in memory.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
}

/// They come back with what they hold, and are told nothing of it, but what changes then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_clients_reconnect_at_once() {
    const CLIENTS: usize = 10_000;
    let served = serve().await;
    for name in ["a", "b", "c"] {
        served.put("c", name, "1");
    }
    let mut first = served.model("first", Variant::Delta).await;
    first.subscribe(CDS, &[]);
    let told = first.expect(CDS).await;
    let held = told.resources.iter().map(|it| (it.name.clone(), it.version.clone()));
    let held: Vec<_> = held.collect();
    let channels = channels(&served, 50).await;
    let before = resident();
    let connect = |id: usize| {
        let mut node = node(&id.to_string(), "c");
        node.iter_mut().for_each(|node| node.extensions.clear());
        let request = DeltaDiscoveryRequest {
            initial_resource_versions: held.iter().cloned().collect(),
            ..subscribe(node)
        };
        let mut client = AggregatedDiscoveryServiceClient::new(channels[id % 50].clone());
        async move {
            let (requests, receiver) = mpsc::unbounded_channel();
            requests.send(request).unwrap();
            let receiver = UnboundedReceiverStream::new(receiver);
            let responses = client.delta_aggregated_resources(receiver).await.unwrap();
            (requests, responses.into_inner())
        }
    };
    let mut streams = join_all((0..CLIENTS).map(connect)).await;
    served.put("c", "b", "2");
    let told = join_all(streams.iter_mut().map(|(_, responses)| responses.message()));
    let told = timeout(Duration::from_secs(60), told).await.expect("all are told in time");
    for told in told {
        // Of what they hold they were told nothing again.
        let told = told.unwrap().expect("a response");
        let names: Vec<_> = told.resources.iter().map(|resource| &*resource.name).collect();
        assert_eq!(names, ["b"]);
    }
    // Both ends of each stream are in this process.
    let grown = resident().saturating_sub(before) / CLIENTS;
    assert!(grown < 200 << 10, "{grown} bytes for each");
}
