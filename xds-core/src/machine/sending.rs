//! What goes out next, of all types, and what is noted of it.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use super::Machine;
use crate::{
    Order, Resource, Response, Revision, TypeUrl, View, answer::Answer, type_stream::TypeStream,
    unsettled::InFlight,
};

impl<V: View> Machine<V> {
    /// What goes out next, of which type.
    pub(super) fn next_answer(&mut self, view: &V) -> Option<(usize, Answer)> {
        self.timeout = self.types.iter().filter_map(|stream| stream.looks_again_at(self.now)).min();
        self.review_arrivals();
        for at in 0..self.types.len() {
            self.isolate(at);
            let held = self.held_additions(at, view);
            if let Some(answer) = self.types.get_mut(at)?.additions(view, &held) {
                return Some((at, answer));
            }
        }
        let drained = self.drained();
        for place in 0..self.removal_order.len() {
            let at = *self.removal_order.get(place)?;
            let gone = self.types.get(at)?.gone(view);
            if gone.is_empty() {
                self.types.get_mut(at)?.hold_back(&BTreeSet::new());
                continue;
            }
            let mut held = self.held_removals(at, view, &gone);
            self.types.get_mut(at)?.hold_back(&held.names);
            // Where everything is repeated, what is held would go out with a removal.
            held.names.extend(self.held_additions(at, view).names);
            let stream = self.types.get_mut(at)?;
            if let Some(answer) = stream.removals(view, gone, &held, (self.now, drained)) {
                return Some((at, answer));
            }
        }
        self.next_heartbeat(view)
    }

    /// What is only to be told that it is still good.
    fn next_heartbeat(&mut self, view: &V) -> Option<(usize, Answer)> {
        let due = self.next_beat()?;
        self.timeout = self.timeout.into_iter().chain([due]).min();
        if due > self.now {
            return None;
        }
        for at in 0..self.types.len() {
            let held = self.held_additions(at, view);
            if let Some(answer) = self.types.get_mut(at)?.beat(view, &held, self.now) {
                return Some((at, answer));
            }
        }
        None
    }

    /// When the client must hear that something is still good.
    pub(super) fn next_beat(&self) -> Option<Duration> {
        self.types.iter().filter_map(TypeStream::beats_at).min()
    }

    /// Gives an answer its nonce, and notes that it is in flight.
    pub(super) fn send(
        &mut self,
        at: usize,
        mut answer: Answer,
        revision: Revision,
    ) -> Option<Response> {
        let nonce = self.last_nonce.next();
        self.last_nonce = nonce;
        let type_url = self.types.get(at)?.type_url.clone();
        let awaited = self.waited_for(&type_url, &answer);
        if matches!(self.order, Order::Gated { .. }) {
            self.note_arrivals(at, &answer);
        }
        self.owe_followers(at, &answer);
        let stream = self.types.get_mut(at)?;
        let response = Response {
            type_url,
            nonce,
            revision,
            resources: answer.resources(),
            removals: answer.removals(),
            body: answer.body(stream),
        };
        let in_flight = InFlight {
            is_first: stream.is_first,
            is_probe: answer.probe != 0,
            since: answer.since(),
            nonce,
            sent_at: self.now,
            revision,
            version: std::mem::take(&mut answer.version),
            beats: answer.beaten(),
            sent: answer.into_news(),
            awaited,
            withheld: stream.unsettled.withheld(),
            is_crossed: false,
        };
        stream.send(in_flight, self.limits.in_flight());
        Some(response)
    }

    /// Owes again what is to follow this answer, if the client asks for such a type.
    fn owe_followers(&mut self, at: usize, answer: &Answer) {
        let policy = self.types.get(at).map(|stream| stream.policy);
        let Some(type_url) = policy.and_then(|policy| policy.followed_by.as_ref()) else { return };
        let follower = self.types.iter_mut().find(|stream| stream.type_url == *type_url);
        if let Some(follower) = follower {
            let references = answer.news().flat_map(Resource::references);
            let names = references.filter(|key| key.type_url == *type_url).map(|key| &key.name);
            names.for_each(|name| follower.follow(name));
        }
    }

    /// The names of a type that the client waits for when this answer goes out: because a response that
    /// refers to them is not yet answered, or because it asked and was told nothing yet.
    fn waited_for(&self, type_url: &TypeUrl, answer: &Answer) -> Option<Arc<[Arc<str>]>> {
        let is_followed =
            |stream: &&TypeStream| stream.policy.followed_by.as_ref() == Some(type_url);
        let followed = self.types.iter().filter(is_followed);
        let seen = followed.flat_map(|stream| stream.unsettled.unanswered_references(type_url));
        let waiting =
            |stream: &&TypeStream| stream.type_url == *type_url && stream.policy.is_awaited_unseen;
        let unseen = self.types.iter().filter(waiting).flat_map(|stream| {
            let new = answer.sent().iter().filter(|sent| !stream.subscription.was_told(&sent.name));
            new.map(|sent| sent.name.clone())
        });
        let names: BTreeSet<_> = seen.chain(unseen).collect();
        (!names.is_empty()).then(|| names.into_iter().collect())
    }
}
