//! Two servers on one PostgreSQL, each with clients of the same fleet: who of them rejects a change takes it back,
//! once, from all.

#![allow(missing_docs, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use deltaplane_server::envoy_types::pb::envoy::config::cluster::v3::Cluster;
use deltaplane_server::envoy_types::pb::envoy::config::cluster::v3::cluster::ClusterDiscoveryType as Kinds;
use deltaplane_server::envoy_types::pb::envoy::config::core::v3::Node;
use deltaplane_server::testing::{Connection, ModelClient, Update};
use deltaplane_server::{TypeUrl, Variant as Protocol};
use deltaplane_tests::member::{Member, cluster, put, stored, transact, web};
use deltaplane_tests::{Database, Deltaplane, Kind, Upstream, Variant, wait_until};
use serde_json::{Value, json};
use tonic::transport::{Channel, Endpoint};

const PATIENCE: Duration = Duration::from_secs(20);

fn two() -> (Database, [Deltaplane; 2]) {
    let database = Database::create(Kind::Postgres);
    let servers = [0, 1].map(|_| Deltaplane::start(&database.url()));
    wait_until("they know of each other", PATIENCE, || {
        let knows = |it: &Deltaplane| {
            it.ask("GET", "/metrics", None).body.contains("deltaplane_replicas 2\n")
        };
        servers.iter().all(knows).then_some(())
    });
    (database, servers)
}

/// Waits until a change is somewhere on its way, and tells how it is.
fn reaches(server: &Deltaplane, fleet: &str, stage: &str, revision: &Value) -> Value {
    wait_until(&format!("{stage} {revision}"), PATIENCE, || {
        let now = server.ask("GET", &format!("/api/v1/fleets/{fleet}/rollout"), None).json();
        (now["stage"] == stage && now["revision"] == *revision).then_some(now)
    })
}

/// The revisions by which a fleet went back by itself.
fn rollbacks(server: &Deltaplane, fleet: &str) -> Vec<Value> {
    let path = format!("/api/v1/revisions?fleet={fleet}&author=deltaplane");
    let revisions = server.ask("GET", &path, None).json();
    revisions.as_array().into_iter().flatten().map(|it| it["revision"].clone()).collect()
}

/// All have what is stored, and nothing more is tried.
fn all_is_settled(servers: &[Deltaplane], revision: &Value) {
    for server in servers {
        wait_until("all have what is stored", PATIENCE, || {
            let health = server.ask("GET", "/healthz", None).json();
            (health["revision"] == *revision && health["behind"] == 0).then_some(())
        });
    }
}

#[test]
fn what_clients_of_two_servers_reject_is_rolled_back_once() {
    let (_database, servers) = two();
    let (a, b) = (Upstream::start("a"), Upstream::start("b"));
    put(&servers[0], "shared", &json!({"validation": "none", "on_rejection": "rollback"}));
    transact(&servers[0], &json!({"scope": "shared", "upserts": [web(&a)]}));
    let members = [
        Member::join(&servers[0], "node-0", Variant::Delta),
        Member::join(&servers[1], "node-1", Variant::Sotw),
    ];
    members.iter().for_each(|member| member.port.reaches("/", &a));
    let before = stored(&servers[0], "shared");

    // Both are told, before either can say anything.
    members.iter().for_each(|member| member.envoy.pause());
    let bad = json!({"scope": "shared", "upserts": [web(&b), cluster("bad", "EDS")]});
    let bad = transact(&servers[0], &bad)["revision"].clone();
    for server in &servers {
        reaches(server, "shared", "in_canary", &bad);
    }
    members.iter().for_each(|member| member.envoy.resume());
    let ends = servers.each_ref().map(|server| reaches(server, "shared", "withdrawn", &bad));
    let back = rollbacks(&servers[0], "shared");
    assert_eq!(back.len(), 1, "{ends:?}");
    assert!(ends.iter().all(|end| end["rolled_back"] == back[0]), "{ends:?}");
    assert_eq!(stored(&servers[1], "shared"), before);
    all_is_settled(&servers, &back[0]);
    let counted = servers.iter().filter(|server| {
        let line = "deltaplane_rollbacks_total{fleet=\"shared\"} 1\n";
        server.ask("GET", "/metrics", None).body.contains(line)
    });
    assert_eq!(counted.count(), 1);

    // What is good reaches both afterwards.
    let good = transact(&servers[1], &json!({"scope": "shared", "upserts": [web(&b)]}));
    members.iter().for_each(|member| member.port.reaches("/", &b));
    all_is_settled(&servers, &good["revision"]);
    assert_eq!(rollbacks(&servers[0], "shared"), back);
}

#[test]
fn a_canary_that_is_at_one_server_speaks_for_both() {
    let (_database, servers) = two();
    let (a, b) = (Upstream::start("a"), Upstream::start("b"));
    let canary = json!({"canary": {"nodes": {"id": "canary-*"}}, "timeout_ms": 4000,
                        "settled_for_ms": 4000});
    let fleet = json!({"validation": "none", "rollout": canary, "on_rejection": "rollback"});
    put(&servers[0], "shared", &fleet);
    transact(&servers[0], &json!({"scope": "shared", "upserts": [web(&a)]}));
    let first = Member::join(&servers[0], "canary-1", Variant::Delta);
    let other = Member::join(&servers[1], "node-1", Variant::Delta);
    other.port.reaches("/", &a);

    // Others wait for it, however long it takes there.
    let good = transact(&servers[1], &json!({"scope": "shared", "upserts": [web(&b)]}));
    first.port.reaches("/", &b);
    other.port.reaches("/", &a);
    for server in &servers {
        reaches(server, "shared", "promoted", &good["revision"]);
    }
    other.port.reaches("/", &b);
    let back = rollbacks(&servers[0], "shared");
    assert!(back.is_empty(), "{back:?}");

    // What it rejects, others never see.
    first.envoy.pause();
    let before = stored(&servers[0], "shared");
    let bad = json!({"scope": "shared", "upserts": [web(&a), cluster("bad", "EDS")]});
    let bad = transact(&servers[1], &bad)["revision"].clone();
    for server in &servers {
        reaches(server, "shared", "in_canary", &bad);
    }
    first.envoy.resume();
    let ends = servers.each_ref().map(|server| reaches(server, "shared", "withdrawn", &bad));
    let back = rollbacks(&servers[0], "shared");
    assert_eq!(back.len(), 1, "{ends:?}");
    assert!(ends.iter().all(|end| end["rolled_back"] == back[0]), "{ends:?}");
    assert_eq!(ends[1]["reasons"], json!(["it was rejected at another server"]));
    all_is_settled(&servers, &back[0]);
    assert_eq!(stored(&servers[1], "shared"), before);
    for member in [&first, &other] {
        member.port.reaches("/", &b);
    }
    assert_eq!(other.rejections(), 0);
    assert!(!other.envoy.config_dump().contains("\"bad\""), "it was never told");
}

async fn client(server: &Deltaplane, id: &str) -> ModelClient<Connection> {
    greeted(server, id).await.0
}

/// A client, and the clusters that it was given first.
async fn greeted(server: &Deltaplane, id: &str) -> (ModelClient<Connection>, Update) {
    let node = Node { id: id.to_owned(), cluster: "edge".to_owned(), ..Node::default() };
    let client = ModelClient::connect(channel(server).await, node, Protocol::Delta).await;
    let mut client = client.expect("it takes a client");
    client.subscribe(TypeUrl::CLUSTER, &[]);
    let clusters = client.expect(TypeUrl::CLUSTER).await;
    client.ack(&clusters);
    (client, clusters)
}

async fn channel(server: &Deltaplane) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{}", server.xds));
    endpoint.expect("this is an address").connect().await.expect("it listens")
}

/// What it rejected was taken back at the other server before anybody was told of it there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_canary_that_goes_to_another_server_may_run_what_it_rejected() {
    let (_database, servers) = two();
    let rollout = json!({"canary": {"nodes": {"id": "canary-*"}}, "timeout_ms": 4000,
                         "settled_for_ms": 4000});
    let fleet = json!({"validation": "none", "rollout": rollout, "on_rejection": "rollback"});
    put(&servers[0], "edge", &fleet);
    let store = |kind: &str| {
        let upsert = json!({"scope": "edge", "upserts": [cluster("c", kind)]});
        transact(&servers[0], &upsert)["revision"].clone()
    };
    let first = store("STATIC");
    all_is_settled(&servers, &first);
    let mut canary = client(&servers[0], "canary-1").await;
    let _other = tokio::spawn(agree(client(&servers[1], "other").await));
    let disputed = store("STRICT_DNS");
    reaches(&servers[1], "edge", "in_canary", &disputed);
    let rejected = canary.expect(TypeUrl::CLUSTER).await;
    canary.nack(&rejected, "not this");
    let end = reaches(&servers[0], "edge", "withdrawn", &disputed);
    all_is_settled(&servers, &end["rolled_back"]);
    canary.reconnect(channel(&servers[1]).await).await.expect("it is taken in");
    let again = canary.expect(TypeUrl::CLUSTER).await;
    assert_eq!(again.decode::<Cluster>("c").cluster_discovery_type, Some(Kinds::Type(0)));
}

/// One has clients that reject what those of the other accept, and these reject to go back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_whose_clients_disagree_do_not_go_back_and_forth() {
    let (_database, servers) = two();
    put(&servers[0], "edge", &json!({"validation": "none", "on_rejection": "rollback"}));
    let store = |kind: &str| {
        let upsert = json!({"scope": "edge", "upserts": [cluster("c", kind)]});
        transact(&servers[0], &upsert)["revision"].clone()
    };
    let first = store("STATIC");
    all_is_settled(&servers, &first);
    let mut against = client(&servers[0], "against").await;
    let mut for_it = client(&servers[1], "for").await;

    let disputed = store("STRICT_DNS");
    let update = for_it.expect(TypeUrl::CLUSTER).await;
    for_it.ack(&update);
    reaches(&servers[1], "edge", "promoted", &disputed);
    let update = against.expect(TypeUrl::CLUSTER).await;
    against.nack(&update, "not this");
    let end = reaches(&servers[0], "edge", "withdrawn", &disputed);
    let back = end["rolled_back"].clone();
    assert!(back.is_i64(), "{end}");

    let update = for_it.expect(TypeUrl::CLUSTER).await;
    for_it.nack(&update, "not back");
    let end = reaches(&servers[1], "edge", "withdrawn", &back);
    let why = end["not_rolled_back"].as_str().expect("it says why");
    assert!(why.contains("a rollback itself"), "{why}");

    // What neither has anything against ends it for both.
    let _agree = [tokio::spawn(agree(against)), tokio::spawn(agree(for_it))];
    let last = store("LOGICAL_DNS");
    all_is_settled(&servers, &last);
    assert_eq!(rollbacks(&servers[0], "edge"), [back]);
}

/// What another server promoted is no reason to forget, in a restart, what was withdrawn here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_withdrawn_at_one_server_is_withheld_there_when_it_starts_anew() {
    let (_database, mut servers) = two();
    let rollout = json!({"canary": {"share": 1}});
    put(&servers[0], "edge", &json!({"validation": "none", "rollout": rollout}));
    let store = |servers: &[Deltaplane; 2], kind: &str| {
        let upsert = json!({"scope": "edge", "upserts": [cluster("c", kind)]});
        transact(&servers[0], &upsert)["revision"].clone()
    };
    let first = store(&servers, "STATIC");
    all_is_settled(&servers, &first);
    let mut against = client(&servers[0], "against").await;
    let mut for_it = client(&servers[1], "for").await;

    let disputed = store(&servers, "STRICT_DNS");
    let rejected = against.expect(TypeUrl::CLUSTER).await;
    let accepted = for_it.expect(TypeUrl::CLUSTER).await;
    for_it.ack(&accepted);
    reaches(&servers[1], "edge", "promoted", &disputed);
    against.nack(&rejected, "not this");
    reaches(&servers[0], "edge", "withdrawn", &disputed);
    drop(against);
    servers[0].stop();
    servers[0].resume();
    let (_, clusters) = greeted(&servers[0], "against").await;
    assert_eq!(clusters.decode::<Cluster>("c").cluster_discovery_type, Some(Kinds::Type(0)));
}

/// Accepts whatever comes.
async fn agree(mut client: ModelClient<Connection>) {
    while let Ok(Some(update)) = client.next().await {
        client.ack(&update);
    }
}
