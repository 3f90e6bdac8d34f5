//! Fleets: who belongs to one, and how it is served.

pub mod scope;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use deltaplane_server::envoy_types::pb::envoy::config::core::v3::Node;
use deltaplane_server::envoy_types::pb::google::protobuf::{
    Struct, Value as Field, value::Kind as Type,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::watch;
use utoipa::ToSchema;

use crate::canary::rollout::{OnRejection, Plan, Rollout};
use crate::database::objects::{Kind, NAME_MAX};
use crate::rest::document::Document;
use crate::service::FieldError;

/// The most publications that a fleet may be given in a second.
pub const PER_SECOND_MAX: u32 = 1000;

/// A fleet, whose name is that of its scope.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = FleetDefinition)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct Fleet {
    /// The services of which number are the fleet's. Only one fleet has those of a number.
    #[schema(minimum = 1)]
    pub cluster_id: Option<i64>,
    /// Which nodes belong to it. Without this, those whose `node.cluster` or `node.id` is its name.
    pub nodes: Option<Nodes>,
    /// Of fleets that a node could belong to, the one with the lowest rank, and of those the first by name.
    pub rank: i32,
    /// The scope below that of the fleet: what the fleet does not have itself, it has from there.
    #[schema(min_length = 1, max_length = 256)]
    pub below: Option<String>,
    /// Which certificates its nodes may show, where they have to show one: patterns of a URI (SPIFFE) or a name of
    /// a host that the certificate is for, in which `*` is any text, `/` as well, `{node}` the node's id, and
    /// `{fleet}` the fleet's name. Without any, `--client-identity` of the server says it.
    #[schema(max_items = 64)]
    pub identity: Vec<String>,
    /// Where its Envoys are told to get what services refer to.
    pub source: Source,
    /// What is found wrong with raw resources and refused.
    pub validation: Validation,
    /// How soon and how often it is told what changed.
    pub pace: Pace,
    /// Who of it is told first, before all are.
    pub rollout: Option<Rollout>,
    /// What becomes of a change that its clients reject.
    pub on_rejection: OnRejection,
}

/// Which nodes belong to a fleet: those that all of this is true of.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = NodeSelector)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct Nodes {
    /// A pattern of `node.cluster`, in which `*` is any text.
    pub cluster: Option<String>,
    /// A pattern of `node.id`, in which `*` is any text.
    pub id: Option<String>,
    /// What `node.metadata` has in it.
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<serde_json::Map<String, Value>>,
}

/// Where an Envoy gets endpoints, routes and secrets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[allow(clippy::exhaustive_enums)] // Envoy knows these
pub enum Source {
    /// From the one aggregated stream.
    #[default]
    Ads,
    /// From a stream for each, State of the World.
    Grpc,
    /// From a stream for each, delta.
    DeltaGrpc,
}

/// What is refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[allow(clippy::exhaustive_enums)] // a new one changes who asks
pub enum Validation {
    /// Whatever is wrong, also that something is referred to which is not there.
    All,
    /// What clients would reject; what is not there is told.
    #[default]
    Errors,
    /// Nothing: nobody looks.
    None,
}

/// How soon and how often a fleet is told what changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct Pace {
    /// How long nothing has to change before.
    #[schema(maximum = 60000)]
    pub quiet_ms: u32,
    /// How long the first change waits at most, be there quiet or not.
    #[schema(maximum = 60000)]
    pub longest_ms: u32,
    /// At most so many times a second; 0 for as often as there is something.
    #[schema(maximum = 1000)]
    pub per_second: u32,
}

/// The most patterns of identities of a fleet, and the longest of them in bytes.
const IDENTITIES_MAX: usize = 64;
const IDENTITY_MAX: usize = 512;

impl Fleet {
    /// The names of the scopes that it sees, the first over the others.
    fn scopes<'a>(&self, name: &'a str, directory: &'a BTreeMap<String, Fleet>) -> Vec<String> {
        let mut scopes = self.own_scopes(name);
        if let Some(below) = &self.below {
            scopes.extend(match directory.get(below) {
                Some(fleet) => fleet.own_scopes(below),
                None => vec![below.clone()],
            });
        }
        scopes
    }

    fn own_scopes(&self, name: &str) -> Vec<String> {
        let services = self.cluster_id.map(|id| scope::of_cluster(id).to_string());
        let services = services.filter(|services| services != name);
        std::iter::once(name.to_owned()).chain(services).collect()
    }
}

impl Nodes {
    pub(crate) fn select(&self, node: &Node) -> bool {
        let fits = |pattern: &Option<String>, text: &str| {
            pattern.as_deref().is_none_or(|pattern| is_like(text, pattern))
        };
        let has = |metadata: &serde_json::Map<String, Value>| {
            let none = Struct::default();
            has(node.metadata.as_ref().unwrap_or(&none), metadata)
        };
        fits(&self.cluster, &node.cluster)
            && fits(&self.id, &node.id)
            && self.metadata.as_ref().is_none_or(has)
    }
}

/// Whether a text is as a pattern says, in which `*` is any text.
pub(crate) fn is_like(text: &str, pattern: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else {
        return text == pattern;
    };
    let Some(mut text) = text.strip_prefix(head) else {
        return false;
    };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let tail = parts.pop().unwrap_or_default();
    for part in parts {
        match text.find(part) {
            Some(at) => text = &text[at + part.len()..],
            None => return false,
        }
    }
    text.len() >= tail.len() && text.ends_with(tail)
}

/// Whether all that is wanted stands in a node's metadata.
fn has(metadata: &Struct, wanted: &serde_json::Map<String, Value>) -> bool {
    wanted
        .iter()
        .all(|(key, value)| metadata.fields.get(key).is_some_and(|field| is_equal(field, value)))
}

fn is_equal(field: &Field, wanted: &Value) -> bool {
    match (&field.kind, wanted) {
        (Some(Type::StructValue(inner)), Value::Object(wanted)) => has(inner, wanted),
        (Some(Type::StringValue(text)), Value::String(wanted)) => text == wanted,
        (Some(Type::BoolValue(bool)), Value::Bool(wanted)) => bool == wanted,
        (Some(Type::NumberValue(number)), Value::Number(wanted)) => {
            wanted.as_f64() == Some(*number)
        }
        (Some(Type::ListValue(list)), Value::Array(wanted)) => {
            list.values.len() == wanted.len()
                && list.values.iter().zip(wanted).all(|(field, wanted)| is_equal(field, wanted))
        }
        (Some(Type::NullValue(_)) | None, Value::Null) => true,
        _ => false,
    }
}

impl Kind for Fleet {
    const KIND: &'static str = "fleet";

    fn check(&self, name: &str) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let scope = |field: &'static str, scope: &str, errors: &mut Vec<FieldError>| {
            if scope.is_empty() || scope.len() > NAME_MAX {
                let why = format!("has {} bytes; write 1 to {NAME_MAX}", scope.len());
                errors.push(FieldError::new(field, why));
            } else if scope::is_reserved(scope) || scope.contains(char::is_control) {
                let why = format!("{scope:?} can name no scope; choose another");
                errors.push(FieldError::new(field, why));
            }
        };
        scope("name", name, &mut errors);
        if let Some(below) = &self.below {
            scope("below", below, &mut errors);
            if below == name {
                errors.push(FieldError::new("below", "is the fleet itself; name another scope"));
            }
        }
        if let Some(id) = self.cluster_id
            && id < 1
        {
            let why = format!("{id} is no number of services; write one from 1 upwards");
            errors.push(FieldError::new("cluster_id", why));
        }
        if scope::cluster_of(name).is_some_and(|id| self.cluster_id.is_some_and(|own| own != id)) {
            let why = format!("is another than that in {name:?}; leave it out");
            errors.push(FieldError::new("cluster_id", why));
        }
        if self.nodes.as_ref().is_some_and(|nodes| *nodes == Nodes::default()) {
            let why = "selects every node; give cluster, id or metadata, be it \"cluster\": \"*\"";
            errors.push(FieldError::new("nodes", why));
        }
        errors.extend(check_identity(&self.identity));
        errors.extend(self.pace.check());
        errors.extend(self.rollout.iter().flat_map(Rollout::check));
        errors
    }

    fn conflict(&self, others: &BTreeMap<String, Fleet>) -> Option<FieldError> {
        let id = self.cluster_id?;
        let has = |(name, other): &(&String, &Fleet)| {
            other.cluster_id.or_else(|| scope::cluster_of(name)) == Some(id)
        };
        let (name, _) = others.iter().find(has)?;
        let why = format!("the services of {id} are those of the fleet {name:?}; choose another");
        Some(FieldError::new("cluster_id", why))
    }
}

fn check_identity(patterns: &[String]) -> Vec<FieldError> {
    if patterns.len() > IDENTITIES_MAX {
        let why = format!("has {} patterns; write at most {IDENTITIES_MAX}", patterns.len());
        return vec![FieldError::new("identity", why)];
    }
    let wrong = |(i, pattern): (usize, &String)| {
        let why = wrong_pattern(pattern)?;
        Some(FieldError::new(format!("identity[{i}]"), why))
    };
    patterns.iter().enumerate().filter_map(wrong).collect()
}

/// What is wrong with a pattern of an identity.
pub(crate) fn wrong_pattern(pattern: &str) -> Option<String> {
    if pattern.is_empty() || pattern.len() > IDENTITY_MAX {
        return Some(format!("has {} bytes; write 1 to {IDENTITY_MAX}", pattern.len()));
    }
    let plain = pattern.replace("{node}", "").replace("{fleet}", "");
    plain.contains(['{', '}']).then(|| {
        format!("{pattern:?} has something else in braces than {{node}} and {{fleet}}; correct it")
    })
}

impl Pace {
    fn check(self) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let mut at_most = |field: &'static str, number: u32, most: u32| {
            if number > most {
                let why = format!("{number} is too much; write at most {most}");
                errors.push(FieldError::new(field, why));
            }
        };
        at_most("pace.quiet_ms", self.quiet_ms, 60_000);
        at_most("pace.longest_ms", self.longest_ms, 60_000);
        at_most("pace.per_second", self.per_second, PER_SECOND_MAX);
        errors
    }

    pub(crate) fn quiet(self) -> Duration {
        Duration::from_millis(self.quiet_ms.into())
    }

    pub(crate) fn longest(self) -> Duration {
        Duration::from_millis(self.longest_ms.into())
    }

    /// How long after a publication the next one may be.
    pub(crate) fn apart(self) -> Duration {
        self.per_second
            .checked_sub(1)
            .map_or(Duration::ZERO, |_| Duration::from_secs(1) / self.per_second)
    }
}

impl Document for Fleet {
    const TOO_LARGE: &str = "a fleet takes at most 64 KiB";

    fn advice(path: &str) -> &'static str {
        match path {
            "cluster_id" | "rank" => "write a whole number",
            "nodes" => "write an object with cluster, id or metadata",
            "nodes.metadata" => "write an object",
            "identity" => "write an array of strings",
            "source" => "write \"ads\", \"grpc\" or \"delta_grpc\"",
            "validation" => "write \"all\", \"errors\" or \"none\"",
            "pace" => "write an object with quiet_ms, longest_ms or per_second",
            "on_rejection" => "write \"keep\" or \"rollback\"",
            "rollout" => "write an object with canary, settled_for_ms and timeout_ms",
            "rollout.canary" => "write an object with share or nodes",
            "rollout.canary.share" => "write a number above 0, up to 1",
            "rollout.canary.nodes" => "write an object with cluster, id or metadata",
            "rollout.canary.nodes.metadata" => "write an object",
            "rollout.settled_for_ms" | "rollout.timeout_ms" => "write a whole number",
            path if path.starts_with("pace.") => "write a whole number from 0 upwards",
            _ => "write a string",
        }
    }
}

/// The fleets as they are now. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Directory(watch::Sender<Arc<BTreeMap<String, Fleet>>>);

impl Directory {
    /// All fleets, by name.
    pub fn fleets(&self) -> Arc<BTreeMap<String, Fleet>> {
        self.0.borrow().clone()
    }

    /// Tells when they changed.
    pub fn watch(&self) -> watch::Receiver<Arc<BTreeMap<String, Fleet>>> {
        self.0.subscribe()
    }

    pub(crate) fn set(&self, fleets: BTreeMap<String, Fleet>) {
        self.0.send_if_modified(|now| {
            let is_other = **now != fleets;
            if is_other {
                *now = Arc::new(fleets);
            }
            is_other
        });
    }

    /// The scopes of the fleet that selects a node, if one does.
    pub(crate) fn select(&self, node: &Node) -> Option<Vec<String>> {
        let fleets = self.fleets();
        let selects = |(_, fleet): &(&String, &Fleet)| {
            fleet.nodes.as_ref().is_some_and(|nodes| nodes.select(node))
        };
        // The first of the lowest rank: they come by name.
        let found = fleets.iter().filter(selects).min_by_key(|(_, fleet)| fleet.rank);
        found.map(|(name, fleet)| fleet.scopes(name, &fleets))
    }

    /// The scopes of who goes by this name.
    pub(crate) fn named(&self, name: &str) -> Vec<String> {
        let fleets = self.fleets();
        match fleets.get(name) {
            Some(fleet) => fleet.scopes(name, &fleets),
            None => vec![name.to_owned()],
        }
    }

    /// The name of the fleet whose the services of a number are.
    pub(crate) fn name_of_cluster(&self, cluster_id: i64) -> String {
        self.owner(scope::of_cluster(cluster_id).as_str()).0
    }

    /// The name of the fleet whose the services of a scope are.
    pub(crate) fn name_of_scope(&self, scope: &str) -> String {
        match scope::cluster_of(scope) {
            Some(id) => self.name_of_cluster(id),
            None => scope.to_owned(),
        }
    }

    /// The scopes of which a fleet's own resources and services are.
    pub(crate) fn own_scopes(&self, name: &str) -> Vec<String> {
        let fleets = self.fleets();
        fleets.get(name).map_or_else(|| vec![name.to_owned()], |fleet| fleet.own_scopes(name))
    }

    /// The fleet of a scope, and which certificates its nodes may show.
    pub(crate) fn identity(&self, scope: &str) -> (String, Vec<String>) {
        let (name, _) = self.owner(scope);
        let identity = self.fleets().get(&name).map(|fleet| fleet.identity.clone());
        (name, identity.unwrap_or_default())
    }

    /// What is refused in a scope.
    pub(crate) fn validation(&self, scope: &str) -> Validation {
        self.fleets().get(scope).map(|fleet| fleet.validation).unwrap_or_default()
    }

    /// The fleet whose pace what changes in a scope has, and that pace.
    pub(crate) fn owner(&self, scope: &str) -> (String, Pace) {
        let fleets = self.fleets();
        let services = scope::cluster_of(scope);
        let owns = |(name, fleet): &(&String, &Fleet)| {
            *name == scope || (services.is_some() && fleet.cluster_id == services)
        };
        let owner = fleets.iter().find(owns);
        owner
            .map_or((scope.to_owned(), Pace::default()), |(name, fleet)| (name.clone(), fleet.pace))
    }

    /// How changes go to a fleet, if that depends on what clients say.
    pub(crate) fn plan(&self, fleet: &str) -> Option<Plan> {
        let fleets = self.fleets();
        let fleet = fleets.get(fleet)?;
        Plan::of(fleet.rollout.as_ref(), fleet.on_rejection)
    }

    /// The fleet whose the services of a number are.
    pub(crate) fn of_cluster(&self, cluster_id: i64) -> Fleet {
        let fleets = self.fleets();
        let owns = |(name, fleet): &(&String, &Fleet)| {
            fleet.cluster_id.or_else(|| scope::cluster_of(name)) == Some(cluster_id)
        };
        fleets.iter().find(owns).map(|(_, fleet)| fleet.clone()).unwrap_or_default()
    }
}
