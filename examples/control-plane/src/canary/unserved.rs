//! What fleets with a canary were not served yet when a server ended. The next one serves them what they
//! had, and has the rest go to the canary again.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::Row as _;

use crate::database::changes::{Change, Snapshot};
use crate::database::store::{Store, StoreError, within};
use crate::database::{BULK_PATIENCE, PATIENCE};
use crate::fleets::Directory;
use crate::fleets::scope;
use crate::history::record::{RESOURCE, Record, SERVICE};
use crate::history::{between, exists};
use crate::publisher::pending::Batch;
use crate::raw::{RawChange, RawKey};
use crate::service::Row;

/// What a fleet was not served.
#[derive(Debug)]
pub(crate) struct Unserved {
    pub(crate) fleet: String,
    /// The revision that it was served.
    pub(crate) revision: i64,
    pub(crate) batch: Batch,
}

impl Store {
    /// Notes that a fleet has this revision at this server, and is to get a later one.
    pub(crate) async fn note_unserved(&self, fleet: &str, has: i64) -> Result<(), StoreError> {
        let sql = "INSERT INTO rollouts (fleet, has, server) VALUES ($1, $2, $3) \
                   ON CONFLICT (fleet, server) DO NOTHING";
        let query = sqlx::query(sql).bind(fleet.to_owned()).bind(has);
        let query = query.bind(self.server.to_string());
        within(PATIENCE, async { query.execute(&self.pool).await }).await.map(drop)
    }

    /// Notes that a fleet has all that is stored at this server, or will have it in any case. What servers noted
    /// that are there no more, is no more as well.
    pub(crate) async fn note_served(&self, fleet: &str) -> Result<(), StoreError> {
        let query = match self.has_others() {
            true => sqlx::query(
                "DELETE FROM rollouts WHERE fleet = $1 AND (server = $2 OR server NOT IN (SELECT server \
                 FROM replicas WHERE seen > clock_timestamp() - INTERVAL '10 seconds'))",
            )
            .bind(fleet.to_owned())
            .bind(self.server.to_string()),
            false => sqlx::query("DELETE FROM rollouts WHERE fleet = $1").bind(fleet.to_owned()),
        };
        within(PATIENCE, async { query.execute(&self.pool).await }).await.map(drop)
    }

    /// Each fleet that is noted, with the revision that it has wherever it is.
    pub(crate) async fn noted_unserved(&self) -> Result<BTreeMap<String, i64>, StoreError> {
        let sql = "SELECT fleet, min(has) AS has FROM rollouts GROUP BY fleet";
        within(PATIENCE, async {
            let noted = sqlx::query(sql).fetch_all(&self.pool).await?;
            noted.iter().map(|row| Ok((row.try_get("fleet")?, row.try_get("has")?))).collect()
        })
        .await
    }

    /// What changed after each of these revisions, but for those that the history has no more.
    async fn since(
        &self,
        revisions: BTreeSet<i64>,
        until: i64,
    ) -> Result<BTreeMap<i64, Vec<Record>>, StoreError> {
        within(BULK_PATIENCE, async {
            let mut tx = self.begin_read().await?;
            let mut since = BTreeMap::new();
            for revision in revisions {
                if exists(&mut tx, revision).await? {
                    since.insert(revision, between(&mut tx, revision, until).await?);
                }
            }
            Ok(since)
        })
        .await
    }
}

/// Puts into a snapshot what fleets with a canary were served in place of what is stored, which is returned.
/// Of each, `has` says the revision that it was served.
pub(crate) async fn set_aside(
    store: &Store,
    fleets: &Directory,
    mut has: BTreeMap<String, i64>,
    snapshot: &mut Snapshot,
) -> Result<Vec<Unserved>, StoreError> {
    has.retain(|fleet, _| fleets.plan(fleet).is_some());
    if has.is_empty() {
        return Ok(Vec::new());
    }
    let since = store.since(has.values().copied().collect(), snapshot.revision).await?;
    let mut unserved = Vec::new();
    for (fleet, revision) in has {
        let Some(records) = since.get(&revision) else {
            tracing::warn!(
                fleet,
                revision,
                "what the fleet was served is not in the history any more; it is served all"
            );
            continue;
        };
        let scopes = fleets.own_scopes(&fleet);
        let is_own = |scope: &str| scopes.iter().any(|own| own == scope);
        let records: Vec<&Record> =
            records.iter().filter(|record| record.scopes().all(is_own)).collect();
        let mut batch = Batch::default();
        services(snapshot, &mut batch, &records);
        resources(snapshot, &mut batch, &records);
        unserved.push(Unserved { fleet, revision, batch });
    }
    Ok(unserved)
}

fn services(snapshot: &mut Snapshot, batch: &mut Batch, records: &[&Record]) {
    let mut rows: BTreeMap<i64, Row> = snapshot.rows.drain(..).map(|row| (row.id, row)).collect();
    for record in records.iter().filter(|record| record.key.kind == SERVICE) {
        let place = record.scopes().next().and_then(scope::cluster_of);
        let (Some(id), Some(cluster_id)) = (record.key.id(), place) else { continue };
        let row = rows.remove(&id);
        let revision = row.as_ref().map(|row| row.revision).unwrap_or_default();
        batch.add_service(Change { cluster_id, id, row });
        if let Some(Ok(definition)) = record.was.as_ref().map(|was| was.service()) {
            rows.insert(id, Row { id, revision, definition });
        }
    }
    snapshot.rows = rows.into_values().collect();
}

fn resources(snapshot: &mut Snapshot, batch: &mut Batch, records: &[&Record]) {
    let records = records.iter().filter(|record| record.key.kind == RESOURCE);
    let mut records: BTreeMap<(String, RawKey), &Record> =
        records.map(|it| ((it.key.place.clone(), it.key.raw()), *it)).collect();
    let (mut before, revision) = (Vec::new(), snapshot.revision);
    let mut add = |(scope, key): (String, RawKey), record: &Record, now: Option<RawChange>| {
        let gone = || RawChange {
            scope: scope.clone(),
            key: key.clone(),
            revision,
            label: None,
            resource: None,
        };
        let now = now.unwrap_or_else(gone);
        if let Some(was) = &record.was {
            let resource = Some(was.resource(&record.key));
            before.push(RawChange { resource, label: None, ..now.clone() });
        }
        batch.add_raw(now);
    };
    let mut same = Vec::new();
    for change in snapshot.raw.drain(..) {
        let key = (change.scope.clone(), change.key.clone());
        match records.remove(&key) {
            Some(record) => add(key, record, Some(change)),
            None => same.push(change),
        }
    }
    for (key, record) in records {
        add(key, record, None);
    }
    snapshot.raw = before;
    snapshot.raw.append(&mut same);
}
