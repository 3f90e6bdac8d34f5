//! How much memory there may be in use before new clients are refused.

use std::{
    fs,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::server::XdsServerBuilder;

/// How long what was read is good for.
const FRESH: Duration = Duration::from_millis(100);

/// What tells how many bytes are in use.
type Reading = dyn Fn() -> u64 + Send + Sync;

/// Watches over the memory.
pub(crate) struct Memory {
    limit: u64,
    read: Box<Reading>,
    last: Mutex<Option<(Instant, bool)>>,
}

impl Memory {
    pub(crate) fn new(limit: u64, read: Option<Box<Reading>>) -> Self {
        Self { limit, read: read.unwrap_or_else(|| Box::new(resident)), last: Mutex::default() }
    }

    /// Whether there is more in use than may be.
    pub(crate) fn is_short(&self) -> bool {
        if self.limit == u64::MAX {
            return false;
        }
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let was_short = match *last {
            Some((at, is_short)) if at.elapsed() < FRESH => return is_short,
            Some((_, was_short)) => was_short,
            None => false,
        };
        let bytes = (self.read)();
        let is_short = bytes > self.limit;
        *last = Some((Instant::now(), is_short));
        if is_short && !was_short {
            tracing::warn!(bytes, limit = self.limit, "short of memory: no new client is served");
        } else if was_short && !is_short {
            tracing::info!(bytes, limit = self.limit, "new clients are served again");
        }
        is_short
    }
}

/// How many bytes of this process are in memory, as far as Linux tells; elsewhere 0.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0).saturating_mul(1024)
}

impl XdsServerBuilder {
    /// What tells how many bytes are in use, for [`Limits::memory`](crate::Limits::memory): an allocator that
    /// counts, for example. Without it, that is what the process has in memory, on Linux: it hardly becomes less
    /// when clients leave, unless the allocator gives back to the system what is free. It is asked ten times a
    /// second at most.
    pub fn memory_in_use(mut self, read: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        self.memory_in_use = Some(Box::new(read));
        self
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_memory_of_the_process_is_read() {
        let megabytes = super::resident() >> 20;
        assert!((1..100_000).contains(&megabytes), "{megabytes}");
    }
}
