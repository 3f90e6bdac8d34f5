//! Certificates with their keys, and authorities, which Envoys get by SDS.

pub(crate) mod pem;
pub mod vault;

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::certificates::vault::Vault;
use crate::database::objects::{Kind, Named, Object};
use crate::rest::document::Document;
use crate::service::{FieldError, check_name};

const PEM_MAX: usize = 48 * 1024;

/// A certificate and its key, or authorities. What was stored is not shown again, but
/// for when it ends.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = CertificateDefinition)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct Certificate {
    /// In PEM, with those that lead to an authority behind it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub certificate: Option<String>,
    /// The certificate's private key, in PEM. It is stored encrypted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub key: Option<String>,
    /// Certificates of authorities, in PEM, in place of both.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub authorities: Option<String>,
    /// The key as it is stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(ignore)]
    pub sealed_key: Option<String>,
}

/// What an Envoy gets.
#[derive(Clone, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums)] // it is one of these
pub enum Secret {
    /// Who it is.
    Pair {
        /// In PEM.
        certificate: String,
        /// In PEM.
        key: String,
    },
    /// Whom it trusts, in PEM.
    Authorities(String),
}

/// Shows what it is, and never what is in it.
impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Certificate(…)")
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Certificate {
    /// The last second of what ends first, since 1970.
    fn not_after(&self) -> Option<i64> {
        not_after(self.certificate.as_deref().or(self.authorities.as_deref())?)
    }

    /// What Envoys get, if the key can be read.
    fn secret(&self, name: &str, vault: &Vault) -> Result<Secret, String> {
        match self {
            Certificate { certificate: Some(certificate), sealed_key: Some(sealed), .. } => {
                let key = vault.open(name, sealed).map_err(|error| format!("its key {error}"))?;
                Ok(Secret::Pair { certificate: certificate.clone(), key })
            }
            Certificate { authorities: Some(pem), .. } => Ok(Secret::Authorities(pem.clone())),
            _ => Err("it has no key".to_owned()),
        }
    }
}

impl Secret {
    /// The last second of what ends first, since 1970.
    pub(crate) fn not_after(&self) -> Option<i64> {
        match self {
            Secret::Pair { certificate: pem, .. } | Secret::Authorities(pem) => not_after(pem),
        }
    }
}

fn not_after(pem: &str) -> Option<i64> {
    pem::certificates(pem).ok()?.iter().map(|one| one.not_after).min()
}

impl Kind for Certificate {
    const KIND: &'static str = "certificate";

    fn check(&self, name: &str) -> Vec<FieldError> {
        let mut errors = Vec::new();
        errors.extend(check_name(name).err());
        let texts = [
            ("certificate", &self.certificate),
            ("key", &self.key),
            ("authorities", &self.authorities),
        ];
        for (field, text) in texts {
            let length = text.as_ref().map_or(0, String::len);
            if length > PEM_MAX {
                let why = format!("has {length} bytes; write at most {PEM_MAX}");
                errors.push(FieldError::new(field, why));
            }
        }
        let has_key = self.key.is_some() || self.sealed_key.is_some();
        match (&self.certificate, has_key, &self.authorities) {
            (Some(certificate), true, None) => {
                errors.extend(check_pair(certificate, self.key.as_deref()))
            }
            (None, false, Some(pem)) => errors.extend(check_pem("authorities", pem)),
            (Some(_), false, None) => errors.push(FieldError::new("key", "is missing; give it")),
            _ => {
                let why = "is one of two; give either certificate and key, or authorities";
                errors.push(FieldError::new("certificate", why));
            }
        }
        errors
    }

    fn conflict(&self, _: &BTreeMap<String, Certificate>) -> Option<FieldError> {
        None
    }

    fn opened(mut self, name: &str, vault: &Vault) -> Result<Certificate, FieldError> {
        if self.key.is_none()
            && let Some(sealed) = &self.sealed_key
        {
            let key = vault.open(name, sealed);
            self.key = Some(key.map_err(|error| {
                FieldError::new("key", format!("{error}; give it with the certificate"))
            })?);
        }
        self.sealed_key = None;
        Ok(self)
    }

    fn sealed(mut self, name: &str, vault: &Vault) -> Result<Certificate, FieldError> {
        if let Some(key) = self.key.take() {
            let sealed = vault.seal(name, &key);
            self.sealed_key =
                Some(sealed.map_err(|error| FieldError::new("key", error.to_string()))?);
        }
        Ok(self)
    }

    fn shown(&self) -> Value {
        let kind = if self.authorities.is_some() { "authorities" } else { "certificate" };
        json!({"has": kind, "not_after": self.not_after().and_then(pem::date)})
    }

    const USED_BY: Option<&'static str> =
        Some("SELECT name FROM services WHERE certificate = $1 OR tls_ca = $1 ORDER BY id LIMIT 1");
}

fn check_pem(field: &'static str, pem: &str) -> Option<FieldError> {
    let why = pem::certificates(pem).err()?;
    Some(FieldError::new(field, format!("{why}; write certificates in PEM")))
}

/// A key that was stored before was checked then.
fn check_pair(certificate: &str, key: Option<&str>) -> Option<FieldError> {
    check_pem("certificate", certificate).or_else(|| {
        let (field, why) = pem::pair(certificate, key?).err()?;
        Some(FieldError::new(field, why))
    })
}

impl Document for Certificate {
    const TOO_LARGE: &str = "a certificate takes at most 64 KiB";

    fn advice(_: &str) -> &'static str {
        "write a string, in PEM"
    }
}

/// Reads all certificates: what Envoys get, and how many are not valid. Each of those is as it was before, if it
/// was anything, with a line in the log.
pub(crate) fn read(
    objects: &[Object],
    vault: &Vault,
    before: &BTreeMap<String, Secret>,
) -> (BTreeMap<String, Secret>, usize) {
    let (mut secrets, mut invalid) = (BTreeMap::new(), 0);
    for object in objects.iter().filter(|object| object.kind == Certificate::KIND) {
        let secret = match secret(object, vault) {
            Ok(secret) => Some(secret),
            Err(problem) => {
                tracing::warn!(
                    name = object.name,
                    problem,
                    "a stored certificate cannot be used: it stays as it was before, if it was \
                     anything"
                );
                invalid += 1;
                before.get(&object.name).cloned()
            }
        };
        secrets.extend(secret.map(|secret| (object.name.clone(), secret)));
    }
    (secrets, invalid)
}

/// What Envoys get of a row, or why they get nothing.
fn secret(object: &Object, vault: &Vault) -> Result<Secret, String> {
    let read = object.read::<Certificate>().map_err(|problem| problem.to_string())?;
    let Named { name, definition } = read;
    let secret = definition.secret(&name, vault)?;
    let errors = definition.check(&name);
    errors.first().map_or(Ok(secret), |error| Err(error.to_string()))
}
