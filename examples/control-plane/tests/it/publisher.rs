use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::thread;

use axum::Router;
use deltaplane::certificates::vault::Vault;
use deltaplane::fleets::scope;
use deltaplane::publisher::Publisher;
use deltaplane::rest;
use deltaplane::serve::running::Running;
use deltaplane::status::health::Health;
use deltaplane::status::metrics::Metrics;
use deltaplane_server::{Cache, Scope, TypeUrl, View};
use serde_json::json;
use sqlx::Executor as _;
use tokio::runtime::Builder;

use crate::database::{Postgres, Sqlite, connect, execute, open, until};
use crate::rest::{running_with, send};
use crate::{certificates, definition};

/// What secrets are encrypted with here.
const KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A publisher at work, and what it fills.
pub(crate) struct Server {
    pub(crate) cache: Cache,
    pub(crate) health: Health,
    pub(crate) app: Running,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    pub(crate) async fn start(url: &str) -> Server {
        let (mut running, reloads) = running_with(url).await;
        running.vault = Vault::new(KEY).unwrap();
        let publisher = Publisher::start(running.clone(), reloads, ADDRESS).await.unwrap();
        let task = tokio::spawn(publisher.run());
        let (cache, health) = (running.cache.clone(), running.health.clone());
        Server { cache, health, app: running, task }
    }

    /// Its HTTP API.
    pub(crate) fn router(&self) -> Router {
        rest::router(self.app.clone(), Metrics::new().unwrap())
    }

    /// Waits until clients are served what was stored until now.
    pub(crate) async fn is_current(&self) {
        let revision = self.app.store.revision().await.unwrap();
        until("the revision", async || (self.health.status().revision >= revision).then_some(()))
            .await;
    }

    pub(crate) fn has(&self, cluster: i64, type_url: &TypeUrl, name: &str) -> bool {
        self.version(cluster, type_url, name).is_some()
    }

    pub(crate) fn version(&self, cluster: i64, type_url: &TypeUrl, name: &str) -> Option<String> {
        let scopes: Arc<[Scope]> = Arc::from([Scope::from(format!("cluster-{cluster}"))]);
        let resource = self.cache.view(&scopes).get(type_url, name);
        resource.map(|resource| resource.version().to_string())
    }

    /// Whether there is a raw cluster of this name in the scope of fleet 1.
    fn has_raw(&self, name: &str) -> bool {
        self.raw_version(name).is_some()
    }

    fn raw_version(&self, name: &str) -> Option<String> {
        let scopes: Arc<[Scope]> = Arc::from([scope::of_raw("cluster-1")]);
        let resource = self.cache.view(&scopes).get(&TypeUrl::CLUSTER, name);
        resource.map(|resource| resource.version().to_string())
    }

    /// The clusters in a scope that are what they were before they were something else.
    pub(crate) fn went_back(&self, scope: Scope) -> Vec<String> {
        self.have_gone_back(scope, &TypeUrl::CLUSTER)
    }

    fn have_gone_back(&self, scope: Scope, type_url: &TypeUrl) -> Vec<String> {
        let view = self.cache.view(&Arc::from([scope]));
        view.reverted(type_url).iter().map(ToString::to_string).collect()
    }

    /// Waits until so many rows are not valid.
    pub(crate) async fn tells_of_invalid_rows(&self, count: usize) {
        let count = async || (self.health.status().invalid_rows == count).then_some(());
        until("how many rows are not valid", count).await;
    }

    async fn is_at(&self, revision: i64) {
        until("the revision", async || (self.health.status().revision == revision).then_some(()))
            .await;
    }

    fn known(&self, cluster: i64) -> bool {
        self.cache.is_known(&Scope::from(format!("cluster-{cluster}")))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

const INSERT: &str = "INSERT INTO services \
    (name, cluster_id, listener_port, upstream_host, upstream_port, prefix) VALUES";

/// What both databases do alike.
async fn follows(url: &str) {
    let server = Server::start(url).await;
    assert!(!server.known(1));
    let values = (1..=1000).map(|i| format!("('s{i}', 1, {}, '127.0.0.1', 1, '/{i}')", 80 + i % 9));
    let values = values.collect::<Vec<_>>().join(",");
    execute(url, &format!("{INSERT} {values}")).await;
    until("a thousand services", async || server.has(1, &TypeUrl::CLUSTER, "s1000").then_some(()))
        .await;
    assert!(server.known(1) && !server.known(2));

    let before = (server.health.status(), server.cache.revision());
    let version = server.version(1, &TypeUrl::ENDPOINT, "s500");
    execute(url, "UPDATE services SET upstream_port = 2 WHERE name = 's500'").await;
    until("the changed endpoint", async || {
        (server.version(1, &TypeUrl::ENDPOINT, "s500") != version).then_some(())
    })
    .await;
    let after = until("the count", async || {
        let status = server.health.status();
        (status.revision > before.0.revision).then_some(status)
    })
    .await;
    assert_eq!(after.rows_translated - before.0.rows_translated, 1);
    assert_eq!(after.resources_built - before.0.resources_built, 1);
    assert!(server.has(1, &TypeUrl::ENDPOINT, "s500"));

    // Rows that the HTTP API would have refused cost themselves only.
    let sql =
        "('bad', 2, 1, 'a b', 1, '/'), ('twin', 1, 81, 'h', 1, '/1'), ('good', 2, 1, 'h', 1, '/')";
    execute(url, &format!("{INSERT} {sql}")).await;
    until("the good row", async || server.has(2, &TypeUrl::CLUSTER, "good").then_some(())).await;
    assert!(!server.has(2, &TypeUrl::CLUSTER, "bad"));
    drop(server);

    // Changes while nobody looks: deleted, moved, and a fleet emptied.
    let server = {
        execute(url, "DELETE FROM services WHERE cluster_id = 2").await;
        execute(url, "UPDATE services SET cluster_id = 3 WHERE name = 's1'").await;
        Server::start(url).await
    };
    assert!(server.known(2) && !server.has(2, &TypeUrl::CLUSTER, "good"), "empty, not unknown");
    assert!(server.has(3, &TypeUrl::CLUSTER, "s1") && !server.has(1, &TypeUrl::CLUSTER, "s1"));
}

#[tokio::test]
async fn follows_sqlite() {
    follows(&Sqlite::new().url()).await;
}

#[tokio::test]
async fn follows_postgres() {
    follows(&Postgres::start().url()).await;
}

/// What only one of both databases understands.
struct Words {
    /// Bytes that are no message, and a cluster of the name `whole`.
    torn: &'static str,
    whole: &'static str,
    /// From here on a service may have a port that is none.
    unchecked: &'static str,
}

const SQLITE: Words = Words {
    torn: "x'0aff'",
    whole: "x'0a0577686f6c65'",
    unchecked: "PRAGMA ignore_check_constraints = ON",
};

const POSTGRES: Words = Words {
    torn: "'\\x0aff'",
    whole: "'\\x0a0577686f6c65'",
    unchecked: "ALTER TABLE services DROP CONSTRAINT services_listener_port_check",
};

/// What is torn costs itself only: what is beside it is served, and what comes after it.
async fn bears_corrupt_rows(url: &str, words: &Words) {
    let Words { torn, whole, unchecked } = words;
    let cluster = TypeUrl::CLUSTER;
    let server = Server::start(url).await;
    execute(url, &format!("{INSERT} ('before', 1, 80, 'h', 1, '/before')")).await;
    let resources = format!(
        "INSERT INTO raw_resources (scope, type_url, name, value) VALUES \
         ('cluster-1', '{cluster}', 'torn', {torn}), ('cluster-1', '{cluster}', 'whole', {whole}), \
         ('cluster-1', 'x/y', 'strange', {torn})"
    );
    let objects = "INSERT INTO objects (kind, name, definition) VALUES \
        ('fleet', 'odd', '{\"nodes\": 7}'), ('route', 'odd', '{\"listener_port\": \"x\"}'), \
        ('certificate', 'odd', '{\"certificate\": \"none\", \"key\": \"none\"}'), \
        ('nobody knows', 'odd', '{}')";
    let services = format!(
        "{unchecked}; {INSERT} ('no-port', 1, 0, 'h', 1, '/'), ('after', 1, 80, 'h', 1, '/after')"
    );
    for sql in [resources.as_str(), objects, services.as_str()] {
        execute(url, sql).await;
    }
    is_as_it_should_be(&server).await;
    drop(server);
    let server = Server::start(url).await;
    is_as_it_should_be(&server).await;
    what_was_good_is_served_on(url, words, &server).await;
}

async fn is_as_it_should_be(server: &Server) {
    until("what came last", async || server.has(1, &TypeUrl::CLUSTER, "after").then_some(())).await;
    assert!(server.has(1, &TypeUrl::CLUSTER, "before"));
    assert!(!server.has(1, &TypeUrl::CLUSTER, "no-port"));
    assert_eq!((server.has_raw("whole"), server.has_raw("torn")), (true, false));
    assert_eq!(server.health.status().trouble, None);
    // A service, a resource, a fleet, a route and a certificate.
    server.tells_of_invalid_rows(5).await;
    let (_, health) = send(&server.router(), "GET", "/healthz", "").await;
    assert_eq!((&health["status"], &health["invalid_rows"]), (&json!("degraded"), &json!(5)));
    let metrics = Metrics::new().unwrap().text(&server.app).unwrap();
    assert!(metrics.contains("deltaplane_invalid_rows 5\n"), "{metrics}");
}

/// While the row is there that says it no more.
async fn what_was_good_is_served_on(url: &str, words: &Words, server: &Server) {
    let authorities = json!({"authorities": certificates::pair("ca").0});
    let route = json!({"listener_port": 81, "prefix": "/", "targets": [{"service": "before"}]});
    let objects = format!(
        "INSERT INTO objects (kind, name, definition) VALUES ('certificate', 'good', \
         '{authorities}'), ('route', 'good', '{route}'), ('fleet', 'good', '{{\"rank\": 7}}')"
    );
    let ca = "UPDATE services SET protocol = 'https', tls_ca = 'good' WHERE name = 'after'";
    execute(url, &format!("{objects}; {ca}")).await;
    server.is_current().await;
    let good = served(server);
    assert!(good.iter().all(Option::is_some), "{good:?}");

    let corrupt = |torn: &str, whole: &str| {
        format!(
            "UPDATE services SET upstream_host = 'a b' WHERE name = 'before'; \
             UPDATE objects SET definition = '{{\"nodes\": 7}}' WHERE name = 'good'; \
             UPDATE raw_resources SET value = {torn} WHERE name = 'whole'; \
             UPDATE raw_resources SET value = {whole} WHERE name = 'torn'"
        )
    };
    execute(url, &corrupt(words.torn, words.whole)).await;
    server.tells_of_invalid_rows(9).await;
    assert!(server.has_raw("torn"), "it is mended");
    assert_eq!(served(server), good);
    let all = server.app.reloader.reload(None).await.unwrap();
    assert!(all.changes.is_empty(), "{:?}", all.changes);
    server.tells_of_invalid_rows(9).await;
    assert_eq!(served(server), good);
    let anew = served(&Server::start(url).await);
    assert!(anew.iter().all(Option::is_none), "who never saw it cannot serve it: {anew:?}");

    // Whoever is valid goes before it, and who deletes it gets rid of it.
    execute(url, &format!("{INSERT} ('instead', 1, 80, 'h', 1, '/before')")).await;
    until("what is in its place", async || {
        (server.has(1, &TypeUrl::CLUSTER, "instead") && !server.has(1, &TypeUrl::CLUSTER, "before"))
            .then_some(())
    })
    .await;
    let delete = "DELETE FROM services WHERE name = 'before'; \
        DELETE FROM objects WHERE name = 'good'; DELETE FROM raw_resources WHERE name = 'whole'";
    execute(url, delete).await;
    server.tells_of_invalid_rows(4).await;
    let gone = served(server);
    assert!(gone.iter().all(Option::is_none), "{gone:?}");
}

/// The versions of what comes of the rows that were good; of a fleet, that it is there.
fn served(server: &Server) -> Vec<Option<String>> {
    let of = |type_url: &TypeUrl, name| server.version(1, type_url, name);
    let fleet = server.app.fleets.fleets().get("good").map(|fleet| fleet.rank.to_string());
    vec![
        of(&TypeUrl::CLUSTER, "before"),
        of(&TypeUrl::ROUTE, "routes-81"),
        of(&TypeUrl::SECRET, "good"),
        server.health.status().certificates.get("good").map(ToString::to_string),
        server.raw_version("whole"),
        fleet,
    ]
}

#[tokio::test]
async fn sqlite_has_corrupt_rows() {
    bears_corrupt_rows(&Sqlite::new().url(), &SQLITE).await;
}

#[tokio::test]
async fn postgres_has_corrupt_rows() {
    bears_corrupt_rows(&Postgres::start().url(), &POSTGRES).await;
}

/// Who began before another and writes after him is seen after him; and who read what is not so any more
/// writes nothing.
async fn bears_old_writers(url: &str, [begin, begin_and_read]: [&'static str; 2]) {
    let server = Server::start(url).await;
    let rows = "('a', 1, 80, '127.0.0.1', 1, '/a'), ('b', 1, 80, '127.0.0.1', 1, '/b')";
    execute(url, &format!("{INSERT} {rows}")).await;
    server.is_current().await;
    let version = |name| server.version(1, &TypeUrl::ENDPOINT, name);
    let before = (version("a"), version("b"));
    let revision = server.health.status().revision;
    let (mut older, mut oldest) = (connect(url).await, connect(url).await);
    older.execute(begin).await.unwrap();
    oldest.execute(begin_and_read).await.unwrap();
    execute(url, "UPDATE services SET upstream_port = 2 WHERE name = 'a'").await;
    server.is_at(revision + 1).await;
    let sql = "UPDATE services SET upstream_port = 3 WHERE name = 'b'";
    assert!(oldest.execute(sql).await.is_err(), "it would not know what it writes over");
    oldest.execute("ROLLBACK").await.unwrap();
    older.execute(sql).await.unwrap();
    assert_eq!(server.app.store.revision().await.unwrap(), revision + 1, "it is not there yet");
    older.execute("COMMIT").await.unwrap();
    server.is_at(revision + 2).await;
    assert!(version("a") != before.0 && version("b") != before.1);
}

#[tokio::test]
async fn an_older_transaction_commits_after_a_newer_one_on_sqlite() {
    let begin = ["BEGIN", "BEGIN; SELECT name FROM services"];
    bears_old_writers(&Sqlite::new().url(), begin).await;
}

#[tokio::test]
async fn an_older_transaction_commits_after_a_newer_one_on_postgres() {
    // It has its number, by which PostgreSQL knows which of two is older.
    let begin = [
        "BEGIN; SELECT txid_current()",
        "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT name FROM services",
    ];
    bears_old_writers(&Postgres::start().url(), begin).await;
}

#[tokio::test]
async fn own_writes_are_published() {
    let sqlite = Sqlite::new();
    let server = Server::start(&sqlite.url()).await;
    let store = open(&sqlite.url()).await;
    store.create(definition("a", 80, 1)).await.unwrap();
    until("the service", async || server.has(1, &TypeUrl::ROUTE, "routes-80").then_some(())).await;
}

#[tokio::test]
async fn outlives_its_postgres() {
    let postgres = Postgres::start();
    let server = Server::start(&postgres.url()).await;
    postgres.psql(&format!("{INSERT} ('a', 1, 80, 'h', 1, '/')"));
    until("the service", async || server.has(1, &TypeUrl::CLUSTER, "a").then_some(())).await;
    let revision = server.cache.revision();
    for round in 0..2 {
        postgres.stop();
        until("trouble", async || server.health.status().trouble).await;
        assert!(server.has(1, &TypeUrl::CLUSTER, "a"), "it is served on");
        postgres.resume();
        until("recovery", async || server.health.status().trouble.is_none().then_some(())).await;
        assert_eq!(server.cache.revision(), revision, "nothing changed, nothing is sent: {round}");
    }
    postgres.psql("DELETE FROM services");
    until("the deletion", async || (!server.has(1, &TypeUrl::CLUSTER, "a")).then_some(())).await;
}

#[tokio::test]
async fn outlives_its_sqlite_file() {
    let sqlite = Sqlite::new();
    let server = Server::start(&sqlite.url()).await;
    execute(&sqlite.url(), &format!("{INSERT} ('a', 1, 80, 'h', 1, '/')")).await;
    until("the service", async || server.has(1, &TypeUrl::CLUSTER, "a").then_some(())).await;
    let aside = sqlite.file().with_extension("aside");
    std::fs::rename(sqlite.file(), &aside).unwrap();
    until("trouble", async || server.health.status().trouble).await;
    assert!(server.has(1, &TypeUrl::CLUSTER, "a"), "it is served on");
    assert!(!sqlite.file().exists(), "no empty database takes its place");
    std::fs::rename(&aside, sqlite.file()).unwrap();
    until("recovery", async || server.health.status().trouble.is_none().then_some(())).await;
    execute(&sqlite.url(), "DELETE FROM services").await;
    until("the deletion", async || (!server.has(1, &TypeUrl::CLUSTER, "a")).then_some(())).await;
}

/// Writes, and meanwhile nothing else is done on this thread, so not by a server of the test either.
fn write_unseen(url: &str, changes: &[String]) {
    thread::scope(|scope| {
        let write = async || {
            for sql in changes {
                execute(url, sql).await;
            }
        };
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        scope.spawn(move || runtime.block_on(write())).join().unwrap();
    });
}

/// Another server may have told clients what was between, and they may come here with that.
async fn is_as_new_as_what_it_read(url: &str) {
    let server = Server::start(url).await;
    let row = "('a', 1, 80, '127.0.0.1', 1, '/a')";
    execute(url, &format!("{INSERT} {row}")).await;
    let value = if url.starts_with("postgres") { r"'\x0a0178'::bytea" } else { "x'0a0178'" };
    let raw = "INSERT INTO raw_resources (scope, type_url, name, value) VALUES";
    execute(url, &format!("{raw} ('cluster-1', '{}', 'x', {value})", TypeUrl::CLUSTER)).await;
    server.is_current().await;
    // Once change by change, and once all anew.
    for gap in [0, 20_000] {
        let before = [scope::of_cluster(1), scope::of_raw("cluster-1")].map(|scope| {
            let view = server.cache.view(&Arc::from([scope]));
            (view.version(&TypeUrl::CLUSTER), view)
        });
        write_unseen(
            url,
            &[
                format!("{INSERT} ('b', 1, 80, '127.0.0.1', 1, '/b')"),
                format!("{raw} ('cluster-1', '{}', 'y', {value})", TypeUrl::CLUSTER),
                format!("UPDATE revision SET value = value + {gap}"),
                "DELETE FROM services WHERE name = 'b'".to_owned(),
                "DELETE FROM raw_resources WHERE name = 'y'".to_owned(),
            ],
        );
        server.is_current().await;
        let revision = server.app.store.revision().await.unwrap().unsigned_abs();
        for (version, before) in before {
            let now = server.cache.view(before.scopes());
            assert_eq!(now.revision(), before.revision(), "nothing changed");
            assert!(version.revision < Some(revision));
            let is_at = now.source_revision(&TypeUrl::CLUSTER);
            assert_eq!(is_at, Some(revision), "{:?} {gap}", now.scopes());
        }
    }
}

#[tokio::test]
async fn sqlite_is_as_new_as_what_it_read() {
    is_as_new_as_what_it_read(&Sqlite::new().url()).await;
}

#[tokio::test]
async fn postgres_is_as_new_as_what_it_read() {
    is_as_new_as_what_it_read(&Postgres::start().url()).await;
}

/// Another server told its clients what was between: one that starts later reads that, and one that is there and sees all
/// of it at once.
async fn knows_what_went_back(url: &str) {
    let there = Server::start(url).await;
    let rows = "('a', 1, 80, '127.0.0.1', 1, '/a'), ('b', 1, 80, '127.0.0.1', 1, '/b'), \
                ('moved', 1, 80, '127.0.0.1', 1, '/m'), ('anew', 1, 81, '127.0.0.1', 1, '/n')";
    execute(url, &format!("{INSERT} {rows}")).await;
    let raw = |name: &str, value: &str| {
        format!(
            "INSERT INTO raw_resources (scope, type_url, name, value) \
             VALUES ('cluster-1', '{}', '{name}', {value})",
            TypeUrl::CLUSTER
        )
    };
    let (one, two) = match url.starts_with("postgres") {
        true => (r"'\x0a0178'::bytea", r"'\x0a017822020801'::bytea"),
        false => ("x'0a0178'", "x'0a017822020801'"),
    };
    let of_y = |value: &str| value.replace("0a0178", "0a0179");
    execute(url, &raw("x", one)).await;
    execute(url, &raw("y", &of_y(one))).await;
    let set = |name: &str, timeout: &str| {
        format!("UPDATE services SET connect_timeout_ms = {timeout} WHERE name = '{name}'")
    };
    there.is_current().await;
    let changes = [
        set("a", "connect_timeout_ms + 1000"),
        set("b", "connect_timeout_ms + 1000"),
        format!("{INSERT} ('c', 1, 80, '127.0.0.1', 1, '/c')"),
        format!("UPDATE raw_resources SET value = {two} WHERE name = 'x'"),
        format!("UPDATE raw_resources SET value = {} WHERE name = 'y'", of_y(two)),
        "UPDATE services SET cluster_id = 2 WHERE name = 'moved'".to_owned(),
        "DELETE FROM services WHERE name = 'anew'".to_owned(),
        format!("{INSERT} ('anew', 1, 81, '127.0.0.1', 1, '/n')"),
        set("a", "connect_timeout_ms - 1000"),
        "DELETE FROM services WHERE name = 'c'".to_owned(),
        format!("UPDATE raw_resources SET value = {one} WHERE name = 'x'"),
        "UPDATE services SET cluster_id = 1 WHERE name = 'moved'".to_owned(),
    ];
    write_unseen(url, &changes);
    there.is_current().await;
    let late = Server::start(url).await;
    for server in [&there, &late] {
        assert_eq!(server.went_back(scope::of_cluster(1)), ["a", "anew", "c", "moved"]);
        let listeners = server.have_gone_back(scope::of_cluster(1), &TypeUrl::LISTENER);
        assert_eq!(listeners, ["listener-81"], "others had the one that they share all the time");
        assert_eq!(server.went_back(scope::of_cluster(2)), ["moved"]);
        assert_eq!(server.went_back(scope::of_raw("cluster-1")), ["x"]);
    }
    // Ten minutes later, nobody is expected any more who was told that.
    execute(url, "UPDATE revisions SET made_ms = made_ms - 600000").await;
    let later = Server::start(url).await;
    assert_eq!(later.went_back(scope::of_cluster(1)), [""; 0]);
}

/// It read only the second of three, and others told their clients the first.
#[tokio::test]
async fn what_goes_back_to_what_was_before_the_start_is_known() {
    let sqlite = Sqlite::new();
    let _first = Server::start(&sqlite.url()).await;
    let set = |timeout: &str| format!("UPDATE services SET connect_timeout_ms = {timeout}");
    let rows = "('a', 1, 80, '127.0.0.1', 1, '/a'), ('b', 1, 80, '127.0.0.1', 1, '/b')";
    execute(&sqlite.url(), &format!("{INSERT} {rows}")).await;
    execute(&sqlite.url(), &set("connect_timeout_ms + 1000")).await;
    let server = Server::start(&sqlite.url()).await;
    assert_eq!(server.went_back(scope::of_cluster(1)), [""; 0]);
    execute(&sqlite.url(), &set("connect_timeout_ms - 1000")).await;
    server.is_current().await;
    assert_eq!(server.went_back(scope::of_cluster(1)), ["a", "b"]);
}

#[tokio::test]
async fn sqlite_knows_what_went_back() {
    knows_what_went_back(&Sqlite::new().url()).await;
}

#[tokio::test]
async fn postgres_knows_what_went_back() {
    knows_what_went_back(&Postgres::start().url()).await;
}
