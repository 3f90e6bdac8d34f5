//! The messages of the protocol, as they lie on the wire.
//!
//! These are the discovery messages of `envoy.service.discovery.v3`, with two differences: a request's
//! node stays encoded (Envoy sends 61 KiB of it with every request, and only the first matters), and a
//! response is built from entries that were encoded when their resources entered.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    sync::Arc,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use prost::Message as _;

mod request;

pub use self::request::Request;
use crate::{
    Revision, TypeUrl, Variant,
    field::{RESOURCES, field_len, put_field, put_head},
};

/// `google.rpc.Status`, as a NACK carries it.
#[derive(Clone, PartialEq, Eq, prost::Message)]
#[non_exhaustive]
pub struct ErrorDetail {
    /// A gRPC status code. Clients disagree on it; only its presence matters (N-01).
    #[prost(int32, tag = "1")]
    pub code: i32,
    /// The client's own words.
    #[prost(string, tag = "2")]
    pub message: String,
}

impl ErrorDetail {
    /// What a client says about a response that it rejects.
    #[must_use]
    pub fn new(code: i32, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// `ResourceLocator`: a name, and what its client knows of itself that may decide which of several variants
/// of the resource it is sent. There are no variants here, so it stands for its name (P-01).
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ResourceLocator {
    /// The resource's name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// What the client knows of itself.
    #[prost(btree_map = "string, string", tag = "2")]
    pub dynamic_parameters: BTreeMap<String, String>,
}

/// `DiscoveryRequest`: State of the World.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SotwRequest {
    /// The version that the client runs.
    #[prost(string, tag = "1")]
    pub version_info: String,
    /// `config.core.v3.Node`, encoded. Only the first of a stream counts (B-06, B-07).
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub node: Option<Bytes>,
    /// All names that the client subscribes to (S-07).
    #[prost(string, repeated, tag = "3")]
    pub resource_names: Vec<String>,
    /// The type.
    #[prost(string, tag = "4")]
    pub type_url: String,
    /// The nonce of the response that this request answers, if it answers one.
    #[prost(string, tag = "5")]
    pub response_nonce: String,
    /// Why that response is rejected, if it is.
    #[prost(message, optional, tag = "6")]
    pub error_detail: Option<ErrorDetail>,
    /// Further names that the client subscribes to.
    #[prost(message, repeated, tag = "7")]
    pub resource_locators: Vec<ResourceLocator>,
}

/// `DeltaDiscoveryRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DeltaRequest {
    /// `config.core.v3.Node`, encoded. Only the first of a stream counts (B-06, B-07).
    #[prost(bytes = "bytes", optional, tag = "1")]
    pub node: Option<Bytes>,
    /// The type.
    #[prost(string, tag = "2")]
    pub type_url: String,
    /// Names to add to the subscription.
    #[prost(string, repeated, tag = "3")]
    pub resource_names_subscribe: Vec<String>,
    /// Names to take out of the subscription.
    #[prost(string, repeated, tag = "4")]
    pub resource_names_unsubscribe: Vec<String>,
    /// What the client holds from an earlier stream; read from the first request of a type.
    #[prost(btree_map = "string, string", tag = "5")]
    pub initial_resource_versions: BTreeMap<String, String>,
    /// The nonce of the response that this request answers, if it answers one.
    #[prost(string, tag = "6")]
    pub response_nonce: String,
    /// Why that response is rejected, if it is.
    #[prost(message, optional, tag = "7")]
    pub error_detail: Option<ErrorDetail>,
    /// Further names to add to the subscription.
    #[prost(message, repeated, tag = "8")]
    pub resource_locators_subscribe: Vec<ResourceLocator>,
    /// Further names to take out of it.
    #[prost(message, repeated, tag = "9")]
    pub resource_locators_unsubscribe: Vec<ResourceLocator>,
}

/// `google.protobuf.Any`: an encoded message with its type.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Any {
    /// The type.
    #[prost(string, tag = "1")]
    pub type_url: String,
    /// The encoded message.
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
}

/// `DiscoveryResponse`, as a client reads it: State of the World.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SotwResponse {
    /// The version of the type as a whole.
    #[prost(string, tag = "1")]
    pub version_info: String,
    /// The resources.
    #[prost(message, repeated, tag = "2")]
    pub resources: Vec<Any>,
    /// The type.
    #[prost(string, tag = "4")]
    pub type_url: String,
    /// What the answer to this response names.
    #[prost(string, tag = "5")]
    pub nonce: String,
    /// What is wrong with names that the client asked for.
    #[prost(message, repeated, tag = "7")]
    pub resource_errors: Vec<ResourceError>,
}

/// `DeltaDiscoveryResponse`, as a client reads it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DeltaResponse {
    /// The version of the type as a whole, for people.
    #[prost(string, tag = "1")]
    pub system_version_info: String,
    /// What was added or changed.
    #[prost(message, repeated, tag = "2")]
    pub resources: Vec<DeltaResource>,
    /// The type.
    #[prost(string, tag = "4")]
    pub type_url: String,
    /// What the answer to this response names.
    #[prost(string, tag = "5")]
    pub nonce: String,
    /// The names of what is gone.
    #[prost(string, repeated, tag = "6")]
    pub removed_resources: Vec<String>,
    /// What is wrong with names that the client asked for.
    #[prost(message, repeated, tag = "9")]
    pub resource_errors: Vec<ResourceError>,
}

/// `ResourceError`: what is wrong with a name that a client asked for (E-01).
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ResourceError {
    /// The name.
    #[prost(message, optional, tag = "1")]
    pub resource_name: Option<ResourceName>,
    /// What is wrong with it.
    #[prost(message, optional, tag = "2")]
    pub error_detail: Option<ErrorDetail>,
}

/// `ResourceName`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ResourceName {
    /// The name.
    #[prost(string, tag = "1")]
    pub name: String,
}

impl ResourceError {
    /// Something is wrong with this name.
    #[must_use]
    pub fn new(name: impl Into<String>, error: ErrorDetail) -> Self {
        let resource_name = Some(ResourceName { name: name.into() });
        Self { resource_name, error_detail: Some(error) }
    }
}

/// `Resource`, as a client reads it in delta.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct DeltaResource {
    /// Its version.
    #[prost(string, tag = "1")]
    pub version: String,
    /// Its content.
    #[prost(message, optional, tag = "2")]
    pub resource: Option<Any>,
    /// Its name.
    #[prost(string, tag = "3")]
    pub name: String,
    /// Other names that it goes by.
    #[prost(string, repeated, tag = "4")]
    pub aliases: Vec<String>,
    /// For how long it is good, unless it is sent again.
    #[prost(message, optional, tag = "6")]
    pub ttl: Option<Ttl>,
}

impl prost::Name for DeltaResource {
    const NAME: &'static str = "Resource";
    const PACKAGE: &'static str = "envoy.service.discovery.v3";
}

/// `google.protobuf.Duration`, as the time to live of a resource.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Ttl {
    /// Whole seconds.
    #[prost(int64, tag = "1")]
    pub seconds: i64,
    /// What is more than these, in billionths.
    #[prost(int32, tag = "2")]
    pub nanos: i32,
}

impl From<Duration> for Ttl {
    /// More than the wire can tell is as much as it can.
    fn from(duration: Duration) -> Self {
        let seconds = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
        Self { seconds, nanos: duration.subsec_nanos().cast_signed() }
    }
}

/// What a response is called on its stream, so that a request can answer it: a number that grows, and is
/// never used twice (S-17, D-02).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nonce(u64);

impl Nonce {
    /// The one after it; the first comes after the default.
    pub(crate) fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// Reads what a request says, if that is how a nonce of ours looks.
    pub(crate) fn read(text: &str) -> Option<Self> {
        let is_ours = text.starts_with(|first| matches!(first, '1'..='9'));
        text.parse().ok().filter(|_| is_ours).map(Self)
    }

    /// How many digits it has.
    fn digits(self) -> usize {
        self.0.checked_ilog10().map_or(1, |log| log as usize + 1)
    }

    /// Its length as a field.
    fn encoded_len(self) -> usize {
        field_len(NONCE, self.digits())
    }

    /// Encodes it as a field.
    fn put(self, buffer: &mut BytesMut) {
        put_head(NONCE, self.digits(), buffer);
        // There is always room: the buffer grows.
        let _ = write!(buffer, "{self}");
    }
}

impl fmt::Display for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A response, ready for the wire: a body that streams owed the same may share, and a nonce of its own.
#[derive(Debug, Clone)]
#[must_use = "a response that is dropped is never sent, and its client waits for ever"]
#[non_exhaustive]
pub struct Response {
    /// The type.
    pub type_url: TypeUrl,
    /// The nonce, never used twice on a stream (S-17, D-02).
    pub nonce: Nonce,
    /// The revision that it brings the client to, as far as this type goes.
    pub revision: Revision,
    /// How many resources it carries.
    pub resources: usize,
    /// How many removals it carries.
    pub removals: usize,
    /// The encoded message but for the nonce.
    pub body: Bytes,
}

impl Response {
    /// Encodes the nonce. The message is this and [`body`](Response::body), one after the other, since
    /// protobuf fields may come in any order.
    pub fn encode_head(&self, buffer: &mut BytesMut) {
        self.nonce.put(buffer);
    }

    /// How many bytes the message has.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        self.nonce.encoded_len() + self.body.len()
    }
}

/// The tags of the responses' fields; they agree in both variants where both have the field.
const VERSION: u32 = 1;
const TYPE_URL: u32 = 4;
const NONCE: u32 = 5;
const REMOVED: u32 = 6;

/// What is wrong with names.
const SOTW_ERRORS: u32 = 7;
const DELTA_ERRORS: u32 = 9;

/// What a response says beside the resources in it.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    /// What is gone.
    pub(crate) removed: Vec<Arc<str>>,
    /// Of what there is nothing, where that is said by a resource without content (V-05).
    pub(crate) unresolved: Vec<Arc<str>>,
    /// What is wrong with names that were asked for (E-01).
    pub(crate) errors: Vec<(Arc<str>, ErrorDetail)>,
}

/// Builds the body of a response from the entries of its resources.
pub(crate) fn body<'a>(
    variant: Variant,
    (type_url, version): (&TypeUrl, &str),
    entries: impl Iterator<Item = &'a [u8]> + Clone,
    notes: &Notes,
) -> Bytes {
    let tail = notes.encode(variant);
    let mut body = BytesMut::with_capacity(
        field_len(VERSION, version.len())
            + field_len(TYPE_URL, type_url.len())
            + entries.clone().map(<[u8]>::len).sum::<usize>()
            + tail.len(),
    );
    put_field(VERSION, version.as_bytes(), &mut body);
    put_field(TYPE_URL, type_url.as_bytes(), &mut body);
    entries.for_each(|entry| body.extend_from_slice(entry));
    body.extend_from_slice(&tail);
    body.freeze()
}

impl Notes {
    /// What stands behind the entries; in State of the World, what is gone is not said.
    fn encode(&self, variant: Variant) -> BytesMut {
        let mut tail = BytesMut::new();
        let errors = self
            .errors
            .iter()
            .map(|(name, error)| ResourceError::new(&**name, error.clone()).encode_to_vec());
        if variant == Variant::Sotw {
            errors.for_each(|error| put_field(SOTW_ERRORS, &error, &mut tail));
            return tail;
        }
        for name in &self.unresolved {
            let (name, aliases) = (name.to_string(), vec![name.to_string()]);
            let unresolved = DeltaResource { name, aliases, ..DeltaResource::default() };
            put_field(RESOURCES, &unresolved.encode_to_vec(), &mut tail);
        }
        self.removed.iter().for_each(|name| put_field(REMOVED, name.as_bytes(), &mut tail));
        errors.for_each(|error| put_field(DELTA_ERRORS, &error, &mut tail));
        tail
    }
}
