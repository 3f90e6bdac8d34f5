//! Typed operations through the pair of model client and machine: the client ends with what the view
//! holds.
#![no_main]

#[path = "../../xds-cache/tests/model/mod.rs"]
mod model;

use arbitrary::{Arbitrary, Result, Unstructured};
use deltaplane_core::Variant;
use libfuzzer_sys::fuzz_target;
use model::{BAD, DIRECTORIES, NAMES, Operation, SCOPES, TYPES, VIEWS, converges};

/// Longer runs find nothing that shorter ones do not, and cannot be read.
const MOST_OPERATIONS: usize = 100;

#[derive(Debug)]
struct Run {
    variant: Variant,
    operations: Vec<Operation>,
}

impl<'a> Arbitrary<'a> for Run {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let variant = *u.choose(&[Variant::Sotw, Variant::Delta])?;
        let mut operations = Vec::new();
        while !u.is_empty() && operations.len() < MOST_OPERATIONS {
            operations.push(operation(u)?);
        }
        Ok(Self { variant, operations })
    }
}

fn operation(u: &mut Unstructured<'_>) -> Result<Operation> {
    let type_at = |u: &mut Unstructured<'_>| u.choose_index(TYPES.len());
    Ok(match u.int_in_range(0..=12u8)? {
        0 => Operation::Commit(
            (0..u.int_in_range(1..=3u8)?).map(|_| change(u)).collect::<Result<_>>()?,
        ),
        1 => Operation::Subscribe { type_at: type_at(u)?, name: u.choose_index(NAMES.len())? },
        2 => Operation::Unsubscribe { type_at: type_at(u)?, name: u.choose_index(NAMES.len())? },
        3 => Operation::Wildcard { type_at: type_at(u)?, on: u.arbitrary()? },
        4 => Operation::Hear,
        5 => Operation::Say(u.int_in_range(1..=3usize)?),
        6 => Operation::Read { part: u.arbitrary()? },
        7 => Operation::Answer,
        8 => Operation::Reconnect,
        9 => Operation::Wait,
        10 => Operation::Glob {
            directory: u.choose_index(DIRECTORIES.len())?,
            on: u.arbitrary()?,
        },
        11 => Operation::TakeBack,
        _ => Operation::View(u.choose_index(VIEWS.len())?),
    })
}

fn change(u: &mut Unstructured<'_>) -> Result<(usize, usize, usize, Option<u8>)> {
    let contents = [Some(0), Some(1), Some(2), Some(BAD), None];
    Ok((
        u.choose_index(SCOPES.len())?,
        u.choose_index(TYPES.len())?,
        u.choose_index(NAMES.len())?,
        *u.choose(&contents)?,
    ))
}

fuzz_target!(|run: Run| converges(run.variant, &run.operations));
