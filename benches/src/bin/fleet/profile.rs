//! Where a delivery's cost goes: instructions, and lines of memory that no cache has, by whose code it is.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path, time::Duration};

use deltaplane_benches::Result;
use rustix::process::{Pid, Signal, kill_process};
use tokio::{process::Command, time::sleep};

use crate::{
    conditions,
    contestant::{Kind, Running, peers},
    measure::Fleet,
    report::significant,
    row::{PROFILED, Row},
};

/// A last level of cache of one core's share: what is idle for a while is not in it.
const CACHE: &str = "--LL=1048576,16,64";

/// How many changes reach all streams, in the run that is subtracted, and in the other.
const CHANGES: [u32; 2] = [3, 13];

/// Whose code something is, by the word that comes first in its name.
const OWNERS: &[(&str, &str)] = &[
    ("deltaplane", "the server's own"),
    ("fleet_", "the server's own"),
    ("h2::", "HTTP/2"),
    ("hyper", "HTTP/2"),
    ("http::", "HTTP/2"),
    ("tokio", "the runtime"),
    ("mio::", "the runtime"),
    ("malloc", "the allocator"),
    ("free", "the allocator"),
    ("_int_", "the allocator"),
    ("realloc", "the allocator"),
    ("unlink_chunk", "the allocator"),
    ("memcpy", "copies of memory"),
    ("memmove", "copies of memory"),
    ("memset", "copies of memory"),
];

/// What a run cost: instructions, and misses of the last level.
type Cost = [f64; 2];

/// Profiles ours and the floor, and writes PROFILE.md.
pub(crate) async fn write(row: &Row, folder: &Path) -> Result<()> {
    let mut profiles = Vec::new();
    for kind in [Kind::Floor, Kind::Deltaplane] {
        eprintln!("profiling {}", kind.title());
        let mut runs = Vec::new();
        for changes in CHANGES {
            runs.push(run(row, kind, changes).await?);
        }
        let deliveries = f64::from(CHANGES[1] - CHANGES[0]) * row.streams as f64;
        let mut profile = BTreeMap::new();
        for (owner, cost) in &runs[1] {
            let less = runs[0].get(owner).copied().unwrap_or_default();
            profile.insert(*owner, [0, 1].map(|at| (cost[at] - less[at]).max(0.0) / deliveries));
        }
        profiles.push(profile);
    }
    fs::write(folder.join("PROFILE.md"), page(row, &profiles))?;
    Ok(())
}

/// Runs a contestant under cachegrind, through so many changes.
async fn run(row: &Row, kind: Kind, changes: u32) -> Result<BTreeMap<&'static str, Cost>> {
    let file = peers().join(format!("{kind:?}.cachegrind"));
    let wrapper = |inner: Command| {
        let mut command = Command::new("valgrind");
        command.args(["--tool=cachegrind", "--cache-sim=yes", CACHE]);
        command.arg(format!("--cachegrind-out-file={}", file.display()));
        command.arg(inner.as_std().get_program()).args(inner.as_std().get_args());
        command
    };
    let server = Running::start_under(kind, row, wrapper).await?;
    server.load(row.resources).await?;
    let mut fleet = Fleet::start(row, kind, &server)?;
    fleet.tell("open").await?;
    fleet.tell(&format!("update {changes} 300")).await?;
    let pid = Pid::from_raw(server.pid.cast_signed()).ok_or("there is no such process")?;
    kill_process(pid, Signal::INT)?;
    fleet.stop().await;
    server.ended().await?;
    // What was written last is there when the process is gone; a moment for the file's sake.
    sleep(Duration::from_millis(100)).await;
    read(&fs::read_to_string(&file)?)
}

/// Sums up a file of cachegrind's by whose code it is.
fn read(text: &str) -> Result<BTreeMap<&'static str, Cost>> {
    let events = text.lines().find_map(|line| line.strip_prefix("events: "));
    let events: Vec<_> = events.ok_or("cachegrind counted nothing")?.split(' ').collect();
    let (mut sums, mut owner) = (BTreeMap::<_, Cost>::new(), "the rest");
    for line in text.lines() {
        if let Some(function) = line.strip_prefix("fn=") {
            owner = owner_of(function);
        } else if line.starts_with(|first: char| first.is_ascii_digit()) {
            let cost = sums.entry(owner).or_default();
            for (event, count) in events.iter().zip(line.split(' ').skip(1)) {
                let count: f64 = count.parse()?;
                match *event {
                    "Ir" => cost[0] += count,
                    "ILmr" | "DLmr" | "DLmw" => cost[1] += count,
                    _ => {}
                }
            }
        }
    }
    Ok(sums)
}

fn owner_of(function: &str) -> &'static str {
    let found = OWNERS.iter().filter_map(|(word, owner)| Some((function.find(word)?, *owner)));
    found.min().map_or("the rest", |(_, owner)| owner)
}

fn page(row: &Row, profiles: &[BTreeMap<&'static str, Cost>]) -> String {
    let mut page = format!(
        "# Where a delivery's cost goes\n\n\
         Written by `cargo run --release -p deltaplane-benches --bin fleet -- --profile`: what cachegrind counts \
         for each message delivered ({}), with a last level of cache of 1 MiB. Left, instructions; right, the \
         lines of memory that are in no cache. What the kernel does is not in it. Counted at {}.\n\n\
         | | floor | Deltaplane |\n| --- | --- | --- |\n",
        row.title(),
        conditions::place()
    );
    let mut owners: Vec<_> = profiles.iter().flat_map(|profile| profile.keys().copied()).collect();
    owners.sort_unstable();
    owners.dedup();
    let mut sums = vec![Cost::default(); profiles.len()];
    let cell = |cost: Cost| format!("{} · {}", significant(cost[0]), significant(cost[1]));
    for owner in owners {
        let costs: Vec<_> = profiles
            .iter()
            .map(|profile| profile.get(owner).copied().unwrap_or_default())
            .collect();
        for (sum, cost) in sums.iter_mut().zip(&costs) {
            (0..2).for_each(|at| sum[at] += cost[at]);
        }
        let cells: Vec<_> = costs.into_iter().map(cell).collect();
        let _ = writeln!(page, "| {owner} | {} |", cells.join(" | "));
    }
    let cells: Vec<_> = sums.into_iter().map(cell).collect();
    let _ = writeln!(page, "| all | {} |", cells.join(" | "));
    page.push_str(&conclusion(profiles));
    page
}

/// What follows from the counts: how many times the floor's each is, and whose code makes most of the difference.
fn conclusion(profiles: &[BTreeMap<&'static str, Cost>]) -> String {
    let [floor, ours] = profiles else { return String::new() };
    let mut text = "\nDeltaplane, beside the floor:\n\n".to_owned();
    for (at, what) in ["instructions", "lines of memory"].into_iter().enumerate() {
        let sum = |profile: &BTreeMap<_, Cost>| profile.values().map(|cost| cost[at]).sum::<f64>();
        let ratio = significant(sum(ours) / sum(floor));
        let _ = write!(text, "* {what}: {ratio} times as many");
        let more = ours.iter().map(|(owner, cost)| {
            (cost[at] - floor.get(owner).map_or(0.0, |cost| cost[at]), *owner)
        });
        let most = more.max_by(|(one, _), (other, _)| one.total_cmp(other));
        if let Some((more, owner)) = most.filter(|(more, _)| *more > 0.0) {
            let _ = write!(text, "; {owner} has the largest difference, {}", significant(more));
        }
        text.push('\n');
    }
    text
}

/// The row that is profiled.
pub(crate) fn row(rows: &[Row]) -> Option<&Row> {
    rows.iter().find(|row| row.id == PROFILED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_conclusion_follows_from_the_counts() {
        let floor = BTreeMap::from([("HTTP/2", [10.0, 2.0]), ("the rest", [10.0, 2.0])]);
        let ours = BTreeMap::from([("HTTP/2", [9.0, 3.0]), ("the rest", [41.0, 1.0])]);
        let said = conclusion(&[floor, ours]);
        let lines: Vec<_> = said.lines().filter(|line| line.starts_with('*')).collect();
        assert_eq!(
            lines,
            [
                "* instructions: 2.50 times as many; the rest has the largest difference, 31.0",
                "* lines of memory: 1.00 times as many; HTTP/2 has the largest difference, 1.00",
            ]
        );
    }
}
