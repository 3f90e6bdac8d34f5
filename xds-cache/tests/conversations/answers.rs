//! ACK and NACK, statement by statement.

use std::sync::Arc;

use deltaplane_core::{ErrorDetail, Event, Variant};

use crate::client::{BOTH, CDS, Client, EDS, Got, LDS, RDS, delta, sotw};

#[test]
fn n01_n02_n03_a_rejection_is_the_error_and_is_not_sent_again() {
    let mut client = sotw(&[(EDS, "a", 1)]);
    client.sotw(EDS, &["a"], "", "");
    let got = client.expect(EDS);
    client.events();
    client.nack(&got, &["a"], &got.version.clone(), "boom");
    assert!(matches!(client.events()[..], [Event::Rejected { .. }]));
    client.silence();
    client.put(&[(EDS, "a", 2)]);
    let next = client.expect(EDS);
    assert_eq!(next.resources, ["a=2"]);
    assert_ne!(next.nonce, got.nonce);
}

#[test]
fn n02_n03_n06_a_rejected_response_goes_out_again_when_one_of_it_changes() {
    let mut client = delta(&[(EDS, "bad", 1), (EDS, "good", 1), (EDS, "other", 1)]);
    client.machine.set_isolation(false);
    client.delta(EDS, &["bad", "good"], &[]);
    let got = client.expect(EDS);
    client.nack(&got, &[], "", "bad: no");
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
    client.put(&[(CDS, "a", 3)]);
    assert_eq!(client.expect(CDS).resources, ["a=3", "b=1", "c=1"], "accepted was the rest");
    client.put(&[(CDS, "b", 3)]);
    assert_eq!(client.expect(CDS).resources, ["a=3", "b=3", "c=1", "new=1"]);
}

#[test]
fn n02_what_was_acknowledged_while_a_newer_content_was_on_its_way_comes_in_its_place() {
    let mut client = sotw(&[(CDS, "a", 1), (CDS, "b", 1)]);
    client.sotw(CDS, &[], "", "");
    client.drain(&[]);
    let [good, bad] = [2, 3].map(|content| {
        client.put(&[(CDS, "a", content)]);
        client.expect(CDS)
    });
    client.ack(&good, &[]);
    client.nack(&bad, &[], &good.version, "a: no");
    client.put(&[(CDS, "b", 2)]);
    assert_eq!(client.expect(CDS).resources, ["a=2", "b=2"]);
}

/// The names and the blamed ones of the rejections since the last call.
fn rejections(client: &mut Client) -> Vec<(String, String)> {
    let join = |names: Vec<Arc<str>>| names.join(",");
    let rejection = |event| match event {
        Event::Rejected { names, blamed, .. } => Some((join(names), join(blamed))),
        _ => None,
    };
    client.events().into_iter().filter_map(rejection).collect()
}

fn pair(names: &str, blamed: &str) -> (String, String) {
    (names.into(), blamed.into())
}

#[test]
fn n02_what_a_response_only_repeated_is_to_blame_if_the_words_name_it() {
    let mut client = sotw(&[(CDS, "a", 1)]);
    client.sotw(CDS, &[], "", "");
    let first = client.drain(&[]).remove(0);
    client.put(&[(CDS, "bad", 1)]);
    let bad = client.expect(CDS);
    client.put(&[(CDS, "b", 1)]);
    let crossed = client.expect(CDS);
    client.nack(&bad, &[], &first.version, "bad: x");
    client.nack(&crossed, &[], &first.version, "bad: x");
    assert_eq!(rejections(&mut client), [pair("bad", "bad"), pair("b,bad", "bad")]);
    client.silence();
    client.put(&[(CDS, "c", 1)]);
    assert_eq!(client.expect(CDS).resources, ["a=1", "b=1", "c=1"]);
}

#[test]
fn n02_what_was_rejected_by_name_stays_so_if_the_next_words_name_another() {
    let mut client = sotw(&[(CDS, "a", 1)]);
    client.sotw(CDS, &[], "", "");
    let first = client.drain(&[]).remove(0);
    let [bad, worse] = ["bad", "worse"].map(|name| {
        client.put(&[(CDS, name, 1)]);
        client.expect(CDS)
    });
    client.nack(&bad, &[], &first.version, "bad: x");
    client.nack(&worse, &[], &first.version, "worse: x");
    client.put(&[(CDS, "c", 1)]);
    assert_eq!(client.expect(CDS).resources, ["a=1", "c=1"]);
}

#[test]
fn n02_what_is_repeated_unaccepted_is_as_suspect_as_what_is_new() {
    let mut client = sotw(&[(CDS, "a", 1)]);
    client.sotw(CDS, &[], "", "");
    let first = client.drain(&[]).remove(0);
    for name in ["b", "c"] {
        client.put(&[(CDS, name, 1)]);
        let got = client.expect(CDS);
        client.nack(&got, &[], &first.version, "something is wrong");
    }
    assert_eq!(rejections(&mut client), [pair("b", ""), pair("b,c", "")]);
    // The same where answers cross.
    let crossing = ["d", "e"].map(|name| {
        client.put(&[(CDS, name, 1)]);
        client.expect(CDS)
    });
    for got in crossing {
        client.nack(&got, &[], &first.version, "something is wrong");
    }
    assert_eq!(rejections(&mut client), [pair("b,c,d", ""), pair("b,c,d,e", "")]);
    client.silence();
}

#[test]
fn n06_what_rode_with_what_was_given_up_is_sent_again_and_blamed_for_nothing() {
    let mut client = sotw(&[(CDS, "a", 1), (CDS, "bad", 1)]);
    client.sotw(CDS, &["a", "bad"], "", "");
    let bad = client.expect(CDS);
    client.put(&[(CDS, "a", 2)]);
    let crossed = client.expect(CDS);
    client.nack(&bad, &["a"], "", "bad: x");
    client.nack(&crossed, &["a"], "", "bad: x");
    assert_eq!(rejections(&mut client), [pair("a,bad", "bad"), pair("", "")]);
    let again = client.expect(CDS);
    assert_eq!(again.resources, ["a=2"]);
    client.nack(&again, &["a"], "", "a: x");
    assert_eq!(rejections(&mut client), [pair("a", "a")]);
    client.silence();
}

#[test]
fn n04_n12_an_answer_and_what_rides_on_it_both_count() {
    for words in [None, Some("b is not here yet")] {
        let settled = |nonce: &str| [format!("{}{nonce}", if words.is_some() { '-' } else { '+' })];
        for variant in BOTH {
            let mut client = Client::with(variant, &[(EDS, "a", 1), (EDS, "b", 1)]);
            client.ask(EDS, &["a"]);
            let first = client.expect(EDS);
            answer_and_ask(&mut client, &first, words, &["a", "b"], &["b"], &[]);
            assert_eq!(client.settled(), settled(&first.nonce));
            let second = client.expect(EDS);
            assert!(second.resources.contains(&"b=1".to_owned()), "{second:?}");
            answer_and_ask(&mut client, &second, words, &["b"], &[], &["a"]);
            assert_eq!(client.settled(), settled(&second.nonce));
            client.put(&[(EDS, "a", 2)]);
            client.silence();
        }
    }
}

/// Answers, and subscribes to all of `names`, which is to `add` and to give up `drop`.
fn answer_and_ask(
    client: &mut Client,
    got: &Got,
    words: Option<&str>,
    names: &[&str],
    add: &[&str],
    drop: &[&str],
) {
    match client.machine.variant() {
        Variant::Sotw => {
            let error = words.map(|words| ErrorDetail::new(13, words));
            client.answer(got, names, &got.version, error);
        }
        _ => client.delta_answer(EDS, &got.nonce, words, add, drop),
    }
}

#[test]
fn n05_a_rollback_to_what_was_acknowledged_is_sent_in_delta() {
    let mut client = delta(&[(CDS, "a", 1)]);
    client.delta(CDS, &[], &[]);
    client.drain(&[]);
    client.put(&[(CDS, "a", 2), (CDS, "bad", 1)]);
    let got = client.expect(CDS);
    client.nack(&got, &[], "", "bad: no");
    client.commit(&[(CDS, "a", 1)], &[(CDS, "bad")]);
    assert_eq!(client.expect(CDS).resources, ["a=1"]);
    assert_eq!(client.expect(CDS).removed, ["bad"]);
    client.silence();
}

#[test]
fn n05_a_rollback_to_what_was_acknowledged_is_sent_in_sotw() {
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
fn n06_what_was_rejected_together_goes_out_again_together_in_sotw() {
    let names = ["bad", "good", "other"];
    let mut client = sotw(&names.map(|name| (EDS, name, 1)));
    client.machine.set_isolation(false);
    client.sotw(EDS, &names[..2], "", "");
    let got = client.expect(EDS);
    client.nack(&got, &names[..2], "", "bad: no");
    client.silence();
    client.sotw(EDS, &names, "", &got.nonce);
    let other = client.expect(EDS);
    assert_eq!(other.resources, ["other=1"]);
    client.ack(&other, &names);
    client.put(&[(EDS, "bad", 2)]);
    assert_eq!(client.expect(EDS).resources, ["bad=2", "good=1"]);
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
    client.nack(&rejected, &[], "", "bad: no");
    assert_eq!(client.expect(EDS).resources, ["good=1"]);
    client.ack(&fix, &[]);
    client.silence();
}

#[test]
fn n06_a_fix_that_is_about_to_be_sent_strands_nobody_either() {
    let mut client = delta(&[(CDS, "c", 1), (EDS, "bad", 1), (EDS, "good", 1)]);
    client.machine.set_isolation(false);
    client.delta(CDS, &[], &[]);
    client.delta(EDS, &["bad", "good"], &[]);
    client.expect(CDS);
    let got = client.expect(EDS);
    client.put(&[(CDS, "c", 2), (EDS, "bad", 2)]);
    client.expect(CDS);
    client.nack(&got, &[], "", "no");
    assert_eq!(client.expect(EDS).resources, ["bad=2", "good=1"]);
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
    client.ack(&got, &[]);
    assert_eq!(client.settled(), [format!("+{}", got.nonce)], "what it took in is acknowledged");
    client.silence();
    // Of a type that is subscribed by name, it is the end of the subscription.
    client.put(&[(EDS, "a", 1)]);
    client.sotw(EDS, &["a"], "", "");
    let got = client.expect(EDS);
    client.answer(&got, &[], "", None);
    client.put(&[(EDS, "a", 2)]);
    client.silence();
    assert_eq!(client.settled(), [""; 0]);
}

#[test]
fn n08_an_answer_that_never_comes_holds_nothing_up() {
    for variant in BOTH {
        let mut client = Client::with(variant, &[(CDS, "a", 1), (EDS, "a", 1)]);
        client.ask(CDS, &[]);
        client.ask(EDS, &["a"]);
        for content in 2..2000 {
            client.read_all();
            client.put(&[(EDS, "a", content)]);
            assert_eq!(client.expect(EDS).resources, [format!("a={content}")]);
        }
        client.put(&[(CDS, "a", 2)]);
        assert_eq!(client.expect(CDS).resources, ["a=2"]);
    }
}

#[test]
fn n09_n10_a_rejection_concerns_its_type_and_is_told() {
    let mut client = delta(&[(CDS, "a", 1), (LDS, "l", 1)]);
    client.delta(LDS, &[], &[]);
    let got = client.expect(LDS);
    client.events();
    client.nack(&got, &[], "", "boom");
    let events = client.events();
    let [Event::Rejected { type_url, nonce, names, error, .. }] = &events[..] else {
        panic!("{events:?}");
    };
    assert_eq!((type_url, nonce.to_string()), (&LDS, got.nonce));
    assert_eq!((error.code, &*error.message), (13, "boom"));
    assert_eq!(names.iter().map(|name| &**name).collect::<Vec<_>>(), ["l"]);
    client.delta(CDS, &[], &[]);
    assert_eq!(client.expect(CDS).resources, ["a=1"]);
    client.put(&[(CDS, "a", 2)]);
    assert_eq!(client.expect(CDS).resources, ["a=2"]);
}

#[test]
fn n13_after_a_rejection_of_endpoints_those_that_clusters_wait_for_are_sent_again() {
    for variant in BOTH {
        let names = ["a", "b", "c", "idle"];
        let mut client = Client::with(variant, &names.map(|name| (EDS, name, 1)));
        client.ask(CDS, &[]);
        client.ask(EDS, &names);
        client.drain(&names);
        client.put(&[(CDS, "a", 1), (CDS, "b", 1), (CDS, "c", 1)]);
        let clusters = client.expect(CDS);
        let endpoints = client.expect(EDS);
        assert_eq!(endpoints.resources, ["a=1", "b=1", "c=1"]);
        client.ack(&endpoints, &names);
        client.put(&[(EDS, "a", 2), (EDS, "b", 2)]);
        let bad = client.expect(EDS);
        // The failure ends the clusters' wait, so that they are acknowledged before it is.
        client.ack(&clusters, &[]);
        client.nack(&bad, &names, &endpoints.version, "a: no such locality");
        assert_eq!(client.expect(EDS).resources, ["b=2", "c=1"], "and neither a nor idle");
        client.silence();
    }
}

#[test]
fn n13_after_a_rejection_of_routes_those_that_listeners_wait_for_are_sent_again() {
    for variant in BOTH {
        let mut client = Client::with(variant, &[(RDS, "bad", 1), (RDS, "r", 1)]);
        client.ask(LDS, &[]);
        client.drain(&[]);
        client.put(&[(LDS, "bad", 1), (LDS, "r", 1)]);
        let listeners = client.expect(LDS);
        client.ask(RDS, &["bad", "r"]);
        // Envoy acknowledges listeners that wait for their routes.
        client.ack(&listeners, &[]);
        let routes = client.expect(RDS);
        assert_eq!(routes.resources, ["bad=1", "r=1"]);
        client.nack(&routes, &["bad", "r"], "", "bad: no such cluster");
        assert_eq!(client.expect(RDS).resources, ["r=1"]);
        client.silence();
    }
}

#[test]
fn n14_what_was_ever_sent_is_removed_whatever_the_answer() {
    for variant in BOTH {
        for answer in ["acknowledged", "rejected", "never"] {
            let mut client = Client::with(variant, &[(CDS, "a", 1)]);
            client.ask(CDS, &[]);
            let good = client.expect(CDS);
            client.ack(&good, &[]);
            client.put(&[(CDS, "bad", 1), (CDS, "c", 1)]);
            let got = client.expect(CDS);
            match answer {
                "acknowledged" => client.ack(&got, &[]),
                "rejected" => client.nack(&got, &[], &good.version, "bad: no"),
                _ => {}
            }
            client.remove(&[(CDS, "bad"), (CDS, "c")]);
            let gone = client.expect(CDS);
            match variant {
                Variant::Sotw => assert_eq!(gone.resources, ["a=1"], "{answer}"),
                _ => assert_eq!(gone.removed, ["bad", "c"], "{answer}"),
            }
            client.silence();
        }
    }
}

#[test]
fn n06_good_siblings_are_sent_again_without_what_the_words_name() {
    for variant in BOTH {
        let names = ["a", "bad", "c"];
        let mut client = Client::with(variant, &names.map(|name| (EDS, name, 1)));
        client.ask(EDS, &names);
        let got = client.expect(EDS);
        client.nack(&got, &names, "", "bad: no");
        let good = client.expect(EDS);
        assert_eq!(good.resources, ["a=1", "c=1"]);
        client.ack(&good, &names);
        client.silence();
        client.put(&[(EDS, "bad", 2)]);
        assert_eq!(client.expect(EDS).resources, ["bad=2"]);
        client.silence();
    }
}

#[test]
fn n06_where_the_words_name_nobody_what_was_rejected_is_halved() {
    for variant in BOTH {
        for bad in 0..7 {
            let names = ["a", "b", "c", "d", "e", "f", "g"];
            let mut client = Client::with(variant, &names.map(|name| (EDS, name, 1)));
            client.ask(EDS, &names);
            let is_bad = |got: &Got| got.resources.contains(&format!("{}=1", names[bad]));
            let (mut accepted, mut tries) = (Vec::new(), 0);
            while let Some(got) = client.poll() {
                tries += 1;
                if is_bad(&got) {
                    client.nack(&got, &names, "", "something is wrong");
                } else {
                    client.ack(&got, &names);
                    accepted.extend(got.resources);
                }
            }
            accepted.sort();
            let good = names.iter().filter(|name| **name != names[bad]);
            assert!(
                accepted.iter().eq(good.map(|name| format!("{name}=1")).collect::<Vec<_>>().iter())
            );
            assert!(tries <= 7, "{tries}");
            client.put(&[(EDS, "a", 2)]);
            let resources = client.expect(EDS).resources;
            assert_eq!(resources, ["a=2"], "what is alone in its group drags nobody along");
        }
    }
}

#[test]
fn n06_a_search_among_many_ends() {
    let names: Vec<_> = (0..1000).map(|i| format!("{i}")).collect();
    let names: Vec<_> = names.iter().map(|name| &**name).collect();
    let all: Vec<_> = names.iter().map(|name| (EDS, *name, 1)).collect();
    let mut client = Client::with(Variant::Delta, &all);
    client.ask(EDS, &names);
    let mut tries = 0;
    while let Some(got) = client.poll() {
        client.nack(&got, &[], "", "no");
        tries += 1;
    }
    assert!((60..70).contains(&tries), "{tries}");
}

#[test]
fn n13_nothing_is_tried_while_a_cluster_waits_for_its_endpoints() {
    let mut client = delta(&[(CDS, "a", 1), (EDS, "a", 1), (EDS, "b", 1)]);
    client.delta(CDS, &[], &[]);
    client.delta(EDS, &["a", "b"], &[]);
    let (clusters, loads) = (client.expect(CDS), client.expect(EDS));
    client.nack(&loads, &[], "", "no");
    client.silence();
    client.ack(&clusters, &[]);
    assert_eq!(client.expect(EDS).resources, ["a=1"]);
    assert_eq!(client.expect(EDS).resources, ["b=1"]);
}
