//! The way from a client to a replica.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::servers::Doors;
use crate::proxy::Proxy;

/// A network of a client's own, as a load balancer would be in front of it: it leads to one replica, then to
/// another, and may be slow or stand still.
#[derive(Debug)]
pub(super) struct Gate {
    proxy: Proxy,
    replica: usize,
}

impl Gate {
    /// One that leads to this replica.
    pub(super) fn to(doors: &Doors, replica: usize) -> Gate {
        Gate { proxy: Proxy::before(doors.xds(replica).port()), replica }
    }

    /// Where it is.
    pub(super) fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.proxy.port()))
    }

    /// To which replica it leads.
    pub(super) fn replica(&self) -> usize {
        self.replica
    }

    /// From now on it leads there: whoever is connected elsewhere is cut off.
    pub(super) fn moves(&mut self, doors: &Doors, replica: usize) {
        self.leads(doors, replica);
        self.proxy.cuts();
    }

    /// It leads there again, if it led elsewhere.
    pub(super) fn returns(&mut self, doors: &Doors, home: usize) {
        if self.replica != home {
            self.moves(doors, home);
        }
    }

    /// From now on it leads there; connections that are there stay.
    pub(super) fn leads(&mut self, doors: &Doors, replica: usize) {
        self.replica = replica;
        self.proxy.leads_to(doors.xds(replica).port());
    }

    /// What a server says takes so long.
    pub(super) fn delays(&self, delay: Duration) {
        self.proxy.delays(delay);
    }

    /// Nothing that a server says gets through.
    pub(super) fn stalls(&self) {
        self.proxy.stalls();
    }

    /// All is well again.
    pub(super) fn flows(&self) {
        self.proxy.delays(Duration::ZERO);
        self.proxy.flows();
    }
}
