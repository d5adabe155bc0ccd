//! What can be wrong with a datagram. Every variant names the thing that is at fault.

use std::fmt;

use super::frame::{Direction, Kind};

/// A datagram, frame or payload that breaks the protocol, or a value that cannot be put into it.
#[derive(Debug)]
pub enum WireError {
    /// The datagram holds no frame.
    EmptyMessage,
    /// The datagram is larger than the limit.
    MessageTooLong {
        /// Its size in bytes.
        len: usize,
    },
    /// The datagram holds more frames than it may.
    TooManyFrames,
    /// Fewer bytes than a frame header remain.
    TruncatedHeader {
        /// Bytes that remain.
        remaining: usize,
    },
    /// A frame's payload reaches past the end of its datagram.
    TruncatedPayload {
        /// Kind of the frame, as it was sent.
        kind: u8,
        /// Payload length that the header claims, in bytes.
        payload_len: u32,
        /// Bytes that remain.
        remaining: usize,
    },
    /// The frame's kind does not exist.
    UnknownKind {
        /// The kind, as it was sent.
        kind: u8,
    },
    /// The kind exists but does not travel this way.
    WrongDirection {
        /// The kind.
        kind: Kind,
        /// The way it came.
        direction: Direction,
    },
    /// An undefined flag is set, or `END` is there or missing against the rule of its kind.
    BadFlags {
        /// The kind.
        kind: Kind,
        /// All flags, as they were sent.
        flags: u8,
    },
    /// A reserved field is not zero.
    ReservedNotZero {
        /// The kind.
        kind: Kind,
    },
    /// The payload is too short or too long for its kind.
    BadPayloadLength {
        /// The kind.
        kind: Kind,
        /// Length of the payload in bytes.
        len: usize,
    },
    /// A datagram that starts a call, or a function, holds frames of another.
    MixedMessage {
        /// The kind that is out of place.
        kind: Kind,
    },
    /// The lengths inside a head do not add up to the payload.
    BadHeadLength {
        /// The kind.
        kind: Kind,
    },
    /// A part is too long for the length field it goes into, or for one datagram.
    PartTooLong {
        /// Which part.
        part: &'static str,
        /// Its length in bytes.
        len: usize,
    },
    /// The status of an answer is outside 200..=599.
    BadStatus {
        /// The status.
        status: u16,
    },
    /// A header line of an answer is not `name: value` of allowed characters.
    BadHeaderLine {
        /// Which line, counted from 1.
        line: usize,
    },
    /// The header block or the body of an answer is larger than its limit.
    AnswerTooLong {
        /// Which part.
        part: &'static str,
        /// Its length in bytes, as declared or as far as it was received.
        len: u64,
        /// The limit in bytes.
        limit: usize,
    },
    /// An answer to a call that has not been sent whole.
    EarlyAnswer {
        /// The call.
        id: u64,
    },
    /// The body of an answer is not as long as its head declares.
    BodyLengthMismatch {
        /// Length the head declares, in bytes.
        declared: u64,
        /// Length that came, in bytes.
        received: u64,
    },
    /// The frame belongs to a call that the instance is not running.
    ForeignCall {
        /// The id it carries.
        id: u64,
    },
    /// The frame's kind is valid but not at this point of the exchange.
    UnexpectedFrame {
        /// The kind.
        kind: Kind,
    },
    /// The payload is not the JSON document its kind demands.
    BadJson {
        /// The kind.
        kind: Kind,
        /// What the JSON parser says.
        source: serde_json::Error,
    },
    /// A number in the payload is none of the defined ones.
    BadCode {
        /// The kind.
        kind: Kind,
        /// The number.
        code: u8,
    },
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EmptyMessage => write!(f, "datagram without a frame"),
            Self::MessageTooLong { len } => write!(f, "datagram of {len} bytes is too long"),
            Self::TooManyFrames => write!(f, "too many frames in one datagram"),
            Self::TruncatedHeader { remaining } => write!(f, "frame header cut off after {remaining} bytes"),
            Self::TruncatedPayload { kind, payload_len, remaining } => {
                write!(f, "frame of kind {kind} claims {payload_len} bytes of payload, {remaining} remain")
            }
            Self::UnknownKind { kind } => write!(f, "unknown frame kind {kind}"),
            Self::WrongDirection { kind, direction } => write!(f, "{kind:?} frame does not travel {direction:?}"),
            Self::BadFlags { kind, flags } => write!(f, "{kind:?} frame with flags {flags:#04x}"),
            Self::ReservedNotZero { kind } => write!(f, "{kind:?} frame with a reserved field that is not zero"),
            Self::BadPayloadLength { kind, len } => write!(f, "{kind:?} frame with a payload of {len} bytes"),
            Self::MixedMessage { kind } => write!(f, "{kind:?} frame in a datagram that belongs to another call"),
            Self::BadHeadLength { kind } => write!(f, "lengths in the head of a {kind:?} frame do not add up"),
            Self::PartTooLong { part, len } => write!(f, "{part} of {len} bytes does not fit its frame"),
            Self::BadStatus { status } => write!(f, "answer with status {status}"),
            Self::BadHeaderLine { line } => write!(f, "answer with a malformed header line {line}"),
            Self::AnswerTooLong { part, len, limit } => {
                write!(f, "answer with a {part} of {len} bytes, the limit is {limit}")
            }
            Self::BodyLengthMismatch { declared, received } => {
                write!(f, "answer declares a body of {declared} bytes and sends {received}")
            }
            Self::EarlyAnswer { id } => write!(f, "answer to call {id:#x} before it was sent whole"),
            Self::ForeignCall { id } => write!(f, "frame for call {id:#x}, which the instance is not running"),
            Self::UnexpectedFrame { kind } => write!(f, "{kind:?} frame out of order"),
            Self::BadJson { kind, .. } => write!(f, "{kind:?} frame whose payload is not the JSON it should be"),
            Self::BadCode { kind, code } => write!(f, "{kind:?} frame with the undefined code {code}"),
        }
    }
}

impl std::error::Error for WireError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::BadJson { source, .. } => Some(source),
            _ => None,
        }
    }
}
