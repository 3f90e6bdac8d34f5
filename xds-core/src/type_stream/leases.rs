//! What a client was told that is good for some time only, and when it must hear of it again.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::TypeStream;
use crate::{
    Resource, Variant, View,
    answer::{Answer, Held},
    gates::bounded,
};

/// How often a client hears of something before its time is over.
const BEATS: u32 = 3;

/// What a client was told that is good for some time only.
#[derive(Debug, Default)]
pub(crate) struct Leases(BTreeMap<Arc<str>, Lease>);

#[derive(Debug)]
struct Lease {
    told: Resource,
    /// Since when.
    since: Duration,
    ttl: Duration,
}

impl Lease {
    /// When the client must hear of it again.
    fn due(&self) -> Duration {
        self.since + self.ttl / BEATS
    }

    /// Whether its time may be over at the client.
    fn may_be_over(&self, now: Duration) -> bool {
        self.since + self.ttl <= now
    }
}

impl Leases {
    pub(super) const NONE: Self = Self(BTreeMap::new());

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Notes what a client is told of a name.
    pub(super) fn tell(&mut self, name: &Arc<str>, content: Option<&Resource>, now: Duration) {
        match content.and_then(|told| Some((told, told.ttl()?))) {
            Some((told, ttl)) => {
                let lease = Lease { told: told.clone(), since: now, ttl: bounded(ttl) };
                self.0.insert(name.clone(), lease);
            }
            // Mostly there is none.
            None if self.0.is_empty() => {}
            None => {
                self.0.remove(name);
            }
        }
    }

    pub(super) fn retain(&mut self, is_subscribed: impl Fn(&str) -> bool) {
        self.0.retain(|name, _| is_subscribed(name));
    }

    /// When the client must hear of something again.
    fn due(&self) -> Option<Duration> {
        self.0.values().map(Lease::due).min()
    }
}

impl TypeStream {
    /// When the client must hear that something is still good.
    pub(crate) fn beats_at(&self) -> Option<Duration> {
        self.aside.leases.due()
    }

    /// Says what is still good, if it is time for that: in delta by heartbeats, which repeat no content. In
    /// State of the World Envoy takes a heartbeat for the whole set, or for nothing, so content goes out
    /// again (T-07, T-08). What may be over is sent anew (T-10), and what was rejected is not spoken of.
    pub(crate) fn beat<V: View>(&mut self, view: &V, held: &Held, now: Duration) -> Option<Answer> {
        if self.aside.leases.due().is_none_or(|due| due > now) {
            return None;
        }
        let leases = &mut self.aside.get_mut()?.leases.0;
        let mut answer = Answer::default();
        for (name, lease) in &mut *leases {
            if lease.due() > now || self.unsettled.is_rejected(name) {
                continue;
            }
            if self.variant == Variant::Delta && !lease.may_be_over(now) {
                answer.beat(lease.told.clone());
            } else {
                answer.repeat(lease.told.clone());
            }
            lease.since = now;
        }
        // What is rejected is asked about again when its time would be over.
        let rejected = leases.iter_mut().filter(|(_, lease)| lease.due() <= now);
        rejected.for_each(|(_, lease)| lease.since = now);
        if answer.is_silent() {
            return None;
        }
        self.complete(view, &mut answer, held);
        Some(answer)
    }
}
