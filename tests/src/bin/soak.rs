//! The soak: see the module of its name. It writes `tests/SOAK.md`, if it went on for an hour, in which nothing is
//! typed by hand, and fails if anything was not as it should be.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Parser;
use deltaplane_tests::machine;
use deltaplane_tests::soak::{Outcome, Plan, run};

/// How many minutes it goes on for the page that is committed.
const WHOLE: u64 = 60;

/// Lets everything go wrong for an hour: changes, connections, clients, servers. Then everybody must have what is
/// stored, and servers use no more than at first.
///
/// The exit code says whether it was so; a page of figures says how.
#[derive(Parser)]
struct Args {
    /// How long it goes on; a round that was begun is finished.
    #[arg(long, value_name = "N", default_value_t = WHOLE)]
    minutes: u64,
    /// What chance begins with; another number each time, unless it is said.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Where to write the figures [default: SOAK.md in this package's folder; if it went on for less than an hour, in
    /// cargo's target folder].
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

impl Args {
    fn file(&self, outcome: &Outcome) -> PathBuf {
        self.out.clone().unwrap_or_else(|| match outcome.is_whole() {
            true => concat!(env!("CARGO_MANIFEST_DIR"), "/SOAK.md").into(),
            false => machine::target_dir().join("SOAK.md"),
        })
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seed = args.seed.unwrap_or(now.as_secs());
    println!("{} minutes with --seed {seed}", args.minutes);
    let outcome = run(&Plan::minutes(args.minutes, seed));
    for problem in &outcome.problems {
        println!("{problem}");
    }
    let file = args.file(&outcome);
    if let Err(error) = std::fs::write(&file, outcome.page()) {
        eprintln!("cannot write {}: {error}", file.display());
        return ExitCode::FAILURE;
    }
    let verdict = if outcome.is_good() { "all is well" } else { "it failed" };
    println!("{}: {verdict}", file.display());
    if outcome.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
