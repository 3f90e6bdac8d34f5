//! What rows say. One that is not valid says nothing: while it is there, what was made of it last stays.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Publisher;
use crate::certificates;
use crate::database::objects::{self, Object};
use crate::routes::Route;
use crate::service::{FieldError, Row, Service};
use crate::translate::{Fleet, Surroundings};

/// The rows that are not valid, but for raw resources.
#[derive(Debug, Default)]
pub(super) struct Invalid {
    /// The services, by fleet.
    services: BTreeMap<i64, BTreeSet<i64>>,
    objects: usize,
}

impl Invalid {
    /// How many they are.
    pub(super) fn len(&self) -> usize {
        self.services.values().map(BTreeSet::len).sum::<usize>() + self.objects
    }

    /// All services are read anew.
    pub(super) fn forget_services(&mut self) {
        self.services.clear();
    }

    /// The services of a fleet that rows say, each id with nothing if it has left; `before`, the fleet was as
    /// given. What is not valid any more gives way to what is.
    pub(super) fn read<'a>(
        &mut self,
        cluster: i64,
        rows: impl IntoIterator<Item = (i64, Option<&'a Row>)>,
        before: Option<&Fleet>,
    ) -> Vec<(i64, Option<Service>)> {
        let invalid = self.services.entry(cluster).or_default();
        let mut services = Vec::new();
        for (id, row) in rows {
            // Of what is not served, nothing is asked.
            match row.filter(|row| row.definition.is_active).map(|row| (row, Service::parse(row))) {
                Some((row, Err(errors))) => {
                    complain(row, &errors);
                    invalid.insert(id);
                }
                read => {
                    invalid.remove(&id);
                    services.push((id, read.and_then(|(_, service)| service.ok())));
                }
            }
        }
        let stay = |id: &i64| {
            let old = before?.service(*id)?;
            let is_in_way = |new: &Service| new.name == old.name || new.conflict(old).is_some();
            let mut valid = services.iter().filter_map(|(_, service)| service.as_ref());
            Some((*id, (!valid.any(is_in_way)).then(|| old.clone())))
        };
        let old: Vec<_> = invalid.iter().filter_map(stay).collect();
        services.extend(old);
        services
    }
}

impl Publisher {
    /// Takes over what there is beside services and raw resources.
    pub(super) fn learn(&mut self, objects: &[Object]) {
        let before = Arc::unwrap_or_clone(self.directory.fleets());
        let (fleets, mut invalid) = objects::valid_or_before(objects, before);
        self.directory.set(fleets);
        let before = std::mem::take(&mut self.routes).into_values().flatten().collect();
        let (routes, count) = objects::valid_or_before::<Route>(objects, before);
        invalid += count;
        for (name, route) in routes {
            self.routes.entry(route.cluster_id).or_default().insert(name, route);
        }
        let (secrets, count) = certificates::read(objects, &self.vault, &self.secrets);
        self.invalid.objects = invalid + count;
        let end = |(name, secret): (&String, &certificates::Secret)| {
            Some((name.clone(), secret.not_after()?))
        };
        let ends = secrets.iter().filter_map(end).collect();
        self.secrets = Arc::new(secrets);
        self.health.update(|status| status.certificates = ends);
    }

    pub(super) fn surroundings(&self, cluster: i64) -> Surroundings {
        Surroundings {
            source: self.directory.of_cluster(cluster).source,
            routes: self.routes.get(&cluster).cloned().unwrap_or_default(),
            secrets: self.secrets.clone(),
        }
    }

    /// How many rows are not valid.
    pub(super) fn invalid_rows(&self) -> usize {
        self.invalid.len() + self.raw.torn()
    }
}

/// A row that somebody wrote past the checks of the HTTP API costs itself only.
fn complain(row: &Row, errors: &[FieldError]) {
    for error in errors {
        tracing::warn!(
            id = row.id,
            service = row.definition.name,
            field = &*error.field,
            problem = error.message,
            "a stored service is not valid: what it was before is served, if it was anything"
        );
    }
}
