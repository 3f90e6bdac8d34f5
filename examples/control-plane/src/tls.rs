//! TLS by certificates in files, which may change while they are used.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use deltaplane_server::Peer;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::{NoClientAuth, WebPkiClientVerifier, danger::ClientCertVerifier};
use rustls::{RootCertStore, ServerConfig};
use thiserror::Error;

use crate::certificates::pem;
use crate::status::health::Health;

/// How often one looks whether the files have changed.
const LOOK: Duration = Duration::from_secs(1);

/// Why there is no TLS by these files.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TlsError {
    /// One of them is not given.
    #[error("{given} needs {missing} beside it; give both")]
    Missing {
        /// What is given.
        given: String,
        /// What is not.
        missing: String,
    },
    /// One of them cannot be read.
    #[error("cannot read the file {} of {flag}: {why}", .path.display())]
    Unreadable {
        /// Where it should be.
        path: PathBuf,
        /// What names it.
        flag: String,
        /// What was in the way.
        why: std::io::Error,
    },
    /// What is in one of them is of no use.
    #[error("the file {} of {flag} {why}", .path.display())]
    Useless {
        /// Where it is.
        path: PathBuf,
        /// What names it.
        flag: String,
        /// What is wrong with it.
        why: String,
    },
}

/// How TLS on one face is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TlsStatus {
    /// When the certificate ends, in seconds since 1970.
    pub not_after: i64,
    /// When the first of the client CAs ends, if clients have to show a certificate.
    pub client_ca_not_after: Option<i64>,
    /// How often what is in the files was taken over, with the first time.
    pub loads: u64,
    /// Why what is in the files now is not used.
    pub trouble: Option<String>,
}

/// The files for one face.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    /// What the face is called.
    face: &'static str,
    certificate: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
}

/// What the flags of a face begin with.
fn prefix(face: &str) -> &'static str {
    if face == "http" { "--http-tls" } else { "--tls" }
}

/// What is in them.
#[derive(Clone, PartialEq, Eq)]
struct Contents {
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

/// What they amount to.
pub(crate) struct Loaded {
    pub(crate) config: Arc<ServerConfig>,
    pub(crate) clients: Clients,
    contents: Contents,
    not_after: i64,
    client_ca_not_after: Option<i64>,
}

impl Files {
    /// The files that flags name, if they do.
    pub(crate) fn new(
        face: &'static str,
        certificate: Option<&PathBuf>,
        key: Option<&PathBuf>,
        client_ca: Option<&PathBuf>,
    ) -> Result<Option<Files>, TlsError> {
        let flag = |which: &str| format!("{}-{which}", prefix(face));
        let missing = |given: String, missing: String| Err(TlsError::Missing { given, missing });
        match (certificate, key, client_ca) {
            (Some(certificate), Some(key), client_ca) => Ok(Some(Files {
                face,
                certificate: certificate.clone(),
                key: key.clone(),
                client_ca: client_ca.cloned(),
            })),
            (Some(_), None, _) => missing(flag("cert"), flag("key")),
            (None, Some(_), _) => missing(flag("key"), flag("cert")),
            (None, None, Some(_)) => missing("--client-ca".to_owned(), flag("cert")),
            (None, None, None) => Ok(None),
        }
    }

    /// Whether clients have to show a certificate.
    pub(crate) fn wants_clients(&self) -> bool {
        self.client_ca.is_some()
    }

    /// What is in the files now.
    pub(crate) fn load(&self) -> Result<Loaded, TlsError> {
        let contents = self.contents()?;
        self.read(contents)
    }

    fn contents(&self) -> Result<Contents, TlsError> {
        let read = |path: &Path, flag: String| {
            let path = path.to_owned();
            fs::read(&path).map_err(|why| TlsError::Unreadable { path, flag, why })
        };
        Ok(Contents {
            certificate: read(&self.certificate, format!("{}-cert", prefix(self.face)))?,
            key: read(&self.key, format!("{}-key", prefix(self.face)))?,
            client_ca: match &self.client_ca {
                Some(path) => Some(read(path, "--client-ca".to_owned())?),
                None => None,
            },
        })
    }

    fn read(&self, contents: Contents) -> Result<Loaded, TlsError> {
        let of = |path: &Path, flag: String| {
            let path = path.to_owned();
            move |why: String| TlsError::Useless { path, flag, why }
        };
        let of_certificate = || of(&self.certificate, format!("{}-cert", prefix(self.face)));
        let of_key = || of(&self.key, format!("{}-key", prefix(self.face)));
        let (certificate, chain) = chain(&contents.certificate).map_err(of_certificate())?;
        let key = String::from_utf8_lossy(&contents.key);
        pem::pair(&String::from_utf8_lossy(&contents.certificate), &key).map_err(
            |(field, why)| match field {
                "key" => of_key()(why),
                _ => of_certificate()(why),
            },
        )?;
        // That it is one is known by now.
        let key = PrivateKeyDer::from_pem_slice(&contents.key);
        let key = key.map_err(|_| of_key()("holds no private key".to_owned()))?;
        let (clients, client_ca_not_after) = match (&self.client_ca, &contents.client_ca) {
            (Some(path), Some(authorities)) => {
                let (verifier, end) =
                    clients(authorities).map_err(of(path, "--client-ca".to_owned()))?;
                (Clients(Some(verifier)), Some(end))
            }
            _ => (Clients(None), None),
        };
        let config = ServerConfig::builder().with_client_cert_verifier(clients.verifier());
        let mut config = config
            .with_single_cert(chain, key)
            .map_err(|error| of_key()(format!("cannot be used: {error}")))?;
        let protocol = if self.face == "http" { &b"http/1.1"[..] } else { b"h2" };
        config.alpn_protocols = vec![protocol.to_vec()];
        let (config, not_after) = (Arc::new(config), certificate);
        Ok(Loaded { config, clients, contents, not_after, client_ca_not_after })
    }

    /// Looks for ever whether the files have changed, and hands over what they amount to. While they amount to
    /// nothing, what was handed over last stays in force.
    pub(crate) async fn follow(self, loaded: Loaded, health: Health, take: impl Fn(&Loaded)) {
        self.took(&loaded, &health);
        let mut last = loaded.contents;
        let mut complaint = None;
        loop {
            tokio::time::sleep(LOOK).await;
            let found = self.contents();
            if found.as_ref().is_ok_and(|found| *found == last) {
                self.complain(&health, &mut complaint, None);
                continue;
            }
            match found.and_then(|contents| self.read(contents)) {
                Ok(loaded) => {
                    take(&loaded);
                    self.took(&loaded, &health);
                    tracing::info!(face = self.face, "the certificates have changed and are used");
                    last = loaded.contents;
                    complaint = None;
                }
                Err(error) => self.complain(&health, &mut complaint, Some(error.to_string())),
            }
        }
    }

    fn took(&self, loaded: &Loaded, health: &Health) {
        health.update(|status| {
            let status = status.tls.entry(self.face).or_default();
            status.not_after = loaded.not_after;
            status.client_ca_not_after = loaded.client_ca_not_after;
            status.loads += 1;
            status.trouble = None;
        });
    }

    /// Says once what is wrong, and when that is over.
    fn complain(&self, health: &Health, said: &mut Option<String>, now: Option<String>) {
        if *said == now {
            return;
        }
        if let Some(problem) = &now {
            tracing::warn!(
                face = self.face,
                problem,
                "the certificates have changed and cannot be used; the old ones stay in force"
            );
        }
        said.clone_from(&now);
        health.update(|status| status.tls.entry(self.face).or_default().trouble = now);
    }
}

/// Who checks the certificates of clients, if they have to show any.
#[derive(Clone)]
pub(crate) struct Clients(Option<Arc<dyn ClientCertVerifier>>);

impl Clients {
    fn verifier(&self) -> Arc<dyn ClientCertVerifier> {
        self.0.clone().unwrap_or_else(|| Arc::new(NoClientAuth))
    }

    /// Whether one that connected before could do so now. Takes as long as it did then.
    pub(crate) fn accept(&self, peer: &Peer) -> bool {
        let Some(verifier) = &self.0 else { return true };
        let shown = peer.certificate.as_ref().and_then(|shown| shown.chain.split_first());
        shown.is_some_and(|(own, others)| {
            verifier.verify_client_cert(own, others, UnixTime::now()).is_ok()
        })
    }
}

/// A certificate's end, and the certificate with those that vouch for it.
fn chain(pem: &[u8]) -> Result<(i64, Vec<CertificateDer<'static>>), String> {
    let known = pem::certificates(&String::from_utf8_lossy(pem))?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let chain = chain.map_err(|error| format!("is no PEM: {error}"))?;
    let end = known.first().map(|certificate| certificate.not_after).unwrap_or_default();
    Ok((end, chain))
}

/// What checks the certificates of clients, and when the first of who vouches for them ends.
fn clients(pem: &[u8]) -> Result<(Arc<dyn ClientCertVerifier>, i64), String> {
    let known = pem::certificates(&String::from_utf8_lossy(pem))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| format!("is no PEM: {error}"))?;
        roots.add(certificate).map_err(|error| format!("holds no CA: {error}"))?;
    }
    let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build();
    let verifier = verifier.map_err(|error| format!("holds no CA: {error}"))?;
    let end = known.iter().map(|certificate| certificate.not_after).min().unwrap_or_default();
    Ok((verifier, end))
}
