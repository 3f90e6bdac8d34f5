//! What is in sources: their text, and the tests in it.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// A test, and the file that it is in.
pub struct Test {
    pub file: PathBuf,
    pub name: String,
}

/// All Rust files in a folder, which is seen from this package's, with their text.
pub fn files_in(folder: &str) -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    find(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), &mut files);
    files
}

fn find(folder: &Path, files: &mut Vec<(PathBuf, String)>) {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{folder:?}: {error}"));
    for path in entries.map(|entry| entry.expect("an entry").path()) {
        if path.is_dir() {
            find(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("a source file");
            files.push((path, text));
        }
    }
}

/// All tests in a folder: functions behind an attribute that ends in `test`.
pub fn tests_in(folder: &str) -> Vec<Test> {
    let mut tests = Vec::new();
    for (path, text) in files_in(folder) {
        let mut is_test = false;
        for line in text.lines().map(str::trim) {
            let function = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ");
            if let Some(name) = function.and_then(|rest| rest.split(['(', '<']).next()) {
                let test = || Test { file: path.clone(), name: name.to_owned() };
                tests.extend(is_test.then(test));
                is_test = false;
            } else if line.starts_with("#[") {
                is_test |= line.contains("test]") || line.contains("test(");
            }
        }
    }
    tests
}
