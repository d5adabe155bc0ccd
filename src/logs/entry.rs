//! One entry of a function's log, and the point from which a reader wants them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::limits::LOG_ENTRY_BYTES_MAX;
use crate::rfc3339;

/// Where an entry comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogStream {
    /// `sys.stdout`.
    Stdout,
    /// `sys.stderr`, and with it the `logging` module.
    Stderr,
    /// The traceback of an exception that the handler or the top-level code raised.
    Traceback,
    /// Raw writes to the descriptors 1 and 2, by native code or child processes.
    Output,
    /// The server about the log itself or about the instance.
    System,
}

/// An entry as it is appended. Its JSON form is that of the API and of the files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEntry {
    /// When, milliseconds since the Unix epoch; RFC 3339 in JSON.
    #[serde(rename = "time", serialize_with = "write_time", deserialize_with = "read_time")]
    pub time_ms: u64,
    /// The call that was running, empty when none was (while loading).
    pub request_id: String,
    /// The instance, `i3-17`; empty when there is none.
    pub instance: String,
    /// The function's version, 0 when it is not known.
    pub version: u64,
    /// Where it comes from.
    pub stream: LogStream,
    /// The text, without its line feed.
    pub message: String,
}

impl LogEntry {
    /// Cuts the message to [`LOG_ENTRY_BYTES_MAX`], between two characters.
    pub(super) fn cut(&mut self) {
        let mut end = LOG_ENTRY_BYTES_MAX;
        if self.message.len() > end {
            while !self.message.is_char_boundary(end) {
                end -= 1;
            }
            self.message.truncate(end);
        }
    }

    /// The memory that the entry takes, about.
    pub(super) fn bytes(&self) -> usize {
        size_of::<LoggedEntry>() + self.message.len() + self.request_id.len() + self.instance.len()
    }
}

/// An entry with its place in the function's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoggedEntry {
    /// 1 for the function's first entry, then one more each. A reader passes the last it saw as [`Since::Sequence`].
    pub seq: u64,
    /// The entry.
    #[serde(flatten)]
    pub entry: LogEntry,
}

/// From where on a reader wants entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    /// Those after the entry with this sequence number. Written as a decimal number.
    Sequence(u64),
    /// Those at or after this time, milliseconds since the Unix epoch. Written as RFC 3339.
    Time(u64),
}

impl Since {
    /// Whether the reader wants `logged`.
    pub(super) fn admits(self, logged: &LoggedEntry) -> bool {
        match self {
            Since::Sequence(seq) => logged.seq > seq,
            Since::Time(time_ms) => logged.entry.time_ms >= time_ms,
        }
    }
}

/// The text is neither a sequence number nor a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SinceError;

impl fmt::Display for SinceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("neither an entry's sequence number nor an RFC 3339 time such as 2025-11-23T06:18:33Z")
    }
}

impl std::error::Error for SinceError {}

impl FromStr for Since {
    type Err = SinceError;

    fn from_str(text: &str) -> Result<Self, SinceError> {
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            return text.parse().map(Since::Sequence).map_err(|_| SinceError);
        }
        rfc3339::parse(text).map(Since::Time).ok_or(SinceError)
    }
}

fn write_time<S: Serializer>(time_ms: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&rfc3339::format(*time_ms))
}

fn read_time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let text = String::deserialize(deserializer)?;
    rfc3339::parse(&text).ok_or_else(|| serde::de::Error::custom("not an RFC 3339 time"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_a_sequence_number_or_a_time() {
        assert_eq!("0".parse(), Ok(Since::Sequence(0)));
        assert_eq!("18446744073709551615".parse(), Ok(Since::Sequence(u64::MAX)));
        assert_eq!("1970-01-01T00:00:01Z".parse(), Ok(Since::Time(1000)));
        for bad in ["", "-1", "+1", "1.5", "18446744073709551616", "yesterday", "1970-01-01"] {
            assert_eq!(bad.parse::<Since>(), Err(SinceError), "{bad}");
        }
    }

    #[test]
    fn json_form() {
        let entry = LogEntry {
            time_ms: 42,
            request_id: "r".to_string(),
            instance: "i0-1".to_string(),
            version: 3,
            stream: LogStream::Traceback,
            message: "line\n\u{1}é".to_string(),
        };
        let logged = LoggedEntry { seq: 7, entry };
        let json = serde_json::to_string(&logged).unwrap();
        assert_eq!(
            json,
            concat!(
                r#"{"seq":7,"time":"1970-01-01T00:00:00.042Z","request_id":"r","instance":"i0-1","version":3,"#,
                r#""stream":"traceback","message":"line\n\u0001é"}"#
            )
        );
        assert_eq!(serde_json::from_str::<LoggedEntry>(&json).unwrap(), logged);
    }
}
