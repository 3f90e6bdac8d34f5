//! How far a client is, with all of its types, and with each resource.

use super::Machine;
use crate::{Reception, Resource, Revision, View, type_stream::TypeStream};

/// How far a client is. But for the first, each is the oldest revision of which something is so.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Standing {
    /// What changed up to here was looked at, and what of it can be sent was.
    pub looked: Option<Revision>,
    /// Something is not sent yet, or not answered. What the client just asked for counts as old as can be,
    /// until it was looked at.
    pub pending: Option<Revision>,
    /// Something is not removed yet, since it is in use.
    pub draining: Option<Revision>,
    /// Something was rejected, and has not changed since.
    pub rejected: Option<Revision>,
}

impl<V: View> Machine<V> {
    /// How far the client is: see [`Standing`].
    #[must_use]
    pub fn standing(&self) -> Standing {
        let oldest =
            |of: &dyn Fn(&TypeStream) -> Option<Revision>| self.types.iter().filter_map(of).min();
        Standing {
            looked: self.delivered,
            pending: match self.stirred {
                true => Some(Revision(0)),
                false => oldest(&|stream| stream.pending_since()),
            },
            draining: oldest(&|stream| stream.draining_since()),
            rejected: oldest(&|stream| stream.unsettled.rejected_since()),
        }
    }

    /// Each resource of this view that the client subscribes to, and how it stands with it; of what it
    /// rejected, what it was sent. Costs the number of these resources.
    #[must_use]
    pub fn report(&self, view: &V) -> Vec<(Resource, Reception)> {
        self.types.iter().flat_map(|stream| stream.report(view)).collect()
    }
}
