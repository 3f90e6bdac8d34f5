//! State of the World, statement by statement.

use deltaplane_cache::Transaction;
use deltaplane_core::{Resource, Variant};

use crate::client::{CDS, Client, EDS, Got, LDS, RDS, sotw};

#[test]
fn s01_s06_missing_names_do_not_block_and_absence_is_no_deletion() {
    let mut client = sotw(&[(EDS, "a", 1)]);
    client.sotw(EDS, &["a", "missing"], "", "");
    let got = client.expect(EDS);
    assert_eq!(got.resources, ["a=1"]);
    client.ack(&got, &["a", "missing"]);
    client.remove(&[(EDS, "a")]);
    client.silence();
}

#[test]
fn s02_s03_clusters_come_all_at_once_and_absence_deletes() {
    for names in [&[][..], &["a", "b"]] {
        let mut client = sotw(&[(CDS, "a", 1), (CDS, "b", 1)]);
        client.sotw(CDS, names, "", "");
        let first = client.expect(CDS);
        assert_eq!(first.resources, ["a=1", "b=1"]);
        client.ack(&first, names);
        client.put(&[(CDS, "b", 2)]);
        let second = client.expect(CDS);
        assert_eq!(second.resources, ["a=1", "b=2"]);
        assert_ne!(first.version, second.version);
        client.ack(&second, names);
        client.remove(&[(CDS, "a")]);
        assert_eq!(client.expect(CDS).resources, ["b=2"]);
    }
}

#[test]
fn s03_what_absence_deletes_is_no_removal_on_the_wire() {
    let mut client = sotw(&[(CDS, "a", 1), (CDS, "b", 1)]);
    client.sotw(CDS, &[], "", "");
    client.drain(&[]);
    client.remove(&[(CDS, "a")]);
    let response = client.machine.poll_response(&client.view()).unwrap().unwrap();
    assert_eq!((response.resources, response.removals), (1, 0));
}

#[test]
fn s03_nothing_is_said_of_what_is_unknown() {
    let mut client = Client::new(Variant::Sotw);
    client.sotw(CDS, &[], "", "");
    client.silence();
    let mut transaction = Transaction::new();
    transaction.declare("default", CDS);
    transaction.replace("default", LDS, []);
    client.cache.commit(transaction).unwrap();
    client.silence();
    let mut transaction = Transaction::new();
    transaction.replace("default", CDS, []);
    client.cache.commit(transaction).unwrap();
    assert!(client.expect(CDS).resources.is_empty());
}

#[test]
fn s04_clusters_and_listeners_are_never_split() {
    for type_url in [CDS, LDS] {
        let mut client = Client::new(Variant::Sotw);
        let mut transaction = Transaction::new();
        for i in 0..10_000 {
            let value = vec![b'x'; 1024];
            let resource = Resource::raw(type_url.clone(), format!("{i}"), value).build();
            transaction.upsert("default", resource);
        }
        client.cache.commit(transaction).unwrap();
        client.sotw(type_url.clone(), &[], "", "");
        assert_eq!(client.expect(type_url).resources.len(), 10_000);
        client.silence();
    }
}

#[test]
fn s05_of_other_types_only_news_are_sent() {
    let mut client = sotw(&[(RDS, "a", 1), (RDS, "b", 1)]);
    client.sotw(RDS, &["a", "b"], "", "");
    client.drain(&["a", "b"]);
    client.put(&[(RDS, "b", 2)]);
    assert_eq!(client.expect(RDS).resources, ["b=2"]);
}

#[test]
fn s07_names_replace_names() {
    let mut client = sotw(&[(EDS, "a", 1), (EDS, "b", 1)]);
    client.sotw(EDS, &["a", "b"], "", "");
    let got = client.expect(EDS);
    client.ack(&got, &["b"]);
    client.silence();
    client.put(&[(EDS, "a", 2)]);
    client.silence();
}

#[test]
fn s08_s21_a_newly_named_resource_is_sent_under_the_same_version() {
    let mut client = sotw(&[(EDS, "a", 1), (EDS, "b", 1)]);
    client.sotw(EDS, &["a"], "", "");
    let got = client.expect(EDS);
    client.ack(&got, &["a"]);
    client.sotw(EDS, &["a", "b"], &got.version, &got.nonce);
    assert_eq!(client.expect(EDS).resources, ["b=1"]);
}

#[test]
fn s09_a_newly_named_cluster_comes_with_all_the_others() {
    let mut client = sotw(&[(CDS, "a", 1), (CDS, "b", 1), (CDS, "c", 1)]);
    client.sotw(CDS, &["a"], "", "");
    let got = client.expect(CDS);
    client.ack(&got, &["a", "b"]);
    assert_eq!(client.expect(CDS).resources, ["a=1", "b=1"]);
}

#[test]
fn s10_s12_unsubscribed_is_silence_and_resubscribed_is_sent() {
    for type_url in [EDS, CDS] {
        let mut client = sotw(&[(type_url.clone(), "a", 1)]);
        client.sotw(type_url.clone(), &["a"], "", "");
        let got = client.expect(type_url.clone());
        client.ack(&got, &["a"]);
        client.sotw(type_url.clone(), &[], &got.version, &got.nonce);
        client.silence();
        client.sotw(type_url.clone(), &["a"], &got.version, &got.nonce);
        let again = client.expect(type_url.clone());
        assert_eq!((again.resources, again.version), (got.resources, got.version));
        client.sotw(type_url.clone(), &[], "", "");
        client.put(&[(type_url, "a", 2)]);
        client.silence();
    }
}

#[test]
fn s11_a_missing_name_is_sent_when_it_comes() {
    let mut client = sotw(&[(CDS, "a", 1)]);
    client.sotw(CDS, &["z"], "", "");
    client.sotw(RDS, &["z"], "", "");
    client.silence();
    client.put(&[(CDS, "z", 1), (RDS, "z", 1)]);
    assert_eq!(client.expect(CDS).resources, ["z=1"]);
    assert_eq!(client.expect(RDS).resources, ["z=1"]);
}

#[test]
fn s13_an_acknowledgement_is_met_with_silence() {
    let mut client = sotw(&[(EDS, "a", 1)]);
    client.sotw(EDS, &["a"], "", "");
    let got = client.expect(EDS);
    client.ack(&got, &["a"]);
    client.silence();
    client.ack(&got, &["a"]);
    client.silence();
}

#[test]
fn s14_an_empty_wildcard_is_answered() {
    let mut client = sotw(&[(LDS, "l", 1)]);
    client.sotw(CDS, &[], "", "");
    assert!(client.expect(CDS).resources.is_empty());
    client.silence();
}

#[test]
fn s16_versions_are_by_type_and_follow_the_content() {
    let mut client = sotw(&[(CDS, "a", 1), (RDS, "r", 1)]);
    client.sotw(CDS, &[], "", "");
    client.sotw(RDS, &["r"], "", "");
    let (clusters, routes) = (client.expect(CDS), client.expect(RDS));
    client.put(&[(RDS, "r", 2)]);
    assert_ne!(client.expect(RDS).version, routes.version);
    client.put(&[(CDS, "b", 1)]);
    assert_ne!(client.expect(CDS).version, clusters.version);
    client.remove(&[(CDS, "b")]);
    assert_eq!(client.expect(CDS).version, clusters.version);
}

#[test]
fn s18_a_stale_answer_is_not_answered_and_leaves_the_newest_unanswered() {
    let mut client = sotw(&[(EDS, "a", 1)]);
    client.sotw(EDS, &["a"], "", "");
    let first = client.expect(EDS);
    client.put(&[(EDS, "a", 2)]);
    let second = client.expect(EDS);
    client.ack(&first, &["a"]);
    assert_eq!(client.settled(), [format!("+{}", first.nonce)]);
    client.silence();
    client.nack(&first, &["a"], "", "too late to say so");
    assert_eq!(client.settled(), [""; 0]);
    client.ack(&second, &["a"]);
    assert_eq!(client.settled(), [format!("+{}", second.nonce)]);
    client.silence();
}

#[test]
fn s18_s19_a_stale_answer_settles_nothing_newer_but_its_names_count() {
    let mut client = sotw(&[(EDS, "a", 1), (EDS, "b", 1)]);
    client.sotw(EDS, &["a"], "", "");
    let first = client.expect(EDS);
    client.put(&[(EDS, "a", 2)]);
    let second = client.expect(EDS);
    client.events();
    client.ack(&first, &["a", "b"]);
    assert_eq!(client.settled(), [format!("+{}", first.nonce)]);
    assert_eq!(client.expect(EDS).resources, ["b=1"]);
    client.ack(&second, &["a", "b"]);
    client.silence();
}

#[test]
fn s20_a_request_that_crossed_the_response_counts() {
    let mut client = sotw(&[(EDS, "a", 1), (EDS, "b", 1)]);
    client.sotw(EDS, &["a"], "", "");
    client.expect(EDS);
    client.sotw(EDS, &["a", "b"], "", "");
    assert_eq!(client.expect(EDS).resources, ["b=1"]);
}

#[test]
fn s22_what_nobody_asked_for_is_not_sent() {
    let names = ["a", "b", "c", "d", "e", "f"];
    let mut client = sotw(&names.map(|name| (RDS, name, 1)));
    client.sotw(RDS, &["a"], "", "");
    let got = client.expect(RDS);
    assert_eq!(got.resources, ["a=1"]);
    client.ack(&got, &["a"]);
    client.put(&names.map(|name| (RDS, name, u32::from(name == "a"))));
    client.silence();
}

#[test]
fn s23_what_was_deleted_and_came_back_is_sent_again() {
    let mut client = sotw(&[(CDS, "a", 1), (RDS, "r", 1)]);
    client.sotw(CDS, &["a"], "", "");
    client.sotw(RDS, &["r"], "", "");
    client.drain(&["a", "r"]);
    client.remove(&[(CDS, "a"), (RDS, "r")]);
    assert!(client.expect(CDS).resources.is_empty());
    client.silence();
    client.put(&[(CDS, "a", 1), (RDS, "r", 1)]);
    assert_eq!(client.expect(CDS).resources, ["a=1"]);
    assert_eq!(client.expect(RDS).resources, ["r=1"]);
}

#[test]
fn k05_endpoints_are_split_and_what_is_unanswered_does_not_add_up() {
    let names: Vec<_> = (0..20).map(|i| format!("c{i}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let mut client = Client::new(Variant::Sotw);
    let mut transaction = Transaction::new();
    for name in &names {
        transaction.upsert("default", Resource::raw(EDS, *name, vec![b'x'; 1 << 20]).build());
    }
    client.cache.commit(transaction).unwrap();
    client.sotw(EDS, &names, "", "");
    let parts = client.read_all();
    let size = |got: &Got| got.resources.iter().map(String::len).sum::<usize>() >> 20;
    let sizes: Vec<_> = parts.iter().map(size).collect();
    assert!(sizes.iter().all(|mebibytes| *mebibytes < 4), "{sizes:?}");
    assert!(sizes.iter().sum::<usize>() >= 20, "{sizes:?}");
    client.ack(parts.last().unwrap(), &names);
    client.silence();
}

/// tonic's client forgets a type that nobody watches any more, and later asks for it as if it never had.
#[test]
fn s10_a_request_without_a_nonce_after_an_answer_asks_anew() {
    for type_url in [EDS, CDS] {
        let mut client = sotw(&[(type_url.clone(), "a", 1)]);
        client.sotw(type_url.clone(), &["a"], "", "");
        let first = client.expect(type_url.clone());
        client.sotw(type_url.clone(), &["a"], "", "");
        client.silence(); // S-20: it crossed the response
        client.ack(&first, &["a"]);
        client.silence();
        client.sotw(type_url.clone(), &["a"], "", "");
        assert_eq!(client.expect(type_url).resources, ["a=1"]);
        client.silence();
    }
}
