//! The next response of a type, but for its nonce.

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;

mod composing;

use crate::{
    ErrorDetail, Resource, Revision,
    sent::{News, Sent},
    type_stream::{Owed, TypeStream},
    whole::{Part, SPLIT_AT, Whole},
    wire::{self, Notes},
};

/// A response but for its nonce.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    /// What goes on the wire.
    resources: Vec<Resource>,
    /// What is still good, and only said to be.
    beats: Vec<Resource>,
    /// What it says beside that.
    notes: Notes,
    /// About how many bytes it has.
    size: usize,
    /// What of it is news, and so in flight until it is answered.
    sent: Vec<Sent>,
    /// What it shares with other streams' answers.
    shared: Option<Shared>,
    /// It is sent to find out which of several names is at fault.
    pub(crate) probe: u32,
    /// Of that, what the client has nothing of yet, as far as is known.
    pub(crate) new: BTreeSet<Arc<str>>,
    /// The version of the whole.
    pub(crate) version: String,
}

/// What answers of several streams share.
#[derive(Debug)]
enum Shared {
    /// In the place of its own resources.
    Whole(Arc<Whole>),
    /// In the place of its own resources and news.
    Part(Part),
}

impl Answer {
    /// A part of a first answer.
    fn part(part: Part) -> Self {
        let version = part.version().to_owned();
        Self { version, shared: Some(Shared::Part(part)), ..Self::default() }
    }

    /// How many resources it carries.
    pub(crate) fn resources(&self) -> usize {
        match &self.shared {
            None => self.resources.len() + self.beats.len() + self.notes.unresolved.len(),
            Some(Shared::Whole(whole)) => whole.len(),
            Some(Shared::Part(part)) => part.len(),
        }
    }

    /// What of it is news, and so in flight until it is answered.
    pub(crate) fn sent(&self) -> &[Sent] {
        match &self.shared {
            Some(Shared::Part(part)) => part,
            _ => &self.sent,
        }
    }

    /// The oldest revision of which something in it is news.
    pub(crate) fn since(&self) -> Option<Revision> {
        match &self.shared {
            Some(Shared::Part(part)) => part.first().map(|first| first.since),
            _ => self.sent.iter().map(|sent| sent.since).min(),
        }
    }

    /// The same, to be kept until it is answered.
    pub(crate) fn into_news(self) -> News {
        match self.shared {
            Some(Shared::Part(part)) => News::Shared(part),
            _ => News::Own(self.sent),
        }
    }

    /// How many removals it carries.
    pub(crate) fn removals(&self) -> usize {
        self.notes.removed.len()
    }

    /// Says that something is still good.
    pub(crate) fn beat(&mut self, resource: Resource) {
        self.beats.push(resource);
    }

    /// Carries something once more that is no news.
    pub(crate) fn repeat(&mut self, resource: Resource) {
        self.resources.push(resource);
    }

    /// Whether there is nothing in it.
    pub(crate) fn is_silent(&self) -> bool {
        self.resources.is_empty() && self.beats.is_empty()
    }

    /// The names of what it only says is still good.
    pub(crate) fn beaten(&self) -> Vec<Arc<str>> {
        self.beats.iter().map(|beat| beat.name().clone()).collect()
    }

    /// Whether this many more bytes would be too many. A response holds one thing, however large.
    fn is_full(&self, more: usize) -> bool {
        self.size + more > SPLIT_AT && !self.sent.is_empty()
    }

    /// Adds a resource that goes by this name; by several, it is in the response once (B-09). What is kept
    /// is gone already, and still to be removed.
    fn push(&mut self, name: &Arc<str>, resource: Resource, owed: &Owed, is_kept: bool) {
        self.size += resource.size();
        if resource.aliases().is_empty() || !self.resources.contains(&resource) {
            self.resources.push(resource.clone());
        }
        // What the client has from before this stream and is not this counts as new: it may have nothing.
        if owed.unknown || (owed.told.is_none() && !owed.may_hold) {
            self.new.insert(name.clone());
        }
        self.sent.push(Sent {
            name: name.clone(),
            content: Some(resource),
            replaces_unknown: owed.unknown,
            since: owed.since,
            is_kept,
            is_void: false,
        });
    }

    /// Says that what goes by this name is gone, under the name that the client knows it by: what it
    /// subscribed to by an alias has a name of its own.
    fn push_removed(&mut self, name: &Arc<str>, told: Option<&Resource>, owed: &Owed) {
        let gone = told.map_or(name, Resource::name);
        self.size += gone.len() + 4;
        if gone == name || !self.notes.removed.contains(gone) {
            self.notes.removed.push(gone.clone());
        }
        self.push_nothing(name, owed);
    }

    /// Says that there is nothing of a name, in the words that its type has for that.
    fn push_missing(&mut self, name: &Arc<str>, owed: &Owed, missing: Missing) {
        self.size += 2 * name.len() + missing.error.as_ref().map_or(0, |error| error.message.len());
        match missing.word {
            Some(Word::Removed) => self.notes.removed.push(name.clone()),
            Some(Word::Unresolved) => self.notes.unresolved.push(name.clone()),
            None => {}
        }
        self.notes.errors.extend(missing.error.map(|error| (name.clone(), error)));
        self.push_nothing(name, owed);
    }

    fn push_nothing(&mut self, name: &Arc<str>, owed: &Owed) {
        self.sent.push(Sent {
            name: name.clone(),
            content: None,
            replaces_unknown: owed.unknown,
            since: owed.since,
            is_kept: false,
            is_void: false,
        });
    }

    /// The resources in it that are news.
    pub(crate) fn news(&self) -> impl Iterator<Item = &Resource> {
        self.sent().iter().filter_map(|sent| sent.content.as_ref())
    }

    /// Encodes it, all but the nonce.
    pub(crate) fn body(&self, stream: &TypeStream) -> Bytes {
        let (type_url, version) = (&stream.type_url, &self.version);
        match (&self.shared, stream.variant) {
            (Some(Shared::Whole(whole)), _) => whole.sotw_body().clone(),
            (Some(Shared::Part(part)), _) => part.body().clone(),
            (None, variant) => {
                let entries = self.resources.iter();
                let entries = entries.map(|resource| resource.entry(variant, stream.bears_ttl));
                let entries = entries.chain(self.beats.iter().filter_map(Resource::heartbeat));
                wire::body(variant, (type_url, version), entries, &self.notes)
            }
        }
    }
}

/// How it is said that there is nothing of a name.
struct Missing {
    /// By what every client reads, if there is a word for it.
    word: Option<Word>,
    /// By what only some read.
    error: Option<ErrorDetail>,
}

/// What every client reads as that there is nothing of a name.
enum Word {
    Removed,
    Unresolved,
}

/// What of a type does not go out yet.
#[derive(Debug, Default)]
pub(crate) struct Held {
    /// What waits for what it refers to, or for what uses it.
    pub(crate) names: BTreeSet<Arc<str>>,
    /// What is gone and in use, so that who asks for it is given it.
    pub(crate) kept: BTreeSet<Arc<str>>,
    /// Nothing waits, and removals go with additions.
    pub(crate) at_once: bool,
}
