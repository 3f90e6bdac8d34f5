//! Everything at once: at the start, and when what changed cannot be told any more.

use std::collections::BTreeMap;

use deltaplane_server::Transaction;

use super::{PublishError, Publisher};
use crate::canary::unserved::{Unserved, set_aside};
use crate::database::changes::Snapshot;
use crate::fleets::scope;
use crate::publisher::publication::Publication;
use crate::raw::layers::RawLayer;
use crate::service::Row;

impl Publisher {
    /// Reads all that the database holds, and publishes it. What was between, this server has not seen.
    pub(super) async fn read_all(&mut self) -> Result<(), PublishError> {
        let publication = self.prepare_all().await?;
        let past = self.look_back(0).await;
        self.publish(publication)?;
        self.has_read = true;
        self.note_past(past);
        Ok(())
    }

    /// All that the database holds. When it is read first, fleets with a canary are served what they had.
    pub(super) async fn prepare_all(&mut self) -> Result<Publication, PublishError> {
        let mut snapshot = self.store.snapshot().await?;
        if self.has_read {
            return self.prepare(&snapshot, Vec::new());
        }
        self.learn(&snapshot.objects);
        let noted = self.store.noted_unserved().await?;
        let unserved = set_aside(&self.store, &self.directory, noted, &mut snapshot).await?;
        for Unserved { fleet, revision, .. } in &unserved {
            tracing::info!(fleet, revision, "what the fleet was not served yet goes to its canary");
        }
        self.prepare(&snapshot, unserved)
    }

    /// All of that, to be published, with what fleets were not served of it.
    pub(super) fn prepare(
        &mut self,
        snapshot: &Snapshot,
        unserved: Vec<Unserved>,
    ) -> Result<Publication, PublishError> {
        self.learn(&snapshot.objects);
        let mut publication = Publication { unserved, ..Publication::default() };
        let mut rows: BTreeMap<i64, Vec<(i64, Option<&Row>)>> = BTreeMap::new();
        // A fleet that is known stays known, even if the database forgot it.
        let known = self.fleets.keys().chain(&snapshot.clusters).chain(self.routes.keys());
        rows.extend(known.map(|cluster| (*cluster, Vec::new())));
        for row in &snapshot.rows {
            rows.entry(row.definition.cluster_id).or_default().push((row.id, Some(row)));
        }
        let before = std::mem::take(&mut self.fleets);
        self.invalid.forget_services();
        self.pending.clear();
        self.lanes.clear();
        let layers = self.raw.all(snapshot);
        if self.revision == 0 {
            self.publish_labels(snapshot.revision, &layers)?;
        }
        for layer in &layers {
            let scope = layer.scope();
            layer.replace(self.to(&mut publication, scope));
            self.bring_up_to_date(&mut publication, scope, scope::of_raw(scope));
        }
        publication.cost.resources = layers.iter().map(RawLayer::len).sum();
        for (cluster, rows) in rows {
            let services = self.invalid.read(cluster, rows, before.get(&cluster));
            self.change(&mut publication, cluster, services);
        }
        self.revision = snapshot.revision;
        Ok(publication)
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
}
