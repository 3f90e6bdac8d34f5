//! Clients of the HTTP API that never end, or never go on.

#![allow(missing_docs, clippy::expect_used, clippy::panic)]

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use deltaplane_tests::{Envoy, Variant, Witness, http, wait_until};

/// A client is waited for 30 s.
const PATIENCE: Duration = Duration::from_secs(60);

/// So many connections there may be.
const CONNECTIONS: usize = 512;

/// More than the server reads of any service.
const ENOUGH: usize = 4 << 20;

fn connect(witness: &Witness, head: &str) -> TcpStream {
    let mut stream = TcpStream::connect(witness.server.http).expect("the server listens");
    let head = format!("POST /api/v1/services/ HTTP/1.1\r\nhost: localhost\r\n{head}\r\n");
    stream.write_all(head.as_bytes()).expect("the server reads");
    stream
}

#[test]
fn a_body_without_end_is_answered_before_its_end() {
    let witness = Witness::start();
    let head = "content-type: application/json\r\ntransfer-encoding: chunked\r\n";
    let mut stream = connect(&witness, head);
    stream.set_read_timeout(Some(Duration::from_millis(1))).expect("a socket can be set up");
    let chunk = format!("1000\r\n{}\r\n", " ".repeat(0x1000));
    let (mut sent, mut answer) = (0, [0; 4096]);
    let said = loop {
        assert!(sent < ENOUGH, "{sent} bytes are read, and no answer comes");
        stream.write_all(chunk.as_bytes()).expect("the server reads until it answers");
        sent += chunk.len();
        match stream.read(&mut answer) {
            Ok(length) => break String::from_utf8_lossy(&answer[..length]).into_owned(),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => panic!("no answer: {error}"),
        }
    };
    assert!(said.starts_with("HTTP/1.1 413 "), "{said}");
    assert!(said.contains("application/problem+json"), "{said}");
    witness.confirms();
}

#[test]
fn who_never_goes_on_holds_nobody_up() {
    let mut witness = Witness::start();
    let head = "content-type: application/json\r\ncontent-length: 100\r\n";
    let slow: Vec<TcpStream> = (0..200).map(|_| connect(&witness, head)).collect();
    witness.confirms();
    // Not even the end of the server.
    witness.server.stop();
    drop(slow);
}

/// What some begin with, and go no further.
const BEGINNINGS: [&str; 4] = [
    "",
    "GET /healthz HTTP/1.1\r\nhost",
    "POST /api/v1/services/ HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
     content-length: 100\r\n\r\n{",
    "POST /v3/discovery:clusters HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{",
];

/// What asks for megabytes, again and again.
fn greed() -> String {
    "GET /openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(1 << 20)
}

#[test]
fn who_never_goes_on_is_let_go() {
    let witness = Witness::start();
    let connect = || TcpStream::connect(witness.server.http).expect("the server listens");
    let (mut greedy, greed) = (connect(), greed());
    greedy.set_nonblocking(true).expect("a socket can be set up");
    let mut asked = 0;
    // Nothing of what is answered is read.
    let mut ask = || loop {
        match greedy.write(&greed.as_bytes()[asked..]) {
            Ok(length) if length > 0 => asked += length,
            Ok(_) => panic!("all of it was read: {asked} bytes"),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
            Err(error) => return Some(error),
        }
    };
    assert!(ask().is_none());
    let silent = BEGINNINGS.iter().cycle().take(200).map(|beginning| {
        let mut stream = connect();
        stream.write_all(beginning.as_bytes()).expect("the server reads");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket can be set up");
        (*beginning, stream)
    });
    for (beginning, mut stream) in silent.collect::<Vec<_>>() {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("the connection ends");
        if beginning.starts_with("POST") {
            assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
            assert!(answer.contains("application/problem+json"), "{answer}");
        } else {
            assert_eq!(answer, "", "{beginning}");
        }
    }
    wait_until("who does not read is let go", PATIENCE, &mut ask);
    witness.confirms();
}

#[test]
fn one_connection_too_many_waits_and_envoys_get_in() {
    let witness = Witness::start();
    let address = witness.server.http;
    let connect = |_| TcpStream::connect(address).expect("the system takes the connection");
    let mut silent: Vec<TcpStream> = (0..CONNECTIONS).map(connect).collect();
    let asked = thread::spawn(move || http::get(&format!("http://{address}/healthz")));
    let late = Envoy::start(&witness.server.bootstrap("late", "cluster-1", Variant::Delta));
    wait_until("an Envoy is served", PATIENCE, || (late.listeners().len() == 1).then_some(()));
    assert!(!asked.is_finished());
    drop(silent.pop());
    let answer = asked.join().expect("it does not panic").expect("there is room");
    assert_eq!(answer.status, 200);
    witness.confirms();
}
