//! TLS on both faces, and who may be whom by which certificate.

#![allow(missing_docs, clippy::expect_used)]

use std::fs;
use std::time::Duration;

use deltaplane_tests::authority::{Authority, Pair};
use deltaplane_tests::{
    Database, Deltaplane, Envoy, Kind, Listener, Upstream, Variant, service, wait_until,
};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(20);

fn text(path: &std::path::Path) -> &str {
    path.to_str().expect("the path of a temporary file is text")
}

/// A server that wants certificates of an authority, and that authority.
struct Secured {
    server: Deltaplane,
    authority: Authority,
    shown: Pair,
    _database: Database,
}

impl Secured {
    fn start(more: &[&str]) -> Secured {
        let (database, authority) = (Database::create(Kind::Sqlite), Authority::make());
        let (shown, ca) = (authority.sign("server", "xds.test"), authority.file());
        let flags = ["--tls-cert", text(&shown.certificate), "--tls-key", text(&shown.key)];
        let flags = [&flags[..], &["--client-ca", text(&ca)], more].concat();
        let server = Deltaplane::start_with(&database.url(), &flags);
        Secured { server, authority, shown, _database: database }
    }

    fn fleet(&self, name: &str, fleet: &Value) {
        let path = format!("/api/v1/fleets/{name}");
        let answer = self.server.ask("PUT", &path, Some(&fleet.to_string()));
        assert!([200, 201].contains(&answer.status), "{}", answer.body);
    }

    /// An Envoy that trusts the server's authority, and shows what it is given.
    fn envoy(&self, id: &str, cluster: &str, shows: Option<&Pair>) -> Envoy {
        let ca = self.authority.file();
        let mut flags = vec!["--tls-ca", text(&ca), "--tls-server-name", "xds.test"];
        if let Some(pair) = shows {
            let pair = ["--tls-cert", text(&pair.certificate), "--tls-key", text(&pair.key)];
            flags.extend(pair);
        }
        Envoy::start(&self.server.bootstrap_with(id, cluster, Variant::Delta, &flags))
    }

    fn node(&self, id: &str) -> u16 {
        self.server.ask("GET", &format!("/xds/clients/{id}"), None).status
    }
}

/// It was refused, tries again and has nothing.
fn is_kept_out(secured: &Secured, envoy: &Envoy, id: &str, stat: &str) {
    // Of requests it sends two at once, one of them for load reports.
    let enough = if stat == REFUSED { 5 } else { 2 };
    wait_until("it was refused, more than once", PATIENCE, || {
        (envoy.stat(stat) >= enough).then_some(())
    });
    assert_eq!(envoy.listeners(), [""; 0], "{id}");
    assert_eq!(secured.node(id), 404, "{id}");
}

const TLS_FAILED: &str = "cluster._deltaplane.upstream_cx_destroy_remote";
const REFUSED: &str = "cluster._deltaplane.upstream_rq_total";

#[test]
fn the_right_certificate_is_let_in_and_no_other() {
    let secured = Secured::start(&["--client-identity", "spiffe://prod/{fleet}/{node}"]);
    let (upstream, port) = (Upstream::start("a"), Listener::reserve());
    let edge = json!({"identity": ["spiffe://prod/edge/{node}", "edge-*.test"], "cluster_id": 2});
    secured.fleet("edge", &edge);
    let shop = service::but(&service::http("shop", &port, &upstream), &json!({"cluster_id": 2}));
    secured.server.create(&shop);
    let side = Listener::reserve();
    let other = service::but(&service::http("other", &side, &upstream), &json!({"cluster_id": 3}));
    secured.server.create(&other);

    let sign = |file: &str, name: &str| secured.authority.sign(file, name);
    let (one, host) = (sign("one", "spiffe://prod/edge/one"), sign("host", "edge-7.test"));
    let three = sign("three", "spiffe://prod/cluster-3/three");
    let other = Authority::make();
    let stranger = other.sign("one", "spiffe://prod/edge/one");
    let right = secured.envoy("one", "edge", Some(&one));
    port.reaches("/", &upstream);
    let by_host = secured.envoy("two", "edge", Some(&host));
    let by_usual = secured.envoy("three", "cluster-3", Some(&three));
    for (envoy, id) in [(&by_host, "two"), (&by_usual, "three")] {
        wait_until("it has what its fleet has", PATIENCE, || {
            (envoy.listeners().len() == 1).then_some(())
        });
        assert_eq!(secured.node(id), 200);
    }

    // Another node, another fleet by either of its names, another authority, nothing, any node.
    let wrong = [
        ("other-node", "edge", Some(&one), REFUSED),
        ("three", "edge", Some(&three), REFUSED),
        ("three", "cluster-2", Some(&three), REFUSED),
        ("one", "edge", Some(&stranger), TLS_FAILED),
        ("one", "edge", None, TLS_FAILED),
        // Which in a pattern would be any text.
        ("*", "edge", Some(&one), REFUSED),
    ];
    drop((right, by_host, by_usual));
    for id in ["one", "two", "three"] {
        wait_until("it is gone", PATIENCE, || (secured.node(id) == 404).then_some(()));
    }
    for (id, cluster, shows, stat) in wrong {
        let envoy = secured.envoy(id, cluster, shows);
        is_kept_out(&secured, &envoy, id, stat);
    }
    let log = secured.server.log();
    assert!(log.contains("may not be the node"), "{log}");
    assert!(!log.contains("PRIVATE KEY"));

    // A fleet takes its word back: who is connected has to go.
    let one_more = secured.envoy("one", "edge", Some(&one));
    wait_until("it is served", PATIENCE, || (secured.node("one") == 200).then_some(()));
    secured.fleet("edge", &json!({"identity": ["spiffe://prod/else/{node}"], "cluster_id": 2}));
    wait_until("it is let go", PATIENCE, || (secured.node("one") == 404).then_some(()));
    drop(one_more);
}

/// A pattern binds a node to what it names, and to nothing else.
#[test]
fn what_a_pattern_leaves_open_is_the_nodes_to_choose() {
    let warns = ["WARN", "--client-identity", "{fleet}"];
    let bound = Secured::start(&["--client-identity", "spiffe://prod/{fleet}/{node}"]);
    assert_eq!(bound.server.log_line(&warns), None);

    let secured = Secured::start(&["--client-identity", "spiffe://prod/{node}"]);
    assert!(secured.server.log_line(&warns).is_some(), "{}", secured.server.log());
    let upstream = Upstream::start("a");
    for (cluster, name) in [(1, "one"), (2, "two"), (3, "three")] {
        let port = Listener::reserve();
        let fleet = json!({"cluster_id": cluster});
        secured.server.create(&service::but(&service::http(name, &port, &upstream), &fleet));
    }
    secured.fleet("cluster-3", &json!({"identity": ["spiffe://prod/*/cluster-3/{node}"]}));
    let a = secured.authority.sign("a", "spiffe://prod/a");
    for cluster in ["cluster-1", "cluster-2"] {
        let envoy = secured.envoy("a", cluster, Some(&a));
        wait_until("it is of the fleet that it names", PATIENCE, || {
            (envoy.listeners().len() == 1).then_some(())
        });
        drop(envoy);
        wait_until("it is gone", PATIENCE, || (secured.node("a") == 404).then_some(()));
    }
    // One that says itself whom it wants is nobody's to choose,
    let envoy = secured.envoy("a", "cluster-3", Some(&a));
    is_kept_out(&secured, &envoy, "a", REFUSED);
    drop(envoy);
    // and a star is for more than one segment.
    let far = secured.authority.sign("far", "spiffe://prod/x/y/cluster-3/far");
    let envoy = secured.envoy("far", "cluster-3", Some(&far));
    wait_until("it is served", PATIENCE, || (envoy.listeners().len() == 1).then_some(()));
}

#[test]
fn certificates_are_taken_over_while_they_are_used() {
    let secured = Secured::start(&["--client-identity", "spiffe://prod/{fleet}/{node}"]);
    let (upstream, port) = (Upstream::start("a"), Listener::reserve());
    secured.server.create(&service::http("shop", &port, &upstream));
    let a = secured.authority.sign("a", "spiffe://prod/cluster-1/a");
    let first = secured.envoy("a", "cluster-1", Some(&a));
    port.reaches("/", &upstream);
    assert!(
        secured
            .server
            .metric("deltaplane_tls_not_after_timestamp_seconds{face=\"xds\",of=\"server\"}")
            > 1e9
    );
    let loads = || secured.server.metric("deltaplane_tls_loads_total{face=\"xds\"}");
    let failing = || secured.server.metric("deltaplane_tls_reload_failing{face=\"xds\"}");
    assert_eq!((loads(), failing()), (1.0, 0.0));

    // What cannot be used is told, and changes nothing.
    let good = fs::read(&secured.shown.certificate).expect("it was written before");
    fs::write(&secured.shown.certificate, "nonsense").expect("a file can be written to");
    wait_until("it is told", PATIENCE, || (failing() == 1.0).then_some(()));
    assert!(
        secured.server.log_line(&["WARN", "the old ones stay in force", "--tls-cert"]).is_some()
    );
    let b = secured.authority.sign("b", "spiffe://prod/cluster-1/b");
    let second = secured.envoy("b", "cluster-1", Some(&b));
    wait_until("one that comes now is served", PATIENCE, || {
        (second.listeners().len() == 1).then_some(())
    });
    fs::write(&secured.shown.certificate, good).expect("a file can be written to");
    wait_until("it is over", PATIENCE, || (failing() == 0.0).then_some(()));

    // Another name, which only those accept who come now and know it.
    let renamed = secured.authority.sign("server", "moved.test");
    assert_eq!(renamed.certificate, secured.shown.certificate);
    wait_until("it is taken over", PATIENCE, || (loads() == 2.0).then_some(()));
    let c = secured.authority.sign("c", "spiffe://prod/cluster-1/c");
    let third = secured.envoy("c", "cluster-1", Some(&c));
    wait_until("it is not the name that it asks for", PATIENCE, || {
        (third.stat("cluster._deltaplane.ssl.fail_verify_san") >= 1).then_some(())
    });
    assert_eq!(first.stat("control_plane.connected_state"), 1, "who is there stays");
}

/// What changes is for those who are first, and a canary's name is no way to be among them.
#[test]
fn who_names_a_canary_is_not_told_what_it_is_told() {
    let flags = ["--client-identity", "spiffe://prod/*", "--node-id", "cluster-9"];
    let secured = Secured::start(&flags);
    let canary = json!({"canary": {"nodes": {"id": "one"}}, "settled_for_ms": 3_600_000});
    let identity = json!(["spiffe://prod/edge/{node}"]);
    secured.fleet("edge", &json!({"identity": identity, "cluster_id": 2, "rollout": canary}));
    let (upstream, shop, next) = (Upstream::start("a"), Listener::reserve(), Listener::reserve());
    let lobby = Listener::reserve();
    for (name, port, cluster) in [("shop", &shop, 2), ("lobby", &lobby, 9)] {
        let cluster = json!({"cluster_id": cluster});
        secured.server.create(&service::but(&service::http(name, port, &upstream), &cluster));
    }
    let one = secured.authority.sign("one", "spiffe://prod/edge/one");
    let _one = secured.envoy("one", "edge", Some(&one));
    shop.reaches("/", &upstream);
    let unreleased = service::http("unreleased", &next, &upstream);
    secured.server.create(&service::but(&unreleased, &json!({"cluster_id": 2})));
    next.reaches("/", &upstream);

    let other = secured.authority.sign("other", "spiffe://prod/other");
    for canary in 0..4 {
        let layer = |scope: &str| format!("{scope}~canary-{canary}");
        let envoy = secured.envoy(&layer("edge"), &layer("cluster-2"), Some(&other));
        wait_until("it has what is for everybody", PATIENCE, || {
            (envoy.listeners().len() == 1).then_some(())
        });
        let told = envoy.config_dump();
        assert!(told.contains("\"lobby\"") && !told.contains("\"unreleased\""), "{told}");
    }
    let rollout = secured.server.ask("GET", "/api/v1/fleets/edge/rollout", None).json();
    assert_eq!(rollout["stage"], "in_canary", "it was there to be asked for: {rollout}");
}

/// Its connection does, too: it could not come back on that.
#[test]
fn who_has_a_certificate_has_to_go_when_it_ends() {
    let secured = Secured::start(&["--client-identity", "spiffe://prod/{fleet}/{node}"]);
    let (upstream, port) = (Upstream::start("a"), Listener::reserve());
    secured.server.create(&service::http("shop", &port, &upstream));
    let (name, lifetime) = ("spiffe://prod/cluster-1/a", Duration::from_secs(10));
    let brief = secured.authority.sign_for("a", name, Some(lifetime));
    let envoy = secured.envoy("a", "cluster-1", Some(&brief));
    port.reaches("/", &upstream);
    assert_eq!(secured.node("a"), 200);
    wait_until("it has to go", PATIENCE, || (secured.node("a") == 404).then_some(()));
    let log = secured.server.log_line(&["certificate has ended", "127.0.0.1"]);
    assert!(log.is_some(), "{}", secured.server.log());
    wait_until("it is not let in again", PATIENCE, || (envoy.stat(TLS_FAILED) >= 3).then_some(()));
    assert_eq!(secured.node("a"), 404);
    port.reaches("/", &upstream);
}

#[test]
fn who_is_vouched_for_no_more_has_to_go() {
    let secured = Secured::start(&["--client-identity", "spiffe://prod/{fleet}/{node}"]);
    let (upstream, port) = (Upstream::start("a"), Listener::reserve());
    secured.server.create(&service::http("shop", &port, &upstream));
    let (old, new) = (&secured.authority, Authority::make());
    let of = |authority: &Authority| {
        fs::read_to_string(authority.file()).expect("it was written before")
    };
    let (of_old, of_new) = (of(old), of(&new));
    let loads = || secured.server.metric("deltaplane_tls_loads_total{face=\"xds\"}");
    let vouch = |text: &str, nth: f64| {
        fs::write(old.file(), text).expect("a file can be written to");
        wait_until("it is taken over", PATIENCE, || (loads() == nth).then_some(()));
    };
    vouch(&format!("{of_old}{of_new}"), 2.0);
    let a = old.sign("a", "spiffe://prod/cluster-1/a");
    let b = new.sign("b", "spiffe://prod/cluster-1/b");
    let envoys = [("a", &a), ("b", &b)].map(|(id, pair)| {
        let envoy = secured.envoy(id, "cluster-1", Some(pair));
        wait_until("it is served", PATIENCE, || (envoy.listeners().len() == 1).then_some(()));
        envoy
    });
    vouch(&of_new, 3.0);
    wait_until("it has to go", PATIENCE, || (secured.node("a") == 404).then_some(()));
    wait_until("it is not let in again", PATIENCE, || {
        (envoys[0].stat(TLS_FAILED) >= 3).then_some(())
    });
    assert_eq!((secured.node("a"), secured.node("b")), (404, 200));
    assert_eq!(envoys[1].stat(TLS_FAILED), 0, "the other one stayed");
}

#[test]
fn the_http_api_speaks_tls() {
    let (database, authority) = (Database::create(Kind::Sqlite), Authority::make());
    let (shown, ca) = (authority.sign("http", "127.0.0.1"), authority.file());
    let flags = ["--http-tls-cert", text(&shown.certificate), "--http-tls-key", text(&shown.key)];
    let flags = [&flags[..], &["--http-tokens", "always"]].concat();
    let server = Deltaplane::start_with(&database.url(), &flags);
    let create = ["token", "create", "ci", "--write", "*", "--database-url"];
    let token = server.run(&[&create[..], &[&database.url()]].concat()).stdout;
    let token = String::from_utf8(token).expect("a token is text");
    let at = format!("https://{}", server.http);
    let get = |more: &[&str]| {
        let get = ["get", "audit", "--server", &at, "--token", token.trim()];
        let output = server.run(&[&get[..], more].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), format!("{}{said}", String::from_utf8_lossy(&output.stdout)))
    };
    let (code, said) = get(&["--ca-file", text(&ca)]);
    assert!(code == Some(0) && said.contains("token create"), "{said}");
    let (code, said) = get(&[]);
    assert!(code == Some(1) && said.contains("--ca-file"), "{said}");
    let other = Authority::make();
    let (code, said) = get(&["--ca-file", text(&other.file())]);
    assert!(code == Some(1) && said.contains("certificate"), "{said}");
    assert!(!said.contains(token.trim()), "{said}");
}

#[test]
fn what_does_not_fit_together_is_told_at_the_start() {
    let (authority, database) = (Authority::make(), Database::create(Kind::Sqlite));
    let (a, b) = (authority.sign("a", "a.test"), authority.sign("b", "b.test"));
    let ca = authority.file();
    let nowhere = ["--tls-cert", "/no/such", "--tls-key", text(&a.key)];
    let cases: [(&[&str], &str); 6] = [
        (&["--tls-cert", text(&a.certificate)], "--tls-key"),
        (&["--client-ca", text(&ca)], "--tls-cert"),
        (&["--http-tls-key", text(&a.key)], "--http-tls-cert"),
        (&nowhere, "/no/such"),
        (&["--tls-cert", text(&a.certificate), "--tls-key", text(&b.key)], "is not that of"),
        (&["--client-identity", "x"], "--client-ca"),
    ];
    for (flags, words) in cases {
        let said = deltaplane_tests::server::refusal_with(&database.url(), flags);
        assert!(said.contains(words), "{flags:?}: {said}");
    }
}
