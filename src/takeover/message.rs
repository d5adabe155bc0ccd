//! What two servers say to each other: one datagram each, small, with a version, checked before it is believed.
//!
//! Owns the form of the messages. Who may say what and when is decided by `incumbent` and `successor`.
//!
//! A datagram is `faas`, the version of this protocol, the kind, two bytes of zero, and the payload: JSON, but for the
//! bytes of a connection. Descriptors ride along with `Offer` (lock, listener), `Yours` (what is logged) and
//! `Connection` (its socket).

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::limits::TAKEOVER_MESSAGE_BYTES_MAX;
use crate::logs::LogEntry;

/// The version of the protocol. One that differs is refused: the operator then restarts with a short break.
pub const PROTOCOL: u8 = 1;

const MAGIC: [u8; 4] = *b"faas";
const HEADER_BYTES: usize = 8;

/// Who speaks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Introduction {
    /// Its process id.
    pub pid: u32,
    /// Its version, for people.
    pub version: String,
    /// The form in which it stores functions.
    pub schema: i64,
}

/// A line of a function's log, on its way to the process that writes the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoggedElsewhere {
    /// Whose log.
    pub function: String,
    /// The entry.
    pub entry: LogEntry,
}

/// A message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// The successor says who it is.
    Hello(Introduction),
    /// The incumbent says who it is, and hands out what may be shared.
    Offer(Introduction),
    /// The incumbent will not, and says why.
    Refused(String),
    /// The successor is ready: no change from here on.
    Freeze,
    /// All changes are on the disk.
    Frozen,
    /// The successor has read them, and wants to serve.
    Go {
        /// Whether it listens on the socket that was offered, and not on one of its own.
        inherits_listener: bool,
    },
    /// The state and the listener are the successor's.
    Yours,
    /// A client's connection, with the bytes that were read from it and not acted on.
    Connection(Vec<u8>),
    /// Something was logged by a function that still runs in the incumbent.
    Log(LoggedElsewhere),
}

/// Why a datagram is no message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MessageError {
    /// It does not begin as one.
    NotOurs,
    /// It is of another version of the protocol.
    Protocol {
        /// Which.
        found: u8,
    },
    /// There is no such kind.
    Kind {
        /// Its number.
        found: u8,
    },
    /// It is longer than any may be.
    TooLong,
    /// Its payload does not read as this kind's.
    Payload {
        /// The kind's number.
        kind: u8,
        /// What is wrong.
        reason: String,
    },
    /// It is a message, of a kind that makes no sense here.
    Misplaced {
        /// Its name.
        name: &'static str,
    },
    /// The descriptors that belong to it are not there.
    Descriptors {
        /// How many came.
        found: usize,
        /// How many should have.
        expected: usize,
    },
}

impl fmt::Display for MessageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MessageError::NotOurs => f.write_str("what came is no message of a server"),
            MessageError::Protocol { found } => write!(f, "it speaks version {found} of this protocol, not {PROTOCOL}"),
            MessageError::Kind { found } => write!(f, "a message of the unknown kind {found}"),
            MessageError::TooLong => write!(f, "a message of more than {TAKEOVER_MESSAGE_BYTES_MAX} bytes"),
            MessageError::Payload { kind, reason } => {
                write!(f, "a message of kind {kind} that cannot be read: {reason}")
            }
            MessageError::Misplaced { name } => write!(f, "the message {name} came instead"),
            MessageError::Descriptors { found, expected } => write!(f, "{found} descriptors came, and not {expected}"),
        }
    }
}

impl std::error::Error for MessageError {}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct GoPayload {
    inherits_listener: bool,
}

impl Message {
    /// Its name, for the log.
    pub fn name(&self) -> &'static str {
        match self {
            Message::Hello(_) => "Hello",
            Message::Offer(_) => "Offer",
            Message::Refused(_) => "Refused",
            Message::Freeze => "Freeze",
            Message::Frozen => "Frozen",
            Message::Go { .. } => "Go",
            Message::Yours => "Yours",
            Message::Connection(_) => "Connection",
            Message::Log(_) => "Log",
        }
    }

    fn kind(&self) -> u8 {
        match self {
            Message::Hello(_) => 1,
            Message::Offer(_) => 2,
            Message::Refused(_) => 3,
            Message::Freeze => 4,
            Message::Frozen => 5,
            Message::Go { .. } => 6,
            Message::Yours => 7,
            Message::Connection(_) => 8,
            Message::Log(_) => 9,
        }
    }

    /// Its datagram.
    pub fn encode(&self) -> Vec<u8> {
        // Strings and numbers always serialise.
        let payload = match self {
            Message::Hello(who) | Message::Offer(who) => serde_json::to_vec(who).unwrap_or_default(),
            Message::Refused(reason) => serde_json::to_vec(reason).unwrap_or_default(),
            Message::Go { inherits_listener } => {
                serde_json::to_vec(&GoPayload { inherits_listener: *inherits_listener }).unwrap_or_default()
            }
            Message::Connection(bytes) => bytes.clone(),
            Message::Log(logged) => serde_json::to_vec(logged).unwrap_or_default(),
            Message::Freeze | Message::Frozen | Message::Yours => Vec::new(),
        };
        let mut datagram = Vec::with_capacity(HEADER_BYTES + payload.len());
        datagram.extend_from_slice(&MAGIC);
        datagram.extend_from_slice(&[PROTOCOL, self.kind(), 0, 0]);
        datagram.extend_from_slice(&payload);
        datagram
    }

    /// Reads a datagram.
    ///
    /// # Errors
    /// When it is no message that this release knows.
    pub fn decode(datagram: &[u8]) -> Result<Message, MessageError> {
        if datagram.len() > TAKEOVER_MESSAGE_BYTES_MAX {
            return Err(MessageError::TooLong);
        }
        let Some((header, payload)) = datagram.split_at_checked(HEADER_BYTES) else {
            return Err(MessageError::NotOurs);
        };
        let [m0, m1, m2, m3, protocol, kind, 0, 0] = *header else { return Err(MessageError::NotOurs) };
        if [m0, m1, m2, m3] != MAGIC {
            return Err(MessageError::NotOurs);
        }
        if protocol != PROTOCOL {
            return Err(MessageError::Protocol { found: protocol });
        }
        let empty = |message| match payload {
            [] => Ok(message),
            _ => Err(MessageError::Payload { kind, reason: "it should have no payload".to_owned() }),
        };
        match kind {
            1 => json(kind, payload).map(Message::Hello),
            2 => json(kind, payload).map(Message::Offer),
            3 => json(kind, payload).map(Message::Refused),
            4 => empty(Message::Freeze),
            5 => empty(Message::Frozen),
            6 => json::<GoPayload>(kind, payload)
                .map(|payload| Message::Go { inherits_listener: payload.inherits_listener }),
            7 => empty(Message::Yours),
            8 => Ok(Message::Connection(payload.to_vec())),
            9 => json(kind, payload).map(Message::Log),
            found => Err(MessageError::Kind { found }),
        }
    }
}

fn json<'a, T: Deserialize<'a>>(kind: u8, payload: &'a [u8]) -> Result<T, MessageError> {
    serde_json::from_slice(payload).map_err(|error| MessageError::Payload { kind, reason: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{HTTP_PIPELINE_BYTES_MAX, LOG_ENTRY_BYTES_MAX};
    use crate::logs::LogStream;

    fn messages() -> Vec<Message> {
        let who = Introduction { pid: 7, version: "faas 1".to_owned(), schema: 1 };
        let entry = LogEntry {
            time_ms: 1_700_000_000_123,
            request_id: "r".to_owned(),
            instance: "i1-1".to_owned(),
            version: 3,
            stream: LogStream::Stdout,
            message: "hello \u{0} é".to_owned(),
        };
        vec![
            Message::Hello(who.clone()),
            Message::Offer(who),
            Message::Refused("no".to_owned()),
            Message::Freeze,
            Message::Frozen,
            Message::Go { inherits_listener: true },
            Message::Go { inherits_listener: false },
            Message::Yours,
            Message::Connection(b"GET / HT".to_vec()),
            Message::Connection(Vec::new()),
            Message::Log(LoggedElsewhere { function: "f".to_owned(), entry }),
        ]
    }

    #[test]
    fn every_message_is_read_as_it_was_written() {
        for message in messages() {
            assert_eq!(Message::decode(&message.encode()), Ok(message));
        }
    }

    #[test]
    fn what_is_changed_in_a_header_or_cut_is_refused() {
        for message in messages() {
            let sound = message.encode();
            for at in [0, 3, 6, 7] {
                let mut spoilt = sound.clone();
                spoilt[at] ^= 1;
                assert_eq!(Message::decode(&spoilt), Err(MessageError::NotOurs), "{message:?}");
            }
            let mut other = sound.clone();
            other[4] = 2;
            assert_eq!(Message::decode(&other), Err(MessageError::Protocol { found: 2 }));
            other[4] = PROTOCOL;
            other[5] = 99;
            assert_eq!(Message::decode(&other), Err(MessageError::Kind { found: 99 }));
            for length in 0..HEADER_BYTES {
                assert_eq!(Message::decode(&sound[..length]), Err(MessageError::NotOurs));
            }
            if !matches!(message, Message::Connection(_)) {
                let longer = [sound.as_slice(), b"x"].concat();
                assert!(matches!(Message::decode(&longer), Err(MessageError::Payload { .. })), "{message:?}");
            }
        }
    }

    #[test]
    fn the_longest_that_is_sent_is_not_too_long() {
        let longest = Message::Connection(vec![0; HTTP_PIPELINE_BYTES_MAX + 64 * 1024]).encode();
        assert!(Message::decode(&longest).is_ok());
        let Message::Log(mut logged) = messages().pop().unwrap() else { unreachable!() };
        // Every byte of it is escaped to six.
        logged.entry.message = "\u{1}".repeat(LOG_ENTRY_BYTES_MAX);
        assert!(Message::decode(&Message::Log(logged).encode()).is_ok());
        assert_eq!(Message::decode(&vec![0; TAKEOVER_MESSAGE_BYTES_MAX + 1]), Err(MessageError::TooLong));
    }
}
