//! Who left with something rejected.

use std::time::{Duration, Instant};

use dashmap::DashMap;

/// How long a client may take to come back before it is believed again.
const KEPT: Duration = Duration::from_secs(3600);

/// How many clients are remembered.
const MOST: usize = 10_000;

/// The nodes whose last stream ended with an unresolved rejection: what they report on their next one is
/// not what they run.
#[derive(Debug, Default)]
pub(crate) struct Rejections {
    since: DashMap<String, Instant>,
}

impl Rejections {
    pub(crate) fn contains(&self, node_id: &str) -> bool {
        self.since.get(node_id).is_some_and(|since| since.elapsed() < KEPT)
    }

    /// Notes how a stream of a node ended.
    pub(crate) fn note(&self, node_id: &str, rejected: bool) {
        if !rejected {
            self.since.remove(node_id);
        } else if self.has_room() {
            self.since.insert(node_id.to_owned(), Instant::now());
        }
    }

    fn has_room(&self) -> bool {
        if self.since.len() >= MOST {
            self.since.retain(|_, since| since.elapsed() < KEPT);
        }
        self.since.len() < MOST
    }
}
