//! What has a name and is said in JSON, such as fleets: its rows, and how they are
//! read and written.

use std::collections::BTreeMap;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sqlx::any::AnyRow;
use sqlx::{Any, Row as _, Transaction};

use crate::certificates::vault::Vault;
use crate::database::PATIENCE;
use crate::database::store::{Store, StoreError, WriteError, within};
use crate::rest::document::Document;
use crate::rest::precondition::Precondition;
use crate::rest::problem::Problem;
use crate::service::FieldError;

/// The longest name of an object, in bytes.
pub const NAME_MAX: usize = 256;

/// A kind of objects. What is left out of one has a default.
pub(crate) trait Kind:
    Serialize + DeserializeOwned + Document + Send + Sync + 'static
{
    /// What the column `kind` says.
    const KIND: &'static str;

    /// All that is wrong with one of this name, told at once.
    fn check(&self, name: &str) -> Vec<FieldError>;

    /// Why it cannot be beside the others, if it cannot.
    fn conflict(&self, others: &BTreeMap<String, Self>) -> Option<FieldError>;

    /// The services that it is about, and their fleet: these have to be there.
    fn services(&self) -> Option<(i64, Vec<&str>)> {
        None
    }

    /// What finds the name of a service that needs the object of the name `$1`.
    const USED_BY: Option<&'static str> = None;

    /// With what is secret as it was before it was stored.
    fn opened(self, _name: &str, _vault: &Vault) -> Result<Self, FieldError> {
        Ok(self)
    }

    /// With what is secret as it is stored.
    fn sealed(self, _name: &str, _vault: &Vault) -> Result<Self, FieldError> {
        Ok(self)
    }

    /// What the HTTP API shows of it.
    fn shown(&self) -> Value {
        serde_json::json!(self)
    }
}

/// A row of the table `objects`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Object {
    /// The kind.
    pub kind: String,
    /// Unique within the kind.
    pub name: String,
    /// That of the row's last change.
    pub revision: i64,
    /// The rest, in JSON.
    pub definition: String,
}

/// An object as its kind has it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Named<K> {
    pub(crate) name: String,
    pub(crate) definition: K,
}

impl Object {
    /// Reads a row.
    pub(crate) fn read<K: Kind>(&self) -> Result<Named<K>, Problem> {
        let value: Value = serde_json::from_str(&self.definition).unwrap_or_default();
        let definition: K = crate::rest::document::read(value)?;
        Ok(Named { name: self.name.clone(), definition })
    }
}

/// Those of a kind that are valid, by name.
pub(crate) fn valid<K: Kind>(objects: &[Object]) -> BTreeMap<String, K> {
    valid_or_before(objects, BTreeMap::new()).0
}

/// Those of a kind that are valid, by name, and how many are not. Of the latter, which somebody wrote past the
/// HTTP API, each is as it was before, if that can be beside the others, with a line in the log.
pub(crate) fn valid_or_before<K: Kind>(
    objects: &[Object],
    mut before: BTreeMap<String, K>,
) -> (BTreeMap<String, K>, usize) {
    let mut valid: BTreeMap<String, K> = BTreeMap::new();
    let mut invalid = Vec::new();
    for object in objects.iter().filter(|object| object.kind == K::KIND) {
        match checked(object, &valid) {
            Ok(definition) => {
                valid.insert(object.name.clone(), definition);
            }
            Err(problem) => {
                tracing::warn!(
                    kind = K::KIND,
                    name = object.name,
                    problem,
                    "a stored object is not valid: it stays as it was before, if it was anything"
                );
                invalid.push(&object.name);
            }
        }
    }
    let count = invalid.len();
    for name in invalid {
        if let Some(old) = before.remove(name)
            && old.conflict(&valid).is_none()
        {
            valid.insert(name.clone(), old);
        }
    }
    (valid, count)
}

/// The object, or what is wrong with it beside others.
fn checked<K: Kind>(object: &Object, others: &BTreeMap<String, K>) -> Result<K, String> {
    let definition = object.read::<K>().map_err(|problem| problem.to_string())?.definition;
    let mut errors = definition.check(&object.name);
    errors.extend(definition.conflict(others));
    errors.first().map_or(Ok(definition), |error| Err(error.to_string()))
}

impl Store {
    /// All objects of a kind, by name.
    pub async fn objects(&self, kind: &'static str) -> Result<Vec<Object>, StoreError> {
        let sql = "SELECT kind, name, revision, definition FROM objects WHERE kind = $1 \
                   ORDER BY name";
        within(PATIENCE, async {
            objects(&sqlx::query(sql).bind(kind).fetch_all(&self.pool).await?)
        })
        .await
    }

    /// The object of this name.
    pub async fn object(
        &self,
        kind: &'static str,
        name: &str,
    ) -> Result<Option<Object>, StoreError> {
        within(PATIENCE, async {
            let mut tx = self.begin_read().await?;
            one(&mut tx, kind, name).await
        })
        .await
    }

    /// Stores an object, if the precondition holds for what is there, and says
    /// whether it is new. Of what is new, nothing but that it may be is asked.
    pub(crate) async fn put<K: Kind>(
        &self,
        name: &str,
        precondition: &Precondition,
        definition: &K,
    ) -> Result<(i64, bool), WriteError> {
        let errors = definition.check(name);
        if !errors.is_empty() {
            return Err(WriteError::Invalid(errors));
        }
        let json = serde_json::json!(definition).to_string();
        let write = async {
            let mut tx = self.begin_write().await?;
            let before = one(&mut tx, K::KIND, name).await?;
            match &before {
                Some(before) if !precondition.admits(before.revision) => {
                    return Ok(Err(WriteError::Lost(before.revision)));
                }
                None if *precondition != Precondition::None => {
                    return Ok(Err(WriteError::Absent));
                }
                _ => {}
            }
            let sql = "SELECT kind, name, revision, definition FROM objects \
                       WHERE kind = $1 AND name <> $2 ORDER BY name";
            let others = sqlx::query(sql).bind(K::KIND).bind(name.to_owned());
            let others = valid::<K>(&objects(&others.fetch_all(&mut **tx).await?)?);
            if let Some(conflict) = definition.conflict(&others) {
                return Ok(Err(WriteError::Conflict(conflict)));
            }
            if let Some(missing) = missing(&mut tx, definition).await? {
                return Ok(Err(WriteError::Invalid(vec![missing])));
            }
            let sql = match before {
                Some(_) => "UPDATE objects SET definition = $3 WHERE kind = $1 AND name = $2",
                None => "INSERT INTO objects (kind, name, definition) VALUES ($1, $2, $3)",
            };
            let query = sqlx::query(sql).bind(K::KIND).bind(name.to_owned()).bind(json);
            query.execute(&mut **tx).await?;
            let after = one(&mut tx, K::KIND, name).await?;
            tx.commit().await?;
            let revision = after.map(|after| after.revision).unwrap_or_default();
            Ok(Ok((revision, before.is_none())))
        };
        let written = within(PATIENCE, write).await??;
        self.written.notify_one();
        Ok(written)
    }

    /// Deletes an object, if the precondition holds.
    pub(crate) async fn remove<K: Kind>(
        &self,
        name: &str,
        precondition: &Precondition,
    ) -> Result<(), WriteError> {
        let delete = async {
            let mut tx = self.begin_write().await?;
            match one(&mut tx, K::KIND, name).await? {
                None => return Ok(Err(WriteError::Absent)),
                Some(object) if !precondition.admits(object.revision) => {
                    return Ok(Err(WriteError::Lost(object.revision)));
                }
                Some(_) => {}
            }
            if let Some(user) = user::<K>(&mut tx, name).await? {
                let why = format!("the service {user:?} needs it; change that first");
                return Ok(Err(WriteError::Conflict(FieldError::new("name", why))));
            }
            let query = sqlx::query("DELETE FROM objects WHERE kind = $1 AND name = $2");
            query.bind(K::KIND).bind(name.to_owned()).execute(&mut **tx).await?;
            tx.commit().await.map(Ok)
        };
        let _ = within(PATIENCE, delete).await??;
        self.written.notify_one();
        Ok(())
    }
}

type Tx = Transaction<'static, Any>;

/// All objects.
pub(crate) async fn all(tx: &mut Tx) -> Result<Vec<Object>, sqlx::Error> {
    let sql = "SELECT kind, name, revision, definition FROM objects ORDER BY kind, name";
    objects(&sqlx::query(sql).fetch_all(&mut **tx).await?)
}

/// All objects, if one of them changed after a revision.
pub(crate) async fn since(tx: &mut Tx, since: i64) -> Result<Option<Vec<Object>>, sqlx::Error> {
    let sql = "SELECT count(*) FROM object_changes WHERE revision > $1";
    let changed: i64 = sqlx::query_scalar(sql).bind(since).fetch_one(&mut **tx).await?;
    if changed == 0 { Ok(None) } else { all(tx).await.map(Some) }
}

/// The name of a service that needs an object.
pub(crate) async fn user<K: Kind>(tx: &mut Tx, name: &str) -> Result<Option<String>, sqlx::Error> {
    let Some(sql) = K::USED_BY else { return Ok(None) };
    sqlx::query_scalar(sql).bind(name.to_owned()).fetch_optional(&mut **tx).await
}

/// Which of the services that an object is about is not there.
pub(crate) async fn missing<K: Kind>(
    tx: &mut Tx,
    definition: &K,
) -> Result<Option<FieldError>, sqlx::Error> {
    let Some((cluster_id, names)) = definition.services() else { return Ok(None) };
    for (i, name) in names.into_iter().enumerate() {
        let sql = "SELECT count(*) FROM services WHERE cluster_id = $1 AND name = $2";
        let count = sqlx::query_scalar(sql).bind(cluster_id).bind(name.to_owned());
        let count: i64 = count.fetch_one(&mut **tx).await?;
        if count == 0 {
            let why = format!("{name:?} is no service of cluster_id {cluster_id}; store it first");
            return Ok(Some(FieldError::new(format!("targets[{i}].service"), why)));
        }
    }
    Ok(None)
}

/// Whether there is an object.
pub(crate) async fn exists(
    tx: &mut Tx,
    kind: &'static str,
    name: &str,
) -> Result<bool, sqlx::Error> {
    one(tx, kind, name).await.map(|found| found.is_some())
}

async fn one(tx: &mut Tx, kind: &'static str, name: &str) -> Result<Option<Object>, sqlx::Error> {
    let sql = "SELECT kind, name, revision, definition FROM objects WHERE kind = $1 AND name = $2";
    let query = sqlx::query(sql).bind(kind).bind(name.to_owned());
    query.fetch_optional(&mut **tx).await?.as_ref().map(object).transpose()
}

fn objects(rows: &[AnyRow]) -> Result<Vec<Object>, sqlx::Error> {
    rows.iter().map(object).collect()
}

fn object(row: &AnyRow) -> Result<Object, sqlx::Error> {
    Ok(Object {
        kind: row.try_get("kind")?,
        name: row.try_get("name")?,
        revision: row.try_get("revision")?,
        definition: row.try_get("definition")?,
    })
}
