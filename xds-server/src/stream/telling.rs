//! What others are told of a stream: how far its client is, and what happens to it.

use std::sync::Arc;

use deltaplane_core::Event;

use super::XdsStream;
use crate::{
    client::ClientEvent,
    status::{ClientResource, ClientStatus, Rejection},
};

impl XdsStream {
    /// How each resource stands with the client.
    pub(crate) fn report(&self) -> Vec<ClientResource> {
        let view = self.shared.cache.view(&self.client.scopes);
        let all = self.machine.report(&view).into_iter();
        let all = all.map(|(resource, reception)| ClientResource {
            committed: view.committed_at(resource.type_url(), resource.name()),
            resource,
            reception,
        });
        all.collect()
    }

    /// Shows others how far the client is.
    pub(super) fn show(&mut self) {
        let Some(entry) = &self.entry else { return };
        let standing = self.machine.standing();
        let mut status = entry.status();
        let before = std::mem::replace(&mut status.standing, standing);
        // Together, lest it looks settled in scopes of which it was told nothing yet.
        let has_moved = !Arc::ptr_eq(&status.client, &self.client);
        if has_moved {
            status.client = self.client.clone();
        }
        status.passing = Vec::new();
        status.awaited = self.machine.awaited();
        let rejects = before.rejected.or(standing.rejected).is_some();
        let is_new = std::mem::take(&mut self.is_new);
        if is_new || rejects {
            self.show_types(&mut status);
        }
        drop(status);
        if before != standing || has_moved || is_new {
            self.shared.clients.tell();
        }
    }

    /// Shows others what the client asks for, and of which types it rejects something.
    fn show_types(&self, status: &mut ClientStatus) {
        for (type_url, subscription) in self.machine.subscriptions() {
            let of_type = status.types.entry(type_url.clone()).or_default();
            of_type.wildcard = subscription.is_wildcard();
            of_type.names = subscription.names().len();
            of_type.is_rejected = false;
        }
        for type_url in self.machine.rejected_types() {
            if let Some(of_type) = status.types.get_mut(type_url) {
                of_type.is_rejected = true;
            }
        }
    }

    /// Tells others what the machine found.
    pub(super) fn tell_events(&mut self) {
        while let Some(event) = self.machine.poll_event() {
            if let Event::Subscribed { type_url, wildcard, names, globs, given_up, .. } = &event {
                self.is_new = true;
                self.watch.set_wildcard(type_url, *wildcard);
                self.watch.add_names(type_url, names);
                self.watch.add_names(type_url, globs);
                self.watch.remove_names(type_url, given_up);
                self.give_up_searches(type_url, given_up);
                self.begin_searches(type_url, names);
            }
            if let Some(entry) = &self.entry {
                entry.told(&event);
            }
            if let (Some(withdrawing), Some(rejection)) =
                (&self.shared.withdrawing, Rejection::of(&event))
            {
                let since = self.connected_at;
                withdrawing.rejected(&self.shared.cache, &self.client, since, &rejection);
            }
            if let Event::ServedOlder { type_url, claimed } = &event {
                tracing::warn!(
                    node = self.client.node.id,
                    %type_url,
                    claimed,
                    "a client has something newer, waited for it in vain, and is served what is here"
                );
            }
            self.observe(&ClientEvent::Told(&event));
        }
    }

    pub(super) fn observe(&self, event: &ClientEvent<'_>) {
        self.shared.observer.observe(&self.client, event);
    }
}
