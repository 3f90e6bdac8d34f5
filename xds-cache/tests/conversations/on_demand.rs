//! What is asked for by name only, statement by statement.

use deltaplane_core::{Key, Resource, TypeUrl, Variant};

use crate::client::{BOTH, CDS, Client, EDS, RDS, VHDS, delta, resource};

fn on_demand(type_url: TypeUrl, name: &str, content: u32) -> Resource {
    resource(type_url, name, content).on_demand()
}

/// A virtual host by its alias.
fn host(name: &str, alias: &str) -> Resource {
    Resource::raw(VHDS, name, format!("{name}=1")).aliases([alias]).build()
}

#[test]
fn v04_a_virtual_host_is_sent_by_the_name_that_was_asked_for() {
    let mut client = Client::new(Variant::Delta);
    client.add([host("r/late", "r/late.x")]);
    client.delta(VHDS, &["r/late.x"], &[]);
    let got = client.expect(VHDS);
    assert_eq!(
        (&*got.resources, &*got.aliases),
        (&["r/late=1".into()][..], &["r/late.x".into()][..])
    );
}

#[test]
fn v05_an_unknown_host_is_answered_without_content() {
    let mut client = delta(&[(VHDS, "r/first", 1)]);
    client.delta(VHDS, &["r/no.x"], &[]);
    let got = client.expect(VHDS);
    assert_eq!((&*got.resources, &*got.aliases), (&["r/no.x?".into()][..], &["r/no.x".into()][..]));
    assert!(got.removed.is_empty());
    client.ack(&got, &[]);
    client.silence();
    // It may come later.
    client.add([host("r/no", "r/no.x")]);
    assert_eq!(client.expect(VHDS).resources, ["r/no=1"]);
}

#[test]
fn v07_an_unknown_cluster_is_answered_and_pushed_when_it_comes() {
    let mut client = delta(&[(CDS, "a", 1)]);
    client.delta(CDS, &[], &[]);
    client.drain(&[]);
    client.delta(CDS, &["od"], &[]);
    let got = client.expect(CDS);
    assert_eq!((got.resources.len(), &*got.removed), (0, &["od".into()][..]));
    client.ack(&got, &[]);
    client.add([on_demand(CDS, "od", 1)]);
    assert_eq!(client.expect(CDS).resources, ["od=1"]);
}

#[test]
fn v08_each_name_is_answered() {
    let mut client = Client::new(Variant::Delta);
    client.add([on_demand(CDS, "od2", 1)]);
    client.delta(CDS, &["od1"], &[]);
    client.delta(CDS, &["od2"], &[]);
    let got = client.expect(CDS);
    assert_eq!((&*got.resources, &*got.removed), (&["od2=1".into()][..], &["od1".into()][..]));
}

#[test]
fn v09_a_name_beside_the_wildcard_leaves_that_as_it_is() {
    let mut client = delta(&[(CDS, "bar", 1)]);
    client.add([on_demand(CDS, "foo", 1)]);
    client.delta(CDS, &[], &[]);
    assert_eq!(client.expect(CDS).resources, ["bar=1"], "what is on demand is not in it");
    client.delta(CDS, &["foo"], &[]);
    let got = client.expect(CDS);
    assert_eq!(got.resources, ["foo=1"]);
    client.put(&[(CDS, "bar", 2)]);
    assert_eq!(client.expect(CDS).resources, ["bar=2"]);
    let mut back = Client::of(client.cache.clone(), Variant::Delta);
    back.delta_from(CDS, &["*", "foo"], &[], &[("foo", &got.versions[0]), ("bar", "old")]);
    back.drain(&[]);
    client.put(&[(CDS, "bar", 3)]);
    client.add([on_demand(CDS, "foo", 3)]);
    assert_eq!(back.expect(CDS).resources, ["bar=3", "foo=3"]);
}

#[test]
fn what_is_on_demand_is_told_to_nobody_who_did_not_name_it() {
    for variant in BOTH {
        let mut client = Client::with(variant, &[(CDS, "a", 1)]);
        client.add([on_demand(CDS, "od", 1)]);
        client.ask(CDS, &["*"]);
        assert_eq!(client.expect(CDS).resources, ["a=1"]);
        client.add([on_demand(CDS, "od", 2)]);
        client.silence();
        client.remove(&[(CDS, "od")]);
        client.silence();
    }
}

#[test]
fn what_becomes_general_is_told_to_all_and_back() {
    let mut client = delta(&[(CDS, "a", 1)]);
    client.add([on_demand(CDS, "od", 1)]);
    client.delta(CDS, &[], &[]);
    client.drain(&[]);
    client.put(&[(CDS, "od", 1)]);
    assert_eq!(client.drain(&[])[0].resources, ["od=1"]);
    client.add([on_demand(CDS, "od", 1)]);
    assert_eq!(client.expect(CDS).removed, ["od"]);
}

#[test]
fn v04_a_host_on_demand_is_kept_up_to_date_beside_those_that_are_not() {
    let by_alias = |content: u32| {
        let host = Resource::raw(VHDS, "r/late", format!("r/late={content}"));
        host.aliases(["r/late.x"]).build()
    };
    let mut client = delta(&[(RDS, "r", 1), (VHDS, "r/first", 1)]);
    client.delta(RDS, &["r"], &[]);
    client.delta(VHDS, &[], &[]);
    client.drain(&[]);
    client.add([by_alias(1).on_demand()]);
    client.silence();
    client.delta(VHDS, &["r/late.x"], &[]);
    assert_eq!(client.expect(VHDS).resources, ["r/late=1"]);
    client.add([by_alias(2).on_demand()]);
    assert_eq!(client.expect(VHDS).resources, ["r/late=2"]);
    // It becomes one of all, and is on demand again: this client has it all the while.
    client.add([by_alias(3)]);
    assert_eq!(client.expect(VHDS).resources, ["r/late=3"]);
    client.add([by_alias(4).on_demand()]);
    let got = client.expect(VHDS);
    assert_eq!((&*got.resources, got.removed.len()), (&["r/late=4".into()][..], 0));
    client.silence();
    client.remove(&[(VHDS, "r/late")]);
    assert_eq!(client.expect(VHDS).removed, ["r/late"]);
    client.silence();
}

#[test]
fn in_state_of_the_world_a_name_beside_the_wildcard_is_in_each_answer() {
    let mut client = Client::with(Variant::Sotw, &[(CDS, "a", 1)]);
    client.add([on_demand(CDS, "od", 1)]);
    client.ask(CDS, &["*", "od"]);
    let got = client.expect(CDS);
    assert_eq!(got.resources, ["a=1", "od=1"]);
    client.ack(&got, &["*", "od"]);
    client.put(&[(CDS, "a", 2)]);
    assert_eq!(client.expect(CDS).resources, ["a=2", "od=1"]);
}

#[test]
fn an_answer_waits_for_who_looks_and_nothing_else_does() {
    let mut client = delta(&[(CDS, "a", 1), (EDS, "a", 1)]);
    client.delta(CDS, &["od", "a"], &[]);
    let key = Key::new(CDS, "od");
    client.machine.begin_search(&key);
    assert_eq!(client.expect(CDS).resources, ["a=1"]);
    client.silence();
    client.add([on_demand(CDS, "od", 1)]);
    assert_eq!(client.expect(CDS).resources, ["od=1"], "it need not be said that it was found");
    client.machine.end_search(&key, None);
    client.silence();
}

#[test]
fn nothing_found_is_told_when_the_search_ends() {
    let mut client = delta(&[(CDS, "a", 1)]);
    client.delta(CDS, &["od"], &[]);
    let key = Key::new(CDS, "od");
    client.machine.begin_search(&key);
    client.silence();
    let revision = client.put(&[(CDS, "b", 1)]).revision;
    client.silence();
    let standing = client.machine.standing();
    assert_eq!((standing.looked, standing.pending), (Some(revision), None), "nobody waits for it");
    client.machine.end_search(&key, None);
    assert_eq!(client.expect(CDS).removed, ["od"]);
    client.silence();
}
