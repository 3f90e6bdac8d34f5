//! Clients: who they are, what they see, and how they go.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use deltaplane_server::{
    Resource, Scope, Transaction, TypeUrl,
    envoy_types::pb::{
        envoy::service::discovery::v3::{
            DeltaDiscoveryRequest, DiscoveryRequest, DiscoveryResponse,
        },
        google::rpc,
    },
};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Code, Streaming};

use crate::served::{
    CDS, DELTA, Served, call, next, next_delta, node, serve, serve_with, subscribe,
};

#[tokio::test]
async fn b01_b11_both_methods_serve_one_client_independently() {
    let served = serve().await;
    served.put("c", "a", "1");
    let (deltas, mut delta) = served.delta().await;
    deltas.send(subscribe(node("n", "c"))).unwrap();
    let (sotws, receiver) = mpsc::unbounded_channel();
    let mut client = served.connect().await;
    let receiver = UnboundedReceiverStream::new(receiver);
    let sotw = client.stream_aggregated_resources(receiver).await.unwrap();
    let mut sotw: Streaming<DiscoveryResponse> = sotw.into_inner();
    let request =
        DiscoveryRequest { node: node("n", "c"), type_url: CDS.to_string(), ..Default::default() };
    sotws.send(request.clone()).unwrap();
    let first = next_delta(&mut delta).await;
    assert_eq!(first.resources[0].name, "a");
    assert_eq!(first.resources[0].resource.as_ref().unwrap().value, b"1");
    assert_eq!(first.nonce, "1");
    assert_eq!(first.control_plane.unwrap().identifier, "replica-1", "B-11");
    let whole = next(&mut sotw).await.unwrap().unwrap();
    assert_eq!(whole.control_plane.unwrap().identifier, "replica-1", "B-11");
    assert_eq!(whole.resources[0].value, b"1");
    assert_eq!(whole.type_url, CDS.as_str());
    // Updates reach both; a NACK on one is told, and concerns only it.
    let error_detail = Some(rpc::Status { message: "boom".into(), ..Default::default() });
    let nack =
        DeltaDiscoveryRequest { response_nonce: first.nonce, error_detail, ..subscribe(None) };
    deltas.send(nack).unwrap();
    served.heard.expect("n: rejected boom").await;
    served.put("c", "b", "2");
    assert_eq!(next_delta(&mut delta).await.resources[0].name, "b");
    assert_eq!(next(&mut sotw).await.unwrap().unwrap().resources.len(), 2);
}

#[tokio::test]
async fn b06_b07_b13_the_node_is_the_first_requests_and_streams_are_independent() {
    let served = serve().await;
    served.put("c", "a", "1");
    served.put("elsewhere", "a", "1");
    let mut transaction = Transaction::new();
    transaction.upsert("c", Resource::raw(TypeUrl::LISTENER, "l", vec![]).build());
    served.cache.commit(transaction).unwrap();
    let (first, mut from_first) = served.delta().await;
    let (second, mut from_second) = served.delta().await;
    first.send(subscribe(node("n", "c"))).unwrap();
    second.send(subscribe(node("n", "c"))).unwrap();
    next_delta(&mut from_first).await;
    next_delta(&mut from_second).await;
    first
        .send(DeltaDiscoveryRequest {
            type_url: TypeUrl::LISTENER.to_string(),
            node: node("someone else", "elsewhere"),
            ..Default::default()
        })
        .unwrap();
    let listeners = next_delta(&mut from_first).await;
    assert_eq!(listeners.type_url, TypeUrl::LISTENER.as_str());
    assert_eq!(listeners.resources[0].name, "l", "of the first node");
    first
        .send(DeltaDiscoveryRequest {
            type_url: TypeUrl::SCOPED_ROUTE.to_string(),
            ..Default::default()
        })
        .unwrap();
    assert_eq!(next_delta(&mut from_first).await.type_url, TypeUrl::SCOPED_ROUTE.as_str());
    drop((first, from_first));
    served.heard.expect("n: disconnected None").await;
    served.put("c", "a", "2");
    assert_eq!(next_delta(&mut from_second).await.resources.len(), 1);
}

#[tokio::test]
async fn a_client_is_unknown_until_a_scope_is_filled_and_then_moves_as_more_are() {
    let served = serve().await;
    let (requests, mut responses) = served.delta().await;
    requests.send(subscribe(node("n", "c"))).unwrap();
    served.heard.expect("n: connected []").await;
    served.put("c", "a", "1");
    served.heard.expect(r#"n: moved [] -> [Scope("c")]"#).await;
    assert_eq!(next_delta(&mut responses).await.resources[0].name, "a");
    served.put("n", "b", "1");
    served.heard.expect(r#"n: moved [Scope("c")] -> [Scope("n")]"#).await;
    assert_eq!(next_delta(&mut responses).await.resources[0].name, "b");
    assert_eq!(next_delta(&mut responses).await.removed_resources, ["a"]);
    served.put("n", "b", "2");
    assert_eq!(next_delta(&mut responses).await.resources[0].name, "b");
}

/// Who asks is shown a scope, of which there may be another later.
async fn serve_chosen(scope: &'static str) -> (Served, Arc<Mutex<&'static str>>) {
    let chosen = Arc::new(Mutex::new(scope));
    let rule = chosen.clone();
    let choose = move |_: &_, _: &_| vec![Scope::from(*rule.lock().unwrap())];
    (serve_with(|builder| builder.view(choose)).await, chosen)
}

#[tokio::test]
async fn a_client_moves_when_the_rule_is_asked_again_and_says_otherwise() {
    let (served, chosen) = serve_chosen("a").await;
    served.put("a", "of-a", "1");
    served.put("b", "of-b", "1");
    let (requests, mut responses) = served.delta().await;
    requests.send(subscribe(node("n", "c"))).unwrap();
    assert_eq!(next_delta(&mut responses).await.resources[0].name, "of-a");
    *chosen.lock().unwrap() = "b";
    served.server.choose_views();
    served.heard.expect(r#"n: moved [Scope("a")] -> [Scope("b")]"#).await;
    assert_eq!(next_delta(&mut responses).await.resources[0].name, "of-b");
    assert!(served.server.cache().is_known(&Scope::from("b")));
}

#[tokio::test]
async fn who_breaks_the_protocol_ends_his_own_stream_and_no_other() {
    let served = serve().await;
    served.put("c", "a", "1");
    let (requests, mut responses) = served.delta().await;
    requests.send(subscribe(node("n", "c"))).unwrap();
    next_delta(&mut responses).await;
    let (bad, mut from_bad) = served.delta().await;
    bad.send(DeltaDiscoveryRequest { node: node("bad", "c"), ..Default::default() }).unwrap();
    let status = next(&mut from_bad).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("type_url"), "{}", status.message());
    served.heard.expect("bad: disconnected Some(InvalidArgument)").await;
    let channel = served.channel().await;
    // A truncated field, a name that is no UTF-8, a node that is none.
    for garbage in [vec![0x12, 200, 1], vec![0x1a, 2, 0xff, 0xfe], vec![0x0a, 2, 0x0a, 9]] {
        let status = call(channel.clone(), DELTA, garbage.clone()).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{garbage:?}: {status}");
    }
    served.put("c", "a", "2");
    assert_eq!(next_delta(&mut responses).await.resources.len(), 1);
}

#[tokio::test]
async fn r13_who_left_with_a_rejection_is_not_believed_what_it_runs() {
    comes_back_after_a_rejection(true).await;
}

#[tokio::test]
async fn r13_a_rejection_that_was_lost_with_its_stream_is_one() {
    comes_back_after_a_rejection(false).await;
}

async fn comes_back_after_a_rejection(is_heard: bool) {
    let (served, chosen) = serve_chosen("c").await;
    served.put("c", "a", "1");
    served.put("as-before", "a", "1");
    let (requests, mut responses) = served.delta().await;
    requests.send(subscribe(node("n", "c"))).unwrap();
    let first = next_delta(&mut responses).await;
    let held = [("a".to_owned(), first.resources[0].version.clone())];
    requests
        .send(DeltaDiscoveryRequest { response_nonce: first.nonce, ..subscribe(None) })
        .unwrap();
    served.heard.expect("n: acknowledged Cluster").await;
    let mut transaction = Transaction::new();
    transaction.upsert("c", Resource::raw(CDS, "a", b"2".to_vec()).build());
    transaction.upsert("c", Resource::raw(CDS, "bad", b"2".to_vec()).build());
    served.cache.commit(transaction).unwrap();
    let second = next_delta(&mut responses).await;
    let error_detail = Some(rpc::Status { message: "bad: no".into(), ..Default::default() });
    let nack =
        DeltaDiscoveryRequest { response_nonce: second.nonce, error_detail, ..subscribe(None) };
    if is_heard {
        requests.send(nack).unwrap();
        served.heard.expect("n: rejected bad: no").await;
    }
    drop((requests, responses));
    served.heard.expect("n: disconnected None").await;
    // It runs a=2 and reports a=1, which is what it is to have again. That nothing was there between is all that the
    // cache knows of this scope.
    *chosen.lock().unwrap() = "as-before";
    let back = DeltaDiscoveryRequest {
        initial_resource_versions: held.into(),
        ..subscribe(node("n", "c"))
    };
    // It asks for something else only, as while a cluster warms; then it does not answer.
    let (requests, responses) = served.delta().await;
    let routes = DeltaDiscoveryRequest {
        type_url: TypeUrl::ROUTE.to_string(),
        resource_names_subscribe: vec!["r".to_owned()],
        ..subscribe(node("n", "c"))
    };
    requests.send(routes).unwrap();
    served.heard.expect("n: subscribed RouteConfiguration").await;
    drop((requests, responses));
    served.heard.expect("n: disconnected None").await;
    for answers in [false, true] {
        let (requests, mut responses) = served.delta().await;
        requests.send(back.clone()).unwrap();
        let again = next_delta(&mut responses).await;
        assert_eq!(again.resources[0].name, "a");
        if answers {
            // It may run that, too, whatever it says.
            let gone = next_delta(&mut responses).await;
            assert_eq!(gone.removed_resources, ["bad"]);
            for response_nonce in [again.nonce, gone.nonce] {
                requests.send(DeltaDiscoveryRequest { response_nonce, ..subscribe(None) }).unwrap();
                served.heard.expect("n: acknowledged Cluster").await;
            }
        }
        drop((requests, responses));
        served.heard.expect("n: disconnected None").await;
    }
    // Once it accepted it, it is believed.
    let (requests, mut responses) = served.delta().await;
    requests.send(back).unwrap();
    served.put("as-before", "b", "1");
    assert_eq!(next_delta(&mut responses).await.resources[0].name, "b");
}

#[tokio::test]
async fn shutdown_ends_streams_and_then_the_server() {
    let mut served = serve().await;
    served.put("c", "a", "1");
    let (requests, mut responses) = served.delta().await;
    requests.send(subscribe(node("n", "c"))).unwrap();
    next_delta(&mut responses).await;
    drop(served.stop.take());
    assert_eq!(next(&mut responses).await.unwrap_err().code(), Code::Unavailable);
    drop((requests, responses));
    let ended = timeout(Duration::from_secs(10), served.task).await;
    ended.expect("the server ends").unwrap().unwrap();
}
