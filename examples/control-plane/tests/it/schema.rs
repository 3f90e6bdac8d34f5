//! Tables as an earlier version left them, or as a later one has them.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::http::StatusCode;
use deltaplane::database::Database;
use deltaplane::database::store::Store;
use serde_json::json;
use sqlx::migrate::Migrator;
use sqlx::{Executor as _, Row as _};

use crate::database::{Postgres, Sqlite, connect, execute, until};
use crate::rest::{router_of, running, send};

fn migrations(url: &str) -> PathBuf {
    let kind = url.split(':').next().unwrap();
    Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations").join(kind)
}

/// Makes the tables of an empty database as they were after so many steps.
pub(crate) async fn migrate(url: &str, steps: usize) {
    let all = Migrator::new(migrations(url)).await.unwrap();
    let mut then = Migrator::with_migrations(all.iter().take(steps).cloned().collect());
    then.dangerous_set_table_name("deltaplane_migrations");
    then.run(&mut connect(url).await).await.unwrap();
}

/// All numbers of steps after which more follow.
fn earlier(url: &str) -> Range<usize> {
    1..fs::read_dir(migrations(url)).unwrap().count()
}

/// What can be stored after so many steps, beside what could be stored before.
const STORED: [(usize, &str); 4] = [
    (
        1,
        "INSERT INTO services (name, cluster_id, listener_port, upstream_host, upstream_port, domains) \
         VALUES ('shop', 7, 80, 'h', 1, '[\"shop.test\"]')",
    ),
    (
        2,
        "INSERT INTO raw_resources (scope, type_url, name, version, value) \
         VALUES ('cluster-7', 'x/y', 'n', 'v', BYTES)",
    ),
    (
        4,
        "INSERT INTO objects (kind, name, definition) VALUES ('fleet', 'cluster-7', '{\"rank\": 7}')",
    ),
    (7, "INSERT INTO rollouts (fleet, has) VALUES ('cluster-7', 5)"),
];

/// What was stored by an earlier version is there, and can be changed.
async fn is_brought_up_to_date(url: &str, steps: usize, bytes: &str) {
    migrate(url, steps).await;
    let has = |step: usize| step <= steps;
    for (_, sql) in STORED.iter().filter(|(step, _)| has(*step)) {
        execute(url, &sql.replace("BYTES", bytes)).await;
    }
    let router = router_of(running(url).await);
    let get = async |path: &str| {
        let (status, answer) = send(&router, "GET", path, "").await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer
    };
    let shop = get("/api/v1/services/").await[0].clone();
    assert_eq!(shop["name"], "shop");
    assert_eq!(shop["cluster_id"], 7);
    assert_eq!(shop["domains"], json!(["shop.test"]));
    if has(2) {
        let resources = get("/api/v1/xds/scopes/cluster-7/resources").await;
        assert_eq!(resources[0]["version"], "v");
    }
    if has(4) {
        assert_eq!(get("/api/v1/fleets/cluster-7").await["rank"], 7);
    }
    if has(7) {
        let rows = sqlx::query("SELECT has FROM rollouts").fetch_one(&mut connect(url).await).await;
        assert_eq!(rows.unwrap().get::<i64, _>(0), 5);
    }
    let path = format!("/api/v1/services/{}", shop["id"]);
    let (status, patched) =
        send(&router, "PATCH", &path, &json!({"upstream_port": 2}).to_string()).await;
    assert_eq!(status, StatusCode::OK, "{patched}");
    let revisions = get("/api/v1/revisions").await;
    assert_eq!(revisions[0]["revision"], patched["revision"]);
    let before = revisions[1]["revision"].clone();
    let back = format!("/api/v1/rollback/{before}");
    let (status, answer) = send(&router, "POST", &back, "").await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(get(&path).await["upstream_port"], 1);
}

#[tokio::test]
async fn sqlite_of_each_earlier_version_is_brought_up_to_date() {
    for steps in earlier("sqlite:") {
        let sqlite = Sqlite::empty();
        is_brought_up_to_date(&sqlite.url(), steps, "X'0001'").await;
    }
}

#[tokio::test]
async fn postgres_of_each_earlier_version_is_brought_up_to_date() {
    let postgres = Postgres::start();
    for steps in earlier("postgres:") {
        let name = format!("after_{steps}");
        postgres.psql(&format!("CREATE DATABASE {name}"));
        is_brought_up_to_date(&postgres.url_in(&name), steps, r"'\x0001'").await;
    }
}

/// An older server does not guess what newer tables mean.
async fn is_left_alone_when_it_is_newer(url: &str) {
    migrate(url, usize::MAX).await;
    let columns = "description, installed_on, success, checksum, execution_time";
    let newer = format!(
        "INSERT INTO deltaplane_migrations (version, {columns}) \
         SELECT 1000, {columns} FROM deltaplane_migrations WHERE version = 1"
    );
    execute(url, &newer).await;
    is_refused_as_newer(url).await;
}

async fn is_refused_as_newer(url: &str) {
    let error = Store::open(Database::parse(url).unwrap()).await.err().unwrap().to_string();
    assert!(error.contains("were made by a newer deltaplane"), "{error}");
}

#[tokio::test]
async fn newer_tables_are_left_alone() {
    let sqlite = Sqlite::empty();
    is_left_alone_when_it_is_newer(&sqlite.url()).await;
    let postgres = Postgres::start();
    is_left_alone_when_it_is_newer(&postgres.url()).await;
    postgres.psql("ALTER DATABASE postgres SET default_transaction_read_only = on");
    is_refused_as_newer(&postgres.url()).await;
}

/// Rows that are written anew may be many.
#[tokio::test]
async fn a_step_may_take_minutes() {
    let postgres = Postgres::start();
    let url = postgres.url();
    migrate(&url, 1).await;
    let mut holder = connect(&url).await;
    holder.execute("BEGIN").await.unwrap();
    holder.execute("LOCK TABLE services").await.unwrap();
    let minutes = async {
        let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted";
        until("a step waits", async || {
            let waiting = sqlx::query_scalar(waits).fetch_one(&mut holder).await;
            let waiting: i64 = waiting.unwrap();
            (waiting == 1).then_some(())
        })
        .await;
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(5 * 60)).await;
        tokio::time::resume();
        holder.execute("COMMIT").await.unwrap();
    };
    let (opened, ()) = tokio::join!(Store::open(Database::parse(&url).unwrap()), minutes);
    opened.unwrap().close().await;
}
