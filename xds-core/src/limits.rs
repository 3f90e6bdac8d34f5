//! What a stream may ask for, and what ends it.

use crate::{Request, TypeUrl, Variant};

/// What a stream may ask of the server. Beyond it, the stream ends and its client is told which limit it
/// met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamLimits {
    /// How many names of one type a stream may subscribe to. An Envoy names every cluster that gets its
    /// endpoints by EDS. Four times as many it may give up while it goes on asking for everything, and not
    /// have read yet what becomes of them. 100,000 unless set.
    pub names: usize,
    /// How long a name may be, in bytes. 4,096 unless set.
    pub name_length: usize,
    /// How many types a stream may ask for. 64 unless set.
    pub types: usize,
}

impl Default for StreamLimits {
    fn default() -> Self {
        Self { names: 100_000, name_length: 4096, types: 64 }
    }
}

/// How long a type URL may be, in bytes.
const TYPE_URL_LENGTH: usize = 1024;

/// How often what a stream may subscribe to of a type may be in flight, or be given up with nothing read
/// about it.
const TIMES: usize = 4;

/// How many names of a type may be in flight, however few a stream may subscribe to: a wildcard brings more.
const FEWEST_IN_FLIGHT: usize = 1 << 18;

/// A request that ends its stream: the client is at fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// A request names no type, and answers nothing that was sent (B-03).
    #[error(
        "the request has no type_url: on an aggregated stream, every request must name its type"
    )]
    NoTypeUrl,
    /// A request of the other variant.
    #[error("a {0:?} stream cannot carry a request of the other variant")]
    WrongVariant(Variant),
    /// More names than [`StreamLimits::names`].
    #[error("a stream may name {limit} resources of {type_url}, and this one names more")]
    TooManyNames {
        /// The type.
        type_url: TypeUrl,
        /// The limit.
        limit: usize,
    },
    /// Many times more names given up than [`StreamLimits::names`], and nothing read about them.
    #[error(
        "a stream may give up {limit} names of {type_url} before it reads what becomes of them, and this \
         one gave up more"
    )]
    TooManyGivenUp {
        /// The type.
        type_url: TypeUrl,
        /// The limit.
        limit: usize,
    },
    /// A name longer than [`StreamLimits::name_length`].
    #[error("a resource name may have {limit} bytes, and one of {type_url} has {length}")]
    NameTooLong {
        /// The type.
        type_url: TypeUrl,
        /// The name's length.
        length: usize,
        /// The limit.
        limit: usize,
    },
    /// A type URL longer than any that there is.
    #[error("a type_url may have {limit} bytes, and this one has {length}")]
    TypeUrlTooLong {
        /// Its length.
        length: usize,
        /// The limit.
        limit: usize,
    },
    /// More types than [`StreamLimits::types`].
    #[error("a stream may ask for {limit} types, and this one asks for more")]
    TooManyTypes {
        /// The limit.
        limit: usize,
    },
}

impl StreamLimits {
    /// How many names of a type may be in flight.
    pub(crate) fn in_flight(&self) -> usize {
        self.names.saturating_mul(TIMES).max(FEWEST_IN_FLIGHT)
    }

    /// Checks how many names a stream gave up while it waits for what becomes of them.
    pub(crate) fn check_given_up(
        &self,
        type_url: &TypeUrl,
        given_up: usize,
    ) -> Result<(), RequestError> {
        let limit = self.names.saturating_mul(TIMES);
        if given_up > limit {
            return Err(RequestError::TooManyGivenUp { type_url: type_url.clone(), limit });
        }
        Ok(())
    }

    /// Checks a request, before anything is kept of it: with it, its stream asks for this many types.
    pub(crate) fn check(
        &self,
        type_url: &TypeUrl,
        request: &Request,
        types: usize,
    ) -> Result<(), RequestError> {
        if types > self.types {
            return Err(RequestError::TooManyTypes { limit: self.types });
        }
        if request.longest_list() > self.names {
            let (type_url, limit) = (type_url.clone(), self.names);
            return Err(RequestError::TooManyNames { type_url, limit });
        }
        if type_url.len() > TYPE_URL_LENGTH {
            let (length, limit) = (type_url.len(), TYPE_URL_LENGTH);
            return Err(RequestError::TypeUrlTooLong { length, limit });
        }
        let limit = self.name_length;
        match request.names().map(str::len).find(|length| *length > limit) {
            Some(length) => {
                Err(RequestError::NameTooLong { type_url: type_url.clone(), length, limit })
            }
            None => Ok(()),
        }
    }
}
