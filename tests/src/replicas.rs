//! Several `deltaplane` on one PostgreSQL.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::deadline::wait_quietly;
use crate::{Deltaplane, Postgres, Variant, server};

const PATIENCE: Duration = Duration::from_secs(20);

/// Servers that know nothing of each other, and what they share.
#[derive(Debug)]
pub struct Replicas {
    /// Each of them.
    pub all: Vec<Deltaplane>,
    postgres: Arc<Postgres>,
    database: String,
}

impl Replicas {
    /// Starts so many, all at once, on an empty database.
    pub fn start(count: usize) -> Replicas {
        let postgres = Postgres::shared();
        let database = postgres.create_database();
        let url = postgres.url(&database);
        let all = thread::scope(|scope| {
            let starts: Vec<_> =
                (0..count).map(|_| scope.spawn(|| Deltaplane::start(&url))).collect();
            starts.into_iter().map(|start| start.join().expect("it starts")).collect()
        });
        Replicas { all, postgres, database }
    }

    /// One more starts on the same database, to which it gets by way of this port, and with further settings.
    pub fn join(&mut self, port: u16, settings: &[&str]) {
        let url = self.postgres.url_at(&self.database, port);
        self.all.push(Deltaplane::start_with(&url, settings));
    }

    /// The port of the database itself.
    pub fn database_port(&self) -> u16 {
        self.postgres.port()
    }

    /// Asks the database, as `psql` does.
    pub fn sql(&self, sql: &str) -> String {
        self.postgres.psql(&self.database, sql)
    }

    /// Where they serve Envoys.
    pub fn xds(&self) -> Vec<SocketAddr> {
        self.all.iter().map(|server| server.xds).collect()
    }

    /// Where they serve people.
    pub fn http(&self) -> Vec<SocketAddr> {
        self.all.iter().map(|server| server.http).collect()
    }

    /// What `deltaplane bootstrap` prints for an Envoy that goes to any of them.
    pub fn bootstrap(&self, node_id: &str, cluster: &str, variant: Variant) -> String {
        server::bootstrap(&self.xds(), node_id, cluster, variant, &[])
    }

    /// Waits until all of them are ready, and serve what is stored by now.
    pub fn catch_up(&self) {
        let stored = self.sql("SELECT value FROM revision");
        let stored: i64 = stored.trim().parse().expect("revisions are numbers");
        for server in &self.all {
            wait_quietly("a replica serves what is stored", PATIENCE, || {
                let is_ready = server.ask("GET", "/readyz", None).status == 200;
                (is_ready && served(server) >= stored).then_some(())
            });
        }
    }
}

/// The revision of the database that a server serves.
pub fn served(server: &Deltaplane) -> i64 {
    let health = server.ask("GET", "/healthz", None).json();
    health["revision"].as_i64().expect("revisions are numbers")
}
