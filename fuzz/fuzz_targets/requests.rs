//! Bytes into the decoders, and what decodes into a machine over a small cache: no panic, no limit
//! exceeded, no nonce twice, and an end to what the machine has to say.
#![no_main]

use std::{collections::BTreeSet, sync::Arc};

use bytes::BytesMut;
use deltaplane_cache::{Cache, Scope, Transaction};
use deltaplane_core::*;
use libfuzzer_sys::fuzz_target;
use prost::Message;

const TYPES: [TypeUrl; 4] =
    [TypeUrl::CLUSTER, TypeUrl::ENDPOINT, TypeUrl::ROUTE, TypeUrl::VIRTUAL_HOST];

/// More than this in a row is endless: each type adds, follows, adds again and removes.
const MOST_RESPONSES: usize = 4 * TYPES.len();

fn decode(variant: Variant, bytes: &[u8]) -> Option<Request> {
    let known = |type_url: &mut String| match type_url.as_bytes() {
        // Fuzzers do not find long strings.
        [byte] => *type_url = TYPES[usize::from(*byte) % TYPES.len()].to_string(),
        _ => {}
    };
    if variant == Variant::Sotw {
        let mut request = SotwRequest::decode(bytes).ok()?;
        known(&mut request.type_url);
        Some(request.into())
    } else {
        let mut request = DeltaRequest::decode(bytes).ok()?;
        known(&mut request.type_url);
        Some(request.into())
    }
}

fn commit(cache: &Cache, what: u8, content: u8) {
    let at = |divisor, len| usize::from(what) / divisor % len;
    let (type_url, name, scope) =
        (&TYPES[at(1, 4)], ["a", "b", "c"][at(4, 3)], ["s", "t"][at(12, 2)]);
    let mut transaction = Transaction::new();
    if what < 128 {
        // A version and an alias that a client can guess.
        let resource = Resource::raw(type_url.clone(), name, vec![content])
            .version((content as char).to_string())
            .aliases([["d", "e"][usize::from(content % 2)]])
            .references(["a", name].map(|name| Key::new(TypeUrl::ENDPOINT, name)));
        transaction.upsert(scope, resource.build());
    } else {
        transaction.remove(scope, type_url.clone(), name);
    }
    cache.commit(transaction).expect("it contradicts nothing");
}

/// Hears all that the machine has to say.
fn hear<V: View>(machine: &mut Machine<V>, view: &V, nonces: &mut BTreeSet<String>) {
    for count in 0.. {
        let Some(said) = machine.poll_response(view).expect("the log is short") else { break };
        assert!(count < MOST_RESPONSES, "endless: {said:?}");
        let mut wire = BytesMut::new();
        said.encode_head(&mut wire);
        wire.extend_from_slice(&said.body);
        assert_eq!(wire.len(), said.encoded_len());
        let (nonce, resources, removals) = if machine.variant() == Variant::Sotw {
            let read = SotwResponse::decode(wire.freeze()).expect("well-formed");
            (read.nonce, read.resources.len(), 0)
        } else {
            let read = DeltaResponse::decode(wire.freeze()).expect("well-formed");
            (read.nonce, read.resources.len(), read.removed_resources.len())
        };
        assert_eq!((resources, removals), (said.resources, said.removals));
        assert!(machine.subscriptions().any(|(type_url, _)| *type_url == said.type_url), "B-14");
        assert!(nonces.insert(nonce), "S-17, D-02: {said:?}");
    }
}

fn converse(mut input: &[u8]) -> Option<()> {
    let variant = if input.split_off_first()? % 2 == 0 { Variant::Sotw } else { Variant::Delta };
    let cache = Cache::new();
    (0..24).for_each(|what| commit(&cache, what, b'0' + what / 12));
    let [mut scopes, mut others] = [["s", "t"], ["t", "x"]].map(|s| s.map(Scope::from).into());
    let mut machine = Machine::new(variant);
    let mut limits = StreamLimits::default();
    (limits.names, limits.name_length, limits.types) = (4, 8, 3);
    machine.set_limits(limits);
    let mut nonces = BTreeSet::new();
    loop {
        match *input.split_off_first()? {
            0 => commit(&cache, *input.split_off_first()?, *input.split_off_first()?),
            1 => {
                std::mem::swap::<Arc<[Scope]>>(&mut scopes, &mut others);
                let new = cache.view(&scopes);
                machine.change_view(&new.through(&others), &new).expect("the log is short");
            }
            2 => machine.demand_answers(),
            3 => machine.distrust(TYPES),
            len => {
                let bytes = input.split_off(..usize::from(len - 3).min(input.len()))?;
                machine.handle_request(decode(variant, bytes)?).ok()?;
            }
        }
        assert!(machine.subscriptions().count() <= limits.types);
        assert!(machine.subscriptions().all(|(_, names)| names.names().len() <= limits.names));
        hear(&mut machine, &cache.view(&scopes), &mut nonces);
        while machine.poll_event().is_some() {}
    }
}

fuzz_target!(|input: &[u8]| {
    converse(input);
});
