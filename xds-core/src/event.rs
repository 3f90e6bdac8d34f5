//! What requests told about their client.

use std::sync::Arc;

use crate::{ErrorDetail, Nonce, Revision, TypeUrl};

/// What a request told about its client.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The client began to ask for a type, or what it subscribes to of it changed: from now on, the changes
    /// of that concern this stream, and no others.
    Subscribed {
        /// The type.
        type_url: TypeUrl,
        /// It was the first request of this type.
        is_first: bool,
        /// It subscribes to everything.
        wildcard: bool,
        /// The names that it asked for, some of them perhaps again.
        names: Vec<Arc<str>>,
        /// The collections that it asked for, by their globs.
        globs: Vec<Arc<str>>,
        /// The names and globs that it no longer asks for.
        given_up: Vec<Arc<str>>,
    },
    /// A response was acknowledged: the client accepts it, which does not yet mean that it uses it.
    Acknowledged {
        /// The type.
        type_url: TypeUrl,
        /// The response's nonce.
        nonce: Nonce,
        /// The revision from which it was built.
        revision: Revision,
    },
    /// The client has a newer set than there is here, waited for that in vain, and is served what there is.
    ServedOlder {
        /// The type.
        type_url: TypeUrl,
        /// The source's revision that the client has seen.
        claimed: u64,
    },
    /// A response was rejected.
    Rejected {
        /// The type.
        type_url: TypeUrl,
        /// The response's nonce.
        nonce: Nonce,
        /// What that response said something new about, or repeated although it was not accepted; nothing
        /// is sent for these until they change. None, if it can have been rejected for what is no longer
        /// there.
        names: Vec<Arc<str>>,
        /// Those of them that the client's words name.
        blamed: Vec<Arc<str>>,
        /// It was a first answer: the client had nothing before it.
        is_first: bool,
        /// The revision from which the response was built.
        revision: Revision,
        /// The client's words.
        error: ErrorDetail,
    },
}
