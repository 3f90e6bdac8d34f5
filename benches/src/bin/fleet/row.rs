//! What is measured: each row is a fleet, and what happens to it.

use std::collections::BTreeSet;

use deltaplane_benches::cluster::Variant;

use crate::contestant::Kind;

/// One fleet, one contestant at a time.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    /// By which it is asked for on the command line.
    pub(crate) id: String,
    pub(crate) variant: Variant,
    pub(crate) streams: usize,
    pub(crate) resources: usize,
    /// How many of them each stream names; all are subscribed to if this is not set.
    pub(crate) names: Option<usize>,
    pub(crate) per_connection: usize,
    /// Connections are secured by mutual TLS.
    pub(crate) tls: bool,
    /// How many streams stop reading.
    pub(crate) stopped: usize,
    pub(crate) act: Act,
    /// What it is for.
    pub(crate) shows: &'static [Metric],
    /// Who takes part.
    pub(crate) who: &'static [Kind],
}

/// What happens once all streams are synced.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Act {
    /// One change after another, each when the last one is everywhere.
    Update { count: usize },
    /// The same, until all have acknowledged it.
    Settle { count: usize },
    /// So many changes, as fast as they are taken.
    Rush { count: usize },
    /// So many changes a second, for so many seconds.
    Rate { per_second: u32, seconds: u32 },
    /// All streams open at once, of clients that hold everything.
    Again,
    /// So many changes, and then more while so many newcomers have their first sync, one after another.
    Join { count: usize },
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Metric {
    /// The server's CPU per message that arrived, in µs.
    Delivery,
    /// The server's CPU per commit, in µs, and what of it a request on the control port costs that asks
    /// for nothing.
    Commit,
    Request,
    /// The server's CPU for the first sync of all streams, in s.
    Sync,
    /// The server's memory per stream, in KiB.
    Memory,
    /// From commit to arrival, in ms: percentiles, and the last.
    P50,
    P99,
    P999,
    Last,
    /// How much the server's memory grew while changes went out, in MiB.
    Growth,
    /// The server's memory per resource, in bytes.
    Resource,
    /// The server's CPU per resource that it loads, in µs.
    Load,
    /// Commits that were made in a second, and cores that were busy at the server meanwhile.
    Rate,
    Cores,
    /// Responses that a stream got, per commit.
    Messages,
    /// For how long changes arrived after the last commit, in s.
    Behind,
    /// Until all who came back were served, in s, and the server's CPU for it, in s.
    Again,
    AgainCpu,
    /// How much later others had a change at worst while a newcomer had its first sync, than half of them
    /// had one without, in ms.
    Delay,
}

impl Row {
    fn new(variant: Variant, streams: usize, resources: usize) -> Self {
        let protocol = if variant == Variant::Delta { "delta" } else { "sotw" };
        Self {
            id: format!("{protocol}-{streams}x{resources}"),
            variant,
            streams,
            resources,
            names: None,
            per_connection: 50,
            tls: false,
            stopped: 0,
            // The more deliveries, the less chance: as many as take seconds at the floor.
            act: Act::Update { count: (200_000 / streams).clamp(20, 1_000) },
            shows: &[],
            who: Kind::SOUND,
        }
    }

    fn shows(mut self, shows: &'static [Metric]) -> Self {
        self.shows = shows;
        self
    }

    fn who(mut self, who: &'static [Kind]) -> Self {
        self.who = who;
        self
    }

    fn act(mut self, act: Act) -> Self {
        self.act = act;
        self
    }

    /// Each stream names so many.
    fn names(mut self, names: usize) -> Self {
        self.id = format!("names-{}x{names}-of-{}", self.streams, self.resources);
        self.names = Some(names);
        self
    }

    fn called(mut self, id: &str) -> Self {
        self.id = id.to_owned();
        self
    }

    /// What happens, in words.
    pub(crate) fn title(&self) -> String {
        let protocol = if self.variant == Variant::Delta { "delta" } else { "SotW" };
        let streams = thousands(self.streams);
        let resources = thousands(self.resources);
        let what = match self.names {
            Some(names) => {
                format!("by name, {streams} × {} of {resources}", thousands(names))
            }
            None => format!("wildcard, {streams} × {resources}"),
        };
        let connections = match self.per_connection {
            1 if self.tls => ", one stream per connection, mutual TLS",
            1 => ", one stream per connection",
            _ => "",
        };
        let stopped = match self.stopped {
            0 => String::new(),
            n => format!(", {n} of them stopped reading"),
        };
        let act = match self.act {
            Act::Rate { per_second, .. } => {
                format!(", {} commits/s", thousands(per_second as usize))
            }
            Act::Again => ", all come back at once".to_owned(),
            Act::Join { .. } => ", others have their first sync".to_owned(),
            Act::Settle { .. } => ", until acknowledged by all".to_owned(),
            _ => String::new(),
        };
        format!("{protocol}, {what}{connections}{stopped}{act}")
    }
}

/// A number as people write it.
pub(crate) fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The rows whose names the verdicts know.
pub(crate) const FIRST: &str = "delta-500x1000";
pub(crate) const SECOND: &str = "delta-200x10000";
pub(crate) const BY_NAME: &str = "names-1000x10-of-10000";
pub(crate) const IDLE: &str = "idle";
pub(crate) const JOIN: &str = "join";
/// The one that is profiled.
pub(crate) const PROFILED: &str = "delta-2000x100";

/// How many resources the curve over them goes through, at a hundred streams.
pub(crate) const RESOURCES: [usize; 4] = [100, 1_000, 10_000, 100_000];
/// How many streams the curve over them goes through, at a hundred resources.
pub(crate) const STREAMS: [usize; 4] = [100, 500, 2_000, 10_000];

/// All rows, the table's first.
pub(crate) fn rows() -> Vec<Row> {
    use Metric::{
        Again, AgainCpu, Behind, Commit, Cores, Delay, Delivery, Growth, Last, Load, Memory,
        Messages, P50, P99, P999, Rate, Request, Resource, Sync,
    };
    use Variant::{Delta, Sotw};
    let mut rows = vec![
        Row::new(Delta, 500, 1_000).shows(&[Delivery, Memory, P50, P99, P999]).who(Kind::ALL),
        Row::new(Delta, 200, 10_000).shows(&[Delivery, Memory, Sync]),
        Row::new(Delta, 5_000, 100).shows(&[Delivery, Memory, P50, P99, P999]),
        Row::new(Sotw, 200, 1_000).shows(&[Delivery, Memory]).who(Kind::ALL),
        Row::new(Delta, 1_000, 10_000)
            .names(10)
            .act(Act::Rush { count: 10_000 })
            .shows(&[Commit, Request, Memory])
            .who(Kind::SERVERS),
        Row::new(Delta, 500, 10_000).names(2_000).shows(&[Delivery, Memory]).who(Kind::SERVERS),
        Row { per_connection: 1, ..Row::new(Delta, 5_000, 100) }
            .called("connections")
            .shows(&[Delivery, Memory, P50, P99, P999]),
        Row { per_connection: 1, tls: true, ..Row::new(Delta, 5_000, 100) }
            .called("tls")
            .shows(&[Delivery, Memory, P50, P99, P999])
            .who(Kind::LEAN),
    ];
    for resources in RESOURCES {
        rows.push(Row::new(Delta, 100, resources).shows(&[Delivery]).who(Kind::LEAN));
    }
    for streams in STREAMS {
        rows.push(Row::new(Delta, streams, 100).shows(&[Delivery]).who(Kind::LEAN));
    }
    rows.extend([
        Row::new(Delta, 500, 1_000)
            .called("settled")
            .act(Act::Settle { count: 1_000 })
            .shows(&[P50, P99, P999])
            .who(Kind::OURS),
        Row { per_connection: 100, ..Row::new(Delta, 100_000, 10) }
            .called(IDLE)
            .act(Act::Update { count: 5 })
            .shows(&[Delivery, Memory, Last])
            .who(Kind::LEAN),
        Row::new(Delta, 1, 1_000_000)
            .names(10)
            .called("million")
            .act(Act::Rush { count: 10_000 })
            .shows(&[Commit, Request, Load, Resource])
            .who(Kind::OURS),
        Row::new(Delta, 1_000, 1_000)
            .called("rate")
            .act(Act::Rate { per_second: 1_000, seconds: 60 })
            .shows(&[Rate, Cores, Messages, Behind])
            .who(Kind::OURS),
        Row::new(Delta, 5_000, 10_000)
            .called("storm")
            .act(Act::Again)
            .shows(&[Again, AgainCpu])
            .who(Kind::OURS),
        Row::new(Delta, 100, 100_000)
            .called(JOIN)
            .act(Act::Join { count: 20 })
            .shows(&[Delay, P50, P99, P999, Last])
            .who(Kind::LEAN),
        Row { stopped: 1, ..Row::new(Delta, 1_000, 1_000) }
            .called("stopped")
            .act(Act::Update { count: 1_000 })
            .shows(&[Growth, P50, P99, P999]),
    ]);
    let mut known = BTreeSet::new();
    rows.retain(|row| known.insert(row.id.clone()));
    rows
}

/// A table of the report.
pub(crate) struct Section {
    pub(crate) title: &'static str,
    pub(crate) text: &'static str,
    /// What each cell shows; the first is what ratios are of.
    pub(crate) metrics: &'static [Metric],
    pub(crate) unit: &'static str,
}

/// The tables of the report, in their order; each has the rows that show its first metric.
pub(crate) const SECTIONS: &[Section] = &[
    Section {
        title: "A change to all",
        text: "The server's CPU per message delivered, while one resource after another changes.",
        metrics: &[Metric::Delivery],
        unit: "µs",
    },
    Section {
        title: "A change to few",
        text: "The server's CPU per commit, from the request on its control port to the last ACK; and for \
               a request alone, that asks for nothing. They come as fast as they are taken, and one stream \
               of the 1,000 sees each.",
        metrics: &[Metric::Commit, Metric::Request],
        unit: "µs · µs",
    },
    Section {
        title: "First sync",
        text: "The server's CPU until all streams have everything.",
        metrics: &[Metric::Sync],
        unit: "s",
    },
    Section {
        title: "Memory",
        text: "Growth of the server per stream, a second after the last change.",
        metrics: &[Metric::Memory],
        unit: "KiB",
    },
    Section {
        title: "From commit to arrival",
        text: "From the request on the control port until a stream has the change: 50 %, 99 %, 99.9 %. \
               The load generator's share of the machine is in it.",
        metrics: &[Metric::P50, Metric::P99, Metric::P999],
        unit: "ms",
    },
    Section {
        title: "The last of them",
        text: "From the request on the control port until the last stream has the change, at worst.",
        metrics: &[Metric::Last],
        unit: "ms",
    },
    Section {
        title: "A million resources",
        text: "CPU to load one, and memory that it takes.",
        metrics: &[Metric::Load, Metric::Resource],
        unit: "µs · B",
    },
    Section {
        title: "A thousand commits a second, for a minute",
        text: "Commits that it did in a second; cores busy at the server; responses to a stream per \
               commit; for how long changes still arrived after the last commit.",
        metrics: &[Metric::Rate, Metric::Cores, Metric::Messages, Metric::Behind],
        unit: "commits/s · cores · responses · s",
    },
    Section {
        title: "All come back at once",
        text: "Clients that hold everything: until all of them are connected and have the next change, \
               and the server's CPU for that.",
        metrics: &[Metric::Again, Metric::AgainCpu],
        unit: "s · s",
    },
    Section {
        title: "A newcomer",
        text: "While one client after another has its first sync of 100,000 resources: how much later the \
               others have a change, at worst, than half of them have one without. The load generator \
               takes the newcomer's 30 MB in on the same machine.",
        metrics: &[Metric::Delay],
        unit: "ms",
    },
    Section {
        title: "One that stopped reading",
        text: "Growth of the server's memory while changes go out to the others.",
        metrics: &[Metric::Growth],
        unit: "MiB",
    },
];
