//! A fleet whose row says who is told first: two real Envoys under load, one of which is the canary.

#![allow(missing_docs, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use deltaplane_tests::load::{self, Load, Plan};
use deltaplane_tests::member::{Member, cluster, put, stored, transact, web};
use deltaplane_tests::{Database, Deltaplane, Kind, Upstream, Variant, wait_until};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(20);

fn rollout(server: &Deltaplane) -> Value {
    server.ask("GET", "/api/v1/fleets/shared/rollout", None).json()
}

fn reaches(server: &Deltaplane, stage: &str, revision: &Value) -> Value {
    wait_until(&format!("{stage} {revision}"), PATIENCE, || {
        Some(rollout(server)).filter(|now| now["stage"] == stage && now["revision"] == *revision)
    })
}

#[test]
fn a_canary_is_told_first_and_alone_has_what_is_bad() {
    let _turn = load::alone();
    for (kind, variant) in [(Kind::Sqlite, Variant::Delta), (Kind::Postgres, Variant::Sotw)] {
        let database = Database::create(kind);
        let mut server = Deltaplane::start(&database.url());
        let (a, b) = (Upstream::start("a"), Upstream::start("b"));
        let canary = json!({"canary": {"nodes": {"id": "canary-*"}}, "settled_for_ms": 1000});
        put(&server, "shared", &json!({"validation": "none", "rollout": canary}));
        transact(&server, &json!({"scope": "shared", "upserts": [web(&a)]}));
        let first = Member::join(&server, "canary-1", variant);
        let other = Member::join(&server, "node-1", variant);
        for member in [&first, &other] {
            member.port.reaches("/", &a);
        }
        let loads = [&first, &other].map(|it| Load::start(Plan::constant(it.port.port(), &["/"])));

        good(&server, [&first, &other], [&a, &b]);
        bad(&mut server, [&first, &other], [&a, &b]);
        rolled_back(&server, [&first, &other], &a);
        what_others_wrote_is_kept(&server, [&first, &other]);
        without_a_canary(&server, &other);
        for load in loads {
            load.ends_well();
        }
    }
}

fn good(server: &Deltaplane, [first, other]: [&Member; 2], [a, b]: [&Upstream; 2]) {
    let before = server.ask("GET", "/healthz", None).json()["revision"].clone();
    let stored = transact(server, &json!({"scope": "shared", "upserts": [web(b)], "label": "b"}));
    first.port.reaches("/", b);
    let now = rollout(server);
    assert_eq!(
        (&now["stage"], &now["canary"]),
        (&json!("in_canary"), &json!(["canary-1"])),
        "{now}"
    );
    // The others do not have it, and are not held up by it.
    let beside = json!({"settled": 1, "timeout_ms": 20_000});
    let beside =
        json!({"scope": "node-1", "upserts": [cluster("beside", "STATIC")], "wait": beside});
    let beside = transact(server, &beside);
    assert_eq!(beside["delivery"]["settled"], true, "{beside}");
    other.port.reaches("/", a);
    let health = server.ask("GET", "/healthz", None).json();
    assert_eq!((&health["revision"], &health["behind"]), (&before, &json!(1)));
    let stats = server.ask("GET", "/xds/stats", None).json();
    assert_eq!(
        (&stats["behind"], &stats["rollouts"][0]["stage"]),
        (
            &json!([{"fleet": "shared", "scopes": ["shared"], "revision": before}]),
            &json!("in_canary")
        )
    );
    let clients = server.ask("GET", "/xds/clients?scope=shared", None).json();
    let canaries: Vec<_> = clients
        .as_array()
        .into_iter()
        .flatten()
        .map(|it| (&it["node"], &it["canary"], &it["scope"]))
        .collect();
    assert_eq!(
        canaries,
        [
            (&json!("canary-1"), &json!(true), &json!("canary-1")),
            (&json!("node-1"), &json!(false), &json!("node-1"))
        ]
    );
    // What comes meanwhile goes after it.
    let next =
        transact(server, &json!({"scope": "shared", "upserts": [cluster("next", "STATIC")]}));
    reaches(server, "promoted", &next["revision"]);
    assert!(stored["revision"].as_i64() < next["revision"].as_i64());
    other.port.reaches("/", b);
    assert!(other.envoy.clusters().contains(&"next".to_owned()));
    let health = server.ask("GET", "/healthz", None).json();
    assert_eq!((&health["revision"], &health["behind"]), (&next["revision"], &json!(0)));
}

fn bad(server: &mut Deltaplane, [first, other]: [&Member; 2], [a, b]: [&Upstream; 2]) {
    let upserts = json!([web(a), cluster("bad", "EDS")]);
    let wait = json!({"settled": 1, "timeout_ms": 20_000});
    let stored = transact(server, &json!({"scope": "shared", "upserts": upserts, "wait": wait}));
    let delivery = &stored["delivery"];
    assert_eq!(delivery["settled"], false, "{stored}");
    let [told] = &delivery["clients"].as_array().expect("a list")[..] else { panic!("{delivery}") };
    assert_eq!((&told["node"], &told["fate"]), (&json!("canary-1"), &json!("rejected")));
    let now = reaches(server, "withdrawn", &stored["revision"]);
    let [reason] = &now["reasons"].as_array().expect("a list")[..] else { panic!("{now}") };
    let reason = reason.as_str().expect("a text");
    assert!(
        reason.starts_with("canary-1 rejects a Cluster: ") && reason.contains("bad"),
        "{reason}"
    );
    assert!(
        server.log_line(&["withdrawn from those who were first", "fleet=\"shared\""]).is_some()
    );
    first.port.reaches("/", b);
    assert_ne!(first.rejections(), 0);
    assert_eq!(other.rejections(), 0);
    assert!(!other.envoy.config_dump().contains("\"bad\""), "it was never told");

    // So it is when the server is started anew.
    server.stop();
    server.resume();
    assert_eq!(server.ask("GET", "/healthz", None).json()["behind"], 1);
    reaches(server, "withdrawn", &stored["revision"]);
    first.port.reaches("/", b);
    other.port.reaches("/", b);
    assert_eq!(other.rejections(), 0);
    assert!(!other.envoy.config_dump().contains("\"bad\""), "it was never told");

    // What becomes of others' changes is noted all the same, and of this, nothing but that it was withdrawn.
    let beside = json!({"scope": "node-1", "upserts": [cluster("meanwhile", "STATIC")]});
    let beside = transact(server, &beside);
    let delivery = |revision: &Value| {
        let path = format!("/api/v1/revisions/{revision}");
        server.ask("GET", &path, None).json()["delivery"].clone()
    };
    let noted = wait_until("what became of it is noted", PATIENCE, || {
        let noted = delivery(&beside["revision"]);
        noted[0]["settled"].is_u64().then_some(noted)
    });
    assert_eq!((&noted[0]["settled"], &noted[0]["without"]), (&json!(2), &json!(["shared"])));
    let noted = delivery(&stored["revision"]);
    let mut all = noted.as_array().into_iter().flatten();
    assert!(all.all(|outcome| outcome["withdrawn_from"] == "shared"), "{noted}");

    // What repairs it goes the same way, with the rest of what was withdrawn.
    let wait = json!({"settled": 1, "timeout_ms": 20_000});
    let repair = json!({"scope": "shared", "upserts": [cluster("bad", "STATIC")], "wait": wait});
    let repaired = transact(server, &repair);
    assert_eq!(repaired["delivery"]["settled"], true, "{repaired}");
    for member in [first, other] {
        member.port.reaches("/", a);
    }
    let metrics = server.ask("GET", "/metrics", None).body;
    for line in [
        "deltaplane_rollouts_total{fleet=\"shared\",outcome=\"promoted\"} 1",
        "deltaplane_rollouts_total{fleet=\"shared\",outcome=\"withdrawn\"} 1",
        "deltaplane_rollout_stage{fleet=\"shared\",stage=\"promoted\"} 1",
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
}

fn rolled_back(server: &Deltaplane, [first, other]: [&Member; 2], a: &Upstream) {
    let canary = json!({"canary": {"nodes": {"id": "canary-*"}}});
    let fleet = json!({"validation": "none", "rollout": canary, "on_rejection": "rollback"});
    put(server, "shared", &fleet);
    let before = stored(server, "shared");
    let nobody = Upstream::start("nobody");
    let folder = tempfile::tempdir().expect("a folder for temporary files can be made");
    let file = folder.path().join("worse.json");
    let worse = json!({"upserts": [web(&nobody), cluster("worse", "EDS")]});
    std::fs::write(&file, worse.to_string()).expect("a folder can be written to");
    let file = file.to_string_lossy();
    let output = server.run(&["apply", "--scope", "shared", "-f", &file, "--wait"]);
    let said = format!("{output:?}");
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(
        said.contains("canary-1 rejects a Cluster") && said.contains("rolled back at"),
        "{said}"
    );
    assert_eq!(stored(server, "shared"), before);
    let now = rollout(server);
    let (bad, back) = (&now["revision"], &now["rolled_back"]);
    let back = server.ask("GET", &format!("/api/v1/revisions/{back}"), None).json();
    assert_eq!(back["author"], "deltaplane", "{back}");
    let label = back["label"].as_str().expect("it is called something");
    assert!(label.starts_with("rolled back: canary-1 rejects a Cluster: "), "{label}");
    let bad = server.ask("GET", &format!("/api/v1/revisions/{bad}"), None).json();
    let noted = bad["delivery"].as_array().into_iter().flatten();
    let noted: Vec<_> = noted.filter(|it| it["withdrawn_from"] == "shared").collect();
    assert_eq!((noted.len(), &noted[0]["clients"]), (1, &json!(1)), "{bad}");
    assert!(!other.envoy.config_dump().contains("worse"), "it was never told");
    first.port.reaches("/", a);
    wait_until("all have what is stored", PATIENCE, || {
        let health = server.ask("GET", "/healthz", None).json();
        (health["revision"] == now["rolled_back"] && health["behind"] == 0).then_some(())
    });
    let metrics = server.ask("GET", "/metrics", None).body;
    assert!(metrics.contains("deltaplane_rollbacks_total{fleet=\"shared\"} 1"), "{metrics}");
}

fn what_others_wrote_is_kept(server: &Deltaplane, [first, other]: [&Member; 2]) {
    let before = stored(server, "shared");
    first.envoy.pause();
    let bad = json!({"scope": "shared", "upserts": [cluster("worst", "EDS")]});
    let bad = transact(server, &bad);
    reaches(server, "in_canary", &bad["revision"]);
    let kept =
        transact(server, &json!({"scope": "shared", "upserts": [cluster("kept", "STATIC")]}));
    first.envoy.resume();
    reaches(server, "promoted", &json!(kept["revision"].as_i64().expect("a number") + 1));
    let names: Vec<_> = stored(server, "shared").into_iter().map(|(name, _)| name).collect();
    let mut expected: Vec<_> = before.into_iter().map(|(name, _)| name).collect();
    expected.insert(2, json!("kept"));
    expected.sort_by_key(ToString::to_string);
    assert_eq!(names, expected);
    wait_until("all have it", PATIENCE, || {
        other.envoy.clusters().contains(&"kept".to_owned()).then_some(())
    });
    assert_eq!(other.rejections(), 0);
}

/// Then all get it at once, and lose it again.
fn without_a_canary(server: &Deltaplane, other: &Member) {
    let fleet = json!({"nodes": {"id": "node-1"}, "below": "shared", "validation": "none",
                       "on_rejection": "rollback"});
    put(server, "node-1", &fleet);
    let before = stored(server, "node-1");
    let wait = json!({"settled": 1, "timeout_ms": 20_000});
    let bad = json!({"scope": "node-1", "upserts": [cluster("own", "EDS")], "wait": wait});
    let bad = transact(server, &bad);
    assert_eq!(bad["delivery"]["clients"][0]["fate"], "rejected", "{bad}");
    assert_eq!(stored(server, "node-1"), before);
    assert_ne!(other.rejections(), 0);
    let good = json!({"scope": "node-1", "upserts": [cluster("own", "STATIC")], "wait": wait});
    assert_eq!(transact(server, &good)["delivery"]["settled"], true);
}
