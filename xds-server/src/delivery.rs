//! What became of a change: who has settled, who has not, who rejected it and why.
//!
//! A client has settled at a revision when nothing of it, or of what came before, that it subscribes to is
//! unsent, unanswered or rejected. One that nothing concerned has, too, as has one that is told a later
//! revision instead. An ACK means that a client accepts what it was sent, not yet that it uses it.
//!
//! Whoever disconnects is no longer spoken of, and whoever connects is from then on: the report is about
//! the clients of this moment. With nobody connected, everything is settled. One that just connected has
//! settled no sooner than it was told what it asked for first; what it asks for later is spoken of when it
//! does, since nobody knows of it before.

use std::{sync::Arc, time::Duration};

use deltaplane_cache::Cache;
use deltaplane_core::{Key, Revision};

use crate::{
    client::Client,
    status::{ClientStatus, Clients, Rejection},
};

/// What became of a revision at each connected client.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Delivery {
    /// The revision.
    pub revision: Revision,
    /// The clients that were asked about, in the order in which they connected.
    pub clients: Vec<(Arc<Client>, Fate)>,
}

/// What became of a revision at one client.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Fate {
    /// All of it that concerns the client is acknowledged.
    Settled,
    /// All is acknowledged but removals that are held back, because the client may still use what is gone.
    Draining,
    /// Something is not sent yet, or not answered.
    Pending {
        /// New clusters that the client has not shown to be able to use: what names them is not sent.
        awaited: Vec<Key>,
    },
    /// Something is rejected, and has not changed since.
    Rejected(Vec<Arc<Rejection>>),
}

/// How many clients have to settle.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum HowMany {
    /// All of them.
    All,
    /// This share of them, from 0 to 1, rounded up.
    Share(f64),
    /// So many, or all if there are fewer.
    Count(usize),
}

impl Delivery {
    pub(crate) fn of(
        cache: &Cache,
        clients: &Clients,
        revision: Revision,
        who: impl Fn(&Client) -> bool,
    ) -> Self {
        Self::since(cache, clients, (Revision(0), revision), who)
    }

    /// The same, but for rejections of what was sent before another revision.
    pub(crate) fn since(
        cache: &Cache,
        clients: &Clients,
        (since, revision): (Revision, Revision),
        who: impl Fn(&Client) -> bool,
    ) -> Self {
        // Else a client may seem not to be concerned.
        cache.finish_waking();
        let fate = |status: &ClientStatus, concerned| {
            let fate = Fate::of(cache, (status, concerned), (since, revision));
            (status.client.clone(), fate)
        };
        Self { revision, clients: clients.find(who, fate) }
    }

    /// Looks until so many clients have settled, or none is left that still can.
    pub(crate) async fn wait(
        (cache, clients): (&Cache, &Clients),
        revision: Revision,
        who: impl Fn(&Client) -> bool,
        how_many: HowMany,
        timeout: Duration,
    ) -> Self {
        let look = || {
            let delivery = Delivery::of(cache, clients, revision, &who);
            let is_over = delivery.has_settled(how_many) || delivery.pending().next().is_none();
            is_over.then_some(delivery)
        };
        let waited = tokio::time::timeout(timeout, clients.look(look)).await;
        waited.unwrap_or_else(|_| Delivery::of(cache, clients, revision, &who))
    }

    /// Whether so many of the clients have settled. Removals that are held back do not count as missing.
    #[must_use]
    pub fn has_settled(&self, how_many: HowMany) -> bool {
        let settled = self.clients.iter().filter(|(_, fate)| fate.is_settled()).count();
        settled >= how_many.of(self.clients.len())
    }

    /// The clients at which something is unsent or unanswered.
    pub fn pending(&self) -> impl Iterator<Item = &Client> {
        let pending = self.clients.iter().filter(|(_, fate)| matches!(fate, Fate::Pending { .. }));
        pending.map(|(client, _)| &**client)
    }

    /// The clients that rejected something, with what and why.
    pub fn rejected(&self) -> impl Iterator<Item = (&Client, &[Arc<Rejection>])> {
        self.clients.iter().filter_map(|(client, fate)| match fate {
            Fate::Rejected(rejections) => Some((&**client, &**rejections)),
            _ => None,
        })
    }

    /// The clients at which removals are held back, and nothing else is missing.
    pub fn draining(&self) -> impl Iterator<Item = &Client> {
        let draining = self.clients.iter().filter(|(_, fate)| matches!(fate, Fate::Draining));
        draining.map(|(client, _)| &**client)
    }
}

impl Fate {
    fn of(
        cache: &Cache,
        (status, concerned): (&ClientStatus, Revision),
        (since, revision): (Revision, Revision),
    ) -> Self {
        let is_by_then = |since: Option<Revision>| since.is_some_and(|since| since <= revision);
        let standing = &status.standing;
        let looked = standing.looked.unwrap_or_default();
        let view = cache.view(&status.client.scopes);
        let changed = |of_type| view.changed_between(of_type, looked, revision);
        let is_unread = concerned > looked && status.types.keys().any(changed);
        // What it was not told yet may be what repairs what it rejected.
        if is_by_then(standing.rejected) && !is_unread {
            let rejected = status.types.values().filter(|of_type| of_type.is_rejected);
            let rejections = rejected.filter_map(|of_type| of_type.rejection.clone());
            let rejections: Vec<_> = rejections.filter(|it| it.revision >= since).collect();
            if since == Revision(0) || !rejections.is_empty() {
                return Fate::Rejected(rejections);
            }
        }
        // Who was told nothing yet has all before it.
        if is_by_then(standing.pending) || is_unread || standing.looked.is_none() {
            return Fate::Pending { awaited: status.awaited.clone() };
        }
        if is_by_then(standing.draining) { Fate::Draining } else { Fate::Settled }
    }

    /// Whether nothing is missing; removals that are held back are not.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        matches!(self, Fate::Settled | Fate::Draining)
    }
}

impl HowMany {
    /// How many of so many.
    fn of(self, all: usize) -> usize {
        match self {
            HowMany::All => all,
            HowMany::Share(share) => share_of(share, all),
            HowMany::Count(count) => count.min(all),
        }
    }
}

/// A share of a number, rounded up.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a number of clients, and a share of it that is neither negative nor larger"
)]
pub(crate) fn share_of(share: f64, all: usize) -> usize {
    ((share.clamp(0.0, 1.0) * all as f64).ceil() as usize).min(all)
}
