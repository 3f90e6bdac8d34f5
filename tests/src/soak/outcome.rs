//! What came of it: the verdict, and a page of figures.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::thread;
use std::time::Duration;

use super::Plan;
use super::log::{self, Lines};
use super::usage::{Usage, slope};
use crate::machine;

/// An hour is what is promised.
const HOUR: Duration = Duration::from_secs(3600);

/// By how much more memory may be in use late than in the middle: a tenth, and some that chance has.
const MORE: f64 = 1.1;
const CHANCE: f64 = 4.0 * MIB;

/// Of how many quiet points something can be said about memory.
const ENOUGH: usize = 9;

const MIB: f64 = 1_048_576.0;

/// What came of a soak.
#[derive(Debug)]
#[non_exhaustive]
pub struct Outcome {
    plan: Plan,
    /// How long it took.
    pub duration: Duration,
    /// All that was not as it should be.
    pub problems: Vec<String>,
    /// What was done, and how often.
    pub events: BTreeMap<&'static str, u64>,
    /// How many storms there were.
    pub rounds: usize,
    /// How many requests went through an Envoy.
    pub requests: usize,
    /// How long it took at each quiet point until everybody had what is stored.
    pub(super) waits: Vec<Duration>,
    pub(super) samples: Vec<Sample>,
    logged: BTreeMap<(String, String), Lines>,
    /// The problems' kinds.
    blamed: BTreeSet<&'static str>,
}

/// What a replica used at a quiet point.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    pub(super) at: Duration,
    pub(super) replica: usize,
    pub(super) usage: Usage,
}

impl Outcome {
    pub(super) fn new(plan: &Plan) -> Outcome {
        Outcome {
            plan: plan.clone(),
            duration: Duration::ZERO,
            problems: Vec::new(),
            events: BTreeMap::new(),
            rounds: 0,
            requests: 0,
            waits: Vec::new(),
            samples: Vec::new(),
            logged: BTreeMap::new(),
            blamed: BTreeSet::new(),
        }
    }

    /// Each of these is a problem of this kind.
    pub(super) fn blame(&mut self, kind: &'static str, wrong: impl IntoIterator<Item = String>) {
        for wrong in wrong {
            self.blamed.insert(kind);
            self.problems.push(format!("{kind}: {wrong}"));
        }
    }

    /// Judges what can only be judged in the end.
    pub(super) fn judge(&mut self, logs: impl IntoIterator<Item = String>) {
        self.logged = log::kinds(logs);
        let unexpected = self.logged.values().filter(|lines| lines.reason.is_none());
        let unexpected: Vec<_> = unexpected.map(|lines| lines.example.clone()).collect();
        self.blame("a server logged what nobody expects", unexpected);
        if let Some((middle, late)) = self.memory()
            && late > middle * MORE + CHANCE
        {
            let wrong = format!("{:.1} MiB, and in the middle {:.1} MiB", late / MIB, middle / MIB);
            self.blame("memory grows", [wrong]);
        }
    }

    /// Whether all was as it should be.
    pub fn is_good(&self) -> bool {
        self.problems.is_empty()
    }

    /// Whether it went on for the hour that is promised.
    pub fn is_whole(&self) -> bool {
        self.duration >= HOUR
    }

    /// Of the replica that is never ended: when, and how much memory it used.
    fn points(&self) -> Vec<(Duration, f64)> {
        let samples = self.samples.iter().filter(|sample| sample.replica == 0);
        samples.map(|sample| (sample.at, sample.usage.memory)).collect()
    }

    /// How much memory it used in the middle third of the time, and in the last: at first, what it keeps of
    /// old changes grows until it is as long as it may be.
    fn memory(&self) -> Option<(f64, f64)> {
        let points = self.points();
        let third = points.len() / 3;
        let mean = |points: &[(Duration, f64)]| {
            points.iter().map(|(_, memory)| memory).sum::<f64>() / points.len() as f64
        };
        let late = points.len() - third;
        (points.len() >= ENOUGH).then(|| (mean(&points[third..late]), mean(&points[late..])))
    }

    /// All of it, as a page.
    pub fn page(&self) -> String {
        let mut page = self.introduction();
        page.push_str("\n## What must be\n\n| | found | |\n| --- | --- | --- |\n");
        for (what, found, kinds) in self.verdicts() {
            let holds = !kinds.iter().any(|kind| self.blamed.contains(kind));
            let _ =
                writeln!(page, "| {what} | {found} | {} |", if holds { "yes" } else { "**no**" });
        }
        if !self.problems.is_empty() {
            page.push_str("\n## What was wrong\n\n");
            for problem in &self.problems {
                let _ = writeln!(page, "* {}", problem.replace('\n', " "));
            }
        }
        page.push_str("\n## What was done\n\n| | times |\n| --- | --- |\n");
        for (what, times) in &self.events {
            let _ = writeln!(page, "| {what} | {times} |");
        }
        page.push_str(&self.usages());
        page.push_str("\n## What servers warned of\n\n| level | message | times | why |\n| --- | --- | --- | --- |\n");
        for ((level, message), Lines { times, reason, .. }) in &self.logged {
            let _ = writeln!(
                page,
                "| {level} | {message} | {times} | {} |",
                reason.unwrap_or("**nobody knows**")
            );
        }
        page
    }

    fn introduction(&self) -> String {
        let Plan { seed, clients, .. } = self.plan;
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let minutes = self.duration.as_secs() / 60;
        let short = match self.is_whole() {
            true => "",
            false => {
                "**It was shorter than the hour that is promised**, and says so much less of what grows slowly.\n\n"
            }
        };
        format!(
            "# The soak\n\n\
             Written by `cargo run --release -p deltaplane-tests --bin soak`: {minutes} minutes with the seed {seed}, \
             built as {}, on one machine with {cores} cores.\n\n{short}\
             Three replicas on one PostgreSQL serve three fleets, each with an Envoy and {clients} model clients: delta and \
             State of the World, for everything and by name. In a storm, a writer for each fleet changes services and raw \
             resources, and trouble comes to clients, their networks and servers. Then all trouble ends, what is bad is \
             mended, and everybody must have what is stored: model clients resource by resource, by content; Envoys as their \
             `config_dump` has it; and what is stored must be what writers were told. Then all is made as it was at the \
             beginning, and servers must use what they used then.\n",
            machine::profile()
        )
    }

    /// What must be, what was found, and the kinds of problems that say that it is not.
    fn verdicts(&self) -> [(&'static str, String, &'static [&'static str]); 6] {
        let longest = self.waits.iter().max().copied().unwrap_or_default();
        let (points, longest) = (self.waits.len(), longest.as_secs_f64());
        let quiet = format!("at {points} quiet points, after {longest:.1} s at most");
        let memory = match self.memory() {
            Some((middle, late)) => {
                format!("{:.1} MiB in the middle, {:.1} MiB late", middle / MIB, late / MIB)
            }
            None => "too short to say".to_owned(),
        };
        let measured = format!("{} times", self.samples.len());
        let unexpected = self.logged.values().filter(|lines| lines.reason.is_none()).count();
        [
            ("everybody has what is stored", quiet, &["somebody has not what is stored"]),
            (
                "what a writer was told is so",
                format!("after {} storms", self.rounds),
                &["a write was lost, or done though it was not", "a request was refused"],
            ),
            (
                "no request through an Envoy fails",
                format!("{} requests", self.requests),
                &["a request through an Envoy failed"],
            ),
            (
                "tasks, threads, files and streams return to what they were",
                measured,
                &["a server does not give back what it used"],
            ),
            ("memory does not grow", memory, &["memory grows"]),
            (
                "nothing is logged that nobody can act on",
                format!("{unexpected} kinds of it"),
                &["a server logged what nobody expects"],
            ),
        ]
    }

    fn usages(&self) -> String {
        let mut text = String::from(
            "\n## What a server uses\n\nAt quiet points, by the replica that is never ended.",
        );
        let points = self.points();
        if let Some(slope) = slope(&points[points.len() / 3..]) {
            let _ = write!(
                text,
                " After the first third of the time, its memory changes by {:+.1} MiB in an hour.",
                slope / MIB
            );
        }
        text.push_str(
            "\n\n| minute | MiB | tasks | threads | files | streams |\n| --- | --- | --- | --- | --- | --- |\n",
        );
        let samples: Vec<_> = self.samples.iter().filter(|sample| sample.replica == 0).collect();
        // A page is long enough with some of them.
        let step = samples.len().div_ceil(40).max(1);
        for Sample { at, usage, .. } in samples.into_iter().step_by(step) {
            let Usage { memory, tasks, threads, files, streams } = usage;
            let (minute, memory) = (at.as_secs_f64() / 60.0, memory / MIB);
            let _ = writeln!(
                text,
                "| {minute:.1} | {memory:.1} | {tasks} | {threads} | {files} | {streams} |"
            );
        }
        text
    }
}
