//! What a client may use of a type, and how far it is.

use std::{sync::Arc, time::Duration};

use super::{Owed, Reason, TypeStream};
use crate::{Resource, Revision, View, gates::later};

/// How much that lingers is remembered: what is older is no longer waited for.
const MOST_LINGERING: usize = 1024;

impl TypeStream {
    /// Notes that the client uses something that it was told to replace or remove, until then at most.
    pub(crate) fn linger(&mut self, resource: Resource, now: Duration, until: Duration) {
        if let Some(aside) = self.aside.get_mut() {
            aside.lingering.retain(|(_, until)| *until > now);
        }
        if resource.references().is_empty() {
            return;
        }
        let lingering = &mut self.aside.fill().lingering;
        if lingering.len() == MOST_LINGERING {
            lingering.remove(0);
        }
        lingering.push((resource, until));
    }

    /// The same of a name that it has from before this stream, so that it is not known what it uses.
    pub(crate) fn linger_unknown(&mut self, name: Arc<str>, until: Duration) {
        self.aside.fill().lingering_unknown.insert(name, until);
    }

    /// What the client may use beside what the view holds, and until when that is assumed: what it was
    /// last told of names that are owed, what it has not answered or rejected, and what lingers.
    pub(crate) fn may_use(
        &self,
        patience: Duration,
    ) -> impl Iterator<Item = (&Resource, Option<Duration>)> {
        let held = self.owed.values().filter(|owed| owed.may_hold);
        let told = held.filter_map(|owed| Some((owed.told.as_ref()?, None)));
        let lingering =
            self.aside.lingering.iter().map(|(resource, until)| (resource, Some(*until)));
        told.chain(self.unsettled.may_run(patience)).chain(lingering)
    }

    /// Until when the client may use what is not known, if it does.
    pub(crate) fn may_use_unknown(&self, patience: Duration) -> Option<Option<Duration>> {
        if self.holds_unknown || self.owed.values().any(|owed| owed.unknown) {
            return Some(None);
        }
        let lingering = self.aside.lingering_unknown.values().max().map(|until| Some(*until));
        let in_flight = self.unsettled.may_run_unknown(patience);
        lingering.into_iter().chain(in_flight).reduce(later)
    }

    /// Whether the client may use what is not known if it has it from before this stream, until it gives
    /// that up.
    pub(crate) fn asked_for_gone(&self) -> bool {
        !self.aside.gone_before.is_empty()
    }

    /// The names that the client asks for and that are gone, but were there of late: of types whose
    /// absence it does not take for a removal.
    pub(crate) fn asked_and_gone<V: View>(&self, view: &V) -> impl Iterator<Item = &Arc<str>> {
        let is_asked = |owed: &Owed| owed.reason == Reason::Asked && !self.policy.honours_removal;
        let asked = self.owed.iter().filter(move |(_, owed)| is_asked(owed));
        let was_there = asked.filter(|(_, owed)| owed.told.is_some()).map(|(name, _)| name);
        was_there.filter(|name| self.find(view, name).is_none())
    }

    /// The oldest revision of which the client was not told something, or has not answered it; but for
    /// removals that are held back, and for what is still looked for.
    pub(crate) fn pending_since(&self) -> Option<Revision> {
        let waits = |name: &Arc<str>| self.aside.held_back.contains(name) || self.is_underway(name);
        let due = self.owed.iter().filter(|(name, _)| !waits(name));
        let first = self.aside.first.iter().map(|_| Revision(0));
        due.map(|(_, owed)| owed.since).chain(first).chain(self.unsettled.unanswered_since()).min()
    }

    /// The oldest revision of which something is not removed yet, since it may be in use.
    pub(crate) fn draining_since(&self) -> Option<Revision> {
        self.aside
            .held_back
            .iter()
            .filter_map(|name| self.owed.get(name))
            .map(|owed| owed.since)
            .min()
    }
}
