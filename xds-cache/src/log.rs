//! The commits that changed a layer, as far back as somebody may ask for them.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    sync::Arc,
    time::{Duration, Instant},
};

use deltaplane_core::{Change, LogTruncated, Resource, Revision, TypeVersion};
use imbl::{OrdMap, Vector};

use crate::{
    reverts::{Last, Past, Reverts},
    rollback::COMMITS_RECALLED,
    state::HashMap,
};

/// However large or old they were, this many commits stay in the log, so that one huge commit does not make
/// every connected client too late for it.
const COMMITS_KEPT: usize = 64;

/// Whatever their number, older changes are forgotten when what they replaced takes more than this many
/// bytes.
const BYTES_KEPT: usize = 128 << 20;

/// Whatever their number, older changes than this are forgotten, but for the last commits: a log would grow for as long
/// as something changes. Who waits for something else reads none of it, and so all readers are asked to look, twice in
/// that time at most, before it is forgotten; who has not by then has stopped to read.
pub(crate) const KEPT_FOR: Duration = Duration::from_secs(600);

/// How many commits are forgotten for their age at each commit, and how many changes are taken out of the index, if there
/// are as many.
const LEAST_FORGOTTEN: usize = 64;

/// The commits that changed a layer, back to some revision.
#[derive(Debug, Clone, Default)]
pub(crate) struct Log {
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
    /// When each name changed last, and what it was; of what is gone, until that is forgotten.
    last: HashMap<Arc<str>, Last>,
    /// When something in each collection changed last.
    last_in: HashMap<Arc<str>, Revision>,
    /// What is forgotten, and still in the index: from where on.
    forgotten: Vector<(LoggedCommit, usize)>,
    /// When all readers were asked to look, and at which revision: the last time, and the time before.
    asked: [Option<(Instant, Revision)>; 2],
    pub(crate) reverts: Reverts,
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
    /// What the version of the whole was before it.
    before: TypeVersion,
}

/// Whether something is not longer ago than changes are kept.
pub(crate) fn is_recent(at: Instant, now: Instant) -> bool {
    now.saturating_duration_since(at) <= KEPT_FOR
}

/// The collection of which a change is.
pub(crate) fn collection_of(change: &Change) -> Option<&Arc<str>> {
    change.before.as_ref().or(change.after.as_ref())?.collection()
}

/// Name and version of a resource.
fn denotation(resource: &Resource) -> (Arc<str>, Arc<str>) {
    (resource.name().clone(), resource.version().into())
}

impl Log {
    /// What had this name before it was removed last.
    pub(crate) fn removed(&self, name: &str) -> Option<&Resource> {
        self.gone.get(name).map(|(last, _)| last)
    }

    /// What the last so many commits removed.
    pub(crate) fn removed_by(&self, commits: usize) -> impl Iterator<Item = &Resource> {
        let since = self.revisions().take(commits).last().unwrap_or_default();
        let gone = self.gone.values().filter(move |(_, last)| *last >= since);
        gone.map(|(gone, _)| gone)
    }

    /// The revisions of its commits, the last one first.
    pub(crate) fn revisions(&self) -> impl Iterator<Item = Revision> {
        self.commits.iter().rev().map(|commit| commit.revision)
    }

    /// Whether all readers are asked to look at this revision, whatever they wait for.
    pub(crate) fn asks_at(&self, revision: Revision) -> bool {
        self.asked[0].is_some_and(|(_, last)| last == revision)
    }

    /// Whether something of what changed after a revision only hides what lies below.
    pub(crate) fn hides(&self, since: Revision) -> bool {
        let mut commits = self.commits.iter().rev().take_while(|commit| commit.revision > since);
        commits.any(|commit| commit.hides)
    }

    /// What the last commit changed.
    pub(crate) fn last_changes(&self) -> &[Change] {
        self.commits.last().map(|last| &*last.changes).unwrap_or_default()
    }

    /// What the commit of this revision changed; nothing, if that is forgotten, or if there was none.
    pub(crate) fn changes_at(&self, revision: Revision) -> Option<&[Change]> {
        self.commit(revision).map(|commit| &*commit.changes)
    }

    /// The commits after a revision, oldest first.
    pub(crate) fn since(&self, since: Revision) -> Result<Unread<'_>, LogTruncated> {
        if since < self.begin {
            return Err(LogTruncated::new(since));
        }
        let at = match self.commits.binary_search_by_key(&since, |commit| commit.revision) {
            Ok(at) => at + 1,
            Err(at) => at,
        };
        Ok(Unread { log: self, at })
    }

    /// The hash of the content that the version of a resource, its caller's own, denoted.
    pub(crate) fn denoted(&self, resource: &Resource) -> Option<u64> {
        self.denoted.get(&denotation(resource)).map(|(hash, _)| *hash)
    }

    fn commit(&self, revision: Revision) -> Option<&LoggedCommit> {
        let at = self.commits.binary_search_by_key(&revision, |commit| commit.revision).ok()?;
        self.commits.get(at)
    }

    /// The changes of a name after a revision and when they were, the last one first, as far back as the
    /// log reaches. Costs what it yields.
    pub(crate) fn changes_of(
        &self,
        name: &str,
        since: Revision,
    ) -> impl Iterator<Item = (Revision, &Change)> {
        let mut next = self.last.get(name).map(|last| last.revision);
        std::iter::from_fn(move || {
            let commit = self.commit(next.filter(|revision| *revision > since)?)?;
            let at = commit.changes.binary_search_by(|change| (*change.name).cmp(name)).ok()?;
            next = commit.previous.get(at).copied();
            commit.changes.get(at).map(|change| (commit.revision, change))
        })
    }

    /// The changes in a collection after a revision, the last commit's first, as far back as the log reaches.
    pub(crate) fn changes_in(
        &self,
        collection: &str,
        since: Revision,
    ) -> impl Iterator<Item = &Change> {
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

    /// Adds a commit, with what the version of the whole was before and is, and forgets what is too old, or too much.
    /// Costs the changes, and as many of those that it forgets.
    pub(crate) fn push(
        &mut self,
        revision: Revision,
        changes: Vec<Change>,
        (before, is): (&TypeVersion, &TypeVersion),
        limit: usize,
    ) {
        let mut back = Vec::new();
        let mut index = |change: &Change| {
            let known = self.last.get(&change.name);
            let previous = known.map(|last| last.revision).unwrap_or_default();
            let (last, is_back) = Last::after(known, change, revision);
            if is_back {
                back.push(change.name.clone());
            }
            self.last.insert(change.name.clone(), last);
            previous
        };
        let previous = changes.iter().map(&mut index).collect();
        let collections: BTreeSet<_> = changes.iter().filter_map(collection_of).cloned().collect();
        let last_in = |collection: Arc<str>| {
            let previous = self.last_in.insert(collection.clone(), revision);
            (collection, previous.unwrap_or_default())
        };
        let collections = collections.into_iter().map(last_in).collect();
        let commit = LoggedCommit::new(revision, changes, previous, collections, before.clone());
        let news = commit.changes.len();
        self.entries += news;
        self.bytes += commit.bytes();
        let denoted = commit.own().map(|own| (denotation(own), (own.hash(), commit.revision)));
        self.denoted.extend(denoted);
        let gone =
            commit.removed().map(|(name, last)| (name.clone(), (last.clone(), commit.revision)));
        self.gone.extend(gone);
        let now = commit.at;
        // Without a name that went back, the set did not.
        let is_back = !back.is_empty() && before != is && self.was(is);
        self.reverts.note(&commit.changes, back, is_back, now, limit);
        self.commits.push_back(commit);
        self.ask(now, revision);
        for _ in 0..LEAST_FORGOTTEN {
            if !self.commits.front().is_some_and(|oldest| self.is_over(oldest, now)) {
                break;
            }
            self.drop_oldest();
        }
        while (self.commits.len() > COMMITS_KEPT && self.entries > limit)
            || (self.commits.len() > 1 && self.bytes > BYTES_KEPT)
        {
            self.drop_oldest();
        }
        self.tidy_index(news);
    }

    /// Whether the whole had a version of late. What came after it may have been told until now.
    fn was(&self, version: &TypeVersion) -> bool {
        let recent = self.commits.iter().rev().take(COMMITS_RECALLED);
        recent.into_iter().any(|commit| commit.before == *version)
    }

    /// Takes up what names were one after the other. Of those whose last change is forgotten, only which went back.
    pub(crate) fn note_past(
        &mut self,
        pasts: impl Iterator<Item = (Arc<str>, Past)>,
        limit: usize,
    ) {
        let mut back = Vec::new();
        for (name, past) in pasts {
            if past.is_of_now
                && let Some(last) = self.last.get_mut(&name)
            {
                last.recall(&past.replaced);
            }
            if past.is_back {
                back.push(name);
            }
        }
        self.reverts.tell(back, Instant::now(), limit);
    }

    /// Asks all readers to look, if the time has come.
    fn ask(&mut self, now: Instant, revision: Revision) {
        let is_time =
            |(then, _): (Instant, Revision)| now.saturating_duration_since(then) >= KEPT_FOR / 2;
        if self.asked[0].is_none_or(is_time) {
            self.asked = [Some((now, revision)), self.asked[0]];
        }
    }

    /// Whether a commit is too old, and everybody had the time to read it.
    fn is_over(&self, oldest: &LoggedCommit, now: Instant) -> bool {
        let is_read = self.asked[1].is_some_and(|(_, asked)| oldest.revision <= asked);
        is_read && self.commits.len() > COMMITS_KEPT && !is_recent(oldest.at, now)
    }

    fn drop_oldest(&mut self) {
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

    /// Takes some of what is forgotten out of the index: twice as much as came in, so that nobody pays at
    /// once for the first commit of a million.
    fn tidy_index(&mut self, news: usize) {
        for _ in 0..(2 * news).max(LEAST_FORGOTTEN) {
            let Some((oldest, at)) = self.forgotten.front_mut() else { return };
            let revision = oldest.revision;
            let Some(change) = oldest.changes.get(*at) else {
                for (collection, _) in oldest.collections.iter() {
                    if self.last_in.get(collection) == Some(&revision) {
                        self.last_in.remove(collection);
                    }
                }
                self.forgotten.pop_front();
                continue;
            };
            *at += 1;
            // Of what is still there, it stays known what it was.
            let is_gone = change.after.is_none();
            if is_gone && self.last.get(&change.name).is_some_and(|last| last.revision == revision)
            {
                self.last.remove(&change.name.clone());
            }
        }
    }

    /// Lets time pass.
    #[cfg(test)]
    pub(crate) fn age(&mut self, time: Duration) {
        for commit in &mut self.commits {
            commit.at -= time;
        }
        for (at, _) in self.asked.iter_mut().flatten() {
            *at -= time;
        }
        self.reverts.age(time);
    }
}

impl LoggedCommit {
    fn new(
        revision: Revision,
        changes: Vec<Change>,
        previous: Arc<[Revision]>,
        collections: Arc<[(Arc<str>, Revision)]>,
        before: TypeVersion,
    ) -> Self {
        let absent =
            |resource: &Option<Resource>| resource.as_ref().is_some_and(Resource::is_absent);
        let hides = changes.iter().any(|change| absent(&change.before) || absent(&change.after));
        let (at, changes) = (Instant::now(), changes.into());
        Self { revision, at, changes, previous, collections, hides, before }
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
    use super::*;

    fn commit(log: &mut Log) {
        let last = log.revisions().next().unwrap_or_default();
        let (change, version) = (Change::new("a".into(), None, None), TypeVersion::default());
        log.push(Revision(last.0 + 1), vec![change], (&version, &version), usize::MAX);
    }

    #[test]
    fn what_is_old_is_forgotten_but_for_the_last_commits() {
        let mut log = Log::default();
        (0..200).for_each(|_| commit(&mut log));
        log.age(KEPT_FOR / 2);
        commit(&mut log);
        assert!(log.asks_at(Revision(201)));
        log.age(KEPT_FOR / 2);
        // Not all at once, and only what was there when all were asked the time before.
        for left in [201 + 1 - LEAST_FORGOTTEN, 201 + 2 - 2 * LEAST_FORGOTTEN, COMMITS_KEPT] {
            commit(&mut log);
            assert_eq!(log.commits.len(), left);
        }
        assert_eq!(log.entries, COMMITS_KEPT);
        assert!(log.since(Revision(0)).is_err() && log.since(Revision(200)).is_ok());
        // What is new stays, however much it is.
        (0..100).for_each(|_| commit(&mut log));
        assert_eq!(log.commits.len(), 104);
        assert_eq!(log.forgotten.len(), 0);
    }

    #[test]
    fn nothing_is_forgotten_that_nobody_was_asked_to_read() {
        let mut log = Log::default();
        (0..200).for_each(|_| commit(&mut log));
        log.age(2 * KEPT_FOR);
        commit(&mut log);
        assert!(log.asks_at(Revision(201)), "now they are");
        assert_eq!(log.commits.len(), 200, "only the first was there when they were before");
        log.age(KEPT_FOR / 3);
        commit(&mut log);
        assert!(!log.asks_at(Revision(202)), "not that often");
        assert_eq!(log.commits.len(), 201);
    }
}
