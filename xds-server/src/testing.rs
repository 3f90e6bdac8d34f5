//! A model client, to test a control plane with: no Envoy, and no port unless you want one.
//!
//! It subscribes, looks at what it gets, and acknowledges or rejects it, in either variant; and it knows
//! what a client would run by then. Over a [cache](ModelClient::over) it is synchronous, with the protocol
//! machine running in the test itself; over a [connection](ModelClient::connect) it talks to any server.
//!
//! What is not as expected panics, with what was there instead.
//!
//! ```
//! use deltaplane_server::testing::ModelClient;
//! use deltaplane_server::{Cache, Transaction, TypeUrl, Variant, envoy};
//! use deltaplane_server::envoy_types::pb::envoy::config::cluster::v3::Cluster;
//!
//! // What a control plane of yours would do.
//! let cache = Cache::new();
//! let cluster = Cluster { name: "shop".into(), alt_stat_name: "s".into(), ..Default::default() };
//! let mut transaction = Transaction::new();
//! transaction.upsert("default", envoy::resource(&cluster));
//! cache.commit(transaction)?;
//!
//! // What an Envoy would see of it.
//! let mut client = ModelClient::over(&cache, ["default"], Variant::Delta);
//! client.subscribe(TypeUrl::CLUSTER, &[]);
//! let update = client.expect(TypeUrl::CLUSTER);
//! assert_eq!(update.names(), ["shop"]);
//! assert_eq!(update.decode::<Cluster>("shop").alt_stat_name, "s");
//! client.ack(&update);
//! client.silence();
//!
//! // A rejected response is not sent again, and leaves what runs as it was.
//! let mut transaction = Transaction::new();
//! transaction.remove("default", TypeUrl::CLUSTER, "shop");
//! cache.commit(transaction)?;
//! let update = client.expect(TypeUrl::CLUSTER);
//! assert_eq!(update.removed, ["shop"]);
//! client.nack(&update, "over my dead body");
//! client.silence();
//! assert_eq!(client.running(&TypeUrl::CLUSTER).count(), 1);
//! # Ok::<(), deltaplane_server::CommitError>(())
//! ```
//!
//! # Layout
//!
//! * [`ModelClient`]: what all model clients can do
//! * `model`: what a client says and holds, without IO
//! * `connection`: a client over gRPC

#![allow(clippy::panic, clippy::expect_used, reason = "a test that cannot go on fails")]

mod connection;
mod model;

use std::sync::Arc;

use bytes::BytesMut;
use deltaplane_cache::{Cache, CacheView, Scope};
use deltaplane_core::{Machine, Request, TypeUrl, Variant};

pub use self::{
    connection::Connection,
    model::{Received, Update},
};
use self::{model::Model, sealed::Transport};

/// A client that does what a test tells it; see the [module](self).
#[derive(Debug)]
pub struct ModelClient<T> {
    model: Model,
    transport: T,
}

/// A machine over a cache, in the test itself.
#[derive(Debug)]
pub struct InMemory {
    cache: Cache,
    scopes: Arc<[Scope]>,
    machine: Machine<CacheView>,
}

mod sealed {
    /// Takes requests to a server.
    pub trait Transport {
        fn send(&mut self, request: deltaplane_core::Request);
    }
}

impl<T: Transport> ModelClient<T> {
    /// Subscribes to these names of a type, besides what is subscribed already. No names at all mean
    /// everything, as far as the type has that.
    ///
    /// # Panics
    /// Over a cache, if the server would end the stream for it; so do [`unsubscribe`](Self::unsubscribe),
    /// [`ack`](Self::ack) and [`nack`](Self::nack).
    #[track_caller]
    pub fn subscribe(&mut self, type_url: impl Into<TypeUrl>, names: &[&str]) {
        self.transport.send(self.model.subscribe(&type_url.into(), names));
    }

    /// Gives up these names of a type; `*` is the name of everything.
    pub fn unsubscribe(&mut self, type_url: impl Into<TypeUrl>, names: &[&str]) {
        self.transport.send(self.model.unsubscribe(&type_url.into(), names));
    }

    /// Accepts a response: from now on, the client runs it.
    pub fn ack(&mut self, update: &Update) {
        self.transport.send(self.model.accept(update));
    }

    /// Rejects a response, in these words: the client goes on with what it ran.
    pub fn nack(&mut self, update: &Update, words: &str) {
        self.transport.send(self.model.reject(update, words));
    }

    /// What the client runs of a type, by name: all that it accepted, and neither removed nor gave up.
    pub fn running(&self, type_url: &TypeUrl) -> impl Iterator<Item = &Received> {
        self.model.running(type_url)
    }

    /// The update must be there, and of this type.
    #[track_caller]
    fn check(&self, type_url: &TypeUrl, update: Option<Update>) -> Update {
        match update {
            Some(update) if update.type_url == *type_url => update,
            other => panic!("expected an update of {type_url}, but got {other:?}"),
        }
    }
}

impl ModelClient<InMemory> {
    /// A client that sees these scopes of a cache, the first over the others.
    #[must_use]
    pub fn over(
        cache: &Cache,
        scopes: impl IntoIterator<Item = impl Into<Scope>>,
        variant: Variant,
    ) -> Self {
        let scopes = scopes.into_iter().map(Into::into).collect();
        let transport = InMemory { cache: cache.clone(), scopes, machine: Machine::new(variant) };
        Self { model: Model::new(variant), transport }
    }

    /// What the server has to say next, if anything.
    ///
    /// # Panics
    /// If so much was committed since the last call that a real stream would be ended, to start again.
    #[track_caller]
    pub fn poll(&mut self) -> Option<Update> {
        let InMemory { cache, scopes, machine } = &mut self.transport;
        let response = machine.poll_response(&cache.view(scopes));
        let response = response.expect("the client should have looked earlier");
        response.map(|response| {
            let mut message = BytesMut::with_capacity(response.encoded_len());
            response.encode_head(&mut message);
            message.extend_from_slice(&response.body);
            self.model.read(message.freeze())
        })
    }

    /// What the server has to say next.
    ///
    /// # Panics
    /// If that is nothing, or of another type.
    #[track_caller]
    pub fn expect(&mut self, type_url: impl Into<TypeUrl>) -> Update {
        let update = self.poll();
        self.check(&type_url.into(), update)
    }

    /// The server must have nothing to say.
    ///
    /// # Panics
    /// If it has.
    #[track_caller]
    pub fn silence(&mut self) {
        if let Some(update) = self.poll() {
            panic!("expected silence, but got {update:?}");
        }
    }
}

impl Transport for InMemory {
    fn send(&mut self, request: Request) {
        if let Err(error) = self.machine.handle_request(request) {
            panic!("the server would end the stream: {error}");
        }
    }
}
