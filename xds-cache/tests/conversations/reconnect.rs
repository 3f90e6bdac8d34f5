//! Streams that begin anew, statement by statement.

use std::time::Duration;

use deltaplane_cache::Transaction;
use deltaplane_core::{Variant, View};

use crate::client::{BOTH, CDS, Client, EDS, Got, LDS, RDS, SDS, delta, resource, sotw};

#[test]
fn r01_a_new_stream_knows_nothing_of_the_last_one() {
    for variant in BOTH {
        let mut first = Client::with(variant, &[(EDS, "a", 1), (EDS, "b", 1)]);
        first.ask(EDS, &["a"]);
        first.drain(&["a"]);
        let mut second = Client::of(first.cache.clone(), variant);
        second.silence();
        second.ask(EDS, &["b"]);
        assert_eq!(second.expect(EDS).resources, ["b=1"]);
        second.put(&[(EDS, "a", 2)]);
        second.silence();
    }
}

#[test]
fn r02_r03_a_reconnect_with_the_same_content_is_met_with_silence() {
    let mut first = sotw(&[(CDS, "a", 1), (EDS, "a", 1)]);
    first.sotw(CDS, &[], "", "");
    first.sotw(EDS, &["a"], "", "");
    let (clusters, endpoints) = (first.expect(CDS), first.expect(EDS));
    let mut same = sotw(&[(CDS, "a", 1), (EDS, "a", 1)]);
    same.sotw(CDS, &[], &clusters.version, "");
    same.silence();
    same.sotw(EDS, &["a"], &endpoints.version, "");
    assert_eq!(same.expect(EDS).resources, ["a=1"]);
    same.put(&[(CDS, "a", 2)]);
    assert_eq!(same.expect(CDS).resources, ["a=2"]);
    let mut other = sotw(&[(CDS, "a", 2)]);
    other.sotw(CDS, &[], &clusters.version, "");
    assert_eq!(other.expect(CDS).resources, ["a=2"]);
}

/// Who had all that there is by name, gave it up and comes back for everything has nothing of it.
#[test]
fn r02_the_version_of_a_part_is_never_that_of_the_whole() {
    let mut first = sotw(&[(CDS, "a", 1)]);
    first.sotw(CDS, &["a"], "", "");
    let part = first.expect(CDS);
    let mut second = Client::of(first.cache.clone(), Variant::Sotw);
    second.sotw(CDS, &[], &part.version, "");
    assert_eq!(second.expect(CDS).resources, ["a=1"]);
}

#[test]
fn r02_names_are_answered_whatever_version_is_claimed() {
    for type_url in [CDS, LDS, EDS, RDS, SDS] {
        let mut first = sotw(&[(type_url.clone(), "a", 1)]);
        first.sotw(type_url.clone(), &["a"], "", "");
        let held = first.expect(type_url.clone());
        let mut again = Client::of(first.cache.clone(), Variant::Sotw);
        again.sotw(type_url.clone(), &["a"], &held.version, "");
        let got = again.expect(type_url.clone());
        assert_eq!((got.resources, got.version), (held.resources, held.version));
        again.silence();
    }
    // An empty answer would say nothing of a type of which not everything is repeated (S-06).
    let mut client = sotw(&[(EDS, "a", 1)]);
    client.sotw(EDS, &["missing"], "1", "");
    client.silence();
}

/// What a client of a replica has that is at a revision of its source where there are two clusters.
fn ahead() -> Got {
    let mut client = sotw(&[]);
    client.put_at(1, &[(CDS, "a", 1)]);
    client.put_at(2, &[(CDS, "b", 1)]);
    client.sotw(CDS, &[], "", "");
    client.expect(CDS)
}

/// A client of a replica that has not seen the second, and waits for it.
fn behind(variant: Variant) -> Client {
    let mut client = Client::new(variant);
    client.machine.set_catch_up(Duration::from_secs(5));
    client.put_at(1, &[(CDS, "a", 1)]);
    client
}

#[test]
fn r04_who_has_something_newer_waits_until_the_replica_has_it() {
    let newer = ahead();
    let mut client = behind(Variant::Sotw);
    client.sotw(CDS, &[], &newer.version, "");
    client.silence();
    // What else there is, it is told meanwhile, and what came before.
    client.put(&[(EDS, "a", 1)]);
    client.sotw(EDS, &["a"], "", "");
    assert_eq!(client.expect(EDS).resources, ["a=1"]);
    client.silence();
    // Having caught up, there is nothing to tell.
    client.put_at(2, &[(CDS, "b", 1)]);
    client.silence();
    client.pass(Duration::from_secs(60));
    client.silence();
    assert_eq!(client.served_older(), [0; 0]);
    client.put_at(3, &[(CDS, "b", 2)]);
    assert_eq!(client.expect(CDS).resources, ["a=1", "b=2"]);
}

#[test]
fn r04_a_replica_that_goes_past_it_tells_the_difference_at_once() {
    let newer = ahead();
    let mut client = behind(Variant::Sotw);
    client.sotw(CDS, &[], &newer.version, "");
    client.silence();
    client.put_at(3, &[(CDS, "c", 1)]);
    assert_eq!(client.expect(CDS).resources, ["a=1", "c=1"]);
}

#[test]
fn r04_the_wait_is_bounded_and_said() {
    let newer = ahead();
    let mut client = behind(Variant::Sotw);
    client.sotw(CDS, &[], &newer.version, "");
    client.silence();
    client.pass(Duration::from_secs(4));
    client.silence();
    client.pass(Duration::from_millis(990));
    client.silence();
    assert_eq!(client.machine.poll_timeout(), Some(Duration::from_secs(5)));
    client.pass(Duration::from_millis(10));
    assert_eq!(client.expect(CDS).resources, ["a=1"]);
    assert_eq!(client.served_older(), [2]);
    client.silence();
}

#[test]
fn r04_nobody_waits_for_what_came_and_went_before_the_replica_looked() {
    let newer = ahead();
    let mut client = behind(Variant::Sotw);
    client.sotw(CDS, &[], &newer.version, "");
    client.silence();
    let mut transaction = Transaction::new();
    transaction.source_revision(3).up_to_date("default");
    assert_eq!(client.cache.commit(transaction).unwrap().changes, 0);
    // Nobody wakes it, so it looks by itself.
    let soon = client.machine.poll_timeout().unwrap();
    assert!(soon <= client.now() + Duration::from_millis(500), "{soon:?}");
    client.pass(soon - client.now());
    assert_eq!(client.expect(CDS).resources, ["a=1"]);
    assert_eq!(client.served_older(), [0; 0]);
    client.silence();
}

#[test]
fn r04_the_wait_may_be_without_end() {
    let newer = ahead();
    let mut client = behind(Variant::Sotw);
    client.machine.set_catch_up(Duration::MAX);
    client.pass(Duration::from_secs(1));
    client.sotw(CDS, &[], &newer.version, "");
    client.silence();
    client.pass(Duration::from_secs(1_000_000));
    client.silence();
    client.put_at(2, &[(CDS, "b", 2)]);
    assert_eq!(client.expect(CDS).resources, ["a=1", "b=2"]);
}

#[test]
fn r04_who_has_something_older_or_of_another_server_does_not_wait() {
    let older = {
        let mut client = behind(Variant::Sotw);
        client.sotw(CDS, &[], "", "");
        client.expect(CDS).version
    };
    for held in [&*older, "7", "9.short", "some words"] {
        let mut client = behind(Variant::Sotw);
        client.put_at(2, &[(CDS, "b", 1)]);
        client.sotw(CDS, &[], held, "");
        assert_eq!(client.expect(CDS).resources, ["a=1", "b=1"], "{held}");
    }
    // Nor where nobody counts, or waits.
    let newer = ahead();
    let mut uncounted = sotw(&[(CDS, "a", 1)]);
    uncounted.machine.set_catch_up(Duration::from_secs(5));
    uncounted.sotw(CDS, &[], &newer.version, "");
    assert_eq!(uncounted.expect(CDS).resources, ["a=1"]);
    let mut impatient = behind(Variant::Sotw);
    impatient.machine.set_catch_up(Duration::ZERO);
    impatient.sotw(CDS, &[], &newer.version, "");
    assert_eq!(impatient.expect(CDS).resources, ["a=1"]);
}

#[test]
fn r04_in_delta_a_cluster_that_nobody_heard_of_here_is_not_removed_at_once() {
    let mut client = behind(Variant::Delta);
    client.put(&[(LDS, "l", 1), (RDS, "l", 1)]);
    let held = [("a", "other"), ("new", "1")];
    client.delta_from(CDS, &[], &[], &held);
    client.delta(LDS, &[], &[]);
    client.delta(RDS, &["l"], &[]);
    assert_eq!(client.expect(CDS).resources, ["a=1"]);
    client.drain(&[]);
    client.pass(Duration::from_secs(4));
    client.silence();
    // It comes after all.
    client.put_at(2, &[(CDS, "new", 1)]);
    assert_eq!(client.expect(CDS).resources, ["new=1"]);
    client.pass(Duration::from_secs(60));
    client.silence();
    // Or it does not.
    let mut other = behind(Variant::Delta);
    other.put(&[(LDS, "l", 1), (RDS, "l", 1)]);
    other.delta_from(CDS, &[], &[], &held);
    other.delta(LDS, &[], &[]);
    other.delta(RDS, &["l"], &[]);
    other.drain(&[]);
    other.pass(Duration::from_secs(4));
    other.silence();
    other.pass(Duration::from_secs(1));
    assert_eq!(other.expect(CDS).removed, ["new"]);
}

#[test]
fn r04_in_delta_what_comes_as_the_client_has_it_is_not_sent() {
    let mut first = delta(&[]);
    first.put_at(1, &[(CDS, "a", 1)]);
    first.put_at(2, &[(CDS, "changes", 1), (CDS, "new", 1)]);
    first.delta(CDS, &[], &[]);
    let had = first.expect(CDS);
    assert_eq!(had.resources, ["a=1", "changes=1", "new=1"]);
    let [a, changes, new] = &had.versions[..] else { panic!("{:?}", had.versions) };
    let held = [("a", &**a), ("changes", &**changes), ("new", &**new)];
    let mut client = behind(Variant::Delta);
    client.delta_from(CDS, &[], &[], &held);
    client.silence();
    client.put_at(2, &[(CDS, "new", 1)]);
    client.silence();
    client.put_at(3, &[(CDS, "changes", 2)]);
    assert_eq!(client.expect(CDS).resources, ["changes=2"]);
    client.pass(Duration::from_secs(60));
    client.silence();
    // From then on, it is as anything that it was told here.
    client.put_at(4, &[(CDS, "new", 2)]);
    assert_eq!(client.expect(CDS).resources, ["new=2"]);
    client.put_at(5, &[(CDS, "new", 1)]);
    assert_eq!(client.expect(CDS).resources, ["new=1"]);
    // Who asks for it by name is sent it all the same.
    let mut named = behind(Variant::Delta);
    named.delta_from(CDS, &["*", "new"], &[], &held);
    named.drain(&[]);
    named.put_at(2, &[(CDS, "new", 1)]);
    assert_eq!(named.expect(CDS).resources, ["new=1"]);
}

#[test]
fn r05_a_nonce_of_another_stream_is_none() {
    let mut client = sotw(&[(EDS, "a", 1)]);
    client.sotw(EDS, &["a"], "7", "7");
    assert_eq!(client.expect(EDS).resources, ["a=1"]);
    assert_eq!(client.settled(), [""; 0]);
    let mut client = delta(&[(EDS, "a", 1)]);
    client.delta_answer(EDS, "7", None, &["a"], &[]);
    assert_eq!(client.expect(EDS).resources, ["a=1"]);
    let mut client = delta(&[(CDS, "a", 1)]);
    client.delta_answer(CDS, "7", Some("no"), &[], &[]);
    assert_eq!(
        client.expect(CDS).resources,
        ["a=1"],
        "a first request without names, all the same"
    );
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
    second.silence();
    second.pass(Duration::from_secs(1)); // It asks for no routes that may use them.
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
fn r09_what_is_held_is_read_from_the_first_request_of_a_type_only() {
    let mut client = delta(&[(CDS, "a", 1), (LDS, "l", 1)]);
    client.delta(CDS, &[], &[]);
    client.drain(&[]);
    let version = |type_url, name| resource(type_url, name, 1).version().to_owned();
    client.delta_from(CDS, &[], &[], &[("a", &version(CDS, "a")), ("gone", "1")]);
    client.silence();
    client.put(&[(CDS, "a", 2)]);
    let got = client.expect(CDS);
    assert_eq!((got.resources, got.removed), (vec!["a=2".into()], vec![]));
    // Each type has a first request of its own.
    client.delta_from(LDS, &[], &[], &[("l", &version(LDS, "l")), ("gone", "1")]);
    let got = client.expect(LDS);
    assert_eq!((got.resources, got.removed), (vec![], vec!["gone".into()]));
    client.silence();
}

#[test]
fn r10_what_is_named_is_sent_although_held() {
    for type_url in [EDS, SDS, RDS] {
        let mut client = delta(&[(type_url.clone(), "a", 1)]);
        let version = resource(type_url.clone(), "a", 1).version().to_owned();
        client.delta_from(type_url.clone(), &["a"], &[], &[("a", &version)]);
        assert_eq!(client.expect(type_url).resources, ["a=1"]);
    }
}

#[test]
fn r11_who_says_that_it_holds_nothing_gets_everything() {
    let mut first = delta(&[(CDS, "a", 1), (CDS, "b", 1)]);
    first.delta(CDS, &[], &[]);
    first.drain(&[]);
    let mut second = Client::of(first.cache.clone(), Variant::Delta);
    second.delta_from(CDS, &[], &[], &[]);
    assert_eq!(second.expect(CDS).resources, ["a=1", "b=1"]);
    second.silence();
}

#[test]
fn r12_types_are_served_in_whatever_order_they_come() {
    let types = [CDS, EDS, LDS, RDS];
    for variant in BOTH {
        for shift in 0..types.len() {
            let mut client = Client::with(variant, &types.clone().map(|url| (url, "a", 1)));
            for type_url in types.iter().cycle().skip(shift).take(types.len()) {
                client.ask(type_url.clone(), &["a"]);
                assert_eq!(client.expect(type_url.clone()).resources, ["a=1"]);
                // Its parent, or child, may follow; nobody waits for it.
                client.read_all();
            }
        }
    }
}

#[test]
fn r13_who_is_not_believed_is_sent_everything() {
    for variant in BOTH {
        let mut first = Client::with(variant, &[(CDS, "a", 1)]);
        first.ask(CDS, &[]);
        let good = first.expect(CDS);
        first.ack(&good, &[]);
        first.put(&[(CDS, "a", 2), (CDS, "bad", 1)]);
        let bad = first.expect(CDS);
        first.nack(&bad, &[], &good.version, "bad: no");
        assert!(first.machine.rejected_types().next().is_some());
        first.commit(&[(CDS, "a", 1)], &[(CDS, "bad")]);
        let mut second = Client::of(first.cache.clone(), variant);
        second.machine.distrust([CDS]);
        match variant {
            Variant::Sotw => second.sotw(CDS, &[], &good.version, ""),
            _ => second.delta_from(CDS, &[], &[], &[("a", &good.versions[0])]),
        }
        assert_eq!(second.expect(CDS).resources, ["a=1"]);
        assert!(second.read_all().iter().all(|got| !got.resources.contains(&"bad=1".into())));
    }
}

/// As at another server, which knows nothing of what was rejected.
#[test]
fn r13_who_says_that_it_has_what_was_changed_and_changed_back_is_sent_that() {
    for variant in BOTH {
        let mut first = Client::with(variant, &[(CDS, "a", 1), (CDS, "b", 1)]);
        first.ask(CDS, &[]);
        let good = first.expect(CDS);
        first.commit(&[(CDS, "a", 2), (CDS, "new", 1)], &[]);
        first.commit(&[(CDS, "a", 1)], &[(CDS, "new")]);
        let mut second = back_with(&first, &good);
        let got = second.expect(CDS);
        match variant {
            Variant::Sotw => assert_eq!(got.resources, ["a=1", "b=1"]),
            _ => assert_eq!(got.resources, ["a=1"], "b did not change"),
        }
        second.ack(&got, &[]);
        if variant != Variant::Sotw {
            second.pass(Duration::from_secs(60)); // Its routes might lead there.
            assert_eq!(second.expect(CDS).removed, ["new"], "it may have got that");
        }
    }
}

#[test]
fn r13_who_says_that_it_has_what_was_changed_once_is_believed() {
    for variant in BOTH {
        let mut first = Client::with(variant, &[(CDS, "a", 1), (CDS, "b", 1), (CDS, "old", 1)]);
        first.commit(&[(CDS, "a", 2), (CDS, "b", 2)], &[]);
        first.commit(&[(CDS, "a", 3), (CDS, "c", 1)], &[(CDS, "old")]);
        first.ask(CDS, &[]);
        let good = first.expect(CDS);
        back_with(&first, &good).silence();
    }
}

#[test]
fn r13_what_went_back_before_the_cache_knew_of_it_can_be_told() {
    for variant in BOTH {
        let mut first = Client::with(variant, &[(CDS, "a", 1), (CDS, "b", 1)]);
        first.ask(CDS, &[]);
        let good = first.expect(CDS);
        let revision = first.view().revision();
        back_with(&first, &good).silence();
        let is = first.view().get(&CDS, "a").map(|a| a.hash());
        let pasts = [("a", vec![is, Some(7), is]), ("gone", vec![None, Some(7), None])];
        let pasts = pasts.map(|(name, past)| (name.into(), past));
        first.cache.note_past("default", &CDS, pasts.clone());
        first.cache.note_past("elsewhere", &CDS, pasts);
        assert_eq!(first.view().revision(), revision);
        first.silence();
        let mut second = back_with(&first, &good);
        let got = second.expect(CDS);
        match variant {
            Variant::Sotw => assert_eq!(got.resources, ["a=1", "b=1"]),
            _ => assert_eq!(got.resources, ["a=1"]),
        }
        second.ack(&got, &[]);
        if variant != Variant::Sotw {
            second.pass(Duration::from_secs(60));
            assert_eq!(second.expect(CDS).removed, ["gone"]);
        }
    }
}

#[test]
fn r13_who_has_nothing_is_told_too_what_was_there_and_is_gone() {
    for variant in BOTH {
        let first = Client::with(variant, &[(CDS, "a", 1)]);
        first.commit(&[(CDS, "good", 1), (CDS, "bad", 1)], &[]);
        first.commit(&[], &[(CDS, "good"), (CDS, "bad")]);
        // It may have rejected its very first response, and run what was good of it.
        let mut second = Client::of(first.cache.clone(), variant);
        second.ask(CDS, &[]);
        let got = second.expect(CDS);
        assert_eq!(got.resources, ["a=1"]);
        second.ack(&got, &[]);
        if variant != Variant::Sotw {
            second.pass(Duration::from_secs(60));
            assert_eq!(second.expect(CDS).removed, ["bad", "good"]);
        }
    }
}

/// A client that comes back with all clusters, as it was told them.
fn back_with(before: &Client, told: &Got) -> Client {
    let variant = before.machine.variant();
    let mut client = Client::of(before.cache.clone(), variant);
    let names = told.resources.iter().filter_map(|resource| resource.split('=').next());
    let versions: Vec<_> = names.zip(told.versions.iter().map(|version| &**version)).collect();
    match variant {
        Variant::Sotw => client.sotw(CDS, &[], &told.version, ""),
        _ => client.delta_from(CDS, &[], &[], &versions),
    }
    client
}
