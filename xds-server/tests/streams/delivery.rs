//! What became of a change, at each client.

use std::{
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use deltaplane_server::{
    Client, ClientEvent, Delivery, Fate, HowMany, Key, Observer, Order, Pace, Resource, Revision,
    Transaction, TypeUrl, Variant, XdsServer,
    testing::{Connection, ModelClient},
};

use crate::served::{CDS, Served, serve, serve_with};

const LONG: Duration = Duration::from_secs(10);
const ROUTE: TypeUrl = TypeUrl::ROUTE;

fn put(served: &Served, resources: impl IntoIterator<Item = Resource>) -> Revision {
    let mut transaction = Transaction::new();
    for resource in resources {
        transaction.upsert("c", resource);
    }
    served.cache.commit(transaction).unwrap().revision
}

fn cluster(name: &str, content: u8) -> Resource {
    Resource::raw(CDS, name, vec![content]).build()
}

fn route(content: u8, cluster: &str) -> Resource {
    Resource::raw(ROUTE, "r", vec![content]).references([Key::new(CDS, cluster)]).build()
}

/// What became of a revision, by node: the first letter of each fate.
fn fates(delivery: &Delivery) -> String {
    let fate = |(client, fate): &(Arc<Client>, Fate)| {
        let fate = match fate {
            Fate::Settled => "settled",
            Fate::Draining => "draining",
            Fate::Pending { .. } => "pending",
            Fate::Rejected(_) => "rejected",
            _ => "?",
        };
        format!("{} {fate}", client.node.id)
    };
    delivery.clients.iter().map(fate).collect::<Vec<_>>().join(", ")
}

async fn wait(served: &Served, revision: Revision, how_many: HowMany) -> Delivery {
    served.server.wait(revision, |_| true, how_many, LONG).await
}

/// A client that has accepted all clusters there are.
async fn in_step(served: &Served, id: &str, variant: Variant) -> ModelClient<Connection> {
    let mut client = served.model(id, variant).await;
    client.subscribe(CDS, &[]);
    let clusters = client.expect(CDS).await;
    client.ack(&clusters);
    client
}

#[tokio::test]
async fn a_change_settles_client_by_client() {
    for variant in [Variant::Delta, Variant::Sotw] {
        let served = serve().await;
        let nobody = put(&served, [cluster("a", 1)]);
        assert_eq!(fates(&wait(&served, nobody, HowMany::All).await), "", "nobody is connected");
        let mut one = in_step(&served, "one", variant).await;
        let mut two = in_step(&served, "two", variant).await;
        let revision = put(&served, [cluster("a", 2)]);
        let (of_one, of_two) = (one.expect(CDS).await, two.expect(CDS).await);
        assert_eq!(fates(&served.server.delivery(revision)), "one pending, two pending");
        one.ack(&of_one);
        let delivery = wait(&served, revision, HowMany::Count(1)).await;
        assert_eq!(fates(&delivery), "one settled, two pending");
        assert!(
            delivery.has_settled(HowMany::Share(0.5))
                && !delivery.has_settled(HowMany::Share(0.51))
        );
        assert_eq!(delivery.pending().map(|client| &*client.node.id).collect::<Vec<_>>(), ["two"]);
        // Who is not waited for does not hold up who is.
        let who = |client: &Client| client.node.id == "one";
        let delivery = served.server.wait(revision, who, HowMany::All, LONG).await;
        assert_eq!(fates(&delivery), "one settled");
        // What never comes is waited for as long as is said.
        let brief = Duration::from_millis(20);
        let delivery = served.server.wait(revision, |_| true, HowMany::All, brief).await;
        assert_eq!(fates(&delivery), "one settled, two pending");
        // Who goes is not spoken of any more.
        drop((two, of_two));
        let delivery = wait(&served, revision, HowMany::All).await;
        assert_eq!(fates(&delivery), "one settled");
    }
}

#[tokio::test]
async fn whom_nothing_concerns_has_settled_and_a_newcomer_has_when_it_answers() {
    let served = serve().await;
    put(&served, [cluster("a", 1), route(1, "a")]);
    let mut one = in_step(&served, "one", Variant::Delta).await;
    let revision = put(&served, [route(2, "a")]);
    assert_eq!(fates(&wait(&served, revision, HowMany::All).await), "one settled");
    let mut two = served.model("two", Variant::Delta).await;
    two.subscribe(ROUTE, &["r"]);
    let routes = two.expect(ROUTE).await;
    assert_eq!(fates(&served.server.delivery(revision)), "one settled, two pending");
    two.ack(&routes);
    assert_eq!(fates(&wait(&served, revision, HowMany::All).await), "one settled, two settled");
    one.subscribe(ROUTE, &["r"]);
    let routes = one.expect(ROUTE).await;
    one.ack(&routes);
}

/// Hears what became of the last revision, at the very moment at which something happens to a client.
#[derive(Default)]
struct AtOnce {
    server: OnceLock<XdsServer>,
    heard: Mutex<Vec<String>>,
}

impl Observer for AtOnce {
    fn observe(&self, _: &Client, event: &ClientEvent<'_>) {
        let what = match event {
            ClientEvent::Connected => "connected".to_owned(),
            ClientEvent::Sent(response) => response.type_url.rsplit('.').next().unwrap().to_owned(),
            _ => return,
        };
        let server = self.server.get().unwrap();
        let delivery = server.delivery(server.cache().revision());
        self.heard.lock().unwrap().push(format!("{what}: {}", fates(&delivery)));
    }
}

#[tokio::test]
async fn who_just_connected_or_just_asked_has_not_settled() {
    for variant in [Variant::Delta, Variant::Sotw] {
        let at_once = Arc::new(AtOnce::default());
        let served = serve_with(|builder| builder.observer(at_once.clone())).await;
        at_once.server.set(served.server.clone()).unwrap();
        let revision = put(&served, [cluster("a", 1), route(1, "a")]);
        let mut one = in_step(&served, "one", variant).await;
        assert_eq!(fates(&wait(&served, revision, HowMany::All).await), "one settled");
        one.subscribe(ROUTE, &["r"]);
        let routes = one.expect(ROUTE).await;
        one.ack(&routes);
        assert_eq!(fates(&wait(&served, revision, HowMany::All).await), "one settled");
        let pending = ["connected", "Cluster", "RouteConfiguration"];
        let pending = pending.map(|what| format!("{what}: one pending"));
        assert_eq!(*at_once.heard.lock().unwrap(), pending);
    }
}

#[tokio::test]
async fn who_waits_for_long_does_not_look_at_each_change() {
    let served = serve().await;
    put(&served, [cluster("a", 0)]);
    let mut one = in_step(&served, "one", Variant::Delta).await;
    let two = in_step(&served, "two", Variant::Delta).await;
    let looks = Arc::new(AtomicU32::new(0));
    let (server, seen) = (served.server.clone(), looks.clone());
    let revision = put(&served, [cluster("a", 1)]);
    let start = Instant::now();
    let waiting = tokio::spawn(async move {
        let who = |client: &Client| {
            seen.fetch_add(u32::from(client.node.id == "one"), Ordering::Relaxed);
            true
        };
        server.wait(revision, who, HowMany::All, 6 * LONG).await
    });
    for content in 2..200 {
        let update = one.expect(CDS).await;
        one.ack(&update);
        put(&served, [cluster("a", content)]);
    }
    let last = one.expect(CDS).await;
    one.ack(&last);
    drop(two);
    assert_eq!(fates(&waiting.await.unwrap()), "one settled");
    // The first few follow each other sooner than every 20 ms.
    let most = 8 + start.elapsed().as_millis() / 20;
    let looks = looks.load(Ordering::Relaxed);
    assert!(u128::from(looks) <= most, "{looks} looks, and at most {most} should be");
}

#[tokio::test]
async fn a_later_revision_completes_earlier_waits() {
    for variant in [Variant::Delta, Variant::Sotw] {
        let served = serve().await;
        put(&served, [cluster("a", 1)]);
        let mut one = in_step(&served, "one", variant).await;
        let revision = put(&served, [cluster("a", 2)]);
        let bad = one.expect(CDS).await;
        one.nack(&bad, "a: no");
        let delivery = wait(&served, revision, HowMany::All).await;
        assert_eq!(fates(&delivery), "one rejected");
        put(&served, [cluster("a", 3)]);
        let good = one.expect(CDS).await;
        one.ack(&good);
        let delivery = wait(&served, revision, HowMany::All).await;
        assert_eq!(fates(&delivery), "one settled");
    }
}

#[tokio::test]
async fn n10_a_rejection_is_reported_in_the_clients_words() {
    for variant in [Variant::Delta, Variant::Sotw] {
        let served = serve().await;
        put(&served, [cluster("a", 1)]);
        let mut one = in_step(&served, "one", variant).await;
        let before = served.cache.revision();
        let revision = put(&served, [cluster("b", 1), cluster("c", 1)]);
        let bad = one.expect(CDS).await;
        one.nack(&bad, "b: no such thing");
        // It returns as soon as nobody is left who still could settle.
        let delivery = wait(&served, revision, HowMany::All).await;
        let rejected: Vec<_> = delivery.rejected().collect();
        let [(client, [rejection])] = &rejected[..] else { panic!("{delivery:?}") };
        assert_eq!((&*client.node.id, &rejection.type_url), ("one", &CDS));
        assert_eq!(rejection.error.message, "b: no such thing");
        assert_eq!(rejection.names.iter().map(|name| &**name).collect::<Vec<_>>(), ["b", "c"]);
        assert!(rejection.at.elapsed().unwrap() < LONG);
        assert_eq!(fates(&served.server.delivery(before)), "one settled", "that was before");
        let [status] = &served.server.clients()[..] else { panic!("one client") };
        let clusters = &status.types[&CDS];
        assert!(clusters.is_rejected && clusters.wildcard && clusters.names == 0);
        assert_eq!(clusters.sent.as_ref().map(|(revision, _)| *revision), Some(revision));
        assert_eq!(clusters.acknowledged.as_ref().map(|(revision, _)| *revision), Some(before));
        // An unrelated type goes on, and so does the rest of this one.
        let later = put(&served, [cluster("d", 1)]);
        let good = one.expect(CDS).await;
        one.ack(&good);
        let delivery = wait(&served, later, HowMany::All).await;
        assert_eq!(fates(&delivery), "one rejected", "what was rejected is of an earlier revision");
    }
}

/// A server that waits for ever, and a client that runs a route to the cluster a.
async fn with_route() -> (Served, ModelClient<Connection>) {
    let served =
        serve_with(|builder| builder.order(Order::Gated { patience: LONG * 60, drain: LONG * 60 }))
            .await;
    put(&served, [cluster("a", 1), route(1, "a")]);
    let mut one = in_step(&served, "one", Variant::Delta).await;
    one.subscribe(ROUTE, &["r"]);
    let routes = one.expect(ROUTE).await;
    one.ack(&routes);
    (served, one)
}

#[tokio::test]
async fn o12_the_report_names_what_is_waited_for_and_what_drains() {
    let (served, mut one) = with_route().await;
    let mut transaction = Transaction::new();
    transaction.upsert("c", cluster("b", 1)).upsert("c", route(2, "b")).remove("c", CDS, "a");
    let revision = served.cache.commit(transaction).unwrap().revision;
    let clusters = one.expect(CDS).await;
    one.silence().await;
    let delivery = served.server.delivery(revision);
    let [(_, Fate::Pending { awaited })] = &delivery.clients[..] else { panic!("{delivery:?}") };
    assert_eq!(awaited[..], [Key::new(CDS, "b")]);
    one.ack(&clusters);
    let routes = one.expect(ROUTE).await;
    one.ack(&routes);
    let gone = one.expect(CDS).await;
    assert_eq!(gone.removed, ["a"]);
    one.ack(&gone);
    assert_eq!(fates(&wait(&served, revision, HowMany::All).await), "one settled");
}

#[tokio::test]
async fn removals_that_are_held_back_do_not_count_as_missing() {
    let (served, mut one) = with_route().await;
    let mut transaction = Transaction::new();
    let revision = served.cache.commit(transaction.remove("c", CDS, "a").clone()).unwrap().revision;
    let delivery = wait(&served, revision, HowMany::All).await;
    assert_eq!(fates(&delivery), "one draining", "a route still names it");
    assert_eq!(delivery.draining().count(), 1);
    let revision = put(&served, [route(2, "b")]);
    let routes = one.expect(ROUTE).await;
    one.ack(&routes);
    let gone = one.expect(CDS).await;
    one.ack(&gone);
    assert_eq!(fates(&wait(&served, revision, HowMany::All).await), "one settled");
}

#[tokio::test]
async fn a_change_waits_for_quiet_and_requests_do_not() {
    for variant in [Variant::Sotw, Variant::Delta] {
        let never = LONG * 360;
        let served =
            serve_with(|builder| builder.pace(Pace::default().debounce(never, never))).await;
        put(&served, [cluster("x", 1), Resource::raw(TypeUrl::ENDPOINT, "x", vec![1]).build()]);
        let mut client = in_step(&served, "a", variant).await;
        let changed = put(&served, [cluster("x", 2)]);
        // The clusters would go first.
        client.subscribe(TypeUrl::ENDPOINT, &["x"]);
        let endpoints = client.expect(TypeUrl::ENDPOINT).await;
        client.ack(&endpoints);
        assert_eq!(fates(&served.server.delivery(changed)), "a pending");
    }
}

#[tokio::test]
async fn what_is_only_now_asked_for_is_the_newest() {
    for variant in [Variant::Sotw, Variant::Delta] {
        let never = LONG * 360;
        let served =
            serve_with(|builder| builder.pace(Pace::default().debounce(never, never))).await;
        let endpoints = |content| Resource::raw(TypeUrl::ENDPOINT, "x", vec![content]).build();
        put(&served, [cluster("x", 1), endpoints(1)]);
        let mut client = in_step(&served, "a", variant).await;
        put(&served, [endpoints(2)]);
        client.subscribe(TypeUrl::ENDPOINT, &["x"]);
        let told = client.expect(TypeUrl::ENDPOINT).await;
        assert_eq!(told.resources[0].value, [2].as_slice());
    }
}

#[tokio::test]
async fn a_change_is_told_when_it_was_quiet_for_long_enough() {
    for variant in [Variant::Sotw, Variant::Delta] {
        let brief = Duration::from_millis(5);
        let pace = Pace::default().debounce(brief, 2 * brief).throttle(100);
        let served = serve_with(|builder| builder.pace(pace)).await;
        put(&served, [cluster("x", 1)]);
        let mut client = in_step(&served, "a", variant).await;
        for content in 2..5 {
            let changed = put(&served, [cluster("x", content)]);
            let clusters = client.expect(CDS).await;
            client.ack(&clusters);
            assert!(wait(&served, changed, HowMany::All).await.has_settled(HowMany::All));
        }
    }
}
