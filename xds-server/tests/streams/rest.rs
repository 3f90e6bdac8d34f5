//! REST-JSON polling.

use deltaplane_server::{
    Limits, Resource, Transaction, TypeUrl, Variant, envoy,
    envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment,
};
use http::{Method, Request, StatusCode};
use serde_json::{Value, json};

use crate::served::{Served, cluster, serve, serve_with};

async fn send(served: &Served, method: Method, path: &str, body: &str) -> (StatusCode, String) {
    let request = Request::builder().method(method).uri(path);
    let answer = served.server.poll(&request.body(body.to_owned().into()).unwrap()).await;
    (answer.status(), String::from_utf8(answer.body().to_vec()).unwrap())
}

async fn poll(served: &Served, what: &str, body: &Value) -> (StatusCode, Value) {
    let path = format!("/v3/discovery:{what}");
    let (status, text) = send(served, Method::POST, &path, &body.to_string()).await;
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

fn names(answer: &Value, field: &str) -> Vec<String> {
    let resources = answer["resources"].as_array().cloned().unwrap_or_default();
    resources.iter().map(|resource| resource[field].as_str().unwrap().to_owned()).collect()
}

fn endpoints(name: &str) -> Resource {
    let cluster_name = name.into();
    envoy::resource(&ClusterLoadAssignment { cluster_name, ..Default::default() })
}

fn node() -> Value {
    json!({"id": "n1", "cluster": "c"})
}

#[tokio::test]
async fn h01_types_are_polled_as_json_in_both_spellings() {
    let served = serve().await;
    served.put_all([cluster("a", "x"), cluster("b", "y"), endpoints("a"), endpoints("b")]);
    let (status, answer) = poll(&served, "clusters", &json!({"node": node()})).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(names(&answer, "name"), ["a", "b"]);
    assert_eq!(answer["resources"][0]["@type"], TypeUrl::CLUSTER.as_str());
    assert_eq!(answer["resources"][1]["altStatName"], "y");
    assert_eq!(answer["typeUrl"], TypeUrl::CLUSTER.as_str());
    assert_eq!(answer["controlPlane"]["identifier"], "replica-1");
    for (names_field, type_field) in [("resourceNames", "typeUrl"), ("resource_names", "type_url")]
    {
        let body = json!({
            "node": node(), names_field: ["b"], type_field: TypeUrl::ENDPOINT.as_str(),
            "of_a_later_api": 1,
        });
        let (status, answer) = poll(&served, "endpoints", &body).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        assert_eq!(names(&answer, "clusterName"), ["b"]);
    }
}

#[tokio::test]
async fn h02_h03_who_has_everything_is_told_so_at_once() {
    let served = serve().await;
    served.put_all([cluster("a", "1"), cluster("b", "1")]);
    for what in [json!([]), json!(["a"])] {
        let (_, answer) =
            poll(&served, "clusters", &json!({"node": node(), "resourceNames": what})).await;
        for (field, other) in [("versionInfo", json!(["b"])), ("version_info", json!(["a", "b"]))] {
            let version = &answer["versionInfo"];
            let again = json!({"node": node(), field: version, "resource_names": what});
            let (status, text) = poll(&served, "clusters", &again).await;
            assert_eq!((status, text), (StatusCode::NOT_MODIFIED, "".into()));
            let more = json!({"node": node(), field: version, "resource_names": other});
            assert_eq!(poll(&served, "clusters", &more).await.0, StatusCode::OK);
        }
        served.put_all([cluster("a", &what.to_string())]);
        let again = json!({
            "node": node(), "versionInfo": answer["versionInfo"], "resourceNames": what,
        });
        assert_eq!(poll(&served, "clusters", &again).await.0, StatusCode::OK);
    }
    // Of endpoints as well, though their version is of all that there are.
    let asks = async |names: Value, held: &Value| {
        let body = json!({"node": node(), "versionInfo": held, "resourceNames": names});
        poll(&served, "endpoints", &body).await
    };
    served.put_all([endpoints("a"), endpoints("b")]);
    let (_, answer) = asks(json!(["a"]), &json!("")).await;
    let (status, more) = asks(json!(["a", "b"]), &answer["versionInfo"]).await;
    assert_eq!((status, names(&more, "clusterName").len()), (StatusCode::OK, 2));
    let (status, _) = asks(json!(["b", "a"]), &more["versionInfo"]).await;
    assert_eq!(status, StatusCode::NOT_MODIFIED);
    // What is gone is a change, too.
    let (_, answer) = poll(&served, "clusters", &json!({"node": node()})).await;
    let mut transaction = Transaction::new();
    transaction.remove("c", TypeUrl::CLUSTER, "b");
    served.cache.commit(transaction).unwrap();
    let again = json!({"node": node(), "versionInfo": answer["versionInfo"]});
    assert_eq!(names(&poll(&served, "clusters", &again).await.1, "name"), ["a"]);
}

#[tokio::test]
async fn h04_who_rejects_polls_again_and_gets_the_same() {
    let served = serve().await;
    served.put_all([cluster("a", "1")]);
    let (_, good) = poll(&served, "clusters", &json!({"node": node()})).await;
    served.put_all([cluster("a", "bad")]);
    let again = json!({"node": node(), "versionInfo": good["versionInfo"], "responseNonce": "7"});
    let first = poll(&served, "clusters", &again).await;
    let second = poll(&served, "clusters", &again).await;
    assert_eq!(first.0, StatusCode::OK);
    assert_eq!(first, second);
    assert!(served.server.clients().is_empty());
}

#[tokio::test]
async fn a_poll_that_cannot_be_answered_is_told_why() {
    let mut limits = Limits::default();
    limits.request_size = 200;
    let served = serve_with(|builder| builder.limits(limits)).await;
    let clusters = "/v3/discovery:clusters";
    let long = json!({"resource_names": ["x".repeat(200)]}).to_string();
    let other = json!({"typeUrl": TypeUrl::SECRET.as_str()}).to_string();
    let body = json!({"node": node()}).to_string();
    for (method, path, body, status, words) in [
        (Method::POST, clusters, &*body, StatusCode::SERVICE_UNAVAILABLE, "nothing is known yet"),
        (Method::GET, clusters, &body, StatusCode::METHOD_NOT_ALLOWED, "asked by POST"),
        (Method::POST, "/v3/discovery:all", &body, StatusCode::NOT_FOUND, "scoped-routes"),
        (Method::POST, clusters, "{", StatusCode::BAD_REQUEST, "DiscoveryRequest as JSON"),
        (Method::POST, clusters, "{} {}", StatusCode::BAD_REQUEST, "DiscoveryRequest as JSON"),
        (Method::POST, clusters, &other, StatusCode::BAD_REQUEST, "is for type.googleapis.com"),
        (Method::POST, clusters, &long, StatusCode::PAYLOAD_TOO_LARGE, "200 bytes"),
    ] {
        let (answered, text) = send(&served, method, path, body).await;
        assert_eq!(answered, status, "{text}");
        assert!(text.contains(words), "{text}");
    }
    let unknown = Resource::raw(TypeUrl::CLUSTER, "a", &b"\xff"[..]).build();
    served.put_all([unknown]);
    let (status, text) = send(&served, Method::POST, clusters, &body).await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR, "{text}");
}

#[tokio::test]
async fn c01_how_clients_are_is_told_as_json() {
    let served = serve().await;
    served.put_all([cluster("a", "1")]);
    let mut client = served.model("n", Variant::Delta).await;
    client.subscribe(TypeUrl::CLUSTER, &[]);
    client.expect(TypeUrl::CLUSTER).await;
    let matching = |id: &str| json!({"nodeMatchers": [{"nodeId": {"exact": id}}]});
    let (status, answer) = poll(&served, "client_status", &matching("n")).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let config = &answer["config"][0]["genericXdsConfigs"][0];
    assert_eq!((&config["name"], &config["configStatus"]), (&json!("a"), &json!("STALE")));
    assert_eq!(config["xdsConfig"]["altStatName"], "1");
    assert_eq!(poll(&served, "client_status", &matching("m")).await.1, json!({}));
    let other = json!({"nodeMatchers": [{"nodeMetadatas": [{"path": []}]}]});
    let (status, text) = poll(&served, "client_status", &other).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(text["detail"].as_str().unwrap().contains("not supported"), "{text}");
}
