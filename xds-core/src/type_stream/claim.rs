//! What a client says that it has from before this stream, compared once.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{Reason, TypeStream};
use crate::{Resource, TypeVersion, Variant, View, subscription::WILDCARD};

/// What the first request of a type said the client holds from an earlier stream.
#[derive(Debug, Default)]
pub(super) enum Claim {
    #[default]
    Nothing,
    /// `initial_resource_versions`: a version for each name.
    Versions(BTreeMap<String, String>),
    /// `version_info`: a version for all, be it ours or another server's.
    Version(String),
}

impl Claim {
    pub(super) fn is_nothing(&self) -> bool {
        match self {
            Claim::Nothing => true,
            Claim::Versions(versions) => versions.is_empty(),
            Claim::Version(_) => false,
        }
    }
}

/// How often it is looked, meanwhile, whether the replica has caught up: that its source was read, and nothing in it is
/// new, wakes nobody.
const LOOKS_AGAIN: Duration = Duration::from_millis(500);

/// How long a client that has something newer waits for this replica.
#[derive(Debug)]
pub(crate) struct CatchUp {
    pub(crate) until: Duration,
    /// The source's revision that the client has seen, once it turned out that this replica has not.
    pub(crate) behind: Option<u64>,
}

impl TypeStream {
    /// Whether the client says that it has a set that is newer than what is here, and waits for that: until
    /// this replica has caught up, or for too long. An older set would take from it what it should keep.
    pub(super) fn is_ahead<V: View>(&mut self, view: &V) -> bool {
        let type_url = &self.type_url;
        let Some(aside) = self.aside.get_mut() else { return false };
        let (Some(catch_up), Claim::Version(version)) = (&mut aside.catch_up, &aside.claim) else {
            aside.catch_up = None;
            return false;
        };
        let is_newer = |claimed: &TypeVersion| {
            let here = view.source_revision(type_url);
            let is_newer = here.is_some() && claimed.revision > here;
            is_newer
                && *claimed != view.version(type_url)
                && view.changes_from(type_url, claimed).is_none()
        };
        let claimed = version.parse().ok().filter(is_newer);
        catch_up.behind = claimed.and_then(|claimed| claimed.revision);
        if catch_up.behind.is_none() {
            aside.catch_up = None;
        }
        aside.catch_up.is_some()
    }

    /// The client may wait until then for what it says that it has.
    pub(crate) fn catch_up(&mut self, until: Duration) {
        self.aside.fill().catch_up = Some(CatchUp { until, behind: None });
    }

    /// When it is looked next whether it still has to wait, if it does.
    pub(crate) fn looks_again_at(&self, now: Duration) -> Option<Duration> {
        let waiting = self.aside.catch_up.as_ref().filter(|it| it.behind.is_some())?;
        Some(waiting.until.min(now + LOOKS_AGAIN))
    }

    /// From now on the client waits no longer; tells for which revision it did.
    pub(crate) fn give_up_catching_up(&mut self, now: Duration) -> Option<u64> {
        let aside = self.aside.get_mut()?;
        let over = aside.catch_up.take_if(|catch_up| catch_up.until <= now)?;
        over.behind
    }

    /// The first look: what the client claims to hold is compared, once.
    pub(super) fn begin<V: View>(&mut self, view: &V) {
        let claim = self.aside.take(|it| &mut it.claim);
        self.is_first = claim.is_nothing();
        match claim {
            Claim::Versions(versions) if !versions.is_empty() => {
                self.everything = false;
                self.compare_claimed(view, versions);
            }
            Claim::Version(version) => {
                self.compare_version(view, version.parse().ok().as_ref());
                self.renew(view);
            }
            _ => self.owe_gone_of_late(view),
        }
    }

    /// Whoever says that he has nothing may have rejected the first that he was ever told, and run what was good of it.
    /// All that there is, he is told; and that what was there of late is gone. In State of the World, the one says the other.
    fn owe_gone_of_late<V: View>(&mut self, view: &V) {
        if self.variant == Variant::Sotw || !self.covers_unnamed() {
            return;
        }
        for name in view.reverted(&self.type_url) {
            if self.subscription.covers(&name) && self.find(view, &name).is_none() {
                self.owe_claimed(name, None, true);
            }
        }
    }

    /// Whether it is subscribed to more than names.
    fn covers_unnamed(&self) -> bool {
        self.subscription.is_wildcard() || self.subscription.globs().next().is_some()
    }

    /// Compares the version that a State of the World client says its set has. Where that set is still
    /// known, what differs from it is all that is news.
    fn compare_version<V: View>(&mut self, view: &V, version: Option<&TypeVersion>) {
        // Who asks by name had a part, which may have been all.
        let is_part = self.repeats_everything() && !self.subscription.is_wildcard();
        let version = version.map(|had| if is_part { had.of_whole() } else { had.clone() });
        let version = version.as_ref();
        let is_current = version == Some(&view.version(&self.type_url));
        let is_believed = || is_current && !view.is_reverted(&self.type_url);
        if self.repeats_everything() && self.is_all_covered() && is_believed() {
            self.everything = false;
            return;
        }
        // It holds something, and of a whole set only an answer tells what is gone.
        self.answer_due |= self.repeats_everything();
        match version.and_then(|version| view.changes_from(&self.type_url, version)) {
            Some(changes) => {
                self.everything &= !self.repeats_everything();
                self.take_up(changes.iter());
                // What it also asks for by name is owed already.
                let by_name: BTreeMap<_, _> =
                    changes.iter().map(|change| (&change.name, change)).collect();
                for (name, owed) in &mut self.owed {
                    let had = match by_name.get(name) {
                        Some(change) => change.before.clone(),
                        None => view.get(&self.type_url, name),
                    };
                    owed.may_hold |= had.is_some();
                    owed.told = owed.told.take().or(had);
                }
            }
            None if !is_current => {
                self.holds_unknown = self.everything;
                self.owed.values_mut().for_each(|owed| owed.unknown = true);
                // Not where it is not believed what it has: it may have rejected that.
                if self.repeats_everything() && version.is_some() {
                    // It may still use what was removed of late, and would lose it by an answer without it.
                    for gone in view.tombstones(&self.type_url) {
                        let name = gone.name().clone();
                        if self.subscription.contains(&name) {
                            self.owe_claimed(name, Some(gone), true);
                        }
                    }
                }
            }
            None => {}
        }
    }

    /// Owes what is good for some time only, however current: that may be over (T-10).
    fn renew<V: View>(&mut self, view: &V) {
        if !self.bears_ttl {
            return;
        }
        let leased = view.resources(&self.type_url).filter(|resource| resource.ttl().is_some());
        for resource in leased.collect::<Vec<_>>() {
            let name = resource.name().clone();
            if self.find(view, &name).is_some() && self.subscription.contains(&name) {
                self.owe(name, Some(resource), true, Reason::Again);
            }
        }
    }

    fn compare_claimed<V: View>(&mut self, view: &V, mut versions: BTreeMap<String, String>) {
        versions.remove(WILDCARD);
        let type_url = self.type_url.clone();
        // It may run what was between, and not say so. What it asks for by name is owed already.
        if self.covers_unnamed() {
            let reverted = view.reverted(&type_url).into_iter();
            let unnamed = reverted.filter(|name| self.subscription.covers(name));
            versions.extend(unnamed.map(|name| (name.to_string(), String::new())));
        }
        let mut compare = |this: &mut Self, resource: &Resource| {
            let claimed = versions.remove(&**resource.name());
            // The time of what has one may be over.
            let is_told = claimed.as_deref() == Some(resource.version())
                && !(this.bears_ttl && resource.ttl().is_some());
            if !is_told {
                this.owe_claimed(resource.name().clone(), None, claimed.is_some());
            }
        };
        if self.subscription.is_wildcard() {
            let all = view.resources(&type_url).filter(|resource| !resource.is_on_demand());
            all.for_each(|resource| compare(self, &resource));
        } else {
            for glob in self.aside.take(|it| &mut it.asked_globs) {
                let members: Vec<_> = self.members(view, &glob).collect();
                members.iter().for_each(|member| compare(self, member));
                if members.is_empty() {
                    self.aside.fill().asked_globs.insert(glob);
                }
            }
        }
        for (name, version) in versions {
            if self.subscription.contains(&name) {
                let name = Arc::<str>::from(name);
                let now = self.find(view, &name);
                let is_strange = now.is_none();
                let last = now.or_else(|| view.tombstone(&type_url, &name));
                let known = last.filter(|last| last.version() == version);
                if is_strange && known.is_none() {
                    self.aside.fill().strange.insert(name.clone(), version);
                }
                self.owe_claimed(name, known, true);
            }
        }
    }

    /// Owes what a client has, or has not, from before this stream.
    fn owe_claimed(&mut self, name: Arc<str>, known: Option<Resource>, held: bool) {
        let unknown = held && known.is_none();
        self.owe(name.clone(), known, held, Reason::Changed);
        if let Some(owed) = self.owed.get_mut(&name) {
            (owed.claimed, owed.unknown) = (held, unknown);
        }
    }
}
