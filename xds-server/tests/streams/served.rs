//! A server on a port of its own, what its observer hears, and how its clients call it.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use deltaplane_server::{
    Cache, Client, ClientEvent, Event, Observer, Resource, Scope, Transaction, TypeUrl, Variant,
    XdsServer, XdsServerBuilder, envoy,
    envoy_types::pb::envoy::{
        config::{
            cluster::v3::Cluster,
            core::v3::{Extension, Node},
        },
        service::discovery::v3::{
            DeltaDiscoveryRequest, DeltaDiscoveryResponse,
            aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
        },
    },
    testing::{Connection, ModelClient},
};
use prost::Message as _;
use tokio::{
    net::TcpListener,
    sync::{Notify, mpsc, oneshot},
    task::JoinHandle,
    time::timeout,
};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{
    Status, Streaming,
    transport::{Channel, Endpoint},
};

pub const CDS: TypeUrl = TypeUrl::CLUSTER;

/// A server on a port of its own, and what its observer heard.
pub struct Served {
    pub cache: Cache,
    pub server: XdsServer,
    pub address: SocketAddr,
    pub heard: Arc<Heard>,
    pub stop: Option<oneshot::Sender<()>>,
    pub task: JoinHandle<std::io::Result<()>>,
}

#[derive(Default)]
pub struct Heard {
    lines: Mutex<Vec<String>>,
    more: Notify,
}

impl Observer for Heard {
    fn observe(&self, client: &Client, event: &ClientEvent<'_>) {
        let what = match event {
            ClientEvent::Connected => format!("connected {:?}", client.scopes),
            ClientEvent::Refused(status) => format!("refused {:?}", status.code()),
            ClientEvent::Moved { from } => format!("moved {from:?} -> {:?}", client.scopes),
            ClientEvent::Sent(response) => format!("sent {}", response.nonce),
            ClientEvent::Told(Event::Rejected { error, .. }) => {
                format!("rejected {}", error.message)
            }
            ClientEvent::Told(Event::Subscribed { type_url, is_first: true, .. }) => {
                format!("subscribed {}", type_url.rsplit('.').next().unwrap())
            }
            ClientEvent::Told(Event::Acknowledged { type_url, .. }) => {
                format!("acknowledged {}", type_url.rsplit('.').next().unwrap())
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
    pub async fn expect(&self, what: &str) {
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

    /// How many of what was heard begin so.
    pub fn count(&self, what: &str) -> usize {
        self.lines.lock().unwrap().iter().filter(|line| line.starts_with(what)).count()
    }

    /// How many were of this kind, whoever they were of.
    pub fn count_of(&self, kind: &str) -> usize {
        let of_kind = format!(": {kind} ");
        self.lines.lock().unwrap().iter().filter(|line| line.contains(&of_kind)).count()
    }

    fn take(&self, what: &str) -> bool {
        let mut lines = self.lines.lock().unwrap();
        let at = lines.iter().position(|line| line == what);
        at.map(|at| lines.remove(at)).is_some()
    }
}

/// Looks again and again until something is so.
pub async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let mut looks = tokio::time::interval(Duration::from_millis(5));
    let is_so = async {
        while !is_so() {
            looks.tick().await;
        }
    };
    timeout(Duration::from_secs(10), is_so).await.unwrap_or_else(|_| panic!("{what}: never"));
}

/// A cluster that Envoy's API can read.
pub fn cluster(name: &str, alt: &str) -> Resource {
    let cluster = Cluster { name: name.into(), alt_stat_name: alt.into(), ..Cluster::default() };
    envoy::resource(&cluster)
}

pub async fn serve() -> Served {
    serve_with(|builder| builder).await
}

/// A server in which a node sees the scope of its id, or else that of its cluster.
pub async fn serve_with(configure: impl FnOnce(XdsServerBuilder) -> XdsServerBuilder) -> Served {
    let cache = Cache::new();
    let heard = Arc::new(Heard::default());
    let builder = XdsServer::builder(cache.clone())
        .observer(heard.clone())
        .identifier("replica-1")
        .view(|node, cache| {
            let scopes = [Scope::from(&*node.id), Scope::from(&*node.cluster)];
            scopes.into_iter().find(|scope| cache.is_known(scope)).into_iter().collect()
        });
    let server = configure(builder).build();
    let serving = server.clone();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let task = tokio::spawn(async move {
        let stopped = async { drop(stopped.await) };
        serving.serve(listener, stopped).await
    });
    Served { cache, server, address, heard, stop: Some(stop), task }
}

impl Served {
    pub fn put(&self, scope: &str, name: &str, content: &str) {
        let mut transaction = Transaction::new();
        transaction.upsert(scope, Resource::raw(CDS, name, content.as_bytes().to_vec()).build());
        self.cache.commit(transaction).unwrap();
    }

    /// Puts resources into the scope `c`, all at once.
    pub fn put_all(&self, resources: impl IntoIterator<Item = Resource>) {
        let mut transaction = Transaction::new();
        for resource in resources {
            transaction.upsert("c", resource);
        }
        self.cache.commit(transaction).unwrap();
    }

    pub fn endpoint(&self) -> Endpoint {
        Channel::from_shared(format!("http://{}", self.address)).unwrap()
    }

    pub async fn channel(&self) -> Channel {
        self.endpoint().connect().await.unwrap()
    }

    /// A model client on a connection of its own, which sees the scope `c`.
    pub async fn model(&self, id: &str, variant: Variant) -> ModelClient<Connection> {
        let node = node(id, "c").unwrap();
        ModelClient::connect(self.channel().await, node, variant).await.unwrap()
    }

    pub async fn connect(&self) -> AggregatedDiscoveryServiceClient<Channel> {
        AggregatedDiscoveryServiceClient::new(self.channel().await)
    }

    pub async fn delta(&self) -> (mpsc::UnboundedSender<DeltaDiscoveryRequest>, Deltas) {
        let (requests, receiver) = mpsc::unbounded_channel();
        let mut client = self.connect().await;
        let receiver = UnboundedReceiverStream::new(receiver);
        let responses = client.delta_aggregated_resources(receiver).await.unwrap();
        (requests, responses.into_inner())
    }
}

pub type Deltas = Streaming<DeltaDiscoveryResponse>;

pub async fn next<T>(responses: &mut Streaming<T>) -> Result<Option<T>, Status> {
    timeout(Duration::from_secs(10), responses.message()).await.expect("an answer in time")
}

pub async fn next_delta(responses: &mut Deltas) -> DeltaDiscoveryResponse {
    next(responses).await.unwrap().expect("a response")
}

pub fn node(id: &str, cluster: &str) -> Option<Node> {
    // As large as Envoy's.
    let extension = Extension { name: "x".repeat(100), ..Default::default() };
    let extensions = vec![extension; 500];
    Some(Node { id: id.into(), cluster: cluster.into(), extensions, ..Default::default() })
}

pub fn subscribe(node: Option<Node>) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest { node, type_url: CDS.to_string(), ..Default::default() }
}

/// Calls a delta method with one request, and reads the first answer.
pub async fn ask(
    served: &Served,
    path: &str,
    request: &DeltaDiscoveryRequest,
) -> Result<DeltaDiscoveryResponse, Status> {
    let answer = call(served.channel().await, path, request.encode_to_vec()).await?;
    Ok(DeltaDiscoveryResponse::decode(&*answer.expect("an answer")).unwrap())
}

pub const DELTA: &str =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";

/// Calls a method with one message of any bytes, and reads the first answer.
pub async fn call(
    channel: Channel,
    path: &str,
    message: Vec<u8>,
) -> Result<Option<Vec<u8>>, Status> {
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
