//! tonic's `xds-client`, which watches resources and leaves it to others what they mean.
//!
//! It is young. Where it differs from gRPC's other clients, a test says so.

#![allow(missing_docs, clippy::expect_used, clippy::panic)]

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use deltaplane_server::envoy::EnvoyResource;
use deltaplane_server::envoy_types::pb::envoy::config::cluster::v3::Cluster;
use deltaplane_server::envoy_types::pb::envoy::config::cluster::v3::cluster::LbPolicy;
use deltaplane_server::envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use deltaplane_server::envoy_types::pb::envoy::config::listener::v3::Listener;
use deltaplane_server::envoy_types::pb::envoy::config::route::v3::RouteConfiguration;
use deltaplane_server::{Resource, TypeUrl, Variant};
use deltaplane_tests::grpc::control_plane::{ControlPlane, What};
use deltaplane_tests::grpc::resources::{cluster, endpoints, listener, maglev_cluster, routes};
use deltaplane_tests::wait_until;
use tokio::runtime::{Builder, Runtime};
use xds_client::resource::TypeUrl as ClientTypeUrl;
use xds_client::{
    ClientConfig, Error, Node, ProstCodec, ResourceEvent, RetryPolicy, TokioRuntime,
    TonicTransportBuilder, XdsClient,
};

const PATIENCE: Duration = Duration::from_secs(10);

/// What a watcher saw, in order.
type Log<M> = Arc<Mutex<Vec<Seen<M>>>>;

#[derive(Debug, Clone, PartialEq)]
enum Seen<M> {
    Is(M),
    Missing,
    Invalid(String),
    Other(String),
}

/// What the client is told of a type.
trait Watched: EnvoyResource + Default + Clone + PartialEq + Send + Sync + 'static {
    const TYPE_URL: &'static str;
    const WHOLE: bool;

    fn fault(&self) -> Option<&'static str> {
        None
    }
}

impl Watched for Listener {
    const TYPE_URL: &'static str = "type.googleapis.com/envoy.config.listener.v3.Listener";
    const WHOLE: bool = true;
}

impl Watched for RouteConfiguration {
    const TYPE_URL: &'static str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";
    const WHOLE: bool = false;
}

impl Watched for Cluster {
    const TYPE_URL: &'static str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
    const WHOLE: bool = true;

    fn fault(&self) -> Option<&'static str> {
        (self.lb_policy() == LbPolicy::Maglev).then_some("no such policy here")
    }
}

impl Watched for ClusterLoadAssignment {
    const TYPE_URL: &'static str =
        "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
    const WHOLE: bool = false;
}

/// A resource as the client wants it.
struct Item<M>(M);

impl<M: Watched> xds_client::Resource for Item<M> {
    type Message = M;
    const TYPE_URL: ClientTypeUrl = ClientTypeUrl::new(M::TYPE_URL);
    const ALL_RESOURCES_REQUIRED_IN_SOTW: bool = M::WHOLE;

    fn deserialize(bytes: Bytes) -> Result<M, Error> {
        Ok(M::decode(bytes)?)
    }

    fn name(message: &M) -> &str {
        message.resource_name()
    }

    fn validate(message: M) -> Result<Self, Error> {
        let fault = message.fault().map(|fault| Error::Validation(fault.to_owned()));
        fault.map_or(Ok(Item(message)), Err)
    }
}

/// A client, and the control plane that it watches.
struct Pair {
    plane: ControlPlane,
    client: XdsClient,
    runtime: Runtime,
}

/// A watcher: it is dropped when this is.
struct Watch<M> {
    log: Log<M>,
    task: tokio::task::JoinHandle<()>,
}

impl Pair {
    fn start() -> Pair {
        let plane = ControlPlane::start();
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("threads can be had");
        let node = Node::new("tonic", "1").with_id("tonic").with_cluster("fleet");
        let retry = RetryPolicy::new(Duration::from_millis(100), Duration::from_secs(1), 2.0);
        let config = ClientConfig::new(node, format!("http://127.0.0.1:{}", plane.port()))
            .with_retry_policy(retry.expect("it grows"))
            .with_resource_initial_timeout(Some(Duration::from_millis(500)));
        let client = runtime.block_on(async {
            let transport = TonicTransportBuilder::new();
            XdsClient::builder(config, transport, ProstCodec, TokioRuntime).build()
        });
        Pair { plane, client, runtime }
    }

    fn watch<M: Watched>(&self, name: &str) -> Watch<M> {
        let mut watcher = self.runtime.block_on(self.client.watch::<Item<M>>(name));
        let log = Log::default();
        let seen = log.clone();
        let task = self.runtime.spawn(async move {
            while let Some(event) = watcher.next().await {
                let event = match event {
                    ResourceEvent::ResourceChanged { result: Ok(item), .. } => {
                        Seen::Is(item.0.clone())
                    }
                    ResourceEvent::ResourceChanged {
                        result: Err(Error::ResourceDoesNotExist),
                        ..
                    } => Seen::Missing,
                    ResourceEvent::ResourceChanged {
                        result: Err(Error::Validation(words)),
                        ..
                    } => Seen::Invalid(words),
                    other => Seen::Other(format!("{:?}", without_item(other))),
                };
                seen.lock().expect("no holder of it panics").push(event);
            }
        });
        Watch { log, task }
    }
}

fn without_item<M>(event: ResourceEvent<Item<M>>) -> Option<Error> {
    match event {
        ResourceEvent::ResourceChanged { result, .. } => result.err(),
        ResourceEvent::AmbientError { error, .. } => Some(error),
    }
}

impl<M: Watched> Watch<M> {
    fn seen(&self) -> Vec<Seen<M>> {
        self.log.lock().expect("no holder of it panics").clone()
    }

    /// Waits until what it saw last is this.
    fn sees(&self, expected: &Seen<M>) {
        wait_until("the watcher sees it", PATIENCE, || {
            (self.seen().last() == Some(expected)).then_some(())
        });
    }

    fn sees_resource(&self, resource: &Resource) {
        self.sees(&Seen::Is(message(resource)));
    }
}

impl<M> Drop for Watch<M> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn message<M: Watched>(resource: &Resource) -> M {
    M::decode(resource.value()).expect("it was encoded a moment ago")
}

fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

#[test]
fn first_sync_and_update() {
    let pair = Pair::start();
    let resources = [
        listener("shop", "routes"),
        routes("routes", &[("A", "a")]),
        cluster("a", "a-1"),
        endpoints("a-1", at(1)),
    ];
    pair.plane.put(resources.clone());
    let listener = pair.watch::<Listener>("shop");
    let routes = pair.watch::<RouteConfiguration>("routes");
    let cluster = pair.watch::<Cluster>("a");
    let load = pair.watch::<ClusterLoadAssignment>("a-1");
    listener.sees_resource(&resources[0]);
    routes.sees_resource(&resources[1]);
    cluster.sees_resource(&resources[2]);
    load.sees_resource(&resources[3]);
    pair.plane.story().settles();
    let told = pair.plane.story().told();
    assert_eq!(told[0].what, What::Connected(Variant::Sotw));
    assert_eq!((&*told[0].node.id, &*told[0].node.user_agent_name), ("tonic", "tonic"));

    let moved = endpoints("a-1", at(2));
    pair.plane.put([moved.clone()]);
    load.sees_resource(&moved);
    assert_eq!(load.seen().len(), 2);
    assert_eq!((listener.seen().len(), routes.seen().len(), cluster.seen().len()), (1, 1, 1));
    assert_eq!(pair.plane.story().sent().len(), 5);
    pair.plane.story().connects(1);
}

/// What is gone of listeners and clusters is gone; endpoints stay.
#[test]
fn deletion() {
    let pair = Pair::start();
    let (a, b, load) = (cluster("a", "a-1"), cluster("b", "b-1"), endpoints("a-1", at(1)));
    pair.plane.put([a.clone(), b.clone(), load.clone()]);
    let (watch_a, watch_b) = (pair.watch::<Cluster>("a"), pair.watch::<Cluster>("b"));
    let watch_load = pair.watch::<ClusterLoadAssignment>("a-1");
    watch_a.sees_resource(&a);
    watch_b.sees_resource(&b);
    watch_load.sees_resource(&load);

    pair.plane.take(TypeUrl::CLUSTER, "b");
    watch_b.sees(&Seen::Missing);
    pair.plane.put([b.clone()]);
    watch_b.sees_resource(&b);
    watch_a.sees_resource(&a);

    // The last one, too.
    pair.plane.take(TypeUrl::CLUSTER, "b");
    watch_b.sees(&Seen::Missing);
    pair.plane.take(TypeUrl::CLUSTER, "a");
    watch_a.sees(&Seen::Missing);
    pair.plane.take(TypeUrl::ENDPOINT, "a-1");
    pair.plane.put([a.clone()]);
    watch_a.sees_resource(&a);
    watch_load.sees_resource(&load);
}

/// A46: siblings are used. Unlike gRPC's others, it forgets what it had of the bad one.
#[test]
fn rejected() {
    let pair = Pair::start();
    let (a, b, load) = (cluster("a", "a-1"), cluster("b", "b-1"), endpoints("a-1", at(1)));
    pair.plane.put([a.clone(), b.clone(), load.clone()]);
    let (watch_a, watch_b) = (pair.watch::<Cluster>("a"), pair.watch::<Cluster>("b"));
    let watch_load = pair.watch::<ClusterLoadAssignment>("a-1");
    watch_a.sees_resource(&a);
    watch_b.sees_resource(&b);
    watch_load.sees_resource(&load);
    pair.plane.story().settles();
    let sent = pair.plane.story().sent_of(&TypeUrl::CLUSTER);

    let a = cluster("a", "other");
    pair.plane.put([a.clone(), maglev_cluster("b", "b-1")]);
    let words = "resource validation failed: no such policy here";
    watch_b.sees(&Seen::Invalid(words.into()));
    watch_a.sees_resource(&a);
    let (names, said) = pair.plane.story().rejects(&TypeUrl::CLUSTER);
    assert_eq!((names, &*said), (vec!["a".to_owned(), "b".to_owned()], &*format!("b: {words}")));

    // The rest goes on, and nothing is sent again.
    for port in 2..5 {
        let load = endpoints("a-1", at(port));
        pair.plane.put([load.clone()]);
        watch_load.sees_resource(&load);
    }
    pair.plane.story().settles();
    assert_eq!(pair.plane.story().sent_of(&TypeUrl::CLUSTER), sent + 1);

    pair.plane.put([b.clone()]);
    watch_b.sees_resource(&b);
    pair.plane.story().settles();
    assert_eq!(pair.plane.story().sent_of(&TypeUrl::CLUSTER), sent + 2);
    assert_eq!(pair.plane.story().rejections(&TypeUrl::CLUSTER).len(), 1);
}

/// An outage is nothing to a watcher; what another server says of its names, it hears.
#[test]
fn other_servers() {
    let mut pair = Pair::start();
    let (a, b, load) = (cluster("a", "a-1"), cluster("b", "b-1"), endpoints("a-1", at(1)));
    let content = [a.clone(), b.clone(), load.clone()];
    pair.plane.put(content.clone());
    let (watch_a, watch_b) = (pair.watch::<Cluster>("a"), pair.watch::<Cluster>("b"));
    let watch_load = pair.watch::<ClusterLoadAssignment>("a-1");
    watch_a.sees_resource(&a);
    watch_b.sees_resource(&b);
    watch_load.sees_resource(&load);

    // Killed, and back with the same.
    pair.plane.kill();
    pair.plane.put(content.clone());
    pair.plane.resume();
    pair.plane.story().connects(1);
    let load = endpoints("a-1", at(2));
    pair.plane.put([load.clone()]);
    watch_load.sees_resource(&load);
    let only = |seen: Vec<Seen<Cluster>>, cluster: &Resource| {
        let expected = Seen::Is(message(cluster));
        seen.iter().all(|seen| *seen == expected)
    };
    assert!(only(watch_a.seen(), &a) && only(watch_b.seen(), &b));

    // Shut down, and another one knows nothing at first, and then other things.
    pair.plane.stop();
    pair.plane.resume();
    pair.plane.story().connects(1);
    let (a, load) = (cluster("a", "other"), endpoints("a-1", at(3)));
    pair.plane.put([a.clone(), load.clone()]);
    watch_a.sees_resource(&a);
    watch_b.sees(&Seen::Missing);
    watch_load.sees_resource(&load);
}

/// What is missing is missing once the client's time is up, and there when it comes.
#[test]
fn late_resource() {
    let pair = Pair::start();
    pair.plane.put([cluster("a", "a-1")]);
    let late = pair.watch::<Cluster>("late");
    let late_load = pair.watch::<ClusterLoadAssignment>("late");
    late.sees(&Seen::Missing);
    late_load.sees(&Seen::Missing);
    let (cluster, load) = (cluster("late", "late"), endpoints("late", at(1)));
    pair.plane.put([cluster.clone(), load.clone()]);
    late.sees_resource(&cluster);
    late_load.sees_resource(&load);
    assert_eq!((late.seen().len(), late_load.seen().len()), (2, 2));
}

/// When nobody watches a type any more, the client forgets it without a word: what is sent of it gets no
/// answer, which holds up nobody (N-08). When somebody watches again, it asks as on a new stream, without
/// a nonce, and is answered as on one.
#[test]
fn forgotten_type() {
    let pair = Pair::start();
    let (a, b, load) = (cluster("a", "a-1"), cluster("b", "b-1"), endpoints("a-1", at(1)));
    pair.plane.put([a.clone(), b.clone(), load.clone()]);
    let watch_a = pair.watch::<Cluster>("a");
    let watch_load = pair.watch::<ClusterLoadAssignment>("a-1");
    watch_a.sees_resource(&a);
    watch_load.sees_resource(&load);
    pair.plane.story().settles();
    watch_load.task.abort();
    wait_until("the watcher is gone", PATIENCE, || watch_load.task.is_finished().then_some(()));
    // The client does one thing after the other.
    pair.watch::<Cluster>("b").sees_resource(&b);

    pair.plane.put([endpoints("a-1", at(2))]);
    wait_until("endpoints are sent", PATIENCE, || {
        (pair.plane.story().sent_of(&TypeUrl::ENDPOINT) == 2).then_some(())
    });
    let a = cluster("a", "other");
    pair.plane.put([a.clone()]);
    watch_a.sees_resource(&a);
    let told = pair.plane.story().told();
    let answers = told.iter().filter(|told| match &told.what {
        What::Accepted { type_url, .. } => *type_url == TypeUrl::ENDPOINT,
        _ => false,
    });
    assert_eq!(answers.count(), 1, "the second response is not answered");

    let again = pair.watch::<ClusterLoadAssignment>("a-1");
    again.sees_resource(&endpoints("a-1", at(2)));
    pair.plane.story().connects(1);
}
