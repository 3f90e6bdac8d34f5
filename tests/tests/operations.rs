//! What whoever runs a fleet sees of it: by the HTTP API, by the command line, and by Prometheus.

#![allow(missing_docs, clippy::expect_used)]

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::process::Output;
use std::time::Duration;

use deltaplane_tests::authority::Authority;
use deltaplane_tests::envoy::certificate::Certificate;
use deltaplane_tests::{
    Database, Deltaplane, Envoy, Kind, Listener, Upstream, Variant, service, wait_until,
};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(20);

const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";

/// The names of all that Prometheus may be asked for.
const PREFIXES: [&str; 2] = ["deltaplane_", "process_"];

fn get(server: &Deltaplane, path: &str) -> Value {
    let answer = server.ask("GET", path, None);
    assert_eq!(answer.status, 200, "{path}: {}", answer.body);
    answer.json()
}

fn said(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!("{}{}", String::from_utf8_lossy(out), String::from_utf8_lossy(err))
}

#[test]
fn delta_is_seen() {
    is_seen(Variant::Delta);
}

#[test]
fn sotw_is_seen() {
    is_seen(Variant::Sotw);
}

fn is_seen(variant: Variant) {
    let database = Database::create(Kind::Sqlite);
    let server = Deltaplane::start(&database.url());
    assert_eq!(get(&server, "/readyz")["status"], "ready");
    let (upstream, port) = (Upstream::start("a"), Listener::reserve());
    server.create(&service::http("shop", &port, &upstream));
    let envoy = Envoy::start(&server.bootstrap("envoy-1", "cluster-1", variant));
    port.reaches("/", &upstream);
    runs_what_is_stored(&server, variant);
    rejections_are_told(&server);
    silence_is_told(&server, &envoy);
    prometheus_is_told(&server, &port);
    scopes_below_are_seen(&server);
}

fn runs_what_is_stored(server: &Deltaplane, variant: Variant) {
    let client = wait_until("it has acknowledged everything", PATIENCE, || {
        let streams = get(server, "/xds/clients/envoy-1");
        let resources = streams[0]["resources"].as_array()?;
        let is_acknowledged = |resource: &Value| resource["state"] == "acknowledged";
        (resources.len() == 4 && resources.iter().all(is_acknowledged)).then(|| streams[0].clone())
    });
    let stood =
        ["node", "cluster", "scope", "variant", "state", "user_agent"].map(|it| &client[it]);
    let variant = variant.to_string();
    assert_eq!(stood, ["envoy-1", "cluster-1", "cluster-1", &variant, "settled", "envoy"]);
    let names: Vec<&Value> =
        client["resources"].as_array().into_iter().flatten().map(|it| &it["name"]).collect();
    assert!(names.contains(&&json!("shop")), "{names:?}");
    assert_eq!(get(server, "/xds/clients?scope=cluster-1&state=settled")[0]["id"], client["id"]);
    assert_eq!(get(server, "/xds/clients?scope=cluster-2"), json!([]));

    let stats = get(server, "/xds/stats");
    let fleet = json!({"scope": "cluster-1", "variant": variant, "clients": 1, "settled": 1});
    assert_eq!(stats["clients"], json!([fleet]));
    assert!(stats["acks"].as_u64() >= Some(4), "{stats}");
    assert_eq!((&stats["nacks"], &stats["update_count"]), (&json!(0), &json!(1)));
    assert!(stats["last_update"].as_str().is_some_and(|at| at.ends_with('Z')), "{stats}");
    let table = said(&server.run(&["status", "--scope", "cluster-1"]));
    assert!(table.contains("settled at 1 of 1 clients"), "{table}");
    assert!(
        table.lines().any(|line| line.contains("envoy-1") && line.contains(&variant)),
        "{table}"
    );
    let held = said(&server.run(&["get", "clients", "envoy-1"]));
    assert!(held.contains("shop") && held.contains("acknowledged"), "{held}");
}

/// A listener on a port that somebody else has is rejected; whoever waits for it is told, and so are all.
fn rejections_are_told(server: &Deltaplane) {
    let taken = TcpListener::bind("127.0.0.1:0").expect("some port is free");
    let taken = taken.local_addr().map(|address| (address.port(), taken)).expect("it is bound");
    let folder = tempfile::tempdir().expect("a folder for temporary files can be made");
    let file = folder.path().join("listener.yaml");
    let listener = format!(
        "'@type': {LISTENER}\nname: taken\naddress: {{socket_address: {{address: 127.0.0.1, port_value: {}}}}}\n\
         enable_reuse_port: false\nfilter_chains:\n- filters:\n  - name: tcp\n    typed_config:\n      \
         '@type': type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy\n      \
         stat_prefix: taken\n      cluster: shop\n",
        taken.0
    );
    std::fs::write(&file, listener).expect("a folder can be written to");
    let file = file.to_string_lossy();
    let apply = ["apply", "--scope", "cluster-1", "-f", &file, "--wait", "--output", "json"];
    let output = server.run(&apply);
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    let answer: Value = serde_json::from_slice(&output.stdout).expect("it writes JSON");
    assert_eq!(answer["outcome"], "rejected");
    let words = &answer["clients"][0]["types"][LISTENER]["rejected"]["message"];
    assert!(words.as_str().is_some_and(|words| words.contains("taken")), "{answer}");
    let rejecting = get(server, "/xds/clients?state=rejected");
    assert_eq!(rejecting[0]["types"][LISTENER]["rejected"]["names"], json!(["taken"]));
    assert!(said(&server.run(&["status"])).contains("envoy-1 rejects"));
    assert_eq!(get(server, "/xds/stats")["nacks"], 1);

    // Taken back, all is well.
    let remove =
        json!({"scope": "cluster-1", "removes": [{"type_url": LISTENER, "name": "taken"}]});
    let file = folder.path().join("remove.json");
    std::fs::write(&file, remove.to_string()).expect("a folder can be written to");
    let output = server.run(&["apply", "-f", &file.to_string_lossy(), "--wait"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(said(&output).contains("settled at 1 of 1 clients"), "{}", said(&output));
    drop(taken);
}

/// Whoever waits for a client that does not answer is told when the time is over.
fn silence_is_told(server: &Deltaplane, envoy: &Envoy) {
    let cluster = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
    let folder = tempfile::tempdir().expect("a folder for temporary files can be made");
    let file = folder.path().join("late.json");
    let late = json!({"@type": cluster, "name": "late", "connect_timeout": "1s"});
    std::fs::write(&file, late.to_string()).expect("a folder can be written to");
    let file = file.to_string_lossy();
    let apply = ["apply", "--scope", "cluster-1", "-f", &file, "--wait"];
    envoy.pause();
    let output = server.run(&[&apply[..], &["--timeout", "300ms", "--output", "json"]].concat());
    assert_eq!(output.status.code(), Some(4), "{}", said(&output));
    let answer: Value = serde_json::from_slice(&output.stdout).expect("it writes JSON");
    let late = ["outcome", "revision"].map(|field| &answer[field]);
    assert_eq!(late, [&json!("late"), &get(server, "/healthz")["revision"]]);
    assert_eq!(answer["clients"][0]["state"], "pending");
    let none = server.run(&[&apply[..], &["--settled", "0"]].concat());
    assert_eq!(none.status.code(), Some(0), "nobody has to settle: {}", said(&none));
    envoy.resume();
    let output = server.run(&apply);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));

    let remove = json!({"scope": "cluster-1", "removes": [{"type_url": cluster, "name": "late"}]});
    std::fs::write(folder.path().join("late.json"), remove.to_string()).expect("as before");
    let output = server.run(&["apply", "-f", &file, "--wait"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
}

/// Whoever sees a scope below its own is waited for as well.
fn scopes_below_are_seen(server: &Deltaplane) {
    let fleet = json!({"below": "base", "cluster_id": 1}).to_string();
    let stored = server.ask("PUT", "/api/v1/fleets/cluster-1", Some(&fleet));
    assert_eq!(stored.status, 201, "{}", stored.body);
    let cluster = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
    let folder = tempfile::tempdir().expect("a folder for temporary files can be made");
    let file = folder.path().join("base.json");
    let base = json!({"@type": cluster, "name": "base", "connect_timeout": "1s"});
    std::fs::write(&file, base.to_string()).expect("a folder can be written to");
    let output = server.run(&["apply", "--scope", "base", "-f", &file.to_string_lossy(), "--wait"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(said(&output).contains("settled at 1 of 1 clients"), "{}", said(&output));
    let client = &get(server, "/xds/clients?scope=base")[0];
    assert_eq!(client["scopes"], json!(["cluster-1", "base"]));
}

fn prometheus_is_told(server: &Deltaplane, port: &Listener) {
    let authorities = json!({"authorities": Certificate::make("ca.test").pem()}).to_string();
    let stored = server.ask("PUT", "/api/v1/certificates/ca", Some(&authorities));
    assert_eq!(stored.status, 201, "{}", stored.body);
    let metrics = || server.ask("GET", "/metrics", None).body;
    let value = |line: &str| {
        let metrics = metrics();
        let line = metrics.lines().find_map(|it| it.strip_prefix(line)?.strip_prefix(' '));
        line.and_then(|value| value.parse::<f64>().ok()).unwrap_or_default()
    };
    // It tries again after 5 s if its first stream came too early.
    wait_until("Envoy reports its load", PATIENCE, || {
        // What was before its first stream, it does not report.
        let _ = port.get("/");
        let requests = "deltaplane_load_requests_total{cluster=\"shop\",result=\"success\"}";
        (value(requests) >= 10.0).then_some(())
    });
    wait_until("changes that settled are measured", PATIENCE, || {
        (value("deltaplane_commits_total{outcome=\"settled\"}") >= 1.0).then_some(())
    });
    assert!(value("deltaplane_commit_to_settled_seconds_count") >= 1.0);
    assert_eq!(
        value("deltaplane_xds_nacks_total{type=\"envoy.config.listener.v3.Listener\"}"),
        1.0
    );
    assert!(value("deltaplane_xds_acks_total{type=\"envoy.config.cluster.v3.Cluster\"}") >= 1.0);
    assert!(
        value("deltaplane_xds_response_bytes_total{type=\"envoy.config.cluster.v3.Cluster\"}")
            > 50.0
    );
    assert_eq!(value("deltaplane_resources{type=\"envoy.config.cluster.v3.Cluster\"}"), 1.0);
    assert!(value("deltaplane_database_seconds_count{result=\"ok\"}") >= 4.0);
    assert!(value("process_resident_memory_bytes") > 1e6);
    wait_until("when certificates end is told", PATIENCE, || {
        let name = "deltaplane_certificate_not_after_timestamp_seconds{name=\"ca\"}";
        (value(name) > 1.7e9).then_some(())
    });
    let fleet = json!({"rollout": {"canary": {"share": 1}}}).to_string();
    assert_eq!(server.ask("PUT", "/api/v1/fleets/solo", Some(&fleet)).status, 201);
    let resource = json!({"type_url": "x/y", "name": "z", "value": ""});
    let change = json!({"scope": "solo", "upserts": [resource]}).to_string();
    assert_eq!(server.ask("POST", "/api/v1/xds/transactions", Some(&change)).status, 200);
    wait_until("what became of a rollout is counted", PATIENCE, || {
        let name = "deltaplane_rollouts_total{fleet=\"solo\",outcome=\"promoted\"}";
        (value(name) >= 1.0).then_some(())
    });
    let metrics = metrics() + &told_with_tls();
    let (told, shown) = (told(&metrics), shown());
    let missing: Vec<&String> = shown.difference(&told).collect();
    assert!(missing.is_empty(), "the dashboard shows {missing:?}, which nobody tells");
    let own = |name: &&String| name.starts_with(PREFIXES[0]);
    let hidden: Vec<&String> = told.difference(&shown).filter(own).collect();
    assert!(hidden.is_empty(), "the dashboard does not show {hidden:?}");
}

/// What a server that has TLS tells.
fn told_with_tls() -> String {
    let (database, authority) = (Database::create(Kind::Sqlite), Authority::make());
    let shown = authority.sign("server", "xds.test");
    let [certificate, key] = [shown.certificate, shown.key].map(|file| file.display().to_string());
    let flags = ["--tls-cert", &certificate, "--tls-key", &key];
    Deltaplane::start_with(&database.url(), &flags).ask("GET", "/metrics", None).body
}

/// The names in `/metrics`.
fn told(metrics: &str) -> BTreeSet<String> {
    let types = metrics.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    types.filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

/// The names in the queries of the dashboard.
fn shown() -> BTreeSet<String> {
    let dashboard = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../examples/control-plane/deploy/grafana-dashboard.json"
    );
    let dashboard = std::fs::read_to_string(dashboard).expect("the dashboard is there");
    let dashboard: Value = serde_json::from_str(&dashboard).expect("it is JSON");
    let panels = dashboard["panels"].as_array().into_iter().flatten();
    let queries = panels.flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let queries = queries.filter_map(|target| target["expr"].as_str());
    let words =
        queries.flat_map(|query| query.split(|c: char| !c.is_ascii_lowercase() && c != '_'));
    let names = words.filter(|word| PREFIXES.iter().any(|prefix| word.starts_with(prefix)));
    names.map(|name| name.strip_suffix("_bucket").unwrap_or(name).to_owned()).collect()
}
