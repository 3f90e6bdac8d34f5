use std::time::Duration;

use deltaplane::changes::Changes;
use deltaplane::store::{Store, WriteError};
use sqlx::postgres::PgListener;
use sqlx::{AssertSqlSafe, Executor};

use crate::database::{DEADLINE, Postgres, Sqlite, connect, execute, open};
use crate::definition;

const INSERT: &str = "INSERT INTO services \
    (name, cluster_id, listener_port, upstream_host, upstream_port, prefix) VALUES";

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

    let moved = store.update(a.id, definition("a2", 80, 2)).await.unwrap();
    assert_eq!((moved.id, moved.definition.upstream_port), (a.id, 2));
    assert!(store.delete(a.id).await.unwrap());
    assert!(!store.delete(a.id).await.unwrap());
    assert_eq!(changed(&store, since).await, [(1, a.id, None)]);

    // A fleet stays when its last service goes.
    execute(url, "DELETE FROM services").await;
    let snapshot = store.snapshot().await.unwrap();
    assert_eq!((snapshot.clusters, snapshot.rows.len()), (vec![1, 2, 3], 0));

    refusals(&store).await;
    old_log(&store, url).await;
    watching(&store, url).await;
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
    assert!(matches!(store.update(b.id, elsewhere).await, Err(WriteError::Conflict(_))));
    assert!(matches!(store.update(0, a.definition.clone()).await, Err(WriteError::Absent)));
    assert!(matches!(store.update(99, a.definition.clone()).await, Err(WriteError::Absent)));
    let bad = store.update(a.id, definition("a", 0, 1)).await;
    assert!(matches!(bad, Err(WriteError::Invalid(e)) if e[0].field == "listener_port"));
    assert_eq!(store.update(a.id, a.definition.clone()).await.unwrap(), a);
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
