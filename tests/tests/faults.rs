//! What happens to the network before clients, and to the clock of the machine: what is served stays served, and
//! all heals by itself.

#![allow(missing_docs, clippy::expect_used)]

use std::path::Path;
use std::time::Duration;

use deltaplane_tests::authority::{Authority, Pair};
use deltaplane_tests::http::get_with;
use deltaplane_tests::proxy::Proxy;
use deltaplane_tests::{
    Clock, Database, Deltaplane, Envoy, Kind, Listener, Postgres, Upstream, Variant, service,
    wait_until,
};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(30);

fn updates(envoy: &Envoy) -> [u64; 2] {
    ["cluster_manager.cds.update_success", "listener_manager.lds.update_success"]
        .map(|name| envoy.stat(name))
}

/// Both ends take the connection for good, and nothing gets through.
#[test]
fn an_envoy_is_cut_off_without_a_word() {
    let database = Database::create(Kind::Sqlite);
    let server = Deltaplane::start_with(&database.url(), &["--keepalive-s", "1"]);
    let proxy = Proxy::before(server.xds.port());
    let (a, b, shop) = (Upstream::start("a"), Upstream::start("b"), Listener::reserve());
    let id = server.create(&service::http("shop", &shop, &a));
    let port = |port: u16| format!("port_value: {port}}}");
    let bootstrap = server
        .bootstrap("envoy-1", "cluster-1", Variant::Delta)
        .replace(&port(server.xds.port()), &port(proxy.port()))
        .replace("{interval: 30s, timeout: 5s}", "{interval: 1s, timeout: 1s}");
    let envoy = Envoy::start(&bootstrap);
    shop.reaches("/", &a);
    let before = updates(&envoy);
    let is_known = || server.ask("GET", "/xds/clients/envoy-1", None).status == 200;
    assert!(is_known());

    proxy.forgets();
    proxy.stalls();
    wait_until("the server notices", PATIENCE, || (!is_known()).then_some(()));
    wait_until("Envoy notices, too", PATIENCE, || {
        (envoy.stat("control_plane.connected_state") == 0).then_some(())
    });
    server.patch(id, &json!({"upstream_port": b.port()}));
    shop.reaches("/", &a);

    // What was cut stays so; what is new gets through.
    proxy.flows();
    shop.moves_within("/", &a, &b, PATIENCE);
    wait_until("no dead connection is counted", PATIENCE, || {
        (server.metric("deltaplane_xds_connections") == 1.0).then_some(())
    });
    assert!(is_known());
    assert_eq!(updates(&envoy), before, "nothing was sent again");
}

fn text(path: &Path) -> &str {
    path.to_str().expect("the path of a temporary file is text")
}

/// A server whose clients show certificates, and whose clock can be set.
struct Scene {
    server: Deltaplane,
    clock: Clock,
    authority: Authority,
    database: Database,
}

impl Scene {
    fn start(flags: &[&str]) -> Scene {
        let (database, authority) = (Database::create(Kind::Sqlite), Authority::make());
        let (shown, ca, clock) =
            (authority.sign("server", "xds.test"), authority.file(), Clock::new());
        let tls = ["--tls-cert", text(&shown.certificate), "--tls-key", text(&shown.key)];
        let clients = ["--client-ca", text(&ca), "--client-identity", "spiffe://prod/{node}"];
        let flags = [&tls[..], &clients, flags].concat();
        let server = Deltaplane::start_by(&clock, &database.url(), &flags);
        Scene { server, clock, authority, database }
    }

    fn envoy(&self, id: &str, shows: &Pair) -> Envoy {
        let ca = self.authority.file();
        let flags = ["--tls-ca", text(&ca), "--tls-server-name", "xds.test"];
        let pair = ["--tls-cert", text(&shows.certificate), "--tls-key", text(&shows.key)];
        let flags = [&flags[..], &pair].concat();
        Envoy::start(&self.server.bootstrap_with(id, "cluster-1", Variant::Delta, &flags))
    }

    /// A token that is good for an hour.
    fn token(&self) -> String {
        let create = ["token", "create", "ci", "--read", "*", "--expires", "1hour"];
        let database = ["--database-url", &self.database.url()];
        let made = self.server.run(&[&create[..], &database].concat());
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        String::from_utf8(made.stdout).expect("a token is text").trim().to_owned()
    }

    fn status(&self, token: &str) -> u16 {
        let url = format!("http://{}/api/v1/services/", self.server.http);
        let bearer = format!("Bearer {token}");
        get_with(&url, &[("authorization", &bearer)]).expect("a running server answers").status
    }

    /// All revisions, the newest first.
    fn history(&self) -> Vec<Value> {
        let revisions = self.server.ask("GET", "/api/v1/revisions", None).json();
        revisions.as_array().expect("a list").clone()
    }
}

fn number(of: &Value) -> i64 {
    of["revision"].as_i64().expect("a number")
}

/// Hours ahead, hours behind, and right again.
#[test]
fn the_clock_jumps() {
    let scene = Scene::start(&["--connection-age-s", "7200", "--history-days", "1"]);
    let Scene { server, clock, authority, .. } = &scene;
    let (a, b, shop) = (Upstream::start("a"), Upstream::start("b"), Listener::reserve());
    let paced = json!({"pace": {"quiet_ms": 50, "longest_ms": 500}}).to_string();
    assert_eq!(server.ask("PUT", "/api/v1/fleets/cluster-1", Some(&paced)).status, 201);
    let id = server.create(&service::http("shop", &shop, &a));
    let lasting = authority.sign("lasting", "spiffe://prod/lasting");
    let envoy = scene.envoy("lasting", &lasting);
    shop.reaches("/", &a);
    let hour = Some(Duration::from_secs(3600));
    let short = authority.sign_for("short", "spiffe://prod/short", hour);
    let (token, before) = (scene.token(), updates(&envoy));
    let mut revisions = scene.history().len();

    for (hours, from, to) in [(5, &a, &b), (-5, &b, &a), (0, &a, &b)] {
        clock.is_ahead_by_hours(hours);
        // Who is there is served, at the pace that was set.
        server.patch(id, &json!({"upstream_port": to.port()}));
        shop.moves("/", from, to);
        revisions += 1;
        let history = scene.history();
        assert_eq!(history.len(), revisions, "nothing of the history is lost: {history:?}");
        assert!(history.iter().map(number).is_sorted_by(|newer, older| newer > older));
        // Tokens are good or not by the clock as it is,
        assert_eq!(scene.status(&token), if hours > 0 { 401 } else { 200 }, "at {hours} hours");
        // and so are certificates, of who connects now.
        let late = scene.envoy("short", &short);
        if hours > 0 {
            wait_until("it is refused", PATIENCE, || {
                let ended = late.stat("cluster._deltaplane.upstream_cx_destroy_remote");
                (ended >= 1 && late.listeners().is_empty()).then_some(())
            });
        } else {
            wait_until("it is served", PATIENCE, || (late.listeners().len() == 1).then_some(()));
        }
    }
    let oldest = number(scene.history().last().expect("there is one"));
    assert!(oldest <= 1, "from the beginning on");
    // No connection grew old by it.
    assert_eq!(server.metric("deltaplane_xds_connections_ended_total{reason=\"age\"}"), 0.0);
    assert_eq!(envoy.stat("cluster._deltaplane.upstream_cx_total"), 1);
    assert_eq!(updates(&envoy), before, "and nothing was sent again");
    assert_eq!(server.ask("GET", "/readyz", None).status, 200);
}

/// What is kept for 90 days is that long by the one clock that all servers share, which is PostgreSQL's.
#[test]
fn a_server_whose_clock_is_far_ahead_drops_nothing_before_its_time() {
    let postgres = Postgres::shared();
    let database = postgres.create_database();
    let url = postgres.url(&database);
    let (mut server, upstream) = (Deltaplane::start(&url), Upstream::start("a"));
    let id = server.create(&service::http("shop", &Listener::reserve(), &upstream));
    for retries in 1..4 {
        server.patch(id, &json!({"retries": retries}));
    }
    server.stop();
    let ask = |sql: &str| {
        let answer = postgres.psql(&database, sql);
        answer.trim().parse::<i64>().expect("a number")
    };
    let [revisions, audit] =
        ["revisions", "audit"].map(|table| ask(&format!("SELECT count(*) FROM {table}")));
    assert!(revisions >= 4 && audit >= 4, "{revisions} {audit}");
    // The first of each is as old as the others are for who goes by a wrong clock.
    let age = 100 * 24 * 3_600_000_i64;
    for (table, first, at) in [("revisions", "revision", "made_ms"), ("audit", "id", "at")] {
        let of = format!("{first} = (SELECT min({first}) FROM {table})");
        postgres.psql(&database, &format!("UPDATE {table} SET {at} = {at} - {age} WHERE {of}"));
    }

    let clock = Clock::new();
    clock.is_ahead_by_hours(100 * 24);
    let ahead = Deltaplane::start_by(&clock, &url, &[]);
    let is_gone = |table: &str, at: &str| {
        let old = format!("{at} < (extract(epoch FROM clock_timestamp()) * 1000)::BIGINT - {age}");
        let old = ask(&format!("SELECT count(*) FROM {table} WHERE {old}"));
        (old == 0).then_some(())
    };
    wait_until("old revisions are gone", PATIENCE, || is_gone("revisions", "made_ms"));
    wait_until("old audits are gone", PATIENCE, || is_gone("audit", "at"));
    assert_eq!(ask("SELECT count(*) FROM revisions"), revisions - 1);
    assert_eq!(ask("SELECT count(*) FROM audit"), audit - 1);

    // What it writes itself is as old as what others write.
    ahead.patch(id, &json!({"retries": 4}));
    let later = "at > (extract(epoch FROM clock_timestamp()) * 1000)::BIGINT";
    assert_eq!(ask(&format!("SELECT count(*) FROM audit WHERE {later}")), 0);
    // And so is what it promises to keep.
    let oldest = ask("SELECT min(revision) FROM revisions");
    let back = format!("/api/v1/rollback/{oldest}?dry_run=true");
    assert_eq!(ahead.ask("POST", &back, None).status, 200);
    let promised = "SELECT max(kept_until) - (extract(epoch FROM clock_timestamp()) * 1000)::BIGINT \
                    FROM revisions";
    assert!((0..=600_000).contains(&ask(promised)), "it is kept for ten minutes");
}
