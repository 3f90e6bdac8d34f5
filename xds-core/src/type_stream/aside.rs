//! What only some streams have of a type. It lies elsewhere, so that of a stream in step there is little to read
//! when something is delivered: with many streams, each is in no cache when its turn comes.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Deref,
    sync::Arc,
    time::Duration,
};

use super::{
    Sought, TypeStream,
    claim::{CatchUp, Claim},
    leases::Leases,
};
use crate::{
    Resource, Subscription,
    type_url::{Lingering, TypePolicy},
    whole::Remainder,
};

/// What lies elsewhere, if there is any of it.
#[derive(Debug, Default)]
pub(crate) struct Aside(Option<Box<Exceptions>>);

/// What only some streams have of a type.
#[derive(Debug)]
pub(crate) struct Exceptions {
    pub(super) claim: Claim,
    /// How long the client waits for what it says that it has, where that is newer than what is here.
    pub(crate) catch_up: Option<CatchUp>,
    /// Names of which there is nothing here and the client says that it has something, with its version: what
    /// comes with that version is no news to it.
    pub(crate) strange: BTreeMap<Arc<str>, String>,
    /// Collections that the client asked for and of which it was owed nothing yet.
    pub(super) asked_globs: BTreeSet<Arc<str>>,
    /// Names that it gave up while it goes on asking for others with them, where that is not answered: what
    /// is on demand of them, it is to lose.
    pub(super) dropped: BTreeSet<Arc<str>>,
    /// Names that it asks for and that are being looked for, or what came of that: the answer waits (V-07).
    pub(crate) sought: BTreeMap<Arc<str>, Sought>,
    /// What it was told that is good for some time only.
    pub(super) leases: Leases,
    /// What it uses although it accepted something else, and until when that is assumed.
    pub(super) lingering: Vec<(Resource, Duration)>,
    /// Names of which it uses what is not known, and until when that is assumed.
    pub(super) lingering_unknown: BTreeMap<Arc<str>, Duration>,
    /// Names that it asked for first although they are gone. Who comes back may use them, and it is not
    /// known what it has of them.
    pub(super) gone_before: BTreeSet<Arc<str>>,
    /// What of a first answer was not sent yet, where that is everything. It is owed to nobody by name, and
    /// goes before what is.
    pub(super) first: Option<Remainder>,
    /// What of what is owed is gone, and held back since it may be in use.
    pub(super) held_back: BTreeSet<Arc<str>>,
}

impl Exceptions {
    const NONE: Self = Self {
        claim: Claim::Nothing,
        catch_up: None,
        strange: BTreeMap::new(),
        asked_globs: BTreeSet::new(),
        dropped: BTreeSet::new(),
        sought: BTreeMap::new(),
        leases: Leases::NONE,
        lingering: Vec::new(),
        lingering_unknown: BTreeMap::new(),
        gone_before: BTreeSet::new(),
        first: None,
        held_back: BTreeSet::new(),
    };

    fn is_empty(&self) -> bool {
        self.claim.is_nothing()
            && self.catch_up.is_none()
            && self.strange.is_empty()
            && self.asked_globs.is_empty()
            && self.dropped.is_empty()
            && self.sought.is_empty()
            && self.leases.is_empty()
            && self.lingering.is_empty()
            && self.lingering_unknown.is_empty()
            && self.gone_before.is_empty()
            && self.first.is_none()
            && self.held_back.is_empty()
    }
}

/// Where there is none, it reads as if there were nothing in it.
impl Deref for Aside {
    type Target = Exceptions;

    fn deref(&self) -> &Exceptions {
        static NONE: Exceptions = Exceptions::NONE;
        self.0.as_deref().unwrap_or(&NONE)
    }
}

impl Aside {
    /// What there is, if anything.
    pub(crate) fn get_mut(&mut self) -> Option<&mut Exceptions> {
        self.0.as_deref_mut()
    }

    /// Makes room for something.
    pub(crate) fn fill(&mut self) -> &mut Exceptions {
        self.0.get_or_insert_with(|| Box::new(Exceptions::NONE))
    }

    /// Takes out a part.
    pub(super) fn take<T: Default>(&mut self, part: impl FnOnce(&mut Exceptions) -> &mut T) -> T {
        self.get_mut().map(|it| std::mem::take(part(it))).unwrap_or_default()
    }

    /// Gives up the room where nothing is in it.
    pub(super) fn tidy(&mut self) {
        if self.0.as_ref().is_some_and(|it| it.is_empty()) {
            self.0 = None;
        }
    }

    /// Forgets what is not subscribed any more.
    pub(super) fn shrink(&mut self, subscription: &Subscription, policy: &TypePolicy) {
        let Some(aside) = self.get_mut() else { return };
        aside.lingering.retain(|(resource, _)| {
            policy.lingers == Lingering::Drains || subscription.contains(resource.name())
        });
        aside.lingering_unknown.retain(|name, _| subscription.contains(name));
        aside.gone_before.retain(|name| subscription.contains(name));
        aside.strange.retain(|name, _| subscription.contains(name));
        aside.asked_globs.retain(|glob| subscription.has_glob(glob));
        aside.sought.retain(|name, _| subscription.is_named(name));
        aside.leases.retain(|name| subscription.contains(name));
        match &mut aside.claim {
            Claim::Nothing => {}
            Claim::Versions(versions) => versions.retain(|name, _| subscription.contains(name)),
            // It stood for more than what is held now.
            Claim::Version(version) => version.clear(),
        }
    }
}

impl TypeStream {
    /// Notes what is gone, and held back since it may be in use.
    pub(crate) fn hold_back(&mut self, names: &BTreeSet<Arc<str>>) {
        if !names.is_empty() {
            self.aside.fill().held_back.clone_from(names);
        } else if let Some(aside) = self.aside.get_mut() {
            aside.held_back.clear();
        }
    }
}
