//! How changes stand that go to some of a fleet first, and why those were withdrawn that were.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use deltaplane_server::{Client, Delivery, Fate};
use tokio::sync::watch;

/// The last rollout of each fleet that had one. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Rollouts(watch::Sender<BTreeMap<String, Progress>>);

/// How a rollout stands.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Progress {
    /// The revision of the database that it brings the fleet to.
    pub revision: i64,
    /// How it stands.
    pub stage: Stage,
    /// Since when.
    pub since: SystemTime,
    /// How many went well since the start, and how many did not.
    pub ended: Ended,
}

/// How many rollouts ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ended {
    /// They reached all.
    pub promoted: u64,
    /// They reached only the canary, and were taken back.
    pub withdrawn: u64,
    /// So many of these were rolled back in the database by this server.
    pub rolled_back: u64,
}

/// How far a change is.
#[derive(Clone, Debug)]
#[allow(clippy::exhaustive_enums)] // each is told in its own words
pub enum Stage {
    /// Those who are first have it.
    InCanary,
    /// All have it.
    Promoted,
    /// Nobody has it any more.
    Withdrawn(Arc<Fault>),
}

/// Why a change was withdrawn.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Fault {
    /// How it stood with those who were first; nothing, if none of them was there.
    pub delivery: Option<Delivery>,
    /// Those who were first and went.
    pub gone: Vec<String>,
    /// The revision at which what it changed is as it was, if it was rolled back; or why it was not.
    pub rolled_back: Option<Result<i64, String>>,
    /// Another server rolled it back.
    pub is_elsewhere: bool,
}

impl Rollouts {
    /// The last one of each fleet that had one.
    pub fn all(&self) -> BTreeMap<String, Progress> {
        self.0.borrow().clone()
    }

    /// Waits until a change of a fleet that reaches to this revision is withdrawn, and says why.
    pub(crate) async fn withdrawn(&self, fleet: &str, revision: i64) -> Arc<Fault> {
        let mut watch = self.0.subscribe();
        loop {
            if let Some(Progress { stage: Stage::Withdrawn(fault), revision: at, .. }) =
                watch.borrow_and_update().get(fleet)
                && *at >= revision
            {
                return fault.clone();
            }
            if watch.changed().await.is_err() {
                // Nobody is left who could withdraw it.
                std::future::pending::<()>().await;
            }
        }
    }

    pub(crate) fn set(&self, fleet: &str, revision: i64, stage: Stage) {
        self.0.send_modify(|all| {
            let mut ended = all.get(fleet).map(|before| before.ended).unwrap_or_default();
            ended.promoted += u64::from(matches!(stage, Stage::Promoted));
            if let Stage::Withdrawn(fault) = &stage {
                ended.withdrawn += 1;
                let is_own = matches!(fault.rolled_back, Some(Ok(_))) && !fault.is_elsewhere;
                ended.rolled_back += u64::from(is_own);
            }
            let progress = Progress { revision, stage, since: SystemTime::now(), ended };
            all.insert(fleet.to_owned(), progress);
        });
    }
}

impl Stage {
    /// As it is written.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Stage::InCanary => "in_canary",
            Stage::Promoted => "promoted",
            Stage::Withdrawn(_) => "withdrawn",
        }
    }
}

impl Fault {
    pub(crate) fn of(delivery: Option<Delivery>, gone: Vec<String>) -> Fault {
        Fault { delivery, gone, rolled_back: None, is_elsewhere: false }
    }

    /// Another server had it rolled back, at this revision, before anybody here said anything of it.
    pub(crate) fn elsewhere(back: i64) -> Fault {
        let rolled_back = Some(Ok(back));
        Fault { rolled_back, is_elsewhere: true, ..Fault::of(None, Vec::new()) }
    }

    /// Who is at fault, and in which words.
    #[must_use]
    pub fn reasons(&self) -> Vec<String> {
        let Some(delivery) = &self.delivery else {
            let why = if self.is_elsewhere {
                "it was rejected at another server"
            } else {
                "nobody of the canary is connected"
            };
            return vec![why.to_owned()];
        };
        let of = |(client, fate): &(Arc<Client>, Fate)| {
            let node = &client.node.id;
            match fate {
                Fate::Rejected(rejections) => {
                    let word = |rejection: &Arc<deltaplane_server::Rejection>| {
                        let kind = rejection.type_url.message_name().rsplit('.').next();
                        let kind = kind.unwrap_or_default().to_owned();
                        format!("{node} rejects a {kind}: {}", rejection.error.message)
                    };
                    rejections.iter().map(word).collect()
                }
                Fate::Settled | Fate::Draining => Vec::new(),
                _ => vec![format!("{node} did not settle in time")],
            }
        };
        let gone = self.gone.iter().map(|node| format!("{node} went away"));
        delivery.clients.iter().flat_map(of).chain(gone).collect()
    }
}
