//! What several streams ask of what they all see, kept until that changes.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use deltaplane_core::{Change, Revision, TypeUrl, TypeVersion, Whole};

use crate::Scope;

/// What is seen of a type: the layers that there are of it, and when each changed last.
pub(crate) type Seen = (TypeUrl, Vec<(Scope, Revision)>);

/// What streams share, of this state of a cache and others.
#[derive(Debug, Default)]
pub(crate) struct Memos {
    /// All of a type, encoded.
    pub(crate) wholes: Memo<(), Arc<Whole>>,
    /// What differs from the set that had a version; nothing, if none of late had.
    pub(crate) recalled: Memo<TypeVersion, Option<Arc<[Change]>>>,
}

impl Memos {
    /// Lets go of what a commit changed.
    pub(crate) fn forget(&self, touched: &BTreeSet<(Scope, TypeUrl)>) {
        let mut by_type: BTreeMap<&TypeUrl, BTreeSet<&Scope>> = BTreeMap::new();
        for (scope, type_url) in touched {
            by_type.entry(type_url).or_default().insert(scope);
        }
        for (type_url, scopes) in by_type {
            self.wholes.forget(type_url, &scopes);
            self.recalled.forget(type_url, &scopes);
        }
    }
}

/// How many answers of a type are kept. There are so many only if clients have nothing in common.
const MOST: usize = 16_384;

/// Answers to questions about what is seen. Who asks first gets one of its own, and only from the second on
/// it is kept, since what nobody shares would fill memory with what is needed once.
#[derive(Debug)]
pub(crate) struct Memo<K, V> {
    kept: Mutex<HashMap<TypeUrl, Answers<K, V>>>,
}

/// By what is seen, and what is asked of it.
type Answers<K, V> = HashMap<(Vec<(Scope, Revision)>, K), Option<Kept<V>>>;

type Kept<V> = Arc<OnceLock<V>>;

impl<K, V> Default for Memo<K, V> {
    fn default() -> Self {
        Self { kept: Mutex::default() }
    }
}

impl<K: Eq + Hash, V: Clone> Memo<K, V> {
    /// The answer to a question. It is found outside the lock, once for all who wait for it.
    pub(crate) fn get(&self, (type_url, layers): Seen, asked: K, find: impl FnOnce() -> V) -> V {
        let kept = {
            let mut all = self.all();
            let answers = all.entry(type_url).or_default();
            let question = (layers, asked);
            match answers.get_mut(&question) {
                Some(kept) => Some(kept.get_or_insert_default().clone()),
                None => {
                    if answers.len() >= MOST {
                        answers.clear();
                    }
                    answers.insert(question, None);
                    None
                }
            }
        };
        match kept {
            Some(kept) => kept.get_or_init(find).clone(),
            None => find(),
        }
    }

    fn forget(&self, type_url: &TypeUrl, scopes: &BTreeSet<&Scope>) {
        if let Some(answers) = self.all().get_mut(type_url) {
            answers
                .retain(|(layers, _), _| !layers.iter().any(|(scope, _)| scopes.contains(scope)));
        }
    }

    fn all(&self) -> MutexGuard<'_, HashMap<TypeUrl, Answers<K, V>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
