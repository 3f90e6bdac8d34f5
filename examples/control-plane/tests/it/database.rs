//! Databases to test with: a fresh SQLite file, and a PostgreSQL of one's own.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use deltaplane::database::Database;
use deltaplane::database::store::Store;
use sqlx::{AnyConnection, AssertSqlSafe, Connection, Executor};
use tempfile::TempDir;

/// How long anything may take before a test gives up.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

pub(crate) struct Sqlite(TempDir);

impl Sqlite {
    pub(crate) fn new() -> Sqlite {
        Sqlite(TempDir::new().unwrap())
    }

    /// A file that is there already, and empty.
    pub(crate) fn empty() -> Sqlite {
        let sqlite = Sqlite::new();
        fs::File::create(sqlite.file()).unwrap();
        sqlite
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.0.path().join("services.db")
    }

    pub(crate) fn url(&self) -> String {
        format!("sqlite://{}", self.file().display())
    }
}

/// A server on a temporary directory, reached by its socket there: no port is
/// taken, so none can be taken already.
pub(crate) struct Postgres {
    directory: TempDir,
    /// PostgreSQL refuses to run as root.
    user: Option<(u32, u32)>,
}

impl Postgres {
    pub(crate) fn start() -> Postgres {
        let directory = TempDir::new().unwrap();
        let root = fs::metadata(directory.path()).unwrap().uid() == 0;
        let postgres = Postgres { user: root.then(|| (id("-u"), id("-g"))), directory };
        if let Some((user, group)) = postgres.user {
            chown(postgres.path(), Some(user), Some(group)).unwrap();
        }
        let data = postgres.path().join("data");
        let data = data.to_str().unwrap();
        let auth = ["-A", "trust", "-U", "postgres"];
        postgres.run("initdb", &[&["--no-sync", "-D", data][..], &auth].concat());
        postgres.resume();
        postgres
    }

    pub(crate) fn resume(&self) {
        let path = self.path().display();
        let options = format!("-k {path} -c listen_addresses='' -c fsync=off");
        let log = self.path().join("log");
        let log = log.to_str().unwrap();
        self.control(&["-o", &options, "-l", log, "start"]);
    }

    /// As if it crashed.
    pub(crate) fn stop(&self) {
        self.control(&["-m", "immediate", "stop"]);
    }

    pub(crate) fn url(&self) -> String {
        self.url_of("postgres")
    }

    pub(crate) fn url_of(&self, user: &str) -> String {
        self.url_at(user, "postgres")
    }

    pub(crate) fn url_in(&self, database: &str) -> String {
        self.url_at("postgres", database)
    }

    fn url_at(&self, user: &str, database: &str) -> String {
        format!("postgres://{user}@localhost/{database}?host={}", self.path().display())
    }

    pub(crate) fn psql(&self, sql: &str) {
        let host = self.path().to_str().unwrap();
        let strict = ["-X", "-q", "-v", "ON_ERROR_STOP=1"];
        self.run("psql", &[&strict[..], &["-h", host, "-U", "postgres", "-c", sql]].concat());
    }

    fn control(&self, arguments: &[&str]) {
        let data = self.path().join("data");
        let data = data.to_str().unwrap();
        self.run("pg_ctl", &[&["-w", "-s", "-D", data], arguments].concat());
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        let mut command = Command::new(programs().join(program));
        command.args(arguments).current_dir(self.path());
        if let Some((user, group)) = self.user {
            command.uid(user).gid(group);
        }
        // Not through a pipe: the server inherits it and would hold it open.
        let log = self.path().join(format!("{program}.log"));
        let out = fs::File::create(&log).unwrap();
        command.stderr(out.try_clone().unwrap()).stdout(out);
        let status = command.status().unwrap();
        let said = fs::read_to_string(log).unwrap();
        assert!(status.success(), "{program} {arguments:?}: {status}\n{said}");
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if self.path().join("data/postmaster.pid").exists() {
            self.stop();
        }
    }
}

/// Debian keeps them out of the PATH, one folder for each version.
fn programs() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql");
    let versions = versions.expect("PostgreSQL is missing: apt-get install postgresql");
    let newest = versions.map(|entry| entry.unwrap().path()).max();
    newest.expect("PostgreSQL is missing: apt-get install postgresql").join("bin")
}

fn id(which: &str) -> u32 {
    let output = Command::new("id").args([which, "postgres"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
}

pub(crate) async fn open(url: &str) -> Store {
    Store::open(Database::parse(url).unwrap()).await.unwrap()
}

/// Somebody else who writes, past the server.
pub(crate) async fn connect(url: &str) -> AnyConnection {
    sqlx::any::install_default_drivers();
    AnyConnection::connect(url).await.unwrap()
}

pub(crate) async fn execute(url: &str, sql: &str) {
    connect(url).await.execute(AssertSqlSafe(sql)).await.unwrap();
}

/// Waits until something is so.
pub(crate) async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < end, "in vain waited for: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
