//! What a change does: as those see it who try it, and as all do then.

use std::{collections::BTreeMap, sync::Arc};

use deltaplane_cache::{Cache, Preview, Scope, Transaction};
use deltaplane_core::{Change, TypeUrl, View};

use crate::status::ClientStatus;

/// What a change does to a type in a scope.
pub(super) struct Changed {
    pub(super) scope: Scope,
    pub(super) type_url: TypeUrl,
    pub(super) changes: Vec<Change>,
    becomes: Option<Becomes>,
}

/// What is known of a type in a scope from a change on.
enum Becomes {
    /// That its content will be.
    Declared,
    /// Its content.
    Filled,
}

impl Changed {
    /// Whether it brings something of what a client subscribes to.
    pub(super) fn reaches(&self, status: &ClientStatus) -> bool {
        let of_type = status.types.get(&self.type_url);
        let is_subscribed = of_type.is_some_and(|it| it.wildcard || it.names > 0);
        let is_news = |change: &Change| change.after.as_ref().is_some_and(|it| !it.is_absent());
        is_subscribed && self.changes.iter().any(is_news)
    }
}

/// What a transaction changes.
pub(super) fn of(preview: &Preview) -> Vec<Changed> {
    let changes = preview.changes().map(|(scope, type_url, changes)| {
        let only = Arc::from([scope.clone()]);
        let was_known = preview.before(&only).is_known(type_url);
        let becomes = match preview.after(&only).is_known(type_url) {
            true => (changes.is_empty() || !was_known).then_some(Becomes::Filled),
            false => changes.is_empty().then_some(Becomes::Declared),
        };
        let (scope, type_url) = (scope.clone(), type_url.clone());
        Changed { scope, type_url, changes: changes.to_vec(), becomes }
    });
    changes.collect()
}

/// What makes those see it who see the scopes that lie over those that are changed. What is removed from
/// one shows what lies below that.
pub(super) fn trial(
    changed: &[Changed],
    over: &BTreeMap<Scope, Scope>,
    like: &Transaction,
) -> Transaction {
    let mut trial = like.emptied();
    for Changed { scope, type_url, changes, .. } in changed {
        let Some(upper) = over.get(scope) else { continue };
        for change in changes {
            let (type_url, name) = (type_url.clone(), change.name.clone());
            match &change.after {
                Some(after) => trial.upsert(upper.clone(), after.clone()),
                None => trial.hide_down_to(upper.clone(), scope, type_url, name),
            };
        }
    }
    trial
}

/// What makes it everybody's; what somebody else changed since it began stays as that is.
pub(super) fn promotion(changed: &[Changed], cache: &Cache, like: &Transaction) -> Transaction {
    let mut promotion = like.emptied();
    for Changed { scope, type_url, changes, becomes } in changed {
        let view = cache.view(&Arc::from([scope.clone()]));
        let is_filled = view.is_known(type_url) && cache.types(scope).contains(type_url);
        match becomes {
            Some(Becomes::Declared) => {
                promotion.declare(scope.clone(), type_url.clone());
            }
            Some(Becomes::Filled) if !is_filled => {
                let resources = view.resources(type_url);
                promotion.replace(scope.clone(), type_url.clone(), resources);
            }
            _ => {}
        }
        let is_as_before = |change: &&Change| view.topmost(type_url, &change.name) == change.before;
        for change in changes.iter().filter(is_as_before) {
            match &change.after {
                Some(after) => promotion.upsert(scope.clone(), after.clone()),
                None => promotion.remove(scope.clone(), type_url.clone(), change.name.clone()),
            };
        }
    }
    promotion
}
