//! What is looked for because the client of a stream asks for it and it is not there.

use std::sync::Arc;

use deltaplane_core::{Key, TypeUrl, View as _};

use super::{Kind, XdsStream};

impl XdsStream {
    /// Has those names looked for that are not there.
    pub(super) fn begin_searches(&mut self, type_url: &TypeUrl, names: &[Arc<str>]) {
        let Some(searches) = self.shared.searches.clone() else { return };
        if self.kind == Kind::Fetch {
            return;
        }
        let view = self.view();
        for name in names.iter().filter(|name| view.resolve(type_url, name).is_none()) {
            let key = Key::new(type_url.clone(), name.clone());
            if let Some(outcome) = searches.begin(&self.client, &key) {
                self.machine.begin_search(&key);
                self.searches.insert(key, outcome);
            }
        }
    }

    /// Waits no longer for what the client does not ask for any more.
    pub(super) fn give_up_searches(&mut self, type_url: &TypeUrl, names: &[Arc<str>]) {
        if self.searches.is_empty() {
            return;
        }
        for name in names {
            self.searches.remove(&Key::new(type_url.clone(), name.clone()));
        }
    }

    /// Takes up what came of searches.
    pub(super) fn end_searches(&mut self) {
        let machine = &mut self.machine;
        self.searches.retain(|key, outcome| {
            let failure = outcome.get();
            failure.into_iter().for_each(|failure| machine.end_search(key, failure.clone()));
            failure.is_none()
        });
    }
}
