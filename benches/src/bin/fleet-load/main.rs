//! The fleet: opens the streams, publishes the changes, and times their arrival.
//!
//! It does what it is told on its standard input, a line at a time, and answers each with a line of
//! `name=value` on its standard output, so that whoever runs it can look at the server in between.

mod arrivals;
mod stream;

use std::{path::PathBuf, sync::Arc, time::Duration};

use clap::Parser;
use deltaplane_benches::{
    Error, Result,
    cluster::Variant,
    control::{Command, Control},
    tls,
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use crate::{
    arrivals::Arrivals,
    stream::{Connections, Plan},
};

/// Opens the streams of a fleet, publishes changes, and times their arrival.
///
/// Reads commands from its standard input: `open`, `update COUNT SECONDS`, `settle COUNT SECONDS`, `rush COUNT SECONDS`,
/// `rate PER_SECOND SECONDS`, `again`, `join COUNT`, `nothing COUNT`.
#[derive(Parser)]
struct Args {
    /// The port on which the contestant serves ADS.
    #[arg(long, value_name = "PORT")]
    grpc: u16,
    /// Its control port.
    #[arg(long, value_name = "PORT")]
    http: u16,
    /// How many streams to open.
    #[arg(long, value_name = "N")]
    streams: usize,
    /// How many clusters the contestant was told to load.
    #[arg(long, value_name = "N")]
    resources: usize,
    /// How many streams share a connection.
    #[arg(long, value_name = "N", default_value_t = 50)]
    per_connection: usize,
    /// Which protocol to speak.
    #[arg(long, value_enum, default_value_t = Variant::Delta)]
    variant: Variant,
    /// How many clusters each stream subscribes to by name; to all of them if this is not set.
    #[arg(long, value_name = "N")]
    names: Option<usize>,
    /// How many of the streams, each with a connection of its own, stop reading after the first sync.
    #[arg(long, value_name = "N", default_value_t = 0)]
    stopped: usize,
    /// Call all clients `node`, for a server that knows nodes only one by one.
    #[arg(long)]
    one_node: bool,
    /// Connect by mutual TLS, with the certificates in this folder.
    #[arg(long, value_name = "FOLDER")]
    tls: Option<PathBuf>,
}

/// How long to wait for what should come.
const PATIENCE: Duration = Duration::from_secs(60);

/// How many requests may be under way to the contestant where none waits for the one before.
const TELLERS: usize = 32;

/// How long to wait for all who come back at once: each says what it holds, some hundred kilobytes.
const STORM: Duration = Duration::from_secs(400);

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    let plan = Plan {
        grpc: args.grpc,
        streams: args.streams,
        resources: args.resources,
        per_connection: args.per_connection.max(1),
        variant: args.variant,
        names: args.names,
        stopped: args.stopped.min(args.streams),
        one_node: args.one_node,
        tls: args.tls.as_deref().map(tls::client).transpose()?,
    };
    let control = Control::connect(args.http).await?;
    let arrivals = Arc::new(Arrivals::default());
    let mut fleet = Fleet {
        plan: Arc::new(plan),
        arrivals,
        control,
        http: args.http,
        patience: PATIENCE,
        generation: 0,
        connections: None,
    };
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        let words: Vec<_> = line.split_whitespace().collect();
        match fleet.execute(&words).await {
            Ok(answer) => println!("{answer}"),
            Err(error) => println!("error={error}"),
        }
    }
    Ok(())
}

/// Connections to a contestant's control port: one that waits for its answer keeps no other back.
struct Tellers(JoinSet<Result<Control>>);

impl Tellers {
    async fn connect(port: u16) -> Result<Self> {
        let mut telling = JoinSet::new();
        for _ in 0..TELLERS {
            let control = Control::connect(port).await?;
            telling.spawn(std::future::ready(Ok(control)));
        }
        Ok(Self(telling))
    }

    /// Tells the contestant to do this, or asks for nothing, as soon as one of the connections is free.
    async fn tell(&mut self, command: Option<Command>) -> Result<()> {
        let told = self.0.join_next().await;
        let mut control = told.ok_or("nobody is left who tells")???;
        self.0.spawn(async move {
            match command {
                Some(command) => control.tell(command).await?,
                None => control.ask_for_nothing().await?,
            }
            Ok(control)
        });
        Ok(())
    }

    /// Returns when everything told is done.
    async fn finish(mut self) -> Result<()> {
        while let Some(told) = self.0.join_next().await {
            told??;
        }
        Ok(())
    }
}

struct Fleet {
    plan: Arc<Plan>,
    arrivals: Arc<Arrivals>,
    control: Control,
    http: u16,
    patience: Duration,
    generation: u32,
    connections: Option<Connections>,
}

impl Fleet {
    async fn execute(&mut self, words: &[&str]) -> Result<String> {
        match *words {
            ["open"] => self.open(&[]).await,
            ["again"] => self.again().await,
            ["join", count] => self.join(count.parse()?).await,
            ["update", count, seconds] => self.update(count.parse()?, seconds.parse()?).await,
            ["settle", count, seconds] => self.settle(count.parse()?, seconds.parse()?).await,
            ["rush", count, seconds] => self.rush(count.parse()?, seconds.parse()?).await,
            ["nothing", count] => self.nothing(count.parse()?).await,
            ["rate", rate, seconds] => self.rate(rate.parse()?, seconds.parse()?).await,
            _ => Err(format!("{words:?} is no command").into()),
        }
    }

    /// Opens all streams, and waits until each has all that it subscribes to.
    async fn open(&mut self, held: &[stream::Held]) -> Result<String> {
        let start = Instant::now();
        let expected = if held.is_empty() { self.plan.streams } else { 0 };
        self.arrivals.expect(expected);
        self.connections = Some(Connections::open(&self.plan, &self.arrivals, held).await?);
        self.arrived(expected, "were synced").await?;
        Ok(format!("seconds={}", start.elapsed().as_secs_f64()))
    }

    /// Opens all streams at once, with clients that hold everything already; a change then shows when the
    /// last of them is served.
    async fn again(&mut self) -> Result<String> {
        self.patience = STORM;
        let held = stream::hold(&self.plan).await?;
        let start = Instant::now();
        self.open(&held).await?;
        self.publish(false).await?;
        Ok(format!("seconds={} {}", start.elapsed().as_secs_f64(), self.arrivals.summary()))
    }

    /// Publishes changes one after another, each when the last one is everywhere.
    async fn update(&mut self, count: usize, seconds: u64) -> Result<String> {
        let (start, first) = (Instant::now(), self.generation);
        self.arrivals.forget();
        for _ in 0..count {
            if start.elapsed() > Duration::from_secs(seconds) {
                break;
            }
            self.publish(false).await?;
        }
        let elapsed = start.elapsed().as_secs_f64();
        // The last ACKs are the server's work, too.
        sleep(Duration::from_millis(200)).await;
        let commits = self.generation - first;
        Ok(format!("commits={commits} seconds={elapsed} {}", self.arrivals.summary()))
    }

    /// Publishes changes as fast as the contestant takes them, and then until the last of them is
    /// everywhere.
    async fn rush(&mut self, count: usize, seconds: u64) -> Result<String> {
        let first = self.generation;
        self.arrivals.forget();
        self.arrivals.expect(usize::MAX);
        let mut tellers = Tellers::connect(self.http).await?;
        let start = Instant::now();
        for _ in 0..count {
            if start.elapsed() > Duration::from_secs(seconds) {
                break;
            }
            tellers.tell(Some(self.next(false))).await?;
        }
        tellers.finish().await?;
        self.arrivals.quiet(Duration::from_secs(1), PATIENCE).await;
        let commits = self.generation - first;
        Ok(format!("commits={commits} messages={}", self.arrivals.messages()))
    }

    /// The same with requests that ask for nothing.
    async fn nothing(&mut self, count: usize) -> Result<String> {
        let mut tellers = Tellers::connect(self.http).await?;
        for _ in 0..count {
            tellers.tell(None).await?;
        }
        tellers.finish().await?;
        Ok(format!("requests={count}"))
    }

    /// Publishes changes one after another, each when all have acknowledged the last one, and times that.
    async fn settle(&mut self, count: usize, seconds: u64) -> Result<String> {
        let start = Instant::now();
        let settled = Arrivals::default();
        for _ in 0..count {
            if start.elapsed() > Duration::from_secs(seconds) {
                break;
            }
            settled.expect(1);
            self.publish(true).await?;
            settled.note(1);
        }
        Ok(settled.summary())
    }

    /// Publishes so many changes a second without waiting for their arrival, and then until the last of
    /// them is everywhere.
    async fn rate(&mut self, rate: u32, seconds: u32) -> Result<String> {
        self.arrivals.forget();
        let reading = self.plan.streams - self.plan.stopped;
        // Of a key that changes twice before a stream is told, that stream is told once.
        self.arrivals.expect(usize::MAX);
        let mut tellers = Tellers::connect(self.http).await?;
        let start = Instant::now();
        let mut late = Duration::ZERO;
        for n in 0..rate * seconds {
            let due = start + Duration::from_secs_f64(f64::from(n) / f64::from(rate));
            tokio::time::sleep_until(due).await;
            tellers.tell(Some(self.next(false))).await?;
            late = late.max(due.elapsed());
        }
        tellers.finish().await?;
        let published = start.elapsed().as_secs_f64();
        let quiet = self.arrivals.quiet(Duration::from_secs(1), PATIENCE).await;
        let resources = self.arrivals.resources() as f64 / (reading as f64);
        Ok(format!(
            "commits={} seconds={published} late={} behind={} each={resources} messages={}",
            rate * seconds,
            late.as_secs_f64(),
            quiet.as_secs_f64(),
            self.arrivals.messages(),
        ))
    }

    /// Publishes changes, first alone, then while one newcomer after another has its first sync; tells how
    /// much later the last stream then has a change, at worst, than half of them have one otherwise.
    async fn join(&mut self, count: usize) -> Result<String> {
        self.arrivals.forget();
        for _ in 0..count {
            self.publish(false).await?;
        }
        let alone = self.arrivals.took(500);
        self.arrivals.forget();
        for _ in 0..count {
            let plan = Arc::new(Plan { streams: 1, stopped: 0, ..(*self.plan).clone() });
            let joining = tokio::spawn(async move {
                let arrivals = Arc::new(Arrivals::default());
                arrivals.expect(1);
                let _connections = Connections::open(&plan, &arrivals, &[]).await?;
                arrivals.all().await;
                Ok::<_, Error>(arrivals.failure())
            });
            while !joining.is_finished() {
                self.publish(false).await?;
            }
            if let Some(failure) = joining.await?? {
                return Err(failure.into());
            }
        }
        let delay = self.arrivals.took(1_000).saturating_sub(alone);
        Ok(format!("delay={delay} {}", self.arrivals.summary()))
    }

    /// Publishes one change, and waits until it is everywhere.
    async fn publish(&mut self, settled: bool) -> Result<()> {
        let command = self.next(settled);
        let Command::Update { i, .. } = command else { return Ok(()) };
        let expected = self.plan.concerned(i);
        self.arrivals.expect(expected);
        timeout(self.patience, self.control.tell(command)).await??;
        self.arrived(expected, "got the change").await
    }

    fn next(&mut self, settled: bool) -> Command {
        self.generation += 1;
        // A prime walks over all of them, however many there are.
        let i = self.generation as usize * 7_919 % self.plan.resources;
        Command::Update { i, generation: self.generation, settled }
    }

    async fn arrived(&self, expected: usize, what: &str) -> Result<()> {
        let Ok(()) = timeout(self.patience, self.arrivals.all()).await else {
            let (missing, seconds) = (self.arrivals.missing(), self.patience.as_secs());
            let came = expected.saturating_sub(missing);
            return Err(format!("{came} of {expected} streams {what} within {seconds} s").into());
        };
        match self.arrivals.failure() {
            Some(failure) => Err(failure.into()),
            None => Ok(()),
        }
    }
}
