//! When to look at the database again.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgListener;
use sqlx::sqlite::SqliteConnection;
use sqlx::{Connection, Executor as _, Row as _};
use tokio::sync::Notify;

use crate::database::sqlite_file::SqliteFile;
use crate::database::{Database, Driver, SILENCE};

/// What the triggers notify on PostgreSQL.
const CHANNEL: &str = "deltaplane";
/// SQLite tells nobody; reading its counter of commits costs microseconds.
const SQLITE_POLL: Duration = Duration::from_millis(250);
/// PostgreSQL is asked this often although nothing was notified: so it shows
/// when it is gone, or when what stands between does not pass notifications on.
const POSTGRES_POLL: Duration = Duration::from_secs(1);

/// Waits for the next change of the database.
#[derive(Debug)]
pub struct Watch {
    source: Source,
    /// This process wrote something.
    written: Arc<Notify>,
}

#[derive(Debug)]
enum Source {
    Sqlite { connection: Box<SqliteConnection>, version: i64, file: SqliteFile },
    Postgres { listener: Box<PgListener>, is_listening: bool },
}

impl Watch {
    pub(crate) async fn open(
        database: &Database,
        written: Arc<Notify>,
    ) -> Result<Watch, sqlx::Error> {
        let source = match &database.driver {
            Driver::Sqlite(options) => {
                // Not one of the pool: `data_version` compares with what this
                // very connection saw before.
                let file = SqliteFile::of(options);
                // An empty file in place of a lost one would be taken for an
                // empty database.
                let options = options.clone().create_if_missing(false);
                let mut connection = Box::new(SqliteConnection::connect_with(&options).await?);
                let version = data_version(&mut connection).await?;
                Source::Sqlite { connection, version, file }
            }
            Driver::Postgres(options) => {
                let pool = Database::listener_pool(options);
                let mut listener = PgListener::connect_with(&pool).await?;
                // It is for us to notice a lost connection and to read all again.
                listener.eager_reconnect(false);
                let is_listening = listen(&mut listener).await?;
                Source::Postgres { listener: Box::new(listener), is_listening }
            }
        };
        Ok(Watch { source, written })
    }

    /// Returns when there may be something new, and whether that was told, or it is only time to look; an error
    /// says that notifications may have been lost.
    pub async fn changed(&mut self) -> Result<bool, sqlx::Error> {
        tokio::select! {
            () = self.written.notified() => Ok(true),
            changed = self.source.changed() => changed,
        }
    }
}

impl Source {
    async fn changed(&mut self) -> Result<bool, sqlx::Error> {
        match self {
            Source::Sqlite { connection, version, file } => loop {
                tokio::time::sleep(SQLITE_POLL).await;
                file.check()?;
                let now = data_version(connection).await?;
                if std::mem::replace(version, now) != now {
                    return Ok(true);
                }
            },
            Source::Postgres { listener, is_listening } => {
                let notified = tokio::time::timeout(POSTGRES_POLL, listener.try_recv()).await;
                let Ok(received) = notified else {
                    is_heard(listener, is_listening).await?;
                    // It may have been told while that was asked.
                    return Ok(listener.next_buffered().is_some());
                };
                if received?.is_none() {
                    let why = "its connection for notifications was lost";
                    return Err(io::Error::new(io::ErrorKind::ConnectionReset, why).into());
                }
                // One look answers all that have arrived.
                while listener.next_buffered().is_some() {}
                Ok(true)
            }
        }
    }
}

/// Asks PostgreSQL to notify, and returns whether it does. A standby does not, and refuses to be asked for it until it
/// is promoted.
async fn listen(listener: &mut PgListener) -> Result<bool, sqlx::Error> {
    let is_standby = sqlx::query_scalar("SELECT pg_is_in_recovery()");
    let is_standby: bool = is_standby.fetch_one(&mut *listener).await?;
    if is_standby {
        return Ok(false);
    }
    listener.listen(CHANNEL).await.map(|()| true)
}

/// Nothing is notified on a connection that is half-open, either.
async fn is_heard(listener: &mut PgListener, is_listening: &mut bool) -> Result<(), sqlx::Error> {
    let asked = async {
        if *is_listening {
            return listener.execute("SELECT 1").await.map(drop);
        }
        *is_listening = listen(listener).await?;
        Ok(())
    };
    tokio::time::timeout(SILENCE, asked).await.unwrap_or_else(|_| {
        let why = "its connection for notifications is silent";
        Err(io::Error::new(io::ErrorKind::TimedOut, why).into())
    })
}

async fn data_version(connection: &mut SqliteConnection) -> Result<i64, sqlx::Error> {
    let row = sqlx::query("PRAGMA data_version").fetch_one(connection).await?;
    row.try_get(0)
}
