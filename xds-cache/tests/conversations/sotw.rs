//! State of the World, statement by statement.

use deltaplane_core::{Event, TypeUrl, Variant};

use crate::client::{CDS, Client, EDS, LDS, RDS, SDS};

fn sotw(resources: &[(TypeUrl, &str, u32)]) -> Client {
    Client::with(Variant::Sotw, resources)
}

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
    let mut client = sotw(&[(CDS, "a", 1), (CDS, "b", 1)]);
    client.sotw(CDS, &[], "", "");
    let first = client.expect(CDS);
    assert_eq!(first.resources, ["a=1", "b=1"]);
    client.ack(&first, &[]);
    client.put(&[(CDS, "b", 2)]);
    let second = client.expect(CDS);
    assert_eq!(second.resources, ["a=1", "b=2"]);
    assert_ne!(first.version, second.version);
    client.ack(&second, &[]);
    client.remove(&[(CDS, "a")]);
    assert_eq!(client.expect(CDS).resources, ["b=2"]);
}

#[test]
fn s03_nothing_is_said_of_what_is_unknown() {
    let mut client = Client::new(Variant::Sotw);
    client.sotw(CDS, &[], "", "");
    client.silence();
    let mut transaction = deltaplane_cache::Transaction::new();
    transaction.declare("default", CDS);
    transaction.replace("default", LDS, []);
    client.cache.commit(transaction).unwrap();
    client.silence();
    let mut transaction = deltaplane_cache::Transaction::new();
    transaction.replace("default", CDS, []);
    client.cache.commit(transaction).unwrap();
    assert!(client.expect(CDS).resources.is_empty());
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
    let mut client = sotw(&[(EDS, "a", 1)]);
    client.sotw(EDS, &["a"], "", "");
    let got = client.expect(EDS);
    client.ack(&got, &["a"]);
    client.sotw(EDS, &[], &got.version, &got.nonce);
    client.silence();
    client.put(&[(EDS, "a", 2)]);
    client.silence();
    client.sotw(EDS, &["a"], &got.version, &got.nonce);
    assert_eq!(client.expect(EDS).resources, ["a=2"]);
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
fn s18_s19_a_stale_answer_settles_nothing_newer_but_its_names_count() {
    let mut client = sotw(&[(EDS, "a", 1), (EDS, "b", 1)]);
    client.sotw(EDS, &["a"], "", "");
    let first = client.expect(EDS);
    client.put(&[(EDS, "a", 2)]);
    let second = client.expect(EDS);
    client.events();
    client.ack(&first, &["a", "b"]);
    assert!(
        matches!(&client.events()[..], [Event::Acknowledged { nonce, .. }] if *nonce == first.nonce)
    );
    // The second is unanswered still, and so is repeated.
    assert_eq!(client.expect(EDS).resources, ["b=1", "a=2"]);
    client.ack(&second, &["a", "b"]);
    client.silence();
}

#[test]
fn s20_a_request_that_crossed_the_response_counts() {
    let mut client = sotw(&[(EDS, "a", 1), (EDS, "b", 1)]);
    client.sotw(EDS, &["a"], "", "");
    client.expect(EDS);
    client.sotw(EDS, &["a", "b"], "", "");
    assert_eq!(client.expect(EDS).resources, ["b=1", "a=1"]);
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
fn w14_a_nameless_request_for_secrets_gets_none() {
    let mut client = sotw(&[(SDS, "key", 1)]);
    client.sotw(SDS, &[], "", "");
    client.sotw(SDS, &["*"], "", "");
    client.silence();
}

#[test]
fn n01_n02_a_rejection_is_the_error_and_is_not_sent_again() {
    let mut client = sotw(&[(EDS, "a", 1)]);
    client.sotw(EDS, &["a"], "", "");
    let got = client.expect(EDS);
    client.events();
    client.nack(&got, &["a"], &got.version.clone(), "boom");
    assert!(matches!(client.events()[..], [Event::Rejected { .. }]));
    client.silence();
    client.put(&[(EDS, "a", 2)]);
    assert_eq!(client.expect(EDS).resources, ["a=2"]);
}

#[test]
fn n02_what_is_rejected_by_name_is_not_repeated_with_the_others() {
    let mut client = sotw(&[(CDS, "a", 1), (CDS, "b", 1)]);
    client.sotw(CDS, &[], "", "");
    let good = client.expect(CDS);
    client.ack(&good, &[]);
    client.put(&[(CDS, "b", 2), (CDS, "new", 1), (CDS, "c", 1)]);
    let bad = client.expect(CDS);
    client.nack(&bad, &[], &good.version, "Error adding cluster(s) b: no, new: no");
    client.silence();
    client.put(&[(CDS, "a", 2)]);
    let mixed = client.expect(CDS);
    assert_eq!(mixed.resources, ["a=2", "b=1", "c=1"], "b as acknowledged, new left out");
    client.ack(&mixed, &[]);
    client.silence();
    client.put(&[(CDS, "b", 3)]);
    assert_eq!(client.expect(CDS).resources, ["a=2", "b=3", "c=1", "new=1"]);
}

#[test]
fn n05_a_rollback_to_what_was_acknowledged_is_sent() {
    let mut client = sotw(&[(CDS, "a", 1)]);
    client.sotw(CDS, &[], "", "");
    let good = client.expect(CDS);
    client.ack(&good, &[]);
    client.put(&[(CDS, "a", 2)]);
    let bad = client.expect(CDS);
    client.nack(&bad, &[], &good.version, "boom");
    client.put(&[(CDS, "a", 1)]);
    let back = client.expect(CDS);
    assert_eq!((back.resources, back.version), (vec!["a=1".to_owned()], good.version));
}

#[test]
fn n07_an_old_version_under_a_new_nonce_is_no_answer() {
    let mut client = sotw(&[(CDS, "a", 1)]);
    client.sotw(CDS, &[], "", "");
    let got = client.expect(CDS);
    client.events();
    client.answer(&got, &[], "", None);
    assert_eq!(client.events(), []);
    client.silence();
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
    client.nack(&newest, &[], "", "cluster a is bad");
    client.put(&[(CDS, "b", 1)]);
    let got = client.expect(CDS);
    assert_eq!(got.resources, ["b=1"], "nothing of a was ever acknowledged");
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

#[test]
fn r05_a_nonce_of_another_stream_is_none() {
    let mut client = sotw(&[(EDS, "a", 1)]);
    client.sotw(EDS, &["a"], "7", "7");
    assert_eq!(client.expect(EDS).resources, ["a=1"]);
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
fn o04_endpoints_follow_a_changed_cluster() {
    let mut client = sotw(&[(CDS, "a", 1), (CDS, "b", 1), (EDS, "a", 1), (EDS, "b", 1)]);
    client.sotw(CDS, &[], "", "");
    client.sotw(EDS, &["a", "b"], "", "");
    let (clusters, endpoints) = (client.expect(CDS), client.expect(EDS));
    client.ack(&clusters, &[]);
    client.ack(&endpoints, &["a", "b"]);
    client.put(&[(CDS, "a", 2)]);
    assert_eq!(client.expect(CDS).resources, ["a=2", "b=1"]);
    assert_eq!(client.expect(EDS).resources, ["a=1"]);
    client.silence();
}
