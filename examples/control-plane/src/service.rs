//! The one thing that the database holds: a service of a fleet.
//!
//! A [`Definition`] is what somebody wrote, by the HTTP API or with `psql`; a
//! [`Service`] is a definition that was checked. Only the latter is translated.

pub(crate) mod draft;
pub mod host;
pub mod upstream;

use std::borrow::Cow;
use std::fmt;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::service::upstream::{Authorities, Place, TIME_MAX, Upstream, not_over_tcp, time};

/// The longest name of a service, in characters.
pub const NAME_MAX: usize = 128;
/// The most domains that one service may name.
pub const DOMAINS_MAX: usize = 64;
/// How often a request may be tried again.
pub const RETRIES_MAX: i64 = 10;
/// The longest name of a collection, in characters.
pub const COLLECTION_MAX: usize = 128;
const PATH_MAX: usize = 2048;

/// A service as it was written: the columns of its row, unchecked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
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
    /// `http`, `https`, `grpc` or `tcp`.
    pub protocol: String,
    /// Where an active HTTP health check asks, if there is one.
    pub health_check_path: Option<String>,
    /// The hosts whose requests come to this service.
    pub domains: Vec<String>,
    /// The beginning of the paths whose requests come to this service.
    pub prefix: String,
    /// Where it is, if at several places: the first is then the upstream above.
    pub upstreams: Vec<Place>,
    /// How long a request may take; 0 for as long as it likes.
    pub timeout_ms: Option<i64>,
    /// How long a connection to the upstream may take to come about.
    pub connect_timeout_ms: i64,
    /// How often a request is tried again that no upstream has begun to answer.
    pub retries: i64,
    /// Whether requests go to the upstream over HTTP/2.
    pub http2: bool,
    /// Whether requests may become WebSockets.
    pub websocket: bool,
    /// Whether connections to the upstream are encrypted; if it is not said, as
    /// the protocol has it.
    pub upstream_tls: Option<bool>,
    /// Whether the upstream has to show who it is.
    pub tls_verify: bool,
    /// The name that the upstream is asked for, and has to show.
    pub tls_sni: Option<String>,
    /// Certificates in PEM that vouch for the upstream.
    pub tls_ca: Option<String>,
    /// How often the health check asks.
    pub health_check_interval_ms: i64,
    /// Whether it is served at all.
    pub is_active: bool,
    /// What people sort it under.
    pub collection: Option<String>,
    /// The certificate that Envoy shows where it listens for this service.
    pub certificate: Option<String>,
}

impl Definition {
    /// An `http` service of fleet 1, all else at its default.
    pub fn new(
        name: impl Into<String>,
        listener_port: i64,
        upstream_host: impl Into<String>,
        upstream_port: i64,
    ) -> Definition {
        Definition {
            name: name.into(),
            cluster_id: 1,
            listener_port,
            upstream_host: upstream_host.into(),
            upstream_port,
            protocol: "http".to_owned(),
            health_check_path: None,
            domains: vec!["*".to_owned()],
            prefix: "/".to_owned(),
            upstreams: Vec::new(),
            timeout_ms: None,
            connect_timeout_ms: 1000,
            retries: 0,
            http2: false,
            websocket: false,
            upstream_tls: None,
            tls_verify: true,
            tls_sni: None,
            tls_ca: None,
            health_check_interval_ms: 5000,
            is_active: true,
            collection: None,
            certificate: None,
        }
    }
}

/// A row of the table `services`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Service)]
pub struct Row {
    /// Chosen by the database, never used twice.
    pub id: i64,
    /// That of the row's last change.
    pub revision: i64,
    /// The rest of the row.
    #[serde(flatten)]
    pub definition: Definition,
}

/// What is wrong with one field, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FieldError {
    /// The field's name as in JSON and in the table, or its path.
    pub field: Cow<'static, str>,
    /// What is wrong and what to write instead.
    pub message: String,
}

impl FieldError {
    /// An error of `field`.
    pub fn new(field: impl Into<Cow<'static, str>>, message: impl Into<String>) -> FieldError {
        FieldError { field: field.into(), message: message.into() }
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
    Http(Routing),
    /// Every connection to the port.
    Tcp,
}

/// Which requests come to a service, and what is done with them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Routing {
    /// Lower-cased, as Envoy compares them.
    pub domains: Vec<String>,
    /// Begins with `/`.
    pub prefix: String,
    /// How requests are passed on.
    pub forwarding: Forwarding,
}

/// How requests are passed on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Forwarding {
    /// How long they may take, 0 for as long as they like; if it is not said,
    /// as their kind has it.
    pub timeout_ms: Option<u64>,
    /// How often they are tried again.
    pub retries: u32,
    /// Whether they may become WebSockets.
    pub websocket: bool,
    /// Whether they are calls of gRPC.
    pub grpc: bool,
}

/// A checked service.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Service {
    /// The row's key.
    pub id: i64,
    /// Unique; the name of the Envoy cluster.
    pub name: String,
    /// The fleet.
    pub cluster_id: i64,
    /// Whether it is served.
    pub is_active: bool,
    /// Where Envoy listens.
    pub listener_port: u16,
    /// What Envoy connects to.
    pub upstream: Upstream,
    /// How requests are routed to it.
    pub protocol: Protocol,
    /// The certificate that is shown to clients.
    pub certificate: Option<String>,
}

impl Service {
    /// The names of the certificates that it needs.
    pub(crate) fn certificates(&self) -> impl Iterator<Item = &String> {
        let trust = self.upstream.tls.as_ref().and_then(|tls| tls.trust.as_ref());
        let authorities = trust.and_then(|trust| match &trust.authorities {
            Authorities::Stored(name) => Some(name),
            _ => None,
        });
        self.certificate.iter().chain(authorities)
    }

    /// Checks a row. All that is wrong with it is told at once.
    pub fn parse(row: &Row) -> Result<Service, Vec<FieldError>> {
        let d = &row.definition;
        let mut errors = Vec::new();
        errors.extend(check_name(&d.name).err());
        errors.extend(check_cluster_id(d.cluster_id).err());
        errors.extend(check_collection(d.collection.as_deref()).err());
        errors.extend(d.certificate.as_deref().and_then(|name| check_certificate(name).err()));
        let listener_port = keep(port("listener_port", d.listener_port), &mut errors);
        let upstream = Upstream::parse(d, &mut errors);
        let protocol = parse_protocol(d).map_err(|why| errors.extend(why)).ok();
        match listener_port.zip(protocol) {
            Some((listener_port, protocol)) if errors.is_empty() => Ok(Service {
                id: row.id,
                name: d.name.clone(),
                cluster_id: d.cluster_id,
                is_active: d.is_active,
                listener_port,
                upstream,
                protocol,
                certificate: d.certificate.clone(),
            }),
            _ => Err(errors),
        }
    }

    /// Why this service cannot share its fleet with `other`, if it cannot.
    pub fn conflict(&self, other: &Service) -> Option<FieldError> {
        let port = self.listener_port;
        let are_served = self.is_active && other.is_active;
        if !are_served || self.cluster_id != other.cluster_id || port != other.listener_port {
            return None;
        }
        let name = &other.name;
        match (&self.protocol, &other.protocol) {
            (Protocol::Http(ours), Protocol::Http(theirs)) => {
                let prefix = &ours.prefix;
                let domain = ours.domains.iter().find(|domain| theirs.domains.contains(domain))?;
                (*prefix == theirs.prefix).then(|| {
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
pub(crate) fn keep<T>(result: Result<T, FieldError>, errors: &mut Vec<FieldError>) -> Option<T> {
    result.map_err(|error| errors.push(error)).ok()
}

pub(crate) fn check_name(name: &str) -> Result<(), FieldError> {
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

fn check_certificate(name: &str) -> Result<(), FieldError> {
    check_name(name).map_err(|error| FieldError::new("certificate", error.message))
}

fn check_collection(collection: Option<&str>) -> Result<(), FieldError> {
    let Some(text) = collection else {
        return Ok(());
    };
    let fail = |why: String| Err(FieldError::new("collection", why));
    let length = text.chars().count();
    if length == 0 || length > COLLECTION_MAX {
        return fail(format!(
            "has {length} characters; write 1 to {COLLECTION_MAX}, or leave it out for none"
        ));
    }
    if text.contains(char::is_control) {
        return fail("holds a control character; leave it out".to_owned());
    }
    Ok(())
}

pub(crate) fn port(field: impl Into<Cow<'static, str>>, port: i64) -> Result<u16, FieldError> {
    let number = u16::try_from(port).ok().filter(|number| *number != 0);
    let why = || format!("{port} is no port; write a number from 1 to 65535");
    number.ok_or_else(|| FieldError::new(field, why()))
}

/// A number that has to be in a range.
pub(crate) fn within(
    field: impl Into<Cow<'static, str>>,
    number: i64,
    range: RangeInclusive<i64>,
    what: &str,
) -> Result<i64, FieldError> {
    let (least, most) = (range.start(), range.end());
    let why = || format!("{number} is no {what}; write a number from {least} to {most}");
    range.contains(&number).then_some(number).ok_or_else(|| FieldError::new(field, why()))
}

pub(crate) fn check_path(field: &'static str, path: &str) -> Result<(), FieldError> {
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
        "http" | "https" | "grpc" => parse_routing(d).map(Protocol::Http),
        "tcp" => check_no_routing(d).map(|()| Protocol::Tcp),
        other => {
            let why =
                format!("{other:?} is not known; write \"http\", \"https\", \"grpc\" or \"tcp\"");
            Err(vec![FieldError::new("protocol", why)])
        }
    }
}

fn parse_routing(d: &Definition) -> Result<Routing, Vec<FieldError>> {
    let mut errors = Vec::new();
    let domains: Vec<String> = d.domains.iter().map(|d| d.to_ascii_lowercase()).collect();
    errors.extend(check_domains(&domains).err());
    errors.extend(check_path("prefix", &d.prefix).err());
    if d.prefix.contains(['?', '#']) {
        let why = format!("{:?} holds '?' or '#', which no request's path holds", d.prefix);
        errors.push(FieldError::new("prefix", why));
    }
    let forwarding = parse_forwarding(d, &mut errors);
    if errors.is_empty() {
        Ok(Routing { domains, prefix: d.prefix.clone(), forwarding })
    } else {
        Err(errors)
    }
}

fn parse_forwarding(d: &Definition, errors: &mut Vec<FieldError>) -> Forwarding {
    let timeout = d.timeout_ms.map(|ms| time("timeout_ms", ms, 0..=TIME_MAX)).transpose();
    let timeout_ms = keep(timeout, errors).flatten();
    let retries = keep(within("retries", d.retries, 0..=RETRIES_MAX, "number of retries"), errors);
    let retries = retries.and_then(|retries| u32::try_from(retries).ok()).unwrap_or_default();
    let grpc = d.protocol == "grpc";
    if d.websocket && (grpc || d.http2) {
        let why = "goes over HTTP/1.1 only; leave it out, or http2, and write protocol \"http\" \
                   or \"https\"";
        errors.push(FieldError::new("websocket", why));
    }
    Forwarding { timeout_ms, retries, websocket: d.websocket, grpc }
}

/// What is not at its default was meant to do something, which it would not.
fn check_no_routing(d: &Definition) -> Result<(), Vec<FieldError>> {
    let given = [
        ("domains", d.domains != ["*"]),
        ("prefix", d.prefix != "/"),
        ("timeout_ms", d.timeout_ms.is_some()),
        ("retries", d.retries != 0),
        ("websocket", d.websocket),
    ];
    let given = given.into_iter().filter(|(_, is_given)| *is_given);
    let errors: Vec<_> = given.filter_map(|(field, _)| not_over_tcp(field).err()).collect();
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

pub(crate) fn check_domains(domains: &[String]) -> Result<(), FieldError> {
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
