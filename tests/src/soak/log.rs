//! What servers logged that is worth somebody's attention, by kind.

use std::collections::BTreeMap;

use super::content::WORDS;

/// Lines of one kind.
#[derive(Debug, Default)]
pub(super) struct Lines {
    pub(super) times: usize,
    /// Why there may be such lines; nothing, if there may be none.
    pub(super) reason: Option<&'static str>,
    /// One of them.
    pub(super) example: String,
}

/// What may be there, by what it begins with, and why.
const EXPECTED: [(&str, &str); 4] = [
    ("client rejected resources", "bad resources were stored on purpose"),
    ("clients that should go to other servers come back", "each client's way leads to one server"),
    ("connections that did not end in time are cut", "some clients do not read on purpose"),
    ("some connections did not end in time", "some clients do not read on purpose"),
];

/// All warnings and errors, and what is no line of a log at all, by level and message.
pub(super) fn kinds(logs: impl IntoIterator<Item = String>) -> BTreeMap<(String, String), Lines> {
    let mut kinds: BTreeMap<(String, String), Lines> = BTreeMap::new();
    for line in logs.into_iter().flat_map(|log| log.lines().map(str::to_owned).collect::<Vec<_>>())
    {
        let (level, message) = split(&line);
        if matches!(level, "TRACE" | "DEBUG" | "INFO") {
            continue;
        }
        let lines = kinds.entry((level.to_owned(), message)).or_default();
        let reason = reason(&line);
        // One that is not expected is the one to show.
        if lines.times == 0 || (reason.is_none() && lines.reason.is_some()) {
            (lines.reason, lines.example) = (reason, line);
        }
        lines.times += 1;
    }
    kinds
}

/// The level of a line, and what it says before its fields.
fn split(line: &str) -> (&str, String) {
    let mut words = line.split_whitespace();
    let time = words.next().unwrap_or_default();
    let (Some(level), Some(_)) = (words.next(), words.next()) else {
        return ("none", "not a line of the log".to_owned());
    };
    if !time.ends_with('Z') || !["TRACE", "DEBUG", "INFO", "WARN", "ERROR"].contains(&level) {
        return ("none", "not a line of the log".to_owned());
    }
    let message = words.take_while(|word| !word.contains('='));
    (level, message.collect::<Vec<_>>().join(" "))
}

fn reason(line: &str) -> Option<&'static str> {
    let (_, message) = split(line);
    let (begin, reason) = EXPECTED.iter().find(|(begin, _)| message.starts_with(begin))?;
    let is_known = *begin != EXPECTED[0].0 || WORDS.iter().any(|words| line.contains(words));
    is_known.then_some(*reason)
}

#[cfg(test)]
mod tests {
    use super::kinds;

    #[test]
    fn what_nobody_expects_is_found() {
        let line = |level: &str, rest: &str| {
            format!("2026-01-01T00:00:00.000Z {level} deltaplane::x: {rest}\n")
        };
        let log = [
            line(" INFO", "client connected client=1"),
            line(" WARN", "client rejected resources client=1 error=\"there is a mistake in x\""),
            line(" WARN", "client rejected resources client=1 error=\"there is no room\""),
            "thread 'main' panicked at src/main.rs:1\n".to_owned(),
        ];
        let kinds = kinds([log.concat()]);
        let found: Vec<_> =
            kinds.iter().map(|((level, _), lines)| (level.as_str(), lines.times)).collect();
        assert_eq!(found, [("WARN", 2), ("none", 1)]);
        assert!(kinds.values().all(|lines| lines.reason.is_none()), "{kinds:?}");
        assert!(kinds.values().any(|lines| lines.example.contains("no room")));
    }
}
