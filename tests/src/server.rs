//! The real `deltaplane`.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::Clock;
use crate::envoy::DRAIN_TIME_S;
use crate::http::{self, Answer};
use crate::machine::{self, run};
use crate::port;
use crate::process::Process;

const PATIENCE: Duration = Duration::from_secs(20);

/// What the server encrypts secrets with.
const SECRET_KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

/// A variant of xDS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// Incremental.
    Delta,
    /// State of the World.
    Sotw,
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Variant::Delta => "delta",
            Variant::Sotw => "sotw",
        })
    }
}

impl From<Variant> for deltaplane_server::Variant {
    fn from(variant: Variant) -> Self {
        match variant {
            Variant::Delta => Self::Delta,
            Variant::Sotw => Self::Sotw,
        }
    }
}

/// A running `deltaplane serve`, killed when it is dropped.
#[derive(Debug)]
pub struct Deltaplane {
    process: Option<Process>,
    database_url: String,
    /// Where it serves Envoys.
    pub xds: SocketAddr,
    /// Where it serves people.
    pub http: SocketAddr,
    folder: TempDir,
    starts: usize,
    settings: Vec<String>,
    environment: Vec<(&'static str, OsString)>,
}

impl Deltaplane {
    /// Starts the server on ports that it keeps through [`resume`](Deltaplane::resume).
    pub fn start(database_url: &str) -> Deltaplane {
        Deltaplane::start_on(database_url, port::reserve(), port::reserve())
    }

    /// The same with further arguments of `serve`.
    pub fn start_with(database_url: &str, settings: &[&str]) -> Deltaplane {
        Deltaplane::launch(database_url, port::reserve(), port::reserve(), settings, Vec::new())
    }

    /// The same by another clock than the machine's.
    pub fn start_by(clock: &Clock, database_url: &str, settings: &[&str]) -> Deltaplane {
        let environment = clock.environment();
        Deltaplane::launch(database_url, port::reserve(), port::reserve(), settings, environment)
    }

    /// Starts the server on these ports, where 0 stands for any.
    pub fn start_on(database_url: &str, xds: u16, http: u16) -> Deltaplane {
        Deltaplane::launch(database_url, xds, http, &[], Vec::new())
    }

    fn launch(
        database_url: &str,
        xds: u16,
        http: u16,
        settings: &[&str],
        environment: Vec<(&'static str, OsString)>,
    ) -> Deltaplane {
        let folder = tempfile::Builder::new().prefix("deltaplane-server-").tempdir();
        let mut server = Deltaplane {
            process: None,
            database_url: database_url.to_owned(),
            xds: SocketAddr::from(([127, 0, 0, 1], xds)),
            http: SocketAddr::from(([127, 0, 0, 1], http)),
            folder: folder.expect("a folder for temporary files can be made"),
            starts: 0,
            settings: settings.iter().map(ToString::to_string).collect(),
            environment,
        };
        server.resume();
        server
    }

    /// Starts it again after [`stop`](Deltaplane::stop), where it was.
    pub fn resume(&mut self) {
        self.starts += 1;
        let log = self.log_file(self.starts);
        let mut command = serve(&self.database_url, &self.xds.to_string(), &self.http.to_string());
        command.args(&self.settings).envs(self.environment.iter().cloned());
        let mut process = Process::start("deltaplane", &mut command, &log);
        let serves = |process: &Process| serving(&process.log());
        (self.xds, self.http) = process.wait_until("deltaplane serves", PATIENCE, serves);
        self.process = Some(process);
    }

    /// Stops it as a service manager would, and returns what it logged since it was started last.
    ///
    /// # Panics
    /// If it does not end in time and in order.
    pub fn stop(&mut self) -> String {
        let mut process = self.process.take().expect("it runs");
        process.signal(Signal::TERM);
        let status = process.wait_for_end();
        let log = process.log();
        assert!(status.success(), "a clean end: {status}\n{log}");
        log
    }

    /// Ends it at once, without a word to anybody.
    pub fn kill(&mut self) {
        let mut process = self.process.take().expect("it runs");
        process.signal(Signal::KILL);
        process.wait_for_end();
    }

    /// What it logged since it was started last.
    pub fn log(&self) -> String {
        self.process.as_ref().map(Process::log).unwrap_or_default()
    }

    /// All that it logged, however often it was started.
    pub fn logs(&self) -> String {
        let log = |start| fs::read_to_string(self.log_file(start)).unwrap_or_default();
        (1..=self.starts).map(log).collect()
    }

    fn log_file(&self, start: usize) -> PathBuf {
        self.folder.path().join(format!("log-{start}"))
    }

    /// The line of the log that has all these words in it.
    pub fn log_line(&self, words: &[&str]) -> Option<String> {
        let log = self.log();
        let line = log.lines().find(|line| words.iter().all(|word| line.contains(word)));
        line.map(str::to_owned)
    }

    /// The value of a metric, by its name and labels as its line begins with them; 0 if it is not there.
    pub fn metric(&self, name: &str) -> f64 {
        let metrics = self.ask("GET", "/metrics", None).body;
        let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|value| value.parse().ok()).unwrap_or_default()
    }

    /// Asks its HTTP API, with a body of JSON or without one.
    pub fn ask(&self, method: &str, path: &str, body: Option<&str>) -> Answer {
        let answer = http::request(method, &format!("http://{}{path}", self.http), body);
        answer.expect("a running server answers")
    }

    /// Posts a body of some type to its HTTP API.
    pub fn send(&self, path: &str, kind: &str, body: &str) -> Answer {
        let answer = http::send("POST", &format!("http://{}{path}", self.http), kind, body);
        answer.expect("a running server answers")
    }

    /// Stores a service and returns its id.
    pub fn create(&self, service: &Value) -> i64 {
        let answer = self.ask("POST", "/api/v1/services/", Some(&service.to_string()));
        assert_eq!(answer.status, 201, "{}", answer.body);
        answer.json()["id"].as_i64().expect("an id is a number")
    }

    /// Replaces a service.
    pub fn replace(&self, id: i64, service: &Value) {
        let path = format!("/api/v1/services/{id}");
        let answer = self.ask("PUT", &path, Some(&service.to_string()));
        assert_eq!(answer.status, 200, "{}", answer.body);
    }

    /// Changes some fields of a service.
    pub fn patch(&self, id: i64, fields: &Value) {
        let path = format!("/api/v1/services/{id}");
        let answer = self.ask("PATCH", &path, Some(&fields.to_string()));
        assert_eq!(answer.status, 200, "{}", answer.body);
    }

    /// Deletes a service.
    pub fn delete(&self, id: i64) {
        let answer = self.ask("DELETE", &format!("/api/v1/services/{id}"), None);
        assert_eq!(answer.status, 204, "{}", answer.body);
    }

    /// Runs a command of `deltaplane` at this server.
    pub fn run(&self, arguments: &[&str]) -> Output {
        let mut command = deltaplane();
        command.args(arguments).env("DELTAPLANE_SERVER", format!("http://{}", self.http));
        command.output().expect("the program can be run")
    }

    /// What `deltaplane bootstrap` prints for an Envoy of this server.
    pub fn bootstrap(&self, node_id: &str, cluster: &str, variant: Variant) -> String {
        self.bootstrap_with(node_id, cluster, variant, &[])
    }

    /// The same with further arguments.
    pub fn bootstrap_with(
        &self,
        node_id: &str,
        cluster: &str,
        variant: Variant,
        more: &[&str],
    ) -> String {
        bootstrap(&[self.xds], node_id, cluster, variant, more)
    }
}

/// What `deltaplane bootstrap` prints for an Envoy of the servers at these addresses.
pub fn bootstrap(
    addresses: &[SocketAddr],
    node_id: &str,
    cluster: &str,
    variant: Variant,
    more: &[&str],
) -> String {
    let mut command = deltaplane();
    command.args(["bootstrap", "--load-reports", "--node-id", node_id, "--cluster", cluster]);
    command.args(["--variant", &variant.to_string()]);
    for address in addresses {
        command.args(["--xds-address", &address.to_string()]);
    }
    run(command.args(more))
}

/// What `deltaplane serve` says when it does not get as far as serving.
///
/// # Panics
/// If it serves after all, or ends as if all were well.
pub fn refusal(database_url: &str, xds: &str, http: &str) -> String {
    refusal_of(serve(database_url, xds, http))
}

/// The same, on any ports and with further flags.
///
/// # Panics
/// If it serves after all, or ends as if all were well.
pub fn refusal_with(database_url: &str, flags: &[&str]) -> String {
    let mut command = serve(database_url, "127.0.0.1:0", "127.0.0.1:0");
    command.args(flags);
    refusal_of(command)
}

fn refusal_of(mut command: Command) -> String {
    let folder = tempfile::tempdir().expect("a folder for temporary files can be made");
    let mut process = Process::start("deltaplane", &mut command, &folder.path().join("log"));
    let status = process.wait_for_end();
    let said = process.log();
    assert_eq!(status.code(), Some(1), "{said}");
    said
}

fn serve(database_url: &str, xds: &str, http: &str) -> Command {
    let mut command = deltaplane();
    command.args(["serve", "--database-url", database_url]);
    command.args(["--xds-listen", xds, "--http-listen", http]);
    command.args(["--listener-address", "127.0.0.1"]);
    command.args(["--drain-time-s", DRAIN_TIME_S, "--load-report-interval-s", "1"]);
    command.env("SECRET_KEY", SECRET_KEY);
    command
}

/// The program, free of what the tests' own environment would tell it.
pub fn deltaplane() -> Command {
    let mut command = Command::new(program());
    command.env_clear();
    command
}

/// An example of the library.
pub fn example(name: &str) -> Command {
    // Built beside the program, for it or with the tests.
    let mut command = Command::new(program().with_file_name("examples").join(name));
    command.env_clear();
    command
}

/// Where the start's line of the log says that it serves.
fn serving(log: &str) -> Option<(SocketAddr, SocketAddr)> {
    let line = log.lines().find(|line| line.contains(" serving "))?;
    let value = |key: &str| line.split(' ').find_map(|word| word.strip_prefix(key)?.parse().ok());
    Some((value("xds=")?, value("http=")?))
}

/// Builds the program as it is now; cargo tells where it lies. It has what `cargo test --workspace` gives it,
/// so that there is nothing to do when that runs these tests.
fn program() -> &'static PathBuf {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let profile = match machine::profile().as_str() {
            "debug" => "dev".to_owned(),
            other => other.to_owned(),
        };
        let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
        let mut cargo = Command::new(cargo);
        machine::forget_package(&mut cargo);
        let messages = run(cargo
            .args(["build", "--workspace", "--bin", "deltaplane", "--message-format", "json"])
            // With them counts what tests depend on, too, as it does there.
            .arg("--examples")
            .args(["--profile", &profile, "--manifest-path", manifest, "--target-dir"])
            .arg(machine::target_dir()));
        let messages = messages.lines().flat_map(serde_json::from_str::<Value>);
        let mut built = messages
            .filter(|message| message["target"]["name"] == "deltaplane")
            .filter_map(|message| message["executable"].as_str().map(PathBuf::from));
        built.next().expect("the package deltaplane has a program")
    })
}
