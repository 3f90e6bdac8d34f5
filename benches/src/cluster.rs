//! The resources that every contestant serves, and the requests and responses that carry them.

use bytes::{BufMut, Bytes, BytesMut};
use clap::ValueEnum;
use deltaplane_server::envoy_types::pb::{
    envoy::{
        config::{
            cluster::v3::Cluster,
            core::v3::{Address, Node, SocketAddress, address, socket_address::PortSpecifier},
            endpoint::v3::{
                ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints,
                lb_endpoint::HostIdentifier,
            },
        },
        service::discovery::v3::{
            DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
            Resource,
        },
    },
    google::protobuf::{Any, Duration},
};
use prost::Message;

/// The type of all of them.
pub const TYPE_URL: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";

/// Which of the two protocols is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, ValueEnum)]
#[non_exhaustive]
pub enum Variant {
    /// Only what changed.
    Delta,
    /// State of the World.
    Sotw,
}

impl Variant {
    /// Where the aggregated service has it.
    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            Self::Delta => {
                "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
            }
            Self::Sotw => {
                "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"
            }
        }
    }
}

/// What a cluster is called.
#[must_use]
pub fn name(i: usize) -> String {
    format!("cluster-{i:06}")
}

/// A cluster of three endpoints; its connect timeout tells its generation.
#[must_use]
pub fn cluster(i: usize, generation: u32) -> Cluster {
    let endpoints = (101..104).map(|host| {
        let (a, b) = (100 + i / 100 % 100, 100 + i % 100);
        let socket = SocketAddress {
            address: format!("10.{a}.{b}.{host}"),
            port_specifier: Some(PortSpecifier::PortValue(8080)),
            ..SocketAddress::default()
        };
        let address = Address { address: Some(address::Address::SocketAddress(socket)) };
        let hostname = format!("endpoint-{host}.internal");
        let endpoint = Endpoint { address: Some(address), hostname, ..Endpoint::default() };
        let identifier = Some(HostIdentifier::Endpoint(endpoint));
        LbEndpoint { host_identifier: identifier, ..LbEndpoint::default() }
    });
    let locality =
        LocalityLbEndpoints { lb_endpoints: endpoints.collect(), ..LocalityLbEndpoints::default() };
    Cluster {
        name: name(i),
        connect_timeout: Some(Duration {
            seconds: 5,
            nanos: i32::try_from(generation % 1_000_000 * 1_000).unwrap_or(0),
        }),
        load_assignment: Some(ClusterLoadAssignment {
            cluster_name: name(i),
            endpoints: vec![locality],
            ..ClusterLoadAssignment::default()
        }),
        ..Cluster::default()
    }
}

/// The same, encoded, for those who have other types for it.
#[must_use]
pub fn encoded(i: usize, generation: u32) -> Vec<u8> {
    cluster(i, generation).encode_to_vec()
}

/// A message behind the five bytes that gRPC puts in front of it.
#[must_use]
pub fn frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(5 + length);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    // There is room: the buffer grows.
    let _ = message.encode(&mut frame);
    frame.freeze()
}

/// A response with these clusters, as a frame: what the floor sends.
#[must_use]
pub fn response(variant: Variant, clusters: &[Cluster]) -> Bytes {
    let any = |cluster: &Cluster| Any { type_url: TYPE_URL.into(), value: cluster.encode_to_vec() };
    let (version, nonce) = ("0123456789abcdef".to_owned(), "1".to_owned());
    match variant {
        Variant::Delta => frame(&DeltaDiscoveryResponse {
            system_version_info: version.clone(),
            resources: clusters
                .iter()
                .map(|cluster| Resource {
                    name: cluster.name.clone(),
                    version: version.clone(),
                    resource: Some(any(cluster)),
                    ..Resource::default()
                })
                .collect(),
            type_url: TYPE_URL.into(),
            nonce,
            ..DeltaDiscoveryResponse::default()
        }),
        Variant::Sotw => frame(&DiscoveryResponse {
            version_info: version,
            resources: clusters.iter().map(any).collect(),
            type_url: TYPE_URL.into(),
            nonce,
            ..DiscoveryResponse::default()
        }),
    }
}

/// The first request of a stream, as a frame: for these names, or for all if there are none.
#[must_use]
pub fn request(variant: Variant, node: &str, names: Vec<String>, held: &[Resource]) -> Bytes {
    let node = Node { id: node.into(), cluster: "fleet".into(), ..Node::default() };
    match variant {
        Variant::Delta => frame(&DeltaDiscoveryRequest {
            node: Some(node),
            type_url: TYPE_URL.into(),
            resource_names_subscribe: names,
            initial_resource_versions: held
                .iter()
                .map(|resource| (resource.name.clone(), resource.version.clone()))
                .collect(),
            ..DeltaDiscoveryRequest::default()
        }),
        Variant::Sotw => frame(&DiscoveryRequest {
            node: Some(node),
            type_url: TYPE_URL.into(),
            resource_names: names,
            ..DiscoveryRequest::default()
        }),
    }
}

/// The ACK of a response, as a frame.
#[must_use]
pub fn ack(variant: Variant, names: &[String], version: &str, nonce: &str) -> Bytes {
    match variant {
        Variant::Delta => frame(&DeltaDiscoveryRequest {
            type_url: TYPE_URL.into(),
            response_nonce: nonce.into(),
            ..DeltaDiscoveryRequest::default()
        }),
        Variant::Sotw => frame(&DiscoveryRequest {
            type_url: TYPE_URL.into(),
            resource_names: names.to_vec(),
            version_info: version.into(),
            response_nonce: nonce.into(),
            ..DiscoveryRequest::default()
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_in_state_of_the_world_are_what_the_design_measured() {
        let clusters: Vec<_> = (0..1_000).map(|i| cluster(i, 0)).collect();
        let kib = response(Variant::Sotw, &clusters).len() >> 10;
        assert!((225..250).contains(&kib), "{kib} KiB");
    }
}
