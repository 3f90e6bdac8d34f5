//! Which certificate may be which node: what a client shows against what it says of itself.

use std::time::Duration;

use deltaplane_server::envoy_types::pb::envoy::config::core::v3::Node;
use deltaplane_server::{Authorizer, Cache, Caller, Certificate, Grant, Scope};
use tonic::Status;

use crate::access::Pass;
use crate::fleets::scope;
use crate::fleets::{Directory, is_like};

/// How often it is asked again whether a client may stay.
const AGAIN: Duration = Duration::from_secs(60);

/// In a pattern, the name of the fleet.
pub(crate) const FLEET: &str = "{fleet}";

/// In a pattern, the id of the node.
const NODE: &str = "{node}";

/// Who may be whom.
#[derive(Clone, Debug)]
pub(crate) struct Identities {
    pub(crate) fleets: Directory,
    pub(crate) cache: Cache,
    /// The scope of clients that name none that is known.
    pub(crate) fallback: Option<String>,
    /// What a certificate has to name for fleets that do not say it themselves.
    pub(crate) usual: Option<String>,
    /// What callers of the HTTP API show, who were looked at there.
    pub(crate) pass: Pass,
}

impl Identities {
    /// Lets those in whose certificate may be the node that they say they are.
    pub(crate) fn authorizer(self) -> Authorizer {
        let decide = move |caller| {
            let identities = self.clone();
            async move { identities.decide(&caller) }
        };
        Authorizer::new(decide).again_every(AGAIN)
    }

    fn decide(&self, caller: &Caller) -> Result<Grant, Status> {
        if caller.token.as_ref().is_some_and(|token| self.pass.is(token.reveal())) {
            return Ok(Grant::usual().and_client_status());
        }
        let Some(certificate) = &caller.peer.certificate else {
            return Err(Status::unauthenticated("show a certificate of the client CA"));
        };
        let (names, node) = (names(certificate), &caller.node);
        let scopes = self.seen(node, &self.cache);
        if let Some(fleet) = self.refuses(&scopes, node, &names) {
            let id = &node.id;
            let why = format!(
                "a certificate for {names:?} may not be the node {id:?} of the fleet {fleet:?}: \
                 the fleet's identity, or --client-identity, has to fit one of these names"
            );
            tracing::info!(peer = ?caller.peer.address, why, "a client is refused");
            return Err(Status::permission_denied(why));
        }
        // What it sees may be another fleet's by the time when more is known.
        let identities = self.clone();
        Ok(Grant::view(move |node, cache| {
            let scopes = identities.seen(node, cache);
            let refused = identities.refuses(&scopes, node, &names).is_some();
            if refused { Vec::new() } else { scopes }
        }))
    }

    fn seen(&self, node: &Node, cache: &Cache) -> Vec<Scope> {
        scope::choose(node, self.fallback.as_deref(), &self.fleets, cache)
    }

    /// The fleet of these scopes, if none of these names may be the node in it.
    fn refuses(&self, scopes: &[Scope], node: &Node, names: &[String]) -> Option<String> {
        let first = scopes.first()?;
        // Of layers that nobody has a name for, nobody knows who may see them.
        let Some(scope) = scope::name(scopes) else { return Some(first.to_string()) };
        let (fleet, patterns) = self.fleets.identity(scope);
        let patterns =
            if patterns.is_empty() { self.usual.iter().cloned().collect() } else { patterns };
        let fits = |pattern: &String| {
            let pattern = filled(pattern, &fleet, &node.id);
            pattern.is_some_and(|pattern| names.iter().any(|name| is_like(name, &pattern)))
        };
        (!patterns.iter().any(fits)).then_some(fleet)
    }
}

/// The names that a certificate is for.
fn names(certificate: &Certificate) -> Vec<String> {
    certificate.uris.iter().chain(&certificate.dns_names).cloned().collect()
}

/// A pattern with the names in their places; nothing, if one of them would be taken for more than itself.
fn filled(pattern: &str, fleet: &str, node: &str) -> Option<String> {
    let is_plain = |name: &str| !name.is_empty() && !name.contains(['*', '/', '{']);
    let is_filled = |place: &str, name: &str| !pattern.contains(place) || is_plain(name);
    let is_whole = is_filled(FLEET, fleet) && is_filled(NODE, node);
    is_whole.then(|| pattern.replace(FLEET, fleet).replace(NODE, node))
}
