//! How many requests a stream may send.

use std::time::Duration;

use tokio::time::Instant;
use tonic::Status;

/// How many requests came in this second.
pub(crate) struct Rate {
    limit: u32,
    second: Instant,
    count: u32,
}

impl Rate {
    pub(crate) fn new(limit: u32) -> Self {
        Self { limit, second: Instant::now(), count: 0 }
    }

    /// Counts a request, and refuses it if it is one too many.
    pub(crate) fn count(&mut self) -> Result<(), Status> {
        if self.count >= self.limit {
            let now = Instant::now();
            if now.duration_since(self.second) < Duration::from_secs(1) {
                return Err(Status::resource_exhausted(format!(
                    "a stream may send {} requests a second, and this one sends more",
                    self.limit
                )));
            }
            (self.second, self.count) = (now, 0);
        }
        self.count += 1;
        Ok(())
    }
}
