//! What went back of late to what it was before. A client may run what was between, and not say so.

use std::{hash::Hash, sync::Arc, time::Instant};

use deltaplane_core::{Change, Resource, TypeVersion};
use imbl::Vector;

use crate::{log::is_recent, state::HashMap};

/// What of a layer went back: found when it does, at the cost of what changes, and not when somebody asks.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reverts {
    /// What was replaced, by name and the hash of the content, be that nothing; and when it was last.
    replaced: HashMap<(Arc<str>, Option<u64>), Instant>,
    /// What the whole set was, and when it was last.
    sets: Recent<TypeVersion>,
    /// The names that are what they were before they were something else, and since when.
    names: Recent<Arc<str>>,
    /// Since when the whole set is what it was before.
    whole: Option<Instant>,
}

impl Reverts {
    /// Takes up what a commit changes, and what the version of the whole was and is. Keeps so many at most.
    pub(crate) fn note(
        &mut self,
        changes: &[Change],
        (was, is): (&TypeVersion, &TypeVersion),
        now: Instant,
        limit: usize,
    ) {
        let is_back = |at: Option<&Instant>| at.is_some_and(|at| is_recent(*at, now));
        for change in changes {
            match is_back(self.replaced.get(&content(change, change.after.as_ref()))) {
                true => self.names.insert(change.name.clone(), now),
                false => self.names.remove(&change.name),
            }
            self.replaced.insert(content(change, change.before.as_ref()), now);
        }
        if was != is {
            self.whole = is_back(self.sets.get(is)).then_some(now);
            self.sets.insert(was.clone(), now);
        }
        self.tidy(now, limit);
    }

    /// Takes up what went back without being seen here.
    pub(crate) fn tell(
        &mut self,
        names: impl IntoIterator<Item = Arc<str>>,
        now: Instant,
        limit: usize,
    ) {
        for name in names {
            self.names.insert(name, now);
            // The set may have gone back with it.
            self.whole = Some(now);
        }
        self.tidy(now, limit);
    }

    /// Forgets what these changes, made at that time, replaced.
    pub(crate) fn forget(&mut self, changes: &[Change], at: Instant) {
        for change in changes {
            let replaced = content(change, change.before.as_ref());
            if self.replaced.get(&replaced) == Some(&at) {
                self.replaced.remove(&replaced);
            }
        }
    }

    /// The names that went back. Costs them.
    pub(crate) fn names(&self, now: Instant) -> impl Iterator<Item = &Arc<str>> {
        let recent = self.names.at.iter().filter(move |(_, at)| is_recent(**at, now));
        recent.map(|(name, _)| name)
    }

    /// Whether the whole set did.
    pub(crate) fn whole(&self, now: Instant) -> bool {
        self.whole.is_some_and(|at| is_recent(at, now))
    }

    fn tidy(&mut self, now: Instant, limit: usize) {
        self.names.tidy(now, limit);
        self.sets.tidy(now, limit);
    }
}

/// What a change has, or had, by its name.
fn content(change: &Change, content: Option<&Resource>) -> (Arc<str>, Option<u64>) {
    (change.name.clone(), content.map(Resource::hash))
}

/// When something was; what is too long ago is forgotten.
#[derive(Debug, Clone)]
struct Recent<K> {
    at: HashMap<K, Instant>,
    /// The same, the oldest first, and what is not there any more.
    order: Vector<(K, Instant)>,
}

impl<K: Clone> Default for Recent<K> {
    fn default() -> Self {
        Self { at: HashMap::default(), order: Vector::new() }
    }
}

impl<K: Clone + Eq + Hash> Recent<K> {
    fn get(&self, key: &K) -> Option<&Instant> {
        self.at.get(key)
    }

    fn insert(&mut self, key: K, now: Instant) {
        self.at.insert(key.clone(), now);
        self.order.push_back((key, now));
    }

    fn remove(&mut self, key: &K) {
        self.at.remove(key);
    }

    fn tidy(&mut self, now: Instant, limit: usize) {
        let is_over = |(_, at): &(K, Instant)| !is_recent(*at, now);
        while self.order.len() > limit || self.order.front().is_some_and(is_over) {
            let Some((key, at)) = self.order.pop_front() else { return };
            if self.at.get(&key) == Some(&at) {
                self.at.remove(&key);
            }
        }
    }

    /// Lets time pass.
    #[cfg(test)]
    fn age(&mut self, time: std::time::Duration) {
        self.at = self.at.iter().map(|(key, at)| (key.clone(), *at - time)).collect();
        self.order = self.order.iter().map(|(key, at)| (key.clone(), *at - time)).collect();
    }
}

#[cfg(test)]
impl Reverts {
    /// Lets time pass.
    pub(crate) fn age(&mut self, time: std::time::Duration) {
        self.replaced = self.replaced.iter().map(|(key, at)| (key.clone(), *at - time)).collect();
        self.whole = self.whole.map(|at| at - time);
        self.names.age(time);
        self.sets.age(time);
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use deltaplane_core::TypeUrl;

    use super::*;
    use crate::log::KEPT_FOR;

    const LIMIT: usize = 100;

    /// A set that changes.
    #[derive(Default)]
    struct Scene {
        reverts: Reverts,
        set: BTreeMap<&'static str, Resource>,
        version: TypeVersion,
        /// The changes of each commit, and when it was.
        log: Vec<(Vec<Change>, Instant)>,
    }

    impl Scene {
        /// Something becomes of names: a content, or nothing.
        fn commit(&mut self, news: &[(&'static str, Option<u8>)]) {
            let (was, now) = (self.version.clone(), Instant::now());
            let mut changes = Vec::new();
            for (name, content) in news {
                let resource = |content| Resource::raw(TypeUrl::CLUSTER, *name, vec![content]);
                let after = content.map(|content| resource(content).build());
                let before = match &after {
                    Some(after) => self.set.insert(name, after.clone()),
                    None => self.set.remove(name),
                };
                before.iter().for_each(|before| self.version.subtract(before));
                after.iter().for_each(|after| self.version.add(after));
                changes.push(Change::new((*name).into(), before, after));
            }
            self.reverts.note(&changes, (&was, &self.version), now, LIMIT);
            self.log.push((changes, now));
        }

        /// What went back, and with a star if the whole did.
        fn went_back(&self) -> Vec<&str> {
            let now = Instant::now();
            let mut names: Vec<_> = self.reverts.names(now).map(|name| &**name).collect();
            names.sort_unstable();
            names.extend(self.reverts.whole(now).then_some("*"));
            names
        }
    }

    #[test]
    fn what_is_what_it_was_went_back() {
        let mut scene = Scene::default();
        scene.commit(&[("a", Some(1)), ("b", Some(1))]);
        scene.commit(&[("a", Some(2)), ("new", Some(1))]);
        assert_eq!(scene.went_back(), [""; 0]);
        scene.commit(&[("a", Some(1))]);
        assert_eq!(scene.went_back(), ["a"]);
        scene.commit(&[("new", None)]);
        assert_eq!(scene.went_back(), ["a", "new", "*"]);
        scene.commit(&[("b", Some(2))]);
        assert_eq!(scene.went_back(), ["a", "new"]);
        scene.commit(&[("a", Some(3)), ("new", Some(2))]);
        assert_eq!(scene.went_back(), [""; 0]);
        // However much was between.
        scene.commit(&[("a", Some(2))]);
        assert_eq!(scene.went_back(), ["a"]);
    }

    #[test]
    fn it_is_known_for_some_time() {
        let mut scene = Scene::default();
        for content in [1, 2, 1] {
            scene.commit(&[("a", Some(content))]);
        }
        scene.reverts.age(KEPT_FOR - Duration::from_secs(60));
        assert_eq!(scene.went_back(), ["a", "*"]);
        scene.reverts.age(Duration::from_secs(61));
        assert_eq!(scene.went_back(), [""; 0]);
        scene.commit(&[("a", Some(2))]);
        assert_eq!(scene.went_back(), [""; 0], "that it was so is too long ago");
        assert_eq!(scene.reverts.names.order.len() + scene.reverts.names.at.len(), 0);
        assert_eq!(scene.reverts.sets.order.len(), 1);
    }

    #[test]
    fn it_is_known_of_so_many() {
        let mut scene = Scene::default();
        for content in 0..=u8::MAX {
            scene.commit(&[("a", Some(content % 2)), ("b", Some(content))]);
        }
        assert_eq!(scene.reverts.names.order.len(), LIMIT);
        assert_eq!(scene.reverts.sets.order.len(), LIMIT);
        assert_eq!(scene.reverts.sets.at.len(), LIMIT);
        for (changes, at) in std::mem::take(&mut scene.log) {
            scene.reverts.forget(&changes, at);
        }
        assert_eq!(scene.reverts.replaced.len(), 0);
    }

    #[test]
    fn it_can_be_told() {
        let mut scene = Scene::default();
        scene.commit(&[("a", Some(1)), ("b", Some(1))]);
        scene.reverts.tell([], Instant::now(), LIMIT);
        assert_eq!(scene.went_back(), [""; 0]);
        for name in ["a", "gone"] {
            scene.reverts.tell([name.into()], Instant::now(), LIMIT);
        }
        assert_eq!(scene.went_back(), ["a", "gone", "*"]);
        scene.commit(&[("a", Some(2))]);
        assert_eq!(scene.went_back(), ["gone"]);
        scene.reverts.age(KEPT_FOR + Duration::from_secs(1));
        scene.reverts.tell([], Instant::now(), LIMIT);
        assert_eq!(scene.reverts.names.at.len(), 0);
    }
}
