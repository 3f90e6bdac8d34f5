//! Limits: what is refused, and what is large and is not.

use std::time::Duration;

use deltaplane_server::{
    Aging, Authorizer, Drain, Grant, Keepalive, Limits, Order, Pace, Resource, Transaction,
    TypeUrl, Variant,
    envoy_types::pb::envoy::service::{
        discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest},
        endpoint::v3::endpoint_discovery_service_client::EndpointDiscoveryServiceClient,
    },
};
use futures::{StreamExt, stream};
use tonic::Code;

use crate::served::{CDS, DELTA, ask, next, next_delta, node, serve, serve_with, subscribe};

#[tokio::test]
async fn beyond_a_limit_the_stream_ends_and_says_which() {
    let mut limits = Limits::default();
    limits.stream.names = 2;
    limits.stream.name_length = 10;
    limits.stream.types = 1;
    limits.request_size = 100_000;
    limits.requests_per_second = 5;
    let served = serve_with(|builder| builder.limits(limits)).await;
    served.put("c", "a", "1");
    let named = |names: &[&str]| DeltaDiscoveryRequest {
        resource_names_subscribe: names.iter().map(ToString::to_string).collect(),
        ..subscribe(node("n", "c"))
    };
    assert!(ask(&served, DELTA, &named(&["a", "b"])).await.is_ok());
    let refused = ask(&served, DELTA, &named(&["a", "b", "c"])).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("may name 2"), "{refused}");
    let refused = ask(&served, DELTA, &named(&["12345678901"])).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("10 bytes"), "{refused}");
    let large = "x".repeat(200_000);
    let refused = ask(&served, DELTA, &named(&[&large])).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("may have 100000 bytes"), "{refused}");
    let (requests, mut responses) = served.delta().await;
    requests.send(subscribe(node("n", "c"))).unwrap();
    next_delta(&mut responses).await;
    requests.send(DeltaDiscoveryRequest { type_url: "x/y".into(), ..subscribe(None) }).unwrap();
    let refused = next(&mut responses).await.unwrap_err();
    assert!(refused.message().contains("ask for 1 types"), "{refused}");
    let (requests, mut responses) = served.delta().await;
    for _ in 0..10 {
        requests.send(named(&["a"])).unwrap();
    }
    let refused = loop {
        if let Err(refused) = next(&mut responses).await {
            break refused;
        }
    };
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("5 requests a second"), "{refused}");
}

#[tokio::test]
async fn times_without_end_are_borne() {
    const FOREVER: Duration = Duration::MAX;
    let mut limits = Limits::default();
    (limits.handshake, limits.first_request) = (FOREVER, FOREVER);
    let mut keepalive = Keepalive::default();
    (keepalive.interval, keepalive.timeout) = (FOREVER, FOREVER);
    let authorizer = Authorizer::new(|_| async { Ok(Grant::usual()) });
    let authorizer = authorizer.within(FOREVER).again_every(FOREVER);
    let mut served = serve_with(|builder| {
        builder
            .limits(limits)
            .keepalive(keepalive)
            .authorizer(authorizer)
            .order(Order::default().with_drain(FOREVER))
            .catch_up(FOREVER)
            .pace(Pace::default().debounce(Duration::ZERO, FOREVER))
            .aging(Aging::after(FOREVER).grace(FOREVER))
            .drain(Drain::within(Duration::from_secs(1)).spread(FOREVER))
    })
    .await;
    served.put("c", "a", "1");
    // It has a connection and a stream before it says something.
    let (requests, mut responses) = served.delta().await;
    requests.send(subscribe(node("n", "c"))).unwrap();
    for content in ["2", "3"] {
        let response = next_delta(&mut responses).await;
        let answer = DeltaDiscoveryRequest { response_nonce: response.nonce, ..subscribe(None) };
        requests.send(answer).unwrap();
        served.put("c", "a", content);
    }
    next_delta(&mut responses).await;
    drop(served.stop.take());
    served.task.await.expect("nothing panics").unwrap();
}

#[tokio::test]
async fn k04_two_thousand_streams_on_one_connection_are_served() {
    let served = serve().await;
    let put = |content: u8| {
        let mut transaction = Transaction::new();
        for i in 0..2000 {
            let resource = Resource::raw(TypeUrl::ENDPOINT, i.to_string(), vec![content]);
            transaction.upsert("c", resource.build());
        }
        served.cache.commit(transaction).unwrap();
    };
    put(1);
    let mut client = EndpointDiscoveryServiceClient::new(served.channel().await);
    let mut streams = Vec::new();
    for i in 0..2000 {
        let request = DiscoveryRequest {
            node: node(&i.to_string(), "c"),
            resource_names: vec![i.to_string()],
            ..Default::default()
        };
        let requests = stream::iter([request]).chain(stream::pending());
        streams.push(client.stream_endpoints(requests).await.unwrap().into_inner());
    }
    for stream in &mut streams {
        assert_eq!(next(stream).await.unwrap().unwrap().resources[0].value, [1]);
    }
    put(2);
    for stream in &mut streams {
        assert_eq!(next(stream).await.unwrap().unwrap().resources[0].value, [2]);
    }
}

#[tokio::test]
async fn k05_a_request_may_be_larger_than_usual_and_a_delta_response_is_not() {
    let served = serve().await;
    let mut transaction = Transaction::new();
    for i in 0..10 {
        let value = vec![b'x'; 1 << 20];
        transaction.upsert("c", Resource::raw(CDS, i.to_string(), value).build());
    }
    served.cache.commit(transaction).unwrap();
    let held = (0..60_000).map(|i| (format!("{i:040}"), "x".repeat(64)));
    let request = DeltaDiscoveryRequest {
        initial_resource_versions: held.collect(),
        ..subscribe(node("n", "c"))
    };
    // This client refuses a message above 4 MiB.
    let (requests, mut responses) = served.delta().await;
    requests.send(request).unwrap();
    let (mut resources, mut removed) = (0, 0);
    while (resources, removed) != (10, 60_000) {
        let part = next_delta(&mut responses).await;
        resources += part.resources.len();
        removed += part.removed_resources.len();
        assert!(resources <= 10 && removed <= 60_000);
    }
}

#[tokio::test]
async fn k05_what_cannot_be_split_is_sent_whole_and_usual_clients_refuse_it() {
    let served = serve().await;
    let mut transaction = Transaction::new();
    for i in 0..5 {
        let value = vec![b'x'; 1 << 20];
        transaction.upsert("c", Resource::raw(CDS, i.to_string(), value).build());
    }
    served.cache.commit(transaction).unwrap();
    let request =
        DiscoveryRequest { node: node("n", "c"), type_url: CDS.to_string(), ..Default::default() };
    let requests = stream::iter([request]).chain(stream::pending());
    let responses = served.connect().await.stream_aggregated_resources(requests).await.unwrap();
    let refused = next(&mut responses.into_inner()).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange);
    let mut lenient = served.model("lenient", Variant::Sotw).await;
    lenient.subscribe(CDS, &[]);
    assert_eq!(lenient.expect(CDS).await.resources.len(), 5);
}
