//! The HTTP API of the history, and back to what it holds.

use std::collections::BTreeSet;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::access::Caller;
use crate::access::token::ALL;
use crate::database::store::Store;
use crate::delivery::{Outcome, is_about};
use crate::history::record::{Change, Record};
use crate::history::rollback::{Rollback, RollbackError, RolledBack, roll_back};
use crate::history::{LIMIT_MAX, Made, Places, Wanted};
use crate::moment;
use crate::rest::openapi::both;
use crate::rest::problem::{Fault, Problem};
use crate::serve::running::Running;

pub(crate) fn router() -> OpenApiRouter<Running> {
    let router = both(OpenApiRouter::new(), routes!(list));
    let router = both(router, routes!(read));
    both(router, routes!(back))
}

/// A revision, as it was made.
#[derive(Serialize, ToSchema)]
#[schema(as = Revision)]
struct Shown {
    revision: i64,
    /// When it was made (RFC 3339).
    at: String,
    /// Who made it: the one that the request named, `anonymous` if it named none; for what
    /// was written past the HTTP API, the role on PostgreSQL, and `sqlite`.
    author: String,
    /// What it is called.
    label: Option<String>,
    /// The revision whose state it brought back, if it was a rollback.
    back_to: Option<i64>,
    /// How many services, resources and so on it changed; of those of the fleet, if one is asked for, and of those
    /// that the token may read.
    changed: i64,
}

/// A revision with what it changed, and what became of it.
#[derive(Serialize, ToSchema)]
#[schema(as = RevisionInFull)]
struct InFull {
    #[serde(flatten)]
    shown: Shown,
    /// In the order in which it was changed. Of the oldest revision that is kept, nothing
    /// tells what it changed.
    changes: Vec<Change>,
    /// What became of it at the clients of each server, and of what was published with it;
    /// nothing, if no server published it yet. For a token that may not read every fleet, how
    /// it is now at the clients of this server that it may see, or why it was withdrawn.
    #[schema(value_type = Vec<Outcome>)]
    delivery: Vec<Value>,
}

/// What a rollback did, or would do.
#[derive(Serialize, ToSchema)]
#[schema(as = RolledBack)]
struct Back {
    /// The revision that it is; the last one there was, if nothing is written.
    revision: i64,
    /// The revision whose state came back.
    back_to: i64,
    /// What it changes; nothing, if all is as it was then.
    changes: Vec<Change>,
}

impl From<Made> for Shown {
    fn from(made: Made) -> Shown {
        Shown {
            revision: made.revision,
            at: moment::of_milliseconds(made.made_ms),
            author: made.author,
            label: made.label,
            back_to: made.back_to,
            changed: made.changes,
        }
    }
}

/// Revisions, the newest first: all, or those that the parameters say. With a token that may
/// not read every fleet, those that changed something of the fleets that it may.
#[utoipa::path(
    get,
    path = "/api/v1/revisions",
    tag = "history",
    operation_id = "list_revisions",
    params(Wanted),
    responses(
        (
            status = 200,
            description = "The newest first",
            body = Vec<Shown>,
            headers(("link" = String, description = "Where older ones are, as `rel=\"next\"`"))
        ),
        Problem
    )
)]
async fn list(
    State(app): State<Running>,
    caller: Caller,
    uri: Uri,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(wanted) = wanted.map_err(|error| {
        let why = "give ?fleet=…, author, label, before and limit";
        Problem::new(error.status(), format!("{}; {why}", error.body_text()))
    })?;
    if !(1..=LIMIT_MAX).contains(&wanted.limit) {
        let why = format!("{} is no number from 1 to {LIMIT_MAX}; write one", wanted.limit);
        return Err(Problem::unprocessable(vec![Fault::new("limit", why)]));
    }
    let texts = [("fleet", &wanted.fleet), ("author", &wanted.author), ("label", &wanted.label)];
    for (field, text) in texts {
        check_text(field, text.as_deref())?;
    }
    let places = places(&app, &caller, wanted.fleet.as_deref())?;
    let (found, has_more) = app.store.revisions(&wanted, places.as_ref()).await?;
    let next = found.last().filter(|_| has_more).map(|last| older(&uri, last.revision));
    let found: Vec<Shown> = found.into_iter().map(Shown::from).collect();
    let next = next.map(|next| [(header::LINK, next)]);
    Ok((next.into_iter().next(), Json(found)).into_response())
}

/// Where a caller may look for changes, of all fleets or of one; nothing, if anywhere.
fn places(app: &Running, caller: &Caller, fleet: Option<&str>) -> Result<Option<Places>, Problem> {
    let fleets: BTreeSet<String> = match fleet {
        None if caller.reads_all() => return Ok(None),
        None => caller.fleets(),
        Some(fleet) => {
            caller.may_read(fleet)?;
            BTreeSet::from([fleet.to_owned()])
        }
    };
    let mut places = Places::of(fleets.iter().flat_map(|it| app.fleets.own_scopes(it)).collect());
    places.resources.retain(|scope| caller.reads(scope));
    places.others.retain(|scope| caller.reads(&app.fleets.name_of_scope(scope)));
    Ok(Some(places))
}

fn older(uri: &Uri, before: i64) -> String {
    let query = uri.query().unwrap_or_default().split('&');
    let same = query.filter(|part| !part.is_empty() && !part.starts_with("before="));
    let same: String = same.map(|part| format!("{part}&")).collect();
    format!("<{}?{same}before={before}>; rel=\"next\"", uri.path())
}

/// A revision: what it changed, and what became of it at clients. With a token that may not
/// read every fleet, what it changed of the fleets that it may.
#[utoipa::path(
    get,
    path = "/api/v1/revisions/{revision}",
    tag = "history",
    operation_id = "read_revision",
    params(("revision" = i64, Path)),
    responses((status = 200, description = "What it was", body = InFull), Problem)
)]
async fn read(
    State(app): State<Running>,
    caller: Caller,
    Path(revision): Path<String>,
) -> Result<Json<InFull>, Problem> {
    let asked = number(&revision)?;
    let Some((mut made, mut records)) = app.store.made(asked).await? else {
        let oldest = app.store.oldest_revision().await?;
        return Err(match asked < oldest {
            true => RollbackError::Dropped { asked, oldest }.into(),
            false => RollbackError::Unknown { asked, last: app.store.revision().await? }.into(),
        });
    };
    let mut delivery = app.store.outcomes(asked).await?;
    if let Some(fleets) = told(&app, &records) {
        delivery.retain(|outcome| is_about(outcome, &fleets));
    }
    if !caller.reads_all() {
        let seen = records.iter().filter_map(|it| it.seen(&app.fleets, |name| caller.reads(name)));
        records = seen.collect();
        if records.is_empty() {
            return Err(not_theirs(asked));
        }
        made.changes = i64::try_from(records.len()).unwrap_or(i64::MAX);
        // What is noted of all clients is not for those who see some.
        let is_theirs = |fleet: &str| caller.reads(fleet);
        let of = |outcome: &Value| {
            let of = [&outcome["fleet"], &outcome["withdrawn_from"]];
            of.into_iter().find_map(Value::as_str).is_some_and(is_theirs)
        };
        delivery.retain(of);
    }
    let changes = tokio::task::spawn_blocking(move || records.iter().map(Record::change).collect());
    let changes = changes.await.map_err(|_| Problem::failed())?;
    if delivery.is_empty() {
        let now = Outcome::now(&app, &caller, asked);
        delivery.extend(now.map(|outcome| serde_json::json!(outcome)));
    }
    Ok(Json(InFull { shown: made.into(), changes, delivery }))
}

/// The fleets that are told what these changed; nothing, if that may be all.
fn told(app: &Running, records: &[Record]) -> Option<BTreeSet<String>> {
    if records.is_empty() || records.iter().any(|record| record.scopes().next().is_none()) {
        return None;
    }
    let scopes = records.iter().flat_map(Record::scopes);
    Some(scopes.map(|scope| app.fleets.owner(scope).0).collect())
}

fn not_theirs(revision: i64) -> Problem {
    let why = format!(
        "revision {revision} changed nothing of the fleets that this token may read; GET \
         /api/v1/revisions lists those that did"
    );
    Problem::new(StatusCode::FORBIDDEN, why)
}

/// How far back what goes.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct How {
    /// Only what is this fleet's, or this scope's.
    #[param(nullable = false)]
    fleet: Option<String>,
    /// What people call it, in place of "rollback to" the revision.
    #[param(nullable = false, max_length = 256)]
    label: Option<String>,
    /// Nothing is written; the answer says what would be.
    #[serde(default)]
    dry_run: bool,
}

/// Stores again what was stored at a revision: one change, like any other, which can be
/// rolled back itself. With a token that may not write every fleet, `fleet` is one that it may;
/// its settings stay as they are.
#[utoipa::path(
    post,
    path = "/api/v1/rollback/{revision}",
    tag = "history",
    operation_id = "roll_back",
    params(("revision" = i64, Path), How),
    responses((status = 200, description = "It is as it was", body = Back), Problem)
)]
async fn back(
    State(app): State<Running>,
    caller: Caller,
    Path(revision): Path<String>,
    how: Result<Query<How>, QueryRejection>,
) -> Result<Json<Back>, Problem> {
    let Query(how) = how.map_err(|error| {
        let why = format!("{}; give ?fleet=…, label and dry_run=true", error.body_text());
        Problem::new(error.status(), why)
    })?;
    check_text("label", how.label.as_deref())?;
    check_text("fleet", how.fleet.as_deref())?;
    let to = number(&revision)?;
    caller.may_write(how.fleet.as_deref().unwrap_or(ALL))?;
    if let Some(fleet) = &how.fleet
        && !app.store.knows(&app.fleets.own_scopes(fleet)).await?
    {
        let why =
            format!("nothing was ever stored for a fleet {fleet:?}; leave it out, or correct it");
        return Err(Problem::new(StatusCode::NOT_FOUND, why));
    }
    let origin = caller.store(&app).origin().clone();
    let label = how.label.filter(|label| !label.is_empty()).or_else(|| origin.label.clone());
    let How { fleet, dry_run, .. } = how;
    let rollback = Rollback { fleet, dry_run, only: caller.writes_only(), ..Rollback::to(to) };
    let RolledBack { revision, changes, .. } =
        roll_back(&app, &rollback, origin.called(label)).await?;
    if !changes.is_empty() && !rollback.dry_run {
        caller.wrote(revision);
    }
    Ok(Json(Back { revision, back_to: to, changes }))
}

fn check_text(field: &'static str, text: Option<&str>) -> Result<(), Problem> {
    match text {
        Some(text) if text.contains('\0') || text.len() > 256 => {
            let why = "is no name; write at most 256 bytes, and no NUL character";
            Err(Problem::unprocessable(vec![Fault::new(field, why)]))
        }
        _ => Ok(()),
    }
}

/// What is no number is the number of no revision.
fn number(revision: &str) -> Result<i64, Problem> {
    revision.parse().map_err(|_| {
        let why = format!("there is no revision {revision:?}; GET /api/v1/revisions lists them");
        Problem::new(StatusCode::NOT_FOUND, why)
    })
}

impl From<RollbackError> for Problem {
    fn from(error: RollbackError) -> Problem {
        let why = error.to_string();
        match error {
            RollbackError::Unknown { .. } => {
                let why = format!("{why}; GET /api/v1/revisions lists them");
                Problem::new(StatusCode::NOT_FOUND, why)
            }
            RollbackError::Dropped { .. } => Problem::new(StatusCode::GONE, why),
            RollbackError::Conflict(faults) => Problem::of_fields(StatusCode::CONFLICT, faults),
            RollbackError::Invalid(faults) => Problem::unprocessable(faults),
            RollbackError::Store(error) => error.into(),
        }
    }
}

impl Store {
    /// Whether anything was ever in one of these scopes, as far as the history tells.
    async fn knows(&self, scopes: &[String]) -> Result<bool, Problem> {
        let wanted = Wanted { limit: 1, ..Wanted::default() };
        let (found, _) = self.revisions(&wanted, Some(&Places::of(scopes.to_vec()))).await?;
        Ok(!found.is_empty())
    }
}
