//! Who is connected, and what each client was told and accepted.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use dashmap::DashMap;
use deltaplane_cache::{Concern, Scope};
use deltaplane_core::{
    ErrorDetail, Event, Key, Nonce, Reception, Resource, Response, Revision, Standing, TypeUrl,
};
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use crate::{body::Driver, client::Client};

/// What is known of one connected client. It lives and dies with the client's stream.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ClientStatus {
    /// Who it is.
    pub client: Arc<Client>,
    /// When its first request was read.
    pub since: SystemTime,
    /// Each type that it asked for.
    pub types: BTreeMap<TypeUrl, TypeStatus>,
    /// How far it is.
    pub standing: Standing,
    /// New clusters that it has not shown to be able to use, so that what names them waits.
    pub awaited: Vec<Key>,
    /// Where it looks beside what it is said to see, or did since that was said.
    pub(crate) passing: Vec<Scope>,
}

/// What is known of one type on one stream.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct TypeStatus {
    /// It subscribes to everything.
    pub wildcard: bool,
    /// How many names it subscribes to.
    pub names: usize,
    /// The revision and the nonce of the last response.
    pub sent: Option<(Revision, Nonce)>,
    /// The revision and the nonce of the last response that it acknowledged: it accepts that, which does
    /// not yet mean that it uses it.
    pub acknowledged: Option<(Revision, Nonce)>,
    /// What it rejected last.
    pub rejection: Option<Arc<Rejection>>,
    /// Something of that is still rejected: it has neither changed nor gone.
    pub is_rejected: bool,
}

/// A response that a client rejected.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Rejection {
    /// Its type.
    pub type_url: TypeUrl,
    /// Its nonce.
    pub nonce: Nonce,
    /// What it said something new about. Which of these is at fault, only the client's words tell.
    pub names: Vec<Arc<str>>,
    /// Those of them that the client's words name.
    pub blamed: Vec<Arc<str>>,
    /// It was a first answer: the client had nothing before it.
    pub is_first: bool,
    /// The revision from which the response was built.
    pub revision: Revision,
    /// The client's words.
    pub error: ErrorDetail,
    /// When.
    pub at: SystemTime,
}

/// One resource, and how it stands with one client.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ClientResource {
    /// The resource, as the client is to have it; if it is rejected, as the client was sent it.
    pub resource: Resource,
    /// How it stands.
    pub reception: Reception,
    /// When the commit was made that brought it, if that is still known.
    pub committed: Option<SystemTime>,
}

/// How long whoever waits for something rests after the first look, and at most after a later one; each time
/// it is twice as long. Who waits briefly is told soon, and who waits for long costs little, however many
/// clients there are and however much they say.
const REST: Duration = Duration::from_millis(1);
const LONGEST_REST: Duration = Duration::from_millis(20);

/// All connected clients.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    entries: DashMap<u64, Arc<Entry>>,
    /// How many wait for something to change here.
    waiting: AtomicUsize,
    changed: Notify,
}

/// One connected client, as its own stream and others see it.
#[derive(Debug)]
pub(crate) struct Entry {
    status: Mutex<ClientStatus>,
    concern: Concern,
    driver: Weak<Driver>,
}

impl Clients {
    /// Enters a client, with what tells how far it is woken, and what drives it.
    pub(crate) fn enter(
        &self,
        client: &Arc<Client>,
        concern: Concern,
        driver: &Arc<Driver>,
    ) -> Arc<Entry> {
        let status = Mutex::new(ClientStatus {
            client: client.clone(),
            since: SystemTime::now(),
            types: BTreeMap::new(),
            standing: Standing::default(),
            awaited: Vec::new(),
            passing: Vec::new(),
        });
        let entry = Arc::new(Entry { status, concern, driver: Arc::downgrade(driver) });
        self.entries.insert(client.id, entry.clone());
        entry
    }

    /// Forgets a client.
    pub(crate) fn leave(&self, id: u64) {
        self.entries.remove(&id);
        self.tell();
    }

    /// Every client, in the order in which they came.
    pub(crate) fn all(&self) -> Vec<ClientStatus> {
        self.find(|_| true, |status, _| status.clone())
    }

    /// What is found of each client that is asked about, from how it is and the last revision that concerns
    /// it; in the order in which they came. Nothing is copied for it, and each client is held up while it is
    /// looked at.
    pub(crate) fn find<T>(
        &self,
        who: impl Fn(&Client) -> bool,
        find: impl Fn(&ClientStatus, Revision) -> T,
    ) -> Vec<T> {
        let all = self.entries.iter().map(|entry| (*entry.key(), entry.value().clone()));
        let mut all: Vec<_> = all.collect();
        all.sort_unstable_by_key(|(id, _)| *id);
        let found = all.into_iter().filter_map(|(_, entry)| {
            // Whoever asks may ask for what is known of this client.
            let client = entry.status().client.clone();
            who(&client).then(|| find(&entry.status(), entry.concern.revision()))
        });
        found.collect()
    }

    /// How each resource stands with a client, if it is connected. Costs the number of its resources.
    pub(crate) async fn resources(&self, id: u64) -> Option<Vec<ClientResource>> {
        let driver = self.entries.get(&id)?.driver.upgrade()?;
        driver.report().await
    }

    /// Tells whoever waits that something changed.
    pub(crate) fn tell(&self) {
        if self.waiting.load(Ordering::Acquire) > 0 {
            self.changed.notify_waiters();
        }
    }

    /// Looks until there is an answer, again whenever something changed, but at most some fifty times a
    /// second.
    pub(crate) async fn look<T>(&self, mut look: impl FnMut() -> Option<T>) -> T {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        let _waiting = Waiting(&self.waiting);
        let mut rest = REST;
        loop {
            let changed = self.changed.notified();
            if let Some(found) = look() {
                return found;
            }
            let rested = Instant::now() + rest;
            changed.await;
            sleep_until(rested).await;
            rest = (2 * rest).min(LONGEST_REST);
        }
    }
}

/// Somebody waits, until this is dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Entry {
    pub(crate) fn status(&self) -> MutexGuard<'_, ClientStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that the client is about to look at these scopes.
    pub(crate) fn passes(&self, scopes: &[Scope]) {
        let passing = &mut self.status().passing;
        let news: Vec<_> = scopes.iter().filter(|scope| !passing.contains(scope)).collect();
        passing.extend(news.into_iter().cloned());
    }

    pub(crate) fn sent(&self, response: &Response) {
        let mut status = self.status();
        let of_type = status.types.entry(response.type_url.clone()).or_default();
        of_type.sent = Some((response.revision, response.nonce));
    }

    pub(crate) fn told(&self, event: &Event) {
        let mut status = self.status();
        match event {
            Event::Acknowledged { type_url, nonce, revision } => {
                let of_type = status.types.entry(type_url.clone()).or_default();
                of_type.acknowledged = Some((*revision, *nonce));
            }
            Event::Rejected { type_url, .. } => {
                let of_type = status.types.entry(type_url.clone()).or_default();
                of_type.rejection = Rejection::of(event).map(Arc::new);
            }
            _ => {}
        }
    }
}

impl Rejection {
    /// What an event says of a rejection, if it is one.
    pub(crate) fn of(event: &Event) -> Option<Self> {
        let Event::Rejected { type_url, nonce, names, blamed, is_first, revision, error } = event
        else {
            return None;
        };
        Some(Self {
            type_url: type_url.clone(),
            nonce: *nonce,
            names: names.clone(),
            blamed: blamed.clone(),
            is_first: *is_first,
            revision: *revision,
            error: error.clone(),
            at: SystemTime::now(),
        })
    }
}
