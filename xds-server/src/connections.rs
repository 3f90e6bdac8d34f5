//! The connections of a server: how many there are, how long each lives, and how it ends.
//!
//! A connection that is to end is told so (GOAWAY), so that its client opens its next streams on another; then
//! its streams end, each when it was answered once (G-10), and the client comes back with what it holds.

use std::{
    collections::HashMap,
    fmt,
    future::pending,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use dashmap::DashMap;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep_until, timeout},
};
use tonic::Status;

use crate::{
    body::Driver,
    peer::Peer,
    server::{Shared, XdsServer, XdsServerBuilder},
    spread,
};

/// How long connections of [`XdsServer::serve`] live, so that clients spread anew over replicas, and over what
/// stands before them, and so that what TLS accepted long ago is shown again (K-03).
///
/// ```
/// # use std::time::Duration;
/// use deltaplane_server::{Aging, Cache, XdsServer};
///
/// let aging = Aging::after(Duration::from_secs(1800));
/// let server = XdsServer::builder(Cache::new()).aging(aging).build();
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Aging {
    /// How old a connection gets, give or take a tenth. For ever, unless set.
    pub age: Option<Duration>,
    /// How long its streams may take to end when it was told to; then it is cut. 10 s unless set.
    pub grace: Duration,
}

impl Default for Aging {
    fn default() -> Self {
        Self { age: None, grace: Duration::from_secs(10) }
    }
}

impl Aging {
    /// Connections get that old, give or take a tenth.
    #[must_use]
    pub fn after(age: Duration) -> Self {
        Self { age: Some(age), ..Self::default() }
    }

    /// How long streams may take to end.
    #[must_use]
    pub fn grace(self, grace: Duration) -> Self {
        Self { grace, ..self }
    }
}

/// How full a server is, and what it did about that since it started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Occupancy {
    /// How many connections there are on [`XdsServer::serve`].
    pub connections: usize,
    /// How many discovery streams there are.
    pub streams: usize,
    /// How many streams were refused by [limits](crate::Limits).
    pub refused: u64,
    /// How many connections were ended for their age.
    pub aged: u64,
    /// How many connections were ended since others have [less to do](XdsServer::set_fair_share).
    pub shed: u64,
    /// How many connections were ended since [nothing was under way](crate::Limits::connection_idle) on them.
    pub idle: u64,
}

/// All of a server.
#[derive(Default)]
pub(crate) struct Connections {
    all: DashMap<u64, Arc<Connection>>,
    opened: AtomicU64,
    /// How often some had to end for who is at their other end.
    endings: AtomicU64,
    streams: AtomicUsize,
    refused: AtomicU64,
    aged: AtomicU64,
    shed: AtomicU64,
    idle: AtomicU64,
    /// How many streams should be here; 0 if that is not known.
    share: AtomicUsize,
    /// Some connection is gone.
    left: Notify,
}

/// One connection.
pub(crate) struct Connection {
    id: u64,
    /// Who is at its other end, once that is known.
    peer: OnceLock<Peer>,
    /// When it goes, and why, if that is known.
    goes: watch::Sender<Option<(Instant, Why)>>,
    /// Why its streams end, once they do.
    ends: watch::Sender<Option<Why>>,
    /// How many requests are being answered, streams among them.
    calls: watch::Sender<usize>,
    /// When one of its streams last came with its first request.
    introduced: Mutex<Option<Instant>>,
    drivers: Mutex<HashMap<u64, Weak<Driver>>>,
}

/// Why a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    Age,
    Certificate,
    Surplus,
    Shutdown,
}

impl Why {
    /// How its streams end.
    pub(crate) fn status(self) -> Status {
        Status::unavailable(match self {
            Why::Age => "this connection has reached its age: reconnect",
            Why::Certificate => "the certificate is good no more: reconnect with another",
            Why::Surplus => "other replicas have less to do: reconnect",
            Why::Shutdown => "the server shuts down: reconnect",
        })
    }
}

/// That a connection is there, until this is dropped.
pub(crate) struct Presence {
    shared: Arc<Shared>,
    pub(crate) connection: Arc<Connection>,
    /// How often some had to end before it came.
    endings: u64,
}

/// That a request is being answered, until this is dropped.
pub(crate) struct Call(Arc<Connection>);

/// That a stream is there, until this is dropped.
pub(crate) struct Seat {
    shared: Arc<Shared>,
    id: u64,
    connection: Option<Arc<Connection>>,
}

/// How much may be here above the fair share: a tenth of it.
const TOLERANCE: usize = 10;

/// In which parts a surplus is shed, and how often one is looked for.
const PARTS: usize = 50;
pub(crate) const TICK: Duration = Duration::from_millis(250);

impl Connections {
    /// Waits until there is room for one more connection.
    pub(crate) async fn room(&self, most: usize) {
        loop {
            let left = self.left.notified();
            if self.all.len() < most {
                return;
            }
            left.await;
        }
    }

    /// Tells those to go that this is true of, and returns how many.
    fn end(&self, is_over: impl Fn(&Peer) -> bool) -> usize {
        self.endings.fetch_add(1, Ordering::SeqCst);
        // So that whatever that takes holds up nobody who comes.
        let all: Vec<_> = self.all.iter().map(|connection| connection.clone()).collect();
        let mut ended = 0;
        for connection in all.iter().filter(|it| it.peer.get().is_some_and(&is_over)) {
            connection.go(Duration::ZERO, Why::Certificate);
            ended += 1;
        }
        ended
    }

    pub(crate) fn occupancy(&self) -> Occupancy {
        Occupancy {
            connections: self.all.len(),
            streams: self.streams.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
            aged: self.aged.load(Ordering::Relaxed),
            shed: self.shed.load(Ordering::Relaxed),
            idle: self.idle.load(Ordering::Relaxed),
        }
    }

    /// Tells some connections to go, if there are more streams than should be here: not all at once, and none
    /// that alone has more streams than are too many, which would only be too many elsewhere.
    pub(crate) fn shed(&self) {
        let share = self.share.load(Ordering::Relaxed);
        let streams = self.streams.load(Ordering::Relaxed);
        if share == 0 || streams <= share.saturating_add(share / TOLERANCE) {
            return;
        }
        let now = Instant::now();
        let going =
            |connection: &Connection| connection.goes.borrow().is_some_and(|(at, _)| at <= now);
        let mut leaving = 0;
        let mut staying = Vec::new();
        for connection in &self.all {
            let streams = connection.drivers().len();
            if going(&connection) {
                leaving += streams;
            } else if streams > 0 {
                staying.push((streams, connection.clone()));
            }
        }
        // Who is on the way out is not counted twice.
        let Some(surplus) = (streams - share).checked_sub(leaving).filter(|left| *left > 0) else {
            return;
        };
        staying.retain(|(streams, _)| *streams <= surplus);
        let mut wanted = surplus.div_ceil(PARTS);
        while wanted > 0 && !staying.is_empty() {
            let (streams, connection) = staying.swap_remove(spread::index(staying.len()));
            connection.go(Duration::ZERO, Why::Surplus);
            wanted = wanted.saturating_sub(streams);
        }
    }
}

impl Connection {
    fn drivers(&self) -> MutexGuard<'_, HashMap<u64, Weak<Driver>>> {
        self.drivers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn introduced(&self) -> MutexGuard<'_, Option<Instant>> {
        self.introduced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has it end after so long at the latest.
    pub(crate) fn go(&self, after: Duration, why: Why) {
        let at = Instant::now() + after;
        self.goes.send_if_modified(|goes| {
            let is_sooner = goes.is_none_or(|(goes, _)| at < goes);
            if is_sooner {
                *goes = Some((at, why));
            }
            is_sooner
        });
    }

    /// Why it ends, when it is time for that.
    pub(crate) async fn goes(&self) -> Why {
        let mut goes = self.goes.subscribe();
        loop {
            let next = *goes.borrow_and_update();
            let time = async {
                match next {
                    Some((at, why)) => {
                        sleep_until(at).await;
                        why
                    }
                    None => pending().await,
                }
            };
            tokio::select! {
                why = time => return why,
                _ = goes.changed() => {}
            }
        }
    }

    /// Ends its streams.
    fn end(&self, why: Why) {
        self.ends.send_replace(Some(why));
        let drivers: Vec<_> = self.drivers().values().filter_map(Weak::upgrade).collect();
        drivers.iter().for_each(|driver| driver.look());
    }

    /// Done when its streams end.
    pub(crate) fn ended(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut ends = self.ends.subscribe();
        async move {
            // Nobody waits any more if the sender is gone.
            let _ = ends.wait_for(Option::is_some).await;
        }
    }

    /// Done when nothing was asked for so long, or, once something was, nothing is under way for so long.
    pub(crate) fn is_idle(
        &self,
        unasked: Duration,
        asked: Duration,
    ) -> impl Future<Output = ()> + Send + use<> {
        // Before anything is read: of what is asked from now on, nothing is missed.
        let mut calls = self.calls.subscribe();
        async move {
            let mut patience = unasked;
            loop {
                // Neither wait fails as long as the connection is there.
                let is_quiet = timeout(patience, calls.changed()).await.is_err();
                if is_quiet && *calls.borrow() == 0 {
                    return;
                }
                patience = asked;
                let _ = calls.wait_for(|calls| *calls == 0).await;
            }
        }
    }
}

impl Call {
    pub(crate) fn begin(connection: &Arc<Connection>) -> Self {
        connection.calls.send_modify(|calls| *calls += 1);
        Self(connection.clone())
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.0.calls.send_modify(|calls| *calls -= 1);
    }
}

impl Presence {
    pub(crate) fn enter(shared: &Arc<Shared>) -> Self {
        let connections = &shared.connections;
        let endings = connections.endings.load(Ordering::SeqCst);
        let age = shared.aging.age.map(|age| (Instant::now() + spread::about(age), Why::Age));
        let connection = Arc::new(Connection {
            id: connections.opened.fetch_add(1, Ordering::Relaxed),
            peer: OnceLock::new(),
            goes: watch::Sender::new(age),
            ends: watch::Sender::new(None),
            calls: watch::Sender::new(0),
            introduced: Mutex::default(),
            drivers: Mutex::default(),
        });
        connections.all.insert(connection.id, connection.clone());
        Self { shared: shared.clone(), connection, endings }
    }

    /// Whether who is at the other end may go on, now that it is known: not if some had to end meanwhile, by what
    /// it was not asked for then.
    pub(crate) fn meets(&self, peer: &Peer) -> bool {
        // First this, since who ends some counts that first.
        _ = self.connection.peer.set(peer.clone());
        self.shared.connections.endings.load(Ordering::SeqCst) == self.endings
    }

    /// Counts that it is told to end, since nothing is under way on it.
    pub(crate) fn count_idle(&self) {
        self.shared.connections.idle.fetch_add(1, Ordering::Relaxed);
    }

    /// Ends its streams, and counts that.
    pub(crate) fn end(&self, why: Why) {
        let Connections { aged, shed, .. } = &self.shared.connections;
        match why {
            Why::Age => _ = aged.fetch_add(1, Ordering::Relaxed),
            Why::Surplus => _ = shed.fetch_add(1, Ordering::Relaxed),
            Why::Certificate | Why::Shutdown => {}
        }
        self.connection.end(why);
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.shared.connections.all.remove(&self.connection.id);
        self.shared.connections.left.notify_waiters();
    }
}

impl Seat {
    /// Takes a seat for a stream, if there is one.
    pub(crate) fn take(
        shared: &Arc<Shared>,
        connection: Option<Arc<Connection>>,
    ) -> Result<Self, Status> {
        let connections = &shared.connections;
        let most = shared.limits.streams;
        // It is given back when this is dropped.
        let before = connections.streams.fetch_add(1, Ordering::Relaxed);
        let id = shared.streams.fetch_add(1, Ordering::Relaxed);
        let seat = Self { shared: shared.clone(), id, connection };
        let why = if before >= most {
            format!("this server has the {most} streams that it may have: try again, or another")
        } else if shared.memory.is_short() {
            "this server is short of memory: try again later, or another".to_owned()
        } else {
            return Ok(seat);
        };
        if connections.refused.fetch_add(1, Ordering::Relaxed) == 0 {
            tracing::warn!(why, "a client was refused; others are counted");
        }
        Err(Status::resource_exhausted(why))
    }

    /// The stream's own number.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// What drives the stream is woken when its connection ends.
    pub(crate) fn driven_by(&self, driver: &Arc<Driver>) {
        if let Some(connection) = &self.connection {
            connection.drivers().insert(self.id, Arc::downgrade(driver));
        }
    }

    /// The stream came with its first request.
    pub(crate) fn introduce(&self) {
        if let Some(connection) = &self.connection {
            *connection.introduced() = Some(Instant::now());
        }
    }

    /// When a stream of the connection last came with its first request, if any did.
    pub(crate) fn introduced(&self) -> Option<Instant> {
        *self.connection.as_ref()?.introduced()
    }

    /// Why the stream is to end, once its connection does.
    pub(crate) fn ends(&self) -> Option<Why> {
        self.connection.as_ref().and_then(|connection| *connection.ends.borrow())
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.shared.connections.streams.fetch_sub(1, Ordering::Relaxed);
        if let Some(connection) = &self.connection {
            connection.drivers().remove(&self.id);
        }
    }
}

impl fmt::Debug for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Seat").field(&self.id).finish()
    }
}

impl XdsServerBuilder {
    /// How long connections live: for ever, unless this says otherwise.
    pub fn aging(mut self, aging: Aging) -> Self {
        self.aging = aging;
        self
    }
}

impl XdsServer {
    /// How full it is. Costs nothing.
    #[must_use]
    pub fn occupancy(&self) -> Occupancy {
        self.shared.connections.occupancy()
    }

    /// Ends connections of [`serve`](XdsServer::serve) that this is true of, and returns how many: for those whose
    /// certificate is not accepted any more, since its CA is not, or since it stands on a list. They end as by
    /// [age](Aging), and their clients come back with what they hold, by what TLS accepts then: replace its
    /// configuration before. Who is about to connect meanwhile has to begin anew.
    ///
    /// It is asked once for each connection.
    pub fn end_connections(&self, is_over: impl Fn(&Peer) -> bool) -> usize {
        self.shared.connections.end(is_over)
    }

    /// How many streams should be here, if clients were spread evenly over replicas: all streams of the fleet,
    /// divided by the replicas that serve it. Connections of [`serve`](XdsServer::serve) that are above that by
    /// more than a tenth are ended, in order and a few at a time, and chosen at random, so that they come back
    /// elsewhere. None does so by itself: say it again whenever it changes, for a replica that is new should
    /// get some of what the others have.
    ///
    /// A connection that has more streams than are too many is not ended for it.
    pub fn set_fair_share(&self, streams: Option<usize>) {
        let share = streams.map_or(0, |streams| streams.max(1));
        self.shared.connections.share.store(share, Ordering::Relaxed);
    }
}
