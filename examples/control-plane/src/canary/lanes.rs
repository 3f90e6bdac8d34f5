//! What fleets that have a canary are not served yet, and what of it is on its way.
//!
//! What such a fleet is not served yet is one transaction, to which the next changes are added; so it loses
//! nothing by being withdrawn, and what comes later goes to the canary together with it.

use std::collections::BTreeMap;
use std::sync::Arc;

use deltaplane_server::{Commit, CommitError, Transaction};
use tokio::task::JoinSet;

use crate::canary::rollouts::Stage;
use crate::canary::trial::{End, Trial, note};
use crate::serve::running::Running;

/// What fleets that have a canary are not served yet.
#[derive(Debug)]
pub(crate) struct Lanes {
    lanes: BTreeMap<String, Lane>,
    under_way: JoinSet<(String, Result<End, CommitError>)>,
    app: Running,
    /// Before all was read once, nobody is connected who could be first.
    is_loaded: bool,
}

/// What one fleet is not served yet.
#[derive(Debug)]
struct Lane {
    transaction: Transaction,
    /// The revision that all of the fleet have.
    behind: i64,
    /// That of what was added last.
    revision: i64,
    /// That of what is tried, while it is.
    tried: Option<i64>,
    /// Something was added since it was tried last.
    is_new: bool,
    /// The server just started: who is first is still to come.
    awaits_clients: bool,
}

impl Lanes {
    pub(crate) fn new(app: Running) -> Lanes {
        Lanes { lanes: BTreeMap::new(), under_way: JoinSet::new(), app, is_loaded: false }
    }

    /// Whether what changes for a fleet goes this way.
    pub(crate) fn has(&self, fleet: &str) -> bool {
        self.is_loaded && (self.lanes.contains_key(fleet) || self.app.fleets.plan(fleet).is_some())
    }

    /// Whether something of a fleet is being tried: what comes next waits.
    pub(crate) fn is_busy(&self, fleet: &str) -> bool {
        self.lanes.get(fleet).is_some_and(|lane| lane.tried.is_some())
    }

    /// What a fleet is not served yet, to be given back with more.
    pub(crate) fn take(&mut self, fleet: &str) -> Transaction {
        let lane = self.lanes.get_mut(fleet);
        lane.map(|lane| std::mem::take(&mut lane.transaction)).unwrap_or_default()
    }

    /// What a fleet is not served yet, up to a revision; if it lacked nothing until now, it has all up to
    /// the revision `behind`.
    pub(crate) fn put(
        &mut self,
        fleet: &str,
        transaction: Transaction,
        behind: i64,
        revision: i64,
    ) {
        let lane = self.lanes.entry(fleet.to_owned()).or_insert_with(|| Lane {
            transaction: Transaction::new(),
            behind,
            revision,
            tried: None,
            is_new: true,
            awaits_clients: false,
        });
        (lane.transaction, lane.revision, lane.is_new) = (transaction, revision, true);
    }

    /// A fleet has a revision, and somebody of it has to come before it gets a later one.
    pub(crate) fn await_clients(&mut self, fleet: &str, has: i64, revision: i64) {
        self.put(fleet, Transaction::new(), has, revision);
        if let Some(lane) = self.lanes.get_mut(fleet) {
            lane.awaits_clients = true;
        }
    }

    /// The revision that all of a fleet have, if it lacks something.
    pub(crate) fn behind_of(&self, fleet: &str) -> Option<i64> {
        self.lanes.get(fleet).map(|lane| lane.behind)
    }

    /// All was read anew, so what fleets are not served yet comes again.
    pub(crate) fn clear(&mut self) {
        self.lanes.values_mut().for_each(|lane| lane.transaction = Transaction::new());
    }

    /// Each fleet that lacks something, with the revision that it has.
    pub(crate) fn behind(&self) -> impl Iterator<Item = (&String, i64)> {
        self.lanes.iter().map(|(fleet, lane)| (fleet, lane.behind))
    }

    /// Has what is new go to those who are first, and returns what all may have: it changes nothing, or is of
    /// fleets of which all are told at once from now on.
    pub(crate) fn start(&mut self) -> Result<Vec<Transaction>, CommitError> {
        self.is_loaded = true;
        let idle = self.lanes.iter().filter(|(_, lane)| lane.tried.is_none());
        let idle: Vec<String> = idle.map(|(fleet, _)| fleet.clone()).collect();
        let mut for_all = Vec::new();
        for fleet in idle {
            let Some(lane) = self.lanes.get_mut(&fleet) else { continue };
            let plan = self.app.fleets.plan(&fleet);
            let preview = self.app.cache.preview(&lane.transaction)?;
            let is_change = preview.changes().any(|(_, _, changes)| !changes.is_empty());
            let Some(plan) = plan.filter(|_| is_change) else {
                for_all.extend(self.lanes.remove(&fleet).map(|lane| lane.transaction));
                let store = self.app.store.clone();
                tokio::spawn(async move { note(store.note_served(&fleet).await) });
                continue;
            };
            if lane.is_new {
                (lane.tried, lane.is_new) = (Some(lane.revision), false);
                let mut transaction = lane.transaction.clone();
                transaction.source_revision(lane.revision.unsigned_abs());
                tracing::info!(fleet, revision = lane.revision, "a change goes to some first");
                self.app.rollouts.set(&fleet, lane.revision, Stage::InCanary);
                let trial = Trial {
                    app: self.app.clone(),
                    fleet: fleet.clone(),
                    plan,
                    transaction,
                    has: lane.behind,
                    revision: lane.revision,
                    awaits_clients: std::mem::take(&mut lane.awaits_clients),
                };
                self.under_way.spawn(async move { (fleet, trial.run().await) });
            }
        }
        Ok(for_all)
    }

    /// Waits until something was tried to the end, and returns what reached all by that.
    pub(crate) async fn ended(&mut self) -> Result<Option<Commit>, CommitError> {
        let (fleet, end) = match self.under_way.join_next().await {
            Some(Ok(ended)) => ended,
            // What is tried does not panic; and if nothing is, there is no end of it.
            Some(Err(_)) | None => return std::future::pending().await,
        };
        let Some(lane) = self.lanes.get_mut(&fleet) else { return Ok(None) };
        let revision = lane.tried.take().unwrap_or(lane.revision);
        match end? {
            End::Promoted(commit) => {
                tracing::info!(fleet, revision, changes = commit.changes, "the change reaches all");
                lane.behind = revision;
                if !lane.is_new {
                    self.lanes.remove(&fleet);
                }
                self.app.rollouts.set(&fleet, revision, Stage::Promoted);
                Ok(Some(commit))
            }
            End::Withdrawn(fault) => {
                let why = fault.reasons().join("; ");
                tracing::warn!(
                    fleet,
                    revision,
                    why,
                    "the change is withdrawn from those who were first"
                );
                self.app.rollouts.set(&fleet, revision, Stage::Withdrawn(Arc::new(fault)));
                Ok(None)
            }
        }
    }
}
