//! What one changed row costs: counted, through the public face.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{fmt::Write, time::Duration};

use deltaplane_server::{
    TypeUrl,
    envoy_types::pb::envoy::{
        config::core::v3::Node,
        service::discovery::v3::{
            DeltaDiscoveryRequest, DeltaDiscoveryResponse,
            aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
        },
    },
};
use deltaplane_tests::{
    Deltaplane,
    database::{Database, Kind},
};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Streaming;

const SERVICES: usize = 1000;
const STREAMS: usize = 50;

/// A client that acknowledges, over delta on one aggregated stream, what an Envoy would subscribe to.
struct Stream {
    requests: mpsc::UnboundedSender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

impl Stream {
    async fn open(server: &Deltaplane) -> Stream {
        let address = format!("http://{}", server.xds);
        let mut client = AggregatedDiscoveryServiceClient::connect(address).await.unwrap();
        let (requests, receiver) = mpsc::unbounded_channel();
        let receiver = UnboundedReceiverStream::new(receiver);
        let responses = client.delta_aggregated_resources(receiver).await.unwrap().into_inner();
        let mut stream = Stream { requests, responses };
        let node = Node { id: "n".into(), cluster: "cluster-1".into(), ..Default::default() };
        stream.ask(TypeUrl::CLUSTER, vec![], Some(node));
        assert_eq!(stream.next().await.resources.len(), SERVICES);
        stream.ask(TypeUrl::ENDPOINT, (0..SERVICES).map(name).collect(), None);
        assert_eq!(stream.next().await.resources.len(), SERVICES);
        stream.ask(TypeUrl::LISTENER, vec![], None);
        assert_eq!(stream.next().await.resources.len(), 1);
        stream
    }

    fn ask(&self, type_url: TypeUrl, names: Vec<String>, node: Option<Node>) {
        let request = DeltaDiscoveryRequest {
            node,
            type_url: type_url.to_string(),
            resource_names_subscribe: names,
            ..Default::default()
        };
        self.requests.send(request).unwrap();
    }

    /// The next response, acknowledged.
    async fn next(&mut self) -> DeltaDiscoveryResponse {
        let next = timeout(Duration::from_secs(20), self.responses.message()).await;
        let response = next.expect("a response in time").unwrap().expect("a response");
        let ack = DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            ..Default::default()
        };
        self.requests.send(ack).unwrap();
        response
    }
}

fn name(i: usize) -> String {
    format!("service-{i:04}")
}

/// All services on one port, each under a prefix of its own.
fn insert() -> String {
    let mut sql = "INSERT INTO services (name, listener_port, upstream_host, upstream_port, \
                   protocol, prefix) VALUES "
        .to_owned();
    for i in 0..SERVICES {
        let comma = if i == 0 { "" } else { ", " };
        let name = name(i);
        write!(sql, "{comma}('{name}', 10000, '127.0.0.1', 8080, 'http', '/{name}')").unwrap();
    }
    sql
}

fn counters(server: &Deltaplane) -> (u64, u64) {
    let health = server.ask("GET", "/healthz", None).json();
    let counter = |name: &str| health[name].as_u64().unwrap();
    (counter("rows_translated"), counter("resources_built"))
}

#[tokio::test(flavor = "multi_thread")]
async fn one_changed_port_of_a_thousand_services_is_one_resource_for_each_of_fifty_streams() {
    let database = Database::create(Kind::Sqlite);
    let mut server = Deltaplane::start(&database.url());
    server.stop();
    database.execute(&insert());
    server.resume();
    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        streams.push(Stream::open(&server).await);
    }
    let (rows, resources) = counters(&server);
    let list = server.ask("GET", "/api/v1/services/", None).json();
    let row = list.as_array().unwrap().iter().find(|row| row["name"] == name(7)).unwrap();
    let mut row = row.clone();
    row["upstream_port"] = 8081.into();
    let id = row["id"].as_i64().unwrap();
    server.replace(id, &row);
    for stream in &mut streams {
        let response = stream.next().await;
        assert_eq!(response.type_url, TypeUrl::ENDPOINT.as_str());
        let changed: Vec<_> = response.resources.iter().map(|r| r.name.as_str()).collect();
        assert_eq!((changed, response.removed_resources), (vec![&*name(7)], vec![]));
    }
    assert_eq!(counters(&server), (rows + 1, resources + 1), "rows translated, resources built");
    // Nothing else follows: what comes next is the answer to the next question.
    for stream in &mut streams {
        stream.ask(TypeUrl::ROUTE, vec!["routes-10000".into()], None);
        assert_eq!(stream.next().await.type_url, TypeUrl::ROUTE.as_str());
    }
}
