//! Reading again what was read, because somebody asks for it.

use super::past::Resources;
use super::{PublishError, Publisher};
use crate::database::reload::{self, Reloaded};
use crate::fleets::scope;
use crate::publisher::publication::{Publication, resource};

impl Publisher {
    /// Reads again, and publishes what is not as the database has it.
    pub(super) async fn reload(&mut self, service: Option<i64>) -> Result<Reloaded, PublishError> {
        let mut past = Resources::default();
        let publication = match service {
            None => {
                let waiting = self.pending.behind().chain(self.lanes.behind());
                let seen = waiting.map(|(_, behind)| behind).chain([self.revision]).min();
                let publication = self.prepare_all().await?;
                past = self.look_back(seen.unwrap_or_default()).await;
                publication
            }
            Some(id) => {
                self.read_changes().await?;
                let mut publication = Publication::default();
                publication.cost.rows = 1;
                let built =
                    self.fleets.iter().map(|(cluster, fleet)| (*cluster, fleet.messages_of(id)));
                let built: Vec<_> = built.filter(|(_, messages)| !messages.is_empty()).collect();
                for (cluster, messages) in built {
                    let scope = scope::of_cluster(cluster);
                    let transaction = self.to(&mut publication, scope.as_str());
                    for message in messages {
                        transaction.upsert(scope.clone(), resource(&message));
                    }
                }
                publication
            }
        };
        let mut changes = Vec::new();
        for transaction in publication.transactions() {
            changes.extend(reload::changes(&self.cache, transaction)?);
        }
        self.publish(publication)?;
        self.note_past(past);
        Ok(Reloaded { revision: self.revision, changes })
    }
}
