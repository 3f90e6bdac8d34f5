//! A model client and the machine over a cache, moved by operations: whatever happens, the client ends
//! with what the view holds.
//!
//! The client behaves as Envoy was seen to: it withholds answers, in State of the World answers only the
//! newest, applies any part of what it rejects, drops what it no longer watches, and comes back with
//! what it holds. Both directions take time, so requests and responses cross.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::BytesMut;
use deltaplane_cache::{Cache, CacheView, Scope, Transaction};
use deltaplane_core::{
    DeltaRequest, DeltaResponse, ErrorDetail, Key, Machine, MissingAnswer, Request, Resource,
    SotwRequest, SotwResponse, TypeUrl, Variant, View,
};
use prost::Message;

use self::witness::Witness;

mod witness;

pub(crate) const TYPES: [TypeUrl; 4] =
    [TypeUrl::CLUSTER, TypeUrl::ENDPOINT, TypeUrl::LISTENER, TypeUrl::ROUTE];
pub(crate) const NAMES: [&str; 4] = ["a", "b", "c", "d"];
pub(crate) const SCOPES: [&str; 2] = ["upper", "default"];
/// Content that every client rejects.
pub(crate) const BAD: u8 = 9;
/// A cluster with this content is on demand.
const ON_DEMAND: u8 = 2;
/// The collections that clusters are in: `a` and `b` in one, and the others in the other.
pub(crate) const DIRECTORIES: [&str; 2] = ["one", "two"];

/// What becomes of a resource: its scope, type and name, and the content, or nothing if it is removed.
pub(crate) type Put = (usize, usize, usize, Option<u8>);

#[derive(Debug, Clone)]
pub(crate) enum Operation {
    Commit(Vec<Put>),
    /// What the last commit changed is again as it was.
    TakeBack,
    Subscribe {
        type_at: usize,
        name: usize,
    },
    Unsubscribe {
        type_at: usize,
        name: usize,
    },
    /// The wildcard begins or ends.
    Wildcard {
        type_at: usize,
        on: bool,
    },
    /// A subscription to all clusters of a collection begins or ends.
    Glob {
        directory: usize,
        on: bool,
    },
    /// A request reaches the server.
    Hear,
    /// The server says what it has to say; a part of it.
    Say(usize),
    /// A response reaches the client, which applies this part of it if it is bad.
    Read {
        part: u8,
    },
    /// The client answers what it read.
    Answer,
    Reconnect,
    /// The client is to see the scopes in another order, or fewer of them.
    View(usize),
    /// Nothing happens, for so long that nothing is waited for any more.
    Wait,
}

/// What a client may see.
pub(crate) const VIEWS: [&[&str]; 4] =
    [&["upper", "default"], &["default"], &["default", "upper"], &["upper"]];

/// Runs operations, and demands that the client ends with what the view holds.
pub(crate) fn converges(variant: Variant, operations: &[Operation]) {
    let mut world = World::new(variant);
    for operation in operations {
        world.run(operation);
    }
    // With bad content about, it comes to rest too: nothing is sent again and again (N-02).
    world.settle();
    world.repair();
    world.settle();
    world.check();
}

/// The cluster that a route of this content sends its requests to.
fn cluster_of(content: u8) -> String {
    full(&TypeUrl::CLUSTER, NAMES[usize::from(content) % NAMES.len()])
}

/// What a resource is called on the wire: clusters say what collection they are in.
pub(crate) fn full(type_url: &TypeUrl, name: &str) -> String {
    if *type_url != TypeUrl::CLUSTER {
        return name.to_owned();
    }
    let directory = DIRECTORIES[usize::from(name > "b")];
    format!("xdstp://x/{}/{directory}/{name}", type_url.message_name())
}

/// All clusters of a collection.
fn glob(directory: usize) -> String {
    format!("xdstp://x/{}/{}/*", TypeUrl::CLUSTER.message_name(), DIRECTORIES[directory])
}

/// The collection that something of this name is in.
fn glob_of(name: &str) -> Option<String> {
    name.rsplit_once('/').map(|(directory, _)| format!("{directory}/*"))
}

/// What a resource of this type, name and content refers to: clusters to their endpoints, listeners to
/// their routes, routes to a cluster that depends on their content.
fn references(type_url: &TypeUrl, name: &str, content: u8) -> Option<Key> {
    match type_url {
        url if *url == TypeUrl::CLUSTER => Some(Key::new(TypeUrl::ENDPOINT, name)),
        url if *url == TypeUrl::LISTENER => Some(Key::new(TypeUrl::ROUTE, name)),
        url if *url == TypeUrl::ROUTE => Some(Key::new(TypeUrl::CLUSTER, cluster_of(content))),
        _ => None,
    }
}

/// A response, as far as a client cares.
#[derive(Debug, Clone)]
struct Heard {
    type_url: TypeUrl,
    nonce: String,
    version: String,
    /// Name, version and content.
    resources: Vec<(String, String, u8)>,
    removed: Vec<String>,
}

impl Heard {
    fn is_bad(&self) -> bool {
        self.resources.iter().any(|(_, _, content)| *content == BAD)
    }

    fn words(&self) -> String {
        let bad = self.resources.iter().filter(|(_, _, content)| *content == BAD);
        bad.map(|(name, ..)| format!("{name}: bad; ")).collect()
    }
}

/// What the client knows of one type.
#[derive(Debug, Default)]
struct Watched {
    started: bool,
    wildcard: bool,
    names: BTreeSet<String>,
    globs: BTreeSet<String>,
    /// What it runs.
    running: BTreeMap<String, u8>,
    /// The version of each name that it would report.
    versions: BTreeMap<String, String>,
    version: String,
    nonce: String,
    unanswered: VecDeque<Heard>,
    /// It rejected something since it last accepted all: what it reports is not what it runs.
    doubtful: bool,
}

impl Watched {
    fn is_nothing(&self) -> bool {
        self.names.is_empty() && self.globs.is_empty() && !self.wildcard
    }

    /// Whether something of this name is asked for, by itself or with others.
    fn contains(&self, name: &str) -> bool {
        let is_covered = || glob_of(name).is_some_and(|glob| self.globs.contains(&glob));
        self.wildcard || self.names.contains(name) || is_covered()
    }

    /// Lets go of what is no longer asked for.
    fn shrink(&mut self) {
        let mut running = std::mem::take(&mut self.running);
        running.retain(|name, _| self.contains(name));
        let mut versions = std::mem::take(&mut self.versions);
        versions.retain(|name, _| self.contains(name));
        (self.running, self.versions) = (running, versions);
    }
}

struct World {
    variant: Variant,
    cache: Cache,
    scopes: Arc<[Scope]>,
    machine: Machine<CacheView>,
    witness: Witness,
    watched: BTreeMap<TypeUrl, Watched>,
    requests: VecDeque<Request>,
    responses: VecDeque<Heard>,
    now: Duration,
    /// Something happened after which a route may lose its cluster: silence had its time, what the client
    /// sees was chosen anew, or a commit itself took a cluster from a route.
    excused: bool,
    /// What the client sees was chosen anew on this stream.
    moved: bool,
    /// What takes back the last commit.
    undoes: Vec<Put>,
}

impl World {
    fn new(variant: Variant) -> Self {
        let cache = Cache::new();
        let mut transaction = Transaction::new();
        for scope in SCOPES {
            for type_url in TYPES {
                transaction.replace(scope, type_url, []);
            }
        }
        cache.commit(transaction).unwrap();
        Self {
            variant,
            cache,
            scopes: SCOPES.map(Scope::from).into(),
            machine: Machine::new(variant),
            witness: Witness::default(),
            watched: TYPES.map(|type_url| (type_url, Watched::default())).into(),
            requests: VecDeque::new(),
            responses: VecDeque::new(),
            now: Duration::ZERO,
            excused: false,
            moved: false,
            undoes: Vec::new(),
        }
    }

    fn run(&mut self, operation: &Operation) {
        match operation {
            Operation::Commit(changes) => self.commit(changes),
            Operation::TakeBack => {
                let changes = std::mem::take(&mut self.undoes);
                self.commit(&changes);
            }
            Operation::Subscribe { type_at, name } => self.subscribe(*type_at, NAMES[*name]),
            Operation::Unsubscribe { type_at, name } => self.unsubscribe(*type_at, NAMES[*name]),
            Operation::Wildcard { type_at, on } => self.wildcard(*type_at, *on),
            Operation::Glob { directory, on } => self.glob(&glob(*directory), *on),
            Operation::Hear => self.hear(),
            Operation::Say(most) => drop((0..*most).map_while(|_| self.say()).count()),
            Operation::Read { part } => drop(self.read(*part)),
            Operation::Answer => TYPES.iter().for_each(|type_url| self.answer(type_url)),
            Operation::Reconnect => self.reconnect(),
            Operation::View(at) => self.view(VIEWS[*at]),
            Operation::Wait => self.wait(Duration::from_secs(1000)),
        }
    }

    fn commit(&mut self, changes: &[Put]) {
        let is_now = |&(scope, type_at, name, _): &Put| {
            let now = self.cache.view(&Arc::from([Scope::from(SCOPES[scope])]));
            let now = now.get(&TYPES[type_at], &full(&TYPES[type_at], NAMES[name]));
            (scope, type_at, name, now.map(|resource| resource.value()[1] - b'0'))
        };
        self.undoes = changes.iter().map(is_now).collect();
        let mut transaction = Transaction::new();
        for (scope, type_at, name, content) in changes {
            let (scope, type_url, name) = (SCOPES[*scope], TYPES[*type_at].clone(), NAMES[*name]);
            let called = full(&type_url, name);
            match content {
                Some(content) => {
                    let is_on_demand = type_url == TypeUrl::CLUSTER && *content == ON_DEMAND;
                    let references = references(&type_url, name, *content);
                    let value = format!("{name}{content}");
                    let resource = Resource::raw(type_url, called, value).references(references);
                    let resource = resource.build();
                    let resource = if is_on_demand { resource.on_demand() } else { resource };
                    transaction.upsert(scope, resource);
                }
                None => drop(transaction.remove(scope, type_url, called)),
            }
        }
        self.cache.commit(transaction).unwrap();
        let view = self.cache.view(&self.scopes);
        self.excused |= view.resources(&TypeUrl::ROUTE).any(|route| {
            let used = route.references().iter();
            let is_lost = |key: &Key| {
                view.get(&key.type_url, &key.name).is_none_or(|used| used.is_on_demand())
            };
            used.into_iter().any(is_lost)
        });
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
        self.machine.handle_timeout(self.now);
        self.witness.breathe();
        self.excused = true;
    }

    fn view(&mut self, scopes: &[&str]) {
        let scopes: Arc<[Scope]> = scopes.iter().map(|scope| Scope::from(*scope)).collect();
        let old = self.cache.view(&self.scopes);
        self.machine.change_view(&old, &old.through(&scopes)).unwrap();
        self.scopes = scopes;
        self.witness.look_away();
        self.excused = true;
        self.moved = true;
    }

    fn is_wildcard_type(type_at: usize) -> bool {
        TYPES[type_at] == TypeUrl::CLUSTER || TYPES[type_at] == TypeUrl::LISTENER
    }

    fn subscribe(&mut self, type_at: usize, name: &str) {
        let name = full(&TYPES[type_at], name);
        let watched = self.watched.get_mut(&TYPES[type_at]).unwrap();
        if watched.names.insert(name.clone()) {
            self.request(&TYPES[type_at], &[&name], &[]);
        }
    }

    fn unsubscribe(&mut self, type_at: usize, name: &str) {
        let name = full(&TYPES[type_at], name);
        let watched = self.watched.get_mut(&TYPES[type_at]).unwrap();
        if watched.names.remove(&name) {
            watched.shrink();
            self.request(&TYPES[type_at], &[], &[&name]);
        }
    }

    fn glob(&mut self, glob: &str, on: bool) {
        let watched = self.watched.get_mut(&TypeUrl::CLUSTER).unwrap();
        if on && watched.globs.insert(glob.into()) {
            self.request(&TypeUrl::CLUSTER, &[glob], &[]);
        } else if !on && watched.globs.remove(glob) {
            watched.shrink();
            // It stood for more than what is left.
            watched.version.clear();
            self.request(&TypeUrl::CLUSTER, &[], &[glob]);
        }
    }

    fn wildcard(&mut self, type_at: usize, on: bool) {
        if !Self::is_wildcard_type(type_at) {
            return;
        }
        let watched = self.watched.get_mut(&TYPES[type_at]).unwrap();
        if std::mem::replace(&mut watched.wildcard, on) == on {
            return;
        }
        if on {
            self.request(&TYPES[type_at], &["*"], &[]);
        } else {
            watched.shrink();
            // It stood for more than what is left.
            watched.version.clear();
            self.request(&TYPES[type_at], &[], &["*"]);
        }
    }

    /// Puts a request on its way. In State of the World it carries the newest nonce, so what is answered
    /// one by one is answered before it (D-14).
    fn request(&mut self, type_url: &TypeUrl, subscribe: &[&str], unsubscribe: &[&str]) {
        if self.variant == Variant::Sotw && !type_url.policy().full_state {
            self.answer(type_url);
        }
        let strings = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        self.requests.push_back(match self.variant {
            Variant::Sotw => self.sotw_request(type_url),
            _ => DeltaRequest {
                type_url: type_url.to_string(),
                resource_names_subscribe: strings(subscribe),
                resource_names_unsubscribe: strings(unsubscribe),
                ..DeltaRequest::default()
            }
            .into(),
        });
        self.watched.get_mut(type_url).unwrap().started = true;
    }

    fn sotw_request(&self, type_url: &TypeUrl) -> Request {
        self.sotw_answer(type_url, &self.watched[type_url].nonce, None, None)
    }

    /// A request that answers a response, with the version that the client now has.
    fn sotw_answer(
        &self,
        type_url: &TypeUrl,
        nonce: &str,
        version: Option<&str>,
        error_detail: Option<ErrorDetail>,
    ) -> Request {
        let watched = &self.watched[type_url];
        let wildcard = watched.wildcard.then(|| "*".to_owned());
        SotwRequest {
            type_url: type_url.to_string(),
            resource_names: watched.names.union(&watched.globs).cloned().chain(wildcard).collect(),
            version_info: version.unwrap_or(&watched.version).into(),
            response_nonce: nonce.into(),
            error_detail,
            ..SotwRequest::default()
        }
        .into()
    }

    fn hear(&mut self) {
        if let Some(request) = self.requests.pop_front() {
            self.witness.hear(&request);
            self.machine.handle_request(request).unwrap();
        }
    }

    fn say(&mut self) -> Option<()> {
        let view = self.cache.view(&self.scopes);
        let response = self.machine.poll_response(&view).unwrap()?;
        let revision = response.revision;
        let mut wire = BytesMut::new();
        response.encode_head(&mut wire);
        wire.extend_from_slice(&response.body);
        let read = |value: &[u8]| {
            (full(&response.type_url, &(value[0] as char).to_string()), value[1] - b'0')
        };
        let heard = if self.variant == Variant::Sotw {
            let message = SotwResponse::decode(wire.freeze()).unwrap();
            let resources = message.resources.iter().map(|any| read(&any.value));
            Heard {
                type_url: response.type_url.clone(),
                nonce: message.nonce,
                version: message.version_info,
                resources: resources
                    .map(|(name, content)| (name, String::new(), content))
                    .collect(),
                removed: vec![],
            }
        } else {
            let message = DeltaResponse::decode(wire.freeze()).unwrap();
            let resources = message.resources.into_iter();
            Heard {
                type_url: response.type_url.clone(),
                nonce: message.nonce,
                version: String::new(),
                resources: resources
                    .map(|r| (r.name, r.version, read(&r.resource.unwrap().value).1))
                    .collect(),
                removed: message.removed_resources,
            }
        };
        self.witness.say(&heard);
        if self.variant == Variant::Delta {
            self.witness.say_delta(&heard, revision);
        }
        self.responses.push_back(heard);
        Some(())
    }

    /// Reads a response: a good one is applied, and of a bad one the part that the bits name.
    fn read(&mut self, part: u8) -> Option<()> {
        let heard = self.responses.pop_front()?;
        let served = self.served();
        let names: BTreeSet<_> = heard.resources.iter().map(|(name, ..)| name).collect();
        assert_eq!(names.len(), heard.resources.len(), "B-09: {heard:?}");
        assert!(heard.removed.iter().all(|name| !names.contains(name)), "B-09: {heard:?}");
        let watched = self.watched.get_mut(&heard.type_url).unwrap();
        assert!(watched.started, "B-14: {heard:?}");
        let good = !heard.is_bad();
        watched.doubtful = !good || (watched.doubtful && self.variant == Variant::Delta);
        // Of clusters and listeners clients use the good ones, of other types any part (N-06).
        let is_whole = good || heard.type_url.policy().full_state;
        let applies = |at: usize| is_whole || part & (1 << (at % 8)) != 0;
        if self.variant == Variant::Sotw && heard.type_url.policy().full_state {
            watched.running.retain(|name, _| names.contains(name));
        }
        for (at, (name, version, content)) in heard.resources.iter().enumerate() {
            if watched.contains(name) && applies(at) && *content != BAD {
                watched.running.insert(name.clone(), *content);
            }
            if watched.contains(name) && good {
                watched.versions.insert(name.clone(), version.clone());
            }
        }
        for (at, name) in heard.removed.iter().enumerate() {
            if applies(at + heard.resources.len()) {
                watched.running.remove(name);
                watched.versions.remove(name);
            }
        }
        if good {
            watched.version.clone_from(&heard.version);
        }
        watched.nonce.clone_from(&heard.nonce);
        watched.unanswered.push_back(heard);
        self.check_routes(&served);
        Some(())
    }

    /// The routes of the client whose cluster it has.
    fn served(&self) -> BTreeSet<String> {
        let clusters = &self.watched[&TypeUrl::CLUSTER].running;
        let routes = self.watched[&TypeUrl::ROUTE].running.iter();
        let served = routes.filter(|(_, content)| clusters.contains_key(&cluster_of(**content)));
        served.map(|(name, _)| name.clone()).collect()
    }

    /// What a response changes never takes its cluster from a route (O-02, O-03).
    fn check_routes(&self, served: &BTreeSet<String>) {
        let routes = &self.watched[&TypeUrl::ROUTE].running;
        let clusters = &self.watched[&TypeUrl::CLUSTER];
        // What a client has not asked for is not waited for: gRPC asks when a route names it.
        let is_asked_for = |name: &&String| {
            let cluster = routes.get(*name).map(|content| cluster_of(*content));
            cluster.is_some_and(|name| clusters.contains(&name))
        };
        let still = served.iter().filter(is_asked_for);
        let lost: Vec<_> = still.filter(|name| !self.served().contains(*name)).collect();
        assert!(self.excused || lost.is_empty(), "without a cluster: {lost:?}");
    }

    fn answer(&mut self, type_url: &TypeUrl) {
        let watched = self.watched.get_mut(type_url).unwrap();
        let mut unanswered = std::mem::take(&mut watched.unanswered);
        if self.variant == Variant::Sotw && type_url.policy().full_state {
            // Only the newest is answered.
            unanswered.drain(..unanswered.len().saturating_sub(1));
        }
        for heard in unanswered {
            let error_detail = heard.is_bad().then(|| ErrorDetail::new(13, heard.words()));
            let request = match self.variant {
                Variant::Sotw => {
                    let version = (!heard.is_bad()).then_some(&*heard.version);
                    self.sotw_answer(type_url, &heard.nonce, version, error_detail)
                }
                _ => DeltaRequest {
                    type_url: type_url.to_string(),
                    response_nonce: heard.nonce,
                    error_detail,
                    ..DeltaRequest::default()
                }
                .into(),
            };
            self.requests.push_back(request);
        }
    }

    /// The connection breaks, and what was under way is lost. The client comes back with what it last accepted,
    /// whatever it runs, to a server that knows nothing of what it rejected; or with nothing to show, if it rejected
    /// something and sees other scopes than it began with.
    fn reconnect(&mut self) {
        let moved = std::mem::take(&mut self.moved);
        self.machine = Machine::new(self.variant);
        self.now = Duration::ZERO;
        self.witness = Witness::default();
        self.requests.clear();
        self.responses.clear();
        for type_url in TYPES {
            let watched = self.watched.get_mut(&type_url).unwrap();
            watched.unanswered.clear();
            watched.nonce.clear();
            if watched.doubtful && moved {
                watched.version.clear();
                watched.versions.clear();
                watched.running.clear();
            }
            let claims_nothing = match self.variant {
                Variant::Sotw => watched.version.is_empty(),
                _ => watched.versions.is_empty(),
            };
            if claims_nothing {
                // Who claims nothing has nothing.
                watched.running.clear();
            }
            watched.doubtful = false;
            if !watched.started || watched.is_nothing() {
                watched.started = false;
                watched.running.clear();
                watched.versions.clear();
                watched.version.clear();
                continue;
            }
            let wildcard = watched.wildcard.then(|| "*".to_owned());
            let request = match self.variant {
                Variant::Sotw => self.sotw_request(&type_url),
                _ => DeltaRequest {
                    type_url: type_url.to_string(),
                    resource_names_subscribe: wildcard
                        .into_iter()
                        .chain(watched.names.union(&watched.globs).cloned())
                        .collect(),
                    initial_resource_versions: watched.versions.clone(),
                    ..DeltaRequest::default()
                }
                .into(),
            };
            self.requests.push_back(request);
        }
    }

    /// Lets everything under way arrive and be answered, until nothing moves.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            while !self.requests.is_empty() {
                self.hear();
            }
            let mut moved = false;
            while self.say().is_some() {
                moved = true;
            }
            while self.read(0xaa).is_some() {}
            TYPES.iter().for_each(|type_url| self.answer(type_url));
            if !moved && self.requests.is_empty() {
                let Some(timeout) = self.machine.poll_timeout() else { return };
                self.wait(timeout.saturating_sub(self.now));
            }
        }
        panic!("it never comes to rest");
    }

    /// Replaces all that clients reject.
    fn repair(&mut self) {
        let mut fixes = Vec::new();
        for (scope, name_of_scope) in SCOPES.iter().enumerate() {
            let view = self.cache.view(&Arc::from([Scope::from(*name_of_scope)]));
            for (type_at, type_url) in TYPES.iter().enumerate() {
                for resource in view.resources(type_url) {
                    if resource.value()[1] == b'0' + BAD {
                        let short = (resource.value()[0] as char).to_string();
                        let name = NAMES.iter().position(|name| **name == short);
                        fixes.push((scope, type_at, name.unwrap(), Some(5)));
                    }
                }
            }
        }
        self.commit(&fixes);
    }

    fn check(&self) {
        let view = self.cache.view(&self.scopes);
        for (type_url, watched) in &self.watched {
            let expected: BTreeMap<_, _> = view
                .resources(type_url)
                .filter(|r| match r.is_on_demand() {
                    true => watched.names.contains(&**r.name()),
                    false => watched.contains(r.name()),
                })
                .map(|r| (r.name().to_string(), r.value()[1] - b'0'))
                .collect();
            let mut running = watched.running.clone();
            let policy = type_url.policy();
            if self.variant == Variant::Sotw && !policy.full_state
                || policy.missing == MissingAnswer::Silence
            {
                // Removal cannot be said (S-06), or is not to whoever asks while it comes (D-04).
                running.retain(|name, _| expected.contains_key(name));
            }
            assert_eq!(running, expected, "{type_url}: {watched:?}");
        }
    }
}
