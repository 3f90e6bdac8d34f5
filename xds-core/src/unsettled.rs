//! What was sent and is not accepted: in flight, or rejected.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use crate::{
    ErrorDetail, Nonce, Resource, Revision, TypeUrl, Variant,
    sent::{News, Sent},
    words::mentions,
};

/// How many responses of a type may be unanswered before the oldest is forgotten. Clients legitimately
/// never answer (N-08), and their silence must not cost memory; a forgotten answer counts as unknown.
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
    pub(crate) awaited: Vec<Arc<str>>,
    /// What it left out, because the client rejected that by name.
    pub(crate) withheld: BTreeSet<Arc<str>>,
    /// Something that it may repeat was rejected since.
    pub(crate) is_crossed: bool,
    /// What it only says is still good.
    pub(crate) beats: Vec<Arc<str>>,
}

/// A name that was rejected: the others of its group were in the same response, and go with it when one
/// of them goes out again (N-06).
#[derive(Debug)]
struct Rejected {
    group: u64,
    /// What the client holds instead, as far as that is known.
    holds: Option<Resource>,
    /// What it rejected, and may run in part.
    sent: Sent,
    /// The client's words name it.
    blamed: bool,
}

impl Rejected {
    fn again(self) -> Again {
        Again { name: self.sent.name, holds: self.holds, since: self.sent.since }
    }
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
        awaited: Vec<Arc<str>>,
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

    /// Notes that a response goes out.
    pub(crate) fn send(&mut self, response: InFlight) {
        if self.in_flight.len() == MAX_UNANSWERED
            && let Some(oldest) = self.in_flight.pop_front()
        {
            let in_flight = self.unanswered();
            for Sent { name, .. } in oldest.sent.iter() {
                if !in_flight.contains(name) && !self.rejected.contains_key(name) {
                    self.acknowledged.remove(name);
                }
            }
        }
        self.in_flight.push_back(Box::new(response));
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

    /// Parks the names of rejected responses. If one of them was sent again, changed or was given up
    /// since, the others go out at once: what crosses a NACK must not strand them.
    fn reject(
        &mut self,
        (nonce, revision): (Nonce, Revision),
        settled: VecDeque<Box<InFlight>>,
        error: &ErrorDetail,
        is_current: impl Fn(&str) -> bool,
    ) -> Settled {
        let is_first = settled.iter().any(|response| response.is_first);
        let is_probe = settled.iter().all(|response| response.is_probe);
        let mut is_innocent = settled.iter().any(|response| response.is_crossed);
        let mut sent = BTreeMap::<Arc<str>, Sent>::new();
        let mut awaited = Vec::new();
        let mut again = Vec::new();
        for response in settled {
            // To who rejects that it is still good, it is not (T-10).
            let beats = response.beats.into_iter().filter(|name| is_current(name));
            again.extend(beats.map(|name| Again { name, holds: None, since: revision }));
            for mut news in response.sent.into_vec() {
                let earlier = sent.get(&news.name);
                if let Some(Sent { replaces_unknown, since, .. }) = earlier {
                    news.replaces_unknown |= replaces_unknown;
                    news.since = news.since.min(*since);
                }
                sent.insert(news.name.clone(), news);
            }
            awaited.extend(response.awaited);
        }
        if self.repeats_everything {
            // What was repeated is as suspect as what was news.
            let is_named = |name: &str| mentions(&error.message, name);
            let rejected = std::mem::take(&mut self.rejected).into_iter();
            let (repeated, withheld): (BTreeMap<_, _>, _) =
                rejected.partition(|(name, rejected)| !rejected.blamed || is_named(name));
            self.rejected = withheld;
            is_innocent &= repeated.is_empty();
            for (name, rejected) in repeated {
                sent.entry(name).or_insert(rejected.sent);
            }
            self.in_flight.iter_mut().for_each(|response| response.is_crossed = true);
        }
        let names: Vec<_> = sent.keys().cloned().collect();
        let is_blamed = |name: &&Arc<str>| mentions(&error.message, name);
        let words: Vec<_> = names.iter().filter(is_blamed).cloned().collect();
        is_innocent &= words.is_empty();
        let (kept, sent): (BTreeMap<_, _>, _) =
            sent.into_iter().partition(|(_, sent)| sent.is_kept);
        let is_doubted = |name: &Arc<str>| words.is_empty() || words.contains(name);
        let doubted: Vec<_> = kept.into_keys().filter(is_doubted).collect();
        let in_flight = self.unanswered();
        let is_parked = |name: &Arc<str>, sent: &Sent| {
            is_current(name) && !in_flight.contains(name) && !sent.is_void
        };
        let all = sent.len();
        let parked: Vec<_> =
            sent.into_iter().filter(|(name, sent)| is_parked(name, sent)).collect();
        let is_whole = parked.len() == all && doubted.is_empty() && !is_innocent;
        self.rejections += 1;
        for (name, sent) in parked {
            let blamed = mentions(&error.message, &name);
            let holds = match blamed {
                true => self.acknowledged.get(&name).cloned().flatten(),
                false => sent.content.clone(),
            };
            let rejected = Rejected { group: self.rejections, holds, sent, blamed };
            if is_whole {
                self.rejected.insert(name, rejected);
            } else {
                again.push(rejected.again());
            }
        }
        Settled::Rejected {
            nonce,
            revision,
            names,
            blamed: words,
            is_innocent,
            is_first,
            is_probe,
            again,
            doubted,
            awaited,
        }
    }

    /// Notes that a name is gone without a word.
    pub(crate) fn void(&mut self, name: &str) {
        let responses = self.in_flight.iter_mut();
        let sent = responses.filter_map(|response| response.sent.get_mut(name));
        sent.for_each(|sent| sent.is_void = true);
    }

    /// Frees the group of a rejected name, since one of it is about to go out again (N-06).
    pub(crate) fn release(&mut self, name: &str) -> Vec<Again> {
        let Some(group) = self.rejected.get(name).map(|rejected| rejected.group) else {
            return Vec::new();
        };
        let rejected = std::mem::take(&mut self.rejected).into_iter();
        let (freed, rest): (BTreeMap<_, _>, _) =
            rejected.partition(|(_, rejected)| rejected.group == group);
        self.rejected = rest;
        freed.into_values().map(Rejected::again).collect()
    }

    /// What was rejected last.
    fn last_group(&self) -> impl Iterator<Item = (&Arc<str>, &Rejected)> {
        self.rejected.iter().filter(|(_, rejected)| rejected.group == self.rejections)
    }

    /// Frees, in parts to be sent one by one, those of the last rejected names that may be good: the ones
    /// that the client's words do not name, or if they name none, all of them in two halves. A name alone
    /// stays.
    pub(crate) fn isolate(&mut self) -> Vec<Vec<Again>> {
        let (blamed, others): (Vec<_>, Vec<_>) =
            self.last_group().partition(|(_, rejected)| rejected.blamed);
        let names = |part: &[(&Arc<str>, &Rejected)]| -> Vec<Arc<str>> {
            part.iter().map(|(name, _)| (*name).clone()).collect()
        };
        let parts = match (blamed.len(), others.len()) {
            (_, 0) | (0, 1) => return Vec::new(),
            (0, all) => {
                let (one, other) = others.split_at(all.div_ceil(2));
                vec![names(one), names(other)]
            }
            _ => vec![names(&others)],
        };
        let free = |name| self.rejected.remove(&name).map(Rejected::again);
        let mut free = free;
        parts.into_iter().map(|part| part.into_iter().filter_map(&mut free).collect()).collect()
    }

    /// Frees a single name, if it may go out without its group: the client's words name others than it.
    /// Whatever is not rejected may.
    pub(crate) fn release_alone(&mut self, name: &str) -> bool {
        let Some(rejected) = self.rejected.get(name) else { return true };
        let mut group = self.rejected.values().filter(|other| other.group == rejected.group);
        let is_free = !rejected.blamed && group.any(|other| other.blamed);
        if is_free {
            self.rejected.remove(name);
        }
        is_free
    }

    /// The rejected names that meet a condition.
    pub(crate) fn rejected(&self, meets: impl Fn(&str) -> bool) -> Vec<Arc<str>> {
        self.rejected.keys().filter(|name| meets(name)).cloned().collect()
    }

    /// What was sent of a rejected name, if it is rejected; that it is gone may be what was.
    pub(crate) fn rejected_content(&self, name: &str) -> Option<Option<&Resource>> {
        self.rejected.get(name).map(|rejected| rejected.sent.content.as_ref())
    }

    pub(crate) fn is_rejected(&self, name: &str) -> bool {
        self.rejected.contains_key(name)
    }

    /// Whether something was rejected and has not been sent again since.
    pub(crate) fn has_rejections(&self) -> bool {
        !self.rejected.is_empty()
    }

    /// Lets go of what is no longer subscribed.
    pub(crate) fn retain(&mut self, is_subscribed: impl Fn(&str) -> bool) {
        self.acknowledged.retain(|name, _| is_subscribed(name));
    }

    /// What goes out in the place of a name's content: a response that repeats everything does not
    /// repeat what the client rejected by name, but what it acknowledged before.
    pub(crate) fn substitute(&self, name: &str) -> Option<Option<Resource>> {
        let rejected = self.rejected.get(name)?;
        rejected.blamed.then(|| rejected.holds.clone())
    }

    /// Whether something has a substitute.
    pub(crate) fn withholds(&self) -> bool {
        self.rejected.values().any(|rejected| rejected.blamed)
    }

    /// The names that have a substitute.
    pub(crate) fn withheld(&self) -> BTreeSet<Arc<str>> {
        if !self.repeats_everything {
            return BTreeSet::new();
        }
        let blamed = self.rejected.iter().filter(|(_, rejected)| rejected.blamed);
        blamed.map(|(name, _)| name.clone()).collect()
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

    /// The oldest revision of which something is rejected.
    pub(crate) fn rejected_since(&self) -> Option<Revision> {
        self.rejected.values().map(|rejected| rejected.sent.since).min()
    }

    /// What is in flight.
    pub(crate) fn sent(&self) -> impl Iterator<Item = &Sent> {
        self.in_flight.iter().flat_map(|response| response.sent.iter())
    }
}
