//! What a writer and a reader may rely on.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    collections::BTreeMap,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
};

use deltaplane_cache::{Cache, CacheView, CommitError, Scope, Transaction, Watch};
use deltaplane_core::{Change, Resource, Revision, Subscription, TypeUrl, View};
use proptest::prelude::*;

const CDS: TypeUrl = TypeUrl::CLUSTER;
const EDS: TypeUrl = TypeUrl::ENDPOINT;

fn resource(type_url: TypeUrl, name: &str, content: u32) -> Resource {
    Resource::raw(type_url, name, content.to_be_bytes().to_vec()).build()
}

fn scopes(names: &[&str]) -> Arc<[Scope]> {
    names.iter().map(|name| Scope::from(*name)).collect()
}

fn content(view: &CacheView, type_url: &TypeUrl) -> Vec<(String, u32)> {
    let number = |r: &Resource| u32::from_be_bytes(r.value().as_ref().try_into().unwrap());
    view.resources(type_url).map(|r| (r.name().to_string(), number(&r))).collect()
}

fn is_raised(watch: &Watch) -> bool {
    watch.poll_raised(&mut Context::from_waker(Waker::noop())) == Poll::Ready(())
}

#[test]
fn a_transaction_is_seen_whole_and_makes_one_revision() {
    let cache = Cache::new();
    let before = cache.view(&scopes(&["s"]));
    let mut transaction = Transaction::new();
    transaction.upsert("s", resource(CDS, "a", 1)).upsert("s", resource(EDS, "a", 1));
    transaction.upsert("t", resource(CDS, "b", 1));
    let commit = cache.commit(transaction).unwrap();
    assert_eq!((commit.revision, commit.changes), (Revision(1), 3));
    assert_eq!(content(&before, &CDS), []);
    assert!(!before.is_known(&CDS));
    let after = cache.view(&scopes(&["s", "t"]));
    assert_eq!(content(&after, &CDS), [("a".into(), 1), ("b".into(), 1)]);
    assert_eq!(content(&after, &EDS), [("a".into(), 1)]);
}

#[test]
fn what_changes_nothing_makes_no_revision_and_wakes_nobody() {
    let cache = Cache::new();
    let mut transaction = Transaction::new();
    transaction.upsert("s", resource(CDS, "a", 1));
    let first = cache.commit(transaction.clone()).unwrap();
    let mut watch = cache.watch();
    watch.set_scopes(scopes(&["s"]));
    watch.set_wildcard(&CDS, true);
    transaction.remove("s", CDS, "missing").remove("unheard-of", EDS, "missing");
    let again = cache.commit(transaction).unwrap();
    assert_eq!((again.revision, again.changes), (first.revision, 0));
    let mut transaction = Transaction::new();
    transaction.replace("s", CDS, [resource(CDS, "a", 1)]);
    assert_eq!(cache.commit(transaction).unwrap().changes, 0);
    assert!(!is_raised(&watch));
    assert!(!cache.is_known(&"unheard-of".into()));
}

#[test]
fn replacing_makes_exactly_the_difference() {
    let cache = Cache::new();
    let mut transaction = Transaction::new();
    transaction.replace("s", CDS, ["a", "b", "c"].map(|name| resource(CDS, name, 1)));
    transaction.replace("s", EDS, [resource(EDS, "a", 1)]);
    let first = cache.commit(transaction).unwrap();
    let mut transaction = Transaction::new();
    transaction.replace("s", CDS, [("a", 1), ("b", 2), ("d", 1)].map(|(n, c)| resource(CDS, n, c)));
    transaction.replace("s", EDS, [resource(EDS, "a", 1)]);
    let second = cache.commit(transaction).unwrap();
    assert_eq!(second.changes, 3);
    let view = cache.view(&scopes(&["s"]));
    let mut names: Vec<_> = view
        .changes(&CDS, first.revision)
        .unwrap()
        .iter()
        .map(|change| change.name.to_string())
        .collect();
    names.sort();
    assert_eq!(names, ["b", "c", "d"]);
    assert!(view.changes(&EDS, first.revision).unwrap().is_empty());
}

#[test]
fn only_those_are_woken_whom_it_concerns() {
    let cache = Cache::new();
    let commit = |scope: &str, type_url: TypeUrl, content| {
        let mut transaction = Transaction::new();
        transaction.upsert(scope, resource(type_url, "a", content));
        cache.commit(transaction).unwrap();
    };
    let watch = |scope: &str, type_url| {
        let mut watch = cache.watch();
        watch.set_scopes(scopes(&[scope]));
        watch.set_wildcard(&type_url, true);
        watch
    };
    commit("s", CDS, 1);
    commit("s", EDS, 1);
    commit("t", CDS, 1);
    let (cds, eds, other) = (watch("s", CDS), watch("s", EDS), watch("t", CDS));
    commit("s", CDS, 2);
    commit("s", CDS, 3);
    assert!(is_raised(&cds) && !is_raised(&cds), "two changes are one call");
    assert!(!is_raised(&eds) && !is_raised(&other));
    // What becomes known may concern everybody: views are chosen anew.
    commit("new", CDS, 1);
    assert!(is_raised(&cds) && is_raised(&eds) && is_raised(&other));
    let mut moved = other;
    moved.set_scopes(scopes(&["s"]));
    commit("t", CDS, 2);
    assert!(!is_raised(&moved));
    commit("s", CDS, 4);
    assert!(is_raised(&moved));
}

#[test]
fn unknown_is_not_empty() {
    let cache = Cache::new();
    let view = || cache.view(&scopes(&["s", "t"]));
    assert!(!view().is_known(&CDS) && !view().is_complete());
    let mut transaction = Transaction::new();
    transaction.declare("s", CDS).replace("t", EDS, []);
    cache.commit(transaction).unwrap();
    assert!(!view().is_known(&CDS), "declared and not filled");
    assert!(view().is_known(&EDS), "filled with nothing");
    assert!(view().is_known(&TypeUrl::LISTENER), "never spoken of, in a known scope");
    let mut transaction = Transaction::new();
    transaction.upsert("s", resource(CDS, "a", 1));
    cache.commit(transaction).unwrap();
    assert!(!view().is_known(&CDS), "a part is not the whole");
    let mut transaction = Transaction::new();
    transaction.replace("s", CDS, [resource(CDS, "a", 1)]);
    let revision = cache.revision();
    assert!(cache.commit(transaction).unwrap().revision > revision);
    assert!(view().is_known(&CDS) && view().is_complete());
}

#[test]
fn scopes_are_as_large_as_what_is_in_them() {
    let cache = Cache::new();
    assert_eq!(cache.sizes(), []);
    let mut transaction = Transaction::new();
    transaction.upsert("s", resource(CDS, "a", 1)).upsert("s", resource(CDS, "b", 1));
    transaction.hide("s", CDS, "c").replace("t", EDS, []);
    cache.commit(transaction).unwrap();
    let mut transaction = Transaction::new();
    transaction.remove("s", CDS, "a");
    cache.commit(transaction).unwrap();
    let mut sizes = cache.sizes();
    sizes.sort();
    assert_eq!(sizes, [("s".into(), CDS, 1), ("t".into(), EDS, 0)], "what is hidden is not there");
}

#[test]
fn a_transaction_that_contradicts_itself_is_refused_whole() {
    let cache = Cache::new();
    let refused = |transaction: &Transaction| cache.commit(transaction.clone()).unwrap_err();
    let mut transaction = Transaction::new();
    transaction.replace("s", CDS, [resource(CDS, "a", 1), resource(CDS, "a", 2)]);
    assert!(matches!(refused(&transaction), CommitError::Duplicate { .. }));
    let mut transaction = Transaction::new();
    transaction.upsert("s", resource(CDS, "a", 1)).replace("s", CDS, [resource(EDS, "a", 1)]);
    assert!(matches!(refused(&transaction), CommitError::WrongType { .. }));
    let mut transaction = Transaction::new();
    transaction.upsert("s", resource(CDS, "*", 1));
    assert!(matches!(refused(&transaction), CommitError::InvalidName { .. }));
    assert_eq!(cache.revision(), Revision(0));
}

#[test]
fn r03_a_version_of_the_callers_denotes_one_content() {
    let cache = Cache::new();
    let versioned = |content: u8, version: &str| {
        let mut transaction = Transaction::new();
        let resource = Resource::raw(CDS, "a", vec![content]).version(version).build();
        transaction.upsert("s", resource).label("spring");
        cache.commit(transaction)
    };
    assert_eq!(versioned(1, "v1").unwrap().changes, 1);
    assert_eq!(versioned(1, "v1").unwrap().changes, 0);
    assert!(matches!(versioned(2, "v1"), Err(CommitError::VersionReused { .. })));
    assert_eq!(versioned(2, "v2").unwrap().changes, 1);
    assert!(
        matches!(versioned(3, "v1"), Err(CommitError::VersionReused { .. })),
        "it was another's"
    );
    let view = cache.view(&scopes(&["s"]));
    assert_eq!(view.get(&CDS, "a").unwrap().version(), "v2");
    assert!(view.version(&CDS).to_string().ends_with("+spring"));
    let mut transaction = Transaction::new();
    cache.commit(transaction.remove("s", CDS, "a").clone()).unwrap();
    assert!(
        matches!(versioned(3, "v2"), Err(CommitError::VersionReused { .. })),
        "who is gone had it"
    );
    let again = |content: u8| Resource::raw(CDS, "a", vec![content]).version("v1").build();
    assert!(cache.reuses_version(&"s".into(), &again(3)));
    assert!(!cache.reuses_version(&"s".into(), &again(1)), "its own content may come back to it");
    assert!(!cache.reuses_version(&"t".into(), &again(3)), "another scope's versions are others");
    assert_eq!(versioned(1, "v1").unwrap().changes, 1);
}

#[test]
fn r03_versions_of_the_callers_are_forgotten_with_the_log() {
    let cache = Cache::new();
    let put = |name: &str, content: u8, version: &str| {
        let mut transaction = Transaction::new();
        transaction.upsert("s", Resource::raw(CDS, name, vec![content]).version(version).build());
        cache.commit(transaction).unwrap();
    };
    let reuses = |version: &str| {
        let resource = Resource::raw(CDS, "a", vec![9]).version(version).build();
        cache.reuses_version(&"s".into(), &resource)
    };
    put("a", 1, "v1");
    put("a", 2, "v2");
    put("a", 1, "v1");
    put("a", 3, "v3");
    assert!(reuses("v1") && reuses("v2") && reuses("v3"));
    let mut large = Transaction::new();
    for i in 0..65_535 {
        large.upsert("s", Resource::raw(CDS, format!("n{i}"), vec![]).build());
    }
    cache.commit(large).unwrap();
    for content in 0..61 {
        put("b", content, &format!("{content}"));
    }
    assert!(
        !reuses("v0") && reuses("v1") && reuses("v2"),
        "replaced by the last commits that are kept"
    );
    put("b", 61, "61");
    assert!(reuses("v1") && !reuses("v2"), "v1 was replaced again, later");
    put("b", 62, "62");
    assert!(!reuses("v1") && reuses("v3"));
}

#[test]
fn a_cache_tells_its_revision_and_what_it_knows() {
    let cache = Cache::new();
    let commit = |fill: &dyn Fn(&mut Transaction) -> &mut Transaction| {
        let mut transaction = Transaction::new();
        fill(&mut transaction);
        let commit = cache.commit(transaction).unwrap();
        assert_eq!(cache.revision(), commit.revision);
        (commit.revision.0, cache.known_layers())
    };
    assert!(!cache.is_known(&"s".into()));
    assert_eq!(commit(&|t| t.declare("s", CDS)), (1, 0));
    assert!(cache.is_known(&"s".into()) && !cache.is_known(&"t".into()));
    assert_eq!(commit(&|t| t.declare("s", CDS)), (1, 0), "it is declared already");
    assert_eq!(commit(&|t| t.upsert("s", resource(CDS, "a", 1))), (2, 0), "a part");
    assert_eq!(commit(&|t| t.replace("s", CDS, [resource(CDS, "a", 1)])), (3, 1));
    assert_eq!(commit(&|t| t.replace("s", CDS, [resource(CDS, "a", 2)])), (4, 1));
    assert_eq!(commit(&|t| t.upsert("s", resource(EDS, "a", 1))), (5, 2));
    assert_eq!(commit(&|t| t.declare("s", EDS)), (5, 2), "what is filled stays so");
    assert_eq!(commit(&|t| t.upsert("t", resource(CDS, "a", 1))), (6, 3));
    assert_eq!(commit(&|t| t.remove("t", CDS, "a")), (7, 3), "and empty is known");
    assert!(cache.view(&scopes(&["t"])).is_known(&CDS));
    let scope = Scope::from("s");
    assert_eq!((scope.as_str(), scope.to_string()), ("s", "s".into()));
}

#[test]
fn r04_the_revision_of_the_source_is_in_front_of_what_it_changed() {
    let cache = Cache::new();
    let view = || cache.view(&scopes(&["s"]));
    let mut transaction = Transaction::new();
    transaction.source_revision(7).upsert("s", resource(CDS, "a", 1));
    transaction.upsert("s", resource(EDS, "a", 1));
    cache.commit(transaction).unwrap();
    let mut transaction = Transaction::new();
    transaction.source_revision(8).label("x").upsert("s", resource(EDS, "a", 2));
    cache.commit(transaction).unwrap();
    assert_eq!(view().version(&CDS).revision, Some(7));
    assert_eq!(view().version(&EDS).revision, Some(8));
    let mut transaction = Transaction::new();
    transaction.upsert("s", resource(EDS, "a", 3));
    cache.commit(transaction).unwrap();
    let version = view().version(&EDS);
    assert_eq!((version.revision, version.label), (Some(8), None), "a writer who does not count");
}

#[test]
fn r04_a_scope_may_be_as_new_as_its_source_though_nothing_in_it_changes() {
    let cache = Cache::new();
    let up_to_date = |revision: u64| {
        let mut transaction = Transaction::new();
        transaction.source_revision(revision).up_to_date("s").up_to_date("strange").clone()
    };
    let newest = |type_url: TypeUrl| cache.view(&scopes(&["over", "s"])).source_revision(&type_url);
    cache.commit(up_to_date(6)).unwrap();
    assert_eq!((newest(CDS), cache.is_known(&"strange".into())), (None, false));
    let mut transaction = Transaction::new();
    transaction.source_revision(7).upsert("s", resource(CDS, "a", 1));
    cache.commit(transaction).unwrap();
    assert_eq!((newest(CDS), newest(EDS)), (Some(7), None));
    let before = cache.revision();
    assert_eq!(cache.commit(up_to_date(8)).unwrap().revision, before);
    assert_eq!((newest(CDS), newest(EDS)), (Some(8), Some(8)));
    assert_eq!(cache.view(&scopes(&["s"])).version(&CDS).revision, Some(7), "as it was told");
    cache.commit(up_to_date(5)).unwrap();
    assert_eq!(newest(CDS), Some(8));
    // Also with something that changes.
    cache.commit(up_to_date(9).upsert("over", resource(CDS, "a", 2)).clone()).unwrap();
    assert_eq!((newest(CDS), newest(EDS)), (Some(9), Some(9)));
    cache.forget(&"s".into());
    assert_eq!((newest(CDS), newest(EDS)), (Some(9), None));
}

#[test]
fn d17_an_alias_belongs_to_who_had_it_last() {
    let cache = Cache::new();
    let put = |scope: &str, name: &str, content: u32, aliases: &[&str]| {
        let resource = Resource::raw(CDS, name, content.to_be_bytes().to_vec());
        let mut transaction = Transaction::new();
        transaction.upsert(scope, resource.aliases(aliases.iter().copied()).build());
        cache.commit(transaction).unwrap();
    };
    let view = || cache.view(&scopes(&["upper", "lower"]));
    let owner = |alias: &str| view().resolve(&CDS, alias).map(|r| r.name().to_string());
    put("lower", "a", 1, &["x", "y", "b"]);
    assert_eq!((owner("x"), owner("y")), (Some("a".into()), Some("a".into())));
    put("lower", "a", 2, &["x"]);
    assert_eq!((owner("x"), owner("y")), (Some("a".into()), None), "y was given up");
    put("lower", "b", 1, &["x"]);
    put("lower", "a", 3, &[]);
    assert_eq!(owner("x"), Some("b".into()), "it went to another before");
    assert_eq!(owner("b"), Some("b".into()), "a name goes before an alias");
    put("upper", "b", 2, &[]);
    assert_eq!(owner("x"), None, "who has it is not seen");
    put("upper", "c", 1, &["x"]);
    assert_eq!(owner("x"), Some("c".into()));
}

#[test]
fn the_log_forgets_the_oldest_beyond_its_limit_but_keeps_64_commits() {
    let cache = Cache::new();
    let names: Vec<_> = (0..1100).map(|i| i.to_string()).collect();
    let commit = |names: &[String], content| {
        let mut transaction = Transaction::new();
        for name in names {
            transaction.upsert("s", resource(CDS, name, content));
        }
        cache.commit(transaction).unwrap();
    };
    let oldest = || {
        let view = cache.view(&scopes(&["s"]));
        (0..=view.revision().0).find(|since| view.changes(&CDS, Revision(*since)).is_ok()).unwrap()
    };
    // Many small commits are kept.
    (0..100).for_each(|content| commit(&names[..1], content));
    assert_eq!(oldest(), 0);
    // And so are 64 that exceed the limit together, but no more.
    (100..164).for_each(|content| commit(&names, content));
    assert_eq!(oldest(), 100);
    commit(&names, 164);
    assert_eq!(oldest(), 101);
    commit(&names, 165);
    assert_eq!(oldest(), 102);
    // Small ones then displace the large ones, until the limit is met: 59 * 1100 + 7 < 65,536.
    (166..173).for_each(|content| commit(&names[..1], content));
    assert_eq!(oldest(), 107);
    commit(&names[..1], 173);
    assert_eq!(oldest(), 107);
}

#[test]
fn the_log_forgets_what_keeps_more_than_128_mib_of_replaced_content() {
    let cache = Cache::new();
    let large: Vec<_> = (0..8)
        .map(|i| Resource::raw(CDS, format!("large{i}"), vec![0; 16 << 20]).build())
        .collect();
    let small = |content| -> Vec<_> {
        let names = large.iter().map(|large| large.name().clone());
        names.map(|name| Resource::raw(CDS, name, vec![content]).build()).collect()
    };
    let tiny = |content| vec![Resource::raw(CDS, "tiny", vec![content]).build()];
    let commit = |scope: &str, resources: Vec<Resource>| {
        let mut transaction = Transaction::new();
        for resource in resources {
            transaction.upsert(scope, resource);
        }
        let revision = cache.commit(transaction).unwrap().revision;
        let view = cache.view(&scopes(&[scope]));
        let is_kept = |since: &u64| view.changes(&CDS, Revision(*since)).is_ok();
        (0..=revision.0).find(is_kept).unwrap()
    };
    assert_eq!(commit("s", [large.clone(), tiny(0)].concat()), 0);
    assert_eq!(commit("s", small(0)), 0, "exactly as much");
    assert_eq!(commit("s", tiny(1)), 2, "a byte more");
    assert_eq!(commit("s", tiny(2)), 2);
    assert_eq!(commit("t", [large.clone(), tiny(0)].concat()), 0);
    assert_eq!(commit("t", [small(0), tiny(1)].concat()), 5, "a single commit is kept");
}

#[test]
fn what_one_commit_changed_is_shared_by_all_who_ask() {
    let cache = Cache::new();
    for content in 0..3 {
        let mut transaction = Transaction::new();
        transaction.upsert("s", resource(CDS, "a", content));
        cache.commit(transaction).unwrap();
    }
    let changes = |since| cache.view(&scopes(&["s"])).changes(&CDS, Revision(since)).unwrap();
    assert!(Arc::ptr_eq(&changes(2), &changes(2)));
    assert_eq!(changes(2).len(), 1);
    assert_eq!(changes(2)[0].before, Some(resource(CDS, "a", 1)));
    assert_eq!(changes(1)[0].before, Some(resource(CDS, "a", 0)));
    assert_eq!(changes(3).len(), 0);
}

#[test]
fn what_hid_something_before_does_not_keep_what_changed_since_from_being_shared() {
    let cache = Cache::new();
    let mut hides = Transaction::new();
    hides.hide("s", CDS, "a");
    let mut shows = Transaction::new();
    shows.remove("s", CDS, "a");
    let mut changes = Transaction::new();
    changes.upsert("s", resource(CDS, "b", 1));
    let [_, since, _] = [hides, shows, changes].map(|t| cache.commit(t).unwrap().revision);
    let changes = || cache.view(&scopes(&["s"])).changes(&CDS, since).unwrap();
    assert!(Arc::ptr_eq(&changes(), &changes()));
}

#[test]
fn r14_a_set_in_the_middle_of_a_swap_is_recognised() {
    let cache = Cache::new();
    let (old, new) = (resource(CDS, "old", 1), resource(CDS, "new", 1));
    let mut transaction = Transaction::new();
    cache.commit(transaction.upsert("s", old.clone()).clone()).unwrap();
    let mut swap = Transaction::new();
    cache.commit(swap.upsert("s", new).remove("s", CDS, "old").clone()).unwrap();
    let view = cache.view(&scopes(&["s"]));
    let mut both = view.version(&CDS);
    both.add(&old);
    let changes = view.changes_from(&CDS, &both).unwrap();
    assert_eq!(*changes, [Change::new("old".into(), Some(old), None)]);
}

#[test]
fn a_transaction_that_is_emptied_still_comes_from_where_it_did() {
    let cache = Cache::new();
    let mut transaction = Transaction::new();
    transaction.source_revision(7).label("x").upsert("s", resource(CDS, "a", 1));
    let mut emptied = transaction.emptied();
    emptied.upsert("s", resource(CDS, "b", 1));
    cache.commit(emptied).unwrap();
    let view = cache.view(&scopes(&["s"]));
    let version = view.version(&CDS);
    assert_eq!((version.revision, version.label.as_deref()), (Some(7), Some("x")));
    assert_eq!(content(&view, &CDS), [("b".into(), 1)]);
}

#[test]
fn a_watch_is_raised_once_and_for_what_it_looks_at() {
    let cache = Cache::new();
    let commit = |content| {
        let mut transaction = Transaction::new();
        transaction.upsert("s", resource(CDS, "a", content));
        cache.commit(transaction).unwrap();
    };
    commit(0);
    let mut watch = cache.watch();
    watch.set_wildcard(&CDS, true);
    watch.set_scopes(scopes(&["s"]));
    {
        let mut cx = Context::from_waker(Waker::noop());
        let mut raised = pin!(watch.raised());
        assert_eq!(raised.as_mut().poll(&mut cx), Poll::Pending);
        commit(1);
        assert_eq!(raised.as_mut().poll(&mut cx), Poll::Ready(()));
    }
    assert!(!is_raised(&watch));
    cache.wake_all();
    assert!(is_raised(&watch));
    watch.set_scopes(scopes(&["t"]));
    commit(2);
    assert!(!is_raised(&watch), "it looks elsewhere now");
}

#[test]
fn a_watch_of_names_is_raised_for_these_alone() {
    let cache = Cache::new();
    let commit = |names: &[&str], content| {
        let mut transaction = Transaction::new();
        for name in names {
            transaction.upsert("s", resource(CDS, name, content));
        }
        cache.commit(transaction).unwrap().revision
    };
    commit(&["a", "b", "c"], 0);
    let mut watch = cache.watch();
    watch.set_scopes(scopes(&["s"]));
    watch.add_names(&CDS, &["a".into(), "b".into()]);
    let concern = watch.concern();
    let last = commit(&["b", "c"], 1);
    assert!(is_raised(&watch));
    assert_eq!(concern.revision(), last);
    commit(&["c"], 2);
    assert!(!is_raised(&watch), "it did not ask for that");
    assert_eq!(concern.revision(), last);
    watch.remove_names(&CDS, &["b".into()]);
    commit(&["b"], 3);
    assert!(!is_raised(&watch), "it asks for that no more");
    watch.set_wildcard(&CDS, true);
    commit(&["c"], 4);
    assert!(is_raised(&watch));
    watch.set_wildcard(&CDS, false);
    commit(&["c"], 5);
    assert!(!is_raised(&watch));
    commit(&["a"], 5);
    assert!(is_raised(&watch), "what it named counts on");
}

#[test]
fn of_many_watches_of_a_name_each_is_raised_until_it_goes() {
    let cache = Cache::new();
    let commit = |content| {
        let mut transaction = Transaction::new();
        transaction.upsert("s", resource(CDS, "a", content));
        cache.commit(transaction).unwrap();
    };
    let watch = || {
        let mut watch = cache.watch();
        watch.set_scopes(scopes(&["s"]));
        watch.add_names(&CDS, &["a".into()]);
        watch
    };
    let mut watches: Vec<_> = (0..100).map(|_| watch()).collect();
    for content in 0..10 {
        commit(content);
        let raised = watches.iter().filter(|watch| is_raised(watch)).count();
        assert_eq!(raised, watches.len());
        watches.truncate(100 - 11 * content as usize);
    }
    watches.iter_mut().for_each(|watch| watch.remove_names(&CDS, &["a".into()]));
    commit(10);
    assert!(!watches.iter().any(is_raised), "they ask for that no more");
}

#[test]
fn a_watch_that_is_gone_leaves_nothing_behind() {
    struct Counted;
    impl Wake for Counted {
        fn wake(self: Arc<Self>) {}
    }
    let cache = Cache::new();
    let counted = Arc::new(Counted);
    let mut watch = cache.watch();
    watch.set_scopes(scopes(&["s"]));
    watch.set_wildcard(&CDS, true);
    let waker = Waker::from(counted.clone());
    assert!(watch.poll_raised(&mut Context::from_waker(&waker)).is_pending());
    drop((watch, waker));
    assert_eq!(Arc::strong_count(&counted), 1);
}

/// Some of three scopes, as they are seen.
const SCOPES: [&str; 3] = ["a", "b", "c"];

/// One step of a writer: scope, name, what becomes of it.
type Step = (usize, usize, What);

/// What is said of a name in a scope.
#[derive(Debug, Clone, Copy)]
enum What {
    Content(u32),
    Nothing,
    Hidden,
    HiddenDownTo(usize),
}

fn what() -> impl Strategy<Value = What> {
    prop_oneof![
        3 => (0..3u32).prop_map(What::Content),
        1 => Just(What::Nothing),
        1 => Just(What::Hidden),
        1 => (0..3usize).prop_map(What::HiddenDownTo),
    ]
}

/// What is seen of a name through scopes, by what was said of it in each.
fn seen(said: &BTreeMap<(&str, usize), What>, scopes: &[&str], name: usize) -> Option<u32> {
    let mut scopes = scopes.iter();
    while let Some(scope) = scopes.next() {
        match said.get(&(*scope, name)) {
            Some(What::Content(content)) => return Some(*content),
            Some(What::Hidden) => return None,
            Some(What::HiddenDownTo(last)) => drop(scopes.find(|scope| **scope == SCOPES[*last])),
            Some(What::Nothing) | None => {}
        }
    }
    None
}

proptest! {
    /// What a reader is told changed is what differs between the two views, whatever happened between
    /// them and however the layers mask each other; and a version follows the content, whichever way
    /// the content came about.
    #[test]
    fn changes_and_versions_agree_with_the_content(
        commits in prop::collection::vec(
            prop::collection::vec((0..3usize, 0..4usize, what()), 1..4), 1..20),
        order in Just(SCOPES).prop_shuffle(),
        depth in 1..=3usize,
    ) {
        let cache = Cache::new();
        let scopes = scopes(&order[..depth]);
        let (mut views, mut said) = (Vec::new(), BTreeMap::new());
        let name = |i: usize| format!("xdstp://x/{}/{}/r{i}", CDS.message_name(), i % 2);
        let subscription = Subscription::to([name(0), name(2), name(1).replace("r1", "*")]);
        for steps in commits {
            let mut transaction = Transaction::new();
            for (scope, n, what) in steps as Vec<Step> {
                let scope = SCOPES[scope];
                said.insert((scope, n), what);
                match what {
                    What::Content(content) => {
                        transaction.upsert(scope, resource(CDS, &name(n), content))
                    }
                    What::Nothing => transaction.remove(scope, CDS, name(n)),
                    What::Hidden => transaction.hide(scope, CDS, name(n)),
                    What::HiddenDownTo(last) => {
                        transaction.hide_down_to(scope, &SCOPES[last].into(), CDS, name(n))
                    }
                };
            }
            cache.commit(transaction).unwrap();
            let view = cache.view(&scopes);
            let all = (0..4).filter_map(|n| Some((name(n), seen(&said, &order[..depth], n)?)));
            let all: BTreeMap<_, _> = all.collect();
            prop_assert_eq!(content(&view, &CDS), all.into_iter().collect::<Vec<_>>());
            views.push(view);
        }
        let last = views.last().unwrap();
        for view in &views {
            let changes = last.changes(&CDS, view.revision()).unwrap();
            let difference = view.difference(last, &CDS);
            let mut changes: Vec<_> = changes.to_vec();
            changes.sort_by(|a, b| a.name.cmp(&b.name));
            prop_assert_eq!(&changes, &difference);
            let of_names = last.changes_of(&CDS, &subscription, view.revision()).unwrap();
            let named = |change: &&Change| subscription.contains(&change.name);
            let mut of_names: Vec<_> = of_names.iter().filter(named).cloned().collect();
            of_names.sort_by(|a, b| a.name.cmp(&b.name));
            let difference: Vec<_> = difference.iter().filter(named).cloned().collect();
            prop_assert_eq!(of_names, difference);
            let same = content(view, &CDS) == content(last, &CDS);
            let members: Vec<_> = last.members(&CDS, &name(1).replace("r1", "*")).collect();
            let all = last.resources(&CDS).filter(|member| member.name().contains("/1/"));
            prop_assert_eq!(members, all.collect::<Vec<_>>());
            prop_assert_eq!(view.version(&CDS) == last.version(&CDS), same);
        }
        let copy = Cache::new();
        let mut transaction = Transaction::new();
        transaction.replace("copy", CDS, last.resources(&CDS));
        copy.commit(transaction).unwrap();
        let copied = copy.view(&Arc::from([Scope::from("copy")]));
        prop_assert_eq!(copied.version(&CDS), last.version(&CDS));
    }
}
