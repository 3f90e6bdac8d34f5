//! What concerns streams and views, whatever the variant.

use deltaplane_cache::Transaction;
use deltaplane_core::{DeltaRequest, RequestError, SotwRequest, Variant};

use crate::client::{CDS, Client, EDS, LDS, resource};

#[test]
fn b03_a_request_without_a_type_is_an_error_unless_it_answers() {
    let mut client = Client::with(Variant::Sotw, &[(CDS, "a", 1)]);
    let nameless = SotwRequest::default();
    assert_eq!(client.machine.handle_request(nameless.into()), Err(RequestError::NoTypeUrl));
    client.sotw(CDS, &[], "", "");
    let got = client.expect(CDS);
    let answer = SotwRequest { response_nonce: got.nonce, ..SotwRequest::default() };
    assert_eq!(client.machine.handle_request(answer.into()), Ok(()));
    let delta = DeltaRequest { type_url: CDS.to_string(), ..DeltaRequest::default() };
    let wrong = client.machine.handle_request(delta.into());
    assert_eq!(wrong, Err(RequestError::WrongVariant(Variant::Sotw)));
}

#[test]
fn b04_an_unknown_type_leaves_the_others_alone() {
    let mut client = Client::with(Variant::Sotw, &[(CDS, "a", 1)]);
    client.sotw("type.googleapis.com/foo.Bar".into(), &[], "", "");
    client.sotw(CDS, &[], "", "");
    assert_eq!(client.expect(CDS).resources, ["a=1"]);
}

#[test]
fn b08_types_do_not_share_nonces() {
    let mut client = Client::with(Variant::Delta, &[(CDS, "a", 1), (EDS, "a", 1)]);
    client.delta(CDS, &[], &[]);
    client.delta(EDS, &["a"], &[]);
    let mut got = client.expect(CDS);
    client.events();
    got.type_url = EDS.to_string();
    client.ack(&got, &[]);
    assert_eq!(client.events(), []);
}

#[test]
fn b14_a_type_that_was_not_asked_for_is_not_sent() {
    let mut client = Client::with(Variant::Delta, &[(LDS, "l", 1)]);
    client.delta(LDS, &[], &[]);
    client.drain(&[]);
    client.put(&[(CDS, "a", 1), (EDS, "a", 1)]);
    client.silence();
}

#[test]
fn s17_d02_nonces_are_unique_on_a_stream() {
    let mut client = Client::with(Variant::Delta, &[(CDS, "a", 0), (EDS, "a", 0)]);
    client.delta(CDS, &[], &[]);
    client.delta(EDS, &["a"], &[]);
    let mut nonces = std::collections::BTreeSet::new();
    let mut count = 0;
    for content in 1..500 {
        client.put(&[(CDS, "a", content)]);
        for got in client.drain(&[]) {
            count += 1;
            assert!(!got.nonce.is_empty());
            nonces.insert(got.nonce);
        }
    }
    assert!(count > 500);
    assert_eq!(nonces.len(), count);
}

#[test]
fn layers_mask_and_uncover() {
    let mut client = Client::with(Variant::Delta, &[(CDS, "a", 1), (CDS, "b", 1)]);
    let mut transaction = Transaction::new();
    transaction.upsert("upper", resource(CDS, "a", 9));
    client.cache.commit(transaction).unwrap();
    client.delta(CDS, &[], &[]);
    assert_eq!(client.expect(CDS).resources, ["a=9", "b=1"]);
    client.put(&[(CDS, "a", 2)]);
    client.silence();
    let mut transaction = Transaction::new();
    transaction.remove("upper", CDS, "a");
    client.cache.commit(transaction).unwrap();
    assert_eq!(client.expect(CDS).resources, ["a=2"]);
    // Equal content that moves from one layer to another is no change.
    let mut transaction = Transaction::new();
    transaction.upsert("upper", resource(CDS, "a", 2));
    client.cache.commit(transaction).unwrap();
    client.silence();
}

#[test]
fn a_client_that_changes_its_view_is_told_the_difference() {
    for variant in [Variant::Delta, Variant::Sotw] {
        let mut client = Client::with(variant, &[(CDS, "a", 1), (CDS, "b", 1), (CDS, "c", 1)]);
        let mut transaction = Transaction::new();
        for (name, content) in [("a", 1), ("b", 2), ("d", 1)] {
            transaction.upsert("other", resource(CDS, name, content));
        }
        client.cache.commit(transaction).unwrap();
        match variant {
            Variant::Sotw => client.sotw(CDS, &[], "", ""),
            _ => client.delta(CDS, &[], &[]),
        }
        while client.poll().is_some() {}
        // A change that the old view saw last, and of which the client has heard nothing.
        client.put(&[(CDS, "c", 2)]);
        client.see(&["other"]);
        let (first, second) = (client.expect(CDS), client.expect(CDS));
        if variant == Variant::Delta {
            assert_eq!(first.resources, ["b=2", "d=1"]);
            assert_eq!(second.removed, ["c"]);
        } else {
            assert_eq!(first.resources, ["a=1", "b=2", "d=1", "c=1"]);
            assert_eq!(second.resources, ["a=1", "b=2", "d=1"]);
        }
        client.silence();
    }
}

#[test]
fn who_is_too_late_for_the_log_starts_again_or_is_compared() {
    let mut wildcard = Client::with(Variant::Delta, &[(CDS, "a", 0), (EDS, "a", 0), (EDS, "b", 0)]);
    let mut sotw = Client::of(wildcard.cache.clone(), Variant::Sotw);
    let mut named = Client::of(wildcard.cache.clone(), Variant::Delta);
    wildcard.delta(CDS, &[], &[]);
    sotw.sotw(CDS, &[], "", "");
    named.delta(EDS, &["a", "b"], &[]);
    for client in [&mut wildcard, &mut sotw, &mut named] {
        client.drain(&[]);
    }
    wildcard.remove(&[(EDS, "b")]);
    for content in 0..100 {
        let mut transaction = Transaction::new();
        for i in 0..1000 {
            transaction.upsert("default", resource(CDS, &format!("c{i}"), content));
            transaction.upsert("default", resource(EDS, &format!("c{i}"), content));
        }
        wildcard.cache.commit(transaction).unwrap();
    }
    let view = wildcard.view();
    assert!(wildcard.machine.poll_response(&view).is_err());
    assert_eq!(sotw.expect(CDS).resources.len(), 1001);
    assert_eq!(named.expect(EDS).removed, ["b"]);
    named.silence();
}
