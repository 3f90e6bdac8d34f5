//! Names of resource types, and what the protocol demands of each.

use std::{borrow::Borrow, fmt, ops::Deref, sync::Arc};

use crate::Variant;

/// The type URL of a resource type, such as `type.googleapis.com/envoy.config.cluster.v3.Cluster`.
///
/// Cloning is cheap: the types of the xDS API are static strings, others are shared.
#[derive(Clone)]
pub struct TypeUrl(Repr);

#[derive(Clone)]
enum Repr {
    Static(&'static str),
    Shared(Arc<str>),
}

macro_rules! known_types {
    ($($(#[$doc:meta])* $name:ident = $message:literal;)*) => {
        impl TypeUrl {
            $($(#[$doc])* pub const $name: TypeUrl =
                TypeUrl(Repr::Static(concat!("type.googleapis.com/", $message)));)*

            const KNOWN: &'static [TypeUrl] = &[$(TypeUrl::$name),*];
        }
    };
}

known_types! {
    /// Clusters, delivered by CDS.
    CLUSTER = "envoy.config.cluster.v3.Cluster";
    /// The endpoints of a cluster, delivered by EDS.
    ENDPOINT = "envoy.config.endpoint.v3.ClusterLoadAssignment";
    /// Endpoints of one locality, delivered by LEDS.
    LOCALITY_ENDPOINT = "envoy.config.endpoint.v3.LbEndpoint";
    /// Certificates and keys, delivered by SDS.
    SECRET = "envoy.extensions.transport_sockets.tls.v3.Secret";
    /// Filter configurations, delivered by ECDS.
    EXTENSION_CONFIG = "envoy.config.core.v3.TypedExtensionConfig";
    /// Listeners, delivered by LDS.
    LISTENER = "envoy.config.listener.v3.Listener";
    /// Scoped routes, delivered by SRDS.
    SCOPED_ROUTE = "envoy.config.route.v3.ScopedRouteConfiguration";
    /// Route configurations, delivered by RDS.
    ROUTE = "envoy.config.route.v3.RouteConfiguration";
    /// Virtual hosts, delivered by VHDS.
    VIRTUAL_HOST = "envoy.config.route.v3.VirtualHost";
    /// Runtime layers, delivered by RTDS.
    RUNTIME = "envoy.service.runtime.v3.Runtime";
}

impl TypeUrl {
    /// The type URL of `M`.
    #[must_use]
    pub fn of<M: prost::Name>() -> TypeUrl {
        TypeUrl::from(format!("type.googleapis.com/{}", M::full_name()))
    }

    /// The type URL as a string.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match &self.0 {
            Repr::Static(url) => url,
            Repr::Shared(url) => url,
        }
    }

    /// The full name of the message: what stands after the last slash.
    #[must_use]
    pub fn message_name(&self) -> &str {
        message_name(self)
    }

    /// What the protocol demands of this type.
    #[must_use]
    pub fn policy(&self) -> &'static TypePolicy {
        POLICIES.iter().find(|(type_url, _)| type_url == self).map_or(&OPAQUE, |(_, policy)| policy)
    }
}

impl TypePolicy {
    /// Whether what is owed may be spread over several responses (S-04, D-23).
    #[must_use]
    pub fn may_split(&self, variant: Variant) -> bool {
        !self.repeats_everything(variant)
    }

    /// Whether each response holds everything that is subscribed.
    pub(crate) fn repeats_everything(&self, variant: Variant) -> bool {
        variant == Variant::Sotw && self.full_state
    }
}

/// The full name of the message that a type URL names.
pub(crate) fn message_name(type_url: &str) -> &str {
    type_url.rsplit_once('/').map_or(type_url, |(_, name)| name)
}

/// What the protocol demands of a type, as data.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TypePolicy {
    /// In State of the World every response is the whole set, and absence is deletion (S-02, S-03).
    /// The specification says so of listeners and clusters; Envoy reads scoped routes so, too.
    pub full_state: bool,
    /// What it takes to subscribe to everything (W-01, W-14).
    pub wildcard: Wildcard,
    /// How delta answers a name that does not exist (D-04).
    pub missing: MissingAnswer,
    /// Place among the types when additions and changes are sent: lower goes first (O-01).
    pub order: u8,
    /// Place among the types when removals are sent, which is after every addition (O-02).
    pub removal_order: u8,
    /// Envoy removes what delta says is removed. Where it does not, what is gone stays until what
    /// refers to it is gone (D-19).
    pub honours_removal: bool,
    /// Whoever asks for a resource of this type waits for it, without withholding an answer that would
    /// show it: a listener waits so for its routes (N-13).
    pub is_awaited_unseen: bool,
    /// Whatever refers to a new resource of this type waits until the client shows that it can use it
    /// (O-03, O-12): Envoy does not wait for the clusters of a route.
    pub is_proven_first: bool,
    /// What a client may have of it from before a stream may use clusters and what they need: as long as
    /// that is not known, none of these is removed.
    pub refers: bool,
    /// How long a client uses what it was told to replace or remove, after it accepted that.
    pub lingers: Lingering,
    /// Clients drop a resource of this type when its time is over, and can be told that it is not. Envoy keeps
    /// endpoints, and in State of the World crashes; virtual hosts know no heartbeats (T-08, T-09).
    pub bears_ttl: bool,
    /// A resource of this type that was sent is followed by what it refers to of this type, even if
    /// unchanged: Envoy waits for it before it puts a changed cluster to use (O-04).
    pub followed_by: Option<TypeUrl>,
}

/// How long a client uses a resource after it accepted that it is replaced or removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Lingering {
    /// Not at all.
    No,
    /// What is removed, until the client gives its name up (O-12).
    UntilGivenUp,
    /// What is removed, as long as the client asks for it by name: it would lose it at once.
    WhileNamed,
    /// Both, until the connections that came in by it are drained: for as long as a setting says.
    Drains,
}

/// How delta answers a subscription to a name that does not exist (D-04, as measured on Envoy).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum MissingAnswer {
    /// At once, by `removed_resources`.
    Removed,
    /// Not at all: Envoy never finishes starting a listener whose routes are answered as removed.
    Silence,
    /// At once, by a resource without content that has the name for an alias: Envoy would wait for a virtual
    /// host that is answered as removed (V-05).
    Unresolved,
}

/// What it takes to subscribe to all resources of a type (W-01, W-03, W-14).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Wildcard {
    /// A first request without names, or the name `*`.
    Nameless,
    /// The name `*`.
    Explicit,
    /// A first request without names, or the name `*`, means what belongs to what the same stream
    /// subscribes to of another type: the virtual hosts of its route configurations (V-03).
    OfParents,
    /// It cannot be had: nobody is handed a whole fleet's secrets.
    Never,
}

impl Wildcard {
    /// Whether the name `*` means everything.
    pub(crate) fn is_had_by_name(self) -> bool {
        matches!(self, Wildcard::Nameless | Wildcard::Explicit)
    }
}

/// A type that the protocol gives no special treatment: resources are opaque to it.
const OPAQUE: TypePolicy = TypePolicy {
    full_state: false,
    wildcard: Wildcard::Explicit,
    missing: MissingAnswer::Removed,
    order: 100,
    removal_order: 0,
    honours_removal: true,
    is_awaited_unseen: false,
    is_proven_first: false,
    refers: false,
    lingers: Lingering::No,
    bears_ttl: true,
    followed_by: None,
};

/// A type that clients subscribe to by name alone.
const NAMED: TypePolicy = TypePolicy { wildcard: Wildcard::Never, ..OPAQUE };

/// Additions go from what is referred to, to what refers to it, so that nothing is named before it is
/// there; endpoints come right behind their clusters, since before them they do nothing (O-04).
/// Removals go the other way.
const POLICIES: &[(TypeUrl, TypePolicy)] = &[
    (
        TypeUrl::CLUSTER,
        TypePolicy {
            full_state: true,
            wildcard: Wildcard::Nameless,
            order: 0,
            removal_order: 40,
            is_proven_first: true,
            followed_by: Some(TypeUrl::ENDPOINT),
            ..NAMED
        },
    ),
    (
        TypeUrl::ENDPOINT,
        TypePolicy {
            order: 10,
            removal_order: 50,
            honours_removal: false,
            bears_ttl: false,
            ..NAMED
        },
    ),
    (
        TypeUrl::LOCALITY_ENDPOINT,
        TypePolicy { order: 15, removal_order: 55, bears_ttl: false, ..NAMED },
    ),
    (TypeUrl::SECRET, TypePolicy { order: 20, removal_order: 60, honours_removal: false, ..NAMED }),
    (
        TypeUrl::EXTENSION_CONFIG,
        TypePolicy { order: 25, removal_order: 35, lingers: Lingering::WhileNamed, ..NAMED },
    ),
    (
        TypeUrl::LISTENER,
        TypePolicy {
            full_state: true,
            wildcard: Wildcard::Nameless,
            order: 30,
            removal_order: 30,
            lingers: Lingering::Drains,
            refers: true,
            ..NAMED
        },
    ),
    (
        TypeUrl::SCOPED_ROUTE,
        TypePolicy {
            full_state: true,
            wildcard: Wildcard::Nameless,
            order: 40,
            removal_order: 20,
            refers: true,
            ..NAMED
        },
    ),
    (
        TypeUrl::ROUTE,
        TypePolicy {
            missing: MissingAnswer::Silence,
            is_awaited_unseen: true,
            order: 50,
            removal_order: 10,
            honours_removal: false,
            lingers: Lingering::UntilGivenUp,
            refers: true,
            ..NAMED
        },
    ),
    (
        TypeUrl::VIRTUAL_HOST,
        TypePolicy {
            wildcard: Wildcard::OfParents,
            missing: MissingAnswer::Unresolved,
            bears_ttl: false,
            order: 60,
            removal_order: 5,
            refers: true,
            ..NAMED
        },
    ),
    (TypeUrl::RUNTIME, TypePolicy { order: 70, removal_order: 70, ..NAMED }),
];

impl From<&str> for TypeUrl {
    fn from(url: &str) -> Self {
        let known = TypeUrl::KNOWN.iter().find(|known| known.as_str() == url);
        known.cloned().unwrap_or_else(|| TypeUrl(Repr::Shared(url.into())))
    }
}

impl From<String> for TypeUrl {
    fn from(url: String) -> Self {
        TypeUrl::from(url.as_str())
    }
}

impl Deref for TypeUrl {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl Borrow<str> for TypeUrl {
    fn borrow(&self) -> &str {
        self
    }
}

impl PartialEq for TypeUrl {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for TypeUrl {}

impl PartialOrd for TypeUrl {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for TypeUrl {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.as_str().cmp(other)
    }
}

impl std::hash::Hash for TypeUrl {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl fmt::Debug for TypeUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for TypeUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

#[cfg(test)]
mod tests {
    use std::hash::{DefaultHasher, Hash, Hasher};

    use super::*;

    fn by(place: impl Fn(&TypePolicy) -> u8) -> Vec<&'static str> {
        let mut types: Vec<_> = TypeUrl::KNOWN.iter().collect();
        types.sort_by_key(|type_url| place(type_url.policy()));
        let is_ordered = |pair: &[&TypeUrl]| place(pair[0].policy()) < place(pair[1].policy());
        assert!(types.windows(2).all(is_ordered), "no two types share a place");
        types.into_iter().map(last_word).collect()
    }

    fn those(meet: impl Fn(&TypePolicy) -> bool) -> Vec<&'static str> {
        let types = TypeUrl::KNOWN.iter().filter(|type_url| meet(type_url.policy()));
        types.map(last_word).collect()
    }

    fn last_word(type_url: &'static TypeUrl) -> &'static str {
        type_url.rsplit('.').next().unwrap()
    }

    #[test]
    fn o01_o02_what_is_referred_to_comes_first_and_goes_last() {
        let added = [
            "Cluster",
            "ClusterLoadAssignment",
            "LbEndpoint",
            "Secret",
            "TypedExtensionConfig",
            "Listener",
            "ScopedRouteConfiguration",
            "RouteConfiguration",
            "VirtualHost",
            "Runtime",
        ];
        assert_eq!(by(|policy| policy.order), added);
        let removed = [
            "VirtualHost",
            "RouteConfiguration",
            "ScopedRouteConfiguration",
            "Listener",
            "TypedExtensionConfig",
            "Cluster",
            "ClusterLoadAssignment",
            "LbEndpoint",
            "Secret",
            "Runtime",
        ];
        assert_eq!(by(|policy| policy.removal_order), removed);
        // What nobody knows may refer to anything.
        let other = TypeUrl::from("type.googleapis.com/example.Other").policy();
        assert!(those(|policy| policy.order >= other.order).is_empty());
        assert!(those(|policy| policy.removal_order <= other.removal_order).is_empty());
    }

    #[test]
    fn each_type_is_treated_as_its_clients_do() {
        assert_eq!(
            those(|policy| policy.full_state),
            ["Cluster", "Listener", "ScopedRouteConfiguration"]
        );
        let nameless = ["Cluster", "Listener", "ScopedRouteConfiguration"];
        assert_eq!(those(|policy| policy.wildcard == Wildcard::Nameless), nameless);
        assert!(those(|policy| policy.wildcard == Wildcard::Explicit).is_empty());
        let silent = those(|policy| policy.missing == MissingAnswer::Silence);
        assert_eq!(silent, ["RouteConfiguration"]);
        let unresolved = those(|policy| policy.missing == MissingAnswer::Unresolved);
        assert_eq!(unresolved, ["VirtualHost"]);
        assert_eq!(those(|policy| policy.wildcard == Wildcard::OfParents), ["VirtualHost"]);
        let kept = ["ClusterLoadAssignment", "LbEndpoint", "VirtualHost"];
        assert_eq!(those(|policy| !policy.bears_ttl), kept);
        let deaf = ["ClusterLoadAssignment", "Secret", "RouteConfiguration"];
        assert_eq!(those(|policy| !policy.honours_removal), deaf);
        assert_eq!(those(|policy| policy.followed_by.is_some()), ["Cluster"]);
        assert_eq!(TypeUrl::CLUSTER.policy().followed_by, Some(TypeUrl::ENDPOINT));
        assert_eq!(those(|policy| policy.is_proven_first), ["Cluster"]);
        assert_eq!(those(|policy| policy.lingers == Lingering::Drains), ["Listener"]);
        let given_up = those(|policy| policy.lingers == Lingering::UntilGivenUp);
        assert_eq!(given_up, ["RouteConfiguration"]);
        let named = those(|policy| policy.lingers == Lingering::WhileNamed);
        assert_eq!(named, ["TypedExtensionConfig"]);
        let other = TypeUrl::from("type.googleapis.com/example.Other").policy();
        assert_eq!((other.wildcard, other.missing), (Wildcard::Explicit, MissingAnswer::Removed));
        assert!(!TypeUrl::CLUSTER.policy().may_split(Variant::Sotw));
        assert!(TypeUrl::CLUSTER.policy().may_split(Variant::Delta));
        assert!(TypeUrl::ENDPOINT.policy().may_split(Variant::Sotw));
    }

    #[test]
    fn a_type_url_is_its_string_wherever_it_comes_from() {
        let hash = |hashed: &dyn Fn(&mut DefaultHasher)| {
            let mut hasher = DefaultHasher::new();
            hashed(&mut hasher);
            hasher.finish()
        };
        for url in [&*TypeUrl::CLUSTER, "type.googleapis.com/example.Other", "bare"] {
            let type_url = TypeUrl::from(url.to_owned());
            assert_eq!(type_url.to_string(), url);
            assert_eq!(format!("{type_url:?}"), format!("{url:?}"));
            assert_eq!(type_url.message_name(), url.rsplit('/').next().unwrap());
            // As `Borrow` demands.
            assert_eq!(Borrow::<str>::borrow(&type_url), url);
            assert_eq!(hash(&|hasher| type_url.hash(hasher)), hash(&|hasher| url.hash(hasher)));
            assert_eq!(type_url.cmp(&TypeUrl::CLUSTER), url.cmp(&*TypeUrl::CLUSTER));
            assert_eq!(type_url == TypeUrl::CLUSTER, *url == *TypeUrl::CLUSTER);
        }
    }
}
