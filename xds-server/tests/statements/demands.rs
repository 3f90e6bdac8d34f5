//! The page of what the wire demands: that each statement on it is whole, and that each one that a source
//! cites is on it.

use std::collections::{BTreeMap, BTreeSet};

use super::sources::files_in;

/// The page.
const PAGE: &str = include_str!("../../../xds-core/STATEMENTS.md");

/// What a level may be: `(d)` is for what is derived from what clients do.
const LEVELS: &[&str] = &["MUST", "MUST(d)", "SHOULD", "SHOULD(d)", "MAY"];

/// Where sources are that cite statements, from this package's folder.
const SOURCES: &[&str] = &[
    "../xds-core/src",
    "../xds-core/tests",
    "../xds-cache/src",
    "../xds-cache/tests",
    "../xds-cache/benches",
    "src",
    "tests",
    "../tests/src",
    "../tests/tests",
    "../examples/control-plane/src",
    "../examples/control-plane/tests",
    "../benches/src",
    "../fuzz/fuzz_targets",
];

/// What the page says of a statement.
pub struct Statement {
    pub level: String,
    pub sentence: String,
}

/// All statements, by their names.
pub fn statements() -> BTreeMap<String, Statement> {
    let (statements, wrong) = read(PAGE);
    assert!(wrong.is_empty(), "no whole statement, or twice, or in a wrong section: {wrong:#?}");
    statements
}

/// The statements of a page, and the list items on it that are none.
fn read(page: &str) -> (BTreeMap<String, Statement>, Vec<String>) {
    let mut statements = BTreeMap::new();
    let mut wrong = Vec::new();
    let mut section = "";
    let page = page.replace("\n  ", " ");
    for line in page.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            section = title.split(':').next().unwrap_or_default();
        }
        let Some(item) = line.strip_prefix("* ") else { continue };
        let is_new = match statement(item) {
            Some((id, statement)) if id.split('-').next() == Some(section) => {
                statements.insert(id, statement).is_none()
            }
            _ => false,
        };
        wrong.extend((!is_new).then(|| line.to_owned()));
    }
    (statements, wrong)
}

/// What a list item says: `**D-06** MUST: A sentence. — its source`.
fn statement(item: &str) -> Option<(String, Statement)> {
    let (id, rest) = item.strip_prefix("**")?.split_once("** ")?;
    let (level, rest) = rest.split_once(": ")?;
    let (sentence, source) = rest.rsplit_once(" — ")?;
    let is_whole =
        is_id(id) && LEVELS.contains(&level) && sentence.ends_with('.') && !source.is_empty();
    let statement = || Statement { level: level.to_owned(), sentence: sentence.to_owned() };
    is_whole.then(|| (id.to_owned(), statement()))
}

/// The statements that a text cites.
fn cited(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '-' && c != '_').filter(|word| is_id(word))
}

fn is_id(word: &str) -> bool {
    let mut chars = word.chars();
    chars.next().is_some_and(|c| c.is_ascii_uppercase())
        && chars.next() == Some('-')
        && chars.as_str().len() == 2
        && chars.all(|c| c.is_ascii_digit())
}

#[test]
fn every_statement_that_is_cited_is_on_the_page() {
    let statements = statements();
    let mut files: Vec<_> = SOURCES.iter().flat_map(|folder| files_in(folder)).collect();
    files.push(("STATEMENTS.md".into(), PAGE.to_owned()));
    let mut unknown = BTreeSet::new();
    for (file, text) in &files {
        let ids = cited(text).filter(|id| !statements.contains_key(*id));
        unknown.extend(ids.map(|id| format!("{}: {id}", file.display())));
    }
    assert!(unknown.is_empty(), "cited, and not in xds-core/STATEMENTS.md: {unknown:#?}");
}

#[test]
fn what_is_cited_is_found_in_comments_and_messages() {
    let text =
        "(D-06, S-15) `T-04`: R-06 to R-10's, \"B-09\"; but UTF-16, TP-01, a D-1 and x-B-01 not";
    assert!(cited(text).eq(["D-06", "S-15", "T-04", "R-06", "R-10", "B-09"]));
}

#[test]
fn a_statement_is_whole_or_found_to_be_none() {
    let page = "## D: delta\n\n* **D-06** MUST: One\n  thing. — x\n\n## N: other\n";
    let (statements, wrong) = read(page);
    assert_eq!(wrong, [""; 0]);
    let d06 = &statements["D-06"];
    assert_eq!((&*d06.level, &*d06.sentence), ("MUST", "One thing."));
    for item in [
        "* **D-07** MUST: One thing. — x",
        "* **N-1** MUST: One thing. — x",
        "* **N-01** MIGHT: One thing. — x",
        "* **N-01** MUST: One thing — x",
        "* **N-01** MUST: One thing.",
        "* another item",
    ] {
        assert_eq!(read(&format!("{page}\n{item}\n")).1, [item]);
    }
    let twice = "* **D-06** MUST: Another thing. — x";
    assert_eq!(read(&page.replace("\n\n## N", &format!("\n{twice}\n\n## N"))).1, [twice]);
}
