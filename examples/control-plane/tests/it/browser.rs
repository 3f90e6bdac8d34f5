//! What a web page may have somebody's browser ask of a server that wants no tokens.

use axum::Router;
use axum::body::Body;
use axum::http::{Request, header};
use deltaplane::access::Access;
use deltaplane::access::token::Rights;
use deltaplane::serve::running::Running;

use crate::binary::{Running as Process, serve};
use crate::database::Sqlite;
use crate::rest::{answer, router_of, running};

const SERVICES: &str = "/api/v1/services";
const POLL: &str = "/v3/discovery:clusters";
const OWN: &str = "127.0.0.1:19000";

async fn status(router: &Router, method: &str, path: &str, headers: &[(&str, &str)]) -> u16 {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.header(header::CONTENT_TYPE, "application/json");
    let (status, answer) = answer(router, request.body(Body::from("{}")).unwrap()).await;
    if status.as_u16() == 403 {
        let detail = answer["detail"].as_str().unwrap();
        assert!(detail.contains("or send a token"), "{detail}");
    }
    status.as_u16()
}

#[tokio::test]
async fn a_page_of_another_origin_changes_nothing() {
    let sqlite = Sqlite::new();
    for access in [Access::on_loopback(), Access::default()] {
        let running = Running { access, ..running(&sqlite.url()).await };
        let router = router_of(running.clone());
        let posts = async |headers: &[(&str, &str)]| {
            let headers = [&[("host", OWN)], headers].concat();
            let services = status(&router, "POST", SERVICES, &headers).await;
            let rollback = status(&router, "POST", "/api/v1/rollback/1", &headers).await;
            (services, rollback)
        };
        // What is not refused goes on, to be told what is wrong with it.
        let passed = posts(&[]).await;
        assert!(![passed.0, passed.1].contains(&403), "{passed:?}");
        let own = [("origin", "http://127.0.0.1:19000"), ("sec-fetch-site", "same-origin")];
        assert_eq!(posts(&own).await, passed);
        assert_eq!(posts(&[("sec-fetch-site", "none")]).await, passed);
        let written = running.store.audit(&Default::default()).await.unwrap().len();
        for headers in [
            ("origin", "http://evil.test"),
            ("origin", "http://127.0.0.1:8080"),
            ("origin", "null"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
        ] {
            assert_eq!(posts(&[headers]).await, (403, 403), "{headers:?}");
            let headers = [("host", OWN), headers];
            assert_eq!(status(&router, "GET", SERVICES, &headers).await, 200, "{headers:?}");
        }
        let audit = running.store.audit(&Default::default()).await.unwrap();
        assert_eq!(audit.len(), written, "nobody fills the log from there");
    }
}

#[tokio::test]
async fn a_page_whose_name_was_pointed_here_is_told_nothing() {
    let sqlite = Sqlite::new();
    let running = running(&sqlite.url()).await;
    let open = router_of(running.clone());
    let router = router_of(Running { access: Access::on_loopback(), ..running.clone() });
    let gets = async |host: &str| status(&router, "GET", SERVICES, &[("host", host)]).await;
    for host in [OWN, "localhost:19000", "LocalHost", "a.localhost", "[::1]:19000", "127.9.9.9"] {
        assert_eq!(gets(host).await, 200, "{host}");
    }
    for host in ["evil.test:19000", "localhost.evil.test", "192.0.2.1", "[2001:db8::1]", "", "a b"]
    {
        assert_eq!(gets(host).await, 403, "{host}");
        // Where others may reach it, nobody knows by which name.
        assert_eq!(status(&open, "GET", SERVICES, &[("host", host)]).await, 200, "{host}");
    }
    let evil = ("host", "evil.test:19000");
    let page = [evil, ("origin", "http://evil.test:19000")];
    assert_eq!(status(&router, "GET", "/healthz", &[evil]).await, 200, "that is for all");
    assert_eq!(status(&router, "POST", POLL, &page).await, 403);
    // An Envoy names its cluster.
    assert_ne!(status(&router, "POST", POLL, &[("host", "deltaplane")]).await, 403);
    // Who shows a token is no page.
    let rights = Rights { read: ["*".to_owned()].into(), ..Rights::default() };
    let token = running.store.create_token("t", &rights, None).await.unwrap();
    let token = format!("Bearer {token}");
    let shown = [evil, ("authorization", token.as_str())];
    assert_eq!(status(&router, "GET", SERVICES, &shown).await, 200);
}

#[test]
fn so_it_is_on_a_loopback_port() {
    let sqlite = Sqlite::new();
    for flags in [&["--http-tokens", "never"][..], &[]] {
        let mut command = serve(&sqlite.url());
        command.args(flags);
        let (_server, _, http) = Process::start(command);
        let asked = |host: Option<&str>| {
            let agent = ureq::Agent::config_builder().http_status_as_error(false).build();
            let request = ureq::Agent::from(agent).get(format!("http://{http}{SERVICES}"));
            let request = host.into_iter().fold(request, |it, host| it.header("host", host));
            let mut answer = request.call().unwrap();
            (answer.status().as_u16(), answer.body_mut().read_to_string().unwrap())
        };
        let (status, said) = asked(Some("evil.test"));
        assert!(status == 403 && said.contains("evil.test"), "{said}");
        assert_eq!(asked(None).0, 200);
    }
}
