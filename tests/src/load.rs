//! Requests that do not stop, thousands in a second, on connections that stay and on fresh ones, while
//! something else happens that they should not notice.
//!
//! [`Traffic`](crate::envoy::traffic::Traffic) is for tests where a request now and then is enough.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONNECTION, HOST};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval_at, timeout};

use crate::Upstream;
use crate::deadline::wait_quietly;

/// Whoever waits longer for an answer gives up.
const PATIENCE: Duration = Duration::from_secs(10);

/// Of more failures than these, only the number is told.
const TOLD: usize = 12;

/// As long as this is held, no other load is there that asked for it, too: thousands of requests in a second
/// take most of a machine.
pub fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    // Whoever failed has nothing left here.
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is asked for, and how.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// The port that is asked.
    pub port: u16,
    /// The paths, which take turns.
    pub paths: &'static [&'static str],
    /// Connections that are kept for as long as the other side lets them.
    pub kept: u32,
    /// How many requests go over them in a second, all together. Fewer, if answers take longer.
    pub on_kept: u32,
    /// How many requests go over connections of their own in a second.
    pub on_fresh: u32,
    /// How many there must be in a second, or nothing is proven.
    pub least: u32,
}

impl Plan {
    /// A bit more than 2,000 requests in a second. Where others use the machine, too, it may be a tenth of
    /// them: each change still meets many of them.
    pub fn constant(port: u16, paths: &'static [&'static str]) -> Plan {
        Plan { port, paths, kept: 16, on_kept: 2_100, on_fresh: 150, least: 200 }
    }

    /// Hundreds of requests that wait for their answers at the same time.
    pub fn waiting(port: u16, paths: &'static [&'static str]) -> Plan {
        Plan { port, paths, kept: 300, on_kept: 1_000, on_fresh: 20, least: 75 }
    }

    /// Connections for one request each.
    pub fn fresh(port: u16, paths: &'static [&'static str]) -> Plan {
        Plan { port, paths, kept: 0, on_kept: 1, on_fresh: 500, least: 250 }
    }
}

/// Requests that are under way until it is stopped, from a thread of their own.
#[derive(Debug)]
pub struct Load {
    plan: Plan,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    start: Instant,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    tally: Mutex<Tally>,
}

#[derive(Debug, Default)]
struct Tally {
    /// How many answers each upstream gave, by its name, for each path.
    answers: HashMap<(&'static str, Bytes), usize>,
    slowest: Duration,
    connections: usize,
    failures: Vec<Failure>,
}

/// A request that was not answered well.
#[derive(Debug, Clone)]
pub struct Failure {
    /// When it was noticed.
    pub at: Instant,
    /// Whether its connection had been used before.
    pub kept: bool,
    /// What was asked for.
    pub path: &'static str,
    /// What was there instead of a good answer.
    pub words: String,
}

/// What became of the requests.
#[derive(Debug)]
pub struct Outcome {
    /// How many good answers there were.
    pub answered: usize,
    /// The others.
    pub failures: Vec<Failure>,
    /// How many connections were used.
    pub connections: usize,
    /// The longest that a good answer took.
    pub slowest: Duration,
    /// Since when.
    pub start: Instant,
    /// For how long.
    pub duration: Duration,
    /// What was to be done.
    pub plan: Plan,
}

impl Load {
    /// Starts.
    pub fn start(plan: Plan) -> Load {
        let shared = Arc::<Shared>::default();
        let theirs = shared.clone();
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime can be had");
        let thread = thread::spawn(move || runtime.block_on(run(plan, theirs)));
        Load { plan, shared, thread: Some(thread), start: Instant::now() }
    }

    /// How many good answers there were so far.
    pub fn answered(&self) -> usize {
        self.shared.tally().answers.values().sum()
    }

    /// How many of them were an upstream's, for a path.
    pub fn answered_by(&self, name: &str, path: &'static str) -> usize {
        let key = (path, Bytes::copy_from_slice(name.as_bytes()));
        self.shared.tally().answers.get(&key).copied().unwrap_or(0)
    }

    /// Waits until it is an upstream that answers for a path.
    pub fn reaches(&self, path: &'static str, upstream: &Upstream) {
        let so_far = self.answered_by(upstream.name(), path);
        let what = format!("requests for {path} reach {}", upstream.name());
        // One or the other may be an answer to what was asked long ago.
        wait_quietly(&what, PATIENCE, || {
            (self.answered_by(upstream.name(), path) > so_far + 5).then_some(())
        });
    }

    /// Waits until there are so many more good answers.
    pub fn goes_on_for(&self, answers: usize) {
        let so_far = self.answered();
        let what = format!("{answers} more requests are answered");
        wait_quietly(&what, PATIENCE, || (self.answered() >= so_far + answers).then_some(()));
    }

    /// How many requests failed so far.
    pub fn failed(&self) -> usize {
        self.shared.tally().failures.len()
    }

    /// Stops. No request failed, and there were enough in a second.
    pub fn ends_well(self) {
        let outcome = self.stop();
        println!("{outcome}");
        outcome.check();
    }

    /// Stops, when the requests that are under way are answered.
    pub fn stop(mut self) -> Outcome {
        let duration = self.start.elapsed();
        self.shared.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("it is stopped once");
        thread.join().expect("it does not panic");
        let tally = std::mem::take(&mut *self.shared.tally());
        let Tally { answers, slowest, connections, failures } = tally;
        let (answered, start, plan) = (answers.values().sum(), self.start, self.plan);
        Outcome { answered, failures, connections, slowest, start, duration, plan }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

impl Outcome {
    /// Good answers in a second.
    pub fn rate(&self) -> f64 {
        self.answered as f64 / self.duration.as_secs_f64()
    }

    /// No request failed, and there were as many as there must be. What it says of itself should have been
    /// printed.
    pub fn check(&self) {
        assert!(self.failures.is_empty(), "what failed is said above");
        let is_enough = self.rate() >= f64::from(self.plan.least);
        assert!(is_enough, "these are too few to prove anything");
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Outcome { answered, failures, connections, slowest, start, duration, .. } = self;
        let (seconds, rate) = (duration.as_secs_f64(), self.rate());
        write!(f, "{answered} answers in {seconds:.1} s, {rate:.0} in a second, ")?;
        write!(
            f,
            "on {connections} connections, the slowest after {:.3} s; ",
            slowest.as_secs_f64()
        )?;
        write!(f, "{} requests failed", failures.len())?;
        for failure in failures.iter().take(TOLD) {
            let at = failure.at.duration_since(*start).as_secs_f64();
            let connection = if failure.kept { "kept" } else { "fresh" };
            let Failure { path, words, .. } = failure;
            write!(f, "\n  at {at:.3} s for {path} on a {connection} connection: {words}")?;
        }
        Ok(())
    }
}

impl Shared {
    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().expect("no holder of it panics")
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

async fn run(plan: Plan, shared: Arc<Shared>) {
    let mut all = JoinSet::new();
    for index in 0..plan.kept {
        // One after the other and not all at once.
        let turn = Turn::new(plan.on_kept, plan.kept, index);
        all.spawn(keep(plan, turn, shared.clone()));
    }
    all.spawn(refresh(plan, shared));
    while all.join_next().await.is_some() {}
}

/// When it is somebody's turn, of so many who share a rate.
struct Turn {
    offset: Duration,
    period: Duration,
}

impl Turn {
    fn new(rate: u32, of: u32, index: u32) -> Turn {
        let (step, of) = (Duration::from_secs(1) / rate, of);
        Turn { offset: step * index, period: step * of }
    }

    /// Whoever was kept from his turn takes it later, so that the rate is kept where the machine can.
    fn ticks(&self) -> tokio::time::Interval {
        let mut ticks = interval_at(tokio::time::Instant::now() + self.offset, self.period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        ticks
    }
}

/// Keeps a connection, and has another one when it ends.
async fn keep(plan: Plan, turn: Turn, shared: Arc<Shared>) {
    let mut ticks = turn.ticks();
    let mut connection: Option<Connection> = None;
    for path in plan.paths.iter().cycle() {
        ticks.tick().await;
        if shared.stopped() {
            return;
        }
        let mut open = connection.take();
        // It may have been closed while nobody used it, which is nobody's fault.
        if let Some(it) = &mut open
            && !it.is_open().await
        {
            open = None;
        }
        connection = shared.ask(plan.port, path, open).await;
    }
}

/// Opens connections, each for one request.
async fn refresh(plan: Plan, shared: Arc<Shared>) {
    let mut ticks = Turn::new(plan.on_fresh, 1, 0).ticks();
    let mut under_way = JoinSet::new();
    for path in plan.paths.iter().cycle() {
        ticks.tick().await;
        if shared.stopped() {
            break;
        }
        while under_way.try_join_next().is_some() {}
        let shared = shared.clone();
        under_way.spawn(async move { drop(shared.ask(plan.port, path, None).await) });
    }
    while under_way.join_next().await.is_some() {}
}

impl Shared {
    /// Sends a request, and counts what becomes of it. Returns the connection if it can be used again.
    async fn ask(
        &self,
        port: u16,
        path: &'static str,
        open: Option<Connection>,
    ) -> Option<Connection> {
        let (kept, start) = (open.is_some(), Instant::now());
        let exchange = async {
            let mut connection = match open {
                Some(open) => open,
                None => Connection::open(port).await?,
            };
            let answer = connection.exchange(path).await?;
            Ok((connection, answer))
        };
        let result = timeout(PATIENCE, exchange).await;
        let result = result.unwrap_or_else(|_| Err(format!("no answer within {PATIENCE:?}")));
        let mut tally = self.tally();
        tally.connections += usize::from(!kept);
        let mut fail = |words| {
            let at = Instant::now();
            tally.failures.push(Failure { at, kept, path, words });
        };
        match result {
            Ok((connection, Answer { status, closes, body })) => {
                if status == StatusCode::OK {
                    *tally.answers.entry((path, body)).or_default() += 1;
                    tally.slowest = tally.slowest.max(start.elapsed());
                } else {
                    fail(format!("{status} {}", String::from_utf8_lossy(&body)));
                }
                (!closes).then_some(connection)
            }
            Err(words) => {
                fail(words);
                None
            }
        }
    }
}

struct Connection(SendRequest<Empty<Bytes>>);

struct Answer {
    status: StatusCode,
    closes: bool,
    body: Bytes,
}

impl Connection {
    async fn open(port: u16) -> Result<Connection, String> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.map_err(words)?;
        stream.set_nodelay(true).map_err(words)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(words)?;
        // What goes wrong with it is told to who has sent a request.
        tokio::spawn(connection);
        Ok(Connection(sender))
    }

    async fn is_open(&mut self) -> bool {
        self.0.ready().await.is_ok()
    }

    async fn exchange(&mut self, path: &str) -> Result<Answer, String> {
        let request = Request::get(path).header(HOST, "load").body(Empty::new()).map_err(words)?;
        let response = self.0.send_request(request).await.map_err(words)?;
        let status = response.status();
        let closes = response.headers().get(CONNECTION).is_some_and(|it| it == "close");
        let body = response.into_body().collect().await.map_err(words)?.to_bytes();
        Ok(Answer { status, closes, body })
    }
}

fn words(error: impl std::error::Error) -> String {
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        words.push_str(&format!(": {error}"));
        source = error.source();
    }
    words
}
