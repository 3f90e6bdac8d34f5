//! Many services at once: all of them are stored, or none.

use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

use axum::Json;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use sqlx::AssertSqlSafe;
use utoipa::ToSchema;
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouterExt as _};
use utoipa_axum::routes;

use crate::access::Caller;
use crate::certificates::Certificate;
use crate::database::BULK_PATIENCE;
use crate::database::columns::{bind, columns, insert, rows, update};
use crate::database::objects::Kind as _;
use crate::database::store::{Store, StoreError, within};
use crate::rest::document::{Body, Document, Object};
use crate::rest::openapi::both;
use crate::rest::problem::{Fault, Problem};
use crate::serve::running::Running;
use crate::service::draft::Draft;
use crate::service::upstream::is_pem;
use crate::service::{Definition, FieldError, Protocol, Row, Service};
use crate::translate::validate;

/// Some hundred thousand services fit in.
const BODY_MAX: usize = 64 * 1024 * 1024;

/// How many are judged in one go.
const TOGETHER: usize = 1000;

/// How many rows go into one statement. SQLite looks for the place of each parameter among all of them.
const ROWS: usize = 50;

/// Of how many services it is worth a line in the log how far they are.
const MANY: usize = 1000;

pub(crate) fn router() -> OpenApiRouter<Running> {
    let import = routes!(import).layer(DefaultBodyLimit::max(BODY_MAX));
    both(OpenApiRouter::new(), import)
}

/// Services that come together.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = ServiceImport)]
#[serde(deny_unknown_fields)]
struct Import {
    /// Each takes the place of the one of its name, if there is one. Its `id` and `revision`, as lists
    /// show them, play no part.
    #[schema(value_type = Vec<Draft>)]
    services: Vec<Object<Draft>>,
}

/// What became of services that came together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
struct Imported {
    /// At which all of them are there.
    revision: i64,
    /// How many are new.
    created: usize,
    /// How many took the place of one that was different.
    replaced: usize,
    /// How many were there already.
    unchanged: usize,
}

/// Why none of them was stored.
#[derive(Debug)]
enum ImportError {
    Invalid(Vec<Fault>),
    Conflict(Vec<Fault>),
    Forbidden(Problem),
    Store(StoreError),
}

impl From<StoreError> for ImportError {
    fn from(error: StoreError) -> ImportError {
        ImportError::Store(error)
    }
}

impl From<ImportError> for Problem {
    fn from(error: ImportError) -> Problem {
        match error {
            ImportError::Invalid(faults) => {
                Problem::of_many(StatusCode::UNPROCESSABLE_ENTITY, faults)
            }
            ImportError::Conflict(faults) => Problem::of_many(StatusCode::CONFLICT, faults),
            ImportError::Forbidden(problem) => problem,
            ImportError::Store(error) => error.into(),
        }
    }
}

impl Document for Import {
    const TOO_LARGE: &str = "an import takes at most 64 MiB; send it in several";

    fn advice(path: &str) -> &'static str {
        match path.split_once("].") {
            Some((_, field)) => Draft::advice(field),
            None if path == "services" => "write a list of services",
            None => "write an object, as POST /api/v1/services/ takes it",
        }
    }
}

/// Stores many services as one change: all of them, or none. What is not named stays as it is.
#[utoipa::path(
    post,
    path = "/api/v1/services/import",
    tag = "services",
    operation_id = "import_services",
    request_body = Import,
    responses((status = 200, description = "All of them are stored", body = Imported), Problem)
)]
async fn import(
    State(app): State<Running>,
    caller: Caller,
    Body(import): Body<Import>,
) -> Result<Json<Imported>, Problem> {
    let (count, start) = (import.services.len(), Instant::now());
    if count >= MANY {
        tracing::info!(services = count, "checking services that came together");
    }
    // So many take a while, in which others want to be answered.
    let checked = tokio::task::spawn_blocking(move || checked(import.services)).await;
    let services = checked.map_err(|_| Problem::failed())?.map_err(ImportError::Invalid)?;
    let may_write = |cluster_id| caller.may_write(&app.fleets.name_of_cluster(cluster_id));
    let clusters: BTreeSet<i64> =
        services.iter().map(|checked| checked.definition.cluster_id).collect();
    clusters.into_iter().try_for_each(may_write)?;
    let imported = caller.store(&app).import(&services, may_write).await?;
    caller.wrote(imported.revision);
    if count >= MANY {
        let Imported { revision, created, replaced, unchanged } = imported;
        let ms = start.elapsed().as_millis();
        tracing::info!(revision, created, replaced, unchanged, ms, "stored what came together");
    }
    Ok(Json(imported))
}

/// A service that may be stored as far as it alone is concerned.
#[derive(Debug)]
struct Checked {
    definition: Definition,
    service: Service,
}

/// Judges each by itself, and finds names that occur twice.
fn checked(drafts: Vec<Object<Draft>>) -> Result<Vec<Checked>, Vec<Fault>> {
    let (mut definitions, mut services, mut faults) = (Vec::new(), Vec::new(), Vec::new());
    let mut names: HashMap<String, usize> = HashMap::new();
    for (i, Object(draft)) in drafts.into_iter().enumerate() {
        match draft.define_by_name().and_then(parsed) {
            Ok((definition, service)) => {
                if let Some(first) = names.insert(definition.name.clone(), i) {
                    let why = format!("is that of services[{first}], too; give each its own");
                    faults.extend(within_entry(i, [FieldError::new("name", why)]));
                }
                definitions.push(definition);
                services.push(service);
            }
            Err(errors) => faults.extend(within_entry(i, errors)),
        }
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    let errors = services.chunks(TOGETHER).flat_map(validate::services).enumerate();
    faults.extend(errors.flat_map(|(i, errors)| within_entry(i, errors)));
    if !faults.is_empty() {
        return Err(faults);
    }
    let pairs = definitions.into_iter().zip(services);
    Ok(pairs.map(|(definition, service)| Checked { definition, service }).collect())
}

fn parsed(definition: Definition) -> Result<(Definition, Service), Vec<FieldError>> {
    let row = Row { id: -1, revision: 0, definition };
    Service::parse(&row).map(|service| (row.definition, service))
}

fn within_entry(i: usize, errors: impl IntoIterator<Item = FieldError>) -> Vec<Fault> {
    let place = format!("services[{i}]");
    errors.into_iter().map(|error| Fault::from(error).within(&place)).collect()
}

impl Store {
    /// Stores all of these services or none, each in place of the one of its name, which may be another
    /// fleet's.
    async fn import(
        &self,
        services: &[Checked],
        may_write: impl Fn(i64) -> Result<(), Problem>,
    ) -> Result<Imported, ImportError> {
        let write = async {
            let mut tx = self.begin_batch().await?;
            let sql = concat!("SELECT ", columns!(), " FROM services s ORDER BY s.id");
            let stored = rows(&sqlx::query(sql).fetch_all(&mut **tx).await?)?;
            let sql = "SELECT name FROM objects WHERE kind = $1";
            let certificates = sqlx::query_scalar(sql).bind(Certificate::KIND);
            let certificates: Vec<String> = certificates.fetch_all(&mut **tx).await?;
            let missing = missing(services, &certificates.into_iter().collect());
            if !missing.is_empty() {
                return Ok(Err(ImportError::Invalid(missing)));
            }
            let conflicts = conflicts(services, &stored);
            if !conflicts.is_empty() {
                return Ok(Err(ImportError::Conflict(conflicts)));
            }
            let stored: HashMap<&str, &Row> =
                stored.iter().map(|row| (&*row.definition.name, row)).collect();
            let (mut new, mut other) = (Vec::new(), Vec::new());
            for Checked { definition, .. } in services {
                match stored.get(&*definition.name) {
                    None => new.push(definition),
                    Some(row) if row.definition != *definition => other.push((*row, definition)),
                    Some(_) => {}
                }
            }
            let left = other.iter().map(|(row, _)| row.definition.cluster_id);
            if let Err(problem) = left.collect::<BTreeSet<_>>().into_iter().try_for_each(may_write)
            {
                return Ok(Err(ImportError::Forbidden(problem)));
            }
            for new in new.chunks(ROWS) {
                let query = sqlx::query(AssertSqlSafe(insert(new.len())));
                let query = new.iter().fold(query, |query, definition| bind(query, definition));
                query.execute(&mut **tx).await?;
            }
            for other in other.chunks(ROWS) {
                let query = sqlx::query(AssertSqlSafe(update(other.len())));
                let query = other.iter().fold(query, |query, (row, d)| bind(query.bind(row.id), d));
                query.execute(&mut **tx).await?;
            }
            let revision = tx.commit().await?;
            let (created, replaced) = (new.len(), other.len());
            let unchanged = services.len() - created - replaced;
            Ok(Ok(Imported { revision, created, replaced, unchanged }))
        };
        let imported = within(BULK_PATIENCE, write).await??;
        self.written.notify_one();
        Ok(imported)
    }
}

/// Which stored certificates are named and not there.
fn missing(services: &[Checked], certificates: &BTreeSet<String>) -> Vec<Fault> {
    let of = |(i, Checked { definition, .. }): (usize, &Checked)| {
        let stored = definition.tls_ca.as_ref().filter(|ca| !is_pem(ca));
        let named = [("certificate", definition.certificate.as_ref()), ("tls_ca", stored)];
        let absent = named.into_iter().filter_map(|(field, name)| {
            let name = name.filter(|name| !certificates.contains(*name))?;
            let why = format!("there is no certificate {name:?}; store it first");
            Some(FieldError::new(field, why))
        });
        within_entry(i, absent.collect::<Vec<_>>())
    };
    services.iter().enumerate().flat_map(of).collect()
}

/// What would be in the way of others, among what comes and what stays.
fn conflicts(services: &[Checked], stored: &[Row]) -> Vec<Fault> {
    let names: BTreeSet<&str> = services.iter().map(|checked| &*checked.service.name).collect();
    let stays = stored.iter().filter(|row| !names.contains(&*row.definition.name));
    // One that is not served itself is in nobody's way.
    let stays: Vec<Service> = stays.filter_map(|row| Service::parse(row).ok()).collect();
    let mut ports: HashMap<(i64, u16), Port<'_>> = HashMap::new();
    for service in stays.iter().filter(|service| service.is_active) {
        ports.entry((service.cluster_id, service.listener_port)).or_default().take(service);
    }
    let mut faults = Vec::new();
    for (i, Checked { service, .. }) in services.iter().enumerate() {
        if !service.is_active {
            continue;
        }
        let port = ports.entry((service.cluster_id, service.listener_port)).or_default();
        let error = port.other(service).and_then(|other| service.conflict(other));
        match error {
            Some(error) => faults.extend(within_entry(i, [error])),
            None => port.take(service),
        }
    }
    faults
}

/// Who has what of a port.
#[derive(Default)]
struct Port<'a> {
    first: Option<&'a Service>,
    owners: HashMap<(&'a str, &'a str), &'a Service>,
}

impl<'a> Port<'a> {
    fn take(&mut self, service: &'a Service) {
        self.first.get_or_insert(service);
        if let Protocol::Http(routing) = &service.protocol {
            for domain in &routing.domains {
                self.owners.entry((domain, &routing.prefix)).or_insert(service);
            }
        }
    }

    /// In whose way a service would be.
    fn other(&self, service: &Service) -> Option<&'a Service> {
        let first = self.first?;
        match (&service.protocol, &first.protocol) {
            (Protocol::Http(routing), Protocol::Http(_)) => {
                let mut places = routing.domains.iter().map(|domain| (&**domain, &*routing.prefix));
                places.find_map(|place| self.owners.get(&place).copied())
            }
            _ => Some(first),
        }
    }
}
