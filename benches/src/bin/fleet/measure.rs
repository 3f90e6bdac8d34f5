//! One row of one contestant: it is started, loaded, connected to, changed and measured.

use std::{collections::BTreeMap, process::Stdio, time::Duration};

use deltaplane_benches::{Result, cluster::Variant};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::{sleep, timeout},
};

use crate::{
    contestant::{Kind, Running, binaries, certificates},
    row::{Act, Metric, Row},
};

/// What was measured.
pub(crate) type Measures = BTreeMap<Metric, f64>;

/// How much time one row of one contestant may take for its changes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget {
    /// By how much to divide how often something is done.
    pub(crate) divisor: usize,
    pub(crate) seconds: u64,
}

/// Measures one row of one contestant.
pub(crate) async fn measure(row: &Row, kind: Kind, budget: Budget) -> Result<Measures> {
    let server = Running::start(kind, row).await?;
    let measured = drive(row, kind, &server, budget).await;
    server.stop().await;
    measured
}

async fn drive(row: &Row, kind: Kind, server: &Running, budget: Budget) -> Result<Measures> {
    let mut measures = Measures::new();
    let (cpu, memory) = (server.cpu()?, server.memory()?);
    server.load(row.resources).await?;
    // What was left of the loading is not part of what follows.
    sleep(Duration::from_millis(300)).await;
    let resources = row.resources as f64;
    measures.insert(Metric::Load, (server.cpu()? - cpu) * 1e6 / resources);
    measures.insert(Metric::Resource, (server.memory()? - memory) / resources);

    let mut fleet = Fleet::start(row, kind, server)?;
    let (cpu, memory) = (server.cpu()?, server.memory()?);
    if !matches!(row.act, Act::Again) {
        fleet.tell("open").await?;
        sleep(Duration::from_millis(300)).await;
        measures.insert(Metric::Sync, server.cpu()? - cpu);
        // The first change may be dearer than those after it.
        fleet.tell("update 3 60").await?;
    }
    act(row, server, &mut fleet, budget, &mut measures).await?;
    sleep(Duration::from_secs(1)).await;
    let kib = (server.memory()? - memory) / 1024.0;
    measures.insert(Metric::Memory, kib / row.streams as f64);
    if row.shows.contains(&Metric::Request) {
        let cpu = server.cpu()?;
        fleet.tell(&format!("nothing {REQUESTS}")).await?;
        measures.insert(Metric::Request, (server.cpu()? - cpu) * 1e6 / REQUESTS as f64);
    }
    fleet.stop().await;
    Ok(measures)
}

/// How many requests tell what one costs.
const REQUESTS: usize = 10_000;

async fn act(
    row: &Row,
    server: &Running,
    fleet: &mut Fleet,
    budget: Budget,
    measures: &mut Measures,
) -> Result<()> {
    let (cpu, memory) = (server.cpu()?, server.memory()?);
    let few = |count: usize| (count / budget.divisor).max(3);
    let told = fleet
        .tell(&match row.act {
            Act::Update { count } => format!("update {} {}", few(count), budget.seconds),
            Act::Rush { count } => format!("rush {} {}", few(count), budget.seconds),
            Act::Settle { count } => format!("settle {} {}", few(count), budget.seconds),
            Act::Rate { per_second, seconds } => {
                format!("rate {per_second} {}", few(seconds as usize))
            }
            Act::Again => "again".to_owned(),
            Act::Join { count } => format!("join {}", few(count)),
        })
        .await?;
    let cpu = server.cpu()? - cpu;
    measures.insert(Metric::Growth, (server.memory()? - memory) / f64::from(1 << 20));
    let value = |name: &str| told.get(name).copied().unwrap_or(f64::NAN);
    measures.insert(Metric::Delivery, cpu * 1e6 / value("messages"));
    measures.insert(Metric::Commit, cpu * 1e6 / value("commits"));
    for (metric, name) in
        [(Metric::P50, "p50"), (Metric::P99, "p99"), (Metric::P999, "p999"), (Metric::Last, "last")]
    {
        measures.insert(metric, value(name) / 1e3);
    }
    measures.insert(Metric::Behind, value("behind"));
    measures.insert(Metric::Rate, value("commits") / value("seconds"));
    measures.insert(Metric::Cores, cpu / (value("seconds") + value("behind")));
    let messages = value("messages") / (row.streams - row.stopped) as f64;
    measures.insert(Metric::Messages, messages / value("commits"));
    measures.insert(Metric::Delay, value("delay") / 1e3);
    measures.insert(Metric::Again, value("seconds"));
    measures.insert(Metric::AgainCpu, cpu);
    measures.retain(|_, value| value.is_finite());
    Ok(())
}

/// The load generator.
pub(crate) struct Fleet {
    process: Child,
    commands: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

/// How long it may take over one command.
const PATIENCE: Duration = Duration::from_secs(600);

impl Fleet {
    pub(crate) fn start(row: &Row, kind: Kind, server: &Running) -> Result<Self> {
        let variant = if row.variant == Variant::Delta { "delta" } else { "sotw" };
        let mut command = Command::new(binaries().join("fleet-load"));
        for (name, value) in [
            ("--grpc", usize::from(server.grpc)),
            ("--http", usize::from(server.http)),
            ("--streams", row.streams),
            ("--resources", row.resources),
            ("--per-connection", row.per_connection),
            ("--stopped", row.stopped),
        ] {
            command.args([name, &value.to_string()]);
        }
        if let Some(names) = row.names {
            command.args(["--names", &names.to_string()]);
        }
        if row.tls {
            command.arg("--tls").arg(certificates());
        }
        if kind.wants_one_node() {
            command.arg("--one-node");
        }
        let mut process = command
            .args(["--variant", variant])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let commands = process.stdin.take().ok_or("the load generator has no input")?;
        let answers = process.stdout.take().ok_or("the load generator has no output")?;
        Ok(Self { process, commands, answers: BufReader::new(answers).lines() })
    }

    /// Tells it what to do, and returns the numbers that it answers with.
    pub(crate) async fn tell(&mut self, command: &str) -> Result<BTreeMap<String, f64>> {
        self.commands.write_all(format!("{command}\n").as_bytes()).await?;
        let answer = timeout(PATIENCE, self.answers.next_line()).await;
        let answer = answer.map_err(|_| format!("no end of `{command}` in sight"))??;
        let answer = answer.ok_or("the load generator is gone")?;
        if let Some(error) = answer.strip_prefix("error=") {
            return Err(error.into());
        }
        let numbers = answer.split_whitespace().filter_map(|pair| {
            let (name, value) = pair.split_once('=')?;
            Some((name.to_owned(), value.parse().ok()?))
        });
        Ok(numbers.collect())
    }

    pub(crate) async fn stop(mut self) {
        // If it cannot be killed, it is gone.
        let _ = self.process.kill().await;
    }
}
