//! Waking the streams that a commit concerns, and no others.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use dashmap::DashMap;
use deltaplane_core::{Key, Revision, TypeUrl};
use futures::task::AtomicWaker;

use crate::{Scope, log::collection_of, state::State};

/// All watches of a cache, by what they are interested in.
#[derive(Debug, Default)]
pub(crate) struct Watches {
    next: AtomicU64,
    all: DashMap<u64, Arc<Signal>>,
    interested: DashMap<(Scope, TypeUrl), Interested>,
}

/// Who is interested in something of one type in one scope.
#[derive(Debug, Default)]
struct Interested {
    in_all: HashMap<u64, Arc<Signal>>,
    by_name: HashMap<Arc<str>, Signals>,
}

/// The watches that are interested in one name, by their numbers: mostly one, and of some names, all.
#[derive(Debug)]
enum Signals {
    /// In the order of their numbers.
    Few(Vec<(u64, Arc<Signal>)>),
    #[expect(
        clippy::box_collection,
        reason = "few are the rule, and should not be as large as a map"
    )]
    Many(Box<HashMap<u64, Arc<Signal>>>),
}

/// More than that are many: each that goes leaves a gap that others have to close.
const FEW: usize = 32;

impl Default for Signals {
    fn default() -> Self {
        Signals::Few(Vec::new())
    }
}

impl Signals {
    fn insert(&mut self, id: u64, signal: &Arc<Signal>) {
        match self {
            Signals::Few(few) => {
                let Err(at) = few.binary_search_by_key(&id, |(id, _)| *id) else { return };
                few.insert(at, (id, signal.clone()));
                if few.len() > FEW {
                    *self = Signals::Many(Box::new(few.drain(..).collect()));
                }
            }
            Signals::Many(many) => {
                many.insert(id, signal.clone());
            }
        }
    }

    /// Tells whether there are others.
    fn remove(&mut self, id: u64) -> bool {
        match self {
            Signals::Few(few) => {
                if let Ok(at) = few.binary_search_by_key(&id, |(id, _)| *id) {
                    few.remove(at);
                }
                !few.is_empty()
            }
            Signals::Many(many) => {
                many.remove(&id);
                !many.is_empty()
            }
        }
    }

    fn raise(&self, revision: Revision) {
        match self {
            Signals::Few(few) => few.iter().for_each(|(_, signal)| signal.raise(revision)),
            Signals::Many(many) => many.values().for_each(|signal| signal.raise(revision)),
        }
    }
}

#[derive(Debug, Default)]
struct Signal {
    raised: AtomicBool,
    /// The last revision that concerns the reader.
    concerned: AtomicU64,
    waker: AtomicWaker,
}

impl Signal {
    fn raise(&self, revision: Revision) {
        self.concerned.fetch_max(revision.0, Ordering::AcqRel);
        // Who is raised already was woken already, and has not looked since.
        if !self.raised.swap(true, Ordering::AcqRel) {
            self.waker.wake();
        }
    }
}

impl Watches {
    /// Wakes those that the last change of a state concerns. Costs what changed, and who is woken.
    pub(crate) fn wake(&self, state: &State, touched: &BTreeSet<(Scope, TypeUrl)>) {
        for (scope, type_url) in touched {
            let Some(interested) = self.interested.get(&(scope.clone(), type_url.clone())) else {
                continue;
            };
            interested.in_all.values().for_each(|signal| signal.raise(state.revision));
            if interested.by_name.is_empty() {
                continue;
            }
            let layer = state.layer(scope, type_url);
            if layer.is_some_and(|layer| layer.asks_at(state.revision)) {
                // At no revision: nothing that they are told comes of it.
                interested.by_name.values().for_each(|signals| signals.raise(Revision(0)));
            }
            let changes = layer.and_then(|layer| layer.changes_at(state.revision));
            for change in changes.unwrap_or_default() {
                let versions = change.before.iter().chain(&change.after);
                let aliases = versions.flat_map(|resource| resource.aliases());
                let also = aliases.chain(collection_of(change));
                for name in std::iter::once(&change.name).chain(also) {
                    let signals = interested.by_name.get(name);
                    signals.into_iter().for_each(|signals| signals.raise(state.revision));
                }
            }
        }
    }

    /// Whether somebody is interested in this by name.
    pub(crate) fn is_watched(&self, scope: &Scope, key: &Key) -> bool {
        let interested = self.interested.get(&(scope.clone(), key.type_url.clone()));
        interested.is_some_and(|interested| interested.by_name.contains_key(&key.name))
    }

    /// Wakes those that are interested in this by name, although it did not change.
    pub(crate) fn nudge(&self, scopes: &[Scope], key: &Key) {
        for scope in scopes {
            let interested = self.interested.get(&(scope.clone(), key.type_url.clone()));
            let signals = interested.as_ref().and_then(|it| it.by_name.get(&key.name));
            // At no revision: nothing that they are told comes of it.
            signals.into_iter().for_each(|signals| signals.raise(Revision(0)));
        }
    }

    /// Wakes all, whatever changed up to this revision.
    pub(crate) fn wake_all(&self, revision: Revision) {
        self.all.iter().for_each(|signal| signal.raise(revision));
    }
}

/// How many names are given up while commits wait.
const AT_ONCE: usize = 256;

/// What one watch is interested in, of one type.
#[derive(Debug, Default)]
struct Interest {
    in_all: bool,
    names: BTreeSet<Arc<str>>,
}

/// Tells how far back a watch was woken, also from elsewhere.
#[derive(Debug, Clone)]
pub struct Concern(Arc<Signal>);

impl Concern {
    /// The last revision that concerns the watch. Of a commit under way it may not know yet: see
    /// [`Cache::finish_waking`](crate::Cache::finish_waking).
    #[must_use]
    pub fn revision(&self) -> Revision {
        Revision(self.0.concerned.load(Ordering::Acquire))
    }
}

/// Tells one reader that something changed that concerns it. Several changes before it looks are one.
#[derive(Debug)]
pub struct Watch {
    watches: Arc<Watches>,
    id: u64,
    signal: Arc<Signal>,
    scopes: Arc<[Scope]>,
    types: BTreeMap<TypeUrl, Interest>,
}

impl Watch {
    pub(crate) fn new(watches: Arc<Watches>) -> Self {
        let id = watches.next.fetch_add(1, Ordering::Relaxed);
        let signal = Arc::new(Signal::default());
        watches.all.insert(id, signal.clone());
        Self { watches, id, signal, scopes: Arc::default(), types: BTreeMap::new() }
    }

    /// From now on, changes of these scopes count, and no others.
    pub fn set_scopes(&mut self, scopes: Arc<[Scope]>) {
        self.forget_all();
        self.scopes = scopes;
        for (type_url, interest) in &self.types {
            self.register(type_url, interest.in_all, interest.names.iter());
        }
    }

    /// From now on, all changes of this type count, or only those of names.
    pub fn set_wildcard(&mut self, type_url: &TypeUrl, in_all: bool) {
        let interest = self.types.entry(type_url.clone()).or_default();
        match (std::mem::replace(&mut interest.in_all, in_all), in_all) {
            (false, true) => self.register(type_url, true, [].iter()),
            (true, false) => self.change(type_url, |interested, id| {
                interested.in_all.remove(&id);
            }),
            _ => {}
        }
    }

    /// From now on, changes of these names count, and of the members of collections by their globs. Costs
    /// what is named.
    pub fn add_names(&mut self, type_url: &TypeUrl, names: &[Arc<str>]) {
        let interest = self.types.entry(type_url.clone()).or_default();
        interest.names.extend(names.iter().cloned());
        self.register(type_url, false, names.iter());
    }

    /// From now on, changes of these names count no more. Costs what is named.
    pub fn remove_names(&mut self, type_url: &TypeUrl, names: &[Arc<str>]) {
        if let Some(interest) = self.types.get_mut(type_url) {
            names.iter().for_each(|name| {
                interest.names.remove(name);
            });
        }
        self.forget(type_url, names.iter());
    }

    /// Tells others how far back this watch was woken.
    #[must_use]
    pub fn concern(&self) -> Concern {
        Concern(self.signal.clone())
    }

    /// Ready once if something happened since the last time it was. Look at the cache *after* this said
    /// so or went to sleep: what happens in between wakes it again, so that nothing is missed.
    pub fn poll_raised(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.signal.raised.swap(false, Ordering::AcqRel) {
            return Poll::Ready(());
        }
        self.signal.waker.register(cx.waker());
        if self.signal.raised.swap(false, Ordering::AcqRel) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    /// Waits until something happened since the last time.
    pub async fn raised(&self) {
        std::future::poll_fn(|cx| self.poll_raised(cx)).await;
    }

    fn register<'a>(
        &self,
        type_url: &TypeUrl,
        in_all: bool,
        names: impl Iterator<Item = &'a Arc<str>> + Clone,
    ) {
        for scope in self.scopes.iter() {
            let layer = (scope.clone(), type_url.clone());
            let mut interested = self.watches.interested.entry(layer).or_default();
            if in_all {
                interested.in_all.insert(self.id, self.signal.clone());
            }
            for name in names.clone() {
                interested.by_name.entry(name.clone()).or_default().insert(self.id, &self.signal);
            }
        }
    }

    fn forget_all(&self) {
        for (type_url, interest) in &self.types {
            if interest.in_all {
                self.change(type_url, |interested, id| {
                    interested.in_all.remove(&id);
                });
            }
            self.forget(type_url, interest.names.iter());
        }
    }

    /// Is interested in these names no more. A commit that wants to know who is does not have to wait for all
    /// of them.
    fn forget<'a>(&self, type_url: &TypeUrl, mut names: impl Iterator<Item = &'a Arc<str>>) {
        loop {
            let some: Vec<_> = names.by_ref().take(AT_ONCE).collect();
            if some.is_empty() {
                return;
            }
            self.change(type_url, |interested, id| interested.forget(id, some.iter().copied()));
        }
    }

    /// Changes what is known of its interest in a type, in each of its scopes.
    fn change(&self, type_url: &TypeUrl, change: impl Fn(&mut Interested, u64)) {
        for scope in self.scopes.iter() {
            let layer = (scope.clone(), type_url.clone());
            self.watches.interested.remove_if_mut(&layer, |_, interested| {
                change(interested, self.id);
                interested.in_all.is_empty() && interested.by_name.is_empty()
            });
        }
    }
}

impl Interested {
    fn forget<'a>(&mut self, id: u64, names: impl Iterator<Item = &'a Arc<str>>) {
        for name in names {
            let Some(signals) = self.by_name.get_mut(name) else { continue };
            if !signals.remove(id) {
                self.by_name.remove(name);
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.forget_all();
        self.watches.all.remove(&self.id);
    }
}
