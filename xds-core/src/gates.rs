//! What waits on an ordered stream, and for what: make before break.
//!
//! ```text
//!   a new cluster ──sent──> arriving ──its endpoints and secrets, and where that leaves doubt
//!                              │        it itself, acknowledged──> proven
//!                              └──unanswered for too long───────────┘
//! ```
//!
//! What names a cluster that is arriving waits (O-03, O-09), and what is gone stays as long as the client
//! may use it (O-02, O-12). Silence has a deadline; a rejection has none, but where all others of a type
//! would wait with what waits for it (O-08).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use crate::{Key, Nonce, Resource, TypeUrl};

/// In which order a stream is told what changed. All durations are of the client's silence, and none is
/// waited for when nothing depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Order {
    /// Make before break, with evidence: what names a new cluster waits until the client can use that, and
    /// what is gone is removed when nothing that the client may use refers to it (O-02, O-03, O-12).
    Gated {
        /// How long a client may take to acknowledge what others wait for: then they go on without, for
        /// clients legitimately never answer (N-08, O-08). More than the 15 s for which an Envoy withholds
        /// the ACK of a cluster that gets no endpoints.
        patience: Duration,
        /// How long a listener's old connections are served by what it was before it changed, from when it
        /// is live: Envoy's `--drain-time-s`. To remove sooner what they use fails all their requests.
        drain: Duration,
    },
    /// Additions before removals, each type before what refers to it, and nothing is waited for: all that
    /// is left to do on a stream of one type.
    InOneBreath,
    /// As it comes: additions and removals of a type together.
    AtOnce,
}

impl Default for Order {
    /// Gated, with a patience of 20 s and Envoy's own drain time of 600 s.
    fn default() -> Self {
        Order::Gated { patience: Duration::from_secs(20), drain: Duration::from_secs(600) }
    }
}

/// Longer than any stream: two such times, and a third, still make one.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// That time, or one that is as good as for ever and can be added to others.
pub(crate) fn bounded(time: Duration) -> Duration {
    time.min(LONGEST)
}

impl Order {
    /// The same, with times that can be added to others.
    pub(crate) fn bounded(self) -> Self {
        match self {
            Order::Gated { patience, drain } => {
                Order::Gated { patience: bounded(patience), drain: bounded(drain) }
            }
            other => other,
        }
    }

    /// The same with another drain time, if it is gated.
    #[must_use]
    pub fn with_drain(self, drain: Duration) -> Self {
        match self {
            Order::Gated { patience, .. } => Order::Gated { patience, drain },
            other => other,
        }
    }
}

/// Until when something waits; without a time, until what it waits for happens.
pub(crate) type Until = Option<Duration>;

/// The later of two.
pub(crate) fn later(one: Until, other: Until) -> Until {
    one.zip(other).map(|(one, other)| one.max(other))
}

/// What a client was sent that is new to it, and that it has not shown to be able to use.
#[derive(Debug, Default)]
pub(crate) struct Arrivals {
    arriving: BTreeMap<Arc<str>, Arrival>,
    /// Who arrives when these are acknowledged.
    awaiting: BTreeMap<Key, BTreeSet<Arc<str>>>,
}

#[derive(Debug)]
struct Arrival {
    /// The response that brought it.
    brought: Nonce,
    /// When the last of what is waited for was sent.
    since: Duration,
    /// What it refers to and was not acknowledged since.
    awaits: BTreeSet<Key>,
    /// What it refers to proves nothing.
    warms_unseen: bool,
    acknowledged: bool,
    /// It, or what it refers to, was rejected.
    rejected: bool,
}

impl Arrivals {
    pub(crate) fn is_empty(&self) -> bool {
        self.arriving.is_empty()
    }

    /// What is on its way.
    pub(crate) fn names(&self) -> Vec<Arc<str>> {
        self.arriving.keys().cloned().collect()
    }

    /// Whether this is on its way.
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.arriving.contains_key(name)
    }

    /// Notes that a response brings something new, which is proven by ACKs of what it awaits, or if that is
    /// not enough, by its own as well.
    pub(crate) fn bring(
        &mut self,
        resource: &Resource,
        awaits: BTreeSet<Key>,
        doubtful: bool,
        (brought, since): (Nonce, Duration),
    ) {
        self.forget(resource.name());
        for key in &awaits {
            self.awaiting.entry(key.clone()).or_default().insert(resource.name().clone());
        }
        let arrival = Arrival {
            brought,
            since,
            warms_unseen: doubtful || awaits.is_empty(),
            awaits,
            acknowledged: false,
            rejected: false,
        };
        self.arriving.insert(resource.name().clone(), arrival);
    }

    /// Notes that something is sent for which others may wait.
    pub(crate) fn sent(&mut self, key: &Key, now: Duration) {
        for name in self.awaiting.get(key).into_iter().flatten() {
            if let Some(arrival) = self.arriving.get_mut(name) {
                (arrival.since, arrival.rejected) = (now, false);
            }
        }
    }

    /// Takes up an ACK of what arrives, in this response or one after it. What of its references the client
    /// did not ask for by then, it does not get here.
    pub(crate) fn acknowledge(
        &mut self,
        name: &str,
        nonce: Nonce,
        is_asked_for: impl Fn(&Key) -> bool,
    ) {
        let Some(arrival) = self.arriving.get_mut(name) else { return };
        if arrival.brought > nonce {
            return;
        }
        arrival.acknowledged = true;
        arrival.rejected = false;
        let (awaits, given_up) =
            std::mem::take(&mut arrival.awaits).into_iter().partition(is_asked_for);
        arrival.awaits = awaits;
        let given_up: BTreeSet<_> = given_up;
        given_up.iter().for_each(|key| self.await_no_more(key, name));
        self.prove(name);
    }

    /// Takes up an ACK of what may be awaited, in that response.
    pub(crate) fn acknowledge_awaited(&mut self, key: &Key, nonce: Nonce) {
        for name in self.awaiting.get(key).cloned().unwrap_or_default() {
            if let Some(arrival) = self.arriving.get_mut(&name)
                && arrival.brought < nonce
            {
                arrival.awaits.remove(key);
                self.await_no_more(key, &name);
                self.prove(&name);
            }
        }
    }

    /// Takes up a rejection of what arrives, or of what is awaited.
    pub(crate) fn reject(&mut self, key: &Key, is_what_arrives: bool) {
        let awaiting = self.awaiting.get(key).into_iter().flatten();
        let names = is_what_arrives.then_some(&key.name).into_iter().chain(awaiting);
        for name in names {
            if let Some(arrival) = self.arriving.get_mut(name) {
                arrival.rejected = true;
            }
        }
    }

    /// What arrives and is said to be rejected, with what it refers to.
    pub(crate) fn rejected(&self) -> impl Iterator<Item = (&Arc<str>, &BTreeSet<Key>)> {
        let rejected = self.arriving.iter().filter(|(_, arrival)| arrival.rejected);
        rejected.map(|(name, arrival)| (name, &arrival.awaits))
    }

    /// The rejection is over, and what comes of it has a deadline like anything else.
    pub(crate) fn pardon(&mut self, name: &str, now: Duration) {
        if let Some(arrival) = self.arriving.get_mut(name) {
            (arrival.since, arrival.rejected) = (now, false);
        }
    }

    /// Until when whoever names this waits for it, if at all.
    pub(crate) fn until(&self, name: &str, patience: Duration) -> Option<Until> {
        let arrival = self.arriving.get(name)?;
        Some((!arrival.rejected).then(|| arrival.since + patience))
    }

    /// Waits no longer for what the client said nothing about since.
    pub(crate) fn expire(&mut self, now: Duration, patience: Duration) {
        let late = |arrival: &Arrival| !arrival.rejected && arrival.since + patience <= now;
        let late = self.arriving.iter().filter(|(_, arrival)| late(arrival));
        let names: Vec<_> = late.map(|(name, _)| name.clone()).collect();
        names.iter().for_each(|name| self.forget(name));
    }

    /// Nothing waits for this any more.
    pub(crate) fn forget(&mut self, name: &str) {
        let Some(arrival) = self.arriving.remove(name) else { return };
        arrival.awaits.iter().for_each(|key| self.await_no_more(key, name));
    }

    fn await_no_more(&mut self, key: &Key, name: &str) {
        if let Some(names) = self.awaiting.get_mut(key) {
            names.remove(name);
            if names.is_empty() {
                self.awaiting.remove(key);
            }
        }
    }

    fn prove(&mut self, name: &str) {
        let is_proven = |arrival: &Arrival| {
            arrival.awaits.is_empty() && (arrival.acknowledged || !arrival.warms_unseen)
        };
        if self.arriving.get(name).is_some_and(is_proven) {
            self.forget(name);
        }
    }
}

/// What a client may use, and until when that is assumed.
#[derive(Debug, Default)]
pub(crate) struct Uses<'a> {
    keys: BTreeMap<&'a Key, Until>,
    /// The client uses what is not known, of types whose removals come before this place in the order.
    pub(crate) unknown: Option<Until>,
}

impl<'a> Uses<'a> {
    /// Adds what a resource refers to that is removed after it; the other way round, and in a circle,
    /// nothing would ever go.
    pub(crate) fn add(&mut self, resource: &'a Resource, until: Until) {
        let place = resource.type_url().policy().removal_order;
        for key in resource.references() {
            if key.type_url.policy().removal_order > place {
                self.keys
                    .entry(key)
                    .and_modify(|known| *known = later(*known, until))
                    .or_insert(until);
            }
        }
    }

    /// Until when something is in use, if it is.
    pub(crate) fn until(&self, key: &Key) -> Option<Until> {
        let known = self.keys.get(key).copied();
        let unknown = self.unknown.filter(|_| REFERRED_TO.contains(&key.type_url));
        match (known, unknown) {
            (Some(known), Some(unknown)) => Some(later(known, unknown)),
            (known, unknown) => known.or(unknown),
        }
    }
}

/// What a client that comes back may use without this server knowing of it.
const REFERRED_TO: [TypeUrl; 4] =
    [TypeUrl::CLUSTER, TypeUrl::ENDPOINT, TypeUrl::SECRET, TypeUrl::EXTENSION_CONFIG];
