//! What one client sees of a cache: scopes, one over the other.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::SystemTime,
};

use deltaplane_core::{
    Change, Key, LogTruncated, Resource, Revision, Subscription, TypeUrl, TypeVersion, View, Whole,
};

use crate::{
    Scope, layer::Layer, log::Unread, memo::Seen, rollback::COMMITS_RECALLED, state::State,
};

/// What a client sees: an ordered list of scopes at one revision. Where several hold a resource of one
/// name, the first wins. Cloning is cheap, and a view never changes.
#[derive(Debug, Clone)]
pub struct CacheView {
    state: Arc<State>,
    scopes: Arc<[Scope]>,
}

impl CacheView {
    pub(crate) fn new(state: Arc<State>, scopes: Arc<[Scope]>) -> Self {
        Self { state, scopes }
    }

    /// The scopes, the first over the others.
    #[must_use]
    pub fn scopes(&self) -> &Arc<[Scope]> {
        &self.scopes
    }

    /// What a client sees, at the same revision, that is given other scopes.
    #[must_use]
    pub fn through(&self, scopes: &Arc<[Scope]>) -> CacheView {
        CacheView::new(self.state.clone(), scopes.clone())
    }

    /// Whether something of a type changed after one revision, and not after another; or may have, if that is
    /// forgotten.
    #[must_use]
    pub fn changed_between(&self, type_url: &TypeUrl, after: Revision, until: Revision) -> bool {
        let is_between = |revision: Revision| revision > after && revision <= until;
        self.layers(type_url).any(|layer| {
            let mut later = layer.revisions().take_while(|revision| *revision > after);
            layer.since(after).is_err() || later.any(is_between)
        })
    }

    /// When what goes by a name changed last, until a revision, in the scope where it is seen; nothing, if
    /// that is forgotten, or it never did. Costs the changes of that name since.
    #[must_use]
    pub fn changed_at(&self, type_url: &TypeUrl, name: &str, until: Revision) -> Option<Revision> {
        for layer in self.layers(type_url) {
            if let Some(revision) = layer.changed_at(name, until) {
                return Some(revision);
            }
            if layer.resources.contains_key(name) {
                return None;
            }
        }
        None
    }

    /// When the commit was made that brought what goes by a name; nothing, if that is forgotten.
    #[must_use]
    pub fn committed_at(&self, type_url: &TypeUrl, name: &str) -> Option<SystemTime> {
        let revision = self.changed_at(type_url, name, self.state.revision)?;
        let history = &self.state.history;
        let at = history.binary_search_by(|record| record.revision.cmp(&revision)).ok()?;
        history.get(at).map(|record| record.at)
    }

    /// Whether everything in it is known: at least one scope is, and no type waits for its source.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        let mut known =
            self.scopes.iter().filter_map(|scope| self.state.scopes.get(scope)).peekable();
        known.peek().is_some()
            && known.flat_map(|layers| layers.types.values()).all(|layer| layer.filled)
    }

    /// The resources that refer to a key, as they are seen: who is masked by a scope above does not count.
    /// The key itself need not be there. Costs as many look-ups as there are types in the scopes, and what
    /// it yields.
    pub fn referrers(&self, key: &Key) -> impl Iterator<Item = Key> {
        self.all_layers().flat_map(move |(depth, type_url, layer)| {
            let names = layer.references.to(key);
            let seen = names.filter(move |name| !self.is_masked(depth, type_url, name));
            seen.map(|name| Key::new(type_url.clone(), name.clone()))
        })
    }

    /// All references to keys of a type, as they are seen: who refers, and to what, be it there or not.
    /// Costs what it yields.
    pub fn references_into(&self, type_url: &TypeUrl) -> impl Iterator<Item = (Key, Key)> {
        self.all_layers().flat_map(move |(depth, from, layer)| {
            let all = layer.references.to_type(type_url);
            let seen = all.filter(move |(name, _)| !self.is_masked(depth, from, name));
            seen.map(|(name, to)| (Key::new(from.clone(), name.clone()), to.clone()))
        })
    }

    /// What tells that somebody else sees the same of a type.
    fn what_is_seen(&self, type_url: &TypeUrl) -> Seen {
        let layers = self.scopes.iter().filter_map(|scope| {
            let layer = self.state.layer(scope, type_url)?;
            Some((scope.clone(), layer.revisions().next().unwrap_or_default()))
        });
        (type_url.clone(), layers.collect())
    }

    /// What changed since the set had a version, if it had it of late.
    fn recall(&self, type_url: &TypeUrl, version: &TypeVersion) -> Option<Arc<[Change]>> {
        let mut revisions: Vec<_> =
            self.layers(type_url).flat_map(|layer| layer.revisions().take(RECALLED)).collect();
        revisions.sort_unstable();
        revisions.dedup();
        revisions.reverse();
        let now = self.version(type_url);
        let before = |revision: &Revision| Revision(revision.0.saturating_sub(1));
        // The newest set is that of now; each commit that is taken back shows the one before it.
        let mut sets = vec![Revision(u64::MAX)];
        sets.extend(revisions.iter().take(RECALLED).map(before));
        for (at, since) in sets.iter().enumerate() {
            let changes = match since.0 {
                u64::MAX => Arc::default(),
                _ => self.changes(type_url, *since).ok()?,
            };
            let mut then = now.clone();
            for change in changes.iter() {
                change.after.iter().for_each(|after| then.subtract(after));
                change.before.iter().for_each(|before| then.add(before));
            }
            if then == *version {
                return Some(changes);
            }
            // In the middle of a swap: with what the commits that led here removed.
            let changed: BTreeSet<_> = changes.iter().map(|change| &change.name).collect();
            for earlier in sets.get(at + 1..)?.iter().take(SWAPS_RECALLED) {
                let undone = self.changes(type_url, *earlier).ok()?;
                let is_gone =
                    |change: &&Change| change.after.is_none() && !changed.contains(&change.name);
                let held: Vec<_> = undone.iter().filter(is_gone).cloned().collect();
                let mut union = then.clone();
                held.iter().flat_map(|change| &change.before).for_each(|before| union.add(before));
                if !held.is_empty() && union == *version {
                    return Some(changes.iter().cloned().chain(held).collect());
                }
            }
        }
        None
    }

    /// Every type of every scope, and how many scopes are above.
    fn all_layers(&self) -> impl Iterator<Item = (usize, &TypeUrl, &Layer)> {
        let scopes = self.scopes.iter().enumerate();
        scopes.flat_map(|(depth, scope)| {
            let layers = self.state.scopes.get(scope);
            let layers = layers.into_iter().flat_map(|layers| layers.types.iter());
            layers.map(move |(type_url, layer)| (depth, type_url, &**layer))
        })
    }

    /// Whether a scope above the one at `depth` has a resource of that name, or hides it.
    fn is_masked(&self, depth: usize, type_url: &TypeUrl, name: &str) -> bool {
        let mut above = self.scopes.iter().take(depth);
        let of_name = |scope| self.state.layer(scope, type_url)?.resources.get(name);
        while let Some(found) = above.by_ref().find_map(of_name) {
            let last = found.hides_down_to();
            if last.is_none_or(|last| !above.any(|scope| scope.as_str() == last)) {
                return true;
            }
        }
        false
    }

    fn layers(&self, type_url: &TypeUrl) -> impl DoubleEndedIterator<Item = &Layer> {
        self.of_scopes(type_url).filter_map(|(_, layer)| layer)
    }

    /// Each scope, and what it has of a type.
    fn of_scopes(
        &self,
        type_url: &TypeUrl,
    ) -> impl DoubleEndedIterator<Item = (&Scope, Option<&Layer>)> {
        self.scopes.iter().map(|scope| (scope, self.state.layer(scope, type_url).map(Arc::as_ref)))
    }

    /// The resource of that name, as it is seen.
    fn seen(&self, type_url: &TypeUrl, name: &str) -> Option<&Resource> {
        first(self.of_scopes(type_url), |layer| layer?.resources.get(name))
    }

    /// What the first scope that has something of that name has: a resource, or that others are
    /// [hidden](crate::Transaction::hide), which [`get`](View::get) does not tell from nothing.
    #[must_use]
    pub fn topmost(&self, type_url: &TypeUrl, name: &str) -> Option<Resource> {
        self.layers(type_url).find_map(|layer| layer.resources.get(name)).cloned()
    }

    /// The net changes of several layers, each name as it is seen through all of them. A change below
    /// the layer that defines a name is none; one that uncovers an older resource is one.
    fn net_changes(
        &self,
        type_url: &TypeUrl,
        since: Revision,
    ) -> Result<Vec<Change>, LogTruncated> {
        let mut layers = Vec::new();
        for (scope, layer) in self.of_scopes(type_url) {
            let unread = layer.map(|layer| layer.since(since)).transpose()?;
            layers.push((scope, layer.zip(unread.map(|unread| unread.merged()))));
        }
        let merged = layers.iter().filter_map(|(_, layer)| layer.as_ref());
        let names: BTreeSet<_> = merged.flat_map(|(_, merged)| merged.keys()).collect();
        let seen = |name: &Arc<str>| {
            let layers = layers.iter().map(|(scope, layer)| (*scope, layer.as_ref()));
            let before = first(layers, |layer| {
                let (layer, merged) = layer?;
                match merged.get(name) {
                    Some((before, _)) => before.as_ref(),
                    None => layer.resources.get(name),
                }
            });
            self.net_change(type_url, name, before)
        };
        Ok(names.into_iter().filter_map(seen).collect())
    }

    /// The same of what is subscribed, each name looked up by itself.
    fn net_changes_of(
        &self,
        type_url: &TypeUrl,
        subscription: &Subscription,
        since: Revision,
    ) -> Arc<[Change]> {
        let members: BTreeSet<_> = subscription
            .globs()
            .flat_map(|glob| self.layers(type_url).map(move |layer| (glob, layer)))
            .flat_map(|(glob, layer)| layer.changed_in(glob, since))
            .collect();
        let names = subscription.names().filter(|name| !members.contains(name));
        let changed = names.chain(members.iter().copied()).filter_map(|name| {
            let has_changed = |layer: &Layer| layer.before(name, since).is_some();
            if !self.layers(type_url).any(has_changed) {
                return None;
            }
            let before =
                first(self.of_scopes(type_url), |layer| match layer?.before(name, since) {
                    Some(before) => before,
                    None => layer?.resources.get(name),
                });
            self.net_change(type_url, name, before)
        });
        changed.collect()
    }

    /// What became of a name as it is seen now, if it is not what it was.
    fn net_change(
        &self,
        type_url: &TypeUrl,
        name: &Arc<str>,
        before: Option<&Resource>,
    ) -> Option<Change> {
        let after = self.seen(type_url, name);
        (before != after).then(|| Change::new(name.clone(), before.cloned(), after.cloned()))
    }
}

impl View for CacheView {
    fn revision(&self) -> Revision {
        self.state.revision
    }

    fn is_known(&self, type_url: &TypeUrl) -> bool {
        let declared = self.scopes.iter().any(|scope| self.state.scopes.contains_key(scope));
        declared && self.layers(type_url).all(|layer| layer.filled)
    }

    fn get(&self, type_url: &TypeUrl, name: &str) -> Option<Resource> {
        self.seen(type_url, name).cloned()
    }

    /// A name goes before an alias, and an alias counts if the resource that has it is the one seen.
    fn resolve(&self, type_url: &TypeUrl, name: &str) -> Option<Resource> {
        self.get(type_url, name).or_else(|| {
            let mut having = self.layers(type_url).filter_map(|layer| layer.resolve(name));
            having.find(|found| self.get(type_url, found.name()).as_ref() == Some(*found)).cloned()
        })
    }

    fn tombstone(&self, type_url: &TypeUrl, name: &str) -> Option<Resource> {
        self.layers(type_url).find_map(|layer| layer.tombstone(name)).cloned()
    }

    fn recall(&self, type_url: &TypeUrl, name: &str, hash: u64) -> Option<Resource> {
        self.layers(type_url).find_map(|layer| layer.recall(name, hash)).cloned()
    }

    /// Costs the unread commits, or the names and what changed in the collections, if they are fewer.
    fn changes_of(
        &self,
        type_url: &TypeUrl,
        subscription: &Subscription,
        since: Revision,
    ) -> Result<Arc<[Change]>, LogTruncated> {
        let subscribed = subscription.names().len() + subscription.globs().len();
        let mut commits = 0;
        for layer in self.layers(type_url) {
            commits += layer.since(since)?.len();
        }
        if commits <= subscribed || self.layers(type_url).any(|layer| layer.had_aliases) {
            return self.changes(type_url, since);
        }
        Ok(self.net_changes_of(type_url, subscription, since))
    }

    /// Those of the last 1,024 revisions.
    fn tombstones(&self, type_url: &TypeUrl) -> Vec<Resource> {
        let recent = self.layers(type_url).flat_map(|layer| layer.tombstones(COMMITS_RECALLED));
        recent.filter(|gone| self.get(type_url, gone.name()).is_none()).cloned().collect()
    }

    /// In the last ten minutes, each scope by itself: what is again one of the four contents that it had before, or is
    /// gone or there again. Costs the names that went back.
    fn reverted(&self, type_url: &TypeUrl) -> BTreeSet<Arc<str>> {
        self.layers(type_url).flat_map(Layer::reverted).cloned().collect()
    }

    /// In the last ten minutes, of some scope, to what it was before one of the last 1,024 commits.
    fn is_reverted(&self, type_url: &TypeUrl) -> bool {
        self.layers(type_url).any(Layer::is_reverted)
    }

    /// Looks for the version among those of the last 32 revisions, each as it was, and with what was removed
    /// by it or a few before it still there. It is found once for all who come back with the same.
    fn changes_from(&self, type_url: &TypeUrl, version: &TypeVersion) -> Option<Arc<[Change]>> {
        let recalled = &self.state.memos.recalled;
        recalled
            .get(self.what_is_seen(type_url), version.clone(), || self.recall(type_url, version))
    }

    /// Costs nothing where both see the same scopes of a type.
    fn difference(&self, other: &Self, type_url: &TypeUrl) -> Vec<Change> {
        let layers = |view: &'_ Self| -> Vec<*const Layer> {
            view.layers(type_url).map(std::ptr::from_ref).collect()
        };
        if layers(self) == layers(other) {
            Vec::new()
        } else {
            deltaplane_core::difference(self, other, type_url)
        }
    }

    fn resources(&self, type_url: &TypeUrl) -> impl Iterator<Item = Resource> {
        let mut layers = self.layers(type_url);
        let (first, second) = (layers.next(), layers.next());
        let merged = second.is_some().then(|| {
            // From the lowest up, so that the first scope has the last word.
            let all = self.layers(type_url).rev().flat_map(|layer| layer.resources.iter());
            all.map(|(name, resource)| (name.clone(), resource.clone())).collect::<BTreeMap<_, _>>()
        });
        let single = if merged.is_none() { first } else { None };
        let single = single.into_iter().flat_map(|layer| layer.resources.values().cloned());
        let all = single.chain(merged.into_iter().flat_map(BTreeMap::into_values));
        all.filter_map(|resource| match resource.is_absent() {
            true => self.get(type_url, resource.name()),
            false => Some(resource),
        })
    }

    /// Costs what it yields.
    fn members(&self, type_url: &TypeUrl, glob: &str) -> impl Iterator<Item = Resource> {
        let mut layers = self.layers(type_url);
        let (first, second) = (layers.next(), layers.next());
        let merged = second.is_some().then(|| {
            let all = self.layers(type_url).flat_map(|layer| layer.members(glob));
            let names: BTreeSet<_> = all.map(|member| member.name().clone()).collect();
            names.into_iter().filter_map(|name| self.get(type_url, &name)).collect::<Vec<_>>()
        });
        let single = if merged.is_none() { first } else { None };
        let single = single.into_iter().flat_map(|layer| layer.members(glob)).cloned();
        let all = single.chain(merged.into_iter().flatten());
        all.filter(|member| !member.is_absent())
    }

    /// Kept for others from the second time on, as long as nothing of the type changes in these scopes.
    fn whole(&self, type_url: &TypeUrl) -> Arc<Whole> {
        self.state.memos.wholes.get(self.what_is_seen(type_url), (), || {
            let version = self.version(type_url);
            Arc::new(Whole::new(type_url.clone(), &version, self.resources(type_url)))
        })
    }

    fn is_referred_to(&self, key: &Key) -> bool {
        self.referrers(key).next().is_some()
    }

    /// The version of what is seen through all layers. One layer's is at hand; with several, what the
    /// upper ones mask is taken out of the lower ones, which costs the size of the upper ones.
    fn version(&self, type_url: &TypeUrl) -> TypeVersion {
        let scopes = self.scopes.iter().enumerate();
        let layers =
            scopes.filter_map(|(depth, scope)| Some((depth, self.state.layer(scope, type_url)?)));
        let layers: Vec<_> = layers.collect();
        let hides = layers.iter().any(|(_, layer)| layer.hidden > 0);
        let mut version = TypeVersion::default();
        for (at, (depth, layer)) in layers.iter().enumerate() {
            version = version.union(layer.version.clone());
            let above = layers.get(..at).unwrap_or_default();
            let names: BTreeSet<_> =
                above.iter().flat_map(|(_, layer)| layer.resources.keys()).collect();
            for below in names.into_iter().filter_map(|name| layer.resources.get(name)) {
                // What hides is in no version.
                let is_masked = || self.is_masked(*depth, type_url, below.name());
                if !hides || (!below.is_absent() && is_masked()) {
                    version.subtract(below);
                }
            }
        }
        version
    }

    fn source_revision(&self, type_url: &TypeUrl) -> Option<u64> {
        let scopes = self.scopes.iter().filter_map(|scope| self.state.scopes.get(scope));
        let layers = scopes.flat_map(|layers| {
            let changed = layers.types.get(type_url).and_then(|layer| layer.version.revision);
            [layers.source, changed]
        });
        layers.max().flatten()
    }

    fn changes(&self, type_url: &TypeUrl, since: Revision) -> Result<Arc<[Change]>, LogTruncated> {
        let mut layers = self.layers(type_url);
        let Some(only) = layers.next() else { return Ok(Arc::default()) };
        if layers.next().is_some() || only.hides(since) {
            return self.net_changes(type_url, since).map(Into::into);
        }
        let unread = only.since(since)?;
        Ok(match unread.single() {
            Some(changes) => changes.clone(),
            None => merge(&unread),
        })
    }
}

/// How many revisions a version is looked for in.
const RECALLED: usize = 32;

/// How many swaps may be under way at once in what a client holds, for that to be recognised.
const SWAPS_RECALLED: usize = 4;

/// What is seen of a name through layers, as each of them tells what it has of it: the first word counts,
/// and what is hidden down to some scope is looked for below that.
fn first<'a, L>(
    mut layers: impl Iterator<Item = (&'a Scope, L)>,
    of_name: impl Fn(L) -> Option<&'a Resource>,
) -> Option<&'a Resource> {
    loop {
        let found = layers.find_map(|(_, layer)| of_name(layer))?;
        if !found.is_absent() {
            return Some(found);
        }
        let last = found.hides_down_to()?;
        layers.find(|(scope, _)| scope.as_str() == last)?;
    }
}

/// The net changes of one layer over several commits.
fn merge(unread: &Unread<'_>) -> Arc<[Change]> {
    if unread.is_empty() {
        return Arc::default();
    }
    let merged = unread.merged().into_iter();
    merged
        .filter(|(_, (before, after))| before != after)
        .map(|(name, (before, after))| Change::new(name, before, after))
        .collect()
}
