//! Names that say to which collection they belong: `xdstp:` names, and virtual hosts.
//!
//! `xdstp://authority/type/directory/name?key=value` is a member of `xdstp://authority/type/directory/*?key=value`,
//! which clients subscribe to as a glob. The virtual host `routes/host` is a member of `routes/`, which
//! stands for all of that route configuration (V-02, V-03); no client says that name. Any other name is opaque,
//! whatever is in it.

use std::{borrow::Cow, collections::BTreeSet, sync::Arc};

use crate::TypeUrl;

/// With what a name begins that has parts.
const SCHEME: &str = "xdstp:";

/// What stands for a member's own part in the name of its collection.
const ANY: &str = "*";

/// The parts of an `xdstp:` name.
struct Parts<'a> {
    /// The scheme, the authority, the type and the directory.
    directory: &'a str,
    /// What stands behind the last slash.
    leaf: &'a str,
    /// The context parameters.
    context: &'a str,
}

impl<'a> Parts<'a> {
    fn of(name: &'a str) -> Option<Self> {
        if !name.starts_with(SCHEME) {
            return None;
        }
        let path = name.split_once('#').map_or(name, |(path, _)| path);
        let (path, context) = path.split_once('?').unwrap_or((path, ""));
        let (directory, leaf) = path.rsplit_once('/')?;
        Some(Self { directory, leaf, context })
    }

    /// The same name with another part of its own.
    fn with_leaf(&self, leaf: &str) -> String {
        let mark = if self.context.is_empty() { "" } else { "?" };
        format!("{}/{leaf}{mark}{}", self.directory, self.context)
    }
}

/// A name as it is compared: the context parameters of an `xdstp:` name in order, whoever wrote them in which
/// . Costs a look at its beginning, if it is none.
pub(crate) fn normalize(name: &str) -> Cow<'_, str> {
    let Some(parts) = Parts::of(name).filter(|_| name.contains(['?', '#'])) else {
        return Cow::Borrowed(name);
    };
    let mut context: Vec<_> = parts.context.split('&').filter(|pair| !pair.is_empty()).collect();
    context.sort_unstable();
    let context = context.join("&");
    Cow::Owned(Parts { context: &context, ..parts }.with_leaf(parts.leaf))
}

/// The same of a name that somebody owns.
pub(crate) fn normal(name: impl Into<Arc<str>>) -> Arc<str> {
    let name = name.into();
    match normalize(&name) {
        Cow::Owned(normal) if *normal != *name => normal.into(),
        _ => name,
    }
}

/// Whether a name is a client's word for all members of a collection.
pub(crate) fn is_glob(name: &str) -> bool {
    Parts::of(name).is_some_and(|parts| parts.leaf == ANY)
}

/// The collection that a resource of this name is a member of, if it is of any.
pub(crate) fn collection_of(type_url: &TypeUrl, name: &str) -> Option<Arc<str>> {
    if let Some(parts) = Parts::of(name) {
        return (parts.leaf != ANY).then(|| parts.with_leaf(ANY).into());
    }
    let parent = virtual_host_parent(name).filter(|_| *type_url == TypeUrl::VIRTUAL_HOST);
    parent.map(Into::into)
}

/// The virtual hosts of a route configuration.
pub(crate) fn virtual_hosts_of(routes: &str) -> Arc<str> {
    format!("{routes}/").into()
}

/// All of the name of a virtual host up to the last slash, with that.
fn virtual_host_parent(name: &str) -> Option<&str> {
    let slash = name.rfind('/')?;
    name.get(..=slash).filter(|parent| parent.len() < name.len())
}

/// Whether one of these collections has a member of that name.
pub(crate) fn covers(collections: &BTreeSet<Arc<str>>, name: &str) -> bool {
    if collections.is_empty() {
        return false;
    }
    match Parts::of(name) {
        Some(parts) => parts.leaf != ANY && collections.contains(&*parts.with_leaf(ANY)),
        None => virtual_host_parent(name).is_some_and(|parent| collections.contains(parent)),
    }
}

/// What is wrong with the name of a resource of that type, if something is: a glob is no resource's, and an
/// `xdstp:` name tells its type.
pub(crate) fn fault(type_url: &TypeUrl, name: &str) -> Option<&'static str> {
    if name.is_empty() || name == ANY {
        return Some("a resource needs a name, and `*` means all of them");
    }
    if !name.starts_with(SCHEME) {
        return None;
    }
    let path = name.strip_prefix("xdstp://").and_then(|rest| rest.split_once('/'));
    let named = path.and_then(|(_, path)| path.split_once('/')).map(|(of_type, _)| of_type);
    match named {
        None => Some("an `xdstp:` name reads xdstp://AUTHORITY/TYPE/NAME"),
        Some(of_type) if of_type != type_url.message_name() => {
            Some("an `xdstp:` name tells the resource's own type behind the authority")
        }
        Some(_) if is_glob(name) => Some("a name that ends in `/*` means all in that directory"),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIR: &str = "xdstp://a/envoy.config.cluster.v3.Cluster/dir";

    #[test]
    fn x01_context_parameters_are_compared_in_any_order() {
        for (name, expected) in [
            ("xdstp://a/T/foo?b=2&a=1", "xdstp://a/T/foo?a=1&b=2"),
            ("xdstp://a/T/foo?a=1&b=2", "xdstp://a/T/foo?a=1&b=2"),
            ("xdstp://a/T/foo?", "xdstp://a/T/foo"),
            ("xdstp://a/T/foo?b=2&a=1#x", "xdstp://a/T/foo?a=1&b=2"),
            ("xdstp://a/T/foo", "xdstp://a/T/foo"),
            ("foo?b=2&a=1", "foo?b=2&a=1"),
            ("xdstp:", "xdstp:"),
        ] {
            assert_eq!(normalize(name), expected);
            assert_eq!(&*normal(name), expected);
        }
    }

    #[test]
    fn x03_a_member_is_a_direct_child_with_the_same_parameters() {
        let cluster = |name: &str| collection_of(&TypeUrl::CLUSTER, &format!("{DIR}{name}"));
        let glob = |name: &str| Some(Arc::from(format!("{DIR}{name}")));
        assert_eq!(cluster("/a"), glob("/*"));
        assert_eq!(cluster("/sub/a"), glob("/sub/*"));
        assert_eq!(cluster("/a?x=1"), glob("/*?x=1"));
        assert_eq!(cluster("/*"), None, "a glob is no member");
        let globs = BTreeSet::from([Arc::from(format!("{DIR}/*"))]);
        let covers = |name: &str| covers(&globs, &format!("{DIR}{name}"));
        assert!(covers("/a"));
        assert!(!covers("/sub/a") && !covers("/a?x=1") && !covers("/*") && !covers(""));
    }

    #[test]
    fn x04_other_names_are_opaque() {
        assert_eq!(collection_of(&TypeUrl::CLUSTER, "team/a"), None);
        assert!(!is_glob("team/*") && is_glob(&format!("{DIR}/*?x=1")));
        assert!(!covers(&BTreeSet::from([Arc::from("team/*")]), "team/a"));
    }

    #[test]
    fn v02_a_virtual_host_belongs_to_what_stands_before_the_last_slash() {
        let collection = |name| collection_of(&TypeUrl::VIRTUAL_HOST, name);
        assert_eq!(collection("a/b/x.y").as_deref(), Some("a/b/"));
        assert_eq!(virtual_hosts_of("a/b").as_ref(), "a/b/");
        assert_eq!((collection("x.y"), collection("a/")), (None, None));
        let hosts = BTreeSet::from([virtual_hosts_of("a/b")]);
        assert!(covers(&hosts, "a/b/x.y") && !covers(&hosts, "a/x.y") && !covers(&hosts, "a/b/"));
    }

    #[test]
    fn x07_a_name_tells_its_type() {
        let fault = |name: &str| fault(&TypeUrl::CLUSTER, name).is_some();
        assert!(!fault("a") && !fault("team/*") && !fault(&format!("{DIR}/a")));
        assert!(fault("") && fault("*") && fault(&format!("{DIR}/*")));
        assert!(fault("xdstp://a/envoy.config.listener.v3.Listener/a"));
        assert!(fault("xdstp:a") && fault("xdstp://a") && fault("xdstp://a/b"));
    }
}
