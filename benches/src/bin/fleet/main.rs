//! The fleet benchmark: every contestant through every row, in turn, several times.
//!
//! It writes `benches/RESULTS.md` and the charts beside it, in which nothing is typed by hand.

mod chart;
mod conditions;
mod contestant;
mod measure;
mod profile;
mod report;
mod row;
mod verdict;

use std::{collections::BTreeMap, path::PathBuf, time::Instant};

use clap::Parser;
use deltaplane_benches::{Result, tls};
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::{
    process::Command,
    signal::unix::{SignalKind, signal},
};

use crate::{
    contestant::Kind,
    measure::{Budget, Measures},
    report::Results,
    row::Row,
};

/// Measures xDS servers side by side: what a change costs, how much memory a stream takes, and how long a
/// change is under way.
///
/// Every contestant goes through every row in turn, several times; medians and ratios go to RESULTS.md, and
/// charts beside it, in this package's folder if the run is whole. A contestant that cannot be built or does not do what a row needs is reported as
/// such. A full run takes an hour or two; `--quick`, a quarter of one.
#[derive(Parser)]
struct Args {
    /// How often to go through all of it.
    #[arg(long, value_name = "N", default_value_t = 3)]
    runs: usize,
    /// Go through it once, and do less in each row.
    #[arg(long)]
    quick: bool,
    /// Only these rows, by what their names begin with; `--list` tells the names.
    #[arg(long, value_name = "ROW", value_delimiter = ',')]
    rows: Vec<String>,
    /// Only these contestants.
    #[arg(long, value_enum, value_name = "WHO", value_delimiter = ',')]
    contestants: Vec<Kind>,
    /// Where to write RESULTS.md and the charts [default: this package's folder; with --quick, --rows or
    /// --contestants, the folder fleet of cargo's target folder].
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Count with cachegrind where a delivery's cost goes, ours and the floor's, and write PROFILE.md. Needs
    /// valgrind, and some minutes.
    #[arg(long)]
    profile: bool,
    /// Tell the rows and end.
    #[arg(long)]
    list: bool,
}

impl Args {
    /// Where to write: the pages that are committed are those of whole runs. A profile is always whole.
    fn folder(&self) -> PathBuf {
        let is_part = self.quick || !self.rows.is_empty() || !self.contestants.is_empty();
        self.out.clone().unwrap_or_else(|| match is_part && !self.profile {
            true => contestant::peers().with_file_name("fleet"),
            false => env!("CARGO_MANIFEST_DIR").into(),
        })
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args = Args::parse();
    let mut rows = row::rows();
    if !args.rows.is_empty() {
        rows.retain(|row| args.rows.iter().any(|prefix| row.id.starts_with(prefix)));
    }
    if args.list {
        for row in &rows {
            println!("{:24} {}", row.id, row.title());
        }
        return Ok(());
    }
    let mut terminated = signal(SignalKind::terminate())?;
    // What is dropped when this is interrupted ends its processes.
    tokio::select! {
        done = run(&args, &rows) => done,
        _ = tokio::signal::ctrl_c() => Err("interrupted".into()),
        _ = terminated.recv() => Err("terminated".into()),
    }
}

async fn run(args: &Args, rows: &[Row]) -> Result<()> {
    let runs = if args.quick { 1 } else { args.runs.max(1) };
    let budget = match args.quick {
        true => Budget { divisor: 10, seconds: 5 },
        false => Budget { divisor: 1, seconds: 20 },
    };
    let folder = args.folder();
    let wanted = |kind: &Kind| args.contestants.is_empty() || args.contestants.contains(kind);
    raise_limits();
    build_ours().await?;
    tls::make(&contestant::certificates())?;
    if args.profile {
        let row = profile::row(rows).ok_or("the row that is profiled is not among these")?;
        return profile::write(row, &folder).await;
    }
    let mut results = Results::new(args.quick);
    for kind in Kind::ALL.iter().copied().filter(wanted) {
        eprintln!("building {}", kind.title());
        if let Err(error) = kind.build().await {
            eprintln!("  {error}");
            results.absent.insert(kind, error.to_string());
        }
    }
    for number in 1..=runs {
        for row in rows {
            for kind in row.who.iter().copied().filter(wanted) {
                if !results.is_hopeless(row, kind) {
                    eprint!("[{number}/{runs}] {}: {}: ", row.title(), kind.title());
                    let start = Instant::now();
                    let measured = measure::measure(row, kind, budget).await;
                    eprintln!("{} ({} s)", describe(row, &measured), start.elapsed().as_secs());
                    results.note(row, kind, measured);
                }
            }
        }
        // What was measured is not lost if the next time is interrupted.
        results.runs = number;
        report::write(&results, rows, &folder)?;
    }
    eprintln!("{}", folder.join("RESULTS.md").display());
    Ok(())
}

/// What a row is for, on one line.
fn describe(row: &Row, measured: &Result<Measures>) -> String {
    match measured {
        Ok(measures) => {
            let shown: BTreeMap<_, _> =
                measures.iter().filter(|(metric, _)| row.shows.contains(metric)).collect();
            format!("{shown:.1?}")
        }
        Err(error) => format!("did not run: {error}"),
    }
}

/// Lets this process, and those it starts, have as many connections as they may.
fn raise_limits() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // If it may not, rows with many connections tell.
    let _ = setrlimit(Resource::Nofile, limit);
}

/// The other programs of this package.
async fn build_ours() -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .args(["build", "--release", "--locked", "-p", "deltaplane-benches", "--bins"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .await?;
    if built.success() { Ok(()) } else { Err("our own programs do not build".into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_run_overwrites_what_is_committed() {
        let folder =
            |arguments: &[&str]| Args::parse_from(["fleet"].iter().chain(arguments)).folder();
        let committed = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        assert_eq!(folder(&[]), committed);
        assert_eq!(folder(&["--runs", "1"]), committed);
        assert_eq!(folder(&["--quick", "--profile"]), committed);
        for part in [["--quick"].as_slice(), &["--rows", "join"], &["--contestants", "floor"]] {
            assert!(folder(part).ends_with("fleet"), "{part:?}");
            assert_eq!(folder(&[part, &["--out", "here"]].concat()), PathBuf::from("here"));
        }
    }
}
