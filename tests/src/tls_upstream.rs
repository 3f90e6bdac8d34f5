//! What Envoy routes to over TLS.

use std::fs;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::envoy::certificate::Certificate;
use crate::process::Process;

/// An HTTP server of `openssl`, which answers every request with a page about its connection.
#[derive(Debug)]
pub struct TlsUpstream {
    port: u16,
    _process: Process,
    _folder: TempDir,
}

impl TlsUpstream {
    /// Starts to listen on a port, and shows this certificate.
    pub fn start(certificate: &Certificate) -> TlsUpstream {
        let folder = tempfile::tempdir().expect("a folder for temporary files can be made");
        let [shown, key] = ["certificate", "key"].map(|name| folder.path().join(name));
        fs::write(&shown, certificate.pem()).expect("a folder can be written to");
        fs::write(&key, certificate.key()).expect("a folder can be written to");
        let mut openssl = Command::new("openssl");
        openssl.args(["s_server", "-www", "-accept", "127.0.0.1:0", "-naccept", "1000"]);
        openssl.arg("-cert").arg(shown).arg("-key").arg(key);
        let mut process = Process::start("openssl", &mut openssl, &folder.path().join("log"));
        let listens = |process: &Process| accepts(&process.log());
        let port = process.wait_until("openssl listens", Duration::from_secs(10), listens);
        TlsUpstream { port, _process: process, _folder: folder }
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }
}

/// Where the log says that it listens.
fn accepts(log: &str) -> Option<u16> {
    let line = log.lines().find(|line| line.starts_with("ACCEPT"))?;
    line.rsplit(':').next()?.trim().parse().ok()
}
