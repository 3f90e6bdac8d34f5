//! Streams over real connections, with the clients that the Envoy API's own package generates.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use deltaplane_server::{
    Cache, Client, ClientEvent, Limits, Observer, Resource, Scope, Transaction, TypeUrl, XdsServer,
    envoy_types::pb::{
        envoy::{
            config::core::v3::{Extension, Node},
            service::discovery::v3::{
                DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
                aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
            },
        },
        google::rpc,
    },
};
use prost::Message as _;
use tokio::{
    net::TcpListener,
    sync::{Notify, mpsc, oneshot},
    task::JoinHandle,
    time::timeout,
};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Code, Status, Streaming, transport::Channel};

const CDS: TypeUrl = TypeUrl::CLUSTER;

/// A server on a port of its own, and what its observer heard.
struct Served {
    cache: Cache,
    address: SocketAddr,
    heard: Arc<Heard>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<std::io::Result<()>>,
}

#[derive(Default)]
struct Heard {
    lines: Mutex<Vec<String>>,
    more: Notify,
}

impl Observer for Heard {
    fn observe(&self, client: &Client, event: &ClientEvent<'_>) {
        let what = match event {
            ClientEvent::Connected => format!("connected {:?}", client.scopes),
            ClientEvent::Moved { from } => format!("moved {from:?} -> {:?}", client.scopes),
            ClientEvent::Sent(response) => format!("sent {}", response.nonce),
            ClientEvent::Told(deltaplane_server::Event::Rejected { error, .. }) => {
                format!("rejected {}", error.message)
            }
            ClientEvent::Told(_) => return,
            ClientEvent::Disconnected(status) => {
                format!("disconnected {:?}", status.map(|s| s.code()))
            }
            _ => return,
        };
        self.lines.lock().unwrap().push(format!("{}: {what}", client.node.id));
        self.more.notify_waiters();
    }
}

impl Heard {
    /// Waits until something was heard; each is found once.
    async fn expect(&self, what: &str) {
        let found = async {
            loop {
                let more = self.more.notified();
                if self.take(what) {
                    return;
                }
                more.await;
            }
        };
        if timeout(Duration::from_secs(10), found).await.is_err() {
            panic!("{what:?} was not heard, but {:?}", self.lines.lock().unwrap());
        }
    }

    fn take(&self, what: &str) -> bool {
        let mut lines = self.lines.lock().unwrap();
        let at = lines.iter().position(|line| line == what);
        at.map(|at| lines.remove(at)).is_some()
    }
}

async fn serve() -> Served {
    serve_within(Limits::default()).await
}

async fn serve_within(limits: Limits) -> Served {
    let cache = Cache::new();
    let heard = Arc::new(Heard::default());
    let server = XdsServer::builder(cache.clone())
        .observer(heard.clone())
        .limits(limits)
        .identifier("replica-1")
        .view(|node, cache| {
            let scopes = [Scope::from(&*node.id), Scope::from(&*node.cluster)];
            scopes.into_iter().find(|scope| cache.is_known(scope)).into_iter().collect()
        })
        .build();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let task = tokio::spawn(async move {
        let stopped = async { drop(stopped.await) };
        server.serve(listener, stopped).await
    });
    Served { cache, address, heard, stop: Some(stop), task }
}

impl Served {
    fn put(&self, scope: &str, name: &str, content: &str) {
        let mut transaction = Transaction::new();
        transaction.upsert(scope, Resource::raw(CDS, name, content.as_bytes().to_vec()).build());
        self.cache.commit(transaction).unwrap();
    }

    async fn connect(&self) -> AggregatedDiscoveryServiceClient<Channel> {
        let address = format!("http://{}", self.address);
        AggregatedDiscoveryServiceClient::connect(address).await.unwrap()
    }

    async fn delta(&self) -> (mpsc::UnboundedSender<DeltaDiscoveryRequest>, Deltas) {
        let (requests, receiver) = mpsc::unbounded_channel();
        let mut client = self.connect().await;
        let receiver = UnboundedReceiverStream::new(receiver);
        let responses = client.delta_aggregated_resources(receiver).await.unwrap();
        (requests, responses.into_inner())
    }
}

type Deltas = Streaming<DeltaDiscoveryResponse>;

async fn next<T>(responses: &mut Streaming<T>) -> Result<Option<T>, Status> {
    timeout(Duration::from_secs(10), responses.message()).await.expect("an answer in time")
}

async fn next_delta(responses: &mut Deltas) -> DeltaDiscoveryResponse {
    next(responses).await.unwrap().expect("a response")
}

fn node(id: &str, cluster: &str) -> Option<Node> {
    // As large as Envoy's.
    let extension = Extension { name: "x".repeat(100), ..Default::default() };
    let extensions = vec![extension; 500];
    Some(Node { id: id.into(), cluster: cluster.into(), extensions, ..Default::default() })
}

fn subscribe(node: Option<Node>) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest { node, type_url: CDS.to_string(), ..Default::default() }
}

#[tokio::test]
async fn b01_both_methods_serve_one_client_independently() {
    let served = serve().await;
    served.put("c", "a", "1");
    let (deltas, mut delta) = served.delta().await;
    deltas.send(subscribe(node("n", "c"))).unwrap();
    let (sotws, receiver) = mpsc::unbounded_channel();
    let mut client = served.connect().await;
    let receiver = UnboundedReceiverStream::new(receiver);
    let sotw = client.stream_aggregated_resources(receiver).await.unwrap();
    let mut sotw: Streaming<DiscoveryResponse> = sotw.into_inner();
    let request =
        DiscoveryRequest { node: node("n", "c"), type_url: CDS.to_string(), ..Default::default() };
    sotws.send(request.clone()).unwrap();
    let first = next_delta(&mut delta).await;
    assert_eq!(first.resources[0].name, "a");
    assert_eq!(first.resources[0].resource.as_ref().unwrap().value, b"1");
    assert_eq!(first.nonce, "1");
    assert_eq!(first.control_plane.unwrap().identifier, "replica-1", "B-11");
    let whole = next(&mut sotw).await.unwrap().unwrap();
    assert_eq!(whole.control_plane.unwrap().identifier, "replica-1", "B-11");
    assert_eq!(whole.resources[0].value, b"1");
    assert_eq!(whole.type_url, CDS.as_str());
    // Updates reach both; a NACK on one is told, and concerns only it.
    let error_detail = Some(rpc::Status { message: "boom".into(), ..Default::default() });
    let nack =
        DeltaDiscoveryRequest { response_nonce: first.nonce, error_detail, ..subscribe(None) };
    deltas.send(nack).unwrap();
    served.heard.expect("n: rejected boom").await;
    served.put("c", "b", "2");
    assert_eq!(next_delta(&mut delta).await.resources[0].name, "b");
    assert_eq!(next(&mut sotw).await.unwrap().unwrap().resources.len(), 2);
}

#[tokio::test]
async fn b02_a_method_that_is_not_there_is_unimplemented() {
    let served = serve().await;
    let address = format!("http://{}", served.address);
    let channel = Channel::from_shared(address).unwrap().connect().await.unwrap();
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
async fn b06_b13_the_node_is_the_first_requests_and_streams_are_independent() {
    let served = serve().await;
    served.put("c", "a", "1");
    let (first, mut from_first) = served.delta().await;
    let (second, mut from_second) = served.delta().await;
    first.send(subscribe(node("n", "c"))).unwrap();
    second.send(subscribe(node("n", "c"))).unwrap();
    next_delta(&mut from_first).await;
    next_delta(&mut from_second).await;
    first
        .send(DeltaDiscoveryRequest {
            type_url: TypeUrl::LISTENER.to_string(),
            node: node("someone else", "elsewhere"),
            ..Default::default()
        })
        .unwrap();
    assert_eq!(next_delta(&mut from_first).await.type_url, TypeUrl::LISTENER.as_str());
    drop((first, from_first));
    served.heard.expect("n: disconnected None").await;
    served.put("c", "a", "2");
    assert_eq!(next_delta(&mut from_second).await.resources.len(), 1);
}

#[tokio::test]
async fn a_client_is_unknown_until_a_scope_is_filled_and_then_moves_as_more_are() {
    let served = serve().await;
    let (requests, mut responses) = served.delta().await;
    requests.send(subscribe(node("n", "c"))).unwrap();
    served.heard.expect("n: connected []").await;
    served.put("c", "a", "1");
    served.heard.expect(r#"n: moved [] -> [Scope("c")]"#).await;
    assert_eq!(next_delta(&mut responses).await.resources[0].name, "a");
    served.put("n", "b", "1");
    served.heard.expect(r#"n: moved [Scope("c")] -> [Scope("n")]"#).await;
    assert_eq!(next_delta(&mut responses).await.resources[0].name, "b");
    assert_eq!(next_delta(&mut responses).await.removed_resources, ["a"]);
    served.put("n", "b", "2");
    assert_eq!(next_delta(&mut responses).await.resources[0].name, "b");
}

#[tokio::test]
async fn who_breaks_the_protocol_ends_his_own_stream_and_no_other() {
    let served = serve().await;
    served.put("c", "a", "1");
    let (requests, mut responses) = served.delta().await;
    requests.send(subscribe(node("n", "c"))).unwrap();
    next_delta(&mut responses).await;
    let (bad, mut from_bad) = served.delta().await;
    bad.send(DeltaDiscoveryRequest { node: node("bad", "c"), ..Default::default() }).unwrap();
    let status = next(&mut from_bad).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("type_url"), "{}", status.message());
    served.heard.expect("bad: disconnected Some(InvalidArgument)").await;
    let address = format!("http://{}", served.address);
    let channel = Channel::from_shared(address).unwrap().connect().await.unwrap();
    // A truncated field, a name that is no UTF-8, a node that is none.
    for garbage in [vec![0x12, 200, 1], vec![0x1a, 2, 0xff, 0xfe], vec![0x0a, 2, 0x0a, 9]] {
        let status = call(channel.clone(), DELTA, garbage.clone()).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{garbage:?}: {status}");
    }
    served.put("c", "a", "2");
    assert_eq!(next_delta(&mut responses).await.resources.len(), 1);
}

/// Calls a delta method with one request, and reads the first answer.
async fn ask(
    served: &Served,
    path: &str,
    request: &DeltaDiscoveryRequest,
) -> Result<DeltaDiscoveryResponse, Status> {
    let channel = Channel::from_shared(format!("http://{}", served.address)).unwrap();
    let answer = call(channel.connect().await.unwrap(), path, request.encode_to_vec()).await?;
    Ok(DeltaDiscoveryResponse::decode(&*answer.expect("an answer")).unwrap())
}

const DELTA: &str =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";

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
            let channel = Channel::from_shared(format!("http://{}", served.address)).unwrap();
            let channel = channel.connect().await.unwrap();
            let answer = call(channel, &path, request.encode_to_vec()).await.unwrap().unwrap();
            let answer = DiscoveryResponse::decode(&*answer).unwrap();
            assert_eq!((answer.type_url.as_str(), answer.resources.len()), (&*type_url, 1));
        }
    }
}

#[tokio::test]
async fn fetching_is_answered_once_whatever_the_client_holds() {
    use deltaplane_server::envoy_types::pb::envoy::service::cluster::v3::cluster_discovery_service_client::ClusterDiscoveryServiceClient;
    let served = serve().await;
    let address = format!("http://{}", served.address);
    let mut client = ClusterDiscoveryServiceClient::connect(address).await.unwrap();
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
async fn beyond_a_limit_the_stream_ends_and_says_which() {
    let mut limits = Limits::default();
    limits.stream.names = 2;
    limits.stream.name_length = 10;
    limits.stream.types = 1;
    limits.request_size = 100_000;
    limits.requests_per_second = 5;
    let served = serve_within(limits).await;
    served.put("c", "a", "1");
    let named = |names: &[&str]| DeltaDiscoveryRequest {
        resource_names_subscribe: names.iter().map(ToString::to_string).collect(),
        ..subscribe(node("n", "c"))
    };
    assert!(ask(&served, DELTA, &named(&["a", "b"])).await.is_ok());
    let refused = ask(&served, DELTA, &named(&["a", "b", "c"])).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("may name 2"), "{refused}");
    let refused = ask(&served, DELTA, &named(&["12345678901"])).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("10 bytes"), "{refused}");
    let large = "x".repeat(200_000);
    let refused = ask(&served, DELTA, &named(&[&large])).await.unwrap_err();
    assert!([Code::OutOfRange, Code::ResourceExhausted].contains(&refused.code()), "{refused}");
    let (requests, mut responses) = served.delta().await;
    requests.send(subscribe(node("n", "c"))).unwrap();
    next_delta(&mut responses).await;
    requests.send(DeltaDiscoveryRequest { type_url: "x/y".into(), ..subscribe(None) }).unwrap();
    let refused = next(&mut responses).await.unwrap_err();
    assert!(refused.message().contains("ask for 1 types"), "{refused}");
    let (requests, mut responses) = served.delta().await;
    for _ in 0..10 {
        requests.send(named(&["a"])).unwrap();
    }
    let refused = loop {
        if let Err(refused) = next(&mut responses).await {
            break refused;
        }
    };
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("5 requests a second"), "{refused}");
}

#[tokio::test]
async fn r13_who_left_with_a_rejection_is_not_believed_what_it_runs() {
    let served = serve().await;
    served.put("c", "a", "1");
    let (requests, mut responses) = served.delta().await;
    requests.send(subscribe(node("n", "c"))).unwrap();
    let first = next_delta(&mut responses).await;
    let held = [("a".to_owned(), first.resources[0].version.clone())];
    requests
        .send(DeltaDiscoveryRequest { response_nonce: first.nonce, ..subscribe(None) })
        .unwrap();
    let mut transaction = Transaction::new();
    transaction.upsert("c", Resource::raw(CDS, "a", b"2".to_vec()).build());
    transaction.upsert("c", Resource::raw(CDS, "bad", b"2".to_vec()).build());
    served.cache.commit(transaction).unwrap();
    let second = next_delta(&mut responses).await;
    let error_detail = Some(rpc::Status { message: "bad: no".into(), ..Default::default() });
    let nack =
        DeltaDiscoveryRequest { response_nonce: second.nonce, error_detail, ..subscribe(None) };
    requests.send(nack).unwrap();
    served.heard.expect("n: rejected bad: no").await;
    drop((requests, responses));
    served.heard.expect("n: disconnected None").await;
    // The store goes back; the client runs a=2 and reports a=1.
    let mut transaction = Transaction::new();
    transaction.upsert("c", Resource::raw(CDS, "a", b"1".to_vec()).build());
    transaction.remove("c", CDS, "bad");
    served.cache.commit(transaction).unwrap();
    let back = DeltaDiscoveryRequest {
        initial_resource_versions: held.into(),
        ..subscribe(node("n", "c"))
    };
    let (requests, mut responses) = served.delta().await;
    requests.send(back.clone()).unwrap();
    assert_eq!(next_delta(&mut responses).await.resources[0].name, "a");
    drop((requests, responses));
    served.heard.expect("n: disconnected None").await;
    // Once is enough.
    let (requests, mut responses) = served.delta().await;
    requests.send(back).unwrap();
    served.put("c", "b", "1");
    assert_eq!(next_delta(&mut responses).await.resources[0].name, "b");
}

#[tokio::test]
async fn shutdown_ends_streams_and_then_the_server() {
    let mut served = serve().await;
    served.put("c", "a", "1");
    let (requests, mut responses) = served.delta().await;
    requests.send(subscribe(node("n", "c"))).unwrap();
    next_delta(&mut responses).await;
    drop(served.stop.take());
    assert_eq!(next(&mut responses).await.unwrap_err().code(), Code::Unavailable);
    drop((requests, responses));
    let ended = timeout(Duration::from_secs(10), served.task).await;
    ended.expect("the server ends").unwrap().unwrap();
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

/// Calls a method with one message of any bytes, and reads the first answer.
async fn call(channel: Channel, path: &str, message: Vec<u8>) -> Result<Option<Vec<u8>>, Status> {
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.unwrap();
    let requests = futures::StreamExt::chain(tokio_stream::once(message), tokio_stream::pending());
    let request = tonic::Request::new(requests);
    let responses = grpc.streaming(request, path.parse().unwrap(), Raw).await?;
    next(&mut responses.into_inner()).await
}

/// A codec of bytes as they are.
#[derive(Default)]
struct Raw;

impl tonic::codec::Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl tonic::codec::Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(
        &mut self,
        item: Vec<u8>,
        buffer: &mut tonic::codec::EncodeBuf<'_>,
    ) -> Result<(), Status> {
        bytes::BufMut::put_slice(buffer, &item);
        Ok(())
    }
}

impl tonic::codec::Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(
        &mut self,
        buffer: &mut tonic::codec::DecodeBuf<'_>,
    ) -> Result<Option<Vec<u8>>, Status> {
        let len = bytes::Buf::remaining(buffer);
        Ok(Some(bytes::Buf::copy_to_bytes(buffer, len).to_vec()))
    }
}
