//! Who is told how long things are good.

use std::time::Duration;

use deltaplane_server::{DeltaResource, Resource, SotwResponse, TypeUrl, XdsServerBuilder};
use envoy_types::pb::envoy::{
    config::core::v3::Node,
    service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest},
};
use prost::Message;

use crate::served::{DELTA, ask, call, serve_with};

const RTDS: TypeUrl = TypeUrl::RUNTIME;
const SOTW: &str =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";
const KNOWS: &str = "xds.config.supports-resource-ttl";

/// Whether a client is told so in delta, and in State of the World.
async fn told(
    configure: impl FnOnce(XdsServerBuilder) -> XdsServerBuilder,
    agent: &str,
    features: &[&str],
) -> (bool, bool) {
    let served = serve_with(configure).await;
    let layer = Resource::raw(RTDS, "a", b"1".to_vec()).ttl(Duration::from_secs(30));
    served.put_all([layer.build()]);
    let node = Some(Node {
        id: "n".into(),
        cluster: "c".into(),
        user_agent_name: agent.into(),
        client_features: features.iter().map(ToString::to_string).collect(),
        ..Node::default()
    });
    let request = DeltaDiscoveryRequest {
        node: node.clone(),
        type_url: RTDS.to_string(),
        resource_names_subscribe: vec!["a".into()],
        ..DeltaDiscoveryRequest::default()
    };
    let delta = ask(&served, DELTA, &request).await.unwrap();
    let request = DiscoveryRequest {
        node,
        type_url: RTDS.to_string(),
        resource_names: vec!["a".into()],
        ..DiscoveryRequest::default()
    };
    let sotw = call(served.channel().await, SOTW, request.encode_to_vec()).await.unwrap();
    let sotw = SotwResponse::decode(&*sotw.expect("an answer")).unwrap();
    let any = &sotw.resources[0];
    let is_wrapped = any.type_url == *TypeUrl::of::<DeltaResource>();
    if is_wrapped {
        let inner = DeltaResource::decode(any.value.clone()).unwrap();
        assert_eq!((&*inner.name, inner.ttl.unwrap().seconds), ("a", 30));
        assert_eq!(inner.resource.unwrap().type_url, *RTDS);
    } else {
        assert_eq!(any.type_url, *RTDS);
    }
    (delta.resources[0].ttl.is_some(), is_wrapped)
}

#[tokio::test]
async fn t01_who_says_so_is_told_of_times_and_nobody_else() {
    assert_eq!(told(|builder| builder, "envoy", &[]).await, (false, false));
    assert_eq!(told(|builder| builder, "envoy", &[KNOWS]).await, (true, false));
}

#[tokio::test]
async fn t02_in_state_of_the_world_only_who_reads_a_wrapper_by_either_word() {
    for wrapper in ["xds.config.resource-in-sotw", "xds.config.supports-resource-in-sotw"] {
        assert_eq!(told(|builder| builder, "x", &[KNOWS, wrapper]).await, (true, true));
        assert_eq!(told(|builder| builder, "x", &[wrapper]).await, (false, false));
    }
}

#[tokio::test]
async fn t01_or_of_whom_the_operator_says_so() {
    let operator = |builder: XdsServerBuilder| builder.time_to_live(|node| node.cluster == "c");
    assert_eq!(told(operator, "envoy", &[]).await, (true, true));
}

#[tokio::test]
async fn t09_grpc_is_never_told() {
    let operator = |builder: XdsServerBuilder| builder.time_to_live(|_| true);
    let features = [KNOWS, "xds.config.resource-in-sotw"];
    assert_eq!(told(operator, "gRPC C-core linux", &features).await, (false, false));
}
