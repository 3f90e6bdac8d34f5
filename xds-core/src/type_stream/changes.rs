//! What changed in the view, taken up into what is owed.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use super::{Reason, TypeStream};
use crate::{
    Change, LogTruncated, Resource, Revision, Variant, View, collection::is_glob,
    type_url::Lingering, whole::Remainder,
};

impl TypeStream {
    /// Looks at what changed up to this view. Nothing of an unknown type is looked at, nor of one of which the
    /// client has something newer.
    pub(crate) fn look<V: View>(&mut self, view: &V) -> Result<(), LogTruncated> {
        if !view.is_known(&self.type_url) {
            return Ok(());
        }
        match self.cursor {
            None => {
                if self.is_ahead(view) {
                    return Ok(());
                }
                self.begin(view);
            }
            Some(cursor) if cursor < view.revision() => {
                let names = &self.subscription;
                let changes = match names.is_wildcard() && !self.everything {
                    true => view.changes(&self.type_url, cursor),
                    false => view.changes_of(&self.type_url, names, cursor),
                };
                match changes {
                    // Of what a wildcard that just began covers, the client was told nothing.
                    Ok(changes) if self.everything => {
                        let is_apart = |change: &&Change| {
                            let is_on_demand =
                                change.after.as_ref().is_some_and(Resource::is_on_demand);
                            self.subscription.was_told(&change.name)
                                || (is_on_demand && self.subscription.is_named(&change.name))
                        };
                        let apart: Vec<_> = changes.iter().filter(is_apart).collect();
                        self.take_up(apart.into_iter());
                    }
                    Ok(changes) => self.take_up(changes.iter()),
                    Err(truncated) => self.compare(view, truncated)?,
                }
            }
            Some(_) => {}
        }
        if std::mem::take(&mut self.everything) {
            self.owe_everything(view);
        }
        self.owe_members(view);
        for name in self.aside.take(|it| &mut it.dropped) {
            let kept = view.resolve(&self.type_url, &name).filter(Resource::is_on_demand);
            if kept.is_some() && self.find(view, &name).is_none() {
                self.owe(name, kept, true, Reason::Again);
            }
        }
        if std::mem::take(&mut self.asked) {
            self.recall(view);
        }
        self.cursor = Some(view.revision());
        self.aside.tidy();
        Ok(())
    }

    /// Finds what was there of the names that were asked for and are gone: it may still be in use.
    fn recall<V: View>(&mut self, view: &V) {
        let goes_on = self.cursor.is_none() && self.policy.lingers == Lingering::UntilGivenUp;
        let (type_url, subscription) = (&self.type_url, &self.subscription);
        let asked = self.owed.iter_mut().filter(|(_, owed)| owed.reason == Reason::Asked);
        for (name, owed) in asked.filter(|(_, owed)| owed.told.is_none()) {
            if subscription.find(view, type_url, name).is_none() {
                owed.told = view.tombstone(&self.type_url, name);
                // What is removed of these it forgot to have, but not to use (D-19); and the tombstone may
                // be of what it was never told.
                if goes_on {
                    self.aside.fill().gone_before.insert(name.clone());
                }
            }
        }
    }

    /// Takes up changes, of which those count that are subscribed.
    pub(crate) fn take_up<'a>(&mut self, changes: impl Iterator<Item = &'a Change>) {
        // What went and goes by an alias may be several resources.
        let mut aliased = BTreeMap::<Arc<str>, Change>::new();
        for change in changes {
            if self.subscription.is_named(&change.name) {
                self.note(&change.name, change);
                continue;
            }
            if self.subscription.covers(&change.name) {
                let general = change.in_general();
                if let Some(general) = &general {
                    self.note(&general.name, general);
                }
                // What is on demand may be asked for by an alias beside what is covered.
                if matches!(general, Some(Cow::Borrowed(_))) {
                    continue;
                }
            }
            for (version, is_after) in [(&change.before, false), (&change.after, true)] {
                let aliases = version.iter().flat_map(Resource::aliases);
                for alias in aliases.filter(|alias| self.subscription.contains(alias)) {
                    let empty = || Change::new(alias.clone(), None, None);
                    let of_alias = aliased.entry(alias.clone()).or_insert_with(empty);
                    let side = if is_after { &mut of_alias.after } else { &mut of_alias.before };
                    side.clone_from(version);
                }
            }
        }
        aliased.values().for_each(|change| self.note(&change.name, change));
    }

    /// Takes up what differs for a client that moves to another view: whatever revision is asked about, it
    /// has settled there when it has answered this.
    pub(crate) fn take_up_anew(&mut self, changes: &[Change]) {
        self.take_over();
        self.take_up(changes.iter());
        for change in changes {
            if let Some(owed) = self.owed.get_mut(&change.name) {
                owed.since = Revision(0);
            }
        }
    }

    /// What is done for who is too late for the log: names are compared with what was told of them, as far
    /// as that is still known. A wildcard client in delta cannot be told what is gone, and must come back with what it holds.
    fn compare<V: View>(&mut self, view: &V, truncated: LogTruncated) -> Result<(), LogTruncated> {
        let covers_some = self.subscription.globs().next().is_some();
        if (self.subscription.is_wildcard() || covers_some) && !self.everything {
            if self.variant == Variant::Delta {
                return Err(truncated);
            }
            self.holds_unknown = true;
            self.everything = self.subscription.is_wildcard();
            self.aside.fill().asked_globs = self.subscription.globs().cloned().collect();
        }
        let type_url = &self.type_url;
        let names: Vec<_> = self
            .subscription
            .told()
            .map(|(name, told)| (name.clone(), told, self.subscription.find(view, type_url, name)))
            .filter(|(_, told, now)| *told != now.as_ref().map(Resource::hash))
            .map(|(name, told, _)| {
                let had = told.and_then(|told| view.recall(type_url, &name, told));
                (name, had, told.is_some())
            })
            .collect();
        for (name, had, held) in names {
            self.owe(name, had, held, Reason::Again);
        }
        Ok(())
    }

    /// Whether nothing was sent yet, and nothing is owed but what a wildcard covers.
    fn is_fresh(&self) -> bool {
        let by_name = self.subscription.names().len() + self.subscription.globs().len();
        by_name == 0 && self.owed.is_empty() && !self.unsettled.is_unanswered()
    }

    fn owe_everything<V: View>(&mut self, view: &V) {
        self.answer_due = true;
        let type_url = self.type_url.clone();
        let unknown = std::mem::take(&mut self.holds_unknown);
        let is_split_alike = self.repeats_everything() || self.variant == Variant::Delta;
        if self.is_first && self.is_fresh() && is_split_alike && !self.bears_ttl {
            self.aside.fill().first = Some(Remainder::new(view.whole(&type_url), self.variant));
            return;
        }
        for resource in view.resources(&type_url).filter(|resource| !resource.is_on_demand()) {
            self.owe_covered(resource.name(), unknown);
        }
    }

    /// Owes the members of the collections that were asked for; of one that has none, that it has none.
    fn owe_members<V: View>(&mut self, view: &V) {
        if self.aside.asked_globs.is_empty() {
            return;
        }
        let unknown = std::mem::take(&mut self.holds_unknown);
        for glob in self.aside.take(|it| &mut it.asked_globs) {
            let mut members = self.members(view, &glob).peekable();
            let is_empty = members.peek().is_none();
            let names: Vec<_> = members.map(|member| member.name().clone()).collect();
            if is_empty && is_glob(&glob) {
                self.owe(glob, None, false, Reason::Asked);
            } else if !self.subscription.is_wildcard() {
                names.iter().for_each(|name| self.owe_covered(name, unknown));
            }
        }
    }

    /// What of a collection its glob covers.
    pub(crate) fn members<V: View>(&self, view: &V, glob: &str) -> impl Iterator<Item = Resource> {
        let members = view.members(&self.type_url, glob);
        members.filter(|member| !member.is_on_demand())
    }

    fn owe_covered(&mut self, name: &Arc<str>, unknown: bool) {
        let held = unknown || self.subscription.was_told(name);
        self.owe(name.clone(), None, held, Reason::Again);
        if unknown && let Some(owed) = self.owed.get_mut(name) {
            owed.unknown = owed.told.is_none();
        }
    }

    /// Whether this is good for some time only, as the client knows it: be it back or not, that may be over.
    fn is_leased(&self, resource: Option<&Resource>) -> bool {
        self.bears_ttl && resource.is_some_and(|resource| resource.ttl().is_some())
    }

    /// Whether a name that is owed since it changed comes to what the client has: what it was told, or else
    /// what it says that it has.
    fn has_again(&self, name: &Arc<str>, now: Option<&Resource>) -> bool {
        let owed = self.owed.get(name).filter(|owed| owed.reason == Reason::Changed);
        let Some(owed) = owed.filter(|_| !self.is_leased(now)) else { return false };
        match (&owed.told, self.aside.strange.get(name)) {
            (None, Some(version)) => now.is_some_and(|now| now.version() == version),
            (told, _) => told.as_ref() == now && (told.is_some() || !owed.may_hold),
        }
    }

    /// Takes up a change of what is subscribed by this name, or alias. What was owed and came to what the client
    /// has is no longer owed, as if nothing had happened (D-16).
    fn note(&mut self, name: &Arc<str>, change: &Change) {
        if self.has_again(name, change.after.as_ref()) {
            self.owed.remove(name);
            if let Some(aside) = self.aside.get_mut() {
                aside.strange.remove(name);
            }
            return;
        }
        // What is owed already was not sent, so what the client may hold did not change; unless it asks
        // by name for what the wildcard gave it.
        let was_told = self.owed.get(&change.name).is_none_or(|owed| {
            owed.reason >= Reason::Asked && self.subscription.covers(&change.name)
        });
        let may_hold = change.before.is_some() && was_told;
        self.owe(name.clone(), change.before.clone(), may_hold, Reason::Changed);
        // Who asks again for what he has, and loses it meanwhile, has it by the name that it was told by.
        if let (Some(owed), Some(before)) = (self.owed.get_mut(name), &change.before)
            && owed.told.is_none()
            && before.name() != name
            && self.subscription.is_told(name, before)
        {
            owed.told = Some(before.clone());
        }
    }
}
