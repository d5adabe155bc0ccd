//! The engine's API as typed calls: for each call a function that makes the [`Request`], and one that checks the answer.
//!
//! One file per resource. Pure: nothing here has a socket, a clock or a thread. The version that goes before a path is the
//! client's; what differs between versions, and between Docker and Podman, is said where it is read.
//!
//! Invariants:
//! - What the engine says is checked before it is believed: ids are 64 hex digits, process ids are above 1, texts that
//!   people will read are cut and hold no control characters. Fields that are not known are passed over, ones that are
//!   missing are named.
//! - No answer makes a reader panic, and none makes it hold more than the answer's own bytes.

pub mod containers;
pub mod events;
pub mod images;
pub mod lines;
pub mod logs;
pub mod system;
#[cfg(test)]
mod tests;

use serde::de::DeserializeOwned;
use serde::Deserialize;
use serde_json::Value;

use super::engine_error::EngineError;
use super::http::request::{percent_encoded, Method, ReplyKind, Request};
use crate::limits;

/// Whether it is an engine's id of a container: 64 hex digits in lower case.
pub fn is_container_id(text: &str) -> bool {
    is_digest(text)
}

/// An engine's id of an image, `sha256:` and 64 hex digits in lower case, if it is one. Podman leaves out what it begins
/// with.
pub fn image_id(text: &str) -> Option<String> {
    let digest = text.strip_prefix("sha256:").unwrap_or(text);
    is_digest(digest).then(|| format!("sha256:{digest}"))
}

fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// A call that is answered as a whole, soon, and shortly.
fn call(method: Method, path: String, body: Option<&Value>) -> Request {
    Request {
        method,
        path,
        is_versioned: true,
        body: body.map(|body| body.to_string().into_bytes()),
        registry_auth: None,
        reply: ReplyKind::Whole { bytes_max: limits::ENGINE_REPLY_BYTES_MAX },
        timeout: limits::ENGINE_CALL_TIMEOUT,
        idle_timeout: None,
    }
}

/// A parameter of a query whose value is JSON, as the engine's filters are.
fn filters(filters: &Value) -> String {
    format!("filters={}", percent_encoded(&filters.to_string()))
}

/// What the engine says in an error's body, as one line of bounded length.
#[derive(Deserialize)]
struct ErrorBody {
    message: String,
}

/// The error that an answer with this status is, unless the status is one of these.
fn expect(what: &str, status: u16, good: &[u16], body: &[u8]) -> Result<(), EngineError> {
    if good.contains(&status) {
        return Ok(());
    }
    Err(EngineError::Refused { what: what.to_owned(), status, message: refusal(body) })
}

/// Why an engine refuses, from the body of its answer: as it says, on one line.
pub fn refusal(body: &[u8]) -> String {
    match serde_json::from_slice::<ErrorBody>(body) {
        Ok(ErrorBody { message }) => line(&message),
        Err(_) => line(&String::from_utf8_lossy(body)),
    }
}

/// Reads JSON; an error names what is missing or wrong.
fn decode<T: DeserializeOwned>(what: &str, body: &[u8]) -> Result<T, EngineError> {
    serde_json::from_slice(body)
        .map_err(|error| EngineError::Garbage { what: what.to_owned(), detail: line(&error.to_string()) })
}

fn garbage(what: &str, detail: String) -> EngineError {
    EngineError::Garbage { what: what.to_owned(), detail }
}

/// A text of the engine's for people: on one line, without control characters, and not too long.
pub fn line(text: &str) -> String {
    let mut shown: String = text
        .trim()
        .chars()
        .take(limits::ENGINE_TEXT_CHARS_MAX)
        .map(|character| if character.is_control() { ' ' } else { character })
        .collect();
    if text.trim().chars().nth(limits::ENGINE_TEXT_CHARS_MAX).is_some() {
        shown.push('…');
    }
    shown
}

/// `null`, as Go writes what is empty, as the empty thing that it stands for.
fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}
