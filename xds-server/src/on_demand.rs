//! What is looked for only when a client asks for it by name.

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak},
    time::Duration,
};

use deltaplane_cache::{Cache, CommitError, Scope, Transaction};
use deltaplane_core::{ErrorDetail, Key, Resource, TypeUrl, View};
use tokio::time::{Instant, sleep, timeout};
use tonic::Code;

use crate::client::Client;

/// A name that a client asks for, and of which there is nothing.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Wanted {
    /// What it asks for.
    pub key: Key,
    /// Who asked first; others may wait for the same.
    pub client: Arc<Client>,
}

/// What came of looking for a name.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Found {
    /// It was committed, or there is nothing to commit: what the cache has now is the answer.
    Done,
    /// These are to be seen in a scope, as long as somebody asks for one of them: a cluster with its
    /// endpoints, for example. They are committed in one transaction, [on demand](Resource::on_demand).
    Resources(Scope, Vec<Resource>),
    /// The client may not have it, for this reason (`PERMISSION_DENIED`).
    Denied(String),
    /// It cannot be told for now, for this reason (`UNAVAILABLE`).
    Unavailable(String),
}

/// What is asked, if there is nothing of a name.
type Search = dyn Fn(Wanted) -> Pin<Box<dyn Future<Output = Found> + Send>> + Send + Sync;

/// Looks for what clients ask for by name and is not there: clusters for Envoy's ODCDS, virtual hosts for its
/// VHDS, and what else an embedder can make when it is needed (V-04 to V-09).
///
/// The client's answer waits for the search, up to a limit; what is there is not held up. If nothing comes of
/// it the client is told so, and may fail its requests at once. What is found later is sent when it is.
///
/// ```
/// use deltaplane_server::{Cache, Found, OnDemand, TypeUrl, XdsServer, envoy};
/// use deltaplane_server::envoy_types::pb::envoy::config::cluster::v3::Cluster;
///
/// let clusters = OnDemand::new([TypeUrl::CLUSTER], |wanted| async move {
///     match wanted.key.name.strip_prefix("tenant-") {
///         None => Found::Done,
///         Some(_) => {
///             let cluster = Cluster { name: wanted.key.name.to_string(), ..Default::default() };
///             Found::Resources("default".into(), vec![envoy::resource(&cluster)])
///         }
///     }
/// });
/// let server = XdsServer::builder(Cache::new()).on_demand(clusters).build();
/// ```
pub struct OnDemand {
    types: Vec<TypeUrl>,
    search: Box<Search>,
    limit: Duration,
    keep: Duration,
    most: usize,
}

impl OnDemand {
    /// Asks `search` for names of these types. It is asked once for all who see the same scopes and wait for
    /// the same name, on a task of its own.
    pub fn new<F>(
        types: impl IntoIterator<Item = TypeUrl>,
        search: impl Fn(Wanted) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Found> + Send + 'static,
    {
        Self {
            types: types.into_iter().collect(),
            search: Box::new(move |wanted| Box::pin(search(wanted))),
            limit: Duration::from_secs(4),
            keep: Duration::from_secs(300),
            most: 1_000,
        }
    }

    /// How long a client's answer waits at most; 4 s unless set, since Envoy gives a request up that has
    /// waited 5 s for its cluster. The search goes on after that.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// How many names are looked for at once, for all clients together; 1,000 unless set. Who asks for more is
    /// answered as if there were nothing, so that nobody is worn out by clients that make names up.
    #[must_use]
    pub fn most(mut self, most: usize) -> Self {
        self.most = most;
        self
    }

    /// How long [`Found::Resources`] stay when nobody asks for any of them any more; 5 min unless set.
    #[must_use]
    pub fn keep(mut self, keep: Duration) -> Self {
        self.keep = keep;
        self
    }
}

impl fmt::Debug for OnDemand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnDemand")
            .field("types", &self.types)
            .field("limit", &self.limit)
            .field("keep", &self.keep)
            .field("most", &self.most)
            .finish_non_exhaustive()
    }
}

/// What is being looked for, and what was found and is still kept.
pub(crate) struct Searches {
    cache: Cache,
    on_demand: OnDemand,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    underway: HashMap<(Arc<[Scope]>, Key), Outcome>,
    kept: Vec<Kept>,
    /// As much is looked for as may be.
    is_too_much: bool,
    /// A task looks after what is kept.
    is_tended: bool,
}

/// What came of a search, once something did: nothing more, or why the name is not there.
pub(crate) type Outcome = Arc<OnceLock<Option<ErrorDetail>>>;

/// What was found together.
struct Kept {
    scope: Scope,
    resources: Vec<Resource>,
    /// Since when nobody asks for any of it.
    unasked: Option<Instant>,
}

impl Searches {
    pub(crate) fn new(cache: Cache, on_demand: OnDemand) -> Self {
        Self { cache, on_demand, state: Mutex::default() }
    }

    /// Looks for a name, if it is of a type for which somebody does, or joins who waits for it already.
    pub(crate) fn begin(self: &Arc<Self>, client: &Arc<Client>, key: &Key) -> Option<Outcome> {
        if !self.on_demand.types.contains(&key.type_url) {
            return None;
        }
        let mut state = self.state();
        let is_too_much = state.underway.len() >= self.on_demand.most;
        let was_too_much = std::mem::replace(&mut state.is_too_much, is_too_much);
        match state.underway.entry((client.scopes.clone(), key.clone())) {
            Entry::Occupied(entry) => Some(entry.get().clone()),
            Entry::Vacant(_) if is_too_much => {
                if !was_too_much {
                    let most = self.on_demand.most;
                    tracing::warn!(
                        most,
                        name = &*key.name,
                        "too much is looked for on demand at once"
                    );
                }
                Some(Arc::new(OnceLock::from(Some(unavailable("too much is looked for already")))))
            }
            Entry::Vacant(entry) => {
                let outcome = entry.insert(Outcome::default()).clone();
                let wanted = Wanted { key: key.clone(), client: client.clone() };
                tokio::spawn(self.clone().search(wanted, outcome.clone()));
                Some(outcome)
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn search(self: Arc<Self>, wanted: Wanted, outcome: Outcome) {
        let (scopes, key) = (wanted.client.scopes.clone(), wanted.key.clone());
        // It ends also if the embedder's part panics.
        let _ending = Ending { searches: &self, scopes: &scopes, key: &key, outcome: &outcome };
        let mut searching = (self.on_demand.search)(wanted);
        let found = match timeout(self.on_demand.limit, &mut searching).await {
            Ok(found) => found,
            Err(_) => {
                let late = "it was not found in time, and is still looked for";
                let _ = outcome.set(Some(unavailable(late)));
                self.cache.wake(&scopes, &key);
                searching.await
            }
        };
        let failure = self.take(found, &key);
        let _ = outcome.set(failure);
    }

    /// Takes up what was found; returns why nothing was.
    fn take(self: &Arc<Self>, found: Found, key: &Key) -> Option<ErrorDetail> {
        match found {
            Found::Done => None,
            Found::Denied(reason) => Some(error(Code::PermissionDenied, reason)),
            Found::Unavailable(reason) => Some(unavailable(reason)),
            Found::Resources(scope, resources) => {
                let resources = resources.into_iter().map(Resource::on_demand).collect();
                self.keep(scope, resources).err().map(|error| {
                    tracing::warn!(name = &*key.name, %error, "what was found on demand is no good");
                    unavailable("what was found cannot be served")
                })
            }
        }
    }

    fn keep(self: &Arc<Self>, scope: Scope, resources: Vec<Resource>) -> Result<(), CommitError> {
        self.commit(&scope, &resources)?;
        let mut state = self.state();
        state.kept.push(Kept { scope, resources, unasked: None });
        if !std::mem::replace(&mut state.is_tended, true) {
            tokio::spawn(tend(Arc::downgrade(self), self.on_demand.keep / 4));
        }
        Ok(())
    }

    fn commit(&self, scope: &Scope, resources: &[Resource]) -> Result<(), CommitError> {
        let mut transaction = Transaction::new();
        for resource in resources {
            transaction.upsert(scope.clone(), resource.clone());
        }
        self.cache.commit(transaction).map(|_| ())
    }

    /// Removes what nobody asks for any more; says whether something is left.
    fn tend(&self) -> bool {
        let (keep, now) = (self.on_demand.keep, Instant::now());
        let mut over = Vec::new();
        let mut state = self.state();
        for mut kept in std::mem::take(&mut state.kept) {
            let since = kept.unasked.take().filter(|_| !self.is_asked_for(&kept));
            kept.unasked = since.or_else(|| (!self.is_asked_for(&kept)).then_some(now));
            match kept.unasked {
                Some(since) if now - since >= keep => over.push(kept),
                _ => state.kept.push(kept),
            }
        }
        drop(state);
        let mut back = Vec::new();
        for kept in over {
            self.remove(&kept);
            // Somebody may have asked for it just then.
            if self.is_asked_for(&kept) && self.commit(&kept.scope, &kept.resources).is_ok() {
                back.push(Kept { unasked: None, ..kept });
            }
        }
        let mut state = self.state();
        state.kept.extend(back);
        state.is_tended = !state.kept.is_empty();
        state.is_tended
    }

    fn is_asked_for(&self, kept: &Kept) -> bool {
        kept.resources.iter().any(|resource| {
            let names = std::iter::once(resource.name()).chain(resource.aliases());
            let mut keys = names.map(|name| Key::new(resource.type_url().clone(), name.clone()));
            keys.any(|key| self.cache.is_watched(&kept.scope, &key))
        })
    }

    /// Removes what is still as it was found: who put something else in its place, keeps that.
    fn remove(&self, kept: &Kept) {
        let view = self.cache.view(&Arc::from([kept.scope.clone()]));
        let mut transaction = Transaction::new();
        for resource in &kept.resources {
            if view.get(resource.type_url(), resource.name()).as_ref() == Some(resource) {
                let (scope, type_url) = (kept.scope.clone(), resource.type_url().clone());
                transaction.remove(scope, type_url, resource.name().clone());
            }
        }
        // A transaction that only removes contradicts nothing.
        let _ = self.cache.commit(transaction);
    }
}

/// Tends what is kept, until nothing is, or the server is gone.
async fn tend(searches: Weak<Searches>, interval: Duration) {
    loop {
        sleep(interval).await;
        let Some(searches) = searches.upgrade() else { return };
        if !searches.tend() {
            return;
        }
    }
}

/// Ends a search, whatever became of it.
struct Ending<'a> {
    searches: &'a Searches,
    scopes: &'a Arc<[Scope]>,
    key: &'a Key,
    outcome: &'a Outcome,
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        let _ = self.outcome.set(Some(unavailable("it could not be looked for")));
        self.searches.state().underway.remove(&(self.scopes.clone(), self.key.clone()));
        self.searches.cache.wake(self.scopes, self.key);
    }
}

fn unavailable(reason: impl Into<String>) -> ErrorDetail {
    error(Code::Unavailable, reason)
}

fn error(code: Code, reason: impl Into<String>) -> ErrorDetail {
    ErrorDetail::new(code.into(), reason)
}
