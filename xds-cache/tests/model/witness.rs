//! What a bystander who reads along demands of a stream.

use std::collections::{BTreeMap, BTreeSet};

use deltaplane_core::{Request, Revision, TypeUrl};

use super::{Heard, NAMES, full};

type Key = (String, String);

/// Reads along what a server hears and says on one stream.
#[derive(Debug, Default)]
pub(crate) struct Witness {
    nonces: BTreeSet<String>,
    /// What each response said, in delta: name and content.
    said: BTreeMap<String, Vec<(Key, Option<u8>)>>,
    told: BTreeMap<Key, Option<u8>>,
    acknowledged: BTreeMap<Key, Option<u8>>,
    /// What may be said again, since the client asked for it.
    asked: BTreeSet<Key>,
    /// Types of which something was rejected: what of them is sent again is another property's matter.
    rejected: BTreeSet<String>,
    moved: bool,
    /// What was said of one revision since a request was heard: the order of the last addition, and
    /// whether something was removed.
    revision: Revision,
    added: u8,
    removed: bool,
}

impl Witness {
    /// Something happened, and what is said next is another breath.
    pub(crate) fn breathe(&mut self) {
        (self.added, self.removed) = (0, false);
    }

    /// The server hears a request.
    pub(crate) fn hear(&mut self, request: &Request) {
        self.breathe();
        let Request::Delta(request) = request else { return };
        let type_url = &request.type_url;
        let names = request.resource_names_subscribe.iter();
        for name in names.chain(&request.resource_names_unsubscribe) {
            let all = if name.ends_with('*') { &NAMES[..] } else { &[] };
            let all = all.iter().map(|short| full(&TypeUrl::from(&**type_url), short));
            let names = all.chain([name.clone()]);
            self.asked.extend(names.map(|name| (type_url.clone(), name)));
        }
        if request.error_detail.is_some() {
            self.rejected.insert(type_url.clone());
        } else if let Some(said) = self.said.remove(&request.response_nonce) {
            self.acknowledged.extend(said);
        }
    }

    /// The server says something, in either variant.
    pub(crate) fn say(&mut self, heard: &Heard) {
        assert!(!heard.nonce.is_empty() && self.nonces.insert(heard.nonce.clone()), "S-17, D-02");
    }

    /// The server says something, in delta.
    pub(crate) fn say_delta(&mut self, heard: &Heard, revision: Revision) {
        if std::mem::replace(&mut self.revision, revision) != revision {
            self.breathe();
        }
        let key = |name: &String| (heard.type_url.to_string(), name.clone());
        self.check_order(heard);
        let mut said = Vec::new();
        for (name, _, content) in &heard.resources {
            let (key, content) = (key(name), Some(*content));
            let is_known = self.told.get(&key) == Some(&content)
                && self.acknowledged.get(&key) == Some(&content);
            assert!(!is_known || self.is_excused(heard, &key), "said again: {heard:?}");
            said.push((key, content));
        }
        said.extend(heard.removed.iter().map(|name| (key(name), None)));
        if heard.type_url == TypeUrl::CLUSTER {
            for (name, ..) in &heard.resources {
                let short = name.rsplit('/').next().unwrap_or_default();
                self.asked.insert((TypeUrl::ENDPOINT.to_string(), short.to_owned()));
            }
        }
        for (key, _) in &said {
            self.asked.remove(key);
        }
        self.told.extend(said.iter().cloned());
        self.said.insert(heard.nonce.clone(), said);
    }

    /// The client sees something else: what of it was said before may be said again.
    pub(crate) fn look_away(&mut self) {
        self.breathe();
        self.moved = true;
    }

    fn is_excused(&self, heard: &Heard, key: &Key) -> bool {
        let type_url = &*heard.type_url;
        self.moved || self.asked.contains(key) || self.rejected.contains(type_url)
    }

    /// Additions in the order of their types, and what is removed after all of them (O-01, O-02).
    fn check_order(&mut self, heard: &Heard) {
        let policy = heard.type_url.policy();
        let type_url = heard.type_url.to_string();
        let is_told = |name: &String| {
            matches!(self.told.get(&(type_url.clone(), name.clone())), Some(Some(_)))
        };
        let is_asked = |name: &String| self.asked.contains(&(type_url.clone(), name.clone()));
        if !heard.resources.is_empty() {
            assert!(!self.removed, "an addition after a removal: {heard:?}");
            assert!(self.added <= policy.order, "out of order: {heard:?}");
            self.added = policy.order;
        }
        self.removed |= heard.removed.iter().any(|name| is_told(name) && !is_asked(name));
    }
}
