//! What was measured, as a page.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path, thread};

use deltaplane_benches::Result;

use crate::{
    chart, conditions,
    contestant::Kind,
    measure::Measures,
    row::{Metric, Row, SECTIONS, Section},
    verdict,
};

/// All that was measured.
#[derive(Debug)]
pub(crate) struct Results {
    /// How often all of it was gone through.
    pub(crate) runs: usize,
    /// Less was done in each row.
    pub(crate) is_quick: bool,
    /// At which commit, and on what.
    place: String,
    cells: BTreeMap<(String, Kind), Cell>,
    /// Who cannot take part at all, and why.
    pub(crate) absent: BTreeMap<Kind, String>,
}

#[derive(Debug, Default)]
struct Cell {
    measured: Vec<Measures>,
    failure: Option<String>,
}

impl Results {
    pub(crate) fn new(is_quick: bool) -> Self {
        let (place, cells, absent) = (conditions::place(), BTreeMap::new(), BTreeMap::new());
        Self { runs: 0, is_quick, place, cells, absent }
    }

    /// Keeps what came of one row of one contestant.
    pub(crate) fn note(&mut self, row: &Row, kind: Kind, measured: Result<Measures>) {
        let cell = self.cells.entry((row.id.clone(), kind)).or_default();
        match measured {
            Ok(measures) => cell.measured.push(measures),
            Err(error) => cell.failure = Some(error.to_string()),
        }
    }

    /// Whether a row failed that would only fail again.
    pub(crate) fn is_hopeless(&self, row: &Row, kind: Kind) -> bool {
        self.absent.contains_key(&kind)
            || self.cells.get(&(row.id.clone(), kind)).is_some_and(|cell| cell.failure.is_some())
    }

    /// The median of what was measured.
    pub(crate) fn median(&self, row: &str, kind: Kind, metric: Metric) -> Option<f64> {
        let cell = self.cells.get(&(row.to_owned(), kind))?;
        if cell.failure.is_some() {
            return None;
        }
        let mut values: Vec<_> =
            cell.measured.iter().filter_map(|measures| measures.get(&metric).copied()).collect();
        values.sort_unstable_by(f64::total_cmp);
        let (low, high) =
            (values.get(values.len().checked_sub(1)? / 2)?, values.get(values.len() / 2)?);
        Some(f64::midpoint(*low, *high))
    }

    fn failures(&self) -> impl Iterator<Item = (&str, Kind, &str)> {
        self.cells
            .iter()
            .filter_map(|((row, kind), cell)| Some((row.as_str(), *kind, cell.failure.as_deref()?)))
    }

    /// What a cell of a table shows: the values, and their ratio to the floor's.
    fn cell(&self, row: &Row, kind: Kind, section: &Section) -> String {
        if !row.who.contains(&kind) {
            return String::new();
        }
        let values: Vec<_> = section
            .metrics
            .iter()
            .filter_map(|metric| self.median(&row.id, kind, *metric))
            .map(significant)
            .collect();
        if values.is_empty() {
            let failed =
                self.absent.contains_key(&kind) || self.cells.contains_key(&(row.id.clone(), kind));
            return if failed { "did not run".to_owned() } else { String::new() };
        }
        let mut text = values.join(" · ");
        if let [metric, ..] = *section.metrics
            && kind != Kind::Floor
            && let Some(floor) = self.median(&row.id, Kind::Floor, metric)
            && let Some(value) = self.median(&row.id, kind, metric)
            && floor > 0.0
            && value > 0.0
        {
            let _ = write!(text, " ({}×)", significant(value / floor));
        }
        text
    }
}

/// A number with as many digits as it means.
pub(crate) fn significant(value: f64) -> String {
    let digits = match value.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        _ => 2,
    };
    let text = format!("{value:.digits$}");
    match text.parse::<f64>() {
        Ok(whole) if whole >= 1_000.0 => crate::row::thousands(whole as usize),
        _ => text,
    }
}

/// Writes the page, and the charts beside it.
pub(crate) fn write(results: &Results, rows: &[Row], folder: &Path) -> Result<()> {
    let mut page = introduction(results);
    page.push_str("\n## What is aimed at\n\n| aim | measured | met |\n| --- | --- | --- |\n");
    for verdict in verdict::verdicts(results, rows) {
        let met = if verdict.met { "yes" } else { "**no**" };
        let _ = writeln!(page, "| {} | {} | {met} |", verdict.aim, verdict.measured);
    }
    page.push_str("\n[The profile](PROFILE.md) counts where a delivery's cost goes.\n");
    for section in SECTIONS {
        page.push_str(&table(results, rows, section));
    }
    page.push_str(&versions(results));
    let absent = results.absent.iter().map(|(kind, why)| format!("{}: {why}", kind.title()));
    let failed = results.failures().map(|(row, kind, why)| {
        let title = rows.iter().find(|known| known.id == row).map_or_else(String::new, Row::title);
        format!("{}, {title}: {why}", kind.title())
    });
    let missing: Vec<_> = absent.chain(failed).collect();
    if !missing.is_empty() {
        page.push_str("\n## Did not run\n\n");
        for line in missing {
            let _ = writeln!(page, "* {line}");
        }
    }
    fs::create_dir_all(folder)?;
    fs::write(folder.join("RESULTS.md"), page)?;
    fs::write(folder.join("fleet.svg"), chart::bars(results, rows))?;
    fs::write(folder.join("curves.svg"), chart::curves(results))?;
    Ok(())
}

fn introduction(results: &Results) -> String {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let place = &results.place;
    let runs = match results.runs {
        1 if results.is_quick => "one quick run (a tenth of the changes)".to_owned(),
        1 => "one run".to_owned(),
        runs => format!("medians of {runs} runs"),
    };
    format!(
        "# The fleet benchmark\n\n\
         Written by `cargo run --release -p deltaplane-benches --bin fleet`: {runs} on one machine with {cores} \
         cores ({place}), every contestant in turn, one load generator for all. Resources are clusters of three \
         endpoints; there are 50 streams to a connection unless a row says otherwise. *N × M* is N streams \
         and M resources. *Floor* is an HTTP/2 server without any xDS in it that sends the same bytes; in \
         brackets stands how many times as much as the floor another takes. Figures are true side by side \
         only: quote the ratios.\n\n\
         ![CPU per message delivered](fleet.svg)\n\n\
         ![CPU per message delivered, by resources and by streams](curves.svg)\n"
    )
}

/// Of which versions those were who took part.
fn versions(results: &Results) -> String {
    let mut text = "\n## Who took part\n\n| | version |\n| --- | --- |\n".to_owned();
    let is_part = |kind: &&Kind| results.cells.keys().any(|(_, of)| of == *kind);
    for kind in Kind::ALL.iter().filter(is_part) {
        let version = conditions::version(*kind).unwrap_or_else(|| "unknown".to_owned());
        let _ = writeln!(text, "| {} | {version} |", kind.title());
    }
    text
}

/// The rows that show what this section is about, and a column for each who has something to show.
fn table(results: &Results, rows: &[Row], section: &Section) -> String {
    let [metric, ..] = section.metrics else { return String::new() };
    let rows: Vec<_> = rows.iter().filter(|row| row.shows.contains(metric)).collect();
    let has_part =
        |kind: &&Kind| rows.iter().any(|row| !results.cell(row, **kind, section).is_empty());
    let kinds: Vec<_> = Kind::ALL.iter().filter(has_part).copied().collect();
    if kinds.is_empty() {
        return String::new();
    }
    let titles: Vec<_> = kinds.iter().map(|kind| kind.title()).collect();
    let mut text = format!(
        "\n## {}\n\n{} In {}.\n\n| | {} |\n| --- |{}\n",
        section.title,
        section.text,
        section.unit,
        titles.join(" | "),
        " --- |".repeat(kinds.len())
    );
    for row in rows {
        let cells: Vec<_> = kinds.iter().map(|kind| results.cell(row, *kind, section)).collect();
        let _ = writeln!(text, "| {} | {} |", row.title(), cells.join(" | "));
    }
    text
}
