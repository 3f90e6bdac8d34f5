//! More clients than there may be: new ones wait or are refused, and those that are there are served.

use std::{
    io::Read,
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use deltaplane_server::{
    Aging, Limits, Variant,
    envoy_types::pb::envoy::config::core::v3::Node,
    testing::{Connection, ModelClient},
};
use tokio::{task::spawn_blocking, time::timeout};
use tonic::{Code, Status};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::{
    connections::asks,
    raw_http2::{GOAWAY, HEADERS, RawClient, framed},
    served::{CDS, DELTA, Served, node, serve_with, until},
};

/// A client that has what there is.
async fn connect(served: &Served, id: &str) -> Result<ModelClient<Connection>, Status> {
    let node = node(id, "c").unwrap();
    open(ModelClient::connect(served.channel().await, node, Variant::Delta).await?).await
}

async fn open(mut client: ModelClient<Connection>) -> Result<ModelClient<Connection>, Status> {
    client.subscribe(CDS, &[]);
    let update = client.next().await?.expect("an answer");
    client.ack(&update);
    Ok(client)
}

async fn limited(limit: impl FnOnce(&mut Limits)) -> Served {
    let mut limits = Limits::default();
    limit(&mut limits);
    let served = serve_with(|builder| builder.limits(limits)).await;
    served.put("c", "a", "1");
    served
}

/// How long a server waits that has little patience.
const MOMENT: Duration = Duration::from_millis(500);

/// A server that waits for a moment only.
async fn impatient(limit: impl FnOnce(&mut Limits)) -> Served {
    let mut limits = Limits::default();
    (limits.first_request, limits.connection_idle) = (MOMENT, MOMENT);
    limit(&mut limits);
    let aging = Aging::default().grace(MOMENT);
    let served = serve_with(|builder| builder.limits(limits).aging(aging)).await;
    served.put("c", "a", "1");
    served
}

#[tokio::test]
async fn further_connections_wait_until_one_ends() {
    let served = limited(|limits| limits.connections = 2).await;
    let first = connect(&served, "first").await.unwrap();
    let mut second = connect(&served, "second").await.unwrap();
    let endpoint = served.endpoint();
    let third = tokio::spawn(async move {
        let channel = endpoint.connect().await.unwrap();
        let node = Node { id: "third".into(), cluster: "c".into(), ..Node::default() };
        open(ModelClient::connect(channel, node, Variant::Delta).await?).await
    });
    for content in ["2", "3"] {
        served.put("c", "a", content);
        let update = second.expect(CDS).await;
        second.ack(&update);
        second.silence().await;
    }
    assert_eq!((served.server.occupancy().connections, third.is_finished()), (2, false));
    drop(first);
    third.await.unwrap().expect("it is served");
}

#[tokio::test]
async fn no_more_connections_are_accepted_in_a_second_than_may_be() {
    let served = limited(|limits| limits.accepts_per_second = 3).await;
    let start = Instant::now();
    for id in 0..7 {
        connect(&served, &id.to_string()).await.unwrap();
    }
    // The first second may have begun before.
    let took = start.elapsed();
    assert!(took >= Duration::from_secs(1), "{took:?}");
}

#[tokio::test]
async fn further_streams_are_refused_and_the_others_are_served() {
    let served = limited(|limits| limits.streams = 2).await;
    let first = connect(&served, "first").await.unwrap();
    let mut second = connect(&served, "second").await.unwrap();
    let refused = connect(&served, "third").await.expect_err("it is refused");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("the 2 streams that it may have"), "{refused}");
    let occupancy = served.server.occupancy();
    assert_eq!((occupancy.streams, occupancy.refused), (2, 1));
    served.put("c", "a", "2");
    second.expect(CDS).await;
    drop(first);
    until("its stream is gone", || served.server.occupancy().streams == 1).await;
    connect(&served, "third").await.expect("it is served");
}

#[tokio::test]
async fn short_of_memory_who_is_there_is_served_and_nobody_new() {
    let mut limits = Limits::default();
    limits.memory = 1000;
    let in_use = Arc::new(AtomicU64::new(1000));
    let reads = in_use.clone();
    let served = serve_with(|builder| {
        builder.limits(limits).memory_in_use(move || reads.load(Ordering::Relaxed))
    })
    .await;
    served.put("c", "a", "1");
    let channel = served.channel().await;
    let mut first = connect(&served, "first").await.unwrap();
    in_use.store(1001, Ordering::Relaxed);
    // What was read is good for a moment.
    let refused = timeout(Duration::from_secs(10), async {
        loop {
            let node = node("second", "c").unwrap();
            let opened = ModelClient::connect(channel.clone(), node, Variant::Delta).await;
            if let Err(refused) = opened {
                return refused;
            }
        }
    });
    let refused = refused.await.expect("it is refused");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("short of memory"), "{refused}");
    served.put("c", "a", "2");
    let update = first.expect(CDS).await;
    first.ack(&update);
    // Whoever connects now waits.
    let endpoint = served.endpoint();
    let third = tokio::spawn(async move {
        let channel = endpoint.connect().await.unwrap();
        let node = Node { id: "third".into(), cluster: "c".into(), ..Node::default() };
        open(ModelClient::connect(channel, node, Variant::Delta).await?).await
    });
    first.silence().await;
    in_use.store(1000, Ordering::Relaxed);
    third.await.unwrap().expect("it is served");
}

#[tokio::test]
async fn who_connects_and_asks_nothing_is_let_go() {
    let served = impatient(|_| {}).await;
    let mut asks = connect(&served, "asks").await.unwrap();
    let address = served.address;
    let silent = spawn_blocking(move || {
        // Without a word, with no stream, and with a stream on which nothing is said.
        let mut without = TcpStream::connect(address).unwrap();
        let mut empty = RawClient::connect(address);
        let mut opened = RawClient::connect(address);
        opened.call_silently(DELTA);
        without.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut rest = Vec::new();
        without.read_to_end(&mut rest).expect("the server closes the connection");
        empty.rest();
        opened.until(HEADERS);
        opened.until(HEADERS);
    });
    silent.await.unwrap();
    served.put("c", "a", "2");
    asks.expect(CDS).await;
}

#[tokio::test]
async fn who_asked_once_and_is_idle_since_then_makes_room() {
    let served = impatient(|limits| limits.connections = 1).await;
    let mut health = HealthClient::new(served.channel().await);
    health.check(HealthCheckRequest::default()).await.unwrap();
    // It answers pings for as long as there are any.
    let next = timeout(Duration::from_secs(10), connect(&served, "next"));
    let next = next.await.expect("it is let in").unwrap();
    assert_eq!(served.server.occupancy().idle, 1);
    drop(next);
    // It bears that, and connects anew when it wants to know again.
    health.check(HealthCheckRequest::default()).await.expect("it is answered");
}

#[tokio::test]
async fn a_connection_is_idle_from_the_end_of_its_last_stream_on() {
    let served = impatient(|_| {}).await;
    let address = served.address;
    let client = spawn_blocking(move || {
        let mut client = RawClient::connect(address);
        client.call(DELTA, &asks("n"));
        client.data();
        // Who came later and asks nothing is let go; who has a stream is not, though nothing happens on it.
        for _ in 0..2 {
            RawClient::connect(address).rest();
        }
        client.ping(1);
        let end = Instant::now();
        client.reset();
        assert!(client.rest().contains(&GOAWAY));
        assert!(end.elapsed() >= MOMENT, "{:?}", end.elapsed());
    });
    client.await.unwrap();
    until("it is gone", || served.server.occupancy().connections == 0).await;
}

#[tokio::test]
async fn who_takes_long_to_say_all_of_the_first_request_is_served() {
    let served = impatient(|_| {}).await;
    let address = served.address;
    let request = framed(&asks("slow"));
    let slow = spawn_blocking(move || {
        let (begin, end) = request.split_at(request.len() / 2);
        let mut slow = RawClient::connect(address);
        slow.call_silently(DELTA);
        slow.say(begin);
        slow.ping(1);
        // Whoever came later and says nothing is let go before it says the rest.
        let mut silent = RawClient::connect(address);
        silent.call_silently(DELTA);
        silent.until(HEADERS);
        silent.until(HEADERS);
        slow.say(end);
        slow.data()
    });
    assert!(!slow.await.unwrap().is_empty());
}

#[tokio::test]
async fn who_waits_until_others_of_its_connection_have_asked_is_served() {
    let served = impatient(|_| {}).await;
    let channel = served.channel().await;
    let connect =
        |id| ModelClient::connect(channel.clone(), node(id, "c").unwrap(), Variant::Delta);
    let waits = connect("waits").await.unwrap();
    let address = served.address;
    let later = spawn_blocking(move || {
        let mut silent = RawClient::connect(address);
        silent.call_silently(DELTA);
        silent.until(HEADERS);
        silent.until(HEADERS);
    });
    let mut others = Vec::new();
    while !later.is_finished() {
        others.push(open(connect("asks").await.unwrap()).await.unwrap());
    }
    later.await.unwrap();
    open(waits).await.expect("it is served");
    // Once nobody else begins to ask, who does not is let go.
    let end = timeout(Duration::from_secs(10), async {
        let mut silent = connect("silent").await.unwrap();
        silent.next().await
    });
    let end = end.await.expect("it is let go").expect_err("with a status");
    assert_eq!(end.code(), Code::DeadlineExceeded);
}
