//! What somebody looks for because the client asks for it.

use super::Machine;
use crate::{ErrorDetail, Key, View, type_stream::Sought};

impl<V: View> Machine<V> {
    /// Waits with the answer that there is nothing of a name that the client just asked for, until
    /// [`end_search`](Machine::end_search): somebody looks for it. What is there is not held up.
    pub fn begin_search(&mut self, key: &Key) {
        let stream = self.types.iter_mut().find(|stream| stream.type_url == key.type_url);
        if let Some(stream) = stream.filter(|stream| stream.subscription.is_named(&key.name)) {
            stream.aside.fill().sought.insert(key.name.clone(), Sought::Underway);
        }
    }

    /// Waits no longer: if there is still nothing of the name, the client is told so, and why, if it reads
    /// that. `NOT_FOUND` and `PERMISSION_DENIED` let it drop what it has of the name; `UNAVAILABLE`,
    /// `INTERNAL` and `UNKNOWN` do not (E-05).
    pub fn end_search(&mut self, key: &Key, failure: Option<ErrorDetail>) {
        let stream = self.types.iter_mut().find(|stream| stream.type_url == key.type_url);
        let Some(stream) = stream else { return };
        let sought = stream.aside.get_mut().map(|aside| &mut aside.sought);
        let Some(sought) = sought else { return };
        if sought.remove(&key.name).is_some() {
            if let Some(failure) = failure {
                sought.insert(key.name.clone(), Sought::Failed(failure));
            }
            self.stirred = true;
        }
    }
}
