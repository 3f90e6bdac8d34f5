//! Waiting for something to become so.

use std::thread;
use std::time::{Duration, Instant};

/// Looks often, so that what is measured is not how often we look.
const INTERVAL: Duration = Duration::from_millis(10);

/// Asks `probe` until it answers, and returns its answer. Tells how long it took.
///
/// # Panics
/// If there is no answer within `patience`.
pub fn wait_until<T>(what: &str, patience: Duration, probe: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    let found = wait_quietly(what, patience, probe);
    println!("{what}: {:.3} s", start.elapsed().as_secs_f64());
    found
}

/// The same for what happens hundreds of times, of which nothing is told.
///
/// # Panics
/// If there is no answer within `patience`.
pub fn wait_quietly<T>(what: &str, patience: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(start.elapsed() < patience, "not within {patience:?}: {what}");
        thread::sleep(INTERVAL);
    }
}
