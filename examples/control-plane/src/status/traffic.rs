//! What goes over the wire to all clients, counted.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use deltaplane_server::{Client, ClientEvent, Event, Observer};

/// Streams are spread over so many counts, so that none waits for another.
const SHARDS: usize = 64;

/// Types are named by clients. Of so many the counts are kept apart.
const TYPES_MAX: usize = 100;

/// What the others are counted as.
const OTHERS: &str = "others";

/// Counts what clients are sent and what they say. Clones share the counts.
#[derive(Clone, Debug)]
pub struct Traffic(Arc<[Mutex<Counts>]>);

/// What was counted since the start.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Counts {
    /// Streams that began.
    pub opened: u64,
    /// Streams that ended.
    pub closed: u64,
    /// By type, without its `type.googleapis.com/`.
    pub types: BTreeMap<String, TypeCounts>,
}

/// What was counted of one type.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct TypeCounts {
    /// Responses that were sent.
    pub responses: u64,
    /// Their bytes, before compression.
    pub bytes: u64,
    /// Responses that were acknowledged.
    pub acks: u64,
    /// Responses that were rejected.
    pub nacks: u64,
}

impl Traffic {
    /// All of it, added up.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let mut sum = Counts::default();
        for shard in self.0.iter() {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            sum.opened += shard.opened;
            sum.closed += shard.closed;
            for (name, counts) in &shard.types {
                sum.of(name).add(counts);
            }
        }
        sum
    }
}

impl Default for Traffic {
    fn default() -> Traffic {
        Traffic((0..SHARDS).map(|_| Mutex::default()).collect())
    }
}

impl Counts {
    fn of(&mut self, name: &str) -> &mut TypeCounts {
        let is_new = !self.types.contains_key(name);
        let name = if is_new && self.types.len() >= TYPES_MAX { OTHERS } else { name };
        self.types.entry(name.to_owned()).or_default()
    }
}

impl TypeCounts {
    fn add(&mut self, other: &TypeCounts) {
        self.responses += other.responses;
        self.bytes += other.bytes;
        self.acks += other.acks;
        self.nacks += other.nacks;
    }
}

impl Observer for Traffic {
    fn observe(&self, client: &Client, event: &ClientEvent<'_>) {
        let Some(shard) = self.0.get(client.id as usize % SHARDS) else { return };
        let mut counts = shard.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            ClientEvent::Connected => counts.opened += 1,
            ClientEvent::Disconnected(_) => counts.closed += 1,
            ClientEvent::Sent(response) => {
                let of_type = counts.of(response.type_url.message_name());
                of_type.responses += 1;
                of_type.bytes += response.encoded_len() as u64;
            }
            ClientEvent::Told(Event::Acknowledged { type_url, .. }) => {
                counts.of(type_url.message_name()).acks += 1;
            }
            ClientEvent::Told(Event::Rejected { type_url, .. }) => {
                counts.of(type_url.message_name()).nacks += 1;
            }
            _ => {}
        }
    }
}
