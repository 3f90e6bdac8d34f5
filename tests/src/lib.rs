//! What the end-to-end tests are made of: the real `deltaplane`, real Envoys, a real PostgreSQL, and
//! upstreams for them to route to.
//!
//! Whatever is missing on the machine is installed, and a test fails if that cannot be done: none
//! passes by being skipped. Nothing needs a fixed port, and nothing is left behind: each process ends
//! when its owner is dropped, and shows the end of its log if that is because a test failed.
//!
//! # Layout
//!
//! * [`deadline`]: waiting, and for how long at most
//! * [`machine`]: this machine, its folders and packages
//! * [`port`], [`process`], [`http`]: what a network test needs of it
//! * [`upstream`], [`tls_upstream`], [`postgres`], [`envoy`], [`server`]: the parts
//! * [`grpc`]: clients and servers in each language that speaks xDS
//! * [`authority`]: what makes certificates
//! * [`database`]: SQLite or PostgreSQL, by the door that is not the server's
//! * [`proxy`], [`disk`], [`clock`]: a network, a disk and a clock that can fail
//! * [`service`], [`listener`]: what is told to the server, and what Envoy's users see of it
//! * [`replicas`]: several servers on one database
//! * [`follower`]: a model client that goes from one to another
//! * [`load`]: thousands of requests in a second, none of which may fail
//! * [`member`]: one of those who share what some of them are told first
//! * [`witness`]: somebody who is served while others misbehave
//! * [`soak`]: everything that may go wrong in an hour

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::exhaustive_enums,
    reason = "a test that cannot go on fails, and nobody depends on this crate"
)]

pub mod authority;
pub mod clock;
pub mod database;
pub mod deadline;
pub mod disk;
pub mod envoy;
pub mod follower;
pub mod grpc;
pub mod http;
pub mod listener;
pub mod load;
pub mod machine;
pub mod member;
pub mod port;
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod random;
pub mod replicas;
pub mod server;
pub mod service;
pub mod soak;
pub mod tls_upstream;
pub mod upstream;
pub mod witness;

pub use clock::Clock;
pub use database::{Database, Kind};
pub use deadline::wait_until;
pub use disk::Disk;
pub use envoy::Envoy;
pub use follower::Follower;
pub use listener::Listener;
pub use postgres::Postgres;
pub use replicas::Replicas;
pub use server::{Deltaplane, Variant};
pub use tls_upstream::TlsUpstream;
pub use upstream::Upstream;
pub use witness::Witness;

/// The repository's page, whose examples are compiled.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
