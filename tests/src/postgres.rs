//! A PostgreSQL server of our own, from Debian's package.

use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::Disk;
use crate::machine::{installed, is_root, run};
use crate::port;
use crate::process::Process;

/// The version that belongs to the release of Debian.
const PACKAGE: &str = "postgresql";
/// The package makes this user; the server refuses to run as root.
const USER: &str = "postgres";
const PATIENCE: Duration = Duration::from_secs(30);

/// A PostgreSQL server in a folder and on a port of its own, stopped when it is dropped.
#[derive(Debug)]
pub struct Postgres {
    // Before the folder, so that it ends first.
    process: Option<Process>,
    programs: PathBuf,
    port: u16,
    /// Where its data are, if not in the folder.
    disk: Option<Disk>,
    folder: TempDir,
    databases: AtomicU32,
}

impl Postgres {
    /// Starts a server.
    pub fn start() -> Postgres {
        Postgres::start_in(None)
    }

    /// Starts a server whose data are on a disk of its own.
    pub fn start_on(disk: Disk) -> Postgres {
        Postgres::start_in(Some(disk))
    }

    fn start_in(disk: Option<Disk>) -> Postgres {
        let mut postgres = Postgres::place(disk);
        run(postgres
            .command("initdb")
            .args(["--username", USER, "--auth", "trust", "--encoding", "UTF8", "--no-sync"])
            .arg("--pgdata")
            .arg(postgres.data()));
        postgres.resume();
        postgres
    }

    /// Starts a standby of it, which has all that it has, and may only be read until it is promoted.
    pub fn standby(&self) -> Postgres {
        let mut standby = Postgres::place(None);
        run(standby
            .command("pg_basebackup")
            .args(["--write-recovery-conf", "--checkpoint=fast", "--no-sync", "--username", USER])
            .args(["--host", "127.0.0.1", "--port", &self.port.to_string(), "--pgdata"])
            .arg(standby.data()));
        standby.resume();
        standby
    }

    /// A folder and a port for one that has no data yet.
    fn place(disk: Option<Disk>) -> Postgres {
        let programs = installed(PACKAGE, programs);
        let folder = tempfile::Builder::new().prefix("deltaplane-postgres-").tempdir();
        let folder = folder.expect("a folder for temporary files can be made");
        if let Some((user, group)) = owner() {
            for place in [Some(folder.path()), disk.as_ref().map(Disk::path)].into_iter().flatten()
            {
                chown(place, Some(user), Some(group)).expect("root may give a folder away");
            }
        }
        let (port, databases) = (port::reserve(), AtomicU32::new(0));
        Postgres { process: None, programs, port, disk, folder, databases }
    }

    /// The server that all tests of this process share, for as long as one of them does.
    pub fn shared() -> Arc<Postgres> {
        static SHARED: Mutex<Weak<Postgres>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let postgres = Arc::new(Postgres::start());
            *shared = Arc::downgrade(&postgres);
            postgres
        })
    }

    /// Starts again after [`stop`](Postgres::stop), on the same port with the same content.
    pub fn resume(&mut self) {
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.data()).args(["-h", "127.0.0.1", "-k"]).arg(self.folder.path());
        command.args(["-p", &self.port.to_string(), "-c", "fsync=off"]);
        let log = self.folder.path().join("log");
        let mut process = Process::start("PostgreSQL", &mut command, &log);
        process.wait_until("PostgreSQL accepts connections", PATIENCE, |_| {
            let mut ask = self.command("pg_isready");
            let ask = ask.args(["-q", "-h", "127.0.0.1", "-p", &self.port.to_string()]);
            ask.status().is_ok_and(|status| status.success()).then_some(())
        });
        self.process = Some(process);
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// When it is started next, it listens elsewhere.
    pub fn move_to_another_port(&mut self) {
        self.port = port::reserve();
    }

    /// The URL of a database, by way of another port.
    pub fn url_at(&self, database: &str, port: u16) -> String {
        format!("postgres://{USER}@127.0.0.1:{port}/{database}")
    }

    /// Stops the server; its connections end at once.
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.signal(Signal::INT);
            process.wait_for_end();
        }
    }

    /// Creates an empty database and returns its name.
    pub fn create_database(&self) -> String {
        let number = self.databases.fetch_add(1, Ordering::Relaxed);
        let name = format!("test_{number}");
        self.psql(USER, &format!("CREATE DATABASE {name}"));
        name
    }

    /// The URL of a database.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://{USER}@127.0.0.1:{}/{database}", self.port)
    }

    /// Runs the real `psql` and returns what it printed.
    pub fn psql(&self, database: &str, sql: &str) -> String {
        let plain = ["--no-psqlrc", "--tuples-only", "--no-align", "--set", "ON_ERROR_STOP=1"];
        run(self.command("psql").args(plain).args(["--command", sql]).arg(self.url(database)))
    }

    /// Where its data are, if that is a disk of its own.
    pub fn disk(&self) -> Option<&Disk> {
        self.disk.as_ref()
    }

    fn data(&self) -> PathBuf {
        self.disk.as_ref().map_or(self.folder.path(), Disk::path).join("data")
    }

    /// One of PostgreSQL's programs, as a user that the server runs for.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        command.current_dir(self.folder.path());
        if let Some((user, group)) = owner() {
            command.uid(user).gid(group);
        }
        command
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            // Killed, it would leave its own children behind; so it is told to kill them.
            process.signal(Signal::QUIT);
            process.wait_for_end();
        }
    }
}

/// Where the newest installed PostgreSQL has its programs.
fn programs() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?.flatten();
    let folders = versions.map(|version| version.path().join("bin"));
    folders.filter(|folder| folder.join("initdb").exists()).max()
}

/// Whom the server runs as, if not as ourselves.
fn owner() -> Option<(u32, u32)> {
    let id = |what: &str| {
        let id = run(Command::new("id").args([what, USER]));
        id.trim().parse().expect("ids are numbers")
    };
    is_root().then(|| (id("-u"), id("-g")))
}
