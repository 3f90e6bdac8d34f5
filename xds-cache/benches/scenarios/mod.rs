//! The hot path in single steps, each with what has to happen before it.

use std::{cell::RefCell, collections::VecDeque, rc::Rc, sync::Arc};

use deltaplane_cache::{Cache, CacheView, Scope, Transaction};
use deltaplane_core::{
    DeltaRequest, Machine, Resource, Response, SotwRequest, TypeUrl, Variant, View,
};

/// A step that can be taken again and again.
pub struct Scenario {
    /// What makes the next step possible, and is not part of it.
    pub before: Box<dyn FnMut()>,
    pub step: Box<dyn FnMut()>,
}

impl Scenario {
    fn new(before: impl FnMut() + 'static, step: impl FnMut() + 'static) -> Self {
        Self { before: Box::new(before), step: Box::new(step) }
    }
}

/// Makes a scenario when it is its turn: what some of them begin with is large.
type Make = fn() -> Scenario;

/// All steps, by name.
pub const SCENARIOS: [(&str, Make); 12] = [
    ("a commit of one of 10,000", commit),
    ("a commit that pushes one of 70,000 out of the log", forgetting),
    ("a resource of 300 bytes is encoded and hashed", built),
    ("who missed 1,000 commits to 500 resources", late),
    ("a first sync of 10,000 after others", first),
    ("a commit of one of 100,000 in 1,000 collections", collected),
    ("a change reaches one of 1,000 globs, which missed those of the others", reached_by_glob),
    ("one of 2,000 that ask for the same 100 names goes", leaving),
    ("a change reaches a wildcard of 1,000 in delta", || delivery(Variant::Delta, 1_000, &[])),
    ("the same of 10,000", || delivery(Variant::Delta, 10_000, &[])),
    ("a change reaches a wildcard of 1,000 in SotW", || delivery(Variant::Sotw, 1_000, &[])),
    ("a change reaches 10 names of 10,000", || delivery(Variant::Delta, 10_000, &TEN)),
];

const TEN: [usize; 10] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9];

pub const CDS: TypeUrl = TypeUrl::CLUSTER;

/// A cache with so many clusters.
pub fn cache(clusters: usize) -> Cache {
    let cache = Cache::new();
    let mut transaction = Transaction::new();
    for at in 0..clusters {
        transaction.upsert("default", cluster(at, 0));
    }
    cache.commit(transaction).expect("a commit");
    cache
}

/// A cluster as large as one of the fleet benchmark's.
pub fn cluster(at: usize, generation: u64) -> Resource {
    let mut value = vec![0; 300];
    value.splice(..8, generation.to_le_bytes());
    Resource::raw(CDS, format!("cluster-{at:06}"), value).build()
}

/// Commits one cluster after another, each with a content that it never had.
fn changes(cache: &Cache, clusters: usize) -> impl FnMut() + use<> {
    let (cache, mut generation) = (cache.clone(), 0);
    move || {
        generation += 1;
        let mut transaction = Transaction::new();
        let at = usize::try_from(generation).unwrap_or_default() % clusters;
        transaction.upsert("default", cluster(at, generation));
        cache.commit(transaction).expect("a commit");
    }
}

/// The names of clusters.
fn called(clusters: &[usize]) -> Vec<String> {
    clusters.iter().map(|at| format!("cluster-{at:06}")).collect()
}

/// A client of a cache, that acknowledges what it gets.
pub struct Client {
    cache: Cache,
    scopes: Arc<[Scope]>,
    machine: Machine<CacheView>,
}

impl Client {
    /// A client that asks for names, or for everything.
    pub fn new(cache: &Cache, variant: Variant, type_url: &TypeUrl, names: &[usize]) -> Self {
        let mut client = Self::over(cache, variant);
        client.ask(type_url, names);
        client
    }

    fn over(cache: &Cache, variant: Variant) -> Self {
        let scopes = Arc::from([Scope::from("default")]);
        Self { cache: cache.clone(), scopes, machine: Machine::new(variant) }
    }

    pub fn ask(&mut self, type_url: &TypeUrl, names: &[usize]) {
        self.ask_for(type_url, called(names));
    }

    fn ask_for(&mut self, type_url: &TypeUrl, names: Vec<String>) {
        let type_url = type_url.to_string();
        let request = match self.machine.variant() {
            Variant::Sotw => {
                SotwRequest { type_url, resource_names: names, ..SotwRequest::default() }.into()
            }
            _ => DeltaRequest {
                type_url,
                resource_names_subscribe: names,
                ..DeltaRequest::default()
            }
            .into(),
        };
        self.machine.handle_request(request).expect("a request");
    }

    /// Takes what there is, and acknowledges it; says how many resources that was.
    pub fn sync(&mut self) -> usize {
        let view = self.cache.view(&self.scopes);
        let mut resources = 0;
        while let Some(response) = self.machine.poll_response(&view).expect("a log") {
            resources += response.resources;
            self.acknowledge(&view, response);
        }
        while self.machine.poll_event().is_some() {}
        resources
    }

    fn acknowledge(&mut self, view: &CacheView, response: Response) {
        let type_url = response.type_url.to_string();
        let response_nonce = response.nonce.to_string();
        let request = match self.machine.variant() {
            Variant::Sotw => {
                let version_info = view.version(&response.type_url).to_string();
                SotwRequest { type_url, response_nonce, version_info, ..SotwRequest::default() }
                    .into()
            }
            _ => DeltaRequest { type_url, response_nonce, ..DeltaRequest::default() }.into(),
        };
        self.machine.handle_request(request).expect("an answer");
    }
}

/// A client that is told of each change.
fn delivery(variant: Variant, clusters: usize, names: &[usize]) -> Scenario {
    let cache = cache(clusters);
    let mut clients = [(); 3].map(|()| Client::new(&cache, variant, &CDS, names));
    clients.iter_mut().for_each(|client| assert!(client.sync() > 0));
    let [mut one, mut other, mut last] = clients;
    let mut change = changes(&cache, names.len().max(1));
    // Others are told before it, as in a fleet, where few are the first.
    let before = move || {
        change();
        assert!(one.sync() > 0 && other.sync() > 0);
    };
    Scenario::new(before, move || assert!(last.sync() > 0))
}

fn commit() -> Scenario {
    let cache = cache(10_000);
    let next = Rc::new(RefCell::new(None));
    let (made, mut generation) = (next.clone(), 0);
    let before = move || {
        generation += 1;
        let mut transaction = Transaction::new();
        transaction.upsert("default", cluster(7, generation));
        *made.borrow_mut() = Some(transaction);
    };
    Scenario::new(before, move || {
        let transaction = next.borrow_mut().take().expect("a transaction");
        assert_eq!(cache.commit(transaction).expect("a commit").changes, 1);
    })
}

/// The log reaches back 64 commits, if they are large.
fn forgetting() -> Scenario {
    const CLUSTERS: usize = 70_000;
    let ready = Rc::new(RefCell::new(None));
    let made = ready.clone();
    let before = move || {
        let mut change = changes(&cache(CLUSTERS), CLUSTERS);
        (0..63).for_each(|_| change());
        *made.borrow_mut() = Some(change);
    };
    Scenario::new(before, move || {
        let mut change = ready.borrow_mut().take().expect("a cache");
        change();
        *ready.borrow_mut() = Some(change);
    })
}

/// How many collections there are, and how many resources in each.
const COLLECTIONS: usize = 1_000;
const MEMBERS: usize = 100;

fn member(collection: usize, at: usize, generation: u64) -> Resource {
    let value = cluster(at, generation).value();
    Resource::raw(CDS, format!("{}{at:06}", directory(collection)), value).build()
}

fn directory(collection: usize) -> String {
    format!("xdstp://fleet/{}/{collection:04}/", CDS.message_name())
}

/// A cache with all collections.
fn collections() -> Cache {
    let cache = Cache::new();
    let mut transaction = Transaction::new();
    for collection in 0..COLLECTIONS {
        for at in 0..MEMBERS {
            transaction.upsert("default", member(collection, at, 0));
        }
    }
    cache.commit(transaction).expect("a commit");
    cache
}

fn put(cache: &Cache, resource: Resource) {
    let mut transaction = Transaction::new();
    transaction.upsert("default", resource);
    assert_eq!(cache.commit(transaction).expect("a commit").changes, 1);
}

fn collected() -> Scenario {
    let (cache, mut generation) = (collections(), 0);
    Scenario::new(
        || {},
        move || {
            generation += 1;
            put(&cache, member(7, 7, generation));
        },
    )
}

/// Each of the 1,000 clients has a glob of its own, so that it is told of one commit in so many.
fn reached_by_glob() -> Scenario {
    let cache = collections();
    let mut client = Client::over(&cache, Variant::Delta);
    client.ask_for(&CDS, vec![directory(7) + "*"]);
    assert_eq!(client.sync(), MEMBERS);
    let mut generation = 0;
    let before = move || {
        generation += 1;
        for collection in (0..COLLECTIONS).filter(|collection| *collection != 7) {
            put(&cache, member(collection, 7, generation));
        }
        put(&cache, member(7, 7, generation));
    };
    Scenario::new(before, move || assert_eq!(client.sync(), 1))
}

/// The one that came first, as it is when a fleet goes all at once.
fn leaving() -> Scenario {
    let cache = Cache::new();
    let names: Vec<Arc<str>> = (0..100).map(|at| format!("cluster-{at:06}").into()).collect();
    let come = move || {
        let mut watch = cache.watch();
        watch.set_scopes(Arc::from([Scope::from("default")]));
        watch.add_names(&CDS, &names);
        watch
    };
    let watches: VecDeque<_> = (0..2_000).map(|_| come()).collect();
    let watches = Rc::new(RefCell::new(watches));
    let others = watches.clone();
    let before = move || others.borrow_mut().push_back(come());
    Scenario::new(before, move || assert!(watches.borrow_mut().pop_front().is_some()))
}

fn built() -> Scenario {
    let mut generation = 0;
    Scenario::new(
        || {},
        move || {
            generation += 1;
            assert_eq!(cluster(7, generation).name().len(), 14);
        },
    )
}

fn late() -> Scenario {
    let cache = cache(1_000);
    let mut client = Client::new(&cache, Variant::Delta, &CDS, &[]);
    assert_eq!(client.sync(), 1_000);
    let mut change = changes(&cache, 500);
    let before = move || (0..1_000).for_each(|_| change());
    Scenario::new(before, move || {
        assert_eq!(client.sync(), 500);
    })
}

fn first() -> Scenario {
    let cache = cache(10_000);
    let sync = move || {
        let mut client = Client::new(&cache, Variant::Delta, &CDS, &[]);
        assert_eq!(client.sync(), 10_000);
    };
    // The first two make what the third shares.
    sync();
    sync();
    Scenario::new(|| {}, sync)
}
