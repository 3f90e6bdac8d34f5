//! The HTTP API of services.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderName, StatusCode, Uri, header};
use axum::response::{AppendHeaders, IntoResponse, Response};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::access::Caller;
use crate::access::token::ALL;
use crate::database::objects::Kind as _;
use crate::database::page::{Filter, LIMIT_MAX};
use crate::database::reload::Reloaded;
use crate::database::store::{Store, WriteError};
use crate::fleets::Fleet;
use crate::fleets::scope;
use crate::rest::document::Body;
use crate::rest::openapi::both;
use crate::rest::precondition::{Precondition, etag};
use crate::rest::problem::Problem;
use crate::serve::running::Running;
use crate::service::draft::{Draft, Patch};
use crate::service::{Row, within};

/// How many services there are on all pages.
const TOTAL: HeaderName = HeaderName::from_static("x-total-count");

pub(crate) fn router() -> OpenApiRouter<Running> {
    let router = both(OpenApiRouter::new(), routes!(list, create));
    let router = both(router, routes!(list_of_fleet, create_in_fleet));
    let router = both(router, routes!(read, replace, patch, remove));
    let router = both(router, routes!(reload));
    both(router, routes!(reload_all))
}

/// Services, by id: all, or those that the parameters say.
#[utoipa::path(
    get,
    path = "/api/v1/services/",
    tag = "services",
    operation_id = "list_services",
    params(Filter),
    responses(
        (
            status = 200,
            description = "Services by id",
            body = Vec<Row>,
            headers(
                ("x-total-count" = i64, description = "How many there are on all pages"),
                ("link" = String, description = "Where the next page is, as `rel=\"next\"`")
            )
        ),
        Problem
    )
)]
async fn list(
    State(app): State<Running>,
    caller: Caller,
    uri: Uri,
    filter: Result<Query<Filter>, QueryRejection>,
) -> Result<Response, Problem> {
    let filter = asked(filter)?;
    match filter.cluster_id {
        Some(id) => caller.may_read(&app.fleets.name_of_cluster(id))?,
        None => caller.may_read(ALL)?,
    }
    page(&app.store, &uri, filter).await
}

/// The services of a fleet, by id: all, or those that the parameters say.
#[utoipa::path(
    get,
    path = "/api/v1/fleets/{name}/services/",
    tag = "fleets",
    operation_id = "list_services_of_fleet",
    params(("name" = String, Path), Filter),
    responses(
        (
            status = 200,
            description = "Services by id",
            body = Vec<Row>,
            headers(
                ("x-total-count" = i64, description = "How many there are on all pages"),
                ("link" = String, description = "Where the next page is, as `rel=\"next\"`")
            )
        ),
        Problem
    )
)]
async fn list_of_fleet(
    State(store): State<Store>,
    caller: Caller,
    Path(name): Path<String>,
    uri: Uri,
    filter: Result<Query<Filter>, QueryRejection>,
) -> Result<Response, Problem> {
    caller.may_read(&name)?;
    let mut filter = asked(filter)?;
    filter.cluster_id = Some(fleet(&store, &name).await?);
    page(&store, &uri, filter).await
}

/// The number of the services of a fleet.
async fn fleet(store: &Store, name: &str) -> Result<i64, Problem> {
    let object = store.object(Fleet::KIND, name).await?;
    let stored = object.map(|object| object.read::<Fleet>()).transpose()?;
    let own = stored.as_ref().and_then(|stored| stored.definition.cluster_id);
    own.or_else(|| scope::cluster_of(name)).ok_or_else(|| {
        let detail = match stored {
            Some(_) => {
                format!("the fleet {name:?} has no cluster_id: PATCH it, to give it services")
            }
            None => format!("there is no fleet {name:?}; GET /api/v1/fleets lists them"),
        };
        Problem::new(StatusCode::NOT_FOUND, detail)
    })
}

fn asked(filter: Result<Query<Filter>, QueryRejection>) -> Result<Filter, Problem> {
    let Query(filter) = filter.map_err(|error| {
        let why = format!(
            "{}; filter by cluster_id, listener_port, protocol, collection, is_active and name, \
             and page by limit and after",
            error.body_text()
        );
        Problem::new(error.status(), why)
    })?;
    if let Some(limit) = filter.limit {
        let checked = within("limit", limit, 1..=LIMIT_MAX, "number of services");
        checked.map_err(|error| Problem::of_fields(StatusCode::BAD_REQUEST, [error]))?;
    }
    Ok(filter)
}

async fn page(store: &Store, uri: &Uri, filter: Filter) -> Result<Response, Problem> {
    let page = store.page(&filter).await?;
    let next = page.rows.last().filter(|_| page.has_more).map(|last| next(uri, last.id));
    let headers = [(TOTAL, page.total.to_string())].into_iter();
    let headers = headers.chain(next.map(|next| (header::LINK, next)));
    Ok((AppendHeaders(headers.collect::<Vec<_>>()), Json(page.rows)).into_response())
}

/// Where the page behind this one is (RFC 8288).
fn next(uri: &Uri, after: i64) -> String {
    let query = uri.query().unwrap_or_default().split('&');
    let same = query.filter(|part| !part.is_empty() && !part.starts_with("after="));
    let same: String = same.map(|part| format!("{part}&")).collect();
    format!("<{}?{same}after={after}>; rel=\"next\"", uri.path())
}

/// A service, with the tag by which it is known not to have changed.
struct Tagged(Row);

impl IntoResponse for Tagged {
    fn into_response(self) -> Response {
        ([(header::ETAG, etag(self.0.revision))], Json(self.0)).into_response()
    }
}

/// Stores a new service.
#[utoipa::path(
    post,
    path = "/api/v1/services/",
    tag = "services",
    operation_id = "create_service",
    request_body = Draft,
    responses(
        (
            status = 201,
            description = "As it is stored",
            body = Row,
            headers(
                ("location" = String, description = "Where it is"),
                ("etag" = String, description = "What its revision is known by")
            )
        ),
        Problem
    )
)]
async fn create(
    State(app): State<Running>,
    caller: Caller,
    Body(draft): Body<Draft>,
) -> Result<Response, Problem> {
    store_new(&app, &caller, draft).await
}

/// Stores a new service of a fleet.
#[utoipa::path(
    post,
    path = "/api/v1/fleets/{name}/services/",
    tag = "fleets",
    operation_id = "create_service_in_fleet",
    params(("name" = String, Path)),
    request_body = Draft,
    responses(
        (
            status = 201,
            description = "As it is stored",
            body = Row,
            headers(
                ("location" = String, description = "Where it is"),
                ("etag" = String, description = "What its revision is known by")
            )
        ),
        Problem
    )
)]
async fn create_in_fleet(
    State(app): State<Running>,
    caller: Caller,
    Path(name): Path<String>,
    Body(draft): Body<Draft>,
) -> Result<Response, Problem> {
    caller.may_write(&name)?;
    let draft = draft.of_fleet(fleet(&app.store, &name).await?)?;
    store_new(&app, &caller, draft).await
}

async fn store_new(app: &Running, caller: &Caller, draft: Draft) -> Result<Response, Problem> {
    let definition = draft.define(None)?;
    caller.may_write(&app.fleets.name_of_cluster(definition.cluster_id))?;
    let row = caller.store(app).create(definition).await?;
    caller.wrote(row.revision);
    let place = [(header::LOCATION, format!("/api/v1/services/{}", row.id))];
    Ok((StatusCode::CREATED, place, Tagged(row)).into_response())
}

/// One service.
#[utoipa::path(
    get,
    path = "/api/v1/services/{id}",
    tag = "services",
    operation_id = "read_service",
    params(("id" = i64, Path)),
    responses(
        (
            status = 200,
            description = "As it is stored",
            body = Row,
            headers(("etag" = String, description = "What its revision is known by"))
        ),
        Problem
    )
)]
async fn read(
    State(app): State<Running>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Tagged, Problem> {
    let row = app.store.get(number(&id)?).await?;
    let row = row.ok_or_else(|| Problem::no_service(&id))?;
    caller.may_read(&app.fleets.name_of_cluster(row.definition.cluster_id))?;
    Ok(Tagged(row))
}

/// What may be overwritten there by this caller. Of who may not write every fleet, it is what he may write now,
/// and not what somebody else puts there meanwhile.
async fn writable(
    app: &Running,
    caller: &Caller,
    key: i64,
    precondition: Precondition,
) -> Result<Precondition, Problem> {
    if caller.writes_all() {
        return Ok(precondition);
    }
    let row = app.store.get(key).await?.ok_or_else(|| Problem::no_service(&key.to_string()))?;
    caller.may_write(&app.fleets.name_of_cluster(row.definition.cluster_id))?;
    Ok(precondition.or_revision(row.revision))
}

/// Replaces the whole of a service: what is left out goes back to its default.
#[utoipa::path(
    put,
    path = "/api/v1/services/{id}",
    tag = "services",
    operation_id = "replace_service",
    params(("id" = i64, Path), Precondition),
    request_body = Draft,
    responses((status = 200, description = "As it is stored", body = Row), Problem)
)]
async fn replace(
    State(app): State<Running>,
    caller: Caller,
    Path(id): Path<String>,
    precondition: Precondition,
    Body(draft): Body<Draft>,
) -> Result<Tagged, Problem> {
    let key = number(&id)?;
    let precondition = writable(&app, &caller, key, precondition).await?;
    let definition = draft.define(Some(key))?;
    caller.may_write(&app.fleets.name_of_cluster(definition.cluster_id))?;
    let written = caller.store(&app).update(key, &precondition, definition).await;
    let row = written.map_err(|error| refused(error, &id))?;
    caller.wrote(row.revision);
    Ok(Tagged(row))
}

/// Changes some fields of a service, by a JSON merge patch: `null` sets a field
/// back to its default.
#[utoipa::path(
    patch,
    path = "/api/v1/services/{id}",
    tag = "services",
    operation_id = "patch_service",
    params(("id" = i64, Path), Precondition),
    request_body(content = Patch, content_type = "application/merge-patch+json"),
    responses((status = 200, description = "As it is stored", body = Row), Problem)
)]
async fn patch(
    State(app): State<Running>,
    caller: Caller,
    Path(id): Path<String>,
    precondition: Precondition,
    Body(patch): Body<Patch>,
) -> Result<Tagged, Problem> {
    let key = number(&id)?;
    loop {
        let row = app.store.get(key).await?.ok_or_else(|| Problem::no_service(&id))?;
        caller.may_write(&app.fleets.name_of_cluster(row.definition.cluster_id))?;
        if !precondition.admits(row.revision) {
            return Err(WriteError::Lost(row.revision).into());
        }
        let read = Precondition::Revisions(vec![row.revision]);
        let definition = patch.apply(&row)?;
        caller.may_write(&app.fleets.name_of_cluster(definition.cluster_id))?;
        match caller.store(&app).update(key, &read, definition).await {
            // Somebody was faster. What he wrote is patched as well.
            Err(WriteError::Lost(_)) => {}
            Err(error) => return Err(refused(error, &id)),
            Ok(row) => {
                caller.wrote(row.revision);
                return Ok(Tagged(row));
            }
        }
    }
}

/// Deletes a service.
#[utoipa::path(
    delete,
    path = "/api/v1/services/{id}",
    tag = "services",
    operation_id = "delete_service",
    params(("id" = i64, Path), Precondition),
    responses((status = 204, description = "It is gone"), Problem)
)]
async fn remove(
    State(app): State<Running>,
    caller: Caller,
    Path(id): Path<String>,
    precondition: Precondition,
) -> Result<StatusCode, Problem> {
    let key = number(&id)?;
    let precondition = writable(&app, &caller, key, precondition).await?;
    let deleted = caller.store(&app).delete(key, &precondition).await;
    deleted.map(|()| StatusCode::NO_CONTENT).map_err(|error| refused(error, &id))
}

/// Reads a service again, publishes what is not as the database has it, and says
/// what that was.
#[utoipa::path(
    post,
    path = "/api/v1/services/{id}/reload-xds",
    tag = "services",
    operation_id = "reload_service",
    params(("id" = i64, Path)),
    responses((status = 200, description = "What was published", body = Reloaded), Problem)
)]
async fn reload(
    State(app): State<Running>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<Reloaded>, Problem> {
    let key = number(&id)?;
    let row = app.store.get(key).await?.ok_or_else(|| Problem::no_service(&id))?;
    caller.may_write(&app.fleets.name_of_cluster(row.definition.cluster_id))?;
    Ok(Json(app.reloader.reload(Some(key)).await?))
}

/// Reads everything again, publishes what is not as the database has it, and says
/// what that was.
#[utoipa::path(
    post,
    path = "/api/v1/services/reload-xds",
    tag = "services",
    operation_id = "reload_all",
    responses((status = 200, description = "What was published", body = Reloaded), Problem)
)]
async fn reload_all(State(app): State<Running>) -> Result<Json<Reloaded>, Problem> {
    Ok(Json(app.reloader.reload(None).await?))
}

fn refused(error: WriteError, id: &str) -> Problem {
    match error {
        WriteError::Absent => Problem::no_service(id),
        other => other.into(),
    }
}

/// An id that is no number is the id of no service.
fn number(id: &str) -> Result<i64, Problem> {
    id.parse().map_err(|_| Problem::no_service(id))
}
