//! The discovery services: the aggregated one and one for each type, for any tonic router.

use std::{
    convert::Infallible,
    fmt,
    future::{Ready, ready},
    marker::PhantomData,
    sync::Arc,
    task::{Context, Poll},
};

use deltaplane_core::{TypeUrl, Variant};
use http::{HeaderValue, header::CONTENT_TYPE};
use hyper::body::Incoming;
use tonic::{
    Status,
    body::Body,
    server::NamedService,
    service::{Routes, RoutesBuilder},
};

use self::sealed::Method;
use crate::{
    body::ResponseBody,
    connections::Seat,
    gzip,
    peer::Credentials,
    requests::{RequestBody, Requests, UNCOMPRESSED},
    server::Shared,
    stream::{Kind, XdsStream},
};

/// The aggregated service, as others name it.
pub(crate) const ADS: &str = Aggregated::NAME;

const fn sotw(name: &'static str) -> Method {
    Method { name, variant: Variant::Sotw, kind: Kind::Stream }
}

const fn delta(name: &'static str) -> Method {
    Method { name, variant: Variant::Delta, kind: Kind::Stream }
}

const fn fetch(name: &'static str) -> Method {
    Method { name, variant: Variant::Sotw, kind: Kind::Fetch }
}

/// What a service is called, what it can do, and of which type, if it is of one.
pub trait Discovery: sealed::Sealed {
    #[doc(hidden)]
    const NAME: &'static str;
    #[doc(hidden)]
    const TYPE_URL: Option<TypeUrl>;
}

mod sealed {
    use deltaplane_core::Variant;

    use crate::stream::Kind;

    pub trait Sealed {
        fn methods() -> &'static [Method];
    }

    /// A method of a service.
    #[derive(Debug, Clone, Copy)]
    pub struct Method {
        pub(super) name: &'static str,
        pub(super) variant: Variant,
        pub(super) kind: Kind,
    }
}

macro_rules! services {
    ($($(#[$doc:meta])* $service:ident = $name:literal, $type_url:expr, [$($method:expr),*];)*) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Clone, Copy)]
            #[non_exhaustive]
            pub struct $service;

            impl sealed::Sealed for $service {
                fn methods() -> &'static [Method] {
                    const METHODS: &[Method] = &[$($method),*];
                    METHODS
                }
            }

            impl Discovery for $service {
                const NAME: &'static str = $name;
                const TYPE_URL: Option<TypeUrl> = $type_url;
            }
        )*

        /// Their names.
        #[cfg(feature = "reflection")]
        pub(crate) const NAMES: &[&str] = &[$($name),*];

        /// The service that a path is of.
        pub(crate) fn find(path: &str) -> Option<Service> {
            match path.strip_prefix('/')?.split_once('/')?.0 {
                $($name => Some(Service::of::<$service>()),)*
                _ => None,
            }
        }

        /// Every service there is, for a tonic router.
        pub(crate) fn routes(shared: &Arc<Shared>) -> Routes {
            let mut routes = RoutesBuilder::default();
            $(routes.add_service(DiscoveryService::<$service>::new(shared.clone()));)*
            routes.routes()
        }
    };
}

services! {
    /// All types on one stream, in order.
    Aggregated = "envoy.service.discovery.v3.AggregatedDiscoveryService", None,
        [sotw("StreamAggregatedResources"), delta("DeltaAggregatedResources")];
    /// LDS.
    Listeners = "envoy.service.listener.v3.ListenerDiscoveryService", Some(TypeUrl::LISTENER),
        [sotw("StreamListeners"), delta("DeltaListeners"), fetch("FetchListeners")];
    /// RDS.
    RouteConfigurations = "envoy.service.route.v3.RouteDiscoveryService", Some(TypeUrl::ROUTE),
        [sotw("StreamRoutes"), delta("DeltaRoutes"), fetch("FetchRoutes")];
    /// SRDS.
    ScopedRoutes = "envoy.service.route.v3.ScopedRoutesDiscoveryService",
        Some(TypeUrl::SCOPED_ROUTE),
        [sotw("StreamScopedRoutes"), delta("DeltaScopedRoutes"), fetch("FetchScopedRoutes")];
    /// VHDS, which there is in delta only.
    VirtualHosts = "envoy.service.route.v3.VirtualHostDiscoveryService",
        Some(TypeUrl::VIRTUAL_HOST), [delta("DeltaVirtualHosts")];
    /// CDS.
    Clusters = "envoy.service.cluster.v3.ClusterDiscoveryService", Some(TypeUrl::CLUSTER),
        [sotw("StreamClusters"), delta("DeltaClusters"), fetch("FetchClusters")];
    /// EDS.
    Endpoints = "envoy.service.endpoint.v3.EndpointDiscoveryService", Some(TypeUrl::ENDPOINT),
        [sotw("StreamEndpoints"), delta("DeltaEndpoints"), fetch("FetchEndpoints")];
    /// LEDS, which there is in delta only.
    LocalityEndpoints = "envoy.service.endpoint.v3.LocalityEndpointDiscoveryService",
        Some(TypeUrl::LOCALITY_ENDPOINT), [delta("DeltaLocalityEndpoints")];
    /// SDS.
    Secrets = "envoy.service.secret.v3.SecretDiscoveryService", Some(TypeUrl::SECRET),
        [sotw("StreamSecrets"), delta("DeltaSecrets"), fetch("FetchSecrets")];
    /// RTDS.
    RuntimeLayers = "envoy.service.runtime.v3.RuntimeDiscoveryService", Some(TypeUrl::RUNTIME),
        [sotw("StreamRuntime"), delta("DeltaRuntime"), fetch("FetchRuntime")];
    /// ECDS.
    ExtensionConfigs = "envoy.service.extension.v3.ExtensionConfigDiscoveryService",
        Some(TypeUrl::EXTENSION_CONFIG),
        [
            sotw("StreamExtensionConfigs"),
            delta("DeltaExtensionConfigs"),
            fetch("FetchExtensionConfigs")
        ];
}

/// A discovery service, for `Router::add_service`. Clones serve the same content.
///
/// Made by [`XdsServer::service`](crate::XdsServer::service).
pub struct DiscoveryService<D> {
    shared: Arc<Shared>,
    discovery: PhantomData<fn() -> D>,
}

impl<D: Discovery> DiscoveryService<D> {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, discovery: PhantomData }
    }
}

/// A service, whichever it is.
pub(crate) struct Service {
    name: &'static str,
    methods: &'static [Method],
    type_url: Option<TypeUrl>,
}

impl Service {
    fn of<D: Discovery>() -> Self {
        Self { name: D::NAME, methods: D::methods(), type_url: D::TYPE_URL }
    }

    /// Answers a request of a connection of our own.
    pub(crate) fn answer(
        self,
        shared: &Arc<Shared>,
        request: http::Request<Incoming>,
    ) -> http::Response<ResponseBody> {
        self.open(shared, request).unwrap_or_else(Status::into_http)
    }

    /// Opens a stream.
    fn open(
        self,
        shared: &Arc<Shared>,
        request: http::Request<impl Into<RequestBody>>,
    ) -> Result<http::Response<ResponseBody>, Status> {
        let called = request.uri().path().rsplit_once('/').map_or("", |(_, method)| method);
        let method = self.methods.iter().find(|method| method.name == called);
        let Some(Method { variant, kind, .. }) = method.copied() else {
            let message =
                format!("{} has no method {called:?}; this server speaks xDS v3", self.name);
            return Err(Status::unimplemented(message));
        };
        let header = |name: &str| request.headers().get(name)?.to_str().ok();
        if header("grpc-encoding").is_some_and(|encoding| encoding != "identity") {
            return Err(Status::unimplemented(UNCOMPRESSED));
        }
        let accepts_gzip = header("grpc-accept-encoding").is_some_and(|accepted| {
            accepted.split(',').any(|encoding| encoding.trim() == gzip::NAME)
        });
        let compresses_above = shared.compresses_above.filter(|_| accepts_gzip);
        let is_aggregated = self.type_url.is_none();
        let seat = Seat::take(shared, request.extensions().get().cloned())?;
        let credentials = Credentials::of(request.headers(), request.extensions());
        let limit = shared.limits.request_size;
        let requests = Requests::new(request.into_body().into(), variant, self.type_url, limit);
        let mut stream = XdsStream::new(
            shared.clone(),
            seat,
            requests,
            variant,
            kind,
            is_aggregated,
            credentials,
        );
        stream.compress_above(compresses_above);
        let mut response = http::Response::new(ResponseBody::new(stream));
        let content_type = HeaderValue::from_static("application/grpc");
        response.headers_mut().insert(CONTENT_TYPE, content_type);
        if compresses_above.is_some() {
            response.headers_mut().insert("grpc-encoding", HeaderValue::from_static(gzip::NAME));
        }
        Ok(response)
    }
}

impl<D> Clone for DiscoveryService<D> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), discovery: PhantomData }
    }
}

impl<D: Discovery> fmt::Debug for DiscoveryService<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DiscoveryService").field(&D::NAME).finish()
    }
}

impl<D: Discovery> NamedService for DiscoveryService<D> {
    const NAME: &'static str = D::NAME;
}

impl<D: Discovery> tower_service::Service<http::Request<Body>> for DiscoveryService<D> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let opened = Service::of::<D>().open(&self.shared, request);
        ready(Ok(opened.map_or_else(Status::into_http, |response| response.map(Body::new))))
    }
}
