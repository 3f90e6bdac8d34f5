//! The model client and the machine over a cache, under random operations.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod model;

use deltaplane_core::Variant;
use model::{BAD, NAMES, Operation, SCOPES, TYPES, VIEWS, converges};
use proptest::prelude::*;

fn operation() -> impl Strategy<Value = Operation> {
    let types = 0..TYPES.len();
    let names = 0..NAMES.len();
    let content = prop_oneof![3 => (0..3u8).prop_map(Some), 1 => Just(Some(BAD)), 2 => Just(None)];
    let change = (0..SCOPES.len(), types.clone(), names.clone(), content);
    prop_oneof![
        6 => prop::collection::vec(change, 1..4).prop_map(Operation::Commit),
        3 => (types.clone(), names.clone())
            .prop_map(|(type_at, name)| Operation::Subscribe { type_at, name }),
        2 => (types.clone(), names)
            .prop_map(|(type_at, name)| Operation::Unsubscribe { type_at, name }),
        1 => (types, any::<bool>()).prop_map(|(type_at, on)| Operation::Wildcard { type_at, on }),
        6 => Just(Operation::Hear),
        6 => (1..4usize).prop_map(Operation::Say),
        6 => any::<u8>().prop_map(|part| Operation::Read { part }),
        4 => Just(Operation::Answer),
        1 => Just(Operation::Reconnect),
        1 => (0..VIEWS.len()).prop_map(Operation::View),
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
