//! What a response said, name by name.

use std::{ops::Deref, sync::Arc};

use crate::{Resource, Revision, whole::Part};

/// What a response said of a name: its content, or that it is gone.
#[derive(Debug, Clone)]
pub(crate) struct Sent {
    pub(crate) name: Arc<str>,
    pub(crate) content: Option<Resource>,
    /// The client may run something of that name, and what is not known: it had it before this stream.
    pub(crate) replaces_unknown: bool,
    /// The revision before which nothing of this was news.
    pub(crate) since: Revision,
    /// It is gone already, but may be in use: it is still to be removed.
    pub(crate) is_kept: bool,
    /// It is gone since, and there was no word for that.
    pub(crate) is_void: bool,
}

impl Sent {
    /// A resource that its client had nothing of.
    pub(crate) fn first(resource: Resource) -> Self {
        Self {
            name: resource.name().clone(),
            content: Some(resource),
            replaces_unknown: false,
            since: Revision(0),
            is_kept: false,
            is_void: false,
        }
    }
}

/// What of a response is news to its client.
#[derive(Debug)]
pub(crate) enum News {
    /// Put together for this stream.
    Own(Vec<Sent>),
    /// A part of a first answer, which streams share.
    Shared(Part),
}

impl News {
    /// Whether something is said of a name. Costs the logarithm of what is shared.
    pub(crate) fn shares(&self, name: &str) -> bool {
        match self {
            News::Own(_) => false,
            News::Shared(part) => part.position(name).is_some(),
        }
    }

    /// What is said of a name, to be changed for this stream alone.
    pub(crate) fn get_mut(&mut self, name: &str) -> Option<&mut Sent> {
        if let News::Shared(part) = self {
            part.position(name)?;
            *self = News::Own(part.to_vec());
        }
        match self {
            News::Own(sent) => sent.iter_mut().find(|sent| *sent.name == *name),
            News::Shared(_) => None,
        }
    }

    pub(crate) fn into_vec(self) -> Vec<Sent> {
        match self {
            News::Own(sent) => sent,
            News::Shared(part) => part.to_vec(),
        }
    }
}

impl Deref for News {
    type Target = [Sent];

    fn deref(&self) -> &[Sent] {
        match self {
            News::Own(sent) => sent,
            News::Shared(part) => part,
        }
    }
}
