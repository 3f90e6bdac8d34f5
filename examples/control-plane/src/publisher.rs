//! From the database to the cache: everything once, then what changed.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use deltaplane_server::{Cache, Commit, CommitError, Resource, Transaction, TypeUrl, envoy};
use thiserror::Error;

use crate::changes::{Change, Changes};
use crate::health::{Health, Published};
use crate::message::Message;
use crate::raw_layers::{RawLayer, RawLayers};
use crate::scope;
use crate::service::{Row, Service};
use crate::store::{Store, StoreError};
use crate::translate::{Difference, Fleet, Removal};
use crate::watch::Watch;

/// All that a service is translated to.
const TYPES: [TypeUrl; 4] =
    [TypeUrl::CLUSTER, TypeUrl::ENDPOINT, TypeUrl::LISTENER, TypeUrl::ROUTE];

/// How long until a lost database is asked again, at first and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// Why the database could not be followed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What was read could not be committed.
    #[error("the cache refused a change: {0}")]
    Commit(#[from] CommitError),
}

/// Keeps a cache as the database says.
#[derive(Debug)]
pub struct Publisher {
    store: Store,
    cache: Cache,
    health: Health,
    listener_address: IpAddr,
    watch: Watch,
    fleets: BTreeMap<i64, Fleet>,
    raw: RawLayers,
    revision: i64,
}

/// The cost of one publication, for its line in the log.
#[derive(Default)]
struct Cost {
    rows: usize,
    resources: usize,
}

impl Publisher {
    /// Fills the cache with all that the database holds.
    pub async fn start(
        store: Store,
        cache: Cache,
        health: Health,
        listener_address: IpAddr,
    ) -> Result<Publisher, PublishError> {
        let watch = store.watch().await?;
        let raw = RawLayers::new(cache.clone());
        let fleets = BTreeMap::new();
        let mut publisher =
            Publisher { store, cache, health, listener_address, watch, fleets, raw, revision: 0 };
        publisher.read_all().await?;
        Ok(publisher)
    }

    /// Follows the database for ever. While it is away, the cache stays as it is.
    pub async fn run(mut self) {
        loop {
            if let Err(error) = self.follow().await {
                tracing::warn!(
                    %error,
                    "the database cannot be followed; clients keep what they have until it is back"
                );
                self.health.update(|status| status.trouble = Some(error.to_string()));
                self.recover().await;
                tracing::info!(revision = self.revision, "the database is back");
            }
        }
    }

    /// Reads what changes, until something fails.
    async fn follow(&mut self) -> Result<(), PublishError> {
        loop {
            self.watch.changed().await?;
            self.read_changes().await?;
        }
    }

    /// Starts anew, until it works. Notifications may be lost, so all is read
    /// again, and the cache finds the difference.
    async fn recover(&mut self) {
        let (mut pause, longest) = RETRY;
        loop {
            tokio::time::sleep(pause).await;
            match self.restart().await {
                Ok(()) => return,
                Err(error) => {
                    self.health.update(|status| status.trouble = Some(error.to_string()));
                }
            }
            pause = longest.min(2 * pause);
        }
    }

    async fn restart(&mut self) -> Result<(), PublishError> {
        // First listen, then read: so nothing falls in between.
        self.watch = self.store.watch().await?;
        self.read_all().await
    }

    async fn read_all(&mut self) -> Result<(), PublishError> {
        let snapshot = self.store.snapshot().await?;
        let mut changes: BTreeMap<i64, Vec<(i64, Option<Service>)>> = BTreeMap::new();
        // A fleet that is known stays known, even if the database forgot it.
        let known = self.fleets.keys().chain(&snapshot.clusters);
        changes.extend(known.map(|cluster| (*cluster, Vec::new())));
        for row in &snapshot.rows {
            let fleet = changes.entry(row.definition.cluster_id).or_default();
            fleet.push((row.id, valid(row)));
        }
        self.fleets.clear();
        let layers = self.raw.all(&snapshot);
        if self.revision == 0 {
            self.publish_labels(snapshot.revision, &layers)?;
        }
        let mut transaction = Transaction::new();
        layers.iter().for_each(|layer| layer.replace(&mut transaction));
        let built = layers.iter().map(RawLayer::len).sum();
        self.publish(snapshot.revision, transaction, built, changes)
    }

    /// At the start, when nobody is connected, each layer that has a label is
    /// published by itself, since a transaction has one for all that changes.
    fn publish_labels(&self, revision: i64, layers: &[RawLayer]) -> Result<(), PublishError> {
        for layer in layers {
            let Some(label) = layer.label() else { continue };
            let mut transaction = Transaction::new();
            transaction.source_revision(revision.unsigned_abs()).label(label);
            layer.replace(&mut transaction);
            let _ = self.cache.commit(transaction)?;
        }
        Ok(())
    }

    async fn read_changes(&mut self) -> Result<(), PublishError> {
        match self.store.changes(self.revision).await? {
            Changes::None => Ok(()),
            Changes::TooOld => self.read_all().await,
            Changes::Some { revision, changes, raw_scopes, raw } => {
                let mut transaction = Transaction::new();
                let built = self.raw.change(&mut transaction, &raw_scopes, &raw);
                self.publish(revision, transaction, built, by_fleet(changes))
            }
        }
    }

    /// One transaction, which has the raw resources already, so that no client
    /// ever sees half of it.
    fn publish(
        &mut self,
        revision: i64,
        mut transaction: Transaction,
        raw_built: usize,
        changes: BTreeMap<i64, Vec<(i64, Option<Service>)>>,
    ) -> Result<(), PublishError> {
        transaction.source_revision(revision.unsigned_abs());
        let mut cost = Cost { rows: 0, resources: raw_built };
        for (cluster, services) in changes {
            let known = self.fleets.contains_key(&cluster);
            let fleet = self.fleets.entry(cluster);
            let difference =
                fleet.or_insert_with(|| Fleet::new(self.listener_address)).apply(services);
            cost.add(cluster, &difference);
            if known {
                change(&mut transaction, cluster, &difference);
            } else {
                fill(&mut transaction, cluster, &difference);
            }
        }
        let commit = self.cache.commit(transaction)?;
        self.revision = revision;
        self.record(&cost, &commit);
        tracing::info!(
            revision,
            rows = cost.rows,
            resources = cost.resources,
            changes = commit.changes,
            "published"
        );
        Ok(())
    }

    fn record(&self, cost: &Cost, commit: &Commit) {
        self.health.update(|status| {
            status.trouble = None;
            status.is_loaded = true;
            status.revision = self.revision;
            if commit.changes > 0 {
                status.publications += 1;
                status.published = Some(Published::now(commit.revision));
            }
            status.rows_translated += cost.rows as u64;
            status.resources_built += cost.resources as u64;
        });
    }
}

impl From<sqlx::Error> for PublishError {
    fn from(error: sqlx::Error) -> PublishError {
        StoreError::from(error).into()
    }
}

impl Cost {
    fn add(&mut self, cluster: i64, difference: &Difference) {
        self.rows += difference.rows;
        self.resources += difference.upserts.len();
        for conflict in &difference.conflicts {
            tracing::warn!(
                cluster_id = cluster,
                service = conflict.name,
                field = conflict.error.field,
                problem = conflict.error.message,
                "a stored service gives way to one with a lower id"
            );
        }
    }
}

fn by_fleet(changes: Vec<Change>) -> BTreeMap<i64, Vec<(i64, Option<Service>)>> {
    let mut fleets: BTreeMap<i64, Vec<(i64, Option<Service>)>> = BTreeMap::new();
    for change in changes {
        let fleet = fleets.entry(change.cluster_id).or_default();
        fleet.push((change.id, change.row.as_ref().and_then(valid)));
    }
    fleets
}

/// A row that somebody wrote past the checks of the REST face costs itself only.
fn valid(row: &Row) -> Option<Service> {
    let errors = match Service::parse(row) {
        Ok(service) => return Some(service),
        Err(errors) => errors,
    };
    for error in errors {
        tracing::warn!(
            id = row.id,
            service = row.definition.name,
            field = error.field,
            problem = error.message,
            "a stored service is not valid and is left out"
        );
    }
    None
}

/// A scope that was not filled before: all four types become known, even if
/// there is nothing of them.
fn fill(transaction: &mut Transaction, cluster: i64, difference: &Difference) {
    let resources: Vec<Resource> = difference.upserts.iter().map(resource).collect();
    for kind in TYPES {
        let of_kind = resources.iter().filter(|resource| *resource.type_url() == kind);
        let of_kind = of_kind.cloned().collect::<Vec<_>>();
        transaction.replace(scope::of_cluster(cluster), kind, of_kind);
    }
}

fn change(transaction: &mut Transaction, cluster: i64, difference: &Difference) {
    let scope = scope::of_cluster(cluster);
    for message in &difference.upserts {
        transaction.upsert(scope.clone(), resource(message));
    }
    for removal in &difference.removals {
        let (kind, name) = match removal {
            Removal::Cluster(name) => (TypeUrl::CLUSTER, name),
            Removal::Endpoints(name) => (TypeUrl::ENDPOINT, name),
            Removal::Listener(name) => (TypeUrl::LISTENER, name),
            Removal::Routes(name) => (TypeUrl::ROUTE, name),
        };
        transaction.remove(scope.clone(), kind, name.as_str());
    }
}

/// The one place where a message is encoded and hashed.
fn resource(message: &Message) -> Resource {
    match message {
        Message::Cluster(cluster) => envoy::resource(cluster.as_ref()),
        Message::Endpoints(endpoints) => envoy::resource(endpoints.as_ref()),
        Message::Listener(listener) => envoy::resource(listener.as_ref()),
        Message::Routes(routes) => envoy::resource(routes.as_ref()),
    }
}
