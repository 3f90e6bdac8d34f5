//! What waits on a stream, of all its types: the gates, as they bear on what is owed.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use super::Machine;
use crate::{
    Key, Order, Resource, TypeUrl, View,
    answer::{Answer, Held},
    gates::{Until, Uses, later},
    type_stream::{Owed, TypeStream},
    type_url::Lingering,
    unsettled::InFlight,
};

/// How long a client that comes back may take to name all types that it had.
const RETURNING: Duration = Duration::from_secs(1);

/// The sooner of two times, of which each may be never.
fn sooner(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    one.into_iter().chain(other).min()
}

/// Whether the client subscribes to what has this key.
fn is_subscribed(types: &[TypeStream], key: &Key) -> bool {
    let stream = types.iter().find(|stream| stream.type_url == key.type_url);
    stream.is_some_and(|stream| stream.subscription.contains(&key.name))
}

impl<V: View> Machine<V> {
    /// Takes up what an ACK proves.
    pub(super) fn prove(&mut self, type_url: &TypeUrl, responses: &VecDeque<Box<InFlight>>) {
        if self.arrivals.is_empty() {
            return;
        }
        let types = &self.types;
        let is_asked_for = |key: &Key| is_subscribed(types, key);
        let (is_first, repeats) = (type_url.policy().is_proven_first, self.repeats(type_url));
        for response in responses {
            let names = response.sent.iter().map(|sent| &sent.name);
            if is_first && repeats {
                // It carried everything, and so what was sent before it and not answered.
                let mut names = self.arrivals.names();
                names.retain(|name| !response.withheld.contains(name));
                for name in names {
                    self.arrivals.acknowledge(&name, response.nonce, is_asked_for);
                }
            } else if is_first {
                names
                    .for_each(|name| self.arrivals.acknowledge(name, response.nonce, is_asked_for));
            } else {
                let keys = names.map(|name| Key::new(type_url.clone(), name.clone()));
                keys.for_each(|key| self.arrivals.acknowledge_awaited(&key, response.nonce));
            }
        }
    }

    fn repeats(&self, type_url: &TypeUrl) -> bool {
        type_url.policy().repeats_everything(self.variant)
    }

    /// Takes up a rejection. Of what comes in whole sets, clients use the good ones all the same (N-06).
    pub(super) fn note_rejection(
        &mut self,
        type_url: &TypeUrl,
        names: &[Arc<str>],
        blamed: &[Arc<str>],
    ) {
        let policy = type_url.policy();
        let is_partial = policy.full_state && !blamed.is_empty();
        let types = &self.types;
        let is_asked_for = |key: &Key| is_subscribed(types, key);
        for name in names {
            if is_partial && !blamed.contains(name) {
                self.arrivals.acknowledge(name, self.last_nonce, is_asked_for);
            } else {
                let key = Key::new(type_url.clone(), name.clone());
                self.arrivals.reject(&key, policy.is_proven_first);
            }
        }
    }

    /// Notes what the client goes on using although it accepted what replaces it.
    pub(super) fn linger(&mut self, at: usize, replaced: Vec<Resource>) {
        let drained = self.drained();
        let Some(stream) = self.types.get_mut(at) else { return };
        if stream.policy.lingers == Lingering::Drains {
            replaced.into_iter().for_each(|old| stream.linger(old, self.now, drained));
        }
    }

    /// Takes apart what was rejected of a type, unless that is what a cluster in flight waits for: each
    /// further rejection would end its wait with nothing (N-13).
    pub(super) fn isolate(&mut self, at: usize) {
        let Some(suspect) = self.types.get(at).filter(|stream| stream.is_suspect) else { return };
        let waits = |stream: &TypeStream| {
            stream.policy.followed_by.as_ref() == Some(&suspect.type_url)
                && stream.unsettled.unanswered_since().is_some()
        };
        if !self.types.iter().any(waits)
            && let Some(suspect) = self.types.get_mut(at)
        {
            suspect.isolate();
        }
    }

    /// When the connections are drained that came in by what a client accepts the end of now. Envoy begins
    /// when what comes instead is live, which may take as long as any other answer.
    pub(super) fn drained(&self) -> Duration {
        match self.order {
            Order::Gated { patience, drain } => self.now + patience + drain,
            _ => self.now,
        }
    }

    /// Goes through what is waited for: what the client said nothing about for too long, nobody waits for
    /// any more; and nobody waits without a deadline for what is no longer rejected, be it because it was
    /// given up.
    pub(super) fn review_arrivals(&mut self) {
        let Order::Gated { patience, .. } = self.order else { return };
        if self.arrivals.is_empty() {
            return;
        }
        let is_rejected = |type_url: &TypeUrl, name: &str| {
            let mut streams = self.types.iter().filter(|stream| stream.type_url == *type_url);
            streams.any(|stream| stream.unsettled.is_rejected(name))
        };
        let bringing = self.types.iter().filter(|stream| stream.policy.is_proven_first);
        let bringing: Vec<_> = bringing.map(|stream| stream.type_url.clone()).collect();
        let is_over = |name: &Arc<str>, awaits: &BTreeSet<Key>| {
            !bringing.iter().any(|type_url| is_rejected(type_url, name))
                && !awaits.iter().any(|key| is_rejected(&key.type_url, &key.name))
        };
        let rejected = self.arrivals.rejected();
        let over: Vec<_> = rejected
            .filter(|(name, awaits)| is_over(name, awaits))
            .map(|(name, _)| name.clone())
            .collect();
        over.iter().for_each(|name| self.arrivals.pardon(name, self.now));
        self.arrivals.expire(self.now, patience);
    }

    /// What of a type waits for what it refers to; and what is gone, in use and asked for.
    pub(super) fn held_additions(&mut self, at: usize, view: &V) -> Held {
        let mut held = Held { at_once: self.order == Order::AtOnce, ..Held::default() };
        let (Order::Gated { patience, .. }, Some(stream)) = (self.order, self.types.get(at)) else {
            return held;
        };
        let mut timeout = self.timeout;
        let mut endless = Vec::new();
        let may_wait = !self.arrivals.is_empty() || self.is_about_to_ask(patience).is_some();
        if may_wait && !stream.policy.is_proven_first && !stream.is_first {
            for (name, owed) in &stream.owed {
                let Some(resource) = stream.find(view, name) else { continue };
                if owed.told.as_ref() == Some(&resource) {
                    continue; // It is sent again, and changes nothing.
                }
                match self.blocked(&resource, view, patience) {
                    // An answer without it would take from the client what it has of it, so all others
                    // of the type wait with it, which they do not for ever.
                    Some(None) if stream.must_repeat(owed) => {
                        endless.push((name.clone(), patience));
                    }
                    Some(until) => {
                        timeout = sooner(timeout, until);
                        held.names.insert(name.clone());
                    }
                    None => {}
                }
            }
        }
        let asked: Vec<_> = stream.asked_and_gone(view).cloned().collect();
        if !asked.is_empty() {
            let uses = self.uses(patience);
            let in_use =
                |name: &Arc<str>| uses.until(&Key::new(stream.type_url.clone(), name.clone()));
            held.kept = asked.into_iter().filter(|name| in_use(name).is_some()).collect();
        }
        let lost = stream.gone_unless_repeated(view);
        self.timeout = timeout;
        self.hold_for(at, endless, &mut held);
        if !lost.is_empty() {
            held.names.extend(self.held_removals(at, view, &lost).names);
        }
        held
    }

    /// Until when a resource waits for a cluster that it names, itself or by a route that is new to the
    /// client, if it does. What the client has not asked for is nothing to wait for, since gRPC asks when
    /// the route names it, unless it comes back and is about to; nor is what is gone again.
    fn blocked(&self, resource: &Resource, view: &V, patience: Duration) -> Option<Until> {
        let is_subscribed = |key: &Key| is_subscribed(&self.types, key);
        let about_to_ask = self.is_about_to_ask(patience);
        let arrives = |key: &Key| {
            let is_proven_first = key.type_url.policy().is_proven_first;
            let awaited =
                || self.arrivals.until(&key.name, patience).filter(|_| is_subscribed(key));
            let until = about_to_ask.or_else(awaited).filter(|_| is_proven_first)?;
            self.find(view, key).map(|_| until)
        };
        let until = |key: &Key| {
            if key.type_url.policy().is_proven_first || is_subscribed(key) {
                return arrives(key);
            }
            let new = self.find(view, key)?;
            new.references().iter().filter_map(arrives).reduce(later)
        };
        resource.references().iter().filter_map(until).reduce(later)
    }

    /// What is there of a key, for who asks as this client does.
    fn find(&self, view: &V, key: &Key) -> Option<Resource> {
        let stream = self.types.iter().find(|stream| stream.type_url == key.type_url);
        match stream {
            Some(stream) => stream.find(view, &key.name),
            None => view.get(&key.type_url, &key.name),
        }
    }

    /// Until when a client that came back is expected to ask for clusters, if it has not. An Envoy that was
    /// interrupted while a cluster warmed asks for endpoints, listeners and routes, and for clusters when
    /// it has those endpoints, or gave them up (O-11, R-12).
    fn is_about_to_ask(&self, patience: Duration) -> Option<Until> {
        let is_asked = |type_url| self.types.iter().any(|stream| stream.type_url == type_url);
        let time = if is_asked(TypeUrl::ENDPOINT) { patience } else { RETURNING };
        let until = self.returned? + time;
        (!is_asked(TypeUrl::CLUSTER) && until > self.now).then_some(Some(until))
    }

    /// What of a type is gone, and stays because the client may use it.
    pub(super) fn held_removals(&mut self, at: usize, view: &V, gone: &[Arc<str>]) -> Held {
        let mut held = Held::default();
        let Order::Gated { patience, drain } = self.order else { return held };
        let Some(stream) = self.types.get(at) else { return held };
        let type_url = stream.type_url.clone();
        let policy = stream.policy;
        let is_named = |name: &Arc<str>| {
            policy.lingers == Lingering::WhileNamed && stream.subscription.contains(name)
        };
        let (now, mut timeout) = (self.now, self.timeout);
        let mut waiting = Vec::new();
        // It may be newer than what is here.
        let may_be_new = |name: &Arc<str>| {
            let is_strange = |owed: &Owed| owed.claimed && owed.cannot_be_repeated();
            policy.full_state
                && !self.catch_up.is_zero()
                && stream.owed.get(name).is_some_and(is_strange)
                && view.version(&type_url).revision.is_some()
        };
        // All others of the type wait with it.
        let must_repeat =
            |name: &Arc<str>| stream.owed.get(name).is_some_and(|owed| stream.must_repeat(owed));
        let uses = self.uses(patience);
        for name in gone {
            let key = Key::new(type_url.clone(), name.clone());
            let until = uses.until(&key).filter(|until| until.is_none_or(|until| until > now));
            let is_endless = until == Some(None) && must_repeat(name);
            if let Some(until) = until.filter(|_| !is_endless) {
                timeout = sooner(timeout, until);
                held.names.insert(name.clone());
            }
            if is_endless || is_named(name) {
                waiting.push((name.clone(), patience + drain));
            } else if may_be_new(name) {
                waiting.push((name.clone(), self.catch_up));
            } else if until.is_none() && policy.honours_removal && view.is_referred_to(&key) {
                waiting.push((name.clone(), patience));
            }
        }
        self.timeout = timeout;
        self.hold_for(at, waiting, &mut held);
        held
    }

    /// Holds names for some time each, from when that was first done.
    fn hold_for(&mut self, at: usize, waiting: Vec<(Arc<str>, Duration)>, held: &mut Held) {
        for (name, time) in waiting {
            let owed = self.types.get_mut(at).and_then(|stream| stream.owed.get_mut(&name));
            let until = owed.map(|owed| *owed.waits_since.get_or_insert(self.now) + time);
            if until.is_some_and(|until| until > self.now) {
                self.timeout = sooner(self.timeout, until);
                held.names.insert(name);
            }
        }
    }

    /// Who comes back and did not say what it has may have anything that is gone of late. But whoever has a
    /// cluster asks for its endpoints.
    pub(super) fn disbelieve(&mut self, at: usize, view: &V) {
        let Some(stream) = self.types.get(at) else { return };
        let follower =
            stream.policy.followed_by.as_ref().filter(|_| self.repeats(&stream.type_url));
        let asked = self.types.iter().find(|other| Some(&other.type_url) == follower);
        let Some(asked) = asked.map(|asked| &asked.subscription) else { return };
        let is_unasked = |key: &Key| Some(&key.type_url) == follower && !asked.contains(&key.name);
        let gone = stream.owed.iter().filter(|(name, owed)| {
            let references = owed.told.as_ref().map(Resource::references);
            references.is_some_and(|references| references.iter().any(is_unasked))
                && stream.find(view, name).is_none()
        });
        let names: Vec<_> = gone.map(|(name, _)| name.clone()).collect();
        if let Some(stream) = self.types.get_mut(at) {
            names.iter().for_each(|name| _ = stream.owed.remove(name));
        }
    }

    /// All that the client may use beside what the view holds.
    fn uses(&self, patience: Duration) -> Uses<'_> {
        let mut uses = Uses::default();
        for stream in &self.types {
            for (resource, until) in stream.may_use(patience) {
                if until.is_none_or(|until| until > self.now) {
                    uses.add(resource, until);
                }
            }
            if stream.policy.refers {
                let unknown = stream.may_use_unknown(patience);
                let unknown = unknown.filter(|until| until.is_none_or(|until| until > self.now));
                uses.unknown = uses.unknown.into_iter().chain(unknown).reduce(later);
            }
        }
        uses.unknown = uses.unknown.into_iter().chain(self.returns_with_gone()).reduce(later);
        // Who comes back names at once all types that it had.
        let is_asked = |type_url| self.types.iter().any(|stream| stream.type_url == type_url);
        if let Some(returned) = self.returned
            && returned + RETURNING > self.now
            && !(is_asked(TypeUrl::LISTENER) && is_asked(TypeUrl::ROUTE))
        {
            let until = Some(Some(returned + RETURNING));
            uses.unknown = uses.unknown.into_iter().chain(until).reduce(later);
        }
        uses
    }

    /// Until when a client that came back may use what it asks for although it is gone: until the
    /// connections are drained that lead there (O-12, R-14).
    fn returns_with_gone(&self) -> Option<Until> {
        let Order::Gated { patience, drain } = self.order else { return None };
        let until = self.returned? + patience + drain;
        let has_gone = self.types.iter().any(TypeStream::asked_for_gone);
        (has_gone && until > self.now).then_some(Some(until))
    }

    /// Notes what of an answer is new to the client and has to be proven, and what proves it.
    pub(super) fn note_arrivals(&mut self, at: usize, answer: &Answer) {
        let Some(stream) = self.types.get(at) else { return };
        if stream.is_first && self.arrivals.is_empty() {
            return;
        }
        if !stream.policy.is_proven_first {
            if !self.arrivals.is_empty() {
                for sent in answer.sent() {
                    let key = Key::new(stream.type_url.clone(), sent.name.clone());
                    self.arrivals.sent(&key, self.now);
                }
            }
            return;
        }
        for sent in answer.sent() {
            let is_new = answer.new.contains(&sent.name) && !stream.is_first;
            match &sent.content {
                Some(content) if is_new || self.arrivals.contains(&sent.name) => {
                    let (awaits, is_known) = self.proof(content);
                    let doubtful = content.warms_unseen() || is_known;
                    self.arrivals.bring(content, awaits, doubtful, (self.last_nonce, self.now));
                }
                Some(_) => {}
                None => self.arrivals.forget(&sent.name),
            }
        }
    }

    /// What proves that a new cluster can be used: that what it refers to is acknowledged. Endpoints that
    /// the client knows already are sent again behind it, but prove less; other things are not.
    fn proof(&self, content: &Resource) -> (BTreeSet<Key>, bool) {
        let mut awaits = BTreeSet::new();
        let mut is_known = false;
        for key in content.references() {
            let stream = self.types.iter().find(|stream| stream.type_url == key.type_url);
            let was_told = stream.is_some_and(|stream| stream.subscription.was_told(&key.name));
            let is_followed =
                content.type_url().policy().followed_by.as_ref() == Some(&key.type_url);
            is_known |= was_told && is_followed;
            if key.type_url != *content.type_url() && (is_followed || !was_told) {
                awaits.insert(key.clone());
            }
        }
        (awaits, is_known)
    }

    /// What the client was sent that is new to it, and has not shown to be able to use, so that what
    /// refers to it waits (O-12).
    pub fn awaited(&self) -> Vec<Key> {
        let types = self.types.iter().filter(|stream| stream.policy.is_proven_first);
        let keys = types.flat_map(|stream| {
            let names = self.arrivals.names().into_iter();
            names.map(|name| Key::new(stream.type_url.clone(), name))
        });
        keys.collect()
    }
}
