//! Waking the streams that a commit concerns, and no others.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use dashmap::DashMap;
use deltaplane_core::TypeUrl;
use futures::task::AtomicWaker;

use crate::Scope;

/// All watches of a cache, by what they are interested in.
#[derive(Debug, Default)]
pub(crate) struct Watches {
    next: AtomicU64,
    all: DashMap<u64, Arc<Signal>>,
    interested: DashMap<(Scope, TypeUrl), HashMap<u64, Arc<Signal>>>,
}

#[derive(Debug, Default)]
struct Signal {
    raised: AtomicBool,
    waker: AtomicWaker,
}

impl Signal {
    fn raise(&self) {
        // Who is raised already was woken already, and has not looked since.
        if !self.raised.swap(true, Ordering::AcqRel) {
            self.waker.wake();
        }
    }
}

impl Watches {
    pub(crate) fn wake(&self, touched: &BTreeSet<(Scope, TypeUrl)>) {
        for layer in touched {
            if let Some(watches) = self.interested.get(layer) {
                watches.values().for_each(|signal| signal.raise());
            }
        }
    }

    pub(crate) fn wake_all(&self) {
        self.all.iter().for_each(|signal| signal.raise());
    }
}

/// Tells one reader that something changed that concerns it. Several changes before it looks are one.
#[derive(Debug)]
pub struct Watch {
    watches: Arc<Watches>,
    id: u64,
    signal: Arc<Signal>,
    scopes: Arc<[Scope]>,
    types: BTreeSet<TypeUrl>,
}

impl Watch {
    pub(crate) fn new(watches: Arc<Watches>) -> Self {
        let id = watches.next.fetch_add(1, Ordering::Relaxed);
        let signal = Arc::new(Signal::default());
        watches.all.insert(id, signal.clone());
        Self { watches, id, signal, scopes: Arc::default(), types: BTreeSet::new() }
    }

    /// From now on, changes of these scopes count, and no others.
    pub fn set_scopes(&mut self, scopes: Arc<[Scope]>) {
        self.types.iter().for_each(|type_url| self.forget(type_url));
        self.scopes = scopes;
        self.types.iter().for_each(|type_url| self.register(type_url));
    }

    /// From now on, changes of this type count too.
    pub fn add_type(&mut self, type_url: TypeUrl) {
        if !self.types.contains(&type_url) {
            self.register(&type_url);
            self.types.insert(type_url);
        }
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

    fn register(&self, type_url: &TypeUrl) {
        for scope in self.scopes.iter() {
            let layer = (scope.clone(), type_url.clone());
            let mut watches = self.watches.interested.entry(layer).or_default();
            watches.insert(self.id, self.signal.clone());
        }
    }

    fn forget(&self, type_url: &TypeUrl) {
        for scope in self.scopes.iter() {
            let layer = (scope.clone(), type_url.clone());
            self.watches.interested.remove_if_mut(&layer, |_, watches| {
                watches.remove(&self.id);
                watches.is_empty()
            });
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.types.iter().for_each(|type_url| self.forget(type_url));
        self.watches.all.remove(&self.id);
    }
}
