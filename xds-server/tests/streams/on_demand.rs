//! What is looked for when a client asks for it by name.

use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use deltaplane_server::{Drain, ErrorDetail, Found, OnDemand, Transaction, TypeUrl, Variant};
use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use tokio::{sync::Semaphore, time::timeout};
use tonic::Code;

use crate::served::{CDS, Served, ask, cluster, node, serve_with};

const VHDS: TypeUrl = TypeUrl::VIRTUAL_HOST;
const EDS: TypeUrl = TypeUrl::ENDPOINT;

/// A server that makes a cluster of any name that begins with `od`, as soon as there is a permit, and says
/// how often it was asked.
async fn serving(limit: Duration, keep: Duration) -> (Served, Arc<Semaphore>, Arc<AtomicUsize>) {
    let (permits, asked) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let (permit, count) = (permits.clone(), asked.clone());
    let clusters = OnDemand::new([CDS], move |wanted| {
        count.fetch_add(1, Ordering::SeqCst);
        let permit = permit.clone();
        async move {
            permit.acquire().await.unwrap().forget();
            let name = &*wanted.key.name;
            match name {
                "denied" => Found::Denied("not yours".into()),
                _ if name.starts_with("od") => {
                    Found::Resources("c".into(), vec![cluster(name, "found")])
                }
                _ => Found::Done,
            }
        }
    });
    let clusters = clusters.limit(limit).keep(keep);
    let served = serve_with(|builder| {
        builder.on_demand(clusters).resource_errors(|node| node.id == "reads-errors")
    })
    .await;
    served.put_all([cluster("a", "1")]);
    (served, permits, asked)
}

const LONG: Duration = Duration::from_secs(60);

#[tokio::test]
async fn v07_what_is_found_is_sent_to_all_who_ask_and_to_nobody_else() {
    let (served, permits, asked) = serving(LONG, LONG).await;
    let mut all = served.model("all", Variant::Delta).await;
    all.subscribe(CDS, &[]);
    let update = all.expect(CDS).await;
    all.ack(&update);
    let mut one = served.model("one", Variant::Delta).await;
    one.subscribe(CDS, &["od", "a"]);
    assert_eq!(one.expect(CDS).await.names(), ["a"], "what is there is not held up");
    let mut other = served.model("other", Variant::Sotw).await;
    other.subscribe(CDS, &["od"]);
    one.silence().await;
    other.silence().await;
    permits.add_permits(1);
    assert_eq!(one.expect(CDS).await.names(), ["od"]);
    assert_eq!(other.expect(CDS).await.names(), ["od"]);
    assert_eq!(asked.load(Ordering::SeqCst), 1, "once for both");
    all.silence().await;
}

#[tokio::test]
async fn who_gives_up_what_is_looked_for_waits_for_it_no_longer() {
    let clusters = OnDemand::new([CDS], |_| pending()).limit(LONG);
    let mut served =
        serve_with(|builder| builder.on_demand(clusters).drain(Drain::within(LONG))).await;
    served.put_all([cluster("a", "1")]);
    let mut client = served.model("one", Variant::Delta).await;
    client.subscribe(CDS, &["od"]);
    client.unsubscribe(CDS, &["od"]);
    client.subscribe(TypeUrl::ROUTE, &["r"]);
    served.heard.expect("one: subscribed RouteConfiguration").await;
    drop(served.stop.take());
    // A stream ends when it was answered, or waits for nothing.
    let ended = client.next().await.unwrap_err();
    assert_eq!(ended.code(), Code::Unavailable, "{ended}");
}

#[tokio::test]
async fn v07_what_is_not_found_is_answered_when_that_is_known() {
    let (served, permits, _) = serving(LONG, LONG).await;
    let mut client = served.model("one", Variant::Delta).await;
    client.subscribe(CDS, &["never"]);
    client.silence().await;
    permits.add_permits(1);
    assert_eq!(client.expect(CDS).await.removed, ["never"]);
    // It may come all the same.
    served.put_all([cluster("never", "1")]);
    assert_eq!(client.expect(CDS).await.names(), ["never"]);
}

#[tokio::test]
async fn v07_who_waits_long_enough_is_answered_and_told_later() {
    let (served, permits, asked) = serving(Duration::from_millis(50), LONG).await;
    let mut client = served.model("one", Variant::Delta).await;
    client.subscribe(CDS, &["od"]);
    assert_eq!(client.expect(CDS).await.removed, ["od"]);
    permits.add_permits(1);
    assert_eq!(client.expect(CDS).await.names(), ["od"]);
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn e05_why_something_is_not_there_is_told_to_who_reads_it() {
    let (served, permits, _) = serving(LONG, LONG).await;
    let mut client = served.model("reads-errors", Variant::Sotw).await;
    client.subscribe(CDS, &["denied"]);
    permits.add_permits(1);
    let update = client.expect(CDS).await;
    let error = ErrorDetail::new(7, "not yours");
    assert_eq!(update.errors, [("denied".to_owned(), error)]);
}

#[tokio::test]
async fn what_nobody_asks_for_any_more_is_gone_after_a_time() {
    let (served, permits, asked) = serving(LONG, Duration::from_millis(100)).await;
    permits.add_permits(2);
    let mut client = served.model("one", Variant::Delta).await;
    client.subscribe(CDS, &["od"]);
    let update = client.expect(CDS).await;
    client.ack(&update);
    let revision = served.cache.revision();
    client.silence().await;
    client.unsubscribe(CDS, &["od"]);
    let gone = async {
        while served.cache.revision() == revision {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(10), gone).await.expect("it is removed");
    // Who asks then has it looked for again.
    client.subscribe(CDS, &["od"]);
    assert_eq!(client.expect(CDS).await.names(), ["od"]);
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn what_took_the_place_of_what_was_found_stays() {
    let (served, permits, _) = serving(LONG, Duration::from_millis(50)).await;
    permits.add_permits(2);
    let mut client = served.model("one", Variant::Delta).await;
    client.subscribe(CDS, &["od1", "od2"]);
    let mut names = client.expect(CDS).await.names().join(" ");
    if names != "od1 od2" {
        names = format!("{names} {}", client.expect(CDS).await.names().join(" "));
    }
    assert_eq!(names.split(' ').count(), 2);
    served.put_all([cluster("od1", "mine")]);
    drop(client);
    let mut all = served.model("all", Variant::Delta).await;
    all.subscribe(CDS, &[]);
    assert_eq!(all.expect(CDS).await.names(), ["a", "od1"]);
    let scopes = Arc::from(["c".into()]);
    let is_gone = || {
        use deltaplane_server::View;
        served.cache.view(&scopes).get(&CDS, "od2").is_none()
    };
    let gone = async {
        while !is_gone() {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(10), gone).await.expect("the other is removed");
    let mut transaction = Transaction::new();
    transaction.remove("c", CDS, "od1");
    assert_eq!(served.cache.commit(transaction).unwrap().changes, 1, "it was still there");
}

#[tokio::test]
async fn a_search_that_panics_is_over() {
    let broken = OnDemand::new([CDS], |wanted| async move {
        assert!(wanted.key.name.is_empty(), "a bug of the embedder");
        Found::Done
    });
    let served = serve_with(|builder| builder.on_demand(broken)).await;
    served.put_all([cluster("a", "1")]);
    let mut client = served.model("one", Variant::Delta).await;
    client.subscribe(CDS, &["od"]);
    assert_eq!(client.expect(CDS).await.removed, ["od"]);
}

#[tokio::test]
async fn v01_virtual_hosts_are_served_in_delta_only() {
    let served = serve_with(|builder| builder).await;
    let service = "/envoy.service.route.v3.VirtualHostDiscoveryService";
    for (method, expected) in [("StreamVirtualHosts", false), ("DeltaVirtualHosts", true)] {
        served.put_all([cluster("a", method)]);
        let request = DeltaDiscoveryRequest {
            node: node("n", "c"),
            resource_names_subscribe: vec!["r/x".into()],
            ..DeltaDiscoveryRequest::default()
        };
        let answer = ask(&served, &format!("{service}/{method}"), &request).await;
        match answer {
            Ok(answer) => assert!(expected && answer.resources[0].aliases == ["r/x"]),
            Err(status) => assert!(!expected && status.code() == Code::Unimplemented, "{status}"),
        }
    }
}

#[tokio::test]
async fn who_makes_names_up_is_answered_and_wears_nobody_out() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let endless = OnDemand::new([CDS], move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        std::future::pending()
    });
    let served = serve_with(|builder| builder.on_demand(endless.limit(LONG).most(2))).await;
    served.put_all([cluster("a", "1")]);
    let mut client = served.model("one", Variant::Delta).await;
    let names: Vec<_> = (0..50).map(|at| format!("made-up-{at:02}")).collect();
    client.subscribe(CDS, &names.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(client.expect(CDS).await.removed, names[2..]);
    client.silence().await;
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn what_a_client_asks_for_is_looked_for_where_it_moves_to() {
    let (served, permits, asked) = serving(LONG, LONG).await;
    let mut client = served.model("one", Variant::Delta).await;
    client.subscribe(CDS, &["od"]);
    client.silence().await;
    served.put("one", "own", "1");
    client.silence().await;
    assert_eq!(asked.load(Ordering::SeqCst), 2, "once for each that it saw");
    permits.add_permits(2);
    // It is found where this client no longer looks.
    assert_eq!(client.expect(CDS).await.removed, ["od"]);
}

#[tokio::test]
async fn other_types_are_looked_for_by_nobody() {
    let (served, _, asked) = serving(LONG, LONG).await;
    let mut client = served.model("one", Variant::Delta).await;
    client.subscribe(EDS, &["od"]);
    assert_eq!(client.expect(EDS).await.removed, ["od"]);
    client.subscribe(VHDS, &["od"]);
    client.expect(VHDS).await;
    assert_eq!(asked.load(Ordering::SeqCst), 0);
}
