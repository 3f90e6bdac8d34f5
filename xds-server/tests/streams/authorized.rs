//! Who is served, and with what: by certificate, by token, and for as long as it may be.

use std::{
    future::pending,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use deltaplane_server::{
    Authorizer, Caller, Grant, LoadReporting, Scope, Variant,
    envoy_types::pb::envoy::{
        config::core::v3::Node,
        service::{
            discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
            load_stats::v3::{
                LoadStatsRequest, load_reporting_service_client::LoadReportingServiceClient,
            },
            status::v3::{
                ClientStatusRequest,
                client_status_discovery_service_client::ClientStatusDiscoveryServiceClient,
            },
        },
    },
    testing::ModelClient,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Code, Request, Status};

use crate::{
    secured::{Authority, connect, secured},
    served::{CDS, Deltas, Served, next, next_delta, node, serve_with, subscribe},
};

/// What a rule says.
type Answer = Result<Grant, Status>;

/// A server whose authorizer says what is in the cell by then.
async fn answering(answer: Answer) -> (Served, Arc<Mutex<Answer>>) {
    let cell = Arc::new(Mutex::new(answer));
    let asked = cell.clone();
    let authorizer = Authorizer::new(move |_| {
        let answer = asked.lock().unwrap().clone();
        async move { answer }
    });
    (serve_with(|builder| builder.authorizer(authorizer)).await, cell)
}

/// A delta stream that asks for clusters, with a token.
async fn open(served: &Served, token: Option<&str>) -> Result<Deltas, Status> {
    let mut client = AggregatedDiscoveryServiceClient::new(served.channel().await);
    let requests = futures::StreamExt::chain(
        tokio_stream::once(subscribe(node("n", "c"))),
        tokio_stream::pending(),
    );
    let mut request = Request::new(requests);
    if let Some(token) = token {
        request.metadata_mut().insert("authorization", token.parse().unwrap());
    }
    Ok(client.delta_aggregated_resources(request).await?.into_inner())
}

async fn refusal(responses: &mut Deltas) -> Status {
    next(responses).await.expect_err("the client is refused")
}

#[tokio::test]
async fn a_certificate_decides_what_is_seen_whatever_the_node_says() {
    let authorizer = Authorizer::new(|caller: Caller| async move {
        assert!(caller.peer.address.is_some());
        let certificate = caller.peer.certificate.as_deref();
        let id = certificate.and_then(|certificate| certificate.spiffe_id());
        let id = id.ok_or_else(|| Status::unauthenticated("show a SPIFFE id"))?;
        let tenant = id.strip_prefix("spiffe://shop.test/tenant/");
        let tenant =
            tenant.ok_or_else(|| Status::permission_denied(format!("{id} is nobody's")))?;
        Ok(Grant::scopes([tenant]))
    });
    let served = serve_with(|builder| builder.authorizer(authorizer)).await;
    for tenant in ["a", "b"] {
        served.put(tenant, &format!("of-{tenant}"), "1");
    }
    let ours = Authority::new();
    let address = secured(&served, ours.server()).await;
    for tenant in ["a", "b"] {
        let id = format!("spiffe://shop.test/tenant/{tenant}");
        let tls = ours.client_named(Some((&ours, &id)));
        let mut client = connect(address, tls).await.unwrap();
        client.subscribe(CDS, &[]);
        assert_eq!(client.expect(CDS).await.names(), [format!("of-{tenant}")]);
        let seen = served.server.clients();
        let peer = &seen.last().unwrap().client.peer;
        assert_eq!(peer.certificate.as_ref().unwrap().uris, [id]);
    }
    for (name, code, words) in [
        ("host.test", Code::Unauthenticated, "show a SPIFFE id"),
        ("spiffe://shop.test/x", Code::PermissionDenied, "spiffe://shop.test/x is nobody's"),
    ] {
        let tls = ours.client_named(Some((&ours, name)));
        let mut client = connect(address, tls).await.unwrap();
        client.subscribe(CDS, &[]);
        let refused = client.next().await.unwrap_err();
        assert_eq!((refused.code(), refused.message()), (code, words));
        served.heard.expect(&format!("n: refused {code:?}")).await;
    }
}

#[tokio::test]
async fn a_token_decides_and_is_never_printed() {
    let printed = Arc::new(Mutex::new(String::new()));
    let prints = printed.clone();
    let authorizer = Authorizer::new(move |caller: Caller| {
        prints.lock().unwrap().push_str(&format!("{caller:?}"));
        async move {
            match caller.token.as_ref().map(|token| token.reveal()) {
                Some("good") => Ok(Grant::usual()),
                Some(_) => Err(Status::permission_denied("another token is wanted")),
                None => Err(Status::unauthenticated("a token is wanted")),
            }
        }
    });
    let served = serve_with(|builder| builder.authorizer(authorizer)).await;
    served.put("c", "a", "1");
    let mut good = open(&served, Some("Bearer good")).await.unwrap();
    assert_eq!(next_delta(&mut good).await.resources[0].name, "a");
    let mut bad = open(&served, Some("Bearer bad")).await.unwrap();
    assert_eq!(refusal(&mut bad).await.code(), Code::PermissionDenied);
    let mut none = open(&served, None).await.unwrap();
    assert_eq!(refusal(&mut none).await.code(), Code::Unauthenticated);
    let printed = printed.lock().unwrap();
    assert!(!printed.contains("good") && printed.contains("BearerToken"), "{printed}");
}

#[tokio::test]
async fn who_may_stay_is_asked_again_when_that_is_called_for() {
    let (served, answer) = answering(Ok(Grant::scopes(["a"]))).await;
    served.put("a", "of-a", "1");
    served.put("b", "of-b", "1");
    let mut client = served.model("n", Variant::Delta).await;
    client.subscribe(CDS, &[]);
    let update = client.expect(CDS).await;
    assert_eq!(update.names(), ["of-a"]);
    client.ack(&update);
    // It sees other things.
    *answer.lock().unwrap() = Ok(Grant::view(|_, _| vec![Scope::from("b")]));
    served.server.choose_views();
    let update = client.expect(CDS).await;
    assert_eq!(update.names(), ["of-b"]);
    client.ack(&update);
    let update = client.expect(CDS).await;
    assert_eq!(update.removed, ["of-a"]);
    client.ack(&update);
    // That it cannot be told for now changes nothing.
    *answer.lock().unwrap() = Err(Status::unavailable("the directory is down"));
    served.server.choose_views();
    client.silence().await;
    served.put("b", "of-b", "2");
    let update = client.expect(CDS).await;
    client.ack(&update);
    // It may be here no more; nobody else may, either.
    *answer.lock().unwrap() = Err(Status::permission_denied("revoked"));
    served.server.choose_views();
    let refused = client.next().await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::PermissionDenied, "revoked"));
    served.heard.expect("n: disconnected Some(PermissionDenied)").await;
    assert_eq!(refusal(&mut open(&served, None).await.unwrap()).await.message(), "revoked");
}

#[tokio::test]
async fn who_may_stay_is_asked_again_at_intervals() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let authorizer = Authorizer::new(move |_| {
        let times = count.fetch_add(1, Ordering::Relaxed);
        async move {
            if times < 3 { Ok(Grant::usual()) } else { Err(Status::unauthenticated("expired")) }
        }
    });
    let authorizer = authorizer.again_every(Duration::from_millis(50));
    let served = serve_with(|builder| builder.authorizer(authorizer)).await;
    served.put("c", "a", "1");
    let mut responses = open(&served, None).await.unwrap();
    next_delta(&mut responses).await;
    assert_eq!(refusal(&mut responses).await.message(), "expired");
    assert_eq!(asked.load(Ordering::Relaxed), 4);
}

#[tokio::test]
async fn a_slow_answer_holds_up_nobody_else_and_not_for_ever() {
    let authorizer = Authorizer::new(|caller: Caller| async move {
        match &*caller.node.id {
            "slow" => pending().await,
            "broken" => panic!("it fails"),
            _ => Ok(Grant::usual()),
        }
    });
    let authorizer = authorizer.within(Duration::from_secs(2));
    let served = serve_with(|builder| builder.authorizer(authorizer)).await;
    served.put("c", "a", "1");
    // All on one connection.
    let channel = served.channel().await;
    let connect = |id| ModelClient::connect(channel.clone(), node(id, "c").unwrap(), Variant::Sotw);
    let mut slow = connect("slow").await.unwrap();
    slow.subscribe(CDS, &[]);
    let mut broken = connect("broken").await.unwrap();
    broken.subscribe(CDS, &[]);
    let mut quick = connect("quick").await.unwrap();
    quick.subscribe(CDS, &[]);
    quick.expect(CDS).await;
    assert_eq!(served.heard.count("slow: "), 0);
    for client in [&mut slow, &mut broken] {
        assert_eq!(client.next().await.unwrap_err().code(), Code::Unavailable);
    }
    served.heard.expect("slow: refused Unavailable").await;
    quick.silence().await;
}

#[tokio::test]
async fn load_reports_and_the_status_of_clients_are_for_whom_it_allows() {
    let (served, answer) = answering(Ok(Grant::usual())).await;
    served.put("c", "a", "1");
    let mut client = served.model("n", Variant::Delta).await;
    client.subscribe(CDS, &[]);
    client.expect(CDS).await;
    let mut status = ClientStatusDiscoveryServiceClient::new(served.channel().await);
    let refused = status.fetch_client_status(ClientStatusRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    *answer.lock().unwrap() = Ok(Grant::usual().and_client_status());
    let told = status.fetch_client_status(ClientStatusRequest::default()).await.unwrap();
    assert_eq!(told.into_inner().config.len(), 1);
}

#[tokio::test]
async fn load_reports_end_when_the_client_may_not_stay() {
    let answer = Arc::new(Mutex::new(Ok(Grant::usual())));
    let asked = answer.clone();
    let authorizer = Authorizer::new(move |_| {
        let answer: Answer = asked.lock().unwrap().clone();
        async move { answer }
    });
    let reporting = LoadReporting::every(Duration::from_secs(1));
    let served =
        serve_with(|builder| builder.authorizer(authorizer).load_reports(reporting, |_, _| {}))
            .await;
    let channel = served.channel().await;
    let report = || async {
        let (requests, receiver) = mpsc::unbounded_channel();
        let node = Some(Node { id: "n".into(), ..Node::default() });
        requests.send(LoadStatsRequest { node, ..Default::default() }).unwrap();
        let receiver = UnboundedReceiverStream::new(receiver);
        let mut client = LoadReportingServiceClient::new(channel.clone());
        (requests, client.stream_load_stats(receiver).await.unwrap().into_inner())
    };
    let (_requests, mut selections) = report().await;
    next(&mut selections).await.unwrap().expect("it is told what to report");
    *answer.lock().unwrap() = Err(Status::permission_denied("revoked"));
    served.server.choose_views();
    assert_eq!(next(&mut selections).await.unwrap_err().message(), "revoked");
    let (_requests, mut selections) = report().await;
    assert_eq!(next(&mut selections).await.unwrap_err().message(), "revoked");
}

#[tokio::test]
async fn polls_are_asked_for_too() {
    let (served, answer) = answering(Err(Status::unauthenticated("who are you?"))).await;
    served.put_all([crate::served::cluster("a", "1")]);
    let poll = |path: &str| {
        let body = Bytes::from(r#"{"node":{"id":"n","cluster":"c"}}"#);
        http::Request::post(format!("/v3/discovery:{path}")).body(body).unwrap()
    };
    let status = async |path: &str| served.server.poll(&poll(path)).await.status().as_u16();
    assert_eq!(status("clusters").await, 401);
    *answer.lock().unwrap() = Err(Status::permission_denied("not you"));
    assert_eq!(status("clusters").await, 403);
    *answer.lock().unwrap() = Ok(Grant::usual());
    assert_eq!(status("clusters").await, 200);
    assert_eq!(status("client_status").await, 403);
}
