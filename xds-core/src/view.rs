//! What a stream reads from: the port through which the machine sees a cache.

use std::{
    borrow::Cow,
    collections::BTreeSet,
    fmt,
    hash::{Hash, Hasher},
    str::FromStr,
    sync::Arc,
};

use crate::{Key, Resource, Subscription, TypeUrl, Whole};

/// The number of a commit. It grows with every change, over all types and scopes of one cache.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What became of one name between two revisions. `before` and `after` differ.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Change {
    /// The resource's name.
    pub name: Arc<str>,
    /// What it was.
    pub before: Option<Resource>,
    /// What it is.
    pub after: Option<Resource>,
}

impl Change {
    /// The same, as they see it who did not ask for this by name; nothing, if they see none of it.
    pub(crate) fn in_general(&self) -> Option<Cow<'_, Change>> {
        let is_general = |resource: &Resource| !resource.is_on_demand();
        if self.before.iter().chain(&self.after).all(is_general) {
            return Some(Cow::Borrowed(self));
        }
        let before = self.before.clone().filter(is_general);
        let after = self.after.clone().filter(is_general);
        let is_seen = before.is_some() || after.is_some();
        is_seen.then(|| Cow::Owned(Change::new(self.name.clone(), before, after)))
    }

    /// A change of `name`.
    #[must_use]
    pub fn new(name: Arc<str>, before: Option<Resource>, after: Option<Resource>) -> Self {
        Self { name, before, after }
    }
}

/// The log does not reach back far enough to tell what changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the log no longer reaches back to revision {since}")]
#[non_exhaustive]
pub struct LogTruncated {
    /// From where changes were asked for.
    pub since: Revision,
}

impl LogTruncated {
    /// The log does not reach back to `since`.
    #[must_use]
    pub fn new(since: Revision) -> Self {
        Self { since }
    }
}

/// What a client should see, at one revision. Cloning is cheap, and a clone never changes.
pub trait View: Clone {
    /// The revision that this view shows.
    fn revision(&self) -> Revision;

    /// Whether the content of a type is known. An unknown type is met with silence; a known one may be
    /// empty, which is an answer (S-03).
    fn is_known(&self, type_url: &TypeUrl) -> bool;

    /// The resource of that name.
    fn get(&self, type_url: &TypeUrl, name: &str) -> Option<Resource>;

    /// The resource that goes by that name, be it an alias (D-17). A view without aliases need not say.
    fn resolve(&self, type_url: &TypeUrl, name: &str) -> Option<Resource> {
        self.get(type_url, name)
    }

    /// What had this name before it was removed, if that is still known.
    fn tombstone(&self, type_url: &TypeUrl, name: &str) -> Option<Resource> {
        let _ = (type_url, name);
        None
    }

    /// What was removed of late, as far as that is still known.
    fn tombstones(&self, type_url: &TypeUrl) -> Vec<Resource> {
        let _ = type_url;
        Vec::new()
    }

    /// All resources of a type, in the order of their names.
    fn resources(&self, type_url: &TypeUrl) -> impl Iterator<Item = Resource>;

    /// The resources of a type that are direct members of a collection, by its glob: see
    /// [`Resource::collection`].
    fn members(&self, type_url: &TypeUrl, glob: &str) -> impl Iterator<Item = Resource> {
        let is_member =
            move |resource: &Resource| resource.collection().is_some_and(|of| **of == *glob);
        self.resources(type_url).filter(is_member)
    }

    /// All resources of a type, with the responses that carry them. A view that does not keep it for other
    /// streams makes it for one.
    fn whole(&self, type_url: &TypeUrl) -> Arc<Whole> {
        let version = self.version(type_url);
        Arc::new(Whole::new(type_url.clone(), &version, self.resources(type_url)))
    }

    /// Whether a resource of this view refers to that key, be the key there or not. A view that does not
    /// keep references need not say, and then nothing waits for one to go.
    fn is_referred_to(&self, _key: &Key) -> bool {
        false
    }

    /// The version of a type: what the whole set is called.
    fn version(&self, type_url: &TypeUrl) -> TypeVersion;

    /// Up to which revision of its source a type is here, if that counts them. A view that does not know better
    /// knows when it last changed.
    fn source_revision(&self, type_url: &TypeUrl) -> Option<u64> {
        self.version(type_url).revision
    }

    /// What changed after `since`, each name once, by content.
    ///
    /// # Errors
    /// If the log no longer reaches back that far.
    fn changes(&self, type_url: &TypeUrl, since: Revision) -> Result<Arc<[Change]>, LogTruncated>;

    /// What changed after `since` of the names and collections that are subscribed; a view that does not know
    /// better tells of others, too.
    ///
    /// # Errors
    /// If the log no longer reaches back that far.
    fn changes_of(
        &self,
        type_url: &TypeUrl,
        subscription: &Subscription,
        since: Revision,
    ) -> Result<Arc<[Change]>, LogTruncated> {
        let _ = subscription;
        self.changes(type_url, since)
    }

    /// What had this name and the content of this hash before it changed, if that is still known.
    fn recall(&self, type_url: &TypeUrl, name: &str, hash: u64) -> Option<Resource> {
        let _ = (type_url, name, hash);
        None
    }

    /// The names that went back of late to what they were before, be it to a content or to nothing, if that is known. A
    /// client that says that it has that may run what was between: it may have got it from another server, and rejected
    /// the response. It is asked once for each new stream in delta that is subscribed to more than names.
    fn reverted(&self, type_url: &TypeUrl) -> BTreeSet<Arc<str>> {
        let _ = type_url;
        BTreeSet::new()
    }

    /// Whether the whole set did. It is asked once for who comes back in State of the World with the version of now.
    fn is_reverted(&self, type_url: &TypeUrl) -> bool {
        let _ = type_url;
        false
    }

    /// What differs for a client whose set of this type has this version, if it is still known which set
    /// that is: one that this view showed of late, or one with what a later commit removed still in it,
    /// as in the middle of a swap.
    fn changes_from(&self, type_url: &TypeUrl, version: &TypeVersion) -> Option<Arc<[Change]>> {
        let _ = (type_url, version);
        None
    }

    /// What differs for a client that moves from this view to `other`: costs both views' sizes, unless
    /// the view knows better.
    fn difference(&self, other: &Self, type_url: &TypeUrl) -> Vec<Change> {
        difference(self, other, type_url)
    }
}

/// What differs of a type between two views, by going through both.
pub fn difference<V: View>(one: &V, other: &V, type_url: &TypeUrl) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut before = one.resources(type_url).peekable();
    let mut after = other.resources(type_url).peekable();
    loop {
        let (old, new) = match (before.peek(), after.peek()) {
            (Some(b), Some(a)) if b.name() == a.name() => (before.next(), after.next()),
            (Some(b), Some(a)) if a.name() < b.name() => (None, after.next()),
            (None, Some(_)) => (None, after.next()),
            (Some(_), _) => (before.next(), None),
            (None, None) => return changes,
        };
        if old != new
            && let Some(name) = old.as_ref().or(new.as_ref()).map(|r| r.name().clone())
        {
            changes.push(Change::new(name, old, new));
        }
    }
}

/// The version of a whole type, on the wire `<revision>.<sum>+<label>`, as far as it has a revision and
/// a label.
///
/// Equality is the sum's alone, which is the same wherever the same resources are served; the revision
/// tells a client's age to a replica that lags, and the label is for people. Computed from a
/// sum, it costs what changed.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct TypeVersion {
    /// The source's revision of the last change, if it counts them.
    pub revision: Option<u64>,
    /// What the writer of the last change called it.
    pub label: Option<Arc<str>>,
    /// The sum of the fingerprints of the resources.
    sum: u64,
}

impl TypeVersion {
    /// Adds a resource to the set. Order does not matter.
    pub fn add(&mut self, resource: &Resource) {
        self.sum = self.sum.wrapping_add(resource.fingerprint());
    }

    /// Takes a resource out of the set.
    pub fn subtract(&mut self, resource: &Resource) {
        self.sum = self.sum.wrapping_sub(resource.fingerprint());
    }

    /// The version of these resources, which are a part of the set. It is never that of a whole, be the part
    /// all that there is: who had it and asks for everything may have given it up in between.
    #[must_use]
    pub fn of(&self, part: &[Resource]) -> Self {
        let mut version = Self { sum: PART, ..self.clone() };
        part.iter().for_each(|resource| version.add(resource));
        version
    }

    /// What the whole was called when this was the version of a part that was all there is.
    pub(crate) fn of_whole(&self) -> Self {
        Self { sum: self.sum.wrapping_sub(PART), ..self.clone() }
    }

    /// The version of the union of two sets that have no resource in common. Its label is that of the
    /// newer one.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        let (newer, older) =
            if other.revision > self.revision { (&other, &self) } else { (&self, &other) };
        Self {
            revision: newer.revision,
            label: newer.label.clone().or_else(|| older.label.clone()),
            sum: self.sum.wrapping_add(other.sum),
        }
    }
}

/// Where the sum of a part begins.
const PART: u64 = 0x7061_7274_6f66_6974;

/// How many hexadecimal digits a sum has.
const SUM_DIGITS: usize = 16;

impl PartialEq for TypeVersion {
    fn eq(&self, other: &Self) -> bool {
        self.sum == other.sum
    }
}

impl Eq for TypeVersion {}

impl Hash for TypeVersion {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.sum.hash(state);
    }
}

impl fmt::Display for TypeVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(revision) = self.revision {
            write!(f, "{revision}.")?;
        }
        write!(f, "{:016x}", self.sum)?;
        self.label.iter().try_for_each(|label| write!(f, "+{label}"))
    }
}

impl FromStr for TypeVersion {
    type Err = std::num::ParseIntError;

    /// Reads a version that a client holds.
    ///
    /// # Errors
    /// If it is none of ours.
    fn from_str(version: &str) -> Result<Self, Self::Err> {
        let (version, label) = match version.split_once('+') {
            Some((version, label)) => (version, Some(label.into())),
            None => (version, None),
        };
        let (revision, sum) = match version.split_once('.') {
            Some((revision, sum)) => (Some(revision.parse()?), sum),
            None => (None, version),
        };
        // Another server's versions may be short numbers, which must not be taken for sums.
        let sum = if sum.len() == SUM_DIGITS { u64::from_str_radix(sum, 16)? } else { "".parse()? };
        Ok(Self { revision, label, sum })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_as_it_is_written_and_equal_by_its_sum() {
        let mut version = TypeVersion::default();
        version.add(&Resource::raw(TypeUrl::CLUSTER, "a", vec![1]).build());
        let bare = version.to_string();
        assert_eq!(bare.len(), 16);
        version.revision = Some(7);
        version.label = Some("spring+1".into());
        let full = version.to_string();
        assert_eq!(full, format!("7.{bare}+spring+1"));
        let read: TypeVersion = full.parse().unwrap();
        assert_eq!(read.to_string(), full);
        assert_eq!(read, bare.parse().unwrap());
        assert!("v1".parse::<TypeVersion>().is_err());
        assert!("".parse::<TypeVersion>().is_err());
        assert!("0".parse::<TypeVersion>().is_err());
        assert!("1.0".parse::<TypeVersion>().is_err());
    }

    #[test]
    fn a_union_is_called_as_its_newer_part() {
        let version = |revision, label: &str| TypeVersion {
            revision,
            label: (!label.is_empty()).then(|| label.into()),
            sum: 1,
        };
        let union = |this: &TypeVersion, other: &TypeVersion| {
            let union = this.clone().union(other.clone());
            (union.revision, union.label.as_deref().unwrap_or("").to_owned(), union.sum)
        };
        let (old, new) = (version(Some(1), "old"), version(Some(2), "new"));
        assert_eq!(union(&old, &new), (Some(2), "new".into(), 2));
        assert_eq!(union(&new, &old), (Some(2), "new".into(), 2));
        assert_eq!(union(&old, &version(Some(2), "")), (Some(2), "old".into(), 2));
        assert_eq!(union(&version(None, "x"), &old), (Some(1), "old".into(), 2));
    }
}
