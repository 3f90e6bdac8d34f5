//! What Envoy connects to for a service, and how.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::service::host::{self, Host};
use crate::service::{Definition, FieldError, check_name, check_path, keep, port, within};

/// The most places that one service may be at.
pub const PLACES_MAX: usize = 256;
/// The largest weight of a place.
pub const WEIGHT_MAX: i64 = 65_535;
/// The longest of all times, in milliseconds: a day.
pub(crate) const TIME_MAX: i64 = 86_400_000;
const PEM_MAX: usize = 48 * 1024;

/// One of the places that a service is at, as it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Upstream)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Place {
    /// An IP address or a host name.
    pub host: String,
    /// The port there.
    #[schema(minimum = 1, maximum = 65535)]
    pub port: i64,
    /// How many of the requests go there, beside the others' weights.
    #[serde(default = "Place::usual_weight")]
    #[schema(minimum = 1, maximum = 65535, default = 1)]
    pub weight: i64,
}

impl Place {
    /// The place of a service that is at one only.
    pub fn new(host: impl Into<String>, port: i64) -> Place {
        Place { host: host.into(), port, weight: Place::usual_weight() }
    }

    fn usual_weight() -> i64 {
        1
    }
}

/// Where a service is and how Envoy speaks with it, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Upstream {
    /// At least one.
    pub endpoints: Vec<Endpoint>,
    /// How long a connection may take to come about.
    pub connect_timeout_ms: u64,
    /// How it is asked whether it is well, if it is.
    pub health_check: Option<HealthCheck>,
    /// Whether requests go over HTTP/2.
    pub http2: bool,
    /// Whether and how connections are encrypted.
    pub tls: Option<Tls>,
}

/// A place, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Endpoint {
    /// Where.
    pub host: Host,
    /// On which port.
    pub port: u16,
    /// Its share.
    pub weight: u32,
}

/// An active HTTP health check.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HealthCheck {
    /// What is asked for.
    pub path: String,
    /// How often.
    pub interval_ms: u64,
}

/// TLS to the upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tls {
    /// The name that is asked for.
    pub sni: Option<String>,
    /// Whom it must be; nothing, if anybody will do.
    pub trust: Option<Trust>,
}

/// What an upstream's certificate has to show.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Trust {
    /// Who vouches for it.
    pub authorities: Authorities,
    /// The names and addresses of which the certificate must have one.
    pub names: Vec<Host>,
}

/// Who vouches for an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums)] // whoever asks has to know all
pub enum Authorities {
    /// Whom Envoy's own system trusts.
    System,
    /// These, in PEM.
    Given(String),
    /// Those that are stored by this name.
    Stored(String),
}

impl Upstream {
    /// Whether the endpoints come by EDS: they do if all are addresses.
    pub fn is_addresses(&self) -> bool {
        self.endpoints.iter().all(|endpoint| matches!(endpoint.host, Host::Ip(_)))
    }

    pub(crate) fn parse(d: &Definition, errors: &mut Vec<FieldError>) -> Upstream {
        let endpoints = parse_endpoints(d, errors);
        let connect = time("connect_timeout_ms", d.connect_timeout_ms, 1..=TIME_MAX);
        let health_check = parse_health_check(d, errors);
        check_http2(d, errors);
        let tls = parse_tls(d, &endpoints, errors);
        Upstream {
            endpoints,
            connect_timeout_ms: keep(connect, errors).unwrap_or_default(),
            health_check,
            http2: d.http2 || d.protocol == "grpc",
            tls,
        }
    }
}

fn parse_endpoints(d: &Definition, errors: &mut Vec<FieldError>) -> Vec<Endpoint> {
    if d.upstreams.is_empty() {
        let host = host::parse(&d.upstream_host);
        let host = keep(host.map_err(|why| FieldError::new("upstream_host", why)), errors);
        let port = keep(port("upstream_port", d.upstream_port), errors);
        let only = host.zip(port).map(|(host, port)| Endpoint { host, port, weight: 1 });
        return only.into_iter().collect();
    }
    if d.upstreams.len() > PLACES_MAX {
        let why = format!("has {} entries; write at most {PLACES_MAX}", d.upstreams.len());
        errors.push(FieldError::new("upstreams", why));
        return Vec::new();
    }
    let mut endpoints: Vec<Endpoint> = Vec::new();
    for (i, place) in d.upstreams.iter().enumerate() {
        let at = |field: &str| format!("upstreams[{i}].{field}");
        let host = host::parse(&place.host).map_err(|why| FieldError::new(at("host"), why));
        let host = keep(host, errors);
        let port = keep(port(at("port"), place.port), errors);
        let weight = within(at("weight"), place.weight, 1..=WEIGHT_MAX, "weight");
        let weight = keep(weight, errors).and_then(|weight| u32::try_from(weight).ok());
        let Some(((host, port), weight)) = host.zip(port).zip(weight) else { continue };
        if endpoints.iter().any(|other| other.host == host && other.port == port) {
            let why = "is the place of an entry before; write it once, with a higher weight";
            errors.push(FieldError::new(format!("upstreams[{i}]"), why));
        }
        endpoints.push(Endpoint { host, port, weight });
    }
    endpoints
}

fn parse_health_check(d: &Definition, errors: &mut Vec<FieldError>) -> Option<HealthCheck> {
    let interval = d.health_check_interval_ms;
    let interval = time("health_check_interval_ms", interval, 100..=TIME_MAX);
    let interval_ms = keep(interval, errors);
    let path = d.health_check_path.clone()?;
    let checked = if d.protocol == "tcp" { not_over_tcp("health_check_path") } else { Ok(()) };
    errors.extend(checked.and_then(|()| check_path("health_check_path", &path)).err());
    Some(HealthCheck { path, interval_ms: interval_ms? })
}

fn check_http2(d: &Definition, errors: &mut Vec<FieldError>) {
    if d.http2 && d.protocol == "tcp" {
        errors.extend(not_over_tcp("http2").err());
    }
}

pub(crate) fn not_over_tcp(field: &'static str) -> Result<(), FieldError> {
    let why = "needs protocol \"http\", \"https\" or \"grpc\"; leave it out for a tcp service";
    Err(FieldError::new(field, why))
}

fn parse_tls(d: &Definition, endpoints: &[Endpoint], errors: &mut Vec<FieldError>) -> Option<Tls> {
    let (is_https, is_http) = (d.protocol == "https", d.protocol == "http");
    let fault = match d.upstream_tls {
        Some(true) if is_http => Some("is true; write protocol \"https\" for that"),
        Some(false) if is_https => Some("is false; write protocol \"http\" for that"),
        _ => None,
    };
    errors.extend(fault.map(|why| FieldError::new("upstream_tls", why)));
    if !d.upstream_tls.unwrap_or(is_https) {
        let why = "needs TLS to the upstream: protocol \"https\", or \"upstream_tls\": true";
        let mut unused = |field, is_used| {
            if is_used {
                errors.push(FieldError::new(field, why));
            }
        };
        unused("tls_verify", !d.tls_verify);
        unused("tls_sni", d.tls_sni.is_some());
        unused("tls_ca", d.tls_ca.is_some());
        return None;
    }
    let sni = d.tls_sni.as_deref().map(host::parse_name).transpose();
    let sni = keep(sni.map_err(|why| FieldError::new("tls_sni", why)), errors)?;
    if let Some(ca) = &d.tls_ca {
        errors.extend(check_authorities(d, ca).err());
    }
    let asked = sni.as_ref().map(|name| vec![Host::Name(name.clone())]);
    let mut names = asked.unwrap_or_else(|| endpoints.iter().map(|e| e.host.clone()).collect());
    names.dedup();
    let named = endpoints.iter().find_map(|endpoint| match &endpoint.host {
        Host::Name(name) => Some(name.trim_end_matches('.').to_owned()),
        Host::Ip(_) => None,
    });
    let authorities = match d.tls_ca.clone() {
        None => Authorities::System,
        Some(ca) if is_pem(&ca) => Authorities::Given(ca),
        Some(name) => Authorities::Stored(name),
    };
    let trust = d.tls_verify.then_some(Trust { authorities, names });
    Some(Tls { sni: sni.or(named), trust })
}

pub(crate) fn is_pem(text: &str) -> bool {
    text.contains("-----BEGIN")
}

fn check_authorities(d: &Definition, pem: &str) -> Result<(), FieldError> {
    let fail = |why: String| Err(FieldError::new("tls_ca", why));
    if !d.tls_verify {
        return fail("is of no use without verification; leave it out or let tls_verify be".into());
    }
    if !is_pem(pem) {
        return check_name(pem).map_err(|_| {
            let why = "is neither PEM nor the name of a stored certificate; write one of them";
            FieldError::new("tls_ca", why)
        });
    }
    if pem.len() > PEM_MAX {
        return fail(format!("has {} bytes; write at most {PEM_MAX}", pem.len()));
    }
    match crate::certificates::pem::certificates(pem) {
        Ok(_) => Ok(()),
        Err(why) => fail(format!("{why}; write certificates in PEM")),
    }
}

/// A time in milliseconds.
pub(crate) fn time(
    field: &'static str,
    ms: i64,
    range: std::ops::RangeInclusive<i64>,
) -> Result<u64, FieldError> {
    within(field, ms, range, "time in milliseconds").map(i64::unsigned_abs)
}
