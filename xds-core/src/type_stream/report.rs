//! How each resource of a type stands with the client.

use std::collections::{BTreeMap, BTreeSet};

use super::TypeStream;
use crate::{Resource, View};

/// How one resource stands with a client (C-04).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Reception {
    /// It was not sent as it is now.
    NotSent,
    /// It was sent, and its response is not answered.
    Unanswered,
    /// It was sent, and its response was acknowledged: the client accepts it, which does not yet mean that
    /// it uses it.
    Acknowledged,
    /// It was sent in a response that the client rejected, and did not change since. Which resource of the
    /// response is at fault, only the client's words tell.
    Rejected,
}

impl TypeStream {
    /// Each resource of this view that the client subscribes to, and how it stands; of what is rejected,
    /// what the client was sent.
    pub(crate) fn report<V: View>(&self, view: &V) -> Vec<(Resource, Reception)> {
        let unanswered: BTreeMap<_, _> =
            self.unsettled.sent().map(|sent| (&*sent.name, sent.content.as_ref())).collect();
        let changed = self.changed(view);
        let receive = |name: &str, resource: Resource| {
            if let Some(rejected) = self.unsettled.rejected_content(name) {
                return (rejected.cloned().unwrap_or(resource), Reception::Rejected);
            }
            let is_told = |names: &BTreeSet<_>| !names.contains(name);
            let is_settled = changed.as_ref().is_some_and(is_told)
                && !self.owed.contains_key(name)
                && !self.aside.first.as_ref().is_some_and(|first| first.is_unsent(name));
            let reception = match unanswered.get(name) {
                _ if !is_settled => Reception::NotSent,
                Some(sent) if *sent == Some(&resource) => Reception::Unanswered,
                _ => Reception::Acknowledged,
            };
            (resource, reception)
        };
        let mut all = Vec::new();
        if self.subscription.is_wildcard() {
            let covered = view.resources(&self.type_url);
            let covered = covered.filter(|resource| !resource.is_on_demand());
            all.extend(covered.map(|resource| receive(&resource.name().clone(), resource)));
        } else {
            for glob in self.subscription.globs() {
                let members = self.members(view, glob);
                all.extend(members.map(|member| receive(&member.name().clone(), member)));
            }
        }
        for name in self.subscription.names() {
            let named = self.find(view, name);
            // What the wildcard or a glob covers is there already.
            let named = named.filter(|resource| {
                resource.is_on_demand()
                    || !self.subscription.covers(resource.name())
                    || view.get(&self.type_url, resource.name()).is_none()
            });
            all.extend(named.map(|resource| receive(name, resource)));
        }
        all
    }

    /// The names that changed since this stream looked; nothing if it never did, or too much changed to tell.
    fn changed<V: View>(&self, view: &V) -> Option<BTreeSet<Box<str>>> {
        let cursor = self.cursor.filter(|_| !self.everything && view.is_known(&self.type_url))?;
        let changes = view.changes(&self.type_url, cursor).ok()?;
        Some(changes.iter().map(|change| (*change.name).into()).collect())
    }
}
