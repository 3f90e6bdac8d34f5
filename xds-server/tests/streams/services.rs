//! The services, and the methods that there are not.

use deltaplane_server::{
    Cache, Resource, Transaction, TypeUrl, XdsServer,
    envoy_types::pb::envoy::service::{
        cluster::v3::cluster_discovery_service_client::ClusterDiscoveryServiceClient,
        discovery::v3::{
            DeltaDiscoveryRequest, DiscoveryRequest, DiscoveryResponse,
            aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
        },
        endpoint::v3::endpoint_discovery_service_client::EndpointDiscoveryServiceClient,
    },
};
use prost::Message as _;
use tokio::net::TcpListener;
use tonic::Code;

use crate::served::{CDS, ask, call, next, next_delta, node, serve, serve_with, subscribe};

#[tokio::test]
async fn b02_a_method_that_is_not_there_is_unimplemented() {
    let served = serve().await;
    let channel = served.channel().await;
    for path in [
        "/envoy.service.route.v3.VirtualHostDiscoveryService/StreamVirtualHosts",
        "/envoy.service.discovery.v3.AggregatedDiscoveryService/Other",
        "/envoy.service.discovery.v2.AggregatedDiscoveryService/StreamAggregatedResources",
    ] {
        let status = call(channel.clone(), path, vec![]).await.unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented, "{path}");
    }
}

#[tokio::test]
async fn b02_b03_every_type_has_its_own_services() {
    let served = serve().await;
    let services = [
        (TypeUrl::LISTENER, "listener.v3.ListenerDiscoveryService", "Listeners", true),
        (TypeUrl::ROUTE, "route.v3.RouteDiscoveryService", "Routes", true),
        (TypeUrl::SCOPED_ROUTE, "route.v3.ScopedRoutesDiscoveryService", "ScopedRoutes", true),
        (TypeUrl::VIRTUAL_HOST, "route.v3.VirtualHostDiscoveryService", "VirtualHosts", false),
        (TypeUrl::CLUSTER, "cluster.v3.ClusterDiscoveryService", "Clusters", true),
        (TypeUrl::ENDPOINT, "endpoint.v3.EndpointDiscoveryService", "Endpoints", true),
        (
            TypeUrl::LOCALITY_ENDPOINT,
            "endpoint.v3.LocalityEndpointDiscoveryService",
            "LocalityEndpoints",
            false,
        ),
        (TypeUrl::SECRET, "secret.v3.SecretDiscoveryService", "Secrets", true),
        (TypeUrl::RUNTIME, "runtime.v3.RuntimeDiscoveryService", "Runtime", true),
        (
            TypeUrl::EXTENSION_CONFIG,
            "extension.v3.ExtensionConfigDiscoveryService",
            "ExtensionConfigs",
            true,
        ),
    ];
    let mut transaction = Transaction::new();
    for (type_url, ..) in &services {
        transaction.upsert("c", Resource::raw(type_url.clone(), "a", vec![7]).build());
    }
    served.cache.commit(transaction).unwrap();
    for (type_url, service, what, in_sotw) in services {
        // Without a type: the service's own is meant.
        let request = DeltaDiscoveryRequest {
            node: node("n", "c"),
            resource_names_subscribe: vec!["a".into()],
            ..Default::default()
        };
        let path = format!("/envoy.service.{service}/Delta{what}");
        let answer = ask(&served, &path, &request).await.unwrap();
        assert_eq!((answer.type_url.as_str(), answer.resources.len()), (&*type_url, 1));
        let other = DeltaDiscoveryRequest { type_url: "type.googleapis.com/x.Y".into(), ..request };
        let refused = ask(&served, &path, &other).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        for method in ["Stream", "Fetch"].iter().filter(|_| in_sotw) {
            let request = DiscoveryRequest {
                node: node("n", "c"),
                resource_names: vec!["a".into()],
                ..Default::default()
            };
            let path = format!("/envoy.service.{service}/{method}{what}");
            let answer = call(served.channel().await, &path, request.encode_to_vec())
                .await
                .unwrap()
                .unwrap();
            let answer = DiscoveryResponse::decode(&*answer).unwrap();
            assert_eq!((answer.type_url.as_str(), answer.resources.len()), (&*type_url, 1));
        }
    }
}

#[tokio::test]
async fn fetching_is_answered_once_whatever_the_client_holds() {
    let served = serve().await;
    let mut client = ClusterDiscoveryServiceClient::new(served.channel().await);
    let mut request = DiscoveryRequest { node: node("n", "c"), ..Default::default() };
    let unknown = client.fetch_clusters(request.clone()).await.unwrap_err();
    assert_eq!(unknown.code(), Code::Unavailable);
    served.put("c", "a", "1");
    let first = client.fetch_clusters(request.clone()).await.unwrap().into_inner();
    assert_eq!(first.resources.len(), 1);
    request.version_info = first.version_info.clone();
    let second = client.fetch_clusters(request.clone()).await.unwrap().into_inner();
    assert_eq!((second.version_info, second.resources.len()), (first.version_info, 1));
    request.resource_names = vec!["missing".into()];
    let none = client.fetch_clusters(request).await.unwrap().into_inner();
    assert_eq!(none.resources, []);
}

#[tokio::test]
async fn fetching_is_answered_in_one_message_however_large() {
    let served = serve().await;
    let names = ["a", "b", "c"];
    let mut transaction = Transaction::new();
    for name in names {
        transaction.upsert("c", Resource::raw(TypeUrl::ENDPOINT, name, vec![7; 2 << 20]).build());
    }
    served.cache.commit(transaction).unwrap();
    let client = EndpointDiscoveryServiceClient::new(served.channel().await);
    let mut client = client.max_decoding_message_size(usize::MAX);
    let resource_names = names.map(String::from).into();
    let request = DiscoveryRequest { node: node("n", "c"), resource_names, ..Default::default() };
    let all = client.fetch_endpoints(request).await.unwrap().into_inner();
    assert_eq!(all.resources.len(), 3);
}

#[tokio::test]
async fn who_has_no_more_to_ask_is_answered_and_then_left() {
    let served = serve().await;
    served.put("c", "a", "1");
    let mut client = served.connect().await;
    let requests = tokio_stream::once(subscribe(node("n", "c")));
    let responses = client.delta_aggregated_resources(requests).await.unwrap();
    let mut responses = responses.into_inner();
    assert_eq!(next_delta(&mut responses).await.resources.len(), 1);
    assert_eq!(next(&mut responses).await.unwrap(), None);
    served.heard.expect("n: disconnected None").await;
}

#[tokio::test]
async fn the_service_fits_into_a_router_of_ones_own() {
    let cache = Cache::new();
    let server = XdsServer::builder(cache.clone()).build();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = tonic::transport::Server::builder().add_service(server.ads());
    let incoming = tonic::transport::server::TcpIncoming::from(listener);
    let task = tokio::spawn(router.serve_with_incoming(incoming));
    let mut transaction = Transaction::new();
    transaction.upsert("default", Resource::raw(CDS, "a", vec![]).build());
    cache.commit(transaction).unwrap();
    let address = format!("http://{address}");
    let mut client = AggregatedDiscoveryServiceClient::connect(address).await.unwrap();
    let requests = tokio_stream::once(subscribe(None));
    let requests = futures::StreamExt::chain(requests, tokio_stream::pending());
    let responses = client.delta_aggregated_resources(requests).await.unwrap();
    assert_eq!(next_delta(&mut responses.into_inner()).await.resources[0].name, "a");
    task.abort();
}

#[tokio::test]
async fn large_responses_are_compressed_for_who_accepts_it() {
    let served = serve_with(|builder| builder.compress_above(1_000)).await;
    let (small, large) = ("x".repeat(100), "x".repeat(100_000));
    served.put("c", "a", &small);
    let gzip = tonic::codec::CompressionEncoding::Gzip;
    let plain = served.connect().await;
    for (client, is_compressed) in [(plain.clone().accept_compressed(gzip), true), (plain, false)] {
        let mut client = client.max_decoding_message_size(usize::MAX);
        let requests = tokio_stream::once(subscribe(node("n", "c")));
        let requests = futures::StreamExt::chain(requests, tokio_stream::pending());
        let responses = client.delta_aggregated_resources(requests).await.unwrap();
        let encoding = responses.metadata().get("grpc-encoding").cloned();
        assert_eq!(encoding.is_some_and(|encoding| encoding == "gzip"), is_compressed);
        let mut responses = responses.into_inner();
        for content in [&small, &large, &small] {
            served.put("c", "a", content);
            loop {
                let response = next_delta(&mut responses).await;
                let value = response.resources[0].resource.clone().unwrap().value;
                if value == content.as_bytes() {
                    break;
                }
            }
        }
    }
}
