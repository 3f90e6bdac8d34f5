//! What the server knows about its own state, shared with who asks for it.

use std::collections::BTreeMap;
use std::time::{Instant, SystemTime};

use deltaplane_server::Revision;
use tokio::sync::watch;

use crate::replicas::Replicas;
use crate::tls::TlsStatus;

/// The state of the server at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status {
    /// Everything was read once.
    pub is_loaded: bool,
    /// Envoys may connect.
    pub serves_xds: bool,
    /// Why the database cannot be followed at the moment, if so. Clients are
    /// served what was last read.
    pub trouble: Option<String>,
    /// Why the last thing that somebody wrote was not stored, if the database did not do it and was
    /// not seen to do so since.
    pub unwritten: Option<String>,
    /// Why the last known good state cannot be kept in its file, if so.
    pub unkept: Option<String>,
    /// Since the database has not been read yet, clients are served what was kept of it at
    /// this revision.
    pub last_known_good: Option<i64>,
    /// The revision of the database that clients are served: that of the fleet that is behind most.
    pub revision: i64,
    /// The revision up to which the database was read.
    pub read: i64,
    /// The fleets that are not served all of that yet, with the revision that they are served.
    pub behind: BTreeMap<String, i64>,
    /// How often something was published since the start.
    pub publications: u64,
    /// The last time that something was, and what.
    pub published: Option<Published>,
    /// How often what changed was told to a fleet together with what waited already.
    pub coalesced: u64,
    /// How often a change was found of which the database had not told.
    pub untold: u64,
    /// How many rows of the database are not valid: what each was before is served, if it was anything.
    pub invalid_rows: usize,
    /// When each stored certificate ends, in seconds since 1970.
    pub certificates: BTreeMap<String, i64>,
    /// How TLS is on each face that has it.
    pub tls: BTreeMap<&'static str, TlsStatus>,
    /// How many rows were translated since the start.
    pub rows_translated: u64,
    /// How many resources were built, encoded and hashed since the start.
    pub resources_built: u64,
    /// The servers on the database, if that is known.
    pub replicas: Option<Replicas>,
}

/// A change that clients are told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Published {
    /// The cache's revision.
    pub revision: Revision,
    /// When.
    pub at: SystemTime,
    /// The same, to count from.
    pub since: Instant,
}

impl Status {
    /// The revision of the database that a fleet is served.
    pub(crate) fn served(&self, fleet: &str) -> i64 {
        self.behind.get(fleet).copied().unwrap_or(self.read)
    }

    /// Whether Envoys and writers may come.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.is_ready_for_envoys() && self.trouble.is_none()
    }

    /// Whether Envoys may come: there is something to serve them, though the database may be away.
    #[must_use]
    pub fn is_ready_for_envoys(&self) -> bool {
        self.is_loaded && self.serves_xds
    }
}

impl Published {
    pub(crate) fn now(revision: Revision) -> Published {
        Published { revision, at: SystemTime::now(), since: Instant::now() }
    }
}

/// The current [`Status`]. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Health(watch::Sender<Status>);

impl Health {
    /// How things are.
    pub fn status(&self) -> Status {
        self.0.borrow().clone()
    }

    /// Tells when something changes.
    pub(crate) fn watch(&self) -> watch::Receiver<Status> {
        self.0.subscribe()
    }

    /// Waits until a fleet is served this revision of the database.
    pub(crate) async fn reaches(&self, fleet: &str, revision: i64) {
        let has = |status: &Status| status.served(fleet) >= revision;
        // An error says that nobody is left who could publish it.
        let _ = self.0.subscribe().wait_for(has).await;
    }

    pub(crate) fn update(&self, change: impl FnOnce(&mut Status)) {
        self.0.send_modify(change);
    }
}
