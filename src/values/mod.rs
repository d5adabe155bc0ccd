//! Reading values that came from outside (the configuration file, a JSON body, an environment variable): where a value
//! is, what it may be, and how to say that it is not.
//!
//! Owns the key path, the one error that names it, and the checked readers ([`Entry`], [`Table`]). Knows no setting by
//! name: those are with `config` and `registry::settings`.
//!
//! Invariants: a reader either returns a value that was checked whole or an error that names the key, what was given
//! and what is allowed; `null` counts as not given; what is shown of a given value is cut to
//! [`limits::GIVEN_SHOWN_CHARS_MAX`] characters.

mod error;
pub mod json;
pub mod nearest;
pub mod units;

use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use crate::limits;

pub use error::{KeyPath, Segment, ValueError};

/// One value and where it is.
#[derive(Debug, Clone)]
pub struct Entry<'a> {
    path: KeyPath,
    value: &'a Value,
}

impl<'a> Entry<'a> {
    /// The value at this path.
    pub fn new(path: KeyPath, value: &'a Value) -> Self {
        Self { path, value }
    }

    /// Where it is.
    pub fn path(&self) -> &KeyPath {
        &self.path
    }

    /// `true` or `false`.
    pub fn boolean(&self) -> Result<bool, ValueError> {
        self.value.as_bool().ok_or_else(|| self.wrong_kind("true or false"))
    }

    /// Any text.
    pub fn text(&self) -> Result<&'a str, ValueError> {
        self.value.as_str().ok_or_else(|| self.wrong_kind("text"))
    }

    /// Text for which `holds`; otherwise the error says that `allowed` was expected.
    pub fn text_where(&self, allowed: &str, holds: impl FnOnce(&str) -> bool) -> Result<&'a str, ValueError> {
        let text = self.value.as_str().ok_or_else(|| self.wrong_kind(allowed))?;
        if holds(text) {
            Ok(text)
        } else {
            Err(self.not_allowed(allowed))
        }
    }

    /// A whole number in this range.
    pub fn integer(&self, range: RangeInclusive<u64>) -> Result<u64, ValueError> {
        let allowed = format!("a whole number from {} to {}", range.start(), range.end());
        self.number_in(range, allowed, Value::as_u64)
    }

    /// A time in milliseconds: a number of seconds, or text with a unit.
    pub fn duration_ms(&self, range: RangeInclusive<u64>) -> Result<u64, ValueError> {
        let (least, most) = (units::format_duration(*range.start()), units::format_duration(*range.end()));
        let allowed = format!("{least} to {most}, as a number of seconds or with a unit (500ms, 30s, 5m, 1h)");
        self.number_in(range, allowed, |value| match value {
            Value::String(text) => units::parse_duration_ms(text),
            other => units::round(other.as_f64()? * 1000.0),
        })
    }

    /// A size in bytes: a number, or text with a unit.
    pub fn bytes(&self, range: RangeInclusive<u64>) -> Result<u64, ValueError> {
        let (least, most) = (units::format_bytes(*range.start()), units::format_bytes(*range.end()));
        let allowed = format!("{least} to {most}, as a number of bytes or with a unit (256Mi, 1Gi, 64M)");
        self.number_in(range, allowed, |value| match value {
            Value::String(text) => units::parse_bytes(text),
            other => other.as_u64(),
        })
    }

    /// A share of the processor in thousandths of a core: a number of cores, or text, with `m` for thousandths.
    pub fn cpu_millis(&self, range: RangeInclusive<u64>) -> Result<u64, ValueError> {
        let (least, most) = (units::format_cpu_millis(*range.start()), units::format_cpu_millis(*range.end()));
        let allowed = format!("{least} to {most}, as a number of cores or in thousandths (100m, 1.5)");
        self.number_in(range, allowed, |value| match value {
            Value::String(text) => units::parse_cpu_millis(text),
            other => units::round(other.as_f64()? * 1000.0),
        })
    }

    /// One of these names, in upper or lower case.
    pub fn one_of<T: Copy>(&self, choices: &[(&str, T)]) -> Result<T, ValueError> {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        let allowed = match names.split_last() {
            Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
            _ => names.join(""),
        };
        let text = self.value.as_str().ok_or_else(|| self.wrong_kind(&allowed))?;
        let chosen = choices.iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
        chosen.map(|(_, choice)| *choice).ok_or_else(|| self.not_allowed(&allowed))
    }

    /// The members of a list.
    pub fn list(&self) -> Result<Vec<Entry<'a>>, ValueError> {
        let items = self.value.as_array().ok_or_else(|| self.wrong_kind("a list"))?;
        Ok(items.iter().enumerate().map(|(index, value)| Entry::new(self.path.index(index), value)).collect())
    }

    /// The members of a map whose keys are free.
    pub fn map(&self) -> Result<Vec<(&'a str, Entry<'a>)>, ValueError> {
        let map = self.value.as_object().ok_or_else(|| self.wrong_kind("a map of names to values"))?;
        Ok(map.iter().map(|(key, value)| (key.as_str(), Entry::new(self.path.key(key), value))).collect())
    }

    /// A map whose keys are all among `known`. A `null` is an empty one: that is how YAML reads a section whose every
    /// line is commented out.
    pub fn table(&self, known: &'static [&'static str]) -> Result<Table<'a>, ValueError> {
        match self.value {
            Value::Null => Ok(Table { path: self.path.clone(), map: None }),
            Value::Object(map) => Table::new(self.path.clone(), map, known),
            _ => Err(self.wrong_kind("a map of settings")),
        }
    }

    /// The error for a value of the wrong kind.
    pub fn wrong_kind(&self, allowed: &str) -> ValueError {
        ValueError::WrongKind { path: self.path.clone(), given: describe(self.value), allowed: allowed.to_owned() }
    }

    /// The error for a value that the setting may not have. Shows the value: not for secrets.
    pub fn not_allowed(&self, allowed: &str) -> ValueError {
        ValueError::NotAllowed { path: self.path.clone(), given: describe(self.value), allowed: allowed.to_owned() }
    }

    /// Like [`Entry::not_allowed`] for a value that must not be shown.
    pub fn secret_not_allowed(&self, allowed: &str) -> ValueError {
        ValueError::NotAllowed {
            path: self.path.clone(),
            given: kind(self.value).to_owned() + " (not shown)",
            allowed: allowed.to_owned(),
        }
    }

    fn number_in(
        &self,
        range: RangeInclusive<u64>,
        allowed: String,
        parse: impl FnOnce(&Value) -> Option<u64>,
    ) -> Result<u64, ValueError> {
        match parse(self.value) {
            Some(number) if range.contains(&number) => Ok(number),
            _ if self.value.is_number() || self.value.is_string() => Err(self.not_allowed(&allowed)),
            _ => Err(self.wrong_kind(&allowed)),
        }
    }
}

/// A map whose keys were checked against the known ones.
#[derive(Debug, Clone)]
pub struct Table<'a> {
    path: KeyPath,
    map: Option<&'a Map<String, Value>>,
}

impl<'a> Table<'a> {
    /// Checks that every key of `map` is known.
    pub fn new(path: KeyPath, map: &'a Map<String, Value>, known: &'static [&'static str]) -> Result<Self, ValueError> {
        match map.keys().find(|key| !known.contains(&key.as_str())) {
            Some(unknown) => Err(ValueError::UnknownKey { path: path.key(unknown), known }),
            None => Ok(Self { path, map: Some(map) }),
        }
    }

    /// A table in which nothing is given.
    pub fn empty(path: KeyPath) -> Self {
        Self { path, map: None }
    }

    /// Where it is.
    pub fn path(&self) -> &KeyPath {
        &self.path
    }

    /// The value of this key, if one is given. A `null` is none.
    pub fn get(&self, key: &str) -> Option<Entry<'a>> {
        let value = self.map?.get(key)?;
        (!value.is_null()).then(|| Entry::new(self.path.key(key), value))
    }

    /// The value of this key as `read` makes it, if one is given.
    pub fn read<T>(
        &self,
        key: &str,
        read: impl FnOnce(Entry<'a>) -> Result<T, ValueError>,
    ) -> Result<Option<T>, ValueError> {
        self.get(key).map(read).transpose()
    }

    /// The map under this key, empty if none is given.
    pub fn table(&self, key: &str, known: &'static [&'static str]) -> Result<Table<'a>, ValueError> {
        match self.get(key) {
            Some(entry) => entry.table(known),
            None => Ok(Table::empty(self.path.key(key))),
        }
    }
}

/// An IP address, or `localhost` for 127.0.0.1.
pub fn parse_host(text: &str) -> Option<IpAddr> {
    if text.eq_ignore_ascii_case("localhost") {
        return Some(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    text.parse().ok()
}

/// Shortens what was given to what a message shows of it.
pub fn cut(text: &str) -> String {
    match text.char_indices().nth(limits::GIVEN_SHOWN_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a map",
    }
}

fn describe(value: &Value) -> String {
    match value {
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::String(text) => format!("{:?}", cut(text)),
        Value::Array(items) if items.is_empty() => "an empty list".to_owned(),
        other => kind(other).to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn entry(value: &Value) -> Entry<'_> {
        Entry::new(KeyPath::root().key("system").key("some_key"), value)
    }

    #[test]
    fn an_unknown_key_names_the_nearest_or_all() {
        const KNOWN: &[&str] = &["warm_instance_ttl", "host"];
        let error = |key: &str| {
            let map = Map::from_iter([(key.to_owned(), json!(1))]);
            Table::new(KeyPath::root().key("system"), &map, KNOWN).unwrap_err().to_string()
        };
        assert_eq!(
            error("warm_instance_tll"),
            "system.warm_instance_tll: unknown key; did you mean warm_instance_ttl?"
        );
        assert_eq!(error("colour"), "system.colour: unknown key; known are warm_instance_ttl, host");
    }

    #[test]
    fn an_error_names_the_key_what_was_given_and_what_is_allowed() {
        let error = |result: Result<u64, ValueError>| result.unwrap_err().to_string();
        assert_eq!(
            error(entry(&json!(-1)).integer(0..=9)),
            "system.some_key: got -1; expected a whole number from 0 to 9"
        );
        assert_eq!(
            error(entry(&json!([1])).integer(0..=9)),
            "system.some_key: got a list; expected a whole number from 0 to 9"
        );
        assert!(error(entry(&json!("x".repeat(1000))).bytes(0..=1024)).len() < 200, "what is shown is cut");
    }

    #[test]
    fn a_secret_is_not_shown() {
        let value = json!("hunter2");
        assert!(!entry(&value).secret_not_allowed("a longer one").to_string().contains("hunter2"));
    }

    #[test]
    fn a_choice_is_taken_in_either_case_and_the_error_lists_them() {
        let choices = [("strict", 1), ("standard", 2), ("none", 3)];
        assert_eq!(entry(&json!("STRICT")).one_of(&choices), Ok(1));
        let error = entry(&json!("loose")).one_of(&choices).unwrap_err().to_string();
        assert_eq!(error, r#"system.some_key: got "loose"; expected strict, standard or none"#);
    }

    #[test]
    fn null_is_not_given() {
        let map = Map::from_iter([("host".to_owned(), Value::Null)]);
        assert!(Table::new(KeyPath::root(), &map, &["host"]).unwrap().get("host").is_none());
    }
}
