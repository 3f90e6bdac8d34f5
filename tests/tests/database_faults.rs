//! What happens to a database, and to the network before it: what is served stays served, nothing that was
//! confirmed is lost, and all heals by itself.

#![allow(missing_docs, clippy::expect_used)]

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use deltaplane_tests::http::Answer;
use deltaplane_tests::proxy::Proxy;
use deltaplane_tests::random::Random;
use deltaplane_tests::{
    Deltaplane, Disk, Envoy, Listener, Postgres, Upstream, Variant, service, wait_until,
};
use serde_json::{Value, json};

/// The server asks a lost database every two seconds, each time for five at most.
const RECOVERY: Duration = Duration::from_secs(20);

/// A server, its PostgreSQL behind a proxy, and an Envoy that it serves.
struct Scene {
    server: Deltaplane,
    proxy: Proxy,
    postgres: Postgres,
    database: String,
    envoy: Envoy,
    a: Upstream,
    b: Upstream,
    shop: Listener,
    id: i64,
}

impl Scene {
    fn start() -> Scene {
        Scene::start_with(Postgres::start())
    }

    fn start_with(postgres: Postgres) -> Scene {
        let database = postgres.create_database();
        let proxy = Proxy::before(postgres.port());
        let server = Deltaplane::start(&postgres.url_at(&database, proxy.port()));
        let (a, b, shop) = (Upstream::start("a"), Upstream::start("b"), Listener::reserve());
        let id = server.create(&service::http("shop", &shop, &a));
        let envoy = Envoy::start(&server.bootstrap("envoy-1", "cluster-1", Variant::Delta));
        shop.reaches("/", &a);
        Scene { server, proxy, postgres, database, envoy, a, b, shop, id }
    }

    fn status(&self, path: &str) -> u16 {
        self.server.ask("GET", path, None).status
    }

    fn is_ready(&self, ready: bool) {
        let status = if ready { 200 } else { 503 };
        wait_until("/readyz tells", RECOVERY, || (self.status("/readyz") == status).then_some(()));
        let up = if ready { "deltaplane_database_up 1" } else { "deltaplane_database_up 0" };
        assert!(self.server.ask("GET", "/metrics", None).body.contains(up));
    }

    fn sql(&self, sql: &str) {
        self.postgres.psql(&self.database, sql);
    }

    /// Whether the database may only be read, but by who insists.
    fn may_only_be_read(&self, on: &str) {
        let name = &self.database;
        let sql = format!("ALTER DATABASE {name} SET default_transaction_read_only = {on}");
        self.postgres.psql("postgres", &sql);
        self.proxy.cuts();
    }

    /// One may still say that one writes: the default is all that is against it.
    fn insists(&self, upstream: &Upstream) {
        let port = upstream.port();
        self.sql(&format!("BEGIN READ WRITE; UPDATE services SET upstream_port = {port}; COMMIT"));
    }

    /// What somebody writes past the server reaches Envoy, and what it is asked for it does.
    fn is_well(&self) {
        self.is_ready(true);
        let port = self.b.port();
        self.sql(&format!("UPDATE services SET upstream_port = {port} WHERE id = {}", self.id));
        self.shop.moves_within("/", &self.a, &self.b, RECOVERY);
        self.server.patch(self.id, &json!({"upstream_port": self.a.port()}));
        self.shop.moves_within("/", &self.b, &self.a, RECOVERY);
    }

    fn updates(&self) -> [u64; 2] {
        ["cluster_manager.cds.update_success", "listener_manager.lds.update_success"]
            .map(|name| self.envoy.stat(name))
    }
}

#[test]
fn postgres_moves_to_another_address() {
    let mut scene = Scene::start();
    let before = scene.updates();
    scene.postgres.stop();
    scene.is_ready(false);
    scene.postgres.move_to_another_port();
    scene.postgres.resume();
    scene.proxy.leads_to(scene.postgres.port());
    scene.is_well();
    assert_eq!(scene.updates(), before, "nothing was sent again");
}

/// What reached the standby is there, and it goes on from that.
#[test]
fn postgres_fails_over_to_its_standby() {
    let mut scene = Scene::start();
    let standby = scene.postgres.standby();
    scene.server.patch(scene.id, &json!({"timeout_ms": 1234}));
    wait_until("the standby has it", RECOVERY, || {
        let stored = standby.psql(&scene.database, "SELECT timeout_ms FROM services");
        (stored.trim() == "1234").then_some(())
    });
    let before = scene.updates();
    scene.postgres.stop();
    scene.is_ready(false);
    scene.shop.reaches("/", &scene.a);
    standby.psql("postgres", "SELECT pg_promote()");
    scene.proxy.leads_to(standby.port());
    scene.postgres = standby;
    scene.is_well();
    assert_eq!(scene.updates(), before, "nothing was sent again");
    let path = format!("/api/v1/services/{}", scene.id);
    assert_eq!(scene.server.ask("GET", &path, None).json()["timeout_ms"], 1234);
}

/// As when a machine vanishes, or what stands between has forgotten who spoke to whom.
#[test]
fn connections_to_postgres_are_half_open() {
    let scene = Scene::start();
    let server = &scene.server;
    // It happens while all that there may be are busy.
    scene.proxy.delays(Duration::from_millis(500));
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| server.ask("GET", "/api/v1/services/", None));
        }
        wait_until("all are busy", RECOVERY, || {
            let busy = server.metric("deltaplane_database_connections{state=\"busy\"}");
            (busy == 4.0).then_some(())
        });
        scene.proxy.forgets();
    });
    scene.proxy.delays(Duration::ZERO);
    let start = Instant::now();
    let port = scene.b.port();
    scene.sql(&format!("UPDATE services SET upstream_port = {port} WHERE id = {}", scene.id));
    scene.shop.moves_within("/", &scene.a, &scene.b, RECOVERY);
    // None of the dead ones is waited for any more, however many ask at once.
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                wait_until("it is answered", RECOVERY, || {
                    let answer = server.ask("GET", "/api/v1/services/", None);
                    (answer.status == 200).then_some(())
                });
            });
        }
    });
    assert!(scene.server.log_line(&["WARN", "the database cannot be followed"]).is_some());
    assert!(start.elapsed() < RECOVERY, "{:?}", start.elapsed());
    scene.server.patch(scene.id, &json!({"upstream_port": scene.a.port()}));
    scene.shop.moves("/", &scene.b, &scene.a);
    scene.is_well();
}

/// What says whether something can be stored.
fn is_writable(server: &Deltaplane) -> bool {
    server.metric("deltaplane_database_writable") == 1.0
}

/// It has no room, says so, and does all else that it did.
fn is_full(server: &Deltaplane, refused: &Answer, words: &str) {
    assert_eq!(refused.status, 507, "{}", refused.body);
    let detail = refused.json()["detail"].to_string();
    assert!(detail.contains(words) && detail.contains("make room"), "{detail}");
    let health = server.ask("GET", "/healthz", None).json();
    assert_eq!((&health["status"], &health["database"]), (&json!("degraded"), &json!("ok")));
    assert!(health["writes"].to_string().contains(words), "{health}");
    assert!(!is_writable(server));
    for path in ["/readyz", "/api/v1/services/"] {
        assert_eq!(server.ask("GET", path, None).status, 200, "{path}");
    }
}

fn can_be_written(server: &Deltaplane) {
    wait_until("it is seen to store", RECOVERY, || is_writable(server).then_some(()));
    let health = server.ask("GET", "/healthz", None).json();
    assert_eq!((&health["status"], &health["writes"]), (&json!("ok"), &json!("ok")));
}

/// A resource of a megabyte that cannot be compressed.
fn large() -> String {
    let letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut random = Random::new(1);
    let value = (0..1 << 20).map(|_| char::from(letters[random.below(64)])).collect::<String>();
    let price = json!({"type_url": "type.test/Price", "name": "apple", "value": value});
    json!({"scope": "cluster-1", "upserts": [price]}).to_string()
}

#[test]
fn postgres_has_no_room() {
    let scene = Scene::start_with(Postgres::start_on(Disk::of_megabytes(128)));
    // What it writes ahead has a new file, and room for a while: without that it ends.
    scene.sql("SELECT pg_switch_wal()");
    scene.sql("CHECKPOINT");
    let disk = scene.postgres.disk().expect("it has one of its own");
    disk.fill();
    let path = "/api/v1/xds/transactions";
    let large = large();
    let refused = scene.server.ask("POST", path, Some(&large));
    is_full(&scene.server, &refused, "No space left on device");
    scene.shop.reaches("/", &scene.a);
    let resources = scene.server.ask("GET", "/api/v1/xds/scopes/cluster-1/resources", None);
    assert_eq!(resources.status, 404, "nothing of it is there: {}", resources.body);
    disk.free();
    can_be_written(&scene.server);
    let stored = scene.server.ask("POST", path, Some(&large));
    assert_eq!(stored.status, 200, "{}", stored.body);
    scene.is_well();
}

#[test]
fn sqlite_has_no_room() {
    let disk = Disk::of_megabytes(4);
    let server = Deltaplane::start(&format!("sqlite://{}/deltaplane.db", disk.path().display()));
    let (a, b, shop) = (Upstream::start("a"), Upstream::start("b"), Listener::reserve());
    let id = server.create(&service::http("shop", &shop, &a));
    let _envoy = Envoy::start(&server.bootstrap("envoy-1", "cluster-1", Variant::Delta));
    shop.reaches("/", &a);
    disk.fill();
    let path = format!("/api/v1/services/{id}");
    let patch = json!({"upstream_port": b.port()}).to_string();
    let refused = server.ask("PATCH", &path, Some(&patch));
    is_full(&server, &refused, "full");
    shop.reaches("/", &a);
    disk.free();
    can_be_written(&server);
    server.patch(id, &json!({"upstream_port": b.port()}));
    shop.moves("/", &a, &b);
}

/// Waits until a write is refused since the database may only be read.
fn is_read_only(server: &Deltaplane, path: &str, patch: &str) {
    wait_until("a write is refused", RECOVERY, || {
        let answer = server.ask("PATCH", path, Some(patch));
        (answer.status == 503 && answer.body.contains("read-only")).then_some(())
    });
    assert!(!is_writable(server));
    assert_eq!(server.ask("GET", path, None).status, 200, "it can be read");
}

#[test]
fn postgres_may_only_be_read() {
    let scene = Scene::start();
    scene.may_only_be_read("on");
    let path = format!("/api/v1/services/{}", scene.id);
    is_read_only(&scene.server, &path, &json!({"upstream_port": scene.b.port()}).to_string());
    scene.shop.reaches("/", &scene.a);
    scene.is_ready(true);
    scene.insists(&scene.b);
    scene.shop.moves_within("/", &scene.a, &scene.b, RECOVERY);
    scene.may_only_be_read("off");
    wait_until("a write is done", RECOVERY, || {
        let patch = json!({"upstream_port": scene.a.port()}).to_string();
        (scene.server.ask("PATCH", &path, Some(&patch)).status == 200).then_some(())
    });
    scene.shop.moves_within("/", &scene.b, &scene.a, RECOVERY);
    can_be_written(&scene.server);
    scene.is_well();
}

#[test]
fn a_server_starts_while_postgres_may_only_be_read() {
    let mut scene = Scene::start();
    let before = scene.updates();
    scene.server.stop();
    scene.may_only_be_read("on");
    scene.server.resume();
    scene.is_ready(true);
    let path = format!("/api/v1/services/{}", scene.id);
    is_read_only(&scene.server, &path, &json!({"upstream_port": scene.b.port()}).to_string());
    scene.insists(&scene.b);
    scene.shop.moves_within("/", &scene.a, &scene.b, RECOVERY);
    assert_eq!(scene.updates(), before, "nothing was sent again");
    scene.insists(&scene.a);
    scene.shop.moves_within("/", &scene.b, &scene.a, RECOVERY);
    scene.may_only_be_read("off");
    can_be_written(&scene.server);
    scene.is_well();
}

/// A standby may only be read, and notifies of nothing, until it is promoted.
#[test]
fn postgres_is_a_standby() {
    let primary = Postgres::start();
    let database = primary.create_database();
    let writer = Deltaplane::start(&primary.url(&database));
    let (a, b, shop) = (Upstream::start("a"), Upstream::start("b"), Listener::reserve());
    let id = writer.create(&service::http("shop", &shop, &a));
    let standby = primary.standby();
    let server = Deltaplane::start(&standby.url(&database));
    let _envoy = Envoy::start(&server.bootstrap("envoy-1", "cluster-1", Variant::Delta));
    shop.reaches("/", &a);
    let patch = json!({"upstream_port": b.port()});
    writer.patch(id, &patch);
    shop.moves_within("/", &a, &b, RECOVERY);
    is_read_only(&server, &format!("/api/v1/services/{id}"), &patch.to_string());
    assert_eq!(server.ask("GET", "/readyz", None).status, 200);
    assert_eq!(server.log_line(&["cannot be followed"]), None);
    standby.psql("postgres", "SELECT pg_promote()");
    can_be_written(&server);
    server.patch(id, &json!({"upstream_port": a.port()}));
    shop.moves_within("/", &b, &a, RECOVERY);
    assert_eq!(server.log_line(&["cannot be followed"]), None);
}

#[test]
fn postgres_is_slow_and_then_silent() {
    let scene = Scene::start();
    scene.proxy.delays(Duration::from_millis(100));
    scene.is_well();
    scene.proxy.delays(Duration::ZERO);
    scene.proxy.stalls();
    scene.is_ready(false);
    let start = Instant::now();
    let answer = scene.server.ask("GET", "/api/v1/services/", None);
    assert_eq!(answer.status, 503, "{}", answer.body);
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    assert_eq!(scene.status("/healthz"), 200);
    scene.shop.reaches("/", &scene.a);
    scene.proxy.flows();
    scene.is_well();
}

#[test]
fn notifications_get_lost() {
    let scene = Scene::start();
    let untold = || scene.server.metric("deltaplane_database_untold_changes_total");
    scene.proxy.loses_notifications();
    scene.proxy.cuts();
    scene.is_well();
    let (before, port) = (untold(), scene.b.port());
    scene.sql(&format!("UPDATE services SET upstream_port = {port} WHERE id = {}", scene.id));
    scene.shop.moves_within("/", &scene.a, &scene.b, RECOVERY);
    assert_eq!(untold(), before + 1.0);
}

/// What the server confirmed while its connections broke is there.
#[test]
fn connections_break_while_it_is_written() {
    let scene = Scene::start();
    let path = format!("/api/v1/services/{}", scene.id);
    let mut confirmed = scene.server.ask("GET", &path, None).json()["timeout_ms"].clone();
    for timeout in 1..=40 {
        if timeout % 3 == 0 {
            scene.proxy.cuts();
        }
        let patch = json!({"timeout_ms": timeout}).to_string();
        let answer = scene.server.ask("PATCH", &path, Some(&patch));
        if answer.status == 200 {
            confirmed = timeout.into();
        } else {
            assert_eq!(answer.status, 503, "{}", answer.body);
        }
        let stored = scene.postgres.psql(&scene.database, "SELECT timeout_ms FROM services");
        let stored: Value = stored.trim().parse().unwrap_or_default();
        // What was not confirmed may have been done, and nothing else.
        let is_known = stored == confirmed || (answer.status == 503 && stored == timeout);
        assert!(is_known, "{stored} is stored, {confirmed} was confirmed before {timeout}");
        confirmed = stored;
    }
    scene.is_well();
}

/// PostgreSQL does not learn that a writer is gone, and everybody else waits for what it has locked.
#[test]
fn a_connection_is_half_open_in_the_middle_of_a_write() {
    let scene = Scene::start();
    // Of the 5 s that a write may take, some are left when it has locked something.
    scene.proxy.delays(Duration::from_millis(250));
    let (server, path) = (&scene.server, format!("/api/v1/services/{}", scene.id));
    let patch = json!({"timeout_ms": 1}).to_string();
    thread::scope(|scope| {
        let answer = scope.spawn(|| server.ask("PATCH", &path, Some(&patch)));
        wait_until("it writes", RECOVERY, || {
            let sql = "SELECT count(*) FROM pg_locks WHERE mode = 'RowExclusiveLock' \
                       AND relation = 'services'::regclass";
            (scene.postgres.psql(&scene.database, sql).trim() != "0").then_some(())
        });
        scene.proxy.forgets();
        let answer = answer.join().expect("it does not panic");
        assert_eq!(answer.status, 503, "{}", answer.body);
    });
    scene.proxy.delays(Duration::ZERO);
    scene.is_well();
}

/// As who tries something out by hand, and goes to lunch: writers wait, and nobody else.
#[test]
fn somebody_leaves_a_transaction_open() {
    let scene = Scene::start();
    let (server, path) = (&scene.server, format!("/api/v1/services/{}", scene.id));
    let patch = json!({"timeout_ms": 1}).to_string();
    let write = || server.ask("PATCH", &path, Some(&patch));
    scene.sql("CREATE TABLE back ()");
    let idle = "BEGIN; UPDATE services SET timeout_ms = 7; \
                DO $$ BEGIN FOR i IN 1..600 LOOP \
                PERFORM 1 FROM pg_class WHERE relname = 'back'; EXIT WHEN NOT FOUND; \
                PERFORM pg_sleep(0.1); END LOOP; END $$; ROLLBACK";
    thread::scope(|scope| {
        let somebody = scope.spawn(|| scene.sql(idle));
        wait_until("he has begun", RECOVERY, || {
            let sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
            (scene.postgres.psql(&scene.database, sql).trim() == "1").then_some(())
        });
        let writers: Vec<_> = (0..12).map(|_| scope.spawn(write)).collect();
        while !writers.iter().all(|writer| writer.is_finished()) {
            for open in ["/readyz", &path] {
                let answer = server.ask("GET", open, None);
                assert_eq!(answer.status, 200, "{open}: {}", answer.body);
            }
            scene.shop.reaches("/", &scene.a);
        }
        for writer in writers {
            let answer = writer.join().expect("it does not panic");
            assert_eq!(answer.status, 503, "{}", answer.body);
        }
        assert!(!is_writable(server));
        scene.sql("DROP TABLE back");
        somebody.join().expect("he rolls back");
    });
    can_be_written(server);
    scene.is_well();
    assert_eq!(server.log_line(&["cannot be followed"]), None);
}

/// Who goes away in the middle of a write leaves nothing behind that another meets.
#[test]
fn who_does_not_wait_leaves_no_transaction_open() {
    let scene = Scene::start();
    scene.proxy.delays(Duration::from_millis(30));
    let body = json!({"timeout_ms": 1}).to_string();
    let patch = format!(
        "PATCH /api/v1/services/{} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\
         content-type: application/json\r\n\r\n{body}",
        scene.id,
        body.len()
    );
    for patience in 1..=40 {
        let mut client = TcpStream::connect(scene.server.http).expect("the server listens");
        client.write_all(patch.as_bytes()).expect("the server reads");
        let patience = Duration::from_millis(5 * patience);
        client.set_read_timeout(Some(patience)).expect("a socket can be set up");
        let _ = client.read(&mut [0]);
    }
    scene.proxy.delays(Duration::ZERO);
    scene.is_well();
    for words in ["already a transaction in progress", "transaction is aborted"] {
        assert_eq!(scene.server.log_line(&[words]), None);
    }
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
               AND state LIKE 'idle in transaction%' AND state_change < now() - INTERVAL '1 s'";
    let open = scene.postgres.psql(&scene.database, sql);
    assert_eq!(open.trim(), "0");
}

/// Somebody who has a SQLite file for himself.
struct Holder(Child);

impl Holder {
    fn of(file: &str) -> Holder {
        let script = "import sqlite3, sys\n\
                      connection = sqlite3.connect(sys.argv[1], isolation_level=None)\n\
                      connection.execute('BEGIN IMMEDIATE')\n\
                      print('held', flush=True)\n\
                      sys.stdin.read()\n\
                      connection.execute('COMMIT')\n";
        let mut python = Command::new("python3");
        python.args(["-c", script, file]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = python.spawn().expect("Python can be run");
        let mut line = [0; 5];
        let out = child.stdout.as_mut().expect("it is a pipe");
        std::io::Read::read_exact(out, &mut line).expect("it says that it has it");
        Holder(child)
    }

    fn lets_go(mut self) {
        drop(self.0.stdin.take());
        let status = self.0.wait().expect("one may wait for one's own child");
        assert!(status.success());
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn sqlite_is_locked_by_somebody_else() {
    let folder = tempfile::tempdir().expect("a folder for temporary files can be made");
    let file = folder.path().join("deltaplane.db");
    let file = file.to_str().expect("it is text");
    let server = Deltaplane::start(&format!("sqlite://{file}"));
    let (a, b, shop) = (Upstream::start("a"), Upstream::start("b"), Listener::reserve());
    let id = server.create(&service::http("shop", &shop, &a));
    let _envoy = Envoy::start(&server.bootstrap("envoy-1", "cluster-1", Variant::Delta));
    shop.reaches("/", &a);

    let path = format!("/api/v1/services/{id}");
    let patch = json!({"upstream_port": b.port()}).to_string();
    let holder = Holder::of(file);
    let start = Instant::now();
    thread::scope(|scope| {
        let write = || server.ask("PATCH", &path, Some(&patch));
        let writers: Vec<_> = (0..12).map(|_| scope.spawn(write)).collect();
        let mut reads = 0;
        while !writers.iter().all(|writer| writer.is_finished()) {
            reads += 1;
            let read = server.ask("GET", &path, None);
            assert_eq!(read.status, 200, "{}", read.body);
            assert_eq!(read.json()["upstream_port"], a.port());
            assert_eq!(server.ask("GET", "/readyz", None).status, 200, "it can be read");
        }
        assert!(reads > 10, "reading does not wait for those who write: {reads}");
        for writer in writers {
            let answer = writer.join().expect("it does not panic");
            assert_eq!(answer.status, 503, "{}", answer.body);
        }
    });
    assert!(start.elapsed() < Duration::from_secs(12), "{:?}", start.elapsed());
    assert!(!is_writable(&server));
    shop.reaches("/", &a);
    holder.lets_go();
    can_be_written(&server);
    server.patch(id, &json!({"upstream_port": b.port()}));
    shop.moves("/", &a, &b);
}
