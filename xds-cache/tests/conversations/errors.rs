//! `resource_errors`, statement by statement.

use deltaplane_core::{ErrorDetail, Key, Variant};

use crate::client::{BOTH, CDS, Client, EDS, LDS, RDS, delta, sotw};

const GLOB: &str = "xdstp://x/envoy.config.cluster.v3.Cluster/dir/*";

/// The same client, which reads errors.
fn told(mut client: Client) -> Client {
    client.machine.set_resource_errors(true);
    client
}

#[test]
fn e01_who_does_not_read_errors_is_told_none() {
    for variant in BOTH {
        let mut client = Client::with(variant, &[(EDS, "a", 1)]);
        client.ask(EDS, &["a", "z"]);
        assert!(client.expect(EDS).errors.is_empty());
    }
}

#[test]
fn e02_an_error_is_told_once() {
    for variant in BOTH {
        let mut client = told(Client::with(variant, &[(EDS, "a", 1)]));
        client.ask(EDS, &["a", "z"]);
        let got = client.expect(EDS);
        assert_eq!((&*got.resources, &*got.errors), (&["a=1".into()][..], &["z 5".into()][..]));
        client.ack(&got, &["a", "z"]);
        client.put(&[(EDS, "a", 2)]);
        let got = client.expect(EDS);
        assert_eq!((&*got.resources, got.errors.len()), (&["a=2".into()][..], 0));
        client.ack(&got, &["a", "z"]);
        client.put(&[(EDS, "z", 1)]);
        assert_eq!(client.expect(EDS).resources, ["z=1"]);
    }
}

#[test]
fn e03_what_comes_while_its_error_is_on_its_way_is_no_error() {
    for variant in BOTH {
        let mut client = told(Client::with(variant, &[(EDS, "a", 1)]));
        client.ask(EDS, &["z"]);
        client.put(&[(EDS, "z", 1)]);
        let got = client.expect(EDS);
        assert_eq!((&*got.resources, got.errors.len()), (&["z=1".into()][..], 0));
    }
}

#[test]
fn e04_a_full_state_with_an_error_is_full() {
    let mut client = told(sotw(&[(CDS, "a", 1), (CDS, "b", 1)]));
    client.ask(CDS, &["a"]);
    let got = client.expect(CDS);
    client.sotw(CDS, &["a", "b", "z"], &got.version, &got.nonce);
    let got = client.expect(CDS);
    assert_eq!(
        (&*got.resources, &*got.errors),
        (&["a=1".into(), "b=1".into()][..], &["z 5".into()][..])
    );
}

#[test]
fn e05_the_code_says_whether_the_client_may_let_go() {
    for (failure, expected) in [
        (None, "z 5"),
        (Some(ErrorDetail::new(7, "not yours")), "z 7"),
        (Some(ErrorDetail::new(14, "later")), "z 14"),
    ] {
        let mut client = told(sotw(&[(EDS, "a", 1)]));
        client.ask(EDS, &["z"]);
        let key = Key::new(EDS, "z");
        client.machine.begin_search(&key);
        client.silence();
        client.machine.end_search(&key, failure);
        assert_eq!(client.expect(EDS).errors, [expected]);
        client.silence();
    }
}

#[test]
fn e06_in_delta_what_is_not_found_is_removed_too() {
    let mut client = told(delta(&[(EDS, "a", 1)]));
    client.delta(EDS, &["z"], &[]);
    let got = client.expect(EDS);
    assert_eq!((&*got.removed, &*got.errors), (&["z".into()][..], &["z 5".into()][..]));
    // Routes are never answered as removed (D-04).
    client.delta(RDS, &["z"], &[]);
    client.silence();
}

#[test]
fn e07_a_glob_is_named_by_its_error_and_the_wildcard_has_none() {
    let mut client = told(delta(&[(LDS, "a", 1)]));
    client.delta(CDS, &[GLOB], &[]);
    assert_eq!(client.expect(CDS).errors, [format!("{GLOB} 5")]);
    let mut client = told(delta(&[(LDS, "a", 1)]));
    client.delta(CDS, &["*"], &[]);
    assert!(client.expect(CDS).errors.is_empty());
}

#[test]
fn e08_in_state_of_the_world_what_is_missing_is_told_at_once() {
    for type_url in [LDS, RDS, CDS, EDS] {
        let mut client = told(sotw(&[(CDS, "other", 1)]));
        client.ask(type_url.clone(), &["z"]);
        let got = client.expect(type_url.clone());
        assert_eq!((got.resources.len(), &*got.errors), (0, &["z 5".into()][..]));
        client.ack(&got, &["z"]);
        client.silence();
        client.put(&[(type_url.clone(), "z", 1)]);
        assert_eq!(client.expect(type_url).resources, ["z=1"]);
    }
}

#[test]
fn e08_what_is_asked_for_while_an_answer_is_on_its_way_is_told_too() {
    let mut client = told(sotw(&[(CDS, "a", 1)]));
    client.ask(CDS, &["a"]);
    let first = client.expect(CDS);
    // The answer crosses the request, which knows no nonce yet (S-20).
    client.sotw(CDS, &["a", "z"], "", "");
    let got = client.expect(CDS);
    assert_eq!((&*got.resources, &*got.errors), (&["a=1".into()][..], &["z 5".into()][..]));
    client.ack(&first, &["a", "z"]);
    client.ack(&got, &["a", "z"]);
    client.silence();
}

#[test]
fn e08_what_went_while_it_was_asked_for_again_is_told_too() {
    for variant in BOTH {
        let mut client = told(Client::with(variant, &[(EDS, "a", 1), (EDS, "b", 1)]));
        client.ask(EDS, &["a", "b"]);
        let got = client.expect(EDS);
        match variant {
            Variant::Sotw => client.sotw(EDS, &["a"], &got.version, &got.nonce),
            _ => client.delta(EDS, &[], &["b"]),
        }
        client.silence();
        match variant {
            Variant::Sotw => client.sotw(EDS, &["a", "b"], &got.version, &got.nonce),
            _ => client.delta(EDS, &["b"], &[]),
        }
        client.remove(&[(EDS, "b")]);
        let all: Vec<_> =
            client.drain(&["a", "b"]).into_iter().flat_map(|got| got.errors).collect();
        assert_eq!(all, ["b 5"], "{variant:?}");
    }
}

#[test]
fn n02_an_error_that_is_rejected_is_not_told_again() {
    for variant in BOTH {
        let mut client = told(Client::with(variant, &[(EDS, "a", 1)]));
        client.ask(EDS, &["z"]);
        let got = client.expect(EDS);
        client.nack(&got, &["z"], "", "no");
        client.silence();
        client.put(&[(EDS, "z", 1)]);
        assert_eq!(client.expect(EDS).resources, ["z=1"], "{:?}", Variant::Sotw);
    }
}
