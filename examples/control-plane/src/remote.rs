//! A server, as its command line sees it: over its REST face.

use std::path::PathBuf;
use std::time::Duration;
use std::{fmt, io};

use serde_json::Value;
use thiserror::Error;
use ureq::Agent;
use ureq::http::{Request, Uri};

use crate::author::AUTHOR;
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
    /// There is no token where it should be.
    #[error("cannot read the token in {}: {why}; --token-file (DELTAPLANE_TOKEN_FILE) names it", .path.display())]
    Token {
        /// Where it should be.
        path: PathBuf,
        /// What was in the way.
        why: io::Error,
    },
    /// The server says no.
    #[error("{0}")]
    Refused(String),
}

/// A server's REST face.
pub struct Remote {
    agent: Agent,
    server: String,
    token: Option<String>,
    author: Option<String>,
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
            Some(path) => Some(std::fs::read_to_string(path).map_err(|why| {
                let path = path.clone();
                RemoteError::Token { path, why }
            })?),
        };
        let token = token.map(|token| token.trim().to_owned());
        let server = arguments.server.as_str();
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(PATIENCE))
            .build();
        let server = server.trim_end_matches('/');
        let scheme = if server.contains("://") { "" } else { "http://" };
        let server = format!("{scheme}{server}");
        Ok(Remote { agent: config.new_agent(), server, token, author: None })
    }

    /// The same, in somebody's name.
    #[must_use]
    pub fn by(self, author: Option<String>) -> Remote {
        Remote { author, ..self }
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
