//! The reference server of Deltaplane: services and raw resources in a database
//! in, Envoy configuration out.
//!
//! ```text
//!  HTTP ──> store (SQLite, PostgreSQL) ──> publisher ──> Cache ──> XdsServer ──> Envoy
//!  psql ──────┘          watch ──────────────┘  ├ translate, raw
//!                                               └ pace, canary
//! ```
//!
//! It is thin on purpose: what it does not take from
//! [`deltaplane_server`] is the table of services ([`database::store`]), what a service
//! means to Envoy ([`translate`]), resources of any type that lie over these
//! ([`raw`]), and what has a name and is said in JSON ([`database::objects`]): who belongs
//! to which fleet and how it is told ([`fleets`], [`canary`]), routes beside those of services
//! ([`routes`]), and certificates ([`certificates`], sealed by the [`certificates::vault`]).
//!
//! Who runs what is told by the HTTP API, to Prometheus ([`status::metrics`]), and on the command
//! line ([`cli::commands`]), which is a client of the HTTP API like any other.
//!
//! # Layout
//!
//! The whole, and what all of it uses:
//!
//! * [`serve`]: both ports, and what is between them; until when, and its parts, for who tells how it is
//! * [`cli`]: all commands: the server's settings, those that ask a server, and those that work on its database
//! * [`status`]: what is told of it, to probes, to Prometheus and in the log
//! * [`tls`]: certificates in files; `moment`: how a time is shown
//!
//! What is stored:
//!
//! * [`database`]: which one, its tables, their rows, and when to look again; the last known good state, in a file
//! * [`service`], [`routes`], [`certificates`], [`fleets`], [`raw`]: each kind of row, and what is wrong with one
//! * [`history`]: every revision, and back to one
//!
//! On the way to clients:
//!
//! * [`translate`]: from services and routes to Envoy's messages
//! * [`publisher`]: from the database to the cache, at each fleet's pace
//! * [`canary`]: what goes to some of a fleet first; `delivery`: who has it
//! * [`replicas`]: who else serves this database, and the share of each
//!
//! The HTTP API:
//!
//! * [`rest`]: its connections, its resources, how it says no, and its description
//! * [`access`]: who may use it, and which client may be which node; who did what

pub mod access;
pub mod canary;
pub mod certificates;
pub mod cli;
pub mod database;
mod delivery;
pub mod fleets;
pub mod history;
mod moment;
pub mod publisher;
pub mod raw;
pub mod replicas;
pub mod rest;
pub mod routes;
pub mod serve;
pub mod service;
pub mod status;
pub mod tls;
pub mod translate;
