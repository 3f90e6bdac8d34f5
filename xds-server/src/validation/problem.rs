//! What can be wrong with a resource.

use std::{fmt, sync::Arc};

use deltaplane_cache::{CacheView, Scope};
use deltaplane_core::{Key, TypeUrl, View};

/// How bad a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Severity {
    /// Clients accept it, and may wait or fail requests for what is missing, unless that comes soon.
    Warning,
    /// Clients reject it, or never use it.
    Error,
}

/// What is wrong with one resource.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// It is no message of its type.
    #[error(
        "{} {:?} in scope {scope} cannot be decoded, {why}: give it the bytes of its own type",
        short(&key.type_url), key.name
    )]
    Malformed {
        /// Its scope.
        scope: Scope,
        /// The resource.
        key: Key,
        /// What the decoder says.
        why: String,
    },
    /// The name in it is not the one by which clients ask for it, so they reject it, or know it by
    /// another name than who refers to it.
    #[error(
        "{} {:?} in scope {scope} has {name:?} in its field `{field}`: give both the same name",
        short(&key.type_url), key.name
    )]
    Misnamed {
        /// Its scope.
        scope: Scope,
        /// The resource.
        key: Key,
        /// The field that has the name.
        field: &'static str,
        /// The name in that field.
        name: String,
    },
    /// It violates a rule that its proto states, by `validate.rules`. Envoy checks the same and rejects it;
    /// gRPC clients check less, so what an API listener holds, which is theirs, is not looked at.
    #[error(
        "{} {:?} in scope {scope}: `{field}` {rule}",
        short(&key.type_url), key.name
    )]
    Rule {
        /// Its scope.
        scope: Scope,
        /// The resource.
        key: Key,
        /// The path of the field, such as `load_assignment.endpoints[0]`; through an `Any` it goes on
        /// with the message that is packed there.
        field: String,
        /// What is wrong with it. No text or bytes of the field are shown, as they may be secret.
        rule: String,
    },
    /// It refers to what is not there.
    #[error(
        "{} {:?} refers to {} {:?}, which those who see {} do not have: \
         add that, or take the reference out",
        short(&from.type_url), from.name, short(&to.type_url), to.name, list(view)
    )]
    Dangling {
        /// Who refers.
        from: Key,
        /// To what.
        to: Key,
        /// The scopes of a view in which it is not there.
        view: Arc<[Scope]>,
    },
    /// A cluster gets its endpoints by EDS, and there is no `ClusterLoadAssignment` under the name by
    /// which Envoy will ask for it. One without any endpoint in it is no problem.
    #[error(
        "cluster {cluster:?} has no endpoints: those who see {} have no ClusterLoadAssignment \
         {endpoints:?}{}; add one by that name, be it empty",
        list(view), found(*is_under_cluster_name)
    )]
    NoEndpoints {
        /// The name of the cluster.
        cluster: Arc<str>,
        /// The name of the endpoints: the cluster's `service_name`, or its own if it has none.
        endpoints: Arc<str>,
        /// Whether there are some under the cluster's own name instead.
        is_under_cluster_name: bool,
        /// The scopes of a view in which they are not there.
        view: Arc<[Scope]>,
    },
}

impl Problem {
    /// How bad it is. [`Policy::Refuse`](super::Policy::Refuse) refuses either.
    #[must_use]
    pub fn severity(&self) -> Severity {
        match self {
            Problem::Malformed { .. } | Problem::Misnamed { .. } | Problem::Rule { .. } => {
                Severity::Error
            }
            Problem::Dangling { .. } | Problem::NoEndpoints { .. } => Severity::Warning,
        }
    }

    /// That what is referred to is not there.
    pub(super) fn missing(seen: &CacheView, from: &Key, to: &Key) -> Self {
        let view = seen.scopes().clone();
        if (&from.type_url, &to.type_url) != (&TypeUrl::CLUSTER, &TypeUrl::ENDPOINT) {
            return Problem::Dangling { from: from.clone(), to: to.clone(), view };
        }
        let is_under_cluster_name = seen.get(&TypeUrl::ENDPOINT, &from.name).is_some();
        let (cluster, endpoints) = (from.name.clone(), to.name.clone());
        Problem::NoEndpoints { cluster, endpoints, is_under_cluster_name, view }
    }
}

/// The name of a type without its package.
fn short(type_url: &TypeUrl) -> &str {
    let name = type_url.message_name();
    name.rsplit_once('.').map_or(name, |(_, name)| name)
}

fn list(scopes: &[Scope]) -> String {
    scopes.iter().map(Scope::as_str).collect::<Vec<_>>().join(" over ")
}

fn found(is_under_cluster_name: bool) -> &'static str {
    if is_under_cluster_name { ", though one under the cluster's own name" } else { "" }
}

/// What is wrong with a transaction: first with the resources themselves, then with what they refer to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    problems: Vec<Problem>,
}

/// How many problems are written out; the others are counted.
const SHOWN_MAX: usize = 20;

impl Report {
    pub(super) fn new(problems: impl Iterator<Item = Problem>) -> Self {
        Self { problems: problems.collect() }
    }

    /// The problems.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.problems.is_empty()
    }

    /// How bad the worst of them is.
    #[must_use]
    pub fn severity(&self) -> Option<Severity> {
        self.problems.iter().map(Problem::severity).max()
    }
}

impl fmt::Display for Report {
    /// The first problems, one to a line, and how many more there are.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, problem) in self.problems.iter().take(SHOWN_MAX).enumerate() {
            let end = if at == 0 { "" } else { "\n" };
            write!(f, "{end}{problem}")?;
        }
        match self.problems.len().saturating_sub(SHOWN_MAX) {
            0 => Ok(()),
            more => write!(f, "\nand {more} more"),
        }
    }
}
