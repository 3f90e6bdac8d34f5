//! A certificate that vouches for itself, and the secrets that are made of it.

use std::fs;
use std::process::Command;

use deltaplane_server::envoy_types::pb::envoy::config::core::v3::{
    DataSource, data_source::Specifier,
};
use deltaplane_server::envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, Secret, TlsCertificate, secret,
};
use deltaplane_server::{Resource, envoy};

use crate::machine::{installed, run};

/// A certificate with its key.
#[derive(Debug, Clone)]
pub struct Certificate {
    name: String,
    certificate: String,
    key: String,
}

impl Certificate {
    /// Makes one with this common name.
    pub fn make(name: &str) -> Certificate {
        let openssl = || Command::new("openssl").arg("version").output().ok().map(|_| ());
        installed("openssl", openssl);
        let folder = tempfile::tempdir().expect("a folder for temporary files can be made");
        let (certificate, key) = (folder.path().join("certificate"), folder.path().join("key"));
        let mut openssl = Command::new("openssl");
        openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]);
        openssl.args(["-noenc", "-days", "30", "-subj", &format!("/CN={name}")]);
        openssl.args(["-addext", &format!("subjectAltName=DNS:{name}")]);
        run(openssl.arg("-out").arg(&certificate).arg("-keyout").arg(&key));
        let [certificate, key] = [certificate, key]
            .map(|path| fs::read_to_string(path).expect("openssl writes what it was asked for"));
        Certificate { name: name.to_owned(), certificate, key }
    }

    /// Its common name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The certificate, in PEM.
    pub fn pem(&self) -> &str {
        &self.certificate
    }

    /// Its private key, in PEM.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The secret of a server that shows it.
    pub fn secret(&self, name: &str) -> Resource {
        let certificate = TlsCertificate {
            certificate_chain: Some(inline(&self.certificate)),
            private_key: Some(inline(&self.key)),
            ..TlsCertificate::default()
        };
        let r#type = Some(secret::Type::TlsCertificate(certificate));
        envoy::resource(&Secret { name: name.into(), r#type })
    }

    /// The secret of a client that trusts it.
    pub fn authority(&self, name: &str) -> Resource {
        trust(name, &self.certificate)
    }

    /// The secret of a client that trusts another one, too.
    pub fn authority_beside(&self, other: &Certificate, name: &str) -> Resource {
        trust(name, &[&*self.certificate, &*other.certificate].concat())
    }
}

fn trust(name: &str, certificates: &str) -> Resource {
    let validation = CertificateValidationContext {
        trusted_ca: Some(inline(certificates)),
        ..CertificateValidationContext::default()
    };
    let r#type = Some(secret::Type::ValidationContext(validation));
    envoy::resource(&Secret { name: name.into(), r#type })
}

fn inline(text: &str) -> DataSource {
    DataSource { specifier: Some(Specifier::InlineString(text.into())), ..DataSource::default() }
}
