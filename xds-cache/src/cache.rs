//! The cache: one writer at a time, any number of readers.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use deltaplane_core::{Resource, Revision};

use crate::{
    CacheView, Commit, CommitError, Scope, Transaction, Watch,
    state::{State, Successor},
    watch::Watches,
};

/// What the fleet should see, and since when. Clones share one content.
///
/// Readers never wait: a view is a pointer to a state that no longer changes. Writers wait for each
/// other, while one of them computes its difference; resources were encoded before.
#[derive(Debug, Clone, Default)]
pub struct Cache {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: ArcSwap<State>,
    writer: Mutex<()>,
    watches: Arc<Watches>,
}

/// How many changes of one type in one scope are kept for clients that have not read them. A client
/// that falls further behind is compared with the whole, or must reconnect.
const LOG_LIMIT: usize = 65_536;

impl Cache {
    /// A cache that knows no scope.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes a transaction's changes visible, all at once, at one new revision, and wakes the watches
    /// whose scopes and types are concerned. A transaction that changes nothing makes no revision and
    /// wakes nobody.
    ///
    /// Costs what the transaction names, and for a replacement what it replaces; never what exists.
    ///
    /// # Errors
    /// If the transaction contradicts itself; then nothing of it is done.
    pub fn commit(&self, mut transaction: Transaction) -> Result<Commit, CommitError> {
        if let Some(error) = transaction.error.take() {
            return Err(error);
        }
        // A writer that panicked published nothing, so the state is whole.
        let writer = self.shared.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let current = self.shared.state.load_full();
        let Some(successor) = current.succeed(transaction, LOG_LIMIT)? else {
            return Ok(Commit::new(current.revision, 0));
        };
        let Successor { state, changes, touched } = successor;
        let commit = Commit::new(state.revision, changes);
        let more_is_known = state.known_layers > current.known_layers;
        self.shared.state.store(Arc::new(state));
        drop(writer);
        if more_is_known {
            self.shared.watches.wake_all();
        } else {
            self.shared.watches.wake(&touched);
        }
        Ok(commit)
    }

    /// The current revision.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.shared.state.load().revision
    }

    /// Whether a scope was ever declared or filled, be it empty now.
    #[must_use]
    pub fn is_known(&self, scope: &Scope) -> bool {
        self.shared.state.load().scopes.contains_key(scope)
    }

    /// How many types in scopes are known. It only grows; all watches are woken when it does, since a
    /// client's scopes may then be chosen differently.
    #[must_use]
    pub fn known_layers(&self) -> usize {
        self.shared.state.load().known_layers
    }

    /// Whether the version that its caller gave a resource denotes another content of that name in this
    /// scope, now or as far back as the log reaches. A commit would refuse it.
    #[must_use]
    pub fn reuses_version(&self, scope: &Scope, resource: &Resource) -> bool {
        let state = self.shared.state.load();
        let layer = state.layer(scope, resource.type_url());
        layer.is_some_and(|layer| layer.denotes_another(resource))
    }

    /// What a client sees that is given these scopes, the first over the others.
    #[must_use]
    pub fn view(&self, scopes: &Arc<[Scope]>) -> CacheView {
        CacheView::new(self.shared.state.load_full(), scopes.clone())
    }

    /// A watch that is woken when what it is interested in changes; at first that is nothing but what
    /// becomes known.
    #[must_use]
    pub fn watch(&self) -> Watch {
        Watch::new(self.shared.watches.clone())
    }

    /// Wakes every watch, for a reason that is not a change.
    pub fn wake_all(&self) {
        self.shared.watches.wake_all();
    }
}
