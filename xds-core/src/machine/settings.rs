//! What is set for a stream, by whoever opens it or learns who the client is.

use std::time::Duration;

use super::Machine;
use crate::{Key, Order, StreamLimits, TypeUrl, View, gates::bounded};

impl<V: View> Machine<V> {
    /// What the stream may ask for, from now on.
    pub fn set_limits(&mut self, limits: StreamLimits) {
        self.limits = limits;
    }

    /// In which order the client is told what changes, from now on.
    pub fn set_order(&mut self, order: Order) {
        self.order = order.bounded();
        self.stirred = true;
    }

    /// Whether the good siblings of what the client rejects are sent again without it, which they are
    /// unless this says otherwise. Envoy stops at the first bad one of an answer and may drop the others
    /// (N-06). What is bad is found by the client's words, or else by halving what it rejected, a bounded
    /// number of times. Of clusters, listeners and scoped routes it uses the good ones anyway.
    pub fn set_isolation(&mut self, isolates: bool) {
        self.isolates = isolates;
        self.types.iter_mut().for_each(|stream| stream.isolates = isolates);
    }

    /// How long a client waits that comes back with something newer than there is here, as after it left a
    /// replica that is ahead of this one; not at all, unless this says so.
    ///
    /// In State of the World the version of its set tells, where the source
    /// [counts](crate::TypeVersion::revision): then nothing of that type is answered until this replica has
    /// caught up. In delta nothing tells; there, clusters and listeners that this replica never heard of are
    /// not removed before that time is over, nor sent when they come as the client has them.
    pub fn set_catch_up(&mut self, patience: Duration) {
        self.catch_up = bounded(patience);
    }

    /// From now on, what first requests of these types say about what the client runs is not believed:
    /// after a NACK it runs the good part of what it rejected, and reports the older version.
    pub fn distrust(&mut self, types: impl IntoIterator<Item = TypeUrl>) {
        self.distrusted.extend(types);
    }

    /// From now on, it counts as unknown what the client runs of these names, unless first requests say that it is
    /// this version: it may have taken that from a response, and rejected the response
    /// ([`doubtful_resources`](Machine::doubtful_resources), R-13).
    pub fn doubt(&mut self, resources: impl IntoIterator<Item = (Key, Option<String>)>) {
        self.doubted.extend(resources);
    }

    /// Whether the client reads `resource_errors`, by which it is then told what there is nothing of
    /// (E-01). Envoy does not, and gRPC's clients only if they are told to; to others it is as if there were
    /// none, but that a State of the World client is then answered also when there is nothing of what it
    /// asked for (E-08), which for clusters and listeners it takes for their end.
    pub fn set_resource_errors(&mut self, tells: bool) {
        self.tells_errors = tells;
        self.types.iter_mut().for_each(|stream| stream.tells_errors = tells);
    }

    /// Whether the client is told how long things are good that are so for some time only, and in time that
    /// they still are. A client that does not know of it would drop what it should keep (T-01).
    pub fn set_ttl(&mut self, bears: bool) {
        self.bears_ttl = bears;
        self.types
            .iter_mut()
            .for_each(|stream| stream.bears_ttl = bears && stream.policy.bears_ttl);
    }
}
