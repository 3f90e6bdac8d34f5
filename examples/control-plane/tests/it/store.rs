use std::time::Duration;

use deltaplane::database::changes::Changes;
use deltaplane::database::store::{Store, WriteError};
use deltaplane::rest::precondition::Precondition;
use deltaplane::service::upstream::Place;
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::postgres::PgListener;
use sqlx::{AssertSqlSafe, Executor, SqlSafeStr};

use crate::database::{DEADLINE, Postgres, Sqlite, connect, execute, open};
use crate::definition;

const INSERT: &str = "INSERT INTO services \
    (name, cluster_id, listener_port, upstream_host, upstream_port, prefix) VALUES";

const ANY: Precondition = Precondition::None;

async fn revision(store: &Store) -> i64 {
    store.snapshot().await.unwrap().revision
}

/// Changed keys after `since`, each with the name of what is there now.
async fn changed(store: &Store, since: i64) -> Vec<(i64, i64, Option<String>)> {
    match store.changes(since).await.unwrap() {
        Changes::Some { changes, .. } => changes
            .into_iter()
            .map(|c| (c.cluster_id, c.id, c.row.map(|row| row.definition.name)))
            .collect(),
        Changes::None => Vec::new(),
        Changes::TooOld => panic!("too old"),
    }
}

fn at(cluster: i64, id: i64, name: &str) -> (i64, i64, Option<String>) {
    (cluster, id, Some(name.to_owned()))
}

/// What both databases do alike.
async fn contract(url: &str) {
    let store = open(url).await;
    assert!(store.list().await.unwrap().is_empty());
    let a = store.create(definition("a", 80, 1)).await.unwrap();
    assert_eq!(store.get(a.id).await.unwrap(), Some(a.clone()));
    assert_eq!(changed(&store, 0).await, [at(1, a.id, "a")]);

    // Many rows in one statement, by somebody else.
    let since = revision(&store).await;
    execute(url, &format!("{INSERT} ('b', 1, 81, 'b', 1, '/'), ('c', 2, 82, 'c', 1, '/')")).await;
    assert_eq!(changed(&store, since).await, [at(1, 2, "b"), at(2, 3, "c")]);

    // One that moves changes the fleet it left as well.
    let since = revision(&store).await;
    execute(url, "UPDATE services SET cluster_id = 3 WHERE name = 'c'").await;
    assert_eq!(changed(&store, since).await, [(2, 3, None), at(3, 3, "c")]);

    // A row knows its last change, whoever made it.
    let moved = store.get(3).await.unwrap().unwrap();
    assert_eq!(moved.revision, revision(&store).await);

    // No row, no revision.
    let since = revision(&store).await;
    execute(url, "UPDATE services SET prefix = '/x' WHERE name = 'nobody'").await;
    execute(url, "DELETE FROM services WHERE name = 'nobody'").await;
    assert_eq!(revision(&store).await, since);
    assert!(matches!(store.changes(since).await.unwrap(), Changes::None));

    // A rolled-back change leaves nothing behind.
    let mut other = connect(url).await;
    let sql = "BEGIN; DELETE FROM services; ROLLBACK";
    other.execute(AssertSqlSafe(sql)).await.unwrap();
    assert_eq!(revision(&store).await, since);

    let moved = store.update(a.id, &ANY, definition("a2", 80, 2)).await.unwrap();
    assert_eq!((moved.id, moved.definition.upstream_port), (a.id, 2));
    store.delete(a.id, &ANY).await.unwrap();
    assert!(matches!(store.delete(a.id, &ANY).await, Err(WriteError::Absent)));
    assert_eq!(changed(&store, since).await, [(1, a.id, None)]);

    // A fleet stays when its last service goes.
    execute(url, "DELETE FROM services").await;
    let snapshot = store.snapshot().await.unwrap();
    assert_eq!((snapshot.clusters, snapshot.rows.len()), (vec![1, 2, 3], 0));

    in_full(&store).await;
    refusals(&store).await;
    old_log(&store, url).await;
    watching(&store, url).await;
}

/// All that a service may say of itself is stored.
async fn in_full(store: &Store) {
    let mut full = definition("full", 443, 1);
    full.upstreams = vec![Place::new("127.0.0.1", 1), Place::new("b.example", 2)];
    full.upstreams[1].weight = 3;
    (full.protocol, full.timeout_ms, full.connect_timeout_ms) = ("https".into(), Some(7), 8);
    (full.retries, full.http2, full.health_check_interval_ms) = (2, true, 900);
    (full.tls_verify, full.tls_sni) = (false, Some("s.example".into()));
    (full.is_active, full.collection) = (false, Some("Läden".into()));
    let stored = store.create(full.clone()).await.unwrap();
    assert_eq!(store.get(stored.id).await.unwrap().unwrap().definition, full);
    (full.upstream_tls, full.websocket, full.http2) = (Some(true), true, false);
    (full.tls_sni, full.timeout_ms, full.is_active) = (None, None, true);
    store.update(stored.id, &ANY, full.clone()).await.unwrap();
    assert_eq!(store.get(stored.id).await.unwrap().unwrap().definition, full);
    store.delete(stored.id, &ANY).await.unwrap();
}

async fn refusals(store: &Store) {
    let a = store.create(definition("a", 80, 1)).await.unwrap();
    let taken = store.create(definition("a", 90, 1)).await;
    assert!(matches!(taken, Err(WriteError::Conflict(e)) if e.field == "name"), "name is taken");
    let same = store.create(definition("b", 80, 1)).await;
    assert!(matches!(same, Err(WriteError::Conflict(e)) if e.message.contains("\"a\"")));
    let mut elsewhere = definition("b", 80, 1);
    elsewhere.cluster_id = 2;
    let b = store.create(elsewhere.clone()).await.unwrap();
    elsewhere.cluster_id = 1;
    assert!(matches!(store.update(b.id, &ANY, elsewhere).await, Err(WriteError::Conflict(_))));
    assert!(matches!(store.update(0, &ANY, a.definition.clone()).await, Err(WriteError::Absent)));
    assert!(matches!(store.update(99, &ANY, a.definition.clone()).await, Err(WriteError::Absent)));
    let bad = store.update(a.id, &ANY, definition("a", 0, 1)).await;
    assert!(matches!(bad, Err(WriteError::Invalid(e)) if e[0].field == "listener_port"));
    let same = store.update(a.id, &ANY, a.definition.clone()).await.unwrap();
    assert_eq!(same.definition, a.definition);
    races(store).await;
}

/// A row's revision is that of its last change, and what it is known by.
async fn races(store: &Store) {
    let row = store.create(definition("raced", 4000, 1)).await.unwrap();
    assert_eq!(row.revision, revision(store).await);
    assert_eq!(store.get(row.id).await.unwrap().unwrap().revision, row.revision);
    let read = Precondition::Revisions(vec![row.revision]);
    let first = store.update(row.id, &read, definition("raced", 4000, 2)).await.unwrap();
    assert!(first.revision > row.revision);
    let second = store.update(row.id, &read, definition("raced", 4000, 3)).await;
    assert!(matches!(second, Err(WriteError::Lost(now)) if now == first.revision));
    let deleted = store.delete(row.id, &read).await;
    assert!(matches!(deleted, Err(WriteError::Lost(now)) if now == first.revision));
    let stored = store.get(row.id).await.unwrap().unwrap();
    assert_eq!(stored.definition.upstream_port, 2);
    store.delete(row.id, &Precondition::Revisions(vec![first.revision])).await.unwrap();
}

/// Whoever is further behind than the log is long is told so, and the log ends.
async fn old_log(store: &Store, url: &str) {
    let since = revision(store).await;
    execute(url, "UPDATE revision SET value = value + 10000").await;
    execute(url, &format!("{INSERT} ('old', 9, 1, 'h', 1, '/')")).await;
    assert!(matches!(store.changes(since).await.unwrap(), Changes::TooOld));
    assert!(matches!(store.changes(since + 1_000_000).await.unwrap(), Changes::TooOld));
    let now = revision(store).await;
    assert_eq!(changed(store, now - 9_999).await.len(), 1);
    let mut other = connect(url).await;
    let sql = "SELECT count(*) FROM changes";
    let count: i64 = sqlx::query_scalar(sql).fetch_one(&mut other).await.unwrap();
    assert_eq!(count, 1, "older entries are gone");
}

async fn watching(store: &Store, url: &str) {
    let mut watch = store.watch().await.unwrap();
    let since = revision(store).await;
    execute(url, "UPDATE services SET upstream_port = 7 WHERE name = 'old'").await;
    let seen = async {
        while changed(store, since).await.is_empty() {
            watch.changed().await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(1), seen).await.expect("seen within a second");
}

#[tokio::test]
async fn sqlite_keeps_the_contract() {
    contract(&Sqlite::new().url()).await;
}

#[tokio::test]
async fn postgres_keeps_the_contract() {
    let postgres = Postgres::start();
    contract(&postgres.url()).await;
    // Opening it once more changes nothing.
    let since = revision(&open(&postgres.url()).await).await;
    assert!(since > 10_000);
}

/// What was stored by a version that knew less is as it was.
async fn grows(url: &str, [services, raw]: [&'static str; 2]) {
    let mut connection = connect(url).await;
    let steps = [(1, "services", services), (2, "raw resources", raw)];
    let step = |(version, name, sql): (i64, &'static str, &'static str)| {
        Migration::new(version, name.into(), MigrationType::Simple, sql.into_sql_str(), false)
    };
    let mut before = Migrator::with_migrations(steps.map(step).to_vec());
    before.dangerous_set_table_name("deltaplane_migrations");
    before.run(&mut connection).await.unwrap();
    execute(url, &format!("{INSERT} ('a', 1, 80, 'h', 1, '/a'), ('b', 2, 80, 'h', 1, '/')")).await;
    execute(url, "DELETE FROM services WHERE name = 'b'").await;
    let sql = "SELECT value FROM revision";
    let counter: i64 = sqlx::query_scalar(sql).fetch_one(&mut connection).await.unwrap();

    let store = open(url).await;
    let rows = store.list().await.unwrap();
    let mut expected = definition("a", 80, 1);
    (expected.upstream_host, expected.prefix) = ("h".into(), "/a".into());
    assert_eq!(rows.iter().map(|row| &row.definition).collect::<Vec<_>>(), [&expected]);
    assert_eq!(rows[0].revision, 1);
    assert_eq!(revision(&store).await, counter, "nothing that clients see changed");
    let next = store.create(definition("c", 90, 1)).await.unwrap();
    assert_eq!((next.id, next.revision), (3, counter + 1), "no id is used twice");
    let since = next.revision;
    execute(url, "UPDATE services SET is_active = false, protocol = 'grpc' WHERE id = 1").await;
    assert_eq!(changed(&store, since).await, [at(1, 1, "a")]);
    assert_eq!(store.get(1).await.unwrap().unwrap().revision, since + 1);
}

#[tokio::test]
async fn sqlite_grows() {
    let steps = [
        include_str!("../../migrations/sqlite/0001_services.sql"),
        include_str!("../../migrations/sqlite/0002_raw_resources.sql"),
    ];
    let sqlite = Sqlite::new();
    std::fs::File::create(sqlite.file()).unwrap();
    grows(&sqlite.url(), steps).await;
}

#[tokio::test]
async fn postgres_grows() {
    let steps = [
        include_str!("../../migrations/postgres/0001_services.sql"),
        include_str!("../../migrations/postgres/0002_raw_resources.sql"),
    ];
    grows(&Postgres::start().url(), steps).await;
}

#[tokio::test]
async fn sqlite_logs_rows_that_a_replace_pushes_out() {
    let sqlite = Sqlite::new();
    let store = open(&sqlite.url()).await;
    execute(&sqlite.url(), &format!("{INSERT} ('a', 1, 1, 'h', 1, '/')")).await;
    let sql = INSERT.replace("INSERT", "INSERT OR REPLACE");
    execute(&sqlite.url(), &format!("{sql} ('a', 2, 1, 'h', 1, '/')")).await;
    execute(&sqlite.url(), &format!("{INSERT} ('b', 3, 1, 'h', 1, '/')")).await;
    assert_eq!(changed(&store, 0).await, [(1, 1, None), at(2, 2, "a"), at(3, 3, "b")]);
    let since = revision(&store).await;
    execute(&sqlite.url(), "UPDATE OR REPLACE services SET name = 'a' WHERE name = 'b'").await;
    assert_eq!(changed(&store, since).await, [(2, 2, None), at(3, 3, "a")]);
}

#[tokio::test]
async fn postgres_logs_a_truncate_and_what_a_stranger_writes() {
    let postgres = Postgres::start();
    let store = open(&postgres.url()).await;
    postgres.psql("CREATE ROLE guest LOGIN; GRANT SELECT, INSERT, UPDATE ON services TO guest");
    let sql = format!("{INSERT} ('a', 1, 1, 'h', 1, '/'), ('b', 2, 1, 'h', 1, '/')");
    execute(&postgres.url_of("guest"), &sql).await;
    assert_eq!(changed(&store, 0).await, [at(1, 1, "a"), at(2, 2, "b")]);
    assert_eq!(revision(&store).await, 1, "one statement, one revision");

    let mut listener = PgListener::connect(&postgres.url()).await.unwrap();
    listener.listen("deltaplane").await.unwrap();
    postgres.psql("TRUNCATE services");
    assert_eq!(changed(&store, 1).await, [(1, 1, None), (2, 2, None)]);
    let mut told = Vec::new();
    while told.len() < 2 {
        let next = tokio::time::timeout(DEADLINE, listener.recv()).await.unwrap().unwrap();
        told.push(next.payload().to_owned());
    }
    told.sort();
    assert_eq!(told, ["cluster-1", "cluster-2"]);
}

/// Who waits for a writer sees its revision and takes the next one; two that
/// want each other's rows wait and do not dead-lock.
#[tokio::test]
async fn postgres_puts_writers_in_order() {
    let postgres = Postgres::start();
    let store = open(&postgres.url()).await;
    postgres.psql(&format!("{INSERT} ('a', 1, 1, 'h', 1, '/'), ('b', 1, 2, 'h', 1, '/')"));
    let mut one = connect(&postgres.url()).await;
    one.execute("BEGIN; UPDATE services SET upstream_port = 2 WHERE name = 'a'").await.unwrap();
    let url = postgres.url();
    let two = tokio::spawn(async move {
        let mut two = connect(&url).await;
        two.execute("BEGIN; UPDATE services SET upstream_port = 3 WHERE name = 'b'").await.unwrap();
        two.execute("UPDATE services SET upstream_port = 3 WHERE name = 'a'; COMMIT")
            .await
            .unwrap();
    });
    let mut observer = connect(&postgres.url()).await;
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
    crate::database::until("the second writer waits", async || {
        let count: i64 = sqlx::query_scalar(waiting).fetch_one(&mut observer).await.unwrap();
        (count == 1).then_some(())
    })
    .await;
    one.execute("UPDATE services SET upstream_port = 2 WHERE name = 'b'; COMMIT").await.unwrap();
    two.await.unwrap();
    let ports = store.list().await.unwrap().into_iter().map(|row| row.definition.upstream_port);
    assert_eq!(ports.collect::<Vec<_>>(), [3, 3]);
    assert_eq!(revision(&store).await, 5);
}
