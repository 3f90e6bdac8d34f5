//! What a transaction would make of a cache, and committing only if that is agreed with.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::{Arc, mpsc};

use deltaplane_cache::{Cache, CommitError, Preview, Scope, Transaction};
use deltaplane_core::{Key, Resource, Revision, TypeUrl, View};

const CDS: TypeUrl = TypeUrl::CLUSTER;
const EDS: TypeUrl = TypeUrl::ENDPOINT;

fn cluster(name: &str, content: u8) -> Resource {
    let endpoints = Key::new(EDS, name);
    Resource::raw(CDS, name, vec![content]).references([endpoints]).build()
}

fn scopes(names: &[&str]) -> Arc<[Scope]> {
    names.iter().map(|name| Scope::from(*name)).collect()
}

fn upsert(cluster: Resource) -> Transaction {
    let mut transaction = Transaction::new();
    transaction.upsert("s", cluster);
    transaction
}

/// The names that change, and whether they are there before and after.
fn changes(preview: &Preview) -> Vec<(String, bool, bool)> {
    let all = preview.changes().flat_map(|(scope, type_url, changes)| {
        changes.iter().map(move |change| (format!("{scope}/{}", type_url.message_name()), change))
    });
    all.map(|(layer, change)| {
        (format!("{layer}/{}", change.name), change.before.is_some(), change.after.is_some())
    })
    .collect()
}

#[test]
fn a_preview_shows_what_is_and_what_would_be_and_nobody_else_sees_it() {
    let (cache, seen) = (Cache::new(), scopes(&["s"]));
    let mut transaction = upsert(cluster("same", 1));
    transaction.upsert("s", cluster("gone", 1)).upsert("s", cluster("changed", 1));
    cache.commit(transaction).unwrap();
    let mut transaction = Transaction::new();
    transaction.replace(
        "s",
        CDS,
        [("same", 1), ("changed", 2), ("new", 1)].map(|(n, c)| cluster(n, c)),
    );
    transaction.declare("t", EDS).replace("t", EDS, []);
    let preview = cache.preview(&transaction).unwrap();
    let name = |name: &str| format!("s/envoy.config.cluster.v3.Cluster/{name}");
    let expected = [("changed", true, true), ("gone", true, false), ("new", false, true)];
    assert_eq!(changes(&preview), expected.map(|(n, before, after)| (name(n), before, after)));
    let touched: Vec<_> = preview.changes().map(|(scope, ..)| scope.as_str()).collect();
    assert_eq!(touched, ["s", "t"], "each once");
    let (before, after) = (preview.before(&seen), preview.after(&seen));
    assert!(before.get(&CDS, "gone").is_some() && before.get(&CDS, "new").is_none());
    assert!(after.get(&CDS, "gone").is_none() && after.get(&CDS, "new").is_some());
    assert_eq!(after.referrers(&Key::new(EDS, "new")).collect::<Vec<_>>(), [Key::new(CDS, "new")]);
    let referred = |name| (Key::new(CDS, name), Key::new(EDS, name));
    let references: Vec<_> = after.references_into(&EDS).collect();
    assert_eq!(references, ["changed", "new", "same"].map(referred));
    assert_eq!(after.references_into(&CDS).count(), 0);
    assert_eq!(cache.revision(), Revision(1));
    assert!(cache.view(&seen).get(&CDS, "new").is_none());
}

#[test]
fn a_preview_of_nothing_is_the_cache_as_it_is() {
    let cache = Cache::new();
    cache.commit(upsert(cluster("a", 1))).unwrap();
    let preview = cache.preview(&upsert(cluster("a", 1))).unwrap();
    assert_eq!(changes(&preview), []);
    let seen = scopes(&["s"]);
    assert_eq!(preview.after(&seen).get(&CDS, "a"), preview.before(&seen).get(&CDS, "a"));
}

#[test]
fn what_contradicts_itself_has_no_preview() {
    let cache = Cache::new();
    let mut transaction = Transaction::new();
    transaction.replace("s", CDS, [cluster("a", 1), cluster("a", 2)]);
    assert!(matches!(cache.preview(&transaction), Err(CommitError::Duplicate { .. })));
    let refused = cache.commit_if(transaction, |_| panic!("it is not checked"));
    assert!(matches!(refused, Err(CommitError::Duplicate { .. })));
}

/// Why a check said no.
#[derive(Debug, PartialEq)]
enum No {
    Commit(CommitError),
    Because(&'static str),
}

impl From<CommitError> for No {
    fn from(error: CommitError) -> Self {
        No::Commit(error)
    }
}

#[test]
fn what_a_check_refuses_is_not_done_and_what_it_agrees_with_is() {
    let cache = Cache::new();
    let refused = cache.commit_if(upsert(cluster("a", 1)), |preview| {
        assert_eq!(changes(preview).len(), 1);
        Err(No::Because("I say so"))
    });
    assert_eq!(refused, Err(No::Because("I say so")));
    assert_eq!(cache.revision(), Revision(0));
    let commit = cache.commit_if(upsert(cluster("a", 1)), |_| Ok::<_, No>(())).unwrap();
    assert_eq!((commit.revision, commit.changes), (Revision(1), 1));
    let again = cache.commit_if(upsert(cluster("a", 1)), |_| Err(No::Because("it is not asked")));
    assert_eq!(again.unwrap().changes, 0);
}

#[test]
fn nobody_commits_between_a_check_and_its_commit() {
    let cache = Cache::new();
    let (at_check, other_may) = mpsc::channel();
    let other = std::thread::spawn({
        let cache = cache.clone();
        move || {
            other_may.recv().unwrap();
            cache.commit(upsert(cluster("other", 1))).unwrap().revision
        }
    });
    let commit = cache.commit_if(upsert(cluster("a", 1)), |preview| {
        at_check.send(()).unwrap();
        // However long it takes.
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert_eq!(changes(preview).len(), 1);
        assert_eq!(cache.revision(), Revision(0), "and readers do not wait");
        Ok::<_, No>(())
    });
    assert_eq!(commit.unwrap().revision, Revision(1));
    assert_eq!(other.join().unwrap(), Revision(2));
}
