//! What the server knows of the Envoy API, as clients see it.

use deltaplane_server::{
    Cache, Transaction, TypeUrl, Variant, envoy,
    envoy_types::pb::envoy::config::{
        cluster::v3::{
            Cluster,
            cluster::{ClusterDiscoveryType, DiscoveryType, EdsClusterConfig},
        },
        endpoint::v3::ClusterLoadAssignment,
    },
    testing::ModelClient,
};
use prost::Message as _;

use crate::served::{CDS, serve};

const BOTH: [Variant; 2] = [Variant::Sotw, Variant::Delta];

#[tokio::test]
async fn b10_unknown_fields_reach_clients_as_they_are() {
    let served = serve().await;
    let mut bytes = Cluster { name: "a".into(), ..Default::default() }.encode_to_vec();
    // Field 9999, which no version of the API has, and an unknown value of an enum.
    bytes.extend([0xfa, 0xf0, 0x04, 3, b'n', b'e', b'w', 0x20, 0x63]);
    let mut transaction = Transaction::new();
    transaction.upsert("c", envoy::raw(CDS, "a", bytes.clone()).build());
    served.cache.commit(transaction).unwrap();
    for variant in BOTH {
        let mut client = served.model("n", variant).await;
        client.subscribe(CDS, &[]);
        assert_eq!(client.expect(CDS).await.resources[0].value, bytes);
    }
}

#[test]
fn o10_endpoints_go_by_the_service_name() {
    let cluster = |alt_stat_name: &str| {
        envoy::resource(&Cluster {
            name: "c".into(),
            alt_stat_name: alt_stat_name.into(),
            cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds as i32)),
            eds_cluster_config: Some(EdsClusterConfig {
                service_name: "svc-1".into(),
                ..Default::default()
            }),
            ..Default::default()
        })
    };
    let endpoints = ClusterLoadAssignment { cluster_name: "svc-1".into(), ..Default::default() };
    for variant in BOTH {
        let cache = Cache::new();
        let mut transaction = Transaction::new();
        transaction.upsert("c", cluster("first")).upsert("c", envoy::resource(&endpoints));
        cache.commit(transaction).unwrap();
        let mut client = ModelClient::over(&cache, ["c"], variant);
        client.subscribe(CDS, &[]);
        client.subscribe(TypeUrl::ENDPOINT, &["svc-1"]);
        // A changed cluster is followed by them, O-04.
        for content in ["second", "third"] {
            let update = client.expect(CDS);
            client.ack(&update);
            let update = client.expect(TypeUrl::ENDPOINT);
            assert_eq!(update.decode::<ClusterLoadAssignment>("svc-1"), endpoints);
            client.ack(&update);
            let mut transaction = Transaction::new();
            transaction.upsert("c", cluster(content));
            cache.commit(transaction).unwrap();
        }
    }
}
