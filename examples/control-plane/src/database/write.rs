//! A transaction that changes what is stored, in somebody's name.

use std::ops::{Deref, DerefMut};

use sqlx::{Any, Transaction};
use tokio::sync::OwnedSemaphorePermit;

use crate::database::store::Store;

/// Whose change it is, and what people call it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Origin {
    /// Who made it.
    pub author: String,
    /// What it is called, if it has a name.
    pub label: Option<String>,
}

impl Origin {
    /// A change of this author, without a name.
    pub fn of(author: impl Into<String>) -> Origin {
        Origin { author: author.into(), label: None }
    }

    /// The same with a name, or without one.
    #[must_use]
    pub fn called(self, label: Option<String>) -> Origin {
        Origin { label, ..self }
    }
}

/// Nobody said who he is.
impl Default for Origin {
    fn default() -> Origin {
        Origin::of("anonymous")
    }
}

/// A transaction whose revisions are somebody's. Until it is committed, no other writer
/// begins.
pub(crate) struct Write {
    tx: Transaction<'static, Any>,
    /// The counter as it was.
    since: i64,
    origin: Origin,
    back_to: Option<i64>,
    _turn: OwnedSemaphorePermit,
}

impl Store {
    /// Takes the counter before anything is read, so that no two writers find the
    /// same place free.
    pub(crate) async fn begin_write(&self) -> Result<Write, sqlx::Error> {
        self.begin("UPDATE revision SET batch = 0 RETURNING value").await
    }

    /// The same, and makes all that follows one revision.
    pub(crate) async fn begin_batch(&self) -> Result<Write, sqlx::Error> {
        self.begin("UPDATE revision SET batch = 1 RETURNING value").await
    }

    /// Waits until one may write. Who waits for the database itself, as while another process has locked it, keeps others
    /// only from writing.
    pub(crate) async fn turn(&self) -> Result<OwnedSemaphorePermit, sqlx::Error> {
        let turn = self.writers.clone().acquire_owned().await;
        turn.map_err(|_| sqlx::Error::PoolClosed)
    }

    async fn begin(&self, sql: &'static str) -> Result<Write, sqlx::Error> {
        let turn = self.turn().await?;
        let mut tx = self.pool.begin().await?;
        let since = sqlx::query_scalar(sql).fetch_one(&mut *tx).await?;
        Ok(Write { tx, since, origin: self.origin().clone(), back_to: None, _turn: turn })
    }
}

impl Write {
    /// What it is called, in place of what its author calls it.
    pub(crate) fn call(&mut self, label: &str) {
        self.origin.label = Some(label.to_owned());
    }

    /// It brings back what there was at a revision.
    pub(crate) fn goes_back_to(&mut self, revision: i64) {
        self.back_to = Some(revision);
    }

    /// Makes it so, and returns the revision at which it is.
    pub(crate) async fn commit(mut self) -> Result<i64, sqlx::Error> {
        let sql = "UPDATE revision SET batch = 0 RETURNING value";
        let revision: i64 = sqlx::query_scalar(sql).fetch_one(&mut *self.tx).await?;
        if revision > self.since {
            let sql = "UPDATE revisions SET author = $1, label = $2, back_to = $3 \
                       WHERE revision > $4";
            let query = sqlx::query(sql).bind(self.origin.author).bind(self.origin.label.clone());
            query.bind(self.back_to).bind(self.since).execute(&mut *self.tx).await?;
        }
        if let Some(label) = self.origin.label {
            let sql = "UPDATE raw_changes SET label = $1 WHERE revision > $2";
            sqlx::query(sql).bind(label).bind(self.since).execute(&mut *self.tx).await?;
        }
        self.tx.commit().await?;
        Ok(revision)
    }
}

impl Deref for Write {
    type Target = Transaction<'static, Any>;

    fn deref(&self) -> &Transaction<'static, Any> {
        &self.tx
    }
}

impl DerefMut for Write {
    fn deref_mut(&mut self) -> &mut Transaction<'static, Any> {
        &mut self.tx
    }
}
