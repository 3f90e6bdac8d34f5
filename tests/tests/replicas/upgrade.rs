//! One server after the other is replaced.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::thread;

use deltaplane_tests::load::{self, Load, Plan};
use deltaplane_tests::{
    Deltaplane, Envoy, Follower, Listener, Replicas, Upstream, Variant, http, service, wait_until,
};
use serde_json::json;

use crate::{RECOVERY, VARIANTS, unnamed, uses};

/// What is served to an Envoy and to a model client, while requests go to the Envoy.
struct Fleet {
    variant: Variant,
    number: i64,
    shop: i64,
    touched: i64,
    port: u16,
    envoy: Envoy,
    follower: Follower,
}

const PATHS: [&str; 3] = ["/", "/still/", "/touched/"];

impl Fleet {
    fn join(replicas: &Replicas, variant: Variant, upstream: &Upstream) -> Fleet {
        let (number, listener) = (1 + variant as i64, Listener::reserve());
        let ids = ["shop", "still", "touched"].iter().zip(PATHS).map(|(name, prefix)| {
            let own = json!({"cluster_id": number, "prefix": prefix});
            let service = service::http(&format!("{name}-{number}"), &listener, upstream);
            replicas.all[0].create(&service::but(&service, &own))
        });
        let ids: Vec<i64> = ids.collect();
        replicas.catch_up();
        let cluster = format!("cluster-{number}");
        let envoy = Envoy::start(&replicas.bootstrap(&cluster, &cluster, variant));
        let follower = Follower::start(replicas.xds(), "model", &cluster, variant);
        for path in PATHS {
            listener.reaches(path, upstream);
        }
        let port = listener.port();
        let fleet = Fleet { variant, number, shop: ids[0], touched: ids[2], port, envoy, follower };
        fleet.follower.runs(&fleet.timeouts(1_000));
        fleet
    }

    fn load(&self) -> Load {
        let paths = &PATHS;
        let (port, kept, on_kept, on_fresh, least) = (self.port, 8, 700, 50, 150);
        Load::start(Plan { port, paths, kept, on_kept, on_fresh, least })
    }

    fn touched(&self) -> String {
        format!("touched-{}", self.number)
    }

    /// Its clusters, of which one may take so long to connect.
    fn timeouts(&self, touched: i64) -> BTreeMap<String, i64> {
        let others = ["shop", "still"].map(|name| (format!("{name}-{}", self.number), 1_000));
        others.into_iter().chain([(self.touched(), touched)]).collect()
    }

    /// Changes one cluster, and waits until all know.
    fn touch(&self, by: &Deltaplane, milliseconds: i64) {
        by.patch(self.touched, &json!({"connect_timeout_ms": milliseconds}));
        wait_until("Envoy uses the changed cluster", RECOVERY, || {
            uses(&self.envoy, &self.touched(), milliseconds).then_some(())
        });
        self.follower.runs(&self.timeouts(milliseconds));
    }
}

#[test]
fn a_rolling_upgrade_fails_no_request_and_repeats_nothing() {
    let _turn = load::alone();
    let mut replicas = Replicas::start(3);
    let (a, b) = (Upstream::start("a"), Upstream::start("b"));
    let fleets = VARIANTS.map(|variant| Fleet::join(&replicas, variant, &a));
    let loads = fleets.each_ref().map(Fleet::load);
    let before = fleets.each_ref().map(|fleet| unnamed(&fleet.envoy));
    let servers = replicas.http();
    let touches = 1_001..=1_003;
    let changes = thread::scope(|scope| {
        let upgrading = scope.spawn(|| {
            for (index, milliseconds) in touches.clone().enumerate() {
                let log = replicas.all[index].stop();
                assert!(!log.contains("did not end in time") && !log.contains(" ERROR "), "{log}");
                replicas.all[index].resume();
                replicas.catch_up();
                fleets.iter().for_each(|fleet| fleet.touch(&replicas.all[index], milliseconds));
            }
        });
        let mut changes = 0;
        for upstream in [&b, &a].into_iter().cycle() {
            let elsewhere = json!({"upstream_port": upstream.port()}).to_string();
            for fleet in &fleets {
                patches_by_any(&servers, changes, fleet.shop, &elsewhere);
            }
            loads.iter().for_each(|load| load.reaches("/", upstream));
            changes += 1;
            if upgrading.is_finished() {
                break;
            }
        }
        upgrading.join().expect("all of them are replaced");
        changes
    });
    println!("endpoints changed {changes} times");
    loads.into_iter().for_each(Load::ends_well);
    for (fleet, [clusters, listeners]) in fleets.iter().zip(before) {
        assert_eq!(unnamed(&fleet.envoy), [clusters + touches.clone().count() as u64, listeners]);
        let connections = fleet.envoy.stat("cluster._deltaplane.upstream_cx_total");
        let Fleet { follower, number, .. } = fleet;
        assert!(connections >= 2 && follower.streams() >= 2, "each of them had to move");
        assert_eq!(follower.repeated(), [""; 0]);
        assert_eq!(follower.times(&format!("listener-{}", fleet.port)), 1);
        assert_eq!(follower.times(&fleet.touched()), 1 + touches.clone().count());
        if fleet.variant == Variant::Delta {
            assert_eq!(follower.times(&format!("still-{number}")), 1);
        }
    }
}

/// Changes a service by one replica after the other, until one of them does it. Who is there answers well.
fn patches_by_any(servers: &[SocketAddr], first: usize, service: i64, fields: &str) {
    for server in servers.iter().cycle().skip(first).take(10 * servers.len()) {
        let url = format!("http://{server}/api/v1/services/{service}");
        if let Ok(answer) = http::request("PATCH", &url, Some(fields)) {
            assert_eq!(answer.status, 200, "{}", answer.body);
            return;
        }
    }
    panic!("nobody answers");
}
