//! How connections end: for their age, since others have less to do, and with the server.

use std::time::{Duration, Instant};

use deltaplane_server::{
    Aging, Drain, LoadReporting, Variant,
    envoy_types::pb::envoy::{
        config::core::v3::Node,
        service::load_stats::v3::{
            LoadStatsRequest, load_reporting_service_client::LoadReportingServiceClient,
        },
    },
    testing::{Connection, ModelClient},
};
use futures::{StreamExt as _, future::join_all, stream};
use prost::Message as _;
use tokio::{task::spawn_blocking, time::timeout};
use tonic::{Code, Status};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::{
    raw_http2::{GOAWAY, HEADERS, RawClient},
    served::{CDS, DELTA, Served, next, node, serve_with, subscribe, until},
};

/// Clients on connections of their own, each of which has what there is.
async fn clients(served: &Served, count: usize) -> Vec<ModelClient<Connection>> {
    let mut clients = Vec::new();
    for id in 0..count {
        let mut client = served.model(&id.to_string(), Variant::Delta).await;
        client.subscribe(CDS, &[]);
        let update = client.expect(CDS).await;
        client.ack(&update);
        clients.push(client);
    }
    clients
}

/// The server ends the client's stream, with this to say.
async fn ends(client: &mut ModelClient<Connection>, words: &str) {
    loop {
        match client.next().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("it ended without a word"),
            Err(status) => return assert_says(&status, words),
        }
    }
}

fn assert_says(status: &Status, words: &str) {
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(status.message().contains(words), "{status}");
}

#[tokio::test]
async fn k03_an_old_connection_is_told_to_end_before_its_streams_do() {
    let aging = Aging::after(Duration::from_millis(300));
    let served = serve_with(|builder| builder.aging(aging)).await;
    served.put("c", "a", "1");
    let address = served.address;
    let kinds = spawn_blocking(move || {
        let mut client = RawClient::connect(address);
        let node = Node { id: "n".into(), cluster: "c".into(), ..Default::default() };
        client.call(DELTA, &subscribe(Some(node)).encode_to_vec());
        assert!(!client.data().is_empty());
        client.rest()
    });
    let kinds = kinds.await.unwrap();
    let goaway = kinds.iter().position(|kind| *kind == GOAWAY).expect("a GOAWAY");
    let trailers = kinds.iter().rposition(|kind| *kind == HEADERS).expect("trailers");
    assert!(goaway < trailers, "{kinds:?}");
    served.heard.expect("n: disconnected Some(Unavailable)").await;
    until("the connection is gone", || served.server.occupancy().connections == 0).await;
    assert_eq!(served.server.occupancy().aged, 1);
}

#[tokio::test]
async fn k03_clients_of_old_connections_come_back_with_what_they_hold() {
    let aging = Aging::after(Duration::from_millis(300));
    let served = serve_with(|builder| builder.aging(aging)).await;
    served.put("c", "a", "1");
    let mut client = clients(&served, 1).await.remove(0);
    ends(&mut client, "has reached its age").await;
    let mut again = clients(&served, 1).await.remove(0);
    served.put("c", "a", "2");
    assert_eq!(again.expect(CDS).await.names(), ["a"]);
}

#[tokio::test]
async fn a_stream_that_just_began_is_answered_before_it_ends() {
    let aging = Aging::after(Duration::from_millis(100));
    let served = serve_with(|builder| builder.aging(aging)).await;
    served.put("c", "a", "1");
    let mut client = served.model("n", Variant::Delta).await;
    until("the connection is told to end", || served.server.occupancy().aged == 1).await;
    client.subscribe(CDS, &[]);
    assert_eq!(client.expect(CDS).await.names(), ["a"]);
    ends(&mut client, "has reached its age").await;
}

#[tokio::test]
async fn what_does_not_end_when_it_is_told_to_is_cut() {
    let aging = Aging::after(Duration::from_millis(100)).grace(Duration::from_millis(100));
    let served = serve_with(|builder| builder.aging(aging)).await;
    // It asks nothing, so that it is not answered.
    let mut client = served.model("n", Variant::Sotw).await;
    assert!(client.next().await.is_err());
    until("the connection is gone", || served.server.occupancy().connections == 0).await;
}

#[tokio::test]
async fn load_reports_end_with_their_connection() {
    let aging = Aging::after(Duration::from_millis(200));
    let reporting = LoadReporting::every(Duration::from_secs(1));
    let served =
        serve_with(|builder| builder.aging(aging).load_reports(reporting, |_, _| {})).await;
    let node = Some(Node { id: "n".into(), ..Node::default() });
    let report = LoadStatsRequest { node, ..Default::default() };
    let reports = stream::iter([report]).chain(stream::pending());
    let mut client = LoadReportingServiceClient::new(served.channel().await);
    let mut selections = client.stream_load_stats(reports).await.unwrap().into_inner();
    next(&mut selections).await.unwrap().expect("it is told what to report");
    assert_says(&next(&mut selections).await.unwrap_err(), "the connection ends");
}

#[tokio::test]
async fn streams_above_the_fair_share_are_ended_a_few_at_a_time() {
    let served = serve_with(|builder| builder).await;
    served.put("c", "a", "1");
    let all = clients(&served, 16).await;
    assert_eq!(served.server.occupancy().streams, 16);
    served.server.set_fair_share(Some(10));
    let shed = |at_least: usize| {
        let server = served.server.clone();
        until("some are shed", move || server.occupancy().shed >= at_least as u64)
    };
    shed(1).await;
    assert!(served.server.occupancy().shed < 6, "not all at once");
    shed(5).await;
    // A tenth above is near enough.
    until("they are gone", || served.server.occupancy().streams == 11).await;
    served.put("c", "a", "2");
    let (mut ended, mut told) = (0, 0);
    for mut client in all {
        match client.next().await {
            Ok(_) => told += 1,
            Err(status) => {
                assert_says(&status, "other replicas have less to do");
                ended += 1;
            }
        }
    }
    assert_eq!((ended, told), (5, 11));
}

#[tokio::test]
async fn a_connection_that_would_be_too_much_elsewhere_stays() {
    let served = serve_with(|builder| builder).await;
    served.put("c", "a", "1");
    let channel = served.channel().await;
    let mut large = Vec::new();
    for id in 0..8 {
        let node = node(&format!("large-{id}"), "c").unwrap();
        let mut client = ModelClient::connect(channel.clone(), node, Variant::Delta).await.unwrap();
        client.subscribe(CDS, &[]);
        client.expect(CDS).await;
        large.push(client);
    }
    let mut small = clients(&served, 2).await;
    served.server.set_fair_share(Some(4));
    for client in &mut small {
        ends(client, "other replicas have less to do").await;
    }
    until("they are gone", || served.server.occupancy().streams == 8).await;
    // Further looks find nothing to end.
    let mut more = clients(&served, 1).await.remove(0);
    ends(&mut more, "other replicas have less to do").await;
    for client in &mut large {
        client.silence().await;
    }
}

#[tokio::test]
async fn at_shutdown_clients_leave_one_after_another_and_health_says_so() {
    let drain = Drain::within(Duration::from_secs(5)).spread(Duration::from_millis(700));
    let mut served = serve_with(|builder| builder.drain(drain)).await;
    served.put("c", "a", "1");
    let all = clients(&served, 10).await;
    let mut health = HealthClient::new(served.channel().await);
    let ads = "envoy.service.discovery.v3.AggregatedDiscoveryService";
    let request = HealthCheckRequest { service: ads.into() };
    let mut health = health.watch(request).await.unwrap().into_inner();
    assert_eq!(next(&mut health).await.unwrap().unwrap().status, 1, "SERVING");
    drop(served.stop.take());
    assert_eq!(next(&mut health).await.unwrap().unwrap().status, 2, "NOT_SERVING");
    drop(health);
    let ended = join_all(all.into_iter().map(|mut client| async move {
        ends(&mut client, "shuts down").await;
        Instant::now()
    }));
    let ended = ended.await;
    let (first, last) = (ended.iter().min().unwrap(), ended.iter().max().unwrap());
    assert!(last.duration_since(*first) > Duration::from_millis(100), "not all at once");
    timeout(Duration::from_secs(5), served.task).await.expect("it ends").unwrap().unwrap();
}

#[tokio::test]
async fn shutdown_takes_no_longer_than_it_may() {
    let drain = Drain::within(Duration::from_millis(300));
    let mut served = serve_with(|builder| builder.drain(drain)).await;
    // It asks nothing, so that it is waited for.
    let mut client = served.model("n", Variant::Sotw).await;
    drop(served.stop.take());
    timeout(Duration::from_secs(3), served.task).await.expect("it ends").unwrap().unwrap();
    assert!(client.next().await.is_err());
    assert_eq!(served.server.occupancy().connections, 0);
}
