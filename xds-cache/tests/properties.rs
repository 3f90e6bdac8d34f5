//! The model client and the machine over a cache, under random operations.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod model;

use deltaplane_core::Variant;
use model::{BAD, DIRECTORIES, NAMES, Operation, SCOPES, TYPES, VIEWS, converges};
use proptest::prelude::*;

fn commit() -> impl Strategy<Value = Operation> {
    let content = prop_oneof![3 => (0..3u8).prop_map(Some), 1 => Just(Some(BAD)), 2 => Just(None)];
    let put = (0..SCOPES.len(), 0..TYPES.len(), 0..NAMES.len(), content);
    prop::collection::vec(put, 1..4).prop_map(Operation::Commit)
}

fn operation() -> impl Strategy<Value = Operation> {
    let types = 0..TYPES.len();
    let names = 0..NAMES.len();
    prop_oneof![
        6 => commit(),
        1 => Just(Operation::TakeBack),
        3 => (types.clone(), names.clone())
            .prop_map(|(type_at, name)| Operation::Subscribe { type_at, name }),
        2 => (types.clone(), names)
            .prop_map(|(type_at, name)| Operation::Unsubscribe { type_at, name }),
        1 => (0..DIRECTORIES.len(), any::<bool>())
            .prop_map(|(directory, on)| Operation::Glob { directory, on }),
        1 => (types, any::<bool>()).prop_map(|(type_at, on)| Operation::Wildcard { type_at, on }),
        6 => Just(Operation::Hear),
        6 => (1..4usize).prop_map(Operation::Say),
        6 => any::<u8>().prop_map(|part| Operation::Read { part }),
        4 => Just(Operation::Answer),
        1 => Just(Operation::Reconnect),
        1 => (0..VIEWS.len()).prop_map(Operation::View),
        1 => Just(Operation::Wait),
    ]
}

proptest! {
    // More by PROPTEST_CASES.
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases.max(2000)))]

    #[test]
    fn the_client_ends_with_what_the_view_holds(
        delta in any::<bool>(),
        operations in prop::collection::vec(operation(), 1..60),
    ) {
        converges(if delta { Variant::Delta } else { Variant::Sotw }, &operations);
    }
}

/// A change, of which the client reads something, and that is taken back; its stream ends before or after that.
fn lost() -> impl Strategy<Value = Vec<Operation>> {
    const ENDS: [[Operation; 2]; 2] =
        [[Operation::TakeBack, Operation::Reconnect], [Operation::Reconnect, Operation::TakeBack]];
    let parts = prop::collection::vec(any::<u8>(), 0..5);
    (commit(), parts, prop::sample::select(&ENDS[..])).prop_map(|(commit, parts, end)| {
        let reads = parts.into_iter().map(|part| Operation::Read { part });
        [commit, Operation::Say(4)].into_iter().chain(reads).chain(end).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases.max(2000)))]

    #[test]
    fn r13_the_client_ends_with_what_the_view_holds_whatever_rejections_are_lost(
        delta in any::<bool>(),
        before in prop::collection::vec(operation(), 0..8),
        rounds in prop::collection::vec((lost(), prop::collection::vec(operation(), 0..4)), 1..6),
    ) {
        let begin = [0, 2].map(|type_at| Operation::Wildcard { type_at, on: true });
        let rounds = rounds.into_iter().flat_map(|(lost, after)| lost.into_iter().chain(after));
        let all: Vec<_> = begin.into_iter().chain(before).chain(rounds).collect();
        converges(if delta { Variant::Delta } else { Variant::Sotw }, &all);
    }
}

/// The client rejects what a change of view takes from it at once, and the next gives back.
#[test]
fn what_was_rejected_is_sent_when_a_view_takes_it_and_gives_it_back() {
    let operations = [
        Operation::Wildcard { type_at: 0, on: true },
        Operation::Commit(vec![(0, 0, 2, Some(BAD)), (0, 0, 1, Some(0))]),
        Operation::Hear,
        Operation::Say(1),
        Operation::Read { part: 0 },
        Operation::Answer,
        Operation::View(1),
        Operation::Hear,
        Operation::View(2),
    ];
    converges(Variant::Delta, &operations);
}

/// What was sent for a name may arrive after a wildcard began, which has to tell that it is gone.
#[test]
fn what_is_on_its_way_when_a_wildcard_begins_is_removed_with_the_view() {
    let operations = [
        Operation::Subscribe { type_at: 1, name: 1 },
        Operation::Subscribe { type_at: 2, name: 2 },
        Operation::Subscribe { type_at: 3, name: 2 },
        Operation::Subscribe { type_at: 0, name: 3 },
        Operation::Hear,
        Operation::Hear,
        Operation::Unsubscribe { type_at: 0, name: 3 },
        Operation::Hear,
        Operation::Hear,
        Operation::Wildcard { type_at: 0, on: true },
        Operation::Commit(vec![(0, 0, 3, Some(0)), (0, 1, 1, Some(0)), (1, 0, 2, Some(0))]),
        Operation::Say(1),
        Operation::View(1),
    ];
    converges(Variant::Delta, &operations);
}

/// Endpoints that are missing were told to be beside bad ones: who waits for them does not for ever.
#[test]
fn what_is_missing_beside_what_is_rejected_is_not_waited_for() {
    let operations = [
        Operation::Wildcard { type_at: 0, on: true },
        Operation::Hear,
        Operation::Subscribe { type_at: 1, name: 0 },
        Operation::Subscribe { type_at: 1, name: 1 },
        Operation::Subscribe { type_at: 3, name: 3 },
        Operation::Say(1),
        Operation::Commit(vec![(1, 0, 0, Some(1)), (1, 1, 1, Some(BAD)), (1, 3, 3, Some(0))]),
    ];
    converges(Variant::Delta, &operations);
}

/// A State of the World response that says nothing new still carries what the client may ask for meanwhile.
#[test]
fn what_a_response_only_repeats_may_arrive_after_it_was_asked_for() {
    let operations = [
        Operation::Wildcard { type_at: 0, on: true },
        Operation::Hear,
        Operation::Commit(vec![(0, 0, 0, Some(2))]),
        Operation::View(3),
        Operation::Subscribe { type_at: 0, name: 2 },
        Operation::Say(3),
        Operation::Read { part: 0 },
        Operation::View(0),
        Operation::Say(3),
        Operation::Reconnect,
        Operation::Hear,
        Operation::Wildcard { type_at: 0, on: false },
        Operation::View(1),
        Operation::Say(3),
        Operation::Subscribe { type_at: 0, name: 0 },
    ];
    converges(Variant::Sotw, &operations);
}

/// What changes a subscription names the newest nonce, and would accept what was rejected before.
#[test]
fn what_was_rejected_is_said_before_a_subscription_changes() {
    let operations = [
        Operation::Subscribe { type_at: 1, name: 1 },
        Operation::Subscribe { type_at: 1, name: 2 },
        Operation::Hear,
        Operation::Hear,
        Operation::Commit(vec![(1, 1, 1, Some(BAD)), (1, 1, 2, Some(2))]),
        Operation::Say(1),
        Operation::Commit(vec![(1, 1, 1, Some(0))]),
        Operation::Say(1),
        Operation::Read { part: 0 },
        Operation::Read { part: 0 },
        Operation::Subscribe { type_at: 1, name: 3 },
    ];
    converges(Variant::Sotw, &operations);
}

/// A response repeats a bad cluster that is given up meanwhile: the good one in it is not to blame.
#[test]
fn what_rides_with_what_is_rejected_and_given_up_is_not_rejected() {
    let operations = [
        Operation::Subscribe { type_at: 0, name: 1 },
        Operation::Subscribe { type_at: 0, name: 2 },
        Operation::Commit(vec![(0, 0, 2, Some(BAD))]),
        Operation::Hear,
        Operation::Subscribe { type_at: 3, name: 0 },
        Operation::Hear,
        Operation::Say(1),
        Operation::Commit(vec![(0, 0, 1, Some(1))]),
        Operation::Commit(vec![(1, 3, 0, Some(1))]),
        Operation::Read { part: 0 },
        Operation::Unsubscribe { type_at: 0, name: 2 },
        Operation::Answer,
        Operation::Say(1),
    ];
    converges(Variant::Sotw, &operations);
}

/// What goes before a wildcard is looked at was not told, so it is news when a view gives it back.
#[test]
fn what_goes_as_a_wildcard_begins_and_comes_back_with_a_view_is_sent() {
    let operations = [
        Operation::Commit(vec![(0, 0, 1, Some(0)), (1, 0, 1, Some(0))]),
        Operation::Subscribe { type_at: 0, name: 3 },
        Operation::View(1),
        Operation::Hear,
        Operation::Say(1),
        Operation::Wildcard { type_at: 0, on: true },
        Operation::Hear,
        Operation::Commit(vec![(1, 0, 1, None)]),
        Operation::View(2),
    ];
    converges(Variant::Delta, &operations);
}

/// What is on its way when a wildcard begins anew is answered before the server looks what there is.
#[test]
fn what_is_answered_as_a_wildcard_begins_anew_is_removed_all_the_same() {
    let operations = [
        Operation::Wildcard { type_at: 0, on: true },
        Operation::Hear,
        Operation::Wildcard { type_at: 0, on: false },
        Operation::Commit(vec![(1, 0, 3, Some(1))]),
        Operation::Wildcard { type_at: 0, on: true },
        Operation::Say(1),
        Operation::Read { part: 0 },
        Operation::View(3),
        Operation::Answer,
    ];
    converges(Variant::Delta, &operations);
}

/// What is on demand and given up is not covered by the glob beside it, and has to be told to be gone.
#[test]
fn what_is_on_demand_and_given_up_beside_a_glob_is_gone() {
    let operations = [
        Operation::Subscribe { type_at: 0, name: 1 },
        Operation::Commit(vec![(0, 0, 1, Some(2))]),
        Operation::Hear,
        Operation::Glob { directory: 0, on: true },
        Operation::Unsubscribe { type_at: 0, name: 1 },
        Operation::Hear,
        Operation::Say(1),
    ];
    converges(Variant::Sotw, &operations);
}

/// A cluster that becomes on demand is gone for a glob, so that a route no longer waits for it.
#[test]
fn what_waits_for_what_becomes_on_demand_goes_before_that_is_removed() {
    let operations = [
        Operation::Subscribe { type_at: 3, name: 0 },
        Operation::Commit(vec![(0, 3, 0, Some(0))]),
        Operation::Glob { directory: 0, on: true },
        Operation::Hear,
        Operation::Subscribe { type_at: 3, name: 3 },
        Operation::Hear,
        Operation::Say(1),
        Operation::Commit(vec![(0, 3, 3, Some(0))]),
        Operation::Commit(vec![(0, 1, 0, Some(9))]),
        Operation::Commit(vec![(0, 0, 0, Some(0))]),
        Operation::Say(2),
        Operation::Commit(vec![(0, 0, 0, Some(2))]),
        Operation::Subscribe { type_at: 1, name: 0 },
    ];
    converges(Variant::Delta, &operations);
}

/// What is on demand and asked for is not covered by a wildcard that begins as it comes.
#[test]
fn what_comes_on_demand_as_a_wildcard_begins_is_sent() {
    let operations = [
        Operation::Subscribe { type_at: 0, name: 0 },
        Operation::Hear,
        Operation::Say(2),
        Operation::Read { part: 0 },
        Operation::Answer,
        Operation::Wildcard { type_at: 0, on: true },
        Operation::Commit(vec![(0, 0, 0, Some(1))]),
        Operation::Commit(vec![(0, 0, 0, Some(2))]),
    ];
    converges(Variant::Delta, &operations);
}
