//! The reference server's parts, with real databases.

// `clippy.toml` means this for functions marked `#[test]`; here all is test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod access;
mod binary;
mod browser;
mod certificates;
mod commands;
mod config;
mod database;
mod fleets;
mod health;
mod history;
mod openapi;
mod publisher;
mod raw;
mod raw_rest;
mod rest;
mod routes;
mod schema;
mod scope;
mod service;
mod store;
mod translate;
mod validate;

use deltaplane::service::{Definition, Row};

/// An HTTP service of fleet 1 at `127.0.0.1`.
pub(crate) fn definition(name: &str, listener_port: i64, upstream_port: i64) -> Definition {
    Definition::new(name, listener_port, "127.0.0.1", upstream_port)
}

/// The same as a row.
pub(crate) fn row(id: i64, definition: Definition) -> Row {
    Row { id, revision: 0, definition }
}
