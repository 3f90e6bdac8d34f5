//! Resources: encoded and hashed once, when they enter.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use prost::{Message, Name};
use xxhash_rust::xxh3::xxh3_64_with_seed;

mod builder;

pub use self::builder::ResourceBuilder;
use crate::{
    TypeUrl, Variant,
    collection::{self, collection_of, normal},
};

/// What stands before the scope in the value of what hides down to there.
const DOWN_TO: &str = "down to ";

/// What identifies a resource: its type and its name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct Key {
    /// The type.
    pub type_url: TypeUrl,
    /// The name, unique among resources of the type.
    pub name: Arc<str>,
}

impl Key {
    /// The key of the resource of this type and name. The context parameters of an `xdstp:` name are put in
    /// order, so that equal names are one.
    #[must_use]
    pub fn new(type_url: TypeUrl, name: impl Into<Arc<str>>) -> Self {
        Self { type_url, name: normal(name) }
    }

    /// The collection that a resource of this key is a direct member of: see [`Resource::collection`].
    #[must_use]
    pub fn collection(&self) -> Option<Arc<str>> {
        collection_of(&self.type_url, &self.name)
    }

    /// Why no resource can have this key, if none can: a name is needed, `*` and globs mean several, and an
    /// `xdstp:` name tells the type (W-08, X-07).
    #[must_use]
    pub fn fault(&self) -> Option<&'static str> {
        collection::fault(&self.type_url, &self.name)
    }
}

/// A resource as every client gets it: encoded, hashed and read for references once.
///
/// Cloning copies a pointer. Two resources of one key are equal if their contents are, which is
/// decided by the hash and not by their bytes, since protobuf encodes maps in any order.
#[derive(Clone)]
pub struct Resource(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    type_url: TypeUrl,
    name: Arc<str>,
    aliases: Box<[Arc<str>]>,
    /// The collection that it is a member of.
    collection: Option<Arc<str>>,
    version: String,
    has_own_version: bool,
    hash: u64,
    /// `DeltaDiscoveryResponse.resources`, whose tail is `DiscoveryResponse.resources`, whose tail is
    /// the resource's own message: one buffer is all three.
    entry: Bytes,
    any_at: usize,
    value_at: usize,
    references: Box<[Key]>,
    warms_unseen: bool,
    is_absent: bool,
    is_on_demand: bool,
    lease: Option<Box<Lease>>,
}

/// A resource that is good for some time only, as it is told to whom that can be said.
#[derive(Clone)]
struct Lease {
    ttl: Duration,
    /// The entry in either variant, with the time.
    delta: Bytes,
    sotw: Bytes,
    /// The entry in delta that begins the time anew, and repeats no content (T-04).
    heartbeat: Bytes,
}

impl Resource {
    /// Starts a resource from a message, which is encoded here and never again.
    pub fn of<M: Message + Name>(
        name: impl Into<Arc<str>>,
        message: &M,
    ) -> ResourceBuilder<'static> {
        Resource::raw(TypeUrl::of::<M>(), name, message.encode_to_vec())
    }

    /// Starts a resource from a message that is already encoded. The bytes reach clients as they are,
    /// unknown fields included (B-10).
    pub fn raw(
        type_url: impl Into<TypeUrl>,
        name: impl Into<Arc<str>>,
        value: impl Into<Bytes>,
    ) -> ResourceBuilder<'static> {
        ResourceBuilder::new(type_url.into(), name, value.into())
    }

    /// That there is nothing of this name, to hide what would otherwise be seen. It never reaches a client.
    #[must_use]
    pub fn absent(type_url: impl Into<TypeUrl>, name: impl Into<Arc<str>>) -> Resource {
        Resource::raw(type_url, name, Bytes::new()).absent().build()
    }

    /// The same, but of the scopes down to this one only: what lies below that is seen.
    #[must_use]
    pub fn absent_down_to(
        type_url: impl Into<TypeUrl>,
        name: impl Into<Arc<str>>,
        scope: &str,
    ) -> Resource {
        Resource::raw(type_url, name, format!("{DOWN_TO}{scope}")).absent().build()
    }

    /// Whether this says that there is nothing of its name.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        self.0.is_absent
    }

    /// If this says that there is nothing of its name in the scopes down to one only, that one.
    #[must_use]
    pub fn hides_down_to(&self) -> Option<&str> {
        let value = self.0.entry.get(self.0.value_at..).filter(|_| self.0.is_absent)?;
        std::str::from_utf8(value).ok()?.strip_prefix(DOWN_TO)
    }

    /// The type.
    #[must_use]
    pub fn type_url(&self) -> &TypeUrl {
        &self.0.type_url
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.0.name
    }

    /// Other names that it goes by: a delta subscription to one of them is one to it (D-17).
    #[must_use]
    pub fn aliases(&self) -> &[Arc<str>] {
        &self.0.aliases
    }

    /// The collection that it is a direct member of, by the glob that stands for that: of an `xdstp:` name,
    /// all in its directory with the same context parameters; of a virtual host, those of its route
    /// configuration, called by that one's name and a slash (V-02).
    #[must_use]
    pub fn collection(&self) -> Option<&Arc<str>> {
        self.0.collection.as_ref()
    }

    /// Whether only those get it who ask for it by name: no wildcard and no glob covers it.
    #[must_use]
    pub fn is_on_demand(&self) -> bool {
        self.0.is_on_demand
    }

    /// The same, for those only who ask for it by name.
    #[must_use]
    pub fn on_demand(mut self) -> Self {
        // There is another pointer to it only if somebody keeps it as it was.
        if !self.0.is_on_demand {
            Arc::make_mut(&mut self.0).is_on_demand = true;
        }
        self
    }

    /// For how long it is good, unless it is sent again: see [`ResourceBuilder::ttl`].
    #[must_use]
    pub fn ttl(&self) -> Option<Duration> {
        self.0.lease.as_ref().map(|lease| lease.ttl)
    }

    /// The version on the wire: the content's hash, or what the caller said it is. Equal content of one
    /// key has equal versions in every process, unless the caller brings his own.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.0.version
    }

    /// Whether the caller brought the version, so that it does not follow from the content.
    #[must_use]
    pub fn has_own_version(&self) -> bool {
        self.0.has_own_version
    }

    /// The hash of the content, aliases included, by which contents are compared.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.0.hash
    }

    /// The encoded message.
    #[must_use]
    pub fn value(&self) -> Bytes {
        self.0.entry.slice(self.0.value_at..)
    }

    /// What this resource refers to.
    #[must_use]
    pub fn references(&self) -> &[Key] {
        &self.0.references
    }

    /// Whether a client needs more than what this refers to before it can use it, such as the result of
    /// a health check: that it has all of that is then no proof, only its ACK of this is (O-12).
    #[must_use]
    pub fn warms_unseen(&self) -> bool {
        self.0.warms_unseen
    }

    /// The hash of name and content, for sums over sets of resources.
    pub(crate) fn fingerprint(&self) -> u64 {
        xxh3_64_with_seed(self.0.name.as_bytes(), self.0.hash)
    }

    /// The encoded field `resources` of a response, with its time to live for whom that can be told.
    pub(crate) fn entry(&self, variant: Variant, with_ttl: bool) -> &[u8] {
        match (variant, self.0.lease.as_ref().filter(|_| with_ttl)) {
            (Variant::Delta, None) => &self.0.entry,
            (Variant::Sotw, None) => self.0.entry.get(self.0.any_at..).unwrap_or_default(),
            (Variant::Delta, Some(lease)) => &lease.delta,
            (Variant::Sotw, Some(lease)) => &lease.sotw,
        }
    }

    /// About how many bytes it takes in a response.
    pub(crate) fn size(&self) -> usize {
        self.0.entry.len()
    }

    /// The encoded field `DeltaDiscoveryResponse.resources` that says that it is still good.
    pub(crate) fn heartbeat(&self) -> Option<&[u8]> {
        self.0.lease.as_ref().map(|lease| &*lease.heartbeat)
    }
}

impl PartialEq for Resource {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
            || (self.0.hash == other.0.hash
                && self.0.is_absent == other.0.is_absent
                && self.0.is_on_demand == other.0.is_on_demand
                && self.0.type_url == other.0.type_url
                && self.0.name == other.0.name)
    }
}

impl Eq for Resource {}

impl fmt::Debug for Resource {
    /// Shows what it is and never what it holds: it may be a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resource")
            .field("type", &self.0.type_url.message_name())
            .field("name", &self.0.name)
            .field("version", &self.0.version)
            .field("bytes", &(self.0.entry.len() - self.0.value_at))
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use prost::encoding::WireType;

    use super::*;
    use crate::{
        Any, DeltaResource,
        field::{RESOURCES, field_len},
    };

    #[test]
    fn one_buffer_is_the_entry_of_both_variants() {
        for length in [0, 1, 127, 128, 20_000] {
            let value = vec![7; length];
            let resource = Resource::raw(TypeUrl::CLUSTER, "name", value.clone())
                .version("v")
                .aliases(["other", "another"])
                .build();
            let entry = resource.entry(Variant::Delta, true);
            let any = resource.entry(Variant::Sotw, true);
            // It was allocated once, in its full length.
            assert_eq!(field_len(RESOURCES, content(entry).len()), entry.len());
            let read = DeltaResource::decode(content(entry)).unwrap();
            let expected = Any { type_url: TypeUrl::CLUSTER.to_string(), value: value.into() };
            assert_eq!((&*read.name, &*read.version), ("name", "v"));
            assert_eq!(read.aliases, ["another", "other"]);
            assert_eq!(read.resource.as_ref(), Some(&expected));
            assert_eq!(Any::decode(content(any)).unwrap(), expected);
            assert_eq!(resource.value(), expected.value);
        }
    }

    /// What a length-delimited field holds.
    fn content(mut field: &[u8]) -> &[u8] {
        let (tag, wire_type) = prost::encoding::decode_key(&mut field).unwrap();
        assert_eq!((tag, wire_type), (RESOURCES, WireType::LengthDelimited));
        let length = prost::encoding::decode_varint(&mut field).unwrap();
        assert_eq!(length, field.len() as u64);
        field
    }

    #[test]
    fn equal_is_what_has_the_same_key_and_content() {
        let resource = |type_url: &TypeUrl, name: &str, content: u8| {
            Resource::raw(type_url.clone(), name, vec![content]).build()
        };
        let this = resource(&TypeUrl::CLUSTER, "a", 1);
        assert_eq!(this, this.clone());
        assert_eq!(this, resource(&TypeUrl::CLUSTER, "a", 1));
        assert_ne!(this, resource(&TypeUrl::CLUSTER, "a", 2));
        assert_ne!(this, resource(&TypeUrl::CLUSTER, "b", 1));
        assert_ne!(this, resource(&TypeUrl::ENDPOINT, "a", 1));
        assert_eq!(this.version(), format!("{:016x}", this.hash()));
        let by = |aliases: &[&str]| {
            let resource = Resource::raw(TypeUrl::CLUSTER, "a", vec![1]);
            resource.aliases(aliases.iter().copied()).build()
        };
        assert_ne!(this, by(&["x"]));
        assert_ne!(by(&["x"]), by(&["y"]));
        assert_ne!(by(&["x"]), by(&["x", "y"]));
        assert_eq!(by(&["x", "y"]), by(&["y", "x", "y"]), "in whatever order");
        assert_ne!(this.hash(), resource(&TypeUrl::CLUSTER, "a", 2).hash());
    }

    #[test]
    fn a_version_is_the_callers_own_if_he_brings_one() {
        let resource = || Resource::raw(TypeUrl::CLUSTER, "a", vec![1]);
        assert!(!resource().build().has_own_version());
        assert!(resource().version("v").build().has_own_version());
    }

    #[test]
    fn what_is_shown_of_a_secret_is_its_size() {
        let secret = Resource::raw(TypeUrl::SECRET, "key", b"swordfish".to_vec()).version("v");
        let shown = format!("{:?}", secret.build());
        for part in [TypeUrl::SECRET.message_name(), "\"key\"", "\"v\"", "bytes: 9"] {
            assert!(shown.contains(part), "{shown}");
        }
        assert!(!shown.contains("swordfish"), "{shown}");
    }
}
