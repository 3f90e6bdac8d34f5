//! What the programs of the fleet benchmark share.
//!
//! * `fleet` runs it all: it starts each contestant, loads it, measures it, and writes `RESULTS.md`
//! * `fleet-load` is the fleet: it opens the streams, publishes the changes, and times their arrival
//! * `fleet-server` is ours, as anybody would embed it
//! * `fleet-floor` is what HTTP/2 alone costs
//!
//! Contestants in other languages are in `peers/`. Each serves ADS on one port, and on another what
//! [`control`] describes.

pub mod cluster;
pub mod control;
pub mod skim;
pub mod tls;
pub mod usage;

/// What the benchmark's programs fail with; whoever started them reads it.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// Whether something worked.
pub type Result<T, E = Error> = std::result::Result<T, E>;
