//! A scripted client over a machine and a cache: what it asks, what it gets, what it answers.

use std::{sync::Arc, time::Duration};

use bytes::BytesMut;
use deltaplane_cache::{Cache, CacheView, Commit, Scope, Transaction};
use deltaplane_core::{
    Any, DeltaRequest, DeltaResource, DeltaResponse, ErrorDetail, Event, Key, Machine, Resource,
    ResourceError, Response, SotwRequest, SotwResponse, TypeUrl, Variant,
};
use prost::Message;

pub const CDS: TypeUrl = TypeUrl::CLUSTER;
pub const EDS: TypeUrl = TypeUrl::ENDPOINT;
pub const LDS: TypeUrl = TypeUrl::LISTENER;
pub const RDS: TypeUrl = TypeUrl::ROUTE;
pub const SDS: TypeUrl = TypeUrl::SECRET;
pub const SRDS: TypeUrl = TypeUrl::SCOPED_ROUTE;
pub const VHDS: TypeUrl = TypeUrl::VIRTUAL_HOST;
pub const RTDS: TypeUrl = TypeUrl::RUNTIME;
pub const ECDS: TypeUrl = TypeUrl::EXTENSION_CONFIG;

pub const BOTH: [Variant; 2] = [Variant::Sotw, Variant::Delta];

/// A resource whose content is a number; a cluster refers to endpoints of its own name, and a listener
/// to a route configuration.
pub fn resource(type_url: TypeUrl, name: &str, content: u32) -> Resource {
    let reference = |type_url| Some(Key::new(type_url, name));
    let references = match &type_url {
        url if *url == CDS => reference(EDS),
        url if *url == LDS => reference(RDS),
        _ => None,
    };
    Resource::raw(type_url, name, format!("{name}={content}")).references(references).build()
}

/// A State of the World stream over a cache that holds these.
pub fn sotw(resources: &[(TypeUrl, &str, u32)]) -> Client {
    Client::with(Variant::Sotw, resources)
}

/// A delta stream over a cache that holds these.
pub fn delta(resources: &[(TypeUrl, &str, u32)]) -> Client {
    Client::with(Variant::Delta, resources)
}

/// One stream, over a cache of which it sees the scopes `upper` and `default`.
pub struct Client {
    pub cache: Cache,
    pub machine: Machine<CacheView>,
    now: Duration,
    scopes: Arc<[Scope]>,
}

/// A response as the client reads it.
#[derive(Debug, Clone)]
pub struct Got {
    pub type_url: String,
    pub nonce: String,
    pub version: String,
    /// `name=content` of each resource; of one without content `name~` if it has a time, and else `name?`.
    pub resources: Vec<String>,
    pub removed: Vec<String>,
    /// The name of each resource, in delta.
    pub names: Vec<String>,
    /// The version of each resource, in delta.
    pub versions: Vec<String>,
    /// The aliases of all resources, in delta.
    pub aliases: Vec<String>,
    /// The time to live of each resource that has one, in seconds.
    pub ttls: Vec<i64>,
    /// `name code` of each error.
    pub errors: Vec<String>,
}

impl Client {
    pub fn new(variant: Variant) -> Self {
        Self::of(Cache::new(), variant)
    }

    /// A further stream over a cache.
    pub fn of(cache: Cache, variant: Variant) -> Self {
        let scopes = Arc::from([Scope::from("upper"), Scope::from("default")]);
        Self { cache, machine: Machine::new(variant), now: Duration::ZERO, scopes }
    }

    /// A stream over a cache that holds these.
    pub fn with(variant: Variant, resources: &[(TypeUrl, &str, u32)]) -> Self {
        let client = Self::new(variant);
        client.put(resources);
        client
    }

    pub fn put(&self, resources: &[(TypeUrl, &str, u32)]) -> Commit {
        self.commit(resources, &[])
    }

    pub fn remove(&self, keys: &[(TypeUrl, &str)]) -> Commit {
        self.commit(&[], keys)
    }

    pub fn commit(&self, upserts: &[(TypeUrl, &str, u32)], removes: &[(TypeUrl, &str)]) -> Commit {
        let mut transaction = Transaction::new();
        for (type_url, name, content) in upserts {
            transaction.upsert("default", resource(type_url.clone(), name, *content));
        }
        for (type_url, name) in removes {
            transaction.remove("default", type_url.clone(), *name);
        }
        self.cache.commit(transaction).unwrap()
    }

    /// The same, as of a revision of the source.
    pub fn put_at(&self, revision: u64, resources: &[(TypeUrl, &str, u32)]) -> Commit {
        let mut transaction = Transaction::new();
        transaction.source_revision(revision);
        for (type_url, name, content) in resources {
            transaction.upsert("default", resource(type_url.clone(), name, *content));
        }
        self.cache.commit(transaction).unwrap()
    }

    /// Adds resources that are made elsewhere.
    pub fn add(&self, resources: impl IntoIterator<Item = Resource>) -> Commit {
        let mut transaction = Transaction::new();
        for resource in resources {
            transaction.upsert("default", resource);
        }
        self.cache.commit(transaction).unwrap()
    }

    pub fn view(&self) -> CacheView {
        self.cache.view(&self.scopes)
    }

    pub fn see(&mut self, scopes: &[&str]) {
        let scopes: Arc<[Scope]> = scopes.iter().map(|scope| Scope::from(*scope)).collect();
        let old = self.view();
        self.machine.change_view(&old, &old.through(&scopes)).unwrap();
        self.scopes = scopes;
    }

    /// A first request in the stream's own variant: these names, or everything.
    pub fn ask(&mut self, type_url: TypeUrl, names: &[&str]) {
        match self.machine.variant() {
            Variant::Sotw => self.sotw(type_url, names, "", ""),
            _ => self.delta(type_url, names, &[]),
        }
    }

    /// State of the World: names, version, nonce.
    pub fn sotw(&mut self, type_url: TypeUrl, names: &[&str], version: &str, nonce: &str) {
        let request = SotwRequest {
            type_url: type_url.to_string(),
            resource_names: strings(names),
            version_info: version.into(),
            response_nonce: nonce.into(),
            ..SotwRequest::default()
        };
        self.machine.handle_request(request.into()).unwrap();
    }

    /// Delta: what is subscribed and what is given up.
    pub fn delta(&mut self, type_url: TypeUrl, subscribe: &[&str], unsubscribe: &[&str]) {
        self.delta_from(type_url, subscribe, unsubscribe, &[]);
    }

    /// The same, with what is held from an earlier stream.
    pub fn delta_from(
        &mut self,
        type_url: TypeUrl,
        subscribe: &[&str],
        unsubscribe: &[&str],
        held: &[(&str, &str)],
    ) {
        let held = held.iter().map(|(name, version)| (name.to_string(), version.to_string()));
        let request = DeltaRequest {
            type_url: type_url.to_string(),
            resource_names_subscribe: strings(subscribe),
            resource_names_unsubscribe: strings(unsubscribe),
            initial_resource_versions: held.collect(),
            ..DeltaRequest::default()
        };
        self.machine.handle_request(request.into()).unwrap();
    }

    /// The next response; there must be one, and of this type.
    #[track_caller]
    pub fn expect(&mut self, type_url: TypeUrl) -> Got {
        let got = self.poll().expect("a response");
        assert_eq!(got.type_url, type_url.as_str(), "the type of {got:?}");
        got
    }

    /// There must be no response.
    #[track_caller]
    pub fn silence(&mut self) {
        if let Some(got) = self.poll() {
            panic!("silence was expected, but not {got:?}");
        }
    }

    /// How long the stream has been open.
    pub fn now(&self) -> Duration {
        self.now
    }

    /// Time passes.
    pub fn pass(&mut self, time: Duration) {
        self.now += time;
        self.machine.handle_timeout(self.now);
    }

    pub fn poll(&mut self) -> Option<Got> {
        let response = self.machine.poll_response(&self.view()).unwrap()?;
        Some(read(self.machine.variant(), &response))
    }

    /// Reads all responses there are, and answers none.
    pub fn read_all(&mut self) -> Vec<Got> {
        std::iter::from_fn(|| self.poll()).collect()
    }

    /// Reads and acknowledges all responses there are.
    pub fn drain(&mut self, names: &[&str]) -> Vec<Got> {
        std::iter::from_fn(|| {
            let got = self.poll()?;
            self.ack(&got, names);
            Some(got)
        })
        .collect()
    }

    /// Acknowledges; in State of the World with these names.
    pub fn ack(&mut self, got: &Got, names: &[&str]) {
        self.answer(got, names, &got.version, None);
    }

    /// Rejects; the client keeps `version`.
    pub fn nack(&mut self, got: &Got, names: &[&str], version: &str, words: &str) {
        self.answer(got, names, version, Some(ErrorDetail::new(13, words)));
    }

    pub fn answer(&mut self, got: &Got, names: &[&str], version: &str, error: Option<ErrorDetail>) {
        let request = match self.machine.variant() {
            Variant::Sotw => SotwRequest {
                type_url: got.type_url.clone(),
                resource_names: strings(names),
                version_info: version.into(),
                response_nonce: got.nonce.clone(),
                error_detail: error,
                ..SotwRequest::default()
            }
            .into(),
            _ => DeltaRequest {
                type_url: got.type_url.clone(),
                response_nonce: got.nonce.clone(),
                error_detail: error,
                ..DeltaRequest::default()
            }
            .into(),
        };
        self.machine.handle_request(request).unwrap();
    }

    /// Delta: an answer, be it to what nobody sent, that changes the subscription too.
    pub fn delta_answer(
        &mut self,
        type_url: TypeUrl,
        nonce: &str,
        words: Option<&str>,
        subscribe: &[&str],
        unsubscribe: &[&str],
    ) {
        let request = DeltaRequest {
            type_url: type_url.to_string(),
            response_nonce: nonce.into(),
            error_detail: words.map(|words| ErrorDetail::new(13, words)),
            resource_names_subscribe: strings(subscribe),
            resource_names_unsubscribe: strings(unsubscribe),
            ..DeltaRequest::default()
        };
        self.machine.handle_request(request.into()).unwrap();
    }

    /// What became of responses since the last call: `+nonce` or `-nonce`.
    pub fn settled(&mut self) -> Vec<String> {
        let settled = |event| match event {
            Event::Acknowledged { nonce, .. } => Some(format!("+{nonce}")),
            Event::Rejected { nonce, .. } => Some(format!("-{nonce}")),
            _ => None,
        };
        self.events().into_iter().filter_map(settled).collect()
    }

    /// For which revisions of the source it waited in vain, since the last call.
    pub fn served_older(&mut self) -> Vec<u64> {
        let claimed = |event| match event {
            Event::ServedOlder { claimed, .. } => Some(claimed),
            _ => None,
        };
        self.events().into_iter().filter_map(claimed).collect()
    }

    pub fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.machine.poll_event()).collect()
    }
}

fn strings(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

fn read(variant: Variant, response: &Response) -> Got {
    let mut wire = BytesMut::new();
    response.encode_head(&mut wire);
    wire.extend_from_slice(&response.body);
    assert_eq!(wire.len(), response.encoded_len());
    let text = |value: &[u8]| String::from_utf8(value.to_vec()).unwrap();
    let errors = |errors: &[ResourceError]| {
        let error = |error: &ResourceError| {
            let (name, detail) = (error.resource_name.as_ref(), error.error_detail.as_ref());
            format!("{} {}", name.unwrap().name, detail.unwrap().code)
        };
        errors.iter().map(error).collect()
    };
    let got = match variant {
        Variant::Sotw => {
            let message = SotwResponse::decode(wire.freeze()).unwrap();
            let wrapper = TypeUrl::of::<DeltaResource>();
            let unwrap = |any: &Any| match any.type_url == *wrapper {
                true => DeltaResource::decode(any.value.clone()).unwrap(),
                false => DeltaResource { resource: Some(any.clone()), ..DeltaResource::default() },
            };
            let all: Vec<_> = message.resources.iter().map(unwrap).collect();
            let content = |resource: &DeltaResource| {
                let any = resource.resource.as_ref().expect("T-09: a wrapper is not empty");
                assert_eq!(any.type_url, message.type_url, "B-05");
                text(&any.value)
            };
            Got {
                resources: all.iter().map(content).collect(),
                type_url: message.type_url,
                nonce: message.nonce,
                version: message.version_info,
                removed: vec![],
                names: vec![],
                versions: vec![],
                aliases: vec![],
                ttls: all.iter().filter_map(|r| Some(r.ttl?.seconds)).collect(),
                errors: errors(&message.resource_errors),
            }
        }
        _ => {
            let message = DeltaResponse::decode(wire.freeze()).unwrap();
            let content = |resource: &DeltaResource| match (&resource.resource, resource.ttl) {
                (Some(any), _) => {
                    assert_eq!(any.type_url, message.type_url, "B-05");
                    text(&any.value)
                }
                (None, Some(_)) => format!("{}~", resource.name),
                (None, None) => {
                    assert_eq!(resource.aliases, [&*resource.name], "D-18: a resource has content");
                    format!("{}?", resource.name)
                }
            };
            Got {
                nonce: message.nonce,
                version: String::new(),
                resources: message.resources.iter().map(content).collect(),
                ttls: message.resources.iter().filter_map(|r| Some(r.ttl?.seconds)).collect(),
                errors: errors(&message.resource_errors),
                names: message.resources.iter().map(|r| r.name.clone()).collect(),
                aliases: message.resources.iter().flat_map(|r| r.aliases.clone()).collect(),
                versions: message.resources.into_iter().map(|r| r.version).collect(),
                removed: message.removed_resources,
                type_url: message.type_url,
            }
        }
    };
    assert_eq!((got.resources.len(), got.removed.len()), (response.resources, response.removals));
    got
}
