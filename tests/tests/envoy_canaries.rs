//! A change that goes to a tenth of twenty clients first: three real Envoys, one of them under constant
//! load, and seventeen model clients, in both variants.

#![allow(missing_docs, clippy::panic, clippy::expect_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use deltaplane_server::testing::{Connection, ModelClient};
use deltaplane_server::{Canary, HowMany, Resource, Rollout, TypeUrl};
use deltaplane_tests::envoy::control_plane::transaction;
use deltaplane_tests::envoy::fleet::{Neighbour, model, uses_clusters};
use deltaplane_tests::envoy::mesh::{Mesh, in_modes};
use deltaplane_tests::envoy::mistakes::Mistake;
use deltaplane_tests::envoy::mode::Mode;
use deltaplane_tests::envoy::resources::{cluster, endpoints};
use deltaplane_tests::load::{self, Load, Plan};
use tokio::runtime::Runtime;

const CDS: TypeUrl = TypeUrl::CLUSTER;

/// The share of the nodes that are first.
const SHARE: f64 = 0.1;

/// By the hashes of their ids, these are first: an Envoy, and a model client.
const FIRST: [&str; 2] = ["node-1", "node-13"];

const BEFORE: [&str; 3] = ["extra", "main", "secure"];
const AFTER: [&str; 4] = ["extra", "good", "main", "secure"];

#[test]
fn a_bad_change_is_seen_by_two_of_twenty_and_a_good_one_by_all() {
    let _turn = load::alone();
    in_modes(Mode::AGGREGATED, |mesh| {
        let runtime = Runtime::new().expect("threads can be had");
        let neighbours = ["node-0", FIRST[0]].map(|node| Neighbour::join(&mesh, mesh.mode, node));
        let load = Load::start(Plan::constant(neighbours[1].front.port(), &["/"]));
        load.reaches("/", &mesh.a);
        runtime.block_on(roll_out(&mesh, &neighbours));
        load.ends_well();
    });
}

async fn roll_out(mesh: &Mesh, neighbours: &[Neighbour; 2]) {
    let mut models = Models::new();
    for node in (2..19).map(|i| format!("node-{i}")) {
        let model = model(mesh, &node, mesh.mode.variant).await;
        models.insert(node, model);
    }
    is_taken_back(mesh, neighbours, &mut models).await;
    reaches_all(mesh, neighbours, &mut models).await;
}

/// By the ids of their nodes.
type Models = BTreeMap<String, ModelClient<Connection>>;

/// A good cluster comes along, by which one sees who was told.
fn change(mesh: &Mesh, main: Resource) -> [Resource; 3] {
    [main, cluster(mesh.mode, "good", 5), endpoints("good", mesh.b.port())]
}

async fn is_taken_back(mesh: &Mesh, [other, first]: &[Neighbour; 2], models: &mut Models) {
    let (plane, mistake) = (&mesh.plane, Mistake::cluster(mesh));
    let before: Vec<_> = models.values().map(content).collect();
    let at_first = content(&models[FIRST[1]]);
    // Otherwise it might reject it before the other one is told.
    first.envoy.pause();
    let bad = transaction(change(mesh, mistake.bad.clone()), []);
    let server = plane.server().clone();
    let rollout = tokio::spawn(async move { server.roll_out(bad, Canary::share(SHARE)).await });
    let member = member_of(models);
    let clusters = member.expect(CDS).await;
    member.ack(&clusters);
    assert!(clusters.names().contains(&"good"), "{clusters:?}");
    first.envoy.resume();

    let rollout = rollout.await.expect("it does not panic").expect("it contradicts nothing");
    let Rollout::Withdrawn { delivery, gone } = rollout else { panic!("one rejects it") };
    let asked = delivery.clients.iter().map(|(client, _)| &*client.node.id);
    assert_eq!((asked.collect::<BTreeSet<_>>(), gone), (FIRST.into(), vec![]));
    let [(client, [rejection])] = &delivery.rejected().collect::<Vec<_>>()[..] else {
        panic!("one rejects it once: {delivery:?}")
    };
    assert_eq!(client.node.id, FIRST[0]);
    assert!(mistake.is_told(&rejection.error.message), "{rejection:?}");

    // Those who saw it are back where they were; the others never left.
    let member = member_of(models);
    while content(member) != at_first {
        let clusters = member.expect(CDS).await;
        member.ack(&clusters);
    }
    for model in models.values_mut() {
        model.silence().await;
    }
    assert!(models.values().map(content).eq(before));
    for envoy in [&mesh.envoy, &other.envoy, &first.envoy] {
        uses_clusters(envoy, &BEFORE, 5);
    }
    assert_eq!(plane.record().told(&CDS, "good"), FIRST.map(String::from).into());
    assert_eq!(mesh.updates(), [1, 1]);
}

async fn reaches_all(mesh: &Mesh, [other, first]: &[Neighbour; 2], models: &mut Models) {
    let plane = &mesh.plane;
    let good = transaction(change(mesh, cluster(mesh.mode, "main", 7)), []);
    let server = plane.server().clone();
    let rollout = tokio::spawn(async move { server.roll_out(good, Canary::share(SHARE)).await });
    accept(member_of(models)).await;
    let rollout = rollout.await.expect("it does not panic").expect("it contradicts nothing");
    let Rollout::Promoted(commit) = rollout else { panic!("nobody rejects it: {rollout:?}") };
    for (node, model) in models {
        if node != FIRST[1] {
            accept(model).await;
        }
        model.silence().await;
    }
    for envoy in [&mesh.envoy, &other.envoy, &first.envoy] {
        uses_clusters(envoy, &AFTER, 7);
    }
    let patience = Duration::from_secs(10);
    let delivery = plane.server().wait(commit.revision, |_| true, HowMany::All, patience).await;
    assert!(delivery.has_settled(HowMany::All), "{delivery:?}");
    assert_eq!(delivery.clients.len(), 20);
    assert_eq!(plane.record().told(&CDS, "good").len(), 20);
}

async fn accept(model: &mut ModelClient<Connection>) {
    let clusters = model.expect(CDS).await;
    model.ack(&clusters);
    assert!(content(model).iter().map(|(name, _)| name).eq(AFTER), "{clusters:?}");
}

fn member_of(models: &mut Models) -> &mut ModelClient<Connection> {
    models.get_mut(FIRST[1]).expect("it is one of them")
}

/// What it runs.
fn content(model: &ModelClient<Connection>) -> Vec<(String, Vec<u8>)> {
    model.running(&CDS).map(|it| (it.name.clone(), it.value.to_vec())).collect()
}
