//! How the server is, for who asks: probes, Prometheus, and who reads its log.

pub mod client_log;
pub mod health;
pub mod metrics;
pub mod traffic;
