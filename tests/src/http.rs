//! Requests over HTTP/1.1, each on a connection of its own.

use std::sync::LazyLock;
use std::time::Duration;

use serde_json::Value;
use ureq::Agent;

/// An answer, whatever its status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its status code.
    pub status: u16,
    /// Its body.
    pub body: String,
}

impl Answer {
    /// The body as JSON.
    ///
    /// # Panics
    /// If it is something else.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {:?}", self.body))
    }
}

/// No connection is kept: a test asks the listener that is there now.
static AGENT: LazyLock<Agent> = LazyLock::new(|| {
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .max_idle_connections(0)
        .timeout_global(Some(Duration::from_secs(30)))
        .build();
    config.new_agent()
});

/// Sends a request, with a body of JSON or none. An error says that there was no answer.
///
/// # Errors
/// If there was no answer.
pub fn request(method: &str, url: &str, body: Option<&str>) -> Result<Answer, ureq::Error> {
    match body {
        Some(body) => send(method, url, "application/json", body),
        None => {
            let request = ureq::http::Request::builder().method(method).uri(url);
            answer(AGENT.run(request.body(())?)?)
        }
    }
}

/// Sends a request with a body of some type.
///
/// # Errors
/// If there was no answer.
pub fn send(method: &str, url: &str, kind: &str, body: &str) -> Result<Answer, ureq::Error> {
    let request = ureq::http::Request::builder().method(method).uri(url);
    answer(AGENT.run(request.header("content-type", kind).body(body.to_owned())?)?)
}

fn answer(mut response: ureq::http::Response<ureq::Body>) -> Result<Answer, ureq::Error> {
    let body = response.body_mut().with_config().limit(256 << 20).read_to_string()?;
    let status = response.status().as_u16();
    Ok(Answer { status, body })
}

/// Gets what is at a URL, with these headers.
///
/// # Errors
/// If there was no answer.
pub fn get_with(url: &str, headers: &[(&str, &str)]) -> Result<Answer, ureq::Error> {
    let mut request = ureq::http::Request::builder().uri(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    answer(AGENT.run(request.body(())?)?)
}

/// Gets what is at a URL.
///
/// # Errors
/// If there was no answer.
pub fn get(url: &str) -> Result<Answer, ureq::Error> {
    request("GET", url, None)
}
