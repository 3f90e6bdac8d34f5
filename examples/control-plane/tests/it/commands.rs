//! The commands that ask a server.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Output, Stdio};

use serde_json::{Value, json};

use crate::binary::{Running, deltaplane, serve};
use crate::database::Sqlite;

const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";

/// A server, and a folder with files.
struct At {
    _server: Running,
    http: String,
    folder: tempfile::TempDir,
    _sqlite: Sqlite,
}

impl At {
    fn start() -> At {
        let sqlite = Sqlite::new();
        let (server, _, http) = Running::start(serve(&sqlite.url()));
        At { _server: server, http, folder: tempfile::TempDir::new().unwrap(), _sqlite: sqlite }
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path: PathBuf = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn run(&self, arguments: &[&str]) -> Output {
        deltaplane(arguments).env("DELTAPLANE_SERVER", &self.http).output().unwrap()
    }

    /// What a command that ends with this code says, on stdout or on stderr.
    fn says(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let (out, err) = (String::from_utf8(output.stdout), String::from_utf8(output.stderr));
        let said = format!("{}{}", out.unwrap(), err.unwrap());
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        said
    }

    fn json(&self, code: i32, arguments: &[&str]) -> Value {
        let output = self.run(&[arguments, &["--output", "json"]].concat());
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

#[test]
fn files_become_one_transaction() {
    let at = At::start();
    let yaml = format!(
        "\"@type\": {CLUSTER}\nname: a\nconnectTimeout: 1s\n---\n\"@type\": {CLUSTER}\nname: b\n---\n"
    );
    let yaml = at.file("clusters.yaml", &yaml);
    let upsert =
        json!({"upserts": [{"type_url": "x/y", "name": "c", "value": "AAA="}], "label": "two"});
    let json = at.file("others.json", &upsert.to_string());
    let apply = ["apply", "--scope", "edge", "-f", &yaml, &json];
    let diff = [&["diff"][..], &apply[1..]].concat();
    let said = at.says(5, &diff);
    assert!(said.contains("added") && said.contains("+  \"name\": \"b\""), "{said}");
    let stored = at.json(0, &apply);
    assert_eq!(stored["scope"], "edge");
    let revision = stored["revision"].as_i64().unwrap();
    assert!(revision > 0, "{stored}");

    // The same once more, however it is written, is no change.
    assert_eq!(at.says(0, &diff), "");
    let twin =
        format!("{{\"@type\": \"{CLUSTER}\", \"connect_timeout\": \"1.000s\", \"name\": \"a\"}}");
    let twin = at.file("twin.json", &twin);
    assert_eq!(at.json(0, &["diff", "--scope", "edge", "-f", &twin]), json!([]));
    let resources = at.json(0, &["get", "resources", "edge"]);
    let names: Vec<&Value> = resources.as_array().unwrap().iter().map(|r| &r["name"]).collect();
    assert_eq!(names, ["a", "b", "c"]);
    assert_eq!(resources[0]["label"], "two");

    let change = format!(
        "scope: edge\nupserts:\n- resource: {{\"@type\": {CLUSTER}, name: a}}\nremoves:\n- {{type_url: x/y, name: c}}\n"
    );
    let change = at.file("change.yaml", &change);
    let differences = at.json(5, &["diff", "-f", &change]);
    let changes: Vec<&Value> =
        differences.as_array().unwrap().iter().map(|d| &d["change"]).collect();
    assert_eq!(changes, ["changed", "removed"]);
    assert!(
        differences[0]["diff"].as_str().unwrap().contains("-  \"connect_timeout\""),
        "{differences}"
    );
    // Nobody is connected, so nobody is waited for.
    let said = at.says(0, &["apply", "-f", &change, "--wait", "--label", "three"]);
    assert!(said.contains("settled at 0 of 0 clients"), "{said}");
    let table = at.says(0, &["get", "resources", "edge"]);
    assert!(table.starts_with("TYPE_URL") || table.trim_start().starts_with("TYPE_URL"), "{table}");
    assert!(table.contains("three") && !table.contains("x/y"), "{table}");
    assert!(at.says(0, &["get", "scopes"]).contains("edge"));
}

#[test]
fn what_was_changed_is_shown_and_undone() {
    let at = At::start();
    let file = |timeout: &str| {
        at.file("a.yaml", &format!("\"@type\": {CLUSTER}\nname: a\nconnect_timeout: {timeout}\n"))
    };
    let apply = |timeout: &str, label: &str| {
        let file = file(timeout);
        let apply = ["apply", "--scope", "edge", "-f", &file, "--label", label, "--author", "ann"];
        at.json(0, &apply)["revision"].to_string()
    };
    let (good, bad) = (apply("1s", "good"), apply("2s", "bad"));
    let table = at.says(0, &["history", "--fleet", "edge", "--by", "ann"]);
    assert!(table.contains("AUTHOR") && table.contains("good") && table.contains("bad"), "{table}");
    assert_eq!(at.json(0, &["history", "--label", "bad", "--limit", "1"])[0]["author"], "ann");
    let said = at.says(0, &["history", &bad]);
    assert!(said.contains("by ann: bad") && said.contains("connect_timeout: 2s"), "{said}");

    let said = at.says(0, &["rollback", &good, "--dry-run"]);
    assert!(said.contains("changed: ") && said.contains("+  connect_timeout: 1s"), "{said}");
    assert_eq!(at.json(0, &["history", "--limit", "1"])[0]["label"], "bad", "nothing changed");
    let done = at.json(0, &["rollback", &good, "--fleet", "edge", "--label", "undo"]);
    assert_eq!((&done["back_to"], &done["changes"][0]["name"]), (&json!(1), &json!("a")));
    assert_eq!(at.json(0, &["history", "--limit", "1"])[0]["label"], "undo");
    let said = at.says(0, &["rollback", &good, "--wait"]);
    assert!(said.contains("nothing to do") && said.contains("0 of 0 clients"), "{said}");
    let said = at.says(1, &["rollback", "77"]);
    assert!(said.contains("the last one is 3"), "{said}");
    assert!(at.says(1, &["rollback", &good, "--fleet", "egde"]).contains("\"egde\""));
    assert!(at.says(2, &["rollback", "yesterday"]).contains("yesterday"));
    assert!(at.says(0, &["rollback", "--help"]).contains("deltaplane history"));
}

#[test]
fn services_in_files_are_stored_together() {
    let at = At::start();
    let yaml = "services:\n- {name: a, listener_port: 80, upstream_host: h, upstream_port: 1}\n---\n\
                services:\n- {name: b, listener_port: 81, upstream_host: h, upstream_port: 1, cluster_id: 2}\n";
    let file = at.file("services.yaml", yaml);
    let said = at.says(0, &["apply", "-f", &file, "--wait", "--label", "first ones"]);
    assert!(said.contains("services: 2 created, 0 replaced, 0 unchanged at revision"), "{said}");
    assert!(said.contains("settled at 0 of 0 clients"), "{said}");
    let again = at.json(0, &["apply", "-f", &file]);
    assert_eq!(again["unchanged"], 2, "{again}");
    assert!(at.says(1, &["apply", "-f", &file, "--scope", "edge"]).contains("without --scope"));
    assert!(at.says(0, &["history"]).contains("first ones"));
    assert!(at.says(1, &["diff", "-f", &file]).contains("are not compared"));
    let wrong = at.file("wrong.yaml", "services: [{name: a}]");
    assert!(at.says(1, &["apply", "-f", &wrong]).contains("services[0].listener_port: is missing"));
}

#[test]
fn what_is_wrong_with_files_is_told() {
    let at = At::start();
    let cases = [
        ("a: [", "neither YAML nor JSON"),
        ("7", "is no object"),
        ("name: x", "neither \"@type\""),
        ("upserts: 7", "\"upserts\" is no list"),
        ("removes: []\ncolour: red", "\"colour\" is not known"),
        ("scope: a\n---\nscope: b", "one transaction has one scope"),
        ("upserts: []", "has no scope"),
    ];
    for (text, why) in cases {
        let file = at.file("wrong.yaml", text);
        let said = at.says(1, &["apply", "-f", &file]);
        assert!(said.contains(why), "{text}: {said}");
    }
    // What the server finds has its path.
    let file = at.file("wrong.yaml", &format!("\"@type\": {CLUSTER}\nnmae: x\n"));
    for command in ["apply", "diff"] {
        let said = at.says(1, &[command, "--scope", "s", "-f", &file]);
        assert!(said.contains("upserts[0].resource"), "{said}");
    }
    assert!(at.says(1, &["apply", "-f", "/no/such/file"]).contains("/no/such/file"));
    assert!(at.says(2, &["apply"]).contains("--file"));
    assert!(at.says(2, &["get", "resources"]).contains("get scopes"));
    assert!(at.says(2, &["apply", "-f", &file, "--settled", "2", "--wait"]).contains("0 to 1"));
    assert!(at.says(1, &["get", "services", "7"]).contains("no service \"7\""));
    let elsewhere = ["get", "services", "--server", "http://127.0.0.1:1"];
    assert!(at.says(1, &elsewhere).contains("DELTAPLANE_SERVER"));
    assert_eq!(at.says(0, &["get", "scopes"]).lines().count(), 1, "nothing was stored");
}

#[test]
fn a_server_without_clients_is_shown() {
    let at = At::start();
    let said = at.says(0, &["status"]);
    assert!(said.contains("settled at 0 of 0 clients"), "{said}");
    assert_eq!(at.json(0, &["status"])["clients"], json!([]));
    assert!(at.says(0, &["get", "stats"]).contains("update_count: 0"));
    assert_eq!(at.json(0, &["get", "clients"]), json!([]));
    assert!(at.says(1, &["get", "clients", "nobody"]).contains("\"nobody\""));
}

#[test]
fn who_watches_is_shown_it_again() {
    let at = At::start();
    let watch = ["status", "--watch", "--interval", "10ms"];
    let mut child = deltaplane(&watch).env("DELTAPLANE_SERVER", &at.http).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert_eq!(lines.filter(|line| line.contains("0 of 0 clients")).take(3).count(), 3);
    // Nobody listens any more, which is a good end.
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), &*output.stderr), (Some(0), &b""[..]));
}

#[test]
fn files_may_come_by_a_pipe() {
    let at = At::start();
    // A name of all kinds of characters is one as well.
    let scope = "a/b? c%20#ü&x=1";
    let mut apply = deltaplane(&["apply", "--scope", scope, "-f", "-", "--wait"]);
    apply.env("DELTAPLANE_SERVER", &at.http).stdin(Stdio::piped());
    let mut child = apply.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    write!(input, "'@type': {CLUSTER}\nname: a").unwrap();
    drop(input);
    assert!(child.wait().unwrap().success());
    assert_eq!(at.json(0, &["get", "resources", scope])[0]["name"], "a");
    assert!(at.says(0, &["status", "--scope", scope]).contains("0 of 0 clients"));
}

#[test]
fn a_fleet_is_named_by_its_scope_and_a_scope_by_its_fleet() {
    let at = At::start();
    let file = at.file("a.yaml", &format!("\"@type\": {CLUSTER}\nname: a\n"));
    for name in ["--scope", "--fleet"] {
        at.says(0, &["apply", name, "edge", "-f", &file, "--author", "ann"]);
        assert_eq!(at.json(0, &["diff", name, "edge", "-f", &file]), json!([]));
        at.says(0, &["status", name, "edge"]);
        let history = |more: &[&str]| at.json(0, &[&["history", name, "edge"][..], more].concat());
        assert_eq!(history(&["--author", "ann"]).as_array().map(Vec::len), Some(1));
        assert_eq!(history(&["--by", "bob"]), json!([]));
        at.says(0, &["rollback", "1", name, "edge"]);
    }
}

#[test]
fn whatever_is_stored_is_shown() {
    let at = At::start();
    for (what, path) in
        [("fleets", "fleets"), ("routes", "routes"), ("certificates", "certificates")]
    {
        assert_eq!(at.json(0, &["get", what]), json!([]), "{path}");
        assert!(at.says(1, &["get", what, "nobody"]).contains("\"nobody\""));
    }
    let fleet = json!({"below": "base", "cluster_id": 7});
    let url = format!("http://{}/api/v1/fleets/edge", at.http);
    let put = ureq::put(url).header("content-type", "application/json").send(fleet.to_string());
    assert_eq!(put.unwrap().status(), 201);
    let shown = at.json(0, &["get", "fleets", "edge"]);
    assert_eq!((&shown["below"], &shown["cluster_id"]), (&json!("base"), &json!(7)));
    let table = at.says(0, &["get", "fleets"]);
    assert!(table.contains("BELOW") && table.contains("base"), "{table}");
}

#[test]
fn tables_are_made_without_serving() {
    let sqlite = Sqlite::new();
    let migrate = |url: &str| deltaplane(&["migrate", "--database-url", url]).output().unwrap();
    assert!(migrate(&sqlite.url()).status.success());
    assert!(sqlite.file().exists());
    assert!(migrate(&sqlite.url()).status.success(), "there is nothing left to do");
    assert_eq!(migrate("nonsense").status.code(), Some(1));
}

#[test]
fn shells_complete() {
    for shell in ["bash", "zsh", "fish"] {
        let output = deltaplane(&["completions", shell]).output().unwrap();
        let script = String::from_utf8(output.stdout).unwrap();
        assert!(script.contains("bootstrap") && script.contains("node-id"), "{shell}");
    }
    let help = String::from_utf8(deltaplane(&["--help"]).output().unwrap().stdout).unwrap();
    assert!(help.contains("First steps") && help.contains("Exit codes"), "{help}");
}
