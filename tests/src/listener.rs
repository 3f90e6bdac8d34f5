//! A port on which an Envoy listens, as its users see it.

use std::time::Duration;

use crate::http::{self, Answer};
use crate::{Upstream, port, wait_until};

/// A change is there within a second; a busy machine gets a few more. It is well below the 15 s that
/// Envoy waits for endpoints that do not come.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// A port of 127.0.0.1 that Envoy is told to listen on.
#[derive(Debug)]
pub struct Listener {
    port: u16,
}

impl Listener {
    /// A port that is free, and that nobody else is told to listen on: Envoys would share it.
    pub fn reserve() -> Listener {
        Listener { port: port::reserve() }
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What is answered there, if anything is.
    pub fn get(&self, path: &str) -> Option<Answer> {
        http::get(&format!("http://127.0.0.1:{}{path}", self.port)).ok()
    }

    /// Waits until requests reach an upstream, whatever becomes of them before: the route to a new
    /// cluster does not wait for the cluster, which takes some milliseconds longer (O-12).
    pub fn reaches(&self, path: &str, upstream: &Upstream) {
        wait_until(&format!("{path} reaches {}", upstream.name()), PATIENCE, || {
            self.get(path).filter(|answer| *answer == of(upstream))
        });
    }

    /// Waits until requests reach another upstream. No request is lost.
    pub fn moves(&self, path: &str, from: &Upstream, to: &Upstream) {
        self.moves_within(path, from, to, PATIENCE);
    }

    /// The same for an Envoy that may have to connect first.
    pub fn moves_within(&self, path: &str, from: &Upstream, to: &Upstream, patience: Duration) {
        let what = format!("{path} moves from {} to {}", from.name(), to.name());
        let answer =
            wait_until(&what, patience, || self.get(path).filter(|answer| *answer != of(from)));
        assert_eq!(answer, of(to), "on port {}", self.port);
    }

    /// Waits until nothing is there any more, while the rest of the port may stay.
    pub fn closes(&self, path: &str) {
        self.closes_within(path, PATIENCE);
    }

    /// The same for an Envoy that may have to connect first.
    pub fn closes_within(&self, path: &str, patience: Duration) {
        wait_until(&format!("{path} closes"), patience, || {
            self.get(path).is_none_or(|answer| answer.status == 404).then_some(())
        });
    }
}

fn of(upstream: &Upstream) -> Answer {
    Answer { status: 200, body: upstream.name().to_owned() }
}
