//! The HTTP API of what has a name: the same for each kind.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::access::Caller;
use crate::access::token::ALL;
use crate::certificates::Certificate;
use crate::certificates::vault::Vault;
use crate::database::objects::{Kind, Object};
use crate::database::store::{Store, WriteError};
use crate::fleets::Fleet;
use crate::rest::document::{self, Body, Document};
use crate::rest::openapi::both;
use crate::rest::precondition::{Precondition, etag};
use crate::rest::problem::Problem;
use crate::routes::Route;
use crate::serve::running::Running;
use crate::service::FieldError;

pub(crate) fn router() -> OpenApiRouter<Running> {
    fleets::router().merge(routes::router()).merge(certificates::router())
}

/// The handlers of a kind, each of which says what it is for the document.
macro_rules! face {
    ($module:ident, $kind:ty, $shown:ident, $all:literal, $one:literal, $tag:literal,
     $list:literal, $read:literal, $put:literal, $patch:literal, $remove:literal) => {
        mod $module {
            use utoipa::ToSchema;

            use super::*;

            pub(super) fn router() -> OpenApiRouter<Running> {
                let router = both(OpenApiRouter::new(), routes!(list));
                both(router, routes!(read, put, patch, remove))
            }

            /// As it is stored.
            #[derive(Serialize, ToSchema)]
            #[schema(as = $shown)]
            struct Shown {
                name: String,
                /// That of the last change.
                revision: i64,
                #[serde(flatten)]
                // By its own schema, nothing could be beside it.
                #[schema(value_type = Object)]
                definition: Value,
            }

            impl From<Object> for Shown {
                fn from(object: Object) -> Shown {
                    let definition = shown::<$kind>(&object);
                    Shown { name: object.name, revision: object.revision, definition }
                }
            }

            impl IntoResponse for Shown {
                fn into_response(self) -> Response {
                    ([(header::ETAG, etag(self.revision))], Json(self)).into_response()
                }
            }

            /// All of them, by name.
            #[utoipa::path(
                get,
                path = $all,
                tag = $tag,
                operation_id = $list,
                responses((status = 200, description = "By name", body = Vec<Shown>), Problem)
            )]
            async fn list(
                State(app): State<Running>,
                caller: Caller,
            ) -> Result<Json<Vec<Shown>>, Problem> {
                let mut objects = app.store.objects(<$kind>::KIND).await?;
                objects.retain(|object| caller.reads(&reader::<$kind>(&app, object)));
                Ok(Json(objects.into_iter().map(Shown::from).collect()))
            }

            /// One of them.
            #[utoipa::path(
                get,
                path = $one,
                tag = $tag,
                operation_id = $read,
                params(("name" = String, Path)),
                responses((status = 200, description = "As it is stored", body = Shown), Problem)
            )]
            async fn read(
                State(app): State<Running>,
                caller: Caller,
                Path(name): Path<String>,
            ) -> Result<Shown, Problem> {
                let object = app.store.object(<$kind>::KIND, &name).await?;
                let object = object.ok_or_else(|| absent::<$kind>(&name, $all))?;
                caller.may_read(&reader::<$kind>(&app, &object))?;
                Ok(object.into())
            }

            /// Makes one, or replaces the whole of it.
            #[utoipa::path(
                put,
                path = $one,
                tag = $tag,
                operation_id = $put,
                params(("name" = String, Path), Precondition),
                request_body = $kind,
                responses(
                    (status = 200, description = "As it is stored", body = Shown),
                    (status = 201, description = "As it is stored: it is new", body = Shown),
                    Problem
                )
            )]
            async fn put(
                State(app): State<Running>,
                caller: Caller,
                Path(name): Path<String>,
                precondition: Precondition,
                Body(fields): Body<Fields>,
            ) -> Result<Response, Problem> {
                let precondition = writable::<$kind>(&app, &caller, &name, precondition).await?;
                let definition = fields.read::<$kind>(&name)?;
                caller.may_write(&writer(&app, &definition))?;
                let written = write(&app.vault, &caller.store(&app), &name, &precondition, definition).await;
                let (object, is_new) = written.map_err(|error| lost(error, &name, $all))?;
                caller.wrote(object.revision);
                let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
                Ok((status, Shown::from(object)).into_response())
            }

            /// Changes some fields of one, by a JSON merge patch: `null` sets a field back to its default.
            #[utoipa::path(
                patch,
                path = $one,
                tag = $tag,
                operation_id = $patch,
                params(("name" = String, Path), Precondition),
                request_body(content = Object, content_type = "application/merge-patch+json"),
                responses((status = 200, description = "As it is stored", body = Shown), Problem)
            )]
            async fn patch(
                State(app): State<Running>,
                caller: Caller,
                Path(name): Path<String>,
                precondition: Precondition,
                Body(fields): Body<Fields>,
            ) -> Result<Shown, Problem> {
                let precondition = writable::<$kind>(&app, &caller, &name, precondition).await?;
                loop {
                    let object = app.store.object(<$kind>::KIND, &name).await?;
                    let object = object.ok_or_else(|| absent::<$kind>(&name, $all))?;
                    if !precondition.admits(object.revision) {
                        return Err(WriteError::Lost(object.revision).into());
                    }
                    let definition = fields.patch::<$kind>(&object)?;
                    caller.may_write(&writer(&app, &definition))?;
                    let read = Precondition::Revisions(vec![object.revision]);
                    match write(&app.vault, &caller.store(&app), &name, &read, definition).await {
                        // Somebody was faster. What he wrote is patched as well.
                        Err(WriteError::Lost(_)) => {}
                        Ok((object, _)) => {
                            caller.wrote(object.revision);
                            return Ok(object.into());
                        }
                        Err(error) => return Err(lost(error, &name, $all)),
                    }
                }
            }

            /// Deletes one.
            #[utoipa::path(
                delete,
                path = $one,
                tag = $tag,
                operation_id = $remove,
                params(("name" = String, Path), Precondition),
                responses((status = 204, description = "It is gone"), Problem)
            )]
            async fn remove(
                State(app): State<Running>,
                caller: Caller,
                Path(name): Path<String>,
                precondition: Precondition,
            ) -> Result<StatusCode, Problem> {
                let precondition = writable::<$kind>(&app, &caller, &name, precondition).await?;
                let removed = caller.store(&app).remove::<$kind>(&name, &precondition).await;
                removed.map_err(|error| lost(error, &name, $all))?;
                Ok(StatusCode::NO_CONTENT)
            }
        }
    };
}

face!(
    fleets,
    Fleet,
    Fleet,
    "/api/v1/fleets",
    "/api/v1/fleets/{name}",
    "fleets",
    "list_fleets",
    "read_fleet",
    "put_fleet",
    "patch_fleet",
    "delete_fleet"
);

face!(
    routes,
    Route,
    Route,
    "/api/v1/routes",
    "/api/v1/routes/{name}",
    "routes",
    "list_routes",
    "read_route",
    "put_route",
    "patch_route",
    "delete_route"
);

face!(
    certificates,
    Certificate,
    Certificate,
    "/api/v1/certificates",
    "/api/v1/certificates/{name}",
    "certificates",
    "list_certificates",
    "read_certificate",
    "put_certificate",
    "patch_certificate",
    "delete_certificate"
);

/// The fields of an object, among which may be those that are not of its definition.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
struct Fields(Map<String, Value>);

impl Fields {
    fn read<K: Kind>(mut self, name: &str) -> Result<K, Problem> {
        strip(&mut self.0, name)?;
        document::read(Value::Object(self.0))
    }

    fn patch<K: Kind>(&self, object: &Object) -> Result<K, Problem> {
        let mut fields = self.0.clone();
        strip(&mut fields, &object.name)?;
        let mut whole = serde_json::from_str(&object.definition).unwrap_or_default();
        document::merge(&mut whole, Value::Object(fields));
        document::read(whole)
    }
}

/// Takes out what is only there because what was read may be sent back.
fn strip(fields: &mut Map<String, Value>, name: &str) -> Result<(), Problem> {
    fields.remove("revision");
    match fields.remove("name") {
        Some(given) if given != name => {
            let why = format!("is {given}, but {name:?} in the path; leave it out");
            Err(WriteError::Invalid(vec![FieldError::new("name", why)]).into())
        }
        _ => Ok(()),
    }
}

impl Document for Fields {
    const TOO_LARGE: &str = "it takes at most 64 KiB";

    fn advice(_: &str) -> &'static str {
        "write JSON"
    }
}

/// Its definition with its defaults; or what is wrong with it, if somebody wrote it
/// past the HTTP API.
fn shown<K: Kind>(object: &Object) -> Value {
    match object.read::<K>() {
        Ok(named) => named.definition.shown(),
        // It may hold what is not to be shown.
        Err(problem) => serde_json::json!({"problem": problem.to_string()}),
    }
}

/// The fleet whose readers may see an object.
fn reader<K: Kind>(app: &Running, object: &Object) -> String {
    match object.read::<K>() {
        _ if K::KIND == Fleet::KIND => object.name.clone(),
        Ok(named) => writer(app, &named.definition),
        Err(_) => ALL.to_owned(),
    }
}

/// The fleet whose writers may write it. What says who belongs to a fleet, and what all fleets share, is for those
/// who may write all.
fn writer<K: Kind>(app: &Running, definition: &K) -> String {
    definition.services().map_or_else(|| ALL.to_owned(), |(id, _)| app.fleets.name_of_cluster(id))
}

/// What may be overwritten there by this caller. Of who may not write every fleet, it is what he may write now,
/// and not what somebody else puts there meanwhile.
async fn writable<K: Kind>(
    app: &Running,
    caller: &Caller,
    name: &str,
    precondition: Precondition,
) -> Result<Precondition, Problem> {
    if caller.writes_all() {
        return Ok(precondition);
    }
    let Some(object) = app.store.object(K::KIND, name).await? else { return Ok(precondition) };
    let writer = object.read::<K>().map(|named| writer(app, &named.definition));
    caller.may_write(writer.as_deref().unwrap_or(ALL))?;
    Ok(precondition.or_revision(object.revision))
}

async fn write<K: Kind>(
    vault: &Vault,
    store: &Store,
    name: &str,
    precondition: &Precondition,
    definition: K,
) -> Result<(Object, bool), WriteError> {
    let sealed = |error| WriteError::Invalid(vec![error]);
    let definition = definition.opened(name, vault).map_err(sealed)?;
    let errors = definition.check(name);
    if !errors.is_empty() {
        return Err(WriteError::Invalid(errors));
    }
    let definition = definition.sealed(name, vault).map_err(sealed)?;
    let (revision, is_new) = store.put(name, precondition, &definition).await?;
    let definition = serde_json::json!(definition).to_string();
    let object = Object { kind: K::KIND.to_owned(), name: name.to_owned(), revision, definition };
    Ok((object, is_new))
}

fn absent<K: Kind>(name: &str, all: &str) -> Problem {
    let detail = format!("there is no {} {name:?}; GET {all} lists them", K::KIND);
    Problem::new(StatusCode::NOT_FOUND, detail)
}

fn lost(error: WriteError, name: &str, all: &str) -> Problem {
    match error {
        WriteError::Absent => {
            let detail = format!("there is no {name:?}; GET {all} lists what is there");
            Problem::new(StatusCode::NOT_FOUND, detail)
        }
        other => other.into(),
    }
}
