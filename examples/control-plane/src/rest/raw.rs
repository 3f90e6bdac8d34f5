//! The HTTP API of raw resources.

use axum::Json;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouterExt as _};
use utoipa_axum::routes;

use crate::access::Caller;
use crate::database::PATIENCE;
use crate::database::store::Store;
use crate::delivery::Report;
use crate::fleets::Validation;
use crate::raw::draft::{Defined, RawDraft};
use crate::raw::proto_json::{self, Hidden};
use crate::raw::store::RawScope;
use crate::raw::{RawChange, RawResource};
use crate::rest::document::Body;
use crate::rest::openapi::both;
use crate::rest::problem::{Fault, Problem};
use crate::serve::running::Running;
use crate::translate::validate;

/// A fleet's whole configuration fits in.
const BODY_MAX: usize = 64 * 1024 * 1024;

pub(crate) fn router() -> OpenApiRouter<Running> {
    let transactions = routes!(transact).layer(DefaultBodyLimit::max(BODY_MAX));
    let router = both(OpenApiRouter::new(), transactions);
    let router = both(router, routes!(scopes));
    let router = both(router, routes!(clear));
    both(router, routes!(resources))
}

/// When what was asked for is there.
#[derive(Serialize, ToSchema)]
struct Done {
    /// Clients are told of it when `/healthz` shows this revision or a later one.
    revision: i64,
    /// What is referred to and is not there, or not yet.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<Fault>,
    /// What became of it until now, if that was waited for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    delivery: Option<Report>,
}

impl Done {
    fn at(revision: i64) -> Done {
        Done { revision, warnings: Vec::new(), delivery: None }
    }
}

/// Stores all of a transaction, or nothing.
#[utoipa::path(
    post,
    path = "/api/v1/xds/transactions",
    tag = "raw resources",
    operation_id = "transact",
    request_body = RawDraft,
    responses((status = 200, description = "All of it is stored", body = Done), Problem)
)]
async fn transact(
    State(app): State<Running>,
    caller: Caller,
    Body(draft): Body<RawDraft>,
) -> Result<Json<Done>, Problem> {
    caller.may_write(draft.scope())?;
    let (server, fleets) = (app.server.clone(), app.fleets.clone());
    let strictness = fleets.validation(draft.scope());
    if strictness == Validation::All {
        // What was stored before is there, if it is not held back for long.
        let revision = app.store.revision().await?;
        let (fleet, _) = fleets.owner(draft.scope());
        let _ = tokio::time::timeout(PATIENCE, app.health.reaches(&fleet, revision)).await;
    }
    // Megabytes take a while, in which others want to be answered.
    let judged = aside(move || {
        let defined = draft.define()?;
        let Defined { transaction, forms, .. } = &defined;
        let verdict = validate::raw(server.cache(), &fleets, transaction, forms, strictness);
        Ok::<_, Problem>((defined, verdict))
    });
    let (Defined { transaction, wait, .. }, verdict) = judged.await??;
    if !verdict.errors.is_empty() {
        return Err(Problem::unprocessable(verdict.errors));
    }
    let revision = caller.store(&app).transact(&transaction).await?;
    caller.wrote(revision);
    let delivery = match wait {
        Some(wait) => Some(wait.for_scope(&app, &transaction.scope, revision).await),
        None => None,
    };
    Ok(Json(Done { revision, warnings: verdict.warnings, delivery }))
}

/// Removes all raw resources of a scope, which stays known.
#[utoipa::path(
    delete,
    path = "/api/v1/xds/scopes/{scope}",
    tag = "raw resources",
    operation_id = "clear_scope",
    params(("scope" = String, Path)),
    responses((status = 200, description = "They are gone", body = Done), Problem)
)]
async fn clear(
    State(app): State<Running>,
    caller: Caller,
    Path(scope): Path<String>,
) -> Result<Json<Done>, Problem> {
    caller.may_write(&scope)?;
    let revision = caller.store(&app).clear_scope(&scope).await?;
    let revision = revision.ok_or_else(|| Problem::no_scope(&scope))?;
    caller.wrote(revision);
    Ok(Json(Done::at(revision)))
}

/// Every scope that ever had a transaction.
#[utoipa::path(
    get,
    path = "/api/v1/xds/scopes",
    tag = "raw resources",
    operation_id = "list_scopes",
    responses((status = 200, description = "By name", body = Vec<RawScope>), Problem)
)]
async fn scopes(
    State(store): State<Store>,
    caller: Caller,
) -> Result<Json<Vec<RawScope>>, Problem> {
    let mut scopes = store.raw_scopes().await?;
    scopes.retain(|scope| caller.reads(&scope.scope));
    Ok(Json(scopes))
}

/// Which resources, and how much of them.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct Wanted {
    /// Those of this type alone.
    #[param(nullable = false)]
    type_url: Option<String>,
    /// With what is in them.
    #[serde(default)]
    content: bool,
}

/// The raw resources of a scope, by type and name.
#[utoipa::path(
    get,
    path = "/api/v1/xds/scopes/{scope}/resources",
    tag = "raw resources",
    operation_id = "list_resources",
    params(("scope" = String, Path), Wanted),
    responses((status = 200, description = "By type and name", body = Vec<Item>), Problem)
)]
async fn resources(
    State(store): State<Store>,
    caller: Caller,
    Path(scope): Path<String>,
    wanted: Result<Query<Wanted>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<Vec<Item>>, Problem> {
    let Query(wanted) = wanted.map_err(|error| {
        let why = format!("{}; give ?type_url=… and ?content=true", error.body_text());
        Problem::new(error.status(), why)
    })?;
    caller.may_read(&scope)?;
    let found = store.raw_resources(&scope, wanted.type_url.as_deref()).await?;
    let found = found.ok_or_else(|| Problem::no_scope(&scope))?;
    let items = move || found.into_iter().filter_map(|c| Item::of(c, wanted.content)).collect();
    Ok(Json(aside(items).await?))
}

/// A resource as it is listed. What was listed may be sent back as an upsert.
#[derive(Serialize, ToSchema)]
#[schema(as = Resource)]
struct Item {
    type_url: String,
    name: String,
    /// What clients see.
    version: String,
    /// At which revision it changed last.
    revision: i64,
    /// What the transaction was called.
    label: Option<String>,
    /// In bytes.
    size: usize,
    #[serde(flatten)]
    content: Content,
}

/// At most one of these.
#[derive(Default, Serialize, ToSchema)]
struct Content {
    /// By protobuf's own mapping to JSON.
    #[schema(value_type = Option<Object>, nullable = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    resource: Option<Value>,
    /// The message in base64, of a type that is not of the Envoy API.
    #[schema(nullable = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    /// Why it is not shown.
    #[schema(nullable = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    hidden: Option<String>,
}

impl Item {
    fn of(change: RawChange, with_content: bool) -> Option<Item> {
        let resource = change.resource?;
        Some(Item {
            version: resource.build().version().to_owned(),
            revision: change.revision,
            label: change.label,
            size: resource.value.len(),
            content: if with_content { Content::of(&resource) } else { Content::default() },
            type_url: resource.key.type_url,
            name: resource.key.name,
        })
    }
}

impl Content {
    fn of(resource: &RawResource) -> Content {
        let mut content = Content::default();
        match proto_json::show(&resource.key.type_url, &resource.value) {
            Ok(json) => content.resource = Some(json),
            Err(Hidden::Unknown) => content.value = Some(STANDARD.encode(&resource.value)),
            Err(why) => content.hidden = Some(why.to_string()),
        }
        content
    }
}

/// Work that takes a processor for a while.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Problem> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Problem::failed())
}
