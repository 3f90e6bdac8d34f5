//! Rows of the table `raw_resources`, between SQL and Rust.

use sqlx::any::{AnyArguments, AnyRow};
use sqlx::query::Query;
use sqlx::{Any, Row as _};

use crate::raw::{RawChange, RawKey, RawResource};

/// Each key that is there or went of late, with what is there now. The beginning
/// of the name is what PostgreSQL's index knows.
pub(crate) const SELECT: &str = "SELECT c.scope, c.type_url, c.name, c.revision, c.label, r.version, r.value \
     FROM raw_changes c LEFT JOIN raw_resources r \
     ON r.scope = c.scope AND r.type_url = c.type_url \
     AND substr(r.name, 1, 256) = substr(c.name, 1, 256) AND r.name = c.name";

/// `($2, $3), ($4, $5)`: the places of `rows` rows of `columns`, from the `first` on.
pub(crate) fn places(first: usize, rows: usize, columns: usize) -> String {
    let row = |row: usize| {
        let first = first + row * columns;
        let places = (first..first + columns).map(|place| format!("${place}"));
        format!("({})", places.collect::<Vec<_>>().join(", "))
    };
    (0..rows).map(row).collect::<Vec<_>>().join(", ")
}

pub(crate) fn bind_key<'q>(
    query: Query<'q, Any, AnyArguments>,
    key: &RawKey,
) -> Query<'q, Any, AnyArguments> {
    query.bind(key.type_url.clone()).bind(key.name.clone())
}

pub(crate) fn changes(rows: &[AnyRow]) -> Result<Vec<RawChange>, sqlx::Error> {
    rows.iter().map(change).collect()
}

fn change(row: &AnyRow) -> Result<RawChange, sqlx::Error> {
    let key = key(row)?;
    let version = row.try_get("version")?;
    let value: Option<Vec<u8>> = row.try_get("value")?;
    let resource =
        value.map(|value| RawResource { key: key.clone(), version, value: value.into() });
    Ok(RawChange {
        scope: row.try_get("scope")?,
        key,
        revision: row.try_get("revision")?,
        label: row.try_get("label")?,
        resource,
    })
}

pub(crate) fn key(row: &AnyRow) -> Result<RawKey, sqlx::Error> {
    Ok(RawKey { type_url: row.try_get("type_url")?, name: row.try_get("name")? })
}
