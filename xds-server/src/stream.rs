//! One stream: the only place where a client, the cache and shutdown meet.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
    time::Duration,
};

use bytes::{BufMut, Bytes, BytesMut};
use deltaplane_cache::{CacheView, Watch};
use deltaplane_core::{Key, Machine, Order, Request, RequestError, Response, Revision, Variant};
use envoy_types::pb::envoy::config::core::v3::Node;
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::{Code, Status};

mod admission;
mod searches;
mod telling;

use crate::{
    authorizer::Admission,
    body::Driver,
    client::{Client, ClientEvent},
    connections::Seat,
    gzip,
    on_demand::Outcome,
    pace::{Pace, Pacing},
    peer::Credentials,
    rate::Rate,
    rejections::Doubts,
    requests::{PREFIX, Requests},
    server::Shared,
    spread,
    status::Entry,
};

/// How many requests are read before responses are looked at again, so that a client that never stops
/// talking is answered all the same.
const REQUESTS_PER_TURN: usize = 32;

/// Above this many bytes, gRPC clients refuse a message unless configured otherwise (K-05).
const USUAL_LIMIT: usize = 4 << 20;

/// Up to this many bytes, a body is copied behind what is the stream's own.
const SMALL_BODY: usize = 2 << 10;

/// What a method is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Requests and responses, until one side ends it.
    Stream,
    /// One of each.
    Fetch,
}

/// One stream.
pub(crate) struct XdsStream {
    shared: Arc<Shared>,
    seat: Seat,
    kind: Kind,
    requests: Requests,
    machine: Machine<CacheView>,
    opened: Instant,
    /// Wakes the driver when something that waits goes on.
    alarm: Option<Pin<Box<Sleep>>>,
    watch: Watch,
    /// Where the server has a pace: this stream's, and what it is served from until that lets it go on.
    pacing: Option<Box<Pacing>>,
    /// The revision at which the client connected.
    connected_at: Revision,
    /// How things were when the client's scopes were last chosen; nothing, if they are to be chosen anew.
    view_generation: Option<(usize, u64)>,
    client: Arc<Client>,
    /// What decides what the client may have, if anything does.
    admission: Option<Box<Admission>>,
    /// The first request, with the node of its client, while it is asked what that may have.
    waiting: Option<Box<(Node, Request)>>,
    /// What others see of it; there once the first request was read, and with it the node.
    entry: Option<Arc<Entry>>,
    /// The client has closed its half of the stream: there will be no further requests.
    asked_all: bool,
    /// Of what the client is not believed that it runs it.
    doubts: Doubts,
    /// What is looked for because the client asks for it.
    searches: BTreeMap<Key, Outcome>,
    /// The second frame of a response whose first was taken.
    rest: Option<Bytes>,
    /// With which status it ends, when what was said while there was no room ended it.
    end: Option<Status>,
    /// Above how many bytes a response is compressed.
    compresses_above: Option<usize>,
    /// There was a response.
    answered: bool,
    /// The client's requests changed what others see of it.
    is_new: bool,
    rate: Rate,
}

impl XdsStream {
    pub(crate) fn new(
        shared: Arc<Shared>,
        seat: Seat,
        requests: Requests,
        variant: Variant,
        kind: Kind,
        is_aggregated: bool,
        credentials: Credentials,
    ) -> Self {
        let mut machine = Machine::new(variant);
        machine.set_limits(shared.limits.stream);
        // Gates are between types.
        let order = if is_aggregated { shared.order } else { Order::InOneBreath };
        machine.set_order(order);
        machine.set_isolation(shared.isolates);
        machine.set_catch_up(shared.catch_up);
        Self {
            kind,
            requests,
            machine,
            opened: Instant::now(),
            alarm: None,
            watch: shared.cache.watch(),
            pacing: (shared.pace != Pace::default()).then(|| Box::new(Pacing::new(shared.pace))),
            connected_at: Revision(0),
            view_generation: None,
            client: Arc::new(Client {
                id: seat.id(),
                node: Node::default(),
                variant,
                peer: credentials.peer.clone(),
                scopes: Arc::default(),
            }),
            admission: shared.admission(credentials).map(Box::new),
            waiting: None,
            entry: None,
            asked_all: false,
            doubts: Doubts::default(),
            searches: BTreeMap::new(),
            rest: None,
            end: None,
            compresses_above: None,
            answered: false,
            is_new: false,
            rate: Rate::new(shared.limits.requests_per_second),
            shared,
            seat,
        }
    }

    pub(crate) fn seat(&self) -> &Seat {
        &self.seat
    }

    /// From now on, responses above so many bytes are compressed.
    pub(crate) fn compress_above(&mut self, bytes: Option<usize>) {
        self.compresses_above = bytes;
    }

    /// The next frame of the response's body, with what there is to do before it; or the status that ends
    /// the stream. Called when there is room for a frame.
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
        driver: &Arc<Driver>,
    ) -> Poll<Result<Bytes, Status>> {
        if let Some(frame) = self.rest.take() {
            return Poll::Ready(Ok(frame));
        }
        let turned = match self.end.take() {
            Some(status) => Poll::Ready(Err(status)),
            None => self.poll_turn(cx, driver),
        };
        if let Poll::Ready(Err(status)) = &turned {
            self.leave(status);
        }
        turned
    }

    /// Hears what the client says while there is no room for a frame; tells whether it may have said more.
    pub(crate) fn hear(&mut self, driver: &Arc<Driver>) -> bool {
        if self.end.is_some() {
            return false;
        }
        // What it answers now counts from now.
        self.machine.handle_timeout(self.opened.elapsed());
        self.tell_events();
        match self.read_requests(driver) {
            Ok(more) => {
                self.show();
                more
            }
            Err(status) => {
                self.leave(&status);
                self.end = Some(status);
                false
            }
        }
    }

    fn poll_turn(
        &mut self,
        cx: &mut Context<'_>,
        driver: &Arc<Driver>,
    ) -> Poll<Result<Bytes, Status>> {
        loop {
            if self.shared.closing.load(Ordering::Acquire) {
                let message = "the server shuts down: reconnect";
                return Poll::Ready(Err(Status::unavailable(message)));
            }
            let now = self.opened.elapsed();
            self.machine.handle_timeout(now);
            self.tell_events();
            let more = self.read_requests(driver)? | self.admit(cx, driver)?;
            // What happens from here on raises the watch again; so nothing is missed by looking now.
            let raised = self.watch.poll_raised(cx).is_ready();
            if let Some(pacing) = &mut self.pacing {
                pacing.go_on(now, raised);
            }
            self.end_searches();
            if let Some(frame) = self.respond()? {
                return Poll::Ready(Ok(frame));
            }
            if self.asked_all {
                return Poll::Ready(Err(Status::ok("the client closed the stream")));
            }
            self.show();
            self.end_in_order(now)?;
            if more {
                // Others get their turn before this client's next requests are read.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if !raised && !self.is_time(cx) {
                return Poll::Pending;
            }
        }
    }

    /// Ends the stream if its connection does and the client was answered what it asked so far (G-10), or if
    /// it asks nothing.
    fn end_in_order(&self, now: Duration) -> Result<(), Status> {
        let is_answered = self.answered || self.searches.is_empty();
        if let Some(why) = self.seat.ends().filter(|_| self.entry.is_some() && is_answered) {
            return Err(why.status());
        }
        if self.asks_by().is_some_and(|deadline| now >= deadline) {
            return Err(Status::deadline_exceeded("the stream was opened and asked nothing"));
        }
        Ok(())
    }

    /// Until when the client is to begin its first request, unless it did. A long one may take its time: when
    /// thousands come back at once, each with all that it holds, it is the server that is slow. So it is for
    /// streams of one connection, of which one after another gets to say that.
    fn asks_by(&self) -> Option<Duration> {
        let is_silent = self.entry.is_none() && self.waiting.is_none() && self.requests.is_silent();
        is_silent.then(|| {
            let others = self.seat.introduced();
            let since =
                others.map_or(Duration::ZERO, |at| at.saturating_duration_since(self.opened));
            since.saturating_add(self.shared.limits.first_request)
        })
    }

    /// What the client is served from.
    fn view(&mut self) -> CacheView {
        let newest = || self.shared.cache.view(&self.client.scopes);
        match &mut self.pacing {
            None => newest(),
            Some(pacing) => pacing.view(newest),
        }
    }

    /// The revision of that.
    fn revision(&self) -> Revision {
        let paced = self.pacing.as_ref().and_then(|pacing| pacing.revision());
        paced.unwrap_or_else(|| self.shared.cache.revision())
    }

    /// Whether something that waited goes on now; if not, the task is woken when it does.
    fn is_time(&mut self, cx: &mut Context<'_>) -> bool {
        let paced = self.pacing.as_ref().and_then(|pacing| pacing.due());
        let asked = self.admission.as_ref().and_then(|admission| admission.due());
        let first = self.asks_by();
        let times = self.machine.poll_timeout().into_iter().chain(paced).chain(asked).chain(first);
        let Some(timeout) = times.min() else {
            self.alarm = None;
            return false;
        };
        let deadline = self.opened + spread::bounded(timeout);
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if alarm.deadline() != deadline {
            alarm.as_mut().reset(deadline);
        }
        alarm.as_mut().poll(cx).is_ready()
    }

    /// The first frame of the next response, if there is one.
    fn respond(&mut self) -> Result<Option<Bytes>, Status> {
        if self.entry.is_none() {
            return Ok(None);
        }
        self.choose_view()?;
        let is_fetch = self.kind == Kind::Fetch;
        if !is_fetch && self.machine.is_in_step(self.revision()) {
            return Ok(None);
        }
        if is_fetch && self.answered {
            return Err(Status::ok(""));
        }
        let view = self.view();
        let response = self.machine.poll_response(&view).map_err(too_late)?;
        match response {
            Some(response) => {
                // Lest it looks settled with what it has only just asked for.
                if self.is_new {
                    self.show();
                }
                Ok(Some(self.send(response)))
            }
            None if is_fetch => Err(Status::unavailable(
                "nothing is known yet for this node and type: try again later",
            )),
            None => Ok(None),
        }
    }

    /// Reads what the client said; tells whether it may have said more.
    fn read_requests(&mut self, driver: &Arc<Driver>) -> Result<bool, Status> {
        if self.waiting.is_some() {
            return Ok(false);
        }
        let Some(waker) = driver.listen() else { return Ok(false) };
        let cx = &mut Context::from_waker(&waker);
        for _ in 0..REQUESTS_PER_TURN {
            if self.asked_all || (self.kind == Kind::Fetch && self.entry.is_some()) {
                return Ok(false);
            }
            match self.requests.poll_next(cx) {
                Poll::Ready(Some(request)) => self.handle(request?, driver)?,
                // It is answered all the same, and then the stream ends.
                Poll::Ready(None) => self.asked_all = true,
                Poll::Pending => return Ok(false),
            }
            if self.waiting.is_some() {
                driver.listen_again();
                return Ok(false);
            }
        }
        driver.listen_again();
        Ok(true)
    }

    /// Takes up what a request says.
    fn take(&mut self, request: Request) -> Result<(), Status> {
        self.machine.handle_request(request).map_err(refuse)?;
        if self.kind == Kind::Fetch {
            self.machine.demand_answers();
        }
        self.tell_events();
        Ok(())
    }

    /// Frames a response: first what is this stream's own, then the rest, which may be shared with other
    /// streams, and goes to HTTP/2 as it is.
    fn send(&mut self, response: Response) -> Bytes {
        let identity = self.shared.identity(self.client.variant);
        let len = response.encoded_len() + identity.len();
        if len > USUAL_LIMIT {
            tracing::warn!(
                node = self.client.node.id,
                type_url = %response.type_url,
                bytes = len,
                "a response cannot be split and is larger than gRPC clients usually accept"
            );
        }
        self.answered = true;
        if let Some(entry) = &self.entry {
            entry.sent(&response);
        }
        self.observe(&ClientEvent::Sent(&response));
        if self.compresses_above.is_some_and(|most| len > most)
            && let Some(frame) = gzip::message(&response, identity)
        {
            return frame;
        }
        // What is small is copied, which costs less than a frame of its own.
        let is_small = response.body.len() <= SMALL_BODY;
        let own = if is_small { len } else { len - response.body.len() };
        let mut head = BytesMut::with_capacity(PREFIX + own);
        head.put_u8(0);
        // A gRPC message has at most 4 GiB, and one beyond that cannot be built.
        head.put_u32(u32::try_from(len).unwrap_or(u32::MAX));
        response.encode_head(&mut head);
        head.extend_from_slice(identity);
        if is_small {
            head.extend_from_slice(&response.body);
        } else {
            self.rest = Some(response.body);
        }
        head.freeze()
    }

    /// Notes, once, that the client is gone. If it leaves with something rejected that was not repaired, or not
    /// answered, its next stream is not believed what it runs.
    fn leave(&mut self, status: &Status) {
        if self.entry.take().is_some() {
            self.shared.clients.leave(self.client.id);
            let id = &self.client.node.id;
            let doubts = Doubts {
                types: self.machine.doubtful_types().cloned().collect(),
                resources: self.machine.doubtful_resources(),
            };
            self.shared.rejections.note(id, doubts, &self.doubts);
            let failure = (status.code() != Code::Ok).then_some(status);
            self.observe(&ClientEvent::Disconnected(failure));
        }
    }
}

/// The end of a stream whose client is too far behind: its next one says what it holds.
fn too_late(error: deltaplane_core::LogTruncated) -> Status {
    Status::aborted(format!("the client fell too far behind, and must reconnect: {error}"))
}

impl Drop for XdsStream {
    fn drop(&mut self) {
        self.leave(&Status::ok("the client is gone"));
    }
}

/// The end of a stream whose client broke the protocol or met a limit.
fn refuse(error: RequestError) -> Status {
    let message = error.to_string();
    match error {
        RequestError::NoTypeUrl
        | RequestError::NameTooLong { .. }
        | RequestError::TypeUrlTooLong { .. } => Status::invalid_argument(message),
        RequestError::TooManyNames { .. }
        | RequestError::TooManyGivenUp { .. }
        | RequestError::TooManyTypes { .. } => Status::resource_exhausted(message),
        _ => Status::internal(message),
    }
}
