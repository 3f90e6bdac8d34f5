//! As much of HTTP/2 as it takes to be a client that answers nothing, or pings as it likes.

use std::{
    io::{
        ErrorKind::{ConnectionReset, UnexpectedEof},
        Read, Write,
    },
    net::{SocketAddr, TcpStream},
    time::Duration,
};

const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
pub const GOAWAY: u8 = 7;

const ACK: u8 = 1;

/// The client wants no more of a stream.
const CANCEL: u32 = 8;

/// A message as it is on a gRPC stream.
pub fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[0], &length[..], message].concat()
}

pub struct RawClient {
    socket: TcpStream,
}

impl RawClient {
    pub fn connect(address: SocketAddr) -> Self {
        let mut socket = TcpStream::connect(address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        socket.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
        let mut client = Self { socket };
        client.write(SETTINGS, 0, 0, &[]);
        client
    }

    /// Opens a stream, and sends one message on it.
    pub fn call(&mut self, path: &str, message: &[u8]) {
        self.headers(path);
        self.say(&framed(message));
    }

    /// Sends a piece of what it says on its stream.
    pub fn say(&mut self, piece: &[u8]) {
        self.write(DATA, 0, 1, piece);
    }

    fn headers(&mut self, path: &str) {
        let mut headers = Vec::new();
        for (name, value) in [
            (":method", "POST"),
            (":scheme", "http"),
            (":authority", "test"),
            (":path", path),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ] {
            // Literally, and not to be indexed.
            headers.push(0);
            for text in [name, value] {
                headers.push(u8::try_from(text.len()).unwrap());
                headers.extend(text.as_bytes());
            }
        }
        self.write(HEADERS, 4, 1, &headers);
    }

    /// Pings, and waits for the answer.
    pub fn ping(&mut self, payload: u64) {
        self.write(PING, 0, 0, &payload.to_be_bytes());
        while self.read() != (PING, payload.to_be_bytes().to_vec()) {}
    }

    /// Reads until there is data.
    pub fn data(&mut self) -> Vec<u8> {
        self.until(DATA)
    }

    /// Reads until there is a frame of this kind.
    pub fn until(&mut self, kind: u8) -> Vec<u8> {
        loop {
            let (read, payload) = self.read();
            if read == kind {
                return payload;
            }
        }
    }

    /// Opens a stream, and sends nothing on it.
    pub fn call_silently(&mut self, path: &str) {
        self.headers(path);
    }

    /// Ends its stream.
    pub fn reset(&mut self) {
        self.write(RST_STREAM, 0, 1, &CANCEL.to_be_bytes());
    }

    /// The kinds of all frames until the server closes the connection; its pings are answered.
    pub fn rest(&mut self) -> Vec<u8> {
        let mut kinds = Vec::new();
        while let Some((kind, flags, payload)) = self.frame() {
            if kind == PING && flags & ACK == 0 {
                self.write(PING, ACK, 0, &payload);
            }
            kinds.push(kind);
        }
        kinds
    }

    fn write(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = length[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        self.socket.write_all(&frame).unwrap();
    }

    /// The kind and the payload of the next frame, which must not be the last.
    fn read(&mut self) -> (u8, Vec<u8>) {
        let (kind, _, payload) = self.frame().expect("the connection is open");
        assert_ne!(kind, GOAWAY, "{:?}", String::from_utf8_lossy(&payload));
        (kind, payload)
    }

    /// The kind, the flags and the payload of the next frame, if there is one.
    fn frame(&mut self) -> Option<(u8, u8, Vec<u8>)> {
        let mut head = [0; 9];
        if let Err(error) = self.socket.read_exact(&mut head) {
            let is_closed = matches!(error.kind(), UnexpectedEof | ConnectionReset);
            assert!(is_closed, "the server does not close the connection: {error}");
            return None;
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        self.socket.read_exact(&mut payload).unwrap();
        Some((head[3], head[4], payload))
    }
}
