//! What was read and is not published yet, since its fleet is told at a pace.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::database::changes::Change;
use crate::fleets::Pace;
use crate::raw::{RawChange, RawKey};
use crate::service::Row;

/// The changes of all fleets that wait.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    fleets: BTreeMap<String, Waiting>,
    /// When each fleet with a limit was told last.
    told: BTreeMap<String, Instant>,
}

/// The newest of each key that changed.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) services: BTreeMap<(i64, i64), Option<Row>>,
    pub(crate) raw_scopes: Vec<String>,
    raw: BTreeMap<(String, RawKey), RawChange>,
}

/// What waits for a fleet.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) batch: Batch,
    pace: Pace,
    first: Instant,
    last: Instant,
    /// The revision that this fleet was told last.
    pub(crate) behind: i64,
    /// What came at several times is told at once.
    pub(crate) is_coalesced: bool,
}

impl Batch {
    /// The raw resources, the last changed one last.
    pub(crate) fn raw(&self) -> Vec<RawChange> {
        let mut raw: Vec<_> = self.raw.values().cloned().collect();
        raw.sort_by_key(|change| change.revision);
        raw
    }

    pub(crate) fn add_service(&mut self, change: Change) {
        self.services.insert((change.cluster_id, change.id), change.row);
    }

    pub(crate) fn add_raw(&mut self, change: RawChange) {
        self.raw.insert((change.scope.clone(), change.key.clone()), change);
    }

    pub(crate) fn merge(&mut self, newer: Batch) {
        self.services.extend(newer.services);
        self.raw_scopes.extend(newer.raw_scopes);
        self.raw.extend(newer.raw);
    }
}

impl Pending {
    /// Adds what changed for a fleet that knows all up to the revision `behind`.
    /// Says whether something waited already, which is then told with this.
    pub(crate) fn add(&mut self, fleet: String, pace: Pace, batch: Batch, behind: i64) -> bool {
        let now = Instant::now();
        match self.fleets.get_mut(&fleet) {
            Some(waiting) => {
                waiting.batch.merge(batch);
                (waiting.last, waiting.pace) = (now, pace);
                waiting.is_coalesced = true;
                true
            }
            None => {
                let waiting =
                    Waiting { batch, pace, first: now, last: now, behind, is_coalesced: false };
                self.fleets.insert(fleet, waiting);
                false
            }
        }
    }

    /// When something is due next, if anything waits but for what is held.
    pub(crate) fn due(&self, is_held: impl Fn(&str) -> bool) -> Option<Instant> {
        let waiting = self.fleets.iter().filter(|(fleet, _)| !is_held(fleet));
        waiting.map(|(fleet, waiting)| self.due_of(fleet, waiting)).min()
    }

    /// What is due by now and not held, by fleet.
    pub(crate) fn release(&mut self, is_held: impl Fn(&str) -> bool) -> Vec<(String, Waiting)> {
        let now = Instant::now();
        let is_due = |fleet: &str, waiting: &Waiting| self.due_of(fleet, waiting) <= now;
        let due: Vec<String> = self
            .fleets
            .iter()
            .filter(|(fleet, waiting)| !is_held(fleet) && is_due(fleet, waiting))
            .map(|(fleet, _)| fleet.clone())
            .collect();
        let mut released = Vec::new();
        for fleet in due {
            let Some(waiting) = self.fleets.remove(&fleet) else { continue };
            if waiting.pace.apart() > Duration::ZERO {
                self.told.insert(fleet.clone(), now);
            }
            released.push((fleet, waiting));
        }
        released
    }

    /// Each fleet that waits, with the revision that it was told last.
    pub(crate) fn behind(&self) -> impl Iterator<Item = (&String, i64)> {
        self.fleets.iter().map(|(fleet, waiting)| (fleet, waiting.behind))
    }

    /// All was read anew.
    pub(crate) fn clear(&mut self) {
        self.fleets.clear();
    }

    fn due_of(&self, fleet: &str, waiting: &Waiting) -> Instant {
        let pace = waiting.pace;
        let longest = pace.longest().max(pace.quiet());
        let settled = (waiting.last + pace.quiet()).min(waiting.first + longest);
        match self.told.get(fleet) {
            Some(told) => settled.max(*told + pace.apart()),
            None => settled,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn change(id: i64) -> Batch {
        let mut batch = Batch::default();
        batch.add_service(Change { cluster_id: 1, id, row: None });
        batch
    }

    fn due(pending: &Pending) -> Option<Instant> {
        pending.due(|fleet| fleet == "held")
    }

    fn released(pending: &mut Pending) -> Vec<i64> {
        let released = pending.release(|fleet| fleet == "held");
        let services = released.into_iter().flat_map(|(_, waiting)| waiting.batch.services);
        services.map(|((_, id), _)| id).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_pace_all_is_due_at_once() {
        let mut pending = Pending::default();
        assert_eq!((due(&pending), pending.behind().next()), (None, None));
        assert!(!pending.add("a".into(), Pace::default(), change(1), 6));
        assert_eq!(pending.behind().next(), Some((&"a".to_owned(), 6)));
        assert_eq!(released(&mut pending), [1]);
        assert_eq!((due(&pending), pending.behind().next()), (None, None));
        pending.add("held".into(), Pace::default(), change(1), 6);
        assert_eq!(due(&pending), None);
        assert!(released(&mut pending).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_fleet_waits_for_quiet_but_not_for_ever() {
        let (mut pending, start) = (Pending::default(), Instant::now());
        let pace = Pace { quiet_ms: 10, longest_ms: 25, ..Pace::default() };
        pending.add("a".into(), pace, change(1), 1);
        for id in [2, 3] {
            tokio::time::advance(ms(8)).await;
            assert!(pending.add("a".into(), pace, change(id), id));
            assert!(released(&mut pending).is_empty());
        }
        assert_eq!(due(&pending), Some(start + ms(25)));
        pending.add("b".into(), Pace::default(), change(9), 4);
        assert_eq!(released(&mut pending), [9], "another fleet does not wait for it");
        tokio::time::advance(ms(9)).await;
        assert_eq!(pending.behind().next(), Some((&"a".to_owned(), 1)));
        assert_eq!(released(&mut pending), [1, 2, 3]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_fleet_is_told_so_often_at_most() {
        let (mut pending, start) = (Pending::default(), Instant::now());
        let pace = Pace { per_second: 10, ..Pace::default() };
        pending.add("a".into(), pace, change(1), 1);
        assert_eq!(released(&mut pending), [1]);
        tokio::time::advance(ms(1)).await;
        pending.add("a".into(), pace, change(2), 2);
        assert_eq!(due(&pending), Some(start + ms(100)));
        assert!(released(&mut pending).is_empty());
        tokio::time::advance(ms(99)).await;
        assert_eq!(released(&mut pending), [2]);
    }
}
