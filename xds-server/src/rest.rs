//! REST-JSON polling: what Envoys ask for by HTTP instead of gRPC.
//!
//! A poll says what the client runs, and is answered at once: with all that it asks for, or that nothing
//! changed (H-02, H-03). There is no stream, so nothing is in order, a rejection is not told (H-04), and
//! nobody is counted among the connected clients.

use std::{collections::BTreeSet, sync::Arc};

use bytes::{Bytes, BytesMut};
use deltaplane_cache::Scope;
use deltaplane_core::{Machine, Order, SotwRequest, SotwResponse, TypeUrl, Variant};
use envoy_types::pb::envoy::config::core::v3::Node;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use prost::Message;
use prost_reflect::{DeserializeOptions, DynamicMessage};
use serde_json::{Deserializer, json};
use tonic::{Code, Status};
use xxhash_rust::xxh3::Xxh3Default;

use crate::{
    csds,
    envoy::descriptors,
    peer::Credentials,
    server::{Shared, XdsServer},
};

/// What all paths begin with.
const PREFIX: &str = "/v3/discovery:";

/// What is behind that, and of which type it is.
const TYPES: [(&str, TypeUrl); 8] = [
    ("clusters", TypeUrl::CLUSTER),
    ("endpoints", TypeUrl::ENDPOINT),
    ("extension_configs", TypeUrl::EXTENSION_CONFIG),
    ("listeners", TypeUrl::LISTENER),
    ("routes", TypeUrl::ROUTE),
    ("runtime", TypeUrl::RUNTIME),
    ("scoped-routes", TypeUrl::SCOPED_ROUTE),
    ("secrets", TypeUrl::SECRET),
];

/// Where it is told how clients are (C-01).
const CLIENT_STATUS: &str = "client_status";

/// What it is all called in the Envoy API.
const REQUEST: &str = "envoy.service.discovery.v3.DiscoveryRequest";
const RESPONSE: &str = "envoy.service.discovery.v3.DiscoveryResponse";
const STATUS_REQUEST: &str = "envoy.service.status.v3.ClientStatusRequest";
const STATUS_RESPONSE: &str = "envoy.service.status.v3.ClientStatusResponse";

/// A failure: the status, and words for people.
type Failure = (StatusCode, String);

impl XdsServer {
    /// Answers what clients and tools ask by HTTP, for an HTTP server of your own: polls by
    /// `POST /v3/discovery:clusters` and its like, with all that the client asks for, or with 304 if it has
    /// that; and `POST /v3/discovery:client_status` (CSDS).
    ///
    /// What is there is encoded as JSON for each poll that finds something new, so this is for few clients
    /// that cannot do better. They are not among the connected ones. An
    /// [authorizer](crate::XdsServerBuilder::authorizer) is asked for each poll, with the [`Peer`](crate::Peer)
    /// in the request's extensions.
    pub async fn poll(&self, request: &http::Request<Bytes>) -> http::Response<Bytes> {
        answer(&self.shared, request).await
    }
}

/// Answers a poll.
async fn answer(shared: &Shared, request: &Request<Bytes>) -> Response<Bytes> {
    match poll(shared, request).await {
        Ok(Some(json)) => respond(StatusCode::OK, "application/json", json),
        Ok(None) => respond(StatusCode::NOT_MODIFIED, "", String::new()),
        Err((status, detail)) => {
            // RFC 9457.
            let title = status.canonical_reason().unwrap_or_default();
            let (kind, code) = ("about:blank", status.as_u16());
            let problem = json!({"type": kind, "title": title, "status": code, "detail": detail});
            respond(status, "application/problem+json", problem.to_string())
        }
    }
}

fn respond(status: StatusCode, content_type: &'static str, body: String) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = status;
    if !content_type.is_empty() {
        let content_type = HeaderValue::from_static(content_type);
        response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    }
    response
}

/// What the client asks for, or nothing if it has that.
async fn poll(shared: &Shared, request: &Request<Bytes>) -> Result<Option<String>, Failure> {
    let path = request.uri().path();
    let asked = path.strip_prefix(PREFIX).unwrap_or_default();
    let known = TYPES.iter().find(|(name, _)| *name == asked);
    if known.is_none() && asked != CLIENT_STATUS {
        let names = TYPES.map(|(name, _)| name).join(", ");
        let words = format!(
            "there is no {path} here: after {PREFIX} comes one of {names}, or {CLIENT_STATUS}"
        );
        return Err((StatusCode::NOT_FOUND, words));
    }
    if request.method() != Method::POST {
        let words = format!("{path} is asked by POST, with what is asked for as JSON");
        return Err((StatusCode::METHOD_NOT_ALLOWED, words));
    }
    let limit = shared.limits.request_size;
    if request.body().len() > limit {
        let words = format!("a request may have {limit} bytes");
        return Err((StatusCode::PAYLOAD_TOO_LARGE, words));
    }
    let credentials = Credentials::of(request.headers(), request.extensions());
    let Some((_, type_url)) = known else {
        let asked = read(STATUS_REQUEST, request.body())?;
        let status = csds::status(shared, credentials, asked).await.map_err(not_admitted)?;
        return write(STATUS_RESPONSE, status.encode_to_vec().into()).map(Some);
    };
    let mut request: SotwRequest = read(REQUEST, request.body())?;
    if request.type_url.is_empty() {
        request.type_url.push_str(type_url);
    } else if *request.type_url != **type_url {
        let words = format!("{path} is for {type_url}, and not for {}", request.type_url);
        return Err(refused(words));
    }
    let held = std::mem::take(&mut request.version_info);
    let node = Node::decode(request.node.take().unwrap_or_default()).map_err(refused)?;
    let grant = shared.admit(credentials, &node).await.map_err(not_admitted)?;
    let scopes = shared.scopes_of(&node, grant.as_ref());
    let names = fingerprint(&request.resource_names);
    let response = ask(shared, request, &scopes)?;
    let answer = SotwResponse::decode(response.clone()).map_err(unreadable)?;
    let version_info = answer.version_info + &names;
    if version_info == held {
        return Ok(None);
    }
    // Of a field that comes twice, the last one counts.
    let version = SotwResponse { version_info, ..SotwResponse::default() }.encode_to_vec();
    write(RESPONSE, [&*response, &version].concat().into()).map(Some)
}

/// What tells the names that are asked for from others: of some types the version is of all that there is, and
/// who asks for more by it has not got that (H-02). Nothing, if no names are.
fn fingerprint(names: &[String]) -> String {
    let names: BTreeSet<&str> = names.iter().map(String::as_str).collect();
    if names.is_empty() {
        return String::new();
    }
    let mut hash = Xxh3Default::new();
    for name in names {
        hash.update(&name.len().to_le_bytes());
        hash.update(name.as_bytes());
    }
    format!(".{:016x}", hash.digest())
}

/// What a client that has nothing is told, encoded; its nonce is optional here.
fn ask(shared: &Shared, mut request: SotwRequest, scopes: &Arc<[Scope]>) -> Result<Bytes, Failure> {
    request.response_nonce.clear();
    request.error_detail = None;
    let view = shared.cache.view(scopes);
    let mut machine = Machine::new(Variant::Sotw);
    machine.set_limits(shared.limits.stream);
    machine.set_order(Order::InOneBreath);
    machine.handle_request(request.into()).map_err(refused)?;
    machine.demand_answers();
    let answer = machine.poll_response(&view).ok().flatten();
    let Some(answer) = answer else {
        let words = "nothing is known yet for this node and type: try again later";
        return Err((StatusCode::SERVICE_UNAVAILABLE, words.to_owned()));
    };
    let identity = shared.identity(Variant::Sotw);
    let mut response = BytesMut::with_capacity(answer.encoded_len() + identity.len());
    answer.encode_head(&mut response);
    response.extend_from_slice(identity);
    response.extend_from_slice(&answer.body);
    Ok(response.freeze())
}

/// Reads a request, by protobuf's mapping of JSON. What a client knows and we do not is left out.
fn read<M: Message + Default>(name: &str, json: &[u8]) -> Result<M, Failure> {
    let descriptor = descriptors::pool().get_message_by_name(name).ok_or_else(no_api)?;
    let options = DeserializeOptions::new().deny_unknown_fields(false);
    let mut json = Deserializer::from_slice(json);
    let message = DynamicMessage::deserialize_with_options(descriptor, &mut json, &options);
    let message = message.and_then(|message| json.end().map(|()| message));
    let message =
        message.map_err(|error| refused(format!("this is no {name} as JSON: {error}")))?;
    M::decode(&*message.encode_to_vec()).map_err(unreadable)
}

fn write(name: &str, message: Bytes) -> Result<String, Failure> {
    let descriptor = descriptors::pool().get_message_by_name(name).ok_or_else(no_api)?;
    let message = DynamicMessage::decode(descriptor, message).map_err(unreadable)?;
    serde_json::to_string(&message).map_err(|error| {
        let words = format!("a resource cannot be written as JSON: {error}");
        (StatusCode::INTERNAL_SERVER_ERROR, words)
    })
}

fn refused(words: impl ToString) -> Failure {
    (StatusCode::BAD_REQUEST, words.to_string())
}

/// What the authorizer, or the service, says of somebody.
fn not_admitted(status: Status) -> Failure {
    let code = match status.code() {
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::InvalidArgument => StatusCode::BAD_REQUEST,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    (code, status.message().to_owned())
}

fn unreadable(error: prost::DecodeError) -> Failure {
    (StatusCode::INTERNAL_SERVER_ERROR, format!("a message cannot be read: {error}"))
}

fn no_api() -> Failure {
    (StatusCode::INTERNAL_SERVER_ERROR, "the Envoy API is not known".to_owned())
}
