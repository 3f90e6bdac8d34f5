//! What clients say of what they reject.

/// Whether a client's words name a resource. Clients put the name before a colon, in quotes, in
/// parentheses or behind the words "name" or "in route"; elsewhere the same letters may be a word of the sentence, and a
/// cluster may well be called "cluster".
pub(crate) fn mentions(words: &str, name: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '/');
    words.match_indices(name).any(|(at, _)| {
        let before = words.get(..at).unwrap_or_default();
        let after = words.get(at + name.len()..).unwrap_or_default();
        let is_label = after.starts_with(':') && !before.ends_with(is_part);
        let is_quoted =
            ['"', '\'', '`'].iter().any(|q| before.ends_with(*q) && after.starts_with(*q));
        let is_called = ["name ", "in route "].iter().any(|it| before.ends_with(it))
            && !after.starts_with(is_part);
        let is_expected = before.ends_with("(expecting ") && after.starts_with(')');
        is_label || is_quoted || is_called || is_expected
    })
}

#[cfg(test)]
mod tests {
    use super::mentions;

    #[test]
    fn a_name_is_mentioned_only_where_clients_put_names() {
        let words = "Error adding/updating cluster(s) bad: Missing config source, \"b\": x";
        for (words, name) in [
            (words, "bad"),
            (words, "b"),
            ("duplicate name d found among added/updated resources", "d"),
            ("Unexpected EDS cluster (expecting a): other", "a"),
            ("[resource index 1: my.bad: INVALID_ARGUMENT: x]", "my.bad"),
            ("cluster 'x.y' is bad", "x.y"),
            ("bad: bad and bad", "bad"),
            ("Only a single wildcard domain is permitted in route front", "front"),
        ] {
            assert!(mentions(words, name), "{name} in {words}");
        }
        for (words, name) in [
            (words, "a"),
            (words, "cluster"),
            (words, "source"),
            (words, "config"),
            ("cluster bad-2: x", "bad"),
            ("cluster my.bad: x", "bad"),
            ("name bad-2 found", "bad"),
            ("domain is permitted in route front-2", "front"),
            ("resource 'bad-2'", "bad"),
            ("Unexpected EDS cluster (expecting a): other", "other"),
        ] {
            assert!(!mentions(words, name), "{name} in {words}");
        }
    }
}
