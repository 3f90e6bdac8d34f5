use deltaplane::host::Host;
use deltaplane::service::{Definition, Protocol, Service};

use crate::{definition, row};

/// The fields that are wrong with a definition, after a change to a good one.
fn faults(change: impl FnOnce(&mut Definition)) -> Vec<&'static str> {
    let mut definition = definition("shop", 80, 8080);
    change(&mut definition);
    let errors = Service::parse(&row(1, definition)).err().unwrap_or_default();
    assert!(errors.iter().all(|error| !error.message.is_empty()));
    errors.into_iter().map(|error| error.field).collect()
}

#[test]
fn a_good_row_is_a_service() {
    let mut written = definition("shop", 80, 8080);
    written.domains = vec!["A.Example".to_owned()];
    let service = Service::parse(&row(7, written)).unwrap();
    assert_eq!((service.id, service.listener_port, service.upstream_port), (7, 80, 8080));
    assert_eq!(service.upstream, Host::Ip([127, 0, 0, 1].into()));
    let domains = vec!["a.example".to_owned()];
    assert_eq!(service.protocol, Protocol::Http { domains, prefix: "/".to_owned() });
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
        assert!(faults(|d| d.prefix = bad.into()).contains(&"prefix"), "{bad}");
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
fn all_that_is_wrong_is_told_at_once() {
    let wrong = faults(|d| {
        d.name.clear();
        d.upstream_host = "a b".into();
        d.listener_port = 0;
        d.prefix = "x".into();
    });
    assert_eq!(wrong, ["name", "listener_port", "upstream_host", "prefix"]);
}
