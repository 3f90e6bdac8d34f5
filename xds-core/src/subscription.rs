//! What a client subscribes to, of one type.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    Resource, TypeUrl, View,
    collection::{self, is_glob, normalize, virtual_hosts_of},
    type_url::Wildcard,
};

/// The name that means everything (W-03). It is never a resource's (W-08).
pub(crate) const WILDCARD: &str = "*";

/// What a client subscribes to, of one type: everything, or names, or collections, or several of these.
#[derive(Debug, Clone, Default)]
pub struct Subscription {
    /// A request was read.
    started: bool,
    /// No request named anything yet, and that means everything (W-02).
    legacy: bool,
    wildcard: bool,
    /// The names, each with the hash of the content that the client was last told.
    names: BTreeMap<Arc<str>, Option<u64>>,
    /// The collections, by their globs.
    globs: BTreeSet<Arc<str>>,
    /// It covers what belongs to what is subscribed of another type (V-03).
    of_parents: bool,
}

/// What a request changed in a subscription.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    /// The wildcard was not there before: everything is owed.
    pub(crate) everything: bool,
    /// Names that want an answer.
    pub(crate) names: Vec<Arc<str>>,
    /// Collections of which all members are owed.
    pub(crate) globs: Vec<Arc<str>>,
    /// Names and globs that are no longer subscribed by themselves, be there a wildcard or not.
    pub(crate) given_up: Vec<Arc<str>>,
    /// Something is no longer subscribed.
    pub(crate) shrunk: bool,
}

impl Asked {
    /// Whether the subscription is as it was, and nothing is asked for again.
    pub(crate) fn is_nothing(&self) -> bool {
        !self.everything && !self.shrunk && self.names.is_empty() && self.globs.is_empty()
    }
}

impl Subscription {
    /// A subscription to these names and globs.
    pub fn to<N: Into<String>>(names: impl IntoIterator<Item = N>) -> Self {
        let mut subscription = Self::default();
        let names = names.into_iter().map(Into::into).collect();
        subscription.update(names, &[], Wildcard::Never);
        subscription
    }

    /// Whether everything is subscribed.
    #[must_use]
    pub fn is_wildcard(&self) -> bool {
        self.wildcard
    }

    /// The names that are subscribed, in order.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &Arc<str>> {
        self.names.keys()
    }

    /// The globs that are subscribed, in order, such as `xdstp://authority/type/*`: each means all direct
    /// members of that collection. The virtual hosts of a route configuration are one, too, called
    /// by its name and a slash (V-03).
    pub fn globs(&self) -> impl ExactSizeIterator<Item = &Arc<str>> {
        self.globs.iter()
    }

    /// Whether a resource of that name is subscribed.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.is_named(name) || self.covers(name) || self.has_glob(name)
    }

    /// Whether that is the glob of a collection that is subscribed.
    pub(crate) fn has_glob(&self, glob: &str) -> bool {
        self.globs.contains(glob)
    }

    /// Whether that name is subscribed by itself.
    pub(crate) fn is_named(&self, name: &str) -> bool {
        self.names.contains_key(name)
    }

    /// Whether that name is subscribed with others, by the wildcard or a glob.
    pub(crate) fn covers(&self, name: &str) -> bool {
        self.wildcard || collection::covers(&self.globs, name)
    }

    /// What goes by a name for who subscribes so: what is on demand, only if the name is asked for.
    pub(crate) fn find<V: View>(
        &self,
        view: &V,
        type_url: &TypeUrl,
        name: &str,
    ) -> Option<Resource> {
        let found = view.resolve(type_url, name);
        found.filter(|found| !found.is_on_demand() || self.is_named(name))
    }

    /// Each name with the hash of what the client was last told of it.
    pub(crate) fn told(&self) -> impl Iterator<Item = (&Arc<str>, Option<u64>)> {
        self.names.iter().map(|(name, told)| (name, *told))
    }

    /// Whether the client was told content for a name that it subscribes to.
    pub(crate) fn was_told(&self, name: &str) -> bool {
        self.names.get(name).is_some_and(Option::is_some)
    }

    /// Whether the client was last told this of a name that it subscribes to.
    pub(crate) fn is_told(&self, name: &str, content: &Resource) -> bool {
        self.names.get(name) == Some(&Some(content.hash()))
    }

    /// Notes what the client is told of a name, if it is subscribed by name.
    pub(crate) fn tell(&mut self, name: &str, content: Option<u64>) {
        if let Some(told) = self.names.get_mut(name) {
            *told = content;
        }
    }

    /// Reads a State of the World request, which names everything anew (S-07, W-04).
    pub(crate) fn replace(&mut self, names: Vec<String>, wildcard: Wildcard) -> Asked {
        let first = !std::mem::replace(&mut self.started, true);
        if names.is_empty() && (self.legacy || (first && wildcard == Wildcard::Nameless)) {
            self.legacy = true;
            return Asked { everything: self.start_wildcard(), ..Asked::default() };
        }
        self.legacy = false;
        let mut asked = Asked::default();
        let mut before = std::mem::take(&mut self.names);
        let mut globs_before = std::mem::take(&mut self.globs);
        let mut everything = false;
        for name in names {
            let name = normalize(&name);
            if name == WILDCARD {
                everything = wildcard.is_had_by_name();
            } else if is_glob(&name) {
                let known = globs_before.take(&*name);
                let is_new = known.is_none() && !self.globs.contains(&*name);
                let glob = known.unwrap_or_else(|| (*name).into());
                asked.globs.extend(is_new.then(|| glob.clone()));
                self.globs.insert(glob);
            } else if let Some((name, told)) = before.remove_entry(&*name) {
                self.names.insert(name, told);
            } else if !self.names.contains_key(&*name) {
                let name: Arc<str> = (*name).into();
                self.names.insert(name.clone(), None);
                asked.names.push(name);
            }
        }
        asked.given_up = before.into_keys().chain(globs_before).collect();
        asked.shrunk = !asked.given_up.is_empty() || (self.wildcard && !everything);
        if everything {
            asked.everything = self.start_wildcard();
        }
        self.wildcard = everything;
        asked
    }

    /// Reads a delta request: what is subscribed, then what is given up (W-05, D-15). A first request
    /// without either is a wildcard (W-07).
    pub(crate) fn update(
        &mut self,
        subscribe: Vec<String>,
        unsubscribe: &[String],
        wildcard: Wildcard,
    ) -> Asked {
        let first = !std::mem::replace(&mut self.started, true);
        let mut asked = Asked::default();
        if first && subscribe.is_empty() && unsubscribe.is_empty() && wildcard == Wildcard::Nameless
        {
            asked.everything = self.start_wildcard();
        }
        self.of_parents |= first
            && wildcard == Wildcard::OfParents
            && subscribe.is_empty()
            && unsubscribe.is_empty();
        for name in subscribe {
            let name = normalize(&name);
            if name == WILDCARD {
                asked.everything |= wildcard.is_had_by_name() && self.start_wildcard();
                self.of_parents |= wildcard == Wildcard::OfParents;
            } else if is_glob(&name) {
                let glob: Arc<str> = (*name).into();
                self.globs.insert(glob.clone());
                asked.globs.push(glob);
            } else {
                let name: Arc<str> = (*name).into();
                self.names.entry(name.clone()).or_default();
                asked.names.push(name);
            }
        }
        for name in unsubscribe {
            self.unsubscribe(&normalize(name), &mut asked);
        }
        if asked.shrunk {
            asked.names.retain(|name| self.names.contains_key(name));
            asked.globs.retain(|glob| self.globs.contains(glob));
            asked.everything &= self.wildcard;
        }
        asked
    }

    fn unsubscribe(&mut self, name: &str, asked: &mut Asked) {
        if name == WILDCARD {
            asked.shrunk |= std::mem::take(&mut self.wildcard);
            self.of_parents = false;
        } else if let Some(glob) = self.globs.take(name) {
            asked.shrunk = true;
            asked.given_up.push(glob);
        } else if let Some((name, _)) = self.names.remove_entry(name) {
            asked.shrunk = true;
            asked.given_up.push(name);
        }
    }

    /// Takes up what is subscribed of the type that this one belongs to, if it covers what belongs to that.
    pub(crate) fn follow_parents<'a>(
        &mut self,
        parents: impl Iterator<Item = &'a Arc<str>>,
    ) -> Asked {
        let of_parents = self.of_parents;
        let wanted: BTreeSet<_> =
            parents.filter(|_| of_parents).map(|name| virtual_hosts_of(name)).collect();
        let is_parent = |glob: &&Arc<str>| !is_glob(glob);
        let given_up: Vec<_> = self.globs.iter().filter(is_parent).cloned().collect();
        let given_up: Vec<_> = given_up.into_iter().filter(|glob| !wanted.contains(glob)).collect();
        let globs: Vec<_> = wanted.into_iter().filter(|glob| !self.globs.contains(glob)).collect();
        given_up.iter().for_each(|glob| {
            self.globs.remove(glob);
        });
        self.globs.extend(globs.iter().cloned());
        Asked { shrunk: !given_up.is_empty(), globs, given_up, ..Asked::default() }
    }

    /// Subscribes to everything; says whether that is new.
    fn start_wildcard(&mut self) -> bool {
        !std::mem::replace(&mut self.wildcard, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    fn state(subscription: &Subscription) -> (bool, Vec<&str>) {
        (subscription.is_wildcard(), subscription.names().map(|name| &**name).collect())
    }

    #[test]
    fn w04_sotw_walk_through() {
        let mut subscription = Subscription::default();
        let mut replace = |names: &[&str]| {
            let asked = subscription.replace(strings(names), Wildcard::Nameless);
            let (wildcard, names) = state(&subscription);
            (wildcard, names.join(","), asked.everything)
        };
        assert_eq!(replace(&[]), (true, String::new(), true));
        assert_eq!(replace(&["*", "A"]), (true, "A".into(), false));
        assert_eq!(replace(&["A"]), (false, "A".into(), false));
        assert_eq!(replace(&[]), (false, String::new(), false));
        assert_eq!(replace(&[]), (false, String::new(), false));
    }

    #[test]
    fn w05_delta_walk_through() {
        let mut subscription = Subscription::default();
        let mut update = |subscribe: &[&str], unsubscribe: &[&str]| {
            subscription.update(strings(subscribe), &strings(unsubscribe), Wildcard::Nameless);
            let (wildcard, names) = state(&subscription);
            (wildcard, names.join(","))
        };
        assert_eq!(update(&[], &[]), (true, String::new()));
        assert_eq!(update(&["A"], &[]), (true, "A".into()));
        assert_eq!(update(&[], &["*"]), (false, "A".into()));
        assert_eq!(update(&[], &["A"]), (false, String::new()));
    }

    #[test]
    fn w06_a_type_that_was_named_first_has_no_legacy_wildcard() {
        let mut subscription = Subscription::default();
        subscription.update(strings(&["A"]), &[], Wildcard::Nameless);
        subscription.update(vec![], &[], Wildcard::Nameless);
        assert_eq!(state(&subscription), (false, vec!["A"]));
    }

    #[test]
    fn w07_a_first_delta_request_that_only_unsubscribes_is_no_wildcard() {
        let mut subscription = Subscription::default();
        subscription.update(vec![], &strings(&["x"]), Wildcard::Nameless);
        assert_eq!(state(&subscription), (false, vec![]));
    }

    #[test]
    fn w14_nobody_gets_all_of_a_type_that_is_delivered_by_name() {
        let mut subscription = Subscription::default();
        subscription.update(vec![], &[], Wildcard::Never);
        subscription.update(strings(&["*"]), &[], Wildcard::Never);
        assert_eq!(state(&subscription), (false, vec![]));
        subscription.replace(strings(&["*"]), Wildcard::Never);
        assert_eq!(state(&subscription), (false, vec![]));
    }

    #[test]
    fn w10_a_name_given_up_under_a_wildcard_is_reported() {
        let mut subscription = Subscription::default();
        subscription.update(vec![], &[], Wildcard::Nameless);
        subscription.update(strings(&["A"]), &[], Wildcard::Nameless);
        let asked = subscription.update(vec![], &strings(&["A", "never"]), Wildcard::Nameless);
        assert_eq!(asked.given_up, vec![Arc::from("A")]);
    }

    #[test]
    fn d15_a_name_in_both_lists_ends_unsubscribed() {
        let mut subscription = Subscription::default();
        let asked = subscription.update(strings(&["A"]), &strings(&["A"]), Wildcard::Nameless);
        assert_eq!(asked.names, Vec::<Arc<str>>::new());
        assert_eq!(state(&subscription), (false, vec![]));
    }
}
