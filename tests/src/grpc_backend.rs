//! What gRPC clients are led to: real servers, by Python's grpcio.

use std::net::{Ipv4Addr, SocketAddr};

use crate::grpc_program::Program;
use crate::grpc_tools;

/// A process with some servers in it, each of which answers every method with its own name.
#[derive(Debug)]
pub struct Backends(Program);

impl Backends {
    /// Starts the process.
    pub fn start() -> Backends {
        let mut python = grpc_tools::python();
        python.arg(grpc_tools::sources("python").join("backend.py"));
        Backends(Program::start("the backends", &mut python))
    }

    /// Starts a server, and returns where it listens.
    pub fn serve(&mut self, name: &str) -> SocketAddr {
        let port = self.0.ask(name).parse().expect("a backend answers with its port");
        SocketAddr::from((Ipv4Addr::LOCALHOST, port))
    }
}
