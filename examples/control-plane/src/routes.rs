//! Routes of their own: which requests go where, beside what services say of
//! themselves.

use std::collections::BTreeMap;

use regex_lite::Regex;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::database::objects::Kind;
use crate::rest::document::Document;
use crate::service::host;
use crate::service::upstream::{TIME_MAX, WEIGHT_MAX};
use crate::service::{
    FieldError, RETRIES_MAX, check_domains, check_name, check_path, port, within,
};

/// The most targets, and the most headers, that one route may have.
pub const ENTRIES_MAX: usize = 64;
const TEXT_MAX: usize = 2048;

/// Some requests to a port, and what becomes of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = RouteDefinition)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct Route {
    /// The fleet whose services it leads to.
    #[schema(minimum = 1)]
    pub cluster_id: i64,
    /// Where Envoy accepts the requests. Services may be on that port as well.
    #[schema(minimum = 1, maximum = 65535)]
    pub listener_port: i64,
    /// The hosts that are asked.
    #[schema(min_items = 1, max_items = 64)]
    pub domains: Vec<String>,
    /// The beginning of the path. A route has one of this, `path` and `regex`.
    pub prefix: Option<String>,
    /// The whole path.
    pub path: Option<String>,
    /// What the whole path is like, in the syntax of RE2.
    pub regex: Option<String>,
    /// What has to be true of headers, all of it.
    #[schema(max_items = 64)]
    pub headers: Vec<HeaderMatch>,
    /// The services that requests go to. A route has this or `redirect`.
    #[schema(max_items = 64)]
    pub targets: Vec<Target>,
    /// Where clients are sent instead.
    pub redirect: Option<Redirect>,
    /// What the services are asked for instead.
    pub rewrite: Option<Rewrite>,
    /// How long a request may take; 0 for as long as it likes.
    #[schema(minimum = 0, maximum = 86400000)]
    pub timeout_ms: Option<i64>,
    /// How often a request is tried again that no upstream has begun to answer.
    #[schema(minimum = 0, maximum = 10)]
    pub retries: i64,
    /// Whether requests may become WebSockets.
    pub websocket: bool,
    /// Whether there is such a route at all.
    pub is_active: bool,
}

/// What has to be true of a header: that it is there, or one of the others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct HeaderMatch {
    /// Which header.
    pub name: String,
    /// It is this.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub exact: Option<String>,
    /// It begins with this.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub prefix: Option<String>,
    /// The whole of it is like this, in the syntax of RE2.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub regex: Option<String>,
    /// The opposite has to be true.
    pub not: bool,
}

/// A service that requests go to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Target {
    /// Its name.
    pub service: String,
    /// How many of the requests go there, beside the others' weights.
    #[serde(default = "one")]
    #[schema(minimum = 0, maximum = 65535, default = 1)]
    pub weight: i64,
}

fn one() -> i64 {
    1
}

/// Where clients are sent: what is not said stays as it was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct Redirect {
    /// Another host, perhaps with a port.
    pub host: Option<String>,
    /// Another path.
    pub path: Option<String>,
    /// What is in the place of the route's own prefix.
    pub prefix: Option<String>,
    /// Over TLS.
    pub https: bool,
    /// 301, 302, 303, 307 or 308.
    pub status: i64,
}

impl Default for Redirect {
    fn default() -> Redirect {
        Redirect { host: None, path: None, prefix: None, https: false, status: 301 }
    }
}

/// What services are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct Rewrite {
    /// What is in the place of the route's own prefix.
    pub prefix: Option<String>,
    /// What is in the place of whatever the route's own regex takes, in which `\1`
    /// is its first group.
    pub regex: Option<String>,
    /// Another host.
    pub host: Option<String>,
}

impl Default for Route {
    fn default() -> Route {
        Route {
            cluster_id: 1,
            listener_port: 0,
            domains: vec!["*".to_owned()],
            prefix: None,
            path: None,
            regex: None,
            headers: Vec::new(),
            targets: Vec::new(),
            redirect: None,
            rewrite: None,
            timeout_ms: None,
            retries: 0,
            websocket: false,
            is_active: true,
        }
    }
}

impl Route {
    /// The port, which is one as far as the route is valid.
    pub(crate) fn port(&self) -> u16 {
        u16::try_from(self.listener_port).unwrap_or_default()
    }

    /// The domains as Envoy compares them.
    pub(crate) fn domains(&self) -> impl Iterator<Item = String> {
        self.domains.iter().map(|domain| domain.to_ascii_lowercase())
    }

    /// Which requests it is for, but for the host.
    fn matched(&self) -> (&Option<String>, &Option<String>, &Option<String>, &[HeaderMatch]) {
        (&self.prefix, &self.path, &self.regex, &self.headers)
    }
}

impl Kind for Route {
    const KIND: &'static str = "route";

    fn check(&self, name: &str) -> Vec<FieldError> {
        let mut errors = Vec::new();
        errors.extend(check_name(name).err());
        errors.extend(within("cluster_id", self.cluster_id, 1..=i64::MAX, "fleet").err());
        if self.listener_port == 0 {
            errors.push(FieldError::new("listener_port", "is missing; give it"));
        } else {
            errors.extend(port("listener_port", self.listener_port).err());
        }
        errors.extend(check_domains(&self.domains().collect::<Vec<_>>()).err());
        self.check_match(&mut errors);
        self.check_action(&mut errors);
        errors
    }

    fn conflict(&self, others: &BTreeMap<String, Route>) -> Option<FieldError> {
        let is_same = |other: &Route| {
            other.cluster_id == self.cluster_id
                && other.listener_port == self.listener_port
                && other.matched() == self.matched()
                && self.domains().any(|domain| other.domains().any(|theirs| theirs == domain))
                && (self.is_active && other.is_active)
        };
        let (name, _) = others.iter().find(|(_, other)| is_same(other))?;
        let why =
            format!("the route {name:?} is for the same requests; change it, or what is asked");
        Some(FieldError::new("domains", why))
    }

    fn services(&self) -> Option<(i64, Vec<&str>)> {
        Some((self.cluster_id, self.targets.iter().map(|target| &*target.service).collect()))
    }
}

impl Route {
    fn check_match(&self, errors: &mut Vec<FieldError>) {
        match (&self.prefix, &self.path, &self.regex) {
            (Some(prefix), None, None) => errors.extend(plain_path("prefix", prefix).err()),
            (None, Some(path), None) => errors.extend(plain_path("path", path).err()),
            (None, None, Some(regex)) => errors.extend(check_regex("regex", regex).err()),
            _ => {
                let why = "is one of three; give one of prefix, path and regex";
                errors.push(FieldError::new("prefix", why));
            }
        }
        if self.headers.len() > ENTRIES_MAX {
            let why = format!("has {} entries; write at most {ENTRIES_MAX}", self.headers.len());
            errors.push(FieldError::new("headers", why));
        }
        for (i, header) in self.headers.iter().enumerate().take(ENTRIES_MAX) {
            errors.extend(header.check(&format!("headers[{i}]")));
        }
    }

    fn check_action(&self, errors: &mut Vec<FieldError>) {
        if self.targets.is_empty() == self.redirect.is_none() {
            let why = "is one of two; give either targets or redirect";
            errors.push(FieldError::new("targets", why));
        }
        self.check_targets(errors);
        errors.extend(
            self.timeout_ms.and_then(|ms| {
                within("timeout_ms", ms, 0..=TIME_MAX, "time in milliseconds").err()
            }),
        );
        errors.extend(within("retries", self.retries, 0..=RETRIES_MAX, "number of retries").err());
        if let Some(redirect) = &self.redirect {
            redirect.check(self, errors);
            let given = [
                ("rewrite", self.rewrite.is_some()),
                ("timeout_ms", self.timeout_ms.is_some()),
                ("retries", self.retries != 0),
                ("websocket", self.websocket),
            ];
            for (field, _) in given.into_iter().filter(|(_, is_given)| *is_given) {
                let why = "is of no use where clients are redirected; leave it out";
                errors.push(FieldError::new(field, why));
            }
        }
        if let Some(rewrite) = &self.rewrite {
            rewrite.check(self, errors);
        }
    }

    fn check_targets(&self, errors: &mut Vec<FieldError>) {
        if self.targets.len() > ENTRIES_MAX {
            let why = format!("has {} entries; write at most {ENTRIES_MAX}", self.targets.len());
            errors.push(FieldError::new("targets", why));
        }
        for (i, target) in self.targets.iter().enumerate() {
            let at = |field: &str| format!("targets[{i}].{field}");
            errors.extend(within(at("weight"), target.weight, 0..=WEIGHT_MAX, "weight").err());
            if self.targets[..i].iter().any(|other| other.service == target.service) {
                let why = format!("{:?} is a target already; name it once", target.service);
                errors.push(FieldError::new(at("service"), why));
            }
        }
        if !self.targets.is_empty() && self.targets.iter().all(|target| target.weight == 0) {
            let why = "have no weight, all of them; give one of them some";
            errors.push(FieldError::new("targets", why));
        }
    }
}

impl HeaderMatch {
    fn check(&self, at: &str) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        let pseudo = self.name.strip_prefix(':').unwrap_or(&self.name);
        if pseudo.is_empty() || self.name.len() > TEXT_MAX || !pseudo.bytes().all(is_token) {
            let why =
                format!("{:?} is no name of a header; write one such as \"x-user\"", self.name);
            errors.push(FieldError::new(format!("{at}.name"), why));
        }
        let texts = [("exact", &self.exact), ("prefix", &self.prefix), ("regex", &self.regex)];
        if texts.iter().filter(|(_, text)| text.is_some()).count() > 1 {
            let why = "says more than one thing; give one of exact, prefix and regex, or none";
            errors.push(FieldError::new(at.to_owned(), why));
        }
        for (field, text) in [("exact", &self.exact), ("prefix", &self.prefix)] {
            if text.as_deref().is_some_and(|text| !is_value(text)) {
                let why = "holds what no header's value holds, or nothing; correct it";
                errors.push(FieldError::new(format!("{at}.{field}"), why));
            }
        }
        let regex = self.regex.as_deref();
        errors.extend(regex.and_then(|regex| check_regex(format!("{at}.regex"), regex).err()));
        errors
    }
}

impl Redirect {
    fn check(&self, route: &Route, errors: &mut Vec<FieldError>) {
        if ![301, 302, 303, 307, 308].contains(&self.status) {
            let why = format!("{} is none; write 301, 302, 303, 307 or 308", self.status);
            errors.push(FieldError::new("redirect.status", why));
        }
        errors.extend(check_host("redirect.host", self.host.as_deref()).err());
        let path = self.path.as_deref();
        errors.extend(path.and_then(|path| check_path("redirect.path", path).err()));
        check_prefix("redirect.prefix", self.prefix.as_deref(), route, errors);
        if self.path.is_some() && self.prefix.is_some() {
            let why = "stands beside redirect.path; give one of them";
            errors.push(FieldError::new("redirect.prefix", why));
        }
        if *self == (Redirect { status: self.status, ..Redirect::default() }) {
            let why = "leads where the client is; give host, path, prefix or https";
            errors.push(FieldError::new("redirect", why));
        }
    }
}

impl Rewrite {
    fn check(&self, route: &Route, errors: &mut Vec<FieldError>) {
        check_prefix("rewrite.prefix", self.prefix.as_deref(), route, errors);
        errors.extend(check_host("rewrite.host", self.host.as_deref()).err());
        if self.regex.is_some() && route.regex.is_none() {
            let why = "needs a regex in the route; write rewrite.prefix for a prefix or path";
            errors.push(FieldError::new("rewrite.regex", why));
        }
        if self.regex.as_deref().is_some_and(|text| !is_value(text)) {
            let why = "holds what no path holds, or nothing; correct it";
            errors.push(FieldError::new("rewrite.regex", why));
        }
        if *self == Rewrite::default() {
            let why = "changes nothing; give prefix, regex or host";
            errors.push(FieldError::new("rewrite", why));
        }
    }
}

/// Where a prefix, or a whole path, is replaced.
fn check_prefix(
    field: &'static str,
    prefix: Option<&str>,
    route: &Route,
    errors: &mut Vec<FieldError>,
) {
    let Some(prefix) = prefix else { return };
    errors.extend(check_path(field, prefix).err());
    if route.regex.is_some() {
        let why = "needs a prefix or path in the route, which has a regex";
        errors.push(FieldError::new(field, why));
    }
}

fn plain_path(field: &'static str, path: &str) -> Result<(), FieldError> {
    if path.contains(['?', '#']) {
        let why = format!("{path:?} holds '?' or '#', which no request's path holds");
        return Err(FieldError::new(field, why));
    }
    check_path(field, path)
}

fn check_host(field: &'static str, host: Option<&str>) -> Result<(), FieldError> {
    let Some(host) = host else { return Ok(()) };
    if host.contains('*') || !host::is_domain(host) {
        let why = format!("{host:?} is no host; write one such as \"a.example\"");
        return Err(FieldError::new(field, why));
    }
    Ok(())
}

fn check_regex(
    field: impl Into<std::borrow::Cow<'static, str>>,
    regex: &str,
) -> Result<(), FieldError> {
    let why = match Regex::new(regex) {
        _ if regex.is_empty() || regex.len() > TEXT_MAX => {
            format!("has {} bytes; write 1 to {TEXT_MAX}", regex.len())
        }
        Ok(_) => return Ok(()),
        Err(error) => format!("{regex:?} is no regular expression: {error}; correct it"),
    };
    Err(FieldError::new(field, why))
}

/// Whether a text may stand in a header.
fn is_value(text: &str) -> bool {
    !text.is_empty() && text.len() <= TEXT_MAX && !text.contains(char::is_control)
}

impl Document for Route {
    const TOO_LARGE: &str = "a route takes at most 64 KiB";

    fn advice(path: &str) -> &'static str {
        match path.rsplit('.').next() {
            Some(
                "cluster_id" | "listener_port" | "timeout_ms" | "retries" | "weight" | "status",
            ) => "write a whole number",
            Some("websocket" | "is_active" | "not" | "https") => "write true or false",
            Some("headers" | "targets") => "write a list of objects",
            Some("redirect" | "rewrite") => "write an object",
            Some(field) if field.starts_with("domains") => "write a list of strings",
            Some(field) if field.ends_with(']') => "write an object",
            _ => "write a string",
        }
    }
}
