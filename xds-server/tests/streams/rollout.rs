//! What is taken back by itself, and what goes to some first.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use deltaplane_server::{
    Canary, CommitError, Resource, Revision, Rollout, Transaction, TypeUrl, Variant, View as _,
    Withdrawal,
    testing::{Connection, ModelClient},
};

use crate::served::{CDS, Served, serve, serve_with};

const EDS: TypeUrl = TypeUrl::ENDPOINT;

/// A message whose first field is the name, as all of the Envoy API, and whose second is a number.
pub fn resource(type_url: &TypeUrl, name: &str, content: u8) -> Resource {
    let value = [&[0x0a, name.len() as u8], name.as_bytes(), &[0x10, content]].concat();
    Resource::raw(type_url.clone(), name, value).build()
}

/// That number.
pub fn number(value: &[u8]) -> u8 {
    value[value.len() - 1]
}

pub fn put(served: &Served, resources: &[(&str, u8)]) -> Revision {
    served.cache.commit(change(resources, &[])).unwrap().revision
}

pub fn change(resources: &[(&str, u8)], gone: &[&str]) -> Transaction {
    let mut transaction = Transaction::new();
    for (name, content) in resources {
        transaction.upsert("c", resource(&EDS, name, *content));
        transaction.upsert("c", resource(&CDS, name, *content));
    }
    for name in gone {
        transaction.remove("c", CDS, *name);
    }
    transaction
}

pub async fn in_step(served: &Served, id: &str, variant: Variant) -> ModelClient<Connection> {
    let mut client = served.model(id, variant).await;
    client.subscribe(CDS, &[]);
    let clusters = client.expect(CDS).await;
    client.ack(&clusters);
    client.silence().await;
    client
}

fn content(served: &Served) -> Vec<(String, u8)> {
    let view = served.cache.view(&Arc::from(["c".into()]));
    view.resources(&CDS).map(|r| (r.name().to_string(), number(&r.value()))).collect()
}

fn names(resources: &[(String, u8)]) -> String {
    resources.iter().map(|(name, content)| format!("{name}{content}")).collect::<Vec<_>>().join(" ")
}

type Heard = Arc<Mutex<Vec<Withdrawal>>>;

async fn withdrawing() -> (Served, Heard) {
    let heard = Heard::default();
    let told = heard.clone();
    let served = serve_with(|builder| {
        builder.withdraw_rejected(move |it| told.lock().unwrap().push(it.clone()))
    });
    (served.await, heard)
}

#[tokio::test]
async fn a_commit_that_a_client_rejects_is_taken_back_and_the_source_is_told() {
    for variant in [Variant::Delta, Variant::Sotw] {
        let (served, heard) = withdrawing().await;
        put(&served, &[("a", 1), ("b", 1)]);
        let mut client = in_step(&served, "one", variant).await;
        put(&served, &[("b", 2)]);
        let culprit = put(&served, &[("a", 2), ("c", 2)]);
        put(&served, &[("d", 1)]);
        // All three commits may come in one answer; the words tell which is to blame.
        loop {
            let clusters = client.expect(CDS).await;
            let is_bad = clusters.resources.iter().any(|r| number(&r.value) == 2 && r.name != "b");
            if !is_bad {
                client.ack(&clusters);
                if served.cache.is_undone(culprit) && content(&served).len() == 3 {
                    break;
                }
                continue;
            }
            client.nack(&clusters, "c: no such thing");
        }
        assert_eq!(names(&content(&served)), "a1 b2 d1");
        let withdrawals = heard.lock().unwrap();
        let [withdrawal] = &withdrawals[..] else { panic!("{withdrawals:?}") };
        assert_eq!((withdrawal.culprit, &*withdrawal.client.node.id), (culprit, "one"));
        assert_eq!(withdrawal.rejection.error.message, "c: no such thing");
        let record = served.cache.history().pop().unwrap();
        assert_eq!(record.label.as_deref(), Some("one rejects it: c: no such thing"));
        // It is not tried again, unless somebody insists.
        let mut again = change(&[("c", 2)], &[]);
        assert!(matches!(served.cache.commit(again.clone()), Err(CommitError::Withdrawn { .. })));
        served.cache.commit(again.insist().clone()).unwrap();
    }
}

#[tokio::test]
async fn where_the_words_name_nobody_the_culprit_is_found_by_halving() {
    let (served, heard) = withdrawing().await;
    put(&served, &[("a", 1)]);
    let mut client = served.model("one", Variant::Delta).await;
    client.subscribe(EDS, &["a", "b", "c", "d"]);
    let first = client.expect(EDS).await;
    client.ack(&first);
    client.silence().await;
    // In one answer, since it is not read before they are all there.
    put(&served, &[("a", 2)]);
    let culprit = put(&served, &[("b", 9), ("c", 1)]);
    put(&served, &[("d", 1)]);
    while !served.cache.is_undone(culprit) {
        let got = client.expect(EDS).await;
        if got.resources.iter().any(|r| number(&r.value) == 9) {
            client.nack(&got, "something is wrong");
        } else {
            client.ack(&got);
        }
    }
    assert_eq!(names(&content(&served)), "a2 d1");
    assert_eq!(heard.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_first_answer_that_is_rejected_takes_nothing_back() {
    let (served, heard) = withdrawing().await;
    put(&served, &[("a", 1)]);
    let mut client = served.model("odd", Variant::Delta).await;
    client.subscribe(CDS, &[]);
    let clusters = client.expect(CDS).await;
    client.nack(&clusters, "a: this client knows no such thing");
    client.silence().await;
    assert_eq!(names(&content(&served)), "a1");
    assert!(heard.lock().unwrap().is_empty());
}

/// Twenty clients, each by its place.
async fn twenty(served: &Served) -> Vec<ModelClient<Connection>> {
    let mut clients = Vec::new();
    for i in 0..20 {
        let variant = if i % 2 == 0 { Variant::Delta } else { Variant::Sotw };
        clients.push(in_step(served, &format!("node-{i}"), variant).await);
    }
    clients
}

/// The clients that see a canary.
fn members(served: &Served) -> Vec<usize> {
    let clients = served.server.clients().into_iter();
    let members = clients.filter(|status| status.client.scopes.len() > 1);
    members.map(|status| status.client.node.id["node-".len()..].parse().unwrap()).collect()
}

async fn are_members(served: &Served) -> Vec<usize> {
    // They move when their own tasks get to it, which is soon.
    for _ in 0..1000 {
        let members = members(served);
        if members.len() == 2 {
            return members;
        }
        tokio::task::yield_now().await;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("the canary has no two members: {:?}", members(served));
}

#[tokio::test]
async fn a_bad_change_for_a_tenth_of_the_clients_is_never_seen_by_the_others() {
    let served = serve().await;
    put(&served, &[("a", 1), ("b", 1)]);
    let mut clients = twenty(&served).await;
    let server = served.server.clone();
    let bad = tokio::spawn(async move {
        server.roll_out(change(&[("a", 9)], &["b"]), Canary::share(0.1)).await
    });
    let members = are_members(&served).await;
    let mut seen = clients[members[0]].expect(CDS).await;
    assert!(seen.resources.iter().any(|r| number(&r.value) == 9), "{seen:?}");
    clients[members[0]].nack(&seen, "a: no");
    let Rollout::Withdrawn { delivery, gone } = bad.await.unwrap().unwrap() else {
        panic!("it was bad")
    };
    assert_eq!((delivery.clients.len(), gone.len()), (2, 0), "the others are not spoken of");
    assert_eq!(delivery.rejected().next().unwrap().1[0].error.message, "a: no");
    assert_eq!(names(&content(&served)), "a1 b1");
    for (at, client) in clients.iter_mut().enumerate() {
        if members.contains(&at) {
            // Back to what it was.
            loop {
                seen = client.expect(CDS).await;
                client.ack(&seen);
                if seen.resources.iter().any(|r| number(&r.value) == 1) {
                    break;
                }
            }
        } else {
            client.silence().await;
        }
    }
    // The same ones again, as long as the same are connected; and then all.
    let server = served.server.clone();
    let canary = Canary::share(0.1).settled_for(Duration::from_millis(20));
    let good =
        tokio::spawn(async move { server.roll_out(change(&[("a", 2)], &["b"]), canary).await });
    assert_eq!(are_members(&served).await, members);
    let later = put(&served, &[("c", 1)]);
    let drive = async {
        let mut tasks = Vec::new();
        for mut client in clients {
            tasks.push(tokio::spawn(async move {
                let done = |client: &ModelClient<Connection>| {
                    let running = client.running(&CDS);
                    running.map(|r| (&*r.name, number(&r.value))).eq([("a", 2), ("c", 1)])
                };
                while !done(&client) {
                    let update = client.expect(CDS).await;
                    client.ack(&update);
                }
                client.silence().await;
                client
            }));
        }
        // Whoever is done stays, since a canary does not outlive its members.
        let mut clients = Vec::new();
        for task in tasks {
            clients.push(task.await.unwrap());
        }
        clients
    };
    let _clients = drive.await;
    let Rollout::Promoted(commit) = good.await.unwrap().unwrap() else { panic!("it was good") };
    assert!(commit.revision > later);
    assert_eq!(names(&content(&served)), "a2 c1");
}

#[tokio::test]
async fn a_canary_that_does_not_settle_or_is_given_up_is_withdrawn() {
    let served = serve().await;
    put(&served, &[("a", 1)]);
    let mut client = in_step(&served, "node-0", Variant::Delta).await;
    let canary = Canary::nodes(|node| node.id == "node-0").timeout(Duration::from_millis(20));
    let late = served.server.roll_out(change(&[("a", 2)], &[]), canary).await.unwrap();
    let Rollout::Withdrawn { delivery, .. } = late else { panic!("nobody answered") };
    assert_eq!(delivery.pending().count(), 1);
    assert_eq!(names(&content(&served)), "a1");
    for _ in 0..2 {
        // Whether it was told of it at all depends on who is faster.
        if client.running(&CDS).any(|r| number(&r.value) == 1) {
            break;
        }
        let update = client.expect(CDS).await;
        client.ack(&update);
    }
    let given_up = served.server.roll_out(change(&[("a", 3)], &[]), Canary::share(1.0));
    assert!(tokio::time::timeout(Duration::from_millis(20), given_up).await.is_err());
    assert_eq!(names(&content(&served)), "a1");
    let nobody = Canary::nodes(|node| node.id == "nobody");
    let at_once = served.server.roll_out(change(&[("a", 4)], &[]), nobody).await.unwrap();
    assert!(matches!(at_once, Rollout::Promoted(_)));
    assert_eq!(names(&content(&served)), "a4");
}

#[tokio::test]
async fn a_canary_whose_member_goes_away_is_withdrawn_and_others_changes_stay() {
    let served = serve().await;
    put(&served, &[("a", 1), ("b", 1)]);
    let client = in_step(&served, "node-0", Variant::Delta).await;
    let server = served.server.clone();
    let canary = Canary::share(1.0).timeout(Duration::from_millis(300));
    let lost = tokio::spawn(async move { server.roll_out(change(&[("a", 2)], &[]), canary).await });
    while members(&served).is_empty() {
        tokio::task::yield_now().await;
    }
    drop(client);
    let Rollout::Withdrawn { gone, .. } = lost.await.unwrap().unwrap() else {
        panic!("it is gone")
    };
    assert_eq!(gone, ["node-0"]);
    let mut client = in_step(&served, "node-1", Variant::Delta).await;
    let server = served.server.clone();
    let good = tokio::spawn(async move {
        server.roll_out(change(&[("a", 3), ("b", 3)], &[]), Canary::share(1.0)).await
    });
    let update = client.expect(CDS).await;
    put(&served, &[("b", 4), ("c", 4)]);
    client.ack(&update);
    let promoted = good.await.unwrap().unwrap();
    assert!(matches!(promoted, Rollout::Promoted(_)));
    assert_eq!(names(&content(&served)), "a3 b4 c4");
}

#[tokio::test]
async fn what_a_member_rejected_before_is_not_the_fault_of_a_change() {
    for variant in [Variant::Delta, Variant::Sotw] {
        let served = serve().await;
        put(&served, &[("a", 1)]);
        let mut client = in_step(&served, "node-0", variant).await;
        put(&served, &[("old", 9)]);
        let update = client.expect(CDS).await;
        client.nack(&update, "old: no");
        client.silence().await;
        let server = served.server.clone();
        let good = tokio::spawn(async move {
            server.roll_out(change(&[("a", 2)], &[]), Canary::share(1.0)).await
        });
        let update = client.expect(CDS).await;
        assert!(update.resources.iter().any(|r| number(&r.value) == 2), "{update:?}");
        client.ack(&update);
        let promoted = good.await.unwrap().unwrap();
        assert!(matches!(promoted, Rollout::Promoted(_)), "{variant:?}: {promoted:?}");
        // What it rejects now is.
        let server = served.server.clone();
        let bad = tokio::spawn(async move {
            server.roll_out(change(&[("a", 3)], &[]), Canary::share(1.0)).await
        });
        let update = client.expect(CDS).await;
        client.nack(&update, "a: no");
        let withdrawn = bad.await.unwrap().unwrap();
        let Rollout::Withdrawn { delivery, .. } = withdrawn else { panic!("{withdrawn:?}") };
        let (_, [rejection]) = delivery.rejected().next().unwrap() else { panic!("{delivery:?}") };
        assert_eq!(rejection.error.message, "a: no");
    }
}

#[tokio::test]
async fn who_may_leave_is_not_waited_for_as_long_as_one_is_left() {
    let served = serve().await;
    put(&served, &[("a", 1)]);
    let mut stays = in_step(&served, "node-0", Variant::Delta).await;
    let leaves = in_step(&served, "node-1", Variant::Delta).await;
    let server = served.server.clone();
    let all = || Canary::share(1.0).may_leave();
    let good = tokio::spawn(async move { server.roll_out(change(&[("a", 2)], &[]), all()).await });
    are_members(&served).await;
    drop(leaves);
    let update = stays.expect(CDS).await;
    stays.ack(&update);
    assert!(matches!(good.await.unwrap().unwrap(), Rollout::Promoted(_)));
    // What makes all of them go is no good.
    let server = served.server.clone();
    let all = Canary::share(1.0).may_leave().timeout(Duration::from_millis(300));
    let bad = tokio::spawn(async move { server.roll_out(change(&[("a", 3)], &[]), all).await });
    stays.expect(CDS).await;
    drop(stays);
    let Rollout::Withdrawn { gone, .. } = bad.await.unwrap().unwrap() else { panic!("all went") };
    assert_eq!(gone, ["node-0"]);
}
