//! What Envoy routes to.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// The path that is answered late.
pub const SLOW: &str = "/slow";

/// How late.
pub const DELAY: Duration = Duration::from_secs(2);

/// An HTTP server that answers every request with its own name and counts requests by path.
#[derive(Debug)]
pub struct Upstream {
    port: u16,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    name: String,
    requests: Mutex<HashMap<String, usize>>,
    stopped: AtomicBool,
}

impl Upstream {
    /// Starts to listen on a port of 127.0.0.1.
    pub fn start(name: &str) -> Upstream {
        let listener = TcpListener::bind("127.0.0.1:0").expect("some port is free");
        let port = listener.local_addr().expect("a bound socket has an address").port();
        let (requests, stopped) = (Mutex::default(), AtomicBool::new(false));
        let shared = Arc::new(Shared { name: name.to_owned(), requests, stopped });
        let shared_with = shared.clone();
        thread::spawn(move || accept(&listener, &shared_with));
        Upstream { port, shared }
    }

    /// What it answers.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// How often a path was asked for.
    pub fn requests(&self, path: &str) -> usize {
        let requests = self.shared.requests.lock().expect("no holder of it panics");
        requests.get(path).copied().unwrap_or(0)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
        // A last connection, for the thread to look up from its wait.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

/// One thread for each connection; it ends with it.
fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for connection in listener.incoming().flatten() {
        if shared.stopped.load(Ordering::Relaxed) {
            return;
        }
        let shared = shared.clone();
        thread::spawn(move || answer_all(&connection, &shared));
    }
}

/// Answers until the other side has no more requests. Nobody here sends a body.
fn answer_all(mut connection: &TcpStream, shared: &Shared) -> Option<()> {
    let mut lines = BufReader::new(connection).lines();
    loop {
        let first = lines.next()?.ok()?;
        while !lines.next()?.ok()?.is_empty() {}
        let path = first.split(' ').nth(1)?.to_owned();
        if path == SLOW {
            thread::sleep(DELAY);
        }
        *shared.requests.lock().ok()?.entry(path).or_default() += 1;
        let (name, length) = (&shared.name, shared.name.len());
        // In one packet: there may be thousands of them in a second.
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{name}");
        connection.write_all(answer.as_bytes()).ok()?;
    }
}
