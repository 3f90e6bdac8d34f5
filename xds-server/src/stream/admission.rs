//! Who the client of a stream is, and what it may have and sees.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use deltaplane_cache::Scope;
use deltaplane_core::Request;
use envoy_types::pb::envoy::config::core::v3::Node;
use prost::Message;
use tonic::Status;

use super::{XdsStream, too_late};
use crate::{authorizer::Admitted, body::Driver, client::ClientEvent};

impl XdsStream {
    /// Takes a request; the first one says who the client is, and waits until that is let in.
    pub(super) fn handle(
        &mut self,
        mut request: Request,
        driver: &Arc<Driver>,
    ) -> Result<(), Status> {
        self.rate.count()?;
        let node = request.take_node();
        if self.entry.is_none() {
            let node = read_node(node.unwrap_or_default())?;
            if let Some(admission) = &mut self.admission {
                admission.ask(&node);
                self.waiting = Some(Box::new((node, request)));
                return Ok(());
            }
            self.introduce(node, driver);
        }
        self.take(request)
    }

    /// Takes up what came of asking what the client may have, now and again; tells whether it was just let in.
    pub(super) fn admit(
        &mut self,
        cx: &mut Context<'_>,
        driver: &Arc<Driver>,
    ) -> Result<bool, Status> {
        let Some(admission) = &mut self.admission else { return Ok(false) };
        let now = self.opened.elapsed();
        if self.entry.is_some() {
            admission.ask_again(&self.client.node, now);
        }
        let Poll::Ready(answer) = admission.poll(cx, now) else { return Ok(false) };
        match answer {
            Admitted::Granted => {
                if let Some(waiting) = self.waiting.take() {
                    let (node, request) = *waiting;
                    self.introduce(node, driver);
                    self.take(request)?;
                    return Ok(true);
                }
                self.view_generation = None;
            }
            Admitted::Refused(status) => {
                if let Some(waiting) = self.waiting.take() {
                    Arc::make_mut(&mut self.client).node = waiting.0;
                    self.observe(&ClientEvent::Refused(&status));
                }
                return Err(status);
            }
            Admitted::Kept => {}
        }
        Ok(false)
    }

    /// What the client sees.
    fn scopes_of(&self, node: &Node) -> Arc<[Scope]> {
        let grant = self.admission.as_ref().and_then(|admission| admission.grant());
        self.shared.scopes_of(node, grant)
    }

    /// Learns who the client is, once (B-06, B-07).
    fn introduce(&mut self, node: Node, driver: &Arc<Driver>) {
        self.seat.introduce();
        self.connected_at = self.shared.cache.revision();
        self.view_generation = Some(self.shared.view_generation());
        let scopes = self.scopes_of(&node);
        let client = Arc::make_mut(&mut self.client);
        (client.node, client.scopes) = (node, scopes);
        self.watch.set_scopes(self.client.scopes.clone());
        let concern = self.watch.concern();
        self.entry = Some(self.shared.clients.enter(&self.client, concern, driver));
        self.doubts = self.shared.rejections.of(&self.client.node.id);
        self.machine.distrust(self.doubts.types.iter().cloned());
        self.machine.doubt(self.doubts.resources.clone());
        let node = &self.client.node;
        self.machine.set_resource_errors(self.shared.tells_errors(node));
        self.machine.set_ttl(self.shared.bears_ttl(node, self.client.variant));
        self.observe(&ClientEvent::Connected);
    }

    /// Asks again what the client should see, if more is known than when it was asked last, it may see other
    /// things, or a canary began or ended. The client moves once all that it would see is known, so that it
    /// is not shown less in between.
    pub(super) fn choose_view(&mut self) -> Result<(), Status> {
        let generation = Some(self.shared.view_generation());
        // Nor before it is known what it may see.
        let is_asking = self.admission.as_ref().is_some_and(|admission| admission.is_asking());
        if generation == self.view_generation || is_asking {
            return Ok(());
        }
        self.view_generation = generation;
        let scopes = self.scopes_of(&self.client.node);
        if scopes == self.client.scopes {
            return Ok(());
        }
        // Before it looks: what a canary leaves behind is forgotten when nobody sees it.
        if let Some(entry) = &self.entry {
            entry.passes(&scopes);
        }
        self.watch.set_scopes(scopes.clone());
        let old = self.shared.cache.view(&self.client.scopes);
        let new = old.through(&scopes);
        if !new.is_complete() {
            self.watch.set_scopes(self.client.scopes.clone());
            return Ok(());
        }
        self.machine.change_view(&old, &new).map_err(too_late)?;
        let from = std::mem::replace(&mut Arc::make_mut(&mut self.client).scopes, scopes);
        if let Some(pacing) = &mut self.pacing {
            pacing.show(new);
        }
        self.observe(&ClientEvent::Moved { from });
        // What it still waits for is looked for where it looks now.
        for key in std::mem::take(&mut self.searches).into_keys() {
            self.machine.end_search(&key, None);
            self.begin_searches(&key.type_url, &[key.name]);
        }
        self.end_searches();
        Ok(())
    }
}

/// Reads a node, but for its list of extensions.
fn read_node(node: Bytes) -> Result<Node, Status> {
    let mut node = Node::decode(node)
        .map_err(|error| Status::invalid_argument(format!("the node is malformed: {error}")))?;
    node.extensions = Vec::new();
    Ok(node)
}
