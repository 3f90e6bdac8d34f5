//! Aliases, and what is good for some time only, under random operations: whatever happens, a client that reads
//! along ends with what the view holds for it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bytes::BytesMut;
use deltaplane_cache::{Cache, CacheView, Scope, Transaction};
use deltaplane_core::{
    DeltaRequest, DeltaResource, DeltaResponse, ErrorDetail, Machine, Resource, SotwRequest,
    SotwResponse, TypeUrl, Variant, View,
};
use proptest::prelude::*;
use prost::Message;

const CDS: TypeUrl = TypeUrl::CLUSTER;
const VHDS: TypeUrl = TypeUrl::VIRTUAL_HOST;

/// One stream over a cache.
struct Stream {
    variant: Variant,
    cache: Cache,
    machine: Machine<CacheView>,
    scopes: Arc<[Scope]>,
}

impl Stream {
    fn over(cache: &Cache, variant: Variant) -> Self {
        let scopes = Arc::from([Scope::from("default")]);
        Self { variant, cache: cache.clone(), machine: Machine::new(variant), scopes }
    }

    fn view(&self) -> CacheView {
        self.cache.view(&self.scopes)
    }

    /// The next response, as delta has it: of State of the World, what is in its wrappers.
    fn next(&mut self) -> Option<(String, Vec<DeltaResource>, Vec<String>)> {
        let response = self.machine.poll_response(&self.view()).unwrap()?;
        let mut wire = BytesMut::new();
        response.encode_head(&mut wire);
        wire.extend_from_slice(&response.body);
        if self.variant == Variant::Delta {
            let message = DeltaResponse::decode(wire.freeze()).unwrap();
            return Some((message.nonce, message.resources, message.removed_resources));
        }
        let message = SotwResponse::decode(wire.freeze()).unwrap();
        let wrapper = TypeUrl::of::<DeltaResource>();
        let unwrap = |any: deltaplane_core::Any| match any.type_url == *wrapper {
            true => DeltaResource::decode(any.value).unwrap(),
            false => DeltaResource {
                name: String::from_utf8(any.value[..1].to_vec()).unwrap(),
                resource: Some(any),
                ..DeltaResource::default()
            },
        };
        let answer = SotwRequest {
            type_url: CDS.to_string(),
            version_info: message.version_info.clone(),
            response_nonce: message.nonce.clone(),
            ..SotwRequest::default()
        };
        self.machine.handle_request(answer.into()).unwrap();
        Some((message.nonce, message.resources.into_iter().map(unwrap).collect(), Vec::new()))
    }

    fn ask(&mut self, type_url: &TypeUrl, subscribe: &[String], unsubscribe: &[String]) {
        let request = DeltaRequest {
            type_url: type_url.to_string(),
            resource_names_subscribe: subscribe.to_vec(),
            resource_names_unsubscribe: unsubscribe.to_vec(),
            ..DeltaRequest::default()
        };
        self.machine.handle_request(request.into()).unwrap();
    }

    fn answer(&mut self, type_url: &TypeUrl, nonce: String, error: Option<ErrorDetail>) {
        let request = DeltaRequest {
            type_url: type_url.to_string(),
            response_nonce: nonce,
            error_detail: error,
            ..DeltaRequest::default()
        };
        self.machine.handle_request(request.into()).unwrap();
    }
}

const HOSTS: [&str; 3] = ["r/a", "r/b", "r/c"];
const DOMAINS: [&str; 3] = ["r/x", "r/y", "r/z"];

#[derive(Debug, Clone)]
enum Naming {
    /// A host has this content, and these domains, which no other has then; or is gone.
    Host(usize, Option<(u8, [bool; DOMAINS.len()])>),
    Subscribe(usize),
    Unsubscribe(usize),
    /// The client reads and accepts what there is.
    Read,
}

fn naming() -> impl Strategy<Value = Naming> {
    let host = (0..3u8, any::<[bool; DOMAINS.len()]>());
    prop_oneof![
        4 => (0..HOSTS.len(), prop::option::weighted(0.8, host))
            .prop_map(|(host, content)| Naming::Host(host, content)),
        3 => (0..DOMAINS.len()).prop_map(Naming::Subscribe),
        1 => (0..DOMAINS.len()).prop_map(Naming::Unsubscribe),
        3 => Just(Naming::Read),
    ]
}

/// What a client of virtual hosts has: each by its name, with its content.
#[derive(Default)]
struct Hosts {
    held: BTreeMap<String, (Vec<u8>, Vec<String>)>,
    subscribed: BTreeSet<String>,
}

impl Hosts {
    fn read(&mut self, stream: &mut Stream) {
        while let Some((nonce, resources, removed)) = stream.next() {
            for DeltaResource { name, resource, aliases, .. } in resources {
                match resource {
                    Some(any) => drop(self.held.insert(name, (any.value.to_vec(), aliases))),
                    // There is nothing of this name (V-05).
                    None => assert_eq!(aliases, [name]),
                }
            }
            for name in removed {
                self.held.remove(&name);
            }
            stream.answer(&VHDS, nonce, None);
        }
    }

    /// What goes by a name that is asked for is what the view says.
    fn check(&self, view: &CacheView) {
        for domain in &self.subscribed {
            let expected = view.resolve(&VHDS, domain);
            let Some(expected) = expected else { continue };
            let held = self.held.get(&**expected.name());
            let aliases: Vec<_> = expected.aliases().iter().map(ToString::to_string).collect();
            assert_eq!(held, Some(&(expected.value().to_vec(), aliases)), "{domain}");
        }
        for (name, (_, aliases)) in &self.held {
            let is_asked_for = aliases.iter().any(|alias| self.subscribed.contains(alias));
            let is_there = view.get(&VHDS, name).is_some();
            assert!(is_there || !is_asked_for, "{name} is gone");
        }
    }
}

#[derive(Debug, Clone)]
enum Timing {
    /// A cluster has this content, and a time or none; or is gone.
    Cluster(usize, Option<(u8, bool)>),
    /// Time passes, and everybody does what is due.
    Pass(u64),
    /// Time passes, and the server says nothing: the link is down.
    Stall(u64),
    /// The client comes back with what it has, as far as it remembers.
    Reconnect,
}

const TTL: Duration = Duration::from_secs(30);
const CLUSTERS: [&str; 3] = ["a", "b", "c"];

fn timing() -> impl Strategy<Value = Timing> {
    let cluster = (0..3u8, any::<bool>());
    prop_oneof![
        4 => (0..CLUSTERS.len(), prop::option::weighted(0.8, cluster))
            .prop_map(|(cluster, content)| Timing::Cluster(cluster, content)),
        4 => (1..70_000u64).prop_map(Timing::Pass),
        1 => (1..70_000u64).prop_map(Timing::Stall),
        1 => Just(Timing::Reconnect),
    ]
}

/// What a client has of a cluster: its content, its version, and when its time is over.
type Leased = (Vec<u8>, String, Option<Duration>);

/// A client that drops what it has not heard of in time.
struct Leases {
    stream: Stream,
    held: BTreeMap<String, Leased>,
    now: Duration,
    /// When the stream was opened.
    opened: Duration,
}

impl Leases {
    fn new(variant: Variant) -> Self {
        let stream = Stream::over(&Cache::new(), variant);
        let mut client =
            Self { stream, held: BTreeMap::new(), now: Duration::ZERO, opened: Duration::ZERO };
        client.connect();
        client
    }

    fn connect(&mut self) {
        self.opened = self.now;
        let cache = self.stream.cache.clone();
        self.stream = Stream::over(&cache, self.stream.variant);
        self.stream.machine.set_ttl(true);
        let versions =
            self.held.iter().map(|(name, (_, version, _))| (name.clone(), version.clone()));
        let request = DeltaRequest {
            type_url: CDS.to_string(),
            initial_resource_versions: versions.collect(),
            ..DeltaRequest::default()
        };
        match self.stream.variant {
            Variant::Delta => self.stream.machine.handle_request(request.into()).unwrap(),
            _ => {
                // What a State of the World client has by now, only its version tells, and that is not asked.
                let request = SotwRequest { type_url: CDS.to_string(), ..SotwRequest::default() };
                self.stream.machine.handle_request(request.into()).unwrap();
            }
        }
    }

    fn expire(&mut self) {
        let now = self.now;
        self.held.retain(|_, (_, _, until)| until.is_none_or(|until| until > now));
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let due = self.stream.machine.poll_timeout().map(|due| self.opened + due);
            self.now = due.unwrap_or(end).clamp(self.now, end);
            self.read();
            if self.now >= end {
                return;
            }
        }
    }

    fn read(&mut self) {
        self.expire();
        self.stream.machine.handle_timeout(self.now - self.opened);
        while let Some((nonce, resources, removed)) = self.stream.next() {
            let mut error = None;
            if self.stream.variant == Variant::Sotw {
                let names: BTreeSet<_> = resources.iter().map(|resource| &resource.name).collect();
                self.held.retain(|name, _| names.contains(name));
            }
            for DeltaResource { name, version, resource, ttl, .. } in resources {
                let until =
                    ttl.map(|ttl| self.now + Duration::from_secs(ttl.seconds.unsigned_abs()));
                match (resource, self.held.get_mut(&name)) {
                    (Some(any), _) => {
                        self.held.insert(name, (any.value.to_vec(), version, until));
                    }
                    (None, Some(held)) if held.1 == version => held.2 = until,
                    // Whose time was over is not good because somebody says so (T-04).
                    (None, _) => error = Some(ErrorDetail::new(13, format!("{name} is not there"))),
                }
            }
            for name in removed {
                self.held.remove(&name);
            }
            if self.stream.variant == Variant::Delta {
                self.stream.answer(&CDS, nonce, error);
            }
        }
    }

    fn run(&mut self, operation: &Timing) {
        match operation {
            Timing::Cluster(at, content) => {
                let mut transaction = Transaction::new();
                let name = CLUSTERS[*at];
                match content {
                    None => drop(transaction.remove("default", CDS, name)),
                    Some((content, has_time)) => {
                        let value = format!("{name}{content}");
                        let resource = Resource::raw(CDS, name, value);
                        let resource = if *has_time { resource.ttl(TTL) } else { resource };
                        transaction.upsert("default", resource.build());
                    }
                }
                self.stream.cache.commit(transaction).unwrap();
            }
            Timing::Pass(time) => {
                self.pass(Duration::from_millis(*time));
                self.check(false);
            }
            Timing::Stall(time) => self.now += Duration::from_millis(*time),
            Timing::Reconnect => self.connect(),
        }
    }

    /// The client has what there is; and, if time enough has passed, nothing else.
    fn check(&self, is_over: bool) {
        let view = self.stream.view();
        let expected: BTreeMap<_, _> = view
            .resources(&CDS)
            .map(|resource| (resource.name().to_string(), resource.value().to_vec()))
            .collect();
        let held = self.held.iter().map(|(name, (value, ..))| (name.clone(), value.clone()));
        let held: BTreeMap<_, _> =
            held.filter(|(name, _)| is_over || expected.contains_key(name)).collect();
        assert_eq!(held, expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases.max(1000)))]

    #[test]
    fn d17_v04_a_client_has_what_goes_by_the_names_it_asks_for(
        operations in prop::collection::vec(naming(), 1..40),
    ) {
        let cache = Cache::new();
        let mut transaction = Transaction::new();
        transaction.replace("default", VHDS, []);
        cache.commit(transaction).unwrap();
        let mut stream = Stream::over(&cache, Variant::Delta);
        let mut client = Hosts::default();
        let mut domains: BTreeMap<usize, (u8, BTreeSet<usize>)> = BTreeMap::new();
        for operation in operations {
            match operation {
                Naming::Host(host, content) => {
                    let mut changed = BTreeSet::from([host]);
                    domains.remove(&host);
                    if let Some((content, own)) = content {
                        let own: BTreeSet<_> = (0..own.len()).filter(|at| own[*at]).collect();
                        for (other, (_, theirs)) in &mut domains {
                            if !theirs.is_disjoint(&own) {
                                theirs.retain(|domain| !own.contains(domain));
                                changed.insert(*other);
                            }
                        }
                        domains.insert(host, (content, own));
                    }
                    let mut transaction = Transaction::new();
                    for at in changed {
                        match domains.get(&at) {
                            None => drop(transaction.remove("default", VHDS, HOSTS[at])),
                            Some((content, own)) => {
                                let aliases = own.iter().map(|domain| DOMAINS[*domain]);
                                let resource = Resource::raw(VHDS, HOSTS[at], vec![*content]);
                                transaction.upsert("default", resource.aliases(aliases).build());
                            }
                        }
                    }
                    cache.commit(transaction).unwrap();
                }
                Naming::Subscribe(at) => {
                    client.subscribed.insert(DOMAINS[at].into());
                    stream.ask(&VHDS, &[DOMAINS[at].into()], &[]);
                }
                Naming::Unsubscribe(at) => {
                    // By which of its names a host is held, nobody knows once that is given up.
                    client.read(&mut stream);
                    if client.subscribed.remove(DOMAINS[at]) {
                        let Hosts { held, subscribed } = &mut client;
                        held.retain(|_, (_, aliases)| {
                            aliases.iter().any(|alias| subscribed.contains(alias))
                        });
                        stream.ask(&VHDS, &[], &[DOMAINS[at].into()]);
                    }
                }
                Naming::Read => client.read(&mut stream),
            }
        }
        client.read(&mut stream);
        client.check(&stream.view());
    }

    #[test]
    fn t03_t10_what_has_a_time_is_there_as_long_as_it_is_told(
        is_delta in any::<bool>(),
        operations in prop::collection::vec(timing(), 1..40),
    ) {
        let mut client = Leases::new(if is_delta { Variant::Delta } else { Variant::Sotw });
        let mut transaction = Transaction::new();
        transaction.replace("default", CDS, []);
        client.stream.cache.commit(transaction).unwrap();
        operations.iter().for_each(|operation| client.run(operation));
        // Removals wait for types that a client who comes back may name.
        client.pass(Duration::from_secs(3));
        client.check(true);
    }
}
