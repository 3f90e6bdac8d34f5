//! gRPC's own clients, making calls to real backends over the library's server, in this process.
//!
//! Each scenario is one function, run with each language's client; what they see differently is said
//! there.

#![allow(missing_docs, clippy::expect_used, clippy::panic)]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use deltaplane_server::envoy_types::pb::envoy::admin::v3::ClientResourceStatus::{
    self, Acked, DoesNotExist, Nacked, Requested,
};
use deltaplane_server::{Resource, TypeUrl, Variant};
use deltaplane_tests::grpc::backend::Backends;
use deltaplane_tests::grpc::client::{Beliefs, GrpcClient, Language};
use deltaplane_tests::grpc::control_plane::{ControlPlane, What};
use deltaplane_tests::grpc::resources::{
    cluster, endpoints, endpoints_with_gap, listener, listener_with_two_routers, maglev_cluster,
    reporting_cluster, routes,
};
#[cfg(feature = "all-clients")]
use deltaplane_tests::grpc::tools;

const LDS: TypeUrl = TypeUrl::LISTENER;
const RDS: TypeUrl = TypeUrl::ROUTE;
const CDS: TypeUrl = TypeUrl::CLUSTER;
const EDS: TypeUrl = TypeUrl::ENDPOINT;

/// The scenarios, as tests of one language.
macro_rules! test_clients {
    ($($module:ident: $language:expr;)*) => {$(
        mod $module {
            use super::*;

            test_clients!(@ $language; first_sync, update, deletion, rejected_cluster,
                rejected_endpoints_and_listener, killed_and_restarted, load, other_content,
                late_resource, very_late_resource);
        }
    )*};
    (@ $language:expr; $($scenario:ident),*) => {$(
        #[test]
        fn $scenario() {
            super::$scenario($language);
        }
    )*};
}

test_clients! {
    python: Language::Python;
}

#[cfg(feature = "all-clients")]
test_clients! {
    go: Language::Go;
    node: Language::Node;
}

/// A control plane, a client of it, and two backends: method `A` of the target `shop` is served by
/// cluster `a`, whose endpoints `a-1` are backend `one`; method `B` by `b`, `b-1` and `two`.
struct Shop {
    language: Language,
    plane: ControlPlane,
    client: GrpcClient,
    one: SocketAddr,
    two: SocketAddr,
    backends: Backends,
}

/// What the client asks for, in the order in which it does.
const TYPES: [TypeUrl; 4] = [LDS, RDS, CDS, EDS];

impl Shop {
    /// Nothing is served yet.
    fn closed(language: Language) -> Shop {
        let mut backends = Backends::start();
        let (one, two) = (backends.serve("one"), backends.serve("two"));
        let plane = ControlPlane::start();
        let client = GrpcClient::start(language, "customer", plane.port());
        Shop { language, plane, client, one, two, backends }
    }

    /// The client is in step.
    fn open(language: Language) -> Shop {
        let mut shop = Shop::closed(language);
        shop.plane.put(shop.content());
        assert_eq!(shop.call("A").as_deref(), Ok("one"));
        assert_eq!(shop.call("B").as_deref(), Ok("two"));
        shop.plane.story().settles();
        shop
    }

    fn content(&self) -> Vec<Resource> {
        vec![
            listener("shop", "routes"),
            routes("routes", &[("A", "a"), ("B", "b")]),
            cluster("a", "a-1"),
            cluster("b", "b-1"),
            endpoints("a-1", self.one),
            endpoints("b-1", self.two),
        ]
    }

    fn call(&mut self, method: &str) -> Result<String, String> {
        self.client.call("shop", method).map_err(|failure| failure.to_string())
    }

    fn moves(&mut self, method: &str, from: &str, to: &str) {
        self.client.moves("shop", method, from, to);
    }

    fn reaches(&mut self, method: &str, backend: &str) {
        self.client.reaches("shop", method, backend);
    }

    /// What the client believes of a resource.
    fn belief(&mut self, type_url: TypeUrl, name: &str) -> Option<(ClientResourceStatus, String)> {
        let belief = self.client.beliefs().remove(&(type_url, name.to_owned()))?;
        Some((belief.status, belief.version))
    }

    /// The client believes just what it was told: all is accepted, in the version of the response that
    /// carried it last.
    fn is_in_step(&mut self, names: &[(TypeUrl, &str)]) {
        self.plane.story().settles();
        let beliefs = self.client.beliefs();
        let held: Vec<_> =
            beliefs.keys().map(|(type_url, name)| (type_url.clone(), &**name)).collect();
        assert_eq!(held, sorted(names));
        for ((type_url, name), belief) in &beliefs {
            assert_eq!((belief.status, &belief.error), (Acked, &None), "{name}");
            let versions = self.plane.story().versions(type_url, name);
            let last = versions.last() == Some(&belief.version);
            // Node's client keeps the version of the response that changed it, be it another server's; and
            // the version of what it asks for by name is that of just these.
            let known = last || self.language == Language::Node;
            assert!(known, "{name} was sent in {versions:?}, not in {}", belief.version);
        }
    }

    /// The listener is once more what it was at first.
    fn brings_back_listener(&mut self) {
        self.plane.put([listener("shop", "routes")]);
        if self.language == Language::Node {
            // It compares what it gets with what it accepted last, and stays with what happened in
            // between if they are equal.
            self.plane.story().settles();
            assert_ne!(self.belief(LDS, "shop").map(|belief| belief.0), Some(Acked));
            let others = routes("others", &[("A", "a"), ("B", "b")]);
            self.plane.put([listener("shop", "others"), others]);
            self.client.believes(RDS, "others", Acked);
            self.plane.put([listener("shop", "routes")]);
        }
        self.client.believes(LDS, "shop", Acked);
        self.client.believes(RDS, "routes", Acked);
    }

    /// Calls work as before, and the client believes what it did.
    fn goes_on(&mut self, beliefs: &Beliefs) {
        self.goes_on_from(beliefs, "one");
    }

    fn goes_on_from(&mut self, beliefs: &Beliefs, a: &str) {
        for _ in 0..20 {
            assert_eq!(self.call("A").as_deref(), Ok(a));
            assert_eq!(self.call("B").as_deref(), Ok("two"));
        }
        assert_eq!(&self.client.beliefs(), beliefs);
    }

    /// How many responses of each type were sent, once all are answered.
    fn responses(&self) -> [usize; 4] {
        self.plane.story().settles();
        TYPES.map(|type_url| self.plane.story().sent_of(&type_url))
    }
}

const OPEN: [(TypeUrl, &str); 6] =
    [(LDS, "shop"), (RDS, "routes"), (CDS, "a"), (CDS, "b"), (EDS, "a-1"), (EDS, "b-1")];

fn sorted<'a>(names: &[(TypeUrl, &'a str)]) -> Vec<(TypeUrl, &'a str)> {
    let mut names = names.to_vec();
    names.sort();
    names
}

/// G-01, G-02, G-03, G-09: one SotW stream, one type after the other, by name.
fn first_sync(language: Language) {
    let mut shop = Shop::open(language);
    shop.is_in_step(&OPEN);
    let mut sent = shop.plane.story().sent();
    sent.dedup();
    assert_eq!(sent, TYPES);
    assert!(shop.plane.story().sent().len() <= 6, "each name is asked for once: {sent:?}");
    for type_url in TYPES {
        // They may be asked for one by one; an answer then has what was asked for before, and is
        // unanswered or of a type that always is complete.
        let mut names = shop.plane.story().names(&type_url);
        names.sort();
        names.dedup();
        let expected = OPEN.iter().filter(|(it, _)| *it == type_url).map(|(_, name)| *name);
        assert_eq!(names, expected.collect::<Vec<_>>());
    }

    let told = shop.plane.story().told();
    assert_eq!(told.iter().filter(|it| it.what == What::Connected(Variant::Sotw)).count(), 1);
    let node = &told[0].node;
    assert_eq!((&*node.id, &*node.cluster), ("customer", "fleet"));
    let feature = |name: &str| node.client_features.iter().any(|feature| feature == name);
    assert!(feature("envoy.lb.does_not_support_overprovisioning"));
    assert_eq!(feature("xds.config.resource-in-sotw"), language != Language::Node);
    println!("{} {:?}", node.user_agent_name, node.user_agent_version_type);

    // Another target has a stream of its own, and is served on it.
    shop.plane.put([listener("kiosk:80", "routes")]);
    assert_eq!(shop.client.call("kiosk:80", "B").as_deref(), Ok("two"));
    // Node's clients of one process share one.
    shop.plane.story().connects(if language == Language::Node { 1 } else { 2 });
}

/// Endpoints, then the cluster, then the route move, and no call is lost.
fn update(language: Language) {
    let mut shop = Shop::open(language);
    let before = shop.responses();
    shop.plane.put([endpoints("a-1", shop.two)]);
    shop.moves("A", "one", "two");
    shop.is_in_step(&OPEN);
    assert_eq!(shop.responses(), plus(before, [0, 0, 0, 1]), "what did not change is not sent");

    shop.plane.put([cluster("a", "a-2"), endpoints("a-2", shop.one)]);
    shop.moves("A", "two", "one");
    assert_eq!(shop.responses(), plus(before, [0, 0, 1, 2]));
    let names =
        [(LDS, "shop"), (RDS, "routes"), (CDS, "a"), (CDS, "b"), (EDS, "a-2"), (EDS, "b-1")];
    shop.is_in_step(&names);

    let (mut from, mut to) = (("a", "one"), ("c", "two"));
    for _ in 0..5 {
        let before = shop.responses();
        let address = if to.1 == "one" { shop.one } else { shop.two };
        let service = format!("{}-1", to.0);
        shop.plane.put([
            routes("routes", &[("A", to.0), ("B", "b")]),
            cluster(to.0, &service),
            endpoints(&service, address),
        ]);
        shop.moves("A", from.1, to.1);
        assert_eq!(shop.call("B").as_deref(), Ok("two"));
        let [_, routes, ..] = shop.responses();
        assert_eq!(routes, before[1] + 1);
        shop.plane.take(CDS, from.0);
        (from, to) = (to, from);
    }
    let (cluster, service) = (from.0, format!("{}-1", from.0));
    let names =
        [(LDS, "shop"), (RDS, "routes"), (CDS, cluster), (CDS, "b"), (EDS, &service), (EDS, "b-1")];
    shop.is_in_step(&names);
}

/// G-08: a cluster or listener that is gone from an answer is gone; endpoints are not.
fn deletion(language: Language) {
    let mut shop = Shop::open(language);
    shop.plane.take(CDS, "b");
    let failure = shop.client.fails("shop", "B", "two");
    println!("without its cluster: {failure}");
    assert_eq!(failure.code, "UNAVAILABLE");
    assert_eq!(shop.call("A").as_deref(), Ok("one"));
    shop.client.believes(CDS, "b", DoesNotExist);
    // S-10: its endpoints are asked for again, with the version and nonce that are current.
    shop.plane.put([cluster("b", "b-1")]);
    if language == Language::Node {
        // It compares what comes back with what it had before, and stays without it if they are equal.
        shop.plane.story().settles();
        assert!(shop.call("B").is_err());
        shop.plane.put([cluster("b", "other"), endpoints("other", shop.two)]);
        shop.reaches("B", "two");
        shop.plane.put([cluster("b", "b-1")]);
        shop.client.believes(EDS, "b-1", Acked);
    }
    shop.reaches("B", "two");
    shop.is_in_step(&OPEN);

    shop.plane.take(EDS, "a-1");
    shop.plane.put([endpoints("b-1", shop.one)]);
    shop.moves("B", "two", "one");
    assert_eq!(shop.call("A").as_deref(), Ok("one"), "its endpoints are kept");
    assert_eq!(shop.belief(EDS, "a-1").map(|belief| belief.0), Some(Acked));
    shop.plane.put([endpoints("a-1", shop.two)]);
    shop.moves("A", "one", "two");

    shop.plane.take(LDS, "shop");
    let failure = shop.client.fails("shop", "A", "two");
    println!("without its listener: {failure}");
    assert_eq!(failure.code, "UNAVAILABLE");
    shop.client.believes(LDS, "shop", DoesNotExist);
    shop.brings_back_listener();
    shop.reaches("A", "two");
    shop.is_in_step(&OPEN);
}

/// L-01 to L-06: what is called is reported, by cluster, service and locality, where it is asked for.
fn load(language: Language) {
    let mut shop = Shop::open(language);
    shop.plane.put([reporting_cluster("a", "a-1")]);
    shop.plane.story().settles();
    let reported = |shop: &Shop, cluster: &str| {
        let mut loads = shop.plane.loads().into_iter();
        loads.find(|(key, _)| key.cluster == cluster)
    };
    // From when on a client counts is its own affair.
    let start = Instant::now();
    let (key, load) = loop {
        assert_eq!(shop.call("A").as_deref(), Ok("one"));
        assert_eq!(shop.call("B").as_deref(), Ok("two"));
        if let Some(found) = reported(&shop, "a").filter(|(_, load)| load.total().successful > 0) {
            break found;
        }
        assert!(start.elapsed() < Duration::from_secs(20), "{:?}", shop.plane.loads());
    };
    assert_eq!(key.service, "a-1");
    let zones: Vec<_> = load.localities.keys().map(|locality| &*locality.zone).collect();
    assert_eq!((zones, load.total().failed), (vec!["here"], 0));
    assert!(load.reported >= Duration::from_millis(900));
    assert_eq!(reported(&shop, "b"), None);
}

/// A46: of an answer with a bad cluster, the others are used; it is not sent again by itself.
fn rejected_cluster(language: Language) {
    let mut shop = Shop::open(language);
    let before = shop.responses();
    let accepted = shop.belief(CDS, "b").expect("it was accepted");
    shop.plane.put([maglev_cluster("b", "b-1"), cluster("a", "a-2"), endpoints("a-2", shop.two)]);
    let (names, words) = shop.plane.story().rejects(&CDS);
    println!("rejected {names:?}: {words}");
    assert!(words.contains('b'), "{words}");
    assert!(words.to_lowercase().contains("policy"), "{words}");
    assert_eq!(sorted_names(&names), ["a", "b"], "what that response said something new about");

    shop.moves("A", "one", "two");
    assert_eq!(shop.call("B").as_deref(), Ok("two"));
    let belief = shop.client.beliefs().remove(&(CDS, "b".into())).expect("it is asked for");
    assert_eq!(belief.status, Nacked);
    assert!(belief.error.is_some_and(|error| error.to_lowercase().contains("policy")));
    assert_eq!(belief.version, accepted.1, "it is still what it was");
    assert_eq!(shop.belief(CDS, "a").map(|belief| belief.0), Some(Acked));

    // Others of the stream go on, and nobody is told again what was rejected.
    shop.plane.put([endpoints("b-1", shop.one)]);
    shop.moves("B", "two", "one");
    shop.plane.put([endpoints("b-1", shop.two)]);
    shop.moves("B", "one", "two");
    assert_eq!(shop.responses()[2], before[2] + 1);
    assert_eq!(shop.plane.story().rejections(&CDS).len(), 1);

    // A sibling changes: the full state has the bad one in it, and it is rejected once more.
    shop.plane.put([cluster("a", "a-1")]);
    shop.moves("A", "two", "one");
    assert_eq!(shop.call("B").as_deref(), Ok("two"));
    assert_eq!(shop.responses()[2], before[2] + 2);
    assert_eq!(shop.plane.story().rejections(&CDS).len(), 2);

    shop.plane.put([cluster("b", "b-2"), endpoints("b-2", shop.one)]);
    shop.moves("B", "two", "one");
    assert_eq!(shop.responses()[2], before[2] + 3);
    assert_eq!(shop.plane.story().rejections(&CDS).len(), 2);
    let names =
        [(LDS, "shop"), (RDS, "routes"), (CDS, "a"), (CDS, "b"), (EDS, "a-1"), (EDS, "b-2")];
    shop.is_in_step(&names);
}

/// The same for endpoints and for a listener, and over a reconnect: each stream is told once.
fn rejected_endpoints_and_listener(language: Language) {
    let mut shop = Shop::open(language);
    let before = shop.responses();
    shop.plane.put([endpoints_with_gap("a-1", shop.two), endpoints("b-1", shop.one)]);
    let (names, words) = shop.plane.story().rejects(&EDS);
    println!("rejected {names:?}: {words}");
    if language != Language::Node {
        assert!(words.contains("a-1"), "{words}");
    }
    assert!(words.to_lowercase().contains("priorit"), "{words}");
    shop.moves("B", "two", "one");
    assert_eq!(shop.call("A").as_deref(), Ok("one"));
    assert_eq!(shop.belief(EDS, "a-1").map(|belief| belief.0), Some(Nacked));

    shop.plane.put([listener_with_two_routers("shop", "routes")]);
    let (names, words) = shop.plane.story().rejects(&LDS);
    println!("rejected {names:?}: {words}");
    assert_eq!(names, ["shop"]);
    assert_eq!(shop.belief(LDS, "shop").map(|belief| belief.0), Some(Nacked));
    shop.plane.put([endpoints("b-1", shop.two)]);
    shop.moves("B", "one", "two");
    assert_eq!(shop.call("A").as_deref(), Ok("one"));
    // Of what was rejected, the good one is sent again without the bad one; where the words do not name
    // that, both are, each by itself. Nothing else is sent again by itself.
    let again = if language == Language::Node { 4 } else { 3 };
    assert_eq!(shop.responses(), plus(before, [1, 0, 0, again]));

    // Another server has the same to say.
    shop.plane.kill();
    shop.plane.put(shop.content());
    let bad = [endpoints_with_gap("a-1", shop.two), listener_with_two_routers("shop", "routes")];
    shop.plane.put(bad);
    shop.plane.resume();
    shop.plane.story().rejects(&LDS);
    shop.plane.story().rejects(&EDS);
    assert_eq!(shop.call("A").as_deref(), Ok("one"));
    shop.plane.story().settles();
    let before = shop.responses();
    // Who asks for endpoints before clusters has them behind their clusters once more (O-04), and may
    // have done so before it rejects the first.
    let crossed = shop.plane.story().sent_before_rejection(&EDS) - 1;
    assert!(crossed <= 1, "endpoints were sent {} times before an answer", crossed + 1);
    assert_eq!(shop.plane.story().rejections(&EDS).len(), again - 2 + crossed);
    shop.plane.put([endpoints("b-1", shop.one)]);
    shop.moves("B", "two", "one");
    assert_eq!(shop.responses(), plus(before, [0, 0, 0, 1]));
    assert_eq!(shop.plane.story().rejections(&LDS).len(), 1);

    shop.brings_back_listener();
    shop.plane.put([endpoints("a-1", shop.two)]);
    shop.moves("A", "one", "two");
    shop.is_in_step(&OPEN);
}

/// Calls do not need the server. When it is back, it has nothing to say but what changed.
fn killed_and_restarted(language: Language) {
    let mut shop = Shop::open(language);
    let beliefs = shop.client.beliefs();
    shop.plane.kill();
    shop.goes_on(&beliefs);
    shop.plane.put(shop.content());
    shop.plane.resume();
    shop.plane.story().connects(1);
    shop.goes_on(&beliefs);
    shop.plane.put([endpoints("a-1", shop.two)]);
    shop.moves("A", "one", "two");
    let [listeners, routes, clusters, endpoints] = shop.responses();
    assert_eq!((listeners, routes, clusters), (1, 1, 1), "each is answered once");
    assert!(
        endpoints <= 3,
        "asked for, behind their clusters, and changed, but not {endpoints} times"
    );
    shop.is_in_step(&OPEN);

    // Something changes while nobody is told.
    let beliefs = shop.client.beliefs();
    shop.plane.stop();
    shop.goes_on_from(&beliefs, "two");
    shop.plane.put(shop.content());
    shop.plane.resume();
    shop.moves("A", "two", "one");
    let [listeners, routes, clusters, endpoints] = shop.responses();
    assert_eq!((listeners, routes, clusters), (1, 1, 1), "each is answered once");
    assert!(endpoints <= 2, "asked for, and behind their clusters, but not {endpoints} times");
    assert_eq!(shop.call("B").as_deref(), Ok("two"));
    shop.is_in_step(&OPEN);
}

/// What a server says counts, whatever another one said on the same port; that it says nothing does not.
fn other_content(language: Language) {
    let mut shop = Shop::open(language);
    let beliefs = shop.client.beliefs();
    shop.plane.kill();
    shop.plane.resume();
    shop.plane.story().connects(1);
    shop.goes_on(&beliefs);
    assert_eq!(shop.plane.story().sent(), [], "unknown is not empty");

    let three = shop.backends.serve("three");
    shop.plane.put([
        listener("shop", "other-routes"),
        routes("other-routes", &[("A", "x")]),
        cluster("x", "x-1"),
        endpoints("x-1", three),
    ]);
    // The answer without the old clusters may come before the new routes are asked for, and until these
    // are there, calls fail.
    shop.reaches("A", "three");
    let failure = shop.client.fails("shop", "B", "two");
    println!("without a route: {failure}");
    assert_eq!(failure.code, "UNAVAILABLE");
    let names = [(LDS, "shop"), (RDS, "other-routes"), (CDS, "x"), (EDS, "x-1")];
    shop.is_in_step(&names);

    // What is gone from a server that knows its content, is gone.
    shop.plane.kill();
    shop.plane.put([
        listener("shop", "other-routes"),
        routes("other-routes", &[("A", "x"), ("B", "b")]),
        cluster("b", "b-1"),
        endpoints("b-1", shop.two),
    ]);
    shop.plane.resume();
    let failure = shop.client.fails("shop", "A", "three");
    println!("without its cluster: {failure}");
    shop.client.believes(CDS, "x", DoesNotExist);
    shop.reaches("B", "two");
}

/// A name that is there later than it was asked for is sent when it is there.
fn late_resource(language: Language) {
    let mut shop = Shop::closed(language);
    let failure = shop.client.call_within("shop", "A", Duration::from_millis(300));
    assert_eq!(failure.map_err(|failure| failure.code), Err("DEADLINEEXCEEDED".to_owned()));
    let mut content = shop.content().into_iter();
    let mut late = |shop: &mut Shop, type_url: TypeUrl, name: &str, number: usize| {
        shop.client.believes(type_url, name, Requested);
        shop.plane.put(content.by_ref().take(number));
    };
    late(&mut shop, LDS, "shop", 1);
    late(&mut shop, RDS, "routes", 1);
    late(&mut shop, CDS, "a", 1);
    late(&mut shop, CDS, "b", 1);
    late(&mut shop, EDS, "a-1", 1);
    late(&mut shop, EDS, "b-1", 1);
    assert_eq!(shop.call("A").as_deref(), Ok("one"));
    assert_eq!(shop.call("B").as_deref(), Ok("two"));
    shop.is_in_step(&OPEN);
}

/// G-07: after 15 seconds, a name that is not there does not exist for the client, until it does.
fn very_late_resource(language: Language) {
    let mut shop = Shop::closed(language);
    let mut content = shop.content();
    let b = content.remove(3);
    shop.plane.put(content);
    let start = Instant::now();
    let failure = shop.client.call_within("shop", "B", Duration::from_secs(30));
    let seconds = start.elapsed().as_secs_f64();
    let failure = failure.expect_err("there is no cluster for it");
    println!("after {seconds:.3} s: {failure}");
    assert_eq!(failure.code, "UNAVAILABLE");
    assert!((14.5..25.0).contains(&seconds));
    assert_eq!(shop.call("A").as_deref(), Ok("one"));
    shop.client.believes(CDS, "b", DoesNotExist);
    shop.plane.put([b]);
    shop.reaches("B", "two");
    shop.is_in_step(&OPEN);
}

/// E-08: what is told to be missing is not waited for.
#[test]
fn e08_a_name_that_does_not_exist_fails_calls_at_once() {
    let mut backends = Backends::start();
    let one = backends.serve("one");
    let plane = ControlPlane::start_telling_errors();
    let reads = [("GRPC_EXPERIMENTAL_XDS_DATA_ERROR_HANDLING", "true")];
    let mut client = GrpcClient::start_with(Language::Python, "customer", plane.port(), &reads);
    plane.put([
        listener("shop", "routes"),
        routes("routes", &[("A", "a"), ("B", "missing"), ("C", "lost")]),
        cluster("a", "a-1"),
        endpoints("a-1", one),
        cluster("lost", "lost-1"),
        listener("kiosk", "nowhere"),
    ]);
    for (target, method, of_type) in [
        ("nobody", "A", "Listener"),
        ("kiosk", "A", "RouteConfiguration"),
        ("shop", "B", "Cluster"),
        ("shop", "C", "ClusterLoadAssignment"),
    ] {
        let start = Instant::now();
        let failure = client.call_within(target, method, Duration::from_secs(10));
        let failure = failure.expect_err("there is nothing to call");
        println!("{target}/{method} after {:?}: {failure}", start.elapsed());
        assert_eq!(failure.code, "UNAVAILABLE");
        assert!(start.elapsed() < Duration::from_secs(5), "it did not wait for the timer");
        let ours = format!("{of_type} of this name");
        assert!(failure.details.contains(&ours), "{of_type}: {failure}");
    }
    assert_eq!(client.call_within("shop", "A", Duration::from_secs(10)).as_deref(), Ok("one"));
    plane.put([cluster("missing", "a-1")]);
    client.reaches("shop", "B", "one");
}

fn plus(counts: [usize; 4], more: [usize; 4]) -> [usize; 4] {
    std::array::from_fn(|at| counts[at] + more[at])
}

fn sorted_names(names: &[String]) -> Vec<&str> {
    let mut names: Vec<_> = names.iter().map(|name| &**name).collect();
    names.sort_unstable();
    names
}

/// What generic tools do: they ask how the services look, and then call them.
#[cfg(feature = "all-clients")]
#[test]
fn grpcurl() {
    let mut shop = Shop::open(Language::Python);
    let address = format!("127.0.0.1:{}", shop.plane.port());
    let ask = |arguments: &[&str]| {
        let output = tools::grpcurl().arg("-plaintext").args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("it writes text")
    };
    let services = ask(&[&address, "list"]);
    let csds = "envoy.service.status.v3.ClientStatusDiscoveryService";
    let ads = "envoy.service.discovery.v3.AggregatedDiscoveryService";
    for service in [csds, ads, "grpc.health.v1.Health"] {
        assert!(services.lines().any(|line| line == service), "{services}");
    }
    assert!(ask(&[&address, "grpc.health.v1.Health/Check"]).contains("SERVING"));
    let status = ask(&[&address, &format!("{csds}/FetchClientStatus")]);
    let status: serde_json::Value = serde_json::from_str(&status).expect("it writes JSON");
    let configs = status["config"][0]["genericXdsConfigs"].as_array().expect("{status}");
    let mut names: Vec<_> = configs.iter().filter_map(|config| config["name"].as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["a", "a-1", "b", "b-1", "routes", "shop"]);
    for config in configs {
        assert_eq!((&config["configStatus"]), "SYNCED");
        assert!(config["xdsConfig"]["@type"].is_string());
    }
    shop.reaches("A", "one");
}
