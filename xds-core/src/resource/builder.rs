//! How a resource is made: hashed and encoded, once for all clients.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use prost::Message as _;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{Inner, Key, Lease, Resource};
use crate::{
    Any, DeltaResource, Schema, TypeUrl,
    collection::{collection_of, normal},
    field::{RESOURCES, field_len, put_field, put_head},
};

/// A resource that is being made; see [`Resource::of`] and [`Resource::raw`].
#[derive(Debug, Clone)]
#[must_use = "a resource comes into being by `build`"]
pub struct ResourceBuilder<'a> {
    type_url: TypeUrl,
    name: Arc<str>,
    value: Bytes,
    aliases: Vec<Arc<str>>,
    version: Option<String>,
    schema: Option<&'a Schema>,
    references: Vec<Key>,
    warms_unseen: bool,
    is_absent: bool,
    ttl: Option<Duration>,
    is_on_demand: bool,
}

impl<'a> ResourceBuilder<'a> {
    /// One of a message that is already encoded, and nothing else.
    pub(super) fn new(type_url: TypeUrl, name: impl Into<Arc<str>>, value: Bytes) -> Self {
        ResourceBuilder {
            type_url,
            name: normal(name),
            value,
            aliases: Vec::new(),
            ttl: None,
            is_on_demand: false,
            version: None,
            schema: None,
            references: Vec::new(),
            warms_unseen: false,
            is_absent: false,
        }
    }

    /// It says that there is nothing of its name.
    pub(super) fn absent(self) -> Self {
        Self { is_absent: true, ..self }
    }

    /// Hashes by this schema, so that equal messages have equal versions although protobuf encodes maps
    /// in any order. Without one, a resource is hashed as it is encoded.
    pub fn schema<'b>(self, schema: &'b Schema) -> ResourceBuilder<'b>
    where
        'a: 'b,
    {
        ResourceBuilder { schema: Some(schema), ..self }
    }

    /// What the resource refers to.
    pub fn references(mut self, references: impl IntoIterator<Item = Key>) -> Self {
        self.references.extend(references);
        self
    }

    /// A client needs more than what the resource refers to before it can use it: see
    /// [`Resource::warms_unseen`].
    pub fn warming_unseen(mut self, warms_unseen: bool) -> Self {
        self.warms_unseen = warms_unseen;
        self
    }

    /// Other names that it goes by: a delta subscription to one of them is one to it (D-17). An alias
    /// should belong to one resource only; a name goes before an alias.
    pub fn aliases<N: Into<Arc<str>>>(mut self, aliases: impl IntoIterator<Item = N>) -> Self {
        self.aliases.extend(aliases.into_iter().map(Into::into));
        self.aliases.sort_unstable();
        self.aliases.dedup();
        self
    }

    /// Keeps the resource out of what a wildcard or a glob covers: only those get it who ask for it by name
    /// (V-09).
    pub fn on_demand(mut self) -> Self {
        self.is_on_demand = true;
        self
    }

    /// For how long the resource is good, unless it is sent again: a client then drops it by itself, should
    /// this server be gone (T-01). It is told in time that it is still good, as long as the resource is
    /// there.
    ///
    /// Only those clients are told for which the server's own rule says so, and never about endpoints,
    /// virtual hosts and the like, where it does nothing, or harm: see [`TypePolicy::bears_ttl`].
    ///
    /// [`TypePolicy::bears_ttl`]: crate::TypePolicy::bears_ttl
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// The version that clients see, in place of the content's hash.
    ///
    /// It has to tell this content from all others of that name, in all scopes that one client may see: a client
    /// that comes back with a version is taken to have what goes by it now. Within a scope, the cache
    /// refuses one that denoted another content.
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.version = Some(version.into());
        self
    }

    /// Hashes and encodes the resource, once for all clients. Costs two passes over its bytes.
    #[must_use]
    pub fn build(self) -> Resource {
        let hash = match self.schema {
            Some(schema) => schema.hash(self.type_url.message_name(), &self.value),
            None => xxh3_64_with_seed(&self.value, 0),
        };
        // Clients are told of aliases, so another set of them is another content.
        let hash = self
            .aliases
            .iter()
            .fold(hash, |hash, alias| xxh3_64_with_seed(alias.as_bytes(), hash.rotate_left(1)));
        let hash = self.ttl.map_or(hash, |ttl| {
            xxh3_64_with_seed(&ttl.as_nanos().to_le_bytes(), hash.rotate_left(1))
        });
        let version = self.version.clone().unwrap_or_else(|| format!("{hash:016x}"));
        let (entry, any_at) = self.encode_entry(&version);
        let lease = self.ttl.map(|ttl| Box::new(self.lease(&version, ttl)));
        Resource(Arc::new(Inner {
            value_at: entry.len() - self.value.len(),
            collection: collection_of(&self.type_url, &self.name),
            is_on_demand: self.is_on_demand,
            lease,
            type_url: self.type_url,
            name: self.name,
            aliases: self.aliases.into(),
            has_own_version: self.version.is_some(),
            version,
            hash,
            entry,
            any_at,
            references: self.references.into(),
            warms_unseen: self.warms_unseen,
            is_absent: self.is_absent,
        }))
    }

    fn lease(&self, version: &str, ttl: Duration) -> Lease {
        let any = Any { type_url: self.type_url.as_str().to_owned(), value: self.value.clone() };
        let heartbeat = DeltaResource {
            version: version.to_owned(),
            name: self.name.to_string(),
            ttl: Some(ttl.into()),
            ..DeltaResource::default()
        };
        let aliases = self.aliases.iter().map(ToString::to_string).collect();
        let whole = DeltaResource { resource: Some(any), aliases, ..heartbeat.clone() };
        let type_url = TypeUrl::of::<DeltaResource>().as_str().to_owned();
        let wrapped = Any { type_url, value: whole.encode_to_vec().into() };
        let field = |message: &[u8]| {
            let mut field = BytesMut::with_capacity(field_len(RESOURCES, message.len()));
            put_field(RESOURCES, message, &mut field);
            field.freeze()
        };
        Lease {
            ttl,
            delta: field(&whole.encode_to_vec()),
            sotw: field(&wrapped.encode_to_vec()),
            heartbeat: field(&heartbeat.encode_to_vec()),
        }
    }

    /// Encodes a field `resources = Resource { name, version, aliases, resource: Any }` with the `Any`
    /// last, and says where the field that holds the `Any` begins.
    fn encode_entry(&self, version: &str) -> (Bytes, usize) {
        let any_len = field_len(1, self.type_url.len()) + field_len(2, self.value.len());
        let aliases: usize = self.aliases.iter().map(|alias| field_len(4, alias.len())).sum();
        let resource_len = field_len(3, self.name.len())
            + field_len(1, version.len())
            + aliases
            + field_len(RESOURCES, any_len);
        let mut entry = BytesMut::with_capacity(field_len(RESOURCES, resource_len));
        put_head(RESOURCES, resource_len, &mut entry);
        put_field(3, self.name.as_bytes(), &mut entry);
        put_field(1, version.as_bytes(), &mut entry);
        self.aliases.iter().for_each(|alias| put_field(4, alias.as_bytes(), &mut entry));
        let any_at = entry.len();
        put_head(RESOURCES, any_len, &mut entry);
        put_field(1, self.type_url.as_bytes(), &mut entry);
        put_field(2, &self.value, &mut entry);
        (entry.freeze(), any_at)
    }
}
