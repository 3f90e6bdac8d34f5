use std::net::{IpAddr, Ipv4Addr};

use deltaplane::service::upstream::Place;
use deltaplane::service::{Definition, Service};
use deltaplane::translate::message::Message;
use deltaplane::translate::{Difference, Fleet, Removal};
use deltaplane_server::envoy_types::pb::envoy::config::route::v3::{
    route, route_action, route_match,
};
use deltaplane_server::validation::{Policy, Validator};
use deltaplane_server::{Cache, Transaction, envoy};

use crate::{definition, row};

const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn service(id: i64, definition: Definition) -> (i64, Option<Service>) {
    (id, Some(Service::parse(&row(id, definition)).unwrap()))
}

fn http(id: i64, name: &str, domains: &[&str], prefix: &str) -> (i64, Option<Service>) {
    let mut d = definition(name, 80, 1);
    d.domains = domains.iter().map(|&domain| domain.to_owned()).collect();
    d.prefix = prefix.to_owned();
    service(id, d)
}

fn tcp(id: i64, name: &str, port: i64) -> (i64, Option<Service>) {
    let mut d = definition(name, port, 1);
    d.protocol = "tcp".to_owned();
    service(id, d)
}

fn name(message: &Message) -> String {
    match message {
        Message::Cluster(m) => format!("cluster {}", m.name),
        Message::Endpoints(m) => format!("endpoints {}", m.cluster_name),
        Message::Listener(m) => format!("listener {}", m.name),
        Message::Routes(m) => format!("routes {}", m.name),
        Message::Secret(m) => format!("secret {}", m.name),
    }
}

fn names(difference: &Difference) -> Vec<String> {
    difference.upserts.iter().map(name).collect()
}

/// `domain prefix cluster`, in the order in which Envoy goes through them.
fn routing(difference: &Difference) -> Vec<String> {
    let routes = difference.upserts.iter().find_map(|message| match message {
        Message::Routes(routes) => Some(routes),
        _ => None,
    });
    let mut found = Vec::new();
    for host in &routes.expect("a route configuration").virtual_hosts {
        for route in &host.routes {
            let prefix = route.r#match.as_ref().and_then(|m| m.path_specifier.as_ref());
            let Some(route_match::PathSpecifier::Prefix(prefix)) = prefix else { panic!() };
            let Some(route::Action::Route(action)) = &route.action else { panic!() };
            let Some(route_action::ClusterSpecifier::Cluster(to)) = &action.cluster_specifier
            else {
                panic!()
            };
            found.push(format!("{} {prefix} {to}", host.domains.join(",")));
        }
    }
    found
}

#[test]
fn one_changed_port_of_a_thousand_services_builds_one_message() {
    let mut fleet = Fleet::new(ADDRESS);
    let port = |id: i64| 8000 + id % 10;
    let define = |id: i64, upstream: i64| {
        let mut d = definition(&format!("s{id}"), port(id), upstream);
        d.prefix = format!("/{id}");
        service(id, d)
    };
    let all = fleet.apply((1..=1000).map(|id| define(id, 1)));
    assert_eq!((all.rows, all.upserts.len()), (1000, 2 * 1000 + 2 * 10));

    let one = fleet.apply([define(500, 2)]);
    assert_eq!((one.rows, names(&one)), (1, vec!["endpoints s500".to_owned()]));
    assert!(one.removals.is_empty());
    let none = fleet.apply([define(500, 2)]);
    assert_eq!((none.rows, none.upserts.len(), none.removals.len()), (1, 0, 0));
    let gone = fleet.apply([(500, None)]);
    assert_eq!(names(&gone), ["routes routes-8000"]);
    let removed = [Removal::Cluster("s500".into()), Removal::Endpoints("s500".into())];
    assert_eq!(gone.removals, removed.into());
}

#[test]
fn each_input_changes_only_what_it_is_in() {
    let mut fleet = Fleet::new(ADDRESS);
    let mut d = definition("a", 80, 1);
    let all = ["cluster a", "endpoints a", "listener listener-80", "routes routes-80"];
    assert_eq!(names(&fleet.apply([service(1, d.clone())])), all);
    d.health_check_path = Some("/up".into());
    assert_eq!(names(&fleet.apply([service(1, d.clone())])), ["cluster a"]);
    d.prefix = "/a".into();
    assert_eq!(names(&fleet.apply([service(1, d.clone())])), ["routes routes-80"]);
    d.upstream_host = "::1".into();
    assert_eq!(names(&fleet.apply([service(1, d.clone())])), ["endpoints a"]);
    d.upstream_host = "a.example".into();
    let to_dns = fleet.apply([service(1, d.clone())]);
    assert_eq!(names(&to_dns), ["cluster a"]);
    assert_eq!(to_dns.removals, [Removal::Endpoints("a".into())].into());
    d.listener_port = 81;
    let moved = fleet.apply([service(1, d.clone())]);
    assert_eq!(names(&moved), ["listener listener-81", "routes routes-81"]);
    let removed = [Removal::Listener("listener-80".into()), Removal::Routes("routes-80".into())];
    assert_eq!(moved.removals, removed.into());
    (d.protocol, d.prefix, d.health_check_path) = ("tcp".into(), "/".into(), None);
    let to_tcp = fleet.apply([service(1, d.clone())]);
    assert_eq!(names(&to_tcp), ["cluster a", "listener listener-81"]);
    assert_eq!(to_tcp.removals, [Removal::Routes("routes-81".into())].into());
}

/// The message that a change to a plain service builds.
fn built(change: fn(&mut Definition)) -> Message {
    let mut fleet = Fleet::new(ADDRESS);
    let mut d = definition("a", 80, 1);
    let _ = fleet.apply([service(1, d.clone())]);
    change(&mut d);
    let difference = fleet.apply([service(1, d)]);
    let [message] = &*difference.upserts else { panic!("{:?}", names(&difference)) };
    message.clone()
}

#[test]
fn what_concerns_the_upstream_is_in_its_cluster() {
    let changes: [fn(&mut Definition); 6] = [
        |d| d.connect_timeout_ms = 20,
        |d| d.http2 = true,
        |d| d.protocol = "https".into(),
        |d| d.upstreams = vec![Place::new("127.0.0.1", 1), Place::new("127.0.0.1", 2)],
        |d| d.retries = 1,
        |d| d.timeout_ms = Some(5),
    ];
    let kinds = changes.map(|change| name(&built(change)));
    let expected = ["cluster a", "cluster a", "cluster a", "endpoints a", "routes routes-80"];
    assert_eq!(kinds[..5], expected);
    assert_eq!(kinds[5], "routes routes-80");
    let Message::Cluster(cluster) = built(changes[2]) else { panic!() };
    let tls = cluster.transport_socket.unwrap();
    assert_eq!(tls.name, "envoy.transport_sockets.tls");
}

#[test]
fn who_is_not_active_is_as_if_it_were_not_there() {
    let mut fleet = Fleet::new(ADDRESS);
    let _ = fleet.apply([http(1, "a", &["*"], "/"), http(2, "b", &["*"], "/b")]);
    let mut d = definition("a", 80, 1);
    d.is_active = false;
    let gone = fleet.apply([service(1, d.clone())]);
    assert_eq!(names(&gone), ["routes routes-80"]);
    assert_eq!(
        gone.removals,
        [Removal::Cluster("a".into()), Removal::Endpoints("a".into())].into()
    );
    // Its place is free for another one meanwhile.
    let other = fleet.apply([http(3, "c", &["*"], "/")]);
    assert!(other.conflicts.is_empty());
    d.is_active = true;
    let back = fleet.apply([service(1, d)]);
    assert_eq!(names(&back), ["cluster a", "endpoints a", "routes routes-80"]);
}

#[test]
fn services_that_share_a_port_share_its_listener() {
    let mut fleet = Fleet::new(ADDRESS);
    let all = fleet.apply([
        http(1, "root", &["*"], "/"),
        http(2, "long", &["*", "b.example"], "/long"),
        http(3, "same", &["*"], "/same"),
        http(4, "b", &["B.example"], "/"),
    ]);
    assert_eq!(names(&all).iter().filter(|name| name.starts_with("listener")).count(), 1);
    let expected =
        ["* /long long", "* /same same", "* / root", "b.example /long long", "b.example / b"];
    assert_eq!(routing(&all), expected);
}

#[test]
fn the_same_services_give_the_same_messages_whatever_came_before() {
    let services = || [http(1, "a", &["x", "y"], "/"), http(2, "b", &["y"], "/b"), tcp(3, "t", 90)];
    let mut straight = Fleet::new(ADDRESS);
    let mut expected = straight.apply(services()).upserts;
    let mut crooked = Fleet::new(ADDRESS);
    let _ = crooked.apply([http(2, "a", &["y"], "/"), tcp(1, "t", 80), http(9, "z", &["x"], "/")]);
    let _ = crooked.apply([(9, None), (2, None)]);
    let _ = crooked.apply([(1, None)]);
    let mut found = Vec::new();
    for service in services().into_iter().rev() {
        found.extend(crooked.apply([service]).upserts);
    }
    // Of what was built more than once, the last counts.
    found.reverse();
    found.sort_by_key(name);
    found.dedup_by_key(|message| name(message));
    expected.sort_by_key(name);
    assert_eq!(found, expected);
}

#[test]
fn of_rows_in_conflict_the_lower_id_wins_and_nothing_else_suffers() {
    let mut fleet = Fleet::new(ADDRESS);
    let all = fleet.apply([
        http(5, "late", &["*", "own.example"], "/"),
        http(2, "first", &["*"], "/"),
        http(7, "other", &["*"], "/other"),
        tcp(8, "t", 80),
        tcp(3, "t1", 90),
        tcp(4, "t2", 90),
    ]);
    assert_eq!(routing(&all), ["* /other other", "* / first", "own.example / late"]);
    let losers: Vec<_> = all.conflicts.iter().map(|conflict| &conflict.name[..]).collect();
    assert_eq!(losers, ["late", "t", "t2"]);
    assert!(all.conflicts[0].error.message.contains("\"first\""));

    // Told once; and when the winner goes, the loser takes its place.
    let later = fleet.apply([http(9, "more", &["*"], "/more")]);
    assert!(later.conflicts.is_empty());
    assert_eq!(routing(&fleet.apply([(2, None)]))[2], "* / late");
}

#[test]
fn names_that_two_services_swap_are_not_removed() {
    let mut fleet = Fleet::new(ADDRESS);
    let _ = fleet.apply([tcp(1, "a", 80), tcp(2, "b", 90)]);
    let swapped = fleet.apply([tcp(1, "b", 80), tcp(2, "a", 90)]);
    assert_eq!(swapped.upserts.len(), 6);
    assert!(swapped.removals.is_empty());
}

#[test]
fn what_services_become_has_no_problem() {
    let mut fleet = Fleet::new(ADDRESS);
    let mut full = definition("d", 80, 1);
    (full.protocol, full.websocket, full.retries) = ("https".into(), true, 3);
    (full.timeout_ms, full.health_check_path) = (Some(0), Some("/up".into()));
    full.upstreams = vec![Place::new("d.test", 1), Place::new("::1", 2)];
    full.prefix = "/d".into();
    let mut grpc = definition("e", 80, 1);
    (grpc.protocol, grpc.upstream_tls, grpc.tls_sni) =
        ("grpc".into(), Some(true), Some("e".into()));
    (grpc.prefix, grpc.retries) = ("/e".into(), 1);
    let services = [
        http(1, "a", &["a.test"], "/"),
        http(2, "b", &["b.test"], "/b"),
        tcp(3, "c", 81),
        service(4, full),
        service(5, grpc),
    ];
    let mut transaction = Transaction::new();
    for message in fleet.apply(services).upserts {
        let resource = match message {
            Message::Cluster(m) => envoy::resource(&*m),
            Message::Endpoints(m) => envoy::resource(&*m),
            Message::Listener(m) => envoy::resource(&*m),
            Message::Routes(m) => envoy::resource(&*m),
            Message::Secret(m) => envoy::resource(&*m),
        };
        transaction.upsert("s", resource);
    }
    let (commit, _) = Validator::new(Policy::Refuse).commit(&Cache::new(), transaction).unwrap();
    assert_eq!(commit.changes, 5 + 4 + 2 + 1);
}
