//! Who wrote what by the HTTP API, and with which result.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sqlx::any::AnyRow;
use sqlx::{Any, AssertSqlSafe, Row as _, Transaction};
use utoipa::{IntoParams, ToSchema};

use crate::database::store::{Store, StoreError, within};
use crate::database::{BULK_PATIENCE, PATIENCE};
use crate::moment::{self, now_in};

/// The most entries that are shown at once.
pub const LIMIT_MAX: i64 = 1000;

/// How many are shown if nobody says.
const LIMIT: i64 = 100;

/// How often what is too old goes.
const PRUNE: Duration = Duration::from_secs(600);

/// A write, or one that was refused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = AuditEntry)]
#[non_exhaustive]
pub struct Entry {
    /// Later ones have higher ones.
    pub id: i64,
    /// When it came.
    pub at: String,
    /// The name of the token; nothing, where none is wanted.
    pub caller: Option<String>,
    /// Where it came from.
    pub peer: Option<String>,
    /// What was asked.
    pub method: String,
    /// Of what.
    pub path: String,
    /// Which fleets it concerned.
    pub fleets: Vec<String>,
    /// The status of the answer; nothing, if who asked did not wait for it, or the server ended before.
    pub status: Option<i64>,
    /// The revision that it made.
    pub revision: Option<i64>,
}

impl Entry {
    /// What somebody did who needs no token, since he has the database.
    pub(crate) fn of_command(command: &str, name: &str) -> Entry {
        Entry {
            caller: Some("the command line".to_owned()),
            method: command.to_owned(),
            path: name.to_owned(),
            status: Some(200),
            ..Entry::default()
        }
    }
}

/// Which entries.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Wanted {
    /// Those of the token of this name.
    #[param(nullable = false)]
    pub caller: Option<String>,
    /// Those with a lower id than this: what is on the next page.
    #[param(nullable = false)]
    pub before: Option<i64>,
    /// So many, 100 unless it is said.
    #[param(nullable = false, minimum = 1, maximum = 1000)]
    pub limit: Option<i64>,
}

/// Writes an entry down, and returns its id.
pub(crate) async fn record(
    tx: &mut Transaction<'_, Any>,
    entry: &Entry,
) -> Result<i64, sqlx::Error> {
    let now = now_in(tx);
    let sql = format!(
        "INSERT INTO audit (at, caller, peer, method, path, status) \
         VALUES ({now}, $1, $2, $3, $4, $5) RETURNING id"
    );
    let query = sqlx::query_scalar(AssertSqlSafe(sql)).bind(entry.caller.clone());
    let query = query.bind(entry.peer.clone()).bind(entry.method.clone());
    query.bind(entry.path.clone()).bind(entry.status).fetch_one(&mut **tx).await
}

impl Store {
    /// Writes down what somebody is about to do: so there is an entry whatever becomes of it.
    pub(crate) async fn begin_deed(&self, entry: &Entry) -> Result<i64, StoreError> {
        within(PATIENCE, async {
            let _turn = self.turn().await?;
            let mut tx = self.pool.begin().await?;
            let id = record(&mut tx, entry).await?;
            tx.commit().await?;
            Ok(id)
        })
        .await
    }

    /// Writes down what became of it.
    pub(crate) async fn end_deed(&self, entry: &Entry) -> Result<(), StoreError> {
        let sql = "UPDATE audit SET fleets = $1, status = $2, revision = $3 WHERE id = $4";
        let fleets = serde_json::json!(entry.fleets).to_string();
        let query = sqlx::query(sql).bind(fleets).bind(entry.status).bind(entry.revision);
        within(PATIENCE, async {
            let _turn = self.turn().await?;
            query.bind(entry.id).execute(&self.pool).await.map(drop)
        })
        .await
    }

    /// Some entries, the newest first.
    pub async fn audit(&self, wanted: &Wanted) -> Result<Vec<Entry>, StoreError> {
        let sql = "SELECT id, at, caller, peer, method, path, fleets, status, revision FROM audit \
                   WHERE id < $1 AND ($2 = '' OR caller = $2) ORDER BY id DESC LIMIT $3";
        let query = sqlx::query(sql).bind(wanted.before.unwrap_or(i64::MAX));
        let query = query.bind(wanted.caller.clone().unwrap_or_default());
        let query = query.bind(wanted.limit.unwrap_or(LIMIT).clamp(1, LIMIT_MAX));
        within(PATIENCE, async { query.fetch_all(&self.pool).await?.iter().map(entry).collect() })
            .await
    }

    /// Removes the entries that are older than this, and says how many there were.
    pub async fn prune_audit(&self, age: Duration) -> Result<u64, StoreError> {
        let age = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
        within(BULK_PATIENCE, async {
            let _turn = self.turn().await?;
            let mut connection = self.pool.acquire().await?;
            let now = now_in(&connection);
            let sql = format!("DELETE FROM audit WHERE at < (SELECT {now} - $1)");
            let query = sqlx::query(AssertSqlSafe(sql)).bind(age);
            query.execute(&mut *connection).await.map(|gone| gone.rows_affected())
        })
        .await
    }
}

/// Keeps entries for this long, for ever.
pub(crate) async fn keep(store: Store, age: Duration) {
    loop {
        match store.prune_audit(age).await {
            Ok(0) => {}
            Ok(entries) => tracing::info!(entries, "the oldest of the audit log are dropped"),
            // There will be a next time.
            Err(error) => tracing::debug!(%error, "the audit log keeps what is too old"),
        }
        tokio::time::sleep(PRUNE).await;
    }
}

fn entry(row: &AnyRow) -> Result<Entry, sqlx::Error> {
    let fleets: String = row.try_get("fleets")?;
    Ok(Entry {
        id: row.try_get("id")?,
        at: moment::of_milliseconds(row.try_get("at")?),
        caller: row.try_get("caller")?,
        peer: row.try_get("peer")?,
        method: row.try_get("method")?,
        path: row.try_get("path")?,
        fleets: serde_json::from_str(&fleets).unwrap_or_default(),
        status: row.try_get("status")?,
        revision: row.try_get("revision")?,
    })
}
