//! Make before break on one aggregated stream, statement by statement.

use std::time::Duration;

use deltaplane_cache::Transaction;
use deltaplane_core::{Event, Key, Order, Resource, Revision, TypeUrl, TypeVersion, Variant, View};

use crate::client::{
    BOTH, CDS, Client, ECDS, EDS, Got, LDS, RDS, SDS, SRDS, delta, resource as plain, sotw,
};

const PATIENCE: Duration = Duration::from_secs(20);
const DRAIN: Duration = Duration::from_secs(600);
const INSTANT: Duration = Duration::from_millis(1);

/// A resource that refers to others.
fn resource(
    type_url: &TypeUrl,
    name: &str,
    content: u32,
    references: &[(TypeUrl, &str)],
) -> Resource {
    let references = references.iter().map(|(type_url, name)| Key::new(type_url.clone(), *name));
    let value = format!("{name}={content}");
    Resource::raw(type_url.clone(), name, value).references(references).build()
}

fn cluster(name: &str, content: u32) -> Resource {
    plain(CDS, name, content)
}

fn endpoints(name: &str) -> Resource {
    plain(EDS, name, 1)
}

/// A route configuration that sends requests to a cluster.
fn route(name: &str, content: u32, cluster: &str) -> Resource {
    resource(&RDS, name, content, &[(CDS, cluster)])
}

fn commit(client: &Client, upserts: &[Resource], removes: &[(TypeUrl, &str)]) {
    let mut transaction = Transaction::new();
    for resource in upserts {
        transaction.upsert("default", resource.clone());
    }
    for (type_url, name) in removes {
        transaction.remove("default", type_url.clone(), *name);
    }
    client.cache.commit(transaction).unwrap();
}

/// A client in step that runs a listener, a route to the cluster x, and that.
fn running(variant: Variant) -> Client {
    let mut client = Client::new(variant);
    let listener = resource(&LDS, "l", 1, &[(RDS, "r")]);
    commit(&client, &[cluster("x", 1), endpoints("x"), listener, route("r", 1, "x")], &[]);
    client.ask(CDS, &[]);
    client.ask(EDS, &["x"]);
    client.ask(LDS, &[]);
    client.ask(RDS, &["r"]);
    while let Some(got) = client.poll() {
        accept(&mut client, &got);
    }
    client
}

/// Acknowledges, with the names that the client subscribes to.
fn accept(client: &mut Client, got: &Got) {
    let subscriptions = client.machine.subscriptions();
    let of_type = subscriptions.filter(|(type_url, _)| got.type_url == type_url.as_str());
    let names: Vec<_> = of_type.flat_map(|(_, subscribed)| subscribed.names().cloned()).collect();
    let names: Vec<_> = names.iter().map(|name| &**name).collect();
    client.ack(got, &names);
}

/// Acknowledges all that there is, and returns it.
fn accept_all(client: &mut Client) -> Vec<Got> {
    std::iter::from_fn(|| {
        let got = client.poll()?;
        accept(client, &got);
        Some(got)
    })
    .collect()
}

/// The swap of cluster x for y under route r, in one transaction.
fn swap(client: &Client) {
    let upserts = [cluster("y", 1), endpoints("y"), route("r", 2, "y")];
    commit(client, &upserts, &[(CDS, "x"), (EDS, "x")]);
}

/// The client asks for the endpoints of y, as Envoy does when it has been told of the cluster.
fn ask_for_y(client: &mut Client, newest: &Got) {
    match client.machine.variant() {
        Variant::Sotw => client.sotw(EDS, &["x", "y"], &newest.version, &newest.nonce),
        _ => client.delta(EDS, &["y"], &[]),
    }
}

#[test]
fn o02_o03_o12_a_route_waits_for_its_cluster_and_the_old_one_for_the_route() {
    for variant in BOTH {
        let mut client = running(variant);
        swap(&client);
        let clusters = client.expect(CDS);
        let both: &[_] = if variant == Variant::Sotw { &["y=1", "x=1"] } else { &["y=1"] };
        assert_eq!(clusters.resources, both, "the old one is still there");
        client.silence();
        ask_for_y(&mut client, &clusters);
        let loads = client.expect(EDS);
        assert_eq!(loads.resources, ["y=1"]);
        client.silence();
        // An Envoy withholds the ACK of the clusters; that of the endpoints is evidence enough.
        accept(&mut client, &loads);
        let routes = client.expect(RDS);
        assert_eq!(routes.resources, ["r=2"]);
        client.silence();
        accept(&mut client, &clusters);
        client.silence();
        accept(&mut client, &routes);
        let last = client.expect(CDS);
        match variant {
            Variant::Sotw => assert_eq!(last.resources, ["y=1"]),
            _ => assert_eq!(last.removed, ["x"]),
        }
        client.silence();
        accept(&mut client, &last);
        if variant == Variant::Delta {
            assert_eq!(
                client.expect(EDS).removed,
                ["x"],
                "endpoints go when their cluster is gone"
            );
        }
        client.silence();
        assert_eq!(client.machine.poll_timeout(), None);
    }
}

#[test]
fn o03_where_the_order_is_off_nothing_waits() {
    for variant in BOTH {
        let mut client = running(variant);
        client.machine.set_order(Order::AtOnce);
        swap(&client);
        let clusters = client.expect(CDS);
        assert_eq!(clusters.resources, ["y=1"]);
        assert_eq!(clusters.removed.len(), usize::from(variant == Variant::Delta));
        let rest: Vec<_> = client.read_all().into_iter().map(|got| got.type_url).collect();
        assert!(rest.contains(&RDS.to_string()), "{rest:?}");
    }
}

#[test]
fn o12_where_endpoints_leave_doubt_the_clusters_ack_is_needed_too() {
    for variant in BOTH {
        let mut client = running(variant);
        let checked = Resource::raw(CDS, "y", "y=1").references([Key::new(EDS, "y")]);
        let checked = checked.warming_unseen(true).build();
        commit(&client, &[checked, endpoints("y"), route("r", 2, "y")], &[]);
        let clusters = client.expect(CDS);
        ask_for_y(&mut client, &clusters);
        let loads = client.expect(EDS);
        accept(&mut client, &loads);
        client.silence();
        accept(&mut client, &clusters);
        assert_eq!(client.expect(RDS).resources, ["r=2"]);
    }
}

#[test]
fn o12_a_service_name_that_is_known_already_proves_nothing_by_itself() {
    let mut client = running(Variant::Delta);
    let shared = resource(&CDS, "y", 1, &[(EDS, "x")]);
    commit(&client, &[shared, route("r", 2, "y")], &[]);
    let clusters = client.expect(CDS);
    let loads = client.expect(EDS);
    assert_eq!(loads.resources, ["x=1"], "sent again behind the cluster");
    accept(&mut client, &loads);
    client.silence();
    accept(&mut client, &clusters);
    assert_eq!(client.expect(RDS).resources, ["r=2"]);
}

#[test]
fn o12_secrets_are_waited_for_as_endpoints_are() {
    let mut client = running(Variant::Delta);
    let tls = resource(&CDS, "y", 1, &[(EDS, "y"), (SDS, "s")]);
    let secret = plain(SDS, "s", 1);
    commit(&client, &[tls, endpoints("y"), secret, route("r", 2, "y")], &[]);
    client.expect(CDS);
    client.delta(EDS, &["y"], &[]);
    client.delta(SDS, &["s"], &[]);
    let (loads, secrets) = (client.expect(EDS), client.expect(SDS));
    accept(&mut client, &loads);
    client.silence();
    client.ack(&secrets, &["s"]);
    assert_eq!(client.expect(RDS).resources, ["r=2"]);
}

#[test]
fn o12_secrets_that_the_client_has_are_not_sent_again_and_not_waited_for() {
    let mut client = running(Variant::Delta);
    commit(&client, &[plain(SDS, "s", 1)], &[]);
    client.delta(SDS, &["s"], &[]);
    accept_all(&mut client);
    let tls = resource(&CDS, "y", 1, &[(EDS, "y"), (SDS, "s")]);
    commit(&client, &[tls, endpoints("y"), route("r", 2, "y")], &[]);
    client.expect(CDS);
    client.delta(EDS, &["y"], &[]);
    let loads = client.expect(EDS);
    accept(&mut client, &loads);
    assert_eq!(client.expect(RDS).resources, ["r=2"]);
}

#[test]
fn o12_endpoints_that_do_not_come_by_this_stream_are_not_waited_for() {
    let mut client = delta(&[(CDS, "x", 1)]);
    commit(&client, &[route("r", 1, "x")], &[]);
    client.delta(CDS, &[], &[]);
    client.delta(RDS, &["r"], &[]);
    client.drain(&[]);
    commit(&client, &[cluster("y", 1), endpoints("y"), route("r", 2, "y")], &[]);
    let clusters = client.expect(CDS);
    client.silence();
    client.ack(&clusters, &[]);
    assert_eq!(client.expect(RDS).resources, ["r=2"]);
}

#[test]
fn o03_a_cluster_that_is_only_asked_for_by_name_is_not_waited_for() {
    for variant in BOTH {
        let mut client = Client::new(variant);
        commit(&client, &[cluster("x", 1), route("r", 1, "x")], &[]);
        client.ask(RDS, &["r"]);
        client.ask(CDS, &["x"]);
        while let Some(got) = client.poll() {
            client.ack(&got, if got.type_url == CDS.to_string() { &["x"] } else { &["r"] });
        }
        commit(&client, &[cluster("y", 1), route("r", 2, "y")], &[]);
        assert_eq!(client.expect(RDS).resources, ["r=2"], "gRPC asks for y when r names it");
    }
}

#[test]
fn o08_silence_has_a_deadline_and_independent_changes_have_none() {
    for variant in BOTH {
        let mut client = running(variant);
        swap(&client);
        client.expect(CDS);
        client.silence();
        commit(&client, &[plain(LDS, "other", 1)], &[]);
        let listeners = client.expect(LDS);
        assert!(listeners.resources.contains(&"other=1".into()));
        client.pass(PATIENCE - INSTANT);
        client.silence();
        assert_eq!(client.machine.poll_timeout(), Some(PATIENCE));
        client.pass(INSTANT);
        assert_eq!(client.expect(RDS).resources, ["r=2"]);
        client.silence();
        // The ACK of the route is waited for as long, from when that was sent.
        client.pass(PATIENCE - INSTANT);
        client.silence();
        client.pass(INSTANT);
        let last = client.expect(CDS);
        match variant {
            Variant::Sotw => assert_eq!(last.resources, ["y=1"]),
            _ => assert_eq!(last.removed, ["x"]),
        }
    }
}

#[test]
fn o08_the_deadline_counts_from_when_the_endpoints_were_sent() {
    for variant in BOTH {
        let mut client = running(variant);
        commit(&client, &[cluster("y", 1), endpoints("y"), route("r", 2, "y")], &[]);
        let clusters = client.expect(CDS);
        client.pass(PATIENCE / 2);
        ask_for_y(&mut client, &clusters);
        client.expect(EDS);
        client.pass(PATIENCE - INSTANT);
        client.silence();
        client.pass(INSTANT);
        assert_eq!(client.expect(RDS).resources, ["r=2"]);
    }
}

#[test]
fn o03_a_listener_that_waits_holds_no_other_back() {
    for variant in BOTH {
        let mut client = running(variant);
        let waits = resource(&LDS, "m", 1, &[(CDS, "y")]);
        let other = resource(&LDS, "l", 2, &[(RDS, "r")]);
        commit(&client, &[cluster("y", 1), waits, other], &[]);
        client.expect(CDS);
        assert_eq!(client.expect(LDS).resources, ["l=2"]);
        client.silence();
    }
}

#[test]
fn d16_what_waits_changes_and_goes_was_never_there() {
    let mut client = running(Variant::Delta);
    let waits = |content| resource(&LDS, "m", content, &[(CDS, "y")]);
    commit(&client, &[cluster("y", 1), waits(1)], &[]);
    client.expect(CDS);
    client.silence();
    commit(&client, &[waits(2)], &[]);
    client.silence();
    commit(&client, &[], &[(LDS, "m")]);
    client.silence();
}

#[test]
fn a_machine_says_how_far_its_client_is() {
    for variant in BOTH {
        let mut client = running(variant);
        let standing = |client: &Client| {
            let it = client.machine.standing();
            (it.looked, it.pending, it.draining, it.rejected)
        };
        let before = Some(client.view().revision());
        assert_eq!(standing(&client), (before, None, None, None));
        let now = client.put(&[(EDS, "x", 2)]).revision;
        let loads = client.expect(EDS);
        assert_eq!(standing(&client), (before, Some(now), None, None), "there may be more to say");
        client.silence();
        assert_eq!(standing(&client), (Some(now), Some(now), None, None));
        client.nack(&loads, &["x"], "", "x: no");
        client.silence();
        assert_eq!(standing(&client), (Some(now), None, None, Some(now)));
        let fixed = client.put(&[(EDS, "x", 3)]).revision;
        accept_all(&mut client);
        assert_eq!(standing(&client), (Some(fixed), None, None, None));
        let removed = client.remove(&[(CDS, "x")]).revision;
        client.silence(); // A route names it.
        assert_eq!(standing(&client), (Some(removed), None, Some(removed), None));
        client.pass(PATIENCE);
        accept_all(&mut client);
        assert_eq!(standing(&client), (Some(removed), None, None, None));
        client.ask(SRDS, &[]);
        let asked = Some(Revision(0));
        assert_eq!(standing(&client), (Some(removed), asked, None, None), "and not yet looked at");
    }
}

#[test]
fn o09_a_rejected_cluster_holds_its_routes_without_a_deadline() {
    for (variant, words) in BOTH.into_iter().flat_map(|v| [(v, "y: no"), (v, "something else")]) {
        let mut client = running(variant);
        commit(&client, &[cluster("y", 1), endpoints("y"), route("r", 2, "y")], &[(CDS, "x")]);
        let clusters = client.expect(CDS);
        client.nack(&clusters, &[], "", words);
        for _ in 0..3 {
            client.pass(PATIENCE * 2);
            client.silence();
        }
        commit(&client, &[cluster("y", 2)], &[]);
        let clusters = client.expect(CDS);
        assert!(clusters.resources.contains(&"y=2".into()));
        ask_for_y(&mut client, &clusters);
        let loads = client.expect(EDS);
        accept(&mut client, &loads);
        assert_eq!(client.expect(RDS).resources, ["r=2"]);
    }
}

/// In State of the World no answer can leave a listener as the client has it where that is not known: others
/// do not wait for ever until what it names is repaired.
#[test]
fn o08_what_who_comes_back_rejects_does_not_hold_what_it_has_nothing_to_do_with() {
    let mut client = running(Variant::Sotw);
    let listener = |name, content, cluster| resource(&LDS, name, content, &[(CDS, cluster)]);
    let bad = [cluster("y", 1), endpoints("y"), listener("m", 1, "y"), listener("n", 1, "x")];
    commit(&client, &bad, &[]);
    client = Client::of(client.cache, Variant::Sotw);
    let unknown = "00000000000000a1";
    client.sotw(CDS, &[], unknown, "");
    client.sotw(EDS, &["x"], unknown, "");
    client.sotw(LDS, &[], unknown, "");
    client.sotw(RDS, &["r"], unknown, "");
    let clusters = client.expect(CDS);
    client.pass(PATIENCE / 2);
    client.nack(&clusters, &[], unknown, "y: no");
    let listeners = |client: &mut Client| {
        let all = accept_all(client).into_iter().filter(|got| got.type_url == LDS.as_str());
        all.map(|got| got.resources).collect::<Vec<_>>()
    };
    assert_eq!(listeners(&mut client), [[""; 0]; 0]);
    commit(&client, &[listener("n", 2, "x")], &[]);
    client.pass(PATIENCE - INSTANT);
    assert_eq!(listeners(&mut client), [[""; 0]; 0], "it may be repaired in time");
    assert_eq!(client.machine.poll_timeout(), Some(client.now() + INSTANT));
    client.pass(INSTANT);
    assert_eq!(listeners(&mut client), [["l=1", "m=1", "n=2"]]);
    // What the client has is known again, and so held without a deadline.
    commit(&client, &[listener("m", 2, "y")], &[(LDS, "n")]);
    assert_eq!(listeners(&mut client), [["l=1", "m=1"]]);
    client.pass(PATIENCE * 2);
    assert_eq!(listeners(&mut client), [[""; 0]; 0]);
}

#[test]
fn times_without_end_are_borne() {
    for variant in BOTH {
        let mut client = running(variant);
        let forever = Order::Gated { patience: Duration::MAX, drain: Duration::MAX };
        client.machine.set_order(forever);
        swap(&client);
        let clusters = client.expect(CDS);
        commit(&client, &[resource(&LDS, "l", 2, &[(CDS, "x")])], &[]);
        accept_all(&mut client);
        client.pass(DRAIN * 2);
        client.silence();
        ask_for_y(&mut client, &clusters);
        accept_all(&mut client);
        accept(&mut client, &clusters);
        accept_all(&mut client);
        commit(&client, &[resource(&LDS, "l", 3, &[])], &[]);
        accept_all(&mut client);
        client.pass(DRAIN * 2);
        client.silence();
        let mut again = Client::of(client.cache, variant);
        again.machine.set_order(forever);
        again.machine.set_catch_up(Duration::MAX);
        match variant {
            Variant::Sotw => again.sotw(RDS, &["r"], "00000000000000a1", ""),
            _ => again.delta_from(RDS, &["r"], &[], &[("r", "00000000000000a1")]),
        }
        again.ask(EDS, &["x"]);
        again.read_all();
        again.machine.handle_timeout(Duration::MAX);
        again.read_all();
    }
}

#[test]
fn o09_rejected_endpoints_hold_the_routes_of_a_new_cluster() {
    let mut client = running(Variant::Delta);
    commit(&client, &[cluster("y", 1), endpoints("y"), route("r", 2, "y")], &[]);
    client.expect(CDS);
    client.delta(EDS, &["y"], &[]);
    let loads = client.expect(EDS);
    client.nack(&loads, &[], "", "y: no such locality");
    client.read_all();
    client.pass(PATIENCE * 2);
    client.silence();
    commit(&client, &[plain(EDS, "y", 2)], &[]);
    let loads = client.expect(EDS);
    accept(&mut client, &loads);
    assert_eq!(client.expect(RDS).resources, ["r=2"]);
}

#[test]
fn o02_a_rejected_route_holds_the_cluster_that_it_used() {
    for variant in BOTH {
        let mut client = running(variant);
        commit(&client, &[cluster("y", 1), endpoints("y"), route("r", 2, "y")], &[]);
        let clusters = client.expect(CDS);
        ask_for_y(&mut client, &clusters);
        let loads = client.expect(EDS);
        accept(&mut client, &loads);
        let routes = client.expect(RDS);
        client.nack(&routes, &["r"], "", "r: no");
        accept(&mut client, &clusters);
        commit(&client, &[], &[(CDS, "x")]);
        client.pass(PATIENCE * 2);
        client.silence();
        commit(&client, &[route("r", 3, "y")], &[]);
        let routes = client.expect(RDS);
        accept(&mut client, &routes);
        let last = client.expect(CDS);
        assert!(!last.resources.contains(&"x=1".into()), "{last:?}");
    }
}

#[test]
fn o02_a_cluster_that_comes_back_is_not_removed() {
    for variant in BOTH {
        let mut client = running(variant);
        swap(&client);
        let clusters = client.expect(CDS);
        client.silence();
        // Back to x before y is in use; y goes at once, since nothing ever used it.
        commit(&client, &[cluster("x", 1), endpoints("x"), route("r", 1, "x")], &[(CDS, "y")]);
        let got = client.expect(CDS);
        match variant {
            Variant::Sotw => assert_eq!(got.resources, ["x=1"]),
            _ => assert_eq!(got.removed, ["y"]),
        }
        client.silence();
        accept(&mut client, &clusters);
        accept(&mut client, &got);
        client.silence();
    }
}

#[test]
fn o02_two_quick_swaps_keep_what_the_client_runs_until_the_last() {
    for variant in BOTH {
        let mut client = running(variant);
        swap(&client);
        client.expect(CDS);
        let upserts = [cluster("z", 1), endpoints("z"), route("r", 3, "z")];
        commit(&client, &upserts, &[(CDS, "y"), (EDS, "y")]);
        let clusters = client.expect(CDS);
        assert!(clusters.resources.contains(&"z=1".into()));
        if variant == Variant::Delta {
            assert_eq!(client.expect(CDS).removed, ["y"], "no route that the client has names it");
            client.delta(EDS, &["z"], &[]);
        } else {
            assert!(clusters.resources.contains(&"x=1".into()));
            client.expect(CDS);
            client.sotw(EDS, &["x", "z"], "", &clusters.nonce);
        }
        let loads = client.expect(EDS);
        client.ack(&loads, &["x", "z"]);
        let routes = client.expect(RDS);
        assert_eq!(routes.resources, ["r=3"]);
        client.silence();
        accept(&mut client, &routes);
        let last = client.expect(CDS);
        match variant {
            Variant::Sotw => assert_eq!(last.resources, ["z=1"]),
            _ => assert_eq!(last.removed, ["x"]),
        }
    }
}

#[test]
fn o02_what_a_current_route_still_names_is_held_for_a_while() {
    for variant in BOTH {
        let mut client = running(variant);
        commit(&client, &[], &[(CDS, "x")]);
        client.silence();
        client.pass(PATIENCE - INSTANT);
        client.silence();
        client.pass(INSTANT);
        let last = client.expect(CDS);
        assert_eq!(
            (last.resources.len(), last.removed.len()),
            (0, usize::from(variant == Variant::Delta))
        );
        client.silence();
    }
}

#[test]
fn o12_a_route_that_a_listener_no_longer_names_is_in_use_until_it_is_given_up() {
    for variant in BOTH {
        let mut client = running(variant);
        let listener = resource(&LDS, "l", 2, &[(RDS, "s")]);
        let upserts = [listener, route("s", 1, "y"), cluster("y", 1), endpoints("y")];
        commit(&client, &upserts, &[(RDS, "r"), (CDS, "x")]);
        let clusters = client.expect(CDS);
        if variant == Variant::Delta {
            let gone = client.expect(RDS);
            assert_eq!(gone.removed, ["r"], "which Envoy ignores");
            client.ack(&gone, &[]);
        }
        client.silence(); // The listener waits too: its route is new, and names y.
        ask_for_y(&mut client, &clusters);
        let loads = client.expect(EDS);
        accept(&mut client, &loads);
        accept(&mut client, &clusters);
        let listeners = client.expect(LDS);
        accept(&mut client, &listeners);
        match variant {
            Variant::Sotw => client.sotw(RDS, &["r", "s"], "", ""),
            _ => client.delta(RDS, &["s"], &[]),
        }
        let routes = client.expect(RDS);
        assert_eq!(routes.resources, ["s=1"]);
        client.ack(&routes, &["r", "s"]);
        client.pass(PATIENCE * 2);
        client.silence();
        match variant {
            Variant::Sotw => client.sotw(RDS, &["s"], &routes.version, &routes.nonce),
            _ => client.delta(RDS, &[], &["r"]),
        }
        let last = client.expect(CDS);
        match variant {
            Variant::Sotw => assert_eq!(last.resources, ["y=1"]),
            _ => assert_eq!(last.removed, ["x"]),
        }
    }
}

#[test]
fn o12_what_a_listener_itself_names_is_in_use_until_it_is_drained() {
    for (variant, drains) in
        [(Variant::Sotw, true), (Variant::Delta, true), (Variant::Delta, false)]
    {
        let mut client = Client::new(variant);
        commit(&client, &[cluster("x", 1), resource(&LDS, "l", 1, &[(CDS, "x")])], &[]);
        client.ask(CDS, &[]);
        client.ask(LDS, &[]);
        client.drain(&[]);
        commit(&client, &[cluster("y", 1), resource(&LDS, "l", 2, &[(CDS, "y")])], &[(CDS, "x")]);
        let clusters = client.expect(CDS);
        client.silence();
        client.ack(&clusters, &[]);
        let listeners = client.expect(LDS);
        client.silence();
        client.pass(PATIENCE / 2);
        if drains {
            client.ack(&listeners, &[]);
            client.pass(DRAIN + PATIENCE - INSTANT);
            client.silence();
            client.pass(INSTANT);
        } else {
            client.pass(PATIENCE / 2); // It never answers.
        }
        let last = client.expect(CDS);
        match variant {
            Variant::Sotw => assert_eq!(last.resources, ["y=1"]),
            _ => assert_eq!(last.removed, ["x"]),
        }
    }
}

#[test]
fn d20_a_filter_stays_until_no_listener_uses_it() {
    let mut client = Client::new(Variant::Delta);
    let listener = |content, filter| resource(&LDS, "l", content, &[(ECDS, filter)]);
    commit(&client, &[plain(ECDS, "f", 1), listener(1, "f")], &[]);
    client.delta(LDS, &[], &[]);
    client.delta(ECDS, &["f"], &[]);
    client.drain(&[]);
    commit(&client, &[plain(ECDS, "g", 1), listener(2, "g")], &[(ECDS, "f")]);
    client.delta(ECDS, &["g"], &[]);
    assert_eq!(client.expect(ECDS).resources, ["g=1"]);
    let listeners = client.expect(LDS);
    client.silence();
    client.ack(&listeners, &[]);
    client.silence();
    client.pass(DRAIN + PATIENCE);
    assert_eq!(client.expect(ECDS).removed, ["f"]);
    // Envoy gives the name up when it needs it no more, and then there is nothing to remove.
    commit(&client, &[plain(ECDS, "h", 1), listener(3, "h")], &[(ECDS, "g")]);
    let listeners = client.expect(LDS);
    client.ack(&listeners, &[]);
    client.delta(ECDS, &["h"], &["g"]);
    assert_eq!(client.expect(ECDS).resources, ["h=1"]);
    client.pass((DRAIN + PATIENCE) * 2);
    client.silence();
}

#[test]
fn r14_in_delta_a_removal_found_at_reconnect_waits_for_the_routes() {
    let first = running(Variant::Delta);
    let held: Vec<_> = [(CDS, "x"), (EDS, "x"), (LDS, "l"), (RDS, "r")]
        .map(|(type_url, name)| {
            let view = first.view();
            let resource = View::get(&view, &type_url, name).unwrap();
            (type_url, name, resource.version().to_owned())
        })
        .into();
    swap(&first);
    for returns_at_once in [true, false] {
        let mut client = Client::of(first.cache.clone(), Variant::Delta);
        let come_back = |client: &mut Client, at: usize| {
            let (type_url, name, version) = &held[at];
            let named: &[_] = if at.is_multiple_of(2) { &[] } else { std::slice::from_ref(name) };
            client.delta_from(type_url.clone(), named, &[], &[(name, version)]);
        };
        come_back(&mut client, 0);
        if !returns_at_once {
            assert_eq!(client.expect(CDS).resources, ["y=1"]);
            client.silence();
        }
        (1..4).for_each(|at| come_back(&mut client, at));
        if returns_at_once {
            assert_eq!(client.expect(CDS).resources, ["y=1"]);
        }
        assert_eq!(client.expect(EDS).resources, ["x=1"], "still in use, and answered (R-10)");
        client.silence();
        client.delta(EDS, &["y"], &[]);
        let loads = client.expect(EDS);
        assert_eq!(loads.resources, ["y=1"]);
        client.ack(&loads, &[]);
        let routes = client.expect(RDS);
        assert_eq!(routes.resources, ["r=2"]);
        client.silence();
        client.ack(&routes, &[]);
        assert_eq!(client.expect(CDS).removed, ["x"]);
    }
}

#[test]
fn r14_in_sotw_a_client_that_comes_back_in_the_middle_of_a_swap_keeps_the_old_cluster() {
    let mut first = running(Variant::Sotw);
    let version =
        |client: &Client, type_url: &TypeUrl| View::version(&client.view(), type_url).to_string();
    let before: Vec<_> = [CDS, EDS, LDS, RDS].map(|type_url| version(&first, &type_url)).into();
    swap(&first);
    let both = first.expect(CDS);
    assert_eq!(both.resources, ["y=1", "x=1"]);
    // With what it had before the swap, or with both clusters.
    for clusters in [&before[0], &both.version] {
        let mut client = Client::of(first.cache.clone(), Variant::Sotw);
        client.sotw(CDS, &[], clusters, "");
        client.sotw(EDS, &["x"], &before[1], "");
        client.sotw(LDS, &[], &before[2], "");
        client.sotw(RDS, &["r"], &before[3], "");
        let again = client.expect(CDS);
        assert_eq!(again.resources, ["y=1", "x=1"]);
        assert_eq!(client.expect(EDS).resources, ["x=1"], "from what is left of it, never empty");
        client.sotw(EDS, &["x", "y"], "", "");
        let loads = client.expect(EDS);
        client.ack(&loads, &["x", "y"]);
        client.ack(&again, &[]);
        let routes = client.expect(RDS);
        assert_eq!(routes.resources, ["r=2"]);
        client.silence();
        client.ack(&routes, &["r"]);
        assert_eq!(client.expect(CDS).resources, ["y=1"]);
        client.silence();
    }
}

#[test]
fn r14_in_sotw_who_comes_back_after_many_swaps_keeps_the_cluster_whose_endpoints_it_asks_for() {
    const SWAPS: u32 = 100;
    for names_endpoints_first in [true, false] {
        let first = running(Variant::Sotw);
        let mut before = "x".to_owned();
        for swap in 1..=SWAPS {
            let now = format!("c{swap}");
            let upserts = [cluster(&now, 1), endpoints(&now), route("r", swap + 1, &now)];
            commit(&first, &upserts, &[(CDS, &before), (EDS, &before)]);
            before = now;
        }
        let mut client = Client::of(first.cache, Variant::Sotw);
        let unknown = "00000000000000a1";
        let ask_for_endpoints = |client: &mut Client| client.sotw(EDS, &["x"], unknown, "");
        if names_endpoints_first {
            ask_for_endpoints(&mut client);
            assert_eq!(client.expect(EDS).resources, ["x=1"]);
        }
        client.sotw(CDS, &[], unknown, "");
        let clusters = client.expect(CDS).resources;
        assert!(clusters.contains(&"x=1".to_owned()), "{clusters:?}");
        assert!(clusters.contains(&format!("c{SWAPS}=1")), "{clusters:?}");
        assert_eq!(clusters.len(), if names_endpoints_first { 2 } else { SWAPS as usize + 1 });
    }
}

/// An Envoy that comes back while the old connections of a listener drain, whose routes went by another
/// name: those it still subscribes to, and its server knows nothing of them, or what it was never told.
fn draining(variant: Variant, remembers: bool) -> Client {
    let mut client = running(variant);
    let held = |client: &Client, type_url: &TypeUrl, name: &str| {
        let held = View::get(&client.view(), type_url, name);
        held.map(|held| held.version().to_owned()).unwrap_or_default()
    };
    let x = held(&client, &CDS, "x");
    if !remembers {
        client = Client::new(variant);
    }
    let listener = resource(&LDS, "l", 2, &[(RDS, "s")]);
    let now = [cluster("y", 1), endpoints("y"), listener, route("s", 1, "y")];
    commit(&client, &now, &[(RDS, "r"), (CDS, "x"), (EDS, "x")]);
    let mut client = Client::of(client.cache, variant);
    if variant == Variant::Sotw {
        let version = |type_url| View::version(&client.view(), type_url);
        let [listeners, routes] = [&LDS, &RDS].map(|type_url| version(type_url).to_string());
        client.sotw(CDS, &[], "00000000000000a1", "");
        client.sotw(LDS, &[], &listeners, "");
        client.sotw(RDS, &["r", "s"], &routes, "");
    } else {
        let [y, l, s] = [(CDS, "y"), (LDS, "l"), (RDS, "s")]
            .map(|(type_url, name)| held(&client, &type_url, name));
        client.delta_from(CDS, &[], &[], &[("x", &x), ("y", &y)]);
        client.delta_from(LDS, &[], &[], &[("l", &l)]);
        // It was told that the old name is gone, and so does not say that it has it.
        client.delta_from(RDS, &["r", "s"], &[], &[("s", &s)]);
    }
    client
}

#[test]
fn r14_in_sotw_who_comes_back_uses_routes_that_are_gone_until_it_gives_them_up() {
    let mut client = draining(Variant::Sotw, true);
    let clusters = |all: Vec<Got>| {
        let clusters = all.into_iter().filter(|got| got.type_url == CDS.as_str());
        clusters.map(|got| got.resources).collect::<Vec<_>>()
    };
    assert_eq!(clusters(accept_all(&mut client)), [["y=1", "x=1"]]);
    client.sotw(RDS, &["s"], "", "");
    assert_eq!(clusters(accept_all(&mut client)), [["y=1"]]);
}

#[test]
fn r14_in_delta_who_comes_back_uses_routes_that_are_gone_until_it_gives_them_up() {
    let removed = |all: Vec<Got>| all.into_iter().flat_map(|got| got.removed).collect::<Vec<_>>();
    for remembers in [true, false] {
        for gives_up in [true, false] {
            let mut client = draining(Variant::Delta, remembers);
            assert_eq!(removed(accept_all(&mut client)), [""; 0]);
            match gives_up {
                true => client.delta(RDS, &[], &["r"]),
                false => client.pass(PATIENCE + DRAIN),
            }
            assert_eq!(removed(accept_all(&mut client)), ["x"]);
        }
    }
}

/// A gRPC client asks for clusters by name, be they all there are: what it says it has, it has.
#[test]
fn r14_in_sotw_clusters_that_are_known_by_name_are_no_news_to_who_comes_back() {
    let client = running(Variant::Sotw);
    let mut by_name = Client::of(client.cache.clone(), Variant::Sotw);
    by_name.sotw(CDS, &["x"], "", "");
    let clusters = by_name.expect(CDS);
    let mut again = Client::of(client.cache.clone(), Variant::Sotw);
    let version = |type_url| View::version(&client.view(), type_url).to_string();
    again.sotw(CDS, &["x"], &clusters.version, "");
    again.sotw(EDS, &["x"], "", "");
    again.sotw(LDS, &["l"], &version(&LDS), "");
    again.sotw(RDS, &["r"], &version(&RDS), "");
    let got = again.read_all();
    let endpoints = got.iter().find(|got| got.type_url == EDS.as_str()).unwrap();
    again.nack(endpoints, &["x"], "", "x: no");
    for got in got.iter().filter(|got| got.type_url != EDS.as_str()) {
        accept(&mut again, got);
    }
    commit(&again, &[route("r", 2, "x")], &[]);
    assert!(again.read_all().iter().any(|got| got.resources == ["r=2"]));
}

/// A cluster that was bad when it was last there is repeated to who comes back with a version that nobody
/// knows. It never had that, and says so.
#[test]
fn r14_in_sotw_what_who_comes_back_only_may_have_is_to_blame_and_not_its_siblings() {
    for words in ["x: no", "something is wrong"] {
        let client = running(Variant::Sotw);
        let version = |type_url| View::version(&client.view(), type_url).to_string();
        let [listeners, routes] = [&LDS, &RDS].map(version);
        commit(&client, &[cluster("x", 2)], &[]);
        swap(&client);
        let mut client = Client::of(client.cache, Variant::Sotw);
        client.sotw(CDS, &[], "00000000000000a1", "");
        client.sotw(EDS, &["x"], "", "");
        client.sotw(LDS, &[], &listeners, "");
        client.sotw(RDS, &["r"], &routes, "");
        let clusters = client.expect(CDS);
        assert_eq!(clusters.resources, ["y=1", "x=2"]);
        accept_all(&mut client);
        client.nack(&clusters, &[], "00000000000000a1", words);
        let rejected = client.events().into_iter().find_map(|event| match event {
            Event::Rejected { blamed, .. } => Some(blamed.len()),
            _ => None,
        });
        assert_eq!(rejected, Some(usize::from(words.starts_with('x'))));
        let mut told = Vec::new();
        for _ in 0..2 {
            told.extend(accept_all(&mut client));
            client.sotw(EDS, &["x", "y"], "", "");
            told.extend(accept_all(&mut client));
            client.pass(PATIENCE);
        }
        told.retain(|got| got.type_url != EDS.as_str());
        let told: Vec<_> = told.into_iter().map(|got| got.resources.join(",")).collect();
        let at = |what: &str| told.iter().position(|told| told == what);
        assert!(!told.join(",").contains("x=2"), "{told:?}");
        assert!(at("r=2").is_some() && at("r=2") < at("y=1"), "{told:?}");
    }
}

/// An Envoy that comes back while a cluster warms asks for clusters last, when it has the endpoints.
#[test]
fn r14_routes_and_listeners_wait_until_who_comes_back_asks_for_clusters() {
    for variant in BOTH {
        let first = running(variant);
        let listener = resource(&LDS, "l", 2, &[(RDS, "s")]);
        commit(&first, &[listener, route("s", 1, "y")], &[]);
        swap(&first);
        let mut client = Client::of(first.cache, variant);
        let unknown = "00000000000000a1";
        let ask = |client: &mut Client, type_url: TypeUrl, names: &[&str], held: &str| match variant
        {
            Variant::Sotw => client.sotw(type_url, names, unknown, ""),
            _ => client.delta_from(type_url, names, &[], &[(held, unknown)]),
        };
        ask(&mut client, EDS, &["x"], "x");
        ask(&mut client, LDS, &[], "l");
        ask(&mut client, RDS, &["r"], "r");
        let early = client.read_all();
        assert!(early.iter().all(|got| got.type_url == EDS.as_str()), "{variant:?}: {early:?}");
        ask(&mut client, CDS, &[], "x");
        let clusters = client.expect(CDS);
        let early = client.read_all();
        assert!(early.iter().all(|got| got.type_url == EDS.as_str()), "{variant:?}: {early:?}");
        ask_for_y(&mut client, &clusters);
        let loads = client.expect(EDS);
        accept(&mut client, &loads);
        accept(&mut client, &clusters);
        assert_eq!(client.expect(LDS).resources, ["l=2"]);
        assert_eq!(client.expect(RDS).resources, ["r=2"]);
        client.silence();
    }
}

/// While a route waits for its cluster, another one is sent, and what the client then has is not all that
/// there is.
#[test]
fn r14_in_sotw_a_version_does_not_say_of_routes_that_wait_that_they_were_sent() {
    let mut first = running(Variant::Sotw);
    let version =
        |client: &Client, type_url: &TypeUrl| View::version(&client.view(), type_url).to_string();
    commit(&first, &[route("q", 1, "x")], &[]);
    first.sotw(RDS, &["q", "r"], "", "");
    accept_all(&mut first);
    let before = [CDS, LDS].map(|type_url| version(&first, &type_url));
    swap(&first);
    first.expect(CDS);
    commit(&first, &[route("q", 2, "z")], &[]);
    let others = first.expect(RDS);
    assert_eq!(others.resources, ["q=2"]);
    let mut has = TypeVersion::default();
    [route("q", 2, "z"), route("r", 1, "x")].iter().for_each(|route| has.add(route));
    assert_eq!(others.version.parse(), Ok(has));
    // It has the clusters from before, and the newest of one route.
    let mut client = Client::of(first.cache, Variant::Sotw);
    client.sotw(CDS, &[], &before[0], "");
    client.sotw(LDS, &[], &before[1], "");
    client.sotw(RDS, &["q", "r"], &others.version, "");
    let clusters = client.expect(CDS);
    assert_eq!(clusters.resources, ["y=1", "x=1"]);
    let early = client.read_all();
    assert!(early.iter().all(|got| got.type_url == RDS.as_str()), "{early:?}");
}

/// A route configuration of which it is not known what it says is gone before the client was told another.
#[test]
fn r14_in_delta_a_route_that_nobody_knows_is_in_use_until_it_is_given_up() {
    let first = running(Variant::Delta);
    let [x, l] = [(CDS, "x"), (LDS, "l")]
        .map(|(type_url, name)| first.view().get(&type_url, name).unwrap().version().to_owned());
    swap(&first);
    let mut client = Client::of(first.cache, Variant::Delta);
    client.delta_from(CDS, &[], &[], &[("x", &x)]);
    client.delta_from(LDS, &[], &[], &[("l", &l)]);
    client.delta_from(RDS, &["r"], &[], &[("r", "unknown")]);
    let clusters = client.expect(CDS);
    assert_eq!(clusters.resources, ["y=1"]);
    client.silence(); // The route waits for that.
    commit(&client, &[resource(&LDS, "l", 2, &[])], &[(RDS, "r")]);
    let removed = |all: Vec<Got>| all.into_iter().flat_map(|got| got.removed).collect::<Vec<_>>();
    assert_eq!(removed(accept_all(&mut client)), ["r"], "which Envoy ignores");
    client.pass(PATIENCE);
    assert_eq!(removed(accept_all(&mut client)), [""; 0]);
    client.delta(RDS, &[], &["r"]);
    assert_eq!(removed(accept_all(&mut client)), ["x"]);
}

#[test]
fn r14_who_comes_back_may_use_what_is_gone_until_it_had_time_to_name_its_types() {
    let second = Duration::from_secs(1);
    for (time, answered) in [(second - INSTANT, (1, 0)), (second, (0, 1))] {
        let mut client = delta(&[(CDS, "x", 1), (EDS, "x", 1)]);
        client.remove(&[(CDS, "x"), (EDS, "x")]);
        client.delta_from(CDS, &[], &[], &[("x", "unknown")]);
        client.pass(time);
        client.delta(EDS, &["x"], &[]);
        let loads = client.expect(EDS);
        assert_eq!((loads.resources.len(), loads.removed.len()), answered);
    }
}

/// Scoped routes may hold their routes themselves.
#[test]
fn r14_what_scoped_routes_may_use_that_nobody_knows_stays_until_they_are_replaced() {
    let mut client = Client::new(Variant::Delta);
    client.put(&[(CDS, "y", 1), (SRDS, "s", 1)]);
    client.delta_from(CDS, &[], &[], &[("x", "unknown")]);
    client.delta_from(SRDS, &[], &[], &[("s", "unknown")]);
    client.expect(CDS);
    let scopes = client.expect(SRDS);
    client.pass(PATIENCE / 2); // By then it has named all types that it had.
    client.silence();
    client.ack(&scopes, &[]);
    assert_eq!(client.expect(CDS).removed, ["x"]);
}

#[test]
fn r14_who_comes_back_and_asks_for_no_clusters_is_served_after_a_while() {
    for variant in BOTH {
        let first = running(variant);
        let mut client = Client::of(first.cache, variant);
        match variant {
            Variant::Sotw => client.sotw(RDS, &["r"], "00000000000000a1", ""),
            _ => client.delta_from(RDS, &["r"], &[], &[("r", "00000000000000a1")]),
        }
        client.silence();
        client.pass(client.machine.poll_timeout().expect("a deadline"));
        assert_eq!(client.expect(RDS).resources, ["r=1"]);
    }
}

#[test]
fn o08_first_answers_wait_for_nothing() {
    let mut client = sotw(&[(CDS, "x", 1), (EDS, "x", 1)]);
    commit(&client, &[route("r", 1, "x")], &[]);
    client.sotw(CDS, &[], "", "");
    client.sotw(RDS, &["r"], "", "");
    client.expect(CDS);
    assert_eq!(client.expect(RDS).resources, ["r=1"]);
}

#[test]
fn o12_each_of_a_listeners_changes_drains_by_itself() {
    let mut client = Client::new(Variant::Delta);
    let listener = |content, cluster| resource(&LDS, "l", content, &[(CDS, cluster)]);
    commit(&client, &[cluster("x", 1), cluster("y", 1), cluster("z", 1), listener(1, "x")], &[]);
    client.ask(CDS, &[]);
    client.ask(LDS, &[]);
    client.drain(&[]);
    for (content, now, before) in [(2, "y", "x"), (3, "z", "y")] {
        commit(&client, &[listener(content, now)], &[(CDS, before)]);
        let listeners = client.expect(LDS);
        client.ack(&listeners, &[]);
        client.pass(DRAIN / 2);
        client.silence();
    }
    client.pass(PATIENCE);
    assert_eq!(client.expect(CDS).removed, ["x"]);
    client.silence();
    client.pass(DRAIN / 2);
    assert_eq!(client.expect(CDS).removed, ["y"]);
}

#[test]
fn r14_in_sotw_a_client_that_comes_back_in_step_loses_nothing_for_a_moment() {
    let mut first = Client::new(Variant::Sotw);
    let listener = resource(&LDS, "l", 1, &[(RDS, "r")]);
    commit(&first, &[cluster("x", 1), endpoints("x"), listener, route("r", 1, "x")], &[]);
    let all = [(LDS, "l"), (CDS, "x"), (EDS, "x"), (RDS, "r")];
    let ask = |client: &mut Client, versions: &[String]| {
        for ((type_url, name), version) in all.iter().zip(versions) {
            client.sotw(type_url.clone(), &[name], version, "");
        }
    };
    ask(&mut first, &vec![String::new(); 4]);
    let mut versions = std::collections::BTreeMap::new();
    for got in first.drain(&[]) {
        versions.insert(got.type_url, got.version);
    }
    let versions: Vec<_> =
        all.iter().map(|(type_url, _)| versions[type_url.as_str()].clone()).collect();
    // gRPC asks by name, in any order, of this server or one that has the same.
    let mut client = Client::of(first.cache.clone(), Variant::Sotw);
    ask(&mut client, &versions);
    for type_url in [CDS, EDS, LDS, RDS] {
        let got = client.expect(type_url);
        assert_eq!(got.resources.len(), 1, "{got:?}");
    }
    client.silence();
}
