//! The hot path, timed: for profiles and for before and after. What does not wobble is in `counts`.
#![allow(clippy::expect_used, missing_docs, unreachable_pub)]

mod scenarios;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use scenarios::{SCENARIOS, Scenario};

fn hot_path(criterion: &mut Criterion) {
    for (name, scenario) in SCENARIOS {
        let Scenario { mut before, mut step } = scenario();
        criterion.bench_function(name, |bencher| {
            bencher.iter_batched(&mut before, |()| step(), BatchSize::PerIteration);
        });
    }
}

criterion_group!(benches, hot_path);
criterion_main!(benches);
