//! What went back to what it was, and this server has not seen it: another may have told its clients what was between.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use deltaplane_server::{Scope, TypeUrl, View as _};

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

/// The names that went back.
pub(super) type Reverted = BTreeMap<Place, BTreeSet<Arc<str>>>;

/// What resources were one after the other.
#[derive(Default)]
struct Past {
    /// By name.
    resources: BTreeMap<Place, BTreeMap<Arc<str>, Contents>>,
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
        if past.is_empty() && !left.is_before {
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
                self.note(left, place.clone(), resource.name(), Some(resource.hash()));
                now.insert((place, resource.name().clone()));
            }
        }
        gone.retain(|resource| !now.contains(resource));
        for (place, name) in gone {
            // Others may share a listener still.
            let view = publisher.cache.view(&Arc::from([place.0.clone()]));
            if place.1 != TypeUrl::LISTENER || view.get(&place.1, &name).is_none() {
                self.note(left, place, &name, None);
            }
        }
        self.services.insert(id, now);
    }

    /// The names that are what they were before they were something else.
    fn reverted(self) -> Reverted {
        let is_back = |past: &[Option<u64>]| {
            let is_other = |then: &&Option<u64>| Some(*then) != past.last();
            past.iter().rev().skip_while(|then| !is_other(then)).any(|then| !is_other(&then))
        };
        let names = |resources: BTreeMap<Arc<str>, Contents>| {
            let back = resources.into_iter().filter(|(_, past)| is_back(past));
            back.map(|(name, _)| name).collect()
        };
        let all = self.resources.into_iter();
        all.map(|(place, resources)| (place, names(resources))).collect()
    }
}

impl Publisher {
    /// What went back of late, after a revision. If that cannot be known, clients are believed.
    pub(super) async fn look_back(&self, after: i64) -> Reverted {
        let mut past = Past::default();
        let lately = self.store.lately(after, self.revision, |left| past.take(self, &left)).await;
        match lately {
            Ok(()) => past.reverted(),
            Err(error) => {
                tracing::warn!(
                    %error,
                    "what went back of late is not known: an Envoy that comes from another server, and runs \
                     what it rejected there, may keep it until that changes"
                );
                Reverted::default()
            }
        }
    }

    /// Tells the cache, when all of that is in it.
    pub(super) fn note_reverted(&self, reverted: Reverted) {
        for ((scope, type_url), names) in reverted {
            self.cache.note_reverted(scope, &type_url, names);
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
