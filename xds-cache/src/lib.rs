//! What the fleet should see, and since when: a revisioned, layered cache of xDS resources.
//!
//! Resources are keyed by scope, type and name. A [`Transaction`] changes any number of them; its commit
//! is one [`Revision`](deltaplane_core::Revision), which readers see all of or none of, and which wakes
//! only whom it concerns. A log for each scope and type tells a reader what changed since it last
//! looked, so that its cost follows the change and not what exists.
//!
//! A client sees a [`CacheView`]: scopes in an order, of which the first that has a name wins.
//!
//! *Unknown* is not *empty*. A scope that nothing was ever said of is unknown, as is a type that was
//! [declared](Transaction::declare) and not filled; clients that see it get silence. A type that was
//! filled with nothing, or that nothing was said of in a known scope, is empty, which is an answer.
//!
//! ```
//! use std::sync::Arc;
//! use deltaplane_cache::{Cache, Scope, Transaction};
//! use deltaplane_core::{Resource, TypeUrl, View};
//!
//! let cache = Cache::new();
//! let mut transaction = Transaction::new();
//! transaction.upsert("default", Resource::raw(TypeUrl::CLUSTER, "shop", vec![]).build());
//! let commit = cache.commit(transaction)?;
//! assert_eq!(commit.changes, 1);
//!
//! let scopes: Arc<[Scope]> = Arc::from(["canary".into(), "default".into()]);
//! let view = cache.view(&scopes);
//! assert!(view.get(&TypeUrl::CLUSTER, "shop").is_some());
//! # Ok::<(), deltaplane_cache::CommitError>(())
//! ```
//!
//! # Layout
//!
//! * `transaction`: what a writer says
//! * `layer`: one type in one scope, with its `log` of commits; `reverts`: what went back to what it was
//! * `references`: who in a layer refers to whom
//! * `state`: everything at one revision, and how a transaction makes the next
//! * `preview`: what a transaction would make of it
//! * `rollback`: what takes commits back
//! * `cache`: the current state, and who may replace it
//! * `view`: what one client sees; `memo`: what several ask of that, found once
//! * `watch`: who is woken

mod cache;
mod layer;
mod log;
mod memo;
mod preview;
mod references;
mod reverts;
mod rollback;
mod state;
mod transaction;
mod view;
mod watch;

pub use cache::Cache;
pub use preview::Preview;
pub use rollback::{CommitRecord, RollbackError};
pub use transaction::{Commit, CommitError, Scope, Transaction};
pub use view::CacheView;
pub use watch::{Concern, Watch};

/// The package's page, whose example is run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
