//! What bounds the clients of a server, and its end.

#![allow(missing_docs, clippy::expect_used)]

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use deltaplane_server::TypeUrl;
use deltaplane_server::envoy_types::pb::envoy::config::core::v3::Node;
use deltaplane_server::testing::{Connection, ModelClient};
use deltaplane_tests::process::Process;
use deltaplane_tests::proxy::Proxy;
use deltaplane_tests::server::deltaplane;
use deltaplane_tests::{
    Database, Deltaplane, Envoy, Kind, Listener, Postgres, Upstream, Variant, http, service,
    wait_until,
};
use rustix::process::Signal;
use serde_json::json;
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

const PATIENCE: Duration = Duration::from_secs(30);

fn envoy(server: &Deltaplane, id: &str) -> Envoy {
    Envoy::start(&server.bootstrap(id, "cluster-1", Variant::Delta))
}

#[test]
fn one_stream_too_many_is_refused_until_there_is_room() {
    let database = Database::create(Kind::Sqlite);
    let server = Deltaplane::start_with(&database.url(), &["--streams-max", "1"]);
    let (upstream, shop) = (Upstream::start("a"), Listener::reserve());
    server.create(&service::http("shop", &shop, &upstream));
    let first = envoy(&server, "first");
    shop.reaches("/", &upstream);
    let second = envoy(&server, "second");
    wait_until("it is refused", PATIENCE, || {
        (server.metric("deltaplane_xds_streams_refused_total") >= 1.0).then_some(())
    });
    assert_eq!(second.listeners(), [""; 0]);
    assert_eq!(first.stat("control_plane.connected_state"), 1, "who is there is served");
    drop(first);
    wait_until("there is room", PATIENCE, || (second.listeners().len() == 1).then_some(()));
}

#[test]
fn connections_grow_old_and_nothing_is_sent_again() {
    let database = Database::create(Kind::Sqlite);
    let server = Deltaplane::start_with(&database.url(), &["--connection-age-s", "1"]);
    let (upstream, shop) = (Upstream::start("a"), Listener::reserve());
    server.create(&service::http("shop", &shop, &upstream));
    let envoy = envoy(&server, "envoy-1");
    shop.reaches("/", &upstream);
    let updates = || {
        ["cluster_manager.cds.update_success", "listener_manager.lds.update_success"]
            .map(|name| envoy.stat(name))
    };
    let before = updates();
    wait_until("it has come back more than once", PATIENCE, || {
        let ended = server.metric("deltaplane_xds_connections_ended_total{reason=\"age\"}");
        (ended >= 2.0 && envoy.stat("cluster._deltaplane.upstream_cx_total") >= 3).then_some(())
    });
    wait_until("it is there", PATIENCE, || {
        (envoy.stat("control_plane.connected_state") == 1).then_some(())
    });
    assert_eq!(updates(), before);
}

/// How long the end may take, and how long until it is seen.
const SHUTDOWN_S: &str = "2";
const END: Duration = Duration::from_secs(3);

/// Whoever does not take notice is not waited for longer than that; nor, at last, is a database.
fn ends_in_time(url: &str, befall: impl FnOnce(&Deltaplane)) {
    let mut server = Deltaplane::start_with(url, &["--shutdown-s", SHUTDOWN_S]);
    let (upstream, shop) = (Upstream::start("a"), Listener::reserve());
    server.create(&service::http("shop", &shop, &upstream));
    let envoy = envoy(&server, "envoy-1");
    shop.reaches("/", &upstream);
    envoy.pause();
    befall(&server);
    let start = Instant::now();
    server.stop();
    let took = start.elapsed();
    envoy.resume();
    assert!(took < END, "{took:?}");
}

#[test]
fn the_end_comes_in_time() {
    let database = Database::create(Kind::Sqlite);
    ends_in_time(&database.url(), |_| {});
}

#[test]
fn the_end_comes_in_time_while_the_database_is_silent() {
    let postgres = Postgres::shared();
    let (database, proxy) = (postgres.create_database(), Proxy::before(postgres.port()));
    ends_in_time(&postgres.url_at(&database, proxy.port()), |server| {
        // It happens while all connections that there may be are busy.
        proxy.delays(Duration::from_millis(500));
        let services = format!("http://{}/api/v1/services/", server.http);
        for _ in 0..8 {
            let services = services.clone();
            thread::spawn(move || http::get(&services));
        }
        wait_until("all are busy", PATIENCE, || {
            let busy = server.metric("deltaplane_database_connections{state=\"busy\"}");
            (busy == 4.0).then_some(())
        });
        proxy.stalls();
    });
}

#[test]
fn the_end_comes_in_time_while_tables_are_made() {
    let postgres = Postgres::shared();
    let database = postgres.create_database();
    let sql = "CREATE FUNCTION take_time() RETURNS event_trigger LANGUAGE plpgsql \
               AS 'BEGIN PERFORM pg_sleep(60); END'; \
               CREATE EVENT TRIGGER slow ON ddl_command_start EXECUTE FUNCTION take_time()";
    postgres.psql(&database, sql);
    let folder = tempfile::tempdir().expect("a folder for temporary files can be made");
    let mut command = deltaplane();
    command.args(["serve", "--database-url", &postgres.url(&database)]);
    command.args(["--xds-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"]);
    let mut process = Process::start("deltaplane", &mut command, &folder.path().join("log"));
    process.wait_until("tables are made", PATIENCE, |_| {
        let sql = "SELECT count(*) FROM pg_stat_activity \
                   WHERE datname = current_database() AND wait_event = 'PgSleep'";
        (postgres.psql(&database, sql).trim() == "1").then_some(())
    });
    process.signal(Signal::TERM);
    let start = Instant::now();
    assert!(process.wait_for_end().success(), "{}", process.log());
    assert!(start.elapsed() < END, "{:?}", start.elapsed());
}

/// No time that can be written down is too long.
#[test]
fn times_without_end_are_borne() {
    let longest = u64::MAX.to_string();
    let flags = [
        "--connection-age-s",
        "--catch-up-s",
        "--keepalive-s",
        "--shutdown-s",
        "--memory-max-mb",
        "--history-days",
    ];
    let mut flags: Vec<_> = flags.into_iter().flat_map(|flag| [flag, longest.as_str()]).collect();
    flags.extend(["--audit-days", "4294967295"]);
    let mut scene = Scene::start(&flags);
    let mut client = scene.open(scene.channel(), "one").expect("it is served");
    scene.serves(&mut client, 700);
    let silent = scene.channel();
    drop((client, silent));
    let log = scene.server.stop();
    assert!(!log.contains("panicked"), "{log}");
}

/// A server with a service, and what runs its clients.
struct Scene {
    server: Deltaplane,
    id: i64,
    runtime: Runtime,
    _database: Database,
}

impl Scene {
    fn start(flags: &[&str]) -> Scene {
        let database = Database::create(Kind::Sqlite);
        let server = Deltaplane::start_with(&database.url(), flags);
        let (upstream, shop) = (Upstream::start("a"), Listener::reserve());
        let id = server.create(&service::http("shop", &shop, &upstream));
        Scene {
            server,
            id,
            runtime: Runtime::new().expect("threads can be had"),
            _database: database,
        }
    }

    fn channel(&self) -> Channel {
        self.runtime.block_on(channel(self.server.xds))
    }

    fn open(&self, channel: Channel, id: &str) -> Result<ModelClient<Connection>, Status> {
        self.runtime.block_on(open(channel, id.to_owned()))
    }

    /// What changes reaches a client, which then has nothing more to hear.
    fn serves(&self, client: &mut ModelClient<Connection>, timeout: u32) {
        self.server.patch(self.id, &json!({"connect_timeout_ms": timeout}));
        self.runtime.block_on(async {
            let update = client.expect(TypeUrl::CLUSTER).await;
            client.ack(&update);
            client.silence().await;
        });
    }
}

async fn channel(address: SocketAddr) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("it is an address");
    endpoint.connect().await.expect("the system takes the connection")
}

/// A client that has what there is.
async fn open(channel: Channel, id: String) -> Result<ModelClient<Connection>, Status> {
    let node = Node { id, cluster: "cluster-1".to_owned(), ..Node::default() };
    let variant = deltaplane_server::Variant::Delta;
    let mut client = ModelClient::connect(channel, node, variant).await?;
    client.subscribe(TypeUrl::CLUSTER, &[]);
    let update = client.next().await?.ok_or_else(|| Status::aborted("it ended"))?;
    client.ack(&update);
    Ok(client)
}

#[test]
fn one_connection_too_many_waits_until_there_is_room() {
    let scene = Scene::start(&["--connections-max", "1"]);
    let mut first = scene.open(scene.channel(), "first").expect("it is served");
    let address = scene.server.xds;
    let second =
        scene.runtime.spawn(async move { open(channel(address).await, "second".to_owned()).await });
    for timeout in [1001, 1002] {
        scene.serves(&mut first, timeout);
    }
    assert_eq!(scene.server.metric("deltaplane_xds_connections"), 1.0);
    assert!(!second.is_finished());
    drop(first);
    let second = scene.runtime.block_on(second).expect("it does not panic");
    scene.serves(&mut second.expect("it is served"), 1003);
}

#[test]
fn no_more_are_accepted_in_a_second_than_may_be() {
    let scene = Scene::start(&["--accepts-per-second", "2"]);
    let start = Instant::now();
    let mut clients = Vec::new();
    for id in 0..5 {
        let client = scene.open(scene.channel(), &id.to_string()).expect("it is served");
        clients.push(client);
    }
    // The first second may have begun before.
    let took = start.elapsed();
    assert!(took >= Duration::from_secs(1), "{took:?}");
}

#[test]
fn short_of_memory_who_is_there_is_served_and_nobody_new() {
    let resident = |scene: &Scene| scene.server.metric("process_resident_memory_bytes");
    let usual = Scene::start(&[]);
    usual.open(usual.channel(), "first").expect("it is served");
    let most = resident(&usual) / f64::from(1 << 20) + 10.0;
    drop(usual);
    let scene = Scene::start(&["--memory-max-mb", &format!("{most:.0}")]);
    let channel_of_first = scene.channel();
    let mut first = scene.open(channel_of_first.clone(), "first").expect("it is served");
    // What nobody asks for takes room, too.
    for name in ["a", "b", "c", "d"] {
        let value = "AAAA".repeat(2 << 20);
        let large = json!({"type_url": "type.test/Large", "name": name, "value": value});
        let large = json!({"scope": "cluster-1", "upserts": [large]}).to_string();
        let stored = scene.server.ask("POST", "/api/v1/xds/transactions", Some(&large));
        assert_eq!(stored.status, 200, "{}", stored.body);
    }
    wait_until("there is too little", PATIENCE, || {
        (resident(&scene) > (most + 1.0) * f64::from(1 << 20)).then_some(())
    });
    let refused = wait_until("a stream is refused", PATIENCE, || {
        scene.open(channel_of_first.clone(), "second").err()
    });
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert!(refused.message().contains("short of memory"), "{refused}");
    assert!(scene.server.metric("deltaplane_xds_streams_refused_total") >= 1.0);
    let address = scene.server.xds;
    let third =
        scene.runtime.spawn(async move { open(channel(address).await, "third".to_owned()).await });
    for timeout in [1001, 1002] {
        scene.serves(&mut first, timeout);
    }
    assert!(!third.is_finished());
    assert!(scene.server.log_line(&["WARN", "short of memory"]).is_some());
}
