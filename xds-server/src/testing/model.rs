//! What a client says and holds, without IO.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use bytes::Bytes;
use deltaplane_core::{
    DeltaRequest, DeltaResponse, ErrorDetail, Key, Request, ResourceError, SotwRequest,
    SotwResponse, TypeUrl, Variant,
};
use prost::Message;

/// A response, as a client reads it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Update {
    /// The type.
    pub type_url: TypeUrl,
    /// What the answer to it names.
    pub nonce: String,
    /// The version of the type as a whole; in delta, for people only.
    pub version: String,
    /// The resources, in the order of the response.
    pub resources: Vec<Received>,
    /// The names of what is gone, in delta.
    pub removed: Vec<String>,
    /// What is wrong with names that were asked for.
    pub errors: Vec<(String, ErrorDetail)>,
}

/// A resource, as a client reads it.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Received {
    /// Its name. In State of the World it is the first field of the message, as in all resources of the
    /// Envoy API, and empty if that is no string.
    pub name: String,
    /// Its version, in delta.
    pub version: String,
    /// The encoded message.
    pub value: Bytes,
}

/// Everything is subscribed under this name.
const WILDCARD: &str = "*";

#[derive(Debug)]
pub(super) struct Model {
    pub(super) variant: Variant,
    types: BTreeMap<TypeUrl, Watched>,
}

/// One type.
#[derive(Debug, Default)]
struct Watched {
    names: BTreeSet<String>,
    /// It was asked for without names, and nothing was named since: that means everything.
    nameless: bool,
    /// The version that was accepted last, in State of the World.
    version: String,
    /// The nonce that was read last.
    nonce: String,
    running: BTreeMap<String, Received>,
}

impl Update {
    /// The names of the resources, in the order of the response.
    #[must_use]
    pub fn names(&self) -> Vec<&str> {
        self.resources.iter().map(|resource| &*resource.name).collect()
    }

    /// The resource of this name.
    ///
    /// # Panics
    /// If there is none, or if it is no such message.
    #[must_use]
    #[track_caller]
    pub fn decode<M: Message + Default>(&self, name: &str) -> M {
        let resource = self.resources.iter().find(|resource| resource.name == name);
        resource.unwrap_or_else(|| panic!("there is no {name} in {self:?}")).decode()
    }
}

impl Received {
    /// The message.
    ///
    /// # Panics
    /// If it is no such message.
    #[must_use]
    #[track_caller]
    pub fn decode<M: Message + Default>(&self) -> M {
        M::decode(self.value.clone()).expect("a resource of that message")
    }
}

impl fmt::Debug for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, version, value } = self;
        write!(f, "{name}@{version} ({} bytes)", value.len())
    }
}

impl Model {
    pub(super) fn new(variant: Variant) -> Self {
        Self { variant, types: BTreeMap::new() }
    }

    pub(super) fn running(&self, type_url: &TypeUrl) -> impl Iterator<Item = &Received> {
        self.types.get(type_url).into_iter().flat_map(|watched| watched.running.values())
    }

    pub(super) fn subscribe(&mut self, type_url: &TypeUrl, names: &[&str]) -> Request {
        let first = !self.types.contains_key(type_url);
        let watched = self.types.entry(type_url.clone()).or_default();
        watched.nameless = names.is_empty() && (first || watched.nameless);
        let named = if names.is_empty() { &[WILDCARD] } else { names };
        watched.names.extend(named.iter().map(ToString::to_string));
        let on_the_wire = if watched.nameless { &[] } else { named };
        self.request(type_url, on_the_wire, &[])
    }

    pub(super) fn unsubscribe(&mut self, type_url: &TypeUrl, names: &[&str]) -> Request {
        let watched = self.types.entry(type_url.clone()).or_default();
        watched.nameless = false;
        watched.names.retain(|name| !names.contains(&&**name));
        let Watched { names: kept, running, .. } = watched;
        running.retain(|name, _| {
            let glob = Key::new(type_url.clone(), &**name).collection();
            let is_covered = glob.is_some_and(|glob| kept.contains(&*glob));
            is_covered || kept.contains(name) || kept.contains(WILDCARD)
        });
        self.request(type_url, &[], names)
    }

    /// The first requests of a new stream: what is subscribed, and what the client runs of it.
    pub(super) fn resume(&mut self) -> Vec<Request> {
        self.types.retain(|_, watched| !watched.names.is_empty());
        self.types.values_mut().for_each(|watched| watched.nonce.clear());
        self.types.iter().map(|(type_url, watched)| self.restate(type_url, watched)).collect()
    }

    fn restate(&self, type_url: &TypeUrl, watched: &Watched) -> Request {
        let names = watched.names.iter().filter(|_| !watched.nameless);
        let names: Vec<&str> = names.map(String::as_str).collect();
        let mut request = self.request(type_url, &names, &[]);
        if let Request::Delta(request) = &mut request {
            let held = |it: &Received| (it.name.clone(), it.version.clone());
            request.initial_resource_versions = watched.running.values().map(held).collect();
        }
        request
    }

    pub(super) fn accept(&mut self, update: &Update) -> Request {
        let watched = self.types.entry(update.type_url.clone()).or_default();
        watched.version.clone_from(&update.version);
        if self.variant == Variant::Sotw && update.type_url.policy().full_state {
            watched.running.clear();
        }
        for resource in &update.resources {
            watched.running.insert(resource.name.clone(), resource.clone());
        }
        watched.running.retain(|name, _| !update.removed.contains(name));
        self.answer(update, None)
    }

    pub(super) fn reject(&mut self, update: &Update, words: &str) -> Request {
        // Envoy's choice of a code.
        self.answer(update, Some(ErrorDetail::new(13, words)))
    }

    pub(super) fn read(&mut self, message: Bytes) -> Update {
        let update = match self.variant {
            Variant::Delta => Update::of_delta(message),
            _ => Update::of_sotw(message),
        };
        let watched = self.types.entry(update.type_url.clone()).or_default();
        watched.nonce.clone_from(&update.nonce);
        update
    }

    fn answer(&self, update: &Update, error: Option<ErrorDetail>) -> Request {
        let mut request = self.request(&update.type_url, &[], &[]);
        match &mut request {
            Request::Sotw(request) => {
                request.response_nonce.clone_from(&update.nonce);
                request.error_detail = error;
            }
            Request::Delta(request) => {
                request.response_nonce.clone_from(&update.nonce);
                request.error_detail = error;
            }
            _ => {}
        }
        request
    }

    /// A request that answers nothing new: State of the World repeats all names, and delta says what
    /// differs.
    fn request(&self, type_url: &TypeUrl, subscribe: &[&str], unsubscribe: &[&str]) -> Request {
        let strings = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        if self.variant == Variant::Delta {
            return Request::from(DeltaRequest {
                type_url: type_url.to_string(),
                resource_names_subscribe: strings(subscribe),
                resource_names_unsubscribe: strings(unsubscribe),
                ..DeltaRequest::default()
            });
        }
        let watched = self.types.get(type_url);
        let names = watched.filter(|watched| !watched.nameless).map(|watched| &watched.names);
        Request::from(SotwRequest {
            type_url: type_url.to_string(),
            resource_names: names.into_iter().flatten().cloned().collect(),
            version_info: watched.map(|watched| watched.version.clone()).unwrap_or_default(),
            response_nonce: watched.map(|watched| watched.nonce.clone()).unwrap_or_default(),
            ..SotwRequest::default()
        })
    }
}

fn errors(all: Vec<ResourceError>) -> Vec<(String, ErrorDetail)> {
    let error = |ResourceError { resource_name, error_detail }| {
        (resource_name.unwrap_or_default().name, error_detail.unwrap_or_default())
    };
    all.into_iter().map(error).collect()
}

impl Update {
    fn of_delta(message: Bytes) -> Self {
        let message = DeltaResponse::decode(message).expect("a delta response");
        let resources = message.resources.into_iter().map(|resource| Received {
            name: resource.name,
            version: resource.version,
            value: resource.resource.unwrap_or_default().value,
        });
        Self {
            type_url: message.type_url.into(),
            nonce: message.nonce,
            version: message.system_version_info,
            resources: resources.collect(),
            removed: message.removed_resources,
            errors: errors(message.resource_errors),
        }
    }

    fn of_sotw(message: Bytes) -> Self {
        /// As much of a resource as it takes to find its name.
        #[derive(Clone, PartialEq, Message)]
        struct Named {
            #[prost(string, tag = "1")]
            name: String,
        }
        let message = SotwResponse::decode(message).expect("a State of the World response");
        let resources = message.resources.into_iter().map(|any| Received {
            name: Named::decode(any.value.clone()).unwrap_or_default().name,
            version: String::new(),
            value: any.value,
        });
        Self {
            type_url: message.type_url.into(),
            nonce: message.nonce,
            version: message.version_info,
            resources: resources.collect(),
            removed: Vec::new(),
            errors: errors(message.resource_errors),
        }
    }
}
