//! What is to be published: what services became, on its way into the cache.

use std::collections::BTreeMap;

use deltaplane_server::{Resource, Transaction, TypeUrl, envoy};

use crate::canary::lanes::Lanes;
use crate::canary::unserved::Unserved;
use crate::fleets::scope;
use crate::translate::message::Message;
use crate::translate::{Difference, Removal};

/// All that a service is translated to.
const TYPES: [TypeUrl; 5] =
    [TypeUrl::CLUSTER, TypeUrl::ENDPOINT, TypeUrl::LISTENER, TypeUrl::ROUTE, TypeUrl::SECRET];

/// What is to be published.
#[derive(Default)]
pub(crate) struct Publication {
    /// What all are told at once.
    pub(crate) at_once: Transaction,
    /// By fleet, what goes through its canary, and the revision that the fleet had before.
    pub(crate) through: BTreeMap<String, (Transaction, i64)>,
    /// What goes there when this is published.
    pub(crate) unserved: Vec<Unserved>,
    pub(crate) cost: Cost,
}

/// The cost of one publication, for its line in the log.
#[derive(Default)]
pub(crate) struct Cost {
    pub(crate) rows: usize,
    pub(crate) resources: usize,
}

impl Publication {
    /// What goes through the canary of a fleet that has this revision, if it lacks nothing yet.
    pub(crate) fn lane(&mut self, lanes: &mut Lanes, fleet: &str, behind: i64) -> &mut Transaction {
        let through = self.through.entry(fleet.to_owned());
        &mut through.or_insert_with(|| (lanes.take(fleet), behind)).0
    }

    /// All of it.
    pub(crate) fn transactions(&self) -> impl Iterator<Item = &Transaction> {
        let through = self.through.values().map(|(transaction, _)| transaction);
        std::iter::once(&self.at_once).chain(through)
    }
}

impl Cost {
    pub(crate) fn add(&mut self, cluster: i64, difference: &Difference) {
        self.rows += difference.rows;
        self.resources += difference.upserts.len();
        for conflict in &difference.conflicts {
            tracing::warn!(
                cluster_id = cluster,
                service = conflict.name,
                field = &*conflict.error.field,
                problem = conflict.error.message,
                "what is stored is left out"
            );
        }
    }
}

/// A scope that was not filled before: all its types become known, even if
/// there is nothing of them.
pub(crate) fn fill(transaction: &mut Transaction, cluster: i64, difference: &Difference) {
    let resources: Vec<Resource> = difference.upserts.iter().map(resource).collect();
    for kind in TYPES {
        let of_kind = resources.iter().filter(|resource| *resource.type_url() == kind);
        let of_kind = of_kind.cloned().collect::<Vec<_>>();
        transaction.replace(scope::of_cluster(cluster), kind, of_kind);
    }
}

/// A scope that was filled before.
pub(crate) fn change(transaction: &mut Transaction, cluster: i64, difference: &Difference) {
    let scope = scope::of_cluster(cluster);
    for message in &difference.upserts {
        transaction.upsert(scope.clone(), resource(message));
    }
    for (kind, name) in difference.removals.iter().map(removed) {
        transaction.remove(scope.clone(), kind, name);
    }
}

/// The type and the name of what is removed.
pub(crate) fn removed(removal: &Removal) -> (TypeUrl, &str) {
    match removal {
        Removal::Cluster(name) => (TypeUrl::CLUSTER, name),
        Removal::Endpoints(name) => (TypeUrl::ENDPOINT, name),
        Removal::Listener(name) => (TypeUrl::LISTENER, name),
        Removal::Routes(name) => (TypeUrl::ROUTE, name),
        Removal::Secret(name) => (TypeUrl::SECRET, name),
    }
}

/// The one place where a message is encoded and hashed.
pub(crate) fn resource(message: &Message) -> Resource {
    match message {
        Message::Cluster(cluster) => envoy::resource(cluster.as_ref()),
        Message::Endpoints(endpoints) => envoy::resource(endpoints.as_ref()),
        Message::Listener(listener) => envoy::resource(listener.as_ref()),
        Message::Routes(routes) => envoy::resource(routes.as_ref()),
        Message::Secret(secret) => envoy::resource(secret.as_ref()),
    }
}
