//! Who is at the other end of a connection, and what it shows to prove that.

use std::{fmt, future::pending, net::SocketAddr};
#[cfg(feature = "tls")]
use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use http::{Extensions, HeaderMap};
#[cfg(feature = "tls")]
use rustls::pki_types::CertificateDer;
#[cfg(feature = "tls")]
use tokio::time::sleep;
use tonic::transport::server::TcpConnectInfo;
#[cfg(feature = "tls")]
use x509_parser::{extensions::GeneralName, prelude::FromDer};

/// How often the clock is looked at, at least, by which a certificate ends.
#[cfg(feature = "tls")]
const LOOK: Duration = Duration::from_secs(60);

/// The other end of a connection.
///
/// [`XdsServer::serve`](crate::XdsServer::serve) finds it out, and puts it into the extensions of each request
/// to a [service of yours](crate::XdsServerBuilder::services). A tonic router of your own may put one there
/// for ours.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Peer {
    /// Where it connected from, if it did so by TCP.
    pub address: Option<SocketAddr>,
    /// The certificate that it showed, and that the server's configuration of TLS accepted.
    #[cfg(feature = "tls")]
    pub certificate: Option<Arc<Certificate>>,
}

impl Peer {
    /// Who connected from there, and shows nothing.
    #[must_use]
    pub fn at(address: Option<SocketAddr>) -> Self {
        Self { address, ..Self::default() }
    }

    /// The same, with the certificates that it showed, its own first. That they are to be trusted is for TLS
    /// to find out, and before this.
    ///
    /// # Errors
    /// If its own cannot be read.
    #[cfg(feature = "tls")]
    pub fn with_certificates(
        self,
        chain: Vec<CertificateDer<'static>>,
    ) -> Result<Self, UnreadableCertificate> {
        let certificate = Certificate::read(chain)?.map(Arc::new);
        Ok(Self { certificate, ..self })
    }

    /// Done when the certificate that it showed is good no more; never, if it showed none.
    pub(crate) async fn is_outdated(&self) {
        #[cfg(feature = "tls")]
        if let Some(certificate) = &self.certificate {
            return certificate.is_over().await;
        }
        pending().await
    }
}

/// What a request shows of who sent it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Credentials {
    pub(crate) peer: Peer,
    pub(crate) token: Option<BearerToken>,
}

impl Credentials {
    pub(crate) fn of(headers: &HeaderMap, extensions: &Extensions) -> Self {
        let peer = extensions.get::<Peer>().cloned().unwrap_or_else(|| {
            Peer::at(extensions.get::<TcpConnectInfo>().and_then(TcpConnectInfo::remote_addr))
        });
        Self { peer, token: BearerToken::of(headers) }
    }
}

/// A certificate of a client.
#[cfg(feature = "tls")]
#[derive(Clone)]
#[non_exhaustive]
pub struct Certificate {
    /// In DER, with those that vouch for it behind it, as the client showed them.
    pub chain: Vec<CertificateDer<'static>>,
    /// Its subject, such as `CN=envoy-1, O=Shop`. Whoever has alternative names should not be known by this.
    pub subject: String,
    /// Its alternative names that are URIs.
    pub uris: Vec<String>,
    /// Its alternative names that are names of hosts.
    pub dns_names: Vec<String>,
    /// Its alternative names that are addresses.
    pub ip_addresses: Vec<IpAddr>,
    /// The last second in which it is good. A connection of
    /// [`serve_tls`](crate::XdsServer::serve_tls) ends with it; who does TLS some other way has to see to that.
    pub not_after: SystemTime,
}

/// A certificate that TLS accepted and that cannot be read here.
#[cfg(feature = "tls")]
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the client's certificate cannot be read: {why}")]
#[non_exhaustive]
pub struct UnreadableCertificate {
    /// What is wrong with it.
    pub why: String,
}

#[cfg(feature = "tls")]
impl Certificate {
    fn read(chain: Vec<CertificateDer<'static>>) -> Result<Option<Self>, UnreadableCertificate> {
        let unreadable = |why: &dyn fmt::Display| UnreadableCertificate { why: why.to_string() };
        let Some(own) = chain.first() else { return Ok(None) };
        let read = x509_parser::certificate::X509Certificate::from_der(own);
        let (_, own) = read.map_err(|error| unreadable(&error))?;
        let names = own.subject_alternative_name().map_err(|error| unreadable(&error))?;
        let mut certificate = Self {
            subject: own.subject().to_string(),
            uris: Vec::new(),
            dns_names: Vec::new(),
            ip_addresses: Vec::new(),
            not_after: time(own.validity().not_after.timestamp()),
            chain: Vec::new(),
        };
        for name in names.iter().flat_map(|names| &names.value.general_names) {
            match name {
                GeneralName::URI(uri) => certificate.uris.push((*uri).to_owned()),
                GeneralName::DNSName(name) => certificate.dns_names.push((*name).to_owned()),
                GeneralName::IPAddress(octets) => certificate.ip_addresses.extend(address(octets)),
                _ => {}
            }
        }
        certificate.chain = chain;
        Ok(Some(certificate))
    }

    /// How long it is still good, if it is.
    pub(crate) fn left(&self) -> Option<Duration> {
        // TLS counts in seconds, too.
        let end = self.not_after + Duration::from_secs(1);
        end.duration_since(SystemTime::now()).ok()
    }

    /// Done when it is good no more, by a clock that may be set meanwhile.
    async fn is_over(&self) {
        while let Some(left) = self.left() {
            sleep(left.min(LOOK)).await;
        }
    }

    /// Its SPIFFE id, if that is what it is for: then it has one URI and no other, which is of a trust domain
    /// and a path, as SPIFFE writes them.
    #[must_use]
    pub fn spiffe_id(&self) -> Option<&str> {
        let [uri] = &*self.uris else { return None };
        let (domain, path) = match uri.strip_prefix("spiffe://")? {
            rest if rest.contains('/') => rest.split_once('/')?,
            domain => (domain, "x"),
        };
        let is_of_domain =
            |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_');
        let is_of_path = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        let is_segment =
            |segment: &str| !matches!(segment, "" | "." | "..") && segment.bytes().all(is_of_path);
        let is_one = !domain.is_empty()
            && domain.bytes().all(is_of_domain)
            && path.split('/').all(is_segment);
        is_one.then_some(uri)
    }
}

/// A time from seconds since 1970; what was before is as 1970.
#[cfg(feature = "tls")]
fn time(seconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds.try_into().unwrap_or_default())
}

#[cfg(feature = "tls")]
fn address(octets: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(octets).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from)).ok()
}

#[cfg(feature = "tls")]
impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("subject", &self.subject)
            .field("uris", &self.uris)
            .field("dns_names", &self.dns_names)
            .field("ip_addresses", &self.ip_addresses)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// What a client sent as `authorization: Bearer …`. It is a secret, and does not show when it is printed.
#[derive(Clone)]
pub struct BearerToken(Box<str>);

impl BearerToken {
    /// The token itself.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// That of a request, if it has one.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        let value = headers.get(http::header::AUTHORIZATION)?.to_str().ok()?;
        let (scheme, token) = value.split_once(' ')?;
        let token = token.trim();
        (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then(|| Self(token.into()))
    }
}

impl fmt::Debug for BearerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BearerToken(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bearer_token_is_read_whatever_the_case_of_its_scheme_and_never_printed() {
        let of = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(http::header::AUTHORIZATION, value.parse().unwrap());
            BearerToken::of(&headers)
        };
        for value in ["Bearer t-1", "bearer  t-1 ", "BEARER t-1"] {
            assert_eq!(of(value).unwrap().reveal(), "t-1", "{value}");
        }
        for value in ["Basic t-1", "Bearer", "Bearer ", "t-1"] {
            assert!(of(value).is_none(), "{value}");
        }
        assert!(!format!("{:?}", of("Bearer t-1")).contains("t-1"));
    }

    #[cfg(feature = "tls")]
    #[test]
    fn a_spiffe_id_is_the_only_uri_and_well_formed() {
        let of = |uris: &[&str]| {
            let certificate = Certificate {
                chain: Vec::new(),
                subject: String::new(),
                uris: uris.iter().map(ToString::to_string).collect(),
                dns_names: Vec::new(),
                ip_addresses: Vec::new(),
                not_after: UNIX_EPOCH,
            };
            certificate.spiffe_id().map(str::to_owned)
        };
        for id in ["spiffe://shop.test", "spiffe://shop.test/ns/a/sa/b", "spiffe://a_b-c/X.y"] {
            assert_eq!(of(&[id]).as_deref(), Some(id));
        }
        assert_eq!(of(&[]), None);
        assert_eq!(of(&["spiffe://shop.test/a", "spiffe://shop.test/b"]), None);
        for id in [
            "https://shop.test/a",
            "spiffe://",
            "spiffe:///a",
            "spiffe://Shop.test/a",
            "spiffe://shop.test/",
            "spiffe://shop.test/a//b",
            "spiffe://shop.test/../b",
            "spiffe://shop.test/a?b",
            "spiffe://shop.test:80/a",
            "spiffe://user@shop.test/a",
        ] {
            assert_eq!(of(&[id]), None, "{id}");
        }
    }
}
