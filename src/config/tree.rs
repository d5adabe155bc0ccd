//! YAML text to a tree of values, and the line on which a key of it stands.
//!
//! The tree is `serde_json::Value`, so that the same readers serve the file and the API. It has no positions; when a
//! value turns out to be wrong, [`line_of`] reads the text a second time and stops at the key in question. That makes
//! the position exact, and costs only the one who made the mistake.
//!
//! Invariants: no key is twice in one map; no tag survives; following aliases costs no more than
//! [`limits::CONFIG_UNFOLDED_MAX`] (the parser itself bounds nesting).

use std::cell::{Cell, RefCell};
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, EnumAccess, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::limits;
use crate::values::{KeyPath, Segment, ValueError};

/// Why a text is not a tree.
#[derive(Debug)]
pub(super) enum TreeError {
    /// It is not YAML, or not in UTF-8, or uses what has no meaning in a configuration.
    Syntax {
        /// Counted from 1.
        line: Option<usize>,
        /// The parser's words.
        message: String,
    },
    /// It is YAML, and a key or value of it cannot be taken.
    Value {
        /// Counted from 1.
        line: Option<usize>,
        /// Which and why.
        error: ValueError,
    },
}

/// Parses one document. An empty one is `null`.
pub(super) fn parse(text: &str) -> Result<Value, TreeError> {
    let state = State { unfolded: Cell::new(0), refused: RefCell::new(None) };
    let seed = Node { state: &state, path: KeyPath::root() };
    let result = seed.deserialize(serde_yaml::Deserializer::from_str(without_mark(text)));
    result.map_err(|error| {
        let line = error.location().map(|location| location.line());
        match state.refused.into_inner() {
            Some(error) => TreeError::Value { line, error },
            None => TreeError::Syntax { line, message: syntax_message(text, line, &error) },
        }
    })
}

/// The parser's words, and its most frequent cause by name: to it a tab is a character like any other.
fn syntax_message(text: &str, line: Option<usize>, error: &serde_yaml::Error) -> String {
    let culprit = line.and_then(|line| text.lines().nth(line - 1));
    let blank = culprit.map_or("", |line| &line[..line.len() - line.trim_start().len()]);
    match blank.contains('\t') {
        true => format!("{error}; the line is indented with a tab, which YAML forbids: use spaces"),
        false => error.to_string(),
    }
}

/// The line, counted from 1, of the key at `path`, or of the map or list that should hold it.
pub(super) fn line_of(text: &str, path: &KeyPath) -> Option<usize> {
    let seed = Finder { rest: path.segments() };
    let found = seed.deserialize(serde_yaml::Deserializer::from_str(without_mark(text)));
    // The finder ends with an error by design: an error is what has a position.
    found.err()?.location().map(|location| location.line())
}

/// Some editors begin a file with a byte order mark.
fn without_mark(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

/// What the nodes of one document share.
struct State {
    /// Values so far and the bytes of their texts.
    unfolded: Cell<usize>,
    /// The typed reason behind the error that travels through serde, which carries only text.
    refused: RefCell<Option<ValueError>>,
}

impl State {
    fn refuse<E: serde::de::Error>(&self, error: ValueError) -> E {
        let text = E::custom(&error);
        self.refused.replace(Some(error));
        text
    }

    fn count<E: serde::de::Error>(&self, cost: usize) -> Result<(), E> {
        self.unfolded.set(self.unfolded.get().saturating_add(cost).saturating_add(1));
        if self.unfolded.get() > limits::CONFIG_UNFOLDED_MAX {
            return Err(E::custom(format!("its aliases unfold to more than {}", limits::CONFIG_UNFOLDED_MAX)));
        }
        Ok(())
    }
}

/// Builds the value at one path.
struct Node<'s> {
    state: &'s State,
    path: KeyPath,
}

impl Node<'_> {
    fn number<E: serde::de::Error>(&self, number: f64) -> Result<Value, E> {
        self.state.count(0)?;
        Number::from_f64(number).map(Value::Number).ok_or_else(|| {
            let (given, allowed) = (number.to_string(), "a finite number".to_owned());
            self.state.refuse(ValueError::NotAllowed { path: self.path.clone(), given, allowed })
        })
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Value, E> {
        self.state.count(0)?;
        Ok(Value::Null)
    }

    fn visit_none<E: serde::de::Error>(self) -> Result<Value, E> {
        self.visit_unit()
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Value, E> {
        self.state.count(0)?;
        Ok(Value::Bool(value))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Value, E> {
        self.state.count(0)?;
        Ok(Value::from(value))
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Value, E> {
        self.state.count(0)?;
        Ok(Value::from(value))
    }

    fn visit_u128<E: serde::de::Error>(self, value: u128) -> Result<Value, E> {
        // Beyond every setting's range, where the nearest float serves to say so.
        self.number(value as f64)
    }

    fn visit_i128<E: serde::de::Error>(self, value: i128) -> Result<Value, E> {
        self.number(value as f64)
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        self.number(value)
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Value, E> {
        self.state.count(value.len())?;
        Ok(Value::from(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        self.state.count(0)?;
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(Node { state: self.state, path: self.path.index(list.len()) })? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        self.state.count(0)?;
        let mut map = Map::new();
        while let Some(key) = members.next_key_seed(NewKey { state: self.state, path: &self.path, map: &map })? {
            let value = members.next_value_seed(Node { state: self.state, path: self.path.key(&key) })?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, _: A) -> Result<Value, A::Error> {
        let (given, allowed) = ("a tag (!)".to_owned(), "a value without one".to_owned());
        Err(self.state.refuse(ValueError::NotAllowed { path: self.path, given, allowed }))
    }
}

/// Reads a key that its map must not have yet. It is the key's own seed that refuses, so that the error's position is
/// that of the key.
struct NewKey<'s> {
    state: &'s State,
    path: &'s KeyPath,
    map: &'s Map<String, Value>,
}

impl<'de> DeserializeSeed<'de> for NewKey<'_> {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        // As text, whatever it looks like: a function may be called `404` or `yes`.
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for NewKey<'_> {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key that is text")
    }

    fn visit_str<E: serde::de::Error>(self, key: &str) -> Result<String, E> {
        self.state.count(key.len())?;
        if self.map.contains_key(key) {
            return Err(self.state.refuse(ValueError::DuplicateKey { path: self.path.key(key) }));
        }
        Ok(key.to_owned())
    }
}

/// Walks along the rest of a path and fails where it ends.
struct Finder<'p> {
    rest: &'p [Segment],
}

impl<'de> DeserializeSeed<'de> for Finder<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Finder<'_> {
    type Value = ();

    /// Also the text of the error that serde makes for every kind of value that has no members.
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the end of the path")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        if let Some((Segment::Index(index), rest)) = self.rest.split_first() {
            for _ in 0..*index {
                items.next_element::<IgnoredAny>()?;
            }
            items.next_element_seed(Finder { rest })?;
        }
        Err(A::Error::custom(&self as &dyn serde::de::Expected))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        if let Some((Segment::Key(key), rest)) = self.rest.split_first() {
            while let Some(matched) = members.next_key_seed(SoughtKey { key, last: rest.is_empty() })? {
                if matched {
                    members.next_value_seed(Finder { rest })?;
                } else {
                    members.next_value::<IgnoredAny>()?;
                }
            }
        }
        Err(A::Error::custom(&self as &dyn serde::de::Expected))
    }
}

/// Compares a key, and fails at it when it is the one the path ends with.
struct SoughtKey<'p> {
    key: &'p str,
    last: bool,
}

impl<'de> DeserializeSeed<'de> for SoughtKey<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for SoughtKey<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key that is text")
    }

    fn visit_str<E: serde::de::Error>(self, key: &str) -> Result<bool, E> {
        match (key == self.key, self.last) {
            (true, true) => Err(E::custom("the end of the path")),
            (matched, _) => Ok(matched),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn problem(text: &str) -> String {
        match parse(text).expect_err(text) {
            TreeError::Syntax { line, message } => format!("{line:?} {message}"),
            TreeError::Value { line, error } => format!("{line:?} {error}"),
        }
    }

    #[test]
    fn kinds_of_values() {
        let text = "\u{feff}a: 1\nb: -1\nc: 1.5\nd: text\ne: 'false'\nf: [true, ~]\n404: {}\nyes: 1e3\n";
        let tree =
            json!({"a": 1, "b": -1, "c": 1.5, "d": "text", "e": "false", "f": [true, null], "404": {}, "yes": 1e3});
        assert_eq!(parse(text).unwrap(), tree);
        for empty in ["", "# only a comment\n", "---\n", "~"] {
            assert_eq!(parse(empty).unwrap(), Value::Null, "{empty:?}");
        }
    }

    #[test]
    fn a_repeated_key_is_found_where_it_stands_the_second_time() {
        assert_eq!(problem("a:\n  b: 1\n\n  b: 2\n"), "Some(4) a.b: given twice; keep one");
        assert_eq!(problem("a: 1\n'a': 2\n"), "Some(2) a: given twice; keep one");
    }

    #[test]
    fn what_has_no_meaning_here_is_refused_with_its_line() {
        assert_eq!(problem("a:\n - 1\n - .nan\n"), "Some(3) a[1]: got NaN; expected a finite number");
        assert_eq!(problem("a:\n  b: !secret x\n"), "Some(2) a.b: got a tag (!); expected a value without one");
        for text in ["a: [1\nb: 2\n", "a: 1\n\tb: 2\n", "a: *nowhere\n", "? [1]\n: 2\n", "a: 1\n---\nb: 2\n"] {
            problem(text);
        }
        assert!(problem("a: 1\nb: [\n").starts_with("Some("));
    }

    #[test]
    fn aliases_are_followed_as_far_as_they_stay_small() {
        assert_eq!(parse("a: &x {b: 1}\nc: *x\n").unwrap(), json!({"a": {"b": 1}, "c": {"b": 1}}));
        let bomb = format!("a: &x {}\nb: [{}]\n", "y".repeat(100_000), "*x,".repeat(1000));
        assert!(problem(&bomb).contains("unfold"));
        let nested = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
        problem(&nested);
    }

    #[test]
    fn the_line_of_a_key() {
        let text = "# comment\nsystem:\n  host: x\n  api_keys:\n    - name: a\n      scopes:\n        - x\n    - name: b\n\nfunctions: {f: {\n timeout: 1}}\n";
        let path = |keys: &[&str]| keys.iter().fold(KeyPath::root(), |path, key| path.key(key));
        assert_eq!(line_of(text, &path(&["system"])), Some(2));
        assert_eq!(line_of(text, &path(&["system", "host"])), Some(3));
        let keys = path(&["system", "api_keys"]);
        assert_eq!(line_of(text, &keys.index(0).key("scopes").index(0)), Some(7));
        assert_eq!(line_of(text, &keys.index(1).key("name")), Some(8));
        assert_eq!(line_of(text, &keys.index(1).key("key")), Some(8), "a missing key is where its map is");
        assert_eq!(line_of(text, &path(&["functions", "f", "timeout"])), Some(11));
        assert_eq!(line_of(text, &path(&["system", "host", "deeper"])), Some(3));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "([a-c&*!:|>#?,'\"{}\\[\\] \t\n-]|[0-9.]|\\PC){0,60}") {
            if let Ok(Value::Object(map)) = parse(&text) {
                for key in map.keys() {
                    prop_assert!(line_of(&text, &KeyPath::root().key(key)).is_some(), "{key:?}");
                }
            }
        }
    }
}
