//! Raw resources in the database.
//!
//! Many rows go into one statement, so that a large transaction is not a large
//! number of round trips.

use std::collections::HashMap;

use sqlx::any::AnyRow;
use sqlx::{Any, AssertSqlSafe, Row as _, Transaction};
use thiserror::Error;

use crate::database::BULK_PATIENCE;
use crate::database::store::{Store, StoreError, within};
use crate::raw::columns::{SELECT, bind_key, changes, key, places};
use crate::raw::{RawChange, RawKey, RawResource, RawTransaction};

/// How many rows go into one statement: each takes up to five parameters, of
/// which SQLite takes 32,766.
const ROWS: usize = 500;

/// Why a transaction was not stored; nothing of it was.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TransactError {
    /// The versions of these upserts denote other contents already.
    #[error("a version denotes two contents")]
    VersionReused(Vec<usize>),
    /// The database did not do it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A scope of raw resources.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
#[non_exhaustive]
pub struct RawScope {
    /// Its name.
    pub scope: String,
    /// How many resources it has.
    pub resources: i64,
}

impl Store {
    /// Stores all of a transaction or nothing, and returns the revision at
    /// which it is there. What is there already is left as it is.
    pub async fn transact(&self, transaction: &RawTransaction) -> Result<i64, TransactError> {
        let write = async {
            let mut tx = self.begin_batch().await?;
            let stored = stored(&mut tx, transaction).await?;
            let changed = match changed(transaction, &stored) {
                Ok(changed) => changed,
                Err(reused) => return Ok(Err(TransactError::VersionReused(reused))),
            };
            write(&mut tx, transaction, &changed).await?;
            if let Some(label) = &transaction.label {
                tx.call(label);
            }
            tx.commit().await.map(Ok)
        };
        let stored = within(BULK_PATIENCE, write).await??;
        self.written.notify_one();
        Ok(stored)
    }

    /// Removes all raw resources of a scope, which stays known, and returns the
    /// revision at which they are gone; nothing if there is no such scope.
    pub async fn clear_scope(&self, scope: &str) -> Result<Option<i64>, StoreError> {
        let write = async {
            let mut tx = self.begin_batch().await?;
            if !exists(&mut tx, scope).await? {
                return Ok(None);
            }
            let sql = "DELETE FROM raw_resources WHERE scope = $1";
            sqlx::query(sql).bind(scope.to_owned()).execute(&mut **tx).await?;
            tx.commit().await.map(Some)
        };
        let cleared = within(BULK_PATIENCE, write).await?;
        self.written.notify_one();
        Ok(cleared)
    }

    /// Every scope that ever had a transaction, by name.
    pub async fn raw_scopes(&self) -> Result<Vec<RawScope>, StoreError> {
        let sql = "SELECT s.scope, count(r.scope) AS resources FROM raw_scopes s \
                   LEFT JOIN raw_resources r ON r.scope = s.scope GROUP BY s.scope ORDER BY s.scope";
        within(BULK_PATIENCE, async {
            let rows = sqlx::query(sql).fetch_all(&self.pool).await?;
            let scope = |row: &AnyRow| {
                Ok(RawScope { scope: row.try_get("scope")?, resources: row.try_get("resources")? })
            };
            rows.iter().map(scope).collect()
        })
        .await
    }

    /// The raw resources of a scope, of one type or of all, by type and name;
    /// nothing if there is no such scope.
    pub async fn raw_resources(
        &self,
        scope: &str,
        type_url: Option<&str>,
    ) -> Result<Option<Vec<RawChange>>, StoreError> {
        let sql = format!(
            "{SELECT} WHERE c.scope = $1 AND r.scope IS NOT NULL{} ORDER BY c.type_url, c.name",
            if type_url.is_some() { " AND c.type_url = $2" } else { "" }
        );
        within(BULK_PATIENCE, async {
            let mut tx = self.begin_read().await?;
            if !exists(&mut tx, scope).await? {
                return Ok(None);
            }
            let mut query = sqlx::query(AssertSqlSafe(sql)).bind(scope.to_owned());
            if let Some(type_url) = type_url {
                query = query.bind(type_url.to_owned());
            }
            changes(&query.fetch_all(&mut *tx).await?).map(Some)
        })
        .await
    }
}

type Tx = Transaction<'static, Any>;

/// Every resource, the last changed one last.
pub(crate) async fn all(tx: &mut Tx) -> Result<Vec<RawChange>, sqlx::Error> {
    let sql = format!("{SELECT} WHERE r.scope IS NOT NULL ORDER BY c.revision");
    changes(&sqlx::query(AssertSqlSafe(sql)).fetch_all(&mut **tx).await?)
}

/// What changed after a revision, the last change last.
pub(crate) async fn since(tx: &mut Tx, since: i64) -> Result<Vec<RawChange>, sqlx::Error> {
    let sql = format!("{SELECT} WHERE c.revision > $1 ORDER BY c.revision");
    changes(&sqlx::query(AssertSqlSafe(sql)).bind(since).fetch_all(&mut **tx).await?)
}

/// The scopes that became known after a revision.
pub(crate) async fn scopes_since(tx: &mut Tx, since: i64) -> Result<Vec<String>, sqlx::Error> {
    let sql = "SELECT scope FROM raw_scopes WHERE revision > $1 ORDER BY scope";
    sqlx::query_scalar(sql).bind(since).fetch_all(&mut **tx).await
}

async fn exists(tx: &mut Tx, scope: &str) -> Result<bool, sqlx::Error> {
    let sql = "SELECT scope FROM raw_scopes WHERE scope = $1";
    let found = sqlx::query(sql).bind(scope.to_owned()).fetch_optional(&mut **tx).await?;
    Ok(found.is_some())
}

/// The scope is known, everything that is named goes, and what changed comes.
pub(crate) async fn write(
    tx: &mut Tx,
    transaction: &RawTransaction,
    changed: &[&RawResource],
) -> Result<(), sqlx::Error> {
    let sql = "INSERT INTO raw_scopes (scope) SELECT s.scope FROM (SELECT $1 AS scope) s \
               WHERE NOT EXISTS (SELECT 1 FROM raw_scopes known WHERE known.scope = s.scope)";
    sqlx::query(sql).bind(transaction.scope.clone()).execute(&mut **tx).await?;
    let upserted = changed.iter().map(|resource| &resource.key);
    let keys: Vec<&RawKey> = upserted.chain(&transaction.removes).collect();
    for keys in keys.chunks(ROWS) {
        let sql = format!(
            "WITH wanted (type_url, name) AS (VALUES {}) DELETE FROM raw_resources \
             WHERE scope = $1 AND (type_url, substr(name, 1, 256), name) IN \
             (SELECT type_url, substr(name, 1, 256), name FROM wanted)",
            places(2, keys.len(), 2)
        );
        let query = sqlx::query(AssertSqlSafe(sql)).bind(transaction.scope.clone());
        keys.iter().fold(query, |query, key| bind_key(query, key)).execute(&mut **tx).await?;
    }
    for resources in changed.chunks(ROWS) {
        let sql = format!(
            "WITH given (type_url, name, version, value) AS (VALUES {}) \
             INSERT INTO raw_resources (scope, type_url, name, version, value) \
             SELECT $1, type_url, name, version, value FROM given",
            places(2, resources.len(), 4)
        );
        let query = sqlx::query(AssertSqlSafe(sql)).bind(transaction.scope.clone());
        let bind = |query, resource: &&RawResource| {
            let query = bind_key(query, &resource.key).bind(resource.version.clone());
            query.bind(resource.value.to_vec())
        };
        resources.iter().fold(query, bind).execute(&mut **tx).await?;
    }
    Ok(())
}

/// What is stored under the keys of the upserts.
async fn stored(
    tx: &mut Tx,
    transaction: &RawTransaction,
) -> Result<HashMap<RawKey, RawResource>, sqlx::Error> {
    let mut stored = HashMap::new();
    for chunk in transaction.upserts.chunks(ROWS) {
        let sql = format!(
            "WITH wanted (type_url, name) AS (VALUES {}) \
             SELECT r.type_url, r.name, r.version, r.value FROM wanted w JOIN raw_resources r \
             ON r.scope = $1 AND r.type_url = w.type_url \
             AND substr(r.name, 1, 256) = substr(w.name, 1, 256) AND r.name = w.name",
            places(2, chunk.len(), 2)
        );
        let query = sqlx::query(AssertSqlSafe(sql)).bind(transaction.scope.clone());
        let query = chunk.iter().fold(query, |query, resource| bind_key(query, &resource.key));
        for row in query.fetch_all(&mut **tx).await? {
            let (key, value): (_, Vec<u8>) = (key(&row)?, row.try_get("value")?);
            let version = row.try_get("version")?;
            stored.insert(key.clone(), RawResource { key, version, value: value.into() });
        }
    }
    Ok(stored)
}

/// The upserts that change something; or those that give the version of what
/// is stored to another content.
fn changed<'a>(
    transaction: &'a RawTransaction,
    stored: &HashMap<RawKey, RawResource>,
) -> Result<Vec<&'a RawResource>, Vec<usize>> {
    let (mut changed, mut reused) = (Vec::new(), Vec::new());
    for (i, new) in transaction.upserts.iter().enumerate() {
        match stored.get(&new.key).filter(|old| old.version == new.version) {
            // Equal messages may be encoded in several ways.
            Some(old) if old.value == new.value || old.build() == new.build() => {}
            Some(old) if old.version.is_some() => reused.push(i),
            _ => changed.push(new),
        }
    }
    if reused.is_empty() { Ok(changed) } else { Err(reused) }
}
