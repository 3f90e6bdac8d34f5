//! Mutual TLS between a contestant and its fleet: the runner makes the certificates, the others read them.

use std::{fs, path::Path, sync::Arc};

use rcgen::{CertificateParams, CertifiedIssuer, DnType, KeyPair};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};

use crate::Result;

/// The name that servers go by.
pub const SERVER: &str = "localhost";

const CA: &str = "ca.pem";

/// Makes a CA, and a certificate of it for either side.
///
/// # Errors
/// If the folder cannot be written to.
pub fn make(folder: &Path) -> Result<()> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, "fleet benchmark");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    fs::create_dir_all(folder)?;
    fs::write(folder.join(CA), ca.pem())?;
    for (side, name) in [("server", SERVER), ("client", "client")] {
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new(vec![name.to_owned()])?.signed_by(&key, &ca)?;
        fs::write(folder.join(format!("{side}.pem")), certificate.pem())?;
        fs::write(folder.join(format!("{side}.key")), key.serialize_pem())?;
    }
    Ok(())
}

/// What a server shows and wants to be shown.
///
/// # Errors
/// If the folder does not hold what [`make`] makes.
pub fn server(folder: &Path) -> Result<Arc<ServerConfig>> {
    let clients = WebPkiClientVerifier::builder(Arc::new(authorities(folder)?)).build()?;
    let (certificates, key) = identity(folder, "server")?;
    let mut config = ServerConfig::builder()
        .with_client_cert_verifier(clients)
        .with_single_cert(certificates, key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

/// What a client shows and wants to be shown.
///
/// # Errors
/// As [`server`].
pub fn client(folder: &Path) -> Result<Arc<ClientConfig>> {
    let (certificates, key) = identity(folder, "client")?;
    let mut config = ClientConfig::builder()
        .with_root_certificates(authorities(folder)?)
        .with_client_auth_cert(certificates, key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

fn authorities(folder: &Path) -> Result<RootCertStore> {
    let mut authorities = RootCertStore::empty();
    authorities.add(CertificateDer::from_pem_file(folder.join(CA))?)?;
    Ok(authorities)
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn identity(folder: &Path, side: &str) -> Result<Identity> {
    let certificate = CertificateDer::from_pem_file(folder.join(format!("{side}.pem")))?;
    let key = PrivateKeyDer::from_pem_file(folder.join(format!("{side}.key")))?;
    Ok((vec![certificate], key))
}
