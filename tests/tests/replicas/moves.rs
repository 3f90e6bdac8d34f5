//! A client leaves one server for another.

use std::collections::BTreeSet;

use deltaplane_server::TypeUrl;
use deltaplane_server::testing::{Connection, ModelClient};
use deltaplane_tests::envoy::certificate::Certificate;
use deltaplane_tests::{Deltaplane, Listener, Replicas, Upstream, Variant, service};
use serde_json::json;
use tokio::runtime::Runtime;

use crate::{CDS, EDS, LDS, RDS, SDS, VARIANTS, channel, connect};

#[test]
fn a_client_that_moves_is_sent_what_it_names_and_nothing_else() {
    let mut replicas = Replicas::start(2);
    let (files, shop) = (Listener::reserve(), Listener::reserve());
    let upstream = Upstream::start("a");
    let shown = Certificate::make("shop.test");
    let pair = json!({"certificate": shown.pem(), "key": shown.key()}).to_string();
    let stored = replicas.all[0].ask("PUT", "/api/v1/certificates/shop", Some(&pair));
    assert_eq!(stored.status, 201, "{}", stored.body);
    let id = replicas.all[0].create(&service::http("files", &files, &upstream));
    let certificate = json!({"certificate": "shop"});
    replicas.all[0].create(&service::but(&service::http("shop", &shop, &upstream), &certificate));
    // This one reads all of it in one go.
    replicas.join(replicas.database_port(), &[]);
    let routes = [files.port(), shop.port()].map(|port| format!("routes-{port}"));
    let routes: Vec<&str> = routes.iter().map(String::as_str).collect();
    let clusters = ["files", "shop"];
    let named = [(EDS, &clusters[..]), (RDS, &routes[..]), (SDS, &["shop"])];
    let runtime = Runtime::new().expect("threads can be had");
    for variant in VARIANTS {
        replicas.catch_up();
        let mut client = runtime.block_on(connect(&replicas.all[0], variant));
        runtime.block_on(async {
            for (type_url, names) in [(CDS, &[][..]), (LDS, &[])].iter().chain(&named) {
                client.subscribe(type_url.clone(), names);
                let update = client.expect(type_url.clone()).await;
                client.ack(&update);
            }
            client.silence().await;
            for replica in [1, 2, 0, 2, 1] {
                moves(&mut client, &replicas.all[replica], &named).await;
            }
        });
        // What changed meanwhile is told, and no other cluster where it need not be.
        let timeout = 2_000 + variant as i64;
        replicas.all[0].patch(id, &json!({"connect_timeout_ms": timeout}));
        replicas.catch_up();
        let changed = if variant == Variant::Delta { &clusters[..1] } else { &clusters[..] };
        let and_changed = [&[(CDS, changed)], &named[..]].concat();
        runtime.block_on(async {
            moves(&mut client, &replicas.all[2], &and_changed).await;
            moves(&mut client, &replicas.all[0], &named).await;
        });
    }
}

/// Goes to a replica, and is sent these, each once, and nothing else.
async fn moves(
    client: &mut ModelClient<Connection>,
    replica: &Deltaplane,
    expected: &[(TypeUrl, &[&str])],
) {
    client.reconnect(channel(replica).await).await.expect("it is taken");
    let names = expected.iter().flat_map(|(type_url, names)| {
        names.iter().map(move |name| (type_url.clone(), name.to_string()))
    });
    let mut missing: BTreeSet<(TypeUrl, String)> = names.collect();
    while !missing.is_empty() {
        let update = client.next().await.expect("it is told").expect("the stream goes on");
        client.ack(&update);
        assert_eq!(update.removed, [""; 0]);
        for name in update.names() {
            let is_due = missing.remove(&(update.type_url.clone(), name.to_owned()));
            assert!(is_due, "{name} is sent for no reason: {update:?}");
        }
    }
    client.silence().await;
}
