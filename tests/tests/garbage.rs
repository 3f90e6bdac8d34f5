//! A client that sends garbage ends its own stream, and nothing else.
//!
//! Written in frames, since a proper client would not send it.

#![allow(missing_docs, clippy::expect_used)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use deltaplane_tests::{Deltaplane, Variant, Witness};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: u8 = 4;
const HEADERS: u8 = 1;
const DATA: u8 = 0;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";

#[test]
fn ends_its_own_stream_only() {
    let witness = Witness::start();
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 4096], b"PRI * HTTP/2.0\r\n\r\n"] {
        let mut connection = connect(&witness.server);
        connection.write_all(garbage).expect("nobody hangs up before");
        drop(connection);
    }
    // Not HTTP/2 frames, where they belong.
    let mut connection = open(&witness.server);
    connection.write_all(&[0xff; 64]).expect("nobody hangs up before");
    // What comes back is how HTTP/2 says no, or nothing; then it is over.
    let _ = connection.read_to_end(&mut Vec::new());

    for variant in [Variant::Delta, Variant::Sotw] {
        let mut connection = open(&witness.server);
        // A neighbour on the same connection, who does everything right.
        call(&mut connection, 1, variant, &subscription(variant, CLUSTER));
        wait_for(&mut connection, 1, |kind, _| kind == DATA);
        // Not protobuf; protobuf without a type; a message longer than anybody may send.
        for (stream, message) in [(3, &[0xff; 9][..]), (5, &[])] {
            call(&mut connection, stream, variant, message);
            wait_for(&mut connection, stream, ended);
        }
        headers(&mut connection, 7, variant);
        frame(&mut connection, DATA, 0, 7, &[0, 0xff, 0xff, 0xff, 0xff]);
        wait_for(&mut connection, 7, ended);
        message(&mut connection, 1, &subscription(variant, LISTENER));
        wait_for(&mut connection, 1, |kind, _| kind == DATA);
    }
    witness.confirms();
}

fn ended(_: u8, flags: u8) -> bool {
    flags & END_STREAM != 0
}

fn connect(server: &Deltaplane) -> TcpStream {
    let connection = TcpStream::connect(server.xds).expect("a running server accepts");
    let patience = Some(Duration::from_secs(5));
    connection.set_read_timeout(patience).expect("a timeout may be set");
    connection
}

fn open(server: &Deltaplane) -> TcpStream {
    let mut connection = connect(server);
    connection.write_all(PREFACE).expect("the server reads");
    frame(&mut connection, SETTINGS, 0, 0, &[]);
    connection
}

/// Calls an ADS method with a first message.
fn call(connection: &mut TcpStream, stream: u32, variant: Variant, first: &[u8]) {
    headers(connection, stream, variant);
    message(connection, stream, first);
}

fn headers(connection: &mut TcpStream, stream: u32, variant: Variant) {
    let service = "/envoy.service.discovery.v3.AggregatedDiscoveryService";
    let path = match variant {
        Variant::Delta => format!("{service}/DeltaAggregatedResources"),
        Variant::Sotw => format!("{service}/StreamAggregatedResources"),
    };
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", &path),
        (":authority", "test"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    // HPACK in its plainest form: every name and value as it is.
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        block.extend(text(name.as_bytes()));
        block.extend(text(value.as_bytes()));
    }
    frame(connection, HEADERS, END_HEADERS, stream, &block);
}

/// A length of one byte and a text, as HPACK and protobuf both have it.
fn text(text: &[u8]) -> Vec<u8> {
    let length = u8::try_from(text.len()).ok().filter(|length| *length < 127);
    [&[length.expect("the texts here are short")], text].concat()
}

fn message(connection: &mut TcpStream, stream: u32, message: &[u8]) {
    let length = u32::try_from(message.len()).expect("the messages here are short");
    let mut body = vec![0];
    body.extend(length.to_be_bytes());
    body.extend(message);
    frame(connection, DATA, 0, stream, &body);
}

fn frame(connection: &mut TcpStream, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).expect("the frames here are short");
    let mut bytes = length.to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    connection.write_all(&bytes).expect("the server reads");
}

/// Reads frames up to the one of this stream that is looked for.
fn wait_for(connection: &mut TcpStream, stream: u32, found: impl Fn(u8, u8) -> bool) {
    loop {
        let mut head = [0; 9];
        connection.read_exact(&mut head).expect("the connection goes on");
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        connection.read_exact(&mut payload).expect("a frame is whole");
        let of = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        if of == stream && found(head[3], head[4]) {
            return;
        }
    }
}

/// A wildcard request, by the numbers of its fields.
fn subscription(variant: Variant, type_url: &str) -> Vec<u8> {
    let node = [field(1, b"neighbour"), field(2, b"cluster-1")].concat();
    let (node_number, type_number) = match variant {
        Variant::Delta => (1, 2),
        Variant::Sotw => (2, 4),
    };
    [field(node_number, &node), field(type_number, type_url.as_bytes())].concat()
}

fn field(number: u8, value: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2], &text(value)[..]].concat()
}
