//! A server lags behind the others, since its way to the database is interrupted.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use deltaplane_tests::envoy::traffic::Traffic;
use deltaplane_tests::proxy::Proxy;
use deltaplane_tests::replicas::served;
use deltaplane_tests::{Envoy, Listener, Replicas, Upstream, Variant, server, service, wait_until};
use serde_json::json;
use tokio::runtime::Runtime;

use crate::{CDS, EDS, LDS, RDS, RECOVERY, channel, connect, unnamed};

/// Two servers, of which the second one's way to the database can be interrupted, and an Envoy that goes to
/// either.
struct Scene {
    replicas: Replicas,
    line: Proxy,
    front: Proxy,
    envoy: Envoy,
    upstream: Upstream,
    old: Listener,
}

impl Scene {
    /// The second server has an Envoy that is ahead of it wait for so many seconds.
    fn start(variant: Variant, catch_up: &str) -> Scene {
        let mut replicas = Replicas::start(1);
        let line = Proxy::before(replicas.database_port());
        replicas.join(line.port(), &["--catch-up-s", catch_up]);
        let (upstream, old) = (Upstream::start("a"), Listener::reserve());
        replicas.all[0].create(&service::http("old", &old, &upstream));
        replicas.catch_up();
        let front = Proxy::before(replicas.all[0].xds.port());
        let address = SocketAddr::from(([127, 0, 0, 1], front.port()));
        let bootstrap = server::bootstrap(&[address], "envoy", "cluster-1", variant, &[]);
        let envoy = Envoy::start(&bootstrap);
        old.reaches("/", &upstream);
        Scene { replicas, line, front, envoy, upstream, old }
    }

    /// Stores a service by the first server alone.
    fn creates(&self, name: &str) -> (i64, Listener) {
        self.line.stalls();
        let listener = Listener::reserve();
        let id = self.replicas.all[0].create(&service::http(name, &listener, &self.upstream));
        listener.reaches("/", &self.upstream);
        assert!(served(&self.replicas.all[1]) < served(&self.replicas.all[0]));
        (id, listener)
    }

    /// Envoy goes to another server, and asks it for all that it has.
    fn moves_to(&self, replica: usize) {
        let replica = &self.replicas.all[replica];
        self.front.leads_to(replica.xds.port());
        self.front.cuts();
        wait_until("Envoy asks another server", RECOVERY, || {
            let streams = replica.ask("GET", "/xds/clients/envoy", None).json();
            let types = streams[0]["types"].as_object()?;
            [CDS, EDS, LDS, RDS].iter().all(|it| types.contains_key(it.as_str())).then_some(())
        });
    }

    /// How often Envoy was told of endpoints and routes, which it names.
    fn named(&self) -> [u64; 2] {
        let port = self.old.port();
        let routes = format!("http.listener-{port}.rds.routes-{port}.update_success");
        [self.envoy.stat("cluster.old.update_success"), self.envoy.stat(&routes)]
    }
}

#[test]
fn a_delta_envoy_moves_and_loses_nothing_to_a_replica_that_lags() {
    loses_nothing(Variant::Delta);
}

#[test]
fn a_sotw_envoy_moves_and_loses_nothing_to_a_replica_that_lags() {
    loses_nothing(Variant::Sotw);
}

fn loses_nothing(variant: Variant) {
    let scene = Scene::start(variant, "60");
    let before = unnamed(&scene.envoy);
    for replica in [1, 0] {
        let [endpoints, routes] = scene.named();
        scene.moves_to(replica);
        wait_until("Envoy is told again what it names", RECOVERY, || {
            let [more, others] = scene.named();
            (more > endpoints && others > routes).then_some(())
        });
    }
    assert_eq!(unnamed(&scene.envoy), before, "R-10");

    let (id, new) = scene.creates("new");
    let traffic = Traffic::start(new.port(), "/");
    let before = unnamed(&scene.envoy);
    scene.moves_to(1);
    let so_far = traffic.answered();
    wait_until("requests go on", RECOVERY, || (traffic.answered() > so_far + 200).then_some(()));
    assert_eq!(unnamed(&scene.envoy), before, "R-04");
    scene.line.flows();
    scene.replicas.catch_up();
    // What was sent before this would arrive before it.
    let elsewhere = Upstream::start("b");
    scene.replicas.all[1].patch(id, &json!({"upstream_port": elsewhere.port()}));
    new.moves("/", &scene.upstream, &elsewhere);
    assert_eq!(unnamed(&scene.envoy), before, "R-04");
    traffic.ends_well();
}

#[test]
fn a_delta_client_waits_for_a_replica_that_lags_and_not_for_ever() {
    is_served_older(Variant::Delta);
}

#[test]
fn a_sotw_client_waits_for_a_replica_that_lags_and_not_for_ever() {
    is_served_older(Variant::Sotw);
}

fn is_served_older(variant: Variant) {
    let scene = Scene::start(variant, "2");
    let runtime = Runtime::new().expect("threads can be had");
    let [ahead, behind] = &scene.replicas.all[..] else { panic!("there are two") };
    let mut client = runtime.block_on(connect(ahead, variant));
    runtime.block_on(async {
        client.subscribe(CDS, &[]);
        let update = client.expect(CDS).await;
        client.ack(&update);
    });
    let (_, new) = scene.creates("new");
    runtime.block_on(async {
        let update = client.expect(CDS).await;
        client.ack(&update);
        assert_eq!(client.running(&CDS).count(), 2);
        let start = Instant::now();
        client.reconnect(channel(behind).await).await.expect("it is taken");
        let update = client.expect(CDS).await;
        let waited = start.elapsed();
        assert!(waited >= Duration::from_millis(1_900), "{waited:?}");
        client.ack(&update);
        let running: Vec<&str> = client.running(&CDS).map(|it| &*it.name).collect();
        assert_eq!(running, ["old"]);
    });
    if variant == Variant::Sotw {
        assert!(behind.log_line(&["WARN", "something newer", "model"]).is_some());
    }
    // So it is for an Envoy, and not for ever.
    scene.moves_to(1);
    new.closes_within("/", RECOVERY);
    scene.line.flows();
    wait_until("it is back", RECOVERY, || new.get("/").filter(|it| it.status == 200));
    scene.old.reaches("/", &scene.upstream);
}
