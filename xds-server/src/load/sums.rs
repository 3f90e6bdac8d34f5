//! What clients reported, summed up. All names are the clients' own words, so there is a bound to how many are
//! kept, and how long each may be.

use std::collections::BTreeMap;

use envoy_types::pb::envoy::config::endpoint::v3::ClusterStats;

use super::{Load, LoadKey, LocalityKey, duration};

/// How many clusters and localities are kept, and of each of them how many metrics, or categories of what was
/// dropped.
const MOST: usize = 100_000;
const MOST_METRICS: usize = 100;

/// How many bytes a name may have.
const LONGEST: usize = 1_024;

/// What one client said to be under way.
pub(super) type UnderWay = Vec<(LoadKey, LocalityKey, u64)>;

pub(super) struct Sums {
    loads: BTreeMap<LoadKey, Kept>,
    /// The least lately reported first.
    by_age: BTreeMap<u64, LoadKey>,
    /// How many reports of a cluster there were.
    reports: u64,
    /// How many clusters and localities there are, and may be.
    size: usize,
    most: usize,
    is_told: bool,
}

struct Kept {
    load: Load,
    /// By which report it came last.
    reported: u64,
}

impl Default for Sums {
    fn default() -> Self {
        Self {
            loads: BTreeMap::new(),
            by_age: BTreeMap::new(),
            reports: 0,
            size: 0,
            most: MOST,
            is_told: false,
        }
    }
}

impl Sums {
    pub(super) fn all(&self) -> BTreeMap<LoadKey, Load> {
        self.loads.iter().map(|(key, kept)| (key.clone(), kept.load.clone())).collect()
    }

    /// Takes up what a client reports. What it had under way before, and says nothing more of, is over.
    pub(super) fn take(&mut self, stats: &[ClusterStats], last: &mut UnderWay) {
        self.end(std::mem::take(last));
        stats.iter().for_each(|stats| self.add(stats, last));
    }

    /// Takes out what a client had under way.
    pub(super) fn end(&mut self, last: UnderWay) {
        for (key, locality, before) in last {
            let kept = self.loads.get_mut(&key);
            if let Some(locality) = kept.and_then(|kept| kept.load.localities.get_mut(&locality)) {
                locality.in_progress = locality.in_progress.saturating_sub(before);
            }
        }
    }

    fn add(&mut self, stats: &ClusterStats, last: &mut UnderWay) {
        let key = LoadKey {
            cluster: stats.cluster_name.clone(),
            service: stats.cluster_service_name.clone(),
        };
        let is_short = key.cluster.len().max(key.service.len()) <= LONGEST;
        if !is_short || !self.touch(&key) {
            return;
        }
        if let Some(Kept { load, .. }) = self.loads.get_mut(&key) {
            load.dropped = load.dropped.saturating_add(stats.total_dropped_requests);
            for dropped in &stats.dropped_requests {
                if let Some(count) = entry(&mut load.dropped_by_category, &dropped.category) {
                    *count = count.saturating_add(dropped.dropped_count);
                }
            }
            let interval = stats.load_report_interval.map(duration).unwrap_or_default();
            load.reported = load.reported.saturating_add(interval);
        }
        for of_locality in &stats.upstream_locality_stats {
            let locality = LocalityKey::of(of_locality);
            if !locality.is_short() || !self.has_place(&key, &locality) {
                continue;
            }
            if let Some(kept) = self.loads.get_mut(&key) {
                kept.load.localities.entry(locality.clone()).or_default().add(of_locality);
                last.push((key.clone(), locality, of_locality.total_requests_in_progress));
            }
        }
    }

    /// Notes that a cluster is reported; tells whether there is room for it.
    fn touch(&mut self, key: &LoadKey) -> bool {
        self.reports += 1;
        let reported = self.reports;
        if let Some(kept) = self.loads.get_mut(key) {
            self.by_age.remove(&kept.reported);
            kept.reported = reported;
        } else if self.makes_room(key) {
            self.size += 1;
            self.loads.insert(key.clone(), Kept { load: Load::default(), reported });
        } else {
            return false;
        }
        self.by_age.insert(reported, key.clone());
        true
    }

    /// Whether a locality is there, or may come.
    fn has_place(&mut self, key: &LoadKey, locality: &LocalityKey) -> bool {
        let is_there = |kept: &Kept| kept.load.localities.contains_key(locality);
        if self.loads.get(key).is_some_and(is_there) {
            return true;
        }
        let has_room = self.makes_room(key);
        self.size += usize::from(has_room);
        has_room
    }

    /// Forgets what was reported least lately, but for this cluster, until there is room for one more.
    fn makes_room(&mut self, key: &LoadKey) -> bool {
        while self.size >= self.most {
            if !std::mem::replace(&mut self.is_told, true) {
                let (cluster, most) = (&key.cluster, self.most);
                tracing::warn!(
                    cluster,
                    "load of more than {most} clusters and localities is reported: what was reported least \
                     lately is forgotten"
                );
            }
            let Some(oldest) = self.by_age.first_entry().filter(|oldest| oldest.get() != key)
            else {
                return false;
            };
            if let Some(kept) = self.loads.remove(&oldest.remove()) {
                self.size -= 1 + kept.load.localities.len();
            }
        }
        true
    }
}

impl LocalityKey {
    fn is_short(&self) -> bool {
        [&self.region, &self.zone, &self.sub_zone].iter().all(|name| name.len() <= LONGEST)
    }
}

/// What there is by a name, new or not; nothing, if there are too many or the name is too long.
pub(super) fn entry<'a, V: Default>(
    named: &'a mut BTreeMap<String, V>,
    name: &str,
) -> Option<&'a mut V> {
    let has_place = named.contains_key(name) || named.len() < MOST_METRICS && name.len() <= LONGEST;
    has_place.then(|| named.entry(name.to_owned()).or_default())
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::config::{core::v3::Locality, endpoint::v3::UpstreamLocalityStats};

    use super::*;

    fn stats(cluster: &str, zones: &[&str]) -> ClusterStats {
        let of_zone = |zone: &&str| UpstreamLocalityStats {
            locality: Some(Locality { zone: (*zone).into(), ..Locality::default() }),
            total_issued_requests: 1,
            total_requests_in_progress: 1,
            ..UpstreamLocalityStats::default()
        };
        ClusterStats {
            cluster_name: cluster.into(),
            upstream_locality_stats: zones.iter().map(of_zone).collect(),
            ..ClusterStats::default()
        }
    }

    /// The clusters that are kept, and how many localities of each.
    fn kept(sums: &Sums) -> Vec<(String, usize)> {
        let all = sums.all().into_iter();
        all.map(|(key, load)| (key.cluster, load.localities.len())).collect()
    }

    #[test]
    fn what_was_reported_least_lately_makes_room() {
        let mut sums = Sums { most: 6, ..Sums::default() };
        let mut last = UnderWay::new();
        for (cluster, zones) in
            [("a", &["x", "y"][..]), ("b", &["x"]), ("a", &["x"]), ("c", &[]), ("d", &["x"])]
        {
            sums.take(&[stats(cluster, zones)], &mut last);
        }
        // "b" is gone, of which was heard before "a".
        let of = |all: &[(&str, usize)]| {
            all.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect::<Vec<_>>()
        };
        assert_eq!(kept(&sums), of(&[("a", 2), ("c", 0), ("d", 1)]));
        // One that has more than there is room for takes all of it, and no more.
        let zones = ["1", "2", "3", "4", "5", "6", "7"];
        sums.take(&[stats("e", &zones)], &mut last);
        assert_eq!(kept(&sums), of(&[("e", 5)]));
        assert_eq!(sums.size, 6);
        // There is no end of clusters without localities either.
        for number in 0..100 {
            sums.take(&[stats(&number.to_string(), &[])], &mut last);
        }
        assert_eq!((sums.loads.len(), sums.by_age.len(), sums.size), (6, 6, 6));
        assert!(last.is_empty(), "what is forgotten is not under way");
    }

    #[test]
    fn what_has_too_long_a_name_is_left_out() {
        let (mut sums, mut last) = (Sums::default(), UnderWay::new());
        let long = "x".repeat(LONGEST + 1);
        sums.take(&[stats(&long, &["x"]), stats("a", &[&long, "x"])], &mut last);
        assert_eq!(kept(&sums), [("a".to_owned(), 1)]);
    }
}
