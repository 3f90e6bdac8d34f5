//! Pages promise things, and name the tests that show them: in tables, in a column `shown by`, as
//! `` `file.rs`: `one_test`, `another` ``; a file by itself is one of tests that all show it.

use std::{fs, path::Path};

use super::sources::{Test, tests_in};

/// The pages, from this package's folder.
const PAGES: &[&str] = &["../SECURITY.md", "../examples/control-plane/README.md"];

/// Where their tests are.
const SOURCES: &[&str] =
    &["tests", "../xds-core/tests", "../tests/tests", "../examples/control-plane/tests"];

#[test]
fn every_test_that_a_page_names_is_there() {
    let tests: Vec<Test> = SOURCES.iter().flat_map(|folder| tests_in(folder)).collect();
    let mut wrong = Vec::new();
    for page in PAGES {
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(page));
        let text = text.expect("a page");
        let cells = shown_by(&text);
        assert!(cells.len() > 5, "{page} has tables of what is shown by which tests");
        for cell in cells {
            wrong.extend(missing(cell, &tests).map(|what| format!("{page}: {what}")));
        }
    }
    assert!(wrong.is_empty(), "there are no such tests: {wrong:#?}");
}

/// The last cells of the tables that have `shown by` above them.
fn shown_by(page: &str) -> Vec<&str> {
    let mut cells = Vec::new();
    let mut is_shown = false;
    for line in page.lines() {
        let last = line.strip_suffix('|').and_then(|row| row.rsplit('|').next()).map(str::trim);
        match last {
            None => is_shown = false,
            Some("shown by") => is_shown = true,
            Some(cell) if is_shown && !cell.starts_with("---") => cells.push(cell),
            Some(_) => {}
        }
    }
    cells
}

/// What a cell names and is not there.
fn missing<'a>(cell: &'a str, tests: &'a [Test]) -> impl Iterator<Item = String> + 'a {
    let mut file = "";
    let words = cell.split('`').skip(1).step_by(2);
    let named = words.filter_map(move |word| {
        if word.ends_with(".rs") {
            file = word;
            let is_there = tests.iter().any(|test| test.file.ends_with(file));
            return (!is_there).then(|| file.to_owned());
        }
        let is_there = tests.iter().any(|test| test.file.ends_with(file) && test.name == word);
        (!is_there).then(|| format!("{file}: {word}"))
    });
    let is_empty = !cell.contains('`');
    named.chain(is_empty.then(|| format!("{cell:?} names none")))
}

#[test]
fn what_is_missing_is_found() {
    let tests = [Test { file: "a/b.rs".into(), name: "one".into() }];
    let page =
        "| what | shown by |\n| --- | --- |\n| x | `b.rs`: `one`, `two` |\n\n| y | `c.rs` |\n";
    assert_eq!(shown_by(page), ["`b.rs`: `one`, `two`"]);
    let missing = |cell| missing(cell, &tests).collect::<Vec<_>>();
    assert_eq!(missing("`b.rs`: `one`, `two`; `d.rs`"), ["b.rs: two", "d.rs"]);
    assert_eq!(missing("`b.rs`"), [""; 0]);
    assert_eq!(missing("nothing"), ["\"nothing\" names none"]);
}
