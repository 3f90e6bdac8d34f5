//! Who refers to whom: the references of one layer's resources, read backwards.

use std::{collections::BTreeSet, sync::Arc};

use deltaplane_core::{Change, Key, Resource, TypeUrl};
use imbl::OrdSet;

/// The references that leave a layer, in the order of where they lead. A clone shares all that a change
/// leaves alone.
#[derive(Debug, Clone, Default)]
pub(crate) struct References(OrdSet<Reference>);

/// That a resource of the layer refers to a key. The order of the fields is the order of the set.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Reference {
    to: Key,
    from: Arc<str>,
}

impl References {
    /// Follows a change of the layer. Costs what the resource refers to in memory that is its own, and
    /// in the set only what differs.
    pub(crate) fn follow(&mut self, change: &Change) {
        let (before, after) = (keys(change.before.as_ref()), keys(change.after.as_ref()));
        if before == after {
            return;
        }
        let reference = |to: &Key| Reference { to: to.clone(), from: change.name.clone() };
        let (before, after): (BTreeSet<_>, BTreeSet<_>) =
            (before.iter().collect(), after.iter().collect());
        for gone in before.difference(&after) {
            self.0.remove(&reference(gone));
        }
        for new in after.difference(&before) {
            self.0.insert(reference(new));
        }
    }

    /// The references that lead to a type: the name of who refers, and to what.
    pub(crate) fn to_type(&self, type_url: &TypeUrl) -> impl Iterator<Item = (&Arc<str>, &Key)> {
        let to = Key::new(type_url.clone(), Arc::default());
        let all = self.0.range(Reference { to, from: Arc::default() }..);
        let all = all.take_while(move |reference| reference.to.type_url == *type_url);
        all.map(|reference| (&reference.from, &reference.to))
    }

    /// The names of the resources that refer to a key.
    pub(crate) fn to(&self, key: &Key) -> impl Iterator<Item = &Arc<str>> {
        let begin = Reference { to: key.clone(), from: Arc::default() };
        let all = self.0.range(begin..);
        all.take_while(move |reference| reference.to == *key).map(|reference| &reference.from)
    }
}

fn keys(resource: Option<&Resource>) -> &[Key] {
    resource.map(Resource::references).unwrap_or_default()
}
