//! The reference server of Deltaplane: services and raw resources in a database
//! in, Envoy configuration out.
//!
//! ```text
//!  HTTP ──> store (SQLite, PostgreSQL) ──> publisher ──> Cache ──> XdsServer ──> Envoy
//!  psql ──────┘          watch ──────────────┘  ├ translate, raw
//!                                               └ pending, lanes
//! ```
//!
//! It is thin on purpose: what it does not take from
//! [`deltaplane_server`] is the table of services ([`store`]), what a service
//! means to Envoy ([`translate`]), resources of any type that lie over these
//! ([`raw`]), and what has a name and is said in JSON ([`objects`]): who belongs
//! to which fleet and how it is told ([`fleets`], [`rollouts`]), routes beside those of services
//! ([`routes`]), and certificates ([`certificates`], sealed by the [`vault`]).
//!
//! Who runs what is told by the HTTP API, to Prometheus ([`metrics`]), and on the command
//! line ([`commands`]), which is a client of the HTTP API like any other.

pub mod access;
pub mod audit;
mod audit_rest;
mod author;
pub mod bootstrap;
mod browser;
pub mod certificates;
pub mod changes;
pub mod cli;
pub mod client_log;
mod client_rest;
mod columns;
pub mod commands;
pub mod config;
pub mod database;
mod delivery;
mod diff;
mod document;
mod draft;
mod elsewhere;
mod envoy_api;
pub mod fleets;
pub mod health;
mod health_rest;
pub mod history;
pub mod history_commands;
mod history_rest;
pub mod host;
mod http_listener;
mod identity;
mod import;
mod lanes;
mod last_known_good;
mod lifetime;
pub mod message;
pub mod metrics;
mod object_rest;
pub mod objects;
mod openapi;
pub mod page;
mod pem;
mod pending;
pub mod precondition;
pub mod problem;
mod proto_json;
mod publication;
pub mod publisher;
pub mod raw;
mod raw_columns;
mod raw_draft;
mod raw_layers;
mod raw_rest;
pub mod raw_store;
pub mod record;
pub mod reload;
pub mod remote;
pub mod replicas;
pub mod rest;
pub mod retention;
pub mod rollback;
pub mod rollout;
mod rollout_rest;
pub mod rollouts;
mod route_message;
pub mod routes;
pub mod running;
pub mod scope;
pub mod serve;
pub mod service;
mod service_rest;
pub mod sources;
mod sqlite_file;
pub mod store;
mod table;
pub mod tls;
pub mod token;
pub mod tokens;
pub mod traffic;
pub mod translate;
mod trial;
mod unserved;
pub mod upstream;
pub mod validate;
pub mod vault;
pub mod watch;
pub mod write;
mod writes;
