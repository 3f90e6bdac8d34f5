//! Somebody who is served while others misbehave.

use serde_json::{Value, json};

use crate::{Database, Deltaplane, Envoy, Kind, Listener, Upstream, Variant, service};

/// An Envoy with a service, and the server of both.
#[derive(Debug)]
pub struct Witness {
    /// What is misused.
    pub server: Deltaplane,
    /// The service `shop`.
    pub service: Value,
    envoy: Envoy,
    listener: Listener,
    upstream: Upstream,
    _database: Database,
}

impl Witness {
    /// Is served.
    pub fn start() -> Witness {
        let database = Database::create(Kind::Sqlite);
        let server = Deltaplane::start(&database.url());
        let (listener, upstream) = (Listener::reserve(), Upstream::start("a"));
        let service = service::http("shop", &listener, &upstream);
        server.create(&service);
        let envoy = Envoy::start(&server.bootstrap("witness", "cluster-1", Variant::Delta));
        listener.reaches("/", &upstream);
        Witness { server, service, envoy, listener, upstream, _database: database }
    }

    /// Is served still: a change reaches it on the stream that it began with, and so far it was told
    /// of each service once.
    pub fn confirms(&self) {
        let raw = Listener::reserve();
        let tcp = json!({"name": "raw", "listener_port": raw.port(), "protocol": "tcp"});
        self.server.create(&service::but(&self.service, &tcp));
        raw.reaches("/", &self.upstream);
        self.listener.reaches("/", &self.upstream);
        let told = self.envoy.stat("cluster_manager.cds.update_success");
        assert_eq!(told, self.envoy.clusters().len() as u64);
        assert_eq!(self.envoy.stat("cluster_manager.cds.update_rejected"), 0);
        assert_eq!(self.server.log_line(&["client disconnected", "node=\"witness\""]), None);
    }
}
