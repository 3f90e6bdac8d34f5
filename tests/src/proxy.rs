//! A network before a server, such as between another one and its PostgreSQL, that can do what networks do.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// What begins a message of PostgreSQL that notifies of something.
const NOTIFICATION: u8 = b'A';

/// A TCP proxy. It ends, with all its connections, when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    network: Arc<Network>,
}

#[derive(Debug, Default)]
struct Network {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// The port of what is behind it.
    target: u16,
    delay: Duration,
    is_stalled: bool,
    loses_notifications: bool,
    has_ended: bool,
    /// How many connections there were.
    opened: u64,
    /// How many of these are forgotten.
    forgotten: u64,
    connections: Vec<TcpStream>,
}

impl Proxy {
    /// One before a port of this machine.
    pub fn before(target: u16) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("some port is free");
        let address = listener.local_addr().expect("it is bound");
        let network = Arc::new(Network::default());
        network.state().target = target;
        let behind = network.clone();
        thread::spawn(move || {
            for accepted in listener.incoming() {
                if behind.state().has_ended {
                    return;
                }
                if let Ok(client) = accepted {
                    behind.connect(client);
                }
            }
        });
        Proxy { address, network }
    }

    /// Where it is.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// What was behind it is at another port.
    pub fn leads_to(&self, target: u16) {
        self.network.state().target = target;
    }

    /// Each piece of what is answered takes so long.
    pub fn delays(&self, delay: Duration) {
        self.network.state().delay = delay;
    }

    /// Nothing gets through any more, and nobody is told.
    pub fn stalls(&self) {
        self.network.state().is_stalled = true;
    }

    /// On the connections that there are nothing gets through ever again, and nobody is told: half-open, each
    /// end takes them for good. New ones work.
    pub fn forgets(&self) {
        let mut state = self.network.state();
        state.forgotten = state.opened;
    }

    /// What stood still goes on.
    pub fn flows(&self) {
        self.network.state().is_stalled = false;
        self.network.changed.notify_all();
    }

    /// PostgreSQL's notifications get lost, as behind a pool of connections.
    pub fn loses_notifications(&self) {
        self.network.state().loses_notifications = true;
    }

    /// All connections end.
    pub fn cuts(&self) {
        for connection in self.network.state().connections.drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.network.state().has_ended = true;
        self.flows();
        self.cuts();
        // So that it looks whether it is over.
        let _ = TcpStream::connect(self.address);
    }
}

impl Network {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connect(self: &Arc<Network>, client: TcpStream) {
        let target = self.state().target;
        // If nobody is there, the client's connection ends here.
        let Ok(server) = TcpStream::connect(("127.0.0.1", target)) else { return };
        let twins = [client.try_clone(), server.try_clone()];
        let [Ok(from_client), Ok(from_server)] = twins else { return };
        let kept = [client.try_clone(), server.try_clone()];
        let mut state = self.state();
        state.connections.extend(kept.into_iter().flatten());
        state.opened += 1;
        let number = state.opened;
        drop(state);
        let (there, back) = (self.clone(), self.clone());
        thread::spawn(move || there.carry(number, from_client, server, false));
        thread::spawn(move || back.carry(number, from_server, client, true));
    }

    fn carry(&self, number: u64, mut from: TcpStream, mut to: TcpStream, is_answer: bool) {
        let mut piece = vec![0; 1 << 16];
        let mut unsent = Vec::new();
        while let Ok(length) = from.read(&mut piece) {
            if length == 0 {
                break;
            }
            let loses = self.waits(number, is_answer);
            unsent.extend_from_slice(&piece[..length]);
            let sent = if loses { without_notifications(&mut unsent) } else { unsent.split_off(0) };
            if to.write_all(&sent).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
        let _ = from.shutdown(Shutdown::Both);
    }

    /// Takes as long as the network does, and says whether notifications get lost.
    fn waits(&self, number: u64, is_answer: bool) -> bool {
        if is_answer {
            let delay = self.state().delay;
            thread::sleep(delay);
        }
        let mut state = self.state();
        while (state.is_stalled || number <= state.forgotten) && !state.has_ended {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        is_answer && state.loses_notifications
    }
}

/// Takes the whole messages out of what PostgreSQL sent, but for notifications.
fn without_notifications(unsent: &mut Vec<u8>) -> Vec<u8> {
    let mut sent = Vec::new();
    while let [kind, a, b, c, d, ..] = **unsent {
        let length = 1 + u32::from_be_bytes([a, b, c, d]) as usize;
        if unsent.len() < length {
            break;
        }
        let rest = unsent.split_off(length);
        let message = std::mem::replace(unsent, rest);
        if kind != NOTIFICATION {
            sent.extend(message);
        }
    }
    sent
}
