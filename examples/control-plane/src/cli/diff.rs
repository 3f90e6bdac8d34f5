//! How the resources of a transaction differ from what is stored.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use similar::TextDiff;

use crate::cli::remote::{Remote, RemoteError, escape};
use crate::raw::draft::{Defined, RawDraft};
use crate::raw::proto_json;
use crate::raw::{RawKey, RawResource};
use crate::rest::document::Object;

/// One resource that would change.
pub(crate) struct Difference {
    key: RawKey,
    change: &'static str,
    /// In lines, as `diff -u` writes them.
    lines: String,
}

impl Difference {
    /// Compares what a transaction would leave behind with what is there, by content: however it is
    /// written, the same resource is no difference.
    pub(crate) fn all(remote: &Remote, document: &Value) -> Result<Vec<Difference>, RemoteError> {
        let refused = |why: String| RemoteError::Refused(why);
        let draft: Object<RawDraft> = serde_json::from_str(&document.to_string())
            .map_err(|error| refused(format!("the transaction cannot be read: {error}")))?;
        let Defined { transaction, .. } =
            draft.0.define().map_err(|problem| refused(problem.detail().to_owned()))?;
        let mut stored = stored(remote, &transaction.scope)?;
        let mut differences = Vec::new();
        for resource in &transaction.upserts {
            let before = stored.remove(&resource.key);
            let version = before.as_ref().map(|before| &before["version"]);
            if version.is_some_and(|version| version == resource.build().version()) {
                continue;
            }
            let change = if before.is_some() { "changed" } else { "added" };
            let before = before.as_ref().map(content).unwrap_or_default();
            differences.push(Difference::new(&resource.key, change, &before, &written(resource)));
        }
        for key in &transaction.removes {
            if let Some(before) = stored.remove(key) {
                differences.push(Difference::new(key, "removed", &content(&before), ""));
            }
        }
        Ok(differences)
    }

    fn new(key: &RawKey, change: &'static str, before: &str, after: &str) -> Difference {
        let diff = TextDiff::from_lines(before, after);
        let lines = diff.unified_diff().context_radius(3).to_string();
        Difference { key: key.clone(), change, lines }
    }

    pub(crate) fn json(&self) -> Value {
        let RawKey { type_url, name } = &self.key;
        json!({"type_url": type_url, "name": name, "change": self.change, "diff": self.lines})
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {} {:?}", self.change, self.key.type_url, self.key.name)?;
        f.write_str(&self.lines)
    }
}

/// What a scope has; nothing, if there is no such scope.
fn stored(remote: &Remote, scope: &str) -> Result<BTreeMap<RawKey, Value>, RemoteError> {
    let scopes = remote.get("/api/v1/xds/scopes")?;
    let scopes = scopes.as_array().map(Vec::as_slice).unwrap_or_default();
    if !scopes.iter().any(|known| known["scope"] == scope) {
        return Ok(BTreeMap::new());
    }
    let path = format!("/api/v1/xds/scopes/{}/resources?content=true", escape(scope));
    let resources = remote.get(&path)?;
    let resources = resources.as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let keyed = resources.into_iter().map(|resource| {
        let (type_url, name) = (text(&resource["type_url"]), text(&resource["name"]));
        (RawKey { type_url, name }, resource)
    });
    Ok(keyed.collect())
}

/// What is in a stored resource, as it is listed.
fn content(listed: &Value) -> String {
    match (&listed["resource"], &listed["value"]) {
        (Value::Null, Value::Null) => "(not shown)\n".to_owned(),
        (Value::Null, bytes) => format!("{bytes}\n"),
        (json, _) => format!("{json:#}\n"),
    }
}

/// The same of one that was written.
fn written(resource: &RawResource) -> String {
    match proto_json::show(&resource.key.type_url, &resource.value) {
        Ok(json) => format!("{json:#}\n"),
        Err(proto_json::Hidden::Unknown) => {
            format!("{}\n", Value::from(STANDARD.encode(&resource.value)))
        }
        Err(_) => "(other content, which is not shown)\n".to_owned(),
    }
}
