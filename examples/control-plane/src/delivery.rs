//! Who has what was stored: asked for once, and noted for each revision.

use std::collections::BTreeSet;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use deltaplane_server::{Client, Delivery, Fate, HowMany, Revision};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::watch;
use utoipa::ToSchema;

use crate::access::Caller;
use crate::canary::rollouts::Fault as Withdrawn;
use crate::database::PATIENCE as DATABASE_PATIENCE;
use crate::database::store::{Store, StoreError, within};
use crate::fleets::scope;
use crate::moment;
use crate::rest::client::is_shown;
use crate::rest::problem::Fault;
use crate::serve::running::Running;
use crate::status::health::Status;

const TIMEOUT_MAX_MS: u64 = 600_000;

/// For which clients of this server an answer waits, and for how long.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wait {
    /// Which share of the clients has to have settled.
    #[serde(default = "all")]
    #[schema(minimum = 0, maximum = 1, default = 1)]
    settled: f64,
    /// What is stored is stored, whatever the clients say by then.
    #[serde(default = "usual_timeout_ms")]
    #[schema(minimum = 0, maximum = 600000, default = 30000)]
    timeout_ms: u64,
}

fn all() -> f64 {
    1.0
}

fn usual_timeout_ms() -> u64 {
    30_000
}

/// What became of a change at the clients of this server that see its scope.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Delivery)]
pub(crate) struct Report {
    /// Whether so many of them have settled as was waited for.
    settled: bool,
    /// In the order in which they connected.
    clients: Vec<Told>,
}

/// What became of it at one client.
#[derive(Debug, Serialize, ToSchema)]
struct Told {
    /// The id of its node.
    node: String,
    /// The cluster of its node.
    cluster: String,
    /// `settled`; `draining`: settled, but for removals that are held back while it may still use what is
    /// gone; `pending`; or `rejected`.
    fate: &'static str,
    /// What it has not shown to be able to use yet, so that what names it is not sent.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    awaited: Vec<Name>,
    /// What it rejected, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    rejections: Vec<Rejected>,
}

#[derive(Debug, Serialize, ToSchema)]
struct Name {
    type_url: String,
    name: String,
}

#[derive(Debug, Serialize, ToSchema)]
struct Rejected {
    type_url: String,
    names: Vec<String>,
    /// The client's own words.
    message: String,
}

impl Wait {
    pub(crate) fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        if !(0.0..=1.0).contains(&self.settled) {
            let why = format!("{} is no share; write a number from 0 to 1", self.settled);
            faults.push(Fault::new("wait.settled", why));
        }
        if self.timeout_ms > TIMEOUT_MAX_MS {
            let why = format!("{} is too long; write at most {TIMEOUT_MAX_MS}", self.timeout_ms);
            faults.push(Fault::new("wait.timeout_ms", why));
        }
        faults
    }

    /// Waits until clients that see a scope have settled at a revision of the database.
    pub(crate) async fn for_scope(&self, app: &Running, scope: &str, revision: i64) -> Report {
        let end = tokio::time::Instant::now() + Duration::from_millis(self.timeout_ms);
        let (fleet, _) = app.fleets.owner(scope);
        let reaches = async {
            // What was rolled back reaches a later revision all the same.
            tokio::select! {
                biased;
                fault = app.rollouts.withdrawn(&fleet, revision) => Some(fault),
                () = app.health.reaches(&fleet, revision) => None,
            }
        };
        let is_published = match tokio::time::timeout_at(end, reaches).await {
            Ok(None) => true,
            Ok(Some(fault)) => {
                let clients = fault.delivery.as_ref().map(|delivery| told(delivery, true));
                return Report { settled: false, clients: clients.unwrap_or_default() };
            }
            Err(_) => false,
        };
        let sees = |client: &Client| client.scopes.contains(&scope::of_raw(scope));
        let left = end.saturating_duration_since(tokio::time::Instant::now());
        let how_many = HowMany::Share(self.settled);
        // What is in the cache by now has that revision in it.
        let published: Revision = app.server.cache().revision();
        let delivery = app.server.wait(published, sees, how_many, left).await;
        Report {
            settled: is_published && delivery.has_settled(how_many),
            clients: told(&delivery, is_published),
        }
    }
}

fn told(delivery: &Delivery, is_published: bool) -> Vec<Told> {
    let one = |(client, fate): &(Arc<Client>, Fate)| Told::of(client, fate, is_published);
    delivery.clients.iter().map(one).collect()
}

impl Told {
    fn of(client: &Client, fate: &Fate, is_published: bool) -> Told {
        let (mut awaited, mut rejections) = (Vec::new(), Vec::new());
        let fate = match fate {
            _ if !is_published => "pending",
            Fate::Settled => "settled",
            Fate::Draining => "draining",
            Fate::Rejected(rejected) => {
                rejections.extend(rejected.iter().map(|rejection| Rejected {
                    type_url: rejection.type_url.to_string(),
                    names: rejection.names.iter().map(ToString::to_string).collect(),
                    message: rejection.error.message.clone(),
                }));
                "rejected"
            }
            Fate::Pending { awaited: keys } => {
                awaited.extend(keys.iter().map(|key| Name {
                    type_url: key.type_url.to_string(),
                    name: key.name.to_string(),
                }));
                "pending"
            }
            _ => "pending",
        };
        let (node, cluster) = (client.node.id.clone(), client.node.cluster.clone());
        Told { node, cluster, fate, awaited, rejections }
    }
}

/// How many clients that have not settled are named.
const NAMED_MAX: usize = 100;

/// How long clients may take until it is noted that they have not settled.
const PATIENCE: Duration = Duration::from_secs(30);

/// What became of a revision at the clients of a server, when they had all settled or
/// rejected it, or had taken too long.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Outcome)]
pub(crate) struct Outcome {
    /// When (RFC 3339).
    at: String,
    /// How many there were.
    clients: usize,
    /// How many of these had settled.
    settled: usize,
    /// The others; of very many, the first ones.
    others: Vec<Told>,
    /// The fleet that it was told later than others, if these are only the clients of that.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    fleet: Option<String>,
    /// The fleets that were not told it yet, so that it says nothing of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    without: Vec<String>,
    /// The fleet from the canary of which it was withdrawn, if it was: these are the clients that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    withdrawn_from: Option<String>,
    /// Why: who rejected it in which words, who did not settle in time, who went away.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    reasons: Vec<String>,
}

impl Outcome {
    fn of(clients: &[(Arc<Client>, Fate)]) -> Outcome {
        let has_settled = |fate: &Fate| matches!(fate, Fate::Settled | Fate::Draining);
        let settled = clients.iter().filter(|(_, fate)| has_settled(fate)).count();
        let others = clients.iter().filter(|(_, fate)| !has_settled(fate));
        let others = others.map(|(client, fate)| Told::of(client, fate, true));
        Outcome {
            at: moment::of(SystemTime::now()),
            clients: clients.len(),
            settled,
            others: others.take(NAMED_MAX).collect(),
            fleet: None,
            without: Vec::new(),
            withdrawn_from: None,
            reasons: Vec::new(),
        }
    }

    /// What became of a revision that only the canary of a fleet had.
    fn withdrawn(fleet: &str, fault: &Withdrawn) -> Outcome {
        let clients = fault.delivery.as_ref().map_or(&[][..], |delivery| &delivery.clients);
        let outcome = Outcome::of(clients);
        Outcome { withdrawn_from: Some(fleet.to_owned()), reasons: fault.reasons(), ..outcome }
    }

    /// How it is with a revision that was published, at this moment, at the clients that this caller may see.
    pub(crate) fn now(app: &Running, caller: &Caller, revision: i64) -> Option<Outcome> {
        let status = app.health.status();
        let mut behind = status.behind.iter().filter(|(fleet, _)| caller.reads(fleet));
        let is_published = status.read >= revision && behind.all(|(_, served)| *served >= revision);
        let published = status.published.filter(|_| is_published)?;
        let mut clients = app.server.delivery(published.revision).clients;
        clients.retain(|(client, _)| is_shown(client, caller));
        Some(Outcome::of(&clients))
    }
}

/// Notes what becomes of each revision, for ever. Of revisions that follow each other
/// faster than clients answer, it is the same. What a fleet is told later is noted then.
pub(crate) async fn note(app: Running) {
    let mut health = app.health.watch();
    let Some(mut noted) = when(&mut health, |status| status.is_loaded).await else { return };
    let is_news =
        |now: &Status, noted: &Status| (now.read, &now.behind) != (noted.read, &noted.behind);
    while let Some(status) = when(&mut health, |now| is_news(now, &noted)).await {
        let published = status.published.map(|published| published.revision).unwrap_or_default();
        let delivery = app.server.wait(published, |_| true, HowMany::All, PATIENCE).await;
        if status.read > noted.read {
            let without = status.behind.keys().cloned().collect();
            let outcome = Outcome { without, ..Outcome::of(&delivery.clients) };
            keep(&app, (noted.read, status.read), &outcome).await;
        }
        for (fleet, had) in &noted.behind {
            let has = status.served(fleet);
            if has > *had {
                let scopes = scope::view(fleet, &app.fleets);
                let sees = |client: &Client| client.scopes.iter().any(|it| scopes.contains(it));
                let clients = delivery.clients.iter().filter(|(client, _)| sees(client));
                let clients: Vec<_> = clients.cloned().collect();
                let outcome = Outcome { fleet: Some(fleet.clone()), ..Outcome::of(&clients) };
                keep(&app, (*had, has), &outcome).await;
            }
        }
        noted = status;
    }
}

/// Notes why the revisions after `since` up to another one were withdrawn from the canary of a fleet.
pub(crate) async fn note_withdrawn(
    app: &Running,
    fleet: &str,
    (since, revision): (i64, i64),
    fault: &Withdrawn,
) {
    keep(app, (since, revision), &Outcome::withdrawn(fleet, fault)).await;
}

/// Keeps what became of the revisions after `since` up to another one.
async fn keep(app: &Running, (since, revision): (i64, i64), outcome: &Outcome) {
    let outcome = serde_json::json!(outcome).to_string();
    if let Err(error) = app.store.note(&server(), since, revision, outcome).await {
        tracing::warn!(%error, revision, "what became of a revision cannot be noted");
    }
}

/// Whether an outcome that was noted is about a revision that changed something of these fleets.
pub(crate) fn is_about(outcome: &Value, fleets: &BTreeSet<String>) -> bool {
    let of = [&outcome["fleet"], &outcome["withdrawn_from"]].into_iter().find_map(Value::as_str);
    let without = outcome["without"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let without: BTreeSet<&str> = without.collect();
    match of {
        Some(fleet) => fleets.contains(fleet),
        None => fleets.iter().any(|fleet| !without.contains(&**fleet)),
    }
}

/// What tells one note, or one server, from all others.
pub(crate) fn server() -> String {
    format!("{:016x}", RandomState::new().hash_one(std::process::id()))
}

/// Waits until the server is so; nothing, if it ended.
async fn when(
    health: &mut watch::Receiver<Status>,
    is_so: impl FnMut(&Status) -> bool,
) -> Option<Status> {
    health.wait_for(is_so).await.ok().map(|status| status.clone())
}

impl Store {
    /// Notes what became of the revisions after `since` up to this one.
    async fn note(
        &self,
        server: &str,
        since: i64,
        revision: i64,
        outcome: String,
    ) -> Result<(), StoreError> {
        let sql = "INSERT INTO deliveries (revision, since, server, outcome) \
                   VALUES ($1, $2, $3, $4)";
        let query = sqlx::query(sql).bind(revision).bind(since).bind(server.to_owned());
        within(DATABASE_PATIENCE, async { query.bind(outcome).execute(&self.pool).await }).await?;
        Ok(())
    }

    /// What was noted of a revision, by each server.
    pub(crate) async fn outcomes(&self, revision: i64) -> Result<Vec<Value>, StoreError> {
        let sql = "SELECT outcome FROM deliveries WHERE revision >= $1 AND since < $1 \
                   ORDER BY revision";
        let query = sqlx::query_scalar(sql).bind(revision);
        let noted: Vec<String> =
            within(DATABASE_PATIENCE, async { query.fetch_all(&self.pool).await }).await?;
        Ok(noted.iter().flat_map(|outcome| serde_json::from_str(outcome)).collect())
    }
}
