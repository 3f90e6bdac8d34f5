//! What a server answers, as tables for people.

use comfy_table::{Table, presets::NOTHING};
use serde_json::Value;

use crate::cli::What;

const SERVICES: [&str; 7] =
    ["id", "name", "cluster_id", "listener_port", "upstream_host", "upstream_port", "protocol"];
const FLEETS: [&str; 6] = ["name", "cluster_id", "below", "source", "validation", "revision"];
const ROUTES: [&str; 8] =
    ["name", "cluster_id", "listener_port", "domains", "prefix", "path", "regex", "is_active"];
const CERTIFICATES: [&str; 4] = ["name", "has", "not_after", "revision"];
const SCOPES: [&str; 2] = ["scope", "resources"];
const RESOURCES: [&str; 6] = ["type_url", "name", "version", "revision", "label", "size"];
const CLIENTS: [&str; 7] = ["node", "cluster", "scope", "variant", "state", "since", "peer"];
const AUDIT: [&str; 7] = ["at", "caller", "peer", "method", "path", "status", "revision"];
const TOKENS: [&str; 5] = ["name", "read", "write", "created", "expires"];
const REVISIONS: [&str; 6] = ["revision", "at", "author", "label", "changed", "back_to"];
const HELD: [&str; 4] = ["type_url", "name", "version", "state"];

/// What was asked for; a single thing as its fields, a list as a table.
pub(crate) fn of(what: What, answer: &Value) -> String {
    let columns = match what {
        What::Services => &SERVICES[..],
        What::Fleets => &FLEETS,
        What::Routes => &ROUTES,
        What::Certificates => &CERTIFICATES,
        What::Scopes => &SCOPES,
        What::Resources => &RESOURCES,
        What::Clients => &CLIENTS,
        What::Audit => &AUDIT,
        What::Stats => &[],
    };
    let Value::Array(rows) = answer else { return fields(answer) };
    if rows.iter().any(|row| row["resources"].is_array()) {
        return rows.iter().map(held).collect::<Vec<_>>().join("\n\n");
    }
    table(columns, rows)
}

/// Tokens, and what each is good for.
pub(crate) fn tokens(tokens: &[Value]) -> String {
    table(&TOKENS, tokens)
}

/// Revisions, the newest first.
pub(crate) fn revisions(answer: &Value) -> String {
    table(&REVISIONS, answer.as_array().map(Vec::as_slice).unwrap_or_default())
}

/// Who is connected, how far each is, and what was rejected in which words.
pub(crate) fn status(stats: &Value, clients: &Value) -> String {
    let clients = clients.as_array().map(Vec::as_slice).unwrap_or_default();
    let settled = clients.iter().filter(|client| client["state"] == "settled").count();
    let (revision, update) = (&stats["revision"], &stats["last_update"]);
    let updated = update.as_str().map(|at| format!(" of {at}")).unwrap_or_default();
    let all = clients.len();
    let mut lines =
        vec![format!("revision {revision}{updated}: settled at {settled} of {all} clients")];
    lines.extend(stats["rollouts"].as_array().into_iter().flatten().filter_map(rollout));
    if !clients.is_empty() {
        lines.push(table(&CLIENTS, clients));
    }
    lines.extend(clients.iter().flat_map(rejections));
    lines.join("\n")
}

/// A change that not all of a fleet have.
fn rollout(rollout: &Value) -> Option<String> {
    let (fleet, revision) = (text(&rollout["fleet"]), &rollout["revision"]);
    let list = |of: &Value| of.as_array().into_iter().flatten().map(text).collect::<Vec<_>>();
    match rollout["stage"].as_str()? {
        "in_canary" => {
            let canary = list(&rollout["canary"]).join(", ");
            Some(format!("{fleet}: revision {revision} is in the canary: {canary}"))
        }
        "withdrawn" => {
            let reasons = list(&rollout["reasons"]).join("; ");
            let back = rollout["rolled_back"].as_i64();
            let back = back.map(|back| format!(", and rolled back at {back}")).unwrap_or_default();
            Some(format!("{fleet}: revision {revision} is withdrawn{back}: {reasons}"))
        }
        _ => None,
    }
}

fn rejections(client: &Value) -> Vec<String> {
    let types = client["types"].as_object().into_iter().flatten();
    let rejected = types.filter(|(_, of_type)| of_type["rejected"].is_object());
    let line = |(type_url, of_type): (&String, &Value)| {
        let message = of_type["rejected"]["message"].as_str().unwrap_or_default().trim_end();
        format!("{} rejects {type_url}: {message}", text(&client["node"]))
    };
    rejected.map(line).collect()
}

/// A stream, and what its client runs.
fn held(stream: &Value) -> String {
    let rows = stream["resources"].as_array().map(Vec::as_slice).unwrap_or_default();
    let stream = table(&CLIENTS, std::slice::from_ref(stream));
    format!("{stream}\n\n{}", table(&HELD, rows))
}

fn table(columns: &[&str], rows: &[Value]) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_header(columns.iter().map(|column| column.to_uppercase()));
    table.add_rows(rows.iter().map(|row| columns.iter().map(|column| text(&row[*column]))));
    let trimmed = table.lines().map(|line| line.trim_end().to_owned());
    trimmed.collect::<Vec<_>>().join("\n")
}

fn fields(object: &Value) -> String {
    let fields = object.as_object().into_iter().flatten();
    fields.map(|(name, value)| format!("{name}: {}", text(value))).collect::<Vec<_>>().join("\n")
}

/// What is nothing is shown as nothing.
fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
