//! Raw resources in the cache: a layer of its own over each scope.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use deltaplane_server::{Cache, Resource, Scope, Transaction, TypeUrl, View as _};

use crate::database::changes::Snapshot;
use crate::fleets::scope;
use crate::raw::{RawChange, RawKey, RawResource};

/// Which raw layers are in the cache.
#[derive(Debug)]
pub(crate) struct RawLayers {
    cache: Cache,
    /// The types that each scope ever had. One of them is clusters, even if
    /// there are none: so the scope is known.
    types: BTreeMap<String, BTreeSet<TypeUrl>>,
    /// The scopes and keys of what no client could read as it is stored.
    torn: BTreeSet<(String, RawKey)>,
}

/// All resources of one type in one scope.
pub(crate) struct RawLayer {
    scope: Scope,
    type_url: TypeUrl,
    resources: Vec<Resource>,
    /// That of the last change.
    label: Option<String>,
}

impl RawLayers {
    pub(crate) fn new(cache: Cache) -> RawLayers {
        RawLayers { cache, types: BTreeMap::new(), torn: BTreeSet::new() }
    }

    /// Every layer as the database has it, and those that it has no more. What is torn there is as it is served.
    pub(crate) fn all(&mut self, snapshot: &Snapshot) -> Vec<RawLayer> {
        self.torn.clear();
        for scope in &snapshot.raw_scopes {
            self.types_of(scope);
        }
        for change in &snapshot.raw {
            let type_url = change.key.type_url.as_str().into();
            self.types_of(&change.scope).insert(type_url);
        }
        let mut layers: BTreeMap<(&str, &str), RawLayer> = BTreeMap::new();
        for (scope, types) in &self.types {
            for type_url in types {
                let layer = RawLayer::empty(scope, type_url);
                layers.insert((scope, type_url), layer);
            }
        }
        for change in &snapshot.raw {
            if let Some(layer) = layers.get_mut(&(&*change.scope, &*change.key.type_url))
                && let Some(resource) = &change.resource
            {
                let built = self.build(&layer.scope, resource);
                if built.is_none() {
                    self.torn.insert((change.scope.clone(), change.key.clone()));
                }
                let built = built.or_else(|| self.served(&layer.scope, &change.key));
                layer.resources.extend(built);
                layer.label.clone_from(&change.label);
            }
        }
        layers.into_values().collect()
    }

    /// Adds what changed to a transaction, with the label of the last change,
    /// and says how many resources were built. What is torn stays as it is served.
    pub(crate) fn change(
        &mut self,
        transaction: &mut Transaction,
        scopes: &[String],
        changes: &[RawChange],
    ) -> usize {
        for scope in scopes {
            if !self.types.contains_key(scope) {
                transaction.replace(scope::of_raw(scope), TypeUrl::CLUSTER, []);
                self.types_of(scope);
            }
        }
        let mut count = 0;
        for change in changes {
            let type_url: TypeUrl = change.key.type_url.as_str().into();
            let (scope, key) =
                (scope::of_raw(&change.scope), (change.scope.clone(), change.key.clone()));
            self.torn.remove(&key);
            let Some(resource) = &change.resource else {
                transaction.remove(scope, type_url, change.key.name.as_str());
                continue;
            };
            match self.build(&scope, resource) {
                Some(resource) => {
                    transaction.upsert(scope, resource);
                    self.types_of(&change.scope).insert(type_url);
                    count += 1;
                }
                None => {
                    self.torn.insert(key);
                }
            }
        }
        if let Some(label) = changes.last().and_then(|change| change.label.as_deref()) {
            transaction.label(label);
        }
        count
    }

    /// How many resources no client could read as they are stored.
    pub(crate) fn torn(&self) -> usize {
        self.torn.len()
    }

    /// What all are served by a name.
    fn served(&self, scope: &Scope, key: &RawKey) -> Option<Resource> {
        let view = self.cache.view(&Arc::from([scope.clone()]));
        view.get(&key.type_url.as_str().into(), &key.name)
    }

    fn types_of(&mut self, scope: &str) -> &mut BTreeSet<TypeUrl> {
        let types = self.types.entry(scope.to_owned());
        types.or_insert_with(|| BTreeSet::from([TypeUrl::CLUSTER]))
    }

    /// As clients get it; nothing, if they would reject all that comes with it.
    ///
    /// The cache refuses a version that denotes another content there. Who
    /// writes past the HTTP API may reuse one, and so may who returns to one
    /// so fast that what was between is never seen here: such a resource is
    /// known by its content.
    fn build(&self, scope: &Scope, resource: &RawResource) -> Option<Resource> {
        if let Some(problem) = resource.fault() {
            tracing::warn!(
                %scope,
                type_url = resource.key.type_url,
                name = resource.key.name,
                problem,
                "a stored resource cannot be read: what it was before is served, if it was anything"
            );
            return None;
        }
        let built = resource.build();
        if !self.cache.reuses_version(scope, &built) {
            return Some(built);
        }
        tracing::warn!(
            %scope,
            type_url = resource.key.type_url,
            name = resource.key.name,
            version = built.version(),
            "the version denoted another content before; clients see the content's hash"
        );
        Some(resource.build_by_content())
    }
}

impl RawLayer {
    fn empty(scope: &str, type_url: &TypeUrl) -> RawLayer {
        let (scope, type_url) = (scope::of_raw(scope), type_url.clone());
        RawLayer { scope, type_url, resources: Vec::new(), label: None }
    }

    pub(crate) fn len(&self) -> usize {
        self.resources.len()
    }

    /// The scope whose layer it is.
    pub(crate) fn scope(&self) -> &str {
        scope::name(std::slice::from_ref(&self.scope)).unwrap_or_default()
    }

    pub(crate) fn label(&self) -> Option<&str> {
        self.label.as_deref()
    }

    /// Makes the cache's layer this one.
    pub(crate) fn replace(&self, transaction: &mut Transaction) {
        let resources = self.resources.iter().cloned();
        transaction.replace(self.scope.clone(), self.type_url.clone(), resources);
    }
}
