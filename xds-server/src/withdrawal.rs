//! What is taken back by itself: a commit that a client rejects.

use std::{collections::BTreeSet, fmt, sync::Arc};

use deltaplane_cache::{Cache, Commit, RollbackError};
use deltaplane_core::{Key, Revision, View};

use crate::{client::Client, status::Rejection};

/// A commit that was taken back, since a client rejected what it brought.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Withdrawal {
    /// The commit that is to blame.
    pub culprit: Revision,
    /// The commit that takes it back, and with it those that refer to what it brought: its
    /// [record](deltaplane_cache::CommitRecord::undoes) says which.
    pub commit: Commit,
    /// Who rejected it.
    pub client: Client,
    /// What was rejected, and why.
    pub rejection: Rejection,
}

/// Who is told of withdrawals.
pub(crate) struct Withdrawing(pub(crate) Box<dyn Fn(&Withdrawal) + Send + Sync>);

impl fmt::Debug for Withdrawing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Withdrawing")
    }
}

impl Withdrawing {
    /// Takes back the commit that is to blame for a rejection, if it is clear which that is. Otherwise
    /// what was rejected is being halved, and the next rejection knows more.
    ///
    /// What was there when the client connected is no change's fault: others run it.
    pub(crate) fn rejected(
        &self,
        cache: &Cache,
        client: &Client,
        connected_at: Revision,
        rejection: &Rejection,
    ) {
        let Some(culprit) = culprit(cache, client, rejection) else { return };
        if rejection.is_first || culprit <= connected_at {
            return;
        }
        let reason = format!("{} rejects it: {}", client.node.id, rejection.error.message);
        let blamed = suspects(rejection).iter();
        let blamed: Vec<_> =
            blamed.map(|name| Key::new(rejection.type_url.clone(), name.clone())).collect();
        match cache.withdraw(culprit, &blamed, &reason) {
            Ok(commit) if commit.changes > 0 => {
                tracing::warn!(
                    node = client.node.id,
                    culprit = culprit.0,
                    revision = commit.revision.0,
                    words = rejection.error.message,
                    "a commit is taken back, since a client rejects it"
                );
                let (client, rejection) = (client.clone(), rejection.clone());
                (self.0)(&Withdrawal { culprit, commit, client, rejection });
            }
            // Somebody else was faster, or changed it since.
            Ok(_) => {}
            Err(error) => self.complain(client, culprit, &error),
        }
    }

    fn complain(&self, client: &Client, culprit: Revision, error: &RollbackError) {
        tracing::error!(
            node = client.node.id,
            culprit = culprit.0,
            %error,
            "a commit that a client rejects cannot be taken back"
        );
    }
}

/// What may be at fault: what the client's words name, or else all that the rejected response said.
fn suspects(rejection: &Rejection) -> &[Arc<str>] {
    match &rejection.blamed[..] {
        [] => &rejection.names,
        blamed => blamed,
    }
}

/// The one commit that brought all that may be at fault. What was changed since is not.
fn culprit(cache: &Cache, client: &Client, rejection: &Rejection) -> Option<Revision> {
    let view = cache.view(&client.scopes);
    let of = |name| view.changed_at(&rejection.type_url, name, view.revision());
    let commits: BTreeSet<_> = suspects(rejection).iter().map(|name| of(name)).collect();
    let mut commits = commits.into_iter();
    match (commits.next()?, commits.next()) {
        (only, None) => only.filter(|revision| *revision <= rejection.revision),
        _ => None,
    }
}
