//! Names of `xdstp:`, globs, and the virtual hosts of a route configuration, statement by statement.

use std::{sync::Arc, time::Duration};

use deltaplane_cache::CommitError;
use deltaplane_core::{ResourceLocator, SotwRequest, Variant};

use crate::client::{BOTH, CDS, Client, EDS, LDS, RDS, VHDS, delta, sotw};

const A: &str = "xdstp://x/envoy.config.cluster.v3.Cluster/dir/a";
const B: &str = "xdstp://x/envoy.config.cluster.v3.Cluster/dir/b";
const WITH: &str = "xdstp://x/envoy.config.cluster.v3.Cluster/dir/a?k=1";
const DEEP: &str = "xdstp://x/envoy.config.cluster.v3.Cluster/dir/sub/a";
const GLOB: &str = "xdstp://x/envoy.config.cluster.v3.Cluster/dir/*";
const GLOB_WITH: &str = "xdstp://x/envoy.config.cluster.v3.Cluster/dir/*?k=1";

/// All of them, and one with a name of the old kind.
fn all(variant: Variant) -> Client {
    let cluster = |name| (CDS, name, 1);
    Client::with(variant, &[A, B, WITH, DEEP, "dir/a"].map(cluster))
}

fn content(name: &str, number: u32) -> String {
    format!("{name}={number}")
}

#[test]
fn x01_context_parameters_may_come_in_any_order() {
    let name = |context: &str| format!("xdstp://x/envoy.config.cluster.v3.Cluster/a?{context}");
    for variant in BOTH {
        let mut client = Client::with(variant, &[(CDS, &name("b=2&a=1"), 1)]);
        client.ask(CDS, &[&name("a=1&b=2")]);
        assert_eq!(client.expect(CDS).resources, [content(&name("b=2&a=1"), 1)]);
        client.ask(CDS, &[&name("b=2&a=1")]);
        client.drain(&[]);
        client.remove(&[(CDS, &name("b=2&a=1"))]);
        assert!(client.view().is_complete());
        let got = client.expect(CDS);
        assert!(got.resources.is_empty());
        if variant == Variant::Delta {
            assert_eq!(got.removed, [name("a=1&b=2")], "it is called as it is compared");
        }
    }
}

#[test]
fn x01_who_comes_back_may_have_them_in_another_order() {
    let name = |context: &str| format!("xdstp://x/envoy.config.cluster.v3.Cluster/dir/a?{context}");
    let mut client = delta(&[(CDS, &name("a=1&b=2"), 1)]);
    client.delta(CDS, &[], &[]);
    let version = client.expect(CDS).versions.remove(0);
    let mut back = Client::of(client.cache.clone(), Variant::Delta);
    back.delta_from(CDS, &["*"], &[], &[(&name("b=2&a=1"), &version)]);
    back.silence();
}

#[test]
fn x02_a_resource_answers_only_to_its_own_parameters() {
    let mut client = delta(&[(CDS, A, 1)]);
    client.delta(CDS, &[WITH], &[]);
    assert_eq!(client.expect(CDS).removed, [WITH]);
    client.silence();
}

#[test]
fn x03_a_glob_means_direct_members_with_its_own_parameters() {
    for variant in BOTH {
        let mut client = all(variant);
        client.ask(CDS, &[GLOB]);
        assert_eq!(client.expect(CDS).resources, [content(A, 1), content(B, 1)], "{variant:?}");
        client.silence();
        let mut client = all(variant);
        client.ask(CDS, &[GLOB_WITH]);
        assert_eq!(client.expect(CDS).resources, [content(WITH, 1)], "{variant:?}");
        // What is deeper, or has other parameters, concerns nobody here.
        client.put(&[(CDS, DEEP, 2), (CDS, A, 2)]);
        client.silence();
    }
}

#[test]
fn x04_other_names_are_opaque() {
    let mut client = delta(&[(CDS, "team/*", 1), (CDS, "team/a", 1)]);
    client.delta(CDS, &["team/*"], &[]);
    assert_eq!(client.expect(CDS).resources, ["team/*=1"]);
    client.put(&[(CDS, "team/a", 2)]);
    client.silence();
}

#[test]
fn x05_members_come_and_go_one_by_one() {
    let mut client = all(Variant::Delta);
    client.delta(CDS, &[GLOB], &[]);
    client.drain(&[]);
    let new = A.replace("/a", "/c");
    client.put(&[(CDS, &new, 1)]);
    assert_eq!(client.expect(CDS).resources, [content(&new, 1)]);
    client.put(&[(CDS, B, 2), (CDS, DEEP, 2)]);
    assert_eq!(client.expect(CDS).resources, [content(B, 2)]);
    client.remove(&[(CDS, B), (CDS, DEEP)]);
    assert_eq!(client.expect(CDS).removed, [B]);
    client.silence();
}

#[test]
fn x05_who_gives_up_a_glob_keeps_what_he_named() {
    for variant in BOTH {
        let mut client = all(variant);
        client.ask(CDS, &[GLOB, A]);
        let got = client.expect(CDS);
        assert_eq!(got.resources, [content(A, 1), content(B, 1)]);
        match variant {
            Variant::Sotw => client.sotw(CDS, &[A], &got.version, &got.nonce),
            _ => client.delta(CDS, &[], &[GLOB]),
        }
        client.drain(&[A]);
        client.put(&[(CDS, B, 2)]);
        client.silence();
        client.put(&[(CDS, A, 2)]);
        assert_eq!(client.expect(CDS).resources, [content(A, 2)]);
    }
}

#[test]
fn x05_who_gives_up_a_name_under_a_glob_is_told_what_the_glob_says() {
    let mut client = all(Variant::Delta);
    client.delta(CDS, &[GLOB, A], &[]);
    client.drain(&[]);
    client.delta(CDS, &[], &[A]);
    assert_eq!(client.expect(CDS).resources, [content(A, 1)]);
    client.put(&[(CDS, A, 2)]);
    assert_eq!(client.expect(CDS).resources, [content(A, 2)]);
}

#[test]
fn x06_an_empty_glob_is_answered_and_filled_later() {
    let mut client = delta(&[(CDS, DEEP, 1)]);
    client.delta(CDS, &[GLOB], &[]);
    let got = client.expect(CDS);
    assert_eq!((got.resources, got.removed), (vec![], vec![GLOB.to_owned()]));
    client.silence();
    client.put(&[(CDS, A, 1)]);
    assert_eq!(client.expect(CDS).resources, [content(A, 1)]);
}

#[test]
fn x07_what_names_another_type_or_authority_does_not_exist() {
    let mut client = delta(&[(EDS, "a", 1)]);
    for name in [A, "xdstp://elsewhere/envoy.config.endpoint.v3.ClusterLoadAssignment/a"] {
        client.delta(EDS, &[name], &[]);
        assert_eq!(client.expect(EDS).removed, [name]);
    }
    client.delta(EDS, &["a"], &[]);
    assert_eq!(client.expect(EDS).resources, ["a=1"], "the stream goes on");
}

#[test]
fn x07_nothing_is_called_as_what_it_is_not() {
    for name in [GLOB, "xdstp://x/envoy.config.listener.v3.Listener/a", "xdstp:a"] {
        let mut transaction = deltaplane_cache::Transaction::new();
        transaction.upsert("default", crate::client::resource(CDS, name, 1));
        let error = Client::new(Variant::Delta).cache.commit(transaction).unwrap_err();
        assert!(matches!(error, CommitError::InvalidName { .. }), "{error}");
    }
}

#[test]
fn x08_lists_are_none_of_ours() {
    let mut client = delta(&[(LDS, "a", 1)]);
    let list = "xdstp://x/envoy.config.listener.v3.ListenerCollection/a";
    client.delta(LDS, &[list], &[]);
    assert_eq!(client.expect(LDS).removed, [list]);
}

#[test]
fn x09_what_a_client_adds_to_a_name_is_part_of_it() {
    let name = "xdstp://x/envoy.config.cluster.v3.Cluster/dir/a?xds.node.id=n1";
    let mut client = delta(&[(CDS, name, 1), (CDS, A, 2)]);
    client.delta(CDS, &[name], &[]);
    let got = client.expect(CDS);
    assert_eq!((&*got.names, got.resources.len()), (&[name.to_owned()][..], 1));
    let mut client = delta(&[(CDS, name, 1), (CDS, A, 2)]);
    client.delta(CDS, &[&GLOB.replace("/*", "/*?xds.node.id=n1")], &[]);
    assert_eq!(client.expect(CDS).names, [name]);
}

#[test]
fn x10_names_of_both_kinds_and_several_authorities_come_on_one_stream() {
    let other = A.replace("//x/", "//y/");
    let mut client = sotw(&[(CDS, A, 1), (CDS, &other, 1), (CDS, "dir/a", 1)]);
    client.ask(CDS, &[A, &other, "dir/a"]);
    let resources = client.expect(CDS).resources;
    assert_eq!(resources, ["dir/a=1".to_owned(), content(A, 1), content(&other, 1)]);
}

#[test]
fn r06_of_a_glob_only_what_differs_is_sent_to_who_comes_back() {
    let mut client = all(Variant::Delta);
    client.delta(CDS, &[GLOB], &[]);
    let had = client.expect(CDS);
    client.commit(&[(CDS, A, 2)], &[(CDS, B)]);
    let mut back = Client::of(client.cache.clone(), Variant::Delta);
    let held: Vec<_> =
        had.names.iter().map(String::as_str).zip(had.versions.iter().map(String::as_str)).collect();
    back.delta_from(CDS, &[GLOB], &[], &held);
    assert_eq!(back.expect(CDS).resources, [content(A, 2)]);
    // Routes that it names in a moment may use it (R-14).
    back.pass(Duration::from_secs(2));
    assert_eq!(back.expect(CDS).removed, [B]);
    back.silence();
}

#[test]
fn a_glob_is_looked_at_however_much_else_changed() {
    let mut client = all(Variant::Delta);
    client.delta(CDS, &[GLOB], &[]);
    client.drain(&[]);
    for number in 2..50 {
        client.put(&[(CDS, &format!("other-{number}"), number), (CDS, DEEP, number)]);
    }
    client.put(&[(CDS, A, 2)]);
    client.put(&[(CDS, A, 3), (CDS, WITH, 3)]);
    client.remove(&[(CDS, B)]);
    client.put(&[(CDS, "last", 1)]);
    let all = client.drain(&[]);
    let resources: Vec<_> = all.iter().flat_map(|got| got.resources.clone()).collect();
    let removed: Vec<_> = all.iter().flat_map(|got| got.removed.clone()).collect();
    assert_eq!((resources, removed), (vec![content(A, 3)], vec![B.to_owned()]));
}

#[test]
fn a_glob_sees_through_scopes() {
    let mut client = all(Variant::Delta);
    client.delta(CDS, &[GLOB], &[]);
    client.drain(&[]);
    let mut transaction = deltaplane_cache::Transaction::new();
    transaction.upsert("upper", crate::client::resource(CDS, A, 7)).hide("upper", CDS, B);
    client.cache.commit(transaction).unwrap();
    let all = client.drain(&[]);
    let resources: Vec<_> = all.iter().flat_map(|got| got.resources.clone()).collect();
    let removed: Vec<_> = all.iter().flat_map(|got| got.removed.clone()).collect();
    assert_eq!((resources, removed), (vec![content(A, 7)], vec![B.to_owned()]));
    let members: Vec<_> = {
        use deltaplane_core::View;
        client.view().members(&CDS, GLOB).map(|member| member.name().clone()).collect()
    };
    assert_eq!(members, [Arc::from(A)]);
}

#[test]
fn p01_a_locator_stands_for_its_name() {
    let locator = |name: &str| ResourceLocator {
        name: name.into(),
        dynamic_parameters: [("env".to_owned(), "prod".to_owned())].into(),
    };
    let mut client = sotw(&[(EDS, "a", 1), (EDS, "b", 1)]);
    let request = SotwRequest {
        type_url: EDS.to_string(),
        resource_names: vec!["a".into()],
        resource_locators: vec![locator("b")],
        ..SotwRequest::default()
    };
    client.machine.handle_request(request.into()).unwrap();
    assert_eq!(client.expect(EDS).resources, ["a=1", "b=1"]);
    let mut client = delta(&[(EDS, "a", 1), (EDS, "b", 1)]);
    let request = |subscribe: &[&str], unsubscribe: &[&str]| deltaplane_core::DeltaRequest {
        type_url: EDS.to_string(),
        resource_locators_subscribe: subscribe.iter().map(|name| locator(name)).collect(),
        resource_locators_unsubscribe: unsubscribe.iter().map(|name| locator(name)).collect(),
        ..deltaplane_core::DeltaRequest::default()
    };
    client.machine.handle_request(request(&["a", "b"], &[]).into()).unwrap();
    assert_eq!(client.expect(EDS).resources, ["a=1", "b=1"]);
    client.machine.handle_request(request(&[], &["a"]).into()).unwrap();
    client.put(&[(EDS, "a", 2), (EDS, "b", 2)]);
    assert_eq!(client.expect(EDS).resources, ["b=2"]);
}

#[test]
fn v03_a_nameless_request_means_the_hosts_of_the_routes_that_are_subscribed() {
    let hosts = [(RDS, "r", 1), (VHDS, "r/x", 1), (VHDS, "r/y", 1), (VHDS, "s/x", 1)];
    let mut client = delta(&hosts);
    client.delta(RDS, &["r"], &[]);
    client.drain(&[]);
    client.delta(VHDS, &[], &[]);
    assert_eq!(client.expect(VHDS).resources, ["r/x=1", "r/y=1"]);
    client.silence();
    client.put(&[(VHDS, "r/y", 2), (VHDS, "s/x", 2)]);
    assert_eq!(client.expect(VHDS).resources, ["r/y=2"]);
    // Another route configuration brings its own, and takes them along.
    client.delta(RDS, &["s"], &[]);
    assert_eq!(client.expect(VHDS).resources, ["s/x=2"]);
    client.delta(RDS, &[], &["s"]);
    client.put(&[(VHDS, "s/x", 3)]);
    client.silence();
}

#[test]
fn v03_the_routes_may_be_asked_for_later() {
    let mut client = delta(&[(RDS, "r", 1), (VHDS, "r/x", 1)]);
    client.delta(VHDS, &["*"], &[]);
    client.silence();
    client.delta(RDS, &["r"], &[]);
    let types: Vec<_> = client.drain(&[]).into_iter().map(|got| got.type_url).collect();
    assert_eq!(types, [RDS.as_str(), VHDS.as_str()]);
}
