//! Delta, statement by statement.

use std::{collections::BTreeSet, time::Duration};

use deltaplane_cache::Transaction;
use deltaplane_core::{Event, Resource, Variant};

use crate::client::{BOTH, CDS, Client, EDS, Got, LDS, RDS, SDS, VHDS, delta};

#[test]
fn d01_versions_follow_the_content() {
    let mut client = delta(&[(CDS, "a", 1), (CDS, "b", 1)]);
    client.delta(CDS, &[], &[]);
    let first = client.expect(CDS);
    assert_eq!(first.names, ["a", "b"]);
    assert!(first.versions.iter().all(|version| !version.is_empty()));
    client.put(&[(CDS, "a", 2)]);
    let second = client.expect(CDS);
    assert_ne!(second.versions[0], first.versions[0]);
    client.put(&[(CDS, "a", 1)]);
    assert_eq!(client.expect(CDS).versions[0], first.versions[0]);
    // In another process, too, as far as a test can show it.
    let mut other = delta(&[(CDS, "b", 1), (CDS, "a", 1)]);
    other.delta(CDS, &["a", "b"], &[]);
    assert_eq!(other.expect(CDS).versions, first.versions);
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
    for type_url in [EDS, SDS, CDS] {
        client.delta(type_url.clone(), &["z"], &[]);
        let got = client.expect(type_url);
        assert_eq!((got.resources, got.removed), (vec![], vec!["z".into()]));
    }
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
fn d09_to_give_up_what_was_never_subscribed_is_accepted() {
    let mut client = delta(&[(EDS, "a", 1)]);
    client.delta(EDS, &[], &["nope"]);
    client.silence();
    client.delta(EDS, &["a"], &["nope"]);
    assert_eq!(client.expect(EDS).resources, ["a=1"]);
    client.delta(EDS, &[], &["nope", "*"]);
    client.silence();
}

#[test]
fn d10_subscriptions_ride_on_any_request() {
    for words in [None, Some("no")] {
        let mut client = delta(&[(EDS, "a", 1), (EDS, "b", 1)]);
        client.delta(EDS, &["a"], &[]);
        let got = client.expect(EDS);
        client.delta_answer(EDS, &got.nonce, words, &["b"], &["a"]);
        assert_eq!(client.expect(EDS).resources, ["b=1"]);
        client.put(&[(EDS, "a", 2)]);
        client.silence();
    }
}

#[test]
fn d11_an_old_nonce_does_not_stop_a_subscription() {
    let mut client = delta(&[(EDS, "a", 1), (EDS, "b", 1)]);
    client.delta(EDS, &["a"], &[]);
    let first = client.expect(EDS);
    client.put(&[(EDS, "a", 2)]);
    let second = client.expect(EDS);
    client.delta_answer(EDS, &first.nonce, None, &["b"], &[]);
    assert_eq!(client.expect(EDS).resources, ["b=1"]);
    assert_eq!(client.settled(), [format!("+{}", first.nonce)]);
    // The answer was given: its nonce is worth nothing more, but what rides on it is.
    client.delta_answer(EDS, &first.nonce, None, &[], &["a"]);
    client.put(&[(EDS, "a", 3)]);
    client.silence();
    client.ack(&second, &[]);
    assert_eq!(client.settled(), [format!("+{}", second.nonce)]);
}

#[test]
fn d12_d13_only_a_known_nonce_is_an_answer() {
    let mut client = delta(&[(EDS, "a", 1), (EDS, "b", 1)]);
    client.delta(EDS, &["a"], &[]);
    let mut got = client.expect(EDS);
    client.events();
    client.delta(EDS, &["b"], &[]);
    assert_eq!(client.settled(), [""; 0]);
    client.drain(&[]);
    client.events();
    let nonce = std::mem::replace(&mut got.nonce, "bogus".into());
    client.ack(&got, &[]);
    assert_eq!(client.settled(), [""; 0]);
    client.delta_answer(EDS, "bogus", Some("no"), &["a"], &[]);
    assert_eq!(client.settled(), [""; 0]);
    assert_eq!(client.expect(EDS).resources, ["a=1"]);
    got.nonce = nonce;
    client.ack(&got, &[]);
    assert!(matches!(client.events()[..], [Event::Acknowledged { .. }]));
}

#[test]
fn d14_each_of_several_responses_has_its_own_answer() {
    let mut client = delta(&[(CDS, "a", 0)]);
    client.delta(CDS, &[], &[]);
    client.drain(&[]);
    client.events();
    let sent: Vec<_> = (1..=3)
        .map(|content| {
            client.put(&[(CDS, "a", content)]);
            client.expect(CDS)
        })
        .collect();
    for at in [1, 0, 2] {
        client.ack(&sent[at], &[]);
        assert_eq!(client.settled(), [format!("+{}", sent[at].nonce)]);
    }
    client.silence();
}

#[test]
fn d15_a_name_in_both_lists_ends_unsubscribed() {
    let mut client = delta(&[(EDS, "a", 1)]);
    client.delta(EDS, &["a"], &["a"]);
    client.silence();
    client.put(&[(EDS, "a", 2)]);
    client.silence();
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
        let resource = Resource::raw(VHDS, name, format!("{name}={content}"));
        let mut transaction = Transaction::new();
        transaction.upsert("default", resource.aliases(aliases.iter().copied()).build());
        client.cache.commit(transaction).unwrap();
    };
    put(&client, "rc/vh", 1, &["rc/a", "rc/b"]);
    client.delta(VHDS, &["rc/a", "rc/b", "rc/vh"], &[]);
    let got = client.expect(VHDS);
    assert_eq!(got.resources, ["rc/vh=1"], "once, under its own name");
    assert_eq!(
        (&*got.names, &*got.aliases),
        (&["rc/vh".into()][..], &["rc/a".into(), "rc/b".into()][..])
    );
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

/// Ten minutes of changes, ten in a second.
#[test]
fn d18_d21_every_response_says_something_and_every_resource_has_content() {
    let mut client = delta(&[(CDS, "a", 0)]);
    for type_url in [CDS, LDS] {
        client.delta(type_url, &[], &[]);
    }
    client.delta(EDS, &["a", "b", "c", "d"], &[]);
    client.drain(&[]);
    let mut seed = 1_u32;
    let mut random = |below: u32| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 16) % below
    };
    for _ in 0..6000 {
        let type_url = [CDS, EDS, LDS][random(3) as usize].clone();
        let name = ["a", "b", "c", "d"][random(4) as usize];
        match random(8) {
            0..5 => drop(client.put(&[(type_url, name, random(3))])),
            5..7 => drop(client.remove(&[(type_url, name)])),
            _ => client.delta(EDS, &[name], &[]),
        }
        // Reading it, the client looks for the content of each resource.
        while let Some(got) = client.poll() {
            assert!(got.names.len() + got.removed.len() > 0, "{got:?}");
            if random(4) == 0 {
                client.nack(&got, &[], "", "no");
            } else {
                client.ack(&got, &[]);
            }
        }
    }
}

#[test]
fn d19_endpoints_are_emptied_by_an_assignment_without_any() {
    for variant in BOTH {
        let mut client = Client::with(variant, &[(EDS, "a", 1)]);
        client.ask(EDS, &["a"]);
        client.drain(&["a"]);
        let mut transaction = Transaction::new();
        transaction.upsert("default", Resource::raw(EDS, "a", vec![]).build());
        client.cache.commit(transaction).unwrap();
        let got = client.expect(EDS);
        assert_eq!((got.resources, got.removed), (vec![String::new()], vec![]));
    }
}

#[test]
fn d21_what_changes_nothing_is_met_with_silence() {
    for variant in BOTH {
        let mut client = Client::with(variant, &[(CDS, "a", 1), (EDS, "a", 1)]);
        client.ask(CDS, &[]);
        client.ask(EDS, &["a"]);
        client.drain(&["a"]);
        client.put(&[(CDS, "a", 1), (EDS, "a", 1)]);
        client.remove(&[(CDS, "none"), (EDS, "none")]);
        client.put(&[(EDS, "unasked", 1)]);
        client.silence();
    }
}

#[test]
fn d22_what_nobody_asked_for_is_not_sent() {
    let names = ["a", "b", "c", "d", "e", "f"];
    let mut client = delta(&names.map(|name| (RDS, name, 1)));
    client.delta(RDS, &["a"], &[]);
    let got = client.expect(RDS);
    assert_eq!(got.resources, ["a=1"]);
    client.ack(&got, &[]);
    client.put(&names.map(|name| (RDS, name, u32::from(name == "a"))));
    client.silence();
}

#[test]
fn d23_a_large_set_is_split_into_parts_of_one_revision() {
    let mut client = Client::new(Variant::Delta);
    let mut transaction = Transaction::new();
    for i in 0..50 {
        let value = vec![b'x'; 1 << 20];
        let resource = Resource::raw(CDS, format!("c{i}"), value);
        transaction.upsert("default", resource.build());
    }
    client.cache.commit(transaction).unwrap();
    client.delta(CDS, &[], &[]);
    let mut parts = vec![client.expect(CDS)];
    // A commit in the middle follows as a difference.
    client.put(&[(CDS, "c9", 2)]);
    parts.extend(client.read_all());
    assert_eq!(parts.pop().unwrap().resources, ["c9=2"]);
    let size = |got: &Got| got.resources.iter().map(String::len).sum::<usize>();
    assert!(parts.iter().all(|part| size(part) < 4 << 20), "K-05");
    let names: BTreeSet<_> = parts.iter().flat_map(|part| &part.names).collect();
    assert_eq!((names.len(), parts.iter().map(|part| part.names.len()).sum()), (50, 50));
}

#[test]
fn k05_removals_are_split_too() {
    let mut client = delta(&[(CDS, "a", 1)]);
    let names: Vec<_> = (0..5000).map(|i| format!("{i:01000}")).collect();
    let held: Vec<_> = names.iter().map(|name| (name.as_str(), "1")).collect();
    client.delta_from(CDS, &[], &[], &held);
    assert_eq!(client.expect(CDS).resources, ["a=1"]);
    client.pass(Duration::from_secs(1));
    let parts = client.read_all();
    let size = |got: &Got| got.removed.iter().map(String::len).sum::<usize>();
    let sizes: Vec<_> = parts.iter().map(size).collect();
    assert!(sizes.iter().all(|size| *size < 4 << 20), "{sizes:?}");
    assert_eq!(sizes.iter().sum::<usize>(), 5_000_000);
}

/// Envoy never finishes starting a listener whose routes are answered as removed.
#[test]
fn d04_routes_that_went_while_they_were_asked_for_again_are_met_with_silence() {
    let mut client = delta(&[(RDS, "r", 1)]);
    client.delta(RDS, &["r"], &[]);
    let in_flight = client.expect(RDS);
    client.silence();
    client.remove(&[(RDS, "r")]);
    client.delta(RDS, &[], &["r"]);
    client.delta(RDS, &["r"], &[]);
    client.silence();
    client.ack(&in_flight, &[]);
    client.silence();
    client.put(&[(RDS, "r", 2)]);
    assert_eq!(client.expect(RDS).resources, ["r=2"]);
    let held = client.remove(&[(RDS, "r")]);
    assert_eq!(held.changes, 1);
    assert_eq!(client.expect(RDS).removed, ["r"], "D-07");
}
