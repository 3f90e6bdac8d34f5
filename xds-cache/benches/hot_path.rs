//! The hot path, timed: for profiles and for before and after. What does not wobble is in `counts`.
#![allow(clippy::expect_used, missing_docs, unreachable_pub)]

mod scenarios;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use scenarios::{Scenario, scenarios};

fn hot_path(criterion: &mut Criterion) {
    for Scenario { name, mut before, mut step } in scenarios() {
        criterion.bench_function(name, |bencher| {
            bencher.iter_batched(&mut before, |()| step(), BatchSize::PerIteration);
        });
    }
}

criterion_group!(benches, hot_path);
criterion_main!(benches);
