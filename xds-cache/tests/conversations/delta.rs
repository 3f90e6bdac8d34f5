//! Delta, statement by statement.

use deltaplane_core::{Event, Variant};

use crate::client::{CDS, Client, EDS, LDS, RDS, SDS, VHDS};

fn delta(resources: &[(deltaplane_core::TypeUrl, &str, u32)]) -> Client {
    Client::with(Variant::Delta, resources)
}

#[test]
fn w01_a_nameless_first_request_subscribes_to_everything() {
    let mut client = delta(&[(CDS, "a", 1), (CDS, "b", 1)]);
    client.delta(CDS, &[], &[]);
    let got = client.expect(CDS);
    assert_eq!(got.resources, ["a=1", "b=1"]);
    client.ack(&got, &[]);
    client.silence();
}

#[test]
fn w05_a_name_beside_the_wildcard_leaves_it_in_force() {
    let mut client = delta(&[(CDS, "a", 1), (CDS, "b", 1)]);
    client.delta(CDS, &[], &[]);
    client.drain(&[]);
    client.delta(CDS, &["a"], &[]);
    assert_eq!(client.expect(CDS).resources, ["a=1"]);
    client.put(&[(CDS, "b", 2)]);
    assert_eq!(client.expect(CDS).resources, ["b=2"]);
    client.delta(CDS, &[], &["*"]);
    client.put(&[(CDS, "b", 3)]);
    client.silence();
    client.put(&[(CDS, "a", 2)]);
    assert_eq!(client.expect(CDS).resources, ["a=2"]);
    client.delta(CDS, &[], &["a"]);
    client.put(&[(CDS, "a", 3)]);
    client.silence();
}

#[test]
fn w10_a_name_given_up_under_the_wildcard_is_answered() {
    let mut client = delta(&[(CDS, "a", 1)]);
    client.delta(CDS, &[], &[]);
    client.drain(&[]);
    client.delta(CDS, &["a", "gone"], &[]);
    client.drain(&[]);
    client.delta(CDS, &[], &["a", "gone"]);
    let got = client.expect(CDS);
    assert_eq!((got.resources, got.removed), (vec!["a=1".into()], vec!["gone".into()]));
    client.silence();
}

#[test]
fn w12_an_empty_set_is_answered_once() {
    let mut client = delta(&[(LDS, "l", 1)]);
    client.delta(CDS, &[], &[]);
    let got = client.expect(CDS);
    assert!(got.resources.is_empty() && got.removed.is_empty());
    client.ack(&got, &[]);
    client.silence();
}

#[test]
fn w14_a_nameless_request_for_secrets_gets_none() {
    let mut client = delta(&[(SDS, "key", 1)]);
    client.delta(SDS, &[], &[]);
    client.delta(SDS, &["*"], &[]);
    client.silence();
}

#[test]
fn w16_a_wildcard_that_was_given_up_starts_anew() {
    let mut client = delta(&[(CDS, "a", 1), (CDS, "b", 1)]);
    client.delta(CDS, &[], &[]);
    client.drain(&[]);
    client.delta(CDS, &[], &["*"]);
    client.silence();
    client.delta(CDS, &["*"], &[]);
    assert_eq!(client.expect(CDS).resources, ["a=1", "b=1"]);
}

#[test]
fn d03_only_what_changed_is_sent() {
    let mut client = delta(&[(CDS, "a", 1), (CDS, "b", 1), (CDS, "c", 1)]);
    client.delta(CDS, &[], &[]);
    client.drain(&[]);
    client.put(&[(CDS, "a", 1), (CDS, "b", 2)]);
    assert_eq!(client.expect(CDS).resources, ["b=2"]);
    client.silence();
}

#[test]
fn d04_a_missing_name_is_answered_as_removed_where_that_is_right() {
    let mut client = delta(&[(CDS, "a", 1)]);
    client.delta(EDS, &["z"], &[]);
    assert_eq!(client.expect(EDS).removed, ["z"]);
    client.delta(RDS, &["z"], &[]);
    client.silence();
}

#[test]
fn d05_a_missing_name_is_sent_when_it_comes() {
    let mut client = delta(&[(CDS, "a", 1)]);
    client.delta(EDS, &["z"], &[]);
    client.delta(RDS, &["r"], &[]);
    client.drain(&[]);
    client.put(&[(EDS, "z", 1), (RDS, "r", 1)]);
    assert_eq!(client.expect(EDS).resources, ["z=1"]);
    assert_eq!(client.expect(RDS).resources, ["r=1"]);
    client.remove(&[(EDS, "z")]);
    assert_eq!(client.expect(EDS).removed, ["z"]);
    client.put(&[(EDS, "z", 1)]);
    assert_eq!(client.expect(EDS).resources, ["z=1"]);
}

#[test]
fn d06_resubscribe_is_answered() {
    let mut client = delta(&[(EDS, "a", 1)]);
    client.delta(EDS, &["a"], &[]);
    let first = client.expect(EDS);
    client.ack(&first, &[]);
    client.delta(EDS, &["a"], &[]);
    let again = client.expect(EDS);
    assert_eq!(again.resources, ["a=1"]);
    assert_eq!(again.versions, first.versions);
    assert_ne!(again.nonce, first.nonce);
}

#[test]
fn d07_a_deletion_is_told_once() {
    let mut client = delta(&[(CDS, "a", 1), (CDS, "b", 1)]);
    client.delta(CDS, &[], &[]);
    client.drain(&[]);
    client.remove(&[(CDS, "b")]);
    let got = client.expect(CDS);
    assert_eq!(got.removed, ["b"]);
    client.put(&[(CDS, "a", 2)]);
    assert!(client.expect(CDS).removed.is_empty());
    client.silence();
}

#[test]
fn d08_unsubscribing_is_met_with_silence() {
    let mut client = delta(&[(EDS, "a", 1), (EDS, "b", 1)]);
    client.delta(EDS, &["a", "b"], &[]);
    client.drain(&[]);
    client.delta(EDS, &[], &["b", "unknown"]);
    client.silence();
    client.put(&[(EDS, "b", 2)]);
    client.silence();
}

#[test]
fn d10_subscriptions_ride_on_any_request() {
    let mut client = delta(&[(EDS, "a", 1), (EDS, "b", 1)]);
    client.delta(EDS, &["a"], &[]);
    let got = client.expect(EDS);
    let request = deltaplane_core::DeltaRequest {
        type_url: EDS.to_string(),
        response_nonce: got.nonce,
        error_detail: Some(deltaplane_core::ErrorDetail::new(13, "no")),
        resource_names_subscribe: vec!["b".into()],
        resource_names_unsubscribe: vec!["a".into()],
        ..Default::default()
    };
    client.machine.handle_request(request.into()).unwrap();
    assert_eq!(client.expect(EDS).resources, ["b=1"]);
    client.put(&[(EDS, "a", 2)]);
    client.silence();
}

#[test]
fn d12_d13_only_a_known_nonce_is_an_answer() {
    let mut client = delta(&[(EDS, "a", 1), (EDS, "b", 1)]);
    client.delta(EDS, &["a"], &[]);
    let mut got = client.expect(EDS);
    client.events();
    client.delta(EDS, &["b"], &[]);
    assert_eq!(client.events(), []);
    let nonce = std::mem::replace(&mut got.nonce, "bogus".into());
    client.ack(&got, &[]);
    assert_eq!(client.events(), []);
    got.nonce = nonce;
    client.ack(&got, &[]);
    assert!(matches!(client.events()[..], [Event::Acknowledged { .. }]));
}

#[test]
fn d16_what_came_back_before_it_was_told_is_no_change() {
    let mut client = delta(&[(CDS, "a", 1), (CDS, "b", 1)]);
    client.delta(CDS, &[], &[]);
    client.drain(&[]);
    client.remove(&[(CDS, "b")]);
    client.put(&[(CDS, "b", 1), (CDS, "brief", 1)]);
    client.remove(&[(CDS, "brief")]);
    client.silence();
    client.remove(&[(CDS, "b")]);
    client.put(&[(CDS, "b", 2)]);
    let got = client.expect(CDS);
    assert_eq!((got.resources, got.removed), (vec!["b=2".into()], vec![]));
}

#[test]
fn d17_a_subscription_to_an_alias_is_one_to_what_has_it() {
    let mut client = Client::new(Variant::Delta);
    let put = |client: &Client, name: &str, content: u32, aliases: &[&str]| {
        let resource = deltaplane_core::Resource::raw(VHDS, name, format!("{name}={content}"));
        let mut transaction = deltaplane_cache::Transaction::new();
        transaction.upsert("default", resource.aliases(aliases.iter().copied()).build());
        client.cache.commit(transaction).unwrap();
    };
    put(&client, "rc/vh", 1, &["rc/a", "rc/b"]);
    client.delta(VHDS, &["rc/a", "rc/b", "rc/vh"], &[]);
    let got = client.expect(VHDS);
    assert_eq!(got.resources, ["rc/vh=1"], "once, under its own name");
    client.ack(&got, &[]);
    client.silence();
    client.delta(VHDS, &[], &["rc/vh", "rc/b"]);
    put(&client, "rc/vh", 2, &["rc/a"]);
    assert_eq!(client.expect(VHDS).resources, ["rc/vh=2"]);
    client.remove(&[(VHDS, "rc/vh")]);
    assert_eq!(client.expect(VHDS).removed, ["rc/vh"]);
    put(&client, "rc/other", 1, &["rc/a"]);
    assert_eq!(client.expect(VHDS).resources, ["rc/other=1"]);
    client.delta(VHDS, &[], &["rc/a"]);
    put(&client, "rc/other", 2, &["rc/a"]);
    client.silence();
}

#[test]
fn d23_a_large_set_is_split_into_parts_of_one_revision() {
    let mut client = Client::new(Variant::Delta);
    let mut transaction = deltaplane_cache::Transaction::new();
    for i in 0..10 {
        let value = vec![b'x'; 1 << 20];
        let resource = deltaplane_core::Resource::raw(CDS, format!("c{i}"), value);
        transaction.upsert("default", resource.build());
    }
    client.cache.commit(transaction).unwrap();
    client.delta(CDS, &[], &[]);
    let first = client.expect(CDS);
    assert!(first.resources.iter().map(String::len).sum::<usize>() < 4 << 20);
    // A commit in the middle follows as a difference.
    client.put(&[(CDS, "c9", 2)]);
    let rest: Vec<_> = std::iter::from_fn(|| client.poll()).collect();
    let total: usize = rest.iter().map(|got| got.resources.len()).sum();
    assert_eq!(first.resources.len() + total, 11);
    assert_eq!(rest.last().unwrap().resources, ["c9=2"]);
}

#[test]
fn n02_n03_n06_a_rejected_response_goes_out_again_when_one_of_it_changes() {
    let mut client = delta(&[(EDS, "bad", 1), (EDS, "good", 1), (EDS, "other", 1)]);
    client.delta(EDS, &["bad", "good"], &[]);
    let got = client.expect(EDS);
    client.nack(&got, &[], "", "bad is bad");
    client.silence();
    client.delta(EDS, &["other"], &[]);
    assert_eq!(client.expect(EDS).resources, ["other=1"]);
    client.put(&[(EDS, "other", 2)]);
    assert_eq!(client.expect(EDS).resources, ["other=2"]);
    client.put(&[(EDS, "bad", 2)]);
    assert_eq!(client.expect(EDS).resources, ["bad=2", "good=1"]);
    client.silence();
}

#[test]
fn n05_a_rollback_to_what_was_acknowledged_is_sent() {
    let mut client = delta(&[(CDS, "a", 1)]);
    client.delta(CDS, &[], &[]);
    client.drain(&[]);
    client.put(&[(CDS, "a", 2), (CDS, "bad", 1)]);
    let got = client.expect(CDS);
    client.nack(&got, &[], "", "bad is bad");
    client.commit(&[(CDS, "a", 1)], &[(CDS, "bad")]);
    assert_eq!(client.expect(CDS).resources, ["a=1"]);
    assert_eq!(client.expect(CDS).removed, ["bad"]);
    client.silence();
}

#[test]
fn n06_a_fix_that_crosses_its_nack_strands_nobody() {
    let mut client = delta(&[(EDS, "bad", 1), (EDS, "good", 1)]);
    client.delta(EDS, &["bad", "good"], &[]);
    let rejected = client.expect(EDS);
    client.put(&[(EDS, "bad", 2)]);
    let fix = client.expect(EDS);
    assert_eq!(fix.resources, ["bad=2"]);
    client.nack(&rejected, &[], "", "bad is bad");
    assert_eq!(client.expect(EDS).resources, ["good=1"]);
    client.ack(&fix, &[]);
    client.silence();
}

#[test]
fn n08_an_answer_that_never_comes_holds_nothing_up() {
    let mut client = delta(&[(CDS, "a", 1), (EDS, "a", 1)]);
    client.delta(CDS, &[], &[]);
    client.delta(EDS, &["a"], &[]);
    for content in 2..2000 {
        while client.poll().is_some() {}
        client.put(&[(EDS, "a", content)]);
        assert_eq!(client.expect(EDS).resources, [format!("a={content}")]);
    }
    client.put(&[(CDS, "a", 2)]);
    assert_eq!(client.expect(CDS).resources, ["a=2"]);
}

#[test]
fn n09_n10_a_rejection_concerns_its_type_and_is_told() {
    let mut client = delta(&[(CDS, "a", 1), (LDS, "l", 1)]);
    client.delta(LDS, &[], &[]);
    let got = client.expect(LDS);
    client.events();
    client.nack(&got, &[], "", "boom");
    let events = client.events();
    let [Event::Rejected { type_url, names, error, .. }] = &events[..] else {
        panic!("{events:?}");
    };
    assert_eq!((type_url, &*error.message), (&LDS, "boom"));
    assert_eq!(names.iter().map(|name| &**name).collect::<Vec<_>>(), ["l"]);
    client.delta(CDS, &[], &[]);
    assert_eq!(client.expect(CDS).resources, ["a=1"]);
}

#[test]
fn n14_a_rejected_sibling_is_removed() {
    let mut client = delta(&[(CDS, "a", 1)]);
    client.delta(CDS, &[], &[]);
    client.drain(&[]);
    client.put(&[(CDS, "bad", 1), (CDS, "c", 1)]);
    let got = client.expect(CDS);
    client.nack(&got, &[], "", "bad is bad");
    client.remove(&[(CDS, "bad"), (CDS, "c")]);
    assert_eq!(client.expect(CDS).removed, ["bad", "c"]);
    client.silence();
}

#[test]
fn r06_r07_a_reconnect_is_told_the_difference() {
    let mut first = delta(&[(CDS, "a", 1), (CDS, "b", 1), (CDS, "c", 1)]);
    first.delta(CDS, &[], &[]);
    let got = first.expect(CDS);
    let versions = got.versions.clone();
    first.commit(&[(CDS, "b", 2), (CDS, "d", 1)], &[(CDS, "c")]);
    let mut second = Client::of(first.cache.clone(), Variant::Delta);
    let held = [("a", &*versions[0]), ("b", &versions[1]), ("c", &versions[2])];
    second.delta_from(CDS, &[], &[], &held);
    assert_eq!(second.expect(CDS).resources, ["b=2", "d=1"]);
    assert_eq!(second.expect(CDS).removed, ["c"]);
    second.silence();
    let mut third = Client::of(delta(&[(CDS, "a", 1)]).cache, Variant::Delta);
    third.delta_from(CDS, &[], &[], &[("a", &versions[0])]);
    third.silence();
}

#[test]
fn r08_what_is_held_is_not_a_subscription() {
    let mut client = delta(&[(EDS, "a", 1), (EDS, "b", 1)]);
    client.delta_from(EDS, &["a"], &[], &[("a", "x"), ("b", "y"), ("gone", "z")]);
    let got = client.expect(EDS);
    assert_eq!((got.resources, got.removed), (vec!["a=1".into()], vec![]));
    client.put(&[(EDS, "b", 2)]);
    client.silence();
}

#[test]
fn r10_endpoints_that_are_named_are_sent_although_held() {
    let mut client = delta(&[(EDS, "a", 1)]);
    let version = crate::client::resource(EDS, "a", 1).version().to_owned();
    client.delta_from(EDS, &["a"], &[], &[("a", &version)]);
    assert_eq!(client.expect(EDS).resources, ["a=1"]);
}

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
fn o04_endpoints_follow_a_changed_cluster() {
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
fn n13_after_a_rejection_of_endpoints_those_that_clusters_wait_for_are_sent_again() {
    let mut client = delta(&[(EDS, "a", 1), (EDS, "b", 1), (EDS, "c", 1), (EDS, "idle", 1)]);
    client.delta(CDS, &[], &[]);
    client.delta(EDS, &["a", "b", "c", "idle"], &[]);
    client.drain(&[]);
    client.put(&[(CDS, "a", 1), (CDS, "b", 1), (CDS, "c", 1)]);
    let clusters = client.expect(CDS);
    let endpoints = client.expect(EDS);
    assert_eq!(endpoints.resources, ["a=1", "b=1", "c=1"]);
    client.ack(&endpoints, &[]);
    client.put(&[(EDS, "a", 2), (EDS, "b", 2)]);
    let bad = client.expect(EDS);
    // The failure ends the clusters' wait, so that they are acknowledged before it is.
    client.ack(&clusters, &[]);
    client.nack(&bad, &[], "", "a: no such locality");
    assert_eq!(client.expect(EDS).resources, ["b=2", "c=1"], "and neither a nor idle");
    client.silence();
}
