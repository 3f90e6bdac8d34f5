//! Raw resources: what somebody encoded, and how it lies in the cache.

pub(crate) mod columns;
pub(crate) mod draft;
pub(crate) mod envoy_api;
pub(crate) mod layers;
pub(crate) mod proto_json;
pub mod store;

use std::fmt;

use deltaplane_server::envoy::descriptors;
use deltaplane_server::{Resource, ResourceBuilder, envoy};
use prost::bytes::Bytes;
use prost_reflect::DynamicMessage;

/// The longest name of a scope, in bytes.
pub const SCOPE_MAX: usize = 256;
/// The longest type URL, in bytes.
pub const TYPE_URL_MAX: usize = 512;
/// The longest name of a resource, in bytes.
pub const NAME_MAX: usize = 4096;
/// The longest version and the longest label, in bytes.
pub const VERSION_MAX: usize = 256;

/// What identifies a resource within its scope.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(clippy::exhaustive_structs)] // there is nothing more to a key
pub struct RawKey {
    /// The type.
    pub type_url: String,
    /// Unique within the type.
    pub name: String,
}

/// A resource as it is stored.
#[derive(Clone, Default, PartialEq, Eq)]
#[allow(clippy::exhaustive_structs)] // as the columns of its row
pub struct RawResource {
    /// What it is.
    pub key: RawKey,
    /// The writer's own version, if he has one.
    pub version: Option<String>,
    /// The encoded message.
    pub value: Bytes,
}

/// A resource as its last change left it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RawChange {
    /// The scope.
    pub scope: String,
    /// What changed.
    pub key: RawKey,
    /// At which revision.
    pub revision: i64,
    /// What the transaction was called.
    pub label: Option<String>,
    /// What is there now; nothing, if it was removed.
    pub resource: Option<RawResource>,
}

/// Any number of changes in one scope that are stored together or not at all.
#[derive(Clone, Debug, Default)]
#[allow(clippy::exhaustive_structs)] // whoever makes one says all of it
pub struct RawTransaction {
    /// The scope. It is known from now on.
    pub scope: String,
    /// What is there afterwards.
    pub upserts: Vec<RawResource>,
    /// What is not; no key of these is in `upserts`.
    pub removes: Vec<RawKey>,
    /// What people call it.
    pub label: Option<String>,
}

impl RawResource {
    /// Why no client could read it, if it is of a type of the Envoy API and no message of it.
    pub(crate) fn fault(&self) -> Option<String> {
        let message = descriptors::message(&self.key.type_url)?;
        DynamicMessage::decode(message, self.value.clone()).err().map(|error| error.to_string())
    }

    /// As clients get it.
    #[must_use]
    pub fn build(&self) -> Resource {
        match &self.version {
            Some(version) => self.builder().version(version).build(),
            None => self.builder().build(),
        }
    }

    /// The same with the content's hash for a version, whatever its writer says.
    #[must_use]
    pub fn build_by_content(&self) -> Resource {
        self.builder().build()
    }

    fn builder(&self) -> ResourceBuilder<'static> {
        envoy::raw(self.key.type_url.as_str(), &self.key.name, self.value.clone())
    }
}

impl fmt::Debug for RawResource {
    /// Shows what it is and never what it holds: it may be a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawResource")
            .field("key", &self.key)
            .field("version", &self.version)
            .field("bytes", &self.value.len())
            .finish_non_exhaustive()
    }
}
