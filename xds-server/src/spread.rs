//! Times that are not the same for all, so that not all do the same at once.

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

/// That long, give or take a tenth.
pub(crate) fn about(time: Duration) -> Duration {
    time.mul_f64(0.9 + 0.2 * random())
}

/// A random number from 0 to 1.
pub(crate) fn random() -> f64 {
    let random = RandomState::new().hash_one(());
    f64::from(u32::try_from(random >> 32).unwrap_or(0)) / f64::from(u32::MAX)
}
