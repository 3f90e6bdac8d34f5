//! What the database holds at one revision, and what changed since another.

use crate::database::objects::Object;
use crate::raw::RawChange;
use crate::service::Row;

/// Everything that is served, at one revision.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The counter.
    pub revision: i64,
    /// Every fleet that ever had a service.
    pub clusters: Vec<i64>,
    /// Every row, by id.
    pub rows: Vec<Row>,
    /// Every scope that ever had a transaction of raw resources.
    pub raw_scopes: Vec<String>,
    /// Every raw resource, the last changed one last.
    pub raw: Vec<RawChange>,
    /// Every object, by kind and name.
    pub objects: Vec<Object>,
}

/// One key that changed, and what is there now.
#[derive(Clone, Debug)]
pub struct Change {
    /// The fleet.
    pub cluster_id: i64,
    /// The service.
    pub id: i64,
    /// Its row, unless it has left this fleet.
    pub row: Option<Row>,
}

/// What happened after some revision.
#[derive(Clone, Debug)]
#[allow(clippy::exhaustive_enums)] // each answer asks for another action
pub enum Changes {
    /// Nothing.
    None,
    /// These keys changed; the counter stands at `revision`.
    Some {
        /// The counter.
        revision: i64,
        /// Each changed service once.
        changes: Vec<Change>,
        /// The scopes of raw resources that became known.
        raw_scopes: Vec<String>,
        /// Each changed raw resource once, the last changed one last.
        raw: Vec<RawChange>,
        /// Every object, if one of them changed.
        objects: Option<Vec<Object>>,
        /// Something changed more than once, or may be there anew: what was between is not told here.
        is_again: bool,
    },
    /// More than the log holds: read everything.
    TooOld,
}
