//! Transactions: any number of changes that become visible at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use deltaplane_core::{Key, Resource, Revision, TypeUrl};

use crate::layer::{Edit, Origin};

/// The name of a set of resources: the default, a tenant, a canary group, one node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scope(Arc<str>);

impl Scope {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<T: Into<Arc<str>>> From<T> for Scope {
    fn from(name: T) -> Self {
        Self(name.into())
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A set of changes, over any number of scopes and types, that readers see all of or none of.
///
/// Of several changes to one key, the last counts. Nothing happens before
/// [`Cache::commit`](crate::Cache::commit).
#[derive(Debug, Clone, Default)]
pub struct Transaction {
    pub(crate) edits: BTreeMap<(Scope, TypeUrl), Edit>,
    pub(crate) declared: BTreeSet<(Scope, TypeUrl)>,
    /// Of which all that the source has at that revision is here.
    pub(crate) up_to_date: BTreeSet<Scope>,
    pub(crate) origin: Origin,
    pub(crate) insists: bool,
    pub(crate) error: Option<CommitError>,
}

/// What is wrong with a transaction. Nothing of it was done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CommitError {
    /// A replacement of one type holds a resource of another.
    #[error(
        "a replacement of {expected} in scope {scope} holds {}, which is a {}: \
         put it into a replacement of its own type", key.name, key.type_url
    )]
    WrongType {
        /// The scope.
        scope: Scope,
        /// The type that is replaced.
        expected: TypeUrl,
        /// The resource that does not belong.
        key: Key,
    },
    /// A replacement names a resource twice.
    #[error("a replacement in scope {scope} holds {} twice: names must be unique", key.name)]
    Duplicate {
        /// The scope.
        scope: Scope,
        /// The resource that comes twice.
        key: Key,
    },
    /// A caller's own version is that of another content already.
    #[error(
        "the version {version:?} of {} in scope {scope} denotes another content already: \
         a new content needs a new version", key.name
    )]
    VersionReused {
        /// The scope.
        scope: Scope,
        /// The resource.
        key: Key,
        /// Its version.
        version: String,
    },
    /// A content that clients rejected, and that was withdrawn for that.
    #[error(
        "{} {:?} in scope {scope} has a content that was withdrawn, since clients rejected it: {reason}; \
         change it, or insist", key.type_url, key.name
    )]
    Withdrawn {
        /// The scope.
        scope: Scope,
        /// The resource.
        key: Key,
        /// Why.
        reason: Arc<str>,
    },
    /// A name that no resource can have.
    #[error(
        "a {} in scope {scope} is called {:?}: {reason}", key.type_url, key.name
    )]
    InvalidName {
        /// The scope.
        scope: Scope,
        /// The resource.
        key: Key,
        /// Why no resource can be called so.
        reason: &'static str,
    },
}

/// What a commit did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Commit {
    /// The revision at which the change is visible. A commit that changes nothing makes none: it
    /// returns the current one.
    pub revision: Revision,
    /// How many resources changed.
    pub changes: usize,
}

impl Commit {
    pub(crate) fn new(revision: Revision, changes: usize) -> Self {
        Self { revision, changes }
    }
}

impl Transaction {
    /// A transaction that changes nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A transaction that changes nothing yet, with the label and the source's revision of this one; but it says of no
    /// scope that it is [up to date](Transaction::up_to_date).
    #[must_use]
    pub fn emptied(&self) -> Self {
        Self { origin: self.origin.clone(), insists: self.insists, ..Self::default() }
    }

    /// The revision of the source that this transaction brings the cache to. Clients see it in front of
    /// the version of each type that changes, so that replicas can tell who is ahead.
    pub fn source_revision(&mut self, revision: u64) -> &mut Self {
        self.origin.revision = Some(revision);
        self
    }

    /// Says that with this transaction all of a scope is as the source has it at that
    /// [revision](Transaction::source_revision), be there anything to change or not. A client that has something of an
    /// older revision from another replica, which is not known here, does not wait for it in vain: it was
    /// replaced before this one looked. A scope that is not known stays so.
    ///
    /// Of all scopes that a client sees, its versions tell one revision, the newest: say it only while none of them is
    /// behind.
    pub fn up_to_date(&mut self, scope: impl Into<Scope>) -> &mut Self {
        self.up_to_date.insert(scope.into());
        self
    }

    /// What people call this change. Clients show it behind the version of each type that changes, as
    /// `…+label`; it plays no part in comparing versions.
    pub fn label(&mut self, label: impl Into<Arc<str>>) -> &mut Self {
        self.origin.label = Some(label.into());
        self
    }

    /// Adds a resource to a scope, or changes it.
    pub fn upsert(&mut self, scope: impl Into<Scope>, resource: Resource) -> &mut Self {
        let scope = scope.into();
        let key = Key::new(resource.type_url().clone(), resource.name().clone());
        self.check_name(&scope, &key);
        self.edit(scope, key.type_url).names.insert(key.name, Some(resource));
        self
    }

    /// Removes a resource from a scope, if it is there.
    pub fn remove(
        &mut self,
        scope: impl Into<Scope>,
        type_url: impl Into<TypeUrl>,
        name: impl Into<Arc<str>>,
    ) -> &mut Self {
        let key = Key::new(type_url.into(), name);
        self.edit(scope.into(), key.type_url).names.insert(key.name, None);
        self
    }

    /// Hides a resource of the scopes below this one: whoever sees this scope over them sees nothing of that
    /// name. [`remove`](Transaction::remove) shows it again.
    pub fn hide(
        &mut self,
        scope: impl Into<Scope>,
        type_url: impl Into<TypeUrl>,
        name: impl Into<Arc<str>>,
    ) -> &mut Self {
        self.upsert(scope, Resource::absent(type_url, name))
    }

    /// The same, but of the scopes down to `last` only, that one included: of that name, whoever sees this
    /// scope over it sees what lies below. Where `last` does not lie below this one, that is nothing.
    pub fn hide_down_to(
        &mut self,
        scope: impl Into<Scope>,
        last: &Scope,
        type_url: impl Into<TypeUrl>,
        name: impl Into<Arc<str>>,
    ) -> &mut Self {
        self.upsert(scope, Resource::absent_down_to(type_url, name, last.as_str()))
    }

    /// Commits also what clients rejected and was withdrawn for that: it is to be tried again.
    pub fn insist(&mut self) -> &mut Self {
        self.insists = true;
        self
    }

    /// Makes these the only resources of a type in a scope, and the type known, even if there are none.
    /// Only the difference is a change. What was said before of this scope and type is forgotten.
    pub fn replace(
        &mut self,
        scope: impl Into<Scope>,
        type_url: impl Into<TypeUrl>,
        resources: impl IntoIterator<Item = Resource>,
    ) -> &mut Self {
        let (scope, type_url) = (scope.into(), type_url.into());
        *self.edit(scope.clone(), type_url.clone()) = Edit { replace: true, ..Edit::default() };
        for resource in resources {
            let key = Key::new(resource.type_url().clone(), resource.name().clone());
            self.check_name(&scope, &key);
            if key.type_url != type_url {
                let (scope, expected) = (scope.clone(), type_url.clone());
                self.fail(CommitError::WrongType { scope, expected, key });
                continue;
            }
            let edit = self.edit(scope.clone(), type_url.clone());
            if edit.names.insert(key.name.clone(), Some(resource)).is_some() {
                self.fail(CommitError::Duplicate { scope: scope.clone(), key });
            }
        }
        self
    }

    /// Announces that a source will fill a type of a scope. Until it does, by
    /// [`replace`](Transaction::replace), clients that see the scope get no answer for that type, rather
    /// than an empty one. A type that is filled stays so.
    pub fn declare(&mut self, scope: impl Into<Scope>, type_url: impl Into<TypeUrl>) -> &mut Self {
        self.declared.insert((scope.into(), type_url.into()));
        self
    }

    fn edit(&mut self, scope: Scope, type_url: TypeUrl) -> &mut Edit {
        self.edits.entry((scope, type_url)).or_default()
    }

    fn check_name(&mut self, scope: &Scope, key: &Key) {
        if let Some(reason) = key.fault() {
            let (scope, key) = (scope.clone(), key.clone());
            self.fail(CommitError::InvalidName { scope, key, reason });
        }
    }

    /// Keeps the first thing that is wrong, for the commit to say.
    fn fail(&mut self, error: CommitError) {
        self.error.get_or_insert(error);
    }
}
