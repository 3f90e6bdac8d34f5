//! A model client over gRPC, on the aggregated service.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use deltaplane_core::{Request, TypeUrl, Variant};
use envoy_types::pb::envoy::config::core::v3::Node;
use futures::stream;
use prost::Message;
use tokio::{sync::mpsc, time::timeout};
use tonic::{
    Status, Streaming,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::Channel,
};

use super::{
    ModelClient,
    model::{Model, Update},
    sealed::Transport,
};

/// One stream to a server.
#[derive(Debug)]
pub struct Connection {
    requests: mpsc::UnboundedSender<Bytes>,
    responses: Streaming<Bytes>,
    /// Who the client is.
    node: Bytes,
    /// Whether it said so: its first request does.
    is_introduced: bool,
}

/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// A type that no server has anything of, asked for to learn what was said before the answer.
const BARRIER: &str = "type.googleapis.com/deltaplane.testing.Barrier";

impl ModelClient<Connection> {
    /// Opens a stream on the aggregated service, as this node.
    ///
    /// # Errors
    /// If the server refuses.
    pub async fn connect(channel: Channel, node: Node, variant: Variant) -> Result<Self, Status> {
        let transport = Connection::open(channel, node.encode_to_vec().into(), variant).await?;
        Ok(Self { model: Model::new(variant), transport })
    }

    /// Opens another stream, to this server or another one, as the same node: the client asks for all that
    /// it is subscribed to, and says what it runs of that. Its stream of before ends, and what was unread
    /// there is lost, as for any client.
    ///
    /// # Errors
    /// If the server refuses; then the stream of before is as it was.
    pub async fn reconnect(&mut self, channel: Channel) -> Result<(), Status> {
        let node = self.transport.node.clone();
        self.transport = Connection::open(channel, node, self.model.variant).await?;
        for request in self.model.resume() {
            self.transport.send(request);
        }
        Ok(())
    }

    /// What the server says next, or nothing if it ends the stream in order.
    ///
    /// # Errors
    /// If the server ends the stream with an error, or says nothing in 10 seconds.
    pub async fn next(&mut self) -> Result<Option<Update>, Status> {
        let next = timeout(PATIENCE, self.transport.responses.message());
        let late = |_| Status::deadline_exceeded("the server said nothing in time");
        let message = next.await.map_err(late)??;
        Ok(message.map(|message| self.model.read(message)))
    }

    /// What the server says next.
    ///
    /// # Panics
    /// If that is of another type, or the end of the stream, or does not come in 10 seconds.
    pub async fn expect(&mut self, type_url: impl Into<TypeUrl>) -> Update {
        let type_url = type_url.into();
        match self.next().await {
            Ok(update) => self.check(&type_url, update),
            Err(status) => panic!("expected an update of {type_url}, but got {status}"),
        }
    }

    /// The server must have nothing to say but the answer to a question that is asked now, twice, since
    /// an answer may overtake a removal. It is a subscription to a type that nobody has, so something
    /// must be known for this client.
    ///
    /// # Panics
    /// If the server says anything else.
    pub async fn silence(&mut self) {
        for _ in 0..2 {
            self.subscribe(BARRIER, &["*"]);
            let barrier = self.expect(BARRIER).await;
            self.ack(&barrier);
            self.unsubscribe(BARRIER, &["*"]);
        }
    }
}

impl Connection {
    async fn open(channel: Channel, node: Bytes, variant: Variant) -> Result<Self, Status> {
        let method = match variant {
            Variant::Delta => "DeltaAggregatedResources",
            _ => "StreamAggregatedResources",
        };
        let path = format!("/envoy.service.discovery.v3.AggregatedDiscoveryService/{method}");
        let path = path.try_into().map_err(|_| Status::internal("no path"))?;
        let mut grpc = Grpc::new(channel).max_decoding_message_size(usize::MAX);
        grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let (requests, mut queue) = mpsc::unbounded_channel();
        let queue = stream::poll_fn(move |cx| queue.poll_recv(cx));
        let responses = grpc.streaming(tonic::Request::new(queue), path, Encoded).await?;
        Ok(Self { requests, responses: responses.into_inner(), node, is_introduced: false })
    }
}

impl Transport for Connection {
    fn send(&mut self, mut request: Request) {
        let is_first = !std::mem::replace(&mut self.is_introduced, true);
        let node = is_first.then(|| self.node.clone());
        let message = match &mut request {
            Request::Sotw(request) => {
                request.node = node;
                request.encode_to_vec()
            }
            Request::Delta(request) => {
                request.node = node;
                request.encode_to_vec()
            }
            _ => return,
        };
        // If the stream is over, the next look at it tells.
        drop(self.requests.send(message.into()));
    }
}

/// A codec of encoded messages.
#[derive(Debug, Clone, Copy)]
struct Encoded;

impl Codec for Encoded {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Encoded {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(message);
        Ok(())
    }
}

impl Decoder for Encoded {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}
