//! The language of xDS and its protocol machine, without IO.
//!
//! This crate holds what a control plane says to a client, and decides when to say it: resources that
//! are encoded and hashed once, subscriptions, the machine that turns requests into responses, in both
//! variants, State of the World and delta. It has no socket, no clock, no randomness and no async in
//! it; time and content are handed in, so every conversation can be replayed to the byte.
//!
//! It does not hold the content ([`deltaplane-cache`] does) and does not speak HTTP
//! ([`deltaplane-server`] does; start there). Nor does it know the Envoy API: any
//! `prost::Message + prost::Name` can become a resource.
//!
//! Identifiers such as `D-06` in this documentation name [`statements`] of the xDS protocol that the code
//! answers to: B streams and nodes, S State of the World, W wildcard, D delta, N ACK and NACK, R
//! reconnect, T time to live, O ordering, V on demand, E errors, P dynamic parameters, X `xdstp:` names,
//! K keepalive and limits, C client status, L load reports, H polling by HTTP, G gRPC's clients.
//!
//! # Layout
//!
//! The order in which to read it:
//!
//! * `type_url`: the types, and what the protocol demands of each, as one table
//! * `collection`: names that say to which collection they belong
//! * `schema`: which fields are maps, so that equal messages hash alike
//! * `resource`: a resource; in `builder`, how it is encoded, once for both variants
//! * `view`: what a stream reads from, implemented by a cache
//! * `whole`: all of a type at a view, encoded once for every stream that is owed all of it
//! * `wire`: the messages; `field`: what of them is encoded by hand
//! * `subscription`: what a client subscribes to
//! * `type_stream`: one type on one stream: what it subscribes to, and what it is owed; in `changes`, what
//!   changed of it, in `claim`, what a client has from before, in `usage`, what it may use,
//!   and in `report`, how each resource stands with it
//! * `sent`: what a response said; `unsettled`: what was sent and is not accepted; in `rejected`, what of it was
//! * `words`: what clients say of what they reject
//! * `limits`: what a stream may ask for
//! * `answer`: the next response of a type; in `composing`, what goes into it
//! * `gates`: what waits, and for what
//! * `event`: what requests told
//! * `machine`: one stream: all its types, in order; in `sending`, what goes out next, in `gating`, what of
//!   it waits, in `searches`, what somebody looks for, in `settings`, what is set for it, and in `standing`,
//!   how far its client is
//!
//! [`deltaplane-cache`]: https://docs.rs/deltaplane-cache
//! [`deltaplane-server`]: https://docs.rs/deltaplane-server

mod answer;
mod collection;
mod event;
mod field;
mod gates;
mod limits;
mod machine;
mod resource;
mod schema;
mod sent;
#[doc = include_str!("../STATEMENTS.md")]
pub mod statements {}
mod subscription;
mod type_stream;
mod type_url;
mod unsettled;
mod view;
mod whole;
mod wire;
mod words;

pub use event::Event;
pub use gates::Order;
pub use limits::{RequestError, StreamLimits};
pub use machine::{Machine, Standing, Variant};
pub use resource::{Key, Resource, ResourceBuilder};
pub use schema::{Schema, SchemaError};
pub use subscription::Subscription;
pub use type_stream::Reception;
pub use type_url::{Lingering, MissingAnswer, TypePolicy, TypeUrl, Wildcard};
pub use view::{Change, LogTruncated, Revision, TypeVersion, View, difference};
pub use whole::Whole;
pub use wire::{
    Any, DeltaRequest, DeltaResource, DeltaResponse, ErrorDetail, Nonce, Request, ResourceError,
    ResourceLocator, ResourceName, Response, SotwRequest, SotwResponse, Ttl,
};
