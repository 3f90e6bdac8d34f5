//! Order on one aggregated stream, statement by statement.

use deltaplane_core::Variant;

use crate::client::{BOTH, CDS, Client, EDS, LDS, RDS, SDS, delta, sotw};

#[test]
fn o01_o02_additions_go_before_what_refers_to_them_and_removals_last() {
    let mut client = delta(&[(CDS, "x", 1), (EDS, "x", 1), (LDS, "l", 1), (RDS, "r", 1)]);
    for (type_url, names) in [(RDS, &["r"][..]), (LDS, &[]), (EDS, &["x", "y"]), (CDS, &[])] {
        client.delta(type_url, names, &[]);
    }
    client.drain(&[]);
    client.commit(
        &[(RDS, "r", 2), (LDS, "m", 1), (CDS, "y", 1), (EDS, "y", 1)],
        &[(CDS, "x"), (EDS, "x"), (LDS, "l")],
    );
    let got = client.drain(&[]);
    let said: Vec<_> = got
        .iter()
        .map(|got| {
            let type_url = got.type_url.rsplit('.').next().unwrap();
            let type_url = type_url.trim_end_matches("Configuration");
            format!("{type_url} +{} -{}", got.resources.join(","), got.removed.join(","))
        })
        .collect();
    let expected = [
        "Cluster +y=1 -",
        "ClusterLoadAssignment +y=1 -",
        "Listener +m=1 -",
        "Route +r=2 -",
        "Listener + -l",
        "Cluster + -x",
        "ClusterLoadAssignment + -x",
    ];
    assert_eq!(said, expected);
}

#[test]
fn o02_an_intermediate_answer_still_holds_what_is_removed_last() {
    let mut client = sotw(&[(CDS, "x", 1), (RDS, "r", 1)]);
    client.sotw(CDS, &[], "", "");
    client.sotw(RDS, &["r"], "", "");
    let clusters = client.expect(CDS);
    client.expect(RDS);
    client.commit(&[(CDS, "y", 1), (RDS, "r", 2)], &[(CDS, "x")]);
    let both = client.expect(CDS);
    assert_eq!(both.resources, ["y=1", "x=1"]);
    assert_eq!(client.expect(RDS).resources, ["r=2"]);
    let last = client.expect(CDS);
    assert_eq!(last.resources, ["y=1"]);
    let versions = [&clusters.version, &both.version, &last.version];
    assert!(versions[0] != versions[1] && versions[1] != versions[2]);
    client.silence();
}

#[test]
fn o04_endpoints_follow_a_changed_cluster_in_delta() {
    let mut client = delta(&[(CDS, "a", 1), (EDS, "a", 1), (CDS, "b", 1), (EDS, "b", 1)]);
    client.delta(CDS, &[], &[]);
    client.delta(EDS, &["a"], &[]);
    client.drain(&[]);
    client.put(&[(CDS, "a", 2), (CDS, "b", 2)]);
    assert_eq!(client.expect(CDS).resources, ["a=2", "b=2"]);
    assert_eq!(client.expect(EDS).resources, ["a=1"]);
    client.silence();
}

#[test]
fn o04_endpoints_follow_a_changed_cluster_in_sotw() {
    let mut client = sotw(&[(CDS, "a", 1), (CDS, "b", 1), (EDS, "a", 1), (EDS, "b", 1)]);
    client.sotw(CDS, &[], "", "");
    client.sotw(EDS, &["a", "b"], "", "");
    let (clusters, endpoints) = (client.expect(CDS), client.expect(EDS));
    client.ack(&clusters, &[]);
    client.ack(&endpoints, &["a", "b"]);
    client.put(&[(CDS, "a", 2)]);
    assert_eq!(client.expect(CDS).resources, ["a=2", "b=1"]);
    // Envoy asks for the endpoints again, which looks like a repeated answer and needs none.
    client.ack(&endpoints, &["a", "b"]);
    assert_eq!(client.expect(EDS).resources, ["a=1"]);
    client.ack(&endpoints, &["a", "b"]);
    client.silence();
}

#[test]
fn o05_endpoints_of_a_cluster_that_went_and_came_back_are_sent_again() {
    for variant in BOTH {
        let mut client = Client::with(variant, &[(CDS, "c", 1), (EDS, "c", 1)]);
        client.ask(CDS, &[]);
        client.ask(EDS, &["c"]);
        client.drain(&["c"]);
        client.remove(&[(CDS, "c")]);
        client.drain(&["c"]);
        client.put(&[(CDS, "c", 1)]);
        assert_eq!(client.expect(CDS).resources, ["c=1"]);
        assert_eq!(client.expect(EDS).resources, ["c=1"]);
        client.silence();
    }
}

#[test]
fn o06_a_secret_is_answered_while_its_cluster_waits_for_it() {
    for variant in BOTH {
        let mut client = Client::with(variant, &[(CDS, "c", 1), (SDS, "key", 1)]);
        client.ask(CDS, &[]);
        client.expect(CDS);
        client.ask(SDS, &["key"]);
        assert_eq!(client.expect(SDS).resources, ["key=1"]);
    }
}

#[test]
fn o07_routes_are_not_sent_again_with_their_listener() {
    for variant in BOTH {
        let mut client = Client::with(variant, &[(LDS, "r", 1), (RDS, "r", 1)]);
        client.ask(LDS, &[]);
        client.ask(RDS, &["r"]);
        client.drain(&["r"]);
        client.put(&[(LDS, "r", 2)]);
        assert_eq!(client.expect(LDS).resources, ["r=2"]);
        client.silence();
    }
}

#[test]
fn o11_answers_that_are_held_back_hold_nothing_up() {
    for variant in BOTH {
        let mut client = Client::with(variant, &[(CDS, "a", 1), (EDS, "n", 1)]);
        client.ask(CDS, &[]);
        client.drain(&[]);
        client.events();
        client.put(&[(CDS, "n", 1)]);
        let first = client.expect(CDS);
        client.put(&[(CDS, "a", 2)]);
        let second = client.expect(CDS);
        assert!(second.resources.contains(&"a=2".to_owned()));
        client.ask(EDS, &["n"]);
        let endpoints = client.expect(EDS);
        assert_eq!(endpoints.resources, ["n=1"]);
        client.ack(&endpoints, &["n"]);
        if variant == Variant::Delta {
            client.ack(&first, &[]);
        }
        client.ack(&second, &[]);
        let newest = format!("+{}", second.nonce);
        assert_eq!(client.settled().last(), Some(&newest));
        client.silence();
    }
}

#[test]
fn o11_the_newest_answer_settles_all_before_it() {
    let mut client = sotw(&[(CDS, "a", 1)]);
    client.sotw(CDS, &[], "", "");
    client.expect(CDS);
    client.put(&[(CDS, "a", 2)]);
    client.expect(CDS);
    client.put(&[(CDS, "a", 3)]);
    let newest = client.expect(CDS);
    client.nack(&newest, &[], "", "cluster a: bad");
    client.put(&[(CDS, "b", 1)]);
    let got = client.expect(CDS);
    assert_eq!(got.resources, ["b=1"], "nothing of a was ever acknowledged");
}
