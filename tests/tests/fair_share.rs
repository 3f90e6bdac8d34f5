//! Several servers on one PostgreSQL spread clients over each other.

#![allow(missing_docs, clippy::expect_used)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use deltaplane_server::envoy_types::pb::envoy::config::core::v3::Node;
use deltaplane_server::testing::ModelClient;
use deltaplane_server::{TypeUrl, Variant};
use deltaplane_tests::{Deltaplane, Postgres, wait_until};
use serde_json::json;
use tokio::runtime::{Builder, Runtime};
use tonic::Code;
use tonic::transport::Endpoint;

const PATIENCE: Duration = Duration::from_secs(40);

/// Clients, each of which goes on to another server when its stream ends.
struct Crowd {
    _runtime: Runtime,
    told: Arc<Told>,
}

#[derive(Default)]
struct Told {
    /// Streams on which something was answered.
    answered: AtomicUsize,
    /// How streams ended on which nothing was.
    cut_off: Mutex<Vec<String>>,
}

impl Crowd {
    fn of(clients: usize, servers: &[&Deltaplane]) -> Crowd {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let (runtime, told) = (runtime.expect("a runtime can be had"), Arc::<Told>::default());
        let ports: Vec<u16> = servers.iter().map(|server| server.xds.port()).collect();
        for id in 0..clients {
            runtime.spawn(wander(id, ports.clone(), told.clone()));
        }
        wait_until("all were answered", PATIENCE, || {
            (told.answered.load(Ordering::Relaxed) >= clients).then_some(())
        });
        Crowd { _runtime: runtime, told }
    }

    fn was_never_cut_off(&self) {
        let cut_off = self.told.cut_off.lock().expect("no holder of it panics");
        assert!(cut_off.is_empty(), "{cut_off:?}");
    }
}

async fn wander(id: usize, ports: Vec<u16>, told: Arc<Told>) {
    let mut at = id;
    loop {
        if !stay(id, ports[at % ports.len()], &told).await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        at += 1 + id / ports.len() % 2;
    }
}

/// Is served by a server until that ends it; nothing, if it does not listen.
async fn stay(id: usize, port: u16, told: &Told) -> bool {
    let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{port}"));
    let channel = endpoint.expect("this is an address").connect().await;
    let Ok(channel) = channel else { return false };
    let node = Node { id: format!("n-{id}"), cluster: "cluster-1".to_owned(), ..Node::default() };
    let Ok(mut client) = ModelClient::connect(channel, node, Variant::Delta).await else {
        return false;
    };
    client.subscribe(TypeUrl::CLUSTER, &[]);
    let mut is_answered = false;
    loop {
        let end = match client.next().await {
            Ok(Some(update)) => {
                client.ack(&update);
                if !std::mem::replace(&mut is_answered, true) {
                    told.answered.fetch_add(1, Ordering::Relaxed);
                }
                continue;
            }
            Ok(None) => "it ended".to_owned(),
            Err(status) if is_answered && status.code() == Code::DeadlineExceeded => continue,
            Err(status) => status.to_string(),
        };
        if !is_answered {
            told.cut_off.lock().expect("no holder of it panics").push(end);
        }
        return true;
    }
}

fn metric(server: &Deltaplane, line: &str) -> usize {
    let metrics = server.ask("GET", "/metrics", None).body;
    let line = metrics.lines().find_map(|it| it.strip_prefix(line)?.strip_prefix(' '));
    line.and_then(|value| value.parse().ok()).unwrap_or_default()
}

fn connections(servers: &[Deltaplane]) -> Vec<usize> {
    servers.iter().map(|server| metric(server, "deltaplane_xds_connections")).collect()
}

fn shed(server: &Deltaplane) -> usize {
    metric(server, "deltaplane_xds_connections_ended_total{reason=\"fair_share\"}")
}

fn serve(url: &str, settings: &[&str]) -> Deltaplane {
    let server = Deltaplane::start_with(url, settings);
    let shop = json!({"name": "shop", "cluster_id": 1, "listener_port": 10000,
                      "upstream_host": "127.0.0.1", "upstream_port": 1});
    // It is there already, if this is not the first server of the database.
    server.ask("POST", "/api/v1/services/", Some(&shop.to_string()));
    server
}

#[test]
fn streams_even_out_when_a_server_is_back() {
    let mut postgres = Postgres::start();
    let [one, other] = [postgres.create_database(), postgres.create_database()];
    let [one, other] = [postgres.url(&one), postgres.url(&other)];
    // Those that are told not to leave streams where they are all the time.
    let left: Vec<_> = (0..2).map(|_| serve(&other, &["--fair-share", "false"])).collect();
    let left_alone = Crowd::of(8, &[&left[0]]);

    let mut servers: Vec<_> = (0..3).map(|_| serve(&one, &[])).collect();
    let crowd = Crowd::of(36, &servers.iter().collect::<Vec<_>>());
    wait_until("they know of each other", PATIENCE, || {
        servers.iter().all(|server| metric(server, "deltaplane_replicas") == 3).then_some(())
    });
    assert_eq!(connections(&servers), [12, 12, 12]);
    servers[2].stop();
    wait_until("two have all", PATIENCE, || (connections(&servers[..2]) == [18, 18]).then_some(()));
    wait_until("two know it", PATIENCE, || {
        servers[..2].iter().all(|server| metric(server, "deltaplane_replicas") == 2).then_some(())
    });
    assert_eq!(shed(&servers[0]) + shed(&servers[1]), 0, "while they are alike, nobody has to go");

    servers[2].resume();
    // A tenth more than each one's share may stay where it is.
    wait_until("streams even out", PATIENCE, || {
        let connections = connections(&servers);
        (connections.iter().sum::<usize>() == 36 && connections.iter().all(|it| *it <= 13))
            .then_some(())
    });
    wait_until("nothing more is ended", PATIENCE, || {
        let name = "deltaplane_xds_streams_fair_share";
        servers.iter().all(|server| metric(server, name) == 0).then_some(())
    });
    let ended = servers.iter().map(shed).sum::<usize>();
    assert!((10..100).contains(&ended), "{ended}");
    crowd.was_never_cut_off();
    assert_eq!((connections(&left), shed(&left[0])), (vec![8, 0], 0));
    left_alone.was_never_cut_off();

    // Without the database, nothing is known of others.
    postgres.stop();
    wait_until("it is noticed", PATIENCE, || {
        servers.iter().all(|server| metric(server, "deltaplane_replicas") == 0).then_some(())
    });
}
