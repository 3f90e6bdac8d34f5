//! A fuzzer that knows no more of the HTTP API than its document says.

#![allow(missing_docs, clippy::expect_used)]

use std::path::Path;
use std::process::Command;

use deltaplane_tests::machine::{python, python_packages};
use deltaplane_tests::{Database, Deltaplane, Kind};

/// What it is started with: that it repeats itself, and does not ask the world whether it is the newest.
const SETTINGS: [&str; 8] = [
    "--seed=1",
    "--max-examples=15",
    "--continue-on-failure",
    "--no-color",
    "--generation-database=none",
    "--warnings=off",
    // What one field may hold often depends on another, which no schema says.
    "--exclude-checks=positive_data_acceptance",
    "--request-timeout=10",
];

#[test]
fn schemathesis_finds_nothing_on_sqlite() {
    finds_nothing(Kind::Sqlite);
}

#[test]
fn schemathesis_finds_nothing_on_postgres() {
    finds_nothing(Kind::Postgres);
}

fn finds_nothing(kind: Kind) {
    let database = Database::create(kind);
    let server = Deltaplane::start(&database.url());
    let folder = tempfile::tempdir().expect("a folder for temporary files can be made");
    let mut fuzzer = schemathesis();
    fuzzer.arg("run").args(SETTINGS).arg(format!("http://{}/openapi.json", server.http));
    let output = fuzzer.current_dir(&folder).output().expect("it can be run");
    let found = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{found}{}", String::from_utf8_lossy(&output.stderr));
    assert!(found.contains("Stateful"), "it got as far as sequences of requests: {found}");
    assert!(!server.log().contains("panicked"), "{}", server.log());
    assert_eq!(server.ask("GET", "/healthz", None).status, 200);
}

fn schemathesis() -> Command {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/schemathesis");
    let packages = python_packages("schemathesis", &sources.join("requirements.txt"));
    let mut fuzzer = python(&packages);
    fuzzer.args(["-m", "schemathesis.cli"]).env("NO_PROXY", "127.0.0.1");
    fuzzer
}
