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
//!
//! # Layout
//!
//! The whole:
//!
//! * `serve`: both ports, and what is between them; `lifetime`: until when; `running`: its parts, for who tells how it is
//! * `cli`, in `cli/serve` what a server is told: the settings; `config`: the same from a file
//! * `health`, `metrics`, `traffic`, `client_log`: what is told of it; `moment`: when that was
//!
//! The database:
//!
//! * `database`: which one, and its tables; `sqlite_file`: a file that somebody may delete; `watch`: when to look again
//! * `store`: services, in `columns` as SQL has them; `objects`: what has a name and is said in JSON
//! * `write`, `writes`: a transaction, and whether any can be done; `changes`: what changed between revisions
//! * `last_known_good`: what it held last, in a file; `reload`: having all of it read again
//!
//! What is stored, and what Envoy makes of it:
//!
//! * `service`, with `host` and `upstream`; `routes`; `certificates`, with `pem` and `vault`
//! * `draft`, `document`, `page`, `import`: services on their way in and out; `validate`: what is wrong with them
//! * `fleets`: who belongs to one, and how it is served; `scope`: what a client sees
//! * `translate`, with `message` and `route_message`: from services and routes to Envoy's messages
//! * `envoy_api`, `proto_json`: these as JSON, and what of them is secret
//!
//! Raw resources, all of which begin with `raw`:
//!
//! * `raw`: one of them; `raw_draft`: a transaction of them; `raw_store`, in `raw_columns` as SQL has them: their rows;
//!   `raw_layers`: over what services become
//!
//! On the way to clients:
//!
//! * `publisher`, in `publisher/snapshot` at first: from the database to the cache, by `publisher/rows`; `publication`: what
//!   goes there
//! * `pending`: what waits for its fleet's pace; `delivery`: who has it
//! * Canaries: `rollout`: what a fleet says of it; `lanes`: what others are not served yet; `trial`: one that is under
//!   way; `rollouts`: how all stand; `unserved`: what a server that ended left so; `elsewhere`: what is said of it at
//!   other servers
//! * Replicas: `replicas`: who is there, and the share of each
//!
//! History:
//!
//! * `history`: every revision; `record`: what it holds of a row; `rollback`: back to one; `retention`: what is dropped
//!
//! The HTTP API, each part of which ends with `_rest`:
//!
//! * `rest`: all of it; `openapi`: its description; `problem`, `precondition`: how it says no; `http_listener`: its
//!   connections
//! * `service_rest`, `object_rest`, `raw_rest`, `rollout_rest`, `history_rest`, `audit_rest`, `client_rest`,
//!   `health_rest`
//!
//! Identity and access:
//!
//! * `access`, `token`: who may use the HTTP API; `browser`: what pages of others have it asked; `audit`: who did;
//!   `author`: in whose name
//! * `tls`: certificates in files; `identity`: which certificate may be which node
//!
//! Commands:
//!
//! * `commands`, `history_commands`: those that ask a server, which is `remote`; `sources`: what files say; `diff`: how
//!   that differs from what is stored; `table`: answers for people
//! * `bootstrap`: what an Envoy starts with; `tokens`: those of the HTTP API, in the database itself

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
mod moment;
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
