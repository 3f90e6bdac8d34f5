//! Ten thousand services at once, by both doors and into both databases: all of them reach a client, and
//! whoever asks meanwhile is answered.

#![allow(missing_docs, clippy::expect_used, clippy::panic)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use deltaplane_server::envoy_types::pb::envoy::config::core::v3::Node;
use deltaplane_server::testing::{Connection, ModelClient};
use deltaplane_server::{TypeUrl, Variant};
use deltaplane_tests::{Database, Deltaplane, Kind, port};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tonic::transport::Endpoint;

const MANY: usize = 10_000;

/// Until all of them are there.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long anybody else waits for an answer meanwhile.
const PROMPT: Duration = Duration::from_secs(5);

fn services(port: u16) -> Vec<Value> {
    let service = |i: usize| {
        json!({"name": format!("s{i}"), "listener_port": port, "prefix": format!("/{i}/"),
               "upstream_host": "127.0.0.1", "upstream_port": 1 + i % 60_000})
    };
    (0..MANY).map(service).collect()
}

/// One statement, as whoever writes past the server sends it.
fn sql(port: u16) -> String {
    format!(
        "WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {}) \
         INSERT INTO services (name, listener_port, upstream_host, upstream_port, prefix) \
         SELECT 's' || i, {port}, '127.0.0.1', 1 + i % 60000, '/' || i || '/' FROM n",
        MANY - 1
    )
}

fn arrive(kind: Kind, store: impl Fn(&Deltaplane, &Database, u16) + Sync) {
    let database = Database::create(kind);
    let server = Deltaplane::start(&database.url());
    let port = port::reserve();
    server.create(&json!({"name": "first", "listener_port": port, "upstream_host": "127.0.0.1",
                          "upstream_port": 1}));
    let runtime = Runtime::new().expect("threads can be had");
    let mut client = runtime.block_on(connected(&server));
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let over = Over(&is_over);
        scope.spawn(|| store(&server, &database, port));
        let asking = scope.spawn(|| longest_answer(&server, &is_over));
        let arrive = async { tokio::time::timeout(PATIENCE, all_arrive(&mut client)).await };
        let arrived = runtime.block_on(arrive);
        drop(over);
        let longest = asking.join().expect("it is asked");
        arrived.unwrap_or_else(|_| panic!("not all of them arrive: {}", server.log()));
        assert!(longest < PROMPT, "somebody waited {longest:?} for an answer");
    });
    let words = ["published", "rows=1000", "changes="];
    assert!(server.log_line(&words).is_some(), "{}", server.log());
}

/// Ends the asking, however it comes to that.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

async fn connected(server: &Deltaplane) -> ModelClient<Connection> {
    let endpoint = Endpoint::from_shared(format!("http://{}", server.xds)).expect("an address");
    let channel = endpoint.connect().await.expect("the server listens");
    let node = Node { id: "one".to_owned(), cluster: "cluster-1".to_owned(), ..Node::default() };
    let client = ModelClient::connect(channel, node, Variant::Delta).await;
    let mut client = client.expect("the server takes a client");
    client.subscribe(TypeUrl::CLUSTER, &[]);
    let clusters = client.expect(TypeUrl::CLUSTER).await;
    client.ack(&clusters);
    client
}

async fn all_arrive(client: &mut ModelClient<Connection>) {
    while client.running(&TypeUrl::CLUSTER).count() < MANY + 1 {
        // It has less patience than this.
        if let Ok(Some(clusters)) = client.next().await {
            client.ack(&clusters);
        }
    }
}

fn longest_answer(server: &Deltaplane, is_over: &AtomicBool) -> Duration {
    let mut longest = Duration::ZERO;
    while !is_over.load(Ordering::Relaxed) {
        let asked = Instant::now();
        let answer = server.ask("GET", "/api/v1/services/?limit=1", None);
        assert_eq!(answer.status, 200, "{}", answer.body);
        longest = longest.max(asked.elapsed());
    }
    longest
}

#[test]
fn by_rest() {
    arrive(Kind::Postgres, |server, _, port| {
        let body = json!({"services": services(port)}).to_string();
        let answer = server.ask("POST", "/api/v1/services/import", Some(&body));
        assert_eq!(answer.status, 200, "{}", answer.body);
        let done = format!("created={MANY} replaced=0 unchanged=0");
        assert!(
            server.log_line(&["stored what came together", &done]).is_some(),
            "{}",
            server.log()
        );
    });
}

#[test]
fn by_rows() {
    for kind in [Kind::Sqlite, Kind::Postgres] {
        arrive(kind, |_, database, port| database.execute(&sql(port)));
    }
}
