//! One type in one scope: its resources, and what changed of them.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use deltaplane_core::{Change, LogTruncated, Resource, Revision, TypeVersion};
use imbl::{OrdMap, OrdSet};

use crate::{
    log::{Log, Unread, collection_of},
    references::References,
    reverts::Past,
    state::HashMap,
};

/// One type in one scope. Immutable once published; a clone shares all that an edit leaves alone.
#[derive(Debug, Clone)]
pub(crate) struct Layer {
    pub(crate) resources: OrdMap<Arc<str>, Resource>,
    /// The name of the resource that has an alias.
    aliases: OrdMap<Arc<str>, Arc<str>>,
    /// The names of the members of each collection.
    collections: HashMap<Arc<str>, OrdSet<Arc<str>>>,
    /// Some resource had an alias at some time.
    pub(crate) had_aliases: bool,
    pub(crate) references: References,
    pub(crate) version: TypeVersion,
    /// How many of the resources only say that there is nothing of their name, whatever lies below.
    pub(crate) hidden: usize,
    /// Its source said what is in it. Until then it is unknown, which is not the same as empty.
    pub(crate) filled: bool,
    log: Log,
}

impl Layer {
    /// A layer without resources, as it was from the beginning.
    pub(crate) fn new(filled: bool) -> Self {
        Self {
            resources: OrdMap::new(),
            aliases: OrdMap::new(),
            collections: HashMap::default(),
            had_aliases: false,
            references: References::default(),
            version: TypeVersion::default(),
            hidden: 0,
            filled,
            log: Log::default(),
        }
    }

    /// What an edit would change, in the order of the names. Equal content is no change.
    pub(crate) fn difference(&self, edit: &Edit) -> Vec<Change> {
        let mut changes = Vec::new();
        if edit.replace {
            let gone = self.resources.iter().filter(|(name, _)| !edit.names.contains_key(*name));
            changes
                .extend(gone.map(|(name, old)| Change::new(name.clone(), Some(old.clone()), None)));
        }
        for (name, after) in &edit.names {
            let before = self.resources.get(name);
            if before != after.as_ref() {
                changes.push(Change::new(name.clone(), before.cloned(), after.clone()));
            }
        }
        if edit.replace {
            changes.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        }
        changes
    }

    /// Makes changes, at a revision, and logs them. Costs what changes, and what that refers to.
    pub(crate) fn apply(
        &mut self,
        changes: Vec<Change>,
        revision: Revision,
        origin: &Origin,
        log_limit: usize,
    ) {
        let before = self.version.clone();
        for change in &changes {
            self.references.follow(change);
            self.collect(change);
            if let Some(before) = &change.before {
                if before.is_absent() {
                    self.hidden -= 1;
                } else {
                    self.version.subtract(before);
                }
                self.forget_aliases(before);
            }
            match &change.after {
                Some(after) => {
                    if after.is_absent() {
                        self.hidden += 1;
                    } else {
                        self.version.add(after);
                    }
                    for alias in after.aliases() {
                        self.had_aliases = true;
                        self.aliases.insert(alias.clone(), change.name.clone());
                    }
                    self.resources.insert(change.name.clone(), after.clone());
                }
                None => {
                    self.resources.remove(&change.name);
                }
            }
        }
        self.version.revision = origin.revision.or(self.version.revision);
        self.version.label.clone_from(&origin.label);
        self.log.push(revision, changes, (&before, &self.version), log_limit);
    }

    /// Keeps the collection of what changed.
    fn collect(&mut self, change: &Change) {
        let Some(collection) = collection_of(change) else { return };
        if change.before.is_some() && change.after.is_some() {
            return; // It is a member already.
        }
        if change.after.is_some() {
            let members = self.collections.entry(collection.clone()).or_default();
            members.insert(change.name.clone());
        } else if let Some(members) = self.collections.get_mut(collection) {
            members.remove(&change.name);
            if members.is_empty() {
                self.collections.remove(collection);
            }
        }
    }

    /// The members of a collection, in the order of their names.
    pub(crate) fn members(&self, collection: &str) -> impl Iterator<Item = &Resource> {
        let names = self.collections.get(collection).into_iter().flatten();
        names.filter_map(|name| self.resources.get(name))
    }

    /// The names in a collection that changed after a revision, some perhaps several times. Costs the changes
    /// in the directory and below it, of the commits that changed the collection.
    pub(crate) fn changed_in(
        &self,
        collection: &str,
        since: Revision,
    ) -> impl Iterator<Item = &Arc<str>> {
        self.log.changes_in(collection, since).map(|change| &change.name)
    }

    /// The resource that has this alias.
    pub(crate) fn resolve(&self, alias: &str) -> Option<&Resource> {
        self.aliases.get(alias).and_then(|name| self.resources.get(name))
    }

    /// Whether the version of a resource, which its caller brought, denotes another content of that name,
    /// now or as far back as the log reaches.
    pub(crate) fn denotes_another(&self, resource: &Resource) -> bool {
        let is_another = |hash: u64| hash != resource.hash();
        let now = self.resources.get(resource.name());
        let now = now.filter(|now| now.version() == resource.version());
        resource.has_own_version()
            && (now.is_some_and(|now| is_another(now.hash()))
                || self.log.denoted(resource).is_some_and(is_another))
    }

    /// When a name changed last, until a revision.
    pub(crate) fn changed_at(&self, name: &str, until: Revision) -> Option<Revision> {
        let mut changes = self.log.changes_of(name, Revision(0)).map(|(revision, _)| revision);
        changes.find(|revision| *revision <= until)
    }

    /// What a name was before it changed for the first time after a revision, if it did since.
    pub(crate) fn before(&self, name: &str, since: Revision) -> Option<Option<&Resource>> {
        self.log.changes_of(name, since).last().map(|(_, first)| first.before.as_ref())
    }

    /// What had this name and a content of this hash before it changed.
    pub(crate) fn recall(&self, name: &str, hash: u64) -> Option<&Resource> {
        let changes = self.log.changes_of(name, Revision(0));
        let mut before = changes.filter_map(|(_, change)| change.before.as_ref());
        before.find(|before| before.hash() == hash)
    }

    /// Whether something in it, or in what changed of it after a revision, only hides what lies below.
    pub(crate) fn hides(&self, since: Revision) -> bool {
        self.hidden > 0 || self.log.hides(since)
    }

    /// What the commit of this revision changed; nothing, if that is forgotten, or if there was none.
    pub(crate) fn changes_at(&self, revision: Revision) -> Option<&[Change]> {
        self.log.changes_at(revision)
    }

    /// What had this name before it was removed, as far back as the log reaches.
    pub(crate) fn tombstone(&self, name: &str) -> Option<&Resource> {
        self.log.removed(name).filter(|_| !self.resources.contains_key(name))
    }

    /// Takes up what names were one after the other.
    pub(crate) fn note_past(
        &mut self,
        pasts: impl IntoIterator<Item = (Arc<str>, Vec<Option<u64>>)>,
        log_limit: usize,
    ) {
        let resources = &self.resources;
        let past = |(name, contents): (Arc<str>, _)| {
            let is = resources.get(&name).map(Resource::hash);
            (name, Past::new(contents, is))
        };
        self.log.note_past(pasts.into_iter().map(past), log_limit);
    }

    /// The names that went back of late to what they were before.
    pub(crate) fn reverted(&self) -> impl Iterator<Item = &Arc<str>> {
        self.log.reverts.names(Instant::now())
    }

    /// Whether the whole did.
    pub(crate) fn is_reverted(&self) -> bool {
        self.log.reverts.whole(Instant::now())
    }

    /// Lets time pass.
    #[cfg(test)]
    pub(crate) fn age(&mut self, time: std::time::Duration) {
        self.log.age(time);
    }

    /// Whether all readers are asked to look at this revision, whatever they wait for.
    pub(crate) fn asks_at(&self, revision: Revision) -> bool {
        self.log.asks_at(revision)
    }

    /// What the last so many commits removed.
    pub(crate) fn tombstones(&self, commits: usize) -> impl Iterator<Item = &Resource> {
        self.log.removed_by(commits).filter(|gone| !self.resources.contains_key(gone.name()))
    }

    /// The revisions at which this layer changed, the last one first.
    pub(crate) fn revisions(&self) -> impl Iterator<Item = Revision> {
        self.log.revisions()
    }

    fn forget_aliases(&mut self, resource: &Resource) {
        for alias in resource.aliases() {
            // It may have gone to another resource in the meantime.
            if self.aliases.get(alias) == Some(resource.name()) {
                self.aliases.remove(alias);
            }
        }
    }

    /// What the last commit changed.
    pub(crate) fn last_changes(&self) -> &[Change] {
        self.log.last_changes()
    }

    /// The commits after a revision, oldest first.
    pub(crate) fn since(&self, since: Revision) -> Result<Unread<'_>, LogTruncated> {
        self.log.since(since)
    }
}

/// What a transaction says of one layer.
#[derive(Debug, Clone, Default)]
pub(crate) struct Edit {
    /// What is not named is removed.
    pub(crate) replace: bool,
    /// What becomes of each name.
    pub(crate) names: BTreeMap<Arc<str>, Option<Resource>>,
}

/// Where a transaction comes from, by its writer's word.
#[derive(Debug, Clone, Default)]
pub(crate) struct Origin {
    pub(crate) revision: Option<u64>,
    pub(crate) label: Option<Arc<str>>,
}
