use deltaplane::service::host::Host;
use deltaplane::service::upstream::{Place, Upstream};
use deltaplane::service::{Definition, Protocol, Service};

use crate::{definition, row};

/// The fields that are wrong with a definition, after a change to a good one.
fn faults(change: impl FnOnce(&mut Definition)) -> Vec<String> {
    let mut definition = definition("shop", 80, 8080);
    change(&mut definition);
    let errors = Service::parse(&row(1, definition)).err().unwrap_or_default();
    assert!(errors.iter().all(|error| !error.message.is_empty()));
    errors.into_iter().map(|error| error.field.into_owned()).collect()
}

#[test]
fn a_good_row_is_a_service() {
    let mut written = definition("shop", 80, 8080);
    written.domains = vec!["A.Example".to_owned()];
    let service = Service::parse(&row(7, written)).unwrap();
    assert_eq!((service.id, service.listener_port), (7, 80));
    let Upstream { endpoints, tls: None, http2: false, .. } = &service.upstream else { panic!() };
    assert_eq!((&endpoints[0].host, endpoints[0].port), (&Host::Ip([127, 0, 0, 1].into()), 8080));
    let Protocol::Http(routing) = service.protocol else { panic!() };
    assert_eq!((routing.domains, &*routing.prefix), (vec!["a.example".to_owned()], "/"));
}

#[test]
fn names() {
    for good in ["a", "7", "a-b_c.d", &"x".repeat(128)] {
        assert_eq!(faults(|d| d.name = good.into()), [""; 0], "{good}");
    }
    for bad in ["", " ", "a b", "-a", ".", "ä", "a/b", "*", "a\n", &"x".repeat(300)] {
        assert_eq!(faults(|d| d.name = bad.into()), ["name"], "{bad}");
    }
}

#[test]
fn numbers() {
    for good in [1, 65535] {
        assert_eq!(faults(|d| d.listener_port = good), [""; 0]);
    }
    for bad in [0, -1, 65536, 70000, i64::MAX, i64::MIN] {
        assert_eq!(faults(|d| d.listener_port = bad), ["listener_port"]);
        assert_eq!(faults(|d| d.upstream_port = bad), ["upstream_port"]);
    }
    assert_eq!(faults(|d| d.cluster_id = 0), ["cluster_id"]);
}

#[test]
fn hosts() {
    let long = format!("{}.example", "x".repeat(64));
    for good in
        ["10.0.0.1", "::1", "fe80::1", "a", "a.b", "a.b.", "x_y.z", "1a", "xn--bcher-kva.de"]
    {
        assert_eq!(faults(|d| d.upstream_host = good.into()), [""; 0], "{good}");
    }
    for bad in [
        "",
        " ",
        "a b",
        "a:80",
        "[::1]",
        "1.2.3",
        "300.1.2.3",
        "a..b",
        "-a",
        "a-.b",
        ".",
        "http://a",
        &long,
    ] {
        assert_eq!(faults(|d| d.upstream_host = bad.into()), ["upstream_host"], "{bad}");
    }
}

#[test]
fn routing() {
    for good in ["*", "a.example", "a.example:80", "*.example", "*-b.example", "a.*", "[::1]:80"] {
        assert_eq!(faults(|d| d.domains = vec![good.into()]), [""; 0], "{good}");
    }
    for bad in ["", "a b", "a*b", "**", "*a*", "a/b"] {
        assert_eq!(faults(|d| d.domains = vec![bad.into()]), ["domains"], "{bad}");
    }
    assert_eq!(faults(|d| d.domains = vec![]), ["domains"]);
    assert_eq!(faults(|d| d.domains = vec!["a.b".into(), "A.B".into()]), ["domains"]);
    assert_eq!(faults(|d| d.domains = (0..65).map(|i| format!("d{i}")).collect()), ["domains"]);
    for bad in ["", "a", "/a b", "/a?b", "/#", "/ä", &format!("/{}", "x".repeat(3000))] {
        assert!(faults(|d| d.prefix = bad.into()).contains(&"prefix".to_owned()), "{bad}");
    }
}

#[test]
fn protocols() {
    assert_eq!(faults(|d| d.protocol = "tcp".into()), [""; 0]);
    assert_eq!(faults(|d| d.protocol = "HTTP".into()), ["protocol"]);
    assert_eq!(faults(|d| d.health_check_path = Some("/up?x=1".into())), [""; 0]);
    assert_eq!(faults(|d| d.health_check_path = Some("up".into())), ["health_check_path"]);
    let tcp = |change: fn(&mut Definition)| {
        faults(|d| {
            d.protocol = "tcp".into();
            change(d);
        })
    };
    assert_eq!(tcp(|d| d.health_check_path = Some("/".into())), ["health_check_path"]);
    assert_eq!(tcp(|d| d.prefix = "/a".into()), ["prefix"]);
    assert_eq!(tcp(|d| d.domains = vec!["a".into()]), ["domains"]);
}

#[test]
fn several_upstreams() {
    let at = |places: &[Place]| faults(|d| d.upstreams = places.to_vec());
    let (a, b) = (Place::new("10.0.0.1", 80), Place::new("b.example", 80));
    assert_eq!(at(&[a.clone(), b.clone()]), [""; 0]);
    let weighing = |weight| {
        let mut place = a.clone();
        place.weight = weight;
        place
    };
    for (bad, field) in [
        (Place::new("a b", 80), "upstreams[1].host"),
        (Place::new("10.0.0.2", 0), "upstreams[1].port"),
        (weighing(0), "upstreams[1].weight"),
        (weighing(65_536), "upstreams[1].weight"),
        (weighing(2), "upstreams[1]"),
    ] {
        assert_eq!(at(&[a.clone(), bad]), [field]);
    }
    let many: Vec<_> = (1..=257).map(|port| Place::new("10.0.0.1", port)).collect();
    assert_eq!(at(&many), ["upstreams"]);
    assert_eq!(at(&many[..256]), [""; 0]);
}

#[test]
fn times_and_numbers() {
    type Set = fn(&mut Definition, i64);
    let cases: [(&str, Set, i64, i64); 4] = [
        ("timeout_ms", |d, n| d.timeout_ms = Some(n), 0, 86_400_000),
        ("connect_timeout_ms", |d, n| d.connect_timeout_ms = n, 1, 86_400_000),
        ("retries", |d, n| d.retries = n, 0, 10),
        ("health_check_interval_ms", |d, n| d.health_check_interval_ms = n, 100, 86_400_000),
    ];
    for (field, set, least, most) in cases {
        for good in [least, most] {
            assert_eq!(faults(|d| set(d, good)), [""; 0], "{field} {good}");
        }
        for bad in [least - 1, most + 1, i64::MAX] {
            assert_eq!(faults(|d| set(d, bad)), [field], "{bad}");
        }
    }
    for bad in [String::new(), "x".repeat(129), "a\nb".to_owned()] {
        assert_eq!(faults(|d| d.collection = Some(bad)), ["collection"]);
    }
}

#[test]
fn what_a_protocol_has_no_use_for_is_told() {
    let of = |protocol: &str, change: fn(&mut Definition)| {
        faults(|d| {
            d.protocol = protocol.into();
            change(d);
        })
    };
    assert_eq!(of("tcp", |d| d.timeout_ms = Some(1)), ["timeout_ms"]);
    assert_eq!(of("tcp", |d| d.retries = 1), ["retries"]);
    assert_eq!(of("tcp", |d| d.websocket = true), ["websocket"]);
    assert_eq!(of("tcp", |d| d.http2 = true), ["http2"]);
    assert_eq!(of("tcp", |d| d.upstream_tls = Some(true)), [""; 0]);
    assert_eq!(of("grpc", |d| d.websocket = true), ["websocket"]);
    assert_eq!(of("https", |d| (d.websocket, d.http2) = (true, true)), ["websocket"]);
    assert_eq!(of("https", |d| d.upstream_tls = Some(false)), ["upstream_tls"]);
    assert_eq!(of("http", |d| d.upstream_tls = Some(true)), ["upstream_tls"]);
    assert_eq!(of("grpc", |d| d.tls_sni = Some("a.example".into())), ["tls_sni"]);
    assert_eq!(of("http", |d| d.tls_verify = false), ["tls_verify"]);
    assert_eq!(of("https", |d| d.tls_sni = Some("a b".into())), ["tls_sni"]);
    assert_eq!(of("https", |d| d.tls_ca = Some("no PEM".into())), ["tls_ca"]);
    let unverified = |d: &mut Definition| (d.tls_verify, d.tls_ca) = (false, Some("".into()));
    assert_eq!(of("https", unverified), ["tls_ca"]);
}

#[test]
fn all_that_is_wrong_is_told_at_once() {
    let wrong = faults(|d| {
        d.name.clear();
        d.upstream_host = "a b".into();
        d.listener_port = 0;
        d.prefix = "x".into();
    });
    assert_eq!(wrong, ["name", "listener_port", "upstream_host", "prefix"]);
}
