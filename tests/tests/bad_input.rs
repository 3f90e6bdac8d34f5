//! Whatever is wrong gets one clear message, and nobody who is being served suffers for it.

#![allow(missing_docs, clippy::expect_used)]

use std::net::TcpListener;

use deltaplane_tests::server::refusal;
use deltaplane_tests::{Database, Deltaplane, Kind, Listener, Postgres, Witness, port, service};
use serde_json::{Value, json};

#[test]
fn of_rest() {
    let witness = Witness::start();
    let tcp = Listener::reserve();
    let free = service::but(&witness.service, &json!({"name": "new", "prefix": "/new"}));
    let new = |fields: Value| service::but(&free, &fields).to_string();
    let on_tcp = |name: &str| {
        let port = json!({"name": name, "listener_port": tcp.port(), "protocol": "tcp"});
        service::but(&witness.service, &port).to_string()
    };
    let first = witness.server.ask("POST", "/api/v1/services/", Some(&on_tcp("first")));
    assert_eq!(first.status, 201, "{}", first.body);

    // What is sent, the status of the answer, and what its detail speaks of.
    let cases = [
        ("{".to_owned(), 400, "JSON"),
        ("[]".to_owned(), 422, "JSON object"),
        ("{}".to_owned(), 422, "listener_port: is missing"),
        (new(json!({"colour": "red"})), 422, "colour"),
        (new(json!({"listener_port": 0})), 422, "listener_port: 0"),
        (new(json!({"listener_port": 70_000})), 422, "listener_port: 70000"),
        (new(json!({"upstream_port": 0})), 422, "upstream_port: 0"),
        (new(json!({"upstream_port": 70_000})), 422, "upstream_port: 70000"),
        (new(json!({"upstream_port": "80"})), 422, "upstream_port"),
        (new(json!({"name": ""})), 422, "name: "),
        (new(json!({"name": "n".repeat(300)})), 422, "name: has 300 characters"),
        (new(json!({"upstream_host": "two words"})), 422, "upstream_host: "),
        (new(json!({"upstream_host": ""})), 422, "upstream_host: "),
        (new(json!({"protocol": "udp"})), 422, "protocol: "),
        (new(json!({"health_check_path": "no slash"})), 422, "health_check_path: "),
        (new(json!({"name": "shop"})), 409, "name: "),
        (new(json!({"prefix": "/"})), 409, "prefix: "),
        (on_tcp("second"), 409, "listener_port: "),
    ];
    for (body, status, detail) in &cases {
        let answer = witness.server.ask("POST", "/api/v1/services/", Some(body));
        assert_eq!(answer.status, *status, "{body}: {}", answer.body);
        let said = answer.json()["detail"].as_str().unwrap_or_default().to_owned();
        assert!(said.contains(detail) && !said.contains('\n'), "{body}: {said}");
        println!("{status} {said}");
    }
    for (method, body) in [("GET", None), ("PUT", Some(new(json!({})))), ("DELETE", None)] {
        let answer = witness.server.ask(method, "/api/v1/services/4711", body.as_deref());
        assert_eq!(answer.status, 404, "{method}: {}", answer.body);
    }
    let services = witness.server.ask("GET", "/api/v1/services/", None);
    assert_eq!(services.json().as_array().map(Vec::len), Some(2), "none of these was stored");
    witness.confirms();
}

#[test]
fn of_the_command_line() {
    let database = Database::create(Kind::Sqlite);
    let any = "127.0.0.1:0";
    let taken = TcpListener::bind(any).expect("some port is free");
    let taken = taken.local_addr().expect("a bound socket has an address").to_string();
    let nobody = format!("postgres://user:secret@127.0.0.1:{}/absent", port::reserve());
    // The database, both addresses, and what the message speaks of.
    let cases = [
        ("nonsense", any, any, "--database-url"),
        ("mysql://127.0.0.1/db", any, any, "\"mysql\""),
        (nobody.as_str(), any, any, "postgres://user@127.0.0.1"),
        ("sqlite:///nowhere/at/all.db", any, any, "/nowhere/at/all.db"),
        (&database.url(), &taken, any, "--xds-listen"),
        (&database.url(), any, &taken, "--http-listen"),
        (&database.url(), "nonsense", any, "nonsense"),
    ];
    for (url, xds, http, word) in cases {
        let said = refusal(url, xds, http);
        println!("{said}");
        assert!(said.contains(word) && !said.contains("secret"), "{said}");
        let lines = said.lines().filter(|line| !line.trim().is_empty()).count();
        assert_eq!(lines, 1, "one message, not more: {said}");
    }
}

#[test]
fn of_a_wrong_postgres_database() {
    let postgres = Postgres::shared();
    let any = "127.0.0.1:0";
    let absent = refusal(&postgres.url("absent"), any, any);
    assert!(absent.contains("absent") && absent.contains("does not exist"), "{absent}");
    // Somebody else's tables are left alone.
    let foreign = postgres.create_database();
    postgres.psql(&foreign, "CREATE TABLE services (theirs TEXT)");
    let said = refusal(&postgres.url(&foreign), any, any);
    println!("{absent}{said}");
    assert!(said.contains("services") && said.trim().lines().count() == 1, "{said}");
    assert_eq!(postgres.psql(&foreign, "SELECT count(*) FROM services").trim(), "0");
}

#[test]
fn any_port_will_do() {
    let database = Database::create(Kind::Sqlite);
    let server = Deltaplane::start_on(&database.url(), 0, 0);
    assert!(server.xds.port() != 0 && server.http.port() != 0);
    assert_eq!(server.ask("GET", "/healthz", None).status, 200);
}
