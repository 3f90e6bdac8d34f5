//! A request, of whichever variant.

use std::borrow::Cow;

use bytes::Bytes;

use super::{DeltaRequest, ResourceLocator, SotwRequest};
use crate::collection::normalize;

/// How many bytes of a client's words are kept.
const MOST_WORDS: usize = 4096;

/// A request of either variant.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Request {
    /// State of the World.
    Sotw(SotwRequest),
    /// Delta.
    Delta(DeltaRequest),
}

impl Request {
    /// The type that it speaks of.
    #[must_use]
    pub fn type_url(&self) -> &str {
        match self {
            Request::Sotw(request) => &request.type_url,
            Request::Delta(request) => &request.type_url,
        }
    }

    /// The nonce of the response that it answers, or nothing.
    #[must_use]
    pub fn response_nonce(&self) -> &str {
        match self {
            Request::Sotw(request) => &request.response_nonce,
            Request::Delta(request) => &request.response_nonce,
        }
    }

    /// Puts what is said by locators among the names, and names into their normal form (P-01, X-01).
    pub(crate) fn normalize(&mut self) {
        let name = |locator: ResourceLocator| locator.name;
        match self {
            Request::Sotw(request) => {
                let locators = std::mem::take(&mut request.resource_locators);
                request.resource_names.extend(locators.into_iter().map(name));
            }
            Request::Delta(request) => {
                let locators = std::mem::take(&mut request.resource_locators_subscribe);
                request.resource_names_subscribe.extend(locators.into_iter().map(name));
                let locators = std::mem::take(&mut request.resource_locators_unsubscribe);
                request.resource_names_unsubscribe.extend(locators.into_iter().map(name));
                let held = &mut request.initial_resource_versions;
                if held.keys().any(|name| matches!(normalize(name), Cow::Owned(_))) {
                    let all = std::mem::take(held).into_iter();
                    held.extend(all.map(|(name, held)| (normalize(&name).into_owned(), held)));
                }
            }
        }
    }

    /// Whether the client says that it holds something.
    pub(crate) fn claims_something(&self) -> bool {
        match self {
            Request::Sotw(request) => !request.version_info.is_empty(),
            Request::Delta(request) => !request.initial_resource_versions.is_empty(),
        }
    }

    /// The same request, with no version that equals one of ours: that something is held stays said, so
    /// that it can be removed.
    pub(crate) fn without_claims(mut self) -> Self {
        match &mut self {
            Request::Sotw(request) if !request.version_info.is_empty() => {
                request.version_info = "unknown".into();
            }
            Request::Sotw(_) => {}
            Request::Delta(request) => {
                request.initial_resource_versions.values_mut().for_each(String::clear);
            }
        }
        self
    }

    /// Takes from the request what it says of these names, unless it is this version that it has, or nothing and
    /// that is right; that something may be held is then said, so that it can be removed.
    pub(crate) fn doubt<'a>(
        &mut self,
        resources: impl Iterator<Item = (&'a str, Option<&'a str>)>,
    ) {
        let Request::Delta(request) = self else { return };
        let held = &mut request.initial_resource_versions;
        for (name, version) in resources {
            if held.get(name).map(String::as_str) != version {
                held.insert(name.to_owned(), String::new());
            }
        }
    }

    /// Cuts the client's words to a length that is worth reading; Envoy's have 4,096 bytes at most (N-10).
    pub(crate) fn cut_error(&mut self) {
        let error = match self {
            Request::Sotw(request) => &mut request.error_detail,
            Request::Delta(request) => &mut request.error_detail,
        };
        if let Some(error) = error {
            let end = (0..=MOST_WORDS.min(error.message.len()))
                .rev()
                .find(|end| error.message.is_char_boundary(*end));
            error.message.truncate(end.unwrap_or(0));
        }
    }

    /// The length of its longest list of names.
    pub(crate) fn longest_list(&self) -> usize {
        match self {
            Request::Sotw(request) => {
                request.resource_names.len() + request.resource_locators.len()
            }
            Request::Delta(request) => {
                let held = request.initial_resource_versions.len();
                let locators = request.resource_locators_subscribe.len();
                let subscribed = request.resource_names_subscribe.len() + locators;
                let locators = request.resource_locators_unsubscribe.len();
                let given_up = request.resource_names_unsubscribe.len() + locators;
                subscribed.max(given_up).max(held)
            }
        }
    }

    /// All names in it, in whichever list.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        let (sotw, delta) = match self {
            Request::Sotw(request) => (Some(request), None),
            Request::Delta(request) => (None, Some(request)),
        };
        fn name(locator: &ResourceLocator) -> &String {
            &locator.name
        }
        let sotw = sotw.into_iter().flat_map(|request| {
            request.resource_names.iter().chain(request.resource_locators.iter().map(name))
        });
        let delta = delta.into_iter().flat_map(|request| {
            let held = request.initial_resource_versions.keys();
            let locators = request.resource_locators_subscribe.iter().map(name);
            request.resource_names_subscribe.iter().chain(locators).chain(held)
        });
        sotw.chain(delta).map(String::as_str)
    }

    /// Takes the encoded node out of it, if it has one.
    #[must_use]
    pub fn take_node(&mut self) -> Option<Bytes> {
        match self {
            Request::Sotw(request) => request.node.take(),
            Request::Delta(request) => request.node.take(),
        }
    }
}

impl From<SotwRequest> for Request {
    fn from(request: SotwRequest) -> Self {
        Request::Sotw(request)
    }
}

impl From<DeltaRequest> for Request {
    fn from(request: DeltaRequest) -> Self {
        Request::Delta(request)
    }
}
