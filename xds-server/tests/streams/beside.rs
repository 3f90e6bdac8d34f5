//! What else there is on the port of `serve`: health, reflection, and services of the embedder's own.

use std::time::Duration;

use tokio::time::timeout;
use tokio_stream::StreamExt as _;
use tonic::{Code, service::Routes};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use crate::served::{DELTA, Served, call, next, serve, serve_with};

const ADS: &str = "envoy.service.discovery.v3.AggregatedDiscoveryService";

fn service(name: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: name.into() }
}

#[tokio::test]
async fn health_is_that_of_the_server_until_it_ends() {
    let mut served = serve().await;
    let mut client = HealthClient::new(served.channel().await);
    for name in ["", ADS] {
        let health = client.check(service(name)).await.unwrap().into_inner();
        assert_eq!(health.status(), ServingStatus::Serving);
    }
    assert_eq!(client.check(service("other")).await.unwrap_err().code(), Code::NotFound);
    let mut watched = client.watch(service(ADS)).await.unwrap().into_inner();
    let first = next(&mut watched).await.unwrap().unwrap();
    assert_eq!(first.status(), ServingStatus::Serving);
    drop(served.stop.take());
    let last = next(&mut watched).await.unwrap().unwrap();
    assert_eq!(last.status(), ServingStatus::NotServing);
}

#[tokio::test]
async fn generic_tools_learn_how_the_services_look() {
    let served = serve().await;
    let ask = async |request| {
        let mut client = ServerReflectionClient::new(served.channel().await);
        let request =
            ServerReflectionRequest { message_request: Some(request), ..Default::default() };
        let requests = tokio_stream::once(request).chain(tokio_stream::pending());
        let answers = client.server_reflection_info(requests).await.unwrap();
        next(&mut answers.into_inner()).await.unwrap().unwrap().message_response.unwrap()
    };
    let listed = ask(MessageRequest::ListServices(String::new())).await;
    let MessageResponse::ListServicesResponse(listed) = listed else { panic!("{listed:?}") };
    let names: Vec<_> = listed.service.iter().map(|service| &*service.name).collect();
    assert!(names.contains(&ADS), "{names:?}");
    for name in names {
        let file = ask(MessageRequest::FileContainingSymbol(name.to_owned())).await;
        assert!(matches!(file, MessageResponse::FileDescriptorResponse(_)), "{name}: {file:?}");
    }
}

#[tokio::test]
async fn services_of_the_embedder_are_beside_and_before_ours() {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_service_status("mine", tonic_health::ServingStatus::Serving).await;
    let served = serve_with(|builder| builder.services(Routes::new(health))).await;
    let mut client = HealthClient::new(served.channel().await);
    let health = client.check(service("mine")).await.unwrap().into_inner();
    assert_eq!(health.status(), ServingStatus::Serving);
    assert_eq!(client.check(service(ADS)).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn what_there_is_not_is_said_not_to_be_there() {
    let served: Served = serve().await;
    for path in [&*DELTA.replace("v3", "v2"), "/nowhere.Service/Method", "/"] {
        let answer = call(served.channel().await, path, Vec::new());
        let answer = timeout(Duration::from_secs(10), answer).await.unwrap();
        assert_eq!(answer.unwrap_err().code(), Code::Unimplemented, "{path}");
    }
}
