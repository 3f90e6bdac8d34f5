//! What gRPC clients are led to: real servers, by Python's grpcio.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;

use crate::grpc::client::bootstrap;
use crate::grpc::program::Program;
use crate::grpc::tools;

/// A process with some servers in it, each of which answers every method with its own name.
#[derive(Debug)]
pub struct Backends(Program);

impl Backends {
    /// Starts the process.
    pub fn start() -> Backends {
        Backends::start_as(tools::python())
    }

    /// Starts the process with this node, whose control plane is on this port.
    pub fn start_with(node_id: &str, control_plane: u16) -> Backends {
        let mut python = tools::python();
        bootstrap(&mut python, node_id, control_plane);
        Backends::start_as(python)
    }

    fn start_as(mut python: Command) -> Backends {
        python.arg(tools::sources("python").join("backend.py"));
        Backends(Program::start("the backends", &mut python))
    }

    /// Starts a server, and returns where it listens.
    pub fn serve(&mut self, name: &str) -> SocketAddr {
        let port = self.0.ask(name).parse().expect("a backend answers with its port");
        SocketAddr::from((Ipv4Addr::LOCALHOST, port))
    }

    /// Starts a server that is configured by xDS, to listen on this port when it is.
    pub fn serve_on(&mut self, name: &str, port: u16) -> SocketAddr {
        self.serve(&format!("{name} {port}"))
    }
}
