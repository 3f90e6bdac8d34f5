//! The REST face of raw resources.

use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::routing::{MethodRouter, get, post};
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::document::Body;
use crate::problem::Problem;
use crate::proto_json::{self, Hidden};
use crate::raw::{RawChange, RawResource};
use crate::raw_draft::RawDraft;
use crate::raw_store::RawScope;
use crate::store::Store;

/// A fleet's whole configuration fits in.
const BODY_MAX: usize = 64 * 1024 * 1024;

pub(crate) fn router() -> Router<Store> {
    let transactions = post(transact).layer(DefaultBodyLimit::max(BODY_MAX));
    let router = both(Router::new(), "/api/v1/xds/transactions", transactions);
    let router = both(router, "/api/v1/xds/scopes", get(scopes));
    let router = both(router, "/api/v1/xds/scopes/{scope}", axum::routing::delete(clear));
    both(router, "/api/v1/xds/scopes/{scope}/resources", get(resources))
}

/// With and without a slash at the end.
fn both(router: Router<Store>, path: &str, methods: MethodRouter<Store>) -> Router<Store> {
    router.route(path, methods.clone()).route(&format!("{path}/"), methods)
}

/// When what was asked for is there.
#[derive(Serialize)]
struct Done {
    revision: i64,
}

async fn transact(
    State(store): State<Store>,
    Body(draft): Body<RawDraft>,
) -> Result<Json<Done>, Problem> {
    // Megabytes take a while, in which others want to be answered.
    let transaction = aside(move || draft.define()).await??;
    let revision = store.transact(&transaction).await?;
    Ok(Json(Done { revision }))
}

async fn clear(
    State(store): State<Store>,
    Path(scope): Path<String>,
) -> Result<Json<Done>, Problem> {
    let revision = store.clear_scope(&scope).await?;
    revision.map(|revision| Json(Done { revision })).ok_or_else(|| Problem::no_scope(&scope))
}

async fn scopes(State(store): State<Store>) -> Result<Json<Vec<RawScope>>, Problem> {
    Ok(Json(store.raw_scopes().await?))
}

/// Which resources, and how much of them.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    type_url: Option<String>,
    #[serde(default)]
    content: bool,
}

async fn resources(
    State(store): State<Store>,
    Path(scope): Path<String>,
    wanted: Result<Query<Wanted>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<Vec<Item>>, Problem> {
    let Query(wanted) = wanted.map_err(|error| {
        let why = format!("{}; give ?type_url=… and ?content=true", error.body_text());
        Problem::new(error.status(), why)
    })?;
    let found = store.raw_resources(&scope, wanted.type_url.as_deref()).await?;
    let found = found.ok_or_else(|| Problem::no_scope(&scope))?;
    let items = move || found.into_iter().filter_map(|c| Item::of(c, wanted.content)).collect();
    Ok(Json(aside(items).await?))
}

/// A resource as it is listed. What was listed may be sent back as an upsert.
#[derive(Serialize)]
struct Item {
    type_url: String,
    name: String,
    /// What clients see.
    version: String,
    revision: i64,
    label: Option<String>,
    size: usize,
    #[serde(flatten)]
    content: Option<Content>,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Content {
    Resource(Value),
    Value(String),
    Hidden(String),
}

impl Item {
    fn of(change: RawChange, with_content: bool) -> Option<Item> {
        let resource = change.resource?;
        Some(Item {
            version: resource.build().version().to_owned(),
            revision: change.revision,
            label: change.label,
            size: resource.value.len(),
            content: with_content.then(|| Content::of(&resource)),
            type_url: resource.key.type_url,
            name: resource.key.name,
        })
    }
}

impl Content {
    fn of(resource: &RawResource) -> Content {
        match proto_json::show(&resource.key.type_url, &resource.value) {
            Ok(json) => Content::Resource(json),
            Err(Hidden::Unknown) => Content::Value(STANDARD.encode(&resource.value)),
            Err(why) => Content::Hidden(why.to_string()),
        }
    }
}

/// Work that takes a processor for a while.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Problem> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Problem::failed())
}
