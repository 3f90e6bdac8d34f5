//! Requests that do not stop while something else happens.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::http;

/// A thread that sends one request after the other.
#[derive(Debug)]
pub struct Traffic {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    thread: Option<JoinHandle<Vec<String>>>,
}

impl Traffic {
    /// Starts to ask for this, of which each answer should be 200.
    pub fn start(port: u16, path: &str) -> Traffic {
        let url = format!("http://127.0.0.1:{port}{path}");
        let (stop, answered) = <(Arc<AtomicBool>, Arc<AtomicUsize>)>::default();
        let (until, count) = (stop.clone(), answered.clone());
        let thread = thread::spawn(move || {
            let mut failures = Vec::new();
            while !until.load(Ordering::Relaxed) {
                match http::get(&url) {
                    Ok(answer) if answer.status == 200 => {
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                    other => failures.push(format!("{other:?}")),
                }
                // Others need the machine, too.
                thread::sleep(Duration::from_millis(5));
            }
            failures
        });
        Traffic { stop, answered, thread: Some(thread) }
    }

    /// How many were answered so far.
    pub fn answered(&self) -> usize {
        self.answered.load(Ordering::Relaxed)
    }

    /// Stops. No request failed.
    pub fn ends_well(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("it is stopped once");
        let failures = thread.join().expect("it does not panic");
        assert_eq!(failures, [""; 0], "besides {} good answers", self.answered());
        assert!(self.answered() > 0, "there was time for a request");
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
