//! Which database, how to reach it, and making it ours.

pub mod changes;
pub(crate) mod columns;
pub(crate) mod last_known_good;
pub mod objects;
pub mod page;
pub mod reload;
pub(crate) mod sqlite_file;
pub mod store;
pub mod watch;
pub mod write;
pub(crate) mod writes;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::migrate::{Migrate as _, MigrateError, Migration, MigrationType, Migrator};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode};
use sqlx::{
    AnyConnection, AnyPool, AssertSqlSafe, Connection, Executor as _, PgPool, Row as _, SqlSafeStr,
};
use thiserror::Error;

use crate::database::sqlite_file::SqliteFile;

/// How long anything may take that one asks of the database.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// The same for what may be many megabytes.
pub(crate) const BULK_PATIENCE: Duration = Duration::from_secs(30);

/// How many connections there are to it, but for one that hears of changes; and how many of them may write. They wait for
/// each other, or for somebody else who has begun and does not end, while others have to read.
const CONNECTIONS: u32 = 4;
pub(crate) const WRITERS: usize = 2;

/// How long a database may take to be brought up to date. Rows are written anew, and there may be many.
const STEPS_PATIENCE: Duration = Duration::from_secs(10 * 60);

/// Where it stands which steps were taken. It has our own name, so that another program's log is not mistaken for it.
const STEPS: &str = "deltaplane_migrations";

/// How long the other end of a connection may be silent when it is asked whether it is there.
pub(crate) const SILENCE: Duration = Duration::from_secs(2);

/// Why a database cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The URL is not one of a database that we know.
    #[error(
        "cannot read the database URL: {0}; \
         give sqlite://FILE or postgres://USER@HOST/DATABASE with --database-url or DATABASE_URL"
    )]
    Url(String),
    /// Nobody answers, or not to us.
    #[error(
        "cannot open the database {name}: {why}; {advice}, \
         and that --database-url (DATABASE_URL) names it"
    )]
    Connect {
        /// The database without its credentials.
        name: String,
        /// What was in the way.
        why: String,
        /// What to look at.
        advice: &'static str,
    },
    /// Our tables cannot be made there.
    #[error(
        "cannot set up deltaplane's tables in the database {name}: {why}; \
         name a database that is empty or deltaplane's own, as a user who may create tables"
    )]
    Foreign {
        /// The database without its credentials.
        name: String,
        /// What was in the way.
        why: String,
    },
    /// Its tables are beyond what this program knows.
    #[error(
        "the tables of the database {name} were made by a newer deltaplane: they are at step {found} \
         where this one knows {known}; start that version, or name another database"
    )]
    Newer {
        /// The database without its credentials.
        name: String,
        /// The step that made the tables what they are.
        found: i64,
        /// The last one of this program.
        known: i64,
    },
}

#[derive(Clone, Debug)]
pub(crate) enum Driver {
    Sqlite(SqliteConnectOptions),
    Postgres(PgConnectOptions),
}

/// A database by its URL; shown without credentials.
#[derive(Clone)]
pub struct Database {
    pub(crate) driver: Driver,
    any: AnyConnectOptions,
}

impl Database {
    /// Reads a URL; nothing is connected yet.
    pub fn parse(url: &str) -> Result<Database, OpenError> {
        sqlx::any::install_default_drivers();
        let wrong = |error: sqlx::Error| OpenError::Url(error.to_string());
        let driver = match url.split_once(':').map(|(scheme, _)| scheme) {
            Some("sqlite") => Driver::Sqlite(sqlite_options(url)?),
            Some("postgres" | "postgresql") => {
                Driver::Postgres(PgConnectOptions::from_str(url).map_err(wrong)?)
            }
            Some(other) if !other.contains(['/', '@']) => {
                return Err(OpenError::Url(format!("{other:?} is not a known scheme")));
            }
            _ => return Err(OpenError::Url("it has no scheme".to_owned())),
        };
        let any = AnyConnectOptions::from_str(url).map_err(wrong)?;
        Ok(Database { driver, any })
    }

    /// Creates an absent SQLite file, and brings the tables up to date. Where they are, nothing is written: it may be
    /// there to be read only.
    pub(crate) async fn prepare(&self) -> Result<(), OpenError> {
        let migrator = self.migrator();
        let looked = self.within(2 * PATIENCE, self.look(&migrator)).await?;
        let (mut connection, unfinished) = looked;
        if let Some(taken) = unfinished {
            if taken > 0 {
                tracing::info!(
                    database = %self,
                    "the tables are brought up to date, which takes a while where much is stored"
                );
            }
            let steps = async { migrator.run(&mut connection).await.map_err(|e| self.foreign(&e)) };
            self.within(STEPS_PATIENCE, steps).await?;
        }
        let closed = async { connection.close().await.map_err(|e| self.unusable(&e)) };
        self.within(PATIENCE, closed).await
    }

    async fn within<T>(
        &self,
        patience: Duration,
        work: impl Future<Output = Result<T, OpenError>>,
    ) -> Result<T, OpenError> {
        let silent = |_| Err(self.unreachable("it does not answer"));
        tokio::time::timeout(patience, work).await.unwrap_or_else(silent)
    }

    /// A pool that connects, and reconnects, by itself.
    pub(crate) fn pool(&self) -> AnyPool {
        let options = AnyPoolOptions::new().max_connections(CONNECTIONS).acquire_timeout(PATIENCE);
        let options = match &self.driver {
            // One that is half-open is noticed when it is needed, and does not keep its place for ever when
            // it is given back.
            Driver::Postgres(_) => options
                .after_connect(|connection, _| Box::pin(is_not_waited_for(connection)))
                .test_before_acquire(false)
                .before_acquire(|connection, _| Box::pin(is_there(connection)))
                .after_release(|connection, _| Box::pin(is_at_rest(connection))),
            Driver::Sqlite(sqlite) => {
                let file = SqliteFile::of(sqlite);
                // Not to a file that was deleted or replaced: what is written
                // there is lost.
                options.before_acquire(move |_, _| {
                    let in_place = file.is_in_place();
                    Box::pin(async move { Ok(in_place) })
                })
            }
        };
        options.connect_lazy_with(self.any.clone())
    }

    /// Connects, and finds out whether steps are still to be taken: then, how many were.
    async fn look(&self, migrator: &Migrator) -> Result<(AnyConnection, Option<usize>), OpenError> {
        if let Driver::Sqlite(options) = &self.driver {
            let created = SqliteConnection::connect_with(options).await;
            let closed = created.map_err(|e| self.unusable(&e))?.close().await;
            closed.map_err(|e| self.unusable(&e))?;
        }
        // One connection and not the pool, which would retry a refusal.
        let connected = AnyConnection::connect_with(&self.any).await;
        let mut connection = connected.map_err(|e| self.unusable(&e))?;
        let unfinished = self.unfinished(migrator, &mut connection).await;
        Ok((connection, unfinished.map_err(|e| self.foreign(&e))?))
    }

    /// How many steps were taken, if there are more. The migrator itself asks the same, but by a table that it makes if
    /// it is not there, which a database that may only be read refuses even if it is.
    async fn unfinished(
        &self,
        migrator: &Migrator,
        connection: &mut AnyConnection,
    ) -> Result<Option<usize>, MigrateError> {
        let is_there = match self.driver {
            Driver::Sqlite(_) => "SELECT count(*) FROM sqlite_master WHERE name = $1",
            Driver::Postgres(_) => "SELECT count(*) FROM pg_class WHERE oid = to_regclass($1)",
        };
        let is_there = sqlx::query_scalar(is_there).bind(STEPS);
        let is_there: i64 = is_there.fetch_one(&mut *connection).await?;
        if is_there == 0 {
            return Ok(Some(0));
        }
        let taken = connection.list_applied_migrations(STEPS).await?;
        for step in &taken {
            let known = migrator.iter().find(|known| known.version == step.version);
            let known = known.ok_or(MigrateError::VersionMissing(step.version))?;
            if known.checksum != step.checksum {
                return Err(MigrateError::VersionMismatch(step.version));
            }
        }
        Ok(Some(taken.len()).filter(|taken| *taken < migrator.iter().len()))
    }

    /// The steps that make the tables what they are. Servers are replaced one after the other: a step leaves
    /// what the version before reads and writes as that one knows it.
    fn migrator(&self) -> Migrator {
        let sql = match self.driver {
            Driver::Sqlite(_) => [
                include_str!("../migrations/sqlite/0001_services.sql"),
                include_str!("../migrations/sqlite/0002_raw_resources.sql"),
                include_str!("../migrations/sqlite/0003_services_in_full.sql"),
                include_str!("../migrations/sqlite/0004_objects.sql"),
                include_str!("../migrations/sqlite/0005_access.sql"),
                include_str!("../migrations/sqlite/0006_history.sql"),
                include_str!("../migrations/sqlite/0007_rollouts.sql"),
                include_str!("../migrations/sqlite/0008_replicas.sql"),
            ],
            Driver::Postgres(_) => [
                include_str!("../migrations/postgres/0001_services.sql"),
                include_str!("../migrations/postgres/0002_raw_resources.sql"),
                include_str!("../migrations/postgres/0003_services_in_full.sql"),
                include_str!("../migrations/postgres/0004_objects.sql"),
                include_str!("../migrations/postgres/0005_access.sql"),
                include_str!("../migrations/postgres/0006_history.sql"),
                include_str!("../migrations/postgres/0007_rollouts.sql"),
                include_str!("../migrations/postgres/0008_replicas.sql"),
            ],
        };
        let names = [
            "services",
            "raw resources",
            "services in full",
            "objects",
            "access",
            "history",
            "rollouts",
            "replicas",
        ];
        let steps = (1..).zip(names).zip(sql);
        let migration = |((version, name), sql): ((i64, &'static str), &'static str)| {
            Migration::new(version, name.into(), MigrationType::Simple, sql.into_sql_str(), false)
        };
        let mut migrator = Migrator::with_migrations(steps.map(migration).collect());
        migrator.dangerous_set_table_name(STEPS);
        migrator
    }

    /// A pool of one for [`sqlx::postgres::PgListener`], which wants one.
    pub(crate) fn listener_pool(options: &PgConnectOptions) -> PgPool {
        PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(PATIENCE)
            .connect_lazy_with(options.clone())
    }

    pub(crate) fn unreachable(&self, why: &str) -> OpenError {
        OpenError::Connect {
            name: self.to_string(),
            why: why.to_owned(),
            advice: match self.driver {
                Driver::Sqlite(_) => {
                    "check that it is a SQLite file in a folder that may be written"
                }
                Driver::Postgres(_) => "check that it runs and lets this user in",
            },
        }
    }

    fn unusable(&self, error: &sqlx::Error) -> OpenError {
        let hint = match error {
            sqlx::Error::Tls(_) if cfg!(not(feature = "postgres-tls")) => {
                " (build deltaplane with `--features postgres-tls`)"
            }
            _ => "",
        };
        self.unreachable(&format!("{error}{hint}"))
    }

    fn foreign(&self, error: &MigrateError) -> OpenError {
        let known = self.migrator().iter().map(|step| step.version).max().unwrap_or(0);
        let why = match error {
            MigrateError::VersionMissing(found) if *found > known => {
                return OpenError::Newer { name: self.to_string(), found: *found, known };
            }
            MigrateError::VersionMissing(_) | MigrateError::VersionMismatch(_) => {
                "its tables were made by another version of deltaplane".to_owned()
            }
            MigrateError::Execute(source) | MigrateError::ExecuteMigration(source, _)
                if !matches!(source, sqlx::Error::Database(_)) =>
            {
                return self.unusable(source);
            }
            MigrateError::ExecuteMigration(source, _) => source.to_string(),
            other => other.to_string(),
        };
        OpenError::Foreign { name: self.to_string(), why }
    }
}

/// Lets PostgreSQL end a transaction of which it hears nothing more, since its end of the connection may never
/// learn that ours is gone; others wait for what it has locked. Nor does it learn that while it waits for a lock
/// itself: without an end to that, all who gave up would still be there.
async fn is_not_waited_for(connection: &mut AnyConnection) -> Result<(), sqlx::Error> {
    let patience = BULK_PATIENCE.as_secs();
    let settings = format!(
        "SET idle_in_transaction_session_timeout = '10s'; SET lock_timeout = '{patience}s'"
    );
    connection.execute(AssertSqlSafe(settings)).await.map(drop)
}

/// Whether a connection to PostgreSQL is good for somebody else. Who stops waiting in the middle of a `BEGIN`
/// leaves a transaction open of which sqlx knows nothing; what is written in that is never stored.
async fn is_at_rest(connection: &mut AnyConnection) -> Result<bool, sqlx::Error> {
    // In a transaction, they differ; in one that failed, it is an error.
    let begun = sqlx::raw_sql("SELECT now() = statement_timestamp()").fetch_one(connection);
    let answered = tokio::time::timeout(SILENCE, begun).await;
    Ok(answered.is_ok_and(|row| row.is_ok_and(|row| row.try_get(0).unwrap_or(false))))
}

/// Whether somebody is at the other end of a connection.
async fn is_there(connection: &mut AnyConnection) -> Result<bool, sqlx::Error> {
    let answered = tokio::time::timeout(SILENCE, connection.ping()).await;
    Ok(answered.is_ok_and(|answered| answered.is_ok()))
}

fn sqlite_options(url: &str) -> Result<SqliteConnectOptions, OpenError> {
    if url.contains(":memory:") || url.contains("mode=memory") {
        let why = "a database in memory is gone with the process, and with it who may be emptied";
        return Err(OpenError::Url(why.to_owned()));
    }
    // The write-ahead log lets readers and one writer work at the same time; it
    // is a property of the file, so later connections need not ask for it.
    SqliteConnectOptions::from_str(url)
        .map(|options| options.create_if_missing(true).journal_mode(SqliteJournalMode::Wal))
        .map_err(|error| OpenError::Url(error.to_string()))
}

impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.driver {
            Driver::Sqlite(options) => write!(f, "sqlite://{}", options.get_filename().display()),
            Driver::Postgres(options) => write!(
                f,
                "postgres://{}@{}:{}/{}",
                options.get_username(),
                options.get_socket().map_or(options.get_host().into(), |s| s.to_string_lossy()),
                options.get_port(),
                options.get_database().unwrap_or(options.get_username()),
            ),
        }
    }
}

/// As displayed, since the options inside hold the password.
impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Database({self})")
    }
}
