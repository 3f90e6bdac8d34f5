//! Wholes of types that several streams asked for, kept until what is in them changes.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use deltaplane_core::{Revision, TypeUrl, Whole};

use crate::Scope;

/// What is seen of a type: the layers that there are of it, and when each changed last.
pub(crate) type Seen = (TypeUrl, Vec<(Scope, Revision)>);

/// Wholes by what is seen. Who asks first gets one of its own, and only from the second on it is kept, since
/// a view that nobody shares would fill memory with what is needed once.
#[derive(Debug, Default)]
pub(crate) struct Wholes {
    kept: Mutex<HashMap<Seen, Option<Kept>>>,
}

type Kept = Arc<OnceLock<Arc<Whole>>>;

impl Wholes {
    /// The whole of what is seen. It is made outside the lock, once for all who wait for it.
    pub(crate) fn get(&self, seen: Seen, make: impl FnOnce() -> Whole) -> Arc<Whole> {
        let kept = {
            let mut all = self.all();
            match all.get_mut(&seen) {
                Some(kept) => Some(kept.get_or_insert_default().clone()),
                None => {
                    all.insert(seen, None);
                    None
                }
            }
        };
        match kept {
            Some(kept) => kept.get_or_init(|| Arc::new(make())).clone(),
            None => Arc::new(make()),
        }
    }

    /// Lets go of what a commit changed.
    pub(crate) fn forget(&self, touched: &BTreeSet<(Scope, TypeUrl)>) {
        let is_touched = |(type_url, layers): &Seen| {
            let mut scopes = layers.iter().map(|(scope, _)| scope);
            scopes.any(|scope| touched.contains(&(scope.clone(), type_url.clone())))
        };
        self.all().retain(|seen, _| !is_touched(seen));
    }

    fn all(&self) -> MutexGuard<'_, HashMap<Seen, Option<Kept>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
