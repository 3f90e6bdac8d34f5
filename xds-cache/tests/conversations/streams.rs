//! What concerns streams and views, whatever the variant.

use bytes::Bytes;
use deltaplane_cache::{Cache, Transaction};
use deltaplane_core::{DeltaRequest, RequestError, Resource, SotwRequest, TypeUrl, Variant};

use crate::client::{
    BOTH, CDS, Client, ECDS, EDS, Got, LDS, RDS, RTDS, SDS, SRDS, VHDS, delta, resource, sotw,
};

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
    for variant in BOTH {
        let mut client = Client::with(variant, &[(CDS, "a", 1)]);
        client.ask("type.googleapis.com/foo.Bar".into(), &[]);
        client.silence();
        client.ask(CDS, &[]);
        assert_eq!(client.expect(CDS).resources, ["a=1"]);
    }
}

#[test]
fn b05_a_response_and_all_in_it_are_of_the_type_that_was_asked_for() {
    let other = TypeUrl::from("type.googleapis.com/foo.Bar");
    let leds = TypeUrl::LOCALITY_ENDPOINT;
    for type_url in [CDS, EDS, leds, LDS, RDS, SRDS, VHDS, SDS, RTDS, ECDS, other] {
        for variant in BOTH {
            let mut client = Client::with(variant, &[(type_url.clone(), "a", 1)]);
            client.ask(type_url.clone(), &["a"]);
            // Reading it, the client compares the type of each resource with the response's.
            assert_eq!(client.expect(type_url.clone()).resources, ["a=1"]);
        }
    }
}

#[test]
fn b08_types_do_not_share_nonces() {
    for variant in BOTH {
        let mut client = Client::with(variant, &[(CDS, "a", 1), (RDS, "r", 1)]);
        client.ask(CDS, &[]);
        client.ask(RDS, &["r"]);
        let mut clusters = client.expect(CDS);
        let routes = client.expect(RDS);
        client.nack(&clusters, &[], "", "boom");
        assert_eq!(client.settled(), [format!("-{}", clusters.nonce)]);
        clusters.type_url = RDS.to_string();
        client.ack(&clusters, &["r"]);
        assert_eq!(client.settled(), [""; 0]);
        client.put(&[(RDS, "r", 2)]);
        let pushed = client.expect(RDS);
        assert_eq!(pushed.resources, ["r=2"]);
        assert!(pushed.nonce != routes.nonce && pushed.nonce != clusters.nonce);
    }
}

#[test]
fn b08_a_response_of_another_type_in_between_leaves_an_answer_whole() {
    let mut client = sotw(&[(CDS, "a", 1), (CDS, "b", 1), (RDS, "r", 1)]);
    client.sotw(CDS, &["a"], "", "");
    let clusters = client.expect(CDS);
    client.sotw(RDS, &["r"], "", "");
    client.expect(RDS);
    client.ack(&clusters, &["a", "b"]);
    assert_eq!(client.settled(), [format!("+{}", clusters.nonce)]);
    assert_eq!(client.expect(CDS).resources, ["a=1", "b=1"]);
}

#[test]
fn b09_a_name_is_in_a_response_once_however_many_define_it() {
    for variant in BOTH {
        let mut client = Client::with(variant, &[(CDS, "a", 1), (CDS, "b", 1)]);
        let mut transaction = Transaction::new();
        transaction.upsert("upper", resource(CDS, "a", 9));
        client.cache.commit(transaction).unwrap();
        client.ask(CDS, &["*", "a"]);
        let got = client.expect(CDS);
        assert_eq!(got.resources, ["a=9", "b=1"]);
        client.ack(&got, &["*", "a"]);
        // What uncovers another one is a change, and no removal beside it.
        let mut transaction = Transaction::new();
        transaction.remove("upper", CDS, "a");
        client.cache.commit(transaction).unwrap();
        let got = client.expect(CDS);
        assert_eq!(got.resources.iter().filter(|r| r.starts_with("a=")).count(), 1);
        assert_eq!(got.removed, [""; 0]);
        client.silence();
    }
}

#[test]
fn b12_of_several_requests_before_an_answer_the_last_one_counts() {
    let mut client = sotw(&[(EDS, "a", 1), (EDS, "b", 1), (EDS, "c", 1)]);
    for names in [&["a"][..], &["a", "b"], &["a", "b", "c"]] {
        client.sotw(EDS, names, "", "");
    }
    assert_eq!(client.expect(EDS).resources, ["a=1", "b=1", "c=1"]);
    client.silence();
    let mut client = delta(&[(EDS, "a", 1), (EDS, "b", 1), (EDS, "c", 1)]);
    client.delta(EDS, &["a"], &[]);
    client.delta(EDS, &["b"], &["a"]);
    client.delta(EDS, &["c"], &[]);
    assert_eq!(client.expect(EDS).resources, ["b=1", "c=1"]);
    client.silence();
}

#[test]
fn b14_a_type_that_was_not_asked_for_is_not_sent() {
    for variant in BOTH {
        let mut client = Client::with(variant, &[(LDS, "l", 1)]);
        client.ask(LDS, &[]);
        client.drain(&[]);
        client.put(&[(CDS, "a", 1), (EDS, "a", 1)]);
        client.silence();
    }
}

#[test]
fn s17_d02_nonces_are_unique_on_a_stream() {
    for variant in BOTH {
        let mut client = Client::with(variant, &[(CDS, "a", 0), (EDS, "a", 0)]);
        client.ask(CDS, &[]);
        client.ask(EDS, &["a"]);
        let mut nonces = std::collections::BTreeSet::new();
        let mut count = 0;
        for content in 1..=500 {
            client.put(&[(CDS, "a", content)]);
            for got in client.drain(&["a"]) {
                count += 1;
                assert!(!got.nonce.is_empty());
                nonces.insert(got.nonce);
            }
        }
        assert!(count >= 1000);
        assert_eq!(nonces.len(), count);
    }
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
fn w09_a_client_that_changes_its_view_is_told_the_difference() {
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

#[test]
fn d16_what_comes_back_is_sent_again_if_it_was_rejected_in_between() {
    let mut client = Client::with(Variant::Delta, &[(CDS, "a", 1), (CDS, "bad", 1)]);
    let mut transaction = Transaction::new();
    transaction.replace("other", CDS, []);
    client.cache.commit(transaction).unwrap();
    client.delta(CDS, &[], &[]);
    let got = client.expect(CDS);
    client.see(&["other"]);
    client.nack(&got, &[], "", "bad: no");
    client.see(&["default"]);
    assert_eq!(client.expect(CDS).resources, ["a=1", "bad=1"]);
    client.silence();
}

#[test]
fn d16_what_arrives_after_the_wildcard_began_is_removed_if_it_is_gone() {
    let mut client = Client::with(Variant::Delta, &[(CDS, "a", 1), (CDS, "gone", 1)]);
    client.delta(CDS, &["gone"], &[]);
    client.expect(CDS);
    client.silence();
    // The client gives it up before it reads that answer, and asks for everything.
    client.delta(CDS, &[], &["gone"]);
    client.delta(CDS, &["*"], &[]);
    client.remove(&[(CDS, "gone")]);
    assert_eq!(client.expect(CDS).resources, ["a=1"]);
    assert_eq!(client.expect(CDS).removed, ["gone"]);
    client.silence();
}

#[test]
fn n06_whatever_sends_a_rejected_name_again_sends_what_was_rejected_with_it() {
    let with_rejection = || {
        let mut client = Client::with(Variant::Delta, &[(CDS, "bad", 1), (CDS, "good", 1)]);
        client.delta(CDS, &["*", "bad"], &[]);
        let got = client.expect(CDS);
        client.nack(&got, &[], "", "bad: no");
        client.silence();
        client
    };
    let mut client = with_rejection();
    client.delta(CDS, &[], &["bad"]);
    assert_eq!(client.expect(CDS).resources, ["bad=1", "good=1"], "given up under the wildcard");
    let mut client = with_rejection();
    client.delta(CDS, &["bad"], &[]);
    assert_eq!(client.expect(CDS).resources, ["bad=1", "good=1"], "asked for");
    let mut client = with_rejection();
    client.delta(CDS, &[], &["*"]);
    client.delta(CDS, &["*"], &[]);
    assert_eq!(client.expect(CDS).resources, ["bad=1", "good=1"], "everything asked for");
}

/// A view of clusters that need a response each, and a client that has read the first.
fn in_parts() -> Client {
    let mut client = Client::new(Variant::Delta);
    let mut transaction = Transaction::new();
    for name in ["a", "b", "c"] {
        let large = format!("{name}={}", "x".repeat(2 << 20));
        transaction.upsert("default", Resource::raw(CDS, name, large).build());
    }
    client.cache.commit(transaction).unwrap();
    client.delta(CDS, &[], &[]);
    client
}

/// The names in a response.
fn named(got: &Got) -> String {
    let name = |resource: &String| resource.split('=').next().unwrap().to_owned();
    got.resources.iter().map(name).collect::<Vec<_>>().join(",")
}

#[test]
fn d23_a_first_answer_in_parts_goes_on_whatever_is_said_in_between() {
    let rest = |client: &mut Client| client.read_all().iter().map(named).collect::<Vec<_>>();
    let mut client = in_parts();
    assert_eq!(rest(&mut client), ["a", "b", "c"]);

    let mut client = in_parts();
    let first = client.expect(CDS);
    client.ack(&first, &[]);
    assert!(client.machine.standing().pending.is_some());
    assert_eq!(rest(&mut client), ["b", "c"]);
    client.put(&[(CDS, "d", 1)]);
    assert_eq!(rest(&mut client), ["d"]);

    // What is rejected is not sent again, and the others are.
    let mut client = in_parts();
    let first = client.expect(CDS);
    client.nack(&first, &[], "", "a: no");
    assert_eq!(rest(&mut client), ["b", "c"]);
    assert_eq!(client.machine.rejected_types().count(), 1);

    // Names that are asked for, or given up with the wildcard.
    let mut client = in_parts();
    client.expect(CDS);
    client.delta(CDS, &["c", "missing"], &[]);
    assert_eq!(rest(&mut client).concat().replace(',', ""), "bc");
    let mut client = in_parts();
    client.expect(CDS);
    client.delta(CDS, &["b"], &["*"]);
    assert_eq!(rest(&mut client), ["b"]);

    // Another view, in which one is not and another is new.
    let mut client = in_parts();
    client.expect(CDS);
    let mut transaction = Transaction::new();
    transaction.upsert("other", Resource::raw(CDS, "e", "e=1").build());
    transaction.upsert("other", Resource::absent(CDS, "b"));
    client.cache.commit(transaction).unwrap();
    client.see(&["other", "default"]);
    assert_eq!(rest(&mut client).concat().replace(',', ""), "ce");
}

/// The body of the first response to a new client that asks for all clusters.
fn first_body(cache: &Cache, variant: Variant) -> Bytes {
    let mut client = Client::of(cache.clone(), variant);
    client.ask(CDS, &[]);
    client.machine.poll_response(&client.view()).unwrap().unwrap().body
}

#[test]
fn who_asks_for_everything_after_others_is_sent_the_very_bytes_that_they_were() {
    for variant in BOTH {
        let client = Client::with(variant, &[(CDS, "a", 1), (CDS, "b", 1)]);
        let bodies = || [(); 3].map(|()| first_body(&client.cache, variant));
        let [first, second, third] = bodies();
        assert_eq!(first, second);
        assert_eq!(second.as_ptr(), third.as_ptr());
        // What changes elsewhere makes no difference to that.
        client.put(&[(EDS, "a", 1)]);
        assert_eq!(first_body(&client.cache, variant).as_ptr(), third.as_ptr());
        client.put(&[(CDS, "a", 2)]);
        let [changed, shared, last] = bodies();
        assert!(changed != first && changed == shared);
        drop(second);
        assert!(third.is_unique(), "what nobody is sent any more is let go");
        assert_eq!(shared.as_ptr(), last.as_ptr());
    }
}

#[test]
fn s02_who_is_sent_everything_at_each_change_shares_it_with_others() {
    let cache = Client::with(Variant::Sotw, &[(CDS, "a", 1), (CDS, "b", 1)]).cache;
    let mut clients = [(); 3].map(|()| Client::of(cache.clone(), Variant::Sotw));
    for client in &mut clients {
        client.ask(CDS, &[]);
        client.drain(&[]);
    }
    clients[0].put(&[(CDS, "a", 2)]);
    let bodies = clients.each_mut().map(|client| {
        let response = client.machine.poll_response(&client.view()).unwrap().unwrap();
        assert_eq!(response.resources, 2);
        response.body
    });
    assert_eq!(bodies[1].as_ptr(), bodies[2].as_ptr());
    assert_eq!(bodies[0], bodies[1]);
}
