//! Back to what was stored at a revision: a change like any other.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use sqlx::AssertSqlSafe;
use thiserror::Error;

use crate::certificates::Certificate;
use crate::database::columns::restored;
use crate::database::objects::{self, Kind, Named, Object};
use crate::database::store::{self, Store, StoreError, within};
use crate::database::write::{Origin, Write};
use crate::database::{BULK_PATIENCE, PATIENCE};
use crate::fleets::{Fleet, Validation};
use crate::history::record::{Change, Key, RESOURCE, Record, SERVICE, State};
use crate::history::{between, changed, exists, oldest};
use crate::moment::now_in;
use crate::raw;
use crate::raw::RawTransaction;
use crate::rest::problem::Fault;
use crate::routes::Route;
use crate::serve::running::Running;
use crate::service::{FieldError, Row, Service};
use crate::translate::validate::{self, Form};

/// How many services one statement deletes.
const ROWS: usize = 500;

/// Whose name is on what is rolled back by itself.
pub(crate) const ITSELF: &str = "deltaplane";

/// For how long what somebody was told he can return to is kept.
const KEPT: Duration = Duration::from_secs(600);

/// What is to be as it was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rollback {
    /// The revision at which it was so.
    pub to: i64,
    /// Only what is this fleet's, or this scope's. What is everybody's, such as
    /// certificates, stays as it is then.
    pub fleet: Option<String>,
    /// Only what changed up to this revision, and not since: what others wrote later
    /// stays. So do the settings of fleets, which no client can reject, and what was brought
    /// back by such a rollback itself.
    pub until: Option<i64>,
    /// Only what may be written by who may write these fleets, and no others; all else stays.
    pub only: Option<BTreeSet<String>>,
    /// Nothing is written: it is only told what would be.
    pub dry_run: bool,
}

/// What a rollback did.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RolledBack {
    /// The revision that it is; the last one there was, if nothing had to change.
    pub revision: i64,
    /// What it changed.
    pub changes: Vec<Change>,
    /// The revision at which somebody else had done it before, where it is done by itself.
    pub already: Option<i64>,
}

/// Why nothing was rolled back.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RollbackError {
    /// There is no such revision.
    #[error("there is no revision {asked}; the last one is {last}")]
    Unknown {
        /// Which one was asked for.
        asked: i64,
        /// The last one.
        last: i64,
    },
    /// Its history was dropped.
    #[error(
        "what was stored at revision {asked} is not kept any more; the oldest revision that can \
         be returned to is {oldest}"
    )]
    Dropped {
        /// Which one was asked for.
        asked: i64,
        /// The oldest that can be returned to.
        oldest: i64,
    },
    /// What would come back is not valid any more.
    #[error("what would come back is not valid any more")]
    Invalid(Vec<Fault>),
    /// Something that stays is in the way of what would come back.
    #[error("something is in the way of what would come back")]
    Conflict(Vec<Fault>),
    /// The database did not do it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for RollbackError {
    fn from(error: sqlx::Error) -> RollbackError {
        StoreError::from(error).into()
    }
}

impl Rollback {
    /// All that is stored goes back to this revision.
    #[must_use]
    pub fn to(revision: i64) -> Rollback {
        Rollback { to: revision, ..Rollback::default() }
    }

    /// The changes from how it is to how it was; and the revision at which some of it went back by itself, if
    /// that is what is to be done.
    async fn records(
        &self,
        app: &Running,
        write: &mut Write,
    ) -> Result<(Vec<Record>, Option<i64>), sqlx::Error> {
        let mut records = between(write, self.to, self.until.unwrap_or(i64::MAX)).await?;
        if let Some(fleet) = &self.fleet {
            let scopes = app.fleets.own_scopes(fleet);
            let is_own = |scope: &str| scopes.iter().any(|own| own == scope);
            records.retain(|record| record.scopes().any(is_own));
        }
        let mut already = None;
        if let Some(until) = self.until {
            records.retain(|record| record.key.kind != Fleet::KIND);
            let later = changed(write, until, i64::MAX).await?;
            already = records.iter().filter_map(|record| *later.get(&record.key)?).max();
            let before = changed(write, self.to, until).await?;
            let is_back = |key: &Key| before.get(key).is_some_and(Option::is_some);
            records.retain(|record| !later.contains_key(&record.key) && !is_back(&record.key));
        }
        Ok((records.into_iter().map(Record::reversed).collect(), already))
    }

    /// What would leave the fleet, or come to it from another.
    fn moved(&self, app: &Running, records: &[Record]) -> Vec<Fault> {
        let Some(fleet) = &self.fleet else { return Vec::new() };
        let scopes = app.fleets.own_scopes(fleet);
        let is_own = |scope: &str| scopes.iter().any(|own| own == scope);
        let moved = records.iter().filter_map(|record| {
            let other = record.scopes().find(|scope| !is_own(scope))?;
            let why = match self.only {
                None => format!(
                    "is in {other:?} now, or was then; roll back without a fleet, or move it first"
                ),
                Some(_) => {
                    "is in another fleet now, or was then; have it rolled back, or moved, by \
                            somebody who may write both"
                        .to_owned()
                }
            };
            let own = record.within(|scope| scope.is_some_and(is_own));
            Some(Fault::new(place(&own), why))
        });
        moved.collect()
    }

    fn may_write(&self, app: &Running, record: &Record) -> bool {
        self.only.as_ref().is_none_or(|only| record.is_writable(&app.fleets, only))
    }
}

/// Writes what there was at a revision, in the name of its origin. A label that is not
/// given says that it is a rollback.
///
/// # Errors
/// If that cannot be, or must not; then nothing was written.
pub async fn roll_back(
    app: &Running,
    rollback: &Rollback,
    origin: Origin,
) -> Result<RolledBack, RollbackError> {
    let label = origin.label.clone().unwrap_or_else(|| format!("rollback to {}", rollback.to));
    let store = app.store.by(origin.called(Some(label)));
    let done = tokio::time::timeout(BULK_PATIENCE, attempt(app, &store, rollback)).await;
    match done.unwrap_or(Err(StoreError::Silent(BULK_PATIENCE).into())) {
        Ok(Done { revision, records, already }) => {
            match rollback.dry_run {
                true => store.keep(rollback.to).await?,
                false => store.written.notify_one(),
            }
            // Many take a while, in which others want to be answered.
            let changes = move || records.iter().map(Record::change).collect();
            let changes = tokio::task::spawn_blocking(changes).await.unwrap_or_default();
            Ok(RolledBack { revision, changes, already })
        }
        Err(error) => {
            if let RollbackError::Dropped { oldest, .. } = &error {
                store.keep(*oldest).await?;
            }
            Err(error)
        }
    }
}

/// The revision that a rollback is, and the changes that it made.
struct Done {
    revision: i64,
    records: Vec<Record>,
    already: Option<i64>,
}

async fn attempt(app: &Running, store: &Store, rollback: &Rollback) -> Result<Done, RollbackError> {
    let mut write = store.begin_batch().await?;
    let last = store::revision(&mut write).await?;
    if !exists(&mut write, rollback.to).await? {
        return Err(match oldest(&mut write).await? {
            Some(oldest) if rollback.to < oldest => {
                RollbackError::Dropped { asked: rollback.to, oldest }
            }
            _ => RollbackError::Unknown { asked: rollback.to, last },
        });
    }
    let (mut records, already) = rollback.records(app, &mut write).await?;
    let moved = rollback.moved(app, &records);
    if !moved.is_empty() {
        return Err(RollbackError::Conflict(moved));
    }
    records.retain(|record| rollback.may_write(app, record));
    restore(app, &mut write, &records).await?;
    if rollback.dry_run || records.is_empty() {
        let already = already.filter(|_| records.is_empty());
        return Ok(Done { revision: last, records, already });
    }
    keep(&mut write, last).await?;
    write.goes_back_to(rollback.to);
    Ok(Done { revision: write.commit().await?, records, already: None })
}

/// First all goes that is to be otherwise, so that nothing is in the way of what comes.
async fn restore(
    app: &Running,
    write: &mut Write,
    records: &[Record],
) -> Result<(), RollbackError> {
    remove(write, records.iter().filter(|record| record.was.is_some())).await?;
    let services = services(records)?;
    restore_objects(write, records).await?;
    restore_services(write, &services).await?;
    restore_resources(app, write, records).await?;
    judge_objects(app, write, records).await
}

/// Resources go with those that come.
async fn remove(
    write: &mut Write,
    records: impl Iterator<Item = &Record>,
) -> Result<(), sqlx::Error> {
    let (mut ids, mut objects) = (Vec::new(), Vec::new());
    for Record { key, .. } in records {
        match key.id() {
            Some(id) => ids.push(id.to_string()),
            None if [SERVICE, RESOURCE].contains(&&*key.kind) => {}
            None => objects.push(key),
        }
    }
    for ids in ids.chunks(ROWS) {
        let sql = format!("DELETE FROM services WHERE id IN ({})", ids.join(", "));
        sqlx::query(AssertSqlSafe(sql)).execute(&mut ***write).await?;
    }
    for key in objects {
        let query = sqlx::query("DELETE FROM objects WHERE kind = $1 AND name = $2");
        let query = query.bind(key.kind.clone()).bind(key.name.clone());
        query.execute(&mut ***write).await?;
    }
    Ok(())
}

/// The services that come back.
fn services(records: &[Record]) -> Result<Vec<(Row, Service)>, RollbackError> {
    let (mut services, mut faults) = (Vec::new(), Vec::new());
    for record in records {
        let (Some(id), Some(state)) = (record.key.id(), &record.is) else { continue };
        let definition = match state.service() {
            Ok(definition) => definition,
            Err(problem) => {
                faults.push(Fault::new(place(record), problem.to_string()));
                continue;
            }
        };
        let row = Row { id, revision: 0, definition };
        match Service::parse(&row) {
            Ok(service) => services.push((row, service)),
            Err(errors) => faults.extend(errors.into_iter().map(|error| at(record, error))),
        }
    }
    if faults.is_empty() { Ok(services) } else { Err(RollbackError::Invalid(faults)) }
}

async fn restore_services(
    write: &mut Write,
    services: &[(Row, Service)],
) -> Result<(), RollbackError> {
    let (mut conflicts, mut missing) = (Vec::new(), Vec::new());
    for (row, service) in services {
        let at = |error: FieldError| Fault::from(error).within(&of_service(&service.name));
        if let Some(conflict) = store::conflict(write, service).await? {
            conflicts.push(at(conflict));
            continue;
        }
        missing.extend(store::missing(write, &row.definition).await?.map(at));
        restored(row.id, &row.definition).execute(&mut ***write).await?;
    }
    refuse(conflicts, missing)
}

async fn restore_objects(write: &mut Write, records: &[Record]) -> Result<(), sqlx::Error> {
    for (key, state) in objects_of(records) {
        let sql = "INSERT INTO objects (kind, name, definition) VALUES ($1, $2, $3)";
        let query = sqlx::query(sql).bind(key.kind.clone()).bind(key.name.clone());
        query.bind(state.definition().to_owned()).execute(&mut ***write).await?;
    }
    Ok(())
}

async fn restore_resources(
    app: &Running,
    write: &mut Write,
    records: &[Record],
) -> Result<(), RollbackError> {
    let mut transactions: BTreeMap<&str, RawTransaction> = BTreeMap::new();
    for record in records.iter().filter(|record| record.key.kind == RESOURCE) {
        let scope = &*record.key.place;
        let transaction = transactions.entry(scope).or_insert_with(|| RawTransaction {
            scope: scope.to_owned(),
            ..RawTransaction::default()
        });
        match &record.is {
            Some(state) => transaction.upserts.push(state.resource(&record.key)),
            None => transaction.removes.push(record.key.raw()),
        }
    }
    let mut faults = Vec::new();
    for (scope, transaction) in transactions {
        raw::store::write(write, &transaction, &transaction.upserts.iter().collect::<Vec<_>>())
            .await?;
        let place = format!("resources of {scope:?}");
        let wrong = judged(app, transaction).await;
        faults.extend(wrong.into_iter().map(|fault| Fault::new(place.clone(), fault.message)));
    }
    refuse(Vec::new(), faults)
}

/// What clients would reject of it, if that is refused in its scope. That something is not
/// there is no reason: it may come back together with this.
async fn judged(app: &Running, transaction: RawTransaction) -> Vec<Fault> {
    if app.fleets.validation(&transaction.scope) == Validation::None {
        return Vec::new();
    }
    let (cache, fleets) = (app.cache.clone(), app.fleets.clone());
    let judge = move || {
        let forms = vec![Form::Bytes; transaction.upserts.len()];
        validate::raw(&cache, &fleets, &transaction, &forms, Validation::Errors).errors
    };
    let judged = tokio::task::spawn_blocking(judge).await;
    judged.unwrap_or_else(|error| vec![Fault::new("", format!("cannot be judged: {error}"))])
}

/// What is wrong with objects that came back, beside what is there now, and who misses
/// those that went.
async fn judge_objects(
    app: &Running,
    write: &mut Write,
    records: &[Record],
) -> Result<(), RollbackError> {
    let (mut conflicts, mut faults) = (Vec::new(), Vec::new());
    if objects_of(records).next().is_some() {
        let all = objects::all(write).await?;
        judge_kind::<Fleet>(app, write, &all, records, &mut conflicts, &mut faults).await?;
        judge_kind::<Route>(app, write, &all, records, &mut conflicts, &mut faults).await?;
        judge_kind::<Certificate>(app, write, &all, records, &mut conflicts, &mut faults).await?;
    }
    let gone = |record: &&Record| record.key.kind == Certificate::KIND && record.is.is_none();
    for record in records.iter().filter(gone) {
        if let Some(user) = objects::user::<Certificate>(write, &record.key.name).await? {
            let why = format!("the service {user:?} needs it; change that first");
            conflicts.push(Fault::new(place(record), why));
        }
    }
    refuse(conflicts, faults)
}

async fn judge_kind<K: Kind>(
    app: &Running,
    write: &mut Write,
    all: &[Object],
    records: &[Record],
    conflicts: &mut Vec<Fault>,
    faults: &mut Vec<Fault>,
) -> Result<(), sqlx::Error> {
    let back = |object: &&Object| {
        object.kind == K::KIND
            && objects_of(records).any(|(key, _)| key.kind == K::KIND && key.name == object.name)
    };
    for object in all.iter().filter(back) {
        let path = format!("{} {:?}", K::KIND, object.name);
        let read = object.read::<K>();
        let opened = match read {
            Ok(Named { name, definition }) => definition.opened(&name, &app.vault),
            Err(problem) => {
                faults.push(Fault::new(path, problem.to_string()));
                continue;
            }
        };
        let definition = match opened {
            Ok(definition) => definition,
            Err(error) => {
                faults.push(Fault::from(error).within(&path));
                continue;
            }
        };
        let errors = definition.check(&object.name);
        let missing = objects::missing(write, &definition).await?;
        faults.extend(errors.into_iter().chain(missing).map(|it| Fault::from(it).within(&path)));
        let mut others = objects::valid::<K>(all);
        others.remove(&object.name);
        conflicts.extend(definition.conflict(&others).map(|it| Fault::from(it).within(&path)));
    }
    Ok(())
}

fn objects_of(records: &[Record]) -> impl Iterator<Item = (&Key, &State)> {
    let is_object = |record: &&Record| ![SERVICE, RESOURCE].contains(&&*record.key.kind);
    let objects = records.iter().filter(is_object);
    objects.filter_map(|record| Some((&record.key, record.is.as_ref()?)))
}

fn refuse(conflicts: Vec<Fault>, faults: Vec<Fault>) -> Result<(), RollbackError> {
    match () {
        () if !conflicts.is_empty() => Err(RollbackError::Conflict(conflicts)),
        () if !faults.is_empty() => Err(RollbackError::Invalid(faults)),
        () => Ok(()),
    }
}

/// What a fault is about.
fn place(record: &Record) -> String {
    let change = record.change();
    match (&*change.kind, &change.type_url) {
        (SERVICE, _) => of_service(&change.name),
        (RESOURCE, Some(type_url)) => format!("{type_url} {:?}", change.name),
        (kind, _) => format!("{kind} {:?}", change.name),
    }
}

fn of_service(name: &str) -> String {
    format!("{SERVICE} {name:?}")
}

fn at(record: &Record, error: FieldError) -> Fault {
    Fault::from(error).within(&place(record))
}

impl Store {
    /// Keeps a revision for a while, since somebody may return to it.
    async fn keep(&self, revision: i64) -> Result<(), StoreError> {
        within(PATIENCE, async {
            let mut tx = self.pool.begin().await?;
            keep(&mut tx, revision).await?;
            tx.commit().await
        })
        .await
    }
}

async fn keep(
    tx: &mut sqlx::Transaction<'static, sqlx::Any>,
    revision: i64,
) -> Result<(), sqlx::Error> {
    // Nobody makes it shorter: they all go by one clock.
    let now = now_in(tx);
    let sql = format!("UPDATE revisions SET kept_until = {now} + $1 WHERE revision = $2");
    sqlx::query(AssertSqlSafe(sql)).bind(ms(KEPT)).bind(revision).execute(&mut **tx).await?;
    Ok(())
}

pub(crate) fn ms(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}
