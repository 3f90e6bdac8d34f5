//! Which statements of the protocol have a test, by the names of the tests. With `--nocapture` it prints
//! the table. And whether the tests exist that pages name.
#![allow(
    clippy::panic,
    clippy::expect_used,
    unreachable_pub,
    reason = "helpers of tests are tests"
)]

mod pages;
mod sources;

use std::collections::{BTreeMap, BTreeSet};

/// The statements of the sections B, S, W, D, N, R, T, O, V, E, P, X, K, C, L and H, by level. Those that are derived from what
/// clients do, and not a sentence of the specification, are marked `(d)`.
const STATEMENTS: &[(&str, &str)] = &[
    (
        "MUST",
        "B-01 B-02 B-03 B-05 B-06 B-08 B-09 B-12 \
         S-01 S-02 S-03 S-04 S-06 S-07 S-08 S-09 S-10 S-11 S-12 S-14 S-16 S-17 S-18 S-21 S-23 \
         W-01 W-02 W-03 W-04 W-05 W-06 W-08 W-09 W-10 W-11 W-12 W-13 W-15 W-16 \
         D-01 D-02 D-03 D-04 D-05 D-06 D-07 D-09 D-10 D-11 D-12 D-13 D-16 D-17 \
         N-01 N-02 N-03 N-04 N-08 N-09 N-12 \
         R-01 R-02 R-03 R-05 R-07 R-08 R-09 R-11 R-12 O-05 O-08 O-10 K-06 \
         T-02 T-03 T-04 T-05 T-09 V-01 V-02 V-04 V-05 V-06 V-07 V-09 \
         E-02 E-03 E-04 E-05 E-07 P-01 P-02 P-03 X-01 X-02 X-03 X-04 X-05 X-06 X-07 X-09 X-10 \
         C-01 C-02 C-03 C-04 L-01 L-02 L-03 L-04 L-05 H-04",
    ),
    (
        "MUST(d)",
        "B-13 B-14 S-20 D-18 D-19 D-20 N-05 N-07 N-13 N-14 R-13 R-14 O-04 O-09 O-11 \
         T-06 T-07 T-10 V-03 V-08 K-01 K-04 K-05",
    ),
    (
        "SHOULD",
        "B-07 B-10 S-13 S-22 W-07 W-14 D-08 D-21 N-10 R-04 R-10 O-01 O-02 O-03 O-06 O-12 \
         T-01 E-06 E-08 K-02 K-03 C-05 L-06 H-02 H-03",
    ),
    ("SHOULD(d)", "B-04 S-15 S-19 N-06 T-08 C-06"),
    ("MAY", "B-11 S-05 D-14 D-15 D-22 D-23 H-01 N-11 R-06 O-07 E-01 X-08"),
];

/// What must be only on a condition that does not hold here, and why it does not: see what is declined.
const CONDITIONAL: &str = "V-06 P-02 P-03";

/// Where tests are, from this package's folder.
const SOURCES: &[&str] = &["../xds-core/src", "../xds-cache/tests", "tests", "../tests/tests"];

/// The crate's documentation, which says what is declined.
const DOCUMENTATION: &str = include_str!("../../src/lib.rs");

#[test]
fn every_statement_has_a_test_or_a_reason() {
    let levels: BTreeMap<_, _> = STATEMENTS
        .iter()
        .flat_map(|(level, ids)| ids.split_whitespace().map(move |id| (id, *level)))
        .collect();
    let conditional: BTreeSet<_> = CONDITIONAL.split_whitespace().collect();
    let declined = declined();
    let tests = tests_by_statement();
    let mut wrong = Vec::new();
    for (id, level) in &levels {
        let tested = tests.get(*id);
        let what = match (tested, declined.contains(*id)) {
            (Some(_), true) => {
                wrong.push(format!("{id} is declined, and has a test"));
                continue;
            }
            (Some(tests), false) => tests.iter().cloned().collect::<Vec<_>>().join(", "),
            (None, true) => "declined".into(),
            (None, false) => "-".into(),
        };
        let may_decline = level.starts_with("SHOULD") || conditional.contains(id);
        let owed = level.starts_with("MUST") || level.starts_with("SHOULD");
        let owed = owed && !(may_decline && what == "declined");
        if owed && tested.is_none() {
            wrong.push(format!("{id} is a {level}, and has no test"));
        }
        println!("{id} {level:<9} {what}");
    }
    let known = tests.keys().chain(&declined).map(String::as_str);
    for id in known.filter(|id| !levels.contains_key(id)) {
        wrong.push(format!("{id} is spoken of, and there is no such statement"));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// What a list item under `# Statements declined` begins with.
fn declined() -> BTreeSet<String> {
    let (_, section) = DOCUMENTATION.split_once("//! # Statements declined").unwrap_or_default();
    let section = section.split("//! # ").next().unwrap_or_default();
    let items = section.lines().filter_map(|line| line.strip_prefix("//! * "));
    items.filter_map(|item| item.split_once(':')).map(|(id, _)| id.to_owned()).collect()
}

/// The names of tests, by the statements that they are named after.
fn tests_by_statement() -> BTreeMap<String, BTreeSet<String>> {
    let mut tests = BTreeMap::<_, BTreeSet<_>>::new();
    for source in SOURCES {
        for test in sources::tests_in(source) {
            for id in statements(&test.name) {
                tests.entry(id).or_default().insert(test.name.clone());
            }
        }
    }
    tests
}

/// The statements at the beginning of a test's name: `d06_d07_what_it_shows`.
fn statements(function: &str) -> impl Iterator<Item = String> {
    let id = |word: &str| {
        let (section, number) = word.split_at_checked(1)?;
        let is_id = section.chars().all(|c| c.is_ascii_lowercase())
            && number.len() == 2
            && number.chars().all(|c| c.is_ascii_digit());
        is_id.then(|| format!("{}-{number}", section.to_uppercase()))
    };
    function.split('_').map_while(id)
}

#[test]
fn statements_are_read_from_the_beginning_of_a_name() {
    assert!(statements("d06_d07_what_s08_shows").eq(["D-06", "D-07"]));
    assert!(statements("a_client_without_b01").eq([""; 0]));
}
