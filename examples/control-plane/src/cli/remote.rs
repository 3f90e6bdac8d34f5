//! A server, as its command line sees it: over its HTTP API.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::Value;
use thiserror::Error;
use ureq::Agent;
use ureq::http::{Request, Uri};
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use crate::access::author::{AUTHOR, LABEL};
use crate::cli;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Answers may list what a whole fleet runs.
const ANSWER_MAX: u64 = 1 << 30;

/// Why there is no answer, or none that helps.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RemoteError {
    /// Nobody is there.
    #[error(
        "cannot ask the server at {server}: {why}; check that deltaplane serve runs there, and \
         that --server (DELTAPLANE_SERVER) names its HTTP address"
    )]
    Unreachable {
        /// Where it should be.
        server: String,
        /// What was in the way.
        why: String,
    },
    /// What is to be shown, or to be trusted, is not where it should be.
    #[error("cannot use the file {} of {flag}: {why}", .path.display())]
    File {
        /// Where it should be.
        path: PathBuf,
        /// What names it.
        flag: &'static str,
        /// What was in the way.
        why: String,
    },
    /// Nobody is to be trusted.
    #[error(
        "https needs --ca-file (DELTAPLANE_CA_FILE): the certificates of whom the server's is \
         signed by"
    )]
    NoAuthority,
    /// The server says no.
    #[error("{0}")]
    Refused(String),
}

/// A server's HTTP API.
#[derive(Clone)]
pub struct Remote {
    agent: Agent,
    server: String,
    token: Option<String>,
    author: Option<String>,
    label: Option<String>,
}

/// Never shows the token.
impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Remote({})", self.server)
    }
}

impl Remote {
    /// Knows where it is, and what to show there; nothing is asked yet.
    pub fn new(arguments: &cli::Remote) -> Result<Remote, RemoteError> {
        let token = match &arguments.token_file {
            None => arguments.token.clone(),
            Some(path) => Some(read(path, "--token-file (DELTAPLANE_TOKEN_FILE)")?),
        };
        let token = token.map(|token| token.trim().to_owned());
        let server = arguments.server.trim_end_matches('/');
        let scheme = if server.contains("://") { "" } else { "http://" };
        let server = format!("{scheme}{server}");
        let mut config =
            Agent::config_builder().http_status_as_error(false).timeout_global(Some(PATIENCE));
        if let Some(path) = &arguments.ca_file {
            config = config.tls_config(trust(path)?);
        } else if server.starts_with("https://") {
            return Err(RemoteError::NoAuthority);
        }
        Ok(Remote { agent: config.build().new_agent(), server, token, author: None, label: None })
    }

    /// The same, in somebody's name.
    #[must_use]
    pub fn by(self, author: Option<String>) -> Remote {
        Remote { author, ..self }
    }

    /// The same, by what somebody calls his changes.
    #[must_use]
    pub fn called(&self, label: Option<String>) -> Remote {
        Remote { label, ..self.clone() }
    }

    /// What is at a path.
    pub fn get(&self, path: &str) -> Result<Value, RemoteError> {
        self.ask("GET", path, None)
    }

    /// What is answered to a document.
    pub fn post(&self, path: &str, document: &Value) -> Result<Value, RemoteError> {
        self.ask("POST", path, Some(document))
    }

    fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value, RemoteError> {
        let url = format!("{}{path}", self.server);
        let uri: Uri = url.parse().map_err(|error| self.unreachable(error))?;
        let mut request = Request::builder().method(method).uri(uri);
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if let Some(author) = &self.author {
            request = request.header(AUTHOR, author.as_bytes());
        }
        if let Some(label) = &self.label {
            request = request.header(LABEL, label.as_bytes());
        }
        let response = match body {
            None => request.body(()).map_err(Into::into).and_then(|it| self.agent.run(it)),
            Some(document) => {
                let request = request.header("content-type", "application/json");
                let request = request.body(document.to_string());
                request.map_err(Into::into).and_then(|it| self.agent.run(it))
            }
        };
        let response = response.map_err(|error: ureq::Error| self.unreachable(error));
        let (head, mut body) = response?.into_parts();
        let text = body.with_config().limit(ANSWER_MAX).read_to_string();
        let text = text.map_err(|error| self.unreachable(error))?;
        let answer: Option<Value> = serde_json::from_str(&text).ok();
        match answer {
            Some(answer) if head.status.is_success() => Ok(answer),
            Some(problem) if problem["detail"].is_string() => Err(refused(&problem)),
            _ => {
                let why = format!("{url} answered {} and no JSON of deltaplane", head.status);
                Err(self.unreachable(why))
            }
        }
    }

    fn unreachable(&self, why: impl ToString) -> RemoteError {
        RemoteError::Unreachable { server: self.server.clone(), why: why.to_string() }
    }
}

fn read(path: &Path, flag: &'static str) -> Result<String, RemoteError> {
    let fail = |why: io::Error| {
        let (path, why) = (path.to_owned(), why.to_string());
        RemoteError::File { path, flag, why }
    };
    std::fs::read_to_string(path).map_err(fail)
}

/// Trusts who is in a file, and nobody else.
fn trust(path: &Path) -> Result<TlsConfig, RemoteError> {
    let flag = "--ca-file (DELTAPLANE_CA_FILE)";
    let pem = read(path, flag)?;
    let roots: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let roots = roots.ok().filter(|roots| !roots.is_empty()).ok_or_else(|| {
        let (path, why) = (path.to_owned(), "it holds no certificates in PEM".to_owned());
        RemoteError::File { path, flag, why }
    })?;
    let roots = roots.iter().map(|root| Certificate::from_der(root).to_owned());
    let roots: Vec<Certificate<'static>> = roots.collect();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = TlsConfig::builder().root_certs(RootCerts::new_with_certs(&roots));
    Ok(config.unversioned_rustls_crypto_provider(provider).build())
}

/// A problem in a line for each fault.
fn refused(problem: &Value) -> RemoteError {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let faults = problem["errors"].as_array().map(Vec::as_slice).unwrap_or_default();
    let fault = |fault: &Value| format!("{}: {}", text(&fault["field"]), text(&fault["message"]));
    let lines: Vec<String> = faults.iter().map(fault).collect();
    RemoteError::Refused(match lines.is_empty() {
        true => text(&problem["detail"]),
        false => lines.join("\n"),
    })
}

/// A name as a part of a path or a query.
pub fn escape(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    let escaped =
        |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    name.bytes().map(escaped).collect()
}
