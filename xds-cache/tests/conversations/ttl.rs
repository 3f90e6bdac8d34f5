//! Time to live and heartbeats, statement by statement.

use std::time::Duration;

use deltaplane_core::{Resource, TypeUrl, Variant};

use crate::client::{BOTH, CDS, Client, EDS, RTDS, VHDS, delta};

const TTL: Duration = Duration::from_secs(30);

/// Good for 30 s.
fn leased(type_url: TypeUrl, name: &str, content: u32) -> Resource {
    Resource::raw(type_url, name, format!("{name}={content}")).ttl(TTL).build()
}

/// A client that can bear it.
fn bearing(variant: Variant, resources: &[(TypeUrl, &str, u32)]) -> Client {
    let mut client = Client::with(variant, resources);
    client.machine.set_ttl(true);
    client
}

/// Time passes until something is due; there must be something.
fn wait(client: &mut Client) {
    client.silence();
    let due = client.machine.poll_timeout().expect("something is due");
    assert!(due <= client.now() + TTL, "in time");
    client.pass(due - client.now());
}

#[test]
fn t01_who_cannot_bear_it_is_told_of_no_time() {
    for variant in BOTH {
        let mut client = Client::new(variant);
        client.add([leased(RTDS, "a", 1)]);
        client.ask(RTDS, &["a"]);
        let got = client.expect(RTDS);
        assert_eq!((&*got.resources, got.ttls.len()), (&["a=1".into()][..], 0));
        assert_eq!(client.machine.poll_timeout(), None);
    }
}

#[test]
fn t03_a_time_without_end_is_borne() {
    for variant in BOTH {
        let mut client = bearing(variant, &[]);
        client.pass(TTL);
        client.add([Resource::raw(RTDS, "a", "a=1").ttl(Duration::MAX).build()]);
        client.ask(RTDS, &["a"]);
        assert_eq!(client.expect(RTDS).ttls, [i64::MAX]);
        client.silence();
        let due = client.machine.poll_timeout().expect("a time");
        assert!(
            (TTL * 1_000_000..TTL * 10_000_000).contains(&due),
            "{due:?} can be added to others"
        );
    }
}

#[test]
fn t03_every_delivery_has_the_time() {
    for variant in BOTH {
        let mut client = bearing(variant, &[]);
        client.add([leased(RTDS, "a", 1)]);
        client.ask(RTDS, &["a"]);
        client.drain(&["a"]);
        client.add([leased(RTDS, "a", 2)]);
        let got = client.expect(RTDS);
        assert_eq!((&*got.resources, &*got.ttls), (&["a=2".into()][..], &[30][..]));
        client.ack(&got, &["a"]);
        // Without one, nothing is to be kept alive any more.
        client.put(&[(RTDS, "a", 3)]);
        let got = client.expect(RTDS);
        assert_eq!((&*got.resources, got.ttls.len()), (&["a=3".into()][..], 0));
        client.silence();
        assert_eq!(client.machine.poll_timeout(), None);
    }
}

#[test]
fn t04_a_heartbeat_repeats_the_version_and_no_content() {
    let mut client = bearing(Variant::Delta, &[(CDS, "b", 1)]);
    client.add([leased(CDS, "a", 1)]);
    client.delta(CDS, &[], &[]);
    let first = client.expect(CDS);
    assert_eq!((&*first.resources, &*first.ttls), (&["a=1".into(), "b=1".into()][..], &[30][..]));
    client.ack(&first, &[]);
    for _ in 0..5 {
        wait(&mut client);
        let beat = client.expect(CDS);
        assert_eq!((&*beat.resources, &*beat.ttls), (&["a~".into()][..], &[30][..]));
        assert_eq!(beat.versions[0], first.versions[0]);
        client.ack(&beat, &[]);
    }
}

#[test]
fn t05_a_heartbeat_is_no_update() {
    let mut client = bearing(Variant::Delta, &[]);
    let revision = client.add([leased(CDS, "a", 1)]).revision;
    client.delta(CDS, &[], &[]);
    client.drain(&[]);
    let before = client.machine.standing();
    wait(&mut client);
    let beat = client.expect(CDS);
    assert_eq!(client.machine.standing(), before, "nobody waits for its answer");
    client.ack(&beat, &[]);
    assert_eq!(client.settled().last(), Some(&format!("+{}", beat.nonce)));
    assert_eq!(before.looked, Some(revision));
    client.silence();
}

#[test]
fn t06_t07_in_state_of_the_world_a_set_is_repeated_whole() {
    let mut client = bearing(Variant::Sotw, &[(CDS, "b", 1), (CDS, "c", 1)]);
    client.add([leased(CDS, "a", 1)]);
    client.ask(CDS, &[]);
    let first = client.expect(CDS);
    let all: Vec<_> = ["a=1", "b=1", "c=1"].map(String::from).into();
    assert_eq!((&first.resources, &*first.ttls), (&all, &[30][..]));
    client.ack(&first, &[]);
    wait(&mut client);
    let again = client.expect(CDS);
    assert_eq!((&again.resources, &*again.ttls), (&all, &[30][..]));
    assert_eq!(again.version, first.version);
    client.ack(&again, &[]);
    client.silence();
}

#[test]
fn t08_in_state_of_the_world_content_comes_along() {
    let mut client = bearing(Variant::Sotw, &[(RTDS, "b", 1)]);
    client.add([leased(RTDS, "a", 1)]);
    client.ask(RTDS, &["a", "b"]);
    client.drain(&["a", "b"]);
    wait(&mut client);
    let again = client.expect(RTDS);
    assert_eq!((&*again.resources, &*again.ttls), (&["a=1".into()][..], &[30][..]));
}

#[test]
fn t08_t09_endpoints_and_virtual_hosts_have_no_time() {
    for variant in BOTH {
        let mut client = bearing(variant, &[]);
        client.add([leased(EDS, "a", 1), leased(VHDS, "r/a", 1)]);
        client.ask(EDS, &["a"]);
        assert!(client.expect(EDS).ttls.is_empty());
        client.ask(VHDS, &["r/a"]);
        assert!(client.expect(VHDS).ttls.is_empty());
        client.silence();
        assert_eq!(client.machine.poll_timeout(), None);
    }
}

#[test]
fn t10_what_may_be_over_is_sent_with_content() {
    let mut client = bearing(Variant::Delta, &[]);
    client.add([leased(CDS, "a", 1)]);
    client.delta(CDS, &[], &[]);
    client.drain(&[]);
    client.pass(2 * TTL);
    assert_eq!(client.expect(CDS).resources, ["a=1"]);
}

#[test]
fn t10_who_rejects_a_heartbeat_is_sent_the_content() {
    let mut client = bearing(Variant::Delta, &[]);
    client.add([leased(CDS, "a", 1)]);
    client.delta(CDS, &[], &[]);
    client.drain(&[]);
    wait(&mut client);
    let beat = client.expect(CDS);
    client.nack(&beat, &[], "", "type URL  embedded in an individual Any");
    assert_eq!(client.expect(CDS).resources, ["a=1"]);
    client.silence();
}

#[test]
fn t10_who_comes_back_is_sent_the_content() {
    let mut client = bearing(Variant::Delta, &[(CDS, "b", 1)]);
    client.add([leased(CDS, "a", 1)]);
    client.delta(CDS, &[], &[]);
    let had = client.expect(CDS);
    let held = [("a", &*had.versions[0]), ("b", &*had.versions[1])];
    let mut back = Client::of(client.cache.clone(), Variant::Delta);
    back.machine.set_ttl(true);
    back.delta_from(CDS, &["*"], &[], &held);
    assert_eq!(back.expect(CDS).resources, ["a=1"]);
}

#[test]
fn t10_in_state_of_the_world_too() {
    let mut client = bearing(Variant::Sotw, &[(CDS, "b", 1), (RTDS, "b", 1)]);
    client.add([leased(CDS, "a", 1), leased(RTDS, "a", 1)]);
    client.ask(CDS, &[]);
    let clusters = client.expect(CDS);
    client.ask(RTDS, &["a", "b"]);
    let layers = client.expect(RTDS);
    let mut back = Client::of(client.cache.clone(), Variant::Sotw);
    back.machine.set_ttl(true);
    back.sotw(CDS, &[], &clusters.version, "");
    assert_eq!(back.expect(CDS).resources, ["a=1", "b=1"]);
    back.sotw(RTDS, &["a", "b"], &layers.version, "");
    assert_eq!(
        back.expect(RTDS).resources,
        ["a=1", "b=1"],
        "who names something is sent it (R-10)"
    );
    back.silence();
}

#[test]
fn what_is_removed_or_rejected_is_not_spoken_of() {
    let mut client = bearing(Variant::Delta, &[]);
    client.add([leased(CDS, "a", 1), leased(CDS, "b", 1)]);
    client.delta(CDS, &["a", "b"], &[]);
    let got = client.expect(CDS);
    client.nack(&got, &[], "", "a: bad; b: bad");
    client.pass(TTL / 2);
    client.silence();
    client.remove(&[(CDS, "a"), (CDS, "b")]);
    client.drain(&[]);
    client.pass(TTL);
    client.silence();
    assert_eq!(client.machine.poll_timeout(), None);
}

#[test]
fn a_time_is_part_of_the_content() {
    let mut client = delta(&[(RTDS, "a", 1)]);
    client.delta(RTDS, &["a"], &[]);
    let without = client.expect(RTDS);
    client.add([leased(RTDS, "a", 1)]);
    assert_ne!(client.expect(RTDS).versions, without.versions);
}
