//! Returning to what was: what commits did is taken back by a new one.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::SystemTime,
};

use deltaplane_core::{Change, Key, Resource, Revision, TypeUrl};

use crate::{CommitError, Scope, Transaction, state::State};

/// How many commits can be taken back, as far as the logs still hold what they replaced.
pub(crate) const COMMITS_RECALLED: usize = 1024;

/// What is remembered of a commit.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CommitRecord {
    /// Its revision.
    pub revision: Revision,
    /// When it was made.
    pub at: SystemTime,
    /// What its writer called it; a rollback is called by its reason.
    pub label: Option<Arc<str>>,
    /// How many resources it changed.
    pub changes: usize,
    /// The commits that it took back, if it is a rollback.
    pub undoes: Vec<Revision>,
    /// Which types of which scopes it changed.
    pub(crate) touched: Arc<[(Scope, TypeUrl)]>,
}

/// Why something cannot be taken back. Nothing was done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RollbackError {
    /// There was no such commit.
    #[error("there is no revision {revision}: the last one is {last}")]
    Unknown {
        /// What was asked for.
        revision: Revision,
        /// The current revision.
        last: Revision,
    },
    /// What it replaced is forgotten.
    #[error(
        "what revision {revision} replaced is no longer known: \
         the oldest that can be returned to is {oldest}"
    )]
    Forgotten {
        /// What was asked for.
        revision: Revision,
        /// The oldest revision that can be returned to.
        oldest: Revision,
    },
    /// The cache refuses what would come back.
    #[error("what was before cannot come back: {0}")]
    Refused(#[from] CommitError),
}

impl State {
    /// What takes back all commits after a revision.
    pub(crate) fn return_to(
        &self,
        revision: Revision,
    ) -> Result<(Transaction, Vec<Revision>), RollbackError> {
        self.check(revision)?;
        let later = self.history.iter().map(|record| record.revision);
        let undone: BTreeSet<_> = later.filter(|later| *later > revision).collect();
        let known = u64::try_from(undone.len()).unwrap_or(u64::MAX);
        if known < self.revision.0.saturating_sub(revision.0) {
            return Err(self.forgotten(revision));
        }
        let restored = self.restored(&undone).ok_or_else(|| self.forgotten(revision))?;
        Ok((transaction(restored), undone.into_iter().collect()))
    }

    /// What takes back one commit, and those after it that refer to what it brought.
    pub(crate) fn undo(
        &self,
        revision: Revision,
    ) -> Result<(Transaction, Vec<Revision>), RollbackError> {
        self.check(revision)?;
        let mut undone = BTreeSet::from([revision]);
        loop {
            let restored = self.restored(&undone).ok_or_else(|| self.forgotten(revision))?;
            let gone: BTreeSet<_> = restored
                .iter()
                .filter(|(_, resource)| resource.is_none())
                .map(|((scope, key), _)| (scope, key))
                .collect();
            let dependent = self.dependents(revision, &gone);
            let before = undone.len();
            undone.extend(dependent);
            if undone.len() == before {
                return Ok((transaction(restored), undone.into_iter().collect()));
            }
        }
    }

    /// The commits after a revision that brought something that is still there and refers to one of these:
    /// in the same scope, or in another if no scope has such a thing then.
    fn dependents(&self, revision: Revision, gone: &BTreeSet<(&Scope, &Key)>) -> Vec<Revision> {
        let is_elsewhere = |(from, key): &&(&Scope, &Key)| {
            self.scopes.iter().any(|(scope, layers)| {
                let layer = layers.types.get(&key.type_url).filter(|_| scope != *from);
                layer.is_some_and(|layer| layer.resources.contains_key(&key.name))
            })
        };
        let nowhere: BTreeSet<_> =
            gone.iter().filter(|it| !is_elsewhere(it)).map(|(_, key)| *key).collect();
        let later = self.history.iter().filter(|record| record.revision > revision);
        let depends = |record: &&CommitRecord| {
            record.touched.iter().any(|(scope, type_url)| {
                let Some(layer) = self.layer(scope, type_url) else { return false };
                let changes = layer.changes_at(record.revision).unwrap_or_default();
                let brought = changes.iter().filter_map(|change| change.after.as_ref());
                let mut there = brought.filter(|it| layer.resources.get(it.name()) == Some(*it));
                let is_lost = |key: &Key| gone.contains(&(scope, key)) || nowhere.contains(key);
                there.any(|it| it.references().iter().any(is_lost))
            })
        };
        later.filter(depends).map(|record| record.revision).collect()
    }

    /// What each key was before these commits, unless another one has changed it since; nothing, if that is
    /// forgotten.
    fn restored(
        &self,
        undone: &BTreeSet<Revision>,
    ) -> Option<BTreeMap<(Scope, Key), Option<Resource>>> {
        let mut restored = BTreeMap::new();
        let records = self.history.iter().rev();
        for record in records.filter(|record| undone.contains(&record.revision)) {
            for (scope, type_url) in record.touched.iter() {
                // A scope that was forgotten has nothing to restore.
                let Some(layer) = self.layer(scope, type_url) else { continue };
                for Change { name, before, after, .. } in layer.changes_at(record.revision)? {
                    let key = (scope.clone(), Key::new(type_url.clone(), name.clone()));
                    let now = restored.get(&key).cloned();
                    let now = now.unwrap_or_else(|| layer.resources.get(name).cloned());
                    if now == *after {
                        restored.insert(key, before.clone());
                    }
                }
            }
        }
        let is_found =
            |revision: &Revision| self.history.iter().any(|record| record.revision == *revision);
        undone.iter().all(is_found).then_some(restored)
    }

    fn check(&self, revision: Revision) -> Result<(), RollbackError> {
        if revision > self.revision {
            return Err(RollbackError::Unknown { revision, last: self.revision });
        }
        Ok(())
    }

    fn forgotten(&self, revision: Revision) -> RollbackError {
        let first = self.history.iter().find(|record| {
            let mut touched = record.touched.iter();
            touched.all(|(scope, type_url)| {
                let layer = self.layer(scope, type_url);
                layer.is_none_or(|layer| layer.changes_at(record.revision).is_some())
            })
        });
        let oldest =
            first.map_or(self.revision, |first| Revision(first.revision.0.saturating_sub(1)));
        RollbackError::Forgotten { revision, oldest }
    }
}

fn transaction(restored: BTreeMap<(Scope, Key), Option<Resource>>) -> Transaction {
    let mut transaction = Transaction::new();
    for ((scope, key), resource) in restored {
        match resource {
            Some(resource) => drop(transaction.upsert(scope, resource)),
            None => drop(transaction.remove(scope, key.type_url, key.name)),
        }
    }
    transaction
}
