//! Hosts: where a service is, and for which hosts it answers.

use std::net::IpAddr;

const HOST_MAX: usize = 253;
const LABEL_MAX: usize = 63;

/// Where an upstream is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums)] // an address or a name: there is no third
pub enum Host {
    /// Its address is known: endpoints over EDS.
    Ip(IpAddr),
    /// Envoy resolves it.
    Name(String),
}

/// Reads an IP address or a DNS name; the error says what is wrong.
pub fn parse(host: &str) -> Result<Host, String> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(Host::Ip(ip));
    }
    let advice = "write an IP address (IPv6 without brackets) or a host name, without a port";
    name(host, advice).map(Host::Name)
}

/// Reads a DNS name; the error says what is wrong.
pub fn parse_name(host: &str) -> Result<String, String> {
    name(host, "write a host name")
}

fn name(host: &str, advice: &str) -> Result<String, String> {
    if host.is_empty() {
        return Err(format!("is empty; {advice}"));
    }
    let labels = host.strip_suffix('.').unwrap_or(host);
    // A name that ends in a number is a mistyped address: no such top-level
    // domain exists, and Envoy would ask DNS for it for ever.
    let numeric = |label: &str| label.bytes().all(|b| b.is_ascii_digit());
    let ends_in_number = labels.rsplit('.').next().is_none_or(numeric);
    if labels.len() > HOST_MAX || ends_in_number || !labels.split('.').all(is_label) {
        return Err(format!("{host:?} is no host; {advice}"));
    }
    Ok(host.to_owned())
}

/// Underscores are not host names by the book, but in use everywhere.
fn is_label(label: &str) -> bool {
    (1..=LABEL_MAX).contains(&label.len())
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

/// Whether Envoy takes this as a virtual host's domain: exact, with a port, or
/// with one wildcard at the beginning or at the end.
pub fn is_domain(domain: &str) -> bool {
    if domain == "*" {
        return true;
    }
    let fixed = domain.strip_prefix('*').or_else(|| domain.strip_suffix('*')).unwrap_or(domain);
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_.:[]".contains(&b);
    (1..=HOST_MAX).contains(&fixed.len()) && fixed.bytes().all(allowed)
}
