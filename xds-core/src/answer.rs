//! What goes into the next response of a type: from what is owed and what the view holds.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bytes::Bytes;

use crate::{
    ErrorDetail, Resource, Revision, TypeVersion, Variant, View,
    collection::is_glob,
    sent::{News, Sent},
    type_stream::{Owed, Reason, Sought, TypeStream},
    type_url::{Lingering, MissingAnswer},
    whole::{Part, SPLIT_AT, Whole},
    wire::{self, Notes},
};

/// A response but for its nonce.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    /// What goes on the wire.
    resources: Vec<Resource>,
    /// What is still good, and only said to be.
    beats: Vec<Resource>,
    /// What it says beside that.
    notes: Notes,
    /// About how many bytes it has.
    size: usize,
    /// What of it is news, and so in flight until it is answered.
    sent: Vec<Sent>,
    /// What it shares with other streams' answers.
    shared: Option<Shared>,
    /// It is sent to find out which of several names is at fault.
    pub(crate) probe: u32,
    /// Of that, what the client has nothing of yet, as far as is known.
    pub(crate) new: BTreeSet<Arc<str>>,
    /// The version of the whole.
    pub(crate) version: String,
}

/// What answers of several streams share.
#[derive(Debug)]
enum Shared {
    /// In the place of its own resources.
    Whole(Arc<Whole>),
    /// In the place of its own resources and news.
    Part(Part),
}

impl Answer {
    /// A part of a first answer.
    fn part(part: Part) -> Self {
        let version = part.version().to_owned();
        Self { version, shared: Some(Shared::Part(part)), ..Self::default() }
    }

    /// How many resources it carries.
    pub(crate) fn resources(&self) -> usize {
        match &self.shared {
            None => self.resources.len() + self.beats.len() + self.notes.unresolved.len(),
            Some(Shared::Whole(whole)) => whole.len(),
            Some(Shared::Part(part)) => part.len(),
        }
    }

    /// What of it is news, and so in flight until it is answered.
    pub(crate) fn sent(&self) -> &[Sent] {
        match &self.shared {
            Some(Shared::Part(part)) => part,
            _ => &self.sent,
        }
    }

    /// The oldest revision of which something in it is news.
    pub(crate) fn since(&self) -> Option<Revision> {
        match &self.shared {
            Some(Shared::Part(part)) => part.first().map(|first| first.since),
            _ => self.sent.iter().map(|sent| sent.since).min(),
        }
    }

    /// The same, to be kept until it is answered.
    pub(crate) fn into_news(self) -> News {
        match self.shared {
            Some(Shared::Part(part)) => News::Shared(part),
            _ => News::Own(self.sent),
        }
    }

    /// How many removals it carries.
    pub(crate) fn removals(&self) -> usize {
        self.notes.removed.len()
    }

    /// Says that something is still good.
    pub(crate) fn beat(&mut self, resource: Resource) {
        self.beats.push(resource);
    }

    /// Carries something once more that is no news.
    pub(crate) fn repeat(&mut self, resource: Resource) {
        self.resources.push(resource);
    }

    /// Whether there is nothing in it.
    pub(crate) fn is_silent(&self) -> bool {
        self.resources.is_empty() && self.beats.is_empty()
    }

    /// The names of what it only says is still good.
    pub(crate) fn beaten(&self) -> Vec<Arc<str>> {
        self.beats.iter().map(|beat| beat.name().clone()).collect()
    }

    /// Whether this many more bytes would be too many. A response holds one thing, however large.
    fn is_full(&self, more: usize) -> bool {
        self.size + more > SPLIT_AT && !self.sent.is_empty()
    }

    /// Adds a resource that goes by this name; by several, it is in the response once (B-09). What is kept
    /// is gone already, and still to be removed.
    fn push(&mut self, name: &Arc<str>, resource: Resource, owed: &Owed, is_kept: bool) {
        self.size += resource.size();
        if resource.aliases().is_empty() || !self.resources.contains(&resource) {
            self.resources.push(resource.clone());
        }
        // What the client has from before this stream and is not this counts as new: it may have nothing.
        if owed.unknown || (owed.told.is_none() && !owed.may_hold) {
            self.new.insert(name.clone());
        }
        self.sent.push(Sent {
            name: name.clone(),
            content: Some(resource),
            replaces_unknown: owed.unknown,
            since: owed.since,
            is_kept,
            is_void: false,
        });
    }

    /// Says that what goes by this name is gone, under the name that the client knows it by: what it
    /// subscribed to by an alias has a name of its own.
    fn push_removed(&mut self, name: &Arc<str>, told: Option<&Resource>, owed: &Owed) {
        let gone = told.map_or(name, Resource::name);
        self.size += gone.len() + 4;
        if gone == name || !self.notes.removed.contains(gone) {
            self.notes.removed.push(gone.clone());
        }
        self.push_nothing(name, owed);
    }

    /// Says that there is nothing of a name, in the words that its type has for that.
    fn push_missing(&mut self, name: &Arc<str>, owed: &Owed, missing: Missing) {
        self.size += 2 * name.len() + missing.error.as_ref().map_or(0, |error| error.message.len());
        match missing.word {
            Some(Word::Removed) => self.notes.removed.push(name.clone()),
            Some(Word::Unresolved) => self.notes.unresolved.push(name.clone()),
            None => {}
        }
        self.notes.errors.extend(missing.error.map(|error| (name.clone(), error)));
        self.push_nothing(name, owed);
    }

    fn push_nothing(&mut self, name: &Arc<str>, owed: &Owed) {
        self.sent.push(Sent {
            name: name.clone(),
            content: None,
            replaces_unknown: owed.unknown,
            since: owed.since,
            is_kept: false,
            is_void: false,
        });
    }

    /// The resources in it that are news.
    pub(crate) fn news(&self) -> impl Iterator<Item = &Resource> {
        self.sent().iter().filter_map(|sent| sent.content.as_ref())
    }

    /// Encodes it, all but the nonce.
    pub(crate) fn body(&self, stream: &TypeStream) -> Bytes {
        let (type_url, version) = (&stream.type_url, &self.version);
        match (&self.shared, stream.variant) {
            (Some(Shared::Whole(whole)), _) => whole.sotw_body().clone(),
            (Some(Shared::Part(part)), _) => part.body().clone(),
            (None, variant) => {
                let entries = self.resources.iter();
                let entries = entries.map(|resource| resource.entry(variant, stream.bears_ttl));
                let entries = entries.chain(self.beats.iter().filter_map(Resource::heartbeat));
                wire::body(variant, (type_url, version), entries, &self.notes)
            }
        }
    }
}

/// How it is said that there is nothing of a name.
struct Missing {
    /// By what every client reads, if there is a word for it.
    word: Option<Word>,
    /// By what only some read.
    error: Option<ErrorDetail>,
}

/// What every client reads as that there is nothing of a name.
enum Word {
    Removed,
    Unresolved,
}

/// `NOT_FOUND`, by which a client may let go of what it has of a name (E-05).
const NOT_FOUND: i32 = 5;

/// What of a type does not go out yet.
#[derive(Debug, Default)]
pub(crate) struct Held {
    /// What waits for what it refers to, or for what uses it.
    pub(crate) names: BTreeSet<Arc<str>>,
    /// What is gone and in use, so that who asks for it is given it.
    pub(crate) kept: BTreeSet<Arc<str>>,
    /// Nothing waits, and removals go with additions.
    pub(crate) at_once: bool,
}

impl TypeStream {
    /// What is there and owed, and the answers to names that are not there. Removals wait.
    pub(crate) fn additions<V: View>(&mut self, view: &V, held: &Held) -> Option<Answer> {
        self.cursor.filter(|_| view.is_known(&self.type_url))?;
        if let Some(part) = self.next_part() {
            return Some(Answer::part(part));
        }
        if self.cannot_repeat(held) {
            return None;
        }
        let mut answer = self.owed_additions(view, held);
        if held.at_once {
            let mut gone = self.gone(view);
            gone.retain(|name| !answer.sent.iter().any(|sent| sent.name == *name));
            self.remove(view, gone, &mut answer);
        }
        if answer.sent.is_empty() && !self.answer_due {
            return None;
        }
        self.answer_due = false;
        self.complete(view, &mut answer, held);
        Some(answer)
    }

    /// Whether no answer can be given that holds everything: what the client has of something that is held
    /// is not known, and it would lose that by an answer without it.
    fn cannot_repeat(&self, held: &Held) -> bool {
        let is_unknown = |name| self.owed.get(name).is_some_and(Owed::cannot_be_repeated);
        self.repeats_everything() && held.names.iter().any(is_unknown)
    }

    /// The names that are gone, and that any answer takes from the client, since it cannot repeat them: what
    /// the client has of them is not known.
    pub(crate) fn gone_unless_repeated<V: View>(&self, view: &V) -> Vec<Arc<str>> {
        if !self.repeats_everything() {
            return Vec::new();
        }
        let lost = self.owed.iter().filter(|(_, owed)| owed.may_hold && owed.cannot_be_repeated());
        let gone = lost.filter(|(name, _)| self.find(view, name).is_none());
        gone.map(|(name, _)| name.clone()).collect()
    }

    /// The names that are gone and that the client may still hold.
    pub(crate) fn gone<V: View>(&self, view: &V) -> Vec<Arc<str>> {
        if self.cursor.is_none() || !view.is_known(&self.type_url) {
            return Vec::new();
        }
        let is_gone = |name: &&Arc<str>| !self.is_underway(name) && self.find(view, name).is_none();
        self.owed.keys().filter(is_gone).cloned().collect()
    }

    /// Removes what is gone, but for what is held; what the client goes on using all the same lingers.
    pub(crate) fn removals<V: View>(
        &mut self,
        view: &V,
        mut gone: Vec<Arc<str>>,
        held: &Held,
        (now, drained): (Duration, Duration),
    ) -> Option<Answer> {
        if self.cannot_repeat(held) {
            return None;
        }
        gone.retain(|name| !held.names.contains(name));
        if self.policy.lingers == Lingering::UntilGivenUp {
            for name in &gone {
                let owed = self.owed.get(name);
                if owed.is_some_and(|owed| owed.unknown) {
                    self.linger_unknown(name.clone(), drained);
                } else if let Some(told) = owed.and_then(|owed| owed.told.clone()) {
                    self.linger(told, now, drained);
                }
            }
        }
        let mut answer = Answer::default();
        self.remove(view, gone, &mut answer);
        if answer.sent.is_empty() {
            return None;
        }
        self.complete(view, &mut answer, held);
        Some(answer)
    }

    /// Says that names are gone, as far as there is a word for it (S-06) and room; that it is gone is noted
    /// all the same, so that it is sent if it returns.
    fn remove<V: View>(&mut self, view: &V, gone: Vec<Arc<str>>, answer: &mut Answer) {
        let is_told = self.variant == Variant::Delta || self.policy.full_state;
        let error = |name: &Arc<str>| self.owed.get(name).and_then(|owed| self.error(name, owed));
        let is_unspoken = |name: &Arc<str>| match is_told {
            true => self.is_met_with_silence(name) || self.goes_by_another(view, name),
            false => error(name).is_none(),
        };
        let (unspoken, gone): (Vec<_>, Vec<_>) = gone.into_iter().partition(is_unspoken);
        unspoken.iter().for_each(|name| self.forget(name));
        for name in &gone {
            if self.may_split && answer.is_full(name.len()) {
                break;
            }
            if let Some(owed) = self.owed.get(name) {
                answer.push_removed(name, owed.told.as_ref(), owed);
                let error = self.error(name, owed);
                answer.notes.errors.extend(error.map(|error| (name.clone(), error)));
            }
        }
    }

    fn owed_additions<V: View>(&mut self, view: &V, held: &Held) -> Answer {
        let mut answer = Answer::default();
        let mut done = Vec::new();
        for (name, owed) in &self.owed {
            let is_kept = held.kept.contains(name);
            let resource = self.find(view, name);
            if let Some(resource) = resource.or_else(|| owed.told.clone().filter(|_| is_kept)) {
                if held.names.contains(name) && !is_kept {
                    continue;
                }
                if answer.sent.is_empty() {
                    answer.probe = owed.probe;
                } else if answer.probe != owed.probe {
                    continue;
                }
                if self.may_split && answer.is_full(resource.size()) {
                    break;
                }
                if let Some(told) = &owed.told
                    && told.name() != resource.name()
                    && !self.goes_by_another(view, name)
                    && !answer.notes.removed.contains(told.name())
                {
                    // What went by that name has given it to another.
                    answer.notes.removed.push(told.name().clone());
                }
                answer.push(name, resource, owed, is_kept);
            } else if self.is_underway(name) {
                continue;
            } else if let Some(missing) = self.missing(name, owed).filter(|_| answer.probe == 0) {
                if self.may_split && answer.is_full(name.len()) {
                    break;
                }
                answer.push_missing(name, owed, missing);
            } else if !owed.may_hold {
                done.push(name.clone());
            }
        }
        done.iter().for_each(|name| self.forget(name));
        answer
    }

    /// Whether a name is looked for, so that its absence is not told yet.
    pub(crate) fn is_underway(&self, name: &str) -> bool {
        matches!(self.aside.sought.get(name), Some(Sought::Underway))
    }

    /// How the absence of a name is told, if that is an answer that the client waits for, rather than a
    /// removal that has its place in the order.
    fn missing(&self, name: &Arc<str>, owed: &Owed) -> Option<Missing> {
        let is_delta = self.variant == Variant::Delta;
        let word = match (owed.reason, self.policy.missing) {
            (Reason::Released, _) => Word::Removed,
            (Reason::Asked, _) if owed.may_hold => return None,
            (Reason::Asked, MissingAnswer::Removed) => Word::Removed,
            (Reason::Asked, _) if is_glob(name) => Word::Removed,
            (Reason::Asked, MissingAnswer::Unresolved) => Word::Unresolved,
            (Reason::Asked, MissingAnswer::Silence) if is_delta => return None,
            (Reason::Asked, MissingAnswer::Silence) => Word::Removed,
            (Reason::Changed | Reason::Again, _) => return None,
        };
        let error = self.error(name, owed);
        let word = is_delta.then_some(word);
        (word.is_some() || error.is_some()).then_some(Missing { word, error })
    }

    /// What is wrong with a name of which there is nothing, for who asked for it and reads that.
    fn error(&self, name: &str, owed: &Owed) -> Option<ErrorDetail> {
        (self.tells_errors && owed.reason == Reason::Asked).then(|| {
            match self.aside.sought.get(name) {
                Some(Sought::Failed(error)) => error.clone(),
                _ => {
                    let of_type = self.type_url.message_name();
                    ErrorDetail::new(NOT_FOUND, format!("there is no {of_type} of this name"))
                }
            }
        })
    }

    /// Whether the absence of a name is not told: whoever has just asked for it would give up waiting,
    /// and whoever holds it would keep it (D-04, D-19).
    fn is_met_with_silence(&self, name: &str) -> bool {
        let is_asked = |owed: &Owed| owed.reason == Reason::Asked && !owed.claimed;
        self.owed.get(name).is_some_and(is_asked)
            && self.policy.missing == MissingAnswer::Silence
            && !self.policy.honours_removal
    }

    /// Whether what went by a name is still there, and asked for by another of its names.
    fn goes_by_another<V: View>(&self, view: &V, name: &Arc<str>) -> bool {
        let told = self.owed.get(name).and_then(|owed| owed.told.as_ref());
        let now = told.and_then(|told| view.get(&self.type_url, told.name()));
        now.is_some_and(|now| {
            let is_asked_for = |name: &Arc<str>| {
                self.subscription.is_named(name)
                    || (!now.is_on_demand() && self.subscription.covers(name))
            };
            std::iter::once(now.name()).chain(now.aliases()).any(is_asked_for)
        })
    }

    fn forget(&mut self, name: &Arc<str>) {
        self.owed.remove(name);
        if let Some(aside) = self.aside.get_mut() {
            aside.sought.remove(name);
        }
        self.unsettled.void(name);
        self.subscription.tell(name, None);
    }

    /// Puts into the answer what its variant demands besides the news: the version, and where responses
    /// hold everything, everything.
    pub(crate) fn complete<V: View>(&self, view: &V, answer: &mut Answer, held: &Held) {
        if self.is_whole(view, answer, held) {
            let whole = view.whole(&self.type_url);
            answer.notes.removed.clear();
            answer.version = whole.version().to_owned();
            answer.shared = Some(Shared::Whole(whole));
            return;
        }
        let mut version = view.version(&self.type_url);
        if self.repeats_everything() {
            answer.resources = self.everything(view, held, &mut version);
            self.keep_gone(view, answer, &mut version);
        } else if self.variant == Variant::Sotw {
            self.leave_out_owed(view, answer, &mut version);
        }
        answer.version = version.to_string();
    }

    /// Whether an answer carries what the view shows of the type, and nothing else.
    fn is_whole<V: View>(&self, view: &V, answer: &Answer, held: &Held) -> bool {
        self.repeats_everything()
            && self.subscription.is_wildcard()
            && held.names.is_empty()
            && !self.unsettled.withholds()
            && !self.bears_ttl
            && answer.notes.errors.is_empty()
            && self.named_on_demand(view).next().is_none()
            && self.kept(view, answer).next().is_none()
    }

    /// All that is subscribed, with what was acknowledged in the place of what is rejected, and what was
    /// told in the place of what is held.
    fn everything<V: View>(
        &self,
        view: &V,
        held: &Held,
        version: &mut TypeVersion,
    ) -> Vec<Resource> {
        let mut all = Vec::new();
        let told = |name: &Arc<str>| self.owed.get(name).and_then(|owed| owed.told.clone());
        let mut push = |resource: Resource| {
            let name = resource.name();
            let substitute = match held.names.contains(name) {
                true => Some(told(name)),
                false => self.unsettled.substitute(name),
            };
            let Some(substitute) = substitute else { return all.push(resource) };
            version.subtract(&resource);
            if let Some(substitute) = substitute {
                version.add(&substitute);
                all.push(substitute);
            }
        };
        if self.subscription.is_wildcard() {
            let covered = view.resources(&self.type_url);
            covered.filter(|resource| !resource.is_on_demand()).for_each(&mut push);
            self.named_on_demand(view).for_each(push);
            return all;
        }
        let names = self.subscription.names();
        names.filter_map(|name| view.get(&self.type_url, name)).for_each(&mut push);
        for glob in self.subscription.globs() {
            let members = self.members(view, glob);
            members.filter(|member| !self.subscription.is_named(member.name())).for_each(&mut push);
        }
        // Who asks for a part must not be taken, when it comes back, for having the whole.
        *version = version.of(&all);
        all
    }

    /// What is asked for by name, since a wildcard does not cover it.
    fn named_on_demand<V: View>(&self, view: &V) -> impl Iterator<Item = Resource> {
        let named = self.subscription.names();
        let named = named.filter_map(|name| view.get(&self.type_url, name));
        named.filter(Resource::is_on_demand)
    }

    /// Takes out of the version what the client is not told yet, since who comes back must not be taken for
    /// having that.
    fn leave_out_owed<V: View>(&self, view: &V, answer: &Answer, version: &mut TypeVersion) {
        let sent: BTreeSet<_> = answer.sent.iter().map(|sent| &sent.name).collect();
        for (name, owed) in self.owed.iter().filter(|(name, _)| !sent.contains(name)) {
            if let Some(now) = self.find(view, name) {
                version.subtract(&now);
                owed.told.iter().for_each(|told| version.add(told));
            }
        }
    }

    /// Adds what is gone and not yet told to be, since its removal comes last (O-02). Of what the client
    /// only may have, that is news.
    fn keep_gone<V: View>(&self, view: &V, answer: &mut Answer, version: &mut TypeVersion) {
        let kept: Vec<_> = self.kept(view, answer).collect();
        for (name, owed, told) in kept {
            version.add(told);
            if owed.claimed {
                answer.push(name, told.clone(), owed, true);
            } else {
                answer.resources.push(told.clone());
            }
        }
        // What does not come along is gone: there is no other word for it.
        answer.notes.removed.clear();
    }

    /// What is gone, and not told to be by this answer.
    fn kept<V: View>(
        &self,
        view: &V,
        answer: &Answer,
    ) -> impl Iterator<Item = (&Arc<str>, &Owed, &Resource)> {
        let removed: BTreeSet<_> = answer.notes.removed.iter().cloned().collect();
        let kept = self.owed.iter().filter(move |(name, owed)| {
            owed.may_hold && !removed.contains(*name) && self.find(view, name).is_none()
        });
        kept.filter_map(|(name, owed)| Some((name, owed, owed.told.as_ref()?)))
    }
}
