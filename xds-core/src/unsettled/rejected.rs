//! What a client rejected: parked until it changes, and taken apart to find what is at fault.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use super::{Again, InFlight, Settled, Unsettled};
use crate::{ErrorDetail, Nonce, Resource, Revision, sent::Sent, words::mentions};

/// A name that was rejected: the others of its group were in the same response, and go with it when one
/// of them goes out again (N-06).
#[derive(Debug)]
pub(super) struct Rejected {
    group: u64,
    /// What the client holds instead, as far as that is known.
    holds: Option<Resource>,
    /// What it rejected, and may run in part.
    pub(super) sent: Sent,
    /// The client's words name it.
    blamed: bool,
}

impl Rejected {
    fn again(self) -> Again {
        Again { name: self.sent.name, holds: self.holds, since: self.sent.since }
    }
}

/// What is in rejected responses.
#[derive(Default)]
struct Suspects {
    /// What was said of each name.
    sent: BTreeMap<Arc<str>, Sent>,
    /// What was only said to be still good.
    again: Vec<Again>,
    /// What clients were waiting for when the responses were sent.
    awaited: BTreeSet<Arc<str>>,
}

impl Suspects {
    fn of(
        settled: VecDeque<Box<InFlight>>,
        revision: Revision,
        is_current: impl Fn(&str) -> bool,
    ) -> Self {
        let mut suspects = Self::default();
        let mut awaited: Vec<_> = settled.iter().filter_map(|it| it.awaited.clone()).collect();
        awaited.dedup_by(|one, other| Arc::ptr_eq(one, other));
        suspects.awaited.extend(awaited.iter().flat_map(|names| names.iter().cloned()));
        for response in settled {
            // To who rejects that it is still good, it is not (T-10).
            let beats = response.beats.into_iter().filter(|name| is_current(name));
            suspects.again.extend(beats.map(|name| Again { name, holds: None, since: revision }));
            for mut news in response.sent.into_vec() {
                if let Some(earlier) = suspects.sent.get(&news.name) {
                    news.replaces_unknown |= earlier.replaces_unknown;
                    news.since = news.since.min(earlier.since);
                }
                suspects.sent.insert(news.name.clone(), news);
            }
        }
        suspects
    }
}

impl Unsettled {
    /// Takes up that responses were rejected. If something in them was sent again, changed or was given up
    /// since, the others go out at once: what crosses a NACK must not strand them.
    pub(super) fn reject(
        &mut self,
        (nonce, revision): (Nonce, Revision),
        settled: VecDeque<Box<InFlight>>,
        error: &ErrorDetail,
        is_current: impl Fn(&str) -> bool,
    ) -> Settled {
        let is_first = settled.iter().any(|response| response.is_first);
        let is_probe = settled.iter().all(|response| response.is_probe);
        let is_crossed = settled.iter().any(|response| response.is_crossed);
        let Suspects { mut sent, mut again, awaited } =
            Suspects::of(settled, revision, &is_current);
        let is_repeated = self.suspect_repeated(&mut sent, error);
        let names: Vec<_> = sent.keys().cloned().collect();
        let is_blamed = |name: &&Arc<str>| mentions(&error.message, name);
        let blamed: Vec<_> = names.iter().filter(is_blamed).cloned().collect();
        let is_innocent = is_crossed && !is_repeated && blamed.is_empty();
        let (kept, sent): (BTreeMap<_, _>, _) =
            sent.into_iter().partition(|(_, sent)| sent.is_kept);
        let is_doubted = |name: &Arc<str>| blamed.is_empty() || blamed.contains(name);
        let doubted: Vec<_> = kept.into_keys().filter(is_doubted).collect();
        let is_whole = doubted.is_empty() && !is_innocent;
        again.extend(self.park(sent, is_whole, error, is_current));
        Settled::Rejected {
            nonce,
            revision,
            names,
            blamed,
            is_innocent,
            is_first,
            is_probe,
            again,
            doubted,
            awaited,
        }
    }

    /// Where responses repeat everything, what was repeated is as suspect as what was news; says whether
    /// anything was that is rejected.
    fn suspect_repeated(
        &mut self,
        sent: &mut BTreeMap<Arc<str>, Sent>,
        error: &ErrorDetail,
    ) -> bool {
        if !self.repeats_everything {
            return false;
        }
        let is_named = |name: &str| mentions(&error.message, name);
        let rejected = std::mem::take(&mut self.rejected).into_iter();
        let (repeated, withheld): (BTreeMap<_, _>, _) =
            rejected.partition(|(name, rejected)| !rejected.blamed || is_named(name));
        self.rejected = withheld;
        self.in_flight.iter_mut().for_each(|response| response.is_crossed = true);
        let is_repeated = !repeated.is_empty();
        for (name, rejected) in repeated {
            sent.entry(name).or_insert(rejected.sent);
        }
        is_repeated
    }

    /// Parks rejected names as one group, if that is whole and each is as it was sent. If not, what is left
    /// of it is returned, to go out at once.
    fn park(
        &mut self,
        sent: BTreeMap<Arc<str>, Sent>,
        is_whole: bool,
        error: &ErrorDetail,
        is_current: impl Fn(&str) -> bool,
    ) -> Vec<Again> {
        let in_flight = self.unanswered();
        let is_parked = |name: &Arc<str>, sent: &Sent| {
            is_current(name) && !in_flight.contains(name) && !sent.is_void
        };
        let all = sent.len();
        let parked: Vec<_> =
            sent.into_iter().filter(|(name, sent)| is_parked(name, sent)).collect();
        let is_whole = is_whole && parked.len() == all;
        self.rejections += 1;
        let mut again = Vec::new();
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
        again
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
        let mut free = |name| self.rejected.remove(&name).map(Rejected::again);
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

    /// The oldest revision of which something is rejected.
    pub(crate) fn rejected_since(&self) -> Option<Revision> {
        self.rejected.values().map(|rejected| rejected.sent.since).min()
    }
}
