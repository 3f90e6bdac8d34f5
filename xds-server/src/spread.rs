//! Times that are not the same for all, so that not all do the same at once; and that are not too long.

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

/// Longer than anything that is waited for.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// That time, or one that is as good as for ever and can be added to a point in time.
pub(crate) fn bounded(time: Duration) -> Duration {
    time.min(LONGEST)
}

/// That long, give or take a tenth.
pub(crate) fn about(time: Duration) -> Duration {
    bounded(time).mul_f64(0.9 + 0.2 * random())
}

/// Some time up to that.
pub(crate) fn within(time: Duration) -> Duration {
    bounded(time).mul_f64(random())
}

/// One of so many places, of which there is at least one.
pub(crate) fn index(places: usize) -> usize {
    let random = usize::try_from(bits() >> 1).unwrap_or(0);
    random % places.max(1)
}

/// A random number from 0 to 1.
fn random() -> f64 {
    f64::from(u32::try_from(bits() >> 32).unwrap_or(0)) / f64::from(u32::MAX)
}

fn bits() -> u64 {
    RandomState::new().hash_one(())
}
