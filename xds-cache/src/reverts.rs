//! What went back of late to what it was before. A client may run what was between, and not say so.

use std::{sync::Arc, time::Instant};

use deltaplane_core::{Change, Resource, Revision};
use imbl::Vector;

use crate::{log::is_recent, state::HashMap};

/// What of a layer went back: known since it did, and not found when somebody asks.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reverts {
    /// The names that are what they were before they were something else, and since when.
    names: HashMap<Arc<str>, Instant>,
    /// The same, the oldest first, and with those that are not any more.
    in_order: Vector<(Arc<str>, Instant)>,
    /// Since when the whole set is what it was before.
    whole: Option<Instant>,
}

impl Reverts {
    /// Takes up what a commit changed: which names went back by it, and whether the whole did. Keeps so many at most.
    pub(crate) fn note(
        &mut self,
        changes: &[Change],
        back: Vec<Arc<str>>,
        is_whole: bool,
        now: Instant,
        limit: usize,
    ) {
        if !self.names.is_empty() {
            changes.iter().for_each(|change| _ = self.names.remove(&change.name));
        }
        back.into_iter().for_each(|name| self.insert(name, now));
        if !changes.is_empty() {
            self.whole = is_whole.then_some(now);
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
            self.insert(name, now);
            // The set may have gone back with it.
            self.whole = Some(now);
        }
        self.tidy(now, limit);
    }

    /// The names that went back. Costs them.
    pub(crate) fn names(&self, now: Instant) -> impl Iterator<Item = &Arc<str>> {
        let recent = self.names.iter().filter(move |(_, at)| is_recent(**at, now));
        recent.map(|(name, _)| name)
    }

    /// Whether the whole set did.
    pub(crate) fn whole(&self, now: Instant) -> bool {
        self.whole.is_some_and(|at| is_recent(at, now))
    }

    fn insert(&mut self, name: Arc<str>, now: Instant) {
        self.names.insert(name.clone(), now);
        self.in_order.push_back((name, now));
    }

    fn tidy(&mut self, now: Instant, limit: usize) {
        let is_over = |(_, at): &(Arc<str>, Instant)| !is_recent(*at, now);
        while self.in_order.len() > limit || self.in_order.front().is_some_and(is_over) {
            let Some((name, at)) = self.in_order.pop_front() else { return };
            if self.names.get(&name) == Some(&at) {
                self.names.remove(&name);
            }
        }
    }

    /// Lets time pass.
    #[cfg(test)]
    pub(crate) fn age(&mut self, time: std::time::Duration) {
        self.names = self.names.iter().map(|(name, at)| (name.clone(), *at - time)).collect();
        self.in_order.iter_mut().for_each(|(_, at)| *at -= time);
        self.whole = self.whole.map(|at| at - time);
    }
}

/// What is known of a name that changed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Last {
    pub(crate) revision: Revision,
    /// The hashes of what was replaced last, the last one first.
    replaced: [u64; REPLACED],
}

/// Of so many contents that a name had, one knows when it has one of them again.
const REPLACED: usize = 4;

/// In place of a hash: where there was nothing, and where nobody knows what there was.
const NOTHING: u64 = 0;
const UNKNOWN: u64 = u64::MAX;

impl Last {
    /// What it is after a change; and whether that made it what it was before.
    pub(crate) fn after(last: Option<&Last>, change: &Change, revision: Revision) -> (Last, bool) {
        let hash = |content: Option<&Resource>| content.map_or(NOTHING, Resource::hash);
        let known = last.map_or([UNKNOWN; REPLACED], |last| last.replaced);
        let mut replaced = [hash(change.before.as_ref()); REPLACED];
        replaced[1..].copy_from_slice(&known[..REPLACED - 1]);
        (Last { revision, replaced }, known.contains(&hash(change.after.as_ref())))
    }

    /// Takes up what else was replaced, the last one first, before what is known already.
    pub(crate) fn recall(&mut self, replaced: &[u64]) {
        let known = self.replaced.iter().filter(|known| !replaced.contains(known));
        let all: Vec<_> = replaced.iter().chain(known).copied().take(REPLACED).collect();
        self.replaced.iter_mut().zip(all).for_each(|(slot, hash)| *slot = hash);
    }
}

/// What a name was one after the other, as somebody knows who has seen more of it.
pub(crate) struct Past {
    /// What was replaced, the last one first.
    pub(crate) replaced: Vec<u64>,
    /// It is again one of these.
    pub(crate) is_back: bool,
    /// It ends with what the name is here.
    pub(crate) is_of_now: bool,
}

impl Past {
    /// In the order in which it was so, with what the name is here.
    pub(crate) fn new(mut contents: Vec<Option<u64>>, is: Option<u64>) -> Past {
        contents.dedup();
        let is_of_now = contents.pop_if(|last| *last == is);
        let last = is_of_now.or_else(|| contents.pop());
        let replaced = contents.iter().rev().take(REPLACED);
        let replaced: Vec<_> = replaced.map(|content| content.unwrap_or(NOTHING)).collect();
        let is_back = last.is_some_and(|last| replaced.contains(&last.unwrap_or(NOTHING)));
        Past { replaced, is_back, is_of_now: is_of_now.is_some() }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use deltaplane_core::{TypeUrl, TypeVersion};

    use super::*;
    use crate::log::{KEPT_FOR, Log};

    const LIMIT: usize = 100;

    /// A set that changes.
    #[derive(Default)]
    struct Scene {
        log: Log,
        set: BTreeMap<&'static str, Resource>,
        version: TypeVersion,
    }

    fn resource(name: &str, content: u8) -> Resource {
        Resource::raw(TypeUrl::CLUSTER, name, vec![content]).build()
    }

    impl Scene {
        /// Something becomes of names: a content, or nothing.
        fn commit(&mut self, news: &[(&'static str, Option<u8>)]) {
            let was = self.version.clone();
            let mut changes = Vec::new();
            for (name, content) in news {
                let after = content.map(|content| resource(name, content));
                let before = match &after {
                    Some(after) => self.set.insert(name, after.clone()),
                    None => self.set.remove(name),
                };
                before.iter().for_each(|before| self.version.subtract(before));
                after.iter().for_each(|after| self.version.add(after));
                changes.push(Change::new((*name).into(), before, after));
            }
            let revision = Revision(self.log.revisions().next().unwrap_or_default().0 + 1);
            self.log.push(revision, changes, (&was, &self.version), LIMIT);
        }

        /// Somebody tells what a name was, one after the other.
        fn tell(&mut self, name: &'static str, contents: &[Option<u8>]) {
            let hash = |content: &Option<u8>| content.map(|content| resource(name, content).hash());
            let is = self.set.get(name).map(Resource::hash);
            let past = Past::new(contents.iter().map(hash).collect(), is);
            self.log.note_past([(name.into(), past)].into_iter(), LIMIT);
        }

        /// What went back, and with a star if the whole did.
        fn went_back(&self) -> Vec<&str> {
            let now = Instant::now();
            let mut names: Vec<_> = self.log.reverts.names(now).map(|name| &**name).collect();
            names.sort_unstable();
            names.extend(self.log.reverts.whole(now).then_some("*"));
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
        scene.commit(&[]);
        assert_eq!(scene.went_back(), ["a", "new", "*"]);
        scene.commit(&[("b", Some(2))]);
        assert_eq!(scene.went_back(), ["a", "new"]);
        scene.commit(&[("a", Some(3)), ("new", Some(2))]);
        assert_eq!(scene.went_back(), [""; 0]);
        // Though more was between.
        scene.commit(&[("a", Some(2))]);
        assert_eq!(scene.went_back(), ["a"]);
    }

    #[test]
    fn it_is_known_for_some_time() {
        let mut scene = Scene::default();
        for content in [1, 2, 1] {
            scene.commit(&[("a", Some(content))]);
        }
        scene.log.age(KEPT_FOR - Duration::from_secs(60));
        assert_eq!(scene.went_back(), ["a", "*"]);
        scene.log.age(Duration::from_secs(61));
        assert_eq!(scene.went_back(), [""; 0]);
        scene.commit(&[("b", Some(1))]);
        assert_eq!(scene.log.reverts.in_order.len() + scene.log.reverts.names.len(), 0);
        // What is replaced only now may have been told just now.
        scene.commit(&[("a", Some(2))]);
        assert_eq!(scene.went_back(), ["a"]);
        scene.log.age(2 * KEPT_FOR);
        scene.commit(&[("a", Some(1))]);
        assert_eq!(scene.went_back(), ["a", "*"]);
    }

    #[test]
    fn it_is_known_what_was_forgotten_of_what_is_still_there() {
        let mut scene = Scene::default();
        scene.commit(&[("a", Some(1)), ("gone", Some(1))]);
        scene.commit(&[("a", Some(2)), ("gone", None)]);
        for content in 0..=u8::MAX {
            if content % 64 == 0 {
                scene.log.age(KEPT_FOR);
            }
            scene.commit(&[("b", Some(content))]);
        }
        assert!(scene.log.since(Revision(2)).is_err(), "it is forgotten");
        scene.commit(&[("gone", Some(1))]);
        assert_eq!(scene.went_back(), [""; 0]);
        scene.commit(&[("a", Some(1))]);
        assert_eq!(scene.went_back(), ["a"]);
    }

    #[test]
    fn what_was_before_can_be_told() {
        let mut scene = Scene::default();
        scene.commit(&[("a", Some(3)), ("b", Some(3)), ("new", Some(3))]);
        scene.tell("a", &[Some(1), Some(2), Some(2), Some(3)]);
        scene.tell("new", &[None, Some(1), Some(3)]);
        // That is not what is here.
        scene.tell("b", &[Some(1), Some(2)]);
        assert_eq!(scene.went_back(), [""; 0]);
        scene.commit(&[("a", Some(1)), ("b", Some(1)), ("new", Some(1))]);
        assert_eq!(scene.went_back(), ["a", "new"]);
        // What is seen here adds to it.
        scene.commit(&[("a", Some(4))]);
        scene.tell("a", &[Some(5), Some(4)]);
        for content in [5, 6, 1] {
            scene.commit(&[("a", Some(content))]);
            assert_eq!(scene.went_back().contains(&"a"), content != 6, "{content}");
        }
        // All of it may have been between.
        scene.tell("b", &[Some(1), Some(8), Some(1)]);
        scene.tell("gone", &[None, Some(1), None]);
        scene.tell("never", &[None]);
        scene.tell("nothing", &[]);
        assert_eq!(scene.went_back(), ["a", "b", "gone", "new", "*"]);
    }

    #[test]
    fn it_is_known_of_so_many() {
        let mut scene = Scene::default();
        for content in 0..=u8::MAX {
            scene.commit(&[("a", Some(content % 2)), ("b", Some(content))]);
        }
        assert_eq!(scene.log.reverts.in_order.len(), LIMIT);
        assert_eq!(scene.went_back(), ["a"]);
    }

    #[test]
    fn it_can_be_told() {
        let mut scene = Scene::default();
        scene.commit(&[("a", Some(1)), ("b", Some(1))]);
        scene.log.reverts.tell([], Instant::now(), LIMIT);
        assert_eq!(scene.went_back(), [""; 0]);
        for name in ["a", "gone"] {
            scene.log.reverts.tell([name.into()], Instant::now(), LIMIT);
        }
        assert_eq!(scene.went_back(), ["a", "gone", "*"]);
        scene.commit(&[("a", Some(2))]);
        assert_eq!(scene.went_back(), ["gone"]);
        scene.log.age(KEPT_FOR + Duration::from_secs(1));
        scene.log.reverts.tell([], Instant::now(), LIMIT);
        assert_eq!(scene.log.reverts.names.len(), 0);
    }
}
