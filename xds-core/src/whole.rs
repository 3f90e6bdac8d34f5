//! All of a type, as a view shows it: listed and encoded once, for every stream that is owed all of it.

use std::{
    ops::{Deref, Range},
    sync::{Arc, OnceLock},
};

use bytes::Bytes;

use crate::{
    Resource, TypeUrl, TypeVersion, Variant,
    sent::Sent,
    wire::{self, Notes},
};

/// Above this many bytes a response is split, where its variant and type allow: gRPC clients refuse
/// messages above 4 MiB (D-23, K-05).
pub(crate) const SPLIT_AT: usize = 3 << 20;

/// All resources of a type that a view shows, with the responses that carry them.
///
/// A new client is owed all, and so is whoever gets every response whole (S-02). They share one of these,
/// so that each costs as little as one that is owed one resource. Bodies are encoded when they are first
/// asked for, and take as much room again as the resources themselves.
#[derive(Debug)]
pub struct Whole {
    type_url: TypeUrl,
    version: String,
    /// In the order of their names.
    all: Vec<Sent>,
    delta: OnceLock<Vec<(Range<usize>, Bytes)>>,
    sotw: OnceLock<Bytes>,
}

impl Whole {
    /// The whole of a type: all its resources but for those on demand, in the order of their names, and what
    /// they are called together. Costs their number.
    pub fn new(
        type_url: TypeUrl,
        version: &TypeVersion,
        resources: impl Iterator<Item = Resource>,
    ) -> Self {
        Self {
            type_url,
            version: version.to_string(),
            all: resources.filter(|resource| !resource.is_on_demand()).map(Sent::first).collect(),
            delta: OnceLock::new(),
            sotw: OnceLock::new(),
        }
    }

    /// How many resources it is.
    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    pub(crate) fn version(&self) -> &str {
        &self.version
    }

    /// One State of the World response with everything.
    pub(crate) fn sotw_body(&self) -> &Bytes {
        self.sotw.get_or_init(|| self.body(Variant::Sotw, 0..self.all.len()))
    }

    /// The delta responses that together carry everything; at least one.
    fn delta_bodies(&self) -> &[(Range<usize>, Bytes)] {
        self.delta.get_or_init(|| {
            let parts = self.split().into_iter();
            parts.map(|part| (part.clone(), self.body(Variant::Delta, part))).collect()
        })
    }

    fn body(&self, variant: Variant, part: Range<usize>) -> Bytes {
        let entries = self.resources(part).map(|resource| resource.entry(variant, false));
        wire::body(variant, (&self.type_url, &self.version), entries, &Notes::default())
    }

    fn split(&self) -> Vec<Range<usize>> {
        let (mut parts, mut start, mut size) = (Vec::new(), 0, 0);
        for (at, resource) in self.resources(0..self.all.len()).enumerate() {
            let more = resource.size();
            if at > start && size + more > SPLIT_AT {
                parts.push(start..at);
                (start, size) = (at, 0);
            }
            size += more;
        }
        parts.push(start..self.all.len());
        parts
    }

    fn resources(&self, part: Range<usize>) -> impl Iterator<Item = &Resource> + Clone {
        let part = self.all.get(part).unwrap_or_default().iter();
        part.filter_map(|sent| sent.content.as_ref())
    }
}

/// What of a whole one response carries.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    whole: Arc<Whole>,
    range: Range<usize>,
    body: Bytes,
}

impl Part {
    pub(crate) fn body(&self) -> &Bytes {
        &self.body
    }

    pub(crate) fn version(&self) -> &str {
        self.whole.version()
    }

    /// Where a name stands in it.
    pub(crate) fn position(&self, name: &str) -> Option<usize> {
        self.binary_search_by(|sent| (*sent.name).cmp(name)).ok()
    }
}

impl Deref for Part {
    type Target = [Sent];

    fn deref(&self) -> &[Sent] {
        self.whole.all.get(self.range.clone()).unwrap_or_default()
    }
}

/// A whole that is being sent, part by part.
#[derive(Debug)]
pub(crate) struct Remainder {
    whole: Arc<Whole>,
    variant: Variant,
    next: usize,
}

impl Remainder {
    pub(crate) fn new(whole: Arc<Whole>, variant: Variant) -> Self {
        Self { whole, variant, next: 0 }
    }

    /// The next part, and whether it is the last.
    pub(crate) fn next(&mut self) -> Option<(Part, bool)> {
        let whole = &self.whole;
        let (range, body, parts) = match self.variant {
            Variant::Sotw => (0..whole.len(), whole.sotw_body(), 1),
            Variant::Delta => {
                let bodies = whole.delta_bodies();
                let (range, body) = bodies.get(self.next)?;
                (range.clone(), body, bodies.len())
            }
        };
        self.next += 1;
        let part = Part { whole: whole.clone(), range, body: body.clone() };
        Some((part, self.next >= parts))
    }

    /// How many resources of it were sent.
    fn sent(&self) -> usize {
        match self.variant {
            Variant::Delta if self.next > 0 => {
                let last = self.whole.delta_bodies().get(self.next - 1);
                last.map_or(self.whole.len(), |(range, _)| range.end)
            }
            _ => 0,
        }
    }

    /// Whether this is in it, and was not sent.
    pub(crate) fn is_unsent(&self, name: &str) -> bool {
        let unsent = self.whole.all.get(self.sent()..).unwrap_or_default();
        unsent.binary_search_by(|sent| (*sent.name).cmp(name)).is_ok()
    }

    /// What of it was not sent.
    pub(crate) fn unsent(self) -> impl Iterator<Item = Resource> {
        let (sent, whole) = (self.sent(), self.whole);
        (sent..whole.len()).filter_map(move |at| whole.all.get(at)?.content.clone())
    }
}
