//! What a canary shows its members, what it awaits of them, and what it leaves behind.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use deltaplane_server::{
    Canary, Client, ClientEvent, Observer, Rollout, Scope, Transaction, TypeUrl, Variant,
    View as _,
    testing::{Connection, ModelClient, Update},
};
use futures::FutureExt as _;
use tokio::task::JoinHandle;

use crate::{
    rollout::{change, in_step, number, put, resource},
    served::{CDS, Served, serve, serve_with},
};

const LDS: TypeUrl = TypeUrl::LISTENER;
const RDS: TypeUrl = TypeUrl::ROUTE;
const BOTH: [Variant; 2] = [Variant::Delta, Variant::Sotw];

type Model = ModelClient<Connection>;

/// Carries a change out, beside what clients do.
fn begin(served: &Served, change: Transaction, canary: Canary) -> JoinHandle<Rollout> {
    let server = served.server.clone();
    tokio::spawn(async move { server.roll_out(change, canary).await.unwrap() })
}

/// Carries a change out that the only client there is accepts, and returns what that was told.
async fn promoted(served: &Served, client: &mut Model, change: Transaction) -> Update {
    let rollout = begin(served, change, Canary::share(1.0));
    let update = client.expect(CDS).await;
    client.ack(&update);
    let rollout = rollout.await.unwrap();
    assert!(matches!(rollout, Rollout::Promoted(_)), "{rollout:?}");
    client.silence().await;
    update
}

/// What a client runs, by name and number.
fn running(client: &Model) -> String {
    let running = client.running(&CDS).map(|it| format!("{}{}", it.name, number(&it.value)));
    running.collect::<Vec<_>>().join(" ")
}

/// What a node would see if it came now.
fn seen(served: &Served, scopes: &[&str]) -> String {
    let scopes: Arc<[Scope]> = scopes.iter().map(|scope| Scope::from(*scope)).collect();
    let view = served.cache.view(&scopes);
    let all = view.resources(&CDS).map(|it| format!("{}{}", it.name(), number(&it.value())));
    all.collect::<Vec<_>>().join(" ")
}

/// A server in which a node sees the scope of its id over that of its cluster.
async fn layered() -> Served {
    let scopes = |scopes: [&String; 2]| scopes.map(|scope| Scope::from(scope.as_str())).to_vec();
    serve_with(|builder| builder.view(move |node, _| scopes([&node.id, &node.cluster]))).await
}

#[tokio::test]
async fn what_is_removed_from_a_scope_shows_its_canary_what_lies_below() {
    for variant in BOTH {
        let served = layered().await;
        let mut transaction = change(&[("a", 1), ("b", 1)], &[]);
        transaction.upsert("node-0", resource(&CDS, "a", 2));
        served.cache.commit(transaction).unwrap();
        let mut client = in_step(&served, "node-0", variant).await;
        assert_eq!(running(&client), "a2 b1");
        let remove = |name: &str| Transaction::new().remove("node-0", CDS, name).clone();
        let update = promoted(&served, &mut client, remove("a")).await;
        assert_eq!((update.removed.len(), running(&client)), (0, "a1 b1".into()));
        assert_eq!(seen(&served, &["node-0", "c"]), "a1 b1");
        // What hides the one below is a change as any other, and so is that it goes.
        let hide = || Transaction::new().hide("node-0", CDS, "b").clone();
        promoted(&served, &mut client, hide()).await;
        assert_eq!((running(&client), seen(&served, &["node-0", "c"])), ("a1".into(), "a1".into()));
        promoted(&served, &mut client, remove("b")).await;
        assert_eq!(running(&client), "a1 b1");
        assert_eq!(seen(&served, &["node-0", "c"]), "a1 b1");
        promoted(&served, &mut client, hide()).await;
        let shows = Transaction::new().upsert("node-0", resource(&CDS, "b", 3)).clone();
        promoted(&served, &mut client, shows).await;
        assert_eq!(running(&client), "a1 b3");
        assert_eq!(seen(&served, &["node-0", "c"]), "a1 b3");
    }
}

/// Does something when a client is sent something, before anything else is known of that.
#[derive(Default)]
struct OnceSent(Mutex<Option<Box<dyn FnOnce() + Send>>>);

impl Observer for OnceSent {
    fn observe(&self, _: &Client, event: &ClientEvent<'_>) {
        if let ClientEvent::Sent(_) = event
            && let Some(act) = self.0.lock().unwrap().take()
        {
            act();
        }
    }
}

#[tokio::test]
async fn a_member_that_is_just_being_told_is_told_that_it_was_taken_back() {
    for variant in BOTH {
        let sent = Arc::new(OnceSent::default());
        let served = serve_with(|builder| builder.observer(sent.clone())).await;
        put(&served, &[("a", 1)]);
        let mut client = in_step(&served, "node-0", variant).await;
        let roll_out = |change| {
            let server = served.server.clone();
            Box::pin(async move { server.roll_out(change, Canary::share(1.0)).await.unwrap() })
        };
        let mut rollout = roll_out(change(&[("a", 9)], &[]));
        assert!(rollout.as_mut().now_or_never().is_none());
        let next = roll_out(Transaction::new());
        *sent.0.lock().unwrap() = Some(Box::new(move || {
            // It is withdrawn, and what is left of it is forgotten if nobody sees that.
            drop(rollout);
            assert!(matches!(next.now_or_never(), Some(Rollout::Promoted(_))));
        }));
        for number in [9, 1] {
            let update = client.expect(CDS).await;
            client.ack(&update);
            assert_eq!(running(&client), format!("a{number}"));
        }
        client.silence().await;
    }
}

#[tokio::test]
async fn what_is_only_declared_stays_unknown_and_what_others_filled_stays_theirs() {
    for variant in BOTH {
        let served = serve().await;
        put(&served, &[("a", 1)]);
        let mut client = in_step(&served, "node-0", variant).await;
        let mut transaction = change(&[("a", 2)], &[]);
        promoted(&served, &mut client, transaction.declare("c", LDS).clone()).await;
        client.subscribe(LDS, &[]);
        client.silence().await;

        // What is known to be empty is, unless somebody else knows better by then.
        let fill = Transaction::new().replace("c", LDS, []).clone();
        served.cache.commit(fill).unwrap();
        let listeners = client.expect(LDS).await;
        client.ack(&listeners);
        let mut transaction = change(&[("a", 3)], &[]);
        transaction.replace("c", RDS, []).replace("c", TypeUrl::SECRET, []);
        let rollout = begin(&served, transaction, Canary::share(1.0));
        let update = client.expect(CDS).await;
        let others = Transaction::new().replace("c", RDS, [resource(&RDS, "r", 1)]).clone();
        served.cache.commit(others).unwrap();
        client.ack(&update);
        assert!(matches!(rollout.await.unwrap(), Rollout::Promoted(_)));
        let view = served.cache.view(&Arc::from(["c".into()]));
        assert!(view.get(&RDS, "r").is_some());
        assert!(served.cache.types(&"c".into()).contains(&TypeUrl::SECRET));
        // Nobody can be told first that something is known.
        let known = Transaction::new().declare("c", TypeUrl::RUNTIME).clone();
        let rollout = begin(&served, known, Canary::share(1.0)).await.unwrap();
        assert!(matches!(rollout, Rollout::Promoted(_)), "{rollout:?}");
    }
}

#[tokio::test]
async fn who_comes_back_has_not_settled_before_it_asked_for_what_it_had() {
    for variant in BOTH {
        let served = serve().await;
        put(&served, &[("a", 1)]);
        let listener =
            |content| Transaction::new().upsert("c", resource(&LDS, "l", content)).clone();
        served.cache.commit(listener(1)).unwrap();
        let mut client = in_step(&served, "node-0", variant).await;
        listens(&mut client).await;
        // It accepts all that it asks for, but does not ask again for what changed.
        let brief = Canary::share(1.0).timeout(Duration::from_secs(1));
        let rollout = begin(&served, listener(2), brief);
        client.expect(LDS).await;
        drop(client);
        let mut client = in_step(&served, "node-0", variant).await;
        let rollout = rollout.await.unwrap();
        let Rollout::Withdrawn { delivery, .. } = &rollout else { panic!("{rollout:?}") };
        assert_eq!(delivery.pending().count(), 1, "{delivery:?}");
        // Who never asked for it is not waited for.
        let rollout = begin(&served, listener(3), Canary::share(1.0)).await.unwrap();
        assert!(matches!(rollout, Rollout::Promoted(_)), "{rollout:?}");
        listens(&mut client).await;
        let rollout = begin(&served, listener(4), Canary::share(1.0));
        client.expect(LDS).await;
        drop(client);
        let mut client = in_step(&served, "node-0", variant).await;
        let listeners = listens(&mut client).await;
        assert_eq!(number(&listeners.resources[0].value), 4);
        let rollout = rollout.await.unwrap();
        assert!(matches!(rollout, Rollout::Promoted(_)), "{rollout:?}");
    }
}

/// Has a client accept all listeners.
async fn listens(client: &mut Model) -> Update {
    client.subscribe(LDS, &[]);
    let listeners = client.expect(LDS).await;
    client.ack(&listeners);
    client.silence().await;
    listeners
}
