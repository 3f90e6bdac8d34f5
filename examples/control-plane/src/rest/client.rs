//! Who is connected, and who runs what.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{self, Path, Query};
use axum::http::StatusCode;
use deltaplane_server::{
    Canary, Client, ClientResource, ClientStatus, Fate, Reception, Rejection, TypeStatus, Variant,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::access::Caller;
use crate::access::token::ALL;
use crate::fleets::scope;
use crate::moment;
use crate::rest::openapi::both;
use crate::rest::problem::Problem;
use crate::rest::rollout;
use crate::serve::running::Running;

pub(crate) fn router() -> OpenApiRouter<Running> {
    let router = both(OpenApiRouter::new(), routes!(stats));
    let router = both(router, routes!(clients));
    both(router, routes!(client))
}

/// The server in numbers, since it was started.
#[derive(Serialize, ToSchema)]
struct Stats {
    /// The revision of the database that clients are served.
    revision: i64,
    /// When something was published last.
    last_update: Option<String>,
    /// How often something was published.
    update_count: u64,
    /// The revision up to which the database was read.
    read: i64,
    /// The fleets that are not served all of that yet.
    behind: Vec<Behind>,
    /// Of each fleet that has a canary, the last change that went to it first.
    rollouts: Vec<rollout::Shown>,
    /// Who is connected now.
    clients: Vec<Fleet>,
    /// Responses that clients acknowledged.
    acks: u64,
    /// Responses that clients rejected.
    nacks: u64,
    /// What was sent and said, by type.
    types: BTreeMap<String, OfType>,
}

/// A fleet that is not served all that is stored yet.
#[derive(Serialize, ToSchema)]
struct Behind {
    fleet: String,
    /// The scopes of it.
    scopes: Vec<String>,
    /// What it is served.
    revision: i64,
}

/// The clients of a scope that speak one variant.
#[derive(Serialize, ToSchema)]
struct Fleet {
    /// The scope; nothing, if nothing is known for them.
    scope: Option<String>,
    /// `delta` or `sotw`.
    variant: &'static str,
    /// How many of them are connected.
    clients: usize,
    /// How many of them acknowledged everything.
    settled: usize,
}

/// What was sent of one type, and what was said of it.
#[derive(Serialize, ToSchema)]
struct OfType {
    responses: u64,
    /// Before compression.
    bytes: u64,
    acks: u64,
    nacks: u64,
}

/// The server in numbers.
#[utoipa::path(
    get,
    path = "/xds/stats",
    tag = "clients",
    operation_id = "stats",
    responses((status = 200, description = "Since the server was started", body = Stats))
)]
async fn stats(extract::State(running): extract::State<Running>, caller: Caller) -> Json<Stats> {
    let status = running.health.status();
    let counts = running.traffic.counts();
    let types = counts.types.into_iter().map(|(name, counts)| {
        let (responses, bytes) = (counts.responses, counts.bytes);
        (name, OfType { responses, bytes, acks: counts.acks, nacks: counts.nacks })
    });
    let types: BTreeMap<String, OfType> = types.collect();
    let behind = status.behind.into_iter().filter(|(fleet, _)| caller.reads(fleet));
    let behind = behind.map(|(fleet, revision)| {
        let scopes = running.fleets.own_scopes(&fleet);
        Behind { fleet, scopes, revision }
    });
    Json(Stats {
        revision: status.revision,
        last_update: status.published.map(|published| moment::of(published.at)),
        update_count: status.publications,
        read: status.read,
        behind: behind.collect(),
        rollouts: rollout::all(&running, &caller),
        clients: fleets(&running, &caller),
        acks: types.values().map(|of_type| of_type.acks).sum(),
        nacks: types.values().map(|of_type| of_type.nacks).sum(),
        types,
    })
}

fn fleets(running: &Running, caller: &Caller) -> Vec<Fleet> {
    let mut fleets: BTreeMap<_, (usize, usize)> = BTreeMap::new();
    let clients = running.server.delivery(running.cache.revision()).clients.into_iter();
    for (client, fate) in clients.filter(|(client, _)| is_shown(client, caller)) {
        let scope = scope::name(&client.scopes).map(str::to_owned);
        let (clients, settled) = fleets.entry((scope, variant(&client))).or_default();
        *clients += 1;
        *settled += usize::from(fate.is_settled());
    }
    let fleet = |((scope, variant), (clients, settled))| Fleet { scope, variant, clients, settled };
    fleets.into_iter().map(fleet).collect()
}

/// One stream of one client.
#[derive(Serialize, ToSchema)]
struct Connected {
    /// Tells this stream from all others.
    id: u64,
    /// The node's id.
    node: String,
    /// The node's cluster.
    cluster: String,
    /// What it belongs to; nothing, if nothing is known for it.
    scope: Option<String>,
    /// What it sees, the first over the others.
    scopes: Vec<String>,
    /// `delta` or `sotw`.
    variant: &'static str,
    /// Where it connected from.
    peer: Option<String>,
    /// What it says it is.
    user_agent: String,
    /// Since when.
    since: String,
    /// How far it is.
    state: State,
    /// Whether it has something that the others do not have yet.
    canary: bool,
    /// What it asked for, by type.
    types: BTreeMap<String, Asked>,
}

/// How far a client is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    /// It acknowledged everything.
    Settled,
    /// It acknowledged everything but removals, which are held back, since it may still use what is gone.
    Draining,
    /// Something is not sent, or not answered.
    Pending,
    /// It rejected something, which did not change since.
    Rejected,
}

/// What a client asked for of one type.
#[derive(Serialize, ToSchema)]
struct Asked {
    /// Everything.
    wildcard: bool,
    /// So many names.
    names: usize,
    /// What it rejected last, if that did not change since.
    rejected: Option<Rejected>,
}

/// What a client rejected.
#[derive(Serialize, ToSchema)]
struct Rejected {
    /// The client's words.
    message: String,
    /// What it was sent. The words tell which of these is at fault.
    names: Vec<String>,
    /// Those that the words name.
    blamed: Vec<String>,
    /// When.
    at: String,
}

/// Which clients.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct Wanted {
    /// Those that see this scope.
    #[param(nullable = false)]
    scope: Option<String>,
    /// Those in this state.
    #[param(nullable = false)]
    state: Option<State>,
}

/// Who is connected, and how far each is.
#[utoipa::path(
    get,
    path = "/xds/clients",
    tag = "clients",
    operation_id = "list_clients",
    params(Wanted),
    responses(
        (status = 200, description = "In the order in which they came", body = Vec<Connected>),
        Problem
    )
)]
async fn clients(
    extract::State(running): extract::State<Running>,
    caller: Caller,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Result<Json<Vec<Connected>>, Problem> {
    let Query(wanted) = wanted.map_err(|error| {
        let why = format!("{}; give ?scope=… and ?state=…", error.body_text());
        Problem::new(error.status(), why)
    })?;
    let mut clients = connected(&running, |client| is_shown(client, &caller));
    clients.retain(|client| {
        wanted.scope.as_ref().is_none_or(|scope| client.scopes.contains(scope))
            && wanted.state.is_none_or(|state| client.state == state)
    });
    Ok(Json(clients))
}

/// A stream of a client, and what it runs.
#[derive(Serialize, ToSchema)]
struct Inspected {
    #[serde(flatten)]
    client: Connected,
    /// Each resource that it asks for.
    resources: Vec<Held>,
}

/// A resource, and how it stands with a client.
#[derive(Serialize, ToSchema)]
struct Held {
    type_url: String,
    name: String,
    /// As the client sees it.
    version: String,
    /// `acknowledged`, `unanswered`, `not sent` or `rejected`.
    state: &'static str,
    /// When it came to be as it is, if that is still known.
    committed: Option<String>,
}

/// Each stream of a node, and what it runs.
#[utoipa::path(
    get,
    path = "/xds/clients/{node}",
    tag = "clients",
    operation_id = "inspect_client",
    params(("node" = String, Path, description = "The node's id")),
    responses((status = 200, description = "Each of its streams", body = Vec<Inspected>), Problem)
)]
async fn client(
    extract::State(running): extract::State<Running>,
    caller: Caller,
    Path(node): Path<String>,
) -> Result<Json<Vec<Inspected>>, Problem> {
    let mut streams = Vec::new();
    for client in connected(&running, |client| client.node.id == node && is_shown(client, &caller))
    {
        // Nothing, if it went in between.
        if let Some(resources) = running.server.resources(client.id).await {
            let resources = resources.iter().map(Held::of).collect();
            streams.push(Inspected { client, resources });
        }
    }
    if streams.is_empty() {
        let detail =
            format!("no client with node id {node:?} is connected; GET /xds/clients lists them");
        return Err(Problem::new(StatusCode::NOT_FOUND, detail));
    }
    Ok(Json(streams))
}

/// Who belongs to a fleet is shown to who may read that; who belongs to none, to who may read all.
pub(crate) fn is_shown(client: &Client, caller: &Caller) -> bool {
    caller.reads(scope::name(&client.scopes).unwrap_or(ALL))
}

fn connected(running: &Running, who: impl Fn(&Client) -> bool) -> Vec<Connected> {
    let delivery = running.server.delivery(running.cache.revision());
    let fates: BTreeMap<u64, Fate> =
        delivery.clients.into_iter().map(|(client, fate)| (client.id, fate)).collect();
    let clients = running.server.clients().into_iter().filter(|status| who(&status.client));
    clients.map(|status| Connected::of(&status, fates.get(&status.client.id))).collect()
}

impl Connected {
    fn of(status: &ClientStatus, fate: Option<&Fate>) -> Connected {
        let client = &*status.client;
        let types = status.types.iter();
        Connected {
            id: client.id,
            node: client.node.id.clone(),
            cluster: client.node.cluster.clone(),
            scope: scope::name(&client.scopes).map(str::to_owned),
            scopes: scope::names(&client.scopes).into_iter().map(str::to_owned).collect(),
            canary: client.scopes.iter().any(|scope| Canary::below(scope).is_some()),
            variant: variant(client),
            peer: client.peer.address.map(|peer| peer.to_string()),
            user_agent: client.node.user_agent_name.clone(),
            since: moment::of(status.since),
            // Of one that came in between nothing is known yet.
            state: fate.map_or(State::Pending, State::of),
            types: types.map(|(type_url, of)| (type_url.to_string(), Asked::of(of))).collect(),
        }
    }
}

impl Asked {
    fn of(status: &TypeStatus) -> Asked {
        let rejection = status.rejection.as_deref().filter(|_| status.is_rejected);
        let rejected = rejection.map(Rejected::of);
        Asked { wildcard: status.wildcard, names: status.names, rejected }
    }
}

impl Rejected {
    fn of(rejection: &Rejection) -> Rejected {
        let texts = |names: &[std::sync::Arc<str>]| names.iter().map(ToString::to_string).collect();
        Rejected {
            message: rejection.error.message.clone(),
            names: texts(&rejection.names),
            blamed: texts(&rejection.blamed),
            at: moment::of(rejection.at),
        }
    }
}

impl Held {
    fn of(held: &ClientResource) -> Held {
        Held {
            type_url: held.resource.type_url().to_string(),
            name: held.resource.name().to_string(),
            version: held.resource.version().to_owned(),
            state: match held.reception {
                Reception::Acknowledged => "acknowledged",
                Reception::Unanswered => "unanswered",
                Reception::Rejected => "rejected",
                _ => "not sent",
            },
            committed: held.committed.map(moment::of),
        }
    }
}

impl State {
    pub(crate) fn of(fate: &Fate) -> State {
        match fate {
            Fate::Settled => State::Settled,
            Fate::Draining => State::Draining,
            Fate::Rejected(_) => State::Rejected,
            _ => State::Pending,
        }
    }

    /// As it is written.
    pub(crate) fn word(self) -> &'static str {
        match self {
            State::Settled => "settled",
            State::Draining => "draining",
            State::Pending => "pending",
            State::Rejected => "rejected",
        }
    }
}

pub(crate) fn variant(client: &Client) -> &'static str {
    if client.variant == Variant::Delta { "delta" } else { "sotw" }
}
