//! The parts of a running server, for whoever tells how it is.

use axum::extract::FromRef;
use deltaplane_server::{Cache, XdsServer};

use crate::access::Access;
use crate::canary::rollouts::Rollouts;
use crate::certificates::vault::Vault;
use crate::database::reload::Reloader;
use crate::database::store::Store;
use crate::fleets::Directory;
use crate::status::health::Health;
use crate::status::traffic::Traffic;

/// A running server. Clones are the same one.
#[derive(Clone, Debug)]
#[allow(clippy::exhaustive_structs)] // whoever makes one has all parts
pub struct Running {
    /// What is stored.
    pub store: Store,
    /// What clients are served.
    pub cache: Cache,
    /// How the one follows the other.
    pub health: Health,
    /// Who serves it.
    pub server: XdsServer,
    /// What goes over the wire.
    pub traffic: Traffic,
    /// Who belongs to which fleet.
    pub fleets: Directory,
    /// How changes stand that go to some of a fleet first.
    pub rollouts: Rollouts,
    /// What encrypts what is secret.
    pub vault: Vault,
    /// What has the database read again.
    pub reloader: Reloader,
    /// Who may use the HTTP API.
    pub access: Access,
}

impl FromRef<Running> for Store {
    fn from_ref(running: &Running) -> Store {
        running.store.clone()
    }
}
