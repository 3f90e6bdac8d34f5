//! What is referred to and not there.

use super::*;

fn validator() -> Validator {
    Validator::new(Policy::Warn)
}

#[test]
fn who_refers_to_what_is_not_there_is_reported() {
    let cache = Cache::new();
    let report = commit(&validator(), &cache, |t| {
        t.upsert("s", routes("r", &["a", "b"])).upsert("s", static_cluster("a"));
    });
    let expected = Problem::Dangling {
        from: Key::new(RDS, "r"),
        to: Key::new(CDS, "b"),
        view: scopes(&["s"]),
    };
    assert_eq!(report.problems(), [expected]);
    let shown = report.to_string();
    assert_eq!(
        shown,
        "RouteConfiguration \"r\" refers to Cluster \"b\", which those who see s do not have: \
         add that, or take the reference out"
    );
    // It is reported by who brings it about.
    let report = commit(&validator(), &cache, |t| {
        t.upsert("s", static_cluster("c"));
    });
    assert!(report.is_empty(), "{report}");
}

#[test]
fn who_stays_behind_what_goes_is_reported() {
    let cache = Cache::new();
    commit(&validator(), &cache, |t| {
        t.upsert("s", routes("r", &["a"])).upsert("s", routes("q", &["a"]));
        t.upsert("s", static_cluster("a")).upsert("s", static_cluster("b"));
    });
    let report = commit(&validator(), &cache, |t| {
        t.remove("s", CDS, "b");
    });
    assert!(report.is_empty(), "nobody refers to it: {report}");
    let report = commit(&validator(), &cache, |t| {
        t.replace("s", CDS, []).remove("s", RDS, "r");
    });
    assert_eq!(missing(&report), [("q", "a")], "and not who goes with it");
}

#[test]
fn what_comes_in_the_same_transaction_is_there_and_the_last_word_counts() {
    let cache = Cache::new();
    let report = commit(&validator(), &cache, |t| {
        t.upsert("s", routes("r", &["missing"])).upsert("s", routes("r", &["a"]));
        t.remove("s", CDS, "a").upsert("s", static_cluster("a"));
    });
    assert!(report.is_empty(), "{report}");
}

/// `above` over `below`, for both.
fn both() -> Validator {
    validator().views(|_| vec![scopes(&["above", "below"])])
}

#[test]
fn what_any_scope_of_a_view_has_is_there() {
    let fill = |t: &mut Transaction| {
        t.upsert("above", routes("r", &["a"])).upsert("below", static_cluster("a"));
    };
    assert_eq!(missing(&commit(&validator(), &Cache::new(), fill)), [("r", "a")]);
    let cache = Cache::new();
    assert!(commit(&both(), &cache, fill).is_empty());
    let report = commit(&both(), &cache, |t| {
        t.remove("below", CDS, "a");
    });
    let Problem::Dangling { view, .. } = &report.problems()[0] else { panic!("{report}") };
    assert_eq!(*view, scopes(&["above", "below"]));
}

#[test]
fn what_is_masked_lacks_nothing_until_it_is_uncovered() {
    let cache = Cache::new();
    let report = commit(&both(), &cache, |t| {
        t.upsert("above", routes("r", &[])).upsert("below", routes("r", &["a"]));
    });
    assert!(report.is_empty(), "{report}");
    let report = commit(&both(), &cache, |t| {
        t.remove("above", RDS, "r");
    });
    assert_eq!(missing(&report), [("r", "a")]);
}

#[test]
fn what_changes_below_does_not_bring_up_again_what_is_wrong_above() {
    let cache = Cache::new();
    let report = commit(&both(), &cache, |t| {
        t.upsert("above", routes("r", &["a"]));
    });
    assert_eq!(missing(&report), [("r", "a")]);
    let report = commit(&both(), &cache, |t| {
        t.upsert("below", routes("r", &["b"]));
    });
    assert!(report.is_empty(), "{report}");
}

#[test]
fn what_is_removed_above_and_there_below_is_not_missed() {
    let cache = Cache::new();
    commit(&both(), &cache, |t| {
        t.upsert("above", routes("r", &["a"]));
        t.upsert("above", static_cluster("a")).upsert("below", static_cluster("a"));
    });
    let report = commit(&both(), &cache, |t| {
        t.remove("above", CDS, "a");
    });
    assert!(report.is_empty(), "{report}");
}

#[test]
fn one_problem_in_two_views_is_one() {
    let validator = validator().views(|_| vec![scopes(&["one", "s"]), scopes(&["two", "s"])]);
    let report = commit(&validator, &Cache::new(), |t| {
        t.upsert("s", routes("r", &["a"]));
    });
    assert_eq!(missing(&report), [("r", "a")]);
}

#[test]
fn nothing_is_missing_of_what_is_not_known_yet() {
    let cache = Cache::new();
    let report = commit(&validator(), &cache, |t| {
        t.declare("s", CDS).upsert("s", routes("r", &["a", "b"]));
    });
    assert!(report.is_empty(), "{report}");
    let report = commit(&validator(), &cache, |t| {
        t.replace("s", CDS, [static_cluster("a")]);
    });
    assert_eq!(missing(&report), [("r", "b")], "and is as soon as its source said what there is");
}

#[test]
fn an_alias_is_there_as_long_as_somebody_has_it() {
    let cache = Cache::new();
    let called = |aliases: &[&'static str]| {
        let message = Cluster { name: "a".into(), ..Cluster::default() };
        let resource = Resource::raw(CDS, "a", message.encode_to_vec());
        resource.aliases(aliases.iter().copied()).build()
    };
    let report = commit(&validator(), &cache, |t| {
        t.upsert("s", routes("r", &["alias"])).upsert("s", called(&["alias", "other"]));
    });
    assert!(report.is_empty(), "{report}");
    let report = commit(&validator(), &cache, |t| {
        t.upsert("s", called(&["other"]));
    });
    assert_eq!(missing(&report), [("r", "alias")]);
}

#[test]
fn a_cluster_without_endpoints_is_reported() {
    let cache = Cache::new();
    let report = commit(&validator(), &cache, |t| {
        t.upsert("s", eds_cluster("alone", "")).upsert("s", static_cluster("static"));
        t.upsert("s", eds_cluster("served", "service")).upsert("s", endpoints("service"));
        t.upsert("s", eds_cluster("astray", "elsewhere")).upsert("s", endpoints("astray"));
    });
    assert_eq!(missing(&report), [("alone", "alone"), ("astray", "elsewhere")]);
    let astray: Vec<_> = report
        .problems()
        .iter()
        .filter_map(|problem| match problem {
            Problem::NoEndpoints { is_under_cluster_name, .. } => Some(*is_under_cluster_name),
            _ => None,
        })
        .collect();
    assert_eq!(astray, [false, true]);
    assert!(report.to_string().contains("though one under the cluster's own name"), "{report}");
    let report = commit(&validator(), &cache, |t| {
        t.remove("s", EDS, "service");
    });
    assert_eq!(missing(&report), [("served", "service")]);
}
