//! Who has what was stored.

use std::time::Duration;

use deltaplane_server::{Client, Delivery, Fate, HowMany, Revision};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::problem::Fault;
use crate::running::Running;
use crate::scope;

const TIMEOUT_MAX_MS: u64 = 600_000;

/// For whom an answer waits, and for how long.
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

/// What became of a change at the clients that see its scope.
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
        let is_published = tokio::time::timeout_at(end, app.health.reaches(revision)).await.is_ok();
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
    let one =
        |(client, fate): &(std::sync::Arc<Client>, Fate)| Told::of(client, fate, is_published);
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
