//! What a client subscribes to, of one type.

use std::{collections::BTreeMap, sync::Arc};

use crate::type_url::Wildcard;

/// The name that means everything (W-03). It is never a resource's (W-08).
pub(crate) const WILDCARD: &str = "*";

/// What a client subscribes to, of one type: everything, or names, or both.
#[derive(Debug, Clone, Default)]
pub struct Subscription {
    /// A request was read.
    started: bool,
    /// No request named anything yet, and that means everything (W-02).
    legacy: bool,
    wildcard: bool,
    /// The names, each with the hash of the content that the client was last told.
    names: BTreeMap<Arc<str>, Option<u64>>,
}

/// What a request changed in a subscription.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    /// The wildcard was not there before: everything is owed.
    pub(crate) everything: bool,
    /// Names that want an answer.
    pub(crate) names: Vec<Arc<str>>,
    /// Names that are no longer subscribed by themselves, be there a wildcard or not.
    pub(crate) given_up: Vec<Arc<str>>,
    /// Something is no longer subscribed.
    pub(crate) shrunk: bool,
}

impl Asked {
    /// Whether the subscription is as it was, and nothing is asked for again.
    pub(crate) fn is_nothing(&self) -> bool {
        !self.everything && !self.shrunk && self.names.is_empty()
    }
}

impl Subscription {
    /// Whether everything is subscribed.
    #[must_use]
    pub fn is_wildcard(&self) -> bool {
        self.wildcard
    }

    /// The names that are subscribed, in order.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &Arc<str>> {
        self.names.keys()
    }

    /// Whether a resource of that name is subscribed.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.wildcard || self.names.contains_key(name)
    }

    /// Each name with the hash of what the client was last told of it.
    pub(crate) fn told(&self) -> impl Iterator<Item = (&Arc<str>, Option<u64>)> {
        self.names.iter().map(|(name, told)| (name, *told))
    }

    /// Whether the client was told content for a name that it subscribes to.
    pub(crate) fn was_told(&self, name: &str) -> bool {
        self.names.get(name).is_some_and(Option::is_some)
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
        let mut everything = false;
        for name in names {
            if name == WILDCARD {
                everything = wildcard != Wildcard::Never;
            } else if let Some((name, told)) = before.remove_entry(name.as_str()) {
                self.names.insert(name, told);
            } else if !self.names.contains_key(name.as_str()) {
                let name: Arc<str> = name.into();
                self.names.insert(name.clone(), None);
                asked.names.push(name);
            }
        }
        asked.given_up = before.into_keys().collect();
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
        for name in subscribe {
            if name == WILDCARD {
                asked.everything |= wildcard != Wildcard::Never && self.start_wildcard();
            } else {
                let name: Arc<str> = name.into();
                self.names.entry(name.clone()).or_default();
                asked.names.push(name);
            }
        }
        for name in unsubscribe {
            self.unsubscribe(name, &mut asked);
        }
        if asked.shrunk {
            asked.names.retain(|name| self.names.contains_key(name));
            asked.everything &= self.wildcard;
        }
        asked
    }

    fn unsubscribe(&mut self, name: &str, asked: &mut Asked) {
        if name == WILDCARD {
            asked.shrunk |= std::mem::take(&mut self.wildcard);
        } else if let Some((name, _)) = self.names.remove_entry(name) {
            asked.shrunk = true;
            asked.given_up.push(name);
        }
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
