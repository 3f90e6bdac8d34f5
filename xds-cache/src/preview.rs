//! What a transaction would make of a cache, before anybody sees it.

use std::{collections::BTreeSet, sync::Arc};

use deltaplane_core::{Change, TypeUrl};

use crate::{
    CacheView, Scope,
    state::{State, Successor},
};

/// What a cache is, and what a transaction would make of it. See [`Cache::preview`](crate::Cache::preview)
/// and [`Cache::commit_if`](crate::Cache::commit_if).
#[derive(Debug, Clone)]
pub struct Preview {
    before: Arc<State>,
    after: Arc<State>,
    touched: BTreeSet<(Scope, TypeUrl)>,
}

impl Preview {
    /// A preview of nothing: the cache stays as it is.
    pub(crate) fn unchanged(state: Arc<State>) -> Self {
        Self { before: state.clone(), after: state, touched: BTreeSet::new() }
    }

    pub(crate) fn new(before: Arc<State>, successor: Successor) -> Self {
        let Successor { state, touched, .. } = successor;
        Self { before, after: Arc::new(state), touched }
    }

    /// What a client sees now that is given these scopes.
    #[must_use]
    pub fn before(&self, scopes: &Arc<[Scope]>) -> CacheView {
        CacheView::new(self.before.clone(), scopes.clone())
    }

    /// What it would see.
    #[must_use]
    pub fn after(&self, scopes: &Arc<[Scope]>) -> CacheView {
        CacheView::new(self.after.clone(), scopes.clone())
    }

    /// What would change, by scope and type; a resource that is said again as it is does not. A type that
    /// would only become known has no changes. A view may see it otherwise: what one scope loses, another
    /// one below it may still have.
    pub fn changes(&self) -> impl Iterator<Item = (&Scope, &TypeUrl, &[Change])> {
        self.touched.iter().map(|(scope, type_url)| {
            let layer = self.after.layer(scope, type_url);
            let changes = layer.map(|layer| layer.last_changes());
            (scope, type_url, changes.unwrap_or_default())
        })
    }

    pub(crate) fn into_after(self) -> (Arc<State>, BTreeSet<(Scope, TypeUrl)>) {
        (self.after, self.touched)
    }
}
