//! Progressive delivery: a commit goes to some nodes first, and to all when these have settled for long
//! enough.
//!
//! A canary is a scope on top of those that a transaction changes, which its members see and the others do
//! not: there is nothing special to it in the cache or the machine.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use deltaplane_cache::{Commit, CommitError, Scope, Transaction};
use deltaplane_core::{Revision, TypeUrl};
use envoy_types::pb::envoy::config::core::v3::Node;
use xxhash_rust::xxh3::xxh3_64;

mod changed;

use self::changed::Changed;
use crate::{
    authorizer::Grant,
    client::Client,
    delivery::{Delivery, Fate, HowMany, share_of},
    server::Shared,
    status::ClientStatus,
};

/// What stands between the name of a scope and the number of the canary whose scope lies over it.
const CANARY: &str = "~canary-";

/// Whom a change goes to first, and for how long.
#[derive(Debug)]
#[non_exhaustive]
pub struct Canary {
    members: Who,
    settled_for: Duration,
    timeout: Duration,
    may_leave: bool,
}

enum Who {
    Share(f64),
    Nodes(Arc<dyn Fn(&Node) -> bool + Send + Sync>),
}

/// What became of a change that went to some nodes first.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Rollout {
    /// All have it: this is the commit.
    Promoted(Commit),
    /// Nobody has it any more, and the others never saw it.
    Withdrawn {
        /// Who rejected it, or did not settle in time.
        delivery: Delivery,
        /// The nodes, by their ids, that it went to and that are no longer connected.
        gone: Vec<String>,
    },
}

impl Canary {
    /// This share of the nodes that are connected, from 0 to 1, rounded up: always the same ones, as long
    /// as the same are connected, since they are ranked by a hash of their ids.
    #[must_use]
    pub fn share(share: f64) -> Self {
        Self::of(Who::Share(share))
    }

    /// The nodes of which this is true, for example by their metadata.
    #[must_use]
    pub fn nodes(select: impl Fn(&Node) -> bool + Send + Sync + 'static) -> Self {
        Self::of(Who::Nodes(Arc::new(select)))
    }

    fn of(members: Who) -> Self {
        let (settled_for, timeout) = (Duration::ZERO, Duration::from_secs(60));
        Self { members, settled_for, timeout, may_leave: false }
    }

    /// The scope over which this one lies, if it is that of a canary.
    #[must_use]
    pub fn below(scope: &Scope) -> Option<Scope> {
        let (below, id) = scope.as_str().rsplit_once(CANARY)?;
        id.parse::<u64>().is_ok().then(|| below.into())
    }

    /// How long all of them must have settled before the others get the change. At once, unless set.
    #[must_use]
    pub fn settled_for(mut self, time: Duration) -> Self {
        self.settled_for = time;
        self
    }

    /// Who of them disconnects is not waited for, as long as one is left: for canaries so large that some
    /// always come and go.
    #[must_use]
    pub fn may_leave(mut self) -> Self {
        self.may_leave = true;
        self
    }

    /// How long they may take to settle; then the change is withdrawn. 60 s unless set.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

impl fmt::Debug for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Who::Share(share) => write!(f, "Share({share})"),
            Who::Nodes(_) => f.write_str("Nodes"),
        }
    }
}

/// The canaries of a server.
#[derive(Debug, Default)]
pub(crate) struct Canaries {
    active: RwLock<Vec<Arc<Active>>>,
    /// Grows whenever a canary begins or ends: clients' scopes are then chosen anew.
    pub(crate) generation: AtomicU64,
    /// Scopes of canaries that ended, to be forgotten when nobody sees them.
    left: RwLock<BTreeSet<Scope>>,
    ids: AtomicU64,
}

struct Active {
    id: u64,
    members: Members,
    /// The members that were connected when it began, with the types of which it brings something and that
    /// they had asked for.
    expected: BTreeMap<String, BTreeSet<TypeUrl>>,
    /// The scope that lies over each scope that the change is for.
    over: BTreeMap<Scope, Scope>,
    /// What it changes there.
    changed: Vec<Changed>,
}

enum Members {
    Ids(BTreeSet<String>),
    Nodes(Arc<dyn Fn(&Node) -> bool + Send + Sync>),
}

impl Members {
    fn has(&self, node: &Node) -> bool {
        match self {
            Members::Ids(ids) => ids.contains(&node.id),
            Members::Nodes(select) => select(node),
        }
    }
}

impl Active {
    /// The types of which it brings something, and that a node of this stream had asked for and this stream
    /// has not.
    fn lacks(&self, status: &ClientStatus) -> (Arc<Client>, Vec<&TypeUrl>) {
        let had = self.expected.get(&status.client.node.id).into_iter().flatten();
        let lacks = had.filter(|type_url| !status.types.contains_key(*type_url)).collect();
        (status.client.clone(), lacks)
    }
}

impl fmt::Debug for Active {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Active")
            .field("id", &self.id)
            .field("over", &self.over)
            .finish_non_exhaustive()
    }
}

impl Canaries {
    /// Puts the scopes of the canaries that a node is in over those that it sees.
    pub(crate) fn over(&self, node: &Node, scopes: Vec<Scope>) -> Vec<Scope> {
        let active = self.active.read().unwrap_or_else(PoisonError::into_inner);
        let mut all = scopes;
        for canary in active.iter().filter(|canary| canary.members.has(node)) {
            let lay = |scope: Scope| canary.over.get(&scope).cloned().into_iter().chain([scope]);
            all = all.into_iter().flat_map(lay).collect();
        }
        all
    }

    /// Has the scopes of all clients chosen anew.
    pub(crate) fn choose_again(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    fn begin(&self, canary: &Arc<Active>) {
        self.active.write().unwrap_or_else(PoisonError::into_inner).push(canary.clone());
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    fn end(&self, canary: &Active) {
        let mut active = self.active.write().unwrap_or_else(PoisonError::into_inner);
        active.retain(|other| other.id != canary.id);
        let mut left = self.left.write().unwrap_or_else(PoisonError::into_inner);
        left.extend(canary.over.values().cloned());
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// Forgets what canaries left behind, as far as nobody sees it any more. Who came to see it and is not
    /// told yet that it is gone learns that from what is left.
    fn sweep(&self, shared: &Shared) {
        let mut left = self.left.write().unwrap_or_else(PoisonError::into_inner);
        let see = |status: &ClientStatus, _| -> Vec<Scope> {
            let scopes = status.client.scopes.iter().chain(&status.passing);
            scopes.filter(|scope| left.contains(*scope)).cloned().collect()
        };
        let seen: BTreeSet<_> = shared.clients.find(|_| true, see).into_iter().flatten().collect();
        let unseen: Vec<_> = left.difference(&seen).cloned().collect();
        for scope in unseen {
            left.remove(&scope);
            shared.cache.forget(&scope);
        }
    }
}

/// A canary that is under way. If nobody waits for its end any more, it is withdrawn.
struct UnderWay<'a> {
    shared: &'a Shared,
    active: Arc<Active>,
    revision: Revision,
    may_leave: bool,
    is_over: bool,
}

impl UnderWay<'_> {
    /// What became of it at its members. One that does not see it yet has not settled, nor has one that came
    /// back and has not asked yet for all that it had asked for.
    fn delivery(&self) -> Delivery {
        let Shared { cache, clients, .. } = self.shared;
        let is_member = |client: &Client| self.active.members.has(&client.node);
        // First, so that what they ask for by now counts in what follows.
        let lacking = lacking(&clients.find(is_member, |status, _| self.active.lacks(status)));
        // What a member rejected before is not the fault of this.
        let revisions = (self.revision, self.revision);
        let mut delivery = Delivery::since(cache, clients, revisions, is_member);
        for (client, fate) in &mut delivery.clients {
            let sees = |(below, above): (&Scope, &Scope)| {
                !client.scopes.contains(below) || client.scopes.contains(above)
            };
            if !self.active.over.iter().all(sees) || lacking.contains(&client.node.id) {
                *fate = Fate::Pending { awaited: Vec::new() };
            }
        }
        delivery
    }

    /// The nodes that were there when it began, and are not any more.
    fn gone(&self, delivery: &Delivery) -> Vec<String> {
        let there: BTreeSet<_> =
            delivery.clients.iter().map(|(client, _)| &client.node.id).collect();
        self.active.expected.keys().filter(|node_id| !there.contains(node_id)).cloned().collect()
    }

    fn has_settled(&self, delivery: &Delivery) -> bool {
        let is_anybody = self.may_leave && !delivery.clients.is_empty();
        delivery.has_settled(HowMany::All) && (is_anybody || self.gone(delivery).is_empty())
    }

    /// Waits until all have settled, or one rejects it, for so long at most.
    async fn settles(&self, time: Duration) -> Delivery {
        let look = || {
            let delivery = self.delivery();
            let is_rejected = delivery.rejected().next().is_some();
            let is_over = is_rejected || self.has_settled(&delivery);
            is_over.then_some(delivery)
        };
        let settled = tokio::time::timeout(time, self.shared.clients.look(look)).await;
        settled.unwrap_or_else(|_| self.delivery())
    }

    /// Waits until somebody rejects it, for so long at most.
    async fn rejection(&self, time: Duration) -> Option<Delivery> {
        let look = || {
            let delivery = self.delivery();
            let is_rejected = delivery.rejected().next().is_some();
            (is_rejected || self.shared.cache.is_undone(self.revision)).then_some(delivery)
        };
        tokio::time::timeout(time, self.shared.clients.look(look)).await.ok()
    }

    /// Ends it: with what makes it everybody's, if it is to reach all.
    fn end(&mut self, promoted: Option<&Transaction>) -> Result<Commit, CommitError> {
        let cache = &self.shared.cache;
        let promote = |it| changed::promotion(&self.active.changed, cache, it);
        let mut transaction = promoted.map(promote).unwrap_or_default();
        for scope in self.active.over.values() {
            // In one commit, so that whoever sees both sees no change.
            for type_url in cache.types(scope) {
                transaction.replace(scope.clone(), type_url, []);
            }
        }
        let commit = cache.commit(transaction)?;
        self.is_over = true;
        self.shared.canaries.end(&self.active);
        self.shared.cache.wake_all();
        Ok(commit)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if !self.is_over
            && let Err(error) = self.end(None)
        {
            tracing::error!(%error, "a canary cannot be withdrawn");
        }
    }
}

/// The nodes that have asked for something of what they lack on none of their streams.
fn lacking(streams: &[(Arc<Client>, Vec<&TypeUrl>)]) -> BTreeSet<String> {
    if streams.iter().all(|(_, lacks)| lacks.is_empty()) {
        return BTreeSet::new();
    }
    let mut lacking = BTreeMap::new();
    for (client, lacks) in streams {
        let of_node = lacking.entry(&client.node.id).or_insert_with(|| lacks.clone());
        of_node.retain(|type_url| lacks.contains(type_url));
    }
    let lacking = lacking.into_iter().filter(|(_, lacks)| !lacks.is_empty());
    lacking.map(|(node_id, _)| node_id.clone()).collect()
}

/// Carries a change out to some, and then to all.
pub(crate) async fn roll_out(
    shared: &Shared,
    transaction: Transaction,
    canary: Canary,
) -> Result<Rollout, CommitError> {
    let Some((active, trial)) = begin(shared, &transaction, &canary)? else {
        return shared.cache.commit(transaction).map(Rollout::Promoted);
    };
    let active = Arc::new(active);
    shared.canaries.begin(&active);
    let (revision, may_leave) = (Revision(0), canary.may_leave);
    let mut under_way = UnderWay { shared, active, revision, may_leave, is_over: false };
    under_way.revision = shared.cache.commit(trial)?.revision;
    let delivery = under_way.settles(canary.timeout).await;
    let is_undone = shared.cache.is_undone(under_way.revision);
    let mut fault = (is_undone || !under_way.has_settled(&delivery)).then_some(delivery);
    if fault.is_none() {
        fault = under_way.rejection(canary.settled_for).await;
    }
    let now = under_way.delivery();
    let is_undone = shared.cache.is_undone(under_way.revision);
    if fault.is_none() && (is_undone || !under_way.has_settled(&now)) {
        fault = Some(now);
    }
    let outcome = match fault {
        Some(delivery) => {
            under_way.end(None)?;
            Rollout::Withdrawn { gone: under_way.gone(&delivery), delivery }
        }
        None => Rollout::Promoted(under_way.end(Some(&transaction))?),
    };
    shared.canaries.sweep(shared);
    Ok(outcome)
}

/// Who is in a canary, and what they are told; nothing, if nobody is, or there is nothing to tell.
fn begin(
    shared: &Shared,
    transaction: &Transaction,
    canary: &Canary,
) -> Result<Option<(Active, Transaction)>, CommitError> {
    shared.canaries.sweep(shared);
    let changed = changed::of(&shared.cache.preview(transaction)?);
    let id = shared.canaries.ids.fetch_add(1, Ordering::Relaxed);
    // What only becomes known, nobody can be told first.
    let told = changed.iter().filter(|changed| !changed.changes.is_empty());
    let over: BTreeMap<_, _> = told
        .map(|Changed { scope, .. }| (scope.clone(), format!("{scope}{CANARY}{id}").into()))
        .collect();
    let trial = changed::trial(&changed, &over, transaction);
    let clients = shared.clients.all().into_iter();
    let sees_some =
        |status: &ClientStatus| status.client.scopes.iter().any(|scope| over.contains_key(scope));
    let concerned: Vec<_> = clients.filter(sees_some).collect();
    let members = members(canary, &concerned);
    let mut expected = BTreeMap::<String, BTreeSet<TypeUrl>>::new();
    for status in concerned.iter().filter(|status| members.has(&status.client.node)) {
        let types = expected.entry(status.client.node.id.clone()).or_default();
        types.extend(changed.iter().filter(|it| it.reaches(status)).map(|it| it.type_url.clone()));
    }
    let is_anybody = !expected.is_empty();
    let active = Active { id, members, expected, over, changed };
    Ok(is_anybody.then_some((active, trial)))
}

/// Who of those whom a change concerns is in a canary.
fn members(canary: &Canary, concerned: &[ClientStatus]) -> Members {
    match &canary.members {
        Who::Share(share) => {
            let ids: BTreeSet<_> = concerned.iter().map(|status| &status.client.node.id).collect();
            let count = share_of(*share, ids.len());
            let mut ranked: Vec<_> =
                ids.into_iter().map(|id| (xxh3_64(id.as_bytes()), id)).collect();
            ranked.sort_unstable();
            Members::Ids(ranked.into_iter().take(count).map(|(_, id)| id.clone()).collect())
        }
        Who::Nodes(select) => Members::Nodes(select.clone()),
    }
}

impl Shared {
    /// What a node sees, canaries included.
    pub(crate) fn scopes_of(&self, node: &Node, grant: Option<&Grant>) -> Arc<[Scope]> {
        self.canaries.over(node, self.view(node, grant)).into()
    }

    /// Grows whenever what clients see may have to be chosen anew.
    pub(crate) fn view_generation(&self) -> (usize, u64) {
        (self.cache.known_layers(), self.canaries.generation.load(Ordering::Acquire))
    }
}
