//! What a service says of itself, as users of a real Envoy see it.

#![allow(missing_docs, clippy::expect_used, clippy::panic)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::thread;

use deltaplane_tests::envoy::certificate::Certificate;
use deltaplane_tests::listener::PATIENCE;
use deltaplane_tests::upstream::SLOW;
use deltaplane_tests::{
    Database, Deltaplane, Envoy, Kind, Listener, TlsUpstream, Upstream, Variant, port, service,
    wait_until,
};
use serde_json::{Value, json};

/// An Envoy of fleet 1 and the server of it.
struct Fleet {
    server: Deltaplane,
    envoy: Envoy,
    _database: Database,
}

impl Fleet {
    fn start(variant: Variant) -> Fleet {
        let database = Database::create(Kind::Sqlite);
        let server = Deltaplane::start(&database.url());
        // Known, so that Envoy is answered at once.
        let other = json!({"name": "first", "listener_port": port::reserve(),
                           "upstream_host": "127.0.0.1", "upstream_port": 1});
        server.create(&other);
        let envoy = Envoy::start(&server.bootstrap("envoy-1", "cluster-1", variant));
        Fleet { server, envoy, _database: database }
    }

    /// Waits for this status on a port; nothing was rejected on the way.
    fn answers(&self, listener: &Listener, path: &str, status: u16) -> String {
        let what = format!("{status} for {path}");
        let answer = wait_until(&what, PATIENCE, || {
            listener.get(path).filter(|answer| answer.status == status)
        });
        for kind in ["cluster_manager.cds", "listener_manager.lds"] {
            assert_eq!(self.envoy.stat(&format!("{kind}.update_rejected")), 0, "{kind}");
        }
        answer.body
    }
}

#[test]
fn several_upstreams_share_by_weight() {
    let fleet = Fleet::start(Variant::Delta);
    let (port, a, b) = (Listener::reserve(), Upstream::start("a"), Upstream::start("b"));
    let places = json!([
        {"host": "127.0.0.1", "port": a.port(), "weight": 1},
        {"host": "127.0.0.1", "port": b.port(), "weight": 3},
    ]);
    let id = fleet.server.create(&json!({
        "name": "shop", "listener_port": port.port(), "upstreams": places,
    }));
    fleet.answers(&port, "/", 200);
    for _ in 0..80 {
        fleet.answers(&port, "/counted", 200);
    }
    let (of_a, of_b) = (a.requests("/counted"), b.requests("/counted"));
    assert!((15..=25).contains(&of_a), "{of_a} and {of_b} of 80");

    // By name, they are left to DNS; and one is enough again.
    let by_name = json!([
        {"host": "localhost", "port": a.port()}, {"host": "127.0.0.1", "port": b.port()},
    ]);
    fleet.server.patch(id, &json!({"upstreams": by_name}));
    wait_until("DNS", PATIENCE, || fleet.envoy.config_dump().contains("STRICT_DNS").then_some(()));
    for _ in 0..8 {
        fleet.answers(&port, "/", 200);
    }
    let one = json!({"upstreams": null, "upstream_host": "127.0.0.1", "upstream_port": a.port()});
    fleet.server.patch(id, &one);
    let of_b = || b.requests("/last");
    wait_until("b is left alone", PATIENCE, || {
        let before = of_b();
        (0..4).for_each(|_| drop(fleet.answers(&port, "/last", 200)));
        (of_b() == before).then_some(())
    });
}

#[test]
fn limits_and_retries() {
    let fleet = Fleet::start(Variant::Sotw);
    let (port, a) = (Listener::reserve(), Upstream::start("a"));
    let shop = service::http("shop", &port, &a);
    let id = fleet.server.create(&service::but(&shop, &json!({"timeout_ms": 200})));
    fleet.answers(&port, "/", 200);
    fleet.answers(&port, SLOW, 504);
    fleet.server.patch(id, &json!({"timeout_ms": 0}));
    fleet.answers(&port, SLOW, 200);

    // Nobody is at the second place: who is sent there is sent on.
    let nobody = port::reserve();
    let places = json!([
        {"host": "127.0.0.1", "port": a.port()}, {"host": "127.0.0.1", "port": nobody},
    ]);
    fleet.server.patch(id, &json!({"upstreams": places}));
    fleet.answers(&port, "/", 503);
    fleet.server.patch(id, &json!({"retries": 3}));
    let all_are_answered = || (0..10).all(|_| fleet.answers(&port, "/", 200) == "a").then_some(());
    wait_until("retries", PATIENCE, all_are_answered);

    // It is put aside, and taken up again.
    fleet.server.patch(id, &json!({"is_active": false}));
    port.closes("/");
    fleet.server.patch(id, &json!({"is_active": true}));
    port.reaches("/", &a);
}

#[test]
fn tls_to_the_upstream() {
    let fleet = Fleet::start(Variant::Delta);
    let (known, other) = (Certificate::make("shop.test"), Certificate::make("other.test"));
    let (port, upstream) = (Listener::reserve(), TlsUpstream::start(&known));
    let id = fleet.server.create(&json!({
        "name": "shop", "protocol": "https", "listener_port": port.port(),
        "upstream_host": "127.0.0.1", "upstream_port": upstream.port(),
        "tls_sni": "shop.test", "tls_ca": known.pem(),
    }));
    assert!(fleet.answers(&port, "/", 200).contains("TLS"));
    // Somebody else vouches, another name is asked for, and nobody cares.
    fleet.server.patch(id, &json!({"tls_ca": other.pem()}));
    fleet.answers(&port, "/", 503);
    fleet.server.patch(id, &json!({"tls_ca": known.pem(), "tls_sni": "other.test"}));
    fleet.answers(&port, "/", 503);
    fleet.server.patch(id, &json!({"tls_ca": null, "tls_sni": null, "tls_verify": false}));
    fleet.answers(&port, "/", 200);
    assert_eq!(fleet.envoy.stat("cluster.shop.ssl.handshake").min(1), 1);

    // Without TLS, it is not understood.
    fleet.server.patch(id, &json!({"protocol": "http", "tls_verify": true}));
    fleet.answers(&port, "/", 503);
}

#[test]
fn a_call_of_grpc_goes_through() {
    let fleet = Fleet::start(Variant::Delta);
    let port = Listener::reserve();
    fleet.server.create(&json!({
        "name": "xds", "protocol": "grpc", "listener_port": port.port(), "retries": 1,
        "upstream_host": "127.0.0.1", "upstream_port": fleet.server.xds.port(),
    }));
    // A health check of gRPC, spoken by hand: an empty request, and SERVING.
    let answer = wait_until("an answer", PATIENCE, || {
        let mut connection = TcpStream::connect(("127.0.0.1", port.port())).ok()?;
        let head = "POST /grpc.health.v1.Health/Check HTTP/1.1\r\nhost: xds\r\nte: trailers\r\n\
                    content-type: application/grpc\r\ncontent-length: 5\r\nconnection: close\r\n\r\n";
        connection.write_all(&[head.as_bytes(), &[0; 5]].concat()).ok()?;
        let mut answer = Vec::new();
        connection.read_to_end(&mut answer).ok()?;
        answer.starts_with(b"HTTP/1.1 200").then_some(answer)
    });
    let serving = [0, 0, 0, 0, 2, 8, 1];
    assert!(answer.windows(serving.len()).any(|window| window == serving), "{answer:?}");
    assert_ne!(fleet.envoy.stat("cluster.xds.upstream_cx_http2_total"), 0);
}

#[test]
fn requests_become_websockets_where_they_may() {
    let fleet = Fleet::start(Variant::Delta);
    let (port, upstream) = (Listener::reserve(), echo());
    let mut chat = json!({
        "name": "chat", "listener_port": port.port(),
        "upstream_host": "127.0.0.1", "upstream_port": upstream,
    });
    let id = fleet.server.create(&chat);
    wait_until("a refusal", PATIENCE, || (said(&port)? == "403").then_some(()));
    chat["websocket"] = true.into();
    fleet.server.replace(id, &chat);
    wait_until("an echo", PATIENCE, || (said(&port)? == "hello").then_some(()));
}

/// What comes back for an upgrade and a word: the word, or the status in place of the upgrade.
fn said(port: &Listener) -> Option<String> {
    let mut connection = TcpStream::connect(("127.0.0.1", port.port())).ok()?;
    let head = "GET / HTTP/1.1\r\nhost: chat\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    connection.write_all(head.as_bytes()).ok()?;
    let mut lines = BufReader::new(connection.try_clone().ok()?);
    let status = head_of(&mut lines)?;
    if status != "101" {
        return Some(status);
    }
    connection.write_all(b"hello").ok()?;
    let mut echoed = [0; 5];
    lines.read_exact(&mut echoed).ok()?;
    String::from_utf8(echoed.to_vec()).ok()
}

/// A server that takes every upgrade and sends back all that comes after it.
fn echo() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("some port is free");
    let port = listener.local_addr().expect("a bound socket has an address").port();
    let serve = |mut connection: TcpStream| {
        let mut lines = BufReader::new(connection.try_clone().ok()?);
        head_of(&mut lines)?;
        let head = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n\
                    upgrade: websocket\r\n\r\n";
        connection.write_all(head.as_bytes()).ok()?;
        std::io::copy(&mut lines, &mut connection).ok()
    };
    thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            thread::spawn(move || serve(connection));
        }
    });
    port
}

/// Reads up to the empty line; returns the second word of the first.
fn head_of(lines: &mut impl BufRead) -> Option<String> {
    let (mut first, mut line) = (String::new(), String::new());
    lines.read_line(&mut first).ok()?;
    while line != "\r\n" {
        line.clear();
        if lines.read_line(&mut line).ok()? == 0 {
            return None;
        }
    }
    first.split(' ').nth(1).map(str::to_owned)
}

/// Whoever writes past the HTTP API has all of it, too.
#[test]
fn rows_written_past_the_server() {
    for kind in [Kind::Sqlite, Kind::Postgres] {
        let database = Database::create(kind);
        let server = Deltaplane::start(&database.url());
        let (port, a) = (Listener::reserve(), Upstream::start("a"));
        let places = json!([{"host": "127.0.0.1", "port": a.port()}]);
        database.execute(&format!(
            "INSERT INTO services (name, listener_port, upstream_host, upstream_port, upstreams) \
             VALUES ('shop', {}, 'unused', 1, '{places}')",
            port.port()
        ));
        let envoy = Envoy::start(&server.bootstrap("envoy-1", "cluster-1", Variant::Delta));
        port.reaches("/", &a);
        let rows: Value = server.ask("GET", "/api/v1/services/", None).json();
        assert_eq!(rows[0]["upstream_port"], a.port(), "{rows}");
        database.execute("UPDATE services SET is_active = NOT is_active");
        port.closes("/");
        drop(envoy);
    }
}

/// What a client is shown on a port, and what it answers.
fn over_tls(port: &Listener, authority: &Certificate, name: &str) -> Option<String> {
    let folder = tempfile::tempdir().expect("a folder for temporary files can be made");
    let ca = folder.path().join("ca");
    std::fs::write(&ca, authority.pem()).expect("a folder can be written to");
    let mut client = Command::new("openssl")
        .args(["s_client", "-quiet", "-verify_return_error", "-verify_quiet"])
        .args(["-servername", name, "-verify_hostname", name])
        .args(["-connect", &format!("127.0.0.1:{}", port.port())])
        .arg("-CAfile")
        .arg(ca)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("openssl is there");
    let request = format!("GET / HTTP/1.1\r\nhost: {name}\r\nconnection: close\r\n\r\n");
    // Who is refused does not listen.
    let _ = client.stdin.take().expect("it is piped").write_all(request.as_bytes());
    let output = client.wait_with_output().ok()?;
    let answer = String::from_utf8_lossy(&output.stdout).into_owned();
    answer.starts_with("HTTP/1.1 200").then_some(answer)
}

fn put(fleet: &Fleet, path: &str, body: &Value) {
    let answer = fleet.server.ask("PUT", path, Some(&body.to_string()));
    assert!(matches!(answer.status, 200 | 201), "{}", answer.body);
}

#[test]
fn certificates_are_shown_and_rotate() {
    let fleet = Fleet::start(Variant::Delta);
    let (old, new) = (Certificate::make("shop.test"), Certificate::make("shop.test"));
    let pair = |of: &Certificate| json!({"certificate": of.pem(), "key": of.key()});
    let (port, a) = (Listener::reserve(), Upstream::start("a"));
    put(&fleet, "/api/v1/certificates/shop", &pair(&old));
    let shop = service::http("shop", &port, &a);
    fleet.server.create(&service::but(&shop, &json!({"certificate": "shop"})));
    wait_until("the old one", PATIENCE, || over_tls(&port, &old, "shop.test"));
    let listeners = fleet.envoy.stat("listener_manager.listener_modified");
    put(&fleet, "/api/v1/certificates/shop", &pair(&new));
    wait_until("the new one", PATIENCE, || over_tls(&port, &new, "shop.test"));
    assert_eq!(over_tls(&port, &old, "shop.test"), None, "the old one is not shown any more");
    assert_eq!(fleet.envoy.stat("listener_manager.listener_modified"), listeners);
}

#[test]
fn stored_authorities_vouch_for_upstreams_and_rotate() {
    let fleet = Fleet::start(Variant::Sotw);
    let (known, other) = (Certificate::make("shop.test"), Certificate::make("other.test"));
    let (port, upstream) = (Listener::reserve(), TlsUpstream::start(&known));
    put(&fleet, "/api/v1/certificates/ca", &json!({"authorities": other.pem()}));
    fleet.server.create(&json!({
        "name": "shop", "protocol": "https", "listener_port": port.port(),
        "upstream_host": "127.0.0.1", "upstream_port": upstream.port(),
        "tls_sni": "shop.test", "tls_ca": "ca",
    }));
    fleet.answers(&port, "/", 503);
    let both = format!("{}{}", other.pem(), known.pem());
    put(&fleet, "/api/v1/certificates/ca", &json!({"authorities": both}));
    fleet.answers(&port, "/", 200);
}

#[test]
fn routes_lead_by_path_and_header() {
    let fleet = Fleet::start(Variant::Delta);
    let (port, a, b) = (Listener::reserve(), Upstream::start("a"), Upstream::start("b"));
    let shop = service::http("shop", &port, &a);
    fleet.server.create(&shop);
    let elsewhere = Listener::reserve();
    fleet.server.create(&service::but(&service::http("new", &elsewhere, &b), &json!({})));
    let to = |fields: Value| {
        let route = json!({"listener_port": port.port(), "targets": [{"service": "new"}]});
        service::but(&route, &fields)
    };
    let route = |name: &str, route: Value| put(&fleet, &format!("/api/v1/routes/{name}"), &route);
    route("exact", to(json!({"path": "/exact"})));
    route("regex", to(json!({"regex": "/v[0-9]+/(.*)", "rewrite": {"regex": "/\\1"}})));
    route("rewritten", to(json!({"prefix": "/old/", "rewrite": {"prefix": "/"}})));
    route("canary", to(json!({"prefix": "/", "headers": [{"name": "x-canary", "exact": "yes"}]})));
    let away = json!({"path": "/away", "targets": [], "redirect": {"path": "/exact"}});
    route("away", to(away));
    port.reaches("/", &a);
    port.reaches("/exact", &b);
    port.reaches("/exactly", &a);
    port.reaches("/v12/regex", &b);
    port.reaches("/v/regex", &a);
    port.reaches("/old/prefix", &b);
    assert_eq!((b.requests("/regex"), b.requests("/prefix")), (1, 1), "rewritten");
    let before = b.requests("/exact");
    port.reaches("/away", &b);
    assert_eq!(b.requests("/exact"), before + 1, "redirected");
    let head = "GET / HTTP/1.1\r\nhost: a\r\nx-canary: yes\r\nconnection: close\r\n\r\n";
    let mut connection = TcpStream::connect(("127.0.0.1", port.port())).expect("Envoy listens");
    connection.write_all(head.as_bytes()).expect("Envoy reads");
    let mut answer = String::new();
    connection.read_to_string(&mut answer).expect("Envoy answers");
    assert!(answer.ends_with('b'), "{answer}");

    // A part of the requests, and then all of them.
    let split = json!({"prefix": "/split", "targets": [
        {"service": "shop", "weight": 1}, {"service": "new", "weight": 1}]});
    route("split", to(split));
    wait_until("both", PATIENCE, || {
        let _ = fleet.answers(&port, "/split", 200);
        (a.requests("/split") > 0 && b.requests("/split") > 0).then_some(())
    });
    let all = json!({"prefix": "/split", "targets": [
        {"service": "shop", "weight": 0}, {"service": "new", "weight": 1}]});
    route("split", to(all));
    wait_until("one", PATIENCE, || {
        let before = a.requests("/split");
        (0..8).for_each(|_| drop(fleet.answers(&port, "/split", 200)));
        (a.requests("/split") == before).then_some(())
    });
}
