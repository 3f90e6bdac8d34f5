//! What the library finds wrong with what somebody wants to store.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::sync::Arc;

use deltaplane_server::validation::{Policy, Problem, Report, Severity, Validator};
use deltaplane_server::{Cache, CommitError, Key, Scope, Transaction, TypeUrl};

use crate::fleets::scope;
use crate::fleets::{Directory, Validation};
use crate::publisher::publication;
use crate::raw::RawTransaction;
use crate::rest::problem::Fault;
use crate::service::{FieldError, Service};
use crate::translate::Fleet;

/// What is wrong with what a service becomes, by the fields that it comes from.
pub fn service(service: &Service) -> Vec<FieldError> {
    let report = match report(std::slice::from_ref(service)) {
        Ok((report, _)) => report,
        Err(error) => return vec![FieldError::new("name", error.to_string())],
    };
    let error = |problem: &Problem| FieldError::new(field(problem), problem.to_string());
    errors(&report).map(error).collect()
}

/// What is wrong with what each of many services becomes.
pub(crate) fn services(services: &[Service]) -> Vec<Vec<FieldError>> {
    // As a rule nothing is, and to find that together is a fraction of the work.
    let unclear = match report(services) {
        Ok((report, unclear)) if errors(&report).next().is_none() => Some(unclear),
        _ => None,
    };
    let is_good = |one: &Service| unclear.as_ref().is_some_and(|names| !names.contains(&one.name));
    let judge = |one| if is_good(one) { Vec::new() } else { service(one) };
    services.iter().map(judge).collect()
}

/// What is wrong with what services become together, and of which it is not all of it, since they are in
/// the way of each other.
fn report(services: &[Service]) -> Result<(Report, BTreeSet<String>), CommitError> {
    let mut fleets: BTreeMap<i64, Vec<(i64, Option<Service>)>> = BTreeMap::new();
    for (id, service) in (1..).zip(services) {
        let service = Service { id, is_active: true, ..service.clone() };
        fleets.entry(service.cluster_id).or_default().push((id, Some(service)));
    }
    let (mut transaction, mut unclear) = (Transaction::new(), BTreeSet::new());
    for (cluster_id, services) in fleets {
        let difference = Fleet::new(Ipv4Addr::UNSPECIFIED.into()).apply(services);
        publication::fill(&mut transaction, cluster_id, &difference);
        unclear.extend(difference.conflicts.into_iter().map(|conflict| conflict.name));
    }
    let preview = Cache::new().preview(&transaction)?;
    Ok((Validator::new(Policy::Refuse).check(&preview), unclear))
}

/// What is not there may be in another layer.
fn errors(report: &Report) -> impl Iterator<Item = &Problem> {
    report.problems().iter().filter(|one| one.severity() == Severity::Error)
}

/// From which field of a service that comes in which there is a problem.
fn field(problem: &Problem) -> &'static str {
    let Problem::Rule { key, field, .. } = problem else {
        return "name";
    };
    let has = |part: &str| field.contains(part);
    if key.type_url == TypeUrl::CLUSTER {
        match () {
            () if has("connect_timeout") => "connect_timeout_ms",
            () if has("health_checks") && (has("interval") || has("timeout")) => {
                "health_check_interval_ms"
            }
            () if has("health_checks") => "health_check_path",
            () if has("trusted_ca") => "tls_ca",
            () if has("sni") || has("subject_alt_names") => "tls_sni",
            () if has("transport_socket") => "upstream_tls",
            () if has("load_assignment") => "upstreams",
            () => "name",
        }
    } else if key.type_url == TypeUrl::ROUTE {
        match () {
            () if has("domains") => "domains",
            () if has("retry_policy") => "retries",
            () if has("timeout") => "timeout_ms",
            () if has("upgrade_configs") => "websocket",
            () => "prefix",
        }
    } else if key.type_url == TypeUrl::ENDPOINT {
        "upstreams"
    } else {
        "listener_port"
    }
}

/// Whether an upsert was given as JSON, or as bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Json,
    Bytes,
}

/// What is wrong with a transaction of raw resources. Clients would reject what the
/// errors are about; the warnings are of what is not there, or not yet.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) errors: Vec<Fault>,
    pub(crate) warnings: Vec<Fault>,
}

/// Judges a transaction by what is in the cache, as strictly as is wanted.
pub(crate) fn raw(
    cache: &Cache,
    fleets: &Directory,
    transaction: &RawTransaction,
    forms: &[Form],
    strictness: Validation,
) -> Verdict {
    if strictness == Validation::None {
        return Verdict::default();
    }
    let scope = scope::of_raw(&transaction.scope);
    let mut change = Transaction::new();
    for resource in &transaction.upserts {
        change.upsert(scope.clone(), resource.build_by_content());
    }
    for key in &transaction.removes {
        change.remove(scope.clone(), key.type_url.as_str(), key.name.as_str());
    }
    let view: Arc<[Scope]> = scope::view(&transaction.scope, fleets).into();
    let validator = Validator::new(Policy::Refuse).views(move |_| vec![view.clone()]);
    match cache.preview(&change) {
        Ok(preview) => {
            let mut verdict = Places::of(transaction, forms).sort(&validator.check(&preview));
            if strictness == Validation::All {
                verdict.errors.append(&mut verdict.warnings);
            }
            verdict
        }
        Err(error) => {
            Verdict { errors: vec![Fault::new("upserts", error.to_string())], ..Verdict::default() }
        }
    }
}

/// Where in the document each resource is.
struct Places<'a> {
    upserts: HashMap<(&'a str, &'a str), usize>,
    removes: HashMap<(&'a str, &'a str), usize>,
    forms: &'a [Form],
}

impl<'a> Places<'a> {
    fn of(transaction: &'a RawTransaction, forms: &'a [Form]) -> Places<'a> {
        let upserts = transaction.upserts.iter().map(|resource| &resource.key);
        let upserts = upserts.zip(0..).map(|(key, i)| ((&*key.type_url, &*key.name), i));
        let removes = transaction.removes.iter().zip(0..);
        let removes = removes.map(|(key, i)| ((&*key.type_url, &*key.name), i));
        Places { upserts: upserts.collect(), removes: removes.collect(), forms }
    }

    fn sort(&self, report: &Report) -> Verdict {
        let mut verdict = Verdict::default();
        for problem in report.problems() {
            let fault = Fault::new(self.place(problem), problem.to_string());
            match problem.severity() {
                Severity::Error => verdict.errors.push(fault),
                _ => verdict.warnings.push(fault),
            }
        }
        verdict
    }

    fn place(&self, problem: &Problem) -> Cow<'static, str> {
        let upsert = |key: &Key| self.upserts.get(&(key.type_url.as_str(), &*key.name)).copied();
        let entry = |i: usize| Some(Cow::Owned(format!("upserts[{i}]")));
        let found = match problem {
            Problem::Rule { key, field, .. } => upsert(key).map(|i| self.within(i, field)),
            Problem::Misnamed { key, field, .. } => upsert(key).map(|i| self.within(i, field)),
            Problem::Malformed { key, .. } => upsert(key).map(|i| self.within(i, "")),
            Problem::Dangling { from, to, .. } => {
                let remove = self.removes.get(&(to.type_url.as_str(), &*to.name));
                let removed = || remove.map(|i| Cow::Owned(format!("removes[{i}]")));
                upsert(from).and_then(entry).or_else(removed)
            }
            Problem::NoEndpoints { cluster, endpoints, .. } => {
                let cluster = Key::new(TypeUrl::CLUSTER, cluster.clone());
                let endpoints = (TypeUrl::ENDPOINT.as_str().to_owned(), endpoints.to_string());
                let remove = self.removes.get(&(&*endpoints.0, &*endpoints.1));
                let removed = || remove.map(|i| Cow::Owned(format!("removes[{i}]")));
                upsert(&cluster).and_then(entry).or_else(removed)
            }
            _ => None,
        };
        found.unwrap_or(Cow::Borrowed("upserts"))
    }

    fn within(&self, i: usize, field: &str) -> Cow<'static, str> {
        Cow::Owned(match self.forms.get(i) {
            Some(Form::Bytes) => format!("upserts[{i}].value"),
            _ if field.is_empty() => format!("upserts[{i}].resource"),
            _ => format!("upserts[{i}].resource.{field}"),
        })
    }
}
