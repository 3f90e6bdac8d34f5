//! What of the history is dropped, and when.

use std::time::Duration;

use sqlx::{Any, AssertSqlSafe, Transaction};

use crate::database::PATIENCE;
use crate::database::store::{Store, StoreError, within};
use crate::history;
use crate::history::rollback::ms;
use crate::moment::now_in;
use crate::status::health::Health;

/// How many rows are dropped at once: others want to write in between.
const STEP: i64 = 500;

/// How often one looks whether something is to be dropped.
const LOOK: Duration = Duration::from_secs(5);

/// How much of the history is kept; what goes beyond one of these is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_structs)] // whoever makes one says all of it
pub struct Retention {
    /// So many revisions, if there is a bound.
    pub revisions: Option<u64>,
    /// Revisions that are no older, if there is a bound.
    pub age: Option<Duration>,
}

/// Drops what is too much, for ever.
pub async fn run(store: Store, health: Health, retention: Retention) {
    loop {
        match store.drop_history(retention).await {
            Ok(oldest) => tracing::debug!(oldest, "the history is as long as it may be"),
            // The publisher tells of a lost database.
            Err(error) if health.status().trouble.is_some() => {
                tracing::debug!(%error, "nothing of the history is dropped");
            }
            Err(error) => tracing::warn!(%error, "nothing of the history is dropped"),
        }
        tokio::time::sleep(LOOK).await;
    }
}

impl Store {
    /// Drops what of the history is too much, in small steps, and returns the oldest
    /// revision that can be returned to then. The last one always can, and so can for a
    /// while what somebody was told that he can return to.
    ///
    /// # Errors
    /// If the database fails; what was dropped until then stays so.
    pub async fn drop_history(&self, retention: Retention) -> Result<i64, StoreError> {
        loop {
            let (oldest, has_more) = within(PATIENCE, self.drop_revisions(retention)).await?;
            if has_more {
                continue;
            }
            while within(PATIENCE, self.drop_rows(oldest)).await? {}
            return Ok(oldest);
        }
    }

    /// Drops revisions, whose rows nobody asks for from then on.
    async fn drop_revisions(&self, retention: Retention) -> Result<(i64, bool), sqlx::Error> {
        let mut tx = self.begin_read().await?;
        let oldest = history::oldest(&mut tx).await?.unwrap_or_default();
        let is_too_long = oldest < horizon(&mut tx, retention).await?;
        tx.rollback().await?;
        if !is_too_long {
            return Ok((oldest, false));
        }
        // Nobody goes back to one of these just now, nor is promised one.
        let mut write = self.begin_write().await?;
        let horizon = horizon(&mut write, retention).await?;
        let until = horizon.min(oldest + STEP);
        for sql in [
            "DELETE FROM revisions WHERE revision < $1",
            "DELETE FROM deliveries WHERE revision < $1",
        ] {
            sqlx::query(sql).bind(until).execute(&mut **write).await?;
        }
        write.commit().await?;
        Ok((until, until < horizon))
    }

    /// Drops some rows of which there are newer ones at the oldest revision, and those
    /// that say that there is nothing; and says whether there were any.
    async fn drop_rows(&self, oldest: i64) -> Result<bool, sqlx::Error> {
        let sql = "DELETE FROM history WHERE seq IN (SELECT h.seq FROM history h \
                   WHERE h.revision <= $1 AND (EXISTS (SELECT 1 FROM history n \
                       WHERE n.kind = h.kind AND n.place = h.place AND n.type_url = h.type_url \
                       AND substr(n.name, 1, 256) = substr(h.name, 1, 256) AND n.name = h.name \
                       AND n.revision <= $1 AND n.seq > h.seq) \
                   OR (h.content IS NULL AND NOT EXISTS (SELECT 1 FROM history e \
                       WHERE e.kind = h.kind AND e.place = h.place AND e.type_url = h.type_url \
                       AND substr(e.name, 1, 256) = substr(h.name, 1, 256) AND e.name = h.name \
                       AND e.seq < h.seq))) \
                   ORDER BY h.seq LIMIT $2)";
        let query = sqlx::query(sql).bind(oldest).bind(STEP);
        Ok(query.execute(&self.pool).await?.rows_affected() > 0)
    }
}

/// The oldest revision that has to be kept.
async fn horizon(
    tx: &mut Transaction<'static, Any>,
    retention: Retention,
) -> Result<i64, sqlx::Error> {
    let mut oldest = 0;
    if let Some(revisions) = retention.revisions {
        let sql = "SELECT min(revision) FROM \
                   (SELECT revision FROM revisions ORDER BY revision DESC LIMIT $1) AS last";
        let query = sqlx::query_scalar(sql).bind(i64::try_from(revisions).unwrap_or(i64::MAX));
        let found: Option<i64> = query.fetch_one(&mut **tx).await?;
        oldest = oldest.max(found.unwrap_or_default());
    }
    let now = now_in(tx);
    if let Some(age) = retention.age {
        // If all are older, the last one is kept.
        let sql = format!(
            "SELECT coalesce((SELECT min(revision) FROM revisions WHERE made_ms >= (SELECT {now} - $1)), \
             (SELECT max(revision) FROM revisions))"
        );
        let query = sqlx::query_scalar(AssertSqlSafe(sql)).bind(ms(age));
        let found: Option<i64> = query.fetch_one(&mut **tx).await?;
        oldest = oldest.max(found.unwrap_or_default());
    }
    let sql = format!("SELECT min(revision) FROM revisions WHERE kept_until > (SELECT {now})");
    let query = sqlx::query_scalar(AssertSqlSafe(sql));
    let promised: Option<i64> = query.fetch_one(&mut **tx).await?;
    Ok(promised.map_or(oldest, |promised| oldest.min(promised)))
}
