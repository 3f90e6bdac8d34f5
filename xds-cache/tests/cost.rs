//! What a change costs: counted, not timed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    cell::Cell,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use deltaplane_cache::{Cache, CacheView, Scope, Transaction};
use deltaplane_core::{
    Change, DeltaRequest, LogTruncated, Machine, Resource, Revision, TypeUrl, TypeVersion, Variant,
    View,
};
use prost::{
    DecodeError, Message, Name,
    bytes::{Buf, BufMut},
    encoding::{DecodeContext, WireType},
};

/// A message that counts how often it is encoded.
#[derive(Debug, Default)]
struct Counted {
    port: u32,
}

static ENCODED: AtomicUsize = AtomicUsize::new(0);

impl Name for Counted {
    const NAME: &'static str = "Counted";
    const PACKAGE: &'static str = "test";
}

impl Message for Counted {
    fn encode_raw(&self, buffer: &mut impl BufMut) {
        ENCODED.fetch_add(1, Ordering::Relaxed);
        prost::encoding::uint32::encode(1, &self.port, buffer);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buffer: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        prost::encoding::skip_field(wire_type, tag, buffer, context)
    }

    fn encoded_len(&self) -> usize {
        prost::encoding::uint32::encoded_len(1, &self.port)
    }

    fn clear(&mut self) {}
}

/// A view that counts what is read of it.
#[derive(Clone)]
struct Watched<'a> {
    view: CacheView,
    log_entries: &'a Cell<usize>,
    looked_up: &'a Cell<usize>,
    walked: &'a Cell<usize>,
}

fn count(cell: &Cell<usize>, n: usize) {
    cell.set(cell.get() + n);
}

impl View for Watched<'_> {
    fn revision(&self) -> Revision {
        self.view.revision()
    }

    fn is_known(&self, type_url: &TypeUrl) -> bool {
        self.view.is_known(type_url)
    }

    fn get(&self, type_url: &TypeUrl, name: &str) -> Option<Resource> {
        count(self.looked_up, 1);
        self.view.get(type_url, name)
    }

    fn resources(&self, type_url: &TypeUrl) -> impl Iterator<Item = Resource> {
        self.view.resources(type_url).inspect(|_| count(self.walked, 1))
    }

    fn version(&self, type_url: &TypeUrl) -> TypeVersion {
        self.view.version(type_url)
    }

    fn changes(&self, type_url: &TypeUrl, since: Revision) -> Result<Arc<[Change]>, LogTruncated> {
        let changes = self.view.changes(type_url, since)?;
        count(self.log_entries, changes.len());
        Ok(changes)
    }
}

#[test]
fn one_change_of_a_thousand_for_fifty_streams_costs_one_encode_and_one_entry_each() {
    let type_url = TypeUrl::of::<Counted>();
    let cache = Cache::new();
    let name = |i: u32| format!("service-{i}");
    let mut transaction = Transaction::new();
    for i in 0..1000 {
        transaction.upsert("default", Resource::of(name(i), &Counted { port: i }).build());
    }
    assert_eq!(cache.commit(transaction).unwrap().changes, 1000);

    let scopes: Arc<[Scope]> = Arc::from([Scope::from("default")]);
    let (log_entries, looked_up, walked) = (Cell::new(0), Cell::new(0), Cell::new(0));
    let view = || Watched {
        view: cache.view(&scopes),
        log_entries: &log_entries,
        looked_up: &looked_up,
        walked: &walked,
    };
    // Half subscribe to everything, half by name.
    let subscriptions = [vec!["*".to_owned()], (0..1000).map(name).collect()];
    let mut machines: Vec<_> = (0..50).map(|_| Machine::new(Variant::Delta)).collect();
    for (machine, names) in machines.iter_mut().zip(subscriptions.iter().cycle()) {
        let request = DeltaRequest {
            type_url: type_url.to_string(),
            resource_names_subscribe: names.clone(),
            ..DeltaRequest::default()
        };
        machine.handle_request(request.into()).unwrap();
        assert_eq!(machine.poll_response(&view()).unwrap().unwrap().resources, 1000);
        assert!(machine.poll_response(&view()).unwrap().is_none());
    }

    ENCODED.store(0, Ordering::Relaxed);
    for counter in [&log_entries, &looked_up, &walked] {
        counter.set(0);
    }
    let mut transaction = Transaction::new();
    transaction.upsert("default", Resource::of(name(7), &Counted { port: 9999 }).build());
    assert_eq!(cache.commit(transaction).unwrap().changes, 1);
    for machine in &mut machines {
        let response = machine.poll_response(&view()).unwrap().unwrap();
        assert_eq!((response.resources, response.removals), (1, 0));
        assert!(machine.poll_response(&view()).unwrap().is_none());
    }
    assert_eq!(ENCODED.load(Ordering::Relaxed), 1, "messages encoded");
    assert_eq!(log_entries.get(), 50, "log entries read");
    assert_eq!(looked_up.get(), 50, "resources looked up");
    assert_eq!(walked.get(), 0, "resources walked over");
}
