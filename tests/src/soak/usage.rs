//! What a server uses, as it says itself.

use std::time::Duration;

use super::servers::Doors;

/// What a replica used at one moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Usage {
    /// Bytes of memory.
    pub(super) memory: f64,
    pub(super) tasks: f64,
    pub(super) threads: f64,
    /// Open files, connections to the database apart: how many of those there are is the pool's to say.
    pub(super) files: f64,
    /// Streams of clients.
    pub(super) streams: f64,
}

impl Usage {
    /// What a replica says of itself; nothing, if it does not.
    pub(super) fn of(doors: &Doors, replica: usize) -> Option<Usage> {
        let page = doors.ask(replica, "GET", "/metrics", None).filter(|it| it.status == 200)?.body;
        let sum = |name: &str| {
            let values = page.lines().filter_map(|line| value(line, name));
            values.reduce(|sum, value| sum + value)
        };
        let database = sum("deltaplane_database_connections")?;
        Some(Usage {
            memory: sum("process_resident_memory_bytes")?,
            tasks: sum("deltaplane_tasks")?,
            threads: sum("process_threads")?,
            files: sum("process_open_fds")? - database,
            streams: sum("deltaplane_xds_streams").unwrap_or_default(),
        })
    }

    /// What of it is more than it was at first, and more than chance.
    pub(super) fn excess(&self, first: &Usage, streams: usize) -> Vec<String> {
        // A request or two may be under way, and idle threads end after a while.
        let of = [
            ("tasks", self.tasks, first.tasks + 4.0),
            ("threads", self.threads, first.threads + 4.0),
            ("files", self.files, first.files + 4.0),
        ];
        let over = of.iter().filter(|(_, now, most)| now > most);
        let mut over: Vec<_> =
            over.map(|(what, now, most)| format!("{now} {what}, and not {most} at most")).collect();
        if self.streams != streams as f64 {
            over.push(format!("{} streams, and not {streams}", self.streams));
        }
        over
    }
}

/// What a line of Prometheus' text says, if it is about this.
fn value(line: &str, name: &str) -> Option<f64> {
    let rest = line.strip_prefix(name)?;
    let labels = rest.starts_with('{').then(|| rest.rsplit_once('}')).flatten();
    let value = labels.map_or(rest, |(_, value)| value);
    value.strip_prefix(' ')?.parse().ok()
}

/// How much more memory is used in an hour, in bytes, by the line that fits best; nothing, if there is too
/// little to see one.
pub(super) fn slope(points: &[(Duration, f64)]) -> Option<f64> {
    let count = points.len() as f64;
    let mean = |of: fn(&(Duration, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(|(at, _)| hours(*at)), mean(|(_, memory)| *memory));
    let spread: f64 = points.iter().map(|(at, _)| (hours(*at) - x).powi(2)).sum();
    let both: f64 = points.iter().map(|(at, memory)| (hours(*at) - x) * (memory - y)).sum();
    (points.len() >= 4 && spread > 0.0).then(|| both / spread)
}

fn hours(time: Duration) -> f64 {
    time.as_secs_f64() / 3600.0
}
