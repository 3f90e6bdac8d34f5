//! A server that starts while its database is down serves what it kept of it, and says so.

#![allow(missing_docs, clippy::expect_used)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use deltaplane_tests::envoy::certificate::Certificate;
use deltaplane_tests::member::{Member, cluster, put, transact, web};
use deltaplane_tests::{
    Database, Deltaplane, Disk, Envoy, Follower, Kind, Listener, Postgres, Upstream, Variant, http,
    port, server, service, wait_until,
};
use serde_json::{Value, json};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(20);

/// A database that is away.
const NOWHERE: &str = "postgres://nobody@127.0.0.1:1/none";

/// A file for what is kept, and the folder that it is in, if that is its own.
struct Place {
    file: PathBuf,
    _folder: Option<TempDir>,
}

impl Place {
    fn new() -> Place {
        let folder = tempfile::tempdir().expect("a folder for temporary files can be made");
        Place { file: folder.path().join("kept"), _folder: Some(folder) }
    }

    fn at(folder: &Path) -> Place {
        Place { file: folder.join("kept"), _folder: None }
    }

    fn file(&self) -> &Path {
        &self.file
    }

    fn flags(&self) -> [String; 2] {
        ["--last-known-good".to_owned(), self.file().to_string_lossy().into_owned()]
    }

    /// Waits until what is stored is kept.
    fn keeps(&self, server: &Deltaplane) {
        let newest = server.ask("GET", "/api/v1/revisions?limit=1", None).json();
        let revision = newest[0]["revision"].clone();
        wait_until("it is kept", PATIENCE, || {
            let kept = fs::read_to_string(self.file()).ok()?;
            let body: Value = serde_json::from_str(kept.lines().nth(1)?).ok()?;
            (body["revision"] == revision).then_some(())
        });
    }
}

fn updates(envoy: &Envoy) -> [u64; 2] {
    ["cluster_manager.cds.update_success", "listener_manager.lds.update_success"]
        .map(|name| envoy.stat(name))
}

fn connected(envoy: &Envoy, state: u64) {
    wait_until("Envoy notices", PATIENCE, || {
        (envoy.stat("control_plane.connected_state") == state).then_some(())
    });
}

#[test]
fn it_starts_without_its_database_and_catches_up() {
    let (mut postgres, place) = (Postgres::start(), Place::new());
    let database = postgres.create_database();
    let flags = place.flags();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let mut server = Deltaplane::start_with(&postgres.url(&database), &flags);
    let (a, b, shop) = (Upstream::start("a"), Upstream::start("b"), Listener::reserve());
    let id = server.create(&service::http("shop", &shop, &a));
    let shown = Certificate::make("shop.test");
    let pair = json!({"certificate": shown.pem(), "key": shown.key()}).to_string();
    assert_eq!(server.ask("PUT", "/api/v1/certificates/shop", Some(&pair)).status, 201);
    let raw = json!({"scope": "cluster-1", "label": "extra", "upserts": [{"resource": {
        "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster", "name": "extra",
        "connect_timeout": "1s"}}]});
    let stored = server.ask("POST", "/api/v1/xds/transactions", Some(&raw.to_string()));
    assert_eq!(stored.status, 200, "{}", stored.body);
    let envoy = Envoy::start(&server.bootstrap("envoy-1", "cluster-1", Variant::Delta));
    shop.reaches("/", &a);
    wait_until("it has both clusters", PATIENCE, || (envoy.clusters().len() == 2).then_some(()));
    place.keeps(&server);
    let mode = fs::metadata(place.file()).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let kept = fs::read_to_string(place.file()).expect("it is text");
    assert!(!kept.contains("PRIVATE KEY") && !kept.contains(&shown.key()[40..80]));

    // Without the database it serves what it had, and says that it does.
    let before = updates(&envoy);
    server.stop();
    postgres.stop();
    connected(&envoy, 0);
    server.resume();
    connected(&envoy, 1);
    assert!(server.log_line(&["WARN", "last known good"]).is_some(), "{}", server.log());
    let ready = server.ask("GET", "/readyz", None);
    let errors = ready.json()["errors"].clone();
    assert_eq!((ready.status, &errors[0]["field"]), (503, &json!("database")), "{errors}");
    assert_eq!(errors[1]["field"], "last_known_good", "{errors}");
    let for_envoys = server.ask("GET", "/readyz?for=envoys", None);
    assert_eq!(for_envoys.status, 200, "{}", for_envoys.body);
    let health = server.ask("GET", "/healthz", None).json();
    assert_eq!((&health["status"], &health["last_known_good"]), (&json!("degraded"), &json!(true)));
    let metrics = server.ask("GET", "/metrics", None).body;
    assert!(metrics.contains("deltaplane_last_known_good_served 1"), "{metrics}");
    let late = Envoy::start(&server.bootstrap("envoy-2", "cluster-1", Variant::Sotw));
    wait_until("one that comes now is served", PATIENCE, || {
        (late.clusters().len() == 2 && late.listeners().len() == 1).then_some(())
    });
    drop(late);

    // It catches up, and what is as it was is not sent again.
    postgres.resume();
    let port = b.port();
    postgres
        .psql(&database, &format!("UPDATE services SET upstream_port = {port} WHERE id = {id}"));
    shop.moves_within("/", &a, &b, PATIENCE);
    wait_until("it is ready", PATIENCE, || {
        (server.ask("GET", "/readyz", None).status == 200).then_some(())
    });
    assert_eq!(updates(&envoy), before);
    server.patch(id, &json!({"upstream_port": a.port()}));
    shop.moves("/", &b, &a);
    let health = server.ask("GET", "/healthz", None).json();
    assert_eq!(health["last_known_good"], false);
    place.keeps(&server);
}

/// Waits until the fleet `shared` is not served what its canary rejected, but what it has since a revision.
fn is_withdrawn(server: &Deltaplane, has: &Value) {
    wait_until("it is withdrawn", PATIENCE, || {
        let rollout = server.ask("GET", "/api/v1/fleets/shared/rollout", None).json();
        (rollout["stage"] == "withdrawn").then_some(())
    });
    let behind = server.ask("GET", "/xds/stats", None).json()["behind"].clone();
    assert_eq!(behind, json!([{"fleet": "shared", "scopes": ["shared"], "revision": has}]));
}

#[test]
fn what_a_canary_rejected_is_neither_kept_nor_forgotten() {
    let (mut postgres, place) = (Postgres::start(), Place::new());
    let database = postgres.create_database();
    let flags = place.flags();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let mut server = Deltaplane::start_with(&postgres.url(&database), &flags);
    let (a, b) = (Upstream::start("a"), Upstream::start("b"));
    let canary = json!({"canary": {"nodes": {"id": "canary-*"}}});
    put(&server, "shared", &json!({"validation": "none", "rollout": canary}));
    transact(&server, &json!({"scope": "shared", "upserts": [web(&a)]}));
    let first = Member::join(&server, "canary-1", Variant::Delta);
    let other = Member::join(&server, "node-1", Variant::Delta);
    for member in [&first, &other] {
        member.port.reaches("/", &a);
    }
    let has = wait_until("nobody is behind", PATIENCE, || {
        let health = server.ask("GET", "/healthz", None).json();
        (health["behind"] == 0).then(|| health["revision"].clone())
    });
    place.keeps(&server);
    let bad = json!([web(&b), cluster("bad", "EDS")]);
    transact(&server, &json!({"scope": "shared", "upserts": bad}));
    is_withdrawn(&server, &has);

    // What others are served is kept meanwhile.
    transact(&server, &json!({"scope": "node-1", "upserts": [cluster("beside", "STATIC")]}));
    place.keeps(&server);
    server.stop();
    postgres.stop();
    server.resume();
    for member in [&first, &other] {
        connected(&member.envoy, 1);
    }
    let clusters = BTreeMap::from([("web".to_owned(), 1000), ("beside".to_owned(), 1000)]);
    let late = Follower::start(vec![server.xds], "node-1", "shop", Variant::Delta);
    late.runs(&clusters);

    // When the database is back, the canary is asked again, and nobody else.
    postgres.resume();
    wait_until("it is ready", PATIENCE, || {
        (server.ask("GET", "/readyz", None).status == 200).then_some(())
    });
    is_withdrawn(&server, &has);
    late.runs(&clusters);
    assert_eq!((late.times("bad"), late.times("web")), (0, 1));
    other.port.reaches("/", &a);
    assert_eq!(other.rejections(), 0);
    assert!(!other.envoy.config_dump().contains("\"bad\""), "it was never told");
    assert!(first.rejections() >= 2);
}

#[test]
fn it_stays_as_it_is_while_its_disk_is_full() {
    let (database, disk) = (Database::create(Kind::Sqlite), Disk::of_megabytes(1));
    let place = Place::at(disk.path());
    let flags = place.flags();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let server = Deltaplane::start_with(&database.url(), &flags);
    let (upstream, shop) = (Upstream::start("a"), Listener::reserve());
    let id = server.create(&service::http("shop", &shop, &upstream));
    place.keeps(&server);
    let kept = fs::read(place.file()).expect("it was written");
    let is_failing = || server.metric("deltaplane_last_known_good_failing");
    assert_eq!(is_failing(), 0.0);

    disk.fill();
    server.patch(id, &json!({"retries": 1}));
    wait_until("it is told", PATIENCE, || (is_failing() == 1.0).then_some(()));
    let health = server.ask("GET", "/healthz", None).json();
    assert_eq!((&health["status"], &health["database"]), (&json!("degraded"), &json!("ok")));
    assert!(health["keeping"].to_string().contains("No space left"), "{health}");
    assert_eq!(server.ask("GET", "/readyz", None).status, 200);
    assert_eq!(fs::read(place.file()).expect("it is there"), kept);
    let files = fs::read_dir(disk.path()).expect("it is a folder").count();
    assert_eq!(files, 2, "no half of a file is left");

    disk.free();
    place.keeps(&server);
    wait_until("it is over", PATIENCE, || (is_failing() == 0.0).then_some(()));
    assert_eq!(server.ask("GET", "/healthz", None).json()["keeping"], "ok");
}

/// A server that kept what it had, and ended.
fn ended() -> (Database, Place, Deltaplane) {
    let (database, place) = (Database::create(Kind::Sqlite), Place::new());
    let flags = place.flags();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let mut server = Deltaplane::start_with(&database.url(), &flags);
    let (upstream, shop) = (Upstream::start("a"), Listener::reserve());
    server.create(&service::http("shop", &shop, &upstream));
    place.keeps(&server);
    server.stop();
    (database, place, server)
}

#[test]
fn what_is_not_as_it_was_written_is_refused() {
    let (_database, place, mut server) = ended();
    let flags = place.flags();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let kept = fs::read(place.file()).expect("it was written");

    let mut flipped = kept.clone();
    let last = flipped.len() - 2;
    flipped[last] ^= 1;
    let another = [b"deltaplane last known good 2", &kept[28..]].concat();
    let bad = [&flipped[..], &kept[..kept.len() / 2], b"", b"nonsense\n", &another];
    for bad in bad {
        fs::write(place.file(), bad).expect("a file can be written to");
        let said = server::refusal_with(NOWHERE, &flags);
        assert!(said.contains("is not used") && said.contains("--database-url"), "{said}");
        assert!(!said.contains("panicked"), "{said}");
    }
    // While the database is well, nobody needs it; and the next good one takes its place.
    server.resume();
    place.keeps(&server);
    drop(server);
    fs::remove_file(place.file()).expect("it is there");
    assert!(server::refusal_with(NOWHERE, &flags).contains("--database-url"));
}

/// It stands in for a database that is away, and not for one that is there and for another version.
#[test]
fn tables_of_another_version_are_no_reason_to_start_from_it() {
    let (database, place, _server) = ended();
    let flags = place.flags();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();

    let columns = "description, installed_on, success, checksum, execution_time";
    let newer = format!(
        "INSERT INTO deltaplane_migrations (version, {columns}) \
         SELECT 1000, {columns} FROM deltaplane_migrations WHERE version = 1"
    );
    let other = "UPDATE deltaplane_migrations SET checksum = X'00' WHERE version = 1";
    for (sql, why) in [(newer.as_str(), "made by a newer deltaplane"), (other, "another version")] {
        database.execute(sql);
        let said = server::refusal_with(&database.url(), &flags);
        assert!(said.contains(why) && !said.contains("last known good"), "{said}");
        database.execute("DELETE FROM deltaplane_migrations WHERE version = 1000");
    }
    // The file is as good as before.
    let away = Deltaplane::start_with(NOWHERE, &flags);
    assert!(away.log_line(&["WARN", "last known good"]).is_some(), "{}", away.log());
}

/// Who has tokens is the database's to say, so that nobody gets at the metrics of the API, which are to tell that it
/// is away.
#[test]
fn metrics_need_no_token_where_nothing_else_is() {
    let (_database, place, _server) = ended();
    let flags = place.flags();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();

    let own = format!("127.0.0.1:{}", port::reserve());
    let more = ["--http-tokens", "always", "--metrics-listen", &own];
    let mut server = Deltaplane::start_with(NOWHERE, &[&flags[..], &more].concat());
    assert!(server.log_line(&[" serving ", &format!("metrics={own}")]).is_some());
    let of_api = format!("http://{}/metrics", server.http);
    let token = [("authorization", "Bearer dpt_of_whom_nobody_knows")];
    for (headers, status) in [(&[][..], 401), (&token, 503)] {
        let answer = http::get_with(&of_api, headers).expect("it answers");
        assert_eq!(answer.status, status, "{}", answer.body);
    }
    let ask = |method: &str, path: &str| {
        let answer = http::request(method, &format!("http://{own}{path}"), None);
        answer.expect("it answers")
    };
    let metrics = ask("GET", "/metrics");
    assert_eq!(metrics.status, 200, "{}", metrics.body);
    assert!(metrics.body.contains("\ndeltaplane_database_up 0\n"), "{}", metrics.body);
    let asked = [
        ("GET", "/healthz", 200),
        ("GET", "/readyz", 503),
        ("GET", "/readyz?for=envoys", 200),
        ("POST", "/metrics", 405),
        ("GET", "/api/v1/services/", 404),
        ("GET", "/xds/stats", 404),
        ("GET", "/openapi.json", 404),
        ("POST", "/v3/discovery:clusters", 404),
    ];
    for (method, path, status) in asked {
        let answer = ask(method, path);
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.body);
    }
    // A page whose name was pointed here is told no more than by the API.
    let led = [("host", "page.test")];
    let answer = http::get_with(&format!("http://{own}/metrics"), &led).expect("it answers");
    assert_eq!(answer.status, 403, "{}", answer.body);

    server.stop();
    assert!(http::get(&format!("http://{own}/healthz")).is_err(), "it ends with the server");
}
