//! The reference server's parts, with real databases.

// `clippy.toml` means this for functions marked `#[test]`; here all is test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod binary;
mod commands;
mod config;
mod database;
mod health;
mod openapi;
mod publisher;
mod raw;
mod raw_rest;
mod rest;
mod scope;
mod service;
mod store;
mod translate;

use deltaplane::service::{Definition, Row};

/// An HTTP service of fleet 1 at `127.0.0.1`.
pub(crate) fn definition(name: &str, listener_port: i64, upstream_port: i64) -> Definition {
    Definition {
        name: name.to_owned(),
        cluster_id: 1,
        listener_port,
        upstream_host: "127.0.0.1".to_owned(),
        upstream_port,
        protocol: "http".to_owned(),
        health_check_path: None,
        domains: vec!["*".to_owned()],
        prefix: "/".to_owned(),
    }
}

/// The same as a row.
pub(crate) fn row(id: i64, definition: Definition) -> Row {
    Row { id, definition }
}
