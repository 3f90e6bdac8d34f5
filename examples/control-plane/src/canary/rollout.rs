//! How changes reach a fleet that has a canary: what its row says of it.

use std::time::Duration;

use deltaplane_server::Canary;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::fleets::Nodes;
use crate::service::FieldError;

/// The longest that a canary may be given, in milliseconds.
const TIME_MAX: u32 = 3_600_000;

/// To whom changes of a fleet go first, and what has to come of it before they go to all.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Rollout {
    /// Who is first.
    pub canary: Members,
    /// How long all of these must have settled before the others are told.
    #[serde(default)]
    #[schema(maximum = 3_600_000)]
    pub settled_for_ms: u32,
    /// How long these may take to settle; then the change is withdrawn from them.
    #[serde(default = "usual_timeout_ms")]
    #[schema(minimum = 1, maximum = 3_600_000, default = 60000)]
    pub timeout_ms: u32,
}

fn usual_timeout_ms() -> u32 {
    60_000
}

/// What becomes of a change that clients reject, or do not settle at in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[allow(clippy::exhaustive_enums)] // a new one changes who asks
pub enum OnRejection {
    /// It stays as it is stored.
    #[default]
    Keep,
    /// What it changed goes back to what it was, in the database.
    Rollback,
}

/// How a change goes to a fleet.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) rollout: Rollout,
    /// There is no canary: all are first, and some of them come and go.
    is_for_all: bool,
    pub(crate) on_rejection: OnRejection,
}

/// Who is first: a share of the nodes that are connected, or those that are selected.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = CanaryMembers)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct Members {
    /// This share of them, rounded up: as long as the same are connected, the same ones.
    #[schema(minimum = 0, maximum = 1)]
    pub share: Option<f64>,
    /// Those that all of this is true of.
    pub nodes: Option<Nodes>,
}

impl Plan {
    /// Nothing, if changes go to all, whatever these say.
    pub(crate) fn of(rollout: Option<&Rollout>, on_rejection: OnRejection) -> Option<Plan> {
        let all = || Rollout {
            canary: Members { share: Some(1.0), nodes: None },
            settled_for_ms: 0,
            timeout_ms: usual_timeout_ms(),
        };
        let is_for_all = rollout.is_none();
        let rollout = rollout.cloned();
        let rollout = rollout.or_else(|| (on_rejection == OnRejection::Rollback).then(all))?;
        Some(Plan { rollout, is_for_all, on_rejection })
    }

    /// As the library has it.
    pub(crate) fn canary(&self) -> Canary {
        let canary = self.rollout.canary();
        if self.is_for_all { canary.may_leave() } else { canary }
    }
}

impl Rollout {
    fn canary(&self) -> Canary {
        let canary = match (&self.canary.nodes, self.canary.share) {
            (Some(nodes), _) => {
                let nodes = nodes.clone();
                Canary::nodes(move |node| nodes.select(node))
            }
            (None, share) => Canary::share(share.unwrap_or(1.0)),
        };
        let ms = |ms: u32| Duration::from_millis(ms.into());
        canary.settled_for(ms(self.settled_for_ms)).timeout(ms(self.timeout_ms))
    }

    pub(crate) fn check(&self) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let Members { share, nodes } = &self.canary;
        match (share, nodes) {
            (Some(share), None) if *share > 0.0 && *share <= 1.0 => {}
            (Some(share), None) => {
                let why = format!("{share} is no share; write a number above 0, up to 1");
                errors.push(FieldError::new("rollout.canary.share", why));
            }
            (None, Some(nodes)) if *nodes != Nodes::default() => {}
            (None, Some(_)) => {
                let why = "selects every node; give cluster, id or metadata";
                errors.push(FieldError::new("rollout.canary.nodes", why));
            }
            _ => {
                let why = "says not who is first; give either share or nodes";
                errors.push(FieldError::new("rollout.canary", why));
            }
        }
        for (field, ms, least) in [
            ("rollout.settled_for_ms", self.settled_for_ms, 0),
            ("rollout.timeout_ms", self.timeout_ms, 1),
        ] {
            if !(least..=TIME_MAX).contains(&ms) {
                let why =
                    format!("{ms} is no time for that; write a number from {least} to {TIME_MAX}");
                errors.push(FieldError::new(field, why));
            }
        }
        errors
    }
}
