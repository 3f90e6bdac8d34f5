//! Who is served, and with what: asked of the embedder before a client is told anything, and again later.

use std::{
    fmt,
    future::{pending, poll_fn},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use deltaplane_cache::{Cache, Scope};
use envoy_types::pb::envoy::config::core::v3::Node;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep_until, timeout},
};
use tonic::{Code, Status};

use crate::{
    peer::{BearerToken, Credentials, Peer},
    server::{Shared, ViewRule, XdsServerBuilder},
    spread,
};

/// Who asks to be served, as far as it shows that. The node is what the client says of itself, and anybody may
/// say anything.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Caller {
    /// The other end of its connection, with the certificate that it showed.
    pub peer: Peer,
    /// What it sent as `authorization: Bearer …`.
    pub token: Option<BearerToken>,
    /// Who it says it is.
    pub node: Node,
}

/// What a client may have.
#[derive(Clone)]
#[must_use]
pub struct Grant {
    /// What it sees; nothing, if that is by the rule of the server.
    view: Option<Arc<ViewRule>>,
    sees_clients: bool,
}

impl Grant {
    /// It sees what the server's [rule](XdsServerBuilder::view) says.
    pub fn usual() -> Self {
        Self { view: None, sees_clients: false }
    }

    /// It sees these scopes, the first over the others.
    pub fn scopes(scopes: impl IntoIterator<Item = impl Into<Scope>>) -> Self {
        let scopes: Vec<Scope> = scopes.into_iter().map(Into::into).collect();
        Self::view(move |_, _| scopes.clone())
    }

    /// It sees what this rule says, which is asked when that of the server would be: again when something
    /// becomes known in the cache.
    pub fn view(rule: impl Fn(&Node, &Cache) -> Vec<Scope> + Send + Sync + 'static) -> Self {
        Self { view: Some(Arc::new(rule)), ..Self::usual() }
    }

    /// It may ask how all clients are (CSDS), which tells what they are sent. Without this it may not.
    pub fn and_client_status(mut self) -> Self {
        self.sees_clients = true;
        self
    }

    pub(crate) fn rule(&self) -> Option<&Arc<ViewRule>> {
        self.view.as_ref()
    }

    #[cfg(feature = "csds")]
    pub(crate) fn sees_clients(&self) -> bool {
        self.sees_clients
    }
}

impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grant")
            .field("is_usual", &self.view.is_none())
            .field("sees_clients", &self.sees_clients)
            .finish()
    }
}

/// What is asked who may have what.
type Rule =
    dyn Fn(Caller) -> Pin<Box<dyn Future<Output = Result<Grant, Status>> + Send>> + Send + Sync;

/// Decides who is served, and what it sees: see [`XdsServerBuilder::authorizer`].
///
/// ```
/// use std::time::Duration;
/// use deltaplane_server::{Authorizer, Cache, Grant, XdsServer};
/// use tonic::Status;
///
/// // Whose certificate is of a tenant sees that tenant's scope, whatever its node says.
/// let authorizer = Authorizer::new(|caller| async move {
///     let certificate = caller.peer.certificate.as_deref();
///     let id = certificate.and_then(|certificate| certificate.spiffe_id());
///     let id = id.ok_or_else(|| Status::unauthenticated("show a certificate with a SPIFFE id"))?;
///     match id.strip_prefix("spiffe://shop.test/tenant/") {
///         Some(tenant) => Ok(Grant::scopes([tenant, "default"])),
///         None => Err(Status::permission_denied(format!("{id} is no tenant's"))),
///     }
/// });
/// let authorizer = authorizer.again_every(Duration::from_secs(300));
/// let server = XdsServer::builder(Cache::new()).authorizer(authorizer).build();
/// ```
pub struct Authorizer {
    rule: Box<Rule>,
    within: Duration,
    every: Option<Duration>,
    /// How often all were to be asked for again.
    rounds: watch::Sender<u64>,
}

impl Authorizer {
    /// Asks `rule` who may have what. Each time is on a task of its own, so that one that takes long holds up
    /// nobody but whom it is asked for.
    pub fn new<F>(rule: impl Fn(Caller) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<Grant, Status>> + Send + 'static,
    {
        Self {
            rule: Box::new(move |caller| Box::pin(rule(caller))),
            within: Duration::from_secs(5),
            every: None,
            rounds: watch::Sender::new(0),
        }
    }

    /// How long an answer may take; 5 s unless set. A client of which it is not known in time whether it may
    /// connect is told `UNAVAILABLE`; one that was let in before stays.
    #[must_use]
    pub fn within(mut self, within: Duration) -> Self {
        self.within = within;
        self
    }

    /// How long after an answer the same is asked again of a client that is still there, give or take a
    /// tenth; never, unless set, but by [`choose_views`](crate::XdsServer::choose_views).
    #[must_use]
    pub fn again_every(mut self, every: Duration) -> Self {
        self.every = Some(every);
        self
    }

    /// Has it asked again for all who are connected.
    pub(crate) fn ask_again(&self) {
        self.rounds.send_modify(|rounds| *rounds += 1);
    }

    /// Asks.
    async fn ask(&self, caller: Caller) -> Result<Grant, Status> {
        let answer = timeout(self.within, (self.rule)(caller)).await;
        answer.unwrap_or_else(|_| {
            let message = "it cannot be told in time whether this client may connect: try again";
            Err(Status::unavailable(message))
        })
    }
}

impl fmt::Debug for Authorizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authorizer")
            .field("within", &self.within)
            .field("every", &self.every)
            .finish_non_exhaustive()
    }
}

impl XdsServerBuilder {
    /// Who decides which clients are served, and what each sees; without one, all are, and see what the
    /// [rule](XdsServerBuilder::view) says. Whoever serves on an address that others reach should have one.
    ///
    /// It is asked when a client's first request was read, of discovery or load reports, and before anything
    /// is answered; and again as it [says itself](Authorizer::again_every), or by
    /// [`choose_views`](crate::XdsServer::choose_views). Whom it then refuses by `UNAUTHENTICATED` or
    /// `PERMISSION_DENIED`, is told so by the end of its stream. Any other failure means that it cannot be
    /// told for now: who is connected stays, with what it sees.
    ///
    /// How clients are (CSDS) is told only to whom it [grants](Grant::and_client_status) that. Health is
    /// told to everybody, and so is, behind the feature of that name, how the services look.
    pub fn authorizer(mut self, authorizer: Authorizer) -> Self {
        self.authorizer = Some(Arc::new(authorizer));
        self
    }
}

/// Asks for one caller, on a task that ends with this.
struct Asking(JoinHandle<Result<Grant, Status>>);

impl Asking {
    fn begin(authorizer: &Arc<Authorizer>, caller: Caller) -> Self {
        let authorizer = authorizer.clone();
        Self(tokio::spawn(async move { authorizer.ask(caller).await }))
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Grant, Status>> {
        Poll::Ready(ready!(Pin::new(&mut self.0).poll(cx)).unwrap_or_else(|error| {
            tracing::error!(%error, "the authorizer failed");
            Err(Status::unavailable("it cannot be told whether this client may connect"))
        }))
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// One client, and what it may have. Times are since its stream opened.
pub(crate) struct Admission {
    authorizer: Arc<Authorizer>,
    credentials: Credentials,
    asking: Option<Asking>,
    grant: Option<Grant>,
    /// The round that was asked in last.
    round: u64,
    /// When it is asked next.
    due: Option<Duration>,
}

/// What an answer means for a client.
pub(crate) enum Admitted {
    /// It may have this.
    Granted,
    /// It may not, or may not yet.
    Refused(Status),
    /// It stays as it is.
    Kept,
}

impl Admission {
    fn new(authorizer: Arc<Authorizer>, credentials: Credentials) -> Self {
        Self { authorizer, credentials, asking: None, grant: None, round: 0, due: None }
    }

    /// What the client may have, once that is known.
    pub(crate) fn grant(&self) -> Option<&Grant> {
        self.grant.as_ref()
    }

    /// Whether it is being asked.
    pub(crate) fn is_asking(&self) -> bool {
        self.asking.is_some()
    }

    /// When it is asked next.
    pub(crate) fn due(&self) -> Option<Duration> {
        self.due
    }

    /// Asks whether a node may have something.
    pub(crate) fn ask(&mut self, node: &Node) {
        self.round = *self.authorizer.rounds.borrow();
        self.due = None;
        let Credentials { peer, token } = self.credentials.clone();
        let caller = Caller { peer, token, node: node.clone() };
        self.asking = Some(Asking::begin(&self.authorizer, caller));
    }

    /// Asks again, if it is time for that.
    pub(crate) fn ask_again(&mut self, node: &Node, now: Duration) {
        let is_due = self.due.is_some_and(|due| due <= now);
        if is_due || self.round != *self.authorizer.rounds.borrow() {
            self.ask(node);
        }
    }

    /// What came of asking.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, now: Duration) -> Poll<Admitted> {
        let Some(asking) = &mut self.asking else { return Poll::Pending };
        let answer = ready!(asking.poll(cx));
        self.asking = None;
        self.due = self.authorizer.every.map(|every| now + spread::about(every));
        Poll::Ready(match answer {
            Ok(grant) => {
                self.grant = Some(grant);
                Admitted::Granted
            }
            Err(status) if self.grant.is_none() || is_final(&status) => Admitted::Refused(status),
            Err(status) => {
                tracing::warn!(%status, "it cannot be told whether a client may stay");
                Admitted::Kept
            }
        })
    }
}

/// Whether a client may not be served, by this status, and not only cannot be for now.
fn is_final(status: &Status) -> bool {
    matches!(status.code(), Code::Unauthenticated | Code::PermissionDenied)
}

impl Admission {
    /// Asks, and waits for the answer.
    pub(crate) async fn admit(&mut self, node: &Node) -> Result<(), Status> {
        self.ask(node);
        match poll_fn(|cx| self.poll(cx, Duration::ZERO)).await {
            Admitted::Refused(status) => Err(status),
            Admitted::Granted | Admitted::Kept => Ok(()),
        }
    }

    /// Asks again whenever it is time for that, until the client may not stay. It was let in at `opened`.
    pub(crate) async fn refusal(&mut self, node: &Node, opened: Instant) -> Status {
        loop {
            if !self.is_asking() {
                let (round, due) = (self.round, self.due);
                let mut rounds = self.authorizer.rounds.subscribe();
                let is_due = async {
                    match due {
                        Some(due) => sleep_until(opened + due).await,
                        None => pending().await,
                    }
                };
                tokio::select! {
                    _ = rounds.wait_for(|now| *now != round) => {}
                    () = is_due => {}
                }
                self.ask_again(node, opened.elapsed());
            }
            let answer = poll_fn(|cx| self.poll(cx, opened.elapsed())).await;
            if let Admitted::Refused(status) = answer {
                return status;
            }
        }
    }
}

impl Shared {
    /// What decides what a client may have, if anything does.
    pub(crate) fn admission(&self, credentials: Credentials) -> Option<Admission> {
        self.authorizer.clone().map(|authorizer| Admission::new(authorizer, credentials))
    }

    /// What a caller may have that asks once; nothing, if nobody decides that.
    #[cfg(any(feature = "csds", feature = "rest"))]
    pub(crate) async fn admit(
        &self,
        credentials: Credentials,
        node: &Node,
    ) -> Result<Option<Grant>, Status> {
        let Some(mut admission) = self.admission(credentials) else { return Ok(None) };
        admission.admit(node).await?;
        Ok(admission.grant)
    }
}
