//! Resources or services in files, made one change.

use std::io::Read as _;
use std::path::Path;
use std::{fs, io};

use serde_json::{Map, Value, json};
use thiserror::Error;

use crate::cli::Sources;

/// Why files make no transaction.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SourceError {
    /// A file cannot be read.
    #[error("cannot read {file}: {why}; give a file that exists, or - for stdin, with -f")]
    Unreadable {
        /// The file.
        file: String,
        /// What was in the way.
        why: io::Error,
    },
    /// A file is neither YAML nor JSON.
    #[error("{file} is neither YAML nor JSON: {why}")]
    Syntax {
        /// The file.
        file: String,
        /// Where and why.
        why: String,
    },
    /// A document is no transaction, nor a part of one.
    #[error("{place}: {why}")]
    Document {
        /// Which.
        place: String,
        /// What to write instead.
        why: String,
    },
}

/// What files say, as the HTTP API takes it.
#[derive(Debug, PartialEq)]
#[allow(clippy::exhaustive_enums)] // each goes to a door of its own
pub enum Change {
    /// Resources of one scope.
    Transaction(Value),
    /// Services.
    Import(Value),
}

/// Reads all documents of all files into one transaction.
pub fn transaction(sources: &Sources) -> Result<Value, SourceError> {
    match change(sources)? {
        Change::Transaction(transaction) => Ok(transaction),
        Change::Import(_) => {
            let why = "are not compared; write resources".to_owned();
            Err(SourceError::Document { place: "\"services\"".to_owned(), why })
        }
    }
}

/// Reads all documents of all files into one change.
pub fn change(sources: &Sources) -> Result<Change, SourceError> {
    let mut whole = Whole { scope: sources.scope.clone(), ..Whole::default() };
    for file in &sources.files {
        let name = file.display().to_string();
        let text = read(file).map_err(|why| SourceError::Unreadable { file: name.clone(), why })?;
        let documents: Vec<Value> = serde_saphyr::from_multiple(&text)
            .map_err(|error| SourceError::Syntax { file: name.clone(), why: error.to_string() })?;
        let documents = documents.into_iter().filter(|document| !document.is_null());
        for (i, document) in documents.enumerate() {
            let added = whole.add(document);
            let place = format!("{name}, document {}", i + 1);
            added.map_err(|why| SourceError::Document { place, why })?;
        }
    }
    whole.finish()
}

fn read(file: &Path) -> io::Result<String> {
    if file == Path::new("-") {
        let mut text = String::new();
        io::stdin().read_to_string(&mut text)?;
        return Ok(text);
    }
    fs::read_to_string(file)
}

/// What was read so far.
#[derive(Default)]
struct Whole {
    scope: Option<String>,
    label: Option<Value>,
    upserts: Vec<Value>,
    removes: Vec<Value>,
    services: Vec<Value>,
}

impl Whole {
    fn add(&mut self, document: Value) -> Result<(), String> {
        let Value::Object(document) = document else {
            return Err(
                "is no object; write a transaction, or a resource with its \"@type\"".into()
            );
        };
        if document.contains_key("@type") {
            self.upserts.push(json!({"resource": document}));
            return Ok(());
        }
        if let Some(services) = document.get("services") {
            let Value::Array(services) = services else {
                return Err("\"services\" is no list; write one".to_owned());
            };
            if let Some(other) = document.keys().find(|key| *key != "services") {
                return Err(format!("{other:?} has no place beside \"services\"; leave it out"));
            }
            self.services.extend(services.iter().cloned());
            return Ok(());
        }
        if !["scope", "upserts", "removes"].iter().any(|key| document.contains_key(*key)) {
            return Err(
                "has neither \"@type\", as a resource, nor \"upserts\" or \"removes\", as a \
                        transaction, nor \"services\"; write one of them"
                    .to_owned(),
            );
        }
        self.add_transaction(document)
    }

    fn add_transaction(&mut self, document: Map<String, Value>) -> Result<(), String> {
        for (key, value) in document {
            match (key.as_str(), value) {
                ("scope", Value::String(scope)) => self.is_in(scope)?,
                ("upserts", Value::Array(upserts)) => self.upserts.extend(upserts),
                ("removes", Value::Array(removes)) => self.removes.extend(removes),
                ("label", label) => self.label = Some(label),
                ("scope", _) => return Err("\"scope\" is no string; write one".to_owned()),
                ("upserts" | "removes", _) => return Err(format!("{key:?} is no list; write one")),
                _ => return Err(format!("{key:?} is not known; leave it out")),
            }
        }
        Ok(())
    }

    fn is_in(&mut self, scope: String) -> Result<(), String> {
        match &self.scope {
            Some(other) if *other != scope => Err(format!(
                "is in scope {scope:?}, and what came before in {other:?}; one transaction has one \
                 scope, so apply them one after the other"
            )),
            _ => {
                self.scope = Some(scope);
                Ok(())
            }
        }
    }

    fn finish(self) -> Result<Change, SourceError> {
        if !self.services.is_empty() {
            return self.services();
        }
        let place = "the transaction".to_owned();
        let Some(scope) = self.scope else {
            let why = "has no scope; give --scope, or \"scope\" in a document".to_owned();
            return Err(SourceError::Document { place, why });
        };
        let mut whole = json!({"scope": scope, "upserts": self.upserts, "removes": self.removes});
        if let Some(label) = self.label {
            whole["label"] = label;
        }
        Ok(Change::Transaction(whole))
    }

    fn services(self) -> Result<Change, SourceError> {
        if self.scope.is_some() || !self.upserts.is_empty() || !self.removes.is_empty() {
            let why = "have no scope, and are not stored together with resources; apply these by \
                       themselves, without --scope";
            let place = "\"services\"".to_owned();
            return Err(SourceError::Document { place, why: why.to_owned() });
        }
        Ok(Change::Import(json!({"services": self.services})))
    }
}
