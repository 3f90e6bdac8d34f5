//! What the server knows about its own state, shared with who asks for it.

use tokio::sync::watch;

/// The state of the server at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status {
    /// Why the database cannot be followed at the moment, if so. Clients are
    /// served what was last read.
    pub trouble: Option<String>,
    /// The revision of the database that clients are served.
    pub revision: i64,
    /// How many rows were translated since the start.
    pub rows_translated: u64,
    /// How many resources were built, encoded and hashed since the start.
    pub resources_built: u64,
}

/// The current [`Status`]. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Health(watch::Sender<Status>);

impl Health {
    /// How things are.
    pub fn status(&self) -> Status {
        self.0.borrow().clone()
    }

    pub(crate) fn update(&self, change: impl FnOnce(&mut Status)) {
        self.0.send_modify(change);
    }
}
