//! From the database to the cache: everything once, then what changed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use deltaplane_server::{Cache, Commit, CommitError, Scope, Transaction};
use thiserror::Error;
use tokio::time::Instant;

mod past;
pub(crate) mod pending;
pub(crate) mod publication;
mod reloading;
mod rows;
mod snapshot;

use self::rows::Invalid;
use crate::canary::lanes::Lanes;
use crate::canary::unserved::Unserved;
use crate::certificates::Secret;
use crate::certificates::vault::Vault;
use crate::database::OpenError;
use crate::database::changes::{Change, Changes, Snapshot};
use crate::database::objects::Object;
use crate::database::reload::Reloads;
use crate::database::store::{Store, StoreError};
use crate::database::watch::Watch;
use crate::fleets::scope;
use crate::fleets::{Directory, Pace};
use crate::publisher::pending::{Batch, Pending, Waiting};
use crate::publisher::publication::{Cost, Publication, change, fill};
use crate::raw::RawChange;
use crate::raw::layers::RawLayers;
use crate::routes::Route;
use crate::serve::running::Running;
use crate::service::{Row, Service};
use crate::status::health::{Health, Published};
use crate::translate::Fleet;

/// How long until a lost database is asked again, at first and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// Why the database could not be followed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The database cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
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
    directory: Directory,
    vault: Vault,
    listener_address: IpAddr,
    /// Nothing, while the database is away.
    watch: Option<Watch>,
    routes: BTreeMap<i64, BTreeMap<String, Route>>,
    secrets: Arc<BTreeMap<String, Secret>>,
    fleets: BTreeMap<i64, Fleet>,
    raw: RawLayers,
    invalid: Invalid,
    /// Up to which all was read.
    revision: i64,
    /// The database itself was read, and not only what was kept of it.
    has_read: bool,
    pending: Pending,
    lanes: Lanes,
    reloads: Reloads,
}

impl Publisher {
    /// Fills the cache with all that the database holds, and will hear who asks for
    /// more by the [`Reloader`](crate::database::reload::Reloader) of that channel.
    pub async fn start(
        running: Running,
        reloads: Reloads,
        listener_address: IpAddr,
    ) -> Result<Publisher, PublishError> {
        let mut publisher = Publisher::new(running, reloads, listener_address);
        publisher.restart().await?;
        Ok(publisher)
    }

    fn new(running: Running, reloads: Reloads, listener_address: IpAddr) -> Publisher {
        let lanes = Lanes::new(running.clone());
        let Running { store, cache, health, fleets: directory, vault, .. } = running;
        let raw = RawLayers::new(cache.clone());
        let (fleets, pending) = (BTreeMap::new(), Pending::default());
        Publisher {
            store,
            cache,
            health,
            directory,
            vault,
            listener_address,
            watch: None,
            routes: BTreeMap::new(),
            secrets: Arc::default(),
            fleets,
            raw,
            invalid: Invalid::default(),
            revision: 0,
            has_read: false,
            pending,
            lanes,
            reloads,
        }
    }

    /// Fills the cache with what was kept of a database that cannot be read, for this reason.
    pub(crate) fn start_from(
        running: Running,
        reloads: Reloads,
        listener_address: IpAddr,
        kept: &Snapshot,
        why: String,
    ) -> Result<Publisher, PublishError> {
        let mut publisher = Publisher::new(running, reloads, listener_address);
        let publication = publisher.prepare(kept, Vec::new())?;
        publisher.publish(publication)?;
        publisher.health.update(|status| {
            status.trouble = Some(why);
            status.last_known_good = Some(kept.revision);
        });
        Ok(publisher)
    }

    /// Follows the database for ever. While it is away, the cache stays as it is.
    pub async fn run(mut self) {
        loop {
            if self.watch.is_none() {
                self.recover().await;
                tracing::info!(revision = self.revision, "the database is back");
            }
            if let Err(error) = self.follow().await {
                tracing::warn!(
                    %error,
                    "the database cannot be followed; clients keep what they have until it is back"
                );
                self.health.update(|status| status.trouble = Some(error.to_string()));
                self.watch = None;
            }
        }
    }

    /// Reads what changes, until something fails.
    async fn follow(&mut self) -> Result<(), PublishError> {
        loop {
            let Some(watch) = &mut self.watch else { return Ok(()) };
            let due = self.pending.due(|fleet| self.lanes.is_busy(fleet));
            tokio::select! {
                changed = watch.changed() => {
                    let (was_told, before) = (changed?, self.revision);
                    self.read_changes().await?;
                    let is_untold = !was_told && self.revision > before;
                    self.health.update(|status| status.untold += u64::from(is_untold));
                }
                Some(asked) = self.reloads.0.recv() => {
                    let done = self.reload(asked.service).await;
                    let said = done.as_ref().map_err(ToString::to_string).cloned();
                    // Whoever asked may be gone.
                    let _ = asked.answer.send(said);
                    done?;
                }
                ended = self.lanes.ended() => {
                    if let Some(commit) = ended? {
                        self.record(&Cost::default(), &commit);
                    }
                    // What waited for that is next, with what was rolled back.
                    self.read_changes().await?;
                    self.release(Publication::default(), None).await?;
                }
                () = until(due) => self.release(Publication::default(), None).await?,
            }
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
        self.store.prepare().await?;
        self.watch = Some(self.store.watch().await?);
        self.read_all().await
    }

    async fn read_changes(&mut self) -> Result<(), PublishError> {
        match self.store.changes(self.revision).await? {
            Changes::None => Ok(()),
            Changes::TooOld => self.read_all().await,
            Changes::Some { revision, changes, raw_scopes, raw, objects, is_again } => {
                let mut publication = Publication::default();
                if let Some(objects) = objects {
                    self.configure(&objects, &mut publication);
                }
                let batches = self.by_fleet(changes, raw_scopes, raw);
                let behind = std::mem::replace(&mut self.revision, revision);
                for (fleet, (pace, batch)) in batches {
                    let is_coalesced = self.pending.add(fleet, pace, batch, behind);
                    self.health.update(|status| status.coalesced += u64::from(is_coalesced));
                }
                self.release(publication, is_again.then_some(behind)).await
            }
        }
    }

    /// Where what changes in a scope is written: to what all are told at once, or to what goes through the
    /// canary of its fleet. What the fleet had before, all of it may have.
    fn to<'a>(&mut self, publication: &'a mut Publication, scope: &str) -> &'a mut Transaction {
        let (fleet, _) = self.directory.owner(scope);
        let has_before = publication.unserved.iter().any(|unserved| unserved.fleet == fleet);
        if self.lanes.has(&fleet) && !has_before {
            publication.lane(&mut self.lanes, &fleet, self.revision)
        } else {
            &mut publication.at_once
        }
    }

    /// Takes over the settings of fleets, and rebuilds what they change.
    fn configure(&mut self, objects: &[Object], publication: &mut Publication) {
        self.learn(objects);
        let clusters: BTreeSet<i64> =
            self.fleets.keys().chain(self.routes.keys()).copied().collect();
        for cluster in clusters {
            let surroundings = self.surroundings(cluster);
            match self.fleets.get_mut(&cluster) {
                Some(fleet) => {
                    let difference = fleet.surround(surroundings);
                    publication.cost.add(cluster, &difference);
                    if !difference.is_empty() {
                        let scope = scope::of_cluster(cluster);
                        change(self.to(publication, scope.as_str()), cluster, &difference);
                    }
                }
                None => self.change(publication, cluster, Vec::new()),
            }
        }
    }

    /// What changed, by the fleet that is told at a pace.
    fn by_fleet(
        &self,
        changes: Vec<Change>,
        raw_scopes: Vec<String>,
        raw: Vec<RawChange>,
    ) -> BTreeMap<String, (Pace, Batch)> {
        let mut batches = BTreeMap::new();
        for change in changes {
            let scope = scope::of_cluster(change.cluster_id);
            self.batch(&mut batches, scope.as_str()).add_service(change);
        }
        for scope in raw_scopes {
            self.batch(&mut batches, &scope).raw_scopes.push(scope);
        }
        for change in raw {
            self.batch(&mut batches, &change.scope).add_raw(change);
        }
        batches
    }

    fn batch<'a>(
        &self,
        batches: &'a mut BTreeMap<String, (Pace, Batch)>,
        scope: &str,
    ) -> &'a mut Batch {
        let (fleet, pace) = self.directory.owner(scope);
        let (_, batch) = batches.entry(fleet).or_insert_with(|| (pace, Batch::default()));
        batch
    }

    /// Publishes what is due, with what there is already. What was between is not told, after a revision, or in what
    /// waited, or is added to what a canary has; but that it was there is known.
    async fn release(
        &mut self,
        publication: Publication,
        unseen: Option<i64>,
    ) -> Result<(), PublishError> {
        let due = self.pending.release(|fleet| self.lanes.is_busy(fleet));
        let coalesced = due.iter().filter(|(_, waiting)| waiting.is_coalesced);
        let coalesced = coalesced.map(|(_, waiting)| waiting.behind);
        let added = due.iter().filter_map(|(fleet, _)| self.lanes.behind_of(fleet));
        let unseen = coalesced.chain(added).chain(unseen).min();
        let past = match unseen {
            Some(after) => self.look_back(after).await,
            None => past::Resources::default(),
        };
        self.tell(publication, due)?;
        self.note_past(past);
        Ok(())
    }

    /// Publishes that: what all are told at once in one transaction, so that no client ever sees half of it.
    fn tell(
        &mut self,
        mut publication: Publication,
        due: Vec<(String, Waiting)>,
    ) -> Result<(), PublishError> {
        let mut at_once = Batch::default();
        for (fleet, waiting) in due {
            if self.lanes.has(&fleet) {
                let _ = publication.lane(&mut self.lanes, &fleet, waiting.behind);
                self.translate(&mut publication, waiting.batch);
            } else {
                at_once.merge(waiting.batch);
            }
        }
        self.translate(&mut publication, at_once);
        self.publish(publication)
    }

    /// Adds a batch, all of which goes one way.
    fn translate(&mut self, publication: &mut Publication, batch: Batch) {
        let raw = batch.raw();
        let mut scopes = batch.raw_scopes.iter().chain(raw.iter().map(|change| &change.scope));
        if let Some(scope) = scopes.next() {
            let (fleet, _) = self.directory.owner(scope);
            let transaction = match publication.through.get_mut(&fleet) {
                Some((transaction, _)) => transaction,
                None => &mut publication.at_once,
            };
            publication.cost.resources += self.raw.change(transaction, &batch.raw_scopes, &raw);
        }
        for scope in raw.iter().map(|change| &*change.scope).collect::<BTreeSet<_>>() {
            self.bring_up_to_date(publication, scope, scope::of_raw(scope));
        }
        let mut rows: BTreeMap<i64, Vec<(i64, Option<&Row>)>> = BTreeMap::new();
        for ((cluster, id), row) in &batch.services {
            rows.entry(*cluster).or_default().push((*id, row.as_ref()));
        }
        for (cluster, rows) in rows {
            let services = self.invalid.read(cluster, rows, self.fleets.get(&cluster));
            self.change(publication, cluster, services);
        }
    }

    /// Translates changed services of a fleet.
    fn change(
        &mut self,
        publication: &mut Publication,
        cluster: i64,
        services: Vec<(i64, Option<Service>)>,
    ) {
        let scope = scope::of_cluster(cluster);
        if let Some(fleet) = self.fleets.get_mut(&cluster) {
            let difference = fleet.apply(services);
            publication.cost.add(cluster, &difference);
            change(self.to(publication, scope.as_str()), cluster, &difference);
        } else {
            let mut fleet = Fleet::new(self.listener_address);
            let mut difference = fleet.surround(self.surroundings(cluster));
            difference.follow(fleet.apply(services));
            publication.cost.add(cluster, &difference);
            fill(self.to(publication, scope.as_str()), cluster, &difference);
            self.fleets.insert(cluster, fleet);
        }
        self.bring_up_to_date(publication, scope.as_str(), scope.clone());
    }

    /// Says that of this scope, or its raw layer, all that was read is told, though nothing may have changed by it: what
    /// was there for a moment only, others may have told. Not while some fleet is behind: who sees that and this one
    /// waits for that.
    fn bring_up_to_date(&mut self, publication: &mut Publication, scope: &str, layer: Scope) {
        let is_behind = self.pending.behind().chain(self.lanes.behind()).next().is_some();
        let will_be = !publication.through.is_empty() || !publication.unserved.is_empty();
        if !is_behind && !will_be {
            self.to(publication, scope).up_to_date(layer);
        }
    }

    /// Tells all what they are told at once, and canaries what goes to them first.
    fn publish(&mut self, publication: Publication) -> Result<(), PublishError> {
        let Publication { at_once, through, unserved, cost } = publication;
        for (fleet, (transaction, behind)) in through {
            self.lanes.put(&fleet, transaction, behind, self.revision);
        }
        let mut awaited = Vec::new();
        for Unserved { fleet, revision, batch } in unserved {
            // Before anybody is told that all is read, it is told who is behind that.
            self.pending.add(fleet.clone(), Pace::default(), batch, revision);
            awaited.push((fleet, revision));
        }
        self.commit(at_once, &cost)?;
        for transaction in self.lanes.start()? {
            self.commit(transaction, &Cost::default())?;
        }
        if awaited.is_empty() {
            return Ok(());
        }
        for (fleet, revision) in awaited {
            self.lanes.await_clients(&fleet, revision, self.revision);
        }
        let due = self.pending.release(|fleet| self.lanes.is_busy(fleet));
        self.tell(Publication::default(), due)
    }

    fn commit(&mut self, mut transaction: Transaction, cost: &Cost) -> Result<(), PublishError> {
        transaction.source_revision(self.revision.unsigned_abs());
        let commit = self.cache.commit(transaction)?;
        self.record(cost, &commit);
        tracing::info!(
            revision = self.revision,
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
            status.last_known_good = None;
            status.is_loaded = true;
            status.read = self.revision;
            status.behind.clear();
            for (fleet, revision) in self.pending.behind().chain(self.lanes.behind()) {
                let behind = status.behind.entry(fleet.clone()).or_insert(revision);
                *behind = revision.min(*behind);
            }
            status.invalid_rows = self.invalid_rows();
            status.revision = status.behind.values().copied().min().unwrap_or(self.revision);
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

/// Waits until it is time, if it ever is.
async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
