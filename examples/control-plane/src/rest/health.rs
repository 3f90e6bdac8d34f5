//! Whether the server is alive, and whether it is ready.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::rest::problem::{Fault, Problem};
use crate::status::health::Health;

pub(crate) fn router() -> OpenApiRouter<Health> {
    OpenApiRouter::new().routes(routes!(healthz)).routes(routes!(readyz))
}

/// That there is an answer says that the server is alive; and how far it is.
#[derive(Serialize, ToSchema)]
struct Alive {
    /// `ok`, or `degraded` if one of the next three is not, or rows are not valid: clients are served what was
    /// last read, and of such a row what it was before.
    status: &'static str,
    /// `ok`, or why the database cannot be followed.
    database: String,
    /// `ok`, or why what was written last was not stored.
    writes: String,
    /// `ok`, or why the last known good state cannot be kept in its file.
    keeping: String,
    /// How many rows of the database are not valid: what each was before is served, if it was anything.
    invalid_rows: usize,
    /// The revision of the database that clients are served.
    revision: i64,
    /// Whether that is from the file of the last known good state, since the database has not been read yet.
    last_known_good: bool,
    /// How many fleets are not served all that is stored yet: `/xds/stats` says which.
    behind: usize,
    /// How often what changed was told to a fleet together with what waited already.
    coalesced: u64,
    /// How many rows were translated since the start.
    rows_translated: u64,
    /// How many resources were built, encoded and hashed since the start.
    resources_built: u64,
}

/// Nothing is missing.
#[derive(Serialize, ToSchema)]
struct Ready {
    /// `ready`.
    status: &'static str,
}

/// Whether the server is alive: it answers.
#[utoipa::path(
    get,
    path = "/healthz",
    tag = "server",
    security(()),
    responses((status = 200, description = "It is alive", body = Alive))
)]
async fn healthz(State(health): State<Health>) -> Json<Alive> {
    let status = health.status();
    let troubles = [status.trouble, status.unwritten, status.unkept];
    let is_well = troubles.iter().all(Option::is_none) && status.invalid_rows == 0;
    let [database, writes, keeping] = troubles.map(|why| why.unwrap_or_else(|| "ok".to_owned()));
    Json(Alive {
        status: if is_well { "ok" } else { "degraded" },
        database,
        writes,
        keeping,
        invalid_rows: status.invalid_rows,
        revision: status.revision,
        last_known_good: status.last_known_good.is_some(),
        behind: status.behind.len(),
        coalesced: status.coalesced,
        rows_translated: status.rows_translated,
        resources_built: status.resources_built,
    })
}

/// For whom the server is to be ready.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct Asked {
    /// For these alone; without it, for writers as well.
    #[param(nullable = false, inline)]
    r#for: Option<Whom>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Whom {
    /// Envoys, who are served what was last read while the database is away.
    Envoys,
}

/// Whether the server is ready for Envoys and writers, or for Envoys alone; if not, each of the errors
/// says what is missing.
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "server",
    security(()),
    params(Asked),
    responses((status = 200, description = "It is ready", body = Ready), Problem)
)]
async fn readyz(
    State(health): State<Health>,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Result<Json<Ready>, Problem> {
    let Query(asked) = asked.map_err(|error| {
        let why = format!("{}; give ?for=envoys, or nothing", error.body_text());
        Problem::new(error.status(), why)
    })?;
    let status = health.status();
    let is_for_envoys = asked.r#for == Some(Whom::Envoys);
    let is_ready = if is_for_envoys { status.is_ready_for_envoys() } else { status.is_ready() };
    if is_ready {
        return Ok(Json(Ready { status: "ready" }));
    }
    let first_load = (!status.is_loaded).then(|| "the database is still being read".to_owned());
    let xds = (!status.serves_xds).then(|| "Envoys cannot connect yet, or no longer".to_owned());
    let kept = status.last_known_good.map(|revision| {
        format!(
            "what was kept of the database at revision {revision} is served until it can be read"
        )
    });
    let missing = [
        ("first_load", first_load),
        ("database", status.trouble.filter(|_| !is_for_envoys)),
        ("last_known_good", kept.filter(|_| !is_for_envoys)),
        ("xds", xds),
    ];
    let missing = missing.into_iter().filter_map(|(field, why)| Some(Fault::new(field, why?)));
    Err(Problem::of_fields(StatusCode::SERVICE_UNAVAILABLE, missing))
}
