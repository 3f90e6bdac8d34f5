//! A real gRPC client that finds its backends by xDS, in a language of its own.

use std::collections::BTreeMap;
use std::fmt;
use std::process::Command;
use std::time::Duration;

use deltaplane_server::TypeUrl;
use deltaplane_server::envoy_types::pb::envoy::admin::v3::ClientResourceStatus;
use deltaplane_server::envoy_types::pb::envoy::service::status::v3::ClientStatusResponse;
use prost::Message;
use serde_json::{Value, json};

use crate::grpc::program::Program;
use crate::{grpc::tools, wait_until};

/// How long a change may take to be seen, that of a client which must connect again included: it tries
/// after a second at first, and later after longer.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// How long a call may take that is expected to work.
const DEADLINE: Duration = Duration::from_secs(10);

/// Who wrote the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// grpcio: C-core, as Python, C++, Ruby and others have it.
    Python,
    /// grpc-go.
    Go,
    /// grpc-js with grpc-js-xds.
    Node,
}

impl Language {
    fn program(self) -> Command {
        let script = |mut interpreter: Command, language: &str, name: &str| {
            interpreter.arg(tools::sources(language).join(name));
            interpreter
        };
        match self {
            Language::Python => script(tools::python(), "python", "client.py"),
            Language::Go => tools::go(),
            Language::Node => script(tools::node(), "node", "client.js"),
        }
    }
}

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The status code, in capitals and without separators, since each language has its own way with
    /// them: `DEADLINEEXCEEDED`.
    pub code: String,
    /// The client's own words.
    pub details: String,
}

/// What a client holds of one resource, by its own account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Belief {
    /// What became of it.
    pub status: ClientResourceStatus,
    /// The version of the response that it was accepted from.
    pub version: String,
    /// What was wrong with the one that was rejected last, if it was.
    pub error: Option<String>,
}

/// What a client holds of each resource that it asked for: by type and name.
pub type Beliefs = BTreeMap<(TypeUrl, String), Belief>;

/// How clients are told of a server, as its users read it.
const DOCUMENTED: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../xds-server/src/bootstraps.md"));

/// Tells a program who it is, and where its control plane is.
pub(crate) fn bootstrap(program: &mut Command, node_id: &str, control_plane: u16) {
    // G-18: the one that the documentation shows, in its first block of JSON.
    let (_, documented) = DOCUMENTED.split_once("```json").expect("it shows one");
    let (documented, _) = documented.split_once("```").expect("which ends");
    let mut bootstrap: Value = serde_json::from_str(documented).expect("which is JSON");
    bootstrap["xds_servers"][0]["server_uri"] = json!(format!("127.0.0.1:{control_plane}"));
    bootstrap["node"]["id"] = json!(node_id);
    program.env_remove("GRPC_XDS_BOOTSTRAP");
    program.env("GRPC_XDS_BOOTSTRAP_CONFIG", bootstrap.to_string());
}

/// A client in a process of its own.
#[derive(Debug)]
pub struct GrpcClient {
    language: Language,
    program: Program,
}

impl GrpcClient {
    /// Starts a client of the control plane on this port, to which it connects with its first call.
    pub fn start(language: Language, node_id: &str, port: u16) -> GrpcClient {
        GrpcClient::start_with(language, node_id, port, &[])
    }

    /// The same with further variables in its environment.
    pub fn start_with(
        language: Language,
        node_id: &str,
        port: u16,
        environment: &[(&str, &str)],
    ) -> GrpcClient {
        let mut program = language.program();
        bootstrap(&mut program, node_id, port);
        program.envs(environment.iter().copied());
        let program = Program::start(&format!("the client in {language:?}"), &mut program);
        let mut client = GrpcClient { language, program };
        // It may need seconds to start on a busy machine, which are nobody else's business.
        assert_eq!(client.beliefs(), Beliefs::new());
        client
    }

    /// Calls a method of a target, and returns the name of the backend that answered.
    pub fn call_within(
        &mut self,
        target: &str,
        method: &str,
        deadline: Duration,
    ) -> Result<String, Failure> {
        let answer = self.program.ask(&format!("call {target} {method} {}", deadline.as_millis()));
        match answer.split_once(' ') {
            Some(("ok", backend)) => Ok(backend.to_owned()),
            Some(("error", failure)) => {
                let (code, details) = failure.split_once(' ').unwrap_or((failure, ""));
                let code = code.replace('_', "").to_uppercase();
                Err(Failure { code, details: details.to_owned() })
            }
            _ => panic!("{answer:?} is no answer to a call"),
        }
    }

    /// The same, for as long as a call that works may take.
    pub fn call(&mut self, target: &str, method: &str) -> Result<String, Failure> {
        self.call_within(target, method, DEADLINE)
    }

    /// Waits until calls reach a backend; before, they may fail.
    pub fn reaches(&mut self, target: &str, method: &str, backend: &str) {
        let mut last = None;
        let what = format!("{target}/{method} reaches {backend}");
        wait_until(&what, PATIENCE, || {
            let answer = self.call(target, method);
            let there = answer.as_deref() == Ok(backend);
            if !there && last.as_ref() != Some(&answer) {
                println!("not yet: {answer:?}");
                last = Some(answer);
            }
            there.then_some(())
        });
    }

    /// Waits until calls move from one backend to another. No call is lost.
    pub fn moves(&mut self, target: &str, method: &str, from: &str, to: &str) {
        wait_until(&format!("{target}/{method} moves from {from} to {to}"), PATIENCE, || {
            let answer = self.call(target, method);
            if answer.as_deref() == Ok(from) || self.is_between_routes(&answer) {
                return None;
            }
            assert_eq!(answer.as_deref(), Ok(to));
            Some(())
        });
    }

    /// Go's client gives calls a new route just before it has the cluster of that route, though it knows
    /// both (`applyServiceConfigAndBalancer`, and only then `updateClientConnState`).
    fn is_between_routes(&self, answer: &Result<String, Failure>) -> bool {
        let unknown = "unknown cluster selected for RPC";
        self.language == Language::Go
            && answer.as_ref().is_err_and(|failure| failure.details.starts_with(unknown))
    }

    /// Waits until calls fail, and returns how; before, they reach a backend.
    pub fn fails(&mut self, target: &str, method: &str, backend: &str) -> Failure {
        wait_until(&format!("{target}/{method} fails"), PATIENCE, || {
            match self.call(target, method) {
                Ok(answer) => {
                    assert_eq!(answer, backend);
                    None
                }
                Err(failure) => Some(failure),
            }
        })
    }

    /// What it believes.
    pub fn beliefs(&mut self) -> Beliefs {
        let answer = self.program.ask("status");
        let answer = ClientStatusResponse::decode(bytes(&answer).as_slice());
        let clients = answer.expect("CSDS answers with a ClientStatusResponse").config;
        let resources = clients.into_iter().flat_map(|client| client.generic_xds_configs);
        let belief = |resource: &Resource| Belief {
            status: resource.client_status(),
            version: resource.version_info.clone(),
            error: resource.error_state.as_ref().map(|error| error.details.clone()),
        };
        // Node's client leaves out what stands before the type's name.
        let type_url = |resource: &Resource| match resource.type_url.contains('/') {
            true => TypeUrl::from(&*resource.type_url),
            false => TypeUrl::from(format!("type.googleapis.com/{}", resource.type_url)),
        };
        resources.map(|r| ((type_url(&r), r.name.clone()), belief(&r))).collect()
    }

    /// Waits until it believes that a resource has come to this.
    pub fn believes(&mut self, type_url: TypeUrl, name: &str, status: ClientResourceStatus) {
        let key = (type_url, name.to_owned());
        let what = format!("{name} is {}", status.as_str_name());
        wait_until(&what, PATIENCE, || {
            let beliefs = self.beliefs();
            beliefs.get(&key).is_some_and(|belief| belief.status == status).then_some(())
        });
    }
}

type Resource =
    deltaplane_server::envoy_types::pb::envoy::service::status::v3::client_config::GenericXdsConfig;

fn bytes(hexadecimal: &str) -> Vec<u8> {
    let digits = |at| u8::from_str_radix(&hexadecimal[at..at + 2], 16);
    let bytes = (0..hexadecimal.len()).step_by(2).map(digits);
    bytes.collect::<Result<_, _>>().expect("a status is in hexadecimal digits")
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.details)
    }
}
