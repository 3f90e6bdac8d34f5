//! What arrived, and how long it took.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::Notify;

/// What all streams note.
#[derive(Debug, Default)]
pub(crate) struct Arrivals {
    state: Mutex<State>,
    /// How many responses with resources came, and how many resources.
    messages: AtomicUsize,
    resources: AtomicUsize,
    complete: Notify,
}

#[derive(Debug, Default)]
struct State {
    missing: usize,
    since: Option<Instant>,
    last: Option<Instant>,
    microseconds: Vec<u64>,
    failure: Option<String>,
}

impl Arrivals {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// So many are to come, from now on.
    pub(crate) fn expect(&self, count: usize) {
        let mut state = self.state();
        state.missing = count;
        state.since = Some(Instant::now());
    }

    /// One came, with so many resources.
    pub(crate) fn note(&self, resources: usize) {
        self.messages.fetch_add(1, Ordering::Relaxed);
        self.resources.fetch_add(resources, Ordering::Relaxed);
        let now = Instant::now();
        let mut state = self.state();
        state.last = Some(now);
        if state.missing == usize::MAX {
            return;
        }
        if let Some(since) = state.since {
            let microseconds = now.duration_since(since).as_micros();
            state.microseconds.push(u64::try_from(microseconds).unwrap_or(u64::MAX));
        }
        state.missing = state.missing.saturating_sub(1);
        if state.missing == 0 {
            self.complete.notify_one();
        }
    }

    /// A stream ended that should not have.
    pub(crate) fn fail(&self, failure: impl ToString) {
        let mut state = self.state();
        state.failure.get_or_insert(failure.to_string());
        state.missing = 0;
        self.complete.notify_one();
    }

    /// Returns when all came.
    pub(crate) async fn all(&self) {
        while self.missing() > 0 {
            self.complete.notified().await;
        }
    }

    /// Returns when nothing came for a while, and how long something did from now on.
    pub(crate) async fn quiet(&self, pause: Duration, patience: Duration) -> Duration {
        let start = Instant::now();
        loop {
            let last = self.state().last.unwrap_or(start);
            if last.elapsed() >= pause || start.elapsed() > patience {
                return last.saturating_duration_since(start);
            }
            tokio::time::sleep(pause / 10).await;
        }
    }

    /// How many are yet to come.
    pub(crate) fn missing(&self) -> usize {
        self.state().missing
    }

    /// Why a stream ended, if one did.
    pub(crate) fn failure(&self) -> Option<String> {
        self.state().failure.clone()
    }

    /// Begins anew.
    pub(crate) fn forget(&self) {
        self.state().microseconds.clear();
        self.messages.store(0, Ordering::Relaxed);
        self.resources.store(0, Ordering::Relaxed);
    }

    /// How many responses with resources came.
    pub(crate) fn messages(&self) -> usize {
        self.messages.load(Ordering::Relaxed)
    }

    /// How many resources came.
    pub(crate) fn resources(&self) -> usize {
        self.resources.load(Ordering::Relaxed)
    }

    /// In how many microseconds so many of a thousand came.
    pub(crate) fn took(&self, per_mille: usize) -> u64 {
        let mut took = self.state().microseconds.clone();
        let rank = (took.len() * per_mille).div_ceil(1_000).max(1) - 1;
        if rank >= took.len() {
            return 0;
        }
        *took.select_nth_unstable(rank).1
    }

    /// How many came, and how long they took.
    pub(crate) fn summary(&self) -> String {
        let (messages, [p50, p99, p999, last]) =
            (self.messages(), [500, 990, 999, 1_000].map(|per_mille| self.took(per_mille)));
        format!("messages={messages} p50={p50} p99={p99} p999={p999} last={last}")
    }
}
