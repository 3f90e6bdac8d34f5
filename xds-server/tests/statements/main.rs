//! Which statements of the protocol have a test, by the names of the tests. With `--nocapture` it prints
//! each with what it demands and its tests. And whether the statements exist that sources cite, and the tests
//! that pages name.
#![allow(
    clippy::panic,
    clippy::expect_used,
    unreachable_pub,
    reason = "helpers of tests are tests"
)]

mod demands;
mod pages;
mod sources;

use std::collections::{BTreeMap, BTreeSet};

/// What must be only on a condition that does not hold here, and why it does not: see what is declined.
const CONDITIONAL: &str = "V-06 P-02 P-03";

/// The section of what gRPC's clients show, by tests that are not named after statements.
const BY_CLIENTS: &str = "G-";

/// Where tests are, from this package's folder.
const SOURCES: &[&str] = &["../xds-core/src", "../xds-cache/tests", "tests", "../tests/tests"];

/// The crate's documentation, which says what is declined.
const DOCUMENTATION: &str = include_str!("../../src/lib.rs");

#[test]
fn every_statement_has_a_test_or_a_reason() {
    let statements = demands::statements();
    let conditional: BTreeSet<_> = CONDITIONAL.split_whitespace().collect();
    let declined = declined();
    let tests = tests_by_statement();
    let mut wrong = Vec::new();
    for (id, demands::Statement { level, sentence }) in &statements {
        let tested = tests.get(id);
        let what = match (tested, declined.contains(id)) {
            (Some(_), true) => {
                wrong.push(format!("{id} is declined, and has a test"));
                continue;
            }
            (Some(tests), false) => tests.iter().cloned().collect::<Vec<_>>().join(", "),
            (None, true) => "declined".into(),
            (None, false) if id.starts_with(BY_CLIENTS) => "by real clients".into(),
            (None, false) => "-".into(),
        };
        let may_decline = level.starts_with("SHOULD") || conditional.contains(id.as_str());
        let owed = level.starts_with("MUST") || level.starts_with("SHOULD");
        let owed = owed && !(may_decline && what == "declined") && !id.starts_with(BY_CLIENTS);
        if owed && tested.is_none() {
            wrong.push(format!("{id} is a {level}, and has no test: {sentence}"));
        }
        println!("{id} {level}: {sentence}\n     {what}");
    }
    let known = tests.keys().chain(&declined);
    for id in known.filter(|id| !statements.contains_key(*id)) {
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
