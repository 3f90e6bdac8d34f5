//! The cache: one writer at a time, any number of readers.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use arc_swap::ArcSwap;
use deltaplane_core::{Key, Resource, Revision, TypeUrl};

use crate::{
    CacheView, Commit, CommitError, CommitRecord, Preview, RollbackError, Scope, Transaction,
    Watch, layer::Layer, state::State, watch::Watches,
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
    /// Held while a new state is published and not all are woken whom it concerns.
    waking: Mutex<()>,
    watches: Arc<Watches>,
}

/// How many changes of one type in one scope are kept, for ten minutes at least, for clients that have not read them. A
/// client that falls further behind is compared with the whole, or must reconnect.
const LOG_LIMIT: usize = 65_536;

impl Cache {
    /// A cache that knows no scope.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes a transaction's changes visible, all at once, at one new revision, and wakes the watches
    /// that it concerns. A transaction that changes nothing makes no revision and
    /// wakes nobody; how [new](Transaction::up_to_date) scopes are by it is known all the same.
    ///
    /// Costs what the transaction names, and for a replacement what it replaces; never what exists.
    ///
    /// # Errors
    /// If the transaction contradicts itself; then nothing of it is done.
    pub fn commit(&self, transaction: Transaction) -> Result<Commit, CommitError> {
        self.commit_if(transaction, |_| Ok(()))
    }

    /// Commits a transaction if a check agrees with what it would make of the cache. No other commit comes
    /// in between. What changes nothing is not checked.
    ///
    /// The check keeps other writers waiting, though no reader; what does not depend on the cache is
    /// better done before, on a [`preview`](Cache::preview). It must not commit to this cache itself:
    /// that would wait for its own end.
    ///
    /// # Errors
    /// If the transaction contradicts itself, or with the check's own error; then nothing is done.
    pub fn commit_if<E: From<CommitError>>(
        &self,
        transaction: Transaction,
        check: impl FnOnce(&Preview) -> Result<(), E>,
    ) -> Result<Commit, E> {
        let writer = self.writer();
        let current = self.shared.state.load_full();
        let Some(successor) = current.succeed(&transaction, LOG_LIMIT)? else {
            if !transaction.up_to_date.is_empty() {
                let mut state = State::clone(&current);
                state.bring_up_to_date(&transaction);
                self.shared.state.store(Arc::new(state));
            }
            return Ok(Commit::new(current.revision, 0));
        };
        let commit = Commit::new(successor.state.revision, successor.changes);
        let preview = Preview::new(current, successor);
        check(&preview)?;
        let (state, touched) = preview.into_after();
        self.publish(writer, state, &touched);
        Ok(commit)
    }

    /// Notes what names were one after the other up to now, each content by its [hash](Resource::hash) and nothing where
    /// there was none, as their source knows though this cache may not have seen all of it. Where by that a name is again
    /// what it was, or becomes so later, a client that comes back within ten minutes is not believed that it has that: it
    /// may have rejected what was between, and run it. What is served stays, and there is no revision of it.
    ///
    /// Costs the contents. A type of which nothing was ever committed in the scope stays unknown.
    pub fn note_past(
        &self,
        scope: impl Into<Scope>,
        type_url: &TypeUrl,
        pasts: impl IntoIterator<Item = (Arc<str>, Vec<Option<u64>>)>,
    ) {
        let scope = scope.into();
        let _writer = self.writer();
        let current = self.shared.state.load_full();
        let Some(layer) = current.layer(&scope, type_url) else { return };
        let mut layer = Layer::clone(layer);
        layer.note_past(pasts, LOG_LIMIT);
        let mut state = State::clone(&current);
        state.put(&scope, type_url, layer);
        self.shared.state.store(Arc::new(state));
    }

    fn writer(&self) -> MutexGuard<'_, ()> {
        // A writer that panicked published nothing, so the state is whole.
        self.shared.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a state the current one, and wakes whom it concerns.
    fn publish(
        &self,
        writer: MutexGuard<'_, ()>,
        state: Arc<State>,
        touched: &BTreeSet<(Scope, TypeUrl)>,
    ) {
        let known = self.shared.state.load().known_layers;
        let more_is_known = state.known_layers > known;
        let waking = self.shared.waking.lock();
        self.shared.state.store(state.clone());
        state.memos.forget(touched);
        if more_is_known {
            self.shared.watches.wake_all(state.revision);
        } else {
            self.shared.watches.wake(&state, touched);
        }
        drop((waking, writer));
    }

    /// The last commits, the oldest first: those that can be taken back, as long as the logs hold what they
    /// replaced.
    #[must_use]
    pub fn history(&self) -> Vec<CommitRecord> {
        self.shared.state.load().history.iter().cloned().collect()
    }

    /// Returns to what was at a revision, by a new one. Costs what has changed since.
    ///
    /// # Errors
    /// If there was no such revision, or what was then is no longer known.
    pub fn return_to(&self, revision: Revision, reason: &str) -> Result<Commit, RollbackError> {
        self.roll_back(reason, None, |state| state.return_to(revision))
    }

    /// Takes back one commit, and the later ones that refer to what it brought, by a new one. What another
    /// commit has changed since stays as it is. Costs what these commits changed, and the length of the
    /// history after it.
    ///
    /// # Errors
    /// If there was no such commit, or what it replaced is no longer known.
    pub fn undo(&self, revision: Revision, reason: &str) -> Result<Commit, RollbackError> {
        self.roll_back(reason, None, |state| state.undo(revision))
    }

    /// The same, for a commit that clients rejected: what it brought under these keys, or under all if there
    /// are none, is refused from then on, unless its writer [insists](Transaction::insist). The last 10,000
    /// such contents are remembered.
    ///
    /// # Errors
    /// As [`undo`](Cache::undo).
    pub fn withdraw(
        &self,
        revision: Revision,
        blamed: &[Key],
        reason: &str,
    ) -> Result<Commit, RollbackError> {
        self.roll_back(reason, Some(blamed), |state| state.undo(revision))
    }

    fn roll_back(
        &self,
        reason: &str,
        withdrawn: Option<&[Key]>,
        taking_back: impl FnOnce(&State) -> Result<(Transaction, Vec<Revision>), RollbackError>,
    ) -> Result<Commit, RollbackError> {
        let writer = self.writer();
        let current = self.shared.state.load_full();
        let (mut transaction, undone) = taking_back(&current)?;
        transaction.label(reason).insist();
        let Some(mut successor) = current.succeed(&transaction, LOG_LIMIT)? else {
            return Ok(Commit::new(current.revision, 0));
        };
        let commit = Commit::new(successor.state.revision, successor.changes);
        successor.state.record_rollback(undone);
        let preview = Preview::new(current, successor);
        let is_blamed = |before: &Resource| {
            let is_it =
                |key: &Key| key.name == *before.name() && key.type_url == *before.type_url();
            withdrawn.is_some_and(|keys| keys.is_empty() || keys.iter().any(is_it))
        };
        let bad: Vec<_> = preview
            .changes()
            .flat_map(|(scope, _, changes)| changes.iter().map(move |change| (scope, change)))
            .filter_map(|(scope, change)| Some((scope.clone(), change.before.clone()?)))
            .filter(|(_, before)| is_blamed(before))
            .collect();
        let (mut state, touched) = preview.into_after();
        if !bad.is_empty() {
            let reason = reason.into();
            let state = Arc::make_mut(&mut state);
            bad.iter().for_each(|(scope, bad)| state.withdraw(scope, bad, &reason));
        }
        self.publish(writer, state, &touched);
        Ok(commit)
    }

    /// What a transaction would make of the cache as it is now. Nobody sees it, and another writer may
    /// commit first: to hold on to what was seen, use [`commit_if`](Cache::commit_if). Costs what a
    /// commit costs.
    ///
    /// # Errors
    /// If the transaction contradicts itself.
    pub fn preview(&self, transaction: &Transaction) -> Result<Preview, CommitError> {
        let current = self.shared.state.load_full();
        Ok(match current.succeed(transaction, LOG_LIMIT)? {
            Some(successor) => Preview::new(current, successor),
            None => Preview::unchanged(current),
        })
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

    /// Whether a commit was taken back, as far as the history reaches.
    #[must_use]
    pub fn is_undone(&self, revision: Revision) -> bool {
        let state = self.shared.state.load();
        state.history.iter().any(|record| record.undoes.contains(&revision))
    }

    /// The types that a scope ever had something of.
    #[must_use]
    pub fn types(&self, scope: &Scope) -> Vec<TypeUrl> {
        let state = self.shared.state.load();
        state
            .scopes
            .get(scope)
            .map(|layers| layers.types.keys().cloned().collect())
            .unwrap_or_default()
    }

    /// How many resources each scope has of each type. Costs the number of these pairs, and not of
    /// resources.
    #[must_use]
    pub fn sizes(&self) -> Vec<(Scope, TypeUrl, usize)> {
        let state = self.shared.state.load();
        let layers = state.scopes.iter().flat_map(|(scope, layers)| {
            layers.types.iter().map(move |(type_url, layer)| (scope, type_url, layer))
        });
        let sizes = layers.map(|(scope, type_url, layer)| {
            (scope.clone(), type_url.clone(), layer.resources.len() - layer.hidden)
        });
        sizes.collect()
    }

    /// Forgets a scope, as if nothing had ever been said of it. Whoever still sees it may miss what became
    /// of its content: empty it first, and see that no client is given it any more.
    pub fn forget(&self, scope: &Scope) {
        let writer = self.writer();
        let mut state = State::clone(&self.shared.state.load());
        if state.scopes.remove(scope).is_some() {
            self.publish(writer, Arc::new(state), &BTreeSet::new());
        }
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

    /// Returns when all are woken whom the current revision concerns: at once, unless a commit is just about
    /// to wake them.
    pub fn finish_waking(&self) {
        drop(self.shared.waking.lock());
    }

    /// Whether a watch is interested in this by name, in that scope.
    #[must_use]
    pub fn is_watched(&self, scope: &Scope, key: &Key) -> bool {
        self.shared.watches.is_watched(scope, key)
    }

    /// Wakes the watches that are interested in this by name in one of these scopes, for a reason that is not
    /// a change.
    pub fn wake(&self, scopes: &[Scope], key: &Key) {
        self.shared.watches.nudge(scopes, key);
    }

    /// Wakes every watch, for a reason that is not a change.
    pub fn wake_all(&self) {
        self.shared.watches.wake_all(Revision(0));
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use deltaplane_core::{Resource, Subscription, View};

    use super::*;
    use crate::log::KEPT_FOR;

    const TYPE: TypeUrl = TypeUrl::ROUTE;

    fn put(cache: &Cache, name: &str, content: usize) {
        let mut transaction = Transaction::new();
        let resource = Resource::raw(TYPE, name, content.to_string()).build();
        transaction.upsert("default", resource);
        let _ = cache.commit(transaction).unwrap();
    }

    /// Lets time pass.
    fn age(cache: &Cache) {
        let current = cache.shared.state.load_full();
        let mut layer = Layer::clone(current.layer(&"default".into(), &TYPE).unwrap());
        layer.age(KEPT_FOR / 2);
        let mut state = State::clone(&current);
        state.put(&"default".into(), &TYPE, layer);
        cache.shared.state.store(Arc::new(state));
    }

    /// Nothing may be forgotten of what it has not read, though it is not concerned.
    #[test]
    fn who_waits_for_something_else_is_asked_to_look() {
        let cache = Cache::new();
        put(&cache, "mine", 0);
        let mut watch = cache.watch();
        watch.set_scopes(Arc::from(["default".into()]));
        watch.add_names(&TYPE, &["mine".into()]);
        let mine = Subscription::to(["mine"]);
        let look = |cursor: Revision| {
            let view = cache.view(&Arc::from(["default".into()]));
            view.changes_of(&TYPE, &mine, cursor).map(|_| view.revision())
        };
        let is_raised = || watch.poll_raised(&mut Context::from_waker(Waker::noop())).is_ready();
        let (mut cursor, mut asked) = (look(Revision(0)).unwrap(), 0);
        for content in 0..1_000 {
            if content % 100 == 0 {
                age(&cache);
            }
            put(&cache, "other", content);
            if is_raised() {
                asked += 1;
                cursor = look(cursor).unwrap();
            }
        }
        assert_eq!(asked, 10, "no more often than it has to be");
        assert!(look(Revision(1)).is_err(), "something was forgotten");
        let view = cache.view(&Arc::from(["default".into()]));
        assert!(view.changed_between(&TYPE, Revision(1), Revision(2)), "it may have changed then");
        assert!(!view.changed_between(&TYPE, view.revision(), view.revision()));
        put(&cache, "mine", 1);
        assert!(is_raised());
        assert!(look(cursor).is_ok());
        assert_eq!(watch.concern().revision(), cache.revision());
    }
}
