//! The rows: reading them, writing them, and what changed since when.
//!
//! One text of SQL serves both databases: `$1` is a placeholder in either, and
//! the triggers hide where they differ.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sqlx::{Any, AnyPool, AssertSqlSafe, Row as _, Transaction};
use thiserror::Error;
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore};
use tokio::task::spawn_blocking;

use crate::certificates::Certificate;
use crate::database::changes::{Changes, Snapshot};
use crate::database::columns::{bind, change, columns, insert, row, rows, update};
use crate::database::objects::{self, Kind as _};
use crate::database::page::{Filter, Page};
use crate::database::watch::Watch;
use crate::database::write::Origin;
use crate::database::{BULK_PATIENCE, Database, Driver, OpenError, PATIENCE, WRITERS};
use crate::delivery;
use crate::history::changed_again;
use crate::raw;
use crate::rest::precondition::Precondition;
use crate::service::upstream::is_pem;
use crate::service::{Definition, FieldError, Row, Service};
use crate::status::metrics;
use crate::translate::validate;

/// The triggers keep the changes of this many revisions.
const LOG_REVISIONS: i64 = 10_000;

/// Why the database did not do what was asked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StoreError {
    /// It failed, or is not there.
    #[error("the database failed: {0}")]
    Database(#[from] sqlx::Error),
    /// It did not answer in time.
    #[error("the database did not answer within {} s", .0.as_secs())]
    Silent(Duration),
}

impl StoreError {
    /// Whether the database has no room left where it stores its data.
    pub(crate) fn is_full(&self) -> bool {
        // What PostgreSQL calls `disk_full`, and SQLite `SQLITE_FULL`.
        self.code().is_some_and(|code| ["53100", "13"].contains(&&*code))
    }

    /// What the database itself calls it.
    fn code(&self) -> Option<Cow<'_, str>> {
        match self {
            StoreError::Database(sqlx::Error::Database(error)) => error.code(),
            _ => None,
        }
    }
}

/// Why a service was not written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The definition is wrong in itself.
    #[error("the service is not valid")]
    Invalid(Vec<FieldError>),
    /// It is in the way of another service.
    #[error("the service conflicts with another one")]
    Conflict(FieldError),
    /// There is no service of this id.
    #[error("there is no such service")]
    Absent,
    /// Somebody else changed it: this is its revision now.
    #[error("the service is at revision {0} by now")]
    Lost(i64),
    /// The database did not do it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for WriteError {
    fn from(error: sqlx::Error) -> WriteError {
        WriteError::Store(StoreError::Database(error))
    }
}

/// The tables of services and, in [`raw::store`], of raw
/// resources. Clones share the connections.
#[derive(Clone, Debug)]
pub struct Store {
    database: Database,
    pub(crate) pool: AnyPool,
    /// Who holds one of these may write.
    pub(crate) writers: Arc<Semaphore>,
    pub(crate) written: Arc<Notify>,
    /// Whether its tables are up to date.
    is_prepared: Arc<AtomicBool>,
    origin: Origin,
    /// What tells this server from others on the same database.
    pub(crate) server: Arc<str>,
}

impl Store {
    /// Connects and brings the tables up to date.
    pub async fn open(database: Database) -> Result<Store, OpenError> {
        database.prepare().await?;
        let store = Store::unprepared(database);
        store.is_prepared.store(true, Ordering::Release);
        Ok(store)
    }

    /// The same for one that cannot be reached yet: nothing is asked of it.
    pub(crate) fn unprepared(database: Database) -> Store {
        let (pool, written) = (database.pool(), Arc::new(Notify::new()));
        let (origin, server) = (Origin::default(), delivery::server().into());
        let (writers, is_prepared) = (Arc::new(Semaphore::new(WRITERS)), Arc::default());
        Store { database, pool, writers, written, origin, is_prepared, server }
    }

    /// Brings the tables up to date, if that was not done yet.
    pub(crate) async fn prepare(&self) -> Result<(), OpenError> {
        if !self.is_prepared.load(Ordering::Acquire) {
            // What sqlx migrates with cannot be moved between threads.
            let (database, runtime) = (self.database.clone(), Handle::current());
            let prepared = spawn_blocking(move || runtime.block_on(database.prepare())).await;
            prepared.unwrap_or_else(|error| Err(self.database.unreachable(&error.to_string())))?;
            self.is_prepared.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// The same store, for what another author writes.
    #[must_use]
    pub fn by(&self, origin: Origin) -> Store {
        Store { origin, ..self.clone() }
    }

    /// Whose writes these are.
    pub(crate) fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Whether other servers may be on the same database.
    pub(crate) fn has_others(&self) -> bool {
        matches!(self.database.driver, Driver::Postgres(_))
    }

    /// How many connections to the database are idle, and how many there are.
    pub(crate) fn connections(&self) -> (u64, u64) {
        (self.pool.num_idle() as u64, self.pool.size().into())
    }

    /// Ends all connections; SQLite then tidies its files up.
    pub async fn close(&self) {
        // One that is busy is no reason to stay: the write it waits for was
        // not confirmed to anybody.
        let _ = tokio::time::timeout(PATIENCE, self.pool.close()).await;
    }

    /// All services, by id.
    pub async fn list(&self) -> Result<Vec<Row>, StoreError> {
        let sql = concat!("SELECT ", columns!(), " FROM services s ORDER BY s.id");
        within(PATIENCE, async { rows(&sqlx::query(sql).fetch_all(&self.pool).await?) }).await
    }

    /// The service of this id.
    pub async fn get(&self, id: i64) -> Result<Option<Row>, StoreError> {
        let sql = concat!("SELECT ", columns!(), " FROM services s WHERE s.id = $1");
        let query = sqlx::query(sql).bind(id);
        within(PATIENCE, async {
            query.fetch_optional(&self.pool).await?.map(|r| row(&r)).transpose()
        })
        .await
    }

    /// Some services, by id.
    pub async fn page(&self, filter: &Filter) -> Result<Page, StoreError> {
        within(PATIENCE, async {
            let mut tx = self.begin_read().await?;
            filter.read(&mut tx).await
        })
        .await
    }

    /// Stores a new service and returns its row.
    pub async fn create(&self, definition: Definition) -> Result<Row, WriteError> {
        self.write(None, &Precondition::None, definition).await
    }

    /// Replaces the whole definition of a service, if the precondition holds.
    pub async fn update(
        &self,
        id: i64,
        precondition: &Precondition,
        definition: Definition,
    ) -> Result<Row, WriteError> {
        self.write(Some(id), precondition, definition).await
    }

    /// Deletes a service, if the precondition holds.
    pub async fn delete(&self, id: i64, precondition: &Precondition) -> Result<(), WriteError> {
        let delete = async {
            let mut tx = self.begin_write().await?;
            if let Err(error) = admitted(&mut tx, id, precondition).await? {
                return Ok(Err(error));
            }
            sqlx::query("DELETE FROM services WHERE id = $1").bind(id).execute(&mut **tx).await?;
            tx.commit().await.map(Ok)
        };
        let _ = within(PATIENCE, delete).await??;
        self.written.notify_one();
        Ok(())
    }

    /// Checks and stores a new definition, or one for the row with this `id`.
    async fn write(
        &self,
        id: Option<i64>,
        precondition: &Precondition,
        definition: Definition,
    ) -> Result<Row, WriteError> {
        // No row has this id, so none is taken for the row itself.
        let mut row = Row { id: id.unwrap_or(-1), revision: 0, definition };
        let parsed = checked(&row).await;
        let write = async {
            let mut tx = self.begin_write().await?;
            if let Some(id) = id
                && let Err(error) = admitted(&mut tx, id, precondition).await?
            {
                return Ok(Err(error));
            }
            let service = match parsed {
                Ok(service) => service,
                Err(errors) => return Ok(Err(WriteError::Invalid(errors))),
            };
            if let Some(conflict) = conflict(&mut tx, &service).await? {
                return Ok(Err(WriteError::Conflict(conflict)));
            }
            if let Some(missing) = missing(&mut tx, &row.definition).await? {
                return Ok(Err(WriteError::Invalid(vec![missing])));
            }
            let sql = match id {
                Some(_) => update(1),
                None => format!("{} RETURNING id", insert(1)),
            };
            let query = sqlx::query(AssertSqlSafe(sql));
            let id: i64 = match id {
                Some(id) => {
                    bind(query.bind(id), &row.definition).execute(&mut **tx).await?;
                    id
                }
                None => bind(query, &row.definition).fetch_one(&mut **tx).await?.try_get(0)?,
            };
            let revision = sqlx::query_scalar("SELECT revision FROM services WHERE id = $1");
            let revision: i64 = revision.bind(id).fetch_one(&mut **tx).await?;
            tx.commit().await?;
            Ok(Ok((id, revision)))
        };
        (row.id, row.revision) = within(PATIENCE, write).await??;
        self.written.notify_one();
        Ok(row)
    }

    /// Everything, at one revision.
    pub async fn snapshot(&self) -> Result<Snapshot, StoreError> {
        within(BULK_PATIENCE, async {
            let mut tx = self.begin_read().await?;
            let revision = revision(&mut tx).await?;
            let sql = "SELECT cluster_id FROM scopes ORDER BY cluster_id";
            let clusters = sqlx::query_scalar(sql).fetch_all(&mut *tx).await?;
            let sql = concat!("SELECT ", columns!(), " FROM services s ORDER BY s.id");
            let rows = rows(&sqlx::query(sql).fetch_all(&mut *tx).await?)?;
            let raw_scopes = raw::store::scopes_since(&mut tx, 0).await?;
            let raw = raw::store::all(&mut tx).await?;
            let objects = objects::all(&mut tx).await?;
            Ok(Snapshot { revision, clusters, rows, raw_scopes, raw, objects })
        })
        .await
    }

    /// What changed after revision `since`: only those rows are read.
    pub async fn changes(&self, since: i64) -> Result<Changes, StoreError> {
        let sql = concat!(
            "SELECT c.cluster_id AS changed_cluster, c.service_id AS changed_id, ",
            columns!(),
            " FROM changes c LEFT JOIN services s \
             ON s.id = c.service_id AND s.cluster_id = c.cluster_id \
             WHERE c.revision > $1 ORDER BY c.cluster_id, c.service_id"
        );
        within(PATIENCE, async {
            let mut tx = self.begin_read().await?;
            let revision = revision(&mut tx).await?;
            if revision == since {
                return Ok(Changes::None);
            }
            // A counter that went back is another database in the same place.
            if revision < since || revision - since >= LOG_REVISIONS {
                return Ok(Changes::TooOld);
            }
            let found = sqlx::query(sql).bind(since).fetch_all(&mut *tx).await?;
            let changes = found.iter().map(change).collect::<Result<_, _>>()?;
            let raw_scopes = raw::store::scopes_since(&mut tx, since).await?;
            let raw = raw::store::since(&mut tx, since).await?;
            let objects = objects::since(&mut tx, since).await?;
            let is_again = revision - since > 1 && changed_again(&mut tx, since, revision).await?;
            Ok(Changes::Some { revision, changes, raw_scopes, raw, objects, is_again })
        })
        .await
    }

    /// The counter.
    pub async fn revision(&self) -> Result<i64, StoreError> {
        within(PATIENCE, async {
            let mut tx = self.begin_read().await?;
            revision(&mut tx).await
        })
        .await
    }

    /// Something that says when to ask for changes. What is written after this
    /// returns will not be missed.
    pub async fn watch(&self) -> Result<Watch, StoreError> {
        within(PATIENCE, Watch::open(&self.database, self.written.clone())).await
    }

    pub(crate) async fn begin_read(&self) -> Result<Transaction<'static, Any>, sqlx::Error> {
        let begin = match self.database.driver {
            // In WAL mode a transaction reads from one snapshot.
            Driver::Sqlite(_) => "BEGIN",
            Driver::Postgres(_) => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
        };
        self.pool.begin_with(begin).await
    }
}

pub(crate) async fn within<T>(
    patience: Duration,
    work: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, StoreError> {
    let start = Instant::now();
    let done = tokio::time::timeout(patience, work).await;
    metrics::database_answered(start.elapsed(), matches!(done, Ok(Ok(_))));
    Ok(done.map_err(|_| StoreError::Silent(patience))??)
}

pub(crate) async fn revision(tx: &mut Transaction<'static, Any>) -> Result<i64, sqlx::Error> {
    let query = sqlx::query_scalar("SELECT value FROM revision");
    query.fetch_one(&mut **tx).await
}

/// Parses a row, and has what it becomes judged by the library.
async fn checked(row: &Row) -> Result<Service, Vec<FieldError>> {
    let service = Service::parse(row)?;
    let judged = service.clone();
    // It takes a processor for a while, at first at least.
    let faults = tokio::task::spawn_blocking(move || validate::service(&judged)).await;
    match faults {
        Ok(faults) if faults.is_empty() => Ok(service),
        Ok(faults) => Err(faults),
        Err(error) => Err(vec![FieldError::new("name", format!("cannot be judged: {error}"))]),
    }
}

/// Whether there is a row of this id that may be written.
async fn admitted(
    tx: &mut Transaction<'static, Any>,
    id: i64,
    precondition: &Precondition,
) -> Result<Result<(), WriteError>, sqlx::Error> {
    let revision = sqlx::query_scalar("SELECT revision FROM services WHERE id = $1");
    let revision: Option<i64> = revision.bind(id).fetch_optional(&mut **tx).await?;
    Ok(match revision {
        None => Err(WriteError::Absent),
        Some(revision) if !precondition.admits(revision) => Err(WriteError::Lost(revision)),
        Some(_) => Ok(()),
    })
}

/// Which stored certificate is named and not there.
pub(crate) async fn missing(
    tx: &mut Transaction<'static, Any>,
    d: &Definition,
) -> Result<Option<FieldError>, sqlx::Error> {
    let stored = d.tls_ca.as_deref().filter(|ca| !is_pem(ca));
    for (field, name) in [("certificate", d.certificate.as_deref()), ("tls_ca", stored)] {
        if let Some(name) = name
            && !objects::exists(tx, Certificate::KIND, name).await?
        {
            let why = format!("there is no certificate {name:?}; store it first");
            return Ok(Some(FieldError::new(field, why)));
        }
    }
    Ok(None)
}

/// What already stands where `service` wants to stand.
pub(crate) async fn conflict(
    tx: &mut Transaction<'static, Any>,
    service: &Service,
) -> Result<Option<FieldError>, sqlx::Error> {
    let sql = concat!(
        "SELECT ",
        columns!(),
        " FROM services s WHERE s.id <> $1 AND (s.name = $2 \
         OR (s.cluster_id = $3 AND s.listener_port = $4)) ORDER BY s.id"
    );
    let query = sqlx::query(sql)
        .bind(service.id)
        .bind(service.name.clone())
        .bind(service.cluster_id)
        .bind(i32::from(service.listener_port));
    for other in rows(&query.fetch_all(&mut **tx).await?)? {
        if other.definition.name == service.name {
            let why = format!(
                "{:?} is the name of the service with id {}; choose another, or PUT to that one",
                service.name, other.id
            );
            return Ok(Some(FieldError::new("name", why)));
        }
        // One that is not served itself is in nobody's way.
        let other = Service::parse(&other).ok();
        if let Some(conflict) = other.and_then(|other| service.conflict(&other)) {
            return Ok(Some(conflict));
        }
    }
    Ok(None)
}
