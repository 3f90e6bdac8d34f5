//! Wildcards, statement by statement.

use deltaplane_core::TypeUrl;

use crate::client::{BOTH, CDS, Client, ECDS, EDS, LDS, RDS, RTDS, SDS, SRDS, delta, sotw};

#[test]
fn w01_a_nameless_first_request_subscribes_to_everything() {
    for variant in BOTH {
        for type_url in [CDS, LDS, SRDS] {
            let two = [(type_url.clone(), "a", 1), (type_url.clone(), "b", 1)];
            let mut client = Client::with(variant, &two);
            client.ask(type_url.clone(), &[]);
            let got = client.expect(type_url);
            assert_eq!(got.resources, ["a=1", "b=1"]);
            client.ack(&got, &[]);
            client.silence();
        }
    }
}

#[test]
fn w02_requests_without_names_leave_the_wildcard_in_force() {
    for variant in BOTH {
        let mut client = Client::with(variant, &[(CDS, "a", 1)]);
        client.ask(CDS, &[]);
        for round in 0..3 {
            client.drain(&[]);
            client.ask(CDS, &[]);
            client.silence();
            client.put(&[(CDS, &format!("b{round}"), 1)]);
            let got = client.expect(CDS);
            assert!(got.resources.contains(&format!("b{round}=1")), "{got:?}");
            client.ack(&got, &[]);
        }
    }
}

#[test]
fn w03_a_star_means_everything_in_any_request() {
    for variant in BOTH {
        for names in [&["*"][..], &["*", "a"], &["missing", "*"]] {
            let mut client = Client::with(variant, &[(CDS, "a", 1), (CDS, "b", 1)]);
            client.ask(CDS, names);
            assert_eq!(client.expect(CDS).resources, ["a=1", "b=1"], "{names:?}");
        }
        let mut later = Client::with(variant, &[(CDS, "a", 1), (CDS, "b", 1)]);
        later.ask(CDS, &["a"]);
        later.drain(&["a"]);
        later.ask(CDS, &["*"]);
        let all = later.expect(CDS).resources;
        assert!(all.contains(&"b=1".to_owned()), "{all:?}");
        later.put(&[(CDS, "c", 1)]);
        assert!(later.expect(CDS).resources.contains(&"c=1".to_owned()));
    }
}

#[test]
fn w04_a_wildcard_ends_when_names_come_without_it() {
    let mut client = sotw(&[(CDS, "a", 1), (CDS, "b", 1)]);
    client.sotw(CDS, &[], "", "");
    let got = client.expect(CDS);
    client.ack(&got, &["*", "a"]);
    assert_eq!(client.expect(CDS).resources, ["a=1", "b=1"], "W-15: each once");
    client.put(&[(CDS, "b", 2)]);
    let got = client.expect(CDS);
    client.ack(&got, &["a"]);
    client.put(&[(CDS, "b", 3)]);
    client.silence();
    client.put(&[(CDS, "a", 2)]);
    let got = client.expect(CDS);
    assert_eq!(got.resources, ["a=2"]);
    client.ack(&got, &[]);
    client.put(&[(CDS, "a", 3)]);
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
fn w06_a_nameless_request_after_names_is_no_wildcard() {
    for variant in BOTH {
        let mut client = Client::with(variant, &[(CDS, "a", 1), (CDS, "b", 1)]);
        client.ask(CDS, &["a"]);
        client.drain(&["a"]);
        client.ask(CDS, &[]);
        client.silence();
        client.put(&[(CDS, "b", 2)]);
        client.silence();
    }
}

#[test]
fn w07_a_first_request_that_only_unsubscribes_is_no_wildcard() {
    let mut client = delta(&[(CDS, "a", 1)]);
    client.delta(CDS, &[], &["x"]);
    client.silence();
    client.delta(CDS, &[], &[]);
    client.put(&[(CDS, "a", 2)]);
    client.silence();
}

#[test]
fn w08_the_star_is_nobodys_name() {
    let mut client = delta(&[(LDS, "l", 1)]);
    client.delta(CDS, &["*"], &[]);
    let got = client.expect(CDS);
    assert!(got.resources.is_empty() && got.removed.is_empty());
    let (_, subscription) = client.machine.subscriptions().next().unwrap();
    assert!(subscription.is_wildcard() && subscription.names().next().is_none());
    client.nack(&got, &[], "", "the star is bad");
    client.delta(CDS, &["*"], &["*"]);
    client.delta(EDS, &["*"], &[]);
    client.silence();
    let mut client = delta(&[(LDS, "l", 1)]);
    client.delta_from(CDS, &["*"], &[], &[("*", "1")]);
    assert!(client.read_all().iter().all(|got| got.removed.is_empty()));
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
fn w11_a_name_that_the_wildcard_gave_is_sent_again() {
    let mut client = delta(&[(CDS, "a", 1), (CDS, "b", 1)]);
    client.delta(CDS, &[], &[]);
    client.drain(&[]);
    client.delta(CDS, &["a"], &[]);
    assert_eq!(client.expect(CDS).resources, ["a=1"]);
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
fn w13_the_end_of_a_wildcard_is_met_with_silence_and_leaves_names_alone() {
    let mut client = delta(&[(CDS, "a", 1), (CDS, "b", 1)]);
    client.delta(CDS, &[], &[]);
    client.delta(CDS, &["a"], &[]);
    client.drain(&[]);
    client.delta(CDS, &[], &["*"]);
    client.silence();
    client.commit(&[(CDS, "c", 1)], &[(CDS, "b")]);
    client.silence();
    client.put(&[(CDS, "a", 2)]);
    assert_eq!(client.expect(CDS).resources, ["a=2"]);
}

#[test]
fn w14_nobody_gets_all_of_a_type_that_is_delivered_by_name() {
    for variant in BOTH {
        for type_url in [RDS, EDS, SDS, ECDS, RTDS, TypeUrl::LOCALITY_ENDPOINT] {
            let mut client = Client::with(variant, &[(type_url.clone(), "key", 1)]);
            client.ask(type_url.clone(), &[]);
            client.ask(type_url.clone(), &["*"]);
            client.put(&[(type_url, "key", 2)]);
            client.silence();
        }
    }
}

#[test]
fn w15_a_name_beside_the_star_is_sent_once() {
    for variant in BOTH {
        let mut client = Client::with(variant, &[(CDS, "a", 1), (CDS, "b", 1)]);
        client.ask(CDS, &["*", "a"]);
        let got = client.expect(CDS);
        assert_eq!(got.resources, ["a=1", "b=1"]);
        client.ack(&got, &["*", "a"]);
        client.silence();
        client.put(&[(CDS, "a", 2)]);
        let again = client.expect(CDS).resources;
        assert_eq!(again.iter().filter(|r| r.starts_with("a=")).count(), 1);
        client.silence();
    }
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
