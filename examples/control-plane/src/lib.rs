//! The reference server of Deltaplane: services in a database in, Envoy
//! configuration out.
//!
//! ```text
//!  REST ──> store (SQLite, PostgreSQL) ──> publisher ──> Cache ──> XdsServer ──> Envoy
//!  psql ──────┘          watch ──────────────┘  └ translate
//! ```
//!
//! It is thin on purpose: what it does not take from
//! [`deltaplane_server`] is the table of services ([`store`]) and what a
//! service means to Envoy ([`translate`]).

pub mod bootstrap;
pub mod cli;
pub mod client_log;
mod columns;
pub mod database;
mod draft;
pub mod health;
pub mod host;
pub mod message;
pub mod problem;
pub mod publisher;
pub mod rest;
pub mod scope;
pub mod serve;
pub mod service;
mod sqlite_file;
pub mod store;
pub mod translate;
pub mod watch;
