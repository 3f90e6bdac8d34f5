//! What the canary of a fleet says at other servers on the same database.

use sqlx::{AssertSqlSafe, Row as _};

use crate::database::PATIENCE;
use crate::database::store::{Store, StoreError, within};
use crate::history::rollback::ITSELF;
use crate::replicas::IS_THERE;

/// How it stands elsewhere with what changed of a fleet up to a revision.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Word {
    /// There are other servers.
    pub(crate) others: bool,
    /// Nodes that are the canary have it, and are the only ones.
    pub(crate) is_tried: bool,
    /// They accepted it.
    pub(crate) is_accepted: bool,
}

impl Store {
    /// Notes what the canary of a fleet has at this server, while it is the only one.
    pub(crate) async fn note_tried(
        &self,
        fleet: &str,
        revision: Option<i64>,
    ) -> Result<(), StoreError> {
        let sql = "UPDATE rollouts SET tried = $1 WHERE fleet = $2 AND server = $3";
        let query = sqlx::query(sql).bind(revision).bind(fleet.to_owned());
        let query = query.bind(self.server.to_string());
        within(PATIENCE, async { query.execute(&self.pool).await }).await.map(drop)
    }

    /// Notes that the canary of a fleet accepted what is stored, up to a revision.
    pub(crate) async fn note_accepted(&self, fleet: &str, revision: i64) -> Result<(), StoreError> {
        let sql = "INSERT INTO promotions (fleet, revision) VALUES ($1, $2) \
                   ON CONFLICT (fleet) DO UPDATE SET revision = excluded.revision \
                   WHERE promotions.revision < excluded.revision";
        let query = sqlx::query(sql).bind(fleet.to_owned()).bind(revision);
        within(PATIENCE, async { query.execute(&self.pool).await }).await.map(drop)
    }

    /// How it stands elsewhere with what changed of a fleet, which has these scopes, up to a revision.
    pub(crate) async fn word(
        &self,
        fleet: &str,
        scopes: &[String],
        revision: i64,
    ) -> Result<Word, StoreError> {
        if !self.has_others() {
            return Ok(Word::default());
        }
        let list = placeholders(4, scopes);
        let there = format!("server <> $2 AND {IS_THERE}");
        // Whoever read later than this server may have counted what others changed, too.
        let sql = format!(
            "SELECT (SELECT count(*) FROM replicas WHERE {there}) AS others, \
             (SELECT max(tried) FROM rollouts WHERE fleet = $1 \
                 AND server IN (SELECT server FROM replicas WHERE {there})) AS tried, \
             (SELECT revision FROM promotions WHERE fleet = $1) AS accepted, \
             (SELECT max(revision) FROM history WHERE revision <= $3 \
                 AND (scope IS NULL OR scope IN ({list}) OR left_scope IN ({list}))) AS last"
        );
        let query = sqlx::query(AssertSqlSafe(sql)).bind(fleet.to_owned());
        let query = query.bind(self.server.to_string()).bind(revision);
        let query = scopes.iter().fold(query, |query, scope| query.bind(scope.clone()));
        within(PATIENCE, async {
            let row = query.fetch_one(&self.pool).await?;
            let last = row.try_get::<Option<i64>, _>("last")?.unwrap_or(revision);
            let reaches = |column: &str| {
                let reached: Option<i64> = row.try_get(column)?;
                Ok::<_, sqlx::Error>(reached.is_some_and(|reached| reached >= last))
            };
            Ok(Word {
                others: row.try_get::<i64, _>("others")? > 0,
                is_tried: reaches("tried")?,
                is_accepted: reaches("accepted")?,
            })
        })
        .await
    }

    /// The revision at which a fleet, which has these scopes, went back by itself to before a revision.
    pub(crate) async fn taken_back(
        &self,
        scopes: &[String],
        revision: i64,
    ) -> Result<Option<i64>, StoreError> {
        let list = placeholders(3, scopes);
        let sql = format!(
            "SELECT max(r.revision) FROM revisions r JOIN history h ON h.revision = r.revision \
             WHERE r.revision > $1 AND r.back_to < $1 AND r.author = $2 AND h.scope IN ({list})"
        );
        let query = sqlx::query_scalar(AssertSqlSafe(sql)).bind(revision).bind(ITSELF.to_owned());
        let query = scopes.iter().fold(query, |query, scope| query.bind(scope.clone()));
        within(PATIENCE, async { query.fetch_one(&self.pool).await }).await
    }
}

/// So many of them, from a number on.
fn placeholders(first: usize, texts: &[String]) -> String {
    let all: Vec<String> = (first..first + texts.len()).map(|i| format!("${i}")).collect();
    all.join(", ")
}
