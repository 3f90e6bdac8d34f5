//! What resources were that this server has not seen: another may have told its clients, and it may be so again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use deltaplane_server::{Scope, TypeUrl};

use super::Publisher;
use crate::fleets::scope;
use crate::history::record::{Left, RESOURCE};
use crate::publisher::publication::resource;
use crate::service::{Row, Service};
use crate::translate::Fleet;
use crate::translate::message::Message;

/// A type in a scope.
type Place = (Scope, TypeUrl);

/// The hash of each content that a resource had; nothing, while there was none.
type Contents = Vec<Option<u64>>;

/// What each resource was one after the other, by its name.
pub(super) type Resources = BTreeMap<Place, BTreeMap<Arc<str>, Contents>>;

/// What resources were one after the other.
#[derive(Default)]
struct Past {
    resources: Resources,
    /// The hash of what each service has in a resource. Of a listener that they share, it is a part.
    parts: BTreeMap<(Place, Arc<str>), BTreeMap<i64, u64>>,
    /// What each service was translated to last, and where.
    services: BTreeMap<i64, BTreeSet<(Place, Arc<str>)>>,
    /// What translates them.
    fleets: BTreeMap<i64, Fleet>,
}

impl Past {
    /// After that, a resource was so. What was not noted as it was before was not there.
    fn note(&mut self, left: &Left, place: Place, name: &str, is: Option<u64>) {
        let resources = self.resources.entry(place).or_default();
        let past = resources.entry(name.into()).or_default();
        if left.is_before {
            past.clear();
        } else if past.is_empty() {
            past.push(None);
        }
        past.push(is);
    }

    fn take(&mut self, publisher: &Publisher, left: &Left) {
        if left.key.kind == RESOURCE {
            let is = left.state.as_ref().map(|state| state.resource(&left.key).build().hash());
            let place = (scope::of_raw(&left.key.place), TypeUrl::from(&*left.key.type_url));
            self.note(left, place, &left.key.name, is);
        } else if let Some(id) = left.key.id() {
            self.take_service(publisher, left, id);
        }
    }

    /// Translates a service without the others: of a listener that they share, this is its part.
    fn take_service(&mut self, publisher: &Publisher, left: &Left, id: i64) {
        let mut gone = self.services.remove(&id).unwrap_or_default();
        let mut now = BTreeSet::new();
        if let Some((cluster, service)) = service(id, left) {
            let fleet = self.fleets.entry(cluster).or_insert_with(|| {
                let mut fleet = Fleet::new(publisher.listener_address);
                let _ = fleet.surround(publisher.surroundings(cluster));
                fleet
            });
            let built = fleet.apply([(id, Some(service))]).upserts;
            let _ = fleet.apply([(id, None)]);
            // Of what clients ask for by name, they know themselves what they lack.
            let is_unnamed =
                |message: &&Message| matches!(message, Message::Cluster(_) | Message::Listener(_));
            for resource in built.iter().filter(is_unnamed).map(resource) {
                let place = (scope::of_cluster(cluster), resource.type_url().clone());
                self.note_part(left, (place.clone(), resource.name()), id, Some(resource.hash()));
                now.insert((place, resource.name().clone()));
            }
        }
        gone.retain(|resource| !now.contains(resource));
        for (place, name) in gone {
            self.note_part(left, (place, &name), id, None);
        }
        self.services.insert(id, now);
    }

    /// After that, a service had this part in a resource. Of the others, those are known that changed of late; what
    /// several have alike is one.
    fn note_part(
        &mut self,
        left: &Left,
        (place, name): (Place, &Arc<str>),
        id: i64,
        part: Option<u64>,
    ) {
        let parts = self.parts.entry((place.clone(), name.clone())).or_default();
        match part {
            Some(hash) => parts.insert(id, hash),
            None => parts.remove(&id),
        };
        let parts: BTreeSet<u64> = parts.values().copied().collect();
        self.note(left, place, name, parts.into_iter().reduce(u64::wrapping_add));
    }
}

impl Publisher {
    /// What resources were of late, after a revision. If that cannot be known, clients are believed.
    pub(super) async fn look_back(&self, after: i64) -> Resources {
        let mut past = Past::default();
        let lately = self.store.lately(after, self.revision, |left| past.take(self, &left)).await;
        match lately {
            Ok(()) => past.resources,
            Err(error) => {
                tracing::warn!(
                    %error,
                    "what went back of late is not known: an Envoy that comes from another server, and runs \
                     what it rejected there, may keep it until that changes"
                );
                Resources::default()
            }
        }
    }

    /// Tells the cache, when all of that is in it.
    pub(super) fn note_past(&self, resources: Resources) {
        for ((scope, type_url), pasts) in resources {
            self.cache.note_past(scope, &type_url, pasts);
        }
    }
}

/// The service that a row was, and the fleet; nothing, if it was none that can be served.
fn service(id: i64, left: &Left) -> Option<(i64, Service)> {
    let state = left.state.as_ref()?;
    let cluster = scope::cluster_of(state.scope.as_deref()?)?;
    let definition = state.service().ok()?;
    // No revision is any better than another here.
    let service = Service::parse(&Row { id, revision: 0, definition }).ok()?;
    Some((cluster, service))
}
