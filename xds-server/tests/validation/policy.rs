//! What becomes of a transaction with a problem.

use deltaplane_server::{
    CommitError, Revision,
    validation::{Refusal, Severity},
};

use super::*;

fn dangling() -> Transaction {
    transaction(|t| {
        t.upsert("s", routes("r", &["a"]));
    })
}

#[test]
fn what_is_refused_is_not_done() {
    let (validator, cache) = (Validator::new(Policy::Refuse), Cache::new());
    let Err(Refusal::Invalid(report)) = validator.commit(&cache, dangling()) else { panic!() };
    assert_eq!(missing(&report), [("r", "a")]);
    assert_eq!(report.severity(), Some(Severity::Warning));
    assert_eq!(cache.revision(), Revision(0));
    let misnamed = transaction(|t| {
        let message = Cluster { name: "b".into(), ..Cluster::default() };
        t.upsert("s", envoy::raw(CDS, "a", message.encode_to_vec()).build());
    });
    let refused = validator.commit(&cache, misnamed).unwrap_err();
    assert!(refused.to_string().contains("nothing of it was done:\nCluster \"a\""), "{refused}");
    let Refusal::Invalid(report) = refused else { panic!() };
    assert_eq!(report.severity(), Some(Severity::Error));
    assert_eq!(cache.revision(), Revision(0));
    let sound = transaction(|t| {
        t.upsert("s", routes("r", &["a"])).upsert("s", static_cluster("a"));
    });
    let (commit, report) = validator.commit(&cache, sound).unwrap();
    assert_eq!((commit.changes, report.is_empty(), report.severity()), (2, true, None));
}

#[test]
fn what_is_warned_of_is_done_and_so_is_what_nobody_looks_at() {
    assert_eq!(Policy::default(), Policy::Warn);
    for (policy, problems) in [(Policy::Warn, 1), (Policy::Off, 0)] {
        let cache = Cache::new();
        let (commit, report) = Validator::new(policy).commit(&cache, dangling()).unwrap();
        assert_eq!((commit.changes, report.problems().len()), (1, problems));
        assert_eq!(cache.revision(), Revision(1));
    }
}

#[test]
fn a_name_that_comes_twice_is_refused_by_the_cache_whatever_the_policy() {
    for policy in [Policy::Refuse, Policy::Warn, Policy::Off] {
        let twice = transaction(|t| {
            t.replace("s", CDS, [static_cluster("a"), static_cluster("a")]);
        });
        let refused = Validator::new(policy).commit(&Cache::new(), twice);
        assert!(matches!(refused, Err(Refusal::Commit(CommitError::Duplicate { .. }))));
    }
}

#[test]
fn whoever_commits_by_himself_can_ask() {
    let (validator, cache) = (Validator::new(Policy::Off), Cache::new());
    let report = validator.check(&cache.preview(&dangling()).unwrap());
    assert_eq!(missing(&report), [("r", "a")]);
    let refused =
        cache.commit_if(dangling(), |preview| Err(Refusal::Invalid(validator.check(preview))));
    assert_eq!(refused, Err(Refusal::Invalid(report)));
}

#[test]
fn of_many_problems_the_first_are_shown_and_the_others_counted() {
    let names: Vec<_> = (10..35).map(|name| name.to_string()).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let report = commit(&Validator::new(Policy::Warn), &Cache::new(), |t| {
        t.upsert("s", routes("r", &names));
    });
    assert_eq!(report.problems().len(), 25);
    let shown = report.to_string();
    let lines: Vec<_> = shown.lines().collect();
    assert_eq!((lines.len(), lines[20]), (21, "and 5 more"));
}
