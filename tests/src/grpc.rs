//! Real gRPC clients and servers, in each language that speaks xDS, and a control plane for them.

pub mod backend;
pub mod client;
pub mod control_plane;
pub mod program;
pub mod resources;
pub mod tools;
