//! Who asks, whether he may, and that what he did is written down.

pub mod audit;
pub(crate) mod author;
pub(crate) mod browser;
pub(crate) mod identity;
pub mod token;

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::{ConnectInfo, FromRequestParts, MatchedPath, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::access::audit::Entry;
use crate::access::token::{ALL, Rights, Token, TokenError, hash, random};
use crate::database::PATIENCE;
use crate::database::store::{Store, StoreError};
use crate::database::write::Origin;
use crate::database::writes;
use crate::rest::listener::PeerAddress;
use crate::rest::problem::Problem;
use crate::serve::running::Running;

/// What anybody may ask: how the server is, and how it is asked.
const OPEN: [&str; 4] = ["/healthz", "/readyz", "/openapi.json", "/docs"];

/// What looks itself for which fleets a token is good. All else is for tokens that are good for every fleet.
const BY_FLEET: [&str; 20] = [
    "/api/v1/services",
    "/api/v1/services/import",
    "/api/v1/services/{id}",
    "/api/v1/services/{id}/reload-xds",
    "/api/v1/fleets",
    "/api/v1/fleets/{name}",
    "/api/v1/fleets/{name}/rollout",
    "/api/v1/fleets/{name}/services",
    "/api/v1/routes",
    "/api/v1/routes/{name}",
    "/api/v1/xds/transactions",
    "/api/v1/xds/scopes",
    "/api/v1/xds/scopes/{scope}",
    "/api/v1/xds/scopes/{scope}/resources",
    "/api/v1/revisions",
    "/api/v1/revisions/{revision}",
    "/api/v1/rollback/{revision}",
    "/xds/stats",
    "/xds/clients",
    "/xds/clients/{node}",
];

/// What any token is good for: Prometheus has one that is good for nothing else.
const BY_TOKEN: &str = "/metrics";

/// How long the database is waited for by who reads, if it told of his token before.
const BRIEFLY: Duration = Duration::from_secs(1);

/// How much of a path is written down.
const PATH_MAX: usize = 2048;

/// Whether tokens are wanted, and which were seen. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Access {
    is_wanted: bool,
    /// Nobody reaches the server but from its own machine.
    is_local: bool,
    /// What the server shows itself, for who was let in here.
    pass: Pass,
    /// By their hashes: what they were when the database was asked last.
    seen: Arc<Mutex<HashMap<String, Token>>>,
}

impl Access {
    /// Nobody gets in without a token.
    pub fn by_token() -> Access {
        Access { is_wanted: true, ..Access::default() }
    }

    /// Nobody needs a token, and nobody reaches the server but from its own machine. Who calls that by a name that
    /// is not its own, is sent by somebody else, and refused.
    pub fn on_loopback() -> Access {
        Access { is_local: true, ..Access::default() }
    }

    /// The same, with a pass.
    #[must_use]
    pub fn with_pass(self, pass: Pass) -> Access {
        Access { pass, ..self }
    }

    /// What the server shows itself.
    pub(crate) fn pass(&self) -> &Pass {
        &self.pass
    }

    /// Whether nobody gets in without a token.
    pub fn is_by_token(&self) -> bool {
        self.is_wanted
    }

    /// The token that was presented, if there is such a one. For who reads, one that the database told of before is
    /// good while it does not answer; who writes needs its answer.
    async fn find(
        &self,
        presented: &str,
        store: &Store,
        reads: bool,
    ) -> Result<Option<Token>, StoreError> {
        let hash = hash(presented);
        let seen = locked(&self.seen).get(&hash).cloned().filter(|_| reads);
        let patience = if seen.is_some() { BRIEFLY } else { PATIENCE };
        match store.token(&hash, patience).await {
            Ok(Some(token)) => {
                locked(&self.seen).insert(hash, token.clone());
                Ok(Some(token))
            }
            Ok(None) => {
                locked(&self.seen).remove(&hash);
                Ok(None)
            }
            Err(error) => seen.map(Some).ok_or(error),
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// By which one part of this process knows that another has looked at a caller. Never shown.
#[derive(Clone, Default)]
pub struct Pass(Option<Arc<str>>);

impl Pass {
    /// One that nobody can guess.
    pub fn issue() -> Result<Pass, TokenError> {
        Ok(Pass(Some(random()?.into())))
    }

    /// Whether this is it.
    pub(crate) fn is(&self, shown: &str) -> bool {
        self.0.as_ref().is_some_and(|pass| hash(pass) == hash(shown))
    }

    /// The header that shows it, if there is one.
    pub(crate) fn header(&self) -> Option<HeaderValue> {
        let mut header = HeaderValue::try_from(format!("Bearer {}", self.0.as_ref()?)).ok()?;
        header.set_sensitive(true);
        Some(header)
    }
}

impl fmt::Debug for Pass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pass")
    }
}

/// Who asks. Clones are the same one.
#[derive(Clone, Debug)]
pub(crate) struct Caller(Arc<Asking>);

#[derive(Debug)]
struct Asking {
    /// Nothing, if none is wanted and none was presented.
    token: Option<Token>,
    origin: Origin,
    deed: Mutex<Deed>,
}

/// What comes of it.
#[derive(Clone, Debug, Default)]
struct Deed {
    fleets: BTreeSet<String>,
    revision: Option<i64>,
}

impl Caller {
    fn new(token: Option<Token>, headers: &HeaderMap) -> Result<Caller, Problem> {
        let origin = author::origin(headers, token.as_ref().map(|token| token.name.as_str()))?;
        Ok(Caller(Arc::new(Asking { token, origin, deed: Mutex::default() })))
    }

    /// What is stored, for what he writes there.
    pub(crate) fn store(&self, app: &Running) -> Store {
        app.store.by(self.0.origin.clone())
    }

    /// The name of his token; nothing, if nobody has to say who he is.
    fn author(&self) -> Option<&str> {
        self.0.token.as_ref().map(|token| token.name.as_str())
    }

    /// Whether the state of a fleet may be shown to him.
    pub(crate) fn reads(&self, fleet: &str) -> bool {
        self.is_allowed(|rights| rights.may_read(fleet))
    }

    /// Whether the state of every fleet may be shown to him, and of what belongs to none.
    pub(crate) fn reads_all(&self) -> bool {
        self.reads(ALL)
    }

    /// The fleets that he was given to read, or to write.
    pub(crate) fn fleets(&self) -> BTreeSet<String> {
        let rights = self.0.token.as_ref().map(|token| &token.rights);
        let named = rights.into_iter().flat_map(|rights| rights.read.union(&rights.write));
        named.cloned().collect()
    }

    /// The fleets that he may write; nothing, if he may write every one.
    pub(crate) fn writes_only(&self) -> Option<BTreeSet<String>> {
        let rights = self.0.token.as_ref().map(|token| &token.rights);
        rights.filter(|rights| !rights.may_write(ALL)).map(|rights| rights.write.clone())
    }

    /// Whether he may write every fleet.
    pub(crate) fn writes_all(&self) -> bool {
        self.is_allowed(|rights| rights.may_write(ALL))
    }

    /// Refuses who may not read a fleet.
    pub(crate) fn may_read(&self, fleet: &str) -> Result<(), Problem> {
        if self.reads(fleet) { Ok(()) } else { Err(self.refused("read", fleet)) }
    }

    /// Refuses who may not write a fleet.
    pub(crate) fn may_write(&self, fleet: &str) -> Result<(), Problem> {
        locked(&self.0.deed).fleets.insert(fleet.to_owned());
        let may = self.is_allowed(|rights| rights.may_write(fleet));
        if may { Ok(()) } else { Err(self.refused("write", fleet)) }
    }

    /// What he wrote is there at this revision.
    pub(crate) fn wrote(&self, revision: i64) {
        locked(&self.0.deed).revision = Some(revision);
    }

    fn is_allowed(&self, allows: impl Fn(&Rights) -> bool) -> bool {
        self.0.token.as_ref().is_none_or(|token| allows(&token.rights))
    }

    fn refused(&self, verb: &str, fleet: &str) -> Problem {
        let name = self.author().unwrap_or_default();
        let what = match fleet {
            ALL => "every fleet, as this needs it".to_owned(),
            fleet => format!("the fleet {fleet:?}"),
        };
        let detail = format!(
            "the token {name:?} may not {verb} {what}; use one that deltaplane token create made \
             with --{verb} {}",
            if fleet == ALL { "'*'" } else { fleet }
        );
        Problem::new(StatusCode::FORBIDDEN, detail)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Caller, Problem> {
        parts.extensions.get::<Caller>().cloned().ok_or_else(Problem::failed)
    }
}

/// Lets those in who may, and writes down what they write.
pub(crate) async fn gate(State(app): State<Running>, mut request: Request, next: Next) -> Response {
    let path = request.uri().path();
    if OPEN.iter().any(|open| path == *open || path.starts_with("/docs/")) {
        return next.run(request).await;
    }
    let presented = request.headers().get(header::AUTHORIZATION).cloned();
    let reads = is_read(&request);
    let token = match identify(&app, presented, reads).await {
        Ok(token) => token,
        Err(refusal) => return refusal,
    };
    // A page has no token to show.
    if token.is_none()
        && let Err(problem) = browser::admit(&request, app.access.is_local)
    {
        return problem.into_response();
    }
    let caller = match Caller::new(token, request.headers()) {
        Ok(caller) => caller,
        Err(problem) => return problem.into_response(),
    };
    request.extensions_mut().insert(caller.clone());
    let admitted = admit(&caller, &request);
    let is_write = written(&request);
    let answer = async {
        match admitted {
            Ok(()) => next.run(request).await,
            Err(problem) => problem.into_response(),
        }
    };
    let mut answer = match is_write {
        None => answer.await,
        Some(entry) => {
            let answer = recorded(&app, &caller, entry, answer).await;
            writes::note(&app.health, &answer);
            answer
        }
    };
    if answer.status() == StatusCode::FORBIDDEN {
        let challenge = HeaderValue::from_static(INSUFFICIENT);
        answer.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    }
    answer
}

const CHALLENGE: &str = r#"Bearer realm="deltaplane""#;
const INVALID: &str = r#"Bearer realm="deltaplane", error="invalid_token""#;
const INSUFFICIENT: &str = r#"Bearer realm="deltaplane", error="insufficient_scope""#;

/// The token of who it is, if one is wanted or shown; or the answer to somebody who does not show it.
async fn identify(
    app: &Running,
    presented: Option<HeaderValue>,
    reads: bool,
) -> Result<Option<Token>, Response> {
    let refuse = |challenge: &'static str, detail: &str| {
        let problem = Problem::new(StatusCode::UNAUTHORIZED, detail);
        ([(header::WWW_AUTHENTICATE, challenge)], problem).into_response()
    };
    let Some(presented) = presented else {
        if app.access.is_wanted {
            let detail = "a token is needed: send the header Authorization: Bearer TOKEN, with \
                          what deltaplane token create printed";
            return Err(refuse(CHALLENGE, detail));
        }
        return Ok(None);
    };
    let token = presented.to_str().ok().and_then(|text| text.split_once(' '));
    let token = token.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    let Some((_, token)) = token else {
        let detail = "the header Authorization is not Bearer TOKEN; write it so";
        return Err(refuse(INVALID, detail));
    };
    match app.access.find(token.trim(), &app.store, reads).await {
        Ok(Some(token)) if token.is_expired() => {
            let detail = "the token has expired; deltaplane token create makes a new one";
            Err(refuse(INVALID, detail))
        }
        Ok(Some(token)) => Ok(Some(token)),
        Ok(None) => {
            let detail = "there is no such token, or it was revoked; deltaplane token create \
                          makes one";
            Err(refuse(INVALID, detail))
        }
        Err(error) => Err(Problem::from(error).into_response()),
    }
}

/// Refuses what he may not by all that is known before it is read.
fn admit(caller: &Caller, request: &Request) -> Result<(), Problem> {
    let matched = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let path = matched.unwrap_or_default().trim_end_matches('/');
    if path == BY_TOKEN || BY_FLEET.contains(&path) {
        Ok(())
    } else if is_read(request) {
        caller.may_read(ALL)
    } else {
        caller.may_write(ALL)
    }
}

/// A poll for resources asks by POST.
fn is_read(request: &Request) -> bool {
    [Method::GET, Method::HEAD, Method::OPTIONS].contains(request.method())
        || request.uri().path().starts_with("/v3/")
}

/// What is written down of a write.
fn written(request: &Request) -> Option<Entry> {
    if is_read(request) {
        return None;
    }
    let peer = request.extensions().get::<ConnectInfo<PeerAddress>>();
    Some(Entry {
        peer: peer.map(|ConnectInfo(PeerAddress(peer))| peer.to_string()),
        method: request.method().to_string(),
        path: request.uri().to_string().chars().take(PATH_MAX).collect(),
        ..Entry::default()
    })
}

/// Writes down what is asked, has it done, and writes down what became of it.
async fn recorded(
    app: &Running,
    caller: &Caller,
    mut entry: Entry,
    answer: impl Future<Output = Response>,
) -> Response {
    entry.caller = caller.author().map(str::to_owned);
    entry.id = match app.store.begin_deed(&entry).await {
        Ok(id) => id,
        // What cannot be written down is not done.
        Err(error) => return Problem::from(error).into_response(),
    };
    let answer = answer.await;
    let deed = locked(&caller.0.deed).clone();
    entry.fleets = deed.fleets.into_iter().collect();
    entry.status = Some(answer.status().as_u16().into());
    entry.revision = deed.revision;
    if let Err(error) = app.store.end_deed(&entry).await {
        let Entry { id, status, .. } = entry;
        tracing::warn!(%error, id, ?status, "the audit log lacks what became of a request");
    }
    answer
}
