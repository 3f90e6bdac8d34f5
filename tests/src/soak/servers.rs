//! The servers, which are killed, and where they are.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::http::{self, Answer};
use crate::random::Random;
use crate::server::Deltaplane;

/// What it takes at most to say farewell to clients that do not listen.
const SHUTDOWN_S: &str = "2";

/// How old connections get: young enough that some age in each storm.
const CONNECTION_AGE_S: &str = "40";

/// Servers of one database.
#[derive(Debug)]
pub(super) struct Servers {
    all: Vec<Deltaplane>,
    doors: Doors,
}

/// Where the servers are, for those who ask them. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Doors(Arc<[Door]>);

#[derive(Debug)]
struct Door {
    xds: SocketAddr,
    http: SocketAddr,
    is_open: AtomicBool,
}

impl Servers {
    /// Starts so many.
    pub(super) fn start(database_url: &str, count: usize) -> Servers {
        let settings = ["--shutdown-s", SHUTDOWN_S, "--connection-age-s", CONNECTION_AGE_S];
        let all = (0..count).map(|_| Deltaplane::start_with(database_url, &settings));
        let all: Vec<_> = all.collect();
        let door = |server: &Deltaplane| {
            let (xds, http) = (server.xds, server.http);
            Door { xds, http, is_open: AtomicBool::new(true) }
        };
        let doors = Doors(all.iter().map(door).collect());
        Servers { all, doors }
    }

    /// Where they are.
    pub(super) fn doors(&self) -> &Doors {
        &self.doors
    }

    /// Has each of them serve what is stored by now.
    pub(super) fn read_all(&self) {
        for server in &self.all {
            let answer = server.ask("POST", "/api/v1/services/reload-xds", None);
            assert_eq!(answer.status, 200, "{}", answer.body);
        }
    }

    /// Kills one, whatever it is about to do.
    pub(super) fn kill(&mut self, replica: usize) {
        self.all[replica].kill();
        self.doors.open(replica, false);
    }

    /// Ends one in order, while clients are still sent to it.
    pub(super) fn stop(&mut self, replica: usize) {
        self.all[replica].stop();
        self.doors.open(replica, false);
    }

    /// Starts one again.
    pub(super) fn resume(&mut self, replica: usize) {
        self.all[replica].resume();
        self.doors.open(replica, true);
    }

    /// All that they logged.
    pub(super) fn logs(&self) -> impl Iterator<Item = String> {
        self.all.iter().map(Deltaplane::logs)
    }
}

impl Doors {
    /// All of them.
    pub(super) fn all(&self) -> std::ops::Range<usize> {
        0..self.0.len()
    }

    /// Whether one is there, as far as is known.
    pub(super) fn is_open(&self, replica: usize) -> bool {
        self.0[replica].is_open.load(Ordering::Relaxed)
    }

    /// Any that is there, as far as is known.
    pub(super) fn any(&self, random: &mut Random) -> usize {
        let open: Vec<_> = self.all().filter(|replica| self.is_open(*replica)).collect();
        open[random.below(open.len())]
    }

    /// Where a replica serves clients.
    pub(super) fn xds(&self, replica: usize) -> SocketAddr {
        self.0[replica].xds
    }

    /// What a replica answers, if it does.
    pub(super) fn ask(
        &self,
        replica: usize,
        method: &str,
        path: &str,
        body: Option<&str>,
    ) -> Option<Answer> {
        http::request(method, &format!("http://{}{path}", self.0[replica].http), body).ok()
    }

    fn open(&self, replica: usize, is_open: bool) {
        self.0[replica].is_open.store(is_open, Ordering::Relaxed);
    }
}
