//! One rule of `validate.rules`, and whether a value keeps it.
//!
//! What `protoc-gen-validate` knows besides, and no proto of the Envoy API uses, is not looked at; a test
//! keeps that true.

use std::{collections::HashSet, fmt};

use dashmap::DashMap;
use envoy_types::pb::{
    google::protobuf::Duration,
    validate::{
        BytesRules, DurationRules, EnumRules, FieldRules, KnownRegex, MapRules, RepeatedRules,
        StringRules, field_rules::Type, string_rules::WellKnown,
    },
};
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, Value};
use regex_lite::Regex;

/// Whether a field must be set.
pub(super) fn is_required(rules: &FieldRules) -> bool {
    let by_type = match &rules.r#type {
        Some(Type::Any(rules)) => rules.required(),
        Some(Type::Duration(rules)) => rules.required(),
        Some(Type::Timestamp(rules)) => rules.required(),
        _ => false,
    };
    by_type || rules.message.as_ref().is_some_and(|rules| rules.required())
}

/// Whether messages in a field are left alone.
pub(super) fn is_skipped(rules: &FieldRules) -> bool {
    let of_items = match &rules.r#type {
        Some(Type::Repeated(rules)) => rules.items.as_ref(),
        Some(Type::Map(rules)) => rules.values.as_ref(),
        _ => None,
    };
    let of_items = of_items.and_then(|rules| rules.message.as_ref());
    rules.message.iter().chain(of_items).any(|rules| rules.skip())
}

/// What is wrong with a value that is not repeated.
pub(super) fn scalar(field: &FieldDescriptor, value: &Value, rules: &Type) -> Option<String> {
    match (value, rules) {
        (Value::String(value), Type::String(rules)) => string(value, rules),
        (Value::Bytes(value), Type::Bytes(rules)) => bytes(value, rules),
        (Value::EnumNumber(value), Type::Enum(rules)) => enumeration(field, *value, rules),
        (Value::Bool(value), Type::Bool(rules)) => {
            let expected = rules.r#const.filter(|expected| expected != value)?;
            Some(format!("must be {expected}"))
        }
        (Value::Message(value), Type::Duration(rules)) => duration(value, rules),
        (Value::Message(_), Type::Any(_) | Type::Timestamp(_)) => None,
        // A wrapper, such as `UInt32Value`, is held to the rules of what it wraps.
        (Value::Message(wrapper), rules) => match &*wrapper.get_field_by_number(1)? {
            Value::Message(_) => None,
            value => scalar(field, value, rules),
        },
        (value, rules) => number(value, rules),
    }
}

/// Where a value must lie. If the upper bounds are below the lower ones, it must lie outside of both.
struct Bounds<'a, T> {
    exactly: Option<T>,
    above: Option<T>,
    at_least: Option<T>,
    below: Option<T>,
    at_most: Option<T>,
    among: &'a [T],
    not_among: &'a [T],
}

macro_rules! bounds {
    ($rules:expr) => {
        Bounds {
            exactly: $rules.r#const,
            above: $rules.gt,
            at_least: $rules.gte,
            below: $rules.lt,
            at_most: $rules.lte,
            among: &$rules.r#in,
            not_among: &$rules.not_in,
        }
    };
}

fn number(value: &Value, rules: &Type) -> Option<String> {
    macro_rules! number {
        ($value:expr, $rules:expr) => {{
            if $rules.ignore_empty() && is_zero($value) {
                None
            } else {
                bounds!($rules).violated_by(*$value)
            }
        }};
    }
    match (value, rules) {
        (Value::F32(value), Type::Float(rules)) => number!(value, rules),
        (Value::F64(value), Type::Double(rules)) => number!(value, rules),
        (Value::I32(value), Type::Int32(rules)) => number!(value, rules),
        (Value::I32(value), Type::Sint32(rules)) => number!(value, rules),
        (Value::I32(value), Type::Sfixed32(rules)) => number!(value, rules),
        (Value::I64(value), Type::Int64(rules)) => number!(value, rules),
        (Value::I64(value), Type::Sint64(rules)) => number!(value, rules),
        (Value::I64(value), Type::Sfixed64(rules)) => number!(value, rules),
        (Value::U32(value), Type::Uint32(rules)) => number!(value, rules),
        (Value::U32(value), Type::Fixed32(rules)) => number!(value, rules),
        (Value::U64(value), Type::Uint64(rules)) => number!(value, rules),
        (Value::U64(value), Type::Fixed64(rules)) => number!(value, rules),
        _ => None,
    }
}

fn is_zero<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl<T: Copy + PartialOrd + fmt::Display> Bounds<'_, T> {
    fn violated_by(&self, value: T) -> Option<String> {
        let is_high = self.above.is_none_or(|bound| value > bound)
            && self.at_least.is_none_or(|bound| value >= bound);
        let is_low = self.below.is_none_or(|bound| value < bound)
            && self.at_most.is_none_or(|bound| value <= bound);
        let is_within = if self.is_inverted() { is_high || is_low } else { is_high && is_low };
        let is_right = is_within
            && self.exactly.is_none_or(|expected| value == expected)
            && (self.among.is_empty() || self.among.contains(&value))
            && !self.not_among.contains(&value);
        (!is_right).then(|| format!("is {value}, and must be {}", self.describe()))
    }

    fn is_inverted(&self) -> bool {
        let (low, high) = (self.above.or(self.at_least), self.below.or(self.at_most));
        matches!((low, high), (Some(low), Some(high)) if high < low)
    }

    fn describe(&self) -> String {
        let one = |word: &str, bound: Option<T>| bound.map(|bound| format!("{word} {bound}"));
        let list = |word: &str, values: &[T]| {
            let values: Vec<_> = values.iter().map(ToString::to_string).collect();
            (!values.is_empty()).then(|| format!("{word} {}", values.join(", ")))
        };
        let parts = [
            one("exactly", self.exactly),
            one("above", self.above),
            one("at least", self.at_least),
            one("below", self.below),
            one("at most", self.at_most),
            list("one of", self.among),
            list("none of", self.not_among),
        ];
        let join = if self.is_inverted() { " or " } else { " and " };
        parts.into_iter().flatten().collect::<Vec<_>>().join(join)
    }
}

/// A length of time, in nanoseconds.
#[derive(Clone, Copy, PartialEq, PartialOrd)]
struct Span(i128);

impl Span {
    fn new(seconds: i64, nanos: i32) -> Self {
        Self(i128::from(seconds) * 1_000_000_000 + i128::from(nanos))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}s", self.0 as f64 / 1e9)
    }
}

fn duration(value: &DynamicMessage, rules: &DurationRules) -> Option<String> {
    let seconds = value.get_field_by_number(1)?.as_i64()?;
    let nanos = value.get_field_by_number(2)?.as_i32()?;
    let span = |bound: &Duration| Span::new(bound.seconds, bound.nanos);
    let spans = |bounds: &[Duration]| bounds.iter().map(span).collect::<Vec<_>>();
    let bounds = Bounds {
        exactly: rules.r#const.as_ref().map(span),
        above: rules.gt.as_ref().map(span),
        at_least: rules.gte.as_ref().map(span),
        below: rules.lt.as_ref().map(span),
        at_most: rules.lte.as_ref().map(span),
        among: &spans(&rules.r#in),
        not_among: &spans(&rules.not_in),
    };
    bounds.violated_by(Span::new(seconds, nanos))
}

fn enumeration(field: &FieldDescriptor, value: i32, rules: &EnumRules) -> Option<String> {
    let bounds = Bounds {
        exactly: rules.r#const,
        above: None,
        at_least: None,
        below: None,
        at_most: None,
        among: &rules.r#in,
        not_among: &rules.not_in,
    };
    let is_defined = match field.kind() {
        Kind::Enum(kind) => kind.get_value(value).is_some(),
        _ => true,
    };
    if rules.defined_only() && !is_defined {
        return Some(format!("is {value}, which is no value of its enumeration"));
    }
    bounds.violated_by(value)
}

fn size(
    size: usize,
    unit: &str,
    exactly: Option<u64>,
    min: Option<u64>,
    max: Option<u64>,
) -> Option<String> {
    let (count, min, max) = (size as u64, exactly.or(min), exactly.or(max));
    let is_right = min.is_none_or(|min| count >= min) && max.is_none_or(|max| count <= max);
    let needed = match (min, max) {
        (Some(min), Some(max)) if min == max => format!("{min}"),
        (Some(min), Some(max)) => format!("{min} to {max}"),
        (Some(min), None) => format!("at least {min}"),
        (_, max) => format!("at most {}", max.unwrap_or_default()),
    };
    (!is_right).then(|| format!("has {size} {unit}, and must have {needed}"))
}

fn string(value: &str, rules: &StringRules) -> Option<String> {
    if rules.ignore_empty() && value.is_empty() {
        return None;
    }
    size(value.chars().count(), "characters", rules.len, rules.min_len, rules.max_len)
        .or_else(|| size(value.len(), "bytes", rules.len_bytes, rules.min_bytes, rules.max_bytes))
        .or_else(|| text(value, rules))
}

/// What is wrong with the characters of a string. It does not say what they are.
fn text(value: &str, rules: &StringRules) -> Option<String> {
    let starts = |with: &String| !value.starts_with(with.as_str());
    if let Some(prefix) = rules.prefix.as_ref().filter(|with| starts(with)) {
        return Some(format!("must start with {prefix:?}"));
    }
    let ends = |with: &String| !value.ends_with(with.as_str());
    if let Some(suffix) = rules.suffix.as_ref().filter(|with| ends(with)) {
        return Some(format!("must end with {suffix:?}"));
    }
    if !rules.r#in.is_empty() && !rules.r#in.iter().any(|allowed| allowed == value) {
        return Some(format!("must be one of {}", rules.r#in.join(", ")));
    }
    if let Some(pattern) = rules.pattern.as_ref().filter(|pattern| !matches(pattern, value)) {
        return Some(format!("must match {pattern}"));
    }
    let Some(WellKnown::WellKnownRegex(regex)) = rules.well_known else { return None };
    header(value, KnownRegex::try_from(regex).ok()?, rules.strict.unwrap_or(true))
}

/// What is wrong with the name or value of an HTTP header.
fn header(value: &str, regex: KnownRegex, is_strict: bool) -> Option<String> {
    let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+,-.^_|~`".contains(c);
    let is_right = match regex {
        KnownRegex::Unknown => true,
        _ if !is_strict => !value.contains(['\0', '\n', '\r']),
        KnownRegex::HttpHeaderName => {
            let name = value.strip_prefix(':').unwrap_or(value);
            !name.is_empty() && name.chars().all(is_token)
        }
        KnownRegex::HttpHeaderValue => !value.chars().any(|c| c.is_ascii_control() && c != '\t'),
    };
    let what = if regex == KnownRegex::HttpHeaderName { "name" } else { "value" };
    (!is_right).then(|| format!("has characters that the {what} of a header cannot have"))
}

/// Whether a pattern is found in a text. One that cannot be compiled is found in all, and a test proves
/// that there is none.
fn matches(pattern: &str, text: &str) -> bool {
    static PATTERNS: std::sync::LazyLock<DashMap<String, Option<Regex>>> =
        std::sync::LazyLock::new(DashMap::new);
    if !PATTERNS.contains_key(pattern) {
        PATTERNS.insert(pattern.to_owned(), Regex::new(pattern).ok());
    }
    let regex = PATTERNS.get(pattern);
    regex.as_deref().and_then(Option::as_ref).is_none_or(|regex| regex.is_match(text))
}

fn bytes(value: &[u8], rules: &BytesRules) -> Option<String> {
    if rules.ignore_empty() && value.is_empty() {
        return None;
    }
    size(value.len(), "bytes", rules.len, rules.min_len, rules.max_len)
}

/// What is wrong with a list, apart from its items.
pub(super) fn list(items: &[Value], rules: &RepeatedRules) -> Option<String> {
    if rules.ignore_empty() && items.is_empty() {
        return None;
    }
    let too_many = size(items.len(), "items", None, rules.min_items, rules.max_items);
    too_many.or_else(|| {
        let mut seen = HashSet::new();
        let is_unique = !rules.unique() || items.iter().all(|item| seen.insert(item.to_string()));
        (!is_unique).then(|| "has an item twice".to_owned())
    })
}

/// What is wrong with a map, apart from its entries.
pub(super) fn map(entries: usize, rules: &MapRules) -> Option<String> {
    if rules.ignore_empty() && entries == 0 {
        return None;
    }
    size(entries, "entries", None, rules.min_pairs, rules.max_pairs)
}

/// A key of a map, as it stands in a path.
pub(super) fn key(key: &MapKey) -> String {
    match key {
        MapKey::Bool(key) => key.to_string(),
        MapKey::I32(key) => key.to_string(),
        MapKey::I64(key) => key.to_string(),
        MapKey::U32(key) => key.to_string(),
        MapKey::U64(key) => key.to_string(),
        MapKey::String(key) => format!("{key:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANYWHERE: Bounds<'_, i32> = Bounds {
        exactly: None,
        above: None,
        at_least: None,
        below: None,
        at_most: None,
        among: &[],
        not_among: &[],
    };

    fn within(bounds: &Bounds<'_, i32>) -> Vec<i32> {
        (0..10).filter(|value| bounds.violated_by(*value).is_none()).collect()
    }

    #[test]
    fn a_number_lies_where_the_bounds_say() {
        assert_eq!(within(&ANYWHERE).len(), 10);
        assert_eq!(within(&Bounds { exactly: Some(3), ..ANYWHERE }), [3]);
        assert_eq!(within(&Bounds { above: Some(2), below: Some(5), ..ANYWHERE }), [3, 4]);
        assert_eq!(within(&Bounds { at_least: Some(2), at_most: Some(4), ..ANYWHERE }), [2, 3, 4]);
        let outside = Bounds { above: Some(7), at_most: Some(1), ..ANYWHERE };
        assert_eq!(within(&outside), [0, 1, 8, 9]);
        assert_eq!(outside.violated_by(4).unwrap(), "is 4, and must be above 7 or at most 1");
        let listed = Bounds { among: &[1, 2, 3], not_among: &[2], ..ANYWHERE };
        assert_eq!(within(&listed), [1, 3]);
        assert_eq!(
            listed.violated_by(2).unwrap(),
            "is 2, and must be one of 1, 2, 3 and none of 2"
        );
    }

    #[test]
    fn a_string_is_as_long_and_looks_as_the_rules_say() {
        let wrong = |value: &str, rules: StringRules| string(value, &rules).unwrap_or_default();
        let short = StringRules { max_len: Some(2), max_bytes: Some(3), ..StringRules::default() };
        assert_eq!(wrong("ää", short.clone()), "has 4 bytes, and must have at most 3");
        assert_eq!(wrong("äöü", short), "has 3 characters, and must have at most 2");
        let framed = StringRules {
            prefix: Some("a".into()),
            suffix: Some("z".into()),
            ignore_empty: Some(true),
            ..StringRules::default()
        };
        assert_eq!(wrong("az", framed.clone()), "");
        assert_eq!(wrong("", framed.clone()), "");
        assert_eq!(wrong("z", framed.clone()), "must start with \"a\"");
        assert_eq!(wrong("a", framed), "must end with \"z\"");
        let one = StringRules { r#in: vec!["a".into(), "b".into()], ..StringRules::default() };
        assert_eq!(wrong("b", one.clone()), "");
        assert_eq!(wrong("c", one), "must be one of a, b");
        let pattern = StringRules { pattern: Some("^[^/]*$".into()), ..StringRules::default() };
        assert_eq!(wrong("a", pattern.clone()), "");
        assert_eq!(wrong("a/b", pattern), "must match ^[^/]*$");
    }

    #[test]
    fn the_names_of_headers_are_tokens_if_the_rule_is_strict() {
        let wrong = |value: &str, strict: Option<bool>| {
            let rules = StringRules {
                well_known: Some(WellKnown::WellKnownRegex(KnownRegex::HttpHeaderName as i32)),
                strict,
                ..StringRules::default()
            };
            string(value, &rules).is_some()
        };
        assert!(!wrong(":path", None) && !wrong("x-a", Some(true)));
        assert!(wrong("x a", None) && wrong("", None) && !wrong("x a", Some(false)));
        assert!(wrong("x\na", Some(false)));
    }

    #[test]
    fn an_item_comes_once_where_it_must() {
        let rules = RepeatedRules { unique: Some(true), ..RepeatedRules::default() };
        let items = |items: [u32; 2]| items.map(Value::U32);
        assert_eq!(list(&items([1, 2]), &rules), None);
        assert_eq!(list(&items([1, 1]), &rules).unwrap(), "has an item twice");
        assert_eq!(list(&items([1, 1]), &RepeatedRules::default()), None);
    }
}
