//! The text of a schema: a line for each message.

use std::{collections::BTreeMap, ops::RangeInclusive};

use super::{ANY, Field, Holds, Message, Schema};

/// What protobuf allows as a field's number.
const NUMBERS: RangeInclusive<u32> = 1..=(1 << 29) - 1;

/// Why a text is no schema, and in which line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("schema, line {line}: {reason}")]
pub struct SchemaError {
    line: usize,
    reason: String,
}

impl SchemaError {
    /// The number of the line, the first being 1.
    #[must_use]
    pub fn line(&self) -> usize {
        self.line
    }
}

/// A line that has been read: a message whose fields still name what they hold.
struct Line<'a> {
    number: usize,
    fields: BTreeMap<u32, Type<'a>>,
}

struct Type<'a> {
    is_map: bool,
    /// `None` for scalars, and for messages that reach no map.
    message: Option<&'a str>,
}

impl Schema {
    /// Reads a schema from its text.
    ///
    /// A line is a message, by its full name without leading dot, and those of its fields that are
    /// maps or hold messages that can reach a map or an `Any`:
    ///
    /// ```text
    /// # the last two are maps, the first of messages and the second of scalars
    /// example.Service 4=google.protobuf.Any 7=example.Policy 9=map:example.Policy 12=map
    /// example.Policy 3=map
    /// ```
    ///
    /// `NUMBER=NAME` is a field, repeated or not, of messages; `NUMBER=map:NAME` a map whose values
    /// are such messages; `NUMBER=map` any other map. A named message has a line of its own, except
    /// `google.protobuf.Any`, which needs none. Messages and fields come in any order. Empty lines,
    /// and lines that start with `#`, say nothing.
    ///
    /// # Errors
    ///
    /// The first line that is not of this form, says the same thing twice, or names a message that
    /// has no line.
    pub fn parse(text: &str) -> Result<Self, SchemaError> {
        let lines = read_lines(text)?;
        // A map's keys come sorted, and so do the messages, as looking them up needs it.
        let names: Vec<&str> = lines.keys().copied().collect();
        let messages = lines.iter().map(|(name, line)| line.resolve(name, &names));
        Ok(Self { messages: messages.collect::<Result<_, _>>()? })
    }
}

impl Line<'_> {
    fn resolve(&self, name: &str, names: &[&str]) -> Result<Message, SchemaError> {
        let field = |(&number, of): (&u32, &Type<'_>)| {
            let holds = match of.message {
                None => Holds::Opaque,
                Some(ANY) => Holds::Any,
                Some(name) => names
                    .binary_search(&name)
                    .map(Holds::Message)
                    .map_err(|_| error(self.number, format!("`{name}` has no line")))?,
            };
            Ok(Field { number, is_map: of.is_map, holds })
        };
        let fields = self.fields.iter().map(field).collect::<Result<_, _>>()?;
        Ok(Message { name: name.into(), fields })
    }
}

fn read_lines(text: &str) -> Result<BTreeMap<&str, Line<'_>>, SchemaError> {
    let mut lines = BTreeMap::new();
    for (number, line) in (1..).zip(text.lines()) {
        let mut words = line.split_whitespace();
        let Some(name) = words.next().filter(|_| !line.starts_with('#')) else {
            continue;
        };
        if name == ANY {
            return Err(error(number, format!("`{ANY}` needs no line")));
        }
        let fields = read_fields(words).map_err(|reason| error(number, reason))?;
        if lines.insert(name, Line { number, fields }).is_some() {
            return Err(error(number, format!("`{name}` already has a line")));
        }
    }
    Ok(lines)
}

fn read_fields<'a>(
    words: impl Iterator<Item = &'a str>,
) -> Result<BTreeMap<u32, Type<'a>>, String> {
    let mut fields = BTreeMap::new();
    for word in words {
        let (number, of) = read_field(word)
            .ok_or_else(|| format!("`{word}` is not NUMBER=NAME, NUMBER=map:NAME or NUMBER=map"))?;
        if fields.insert(number, of).is_some() {
            return Err(format!("field {number} is there twice"));
        }
    }
    if fields.is_empty() {
        return Err("a message without fields needs no line".to_owned());
    }
    Ok(fields)
}

fn read_field(word: &str) -> Option<(u32, Type<'_>)> {
    let (number, of) = word.split_once('=')?;
    let number = number.parse().ok().filter(|number| NUMBERS.contains(number))?;
    let of = match of.strip_prefix("map") {
        Some("") => Type { is_map: true, message: None },
        _ => match of.strip_prefix("map:") {
            Some(name) => Type { is_map: true, message: Some(name) },
            None => Type { is_map: false, message: Some(of) },
        },
    };
    of.message.is_none_or(|name| !name.is_empty()).then_some((number, of))
}

fn error(line: usize, reason: impl Into<String>) -> SchemaError {
    SchemaError { line, reason: reason.into() }
}
