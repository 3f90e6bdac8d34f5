//! One type on one stream: what the client subscribes to, what it lacks, and what it was sent.
//!
//! ```text
//!                 subscribed, changed                  sent
//!   in step ────────────────────────────> owed ─────────────────> in flight
//!      ^                                   ^ ^                      │    │
//!      │                                   │ └── changed, removed, ─┘    │
//!      │                                   │     asked for               │
//!      │                                   └──────────── rejected <──NACK┤
//!      └─────────────────────────────────────────────────────────────ACK─┘
//! ```
//!
//! A name in step costs nothing: the cursor says up to which revision the log was looked at, and only
//! exceptions are kept. A change that meets a name in flight makes it owed again; the answer to what is
//! in flight then touches nothing.

mod aside;
mod changes;
mod claim;
mod leases;
mod report;
mod usage;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

pub use self::report::Reception;
use self::{aside::Aside, claim::Claim};
use crate::{
    DeltaRequest, ErrorDetail, Resource, Revision, SotwRequest, Subscription, TypeUrl, Variant,
    View,
    collection::covers,
    sent::{News, Sent},
    subscription::Asked,
    type_url::{Lingering, TypePolicy},
    unsettled::{Again, InFlight, Settled, Unsettled},
    whole::{Part, Remainder},
};

/// One type on one stream.
#[derive(Debug)]
pub(crate) struct TypeStream {
    pub(crate) type_url: TypeUrl,
    pub(crate) policy: &'static TypePolicy,
    pub(crate) variant: Variant,
    pub(crate) subscription: Subscription,
    /// Up to where the log was looked at; nothing before the first look at a known type.
    pub(crate) cursor: Option<Revision>,
    /// Everything is owed, from the next look on.
    everything: bool,
    /// An answer is due even if there is nothing to put into it (S-14, W-12).
    pub(crate) answer_due: bool,
    /// What is owed may be spread over several responses.
    pub(crate) may_split: bool,
    /// The client answered something.
    answered: bool,
    /// It may run something that it rejected, on this stream or the one before, and that was not repaired
    /// since: after a NACK it runs the good part, and reports the older version (R-13).
    pub(crate) is_doubtful: bool,
    /// What is owed is the first answer to a client that shows no earlier state: nothing of it waits.
    pub(crate) is_first: bool,
    /// The client holds something from before this stream, and it is not known what.
    holds_unknown: bool,
    /// The good siblings of what was rejected are sent without it.
    pub(crate) isolates: bool,
    /// What was rejected is to be taken apart, as soon as nothing waits that it may harm.
    pub(crate) is_suspect: bool,
    /// How many parts were made of what was rejected, and how many since a rejection that was no part.
    probes: u32,
    tries: u32,
    /// It asked for names, of which some may be gone.
    asked: bool,
    /// Names of which there is nothing are told as errors, too (E-01).
    pub(crate) tells_errors: bool,
    /// The client is told how long things are good.
    pub(crate) bears_ttl: bool,
    pub(crate) aside: Aside,
    pub(crate) owed: BTreeMap<Arc<str>, Owed>,
    pub(crate) unsettled: Unsettled,
}

/// A name for which the client may differ from the view.
#[derive(Debug, Default)]
pub(crate) struct Owed {
    /// What the client was last told, as far as that is known.
    pub(crate) told: Option<Resource>,
    /// The client may hold something of that name: its absence must be told (N-14).
    pub(crate) may_hold: bool,
    /// It says that it has something of that name from before this stream.
    pub(crate) claimed: bool,
    /// What it may hold is not known: it has it from before this stream.
    pub(crate) unknown: bool,
    pub(crate) reason: Reason,
    /// The revision before which nothing of this was news.
    pub(crate) since: Revision,
    /// What goes out with it and with nothing else, to find out which of several names is at fault; 0 if
    /// it is sent for another reason.
    pub(crate) probe: u32,
    /// Since when it is held for some time only: its removal, for something in the view itself or since the
    /// client asks for it by name; or what no answer can leave as the client has it.
    pub(crate) waits_since: Option<Duration>,
}

impl Owed {
    /// Whether the client has something of that name, or may, and it is not known what.
    pub(crate) fn cannot_be_repeated(&self) -> bool {
        self.unknown && self.told.is_none()
    }
}

/// Why something is owed. A later reason replaces an earlier one.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reason {
    /// It changed: owed only as long as it differs from what was told.
    #[default]
    Changed,
    /// It is to be sent again although unchanged: behind its cluster, or with a rejected sibling.
    Again,
    /// The client asks for it by name: an answer even if there is no such resource (D-04, D-06).
    Asked,
    /// The client gave the name up under a wildcard, and asks what becomes of it (W-10).
    Released,
}

/// How it stands with a name that is looked for because a client asks for it.
#[derive(Debug)]
pub(crate) enum Sought {
    /// It may still be found.
    Underway,
    /// Nothing came of it, for this reason.
    Failed(ErrorDetail),
}

/// How often what was rejected is taken apart.
const MOST_TRIES: u32 = 64;

/// What a request said.
pub(crate) struct Told {
    pub(crate) error: Option<ErrorDetail>,
    /// What that response was, if the request answers it.
    pub(crate) settled: Option<Settled>,
    pub(crate) asked: Asked,
}

impl TypeStream {
    pub(crate) fn new(type_url: TypeUrl, variant: Variant) -> Self {
        let policy = type_url.policy();
        Self {
            policy,
            type_url,
            variant,
            subscription: Subscription::default(),
            cursor: None,
            everything: false,
            answer_due: false,
            may_split: policy.may_split(variant),
            answered: false,
            is_doubtful: false,
            is_first: false,
            holds_unknown: false,
            isolates: false,
            is_suspect: false,
            probes: 0,
            tries: 0,
            asked: false,
            tells_errors: false,
            bears_ttl: false,
            aside: Aside::default(),
            owed: BTreeMap::new(),
            unsettled: Unsettled::new(variant, policy.repeats_everything(variant)),
        }
    }

    /// What goes by a name for this client.
    pub(crate) fn find<V: View>(&self, view: &V, name: &str) -> Option<Resource> {
        self.subscription.find(view, &self.type_url, name)
    }

    /// Whether nothing is subscribed but by the wildcard.
    fn is_all_covered(&self) -> bool {
        self.subscription.names().len() + self.subscription.globs().len() == 0
    }

    /// Takes up what is subscribed of the type that this one belongs to (V-03).
    pub(crate) fn follow_parents<'a>(
        &mut self,
        parents: impl Iterator<Item = &'a Arc<str>>,
    ) -> Asked {
        let asked = self.subscription.follow_parents(parents);
        self.ask(&asked);
        asked
    }

    /// Whether each response holds everything that is subscribed.
    pub(crate) fn repeats_everything(&self) -> bool {
        self.policy.repeats_everything(self.variant)
    }

    /// Whether there may be something to send at the view that was looked at last.
    pub(crate) fn owes(&self) -> bool {
        self.answer_due
            || self.everything
            || self.asked
            || !self.aside.asked_globs.is_empty()
            || !self.aside.dropped.is_empty()
            || self.is_suspect
            || self.aside.first.is_some()
            || !self.owed.is_empty()
            || !self.aside.held_back.is_empty()
    }

    /// The next response is due, and holds all that is owed.
    pub(crate) fn demand_answer(&mut self) {
        self.answer_due = true;
        self.may_split = false;
    }

    /// Reads a State of the World request: what it answers, what it claims, what it asks for.
    pub(crate) fn handle_sotw(&mut self, first: bool, request: SotwRequest) -> Told {
        let (nonce, error) = (request.response_nonce, request.error_detail);
        let settled = self.settle(&nonce, Some(&request.version_info), error.as_ref());
        if first && !request.version_info.is_empty() {
            self.aside.fill().claim = Claim::Version(request.version_info);
        }
        let mut asked = self.subscription.replace(request.resource_names, self.policy.wildcard);
        if nonce.is_empty() && std::mem::take(&mut self.answered) {
            // Who answered knows a nonce; without one, the client forgot the type, and asks anew.
            asked.names = self.subscription.names().cloned().collect();
        }
        self.ask(&asked);
        Told { error, settled, asked }
    }

    /// Reads a delta request: what it answers, what it claims, what it asks for.
    pub(crate) fn handle_delta(&mut self, first: bool, request: DeltaRequest) -> Told {
        let (nonce, error) = (request.response_nonce, request.error_detail);
        let settled = self.settle(&nonce, None, error.as_ref());
        if first && !request.initial_resource_versions.is_empty() {
            self.aside.fill().claim = Claim::Versions(request.initial_resource_versions);
        }
        let subscribe = request.resource_names_subscribe;
        let unsubscribe = request.resource_names_unsubscribe;
        let asked = self.subscription.update(subscribe, &unsubscribe, self.policy.wildcard);
        self.ask(&asked);
        Told { error, settled, asked }
    }

    /// Reads the answer to a response, if that is what a request is.
    fn settle(
        &mut self,
        nonce: &str,
        version: Option<&str>,
        error: Option<&ErrorDetail>,
    ) -> Option<Settled> {
        let (subscription, owed) = (&self.subscription, &self.owed);
        let is_current = |name: &str| subscription.contains(name) && !owed.contains_key(name);
        let mut settled = self.unsettled.settle(nonce, version, error, is_current)?;
        self.answered = true;
        self.is_doubtful = match settled {
            Settled::Acknowledged { .. } => self.is_doubtful && !self.has_settled(),
            Settled::Rejected { .. } => true,
        };
        if let Settled::Rejected { names, is_innocent, again, awaited, is_probe, doubted, .. } =
            &mut settled
        {
            self.is_suspect = self.isolates && !self.policy.full_state;
            if !*is_probe {
                self.tries = 0;
            }
            for name in names.iter() {
                if let Some(owed) = self.owed.get_mut(name) {
                    // What was told was rejected: that it comes back to that is no reason to be silent.
                    owed.reason = owed.reason.max(Reason::Again);
                }
            }
            for name in std::mem::take(doubted) {
                if let Some(owed) = self.owed.get_mut(&name) {
                    (owed.told, owed.unknown) = (None, true);
                }
            }
            if *is_innocent {
                names.clear();
            }
            self.owe_again(std::mem::take(again));
            // The failure ended the wait of whoever waited for others, with nothing (N-13).
            for name in std::mem::take(awaited) {
                if self.unsettled.release_alone(&name) {
                    self.follow(&name);
                }
            }
        }
        Some(settled)
    }

    /// Whether the client has accepted all that it is owed.
    pub(crate) fn has_settled(&self) -> bool {
        self.owed.is_empty() && !self.unsettled.is_unanswered() && !self.unsettled.has_rejections()
    }

    /// Takes apart what was rejected last, so that its good siblings reach the client: in as many tries as
    /// it takes to find a few bad ones among many, and no more.
    pub(crate) fn isolate(&mut self) {
        self.is_suspect = false;
        if self.tries >= MOST_TRIES {
            return;
        }
        for part in self.unsettled.isolate() {
            self.tries += 1;
            self.probes += 1;
            let names: Vec<_> = part.iter().map(|again| again.name.clone()).collect();
            self.owe_again(part);
            for name in names {
                if let Some(owed) = self.owed.get_mut(&name) {
                    owed.probe = self.probes;
                }
            }
        }
    }

    /// Takes up what a request changed in the subscription.
    fn ask(&mut self, asked: &Asked) {
        if !asked.is_nothing() {
            self.take_over();
        }
        if asked.shrunk {
            self.shrink();
        }
        self.everything |= asked.everything;
        if !asked.globs.is_empty() {
            self.aside.fill().asked_globs.extend(asked.globs.iter().cloned());
        }
        if asked.everything || !asked.globs.is_empty() {
            // What is on its way may arrive after the wildcard began, be it gone when that is looked at.
            let globs: BTreeSet<_> = asked.globs.iter().cloned().collect();
            for name in self.unsettled.unanswered() {
                if asked.everything || covers(&globs, &name) {
                    self.owe(name, None, true, Reason::Again);
                }
            }
        }
        let in_flight =
            if asked.names.is_empty() { BTreeSet::new() } else { self.unsettled.unanswered() };
        // Where responses repeat everything, any of them may bring it.
        let may_come = self.repeats_everything() && self.unsettled.is_unanswered();
        self.asked |= !asked.names.is_empty();
        for name in &asked.names {
            // What is on its way may arrive after the name was given up and asked for again.
            let held = may_come || self.subscription.was_told(name) || in_flight.contains(name);
            self.owe(name.clone(), None, held, Reason::Asked);
        }
        // Who gives a name up under a wildcard asks what becomes of it (W-10).
        for name in &asked.given_up {
            if !self.subscription.covers(name) {
                continue;
            }
            match self.variant {
                Variant::Delta => self.owe(name.clone(), None, true, Reason::Released),
                _ => _ = self.aside.fill().dropped.insert(name.clone()),
            }
        }
    }

    /// How many names it gave up and asks what becomes of them.
    pub(crate) fn given_up(&self) -> usize {
        let owed = self.owed.values().filter(|owed| owed.reason == Reason::Released);
        owed.count() + self.aside.dropped.len()
    }

    /// Lets go of what is no longer subscribed. What was rejected together with it may go without it.
    fn shrink(&mut self) {
        for name in self.unsettled.rejected(|name| !self.subscription.contains(name)) {
            self.release(&name);
        }
        let subscription = &self.subscription;
        self.aside.shrink(subscription, self.policy);
        self.everything &= subscription.is_wildcard();
        self.owed.retain(|name, _| subscription.contains(name));
        self.unsettled.retain(|name| subscription.contains(name));
    }

    /// Owes a name again, if it is subscribed, because what refers to it was sent (O-04); but not what
    /// was rejected (N-02).
    pub(crate) fn follow(&mut self, name: &Arc<str>) {
        if self.subscription.contains(name) && !self.unsettled.is_rejected(name) {
            self.take_over();
            let held = self.subscription.was_told(name);
            self.owe(name.clone(), None, held, Reason::Again);
        }
    }

    /// The next part of a first answer that is everything, if that is what is owed.
    pub(crate) fn next_part(&mut self) -> Option<Part> {
        let first = &mut self.aside.get_mut()?.first;
        let (part, is_last) = first.as_mut()?.next()?;
        if is_last {
            *first = None;
        }
        self.answer_due = false;
        Some(part)
    }

    /// Owes each name for itself that a first answer still lacks, since it will not go on as it began.
    pub(crate) fn take_over(&mut self) {
        for resource in self.aside.take(|it| &mut it.first).into_iter().flat_map(Remainder::unsent)
        {
            let owed = Owed { reason: Reason::Again, ..Owed::default() };
            self.owed.insert(resource.name().clone(), owed);
        }
    }

    /// Owes a name; what is known of it from before stays.
    fn owe(&mut self, name: Arc<str>, told: Option<Resource>, may_hold: bool, reason: Reason) {
        self.release(&name);
        let since = self.cursor.map_or(Revision(0), |cursor| Revision(cursor.0 + 1));
        let new = || Owed { told, since, ..Owed::default() };
        let owed = self.owed.entry(name).or_insert_with(new);
        owed.probe = 0;
        owed.may_hold |= may_hold;
        owed.reason = owed.reason.max(reason);
    }

    /// If a name is rejected, owes its whole group again, since one of it is about to go out (N-06).
    fn release(&mut self, name: &str) {
        let again = self.unsettled.release(name);
        self.owe_again(again);
    }

    fn owe_again(&mut self, again: Vec<Again>) {
        for Again { name, holds, since } in again {
            self.owe(name.clone(), holds, true, Reason::Again);
            if let Some(owed) = self.owed.get_mut(&name) {
                owed.since = owed.since.min(since);
            }
        }
    }

    /// Notes that a response goes out. What it held although it is gone already is still to be removed.
    pub(crate) fn send(&mut self, response: InFlight, most_names: usize) {
        // What is shared was owed to nobody by name.
        let own: &[Sent] = match &response.sent {
            News::Own(own) => own,
            News::Shared(_) => &[],
        };
        for Sent { name, content, since, is_kept, .. } in own {
            let told = self.owed.remove(name).and_then(|owed| owed.told);
            self.unsettled.leave(name, told);
            self.subscription.tell(name, content.as_ref().map(Resource::hash));
            let leased = content.as_ref().filter(|it| self.bears_ttl && it.ttl().is_some());
            if leased.is_some() {
                self.aside.fill();
            }
            if let Some(aside) = self.aside.get_mut() {
                aside.sought.remove(name);
                aside.strange.remove(name);
                aside.leases.tell(name, leased, response.sent_at);
                if content.is_some() && self.policy.lingers == Lingering::UntilGivenUp {
                    aside.lingering.retain(|(resource, _)| resource.name() != name);
                }
            }
            if *is_kept {
                let (told, since) = (content.clone(), *since);
                let owed = Owed { told, may_hold: true, since, ..Owed::default() };
                self.owed.insert(name.clone(), owed);
            }
        }
        self.is_first &= !self.owed.is_empty() || self.aside.first.is_some();
        self.aside.tidy();
        self.unsettled.send(response, most_names);
    }
}
