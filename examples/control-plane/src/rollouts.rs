//! Changes on their way through the canaries of fleets that have one, how that stands, and what is rolled
//! back by itself.
//!
//! What such a fleet is not served yet is one transaction, to which the next changes are added; so it loses
//! nothing by being withdrawn, and what comes later goes to the canary together with it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use deltaplane_server::{
    Client, Commit, CommitError, Delivery, Fate, Rollout as Outcome, Scope, Transaction, XdsServer,
};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::delivery;
use crate::rollback::{self, Rollback, RolledBack};
use crate::rollout::{OnRejection, Plan, Rollout};
use crate::running::Running;
use crate::scope;
use crate::store::StoreError;
use crate::write::Origin;

/// Whose name is on what is rolled back by itself.
const AUTHOR: &str = "deltaplane";

/// The longest label of a change, in bytes.
const LABEL_MAX: usize = 256;

/// How long after the first client of a fleet the others come back to a server that started.
const RETURN: Duration = Duration::from_secs(5);

/// How often one looks whether somebody of a canary has come that is awaited.
const LOOK: Duration = Duration::from_millis(100);

/// The last rollout of each fleet that had one. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Rollouts(watch::Sender<BTreeMap<String, Progress>>);

/// How a rollout stands.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Progress {
    /// The revision of the database that it brings the fleet to.
    pub revision: i64,
    /// How it stands.
    pub stage: Stage,
    /// Since when.
    pub since: SystemTime,
    /// How many went well since the start, and how many did not.
    pub ended: Ended,
}

/// How many rollouts ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ended {
    /// They reached all.
    pub promoted: u64,
    /// They reached only the canary, and were taken back.
    pub withdrawn: u64,
    /// So many of these were rolled back in the database.
    pub rolled_back: u64,
}

/// How far a change is.
#[derive(Clone, Debug)]
#[allow(clippy::exhaustive_enums)] // each is told in its own words
pub enum Stage {
    /// Those who are first have it.
    InCanary,
    /// All have it.
    Promoted,
    /// Nobody has it any more.
    Withdrawn(Arc<Fault>),
}

/// Why a change was withdrawn.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Fault {
    /// How it stood with those who were first; nothing, if none of them was there.
    pub delivery: Option<Delivery>,
    /// Those who were first and went.
    pub gone: Vec<String>,
    /// The revision at which what it changed is as it was, if it was rolled back; or why it was not.
    pub rolled_back: Option<Result<i64, String>>,
}

impl Rollouts {
    /// The last one of each fleet that had one.
    pub fn all(&self) -> BTreeMap<String, Progress> {
        self.0.borrow().clone()
    }

    /// Waits until a change of a fleet that reaches to this revision is withdrawn, and says why.
    pub(crate) async fn withdrawn(&self, fleet: &str, revision: i64) -> Arc<Fault> {
        let mut watch = self.0.subscribe();
        loop {
            if let Some(Progress { stage: Stage::Withdrawn(fault), revision: at, .. }) =
                watch.borrow_and_update().get(fleet)
                && *at >= revision
            {
                return fault.clone();
            }
            if watch.changed().await.is_err() {
                // Nobody is left who could withdraw it.
                std::future::pending::<()>().await;
            }
        }
    }

    fn set(&self, fleet: &str, revision: i64, stage: Stage) {
        self.0.send_modify(|all| {
            let mut ended = all.get(fleet).map(|before| before.ended).unwrap_or_default();
            ended.promoted += u64::from(matches!(stage, Stage::Promoted));
            if let Stage::Withdrawn(fault) = &stage {
                ended.withdrawn += 1;
                ended.rolled_back += u64::from(matches!(fault.rolled_back, Some(Ok(_))));
            }
            let progress = Progress { revision, stage, since: SystemTime::now(), ended };
            all.insert(fleet.to_owned(), progress);
        });
    }
}

impl Stage {
    /// As it is written.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Stage::InCanary => "in_canary",
            Stage::Promoted => "promoted",
            Stage::Withdrawn(_) => "withdrawn",
        }
    }
}

impl Fault {
    fn of(delivery: Option<Delivery>, gone: Vec<String>) -> Fault {
        Fault { delivery, gone, rolled_back: None }
    }

    /// Who is at fault, and in which words.
    #[must_use]
    pub fn reasons(&self) -> Vec<String> {
        let Some(delivery) = &self.delivery else {
            return vec!["nobody of the canary is connected".to_owned()];
        };
        let of = |(client, fate): &(Arc<Client>, Fate)| {
            let node = &client.node.id;
            match fate {
                Fate::Rejected(rejections) => {
                    let word = |rejection: &Arc<deltaplane_server::Rejection>| {
                        let kind = rejection.type_url.message_name().rsplit('.').next();
                        let kind = kind.unwrap_or_default().to_owned();
                        format!("{node} rejects a {kind}: {}", rejection.error.message)
                    };
                    rejections.iter().map(word).collect()
                }
                Fate::Settled | Fate::Draining => Vec::new(),
                _ => vec![format!("{node} did not settle in time")],
            }
        };
        let gone = self.gone.iter().map(|node| format!("{node} went away"));
        delivery.clients.iter().flat_map(of).chain(gone).collect()
    }
}

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
    /// The revision by which it was rolled back last.
    rolled_back: Option<i64>,
    /// The server just started: who is first is still to come.
    awaits_clients: bool,
}

/// What became of what was tried.
#[derive(Debug)]
enum End {
    Promoted(Commit),
    Withdrawn(Fault),
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
            rolled_back: None,
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
                let revisions = (lane.behind, lane.revision);
                // What brought back what was there is not taken back itself.
                let rolls_back = plan.on_rejection == OnRejection::Rollback
                    && lane.rolled_back != Some(lane.revision);
                let awaits = std::mem::take(&mut lane.awaits_clients);
                let app = self.app.clone();
                self.under_way.spawn(async move {
                    note(app.store.note_unserved(&fleet, revisions.0).await);
                    if awaits {
                        let patience = Duration::from_millis(plan.rollout.timeout_ms.into());
                        let came = anybody(&app, &fleet);
                        let _ = tokio::time::timeout(patience, came).await;
                    }
                    let mut end = roll_out(&app, &fleet, &plan, transaction).await;
                    if let Ok(End::Promoted(_)) = &end {
                        note(app.store.note_served(&fleet).await);
                    }
                    if let Ok(End::Withdrawn(fault)) = &mut end {
                        if rolls_back {
                            let back = roll_back(&app, &fleet, revisions, fault).await;
                            fault.rolled_back = Some(back);
                        }
                        delivery::note_withdrawn(&app, &fleet, revisions, fault).await;
                    }
                    (fleet, end)
                });
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
                if let Some(Ok(back)) = fault.rolled_back {
                    lane.rolled_back = Some(back);
                }
                self.app.rollouts.set(&fleet, revision, Stage::Withdrawn(Arc::new(fault)));
                Ok(None)
            }
        }
    }
}

/// Waits until somebody sees what is a fleet's, and as long again as others may take to come back.
async fn anybody(app: &Running, fleet: &str) {
    let scopes = scope::view(fleet, &app.fleets);
    while seeing(&app.server, &scopes).is_empty() {
        tokio::time::sleep(LOOK).await;
    }
    tokio::time::sleep(RETURN).await;
}

/// What is noted for the next start is no reason to hold up this one.
fn note(noted: Result<(), StoreError>) {
    if let Err(error) = noted {
        tracing::warn!(%error, "it cannot be noted what a fleet is served");
    }
}

async fn roll_out(
    app: &Running,
    fleet: &str,
    plan: &Plan,
    transaction: Transaction,
) -> Result<End, CommitError> {
    let patience = Duration::from_millis(plan.rollout.timeout_ms.into());
    let scopes = scope::view(fleet, &app.fleets);
    let somebody = somebody(&app.server, &scopes, &plan.rollout);
    if tokio::time::timeout(patience, somebody).await.is_err() {
        return Ok(End::Withdrawn(Fault::of(None, Vec::new())));
    }
    Ok(match app.server.roll_out(transaction, plan.canary()).await? {
        Outcome::Promoted(commit) => End::Promoted(commit),
        Outcome::Withdrawn { delivery, gone } => End::Withdrawn(Fault::of(Some(delivery), gone)),
        _ => End::Withdrawn(Fault::of(None, Vec::new())),
    })
}

/// Brings back in the database what a fleet had before a change, but for what others changed since.
async fn roll_back(
    app: &Running,
    fleet: &str,
    (to, until): (i64, i64),
    fault: &Fault,
) -> Result<i64, String> {
    let label = label(&fault.reasons());
    let origin = Origin::of(AUTHOR).called(Some(label));
    let rollback =
        Rollback { fleet: Some(fleet.to_owned()), until: Some(until), ..Rollback::to(to) };
    match rollback::roll_back(app, &rollback, origin).await {
        Ok(RolledBack { changes, .. }) if changes.is_empty() => {
            Err("nothing of it is the fleet's own, or others changed it since".to_owned())
        }
        Ok(RolledBack { revision, .. }) => {
            tracing::warn!(fleet, revision, to, "what was rejected is rolled back");
            Ok(revision)
        }
        Err(error) => {
            tracing::error!(fleet, %error, to, "what was rejected cannot be rolled back");
            Err(error.to_string())
        }
    }
}

/// What a rollback is called: a name has no lines, and an end.
fn label(reasons: &[String]) -> String {
    let text = format!("rolled back: {}", reasons.join("; "));
    let mut label = String::new();
    for character in text.chars().map(|c| if c.is_control() { ' ' } else { c }) {
        if label.len() + character.len_utf8() > LABEL_MAX {
            break;
        }
        label.push(character);
    }
    label
}

/// Waits until somebody of the canary is connected, if somebody is at all.
async fn somebody(server: &XdsServer, scopes: &[Scope], rollout: &Rollout) {
    while !is_anybody(server, scopes, rollout) {
        tokio::time::sleep(LOOK).await;
    }
}

fn is_anybody(server: &XdsServer, scopes: &[Scope], rollout: &Rollout) -> bool {
    let Some(first) = &rollout.canary.nodes else { return true };
    let clients = seeing(server, scopes);
    clients.is_empty() || clients.iter().any(|client| first.select(&client.node))
}

fn seeing(server: &XdsServer, scopes: &[Scope]) -> Vec<Arc<Client>> {
    let clients = server.clients().into_iter().map(|status| status.client);
    let see = |client: &Arc<Client>| client.scopes.iter().any(|scope| scopes.contains(scope));
    clients.filter(see).collect()
}
