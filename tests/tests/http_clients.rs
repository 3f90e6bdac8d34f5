//! Clients of the REST face that never end, or never go on.

#![allow(missing_docs, clippy::expect_used, clippy::panic)]

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use deltaplane_tests::Witness;

/// More than the server reads of any service.
const ENOUGH: usize = 4 << 20;

fn connect(witness: &Witness, head: &str) -> TcpStream {
    let mut stream = TcpStream::connect(witness.server.http).expect("the server listens");
    let head = format!("POST /api/v1/services/ HTTP/1.1\r\nhost: x\r\n{head}\r\n");
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
