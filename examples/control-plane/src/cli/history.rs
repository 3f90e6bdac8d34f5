//! What the command line does with the history of a server.

use std::io::{self, Write as _};
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use crate::cli::commands::{Done, Waiting, await_clients, print};
use crate::cli::remote::{Remote, escape};
use crate::cli::table;
use crate::cli::{self, Author, share};

/// What `history` needs to know.
#[derive(Debug, Args)]
#[non_exhaustive]
pub struct History {
    /// Which server.
    #[command(flatten)]
    pub remote: cli::Remote,
    /// One revision: what it changed, and what became of it at clients.
    pub revision: Option<i64>,
    /// Those that changed something of this fleet, or scope.
    #[arg(long, visible_alias = "scope", conflicts_with = "revision")]
    pub fleet: Option<String>,
    /// Those of this author.
    #[arg(long, visible_alias = "author", conflicts_with = "revision")]
    pub by: Option<String>,
    /// Those that are called so.
    #[arg(long, conflicts_with = "revision")]
    pub label: Option<String>,
    /// The last so many of them, up to 1000.
    #[arg(long, default_value_t = 20, conflicts_with = "revision")]
    pub limit: u32,
}

/// What `rollback` needs to know.
#[derive(Debug, Args)]
#[non_exhaustive]
pub struct Rollback {
    /// Which server.
    #[command(flatten)]
    pub remote: cli::Remote,
    /// Whose change it is.
    #[command(flatten)]
    pub author: Author,
    /// The revision at which all was well: deltaplane history lists them. What it changed
    /// itself stays; to undo it, give the one before.
    pub revision: i64,
    /// Only what is this fleet's, or this scope's.
    #[arg(long, visible_alias = "scope")]
    pub fleet: Option<String>,
    /// What people call it [default: rollback to REVISION].
    #[arg(long)]
    pub label: Option<String>,
    /// Show what would change, and change nothing.
    #[arg(long, conflicts_with = "wait")]
    pub dry_run: bool,
    /// Wait until the clients of the fleet, or all of them, have acknowledged it, and
    /// tell meanwhile how many have: the clients of this server, of several that there are.
    #[arg(long)]
    pub wait: bool,
    /// The share of the clients to wait for, from 0 to 1.
    #[arg(long, default_value_t = 1.0, requires = "wait", value_parser = share)]
    pub settled: f64,
    /// How long to wait for clients, such as 30s or 2m.
    #[arg(long, default_value = "30s", requires = "wait", value_parser = humantime::parse_duration)]
    pub timeout: Duration,
}

/// Shows revisions, or what one of them did.
pub fn history(arguments: &History) -> Done {
    let remote = Remote::new(&arguments.remote)?;
    let output = arguments.remote.output;
    if let Some(revision) = arguments.revision {
        let whole = remote.get(&format!("/api/v1/revisions/{revision}"))?;
        return print(output, &in_full(&whole), &whole);
    }
    let mut path = format!("/api/v1/revisions?limit={}", arguments.limit);
    let wanted =
        [("fleet", &arguments.fleet), ("author", &arguments.by), ("label", &arguments.label)];
    for (name, value) in wanted {
        path.extend(value.iter().map(|value| format!("&{name}={}", escape(value))));
    }
    let revisions = remote.get(&path)?;
    print(output, &table::revisions(&revisions), &revisions)
}

/// Has a server store again what was stored at a revision.
pub fn rollback(arguments: &Rollback) -> Done {
    let remote = Remote::new(&arguments.remote)?.by(arguments.author.name());
    let output = arguments.remote.output;
    let mut path = format!("/api/v1/rollback/{}?dry_run={}", arguments.revision, arguments.dry_run);
    for (name, value) in [("fleet", &arguments.fleet), ("label", &arguments.label)] {
        path.extend(value.iter().map(|value| format!("&{name}={}", escape(value))));
    }
    let done = remote.post(&path, &json!({}))?;
    let (to, revision) = (arguments.revision, done["revision"].as_i64().unwrap_or_default());
    let changes = list(&done["changes"]);
    let text = match changes.len() {
        0 => format!("all is as it was at revision {to}: there is nothing to do"),
        _ if arguments.dry_run => lines(changes),
        1 => format!("1 change back to revision {to}, at revision {revision}"),
        many => format!("{many} changes back to revision {to}, at revision {revision}"),
    };
    if !arguments.wait {
        return print(output, text.trim_end(), &done);
    }
    writeln!(io::stderr(), "{text}")?;
    let scopes = arguments.fleet.iter().cloned().collect();
    let waiting = Waiting { scopes, settled: arguments.settled, timeout: arguments.timeout };
    await_clients(&remote, &waiting, revision, output, done)
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// A revision in words.
fn in_full(whole: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (revision, at) = (&whole["revision"], text(&whole["at"]));
    let mut said = format!("revision {revision} of {at} by {}", text(&whole["author"]));
    if let Some(label) = whole["label"].as_str() {
        said += &format!(": {label}");
    }
    said += "\n";
    for outcome in list(&whole["delivery"]) {
        let (settled, clients) = (&outcome["settled"], &outcome["clients"]);
        let at = text(&outcome["at"]);
        said += &format!("settled at {settled} of {clients} clients at {at}\n");
        if let Some(fleet) = outcome["withdrawn_from"].as_str() {
            said += &format!("withdrawn from those of {fleet} who were first\n");
        }
        for other in list(&outcome["others"]) {
            let node = text(&other["node"]);
            match list(&other["rejections"]) {
                [] => said += &format!("{node} had not settled\n"),
                rejections => said.extend(rejections.iter().map(|rejection| {
                    let message = text(&rejection["message"]);
                    let message = message.trim_end();
                    format!("{node} rejected {}: {message}\n", text(&rejection["type_url"]))
                })),
            }
        }
    }
    said += "\n";
    said += &lines(list(&whole["changes"]));
    said.trim_end().to_owned()
}

/// Changes as `diff` shows them.
fn lines(changes: &[Value]) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let one = |change: &Value| {
        let what = text(&change["type_url"]);
        let what = if what.is_empty() { text(&change["kind"]) } else { what };
        let place = change["scope"].as_str().map(|scope| format!(" of {scope}"));
        let (name, place) = (text(&change["name"]), place.unwrap_or_default());
        format!("{}: {what} {name:?}{place}\n{}", text(&change["change"]), text(&change["diff"]))
    };
    changes.iter().map(one).collect()
}
