//! Who left with something rejected.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use dashmap::DashMap;
use deltaplane_core::TypeUrl;

/// How long a client may take to come back before it is believed again.
const KEPT: Duration = Duration::from_secs(3600);

/// How many clients are remembered.
const MOST: usize = 10_000;

/// The nodes, and types, whose last stream ended with a rejection that was not repaired: what they report on
/// their next one is not what they run.
#[derive(Debug, Default)]
pub(crate) struct Rejections {
    since: DashMap<String, BTreeMap<TypeUrl, Instant>>,
}

impl Rejections {
    /// The types of which a node is not believed what it runs.
    pub(crate) fn of(&self, node_id: &str) -> Vec<TypeUrl> {
        let Some(types) = self.since.get(node_id) else { return Vec::new() };
        let recent = types.iter().filter(|(_, since)| since.elapsed() < KEPT);
        recent.map(|(type_url, _)| type_url.clone()).collect()
    }

    /// Notes how a stream ended: of which types the client may run what it rejected, and of which it might
    /// have when the stream began.
    pub(crate) fn note(&self, node_id: &str, doubtful: Vec<TypeUrl>, before: &[TypeUrl]) {
        if !before.is_empty() {
            self.since.remove_if_mut(node_id, |_, types| {
                types.retain(|type_url, _| !before.contains(type_url));
                types.is_empty()
            });
        }
        if !doubtful.is_empty() && self.has_room() {
            let doubtful = doubtful.into_iter().map(|type_url| (type_url, Instant::now()));
            self.since.entry(node_id.to_owned()).or_default().extend(doubtful);
        }
    }

    fn has_room(&self) -> bool {
        if self.since.len() >= MOST {
            let is_recent = |since: &Instant| since.elapsed() < KEPT;
            self.since.retain(|_, types| types.values().any(is_recent));
        }
        self.since.len() < MOST
    }
}
