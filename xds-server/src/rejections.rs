//! Who left with something rejected, or not answered.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use dashmap::DashMap;
use deltaplane_core::{Key, TypeUrl};

/// How long a client may take to come back before it is believed again.
const KEPT: Duration = Duration::from_secs(3600);

/// How many clients are remembered.
const MOST: usize = 10_000;

/// Of how many resources one is not believed, and beyond that, of none of their type.
const MOST_RESOURCES: usize = 100;

/// How often room is made: that looks at all of them.
const SWEEP: Duration = Duration::from_secs(60);

/// What a client may run and not say so: types of which its last stream ended with a rejection that was not
/// repaired, and what it was told last of resources that it had not accepted, since a rejection may be lost with
/// the stream.
#[derive(Debug, Clone, Default)]
pub(crate) struct Doubts {
    pub(crate) types: Vec<TypeUrl>,
    pub(crate) resources: BTreeMap<Key, Option<String>>,
}

/// The nodes of which that is so.
#[derive(Debug, Default)]
pub(crate) struct Rejections {
    since: DashMap<String, BTreeMap<TypeUrl, Doubt>>,
    swept: Mutex<Option<Instant>>,
}

/// What is doubted of a type.
#[derive(Debug)]
struct Doubt {
    since: Instant,
    /// Everything, and not only these.
    is_whole: bool,
    resources: BTreeMap<Key, Option<String>>,
}

impl Doubt {
    fn is_recent(&self) -> bool {
        self.since.elapsed() < KEPT
    }
}

impl Rejections {
    /// What is doubted of a node.
    pub(crate) fn of(&self, node_id: &str) -> Doubts {
        let mut doubts = Doubts::default();
        let Some(types) = self.since.get(node_id) else { return doubts };
        for (type_url, doubt) in types.iter().filter(|(_, doubt)| doubt.is_recent()) {
            if doubt.is_whole {
                doubts.types.push(type_url.clone());
            }
            doubts.resources.extend(doubt.resources.clone());
        }
        doubts
    }

    /// Notes how a stream ended: what is doubted then, and what was when it began.
    pub(crate) fn note(&self, node_id: &str, doubts: Doubts, before: &Doubts) {
        let of_before = before.resources.keys().map(|key| &key.type_url).chain(&before.types);
        let mut of_before = of_before.peekable();
        if of_before.peek().is_some() {
            self.since.remove_if_mut(node_id, |_, types| {
                of_before.for_each(|type_url| _ = types.remove(type_url));
                types.is_empty()
            });
        }
        let mut new: BTreeMap<TypeUrl, Doubt> = BTreeMap::new();
        let since = Instant::now();
        let none = || Doubt { since, is_whole: false, resources: BTreeMap::new() };
        for type_url in doubts.types {
            new.entry(type_url).or_insert_with(none).is_whole = true;
        }
        for (key, version) in doubts.resources {
            let doubt = new.entry(key.type_url.clone()).or_insert_with(none);
            if doubt.resources.len() < MOST_RESOURCES {
                doubt.resources.insert(key, version);
            } else {
                doubt.is_whole = true;
            }
        }
        if !new.is_empty() && self.has_room() {
            self.since.entry(node_id.to_owned()).or_default().extend(new);
        }
    }

    fn has_room(&self) -> bool {
        if self.since.len() >= MOST {
            let mut swept = self.swept.lock().unwrap_or_else(PoisonError::into_inner);
            if swept.is_none_or(|swept| swept.elapsed() >= SWEEP) {
                *swept = Some(Instant::now());
                self.since.retain(|_, types| types.values().any(Doubt::is_recent));
            }
        }
        self.since.len() < MOST
    }
}
