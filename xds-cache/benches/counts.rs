//! What the hot path costs in instructions, and what is kept in bytes: counted, so that it does not wobble,
//! and compared with what is recorded in `COUNTS.md`.
//!
//! It needs `valgrind`. With `--record`, it writes the record anew.
#![allow(clippy::expect_used, clippy::panic, missing_docs, unreachable_pub)]

mod scenarios;

use std::{
    alloc::System, collections::BTreeMap, env, fmt::Write as _, fs, path::Path, process::Command,
    sync::Mutex, thread,
};

use deltaplane_cache::Transaction;
use deltaplane_core::{TypeUrl, Variant};
use scenarios::{CDS, Client, SCENARIOS, cache, cluster};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// By how many percent a figure may differ from the recorded one: compilers, allocators and the seeds of
/// hashes have some say.
const TOLERANCE: u64 = 25;

/// How often a step is taken before it is counted, so that nothing happens in it for the first time.
const WARM_UP: usize = 3;

/// Callgrind counts what is called from here.
#[inline(never)]
fn counted_step(step: &mut dyn FnMut()) {
    step();
}

fn main() {
    let arguments: Vec<_> = env::args().skip(1).collect();
    match arguments.iter().position(|argument| argument == "--step") {
        Some(at) => take(arguments.get(at + 1).expect("the name of a step")),
        None => compare(arguments.iter().any(|argument| argument == "--record")),
    }
}

/// Takes a step, under callgrind.
fn take(name: &str) {
    let (_, scenario) = SCENARIOS.iter().find(|(called, _)| *called == name).expect("a step");
    let mut scenario = scenario();
    for _ in 0..WARM_UP {
        (scenario.before)();
        (scenario.step)();
    }
    (scenario.before)();
    counted_step(&mut scenario.step);
}

/// Counts everything, and compares it with the record, or records it.
fn compare(records: bool) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/COUNTS.md");
    let figures = figures();
    if records {
        return fs::write(path, table(&figures)).expect("a record");
    }
    let record = fs::read_to_string(path).unwrap_or_default();
    let recorded = read(&record);
    let mut differ = 0;
    for (what, unit, now) in &figures {
        let then = recorded.get(what.as_str()).copied();
        let is_near = then.is_some_and(|then| now.abs_diff(then) * 100 <= then * TOLERANCE);
        let verdict = if is_near { "as recorded" } else { "NOT AS RECORDED" };
        let then = then.map_or("nothing".to_owned(), |then| then.to_string());
        println!("{what}: {now} {unit}, recorded {then}: {verdict}");
        differ += usize::from(!is_near);
    }
    assert_eq!(
        differ, 0,
        "figures differ from their record by more than {TOLERANCE} %: find out why, and if it is \
         meant, run `cargo bench -p deltaplane-cache --bench counts -- --record`"
    );
}

fn figures() -> Vec<(String, &'static str, u64)> {
    let instructions = counts().into_iter();
    let instructions = instructions.map(|(name, count)| (name.to_owned(), "instructions", count));
    let bytes = kept().into_iter().map(|(name, kept)| (name.to_owned(), "bytes", kept));
    instructions.chain(bytes).collect()
}

/// The instructions of each step: as many steps at once as there are processors, since what else runs does not
/// count.
fn counts() -> Vec<(&'static str, u64)> {
    let counts = Mutex::new(SCENARIOS.map(|(name, _)| (name, None)));
    let todo = Mutex::new(0..SCENARIOS.len());
    let next = || todo.lock().expect("a list").next();
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(at) = next() {
                    let count = count(SCENARIOS[at].0);
                    counts.lock().expect("a list")[at].1 = Some(count);
                }
            });
        }
    });
    let counts = counts.into_inner().expect("a list").into_iter();
    counts.map(|(name, count)| (name, count.expect("a count"))).collect()
}

/// The instructions of a step.
fn count(name: &str) -> u64 {
    let this = env::current_exe().expect("a program");
    let run = Command::new("valgrind")
        .args(["--tool=callgrind", "--collect-atstart=no", "--toggle-collect=*counted_step*"])
        .arg("--callgrind-out-file=/dev/null")
        .arg(this)
        .args(["--step", name])
        .output();
    let run = run.expect("valgrind runs: install it by `apt-get install valgrind`");
    let words = String::from_utf8_lossy(&run.stderr);
    let collected = words.lines().find_map(|line| line.split_once("Collected : "));
    match collected.and_then(|(_, count)| count.trim().parse().ok()) {
        Some(count) if count > 0 && run.status.success() => count,
        _ => panic!("callgrind counted nothing: {words}"),
    }
}

/// What is kept for each resource, and for each stream that is in step.
fn kept() -> Vec<(&'static str, u64)> {
    const CLUSTERS: usize = 10_000;
    const STREAMS: usize = 1_000;
    let types = [CDS, TypeUrl::LISTENER, TypeUrl::ROUTE, TypeUrl::SECRET];
    let region = Region::new(ALLOCATOR);
    let cache = cache(CLUSTERS);
    let mut transaction = Transaction::new();
    transaction.upsert("default", cluster(7, 1));
    cache.commit(transaction).expect("a commit");
    let per_resource = live(&region) / CLUSTERS as u64;
    let streams = |names: &[usize]| {
        // The first make what all share.
        let mut all: Vec<_> =
            (0..2).map(|_| Client::new(&cache, Variant::Delta, &CDS, names)).collect();
        all.iter_mut().for_each(|client| assert!(client.sync() > 0));
        let region = Region::new(ALLOCATOR);
        for _ in 0..STREAMS {
            let mut client = Client::new(&cache, Variant::Delta, &CDS, names);
            types.iter().skip(1).for_each(|type_url| client.ask(type_url, names));
            client.sync();
            all.push(client);
        }
        live(&region) / STREAMS as u64
    };
    let ten: Vec<_> = (0..10).collect();
    vec![
        ("kept for a resource of 300 bytes", per_resource),
        ("kept for a stream with four wildcards, in step", streams(&[])),
        ("kept for a stream with ten names of each of four types, in step", streams(&ten)),
    ]
}

/// The bytes that were allocated since, and are not free.
fn live(region: &Region<'_, System>) -> u64 {
    let change = region.change();
    (change.bytes_allocated - change.bytes_deallocated) as u64
}

fn table(figures: &[(String, &'static str, u64)]) -> String {
    let mut table = String::from(
        "# What the hot path costs\n\n\
         Written by `cargo bench -p deltaplane-cache --bench counts -- --record`; without `--record`, that\n\
         compares. Instructions are callgrind's, of the cache and the protocol machine, without HTTP/2.\n\n\
         | what | unit | figure |\n| --- | --- | ---: |\n",
    );
    for (what, unit, figure) in figures {
        writeln!(table, "| {what} | {unit} | {figure} |").expect("a string");
    }
    table
}

fn read(table: &str) -> BTreeMap<&str, u64> {
    let row = |line| {
        let mut cells = str::split(line, '|').map(str::trim).skip(1);
        let (what, _, figure) = (cells.next()?, cells.next()?, cells.next()?);
        Some((what, figure.parse().ok()?))
    };
    table.lines().filter_map(row).collect()
}
