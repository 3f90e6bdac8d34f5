//! What is wrong with resources, before anybody sees them.
//!
//! A [`Validator`] looks at what a transaction changes, and at what refers to that, and reports each
//! [`Problem`] that it finds; its [`Policy`] says what then becomes of the transaction:
//!
//! ```
//! use deltaplane_server::{
//!     Cache, Transaction, envoy,
//!     validation::{Policy, Refusal, Validator},
//! };
//! use deltaplane_server::envoy_types::pb::envoy::config::cluster::v3::Cluster;
//!
//! let cache = Cache::new();
//! let validator = Validator::new(Policy::Refuse);
//! let mut transaction = Transaction::new();
//! transaction.upsert("default", envoy::resource(&Cluster { name: "shop".into(), ..Default::default() }));
//! let (commit, _) = validator.commit(&cache, transaction)?;
//! assert_eq!(commit.changes, 1);
//!
//! let mut transaction = Transaction::new();
//! let bytes = Vec::from(b"no cluster");
//! transaction.upsert("default", envoy::raw(deltaplane_server::TypeUrl::CLUSTER, "shop", bytes).build());
//! assert!(matches!(validator.commit(&cache, transaction), Err(Refusal::Invalid(_))));
//! # Ok::<(), Refusal>(())
//! ```
//!
//! Names that come twice in one replacement need no validator: the cache itself refuses them, as
//! [`CommitError::Duplicate`]. Of a key that is upserted twice, the last is what counts.

mod contents;
mod problem;
mod rule;
mod rules;

use std::{collections::BTreeMap, fmt, sync::Arc};

use deltaplane_cache::{Cache, CacheView, Commit, CommitError, Preview, Scope, Transaction};
use deltaplane_core::{Change, Key, TypeUrl, View};

use self::contents::Contents;
pub use self::problem::{Problem, Report, Severity};

/// What becomes of a transaction that has a problem, of whatever severity.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Policy {
    /// It is refused whole, and nothing of it is done.
    Refuse,
    /// It is committed, and its problems are reported and logged. The default: it tells, and takes
    /// nothing away from whoever lived with a problem so far.
    #[default]
    Warn,
    /// It is committed, and nobody looks.
    Off,
}

/// Why a transaction was not committed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// It contradicts itself.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// It has problems, and the policy is [`Policy::Refuse`].
    #[error("the transaction is refused, and nothing of it was done:\n{0}")]
    Invalid(Report),
}

/// Looks for problems in what transactions change.
///
/// Costs what changes and what refers to it: each changed resource is decoded once, outside of the
/// cache's lock, and each reference that leads to or from it is looked up once in each view concerned.
/// What exists besides is never visited, so a problem is reported by the transaction that brings it about
/// and by no later one.
#[derive(Clone)]
pub struct Validator {
    policy: Policy,
    views: Arc<ViewsOf>,
}

/// The views that a scope plays a part in.
type ViewsOf = dyn Fn(&Scope) -> Vec<Arc<[Scope]>> + Send + Sync;

impl Validator {
    /// A validator that takes each scope for a view of its own.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        Self { policy, views: Arc::new(|scope| vec![Arc::from([scope.clone()])]) }
    }

    /// Says through which views references are judged when a scope changes: what is missing in one scope
    /// may be there in another of the same view. Where many clients have views of their own, a few that
    /// stand for them will do: the cost is that of each.
    #[must_use]
    pub fn views(
        mut self,
        views: impl Fn(&Scope) -> Vec<Arc<[Scope]>> + Send + Sync + 'static,
    ) -> Self {
        self.views = Arc::new(views);
        self
    }

    /// Commits a transaction as far as the policy allows, and reports its problems. What refers to what
    /// is judged under the cache's lock, so that no other commit takes away what was there.
    ///
    /// # Errors
    /// If the transaction contradicts itself; or has a problem, and the policy is to refuse it.
    pub fn commit(
        &self,
        cache: &Cache,
        transaction: Transaction,
    ) -> Result<(Commit, Report), Refusal> {
        if self.policy == Policy::Off {
            return Ok((cache.commit(transaction)?, Report::default()));
        }
        let mut contents = Contents::default();
        contents.read(&cache.preview(&transaction)?);
        let mut report = Report::default();
        let commit = cache.commit_if(transaction, |preview| {
            report = self.report(preview, contents);
            if self.policy == Policy::Refuse && !report.is_empty() {
                return Err(Refusal::Invalid(std::mem::take(&mut report)));
            }
            Ok(())
        })?;
        if !report.is_empty() {
            tracing::warn!(revision = commit.revision.0, "committed with problems:\n{report}");
        }
        Ok((commit, report))
    }

    /// What is wrong with what a transaction would change, whatever the policy. For those who commit by
    /// themselves: see [`Cache::commit_if`].
    #[must_use]
    pub fn check(&self, preview: &Preview) -> Report {
        self.report(preview, Contents::default())
    }

    /// Contents that were read before are not read again.
    fn report(&self, preview: &Preview, mut contents: Contents) -> Report {
        contents.read(preview);
        Report::new(contents.into_problems().chain(self.missing(preview)))
    }

    /// What is referred to and not there.
    fn missing(&self, preview: &Preview) -> impl Iterator<Item = Problem> {
        let mut missing = Missing::default();
        for (scope, type_url, changes) in preview.changes() {
            for scopes in (self.views)(scope) {
                let (before, after) = (preview.before(&scopes), preview.after(&scopes));
                if !before.is_known(type_url) && after.is_known(type_url) {
                    missing.judge_type(&after, type_url);
                }
                for change in changes {
                    missing.judge_change(&before, &after, type_url, change);
                }
            }
        }
        missing.0.into_values()
    }
}

impl fmt::Debug for Validator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Validator").field("policy", &self.policy).finish_non_exhaustive()
    }
}

/// References that lead nowhere, each once, in whatever views they are seen.
#[derive(Default)]
struct Missing(BTreeMap<(Key, Key), Problem>);

impl Missing {
    /// A change as it is seen through a view: what is there now, and lacks something, or what is not
    /// there any more, and is lacked.
    fn judge_change(
        &mut self,
        before: &CacheView,
        after: &CacheView,
        type_url: &TypeUrl,
        change: &Change,
    ) {
        let key = Key::new(type_url.clone(), change.name.clone());
        let (was, is) = (before.get(type_url, &change.name), after.get(type_url, &change.name));
        if was == is {
            return;
        }
        for to in is.iter().flat_map(|is| is.references()) {
            self.judge(after, &key, to);
        }
        let names = was.iter().flat_map(|was| std::iter::once(was.name()).chain(was.aliases()));
        for gone in names.map(|name| Key::new(type_url.clone(), name.clone())) {
            // Whether it is, is the same for all who refer to it.
            if after.resolve(type_url, &gone.name).is_none() {
                after.referrers(&gone).for_each(|from| self.judge(after, &from, &gone));
            }
        }
    }

    /// A type of which nobody could say what it lacks, as long as its source was silent.
    fn judge_type(&mut self, after: &CacheView, type_url: &TypeUrl) {
        for (from, to) in after.references_into(type_url) {
            self.judge(after, &from, &to);
        }
    }

    fn judge(&mut self, after: &CacheView, from: &Key, to: &Key) {
        if after.is_known(&to.type_url) && after.resolve(&to.type_url, &to.name).is_none() {
            let problem = || Problem::missing(after, from, to);
            self.0.entry((from.clone(), to.clone())).or_insert_with(problem);
        }
    }
}
