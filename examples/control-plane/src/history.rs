//! Every revision: who made it, and what it changed.
//!
//! The triggers note how each revision left each row. How a row was at a revision is
//! what the last one up to it noted.

pub mod record;
pub mod retention;
pub mod rollback;

use std::collections::BTreeMap;
use std::time::Duration;

use futures::TryStreamExt as _;
use serde::Deserialize;
use sqlx::any::AnyRow;
use sqlx::{Any, AssertSqlSafe, Row as _, Transaction};
use utoipa::IntoParams;

use crate::database::store::{Store, StoreError, within};
use crate::database::{BULK_PATIENCE, PATIENCE};
use crate::history::record::{Key, Left, RESOURCE, Record};
use crate::history::rollback::{ITSELF, ms};
use crate::moment;

/// How long it counts that something went back to what it was, as the cache counts it.
const LATELY: Duration = Duration::from_secs(600);

/// How much is looked at for that, at most: what a server can do while it starts.
const LATELY_ROWS: i64 = 10_000;

/// The most revisions that are listed at once.
pub const LIMIT_MAX: i64 = 1000;

/// A revision, as it was made.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Made {
    /// The counter.
    pub revision: i64,
    /// When, in milliseconds since 1970.
    pub made_ms: i64,
    /// By whom.
    pub author: String,
    /// What he calls it.
    pub label: Option<String>,
    /// The revision whose state it brought back, if it did.
    pub back_to: Option<i64>,
    /// How many rows it changed.
    pub changes: i64,
}

/// Which revisions.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Wanted {
    /// Those that changed something of this fleet, or scope.
    #[param(nullable = false)]
    pub fleet: Option<String>,
    /// Those of this author.
    #[param(nullable = false)]
    pub author: Option<String>,
    /// Those that are called so.
    #[param(nullable = false)]
    pub label: Option<String>,
    /// Those before this one.
    #[param(nullable = false)]
    pub before: Option<i64>,
    /// The last so many of them.
    #[param(nullable = false, minimum = 1, maximum = 1000)]
    #[serde(default = "usual_limit")]
    #[param(default = 100)]
    pub limit: i64,
}

fn usual_limit() -> i64 {
    100
}

/// Where changes are looked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(clippy::exhaustive_structs)] // whoever makes one says all of it
pub struct Places {
    /// The scopes of raw resources.
    pub resources: Vec<String>,
    /// The scopes of all else.
    pub others: Vec<String>,
}

impl Places {
    /// All that is in some scopes.
    pub(crate) fn of(scopes: Vec<String>) -> Places {
        Places { resources: scopes.clone(), others: scopes }
    }

    /// Whether a row of the history is there, in SQL, where `text` makes a parameter.
    fn condition<'a>(&'a self, text: &mut impl FnMut(&'a String) -> String) -> String {
        let mut of = |kind: &str, scopes: &'a [String]| {
            let mut list: Vec<String> = scopes.iter().map(&mut *text).collect();
            // In no scope is nothing.
            list.push("NULL".to_owned());
            let list = list.join(", ");
            format!(
                "(h.kind {kind} '{RESOURCE}' AND (h.scope IN ({list}) OR h.left_scope IN ({list})))"
            )
        };
        format!("({} OR {})", of("=", &self.resources), of("<>", &self.others))
    }
}

/// Revisions, and how many rows each changed, of those that the condition is true of.
fn select(condition: &str) -> String {
    format!(
        "SELECT r.revision, r.made_ms, r.author, r.label, r.back_to, \
         (SELECT count(*) FROM (SELECT DISTINCT h.kind, h.place, h.type_url, h.name FROM history h \
          WHERE h.revision = r.revision AND {condition}) AS keys) AS changes FROM revisions r"
    )
}

/// All of them.
const ANY: &str = "1 = 1";

impl Store {
    /// Revisions, the newest first; and whether there are more. If there are places, it is
    /// those, and that of those, that changed something there.
    pub async fn revisions(
        &self,
        wanted: &Wanted,
        places: Option<&Places>,
    ) -> Result<(Vec<Made>, bool), StoreError> {
        let mut conditions = Vec::new();
        let mut texts: Vec<&String> = Vec::new();
        let mut place = |text| {
            texts.push(text);
            format!("${}", texts.len())
        };
        let is_there = places.map(|places| places.condition(&mut place));
        conditions.extend(is_there.as_ref().map(|is_there| {
            format!("EXISTS (SELECT 1 FROM history h WHERE h.revision = r.revision AND {is_there})")
        }));
        let texts_wanted = [("r.author", &wanted.author), ("r.label", &wanted.label)];
        for (column, text) in texts_wanted {
            conditions.extend(text.as_ref().map(|text| format!("{column} = {}", place(text))));
        }
        let next = texts.len() + 1;
        conditions.push(format!("r.revision < ${next}"));
        let all = conditions.join(" AND ");
        let limit = next + 1;
        let made_of = select(is_there.as_deref().unwrap_or(ANY));
        let sql = format!("{made_of} WHERE {all} ORDER BY r.revision DESC LIMIT ${limit}");
        let query = texts
            .iter()
            .fold(sqlx::query(AssertSqlSafe(sql)), |query, text| query.bind((*text).clone()));
        let query = query.bind(wanted.before.unwrap_or(i64::MAX)).bind(wanted.limit + 1);
        within(PATIENCE, async {
            let rows = query.fetch_all(&self.pool).await?;
            let mut found = rows.iter().map(made).collect::<Result<Vec<_>, _>>()?;
            let most = usize::try_from(wanted.limit).unwrap_or(usize::MAX);
            let has_more = found.len() > most;
            found.truncate(most);
            Ok((found, has_more))
        })
        .await
    }

    /// A revision and what it changed; nothing, if there is none of this number.
    pub(crate) async fn made(
        &self,
        number: i64,
    ) -> Result<Option<(Made, Vec<Record>)>, StoreError> {
        within(BULK_PATIENCE, async {
            let mut tx = self.begin_read().await?;
            let sql = format!("{} WHERE r.revision = $1", select(ANY));
            let found =
                sqlx::query(AssertSqlSafe(sql)).bind(number).fetch_optional(&mut *tx).await?;
            let Some(found) = found else { return Ok(None) };
            // What was there when the history began was no change.
            let records = match oldest(&mut tx).await? {
                Some(oldest) if oldest < number => between(&mut tx, number - 1, number).await?,
                _ => Vec::new(),
            };
            Ok(Some((made(&found)?, records)))
        })
        .await
    }

    /// Tells how revisions of the last ten minutes left services and raw resources, after one and up to another: first what
    /// those were before, and then in the order in which they changed. Of very many changes, the last ones.
    pub(crate) async fn lately(
        &self,
        after: i64,
        until: i64,
        mut tell: impl FnMut(Left),
    ) -> Result<(), StoreError> {
        within(PATIENCE, async {
            let mut tx = self.begin_read().await?;
            let now = moment::now_in(&tx);
            let sql = format!(
                "SELECT coalesce((SELECT revision FROM revisions \
                 WHERE revision > $1 AND revision <= $2 AND made_ms < {now} - $3 \
                 ORDER BY revision DESC LIMIT 1), $1)"
            );
            let query = sqlx::query_scalar(AssertSqlSafe(sql)).bind(after).bind(until);
            let query = query.bind(ms(LATELY));
            let by_time: i64 = query.fetch_one(&mut *tx).await?;
            let sql = "SELECT coalesce((SELECT revision FROM history \
                       WHERE revision > $1 AND revision <= $2 \
                       ORDER BY seq DESC LIMIT 1 OFFSET $3), $1)";
            let query = sqlx::query_scalar(sql).bind(by_time).bind(until).bind(LATELY_ROWS);
            let since: i64 = query.fetch_one(&mut *tx).await?;
            // The beginning of a name is what PostgreSQL's index knows; and both ends of the revisions are what has
            // SQLite look there first.
            let before = "SELECT w.kind, w.place, w.type_url, w.name, w.scope, w.content, w.value \
                          FROM (SELECT DISTINCT kind, place, type_url, name FROM history \
                                WHERE revision > $1 AND revision <= $2) AS h \
                          JOIN history w ON w.seq = (SELECT max(b.seq) FROM history b \
                              WHERE b.kind = h.kind AND b.place = h.place AND b.type_url = h.type_url \
                              AND substr(b.name, 1, 256) = substr(h.name, 1, 256) AND b.name = h.name \
                              AND b.revision <= $1)";
            let then = "SELECT kind, place, type_url, name, scope, content, value \
                        FROM history WHERE revision > $1 AND revision <= $2 ORDER BY seq";
            for (sql, is_before) in [(before, true), (then, false)] {
                let mut rows = sqlx::query(sql).bind(since).bind(until).fetch(&mut *tx);
                while let Some(row) = rows.try_next().await? {
                    tell(Left::read(&row, is_before)?);
                }
            }
            Ok(())
        })
        .await
    }

    /// The oldest revision that the history has.
    pub async fn oldest_revision(&self) -> Result<i64, StoreError> {
        within(PATIENCE, async {
            let mut tx = self.begin_read().await?;
            Ok(oldest(&mut tx).await?.unwrap_or_default())
        })
        .await
    }
}

type Tx = Transaction<'static, Any>;

pub(crate) async fn oldest(tx: &mut Tx) -> Result<Option<i64>, sqlx::Error> {
    sqlx::query_scalar("SELECT min(revision) FROM revisions").fetch_one(&mut **tx).await
}

pub(crate) async fn exists(tx: &mut Tx, revision: i64) -> Result<bool, sqlx::Error> {
    let sql = "SELECT revision FROM revisions WHERE revision = $1";
    Ok(sqlx::query(sql).bind(revision).fetch_optional(&mut **tx).await?.is_some())
}

/// The rows that differ between two revisions, in the order in which they were changed.
pub(crate) async fn between(tx: &mut Tx, from: i64, to: i64) -> Result<Vec<Record>, sqlx::Error> {
    // The beginning of a name is what PostgreSQL's index knows.
    let sql = "SELECT h.kind, h.place, h.type_url, h.name, h.scope, h.content, h.value, \
               w.scope AS was_scope, w.content AS was_content, w.value AS was_value \
               FROM (SELECT max(seq) AS seq FROM history WHERE revision > $1 AND revision <= $2 \
                     GROUP BY kind, place, type_url, name) AS last \
               JOIN history h ON h.seq = last.seq \
               LEFT JOIN history w ON w.seq = (SELECT max(b.seq) FROM history b \
                   WHERE b.kind = h.kind AND b.place = h.place AND b.type_url = h.type_url \
                   AND substr(b.name, 1, 256) = substr(h.name, 1, 256) AND b.name = h.name \
                   AND b.revision <= $1) \
               ORDER BY h.seq";
    let rows = sqlx::query(sql).bind(from).bind(to).fetch_all(&mut **tx).await?;
    let records = rows.iter().map(Record::read).collect::<Result<Vec<_>, _>>()?;
    Ok(records.into_iter().filter(|record| record.was != record.is).collect())
}

/// The rows that changed after a revision, up to another one; with the revision of the last change, if that was
/// rolled back by itself.
pub(crate) async fn changed(
    tx: &mut Tx,
    after: i64,
    until: i64,
) -> Result<BTreeMap<Key, Option<i64>>, sqlx::Error> {
    let sql = "SELECT h.kind, h.place, h.type_url, h.name, r.revision AS back \
               FROM (SELECT max(seq) AS seq FROM history WHERE revision > $1 AND revision <= $2 \
                     GROUP BY kind, place, type_url, name) AS last \
               JOIN history h ON h.seq = last.seq \
               LEFT JOIN revisions r ON r.revision = h.revision AND r.author = $3 \
                   AND r.back_to IS NOT NULL";
    let query = sqlx::query(sql).bind(after).bind(until).bind(ITSELF.to_owned());
    let rows = query.fetch_all(&mut **tx).await?;
    rows.iter().map(|row| Ok((Key::read(row)?, row.try_get("back")?))).collect()
}

/// Whether something changed more than once after a revision and up to another, or may be there anew.
pub(crate) async fn changed_again(
    tx: &mut Tx,
    after: i64,
    until: i64,
) -> Result<bool, sqlx::Error> {
    let sql = "SELECT count(*) FROM (SELECT 1 FROM history WHERE revision > $1 AND revision <= $2 \
               GROUP BY kind, place, type_url, name \
               HAVING count(*) > 1 OR count(*) > count(content)) AS again";
    let again: i64 = sqlx::query_scalar(sql).bind(after).bind(until).fetch_one(&mut **tx).await?;
    Ok(again > 0)
}

fn made(row: &AnyRow) -> Result<Made, sqlx::Error> {
    Ok(Made {
        revision: row.try_get("revision")?,
        made_ms: row.try_get("made_ms")?,
        author: row.try_get("author")?,
        label: row.try_get("label")?,
        back_to: row.try_get("back_to")?,
        changes: row.try_get("changes")?,
    })
}
