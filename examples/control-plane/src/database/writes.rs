//! Whether the database takes what is written: it may be full, or be there to be read only, and then it can be
//! followed nevertheless.

use std::time::Duration;

use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::rand::{SecureRandom as _, SystemRandom};

use crate::access::audit::{self, Entry};
use crate::database::PATIENCE;
use crate::database::store::{Store, StoreError, within};
use crate::rest::problem::OfDatabase;
use crate::serve::running::Running;
use crate::status::health::Health;

/// How often it is tried again when something was not written.
const RETRY: Duration = Duration::from_secs(5);

/// How many bytes that takes: more than is free in what a full database has already.
const ROOM: usize = 64 << 10;

/// Remembers what a write was not done for.
pub(crate) fn note(health: &Health, answer: &Response) {
    if let Some(OfDatabase(why)) = answer.extensions().get() {
        health.update(|status| status.unwritten = Some(why.clone()));
    }
}

/// Finds out, for ever, when what could not be written can be again.
pub(crate) async fn follow(running: Running) {
    let mut health = running.health.watch();
    // An error says that nobody is left who could note anything.
    while health.wait_for(|status| status.unwritten.is_some()).await.is_ok() {
        tokio::time::sleep(RETRY).await;
        match running.store.try_to_write().await {
            Ok(()) => {
                tracing::info!("the database can be written to again");
                running.health.update(|status| status.unwritten = None);
            }
            Err(error) => tracing::debug!(%error, "the database cannot be written to yet"),
        }
    }
}

impl Store {
    /// Writes something that takes room, of which nothing stays.
    async fn try_to_write(&self) -> Result<(), StoreError> {
        let mut bytes = vec![0; ROOM];
        // Without randomness it is compressed, and takes less.
        let _ = SystemRandom::new().fill(&mut bytes);
        let entry = Entry::of_command("probe", &STANDARD.encode(bytes));
        within(PATIENCE, async {
            let mut write = self.begin_write().await?;
            let id = audit::record(&mut write, &entry).await?;
            sqlx::query("DELETE FROM audit WHERE id = $1").bind(id).execute(&mut **write).await?;
            write.commit().await.map(drop)
        })
        .await
    }
}
