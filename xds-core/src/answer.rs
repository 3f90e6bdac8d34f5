//! What goes into the next response of a type: from what is owed and what the view holds.

use std::sync::Arc;

use bytes::Bytes;

use crate::{
    Resource, TypeVersion, Variant, View,
    type_stream::{Reason, TypeStream},
    type_url::MissingAnswer,
    unsettled::Sent,
    wire,
};

/// Above this many bytes a response is split, where its variant and type allow: gRPC clients refuse
/// messages above 4 MiB (D-23, K-05).
const SPLIT_AT: usize = 3 << 20;

/// A response but for its nonce.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    /// What goes on the wire.
    resources: Vec<Resource>,
    /// What it says is gone, in delta.
    removed: Vec<Arc<str>>,
    /// About how many bytes it has.
    size: usize,
    /// What of it is news, and so in flight until it is answered.
    pub(crate) sent: Vec<Sent>,
    /// The version of the whole.
    pub(crate) version: String,
}

impl Answer {
    /// How many resources it carries.
    pub(crate) fn resources(&self) -> usize {
        self.resources.len()
    }

    /// How many removals it carries.
    pub(crate) fn removals(&self) -> usize {
        self.removed.len()
    }

    /// Whether this many more bytes would be too many. A response holds one thing, however large.
    fn is_full(&self, more: usize) -> bool {
        self.size + more > SPLIT_AT && !self.sent.is_empty()
    }

    /// Adds a resource that goes by this name; by several, it is in the response once (B-09).
    fn push(&mut self, name: &Arc<str>, resource: Resource) {
        self.size += resource.delta_entry().len();
        if resource.aliases().is_empty() || !self.resources.contains(&resource) {
            self.resources.push(resource.clone());
        }
        self.sent.push(Sent { name: name.clone(), content: Some(resource) });
    }

    /// Says that what goes by this name is gone, under the name that the client knows it by: what it
    /// subscribed to by an alias has a name of its own.
    fn push_removed(&mut self, name: Arc<str>, told: Option<&Resource>) {
        let gone = told.map_or(&name, Resource::name);
        self.size += gone.len() + 4;
        if *gone == name || !self.removed.contains(gone) {
            self.removed.push(gone.clone());
        }
        self.sent.push(Sent { name, content: None });
    }

    /// The resources in it that are news.
    pub(crate) fn news(&self) -> impl Iterator<Item = &Resource> {
        self.sent.iter().filter_map(|sent| sent.content.as_ref())
    }

    /// Encodes it, all but the nonce.
    pub(crate) fn body(&self, stream: &TypeStream) -> Bytes {
        match stream.variant {
            Variant::Sotw => wire::sotw_body(&stream.type_url, &self.version, &self.resources),
            Variant::Delta => {
                let removed: Vec<_> = self.removed.iter().map(|name| &**name).collect();
                wire::delta_body(&stream.type_url, &self.version, &self.resources, &removed)
            }
        }
    }
}

impl TypeStream {
    /// What is there and owed, and the answers to names that are not there. Removals wait.
    pub(crate) fn additions<V: View>(&mut self, view: &V) -> Option<Answer> {
        self.cursor.filter(|_| view.is_known(&self.type_url))?;
        let mut answer = self.owed_additions(view);
        if answer.sent.is_empty() && !self.answer_due {
            return None;
        }
        self.answer_due = false;
        self.complete(view, &mut answer, true);
        Some(answer)
    }

    /// What is gone and the client may still hold.
    pub(crate) fn removals<V: View>(&mut self, view: &V) -> Option<Answer> {
        self.cursor.filter(|_| view.is_known(&self.type_url))?;
        let is_gone = |name: &&Arc<str>| view.resolve(&self.type_url, name).is_none();
        let gone: Vec<_> = self.owed.keys().filter(is_gone).cloned().collect();
        if self.variant == Variant::Sotw && !self.policy.full_state {
            // There is no word for it (S-06); that it is gone is noted, so that it is sent if it returns.
            gone.iter().for_each(|name| self.forget(name));
            return None;
        }
        let (unspoken, gone): (Vec<_>, Vec<_>) =
            gone.into_iter().partition(|name| self.is_met_with_silence(name));
        unspoken.iter().for_each(|name| self.forget(name));
        if gone.is_empty() {
            return None;
        }
        let mut answer = Answer::default();
        for name in gone {
            if self.may_split && answer.is_full(name.len()) {
                break;
            }
            let told = self.owed.get(&name).and_then(|owed| owed.told.as_ref());
            answer.push_removed(name, told);
        }
        self.complete(view, &mut answer, false);
        Some(answer)
    }

    fn owed_additions<V: View>(&mut self, view: &V) -> Answer {
        let mut answer = Answer::default();
        let mut done = Vec::new();
        for (name, owed) in &self.owed {
            if let Some(resource) = view.resolve(&self.type_url, name) {
                if self.may_split && answer.is_full(resource.delta_entry().len()) {
                    break;
                }
                answer.push(name, resource);
            } else if self.answers_missing(owed.reason, owed.may_hold) {
                if self.may_split && answer.is_full(name.len()) {
                    break;
                }
                answer.push_removed(name.clone(), None);
            } else if !owed.may_hold {
                done.push(name.clone());
            }
        }
        done.iter().for_each(|name| self.forget(name));
        answer
    }

    /// Whether the absence of a name is an answer that the client waits for, rather than a removal that
    /// has its place in the order.
    fn answers_missing(&self, reason: Reason, may_hold: bool) -> bool {
        self.variant == Variant::Delta
            && match reason {
                Reason::Released => true,
                Reason::Asked => !may_hold && self.policy.missing == MissingAnswer::Removed,
                Reason::Changed | Reason::Again => false,
            }
    }

    /// Whether the absence of a name is not told: whoever has just asked for it would give up waiting,
    /// and whoever holds it would keep it (D-04, D-19).
    fn is_met_with_silence(&self, name: &str) -> bool {
        let is_asked = self.owed.get(name).is_some_and(|owed| owed.reason == Reason::Asked);
        is_asked && self.policy.missing == MissingAnswer::Silence && !self.policy.honours_removal
    }

    fn forget(&mut self, name: &Arc<str>) {
        self.owed.remove(name);
        self.subscription.tell(name, None);
    }

    /// Puts into the answer what its variant demands besides the news: the version, and where responses
    /// hold everything, everything. As long as additions are under way, that includes what is gone but
    /// not yet told: its removal comes last (O-02).
    fn complete<V: View>(&self, view: &V, answer: &mut Answer, hold: bool) {
        let mut version = view.version(&self.type_url);
        if self.repeats_everything() {
            answer.resources = self.everything(view, &mut version);
            if hold {
                self.hold(view, answer, &mut version);
            }
        }
        answer.version = version.to_string();
    }

    /// All that is subscribed, with what was acknowledged in the place of what is rejected.
    fn everything<V: View>(&self, view: &V, version: &mut TypeVersion) -> Vec<Resource> {
        let mut all = Vec::new();
        let mut push = |resource: Resource| match self.unsettled.substitute(resource.name()) {
            None => all.push(resource),
            Some(substitute) => {
                version.subtract(&resource);
                if let Some(substitute) = substitute {
                    version.add(&substitute);
                    all.push(substitute);
                }
            }
        };
        if self.subscription.is_wildcard() {
            view.resources(&self.type_url).for_each(&mut push);
        } else {
            let names = self.subscription.names();
            names.filter_map(|name| view.get(&self.type_url, name)).for_each(push);
        }
        all
    }

    fn hold<V: View>(&self, view: &V, answer: &mut Answer, version: &mut TypeVersion) {
        for (name, owed) in &self.owed {
            if let Some(told) = &owed.told
                && view.get(&self.type_url, name).is_none()
            {
                version.add(told);
                answer.resources.push(told.clone());
            }
        }
    }
}
