//! A short soak, in which there is some of everything. The program of that name goes on for an hour.

#![allow(missing_docs)]

use deltaplane_tests::soak::{Plan, run};

/// What there must be some of, or it shows nothing.
const HAPPENED: [&str; 30] = [
    "a service was created",
    "a service was replaced",
    "a service was patched",
    "a service was deleted",
    "services were imported",
    "a row was changed in the database itself",
    "a raw cluster was added",
    "a raw cluster was changed",
    "a raw cluster was removed",
    "a raw cluster was swapped for another",
    "raw endpoints were changed",
    "a bad cluster came",
    "a bad listener came",
    "routes became bad",
    "a response was accepted",
    "a response was rejected",
    "a client came with nothing",
    "a client came back with what it had",
    "a client's connection was cut",
    "a client read slowly",
    "a client stopped reading",
    "a client forgot everything",
    "a client asked for other clusters",
    "a network was slow",
    "a network stood still",
    "an Envoy's connection was cut",
    "an Envoy stood still",
    "an Envoy was started anew",
    "a replica was killed",
    "a replica was stopped",
];

#[test]
fn everybody_has_what_is_stored_after_everything_went_wrong() {
    let outcome = run(&Plan::brief(1));
    println!("{}", outcome.page());
    assert!(outcome.is_good(), "{:#?}", outcome.problems);
    let missing: Vec<_> =
        HAPPENED.iter().filter(|what| !outcome.events.contains_key(*what)).collect();
    assert!(missing.is_empty(), "it did without: {missing:?}");
}
