//! Who refers to whom, as a view sees it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{collections::BTreeSet, sync::Arc};

use deltaplane_cache::{Cache, CacheView, Scope, Transaction};
use deltaplane_core::{Key, Resource, TypeUrl, View};
use proptest::prelude::*;

const CDS: TypeUrl = TypeUrl::CLUSTER;
const EDS: TypeUrl = TypeUrl::ENDPOINT;
const RDS: TypeUrl = TypeUrl::ROUTE;

/// A resource that refers to these; another set of them is another content.
fn resource(type_url: TypeUrl, name: &str, to: &[Key]) -> Resource {
    let content = format!("{to:?}").into_bytes();
    Resource::raw(type_url, name, content).references(to.iter().cloned()).build()
}

fn scopes(names: &[&str]) -> Arc<[Scope]> {
    names.iter().map(|name| Scope::from(*name)).collect()
}

fn commit(cache: &Cache, fill: impl FnOnce(&mut Transaction)) {
    let mut transaction = Transaction::new();
    fill(&mut transaction);
    cache.commit(transaction).unwrap();
}

fn referrers(view: &CacheView, key: &Key) -> Vec<String> {
    let names: Vec<_> = view.referrers(key).map(|key| key.name.to_string()).collect();
    assert_eq!(view.is_referred_to(key), !names.is_empty());
    names
}

#[test]
fn referrers_follow_what_changes() {
    let cache = Cache::new();
    let (x, y) = (Key::new(EDS, "x"), Key::new(EDS, "y"));
    let of = |key: &Key| referrers(&cache.view(&scopes(&["s"])), key);
    commit(&cache, |t| {
        t.upsert("s", resource(CDS, "a", &[x.clone(), x.clone()]));
        t.upsert("s", resource(CDS, "b", &[x.clone(), y.clone()]));
    });
    assert_eq!((of(&x), of(&y)), (vec!["a".into(), "b".into()], vec!["b".into()]));
    assert_eq!(of(&Key::new(CDS, "x")), [""; 0], "another type is another key");
    commit(&cache, |t| {
        t.upsert("s", resource(CDS, "a", std::slice::from_ref(&y))).remove("s", CDS, "b");
    });
    assert_eq!((of(&x), of(&y)), (vec![], vec!["a".to_owned()]));
    commit(&cache, |t| {
        t.replace("s", CDS, []);
    });
    assert_eq!(of(&y), [""; 0]);
}

#[test]
fn who_is_masked_refers_to_nothing_until_it_is_uncovered() {
    let cache = Cache::new();
    let (x, y) = (Key::new(EDS, "x"), Key::new(EDS, "y"));
    let seen = scopes(&["above", "below"]);
    commit(&cache, |t| {
        t.upsert("below", resource(CDS, "a", std::slice::from_ref(&x)));
        t.upsert("above", resource(CDS, "a", std::slice::from_ref(&y)));
    });
    let view = cache.view(&seen);
    assert_eq!((referrers(&view, &x), referrers(&view, &y)), (vec![], vec!["a".to_owned()]));
    assert_eq!(referrers(&view.through(&scopes(&["below"])), &x), ["a"]);
    commit(&cache, |t| {
        t.remove("above", CDS, "a");
    });
    let view = cache.view(&seen);
    assert_eq!((referrers(&view, &x), referrers(&view, &y)), (vec!["a".to_owned()], vec![]));
}

const SCOPES: [&str; 3] = ["one", "two", "three"];
const NAMES: [&str; 3] = ["a", "b", "c"];

fn all_keys() -> Vec<Key> {
    let types = [CDS, EDS, RDS].into_iter();
    types.flat_map(|type_url| NAMES.map(|name| Key::new(type_url.clone(), name))).collect()
}

/// Every resource that is seen, asked.
fn asked(view: &CacheView, key: &Key) -> BTreeSet<Key> {
    let types = [CDS, EDS, RDS].into_iter();
    let all = types.flat_map(|type_url| view.resources(&type_url).collect::<Vec<_>>());
    all.filter(|resource| resource.references().contains(key))
        .map(|resource| Key::new(resource.type_url().clone(), resource.name().clone()))
        .collect()
}

proptest! {
    #[test]
    fn the_index_knows_what_asking_everybody_tells(
        operations in prop::collection::vec(
            (0..3usize, 0..9usize, prop::option::of(prop::collection::vec(0..9usize, 0..4)), any::<bool>()),
            1..20,
        ),
    ) {
        let (cache, keys) = (Cache::new(), all_keys());
        for (scope, at, to, replace) in operations {
            let Key { type_url, name, .. } = keys[at].clone();
            let scope = SCOPES[scope];
            let resource = to.map(|to| {
                let to: Vec<_> = to.into_iter().map(|at| keys[at].clone()).collect();
                resource(type_url.clone(), &name, &to)
            });
            commit(&cache, |t| {
                match resource {
                    resource if replace => t.replace(scope, type_url, resource),
                    Some(resource) => t.upsert(scope, resource),
                    None => t.remove(scope, type_url, name),
                };
            });
            for view in [&SCOPES[..], &SCOPES[1..], &["three", "one"]] {
                let view = cache.view(&scopes(view));
                let into: BTreeSet<_> = [CDS, EDS, RDS].iter().flat_map(|t| view.references_into(t)).collect();
                let expected = keys.iter().flat_map(|to| asked(&view, to).into_iter().map(|from| (from, to.clone())));
                prop_assert_eq!(into, expected.collect());
                for key in &keys {
                    let referrers: Vec<_> = view.referrers(key).collect();
                    let set: BTreeSet<_> = referrers.iter().cloned().collect();
                    prop_assert_eq!(set.len(), referrers.len(), "each once");
                    prop_assert_eq!(&set, &asked(&view, key));
                    prop_assert_eq!(view.is_referred_to(key), !set.is_empty());
                }
            }
        }
    }
}
