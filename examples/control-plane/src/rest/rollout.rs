//! How changes stand that go to some of a fleet first.

use std::collections::BTreeSet;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use deltaplane_server::{Canary, Scope};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::access::Caller;
use crate::canary::rollouts::{Progress, Stage};
use crate::fleets::scope;
use crate::moment;
use crate::rest::openapi::both;
use crate::rest::problem::Problem;
use crate::serve::running::Running;

pub(crate) fn router() -> OpenApiRouter<Running> {
    both(OpenApiRouter::new(), routes!(rollout))
}

/// The last change that went to some of a fleet first.
#[derive(Serialize, ToSchema)]
#[schema(as = RolloutProgress)]
pub(crate) struct Shown {
    /// The fleet.
    fleet: String,
    /// The scopes of it.
    scopes: Vec<String>,
    /// The revision of the database that it brings the fleet to.
    revision: i64,
    /// `in_canary`, `promoted` or `withdrawn`.
    stage: &'static str,
    /// Since when.
    since: String,
    /// The nodes that have it, while they are the only ones.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    canary: BTreeSet<String>,
    /// Why it was withdrawn: who rejected it in which words, who did not settle in time, who went away.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    reasons: Vec<String>,
    /// The revision at which what it changed is as it was, if it was rolled back in the database.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    rolled_back: Option<i64>,
    /// Why it was to be rolled back, and was not.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    not_rolled_back: Option<String>,
}

/// The last change that went to some of a fleet first, since the server was started.
#[utoipa::path(
    get,
    path = "/api/v1/fleets/{name}/rollout",
    tag = "fleets",
    operation_id = "read_rollout",
    params(("name" = String, Path)),
    responses((status = 200, description = "How it stands", body = Shown), Problem)
)]
async fn rollout(
    State(app): State<Running>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Json<Shown>, Problem> {
    caller.may_read(&name)?;
    let progress = app.rollouts.all().remove(&name);
    progress.map(|progress| Json(Shown::of(&app, name.clone(), &progress))).ok_or_else(|| {
        let detail = format!(
            "no change went to some of the fleet {name:?} first since the server was started; its \
             field rollout says who these are"
        );
        Problem::new(StatusCode::NOT_FOUND, detail)
    })
}

/// That of every fleet that may be shown.
pub(crate) fn all(app: &Running, caller: &Caller) -> Vec<Shown> {
    let all = app.rollouts.all().into_iter().filter(|(fleet, _)| caller.reads(fleet));
    all.map(|(fleet, progress)| Shown::of(app, fleet, &progress)).collect()
}

impl Shown {
    fn of(app: &Running, fleet: String, progress: &Progress) -> Shown {
        let scopes = app.fleets.own_scopes(&fleet);
        let layers = scopes.iter().flat_map(|scope| scope::layers(scope)).collect();
        let (mut canary, mut reasons, mut rolled_back) = (BTreeSet::new(), Vec::new(), None);
        match &progress.stage {
            Stage::InCanary => canary = members(app, &layers),
            Stage::Promoted => {}
            Stage::Withdrawn(fault) => {
                (reasons, rolled_back) = (fault.reasons(), fault.rolled_back.clone());
            }
        }
        let not_rolled_back = rolled_back.clone().and_then(Result::err);
        Shown {
            fleet,
            scopes,
            revision: progress.revision,
            stage: progress.stage.word(),
            since: moment::of(progress.since),
            canary,
            reasons,
            rolled_back: rolled_back.and_then(Result::ok),
            not_rolled_back,
        }
    }
}

/// The nodes that see what lies over one of these scopes for a canary.
fn members(app: &Running, layers: &BTreeSet<Scope>) -> BTreeSet<String> {
    let clients = app.server.clients().into_iter().map(|status| status.client);
    let is_over = |scope: &Scope| Canary::below(scope).is_some_and(|below| layers.contains(&below));
    let clients = clients.filter(|client| client.scopes.iter().any(is_over));
    clients.map(|client| client.node.id.clone()).collect()
}
