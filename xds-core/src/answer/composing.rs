//! What of a type goes into the next response: from what is owed and what the view holds.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use super::{Answer, Held, Missing, Shared, Word};
use crate::{
    ErrorDetail, Resource, TypeVersion, Variant, View,
    collection::is_glob,
    type_stream::{Owed, Reason, Sought, TypeStream},
    type_url::{Lingering, MissingAnswer},
};

/// `NOT_FOUND`, by which a client may let go of what it has of a name (E-05).
const NOT_FOUND: i32 = 5;

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
        let is_unknown = |name| self.owed.get(name).is_some_and(|owed| self.must_repeat(owed));
        held.names.iter().any(is_unknown)
    }

    /// Whether no answer can leave this as the client has it: it would have to repeat what that is, which is
    /// not known.
    pub(crate) fn must_repeat(&self, owed: &Owed) -> bool {
        self.repeats_everything() && owed.cannot_be_repeated()
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
            aside.strange.remove(name);
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
