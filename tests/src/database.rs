//! The database of a server under test, by the door that is not the server's.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use tempfile::TempDir;

use crate::Postgres;
use crate::machine::run;

/// Which database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A file.
    Sqlite,
    /// A server.
    Postgres,
}

/// An empty database of a test's own.
#[derive(Debug)]
pub enum Database {
    /// A file in a folder that goes with it.
    Sqlite(TempDir),
    /// One database of the server that tests share.
    Postgres {
        /// The server.
        server: Arc<Postgres>,
        /// Which of its databases.
        name: String,
    },
}

impl Database {
    /// Makes one.
    pub fn create(kind: Kind) -> Database {
        match kind {
            Kind::Sqlite => {
                let folder = tempfile::Builder::new().prefix("deltaplane-sqlite-").tempdir();
                Database::Sqlite(folder.expect("a folder for temporary files can be made"))
            }
            Kind::Postgres => {
                let server = Postgres::shared();
                let name = server.create_database();
                Database::Postgres { server, name }
            }
        }
    }

    /// Its URL.
    pub fn url(&self) -> String {
        match self {
            Database::Sqlite(folder) => format!("sqlite://{}", file(folder).display()),
            Database::Postgres { server, name } => server.url(name),
        }
    }

    /// Executes a statement by `psql` or by Python's SQLite, as an operator might.
    pub fn execute(&self, sql: &str) {
        match self {
            Database::Sqlite(folder) => {
                let script = "import sqlite3, sys\n\
                              with sqlite3.connect(sys.argv[1]) as connection:\n\
                              \x20   connection.execute(sys.argv[2])";
                run(Command::new("python3").args(["-c", script]).arg(file(folder)).arg(sql));
            }
            Database::Postgres { server, name } => {
                server.psql(name, sql);
            }
        }
    }
}

fn file(folder: &TempDir) -> PathBuf {
    folder.path().join("deltaplane.db")
}
