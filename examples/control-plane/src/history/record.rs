//! What the history holds of a row: how it was left, and how people read that.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost::bytes::Bytes;
use serde::Serialize;
use serde_json::{Value, json};
use similar::TextDiff;
use sqlx::Row as _;
use sqlx::any::AnyRow;
use utoipa::ToSchema;

use crate::access::token::ALL;
use crate::certificates::Certificate;
use crate::database::objects::Kind;
use crate::fleets::{Directory, Fleet};
use crate::raw::proto_json::{self, Hidden};
use crate::raw::{RawKey, RawResource};
use crate::rest::document;
use crate::rest::problem::Problem;
use crate::routes::Route;
use crate::service::Definition;
use crate::service::draft::Draft;

/// The kind of services; that of anything else in the table `objects` is its own.
pub(crate) const SERVICE: &str = "service";
/// The kind of raw resources.
pub(crate) const RESOURCE: &str = "resource";

/// Lines around what differs.
const CONTEXT: usize = 3;

/// What identifies a row for ever.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) kind: String,
    /// The scope of a raw resource.
    pub(crate) place: String,
    pub(crate) type_url: String,
    /// The id of a service.
    pub(crate) name: String,
}

/// How a row was left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct State {
    /// Whose it is; what has none is everybody's.
    pub(crate) scope: Option<String>,
    content: String,
    value: Option<Bytes>,
}

/// A row at two revisions.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) key: Key,
    /// At the first; nothing, if it was not there.
    pub(crate) was: Option<State>,
    /// At the second.
    pub(crate) is: Option<State>,
}

/// A row, as it was left by a revision.
#[derive(Clone, Debug)]
pub(crate) struct Left {
    /// By the last one before all that are looked at.
    pub(crate) is_before: bool,
    pub(crate) key: Key,
    /// Nothing, if it is gone.
    pub(crate) state: Option<State>,
}

/// What became of a row.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = RecordedChange)]
#[non_exhaustive]
pub struct Change {
    /// `service`, `resource`, `fleet`, `route` or `certificate`.
    pub kind: String,
    /// The fleet whose it is, if it is not everybody's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub scope: Option<String>,
    /// The type of a resource.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub type_url: Option<String>,
    /// The id of a service.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub id: Option<i64>,
    /// What it is called.
    pub name: String,
    /// `added`, `changed` or `removed`.
    pub change: &'static str,
    /// How it differs in YAML, in lines as `diff -u` writes them.
    pub diff: String,
}

impl Key {
    pub(crate) fn read(row: &AnyRow) -> Result<Key, sqlx::Error> {
        Ok(Key {
            kind: row.try_get("kind")?,
            place: row.try_get("place")?,
            type_url: row.try_get("type_url")?,
            name: row.try_get("name")?,
        })
    }

    /// The id of a service.
    pub(crate) fn id(&self) -> Option<i64> {
        (self.kind == SERVICE).then(|| self.name.parse().ok())?
    }

    pub(crate) fn raw(&self) -> RawKey {
        RawKey { type_url: self.type_url.clone(), name: self.name.clone() }
    }

    /// The fleet of which one has to have the right to read what a row of that kind was in a scope.
    fn reader(&self, scope: Option<&str>, fleets: &Directory) -> String {
        match scope {
            None => ALL.to_owned(),
            Some(scope) if [RESOURCE, Fleet::KIND].contains(&&*self.kind) => scope.to_owned(),
            Some(scope) => fleets.name_of_scope(scope),
        }
    }

    /// The same to write it. Who belongs to a fleet is for those who may write all.
    fn writer(&self, scope: Option<&str>, fleets: &Directory) -> String {
        if self.kind == Fleet::KIND { ALL.to_owned() } else { self.reader(scope, fleets) }
    }
}

impl Left {
    pub(crate) fn read(row: &AnyRow, is_before: bool) -> Result<Left, sqlx::Error> {
        let state = State::read(row, "scope", "content", "value")?;
        Ok(Left { is_before, key: Key::read(row)?, state })
    }
}

impl Record {
    pub(crate) fn read(row: &AnyRow) -> Result<Record, sqlx::Error> {
        Ok(Record {
            key: Key::read(row)?,
            was: State::read(row, "was_scope", "was_content", "was_value")?,
            is: State::read(row, "scope", "content", "value")?,
        })
    }

    /// The scopes that it is, or was, in.
    pub(crate) fn scopes(&self) -> impl Iterator<Item = &str> {
        [&self.was, &self.is].into_iter().flatten().filter_map(|state| state.scope.as_deref())
    }

    /// The same for those who see only what was, or is, in some scopes.
    pub(crate) fn within(&self, is_own: impl Fn(Option<&str>) -> bool) -> Record {
        let own =
            |state: &Option<State>| state.clone().filter(|state| is_own(state.scope.as_deref()));
        Record { key: self.key.clone(), was: own(&self.was), is: own(&self.is) }
    }

    /// The same for those who may read only some fleets; nothing, if it is not theirs.
    pub(crate) fn seen(&self, fleets: &Directory, reads: impl Fn(&str) -> bool) -> Option<Record> {
        let seen = self.within(|scope| reads(&self.key.reader(scope, fleets)));
        (seen.was.is_some() || seen.is.is_some()).then_some(seen)
    }

    /// Whether those may write it back who may write only these fleets.
    pub(crate) fn is_writable(&self, fleets: &Directory, writes: &BTreeSet<String>) -> bool {
        let states = [&self.was, &self.is].into_iter().flatten();
        let mut writers = states.map(|state| self.key.writer(state.scope.as_deref(), fleets));
        writers.all(|writer| writes.contains(&writer))
    }

    /// From the second revision to the first.
    pub(crate) fn reversed(self) -> Record {
        Record { was: self.is, is: self.was, ..self }
    }

    /// For people: nothing secret is in it.
    pub(crate) fn change(&self) -> Change {
        let key = &self.key;
        let state = self.is.as_ref().or(self.was.as_ref());
        let own_name = state.and_then(|state| state.json()["name"].as_str().map(str::to_owned));
        Change {
            kind: key.kind.clone(),
            scope: state.and_then(|state| state.scope.clone()),
            type_url: Some(&key.type_url).filter(|url| !url.is_empty()).cloned(),
            id: key.id(),
            name: key.id().and(own_name).unwrap_or_else(|| key.name.clone()),
            change: match (&self.was, &self.is) {
                (None, _) => "added",
                (_, None) => "removed",
                _ => "changed",
            },
            diff: self.diff(),
        }
    }

    fn diff(&self) -> String {
        let text = |state: &Option<State>| {
            state.as_ref().map(|state| state.yaml(&self.key)).unwrap_or_default()
        };
        let (was, is) = (text(&self.was), text(&self.is));
        if was == is {
            return "(only what is not shown differs)\n".to_owned();
        }
        TextDiff::from_lines(&was, &is).unified_diff().context_radius(CONTEXT).to_string()
    }
}

impl State {
    fn read(
        row: &AnyRow,
        scope: &str,
        content: &str,
        value: &str,
    ) -> Result<Option<State>, sqlx::Error> {
        let Some(content) = row.try_get::<Option<String>, _>(content)? else { return Ok(None) };
        let value: Option<Vec<u8>> = row.try_get(value)?;
        let (scope, value) = (row.try_get(scope)?, value.map(Bytes::from));
        Ok(Some(State { scope, content, value }))
    }

    /// The service that this row was.
    pub(crate) fn service(&self) -> Result<Definition, Problem> {
        let mut json = self.json();
        // Who says where it is says it whole.
        if json["upstreams"].as_array().is_some_and(|places| !places.is_empty())
            && let Some(fields) = json.as_object_mut()
        {
            fields.retain(|field, _| field != "upstream_host" && field != "upstream_port");
        }
        document::read::<Draft>(json)?.define(None)
    }

    /// The resource that this row was.
    pub(crate) fn resource(&self, key: &Key) -> RawResource {
        RawResource {
            key: key.raw(),
            version: self.json()["version"].as_str().map(str::to_owned),
            value: self.value.clone().unwrap_or_default(),
        }
    }

    /// What stood in the column `definition` of an object.
    pub(crate) fn definition(&self) -> &str {
        &self.content
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.content).unwrap_or_default()
    }

    fn yaml(&self, key: &Key) -> String {
        let mut shown = self.shown(key);
        if let Some(fields) = shown.as_object_mut() {
            fields.retain(|_, value| !value.is_null());
        }
        serde_saphyr::to_string(&shown).unwrap_or_else(|_| format!("{shown:#}\n"))
    }

    fn shown(&self, key: &Key) -> Value {
        let hidden = || json!("(not shown)");
        match &*key.kind {
            SERVICE | Fleet::KIND | Route::KIND => self.json(),
            Certificate::KIND => document::read::<Certificate>(self.json())
                .map_or_else(|_| hidden(), |certificate| certificate.shown()),
            RESOURCE => {
                let resource = self.resource(key);
                let content = match proto_json::show(&key.type_url, &resource.value) {
                    Ok(json) => json,
                    Err(Hidden::Unknown) => json!(STANDARD.encode(&resource.value)),
                    Err(why) => json!(format!("(not shown: {why})")),
                };
                json!({"version": resource.version, "resource": content})
            }
            _ => hidden(),
        }
    }
}
