//! Everything that a cache holds at one revision.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::SystemTime,
};

use deltaplane_core::{Change, Key, Resource, Revision, TypeUrl};
use imbl::{GenericHashMap, OrdMap, Vector, shared_ptr::DefaultSharedPtr};

use crate::{
    CommitError, Scope, Transaction,
    layer::Layer,
    memo::Memos,
    rollback::{COMMITS_RECALLED, CommitRecord},
};

/// Everything that a cache holds at one revision. Immutable once published.
#[derive(Debug, Clone, Default)]
pub(crate) struct State {
    pub(crate) revision: Revision,
    /// Every scope that was ever declared or filled.
    pub(crate) scopes: HashMap<Scope, Arc<Layers>>,
    /// How many layers are filled.
    pub(crate) known_layers: usize,
    /// The last commits, the oldest first.
    pub(crate) history: Vector<CommitRecord>,
    /// Contents, by their hash, that clients rejected and that were withdrawn for that, and why.
    pub(crate) withdrawn: OrdMap<(Scope, Key, u64), Arc<str>>,
    /// The same in the order in which they were withdrawn.
    withdrawals: Vector<(Scope, Key, u64)>,
    /// What streams share, of this state and others.
    pub(crate) memos: Arc<Memos>,
}

/// A map that is looked into for each response to each stream, and so by a quick hash.
pub(crate) type HashMap<K, V> = GenericHashMap<K, V, foldhash::fast::RandomState, DefaultSharedPtr>;

/// One scope.
#[derive(Debug, Clone, Default)]
pub(crate) struct Layers {
    /// What there is of each type.
    pub(crate) types: BTreeMap<TypeUrl, Arc<Layer>>,
    /// Up to which revision of its source all of it is here, whether that changed anything or not.
    pub(crate) source: Option<u64>,
}

/// A state that a transaction made from another, and where they differ.
pub(crate) struct Successor {
    pub(crate) state: State,
    pub(crate) changes: usize,
    pub(crate) touched: BTreeSet<(Scope, TypeUrl)>,
}

impl State {
    pub(crate) fn layer(&self, scope: &Scope, type_url: &TypeUrl) -> Option<&Arc<Layer>> {
        self.scopes.get(scope)?.types.get(type_url)
    }

    /// What this state becomes by a transaction, or nothing if that changes nothing. Costs what the
    /// transaction names, and what a replacement replaces.
    ///
    /// # Errors
    /// If the transaction contradicts itself, or calls two contents of one resource by one version.
    pub(crate) fn succeed(
        &self,
        transaction: &Transaction,
        log_limit: usize,
    ) -> Result<Option<Successor>, CommitError> {
        if let Some(error) = &transaction.error {
            return Err(error.clone());
        }
        let revision = Revision(self.revision.0 + 1);
        let mut next = Successor {
            state: State { revision, ..self.clone() },
            changes: 0,
            touched: BTreeSet::new(),
        };
        for (scope, type_url) in &transaction.declared {
            if self.layer(scope, type_url).is_none() {
                next.put(scope, type_url, Layer::new(false));
            }
        }
        let mut changed = Vec::new();
        for ((scope, type_url), edit) in &transaction.edits {
            let current = next.state.layer(scope, type_url);
            let was_known = current.is_some_and(|layer| layer.filled);
            let mut layer = match current {
                Some(layer) => Layer::clone(layer),
                None => Layer::new(true),
            };
            let changes = layer.difference(edit);
            check_versions(scope, type_url, &layer, &changes)?;
            next.state.check_withdrawn(scope, type_url, &changes, transaction.insists)?;
            if changes.is_empty() && (was_known || !edit.replace) {
                continue;
            }
            layer.filled |= edit.replace;
            next.state.known_layers += usize::from(layer.filled && !was_known);
            next.changes += changes.len();
            layer.apply(changes, revision, &transaction.origin, log_limit);
            next.put(scope, type_url, layer);
            changed.push((scope.clone(), type_url.clone()));
        }
        let record = CommitRecord {
            revision,
            at: SystemTime::now(),
            label: transaction.origin.label.clone(),
            changes: next.changes,
            undoes: Vec::new(),
            touched: changed.into(),
        };
        if next.state.history.len() == COMMITS_RECALLED {
            next.state.history.pop_front();
        }
        next.state.history.push_back(record);
        next.state.bring_up_to_date(transaction);
        Ok((!next.touched.is_empty()).then_some(next))
    }
}

/// How many contents are remembered as withdrawn.
const WITHDRAWN_RECALLED: usize = 10_000;

impl State {
    /// Refuses what was withdrawn, unless its writer insists.
    fn check_withdrawn(
        &mut self,
        scope: &Scope,
        type_url: &TypeUrl,
        changes: &[Change],
        insists: bool,
    ) -> Result<(), CommitError> {
        if self.withdrawn.is_empty() {
            return Ok(());
        }
        for after in changes.iter().filter_map(|change| change.after.as_ref()) {
            let key = Key::new(type_url.clone(), after.name().clone());
            let content = (scope.clone(), key, after.hash());
            if insists {
                self.withdrawn.remove(&content);
            } else if let Some(reason) = self.withdrawn.get(&content) {
                let (reason, (scope, key, _)) = (reason.clone(), content);
                return Err(CommitError::Withdrawn { scope, key, reason });
            }
        }
        Ok(())
    }

    /// Notes that the last commit takes back others.
    pub(crate) fn record_rollback(&mut self, undone: Vec<Revision>) {
        if let Some(last) = self.history.back_mut() {
            last.undoes = undone;
        }
    }

    /// Remembers contents as withdrawn.
    pub(crate) fn withdraw(&mut self, scope: &Scope, resource: &Resource, reason: &Arc<str>) {
        if self.withdrawals.len() == WITHDRAWN_RECALLED
            && let Some(oldest) = self.withdrawals.pop_front()
        {
            self.withdrawn.remove(&oldest);
        }
        let key = Key::new(resource.type_url().clone(), resource.name().clone());
        let content = (scope.clone(), key, resource.hash());
        self.withdrawals.push_back(content.clone());
        self.withdrawn.insert(content, reason.clone());
    }
}

/// A version never denotes two contents: a caller's own is refused for another content than it
/// denotes now, or denoted as far back as the log reaches.
fn check_versions(
    scope: &Scope,
    type_url: &TypeUrl,
    layer: &Layer,
    changes: &[Change],
) -> Result<(), CommitError> {
    let mut news = changes.iter().filter_map(|change| change.after.as_ref());
    match news.find(|resource| layer.denotes_another(resource)) {
        None => Ok(()),
        Some(resource) => Err(CommitError::VersionReused {
            scope: scope.clone(),
            key: Key::new(type_url.clone(), resource.name().clone()),
            version: resource.version().to_owned(),
        }),
    }
}

impl State {
    /// Takes a layer over, in place of the one that there was.
    pub(crate) fn put(&mut self, scope: &Scope, type_url: &TypeUrl, layer: Layer) {
        let layers = self.scopes.entry(scope.clone()).or_default();
        Arc::make_mut(layers).types.insert(type_url.clone(), Arc::new(layer));
    }

    /// Takes up that scopes are as new as a transaction says.
    pub(crate) fn bring_up_to_date(&mut self, transaction: &Transaction) {
        let source = transaction.origin.revision;
        for scope in &transaction.up_to_date {
            if let Some(layers) = self.scopes.get_mut(scope)
                && layers.source < source
            {
                Arc::make_mut(layers).source = source;
            }
        }
    }
}

impl Successor {
    fn put(&mut self, scope: &Scope, type_url: &TypeUrl, layer: Layer) {
        self.state.put(scope, type_url, layer);
        self.touched.insert((scope.clone(), type_url.clone()));
    }
}
