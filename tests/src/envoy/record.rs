//! What a control plane heard and said, in either variant.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use deltaplane_server::envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryResponse, DiscoveryResponse,
};
use deltaplane_server::{Client, ClientEvent, Event, Nonce, Observer, Response, TypeUrl, Variant};
use prost::Message;

use crate::deadline::wait_quietly;
use crate::wait_until;

const PATIENCE: Duration = Duration::from_secs(20);

/// What happened on the streams of one server, in order.
#[derive(Debug, Default)]
pub struct Record {
    entries: Mutex<Vec<(u64, Entry)>>,
    /// When each of them came.
    times: Mutex<Vec<Instant>>,
}

/// What happened on a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "they are called what they are")]
pub enum Entry {
    Connected { node: String },
    Subscribed { type_url: TypeUrl },
    Sent { type_url: TypeUrl, nonce: Nonce, names: Vec<String>, removed: Vec<String> },
    Accepted { type_url: TypeUrl, nonce: Nonce },
    Rejected { type_url: TypeUrl, nonce: Nonce, names: Vec<String>, words: String },
    Disconnected,
}

impl Record {
    /// All of it, so far, with the streams that it happened on.
    pub fn all(&self) -> Vec<(u64, Entry)> {
        self.entries().clone()
    }

    /// How often any stream subscribed to a type first.
    pub fn subscriptions(&self, type_url: &TypeUrl) -> usize {
        let is_it =
            |entry: &Entry| matches!(entry, Entry::Subscribed { type_url: it } if it == type_url);
        self.entries().iter().filter(|(_, entry)| is_it(entry)).count()
    }

    /// How many streams are open.
    pub fn open(&self) -> usize {
        let entries = self.entries();
        let change = |entry: &Entry| match entry {
            Entry::Connected { .. } => 1,
            Entry::Disconnected => -1,
            _ => 0,
        };
        entries.iter().map(|(_, entry)| change(entry)).sum::<isize>().unsigned_abs()
    }

    /// The responses of a type: the names of what was in them, sorted, and the names of what they
    /// removed.
    pub fn sent(&self, type_url: &TypeUrl) -> Vec<(Vec<String>, Vec<String>)> {
        let entries = self.entries();
        let sent = entries.iter().filter_map(|(_, entry)| match entry {
            Entry::Sent { type_url: it, names, removed, .. } if it == type_url => {
                Some((names.clone(), removed.clone()))
            }
            _ => None,
        });
        sent.collect()
    }

    /// How many responses there were, of all types.
    pub fn responses(&self) -> usize {
        let is_it = |entry: &Entry| matches!(entry, Entry::Sent { .. });
        self.entries().iter().filter(|(_, entry)| is_it(entry)).count()
    }

    /// How often a resource was sent.
    pub fn times(&self, type_url: &TypeUrl, name: &str) -> usize {
        let all = self.sent(type_url);
        all.iter().filter(|(names, _)| names.iter().any(|it| it == name)).count()
    }

    /// The nodes to which a resource was sent, by their ids.
    pub fn told(&self, type_url: &TypeUrl, name: &str) -> BTreeSet<String> {
        let (entries, mut nodes) = (self.entries(), HashMap::new());
        let told = entries.iter().filter_map(|(stream, entry)| match entry {
            Entry::Connected { node } => {
                nodes.insert(stream, node);
                None
            }
            Entry::Sent { type_url: it, names, .. } if it == type_url => {
                names.iter().any(|it| it == name).then(|| nodes[stream].clone())
            }
            _ => None,
        });
        told.collect()
    }

    /// How many responses of a type were accepted.
    pub fn accepted(&self, type_url: &TypeUrl) -> usize {
        let is_it =
            |entry: &Entry| matches!(entry, Entry::Accepted { type_url: it, .. } if it == type_url);
        self.entries().iter().filter(|(_, entry)| is_it(entry)).count()
    }

    /// What was rejected of a type: the names, and Envoy's words.
    pub fn rejections(&self, type_url: &TypeUrl) -> Vec<(Vec<String>, String)> {
        let entries = self.entries();
        let rejections = entries.iter().filter_map(|(_, entry)| match entry {
            Entry::Rejected { type_url: it, names, words, .. } if it == type_url => {
                Some((names.clone(), words.clone()))
            }
            _ => None,
        });
        rejections.collect()
    }

    /// Waits for the rejection of a type, of which there is one, and returns its names and words.
    pub fn rejects(&self, type_url: &TypeUrl) -> (Vec<String>, String) {
        wait_until("Envoy rejects", PATIENCE, || self.rejections(type_url).pop())
    }

    /// Waits until each response was answered that Envoy still can answer. The answer to a type's newest
    /// is for those before it, too (S-18).
    pub fn settles(&self) {
        wait_quietly("all is answered", PATIENCE, || self.is_settled().then_some(()));
    }

    /// Whether that is so now.
    pub fn is_settled(&self) -> bool {
        let (entries, mut open, mut any) = (self.entries(), HashMap::new(), false);
        for (stream, entry) in entries.iter() {
            match entry {
                Entry::Sent { type_url, nonce, .. } => {
                    open.insert((*stream, type_url), nonce);
                    any = true;
                }
                Entry::Accepted { type_url, nonce } | Entry::Rejected { type_url, nonce, .. } => {
                    let key = (*stream, type_url);
                    if open.get(&key) == Some(&nonce) {
                        open.remove(&key);
                    }
                }
                Entry::Disconnected => open.retain(|(it, _), _| it != stream),
                Entry::Connected { .. } | Entry::Subscribed { .. } => {}
            }
        }
        any && open.is_empty()
    }

    /// What happened in that time, a line each. Of what a response repeats, only the number is told.
    pub fn story(&self, from: Instant, to: Instant) -> String {
        let (entries, times) = (self.entries(), self.times.lock().expect("no holder of it panics"));
        let (mut text, mut before) = (String::new(), HashMap::new());
        for ((stream, entry), at) in entries.iter().zip(times.iter()) {
            let words = match entry {
                Entry::Sent { type_url, nonce, names, removed } => {
                    let names: BTreeSet<_> = names.iter().collect();
                    let old = before.insert((*stream, type_url), names.clone()).unwrap_or_default();
                    let [new, gone] = [(&names, &old), (&old, &names)]
                        .map(|(one, other)| one.difference(other).copied().collect::<Vec<_>>());
                    let type_url = type_url.message_name().rsplit('.').next().unwrap_or_default();
                    let count = names.len();
                    format!(
                        "{type_url} {nonce}: {count}, new {new:?}, left out {gone:?}, removed {removed:?}"
                    )
                }
                other => format!("{other:?}"),
            };
            if (from..to).contains(at) {
                // Writing to a string does not fail.
                let _ = write!(text, "\n  {:.3?} {stream}: {words}", at.duration_since(from));
            }
        }
        text
    }

    fn entries(&self) -> MutexGuard<'_, Vec<(u64, Entry)>> {
        self.entries.lock().expect("no holder of it panics")
    }
}

impl Observer for Record {
    fn observe(&self, client: &Client, event: &ClientEvent<'_>) {
        let entry = match event {
            ClientEvent::Connected => Entry::Connected { node: client.node.id.clone() },
            ClientEvent::Sent(response) => sent(client.variant, response),
            ClientEvent::Told(Event::Subscribed { type_url, is_first: true, .. }) => {
                Entry::Subscribed { type_url: type_url.clone() }
            }
            ClientEvent::Told(Event::Acknowledged { type_url, nonce, .. }) => {
                Entry::Accepted { type_url: type_url.clone(), nonce: *nonce }
            }
            ClientEvent::Told(Event::Rejected { type_url, nonce, names, error, .. }) => {
                let (type_url, nonce) = (type_url.clone(), *nonce);
                let names = names.iter().map(ToString::to_string).collect();
                Entry::Rejected { type_url, nonce, names, words: error.message.clone() }
            }
            ClientEvent::Disconnected(_) => Entry::Disconnected,
            _ => return,
        };
        let mut entries = self.entries();
        self.times.lock().expect("no holder of it panics").push(Instant::now());
        entries.push((client.id, entry));
    }
}

/// A response's body is all of it but the nonce.
fn sent(variant: Variant, response: &Response) -> Entry {
    let (mut names, removed) = if variant == Variant::Delta {
        let message = DeltaDiscoveryResponse::decode(&*response.body);
        let message = message.expect("a response can be read");
        let names = message.resources.into_iter().map(|resource| resource.name);
        (names.collect::<Vec<_>>(), message.removed_resources)
    } else {
        let message = DiscoveryResponse::decode(&*response.body);
        let message = message.expect("a response can be read");
        let names = message.resources.iter().map(|resource| name(&resource.value));
        (names.collect(), Vec::new())
    };
    names.sort();
    let (type_url, nonce) = (response.type_url.clone(), response.nonce);
    Entry::Sent { type_url, nonce, names, removed }
}

/// What all types here have in common: the first field is the name.
#[derive(Clone, PartialEq, Message)]
struct Named {
    #[prost(string, tag = "1")]
    name: String,
}

fn name(resource: &[u8]) -> String {
    Named::decode(resource).expect("a resource of a known type can be read").name
}
