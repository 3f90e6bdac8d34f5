//! What a browser asks because of a page that is not this server's own.
//!
//! Where no token is wanted, who reaches the port may do everything. So might every page that he looks at, if what
//! it has his browser send were taken for his own wish.

use std::net::IpAddr;

use axum::extract::Request;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};

use crate::rest::problem::Problem;

/// What browsers say of the page that had them ask.
const FETCH_SITE: &str = "sec-fetch-site";

/// What the paths begin with at which Envoys poll.
const POLLS: &str = "/v3/";

/// Refuses what comes from a page of another origin, but for reads, whose answers a browser does not hand out to it;
/// and on a server that is `local` to its machine, whatever asks for it by a name that is not that machine's own,
/// as a page does whose owner pointed its name here (DNS rebinding).
pub(crate) fn admit(request: &Request, local: bool) -> Result<(), Problem> {
    let headers = request.headers();
    let (host, origin) = (host(request), headers.get(header::ORIGIN));
    // An Envoy says the name of its cluster there; and a browser that posts does not leave out the origin.
    let is_envoy = request.uri().path().starts_with(POLLS) && origin.is_none();
    if local && !is_envoy && !host.is_none_or(is_this_machine) {
        let name = host.unwrap_or_default();
        return Err(refused(&format!(
            "this server is asked for as {name:?}, which is not a name of its machine: ask for \
             localhost, 127.0.0.1 or [::1]"
        )));
    }
    let is_foreign = origin.is_some_and(|origin| !is_of(origin, host)) || is_cross_site(headers);
    if is_foreign && !request.method().is_safe() {
        let page = origin.and_then(|origin| origin.to_str().ok()).unwrap_or("another site");
        return Err(refused(&format!(
            "a page of {page} has a browser ask for this: use the pages of this server"
        )));
    }
    Ok(())
}

fn refused(why: &str) -> Problem {
    tracing::info!(why, "a request is refused that a browser may have been led to");
    let detail = format!("{why}, or send a token, which deltaplane token create makes");
    Problem::new(StatusCode::FORBIDDEN, detail)
}

/// Whom the request is for, as its sender has it. What is no text is nobody.
fn host(request: &Request) -> Option<&str> {
    let header = || request.headers().get(header::HOST);
    let authority = request.uri().authority().map(Authority::as_str);
    authority.or_else(|| header().map(|host| host.to_str().unwrap_or_default()))
}

fn is_this_machine(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    let name = authority.host().to_ascii_lowercase();
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    match bare.unwrap_or(&name).parse::<IpAddr>() {
        Ok(address) => address.to_canonical().is_loopback(),
        Err(_) => name == "localhost" || name.ends_with(".localhost"),
    }
}

/// Whether an origin is that of the pages of this host.
fn is_of(origin: &HeaderValue, host: Option<&str>) -> bool {
    let at = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
    at.is_some_and(|(_, at)| host.is_some_and(|host| at.eq_ignore_ascii_case(host)))
}

fn is_cross_site(headers: &HeaderMap) -> bool {
    let site = headers.get(FETCH_SITE).map(HeaderValue::as_bytes);
    site.is_some_and(|site| [&b"cross-site"[..], b"same-site"].contains(&site))
}
