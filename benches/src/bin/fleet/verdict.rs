//! Whether what is aimed at was met.

use crate::{
    contestant::Kind,
    report::{Results, significant},
    row::{BY_NAME, FIRST, IDLE, JOIN, Metric, RESOURCES, Row, SECOND},
};

/// What is aimed at, and what came of it.
pub(crate) struct Verdict {
    pub(crate) aim: String,
    pub(crate) measured: String,
    pub(crate) met: bool,
}

/// All of them for which there are figures.
pub(crate) fn verdicts(results: &Results, rows: &[Row]) -> Vec<Verdict> {
    use Kind::{Deltaplane, Floor, GoSnapshot};
    let delivery = |row: &str, kind| results.median(row, kind, Metric::Delivery);
    let ratio = |over: Option<f64>, under: Option<f64>| Some(over? / under?);
    let by_resources = |resources: usize| delivery(&format!("delta-100x{resources}"), Deltaplane);
    let curve: Vec<_> = RESOURCES.iter().filter_map(|count| by_resources(*count)).collect();
    let spread = (curve.len() == RESOURCES.len()).then(|| {
        curve.iter().copied().fold(0.0, f64::max) / curve.iter().copied().fold(f64::MAX, f64::min)
    });
    let ten_deliveries = delivery(FIRST, Floor).map(|cost| 10.0 * cost);
    let of_by_name = |metric| results.median(BY_NAME, Deltaplane, metric);
    let by_name = of_by_name(Metric::Commit).zip(of_by_name(Metric::Request));
    let by_name = by_name.map(|(commit, request)| commit - request);
    let go_over = |row, kind| ratio(delivery(row, GoSnapshot), delivery(row, kind));
    let mut verdicts: Vec<_> = [
        at_least("the floor is 35× below the snapshot cache on the first row, or none of this counts",
            go_over(FIRST, Floor), 35.0, "×"),
        at_least("ours is 30× below the snapshot cache on the first row", go_over(FIRST, Deltaplane), 30.0, "×"),
        at_least("ours is 300× below it on the second", go_over(SECOND, Deltaplane), 300.0, "×"),
        at_most("a commit that one of 1,000 streams by name sees costs no more than ten deliveries on the floor, \
                 without the request that asks for it",
            ratio(by_name, ten_deliveries), 1.0, "×"),
        at_most("between 100 and 100,000 resources, a delivery's cost differs by no more than 1.3×", spread, 1.3, "×"),
        at_most("a first sync of 100,000 resources delays no other client's change by more than 50 ms", results.median(JOIN, Deltaplane, Metric::Delay), 50.0, " ms"),
        at_most("an idle stream takes no more than 12 KiB", results.median(IDLE, Deltaplane, Metric::Memory), 12.0, " KiB"),
    ]
    .into_iter()
    .flatten()
    .collect();
    for (metric, what) in [(Metric::Delivery, "a delivery"), (Metric::Sync, "a first sync")] {
        for row in rows.iter().filter(|row| row.shows.contains(&metric)) {
            let ours = results.median(&row.id, Deltaplane, metric);
            let ratio = ratio(ours, results.median(&row.id, Floor, metric));
            let aim = format!("{what} within 2× of the floor: {}", row.title());
            verdicts.extend(at_most(&aim, ratio, 2.0, "×"));
        }
    }
    verdicts
}

fn at_least(aim: &str, value: Option<f64>, limit: f64, unit: &str) -> Option<Verdict> {
    verdict(aim, value?, unit, value? >= limit)
}

fn at_most(aim: &str, value: Option<f64>, limit: f64, unit: &str) -> Option<Verdict> {
    verdict(aim, value?, unit, value? <= limit)
}

fn verdict(aim: &str, value: f64, unit: &str, met: bool) -> Option<Verdict> {
    let measured = format!("{}{unit}", significant(value));
    Some(Verdict { aim: aim.to_owned(), measured, met })
}
