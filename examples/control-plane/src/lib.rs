//! The reference server of Deltaplane: services and raw resources in a database
//! in, Envoy configuration out.
//!
//! ```text
//!  REST ──> store (SQLite, PostgreSQL) ──> publisher ──> Cache ──> XdsServer ──> Envoy
//!  psql ──────┘          watch ──────────────┘  └ translate, raw
//! ```
//!
//! It is thin on purpose: what it does not take from
//! [`deltaplane_server`] is the table of services ([`store`]), what a service
//! means to Envoy ([`translate`]), and resources of any type that lie over
//! these ([`raw`]).

pub mod bootstrap;
pub mod changes;
pub mod cli;
pub mod client_log;
mod columns;
pub mod database;
mod document;
mod draft;
mod envoy_api;
pub mod health;
pub mod host;
pub mod message;
mod openapi;
pub mod problem;
mod proto_json;
pub mod publisher;
pub mod raw;
mod raw_columns;
mod raw_draft;
mod raw_layers;
mod raw_rest;
pub mod raw_store;
pub mod rest;
pub mod scope;
pub mod serve;
pub mod service;
mod sqlite_file;
pub mod store;
pub mod translate;
pub mod watch;
