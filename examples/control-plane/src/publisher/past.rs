//! What went back to what it was, and this server has not seen it: another may have told its clients what was between.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use deltaplane_server::{Scope, TypeUrl};

use super::Publisher;
use crate::fleets::scope;
use crate::history::record::{Left, RESOURCE};
use crate::publisher::publication::{removed, resource};
use crate::service::{Row, Service};
use crate::translate::Fleet;

/// What resources of each layer were one after the other.
#[derive(Debug, Default)]
struct Past(BTreeMap<(Scope, TypeUrl), Resources>);

/// By name, the hash of each content; nothing, while there was none.
type Resources = BTreeMap<Arc<str>, Vec<Option<u64>>>;

impl Past {
    /// After that, a resource was so. What was not noted `before` was not there.
    fn note(&mut self, before: bool, scope: Scope, type_url: TypeUrl, name: &str, is: Option<u64>) {
        let resources = self.0.entry((scope, type_url)).or_default();
        let past = resources.entry(name.into()).or_default();
        if past.is_empty() && !before {
            past.push(None);
        }
        past.push(is);
    }

    /// The names that are what they were before they were something else.
    fn reverted(self) -> impl Iterator<Item = ((Scope, TypeUrl), BTreeSet<Arc<str>>)> {
        let is_back = |past: &[Option<u64>]| {
            let is_other = |then: &&Option<u64>| Some(*then) != past.last();
            past.iter().rev().skip_while(|then| !is_other(then)).any(|then| !is_other(&then))
        };
        let names = move |resources: Resources| {
            let back = resources.into_iter().filter(move |(_, past)| is_back(past));
            back.map(|(name, _)| name).collect()
        };
        self.0.into_iter().map(move |(layer, resources)| (layer, names(resources)))
    }
}

impl Publisher {
    /// Tells the cache what went back of late, after a revision. If that cannot be known, clients are believed.
    pub(super) async fn look_back(&self, after: i64) {
        let lately = match self.store.lately(after, self.revision).await {
            Ok(lately) => lately,
            Err(error) => {
                tracing::warn!(
                    %error,
                    "what went back of late is not known: an Envoy that comes from another server, and runs \
                     what it rejected there, may keep it until that changes"
                );
                return;
            }
        };
        for ((scope, type_url), names) in self.past(&lately).reverted() {
            self.cache.note_reverted(scope, &type_url, names);
        }
    }

    /// What came of rows, revision by revision. Of services, those that changed are translated without the others: where
    /// several share a listener, it may seem to have been away.
    fn past(&self, lately: &[Left]) -> Past {
        let mut past = Past::default();
        let mut fleets: BTreeMap<i64, Fleet> = BTreeMap::new();
        for left in lately.chunk_by(|one, other| one.revision == other.revision) {
            let mut services: BTreeMap<i64, Vec<(i64, Option<Service>)>> = BTreeMap::new();
            let before = left.first().is_some_and(|first| first.revision == 0);
            for row in left {
                if row.key.kind == RESOURCE {
                    let is =
                        row.state.as_ref().map(|state| state.resource(&row.key).build().hash());
                    let type_url = TypeUrl::from(&*row.key.type_url);
                    past.note(before, scope::of_raw(&row.key.place), type_url, &row.key.name, is);
                }
                let Some(id) = row.key.id() else { continue };
                if let Some(cluster) = row.left_scope.as_deref().and_then(scope::cluster_of) {
                    services.entry(cluster).or_default().push((id, None));
                }
                if let Some(cluster) = row.scope.as_deref().and_then(scope::cluster_of) {
                    services.entry(cluster).or_default().push((id, service(id, row)));
                }
            }
            for (cluster, services) in services {
                let fleet = fleets.entry(cluster).or_insert_with(|| {
                    let mut fleet = Fleet::new(self.listener_address);
                    let _ = fleet.surround(self.surroundings(cluster));
                    fleet
                });
                let difference = fleet.apply(services);
                let scope = scope::of_cluster(cluster);
                for resource in difference.upserts.iter().map(resource) {
                    let (type_url, is) = (resource.type_url().clone(), Some(resource.hash()));
                    past.note(before, scope.clone(), type_url, resource.name(), is);
                }
                for (type_url, name) in difference.removals.iter().map(removed) {
                    past.note(before, scope.clone(), type_url, name, None);
                }
            }
        }
        past
    }
}

/// The service that a row was; nothing, if it was none that can be served.
fn service(id: i64, row: &Left) -> Option<Service> {
    let definition = row.state.as_ref()?.service().ok()?;
    Service::parse(&Row { id, revision: row.revision, definition }).ok()
}
