//! Streams over real connections, with the clients that the Envoy API's own package generates, with our
//! own model client, and with bare HTTP/2 where it takes that.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    unreachable_pub,
    reason = "helpers of tests are tests"
)]

mod authorized;
mod bearing;
mod beside;
mod canaries;
mod client_status;
mod clients;
mod connections;
mod crowds;
mod delivery;
mod ending;
mod envoy_api;
mod limits;
mod loads;
mod model_client;
mod on_demand;
mod raw_http2;
mod rest;
mod rollout;
mod secured;
mod served;
mod services;
mod storms;
