//! A change that goes to some of a fleet first, and then to all, or back.

use std::sync::Arc;
use std::time::Duration;

use deltaplane_server::{Client, Commit, CommitError, Rollout as Outcome, Scope, Transaction};
use tokio::time::Instant;

use crate::canary::elsewhere::Word;
use crate::canary::rollout::{OnRejection, Plan};
use crate::canary::rollouts::Fault;
use crate::database::store::StoreError;
use crate::database::write::Origin;
use crate::delivery;
use crate::fleets::scope;
use crate::history::rollback::{self, ITSELF, Rollback, RolledBack};
use crate::serve::running::Running;

/// The longest label of a change, in bytes.
const LABEL_MAX: usize = 256;

/// How long after the first client of a fleet the others come back to a server that started.
const RETURN: Duration = Duration::from_secs(5);

/// How often one looks whether somebody of a canary has come that is awaited.
const LOOK: Duration = Duration::from_millis(100);

/// After how many looks one asks what other servers know of it.
const ASK: usize = 5;

/// How much later than this server others may hear of a change.
const LATE: Duration = Duration::from_secs(5);

/// A change of a fleet on its way.
#[derive(Debug)]
pub(crate) struct Trial {
    pub(crate) app: Running,
    pub(crate) fleet: String,
    pub(crate) plan: Plan,
    pub(crate) transaction: Transaction,
    /// The revision that all of the fleet have.
    pub(crate) has: i64,
    /// That to which this brings them.
    pub(crate) revision: i64,
    /// The server just started: who is first is still to come.
    pub(crate) awaits_clients: bool,
}

/// What became of it.
#[derive(Debug)]
pub(crate) enum End {
    Promoted(Commit),
    Withdrawn(Fault),
}

/// Where those are who are first.
enum First {
    Here,
    /// They accepted it there.
    Elsewhere,
    Nowhere,
}

impl Trial {
    /// Carries it out.
    pub(crate) async fn run(self) -> Result<End, CommitError> {
        let Trial { app, fleet, has, revision, .. } = &self;
        note(app.store.note_unserved(fleet, *has).await);
        let mut end = tokio::select! {
            biased;
            end = self.roll_out() => end?,
            back = self.taken_back() => End::Withdrawn(Fault::elsewhere(back)),
        };
        match &mut end {
            End::Promoted(_) => note(app.store.note_served(fleet).await),
            End::Withdrawn(fault) => {
                if self.plan.on_rejection == OnRejection::Rollback && !fault.is_elsewhere {
                    self.roll_back(fault).await;
                }
                delivery::note_withdrawn(app, fleet, (*has, *revision), fault).await;
                // Not before others can see that it was rolled back.
                note(app.store.note_tried(fleet, None).await);
            }
        }
        Ok(end)
    }

    async fn roll_out(&self) -> Result<End, CommitError> {
        let Trial { app, fleet, plan, .. } = self;
        if self.awaits_clients {
            // If nobody comes, nobody is waited for.
            let _ = tokio::time::timeout(self.patience(), self.anybody()).await;
        }
        match self.first().await {
            First::Here => {}
            First::Elsewhere => {
                tracing::info!(fleet, revision = self.revision, "the canary accepted it elsewhere");
                return app.cache.commit(self.transaction.clone()).map(End::Promoted);
            }
            First::Nowhere => return Ok(End::Withdrawn(Fault::of(None, Vec::new()))),
        }
        let is_word = self.seeing().iter().any(|client| self.is_selected(client));
        if is_word {
            note(app.store.note_tried(fleet, Some(self.revision)).await);
        }
        Ok(match app.server.roll_out(self.transaction.clone(), plan.canary()).await? {
            Outcome::Promoted(commit) => {
                if is_word {
                    note(app.store.note_accepted(fleet, self.revision).await);
                }
                End::Promoted(commit)
            }
            Outcome::Withdrawn { delivery, gone } => {
                End::Withdrawn(Fault::of(Some(delivery), gone))
            }
            _ => End::Withdrawn(Fault::of(None, Vec::new())),
        })
    }

    fn patience(&self) -> Duration {
        Duration::from_millis(self.plan.rollout.timeout_ms.into())
    }

    /// Waits until somebody sees what is the fleet's, and as long again as others may take to come back.
    async fn anybody(&self) {
        while self.seeing().is_empty() {
            tokio::time::sleep(LOOK).await;
        }
        tokio::time::sleep(RETURN).await;
    }

    /// Waits for somebody of the canary, if anybody is connected at all: here, or where it accepts it for all.
    async fn first(&self) -> First {
        let (start, mut word) = (Instant::now(), Word::default());
        for look in 0_usize.. {
            let clients = self.seeing();
            if clients.is_empty() || clients.iter().any(|client| self.is_first(client)) {
                return First::Here;
            }
            if look % ASK == 0 {
                word = self.word().await;
            }
            if word.is_accepted {
                return First::Elsewhere;
            }
            let late = if word.others { LATE } else { Duration::ZERO };
            if !word.is_tried && start.elapsed() >= self.patience() + late {
                break;
            }
            tokio::time::sleep(LOOK).await;
        }
        First::Nowhere
    }

    /// What others know of it. Who knows nothing of them goes on without.
    async fn word(&self) -> Word {
        let scopes = self.app.fleets.own_scopes(&self.fleet);
        self.app.store.word(&self.fleet, &scopes, self.revision).await.unwrap_or_default()
    }

    /// Waits until another server has rolled it back, and returns at which revision.
    async fn taken_back(&self) -> i64 {
        let Trial { app, fleet, plan, revision, .. } = self;
        if plan.on_rejection != OnRejection::Rollback {
            return std::future::pending().await;
        }
        let mut health = app.health.watch();
        let mut read = *revision;
        loop {
            let now = health.wait_for(|status| status.read > read).await.map(|status| status.read);
            // An error says that nobody is left who could read of it.
            let Ok(now) = now else { return std::future::pending().await };
            match app.store.taken_back(&app.fleets.own_scopes(fleet), *revision).await {
                Ok(Some(back)) => return back,
                Ok(None) => read = now,
                Err(_) => tokio::time::sleep(LATE).await,
            }
        }
    }

    fn seeing(&self) -> Vec<Arc<Client>> {
        let scopes: Vec<Scope> = scope::view(&self.fleet, &self.app.fleets);
        let clients = self.app.server.clients().into_iter().map(|status| status.client);
        let see = |client: &Arc<Client>| client.scopes.iter().any(|scope| scopes.contains(scope));
        clients.filter(see).collect()
    }

    fn is_first(&self, client: &Client) -> bool {
        self.plan.rollout.canary.nodes.is_none() || self.is_selected(client)
    }

    /// Whether it is one of those that are the canary, wherever they are.
    fn is_selected(&self, client: &Client) -> bool {
        let nodes = self.plan.rollout.canary.nodes.as_ref();
        nodes.is_some_and(|nodes| nodes.select(&client.node))
    }

    /// Brings back in the database what the fleet had before, but for what others changed since.
    async fn roll_back(&self, fault: &mut Fault) {
        let Trial { app, fleet, has, revision, .. } = self;
        let origin = Origin::of(ITSELF).called(Some(label(&fault.reasons())));
        let (fleet_only, until) = (Some(fleet.clone()), Some(*revision));
        let rollback = Rollback { fleet: fleet_only, until, ..Rollback::to(*has) };
        let done = rollback::roll_back(app, &rollback, origin).await;
        fault.rolled_back = Some(match done {
            Ok(RolledBack { already: Some(revision), .. }) => {
                tracing::info!(fleet, revision, "another server has rolled it back");
                fault.is_elsewhere = true;
                Ok(revision)
            }
            Ok(RolledBack { changes, .. }) if changes.is_empty() => Err("nothing of it is the \
                fleet's own, others changed it since, or it was a rollback itself"
                .to_owned()),
            Ok(RolledBack { revision, .. }) => {
                tracing::warn!(fleet, revision, to = has, "what was rejected is rolled back");
                Ok(revision)
            }
            Err(error) => {
                tracing::error!(fleet, %error, to = has, "what was rejected cannot be rolled back");
                Err(error.to_string())
            }
        });
    }
}

/// What is noted for others, and for the next start, is no reason to hold up this one.
pub(crate) fn note(noted: Result<(), StoreError>) {
    if let Err(error) = noted {
        tracing::warn!(%error, "it cannot be noted what a fleet is served");
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
