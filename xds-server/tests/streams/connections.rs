//! Connections: pings, silence, and clients that do not read.

use std::time::Duration;

use deltaplane_server::{
    Keepalive, Key, Limits, Resource, Transaction, TypeUrl, Variant, envoy,
    envoy_types::pb::envoy::config::{cluster::v3::Cluster, core::v3::Node},
    testing::{Connection, ModelClient, Received},
};
use prost::Message as _;
use tokio::{
    task::{spawn_blocking, yield_now},
    time::{advance, pause, resume, timeout},
};

use crate::{
    raw_http2::RawClient,
    served::{CDS, DELTA, Served, cluster, node, serve, serve_with, subscribe},
};

#[tokio::test]
async fn k01_clients_may_ping_as_often_as_they_like() {
    let served = serve().await;
    served.put("c", "a", "1");
    let (address, request) = (served.address, asks("n"));
    let mut client = spawn_blocking(move || {
        let mut client = RawClient::connect(address);
        // Without a stream, too; and faster than Envoy ever would.
        (0..200).for_each(|payload| client.ping(payload));
        client.call(DELTA, &request);
        assert!(!client.data().is_empty());
        (0..200).for_each(|payload| client.ping(payload));
        client
    })
    .await
    .unwrap();
    served.put("c", "a", "2");
    assert!(!spawn_blocking(move || client.data()).await.unwrap().is_empty());
}

#[tokio::test]
async fn k02_a_client_that_is_gone_without_a_word_is_noticed() {
    let mut keepalive = Keepalive::default();
    (keepalive.interval, keepalive.timeout) =
        (Duration::from_millis(200), Duration::from_millis(200));
    let served = serve_with(|builder| builder.keepalive(keepalive)).await;
    served.put("c", "a", "1");
    let mut alive = served.model("alive", Variant::Delta).await;
    alive.subscribe(CDS, &[]);
    alive.expect(CDS).await;
    // It keeps its connection open, and says nothing more.
    let (address, request) = (served.address, asks("gone"));
    let gone = spawn_blocking(move || {
        let mut client = RawClient::connect(address);
        client.call(DELTA, &request);
        client
    });
    let gone = gone.await.unwrap();
    served.heard.expect("gone: disconnected None").await;
    drop(gone);
    served.put("c", "a", "2");
    alive.expect(CDS).await;
}

#[tokio::test]
async fn k06_who_does_not_read_is_owed_a_difference_and_never_a_backlog() {
    for variant in [Variant::Sotw, Variant::Delta] {
        let served = serve().await;
        let mut client = unread(&served, variant).await;
        // 100 MiB of changes, each of which the server had the time to send.
        for round in 0..10_000 {
            put(&served, &format!("c{}", round % 10), round);
            yield_now().await;
        }
        let sent = served.heard.count("n: sent");
        assert!(sent < 30, "{sent} responses for a client that reads none");
        let newest = |held: &Received| {
            let content = held.decode::<Cluster>().alt_stat_name;
            held.name == "first" || content.starts_with(&format!("999{} ", &held.name[1..]))
        };
        while client.running(&CDS).count() < 11 || !client.running(&CDS).all(newest) {
            let update = client.expect(CDS).await;
            client.ack(&update);
        }
        client.silence().await;
    }
}

#[tokio::test]
async fn k06_requests_are_read_while_a_response_waits() {
    let served = serve().await;
    let mut client = unread(&served, Variant::Delta).await;
    for round in 0..100 {
        put(&served, &format!("c{}", round % 10), round);
        yield_now().await;
    }
    client.subscribe(TypeUrl::LISTENER, &[]);
    served.heard.expect("n: subscribed Listener").await;
}

#[tokio::test]
async fn who_asks_and_asks_and_does_not_read_meets_a_limit() {
    for variant in [Variant::Sotw, Variant::Delta] {
        let mut limits = Limits::default();
        limits.stream.names = 10;
        let served = serve_with(|builder| builder.limits(limits)).await;
        let mut client = unread(&served, variant).await;
        for round in 0..100 {
            put(&served, &format!("c{}", round % 10), round);
            yield_now().await;
        }
        for name in 0..100 {
            client.subscribe(CDS, &[&name.to_string()]);
            client.unsubscribe(CDS, &[&name.to_string()]);
        }
        served.heard.expect("n: disconnected Some(ResourceExhausted)").await;
    }
}

/// How long the connections drain that came in by a listener's old content counts from its answer, whenever
/// the server said something last.
#[tokio::test]
async fn k06_what_is_answered_while_a_response_waits_is_answered_then() {
    let served = serve().await;
    let listener = |content: u8, cluster: &str| {
        let listener = Resource::raw(TypeUrl::LISTENER, "l", vec![content]);
        listener.references([Key::new(CDS, cluster)]).build()
    };
    served.put_all([cluster("x", "1"), cluster("y", "1"), listener(1, "x")]);
    let mut client = unread(&served, Variant::Delta).await;
    client.subscribe(TypeUrl::LISTENER, &[]);
    let update = client.expect(TypeUrl::LISTENER).await;
    client.ack(&update);
    served.put_all([listener(2, "y")]);
    let update = client.expect(TypeUrl::LISTENER).await;
    for round in 0..100 {
        put(&served, &format!("c{}", round % 10), round);
        yield_now().await;
    }
    pause();
    advance(Duration::from_secs(1000)).await;
    resume();
    client.ack(&update);
    client.subscribe(TypeUrl::ROUTE, &["r"]);
    served.heard.expect("n: subscribed RouteConfiguration").await;
    let mut removal = Transaction::new();
    removal.remove("c", CDS, "x");
    served.cache.commit(removal).unwrap();
    let is_newest = |held: &Received| {
        let content = held.decode::<Cluster>().alt_stat_name;
        !held.name.starts_with('c') || content.starts_with(&format!("9{} ", &held.name[1..]))
    };
    while client.running(&CDS).count() < 13 || !client.running(&CDS).all(is_newest) {
        let update = client.expect(CDS).await;
        assert_eq!(update.removed, [""; 0], "it is in use until the old connections are drained");
        client.ack(&update);
    }
    client.silence().await;
}

#[tokio::test]
async fn who_does_not_read_does_not_hold_up_shutdown() {
    let mut served = serve().await;
    let client = unread(&served, Variant::Delta).await;
    for round in 0..100 {
        put(&served, &format!("c{}", round % 10), round);
        yield_now().await;
    }
    drop(served.stop.take());
    let ended = timeout(Duration::from_secs(10), served.task).await;
    ended.expect("the server ends").unwrap().unwrap();
    drop(client);
}

/// A first request that fits into a frame.
pub fn asks(id: &str) -> Vec<u8> {
    let node = Node { id: id.into(), cluster: "c".into(), ..Default::default() };
    subscribe(Some(node)).encode_to_vec()
}

/// A client that has read its first response, has 64 KiB of room for more, and reads no further.
async fn unread(served: &Served, variant: Variant) -> ModelClient<Connection> {
    put(served, "first", 0);
    let endpoint = served.endpoint().initial_stream_window_size(65_535);
    let channel = endpoint.connect().await.unwrap();
    let node = node("n", "c").unwrap();
    let mut client = ModelClient::connect(channel, node, variant).await.unwrap();
    client.subscribe(CDS, &[]);
    let update = client.expect(CDS).await;
    client.ack(&update);
    client
}

/// A cluster of that name, and of 10 KiB, which begin with the number of a round.
fn put(served: &Served, name: &str, round: usize) {
    let alt_stat_name = format!("{round} {}", "x".repeat(10 << 10));
    let cluster = Cluster { name: name.into(), alt_stat_name, ..Default::default() };
    let mut transaction = Transaction::new();
    transaction.upsert("c", envoy::resource(&cluster));
    served.cache.commit(transaction).unwrap();
}
