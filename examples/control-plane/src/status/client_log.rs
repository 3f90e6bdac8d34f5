//! A line in the log for what matters about a client.

use std::fmt::{self, Display};

use deltaplane_server::{Client, ClientEvent, Event, Observer, Scope};

use crate::fleets::scope;

/// Logs who comes, moves, rejects something, and goes.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct ClientLog;

/// A list of names, or what stands for none.
struct Names<'a, T>(&'a [T]);

impl<T: Display> Display for Names<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        for (i, name) in self.0.iter().enumerate() {
            write!(f, "{}{name}", if i == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl Observer for ClientLog {
    fn observe(&self, client: &Client, event: &ClientEvent<'_>) {
        match event {
            ClientEvent::Connected => connected(client),
            ClientEvent::Moved { from } => moved(client, from),
            ClientEvent::Told(Event::Rejected { type_url, names, error, .. }) => tracing::warn!(
                client = client.id,
                node = client.node.id,
                %type_url,
                names = %Names(names),
                error = error.message,
                "client rejected resources"
            ),
            ClientEvent::Disconnected(status) => tracing::info!(
                client = client.id,
                node = client.node.id,
                reason = status.map_or("closed by the client", |status| status.message()),
                "client disconnected"
            ),
            _ => {}
        }
    }
}

fn connected(client: &Client) {
    let node = &client.node;
    tracing::info!(
        client = client.id,
        node = node.id,
        cluster = node.cluster,
        variant = ?client.variant,
        peer = client.peer.address.map(tracing::field::display),
        scope = %scope::name(&client.scopes).unwrap_or("none"),
        "client connected"
    );
    if client.scopes.is_empty() {
        tracing::warn!(
            client = client.id,
            node = node.id,
            cluster = node.cluster,
            "nothing is known for this client, so it gets no answer: no service and no \
             transaction was ever stored for the scope that its cluster or id names; the \
             services of cluster_id N are for the scope \"cluster-N\""
        );
    }
}

fn moved(client: &Client, from: &[Scope]) {
    tracing::info!(
        client = client.id,
        node = client.node.id,
        from = %scope::name(from).unwrap_or("none"),
        to = %scope::name(&client.scopes).unwrap_or("none"),
        "client moved to another scope"
    );
}
