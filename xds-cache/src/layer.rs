//! One type in one scope: its resources, and what changed of them.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    sync::Arc,
    time::{Duration, Instant},
};

use deltaplane_core::{Change, LogTruncated, Resource, Reverted, Revision, TypeVersion};
use imbl::{OrdMap, OrdSet, Vector};

use crate::{references::References, rollback::COMMITS_RECALLED, state::HashMap};

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
    /// What went back to what it is before this layer knew of it, and when that was told.
    told_reverted: OrdMap<Arc<str>, Instant>,
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
            told_reverted: OrdMap::new(),
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
        self.log.push(revision, changes, log_limit);
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
        let mut commits =
            self.log.commits.iter().rev().take_while(|commit| commit.revision > since);
        self.hidden > 0 || commits.any(|commit| commit.hides)
    }

    /// What the commit of this revision changed; nothing, if that is forgotten, or if there was none.
    pub(crate) fn changes_at(&self, revision: Revision) -> Option<&[Change]> {
        self.log.commit(revision).map(|commit| &*commit.changes)
    }

    /// What had this name before it was removed, as far back as the log reaches.
    pub(crate) fn tombstone(&self, name: &str) -> Option<&Resource> {
        self.log.gone.get(name).filter(|_| !self.resources.contains_key(name)).map(|(last, _)| last)
    }

    /// Notes that these names went back to what they are.
    pub(crate) fn note_reverted(&mut self, names: impl IntoIterator<Item = Arc<str>>) {
        let now = Instant::now();
        let known = self.told_reverted.iter().filter(|(_, at)| is_recent(**at, now));
        let known = known.map(|(name, at)| (name.clone(), *at));
        self.told_reverted = known.chain(names.into_iter().map(|name| (name, now))).collect();
    }

    /// Of how many names it was told that they went back.
    pub(crate) fn told_reverted(&self) -> usize {
        self.told_reverted.len()
    }

    /// The first revision of late that changed this layer: not longer ago than changes are kept, and of so many commits.
    /// None that there is, if only something else was told of late.
    pub(crate) fn first_of_late(&self) -> Option<Revision> {
        let (commits, now) = (&self.log.commits, Instant::now());
        let late = commits.binary_search_by(|commit| match is_recent(commit.at, now) {
            true => Ordering::Greater,
            false => Ordering::Less,
        });
        let first =
            late.unwrap_or_else(|at| at).max(commits.len().saturating_sub(COMMITS_RECALLED));
        let is_told = self.told_reverted.values().any(|at| is_recent(*at, now));
        let none = is_told.then_some(Revision(u64::MAX));
        commits.get(first).map(|commit| commit.revision).or(none)
    }

    /// What changed since some revision, with it, and is now what it was before. Costs these commits.
    pub(crate) fn reverted(&self, first: Revision) -> Reverted {
        let (mut reverted, mut then) = (Reverted::default(), self.version.clone());
        let mut differed = false;
        let counts = |resource: &&Resource| !resource.is_absent();
        let recent = self.log.commits.iter().rev().take_while(|commit| commit.revision >= first);
        for commit in recent {
            for change in commit.changes.iter() {
                change.after.iter().filter(counts).for_each(|after| then.subtract(after));
                change.before.iter().filter(counts).for_each(|before| then.add(before));
                if change.before.as_ref() == self.resources.get(&change.name) {
                    reverted.names.insert(change.name.clone());
                }
            }
            reverted.whole |= differed && then == self.version;
            differed |= then != self.version;
        }
        let now = Instant::now();
        let told = self.told_reverted.iter().filter(|(_, at)| is_recent(**at, now));
        let told: Vec<_> = told.map(|(name, _)| name.clone()).collect();
        // The set may have gone back with them.
        reverted.whole |= !told.is_empty();
        reverted.names.extend(told);
        reverted
    }

    /// What the last so many commits removed.
    pub(crate) fn tombstones(&self, commits: usize) -> impl Iterator<Item = &Resource> {
        let since = self.revisions().take(commits).last().unwrap_or_default();
        let gone = self.log.gone.values().filter(move |(_, last)| *last >= since);
        gone.map(|(gone, _)| gone).filter(|gone| !self.resources.contains_key(gone.name()))
    }

    /// The revisions at which this layer changed, the last one first.
    pub(crate) fn revisions(&self) -> impl Iterator<Item = Revision> {
        self.log.commits.iter().rev().map(|commit| commit.revision)
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
        self.log.commits.last().map(|last| &*last.changes).unwrap_or_default()
    }

    /// The commits after a revision, oldest first.
    pub(crate) fn since(&self, since: Revision) -> Result<Unread<'_>, LogTruncated> {
        if since < self.log.begin {
            return Err(LogTruncated::new(since));
        }
        let at = match self.log.commits.binary_search_by_key(&since, |commit| commit.revision) {
            Ok(at) => at + 1,
            Err(at) => at,
        };
        Ok(Unread { log: &self.log, at })
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

/// The commits that changed a layer, back to some revision.
#[derive(Debug, Clone, Default)]
struct Log {
    /// The revision back to which the log reaches: changes after it are here.
    begin: Revision,
    commits: Vector<LoggedCommit>,
    entries: usize,
    /// How many bytes it keeps of what was replaced.
    bytes: usize,
    /// What was replaced and had a version of its caller's: by name and version, the hash of the content,
    /// and when it was replaced last.
    denoted: OrdMap<(Arc<str>, Arc<str>), (u64, Revision)>,
    /// What was removed, and when it was last.
    gone: OrdMap<Arc<str>, (Resource, Revision)>,
    /// When each name changed last; or, of what is forgotten, did.
    last: HashMap<Arc<str>, Revision>,
    /// When something in each collection changed last.
    last_in: HashMap<Arc<str>, Revision>,
    /// What is forgotten, and still in `last`: from where on.
    forgotten: Vector<(LoggedCommit, usize)>,
}

/// The collection of which a change is.
pub(crate) fn collection_of(change: &Change) -> Option<&Arc<str>> {
    change.before.as_ref().or(change.after.as_ref())?.collection()
}

/// Name and version of a resource.
fn denotation(resource: &Resource) -> (Arc<str>, Arc<str>) {
    (resource.name().clone(), resource.version().into())
}

#[derive(Debug, Clone)]
struct LoggedCommit {
    revision: Revision,
    at: Instant,
    /// In the order of their names.
    changes: Arc<[Change]>,
    /// When each of these names changed the time before, be that still in the log or not.
    previous: Arc<[Revision]>,
    /// The collections that changed, in the order of their names, and when each did the time before.
    collections: Arc<[(Arc<str>, Revision)]>,
    /// Some of it only hides what lies below.
    hides: bool,
}

/// However large or old they were, this many commits stay in the log, so that one huge commit does not make
/// every connected client too late for it.
const COMMITS_KEPT: usize = 64;

/// Whatever their number, older changes are forgotten when what they replaced takes more than this many
/// bytes.
const BYTES_KEPT: usize = 128 << 20;

/// Whatever their number, older changes than this are forgotten, but for the last commits: a log would grow for as long
/// as something changes, and who has not read for so long is not expected any more.
const KEPT_FOR: Duration = Duration::from_secs(600);

fn is_recent(at: Instant, now: Instant) -> bool {
    now.saturating_duration_since(at) <= KEPT_FOR
}

/// How much is taken out of the index at each commit, if there is as much.
const LEAST_FORGOTTEN: usize = 64;

impl LoggedCommit {
    fn new(
        revision: Revision,
        changes: Vec<Change>,
        previous: Arc<[Revision]>,
        collections: Arc<[(Arc<str>, Revision)]>,
    ) -> Self {
        let absent =
            |resource: &Option<Resource>| resource.as_ref().is_some_and(Resource::is_absent);
        let hides = changes.iter().any(|change| absent(&change.before) || absent(&change.after));
        Self { revision, at: Instant::now(), changes: changes.into(), previous, collections, hides }
    }

    /// How many bytes it keeps of what was replaced.
    fn bytes(&self) -> usize {
        self.replaced().map(|resource| resource.value().len()).sum()
    }

    fn replaced(&self) -> impl Iterator<Item = &Resource> {
        self.changes.iter().filter_map(|change| change.before.as_ref())
    }

    /// What was removed.
    fn removed(&self) -> impl Iterator<Item = (&Arc<str>, &Resource)> {
        let removed = self.changes.iter().filter(|change| change.after.is_none());
        let removed = removed.filter_map(|change| Some((&change.name, change.before.as_ref()?)));
        removed.filter(|(_, last)| !last.is_absent())
    }

    /// What was replaced and had a version of its caller's.
    fn own(&self) -> impl Iterator<Item = &Resource> {
        self.replaced().filter(|resource| resource.has_own_version())
    }
}

impl Log {
    /// The hash of the content that the version of a resource, its caller's own, denoted.
    fn denoted(&self, resource: &Resource) -> Option<u64> {
        self.denoted.get(&denotation(resource)).map(|(hash, _)| *hash)
    }

    fn commit(&self, revision: Revision) -> Option<&LoggedCommit> {
        let at = self.commits.binary_search_by_key(&revision, |commit| commit.revision).ok()?;
        self.commits.get(at)
    }

    /// The changes of a name after a revision and when they were, the last one first, as far back as the
    /// log reaches. Costs what it yields.
    fn changes_of(&self, name: &str, since: Revision) -> impl Iterator<Item = (Revision, &Change)> {
        let mut next = self.last.get(name).copied();
        std::iter::from_fn(move || {
            let commit = self.commit(next.filter(|revision| *revision > since)?)?;
            let at = commit.changes.binary_search_by(|change| (*change.name).cmp(name)).ok()?;
            next = commit.previous.get(at).copied();
            commit.changes.get(at).map(|change| (commit.revision, change))
        })
    }

    /// The changes in a collection after a revision, the last commit's first, as far back as the log reaches.
    fn changes_in(&self, collection: &str, since: Revision) -> impl Iterator<Item = &Change> {
        let mut next = self.last_in.get(collection).copied();
        let commits = std::iter::from_fn(move || {
            let commit = self.commit(next.filter(|revision| *revision > since)?)?;
            let known = &commit.collections;
            let at = known.binary_search_by(|(name, _)| (**name).cmp(collection)).ok()?;
            next = known.get(at).map(|(_, previous)| *previous);
            Some(commit)
        });
        // What the members' names have in common.
        let directory = collection.split_once('*').map_or(collection, |(directory, _)| directory);
        commits.flat_map(move |commit| {
            let first = commit.changes.partition_point(|change| *change.name < *directory);
            let below = commit.changes.get(first..).unwrap_or_default().iter();
            let below = below.take_while(move |change| change.name.starts_with(directory));
            below.filter(move |change| collection_of(change).is_some_and(|of| **of == *collection))
        })
    }

    fn push(&mut self, revision: Revision, changes: Vec<Change>, limit: usize) {
        let last = |change: &Change| self.last.insert(change.name.clone(), revision);
        let previous = changes.iter().map(last).map(Option::unwrap_or_default).collect();
        let collections: BTreeSet<_> = changes.iter().filter_map(collection_of).cloned().collect();
        let last_in = |collection: Arc<str>| {
            let previous = self.last_in.insert(collection.clone(), revision);
            (collection, previous.unwrap_or_default())
        };
        let collections = collections.into_iter().map(last_in).collect();
        let commit = LoggedCommit::new(revision, changes, previous, collections);
        let news = commit.changes.len();
        self.entries += news;
        self.bytes += commit.bytes();
        let denoted = commit.own().map(|own| (denotation(own), (own.hash(), commit.revision)));
        self.denoted.extend(denoted);
        let gone =
            commit.removed().map(|(name, last)| (name.clone(), (last.clone(), commit.revision)));
        self.gone.extend(gone);
        let now = commit.at;
        self.commits.push_back(commit);
        let is_old = |oldest: &LoggedCommit| !is_recent(oldest.at, now);
        while (self.commits.len() > COMMITS_KEPT
            && (self.entries > limit || self.commits.front().is_some_and(is_old)))
            || (self.bytes > BYTES_KEPT && self.commits.len() > 1)
        {
            let Some(oldest) = self.commits.pop_front() else { return };
            self.entries -= oldest.changes.len();
            self.bytes -= oldest.bytes();
            for denotation in oldest.own().map(denotation) {
                if self.denoted.get(&denotation).is_some_and(|(_, last)| *last == oldest.revision) {
                    self.denoted.remove(&denotation);
                }
            }
            for (name, _) in oldest.removed() {
                if self.gone.get(name).is_some_and(|(_, last)| *last == oldest.revision) {
                    self.gone.remove(name);
                }
            }
            self.begin = oldest.revision;
            self.forgotten.push_back((oldest, 0));
        }
        self.forget(news);
    }

    /// Takes some of what is forgotten out of the index: twice as much as came in, so that nobody pays at
    /// once for the first commit of a million.
    fn forget(&mut self, news: usize) {
        for _ in 0..(2 * news).max(LEAST_FORGOTTEN) {
            let Some((oldest, at)) = self.forgotten.front_mut() else { return };
            let Some(change) = oldest.changes.get(*at) else {
                for (collection, _) in oldest.collections.iter() {
                    if self.last_in.get(collection) == Some(&oldest.revision) {
                        self.last_in.remove(collection);
                    }
                }
                self.forgotten.pop_front();
                continue;
            };
            *at += 1;
            let revision = oldest.revision;
            if self.last.get(&change.name).is_some_and(|last| *last == revision) {
                self.last.remove(&change.name.clone());
            }
        }
    }
}

/// The part of a log that a stream has not read.
pub(crate) struct Unread<'a> {
    log: &'a Log,
    at: usize,
}

impl Unread<'_> {
    /// How many commits it is.
    pub(crate) fn len(&self) -> usize {
        self.log.commits.len() - self.at
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The changes as they were logged, if they are one commit's.
    pub(crate) fn single(&self) -> Option<&Arc<[Change]>> {
        (self.at + 1 == self.log.commits.len())
            .then(|| self.log.commits.last())?
            .map(|c| &c.changes)
    }

    /// What each name was before the first of these changes, and is after the last.
    pub(crate) fn merged(&self) -> BTreeMap<Arc<str>, (Option<Resource>, Option<Resource>)> {
        let mut merged = BTreeMap::new();
        // Skipping would walk over all that was read.
        let commits = self.log.commits.focus().narrow(self.at..);
        for change in commits.into_iter().flat_map(|commit| commit.changes.iter()) {
            match merged.entry(change.name.clone()) {
                Entry::Vacant(entry) => {
                    entry.insert((change.before.clone(), change.after.clone()));
                }
                Entry::Occupied(mut entry) => entry.get_mut().1.clone_from(&change.after),
            }
        }
        merged
    }
}

#[cfg(test)]
mod tests {
    use deltaplane_core::TypeUrl;

    use super::*;

    /// A layer in which `a` was changed and changed back, and then `b` so many times, to something else each time.
    fn reverted(then: usize) -> Layer {
        let mut layer = Layer::new(true);
        let contents = [("a", 1), ("b", 0), ("a", 2), ("a", 1)];
        let contents = contents.into_iter().chain((1..=then).map(|content| ("b", content)));
        for (revision, (name, content)) in (1..).zip(contents) {
            let resource = Resource::raw(TypeUrl::CLUSTER, name, content.to_string()).build();
            let mut edit = Edit::default();
            edit.names.insert(name.into(), Some(resource));
            let changes = layer.difference(&edit);
            layer.apply(changes, Revision(revision), &Origin::default(), usize::MAX);
        }
        layer
    }

    fn of_late(layer: &Layer) -> Reverted {
        layer.first_of_late().map(|first| layer.reverted(first)).unwrap_or_default()
    }

    #[test]
    fn what_went_back_is_known_for_so_many_commits() {
        let names = |then| of_late(&reverted(then)).names;
        assert_eq!(names(0), BTreeSet::from(["a".into()]));
        // `a` has to be seen as it was before it was changed.
        assert_eq!(names(COMMITS_RECALLED - 2), BTreeSet::from(["a".into()]));
        assert_eq!(names(COMMITS_RECALLED - 1), BTreeSet::new());
        assert!(of_late(&reverted(0)).whole);
        assert!(!of_late(&reverted(1)).whole);
        // A commit that fills what is empty changes nothing.
        let mut empty = Layer::new(true);
        empty.apply(Vec::new(), Revision(1), &Origin::default(), usize::MAX);
        assert!(!of_late(&empty).whole);
    }

    /// Lets time pass.
    fn age(layer: &mut Layer, time: Duration) {
        for commit in &mut layer.log.commits {
            commit.at = commit.at.checked_sub(time).unwrap();
        }
    }

    #[test]
    fn what_went_back_is_known_for_some_time() {
        let mut layer = reverted(0);
        age(&mut layer, KEPT_FOR / 2);
        assert!(!of_late(&layer).names.is_empty());
        age(&mut layer, KEPT_FOR / 2);
        assert!(of_late(&layer).names.is_empty());
    }

    #[test]
    fn what_is_old_is_forgotten_but_for_the_last_commits() {
        let mut layer = reverted(200);
        let commit = |layer: &mut Layer| {
            let last = layer.revisions().next().unwrap();
            layer.apply(Vec::new(), Revision(last.0 + 1), &Origin::default(), usize::MAX);
            layer.log.commits.len()
        };
        age(&mut layer, KEPT_FOR / 2);
        assert_eq!(commit(&mut layer), 205);
        age(&mut layer, KEPT_FOR / 2);
        assert_eq!(commit(&mut layer), COMMITS_KEPT);
        assert!(layer.since(Revision(0)).is_err());
        assert_eq!(layer.log.entries, COMMITS_KEPT - 2);
        // What is new stays, however much it is.
        for _ in 0..100 {
            commit(&mut layer);
        }
        assert_eq!(layer.log.commits.len(), 102);
    }
}
