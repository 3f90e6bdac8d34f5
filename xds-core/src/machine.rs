//! The protocol machine of one stream.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

mod gating;
mod searches;
mod sending;
mod settings;
mod standing;

pub use self::standing::Standing;
use crate::{
    Event, Key, LogTruncated, Nonce, Order, Request, RequestError, Response, Revision,
    StreamLimits, Subscription, TypeUrl, View,
    gates::{Arrivals, bounded},
    type_stream::{Told, TypeStream},
    unsettled::Settled,
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
    doubted: BTreeMap<Key, Option<String>>,
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
            doubted: BTreeMap::new(),
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

    /// Tells the time: how long the stream has been open. Call it before the other methods; what is sent
    /// and asked counts from then.
    pub fn handle_timeout(&mut self, now: Duration) {
        self.now = self.now.max(bounded(now));
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

    /// When, by the time of [`handle_timeout`](Machine::handle_timeout), something that waits goes on
    /// without what it waits for. It is valid when [`poll_response`](Machine::poll_response) has nothing.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.timeout
    }

    /// The types of which the client rejected something that has not been repaired since.
    pub fn rejected_types(&self) -> impl Iterator<Item = &TypeUrl> {
        let rejected = self.types.iter().filter(|stream| stream.unsettled.has_rejections());
        rejected.map(|stream| &stream.type_url)
    }

    /// The types of which the client may run something that it rejected, here or before this stream
    /// ([`distrust`](Machine::distrust)), and that was not repaired since. What it reports of them on its
    /// next stream is not what it runs: let that [distrust](Machine::distrust) them.
    pub fn doubtful_types(&self) -> impl Iterator<Item = &TypeUrl> {
        let is_asked = |type_url: &TypeUrl| self.types.iter().any(|it| it.type_url == *type_url);
        let unasked = self.distrusted.iter().filter(move |type_url| !is_asked(type_url));
        let doubtful = self.types.iter().filter(|stream| stream.is_doubtful);
        doubtful.map(|stream| &stream.type_url).chain(unasked)
    }

    /// What the client may run and not say so on its next stream, each with the one version that is to be believed of
    /// it, or none if that is that it has nothing: what it rejected, or did not answer, for a rejection may be lost
    /// with the stream. Let that [doubt](Machine::doubt) it. In State of the World there is nothing of it, since
    /// there each set has a version of its own.
    ///
    /// Costs as much as is in flight and rejected.
    #[must_use]
    pub fn doubtful_resources(&self) -> BTreeMap<Key, Option<String>> {
        if self.variant == Variant::Sotw {
            return BTreeMap::new();
        }
        let is_settled = |key: &Key| {
            let stream = self.types.iter().find(|stream| stream.type_url == key.type_url);
            stream.is_some_and(TypeStream::has_settled)
        };
        let mut doubtful = self.doubted.clone();
        doubtful.retain(|key, _| !is_settled(key));
        for stream in &self.types {
            for sent in stream.unsettled.doubts() {
                let key = Key::new(stream.type_url.clone(), sent.name.clone());
                let version = sent.content.as_ref().map(|content| content.version().to_owned());
                // Of what was told in two ways, it may have the first from before either.
                let told = doubtful.entry(key).or_insert_with(|| version.clone());
                if *told != version {
                    *told = Some(String::new());
                }
            }
        }
        doubtful
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
        let mut request = if first && self.distrusted.contains(&type_url) {
            stream.is_doubtful = true;
            request.without_claims()
        } else {
            request
        };
        if first && request.claims_something() {
            let doubted = self.doubted.iter().filter(|(key, _)| key.type_url == type_url);
            request.doubt(doubted.map(|(key, version)| (&*key.name, version.as_deref())));
        }
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
        if !told.asked.given_up.is_empty() {
            self.limits.check_given_up(&type_url, stream.given_up())?;
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

    /// Whether a nonce was given out on this stream.
    fn was_sent(&self, nonce: &str) -> bool {
        Nonce::read(nonce).is_some_and(|nonce| nonce <= self.last_nonce)
    }
}
