//! Having the database read again, and what that changed.

use std::time::Duration;

use deltaplane_server::{Cache, Change, CommitError, Transaction};
use serde::Serialize;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use utoipa::ToSchema;

/// How long it may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// What reading again changed for clients.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[non_exhaustive]
pub struct Reloaded {
    /// The revision of the database that was read.
    pub revision: i64,
    /// What was not as the database has it: as a rule, nothing.
    pub changes: Vec<Changed>,
}

/// A resource that was not as the database has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[non_exhaustive]
pub struct Changed {
    /// Where it lies.
    pub scope: String,
    /// Its type.
    pub type_url: String,
    /// Its name.
    pub name: String,
    /// `added`, `changed` or `removed`.
    pub change: &'static str,
}

/// Why nothing was read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReloadError {
    /// The database failed, or what was read could not be published.
    #[error("{0}")]
    Failed(String),
    /// Nobody reads, or the database is away.
    #[error("the database cannot be read at the moment")]
    Away,
}

/// Asks for it. Clones ask the same publisher.
#[derive(Clone, Debug)]
pub struct Reloader(mpsc::Sender<Reload>);

/// What is asked for, to be given to a publisher.
#[derive(Debug)]
pub struct Reloads(pub(crate) mpsc::Receiver<Reload>);

/// What somebody asked for.
#[derive(Debug)]
pub(crate) struct Reload {
    /// One service, or else everything.
    pub(crate) service: Option<i64>,
    pub(crate) answer: oneshot::Sender<Result<Reloaded, String>>,
}

/// Who asks, and who is asked.
pub fn channel() -> (Reloader, Reloads) {
    let (sender, receiver) = mpsc::channel(16);
    (Reloader(sender), Reloads(receiver))
}

impl Reloader {
    /// Has a service read again, or everything, and publishes what differs.
    pub async fn reload(&self, service: Option<i64>) -> Result<Reloaded, ReloadError> {
        let (answer, answered) = oneshot::channel();
        let ask = async {
            self.0.send(Reload { service, answer }).await.map_err(|_| ReloadError::Away)?;
            answered.await.map_err(|_| ReloadError::Away)
        };
        let done = tokio::time::timeout(PATIENCE, ask).await;
        done.map_err(|_| ReloadError::Away)??.map_err(ReloadError::Failed)
    }
}

/// What a transaction would change.
pub(crate) fn changes(
    cache: &Cache,
    transaction: &Transaction,
) -> Result<Vec<Changed>, CommitError> {
    let preview = cache.preview(transaction)?;
    let mut found = Vec::new();
    for (scope, type_url, changes) in preview.changes() {
        found.extend(changes.iter().map(|change| Changed {
            scope: scope.to_string(),
            type_url: type_url.to_string(),
            name: change.name.to_string(),
            change: word(change),
        }));
    }
    Ok(found)
}

fn word(change: &Change) -> &'static str {
    match (&change.before, &change.after) {
        (None, _) => "added",
        (_, None) => "removed",
        _ => "changed",
    }
}
