//! Connections and streams: they subscribe, acknowledge everything, and read no more than that needs.

use std::{net::Ipv4Addr, pin::Pin, sync::Arc};

use bytes::{Bytes, BytesMut};
use deltaplane_benches::{
    Result,
    cluster::{self, Variant},
    skim::{Response, Skimmer},
    tls,
};
use deltaplane_server::envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryResponse, Resource,
};
use futures::FutureExt;
use h2::{
    RecvStream, SendStream,
    client::{Builder, SendRequest},
};
use http::Request;
use prost::Message;
use rustls::ClientConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::JoinSet,
};
use tokio_rustls::TlsConnector;

use crate::arrivals::Arrivals;

/// A resource that a client says it has.
pub(crate) type Held = Resource;

/// What to open, and what to subscribe to.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) grpc: u16,
    pub(crate) streams: usize,
    pub(crate) resources: usize,
    pub(crate) per_connection: usize,
    pub(crate) variant: Variant,
    pub(crate) names: Option<usize>,
    pub(crate) stopped: usize,
    pub(crate) one_node: bool,
    pub(crate) tls: Option<Arc<ClientConfig>>,
}

impl Plan {
    /// The first name of a stream: they are spread evenly, and overlap if they must.
    fn offset(&self, stream: usize) -> usize {
        stream * self.resources / self.streams
    }

    fn names(&self, stream: usize) -> Vec<String> {
        let offset = self.offset(stream);
        (0..self.names.unwrap_or(0)).map(|n| cluster::name((offset + n) % self.resources)).collect()
    }

    /// How many streams that still read subscribe to a cluster.
    pub(crate) fn concerned(&self, i: usize) -> usize {
        let reading = self.stopped..self.streams;
        let Some(names) = self.names else { return reading.len() };
        let is_named =
            |stream: &usize| (i + self.resources - self.offset(*stream)) % self.resources < names;
        reading.filter(is_named).count()
    }
}

/// The streams, as long as they are wanted.
#[derive(Debug)]
pub(crate) struct Connections {
    tasks: JoinSet<()>,
}

/// How many connections are made at once; more would find the listener's queue full.
const AT_ONCE: usize = 100;

impl Connections {
    /// Opens all streams; each tells of its first sync, unless it holds everything.
    pub(crate) async fn open(
        plan: &Arc<Plan>,
        arrivals: &Arc<Arrivals>,
        held: &[Held],
    ) -> Result<Self> {
        let mut tasks = JoinSet::new();
        let mut next = 0;
        let first = (plan.names.is_none() && !held.is_empty())
            .then(|| cluster::request(plan.variant, "node", Vec::new(), held));
        while next < plan.streams {
            let mut connecting = JoinSet::new();
            for _ in 0..AT_ONCE {
                // Who stops reading must not stop others.
                let share = if next < plan.stopped { 1 } else { plan.per_connection };
                let streams = next..(next + share).min(plan.streams);
                next = streams.end;
                if !streams.is_empty() {
                    let plan = plan.clone();
                    connecting.spawn(async move { (connect(&plan).await, streams) });
                }
            }
            while let Some(connected) = connecting.join_next().await {
                let (connected, streams) = connected?;
                let (sender, connection) = connected?;
                tasks.spawn(connection);
                for index in streams {
                    let stream = Stream {
                        plan: plan.clone(),
                        arrivals: arrivals.clone(),
                        index,
                        lacks: if held.is_empty() {
                            plan.names.unwrap_or(plan.resources)
                        } else {
                            0
                        },
                    };
                    let (sender, first) = (sender.clone(), first.clone());
                    tasks.spawn(async move { stream.run(sender, first).await });
                }
            }
        }
        Ok(Self { tasks })
    }
}

impl Drop for Connections {
    fn drop(&mut self) {
        self.tasks.abort_all();
    }
}

/// What a connection does; its streams tell when it fails.
type Connection = Pin<Box<dyn Future<Output = ()> + Send>>;

async fn connect(plan: &Plan) -> Result<(SendRequest<Bytes>, Connection)> {
    let tcp = TcpStream::connect((Ipv4Addr::LOCALHOST, plan.grpc)).await?;
    tcp.set_nodelay(true)?;
    match &plan.tls {
        None => speak(tcp).await,
        Some(tls) => {
            let connector = TlsConnector::from(tls.clone());
            speak(connector.connect(tls::SERVER.try_into()?, tcp).await?).await
        }
    }
}

async fn speak(
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Result<(SendRequest<Bytes>, Connection)> {
    // Wide, since flow control is not what is measured.
    let mut builder = Builder::new();
    builder.initial_window_size(4 << 20).initial_connection_window_size(64 << 20);
    let (sender, connection) = builder.handshake(io).await?;
    Ok((sender, Box::pin(connection.map(drop))))
}

async fn call(
    sender: SendRequest<Bytes>,
    variant: Variant,
    first: Bytes,
) -> Result<(SendStream<Bytes>, RecvStream)> {
    let request = Request::post(format!("http://localhost{}", variant.path()))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())?;
    let mut sender = sender.ready().await?;
    let (response, mut requests) = sender.send_request(request, false)?;
    requests.send_data(first, false)?;
    let response = response.await?;
    if let Some(status) = response.headers().get("grpc-status") {
        return Err(format!("the stream was refused with status {status:?}").into());
    }
    Ok((requests, response.into_body()))
}

/// One client.
struct Stream {
    plan: Arc<Plan>,
    arrivals: Arc<Arrivals>,
    index: usize,
    /// How many resources it has yet to see before it is synced.
    lacks: usize,
}

impl Stream {
    async fn run(mut self, sender: SendRequest<Bytes>, first: Option<Bytes>) {
        let arrivals = self.arrivals.clone();
        let end = match self.converse(sender, first).await {
            Ok(why) => format!("the server ended a stream: {why}"),
            Err(error) => error.to_string(),
        };
        arrivals.fail(end);
    }

    /// Follows the server until it ends the stream; returns what it says of that.
    async fn converse(
        &mut self,
        sender: SendRequest<Bytes>,
        first: Option<Bytes>,
    ) -> Result<String> {
        let Plan { variant, .. } = *self.plan;
        let first = first.unwrap_or_else(|| {
            let node = match self.plan.one_node {
                true => "node".to_owned(),
                false => format!("node-{:06}", self.index),
            };
            cluster::request(variant, &node, self.plan.names(self.index), &[])
        });
        let (mut requests, mut body) = call(sender, variant, first).await?;
        let mut skimmer = Skimmer::default();
        let mut acks = Vec::new();
        while let Some(chunk) = body.data().await {
            let chunk = chunk?;
            body.flow_control().release_capacity(chunk.len())?;
            skimmer.skim(&chunk, |response| acks.push(self.note(response)));
            for ack in acks.drain(..) {
                requests.send_data(ack, false)?;
            }
            if self.lacks == 0 && self.index < self.plan.stopped {
                // It keeps its connection open, and reads no more of it.
                std::future::pending::<()>().await;
            }
        }
        let trailers = body.trailers().await?.unwrap_or_default();
        let said = |name| trailers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("");
        Ok(format!("status {} {}", said("grpc-status"), said("grpc-message")))
    }

    /// Counts a response, and makes its ACK.
    fn note(&mut self, response: &Response) -> Bytes {
        if response.resources > 0 {
            if self.lacks == 0 {
                self.arrivals.note(response.resources);
            } else {
                self.lacks = self.lacks.saturating_sub(response.resources);
                if self.lacks == 0 {
                    self.arrivals.note(response.resources);
                }
            }
        }
        let names = match self.plan.variant {
            Variant::Sotw => self.plan.names(self.index),
            _ => Vec::new(),
        };
        cluster::ack(self.plan.variant, &names, &response.version, &response.nonce)
    }
}

/// Fetches everything once, to know what a client that comes back would say.
pub(crate) async fn hold(plan: &Plan) -> Result<Vec<Held>> {
    let (sender, connection) = connect(plan).await?;
    let connection = tokio::spawn(connection);
    let first = cluster::request(Variant::Delta, "node", Vec::new(), &[]);
    let (requests, mut body) = call(sender, Variant::Delta, first).await?;
    let (mut held, mut bytes) = (Vec::new(), BytesMut::new());
    while held.len() < plan.resources {
        let Some(chunk) = body.data().await else { break };
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        bytes.extend_from_slice(&chunk);
        while let Some((header, rest)) = bytes.split_first_chunk::<5>() {
            let [_, length @ ..] = *header;
            let length = u32::from_be_bytes(length) as usize;
            let Some(message) = rest.get(..length) else { break };
            held.extend(DeltaDiscoveryResponse::decode(message)?.resources);
            let _ = bytes.split_to(5 + length);
        }
    }
    drop(requests);
    connection.abort();
    Ok(held)
}
