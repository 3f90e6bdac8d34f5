//! The parts of a running server, for whoever tells how it is.

use deltaplane_server::{Cache, XdsServer};

use crate::health::Health;
use crate::store::Store;
use crate::traffic::Traffic;

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
}
