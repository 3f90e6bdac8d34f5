//! Certificates and keys in PEM.

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::pem::Pem;
use x509_parser::time::ASN1Time;

/// What is of interest in a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Certificate {
    /// Its last second, since 1970.
    pub(crate) not_after: i64,
}

/// Reads certificates, of which there is at least one; the error says what is wrong.
pub(crate) fn certificates(pem: &str) -> Result<Vec<Certificate>, String> {
    let read = Pem::iter_from_buffer(pem.as_bytes()).map(|block| {
        let block = block.map_err(|error| format!("is no PEM: {error}"))?;
        certificate(&block)
    });
    let read: Vec<_> = read.collect::<Result<_, _>>()?;
    if read.is_empty() { Err("holds no certificate".to_owned()) } else { Ok(read) }
}

fn certificate(block: &Pem) -> Result<Certificate, String> {
    if block.label != "CERTIFICATE" {
        return Err(format!("holds a block {:?}, which is no certificate", block.label));
    }
    let read =
        block.parse_x509().map_err(|error| format!("holds no X.509 certificate: {error}"))?;
    Ok(Certificate { not_after: read.validity().not_after.timestamp() })
}

/// Whether a key is that of a certificate; the error says which of the fields is
/// wrong, and what about it.
pub(crate) fn pair(certificate: &str, key: &str) -> Result<(), (&'static str, String)> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificate.as_bytes()).collect();
    let chain =
        chain.map_err(|error| ("certificate", format!("is no PEM: {error}; correct it")))?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes());
    let key = key.map_err(|_| ("key", "holds no private key; write one in PEM".to_owned()))?;
    let provider = rustls::crypto::ring::default_provider();
    CertifiedKey::from_der(chain, key, &provider).map(drop).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            ("key", "is not that of the certificate; give both as they were made".to_owned())
        }
        error => ("key", format!("cannot be used: {error}; write an RSA or ECDSA key")),
    })
}

/// A time as people write it.
pub(crate) fn date(since_1970: i64) -> Option<String> {
    let time = ASN1Time::from_timestamp(since_1970).ok()?.to_datetime();
    Some(format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z",
        time.year(),
        u8::from(time.month()),
        time.day(),
        time.hour(),
        time.minute(),
        time.second()
    ))
}
