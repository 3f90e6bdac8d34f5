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

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use crate::{
    Change, DeltaRequest, ErrorDetail, LogTruncated, Resource, Revision, SotwRequest, Subscription,
    TypeUrl, Variant, View, subscription::Asked, type_url::TypePolicy,
};

/// How many responses of a type may be unanswered before the oldest is forgotten. Clients legitimately
/// never answer (N-08), and their silence must not cost memory; a forgotten answer counts as unknown.
const MAX_UNANSWERED: usize = 1024;

/// One type on one stream.
#[derive(Debug)]
pub(crate) struct TypeStream {
    pub(crate) type_url: TypeUrl,
    pub(crate) policy: &'static TypePolicy,
    pub(crate) variant: Variant,
    pub(crate) subscription: Subscription,
    /// Up to where the log was looked at; nothing before the first look at a known type.
    pub(crate) cursor: Option<Revision>,
    claim: Claim,
    /// Everything is owed, from the next look on.
    everything: bool,
    /// An answer is due even if there is nothing to put into it (S-14, W-12).
    pub(crate) answer_due: bool,
    pub(crate) owed: BTreeMap<Arc<str>, Owed>,
    in_flight: VecDeque<InFlight>,
    /// Names that were rejected and have not changed since: nothing is sent for them (N-02).
    rejected: BTreeMap<Arc<str>, Rejected>,
    rejections: u64,
    /// The content last acknowledged, of names that are in flight or rejected. Kept where a response
    /// repeats everything, so that it need not repeat what was rejected.
    acknowledged: BTreeMap<Arc<str>, Option<Resource>>,
}

/// A name for which the client may differ from the view.
#[derive(Debug, Default)]
pub(crate) struct Owed {
    /// What the client was last told, as far as that is known.
    pub(crate) told: Option<Resource>,
    /// The client may hold something of that name: its absence must be told (N-14).
    pub(crate) may_hold: bool,
    pub(crate) reason: Reason,
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

/// What the first request of a type said the client holds from an earlier stream.
#[derive(Debug, Default)]
enum Claim {
    #[default]
    Nothing,
    /// `initial_resource_versions`: a version for each name (R-06 to R-10).
    Versions(BTreeMap<String, String>),
    /// `version_info`: a version for all (R-02), be it ours or another server's.
    Version(String),
}

/// A response that was not answered yet.
#[derive(Debug)]
struct InFlight {
    nonce: String,
    revision: Revision,
    version: String,
    sent: Vec<Sent>,
    /// What it left out, because the client rejected that by name.
    withheld: BTreeSet<Arc<str>>,
    /// What responses that were unanswered then wait for (N-13).
    awaited: Vec<Arc<str>>,
}

/// What a response said of a name: its content, or that it is gone.
#[derive(Debug)]
pub(crate) struct Sent {
    pub(crate) name: Arc<str>,
    pub(crate) content: Option<Resource>,
}

/// A name that was rejected: the others of its group were in the same response, and go with it when one
/// of them goes out again (N-06).
#[derive(Debug)]
struct Rejected {
    group: u64,
    /// What the client holds instead, as far as that is known.
    holds: Option<Resource>,
    /// The client's words name it.
    blamed: bool,
}

/// What an answered response was.
#[derive(Debug)]
pub(crate) enum Settled {
    Acknowledged { revision: Revision },
    Rejected { names: Vec<Arc<str>> },
}

/// The nonce that a request names, its error, and what that response was, if it was one.
pub(crate) type Answered = (String, Option<ErrorDetail>, Option<Settled>);

impl TypeStream {
    pub(crate) fn new(type_url: TypeUrl, variant: Variant) -> Self {
        Self {
            policy: type_url.policy(),
            type_url,
            variant,
            subscription: Subscription::default(),
            cursor: None,
            claim: Claim::Nothing,
            everything: false,
            answer_due: false,
            owed: BTreeMap::new(),
            in_flight: VecDeque::new(),
            rejected: BTreeMap::new(),
            rejections: 0,
            acknowledged: BTreeMap::new(),
        }
    }

    /// Whether each response holds everything that is subscribed.
    pub(crate) fn repeats_everything(&self) -> bool {
        self.variant == Variant::Sotw && self.policy.full_state
    }

    /// Reads a State of the World request: what it answers, what it claims, what it asks for.
    pub(crate) fn handle_sotw(&mut self, first: bool, request: SotwRequest) -> Answered {
        let (nonce, error) = (request.response_nonce, request.error_detail);
        let settled = self.settle(&nonce, Some(&request.version_info), error.as_ref());
        if first && !request.version_info.is_empty() {
            self.claim = Claim::Version(request.version_info);
        }
        let asked = self.subscription.replace(request.resource_names, self.policy.wildcard);
        self.ask(asked);
        (nonce, error, settled)
    }

    /// Reads a delta request: what it answers, what it claims, what it asks for.
    pub(crate) fn handle_delta(&mut self, first: bool, request: DeltaRequest) -> Answered {
        let (nonce, error) = (request.response_nonce, request.error_detail);
        let settled = self.settle(&nonce, None, error.as_ref());
        if first {
            self.claim = Claim::Versions(request.initial_resource_versions);
        }
        let subscribe = request.resource_names_subscribe;
        let unsubscribe = request.resource_names_unsubscribe;
        let asked = self.subscription.update(subscribe, &unsubscribe, self.policy.wildcard);
        self.ask(asked);
        (nonce, error, settled)
    }

    /// Whether something was rejected and has not been sent again since.
    pub(crate) fn has_rejections(&self) -> bool {
        !self.rejected.is_empty()
    }

    /// Takes up what a request changed in the subscription.
    fn ask(&mut self, asked: Asked) {
        if asked.shrunk {
            self.shrink();
        }
        self.everything |= asked.everything;
        for name in asked.names {
            self.owe_again_with(&name);
            // What is on its way may arrive after the name was given up and asked for again.
            let held = self.subscription.was_told(&name) || self.is_in_flight(&name);
            self.owe(name, None, held, Reason::Asked);
        }
        for name in asked.released {
            self.owe(name, None, true, Reason::Released);
        }
    }

    /// Lets go of what is no longer subscribed. What was rejected together with it may go without it.
    fn shrink(&mut self) {
        let given_up = self.rejected.keys().filter(|name| !self.subscription.contains(name));
        for name in given_up.cloned().collect::<Vec<_>>() {
            self.owe_again_with(&name);
        }
        let subscription = &self.subscription;
        match &mut self.claim {
            Claim::Nothing => {}
            Claim::Versions(versions) => versions.retain(|name, _| subscription.contains(name)),
            // It stood for more than what is held now.
            Claim::Version(version) => version.clear(),
        }
        self.everything &= subscription.is_wildcard();
        self.owed.retain(|name, _| subscription.contains(name));
        self.acknowledged.retain(|name, _| subscription.contains(name));
    }

    /// Owes a name again, if it is subscribed, because what refers to it was sent (O-04); but not what
    /// was rejected (N-02).
    pub(crate) fn follow(&mut self, name: &Arc<str>) {
        if self.subscription.contains(name) && !self.rejected.contains_key(name) {
            let held = self.subscription.was_told(name);
            self.owe(name.clone(), None, held, Reason::Again);
        }
    }

    /// Looks at what changed up to this view. Nothing of an unknown type is looked at.
    pub(crate) fn look<V: View>(&mut self, view: &V) -> Result<(), LogTruncated> {
        if !view.is_known(&self.type_url) {
            return Ok(());
        }
        match self.cursor {
            None => self.begin(view),
            Some(cursor) if cursor < view.revision() => {
                match view.changes(&self.type_url, cursor) {
                    Ok(changes) => self.take_up(changes.iter()),
                    Err(truncated) => self.compare(view, truncated)?,
                }
            }
            Some(_) => {}
        }
        if std::mem::take(&mut self.everything) {
            self.owe_everything(view);
        }
        self.cursor = Some(view.revision());
        Ok(())
    }

    /// Takes up changes, of which those count that are subscribed.
    pub(crate) fn take_up<'a>(&mut self, changes: impl Iterator<Item = &'a Change>) {
        for change in changes {
            if self.subscription.contains(&change.name) {
                self.note(&change.name, change);
                continue;
            }
            let versions = change.before.iter().chain(&change.after);
            let aliases: BTreeSet<_> = versions.flat_map(Resource::aliases).collect();
            for alias in aliases {
                if self.subscription.contains(alias) {
                    self.note(alias, change);
                }
            }
        }
    }

    /// The first look: what the client claims to hold is compared, once.
    fn begin<V: View>(&mut self, view: &V) {
        match std::mem::take(&mut self.claim) {
            Claim::Versions(versions) if !versions.is_empty() => {
                self.everything = false;
                self.compare_claimed(view, versions);
            }
            Claim::Version(version) if self.repeats_everything() => {
                let is_current = version.parse() == Ok(view.version(&self.type_url));
                if is_current && self.subscription.names().next().is_none() {
                    self.everything = false;
                } else {
                    // It holds something, and only an answer tells what of that is gone.
                    self.answer_due = true;
                }
            }
            _ => {}
        }
    }

    fn compare_claimed<V: View>(&mut self, view: &V, mut versions: BTreeMap<String, String>) {
        let type_url = self.type_url.clone();
        if self.subscription.is_wildcard() {
            for resource in view.resources(&type_url) {
                let claimed = versions.remove(&**resource.name());
                if claimed.as_deref() != Some(resource.version()) {
                    self.owe(resource.name().clone(), None, claimed.is_some(), Reason::Changed);
                }
            }
        }
        for name in versions.into_keys() {
            if self.subscription.contains(&name) {
                self.owe(name.into(), None, true, Reason::Changed);
            }
        }
    }

    /// What is done for who is too late for the log: names are compared with what was told of them. A
    /// wildcard client in delta cannot be told what is gone, and must come back with what it holds.
    fn compare<V: View>(&mut self, view: &V, truncated: LogTruncated) -> Result<(), LogTruncated> {
        if self.subscription.is_wildcard() {
            if self.variant == Variant::Delta {
                return Err(truncated);
            }
            self.everything = true;
        }
        let names: Vec<_> = self
            .subscription
            .told()
            .map(|(name, told)| (name.clone(), told, view.resolve(&self.type_url, name)))
            .filter(|(_, told, now)| *told != now.as_ref().map(Resource::hash))
            .map(|(name, told, _)| (name, told.is_some()))
            .collect();
        for (name, held) in names {
            self.owe_again_with(&name);
            self.owe(name, None, held, Reason::Again);
        }
        Ok(())
    }

    fn owe_everything<V: View>(&mut self, view: &V) {
        self.answer_due = true;
        let type_url = self.type_url.clone();
        for resource in view.resources(&type_url) {
            self.owe(resource.name().clone(), None, false, Reason::Again);
        }
    }

    /// Takes up a change of what is subscribed by this name, or alias. What was owed and came back to what was told is no
    /// longer owed, as if nothing had happened (D-16).
    fn note(&mut self, name: &Arc<str>, change: &Change) {
        self.owe_again_with(name);
        if let Some(owed) = self.owed.get(name)
            && owed.reason == Reason::Changed
            && owed.told == change.after
            && (owed.told.is_some() || !owed.may_hold)
        {
            self.owed.remove(name);
            return;
        }
        // What is owed already was not sent, so what the client may hold did not change; unless it asks
        // by name for what the wildcard gave it.
        let was_told = self
            .owed
            .get(&change.name)
            .is_none_or(|owed| owed.reason >= Reason::Asked && self.subscription.is_wildcard());
        let may_hold = change.before.is_some() && was_told;
        self.owe(name.clone(), change.before.clone(), may_hold, Reason::Changed);
    }

    /// Owes a name; what is known of it from before stays.
    fn owe(&mut self, name: Arc<str>, told: Option<Resource>, may_hold: bool, reason: Reason) {
        let owed = self.owed.entry(name).or_insert_with(|| Owed { told, ..Owed::default() });
        owed.may_hold |= may_hold;
        owed.reason = owed.reason.max(reason);
    }

    /// If a name is rejected, owes its whole group again, since one of it is about to go out (N-06).
    fn owe_again_with(&mut self, name: &str) {
        let Some(group) = self.rejected.get(name).map(|rejected| rejected.group) else { return };
        let (again, rest) = std::mem::take(&mut self.rejected)
            .into_iter()
            .partition(|(_, rejected)| rejected.group == group);
        self.rejected = rest;
        let again: BTreeMap<_, _> = again;
        for (name, rejected) in again {
            self.owe(name, rejected.holds, true, Reason::Again);
        }
    }

    /// What goes out in the place of a name's content: a response that repeats everything does not
    /// repeat what the client rejected by name, but what it acknowledged before.
    pub(crate) fn substitute(&self, name: &str) -> Option<Option<Resource>> {
        let rejected = self.rejected.get(name)?;
        rejected.blamed.then(|| rejected.holds.clone())
    }

    /// Notes that a response goes out.
    pub(crate) fn send(
        &mut self,
        nonce: String,
        revision: Revision,
        version: String,
        sent: Vec<Sent>,
        awaited: Vec<Arc<str>>,
    ) {
        let withheld = if self.repeats_everything() { self.withheld() } else { BTreeSet::new() };
        for Sent { name, content } in &sent {
            let owed = self.owed.remove(name);
            self.subscription.tell(name, content.as_ref().map(Resource::hash));
            if self.repeats_everything() {
                let told = owed.and_then(|owed| owed.told);
                self.acknowledged.entry(name.clone()).or_insert(told);
            }
        }
        if self.in_flight.len() == MAX_UNANSWERED {
            self.in_flight.pop_front();
        }
        self.in_flight.push_back(InFlight { nonce, revision, version, sent, withheld, awaited });
    }

    fn withheld(&self) -> BTreeSet<Arc<str>> {
        let blamed = self.rejected.iter().filter(|(_, rejected)| rejected.blamed);
        blamed.map(|(name, _)| name.clone()).collect()
    }

    /// Reads the answer to a response. In delta it settles its own; in State of the World its own and
    /// all before it, and only if the version is that response's: a client that no longer watches the
    /// type repeats the nonce with an older version, which is no answer (N-07). An unknown nonce is
    /// none either (S-18, D-13).
    fn settle(
        &mut self,
        nonce: &str,
        version: Option<&str>,
        error: Option<&ErrorDetail>,
    ) -> Option<Settled> {
        let at = self.in_flight.iter().position(|response| response.nonce == nonce)?;
        let answered = self.in_flight.get(at)?;
        if error.is_none() && version.is_some_and(|version| version != answered.version) {
            return None;
        }
        let revision = answered.revision;
        let settled: Vec<InFlight> = match self.variant {
            Variant::Delta => self.in_flight.remove(at).into_iter().collect(),
            Variant::Sotw => self.in_flight.drain(..=at).collect(),
        };
        Some(match error {
            None => {
                self.acknowledge(settled);
                Settled::Acknowledged { revision }
            }
            Some(error) => Settled::Rejected { names: self.reject(settled, error) },
        })
    }

    fn acknowledge(&mut self, settled: Vec<InFlight>) {
        if !self.repeats_everything() {
            return;
        }
        if let Some(newest) = settled.last() {
            // The client accepted all that was repeated, so what was not withheld is rejected no longer.
            self.rejected.retain(|name, _| newest.withheld.contains(name));
        }
        for Sent { name, content } in settled.into_iter().flat_map(|response| response.sent) {
            if self.is_in_flight(&name) || self.rejected.contains_key(&name) {
                self.acknowledged.insert(name, content);
            } else {
                self.acknowledged.remove(&name);
            }
        }
    }

    /// Parks the names of rejected responses. If one of them was sent again, changed or was given up
    /// since, the others are owed at once: what crosses a NACK must not strand them.
    fn reject(&mut self, settled: Vec<InFlight>, error: &ErrorDetail) -> Vec<Arc<str>> {
        let mut sent = BTreeMap::new();
        let mut awaited = Vec::new();
        for response in settled {
            sent.extend(response.sent.into_iter().map(|sent| (sent.name, sent.content)));
            awaited.extend(response.awaited);
        }
        let names: Vec<_> = sent.keys().cloned().collect();
        let is_parked = |name: &Arc<str>| {
            let is_newer = self.owed.contains_key(name) || self.is_in_flight(name);
            self.subscription.contains(name) && !is_newer
        };
        let sent_in_all = sent.len();
        let rest: Vec<_> = sent.into_iter().filter(|(name, _)| is_parked(name)).collect();
        let is_whole = rest.len() == sent_in_all;
        self.rejections += 1;
        for (name, told) in rest {
            let blamed = mentions(&error.message, &name);
            let holds = if blamed { self.acknowledged.get(&name).cloned().flatten() } else { told };
            if is_whole {
                self.rejected.insert(name, Rejected { group: self.rejections, holds, blamed });
            } else {
                self.owe(name, holds, true, Reason::Again);
            }
        }
        awaited.iter().for_each(|name| self.send_again_after_rejection(name));
        names
    }

    /// Sends again what a client was waiting for when it rejected something else of that type: the
    /// failure ended its wait with nothing (N-13). What shared the rejected response goes too, if the
    /// client's words name others than it.
    fn send_again_after_rejection(&mut self, name: &Arc<str>) {
        if let Some(rejected) = self.rejected.get(name) {
            let group = rejected.group;
            let mut siblings = self.rejected.values().filter(|other| other.group == group);
            if rejected.blamed || !siblings.any(|sibling| sibling.blamed) {
                return;
            }
        }
        self.rejected.remove(name);
        self.follow(name);
    }

    /// What unanswered responses refer to, of a type that is to follow them.
    pub(crate) fn unanswered_references(&self, follower: &TypeUrl) -> Vec<Arc<str>> {
        let sent = self.in_flight.iter().flat_map(|response| &response.sent);
        let references =
            sent.filter_map(|sent| sent.content.as_ref()).flat_map(Resource::references);
        let followers = references.filter(|key| key.type_url == *follower);
        followers.map(|key| key.name.clone()).collect()
    }

    /// The names in flight.
    pub(crate) fn unanswered(&self) -> BTreeSet<Arc<str>> {
        let sent = self.in_flight.iter().flat_map(|response| &response.sent);
        sent.map(|sent| sent.name.clone()).collect()
    }

    fn is_in_flight(&self, name: &str) -> bool {
        let mut sent = self.in_flight.iter().flat_map(|response| &response.sent);
        sent.any(|sent| &*sent.name == name)
    }
}

/// Whether a client's words name a resource: the name stands there as a word of its own.
fn mentions(words: &str, name: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '/');
    words.match_indices(name).any(|(at, _)| {
        let before = words.get(..at).and_then(|s| s.chars().next_back());
        let after = words.get(at + name.len()..).unwrap_or_default();
        // A full stop ends a sentence as well as it continues a name.
        let after =
            after.strip_prefix('.').filter(|rest| !rest.starts_with(is_part)).unwrap_or(after);
        !before.is_some_and(is_part) && !after.starts_with(is_part)
    })
}

#[cfg(test)]
mod tests {
    use super::mentions;

    #[test]
    fn a_name_is_mentioned_only_as_a_word() {
        assert!(mentions("Error adding/updating cluster(s) bad: Missing config source", "bad"));
        assert!(mentions("cluster bad.", "bad"));
        assert!(!mentions("Error adding/updating cluster(s) bad: x", "a"));
        assert!(!mentions("cluster bad-2: x", "bad"));
        assert!(!mentions("cluster my.bad: x", "bad"));
    }
}
