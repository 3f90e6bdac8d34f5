//! Charts, as SVG.

use std::fmt::Write as _;

use crate::{
    contestant::Kind,
    report::{Results, significant},
    row::{Metric, RESOURCES, Row, STREAMS, thousands},
};

const WIDTH: f64 = 860.0;
const FONT: &str = "font-family=\"system-ui, sans-serif\" font-size=\"12\"";

fn colour(kind: Kind) -> &'static str {
    match kind {
        Kind::Floor => "#9ca3af",
        Kind::Deltaplane => "#2563eb",
        Kind::GoSnapshot => "#f59e0b",
        Kind::GoLinear => "#d97706",
        Kind::Java => "#dc2626",
        Kind::RustControlPlane | Kind::Nebucloud => "#7c3aed",
    }
}

fn picture(height: f64, content: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" {FONT}>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{content}</svg>\n"
    )
}

fn text(svg: &mut String, (x, y): (f64, f64), anchor: &str, text: &str) {
    let _ = writeln!(svg, "<text x=\"{x:.0}\" y=\"{y:.0}\" text-anchor=\"{anchor}\">{text}</text>");
}

/// What a change costs per message delivered, each row and contestant a bar, on a logarithmic scale.
pub(crate) fn bars(results: &Results, rows: &[Row]) -> String {
    const LEFT: f64 = 190.0;
    const BAR: f64 = 18.0;
    let (mut svg, mut y) = (String::new(), 30.0);
    let values = |row: &Row| -> Vec<_> {
        let value = |kind: &Kind| results.median(&row.id, *kind, Metric::Delivery);
        Kind::ALL.iter().filter_map(|kind| Some((*kind, value(kind)?))).collect()
    };
    let rows: Vec<_> = rows
        .iter()
        .filter(|row| row.shows.contains(&Metric::Delivery) && row.who.len() > Kind::LEAN.len())
        .map(|row| (row.title(), values(row)))
        .collect();
    let most = rows.iter().flat_map(|(_, bars)| bars).map(|(_, value)| *value).fold(10.0, f64::max);
    text(&mut svg, (10.0, 18.0), "start", "Server CPU per message delivered, µs (logarithmic)");
    for (title, bars) in rows {
        y += 16.0;
        text(&mut svg, (10.0, y), "start", &title);
        y += 6.0;
        for (kind, value) in bars {
            let length = (WIDTH - LEFT - 70.0) * value.max(1.0).ln() / most.ln();
            text(&mut svg, (LEFT - 8.0, y + 13.0), "end", kind.title());
            let _ = writeln!(
                svg,
                "<rect x=\"{LEFT}\" y=\"{y:.0}\" width=\"{length:.0}\" height=\"{:.0}\" fill=\"{}\"/>",
                BAR - 3.0,
                colour(kind)
            );
            text(&mut svg, (LEFT + length + 6.0, y + 13.0), "start", &significant(value));
            y += BAR;
        }
        y += 6.0;
    }
    picture(y + 10.0, &svg)
}

/// What a delivery costs by the number of resources, and of streams.
pub(crate) fn curves(results: &Results) -> String {
    let mut svg = String::new();
    let by_resources = RESOURCES.map(|count| (count, format!("delta-100x{count}")));
    let by_streams = STREAMS.map(|count| (count, format!("delta-{count}x100")));
    curve(&mut svg, 50.0, "100 streams; resources:", &by_resources, results);
    curve(&mut svg, 480.0, "100 resources; streams:", &by_streams, results);
    text(&mut svg, (10.0, 18.0), "start", "Server CPU per message delivered, µs");
    for (place, kind) in Kind::LEAN.iter().enumerate() {
        let x = 300.0 + 120.0 * place as f64;
        let _ = writeln!(
            svg,
            "<rect x=\"{x}\" y=\"9\" width=\"10\" height=\"10\" fill=\"{}\"/>",
            colour(*kind)
        );
        text(&mut svg, (x + 16.0, 18.0), "start", kind.title());
    }
    picture(270.0, &svg)
}

fn curve(svg: &mut String, left: f64, title: &str, at: &[(usize, String)], results: &Results) {
    const STEP: f64 = 100.0;
    const BOTTOM: f64 = 220.0;
    let value = |kind: Kind, row: &str| results.median(row, kind, Metric::Delivery);
    let values =
        at.iter().flat_map(|(_, row)| Kind::LEAN.iter().filter_map(|kind| value(*kind, row)));
    let most = values.fold(1.0, f64::max);
    let height = |value: f64| BOTTOM - 170.0 * value / most;
    for (place, (count, _)) in at.iter().enumerate() {
        text(svg, (left + STEP * place as f64, BOTTOM + 18.0), "middle", &thousands(*count));
    }
    text(svg, (left, BOTTOM + 38.0), "start", title);
    let right = left + STEP * (at.len() as f64 - 1.0);
    let _ = writeln!(svg, "<path d=\"M{left} {BOTTOM}H{right}\" stroke=\"#d1d5db\"/>");
    for kind in Kind::LEAN {
        let points: Vec<_> = at
            .iter()
            .enumerate()
            .filter_map(|(place, (_, row))| Some((left + STEP * place as f64, value(*kind, row)?)))
            .collect();
        let path: Vec<_> =
            points.iter().map(|(x, value)| format!("{x:.0},{:.0}", height(*value))).collect();
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\"/>",
            path.join(" "),
            colour(*kind)
        );
        for (x, value) in points {
            text(svg, (x, height(value) - 7.0), "middle", &significant(value));
        }
    }
}
