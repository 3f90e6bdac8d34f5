//! A certificate authority, and files with what it signs.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType,
    date_time_ymd,
};
use tempfile::TempDir;

/// An authority of its own, with a folder for what it signs.
#[derive(Debug)]
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

/// The files of a certificate and its key.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl Authority {
    /// Makes one.
    pub fn make() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).expect("no name is wrong");
        // Who has the name of his issuer is taken for one who vouches for himself.
        params.distinguished_name.push(DnType::CommonName, "an authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key can be made");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("it can sign itself");
        let folder = tempfile::tempdir().expect("a folder for temporary files can be made");
        let authority = Authority { issuer, folder };
        fs::write(authority.file(), authority.issuer.pem()).expect("a folder can be written to");
        authority
    }

    /// Its own certificate.
    pub fn file(&self) -> PathBuf {
        self.folder.path().join("authority.pem")
    }

    /// Signs a certificate for a URI, an address or the name of a host, in files of this name. What was in them
    /// is replaced, each at one moment.
    pub fn sign(&self, file: &str, name: &str) -> Pair {
        self.sign_for(file, name, None)
    }

    /// The same for one that ends when so much time is over.
    pub fn sign_for(&self, file: &str, name: &str, lifetime: Option<Duration>) -> Pair {
        let key = KeyPair::generate().expect("a key can be made");
        let is_uri = name.contains("://");
        let hosts = if is_uri { Vec::new() } else { vec![name.to_owned()] };
        let mut params = CertificateParams::new(hosts).expect("a test knows what a name is");
        params.distinguished_name.push(DnType::CommonName, name);
        if let Some(lifetime) = lifetime {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
            params.not_after = date_time_ymd(1970, 1, 1) + now + lifetime;
        }
        if is_uri {
            let uri = name.try_into().expect("a test knows what a URI is");
            params.subject_alt_names.push(SanType::URI(uri));
        }
        let certificate = params.signed_by(&key, &self.issuer).expect("an authority can sign");
        let place = |end: &str| self.folder.path().join(format!("{file}.{end}"));
        let pair = Pair { certificate: place("pem"), key: place("key") };
        replace(&pair.key, &key.serialize_pem());
        replace(&pair.certificate, &certificate.pem());
        pair
    }
}

fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).expect("a folder can be written to");
    fs::rename(new, path).expect("a file can be renamed where it is");
}
