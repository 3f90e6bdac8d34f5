//! What was sent and is not accepted: in flight, or rejected.

mod rejected;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use self::rejected::Rejected;
use crate::{
    ErrorDetail, Nonce, Resource, Revision, TypeUrl, Variant,
    sent::{News, Sent},
};

/// How many responses of a type may be unanswered before the older half of them is forgotten. Clients
/// legitimately never answer (N-08), and their silence must not cost memory; a forgotten answer counts as
/// unknown.
const MAX_UNANSWERED: usize = 1024;

/// What was sent and is not accepted, of one type on one stream.
#[derive(Debug)]
pub(crate) struct Unsettled {
    variant: Variant,
    /// Each response holds everything that is subscribed.
    repeats_everything: bool,
    /// Mostly there is one, or none; so they lie elsewhere, and not in room that is kept for several.
    in_flight: VecDeque<Box<InFlight>>,
    /// Names that were rejected and have not changed since: nothing is sent for them (N-02).
    rejected: BTreeMap<Arc<str>, Rejected>,
    rejections: u64,
    /// The content last acknowledged, of names that are in flight or rejected: what the client may still
    /// use. Kept where that refers to something, and where a response repeats everything, so that it need
    /// not repeat what was rejected.
    acknowledged: BTreeMap<Arc<str>, Option<Resource>>,
}

/// A response that was not answered yet.
#[derive(Debug)]
pub(crate) struct InFlight {
    pub(crate) nonce: Nonce,
    pub(crate) sent_at: Duration,
    /// The oldest revision of which something in it is news.
    pub(crate) since: Option<Revision>,
    pub(crate) revision: Revision,
    pub(crate) version: String,
    pub(crate) sent: News,
    /// It is part of a first answer.
    pub(crate) is_first: bool,
    /// It is sent to find out which of several names is at fault.
    pub(crate) is_probe: bool,
    /// What responses that were unanswered then wait for (N-13).
    pub(crate) awaited: Option<Arc<[Arc<str>]>>,
    /// What it left out, because the client rejected that by name.
    pub(crate) withheld: BTreeSet<Arc<str>>,
    /// Something that it may repeat was rejected since.
    pub(crate) is_crossed: bool,
    /// What it only says is still good.
    pub(crate) beats: Vec<Arc<str>>,
}

/// A name that is to be sent again.
#[derive(Debug)]
pub(crate) struct Again {
    pub(crate) name: Arc<str>,
    /// What the client holds of it, as far as that is known.
    pub(crate) holds: Option<Resource>,
    pub(crate) since: Revision,
}

/// What an answered response was.
#[derive(Debug)]
pub(crate) enum Settled {
    Acknowledged {
        nonce: Nonce,
        revision: Revision,
        responses: VecDeque<Box<InFlight>>,
        /// What the client had in the place of what it now accepts, as far as that was kept.
        replaced: Vec<Resource>,
    },
    Rejected {
        nonce: Nonce,
        revision: Revision,
        names: Vec<Arc<str>>,
        /// Those of them that the client's words name.
        blamed: Vec<Arc<str>>,
        /// It repeated what was rejected and is no longer asked for, or changed since; nothing else of it
        /// is known to be at fault.
        is_innocent: bool,
        /// The response was part of a first answer.
        is_first: bool,
        /// It was sent to find out which of several names is at fault.
        is_probe: bool,
        /// What of it is to be sent again at once.
        again: Vec<Again>,
        /// What of it was there only because the client may have it, and is not believed any more to be
        /// what it has.
        doubted: Vec<Arc<str>>,
        /// What clients were waiting for when the response was sent.
        awaited: BTreeSet<Arc<str>>,
    },
}

impl Unsettled {
    pub(crate) fn new(variant: Variant, repeats_everything: bool) -> Self {
        Self {
            variant,
            repeats_everything,
            in_flight: VecDeque::new(),
            rejected: BTreeMap::new(),
            rejections: 0,
            acknowledged: BTreeMap::new(),
        }
    }

    /// Notes that something of a name goes out, of which the client was told this before.
    pub(crate) fn leave(&mut self, name: &Arc<str>, told: Option<Resource>) {
        if self.repeats_everything
            || told.as_ref().is_some_and(|told| !told.references().is_empty())
        {
            // Of what is part of a first answer on its way, it had nothing before.
            let is_first = self.in_flight.iter().any(|response| response.sent.shares(name));
            let told = told.filter(|_| !is_first);
            self.acknowledged.entry(name.clone()).or_insert(told);
        }
    }

    /// Notes that a response goes out. No more names than `most` are kept for those in flight, unless it has
    /// more by itself.
    pub(crate) fn send(&mut self, mut response: InFlight, most: usize) {
        if let Some(last) = self.in_flight.back()
            && response.awaited.is_some()
            && response.awaited == last.awaited
        {
            response.awaited.clone_from(&last.awaited);
        }
        self.in_flight.push_back(Box::new(response));
        // Mostly it is the only one.
        if self.in_flight.len() > 1
            && (self.in_flight.len() > MAX_UNANSWERED || self.names_in_flight() > most)
        {
            self.forget_older(most);
        }
    }

    /// How many names are kept for what is in flight, but for those that are shared.
    fn names_in_flight(&self) -> usize {
        let mut last = None;
        let names = self.in_flight.iter().map(|response| {
            let own = match &response.sent {
                News::Own(own) => own.len(),
                News::Shared(_) => 0,
            };
            let awaited = response.awaited.as_ref();
            let is_shared = last.zip(awaited).is_some_and(|(one, other)| Arc::ptr_eq(one, other));
            last = awaited;
            let awaited = awaited.filter(|_| !is_shared).map_or(0, |names| names.len());
            own + awaited + response.withheld.len() + response.beats.len()
        });
        names.sum()
    }

    /// Forgets the older half of what is in flight: not less, for all of it is gone through for that.
    fn forget_older(&mut self, most: usize) {
        let mut forgotten = BTreeSet::new();
        while self.in_flight.len() > 1
            && (self.in_flight.len() > MAX_UNANSWERED / 2 || self.names_in_flight() > most / 2)
        {
            let Some(oldest) = self.in_flight.pop_front() else { break };
            let names = oldest.sent.iter().map(|sent| &sent.name);
            let names = names.filter(|name| self.acknowledged.contains_key(*name));
            forgotten.extend(names.cloned());
        }
        if forgotten.is_empty() {
            return;
        }
        for sent in self.sent() {
            forgotten.remove(&sent.name);
        }
        for name in forgotten.iter().filter(|name| !self.rejected.contains_key(*name)) {
            self.acknowledged.remove(name);
        }
    }

    /// Reads the answer to a response. In delta it settles its own; in State of the World its own and
    /// all before it, and only if the version is that response's: a client that no longer watches the
    /// type repeats the nonce with an older version, which is no answer (N-07). An unknown nonce is
    /// none either (S-18, D-13).
    ///
    /// Where responses do not repeat everything, they do not repeat what is unanswered either: Envoy
    /// answers each of those, and a rejected resource that rode along would take down what it rode with.
    ///
    /// A name that is not `current` was given up, changed or is owed again since it was sent.
    pub(crate) fn settle(
        &mut self,
        nonce: &str,
        version: Option<&str>,
        error: Option<&ErrorDetail>,
        is_current: impl Fn(&str) -> bool,
    ) -> Option<Settled> {
        let nonce = Nonce::read(nonce)?;
        let at = self.in_flight.iter().position(|response| response.nonce == nonce)?;
        let answered = self.in_flight.get(at)?;
        if error.is_none() && version.is_some_and(|version| version != answered.version) {
            return None;
        }
        let revision = answered.revision;
        let settled: VecDeque<_> = match self.variant {
            Variant::Delta => self.in_flight.remove(at).into_iter().collect(),
            Variant::Sotw => self.in_flight.drain(..=at).collect(),
        };
        Some(match error {
            None => {
                let replaced = self.acknowledge(&settled);
                Settled::Acknowledged { nonce, revision, responses: settled, replaced }
            }
            Some(error) => self.reject((nonce, revision), settled, error, is_current),
        })
    }

    /// Takes up what the client accepted, and returns what it had instead.
    fn acknowledge(&mut self, settled: &VecDeque<Box<InFlight>>) -> Vec<Resource> {
        if self.repeats_everything
            && let Some(newest) = settled.back()
        {
            // The client accepted all that was repeated, so what was not withheld is rejected no longer.
            self.rejected.retain(|name, _| newest.withheld.contains(name));
        }
        if self.acknowledged.is_empty() {
            return Vec::new();
        }
        let in_flight = self.unanswered();
        let mut replaced = Vec::new();
        for Sent { name, content, .. } in settled.iter().flat_map(|response| response.sent.iter()) {
            let Some(acknowledged) = self.acknowledged.get_mut(name) else { continue };
            if in_flight.contains(name) || self.rejected.contains_key(name) {
                replaced.extend(std::mem::replace(acknowledged, content.clone()));
            } else {
                replaced.extend(self.acknowledged.remove(name).flatten());
            }
        }
        replaced
    }

    /// Notes that a name is gone without a word.
    pub(crate) fn void(&mut self, name: &str) {
        let responses = self.in_flight.iter_mut();
        let sent = responses.filter_map(|response| response.sent.get_mut(name));
        sent.for_each(|sent| sent.is_void = true);
    }

    /// Lets go of what is no longer subscribed.
    pub(crate) fn retain(&mut self, is_subscribed: impl Fn(&str) -> bool) {
        self.acknowledged.retain(|name, _| is_subscribed(name));
    }

    /// The names in flight.
    pub(crate) fn unanswered(&self) -> BTreeSet<Arc<str>> {
        self.sent().map(|sent| sent.name.clone()).collect()
    }

    /// What unanswered responses refer to, of a type that is to follow them.
    pub(crate) fn unanswered_references(&self, follower: &TypeUrl) -> Vec<Arc<str>> {
        let contents = self.sent().filter_map(|sent| sent.content.as_ref());
        let references = contents.flat_map(Resource::references);
        let followers = references.filter(|key| key.type_url == *follower);
        followers.map(|key| key.name.clone()).collect()
    }

    /// What the client may run beside what it was told last, and when its silence counts as the answer to
    /// what replaces that: never, where it rejected it.
    pub(crate) fn may_run(
        &self,
        patience: Duration,
    ) -> impl Iterator<Item = (&Resource, Option<Duration>)> {
        let in_flight = self.in_flight.iter().flat_map(move |response| {
            let until = Some(response.sent_at + patience);
            response.sent.iter().map(move |sent| (sent, until))
        });
        let rejected = self.rejected.values().map(|rejected| (&rejected.sent, None));
        in_flight.chain(rejected).flat_map(|(sent, until)| {
            let before = self.acknowledged.get(&sent.name).and_then(Option::as_ref);
            before.into_iter().chain(&sent.content).map(move |resource| (resource, until))
        })
    }

    /// Until when the client may run what is not known: as in [`may_run`](Unsettled::may_run), if it does.
    pub(crate) fn may_run_unknown(&self, patience: Duration) -> Option<Option<Duration>> {
        if self.rejected.values().any(|rejected| rejected.sent.replaces_unknown) {
            return Some(None);
        }
        let replaces_unknown =
            |response: &InFlight| response.sent.iter().any(|sent| sent.replaces_unknown);
        let last = self.in_flight.iter().rev().find(|response| replaces_unknown(response))?;
        Some(Some(last.sent_at + patience))
    }

    /// Whether some response is unanswered, be there news in it or not.
    pub(crate) fn is_unanswered(&self) -> bool {
        !self.in_flight.is_empty()
    }

    /// The oldest revision of which something is unanswered.
    pub(crate) fn unanswered_since(&self) -> Option<Revision> {
        self.in_flight.iter().filter_map(|response| response.since).min()
    }

    /// What the client may run and not say so on its next stream: what it was told last of each name, if that is in
    /// flight or rejected. What streams share is told to who had nothing before, and is not among it.
    pub(crate) fn doubts(&self) -> impl Iterator<Item = &Sent> {
        let rejected = self.rejected.values().map(|rejected| &rejected.sent);
        let own = self.in_flight.iter().filter_map(|response| match &response.sent {
            News::Own(sent) => Some(sent),
            News::Shared(_) => None,
        });
        rejected.chain(own.flatten())
    }

    /// What is in flight.
    pub(crate) fn sent(&self) -> impl Iterator<Item = &Sent> {
        self.in_flight.iter().flat_map(|response| response.sent.iter())
    }
}
