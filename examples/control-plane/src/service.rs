//! The one thing that the database holds: a service of a fleet.
//!
//! A [`Definition`] is what somebody wrote, over REST or with `psql`; a
//! [`Service`] is a definition that was checked. Only the latter is translated.

use std::fmt;

use serde::Serialize;
use utoipa::ToSchema;

use crate::host::{self, Host};

/// The longest name of a service, in characters.
pub const NAME_MAX: usize = 128;
/// The most domains that one service may name.
pub const DOMAINS_MAX: usize = 64;
const PATH_MAX: usize = 2048;

/// A service as it was written: the columns of its row, unchecked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Definition {
    /// Unique in the database; the name of the Envoy cluster.
    pub name: String,
    /// The fleet that sees this service: it is the scope `cluster-<cluster_id>`.
    pub cluster_id: i64,
    /// The port on which Envoy accepts requests for this service.
    pub listener_port: i64,
    /// An IP address or a host name.
    pub upstream_host: String,
    /// The port of the upstream.
    pub upstream_port: i64,
    /// `http` or `tcp`.
    pub protocol: String,
    /// Where an active HTTP health check asks, if there is one.
    pub health_check_path: Option<String>,
    /// The hosts whose requests come to this service.
    pub domains: Vec<String>,
    /// The beginning of the paths whose requests come to this service.
    pub prefix: String,
}

/// A row of the table `services`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = Service)]
pub struct Row {
    /// Chosen by the database, never used twice.
    pub id: i64,
    /// The rest of the row.
    #[serde(flatten)]
    pub definition: Definition,
}

/// What is wrong with one field, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FieldError {
    /// The field's name as in JSON and in the table.
    pub field: &'static str,
    /// What is wrong and what to write instead.
    pub message: String,
}

impl FieldError {
    /// An error of `field`.
    pub fn new(field: &'static str, message: impl Into<String>) -> FieldError {
        FieldError { field, message: message.into() }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

/// How requests reach a service.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums)] // a third protocol changes every place that asks
pub enum Protocol {
    /// By domain and path prefix.
    Http {
        /// Lower-cased, as Envoy compares them.
        domains: Vec<String>,
        /// Begins with `/`.
        prefix: String,
    },
    /// Every connection to the port.
    Tcp,
}

/// A checked service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// The row's key.
    pub id: i64,
    /// Unique; the name of the Envoy cluster.
    pub name: String,
    /// The fleet.
    pub cluster_id: i64,
    /// Where Envoy listens.
    pub listener_port: u16,
    /// Where Envoy connects to.
    pub upstream: Host,
    /// The upstream's port.
    pub upstream_port: u16,
    /// Where an active HTTP health check asks.
    pub health_check_path: Option<String>,
    /// How requests are routed to it.
    pub protocol: Protocol,
}

impl Service {
    /// Checks a row. All that is wrong with it is told at once.
    pub fn parse(row: &Row) -> Result<Service, Vec<FieldError>> {
        let d = &row.definition;
        let mut errors = Vec::new();
        errors.extend(check_name(&d.name).err());
        errors.extend(check_cluster_id(d.cluster_id).err());
        let listener_port = keep(port("listener_port", d.listener_port), &mut errors);
        let upstream = host::parse(&d.upstream_host);
        let upstream = upstream.map_err(|why| FieldError::new("upstream_host", why));
        let upstream = keep(upstream, &mut errors);
        let upstream_port = keep(port("upstream_port", d.upstream_port), &mut errors);
        errors.extend(check_health_check(d).err());
        let protocol = parse_protocol(d).map_err(|why| errors.extend(why)).ok();
        match (listener_port, upstream, upstream_port, protocol) {
            (Some(listener_port), Some(upstream), Some(upstream_port), Some(protocol))
                if errors.is_empty() =>
            {
                Ok(Service {
                    id: row.id,
                    name: d.name.clone(),
                    cluster_id: d.cluster_id,
                    listener_port,
                    upstream,
                    upstream_port,
                    health_check_path: d.health_check_path.clone(),
                    protocol,
                })
            }
            _ => Err(errors),
        }
    }

    /// Why this service cannot share its fleet with `other`, if it cannot.
    pub fn conflict(&self, other: &Service) -> Option<FieldError> {
        let port = self.listener_port;
        if self.cluster_id != other.cluster_id || port != other.listener_port {
            return None;
        }
        let name = &other.name;
        match (&self.protocol, &other.protocol) {
            (
                Protocol::Http { domains, prefix },
                Protocol::Http { domains: theirs, prefix: their_prefix },
            ) => {
                let domain = domains.iter().find(|domain| theirs.contains(domain))?;
                (prefix == their_prefix).then(|| {
                    FieldError::new(
                        "prefix",
                        format!(
                            "service {name:?} already has prefix {prefix:?} of domain {domain:?} \
                             on port {port}; choose another prefix, domain or listener_port"
                        ),
                    )
                })
            }
            (_, theirs) => Some(FieldError::new(
                "listener_port",
                format!(
                    "port {port} belongs to the {} service {name:?}, and a tcp service shares \
                     its port with nobody; choose another listener_port",
                    if *theirs == Protocol::Tcp { "tcp" } else { "http" },
                ),
            )),
        }
    }
}

/// The value, or its error with the others.
fn keep<T>(result: Result<T, FieldError>, errors: &mut Vec<FieldError>) -> Option<T> {
    result.map_err(|error| errors.push(error)).ok()
}

fn check_name(name: &str) -> Result<(), FieldError> {
    let fail = |why: String| Err(FieldError::new("name", why));
    let length = name.chars().count();
    if length == 0 || length > NAME_MAX {
        return fail(format!("has {length} characters; write 1 to {NAME_MAX} of them"));
    }
    let starts_well = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if !starts_well || !name.chars().all(allowed) {
        return fail(format!(
            "{name:?} cannot name an Envoy cluster; use letters, digits, '-', '_' and '.', \
             beginning with a letter or digit"
        ));
    }
    Ok(())
}

fn check_cluster_id(id: i64) -> Result<(), FieldError> {
    if id < 1 {
        let why = format!("{id} is no fleet; write a number from 1 upwards");
        return Err(FieldError::new("cluster_id", why));
    }
    Ok(())
}

fn port(field: &'static str, port: i64) -> Result<u16, FieldError> {
    let number = u16::try_from(port).ok().filter(|number| *number != 0);
    let why = || format!("{port} is no port; write a number from 1 to 65535");
    number.ok_or_else(|| FieldError::new(field, why()))
}

fn check_health_check(d: &Definition) -> Result<(), FieldError> {
    let Some(path) = &d.health_check_path else {
        return Ok(());
    };
    if d.protocol == "tcp" {
        let why = "needs protocol \"http\"; leave it out for a tcp service";
        return Err(FieldError::new("health_check_path", why));
    }
    check_path("health_check_path", path)
}

fn check_path(field: &'static str, path: &str) -> Result<(), FieldError> {
    let fail = |why: String| Err(FieldError::new(field, why));
    if !path.starts_with('/') {
        return fail(format!("{path:?} must begin with '/'"));
    }
    if path.len() > PATH_MAX {
        return fail(format!("has {} bytes; write at most {PATH_MAX}", path.len()));
    }
    if !path.bytes().all(|b| b.is_ascii_graphic()) {
        return fail(format!(
            "{path:?} holds a space or another character that no path may hold; percent-encode it"
        ));
    }
    Ok(())
}

fn parse_protocol(d: &Definition) -> Result<Protocol, Vec<FieldError>> {
    match d.protocol.as_str() {
        "http" => parse_routing(d),
        "tcp" => check_no_routing(d).map(|()| Protocol::Tcp),
        other => {
            let why = format!("{other:?} is not known; write \"http\" or \"tcp\"");
            Err(vec![FieldError::new("protocol", why)])
        }
    }
}

fn parse_routing(d: &Definition) -> Result<Protocol, Vec<FieldError>> {
    let mut errors = Vec::new();
    let domains: Vec<String> = d.domains.iter().map(|d| d.to_ascii_lowercase()).collect();
    errors.extend(check_domains(&domains).err());
    errors.extend(check_path("prefix", &d.prefix).err());
    if d.prefix.contains(['?', '#']) {
        let why = format!("{:?} holds '?' or '#', which no request's path holds", d.prefix);
        errors.push(FieldError::new("prefix", why));
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    let prefix = d.prefix.clone();
    Ok(Protocol::Http { domains, prefix })
}

/// What is not at its default was meant to do something, which it would not.
fn check_no_routing(d: &Definition) -> Result<(), Vec<FieldError>> {
    let why = "needs protocol \"http\"; leave it out for a tcp service";
    let mut errors = Vec::new();
    if d.domains != ["*"] {
        errors.push(FieldError::new("domains", why));
    }
    if d.prefix != "/" {
        errors.push(FieldError::new("prefix", why));
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

fn check_domains(domains: &[String]) -> Result<(), FieldError> {
    let fail = |why: String| Err(FieldError::new("domains", why));
    if domains.is_empty() || domains.len() > DOMAINS_MAX {
        return fail(format!(
            "has {} entries; write 1 to {DOMAINS_MAX}, or leave it out for [\"*\"]",
            domains.len()
        ));
    }
    for (i, domain) in domains.iter().enumerate() {
        if domains[..i].contains(domain) {
            return fail(format!("{domain:?} occurs twice; write it once"));
        }
        if !host::is_domain(domain) {
            return fail(format!(
                "{domain:?} is no domain; write \"*\", a host such as \"a.example\" or \
                 \"a.example:8080\", \"*.example\" or \"a.*\""
            ));
        }
    }
    Ok(())
}
