//! JSON from outside, in which no key is given twice.
//!
//! What a repeated key means is for each reader of JSON to choose: whoever looks at a request before this server does
//! may have seen another name or another limit than the one that counts here. The configuration file refuses it too.

use std::cell::RefCell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::{KeyPath, ValueError};

/// Why there is no value.
#[derive(Debug)]
pub enum JsonError {
    /// It is not JSON.
    Syntax(serde_json::Error),
    /// It is JSON, and a key of it is given twice.
    Value(ValueError),
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JsonError::Syntax(error) => write!(f, "not JSON: {error}"),
            JsonError::Value(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for JsonError {}

/// Parses one document, which is all there may be.
///
/// # Errors
/// Those of [`JsonError`].
pub fn parse(bytes: &[u8]) -> Result<Value, JsonError> {
    let refused = RefCell::new(None);
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = Node { at: &Place::Root, refused: &refused }.deserialize(&mut deserializer);
    match (value.and_then(|value| deserializer.end().map(|()| value)), refused.into_inner()) {
        (Ok(value), _) => Ok(value),
        (Err(_), Some(error)) => Err(JsonError::Value(error)),
        (Err(error), None) => Err(JsonError::Syntax(error)),
    }
}

/// Where a value is, as a chain back to the root: it becomes a path only for an error, since a hostile document has
/// long keys above a great many values.
enum Place<'p> {
    Root,
    Key(&'p Place<'p>, &'p str),
    Index(&'p Place<'p>, usize),
}

impl Place<'_> {
    fn path(&self) -> KeyPath {
        match self {
            Place::Root => KeyPath::root(),
            Place::Key(parent, key) => parent.path().key(key),
            Place::Index(parent, index) => parent.path().index(*index),
        }
    }
}

/// Builds the value at one place.
struct Node<'n> {
    at: &'n Place<'n>,
    /// The typed reason behind the error that travels through serde, which carries only text.
    refused: &'n RefCell<Option<ValueError>>,
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

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        loop {
            let at = Place::Index(self.at, list.len());
            match items.next_element_seed(Node { at: &at, refused: self.refused })? {
                Some(item) => list.push(item),
                None => return Ok(Value::Array(list)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = members.next_key::<String>()? {
            if map.contains_key(&key) {
                let error = ValueError::DuplicateKey { path: self.at.path().key(&key) };
                let text = A::Error::custom(&error);
                self.refused.replace(Some(error));
                return Err(text);
            }
            let value = members.next_value_seed(Node { at: &Place::Key(self.at, &key), refused: self.refused })?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_key_twice_is_what_serde_makes_of_it() {
        for text in [
            "null",
            "[]",
            "{}",
            r#"{"a":[1,-1,1.5,1e300,18446744073709551615,true,"x\n\u00e4",null],"b":{"a":{"a":1}}}"#,
        ] {
            assert_eq!(parse(text.as_bytes()).unwrap(), serde_json::from_str::<Value>(text).unwrap());
        }
    }

    #[test]
    fn a_key_given_twice_is_refused_by_its_path() {
        let problem = |text: &str| parse(text.as_bytes()).unwrap_err().to_string();
        assert_eq!(problem(r#"{"a":1,"a":1}"#), "a: given twice; keep one");
        assert_eq!(problem(r#"{"a":1,"b":2,"\u0061":1}"#), "a: given twice; keep one");
        assert_eq!(problem(r#"{"config":{"timeout":1,"timeout":2}}"#), "config.timeout: given twice; keep one");
        assert_eq!(problem(r#"[0,{"a":1,"a":2}]"#), "[1].a: given twice; keep one");
        assert!(parse(br#"{"a":{"x":1},"b":{"x":1}}"#).is_ok());
    }

    #[test]
    fn what_is_not_one_document_is_refused() {
        let deep = "[".repeat(100_000);
        for text in ["", "{", "{} {}", "{} x", "nul", "{\"a\":1e999}", "\"\u{1}\"", deep.as_str()] {
            assert!(matches!(parse(text.as_bytes()), Err(JsonError::Syntax(_))), "{text:.20}");
        }
        assert!(matches!(parse(b"\"\xff\""), Err(JsonError::Syntax(_))));
    }
}
