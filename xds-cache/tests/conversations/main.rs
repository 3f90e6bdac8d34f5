//! Conversations between a client and the machine over a cache, each named after the statement of the
//! protocol that it shows; `xds-core/STATEMENTS.md` says what that demands.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, unreachable_pub)]

mod answers;
mod client;
mod collections;
mod delta;
mod errors;
mod gates;
mod on_demand;
mod order;
mod reconnect;
mod sotw;
mod streams;
mod ttl;
mod wildcard;
