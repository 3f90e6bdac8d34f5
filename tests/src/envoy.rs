//! A real Envoy.

pub mod beliefs;
pub mod certificate;
pub mod changes;
pub mod control_plane;
pub mod fleet;
pub mod json;
pub mod listeners;
pub mod mesh;
pub mod mistakes;
pub mod mode;
pub mod record;
pub mod resources;
pub mod services;
pub mod traffic;

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::http;
use crate::machine;
use crate::process::Process;

/// The version that the tests are made for.
const VERSION: &str = "1.40.0";
/// For how many seconds old connections are served, by what the control plane is told too.
pub(crate) const DRAIN_TIME_S: &str = "2";
const PATIENCE: Duration = Duration::from_secs(20);

/// A running Envoy, stopped when it is dropped.
#[derive(Debug)]
pub struct Envoy {
    process: Process,
    admin: String,
    folder: TempDir,
}

impl Envoy {
    /// Starts Envoy on a bootstrap in YAML, and waits until its administration answers, whose port
    /// may be 0.
    pub fn start(bootstrap: &str) -> Envoy {
        Envoy::start_with(bootstrap, &["--drain-time-s", DRAIN_TIME_S])
    }

    /// The same with further arguments.
    pub fn start_with(bootstrap: &str, arguments: &[&str]) -> Envoy {
        let folder = tempfile::Builder::new().prefix("deltaplane-envoy-").tempdir();
        let folder = folder.expect("a folder for temporary files can be made");
        let path = |name: &str| folder.path().join(name);
        fs::write(path("bootstrap.yaml"), bootstrap).expect("a folder can be written to");
        let mut command = Command::new(machine::envoy(VERSION));
        command.args(["--disable-hot-restart", "--concurrency", "1"]);
        command.arg("-c").arg(path("bootstrap.yaml")).args(arguments);
        command.arg("--admin-address-path").arg(path("admin"));
        let mut process = Process::start("Envoy", &mut command, &path("log"));
        let admin = process.wait_until("Envoy starts", PATIENCE, |_| admin_address(path("admin")));
        Envoy { process, admin, folder }
    }

    /// Gets a path of the administration.
    pub fn admin(&self, path: &str) -> String {
        let answer = http::get(&format!("http://{}{path}", self.admin));
        answer.expect("a running Envoy's administration answers").body
    }

    /// The value of a counter or gauge; 0 if it is not there yet.
    pub fn stat(&self, name: &str) -> u64 {
        let text = self.admin(&format!("/stats?filter=^{name}$"));
        let value = text.trim().rsplit(' ').next().unwrap_or_default();
        value.parse().unwrap_or(0)
    }

    /// The names of the listeners that it has, as it lists them.
    pub fn listeners(&self) -> Vec<String> {
        names(&self.admin("/listeners?format=json"), "/listener_statuses")
    }

    /// The names of the clusters that it has from its control plane.
    pub fn clusters(&self) -> Vec<String> {
        let all = serde_json::from_str::<Value>(&self.admin("/clusters?format=json"));
        let all = all.expect("Envoy writes JSON");
        let all = all.pointer("/cluster_statuses").and_then(Value::as_array);
        let added = |cluster: &&Value| cluster.get("added_via_api") == Some(&Value::Bool(true));
        all.into_iter().flatten().filter(added).filter_map(name).collect()
    }

    /// All of its configuration, endpoints included.
    pub fn config_dump(&self) -> String {
        self.admin("/config_dump?include_eds")
    }

    /// It does nothing any more, and its connections stay: gone without a word, as far as others see.
    pub fn pause(&self) {
        self.process.signal(Signal::STOP);
    }

    /// It goes on.
    pub fn resume(&self) {
        self.process.signal(Signal::CONT);
    }

    /// Its folder, for what else belongs to it.
    pub fn folder(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    /// What it logged.
    pub fn log(&self) -> String {
        self.process.log()
    }
}

/// Envoy writes the file in one go, but creates it first.
fn admin_address(file: PathBuf) -> Option<String> {
    fs::read_to_string(file).ok().filter(|address| !address.is_empty())
}

fn names(json: &str, list: &str) -> Vec<String> {
    let all: Value = serde_json::from_str(json).expect("Envoy writes JSON");
    let list = all.pointer(list).and_then(Value::as_array);
    list.into_iter().flatten().filter_map(name).collect()
}

fn name(of: &Value) -> Option<String> {
    of.get("name")?.as_str().map(str::to_owned)
}
