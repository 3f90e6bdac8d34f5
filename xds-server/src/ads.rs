//! The aggregated discovery service: both variants, as a service for any tonic router.

use std::{
    convert::Infallible,
    fmt,
    future::{Ready, ready},
    sync::Arc,
    task::{Context, Poll},
};

use deltaplane_core::{DeltaRequest, Request, SotwRequest, Variant};
use http::{HeaderValue, header::CONTENT_TYPE};
use prost::Message;
use tonic::{
    Status, Streaming,
    body::Body,
    codec::{DecodeBuf, Decoder},
    server::NamedService,
    transport::server::TcpConnectInfo,
};

use crate::{server::Shared, stream::AdsStream};

/// `envoy.service.discovery.v3.AggregatedDiscoveryService`, for `Router::add_service`. Clones serve the
/// same content.
#[derive(Clone)]
pub struct AdsService {
    shared: Arc<Shared>,
}

/// The largest request that is read, in bytes. Lists of names and of initial versions grow with the
/// configuration, and gRPC's usual 4 MiB are soon too little (K-05).
const MAX_REQUEST: usize = 64 << 20;

impl AdsService {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    fn open(&self, request: http::Request<Body>) -> Result<http::Response<Body>, Status> {
        let variant = match request.uri().path().rsplit_once('/') {
            Some((_, "StreamAggregatedResources")) => Variant::Sotw,
            Some((_, "DeltaAggregatedResources")) => Variant::Delta,
            _ => return Err(Status::unimplemented("no such method; this server speaks xDS v3")),
        };
        if request.headers().get("grpc-encoding").is_some_and(|encoding| encoding != "identity") {
            return Err(Status::unimplemented("compressed requests are not supported"));
        }
        let peer = request.extensions().get::<TcpConnectInfo>().and_then(|info| info.remote_addr());
        let decoder = RequestDecoder(variant);
        let requests =
            Streaming::new_request(decoder, request.into_body(), None, Some(MAX_REQUEST));
        let stream = AdsStream::new(self.shared.clone(), requests, variant, peer);
        let mut response = http::Response::new(Body::new(stream));
        let content_type = HeaderValue::from_static("application/grpc");
        response.headers_mut().insert(CONTENT_TYPE, content_type);
        Ok(response)
    }
}

impl fmt::Debug for AdsService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdsService").finish_non_exhaustive()
    }
}

impl NamedService for AdsService {
    const NAME: &'static str = "envoy.service.discovery.v3.AggregatedDiscoveryService";
}

impl tower_service::Service<http::Request<Body>> for AdsService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        ready(Ok(self.open(request).unwrap_or_else(Status::into_http)))
    }
}

/// Decodes the requests of one variant; the node stays encoded.
struct RequestDecoder(Variant);

impl Decoder for RequestDecoder {
    type Item = Request;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Request>, Status> {
        let request = match self.0 {
            Variant::Sotw => SotwRequest::decode(buffer).map(Request::from),
            Variant::Delta => DeltaRequest::decode(buffer).map(Request::from),
            _ => return Err(Status::unimplemented("no such variant")),
        };
        let malformed = |error| Status::invalid_argument(format!("malformed request: {error}"));
        request.map(Some).map_err(malformed)
    }
}
