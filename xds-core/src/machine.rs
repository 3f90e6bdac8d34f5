//! The protocol machine of one stream.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

mod gating;
mod standing;

pub use self::standing::Standing;
use crate::{
    ErrorDetail, Key, LogTruncated, Nonce, Order, Request, RequestError, Resource, Response,
    Revision, StreamLimits, Subscription, TypeUrl, View,
    answer::Answer,
    gates::Arrivals,
    type_stream::{Sought, Told, TypeStream},
    unsettled::{InFlight, Settled},
};

/// Which of the two protocols a stream speaks. The method that the client called decides (B-01).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Variant {
    /// State of the World.
    Sotw,
    /// Delta, also called incremental.
    Delta,
}

/// What a request told about its client.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The client began to ask for a type, or what it subscribes to of it changed: from now on, the changes
    /// of that concern this stream, and no others.
    Subscribed {
        /// The type.
        type_url: TypeUrl,
        /// It was the first request of this type.
        is_first: bool,
        /// It subscribes to everything.
        wildcard: bool,
        /// The names that it asked for, some of them perhaps again.
        names: Vec<Arc<str>>,
        /// The collections that it asked for, by their globs.
        globs: Vec<Arc<str>>,
        /// The names and globs that it no longer asks for.
        given_up: Vec<Arc<str>>,
    },
    /// A response was acknowledged: the client accepts it, which does not yet mean that it uses it.
    Acknowledged {
        /// The type.
        type_url: TypeUrl,
        /// The response's nonce.
        nonce: Nonce,
        /// The revision from which it was built.
        revision: Revision,
    },
    /// The client has a newer set than there is here, waited for that in vain, and is served what there is.
    ServedOlder {
        /// The type.
        type_url: TypeUrl,
        /// The source's revision that the client has seen.
        claimed: u64,
    },
    /// A response was rejected.
    Rejected {
        /// The type.
        type_url: TypeUrl,
        /// The response's nonce.
        nonce: Nonce,
        /// What that response said something new about, or repeated although it was not accepted; nothing
        /// is sent for these until they change. None, if it can have been rejected for what is no longer
        /// there.
        names: Vec<Arc<str>>,
        /// Those of them that the client's words name.
        blamed: Vec<Arc<str>>,
        /// It was a first answer: the client had nothing before it.
        is_first: bool,
        /// The revision from which the response was built.
        revision: Revision,
        /// The client's words.
        error: ErrorDetail,
    },
}

/// The protocol machine of one stream, without IO: requests in, responses and events out.
///
/// * [`handle_request`](Machine::handle_request) takes what the client said.
/// * [`poll_response`](Machine::poll_response) asks what the client lacks at a view. Call it until it
///   has nothing, after each request and after each commit that concerns the stream.
/// * [`poll_event`](Machine::poll_event) tells what requests meant.
/// * [`poll_timeout`](Machine::poll_timeout) says when something that waits goes on without what it waits
///   for; at the latest then, call [`handle_timeout`](Machine::handle_timeout), and ask again.
///
/// Nothing is queued for a client: what it lacks is the difference between the view and what it was
/// told, so one that reads slowly is owed a difference and never a backlog. Once in step, a wildcard
/// subscription costs the same however many resources exist.
#[derive(Debug)]
pub struct Machine<V> {
    variant: Variant,
    limits: StreamLimits,
    distrusted: Vec<TypeUrl>,
    order: Order,
    isolates: bool,
    /// The client reads what is wrong with names.
    tells_errors: bool,
    /// It is told how long things are good.
    bears_ttl: bool,
    /// How long a client that has something newer waits.
    catch_up: Duration,
    /// The time since the stream opened.
    now: Duration,
    /// When something that waits goes on.
    timeout: Option<Duration>,
    arrivals: Arrivals,
    /// When a client that held something before this stream first said so.
    returned: Option<Duration>,
    /// In the order in which additions are sent.
    types: Vec<TypeStream>,
    /// Positions in `types`, in the order in which removals are sent.
    removal_order: Vec<usize>,
    /// The view that is being delivered. A newer one is taken up when all that this one owes is sent, so
    /// that a client sees commits whole, and a long first answer is of one revision.
    delivering: Option<V>,
    delivered: Option<Revision>,
    /// Something other than the view changed what is owed.
    stirred: bool,
    /// The last that was given out.
    last_nonce: Nonce,
    events: VecDeque<Event>,
}

impl<V: View> Machine<V> {
    /// The machine of a stream that just opened.
    #[must_use]
    pub fn new(variant: Variant) -> Self {
        Self {
            variant,
            limits: StreamLimits::default(),
            distrusted: Vec::new(),
            order: Order::default(),
            isolates: true,
            tells_errors: false,
            bears_ttl: false,
            catch_up: Duration::ZERO,
            now: Duration::ZERO,
            timeout: None,
            arrivals: Arrivals::default(),
            returned: None,
            types: Vec::new(),
            removal_order: Vec::new(),
            delivering: None,
            delivered: None,
            stirred: false,
            last_nonce: Nonce::default(),
            events: VecDeque::new(),
        }
    }

    /// What the stream may ask for, from now on.
    pub fn set_limits(&mut self, limits: StreamLimits) {
        self.limits = limits;
    }

    /// In which order the client is told what changes, from now on.
    pub fn set_order(&mut self, order: Order) {
        self.order = order;
        self.stirred = true;
    }

    /// Whether the good siblings of what the client rejects are sent again without it, which they are
    /// unless this says otherwise. Envoy stops at the first bad one of an answer and may drop the others
    /// (N-06). What is bad is found by the client's words, or else by halving what it rejected, a bounded
    /// number of times. Of clusters, listeners and scoped routes it uses the good ones anyway.
    pub fn set_isolation(&mut self, isolates: bool) {
        self.isolates = isolates;
        self.types.iter_mut().for_each(|stream| stream.isolates = isolates);
    }

    /// Tells the time: how long the stream has been open. Call it before the other methods; what is sent
    /// and asked counts from then.
    pub fn handle_timeout(&mut self, now: Duration) {
        self.now = self.now.max(now);
        let is_time = self.timeout.is_some_and(|timeout| timeout <= self.now);
        self.stirred |= is_time;
        if is_time {
            for stream in &mut self.types {
                if let Some(claimed) = stream.give_up_catching_up(self.now) {
                    let type_url = stream.type_url.clone();
                    self.events.push_back(Event::ServedOlder { type_url, claimed });
                }
            }
        }
    }

    /// How long a client waits that comes back with something newer than there is here, as after it left a
    /// replica that is ahead of this one; not at all, unless this says so.
    ///
    /// In State of the World the version of its set tells, where the source
    /// [counts](crate::TypeVersion::revision): then nothing of that type is answered until this replica has
    /// caught up. In delta nothing tells; there, clusters and listeners that this replica never heard of are
    /// not removed before that time is over.
    pub fn set_catch_up(&mut self, patience: Duration) {
        self.catch_up = patience;
    }

    /// When, by the time of [`handle_timeout`](Machine::handle_timeout), something that waits goes on
    /// without what it waits for. It is valid when [`poll_response`](Machine::poll_response) has nothing.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.timeout
    }

    /// From now on, what first requests of these types say about what the client runs is not believed:
    /// after a NACK it runs the good part of what it rejected, and reports the older version.
    pub fn distrust(&mut self, types: impl IntoIterator<Item = TypeUrl>) {
        self.distrusted.extend(types);
    }

    /// The types of which the client rejected something that has not been repaired since.
    pub fn rejected_types(&self) -> impl Iterator<Item = &TypeUrl> {
        let rejected = self.types.iter().filter(|stream| stream.unsettled.has_rejections());
        rejected.map(|stream| &stream.type_url)
    }

    /// Answers all that was asked for, each type in one response even if there is nothing to say: a unary
    /// call has to.
    pub fn demand_answers(&mut self) {
        self.types.iter_mut().for_each(TypeStream::demand_answer);
        self.stirred = true;
    }

    /// The variant that this stream speaks.
    #[must_use]
    pub fn variant(&self) -> Variant {
        self.variant
    }

    /// The types that were asked for, with what is subscribed of each.
    pub fn subscriptions(&self) -> impl Iterator<Item = (&TypeUrl, &Subscription)> {
        self.types.iter().map(|stream| (&stream.type_url, &stream.subscription))
    }

    /// Takes a request: its answer to an earlier response, and what it subscribes to, both (N-12).
    /// Costs what the request names.
    ///
    /// # Errors
    /// If the client broke the protocol in a way that ends the stream.
    pub fn handle_request(&mut self, mut request: Request) -> Result<(), RequestError> {
        request.cut_error();
        if request.type_url().is_empty() {
            // Envoy answers so what it never subscribed to.
            let known = self.was_sent(request.response_nonce());
            return if known { Ok(()) } else { Err(RequestError::NoTypeUrl) };
        }
        let type_url = TypeUrl::from(request.type_url());
        let known = self.types.iter().any(|stream| stream.type_url == type_url);
        self.limits.check(&type_url, &request, self.types.len() + usize::from(!known))?;
        let (at, first) = self.type_at(&type_url);
        let Some(stream) = self.types.get_mut(at) else { return Ok(()) };
        request.normalize();
        let request = if first && self.distrusted.contains(&type_url) {
            request.without_claims()
        } else {
            request
        };
        if first && request.claims_something() {
            self.returned.get_or_insert(self.now);
            if !self.catch_up.is_zero() {
                stream.catch_up(self.now + self.catch_up);
            }
        }
        let told = match (request, self.variant) {
            (Request::Sotw(request), Variant::Sotw) => stream.handle_sotw(first, request),
            (Request::Delta(request), Variant::Delta) => stream.handle_delta(first, request),
            _ => return Err(RequestError::WrongVariant(self.variant)),
        };
        let subscription = &stream.subscription;
        if subscription.names().len() + subscription.globs().len() > self.limits.names {
            return Err(RequestError::TooManyNames { type_url, limit: self.limits.names });
        }
        // Who only answers, and is owed nothing, has nothing coming.
        self.stirred |= first || !told.asked.is_nothing();
        self.stirred |= self.types.iter().any(TypeStream::owes);
        self.tell(at, first, told);
        self.follow_parents(&type_url);
        Ok(())
    }

    /// Takes up for virtual hosts which route configurations are subscribed (V-03).
    fn follow_parents(&mut self, changed: &TypeUrl) {
        let is_one = |of_type: &TypeUrl| *changed == *of_type;
        if !is_one(&TypeUrl::ROUTE) && !is_one(&TypeUrl::VIRTUAL_HOST) {
            return;
        }
        let routes = self.types.iter().find(|stream| stream.type_url == TypeUrl::ROUTE);
        let routes: Vec<_> =
            routes.into_iter().flat_map(|routes| routes.subscription.names().cloned()).collect();
        let hosts = self.types.iter_mut().find(|stream| stream.type_url == TypeUrl::VIRTUAL_HOST);
        let Some(hosts) = hosts else { return };
        let asked = hosts.follow_parents(routes.iter());
        if !asked.is_nothing() {
            self.stirred = true;
            self.events.push_back(Event::Subscribed {
                type_url: TypeUrl::VIRTUAL_HOST,
                is_first: false,
                wildcard: false,
                names: Vec::new(),
                globs: asked.globs,
                given_up: asked.given_up,
            });
        }
    }

    /// Whether the client reads `resource_errors`, by which it is then told what there is nothing of
    /// (E-01). Envoy does not, and gRPC's clients only if they are told to; to others it is as if there were
    /// none, but that a State of the World client is then answered also when there is nothing of what it
    /// asked for (E-08), which for clusters and listeners it takes for their end.
    pub fn set_resource_errors(&mut self, tells: bool) {
        self.tells_errors = tells;
        self.types.iter_mut().for_each(|stream| stream.tells_errors = tells);
    }

    /// Whether the client is told how long things are good that are so for some time only, and in time that
    /// they still are. A client that does not know of it would drop what it should keep (T-01).
    pub fn set_ttl(&mut self, bears: bool) {
        self.bears_ttl = bears;
        self.types
            .iter_mut()
            .for_each(|stream| stream.bears_ttl = bears && stream.policy.bears_ttl);
    }

    /// Waits with the answer that there is nothing of a name that the client just asked for, until
    /// [`end_search`](Machine::end_search): somebody looks for it. What is there is not held up.
    pub fn begin_search(&mut self, key: &Key) {
        let stream = self.types.iter_mut().find(|stream| stream.type_url == key.type_url);
        if let Some(stream) = stream.filter(|stream| stream.subscription.is_named(&key.name)) {
            stream.aside.fill().sought.insert(key.name.clone(), Sought::Underway);
        }
    }

    /// Waits no longer: if there is still nothing of the name, the client is told so, and why, if it reads
    /// that. `NOT_FOUND` and `PERMISSION_DENIED` let it drop what it has of the name; `UNAVAILABLE`,
    /// `INTERNAL` and `UNKNOWN` do not (E-05).
    pub fn end_search(&mut self, key: &Key, failure: Option<ErrorDetail>) {
        let stream = self.types.iter_mut().find(|stream| stream.type_url == key.type_url);
        let Some(stream) = stream else { return };
        let sought = stream.aside.get_mut().map(|aside| &mut aside.sought);
        let Some(sought) = sought else { return };
        if sought.remove(&key.name).is_some() {
            if let Some(failure) = failure {
                sought.insert(key.name.clone(), Sought::Failed(failure));
            }
            self.stirred = true;
        }
    }

    /// The next response that the client is owed at this view, or none if it is in step.
    ///
    /// In one view, what is added or changed goes out first, each type before those that refer to it,
    /// endpoints again behind a cluster that was sent; then what is removed, the other way round (O-01,
    /// O-02, O-04). Costs what changed since the last call, not what exists.
    ///
    /// # Errors
    /// If a delta wildcard client is too late for the log, so that it cannot be told what is gone: end
    /// the stream, and its next one says what it holds.
    pub fn poll_response(&mut self, view: &V) -> Result<Option<Response>, LogTruncated> {
        loop {
            let fresh = self.delivering.is_none();
            if fresh && !self.stirred && self.delivered == Some(view.revision()) {
                return Ok(None);
            }
            let current = self.delivering.take().unwrap_or_else(|| view.clone());
            if fresh || std::mem::take(&mut self.stirred) {
                self.stirred = false;
                self.look(&current)?;
            }
            if let Some((at, answer)) = self.next_answer(&current) {
                let revision = current.revision();
                self.delivering = Some(current);
                return Ok(self.send(at, answer, revision));
            }
            self.delivered = Some(current.revision());
        }
    }

    /// Takes up what changed up to this view, of each type.
    fn look(&mut self, view: &V) -> Result<(), LogTruncated> {
        for at in 0..self.types.len() {
            let Some(stream) = self.types.get_mut(at) else { break };
            let begins = stream.cursor.is_none();
            stream.look(view)?;
            if begins {
                self.disbelieve(at, view);
            }
        }
        Ok(())
    }

    /// Whether there is surely nothing to send at this revision, so that
    /// [`poll_response`](Machine::poll_response) need not be asked. Costs the number of types.
    pub fn is_in_step(&mut self, now: Revision) -> bool {
        let delivering = self.delivering.as_ref().map(View::revision);
        if self.stirred || delivering.or(self.delivered) != Some(now) {
            return false;
        }
        if delivering.is_some() {
            if self.types.iter().any(TypeStream::owes) {
                return false;
            }
            self.timeout = self.next_beat();
            self.delivering = None;
            self.delivered = Some(now);
        }
        true
    }

    /// What requests told since the last call, one by one.
    pub fn poll_event(&mut self) -> Option<Event> {
        let event = self.events.pop_front();
        if event.is_none() {
            // An idle stream keeps room for the usual one.
            self.events.shrink_to(1);
        }
        event
    }

    /// Moves the client to another view: what differs for it becomes owed, removals included.
    ///
    /// Both views must be of one revision. Costs the sizes of both, for the types that are subscribed.
    ///
    /// # Errors
    /// As [`poll_response`](Machine::poll_response).
    pub fn change_view(&mut self, old: &V, new: &V) -> Result<(), LogTruncated> {
        for stream in &mut self.types {
            stream.look(old)?;
            if stream.cursor.is_some() {
                stream.take_up_anew(&old.difference(new, &stream.type_url));
            }
        }
        self.delivering = None;
        self.stirred = true;
        Ok(())
    }

    /// Where a type's state lies, and whether this is the first that was heard of it.
    fn type_at(&mut self, type_url: &TypeUrl) -> (usize, bool) {
        if let Some(at) = self.types.iter().position(|stream| stream.type_url == *type_url) {
            return (at, false);
        }
        let mut stream = TypeStream::new(type_url.clone(), self.variant);
        stream.isolates = self.isolates;
        stream.tells_errors = self.tells_errors;
        stream.bears_ttl = self.bears_ttl && stream.policy.bears_ttl;
        let order = |stream: &TypeStream| (stream.policy.order, stream.type_url.clone());
        let at = self.types.partition_point(|other| order(other) < order(&stream));
        self.types.insert(at, stream);
        self.removal_order = (0..self.types.len()).collect();
        let types = &self.types;
        self.removal_order.sort_by_key(|at| types.get(*at).map(|s| s.policy.removal_order));
        (at, true)
    }

    fn tell(&mut self, at: usize, is_first: bool, told: Told) {
        let Some(stream) = self.types.get(at) else { return };
        let type_url = stream.type_url.clone();
        let Told { error, settled, asked } = told;
        if is_first || !asked.is_nothing() {
            self.events.push_back(Event::Subscribed {
                type_url: type_url.clone(),
                is_first,
                wildcard: stream.subscription.is_wildcard(),
                names: asked.names,
                globs: asked.globs,
                given_up: asked.given_up,
            });
        }
        match (settled, error) {
            (Some(Settled::Acknowledged { nonce, revision, responses, replaced }), _) => {
                self.prove(&type_url, &responses);
                self.linger(at, replaced);
                self.events.push_back(Event::Acknowledged { type_url, nonce, revision });
            }
            (
                Some(Settled::Rejected { nonce, revision, names, blamed, is_first, .. }),
                Some(error),
            ) => {
                self.note_rejection(&type_url, &names, &blamed);
                self.events.push_back(Event::Rejected {
                    type_url,
                    nonce,
                    names,
                    blamed,
                    is_first,
                    revision,
                    error,
                });
            }
            _ => {}
        }
    }

    fn next_answer(&mut self, view: &V) -> Option<(usize, Answer)> {
        self.timeout = self.types.iter().filter_map(TypeStream::catches_up_until).min();
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
    fn next_beat(&self) -> Option<Duration> {
        self.types.iter().filter_map(TypeStream::beats_at).min()
    }

    fn send(&mut self, at: usize, mut answer: Answer, revision: Revision) -> Option<Response> {
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
        stream.send(in_flight);
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
    fn waited_for(&self, type_url: &TypeUrl, answer: &Answer) -> Vec<Arc<str>> {
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
        seen.chain(unseen).collect()
    }

    /// Whether a nonce was given out on this stream.
    fn was_sent(&self, nonce: &str) -> bool {
        Nonce::read(nonce).is_some_and(|nonce| nonce <= self.last_nonce)
    }
}
