//! Serve Envoy and gRPC fleets over xDS: State of the World and delta, every ACK and NACK tracked.
//!
//! This is the crate to depend on: it re-exports `deltaplane-core`, the protocol, and
//! `deltaplane-cache`, the content.
//!
//! ```no_run
//! use deltaplane_server::{Cache, Transaction, XdsServer, envoy};
//! use deltaplane_server::envoy_types::pb::envoy::config::cluster::v3::Cluster;
//! use tokio::net::TcpListener;
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let cache = Cache::new();
//! let mut transaction = Transaction::new();
//! transaction.upsert("default", envoy::resource(&Cluster { name: "shop".into(), ..Default::default() }));
//! cache.commit(transaction)?;
//!
//! let listener = TcpListener::bind("127.0.0.1:18000").await?;
//! let stop = async { let _ = tokio::signal::ctrl_c().await; };
//! XdsServer::builder(cache).build().serve(listener, stop).await?;
//! # Ok(()) }
//! ```
//!
//! # Features
//!
//! None is on unless it is asked for.
//!
//! | feature | what it adds |
//! | --- | --- |
//! | `csds` | client status (CSDS) on the port, and as a service for a router of your own |
//! | `gzip` | `XdsServerBuilder::compress_above`, for responses to who accepts it |
//! | `reflection` | gRPC server reflection on the port |
//! | `rest` | `XdsServer::poll`, for clients that poll by HTTP; with it comes `csds` |
//! | `testing` | the module `testing`: a model client, to test a control plane with |
//! | `tls` | `XdsServer::serve_tls`, by rustls with ring |
//! | `validation` | the module `validation`: what is wrong with resources before clients see them; and `envoy::descriptors` |
//!
//! # What becomes of a change
//!
//! Changes reach an aggregated stream in make-before-break order, with evidence ([`Order`]): a route waits
//! until its new clusters can be used, and a cluster stays as long as something may use it. What a client
//! rejects is not sent again until it changes; its good siblings are.
//!
//! A stream remembers what its client may use; a server that starts anew knows what its source tells it. So
//! that a swap goes on over a restart without a failed request, a source says at first what it removed of
//! late, as a commit of its own, and then the removal. What no server can know is what a listener led to
//! by itself that changed before the restart, and still drains.
//!
//! [`XdsServer::delivery`] and [`XdsServer::wait`] say who has settled at a revision, who rejected it and
//! why; [`XdsServer::clients`], what each client was told and accepted. [`Cache::undo`] and
//! [`Cache::return_to`] take commits back, [`XdsServerBuilder::withdraw_rejected`] does so by itself, and
//! [`XdsServer::roll_out`] tries a change on some nodes before the others see it.
//!
//! # Names, and what is not there yet
//!
//! Names that begin with `xdstp:` say to which collection a resource belongs; a client subscribes to its members
//! by a glob, and a change costs what changed in it. Other names are opaque. Virtual hosts are called
//! `<routes>/<host>`, and have what the client asks for, `<routes>/<domain>`, for an
//! [alias](ResourceBuilder::aliases).
//!
//! A resource [on demand](Resource::on_demand) is covered by no wildcard and no glob.
//! [`XdsServerBuilder::on_demand`] has names looked for that clients ask for and that are not there.
//! [`XdsServerBuilder::time_to_live`] says which clients are told of a resource's
//! [time to live](ResourceBuilder::ttl), and [`XdsServerBuilder::resource_errors`] which are told that a name does not
//! exist.
//!
//! # What else is on the port
//!
//! Beside discovery, [`XdsServer::serve`] has gRPC health; load reports (LRS), if it is told to ask for them
//! by [`XdsServerBuilder::load_reports`]; client status (CSDS) behind the feature `csds`, for `grpcdebug` and
//! the like; server reflection behind the feature `reflection`; and what you add by
//! [`XdsServerBuilder::services`].
//!
//! # Who is served
//!
//! Everybody who can connect, unless [`XdsServer::serve_tls`] asks for certificates, or an [`Authorizer`] says
//! who may have what, by certificate, token and node. On an address that others reach, have both.
//! [`Limits`] say how many there may be of clients and of what they ask for.
//!
//! # Several replicas
//!
//! They need not know of each other: equal content has equal versions, so any of them goes on with any client.
//! [`Aging`] and [a fair share](XdsServer::set_fair_share) have clients spread over them, and [`Drain`] says how
//! one of them leaves. A client that left a replica which was ahead is not told less by one that lags:
//! [`XdsServerBuilder::catch_up`].
//!
//! Each knows its own clients only: [`XdsServer::delivery`], [`XdsServer::wait`] and [`XdsServer::clients`] are
//! about those that are connected to this replica, and [`XdsServer::roll_out`] has its canary among them. To
//! know what all run, ask each replica and put the answers together.
//!
//! # Layout
//!
//! * `server`: a cache, and the rule of who sees what; in `builder`, how it is made
//! * `limits`: what clients may ask of it
//! * `serve`: where connections are accepted
//! * `connections`: how many there are, how long each lives, and how it ends
//! * `memory`: how much of it there may be in use
//! * `peer`: who is at the other end of one
//! * `tls`: how that is made sure of, behind the feature of that name
//! * `authorizer`: who is served, and with what
//! * `spread`: times that are not the same for all
//! * `discovery`: the services, on these or on any tonic router
//! * `body`: the body of a response, which drives a stream when HTTP/2 asks for more
//! * `requests`: what a client says, read from the body of its request
//! * `stream`: one stream; in `admission`, who its client is and what it sees, in `searches`, what is looked
//!   for because it asks, and in `telling`, what others are told of it
//! * `gzip`: compression, behind the feature of that name
//! * `pace`: how soon a client is told of a change; `rate`: how often it may ask
//! * `on_demand`: what is looked for only when a client asks for it
//! * `withdrawal`: what is taken back by itself
//! * `rollout`: what goes to some first; in `changed`, what a change is to them, and to all
//! * `rejections`: who left with something rejected
//! * `client`: a client, and who hears of it
//! * `status`: who is connected, and what each was told and accepted
//! * `csds`: the same for generic tools, behind the feature of that name
//! * `delivery`: what became of a change
//! * [`envoy`]: what is known of the Envoy API
//! * [`bootstraps`]: how clients are told of a server
//! * `rest`: what is polled by HTTP, behind the feature of that name
//! * `load`: what clients report of the traffic that they send
//! * `validation`: what is wrong with resources before anybody sees them, behind the feature of that name
//! * `testing`: a model client, behind the feature of that name
//!
//! # Statements declined
//!
//! Of what the xDS protocol demands of a server, by the [`statements`] after which tests are named (`D-06`),
//! every MUST that one stream can hold to has a test,
//! but for those whose condition does not hold here. Of what it recommends, these are declined:
//!
//! * S-15: endpoints are not made up for a cluster that has none. Resources are opaque here, so whoever
//!   puts a cluster that gets its endpoints by EDS into the cache puts a `ClusterLoadAssignment` beside it,
//!   be it one with nothing but its name, and
//!   the module `validation` says if there is none. In delta a missing one is answered as removed (D-04), which ends
//!   Envoy's wait as well.
//! * V-06: virtual hosts are not sent again behind a changed route configuration; Envoy keeps them.
//! * P-02: there are no variants of a resource, so that none is chosen by what a client knows of itself.
//! * P-03: for the same reason.

mod authorizer;
mod body;
#[doc = include_str!("bootstraps.md")]
pub mod bootstraps {}
mod client;
mod connections;
#[cfg(feature = "csds")]
mod csds;
mod delivery;
mod discovery;
pub mod envoy;
mod gzip;
mod limits;
mod load;
mod memory;
mod on_demand;
mod pace;
mod peer;
mod rate;
mod rejections;
mod requests;
#[cfg(feature = "rest")]
mod rest;
mod rollout;
mod serve;
mod server;
mod spread;
mod status;
mod stream;
#[cfg(feature = "testing")]
pub mod testing;
#[cfg(feature = "tls")]
mod tls;
#[cfg(feature = "validation")]
pub mod validation;
mod withdrawal;

pub use authorizer::{Authorizer, Caller, Grant};
pub use client::{Client, ClientEvent, Observer};
pub use connections::{Aging, Occupancy};
#[cfg(feature = "csds")]
pub use csds::StatusService;
pub use delivery::{Delivery, Fate, HowMany};
pub use deltaplane_cache::*;
pub use deltaplane_core::*;
pub use discovery::{
    Aggregated, Clusters, Discovery, DiscoveryService, Endpoints, ExtensionConfigs, Listeners,
    LocalityEndpoints, RouteConfigurations, RuntimeLayers, ScopedRoutes, Secrets, VirtualHosts,
};
pub use envoy_types;
pub use limits::Limits;
pub use load::{Load, LoadKey, LoadReporting, LoadService, LocalityKey, LocalityLoad};
pub use on_demand::{Found, OnDemand, Wanted};
pub use pace::Pace;
pub use peer::{BearerToken, Peer};
#[cfg(feature = "tls")]
pub use peer::{Certificate, UnreadableCertificate};
pub use rollout::{Canary, Rollout};
#[cfg(feature = "tls")]
pub use rustls;
pub use serve::{Drain, Keepalive};
pub use server::{XdsServer, XdsServerBuilder};
pub use status::{ClientResource, ClientStatus, Rejection, TypeStatus};
#[cfg(feature = "tls")]
pub use tls::Tls;
pub use withdrawal::Withdrawal;

/// The package's page, whose example is compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
