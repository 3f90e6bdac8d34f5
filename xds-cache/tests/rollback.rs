//! Returning to what was, and what is hidden.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;

use deltaplane_cache::{Cache, CacheView, Commit, CommitError, RollbackError, Scope, Transaction};
use deltaplane_core::{Key, Resource, Revision, TypeUrl, View};

const CDS: TypeUrl = TypeUrl::CLUSTER;
const RDS: TypeUrl = TypeUrl::ROUTE;

fn cluster(name: &str, content: u8) -> Resource {
    Resource::raw(CDS, name, vec![content]).build()
}

fn route(content: u8, cluster: &str) -> Resource {
    Resource::raw(RDS, "r", vec![content]).references([Key::new(CDS, cluster)]).build()
}

fn commit(cache: &Cache, upserts: &[Resource], removes: &[&str]) -> Commit {
    let mut transaction = Transaction::new();
    for resource in upserts {
        transaction.upsert("s", resource.clone());
    }
    for name in removes {
        transaction.remove("s", CDS, *name);
    }
    cache.commit(transaction).unwrap()
}

fn view(cache: &Cache, scopes: &[&str]) -> CacheView {
    cache.view(&scopes.iter().map(|scope| Scope::from(*scope)).collect())
}

/// `name=content` of all that is seen.
fn seen(view: &CacheView) -> String {
    let all = view.resources(&CDS).chain(view.resources(&RDS));
    all.map(|r| format!("{}={}", r.name(), r.value()[0])).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_commit_is_taken_back_but_for_what_others_changed_since() {
    let cache = Cache::new();
    commit(&cache, &[cluster("a", 1), cluster("b", 1), cluster("c", 1)], &[]);
    let bad = commit(&cache, &[cluster("a", 2), cluster("b", 2), cluster("d", 2)], &["c"]);
    commit(&cache, &[cluster("b", 3)], &[]);
    let undone = cache.undo(bad.revision, "because").unwrap();
    assert_eq!(seen(&view(&cache, &["s"])), "a=1 b=3 c=1");
    assert_eq!((undone.revision, undone.changes), (Revision(4), 3));
    let record = cache.history().pop().unwrap();
    assert_eq!(record.label.as_deref(), Some("because"));
    assert_eq!((record.undoes, record.revision), (vec![bad.revision], undone.revision));
    assert!(view(&cache, &["s"]).version(&CDS).to_string().ends_with("+because"));
    assert_eq!(cache.undo(bad.revision, "again").unwrap().changes, 0, "it is taken back already");
    assert!(cache.is_undone(bad.revision) && !cache.is_undone(undone.revision));
    // And that, too, can be taken back.
    cache.undo(undone.revision, "no").unwrap();
    assert_eq!(seen(&view(&cache, &["s"])), "a=2 b=3 d=2");
}

#[test]
fn what_depends_on_a_commit_is_taken_back_with_it() {
    let cache = Cache::new();
    commit(&cache, &[cluster("a", 1), route(1, "a")], &[]);
    let bad = commit(&cache, &[cluster("b", 1)], &[]);
    commit(&cache, &[cluster("c", 1)], &[]);
    commit(&cache, &[route(2, "b"), cluster("d", 1)], &[]);
    let undone = cache.undo(bad.revision, "").unwrap();
    assert_eq!(
        seen(&view(&cache, &["s"])),
        "a=1 c=1 r=1",
        "the route that named b, and what came with it"
    );
    assert_eq!(cache.history().pop().unwrap().undoes, [Revision(2), Revision(4)]);
    assert_eq!(undone.changes, 3);
}

#[test]
fn what_depends_on_what_is_left_in_no_scope_or_not_in_its_own_is_taken_back_too() {
    // Whether another scope has the cluster too, and the scope of the route.
    for (is_elsewhere, scope, depends) in
        [(false, "s", true), (false, "t", true), (true, "s", true), (true, "t", false)]
    {
        let cache = Cache::new();
        if is_elsewhere {
            let mut elsewhere = Transaction::new();
            cache.commit(elsewhere.upsert("u", cluster("b", 1)).clone()).unwrap();
        }
        let bad = commit(&cache, &[cluster("b", 1)], &[]);
        let mut names_it = Transaction::new();
        cache.commit(names_it.upsert(scope, route(1, "b")).clone()).unwrap();
        cache.undo(bad.revision, "").unwrap();
        let left = seen(&view(&cache, &["s", "t"]));
        assert_eq!(left, if depends { "" } else { "r=1" }, "{is_elsewhere} {scope}");
    }
}

#[test]
fn the_cache_returns_to_a_revision_exactly() {
    let cache = Cache::new();
    let empty = cache.revision();
    let first = commit(&cache, &[cluster("a", 1), cluster("b", 1)], &[]);
    commit(&cache, &[cluster("a", 2), route(1, "a")], &["b"]);
    commit(&cache, &[cluster("c", 1), cluster("b", 7)], &["a"]);
    cache.return_to(first.revision, "").unwrap();
    assert_eq!(seen(&view(&cache, &["s"])), "a=1 b=1");
    assert_eq!(cache.return_to(cache.revision(), "").unwrap().changes, 0);
    cache.return_to(empty, "").unwrap();
    assert_eq!(seen(&view(&cache, &["s"])), "");
    let unknown = cache.return_to(Revision(99), "").unwrap_err();
    assert_eq!(unknown.to_string(), "there is no revision 99: the last one is 5");
    assert!(matches!(cache.undo(Revision(99), ""), Err(RollbackError::Unknown { .. })));
}

#[test]
fn what_is_forgotten_cannot_come_back_and_the_error_says_what_can() {
    let cache = Cache::new();
    for content in 0..1100 {
        commit(
            &cache,
            &[Resource::raw(CDS, "a", vec![(content % 256) as u8, (content / 256) as u8]).build()],
            &[],
        );
    }
    for revision in [Revision(5), Revision(75)] {
        let error = cache.return_to(revision, "").unwrap_err();
        let oldest = Revision(76);
        assert_eq!(error, RollbackError::Forgotten { revision, oldest });
    }
    cache.return_to(Revision(76), "").unwrap();
    let undone = cache.undo(Revision(5), "").unwrap_err();
    assert!(matches!(undone, RollbackError::Forgotten { .. }));
}

#[test]
fn what_was_withdrawn_is_refused_until_somebody_insists() {
    let cache = Cache::new();
    commit(&cache, &[cluster("a", 1)], &[]);
    let bad = commit(&cache, &[cluster("a", 2), cluster("b", 2)], &[]);
    cache.withdraw(bad.revision, &[Key::new(CDS, "a")], "a client said no").unwrap();
    assert_eq!(seen(&view(&cache, &["s"])), "a=1");
    let mut again = Transaction::new();
    again.upsert("s", cluster("a", 2)).upsert("s", cluster("c", 1));
    let error = cache.commit(again.clone()).unwrap_err();
    assert!(matches!(error, CommitError::Withdrawn { .. }));
    for part in ["\"a\"", "scope s", "a client said no", "insist"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    assert_eq!(seen(&view(&cache, &["s"])), "a=1", "nothing of it was done");
    commit(&cache, &[cluster("a", 3)], &[]);
    assert!(cache.commit(again.clone()).is_err(), "the same content is no better later");
    let mut elsewhere = Transaction::new();
    cache.commit(elsewhere.upsert("t", cluster("a", 2)).clone()).unwrap();
    cache.commit(again.insist().clone()).unwrap();
    assert_eq!(seen(&view(&cache, &["s"])), "a=2 c=1");
    commit(&cache, &[cluster("a", 3)], &[]);
    commit(&cache, &[cluster("a", 2)], &[]);
    assert!(
        cache.preview(Transaction::new().upsert("s", cluster("b", 2))).is_ok(),
        "it is not to blame"
    );
}

#[test]
fn what_is_withdrawn_later_does_not_make_up_for_what_was_before() {
    let cache = Cache::new();
    for name in ["a", "b"] {
        let bad = commit(&cache, &[cluster(name, 1)], &[]);
        cache.withdraw(bad.revision, &[], "no").unwrap();
    }
    for name in ["a", "b"] {
        let refused = cache.commit(Transaction::new().upsert("s", cluster(name, 1)).clone());
        assert!(matches!(refused, Err(CommitError::Withdrawn { .. })), "{name}");
    }
}

#[test]
fn what_an_upper_scope_hides_is_not_seen_through_it() {
    let cache = Cache::new();
    commit(&cache, &[cluster("a", 1), cluster("b", 1)], &[]);
    let both = ["up", "s"];
    let version = view(&cache, &["s"]).version(&CDS);
    let since = cache.revision();
    let mut transaction = Transaction::new();
    transaction.hide("up", CDS, "a").hide("up", CDS, "none").upsert("up", cluster("c", 1));
    cache.commit(transaction).unwrap();
    assert_eq!(seen(&view(&cache, &both)), "b=1 c=1");
    assert_eq!(seen(&view(&cache, &["s"])), "a=1 b=1");
    assert_eq!(seen(&view(&cache, &["up"])), "c=1");
    assert!(view(&cache, &both).get(&CDS, "a").is_none());
    let alone = Cache::new();
    commit(&alone, &[cluster("b", 1), cluster("c", 1)], &[]);
    assert_eq!(view(&cache, &both).version(&CDS), view(&alone, &["s"]).version(&CDS));
    let changes = |view: CacheView, since: Revision| -> Vec<String> {
        let changes: Arc<[_]> = view.changes(&CDS, since).unwrap();
        let is_there = |resource: &Option<Resource>| u8::from(resource.is_some());
        let change = |c: &deltaplane_core::Change| {
            format!("{} {}{}", c.name, is_there(&c.before), is_there(&c.after))
        };
        changes.iter().map(change).collect()
    };
    assert_eq!(changes(view(&cache, &both), since), ["a 10", "c 01"]);
    assert_eq!(changes(view(&cache, &["up"]), since), ["c 01"]);
    // What changes below, hidden, is no change; and what is shown again is one.
    let since = cache.revision();
    commit(&cache, &[cluster("a", 2)], &[]);
    assert_eq!(changes(view(&cache, &both), since), [""; 0]);
    let mut transaction = Transaction::new();
    transaction.remove("up", CDS, "a").remove("up", CDS, "c").remove("up", CDS, "none");
    cache.commit(transaction).unwrap();
    assert_eq!(changes(view(&cache, &both), since), ["a 01", "c 10"]);
    assert_eq!(changes(view(&cache, &["up"]), since), ["c 10"]);
    commit(&cache, &[cluster("a", 1)], &[]);
    assert_eq!(view(&cache, &both).version(&CDS), version);
}

#[test]
fn a_scope_can_be_forgotten_and_what_was_in_it_is_no_matter_for_rollbacks() {
    let cache = Cache::new();
    commit(&cache, &[cluster("a", 1)], &[]);
    let first = cache.revision();
    let mut transaction = Transaction::new();
    cache.commit(transaction.upsert("t", cluster("b", 1)).clone()).unwrap();
    commit(&cache, &[cluster("a", 2)], &[]);
    assert_eq!(cache.types(&"t".into()), [CDS]);
    cache.forget(&"t".into());
    assert!(cache.types(&"t".into()).is_empty() && !cache.is_known(&"t".into()));
    assert_eq!(seen(&view(&cache, &["t", "s"])), "a=2");
    cache.return_to(first, "").unwrap();
    assert_eq!(seen(&view(&cache, &["t", "s"])), "a=1");
}

#[test]
fn a_view_knows_when_a_name_changed_last_where_it_is_seen() {
    let cache = Cache::new();
    let first = commit(&cache, &[cluster("a", 1), cluster("b", 1)], &[]).revision;
    let second = commit(&cache, &[cluster("a", 2)], &[]).revision;
    let mut transaction = Transaction::new();
    let third = cache.commit(transaction.upsert("up", cluster("a", 3)).clone()).unwrap().revision;
    let both = view(&cache, &["up", "s"]);
    let changed = |name: &str, until| both.changed_at(&CDS, name, until);
    assert_eq!(changed("a", third), Some(third));
    assert_eq!(changed("a", second), None, "it is hidden by what came later");
    assert_eq!((changed("b", third), changed("none", third)), (Some(first), None));
    let below = view(&cache, &["s"]);
    assert_eq!(below.changed_at(&CDS, "a", third), Some(second));
    assert_eq!(below.changed_at(&CDS, "a", first), Some(first));
    assert!(both.changed_between(&CDS, second, third) && !both.changed_between(&CDS, third, third));
    assert!(!below.changed_between(&CDS, second, third));
    assert!(
        below.changed_between(&CDS, first, second)
            && !below.changed_between(&CDS, Revision(0), Revision(0))
    );
}
