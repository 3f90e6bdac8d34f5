//! Who answers late or never holds up nobody else: a real Envoy under constant load gets its changes at once,
//! and who waits for a change is told whom it waits for; in both variants.
//!
//! It takes the half minute for which one of them says nothing.

#![allow(missing_docs, clippy::panic, clippy::expect_used)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use deltaplane_server::testing::{Connection, ModelClient};
use deltaplane_server::{Client, Fate, HowMany, Revision, TypeUrl};
use deltaplane_tests::envoy::control_plane::transaction;
use deltaplane_tests::envoy::fleet::{Neighbour, model};
use deltaplane_tests::envoy::mesh::{Mesh, in_modes};
use deltaplane_tests::envoy::mode::Mode;
use deltaplane_tests::envoy::resources::{cluster, endpoints, routes};
use deltaplane_tests::listener::PATIENCE;
use deltaplane_tests::load::{self, Load, Plan};
use deltaplane_tests::wait_until;
use tokio::runtime::Runtime;

const CDS: TypeUrl = TypeUrl::CLUSTER;

/// When the client answers that answers late: when the server's patience is over.
const LATE: Duration = Duration::from_secs(30);

/// How long an Envoy waits for endpoints that do not come.
const WARMING: Duration = Duration::from_secs(15);

#[test]
fn nobody_is_held_up_by_others() {
    let _turn = load::alone();
    in_modes(Mode::AGGREGATED, are_waited_for_alone);
}

fn are_waited_for_alone(mesh: Mesh) {
    let runtime = Runtime::new().expect("threads can be had");
    let [_, sotw] = Mode::AGGREGATED;
    let [gone, slow] = [(mesh.mode, "gone"), (sotw, "slow")]
        .map(|(mode, node)| Neighbour::join(&mesh, mode, node));
    let [never, late] =
        ["never", "late"].map(|node| runtime.block_on(model(&mesh, node, mesh.mode.variant)));
    let load = Load::start(Plan::constant(mesh.ports.front.port(), &["/"]));
    load.reaches("/", &mesh.a);

    gone.envoy.pause();
    let (start, revision) = (Instant::now(), swap(&mesh));
    let never = runtime.spawn(is_silent(never));
    let late = runtime.spawn(answers_late(late, start));
    load.reaches("/", &mesh.b);
    let took = start.elapsed();
    println!("{}: the change took {took:?}", mesh.mode.name());
    assert!(took < PATIENCE, "{took:?}");
    wait_until("a cluster waits", PATIENCE, || (warming(&slow) == 1).then_some(()));

    let missing = || {
        let server = mesh.plane.server();
        let timeout = Duration::from_secs(1);
        let waiting = server.wait(revision, |_| true, HowMany::All, timeout);
        let delivery = runtime.block_on(waiting);
        assert_eq!(delivery.rejected().count(), 0);
        let mut missing: Vec<_> = delivery.clients.iter().filter_map(awaited).collect();
        missing.sort();
        missing
    };
    let settles = |node: &'static str| {
        let is_it = move |client: &Client| client.node.id == node;
        let waiting = mesh.plane.server().wait(revision, is_it, HowMany::All, 2 * LATE);
        let delivery = runtime.block_on(waiting);
        assert!(delivery.has_settled(HowMany::All), "{delivery:?}");
        println!("{}: {node} is done after {:?}", mesh.mode.name(), start.elapsed());
    };
    assert_eq!(missing(), ["gone: next", "late: next", "never: next", "slow: endless"]);
    moves(&mesh, &load);

    // Nobody is there any more.
    settles("gone");
    assert!(start.elapsed() < WARMING);
    assert_eq!(missing(), ["late: next", "never: next", "slow: endless"]);
    moves(&mesh, &load);

    settles("slow");
    assert!(start.elapsed() > WARMING - PATIENCE && start.elapsed() < LATE - PATIENCE);
    slow.front.reaches("/", &mesh.b);
    assert_eq!(missing(), ["late: next", "never: next"]);
    moves(&mesh, &load);

    settles("late");
    assert!(start.elapsed() >= LATE);
    assert_eq!(missing(), ["never: next"]);
    moves(&mesh, &load);
    for client in [never, late] {
        let mut client = runtime.block_on(client).expect("it does not panic");
        // It has been told once.
        runtime.block_on(client.silence());
    }
    load.ends_well();
}

/// Requests go to a new cluster; and one Envoy is told of another one, which has no endpoints.
fn swap(mesh: &Mesh) -> Revision {
    let next = [
        cluster(mesh.mode, "next", 5),
        endpoints("next", mesh.b.port()),
        routes("front", &[("/", "next")]),
    ];
    let mut transaction = transaction(next, []);
    transaction.upsert("slow", cluster(mesh.mode, "endless", 5));
    mesh.plane.commit(transaction)
}

/// Further changes arrive at once, too.
fn moves(mesh: &Mesh, load: &Load) {
    for upstream in [&mesh.a, &mesh.b].repeat(5) {
        let start = Instant::now();
        mesh.plane.put([endpoints("next", upstream.port())]);
        load.reaches("/", upstream);
        assert!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());
    }
}

/// Whom one waits for, and the clusters that it has not shown to be able to use.
fn awaited((client, fate): &(Arc<Client>, Fate)) -> Option<String> {
    let Fate::Pending { awaited } = fate else { return None };
    let clusters: Vec<_> = awaited.iter().map(|key| &*key.name).collect();
    Some(format!("{}: {}", client.node.id, clusters.join(", ")))
}

fn warming(neighbour: &Neighbour) -> u64 {
    neighbour.envoy.stat("cluster_manager.warming_clusters")
}

/// Reads, and says nothing.
async fn is_silent(mut client: ModelClient<Connection>) -> ModelClient<Connection> {
    client.expect(CDS).await;
    client
}

async fn answers_late(
    mut client: ModelClient<Connection>,
    start: Instant,
) -> ModelClient<Connection> {
    let clusters = client.expect(CDS).await;
    tokio::time::sleep_until((start + LATE).into()).await;
    client.ack(&clusters);
    client
}
