//! Datagrams and frames: the 24-byte header, the kinds, and what each kind allows.

use std::ops::RangeInclusive;

use super::error::WireError;
use crate::limits::{
    LOG_ENTRY_BYTES_MAX, WIRE_BODY_PIECE_BYTES_MAX, WIRE_FRAMES_PER_MESSAGE_MAX, WIRE_MESSAGE_BYTES_MAX,
};

/// Size of a frame header in bytes.
pub const FRAME_HEADER_BYTES: usize = 24;

/// The one defined flag: the last frame of this call in this direction.
const FLAG_END: u8 = 1;

/// Which way a datagram travels. The same kind is not allowed on every way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Server to instance.
    ToInstance,
    /// Instance to server.
    FromInstance,
    /// Server to zygote.
    ToZygote,
    /// Zygote to server.
    FromZygote,
}

/// What a frame is. The numbers are the protocol's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Turns a blank into an instance of a function.
    Assign = 1,
    /// Asks a blank to compile code and look for a handler.
    Check = 2,
    /// Starts a call.
    Request = 3,
    /// A piece of a body or of code.
    Body = 4,
    /// Asks an instance to end by itself.
    Stop = 5,
    /// The sandbox of a blank is complete.
    Hello = 16,
    /// The function's top-level code ran.
    Loaded = 17,
    /// Starts an answer.
    Response = 18,
    /// A failure, instead of an answer.
    Error = 19,
    /// Something the function printed.
    Log = 20,
    /// The outcome of a `Check`.
    CheckResult = 21,
    /// Asks a zygote for a blank.
    Spawn = 32,
    /// The blank exists.
    Spawned = 33,
    /// The blank could not be made.
    SpawnFailed = 34,
    /// The zygote waits for `Spawn`.
    ZygoteReady = 35,
}

/// Whether the `END` flag belongs to a kind.
#[derive(PartialEq, Eq)]
enum EndRule {
    Optional,
    Required,
    Forbidden,
}

impl Kind {
    fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::Assign,
            2 => Self::Check,
            3 => Self::Request,
            4 => Self::Body,
            5 => Self::Stop,
            16 => Self::Hello,
            17 => Self::Loaded,
            18 => Self::Response,
            19 => Self::Error,
            20 => Self::Log,
            21 => Self::CheckResult,
            32 => Self::Spawn,
            33 => Self::Spawned,
            34 => Self::SpawnFailed,
            35 => Self::ZygoteReady,
            _ => return None,
        })
    }

    fn travels(self, direction: Direction) -> bool {
        match self {
            Self::Body => matches!(direction, Direction::ToInstance | Direction::FromInstance),
            Self::Assign | Self::Check | Self::Request | Self::Stop => direction == Direction::ToInstance,
            Self::Hello | Self::Loaded | Self::Response | Self::Error | Self::Log | Self::CheckResult => {
                direction == Direction::FromInstance
            }
            Self::Spawn => direction == Direction::ToZygote,
            Self::Spawned | Self::SpawnFailed | Self::ZygoteReady => direction == Direction::FromZygote,
        }
    }

    fn end_rule(self) -> EndRule {
        match self {
            Self::Request | Self::Body | Self::Response => EndRule::Optional,
            Self::Error => EndRule::Required,
            _ => EndRule::Forbidden,
        }
    }

    fn payload_bytes(self) -> RangeInclusive<usize> {
        const WHOLE: usize = WIRE_MESSAGE_BYTES_MAX - FRAME_HEADER_BYTES;
        match self {
            Self::Stop | Self::Loaded => 0..=0,
            Self::Body => 0..=WIRE_BODY_PIECE_BYTES_MAX,
            Self::Log => 1..=LOG_ENTRY_BYTES_MAX + 1,
            Self::Request => 20..=WHOLE,
            Self::Response => 16..=WHOLE,
            Self::Spawn => 8..=WHOLE,
            Self::Spawned => 4..=4,
            Self::SpawnFailed => 7..=7,
            // A piece of a long `Assign` head may be a single byte of JSON.
            Self::Assign => 1..=WIRE_BODY_PIECE_BYTES_MAX,
            Self::Check | Self::Hello | Self::Error | Self::CheckResult | Self::ZygoteReady => 2..=WHOLE,
        }
    }
}

/// One frame of a valid datagram; the payload is still in the datagram's buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What it is.
    pub kind: Kind,
    /// Whether it is the last of its call in its direction.
    pub end: bool,
    /// The invocation, or the blank; 0 when none.
    pub id: u64,
    /// The invocation's nonce; 0 when none.
    pub nonce: u64,
    /// The payload, of a length that its kind allows.
    pub payload: &'a [u8],
}

/// The frames of one datagram, all of which have been validated.
#[derive(Debug, Clone)]
pub struct Frames<'a> {
    rest: &'a [u8],
    direction: Direction,
}

impl<'a> Iterator for Frames<'a> {
    type Item = Frame<'a>;

    fn next(&mut self) -> Option<Frame<'a>> {
        // `decode_message` parsed these same bytes before, so an error can only mean the end.
        let (frame, rest) = split_frame(self.rest, self.direction).ok()?;
        self.rest = rest;
        Some(frame)
    }
}

/// Validates a whole datagram and returns its frames.
///
/// Besides each frame by itself this checks that a datagram which starts a call holds nothing but that call: the
/// datagram is what an instance claims, and it must not claim two calls at once.
///
/// # Errors
/// Any [`WireError`] about lengths, counts, kinds, directions, flags and reserved fields; never one about a payload's
/// inside, which the `decode_…` function of its kind checks.
pub fn decode_message(datagram: &[u8], direction: Direction) -> Result<Frames<'_>, WireError> {
    if datagram.is_empty() {
        return Err(WireError::EmptyMessage);
    }
    if datagram.len() > WIRE_MESSAGE_BYTES_MAX {
        return Err(WireError::MessageTooLong { len: datagram.len() });
    }
    let (first, mut rest) = split_frame(datagram, direction)?;
    let mut count = 1;
    while !rest.is_empty() {
        let (frame, after) = split_frame(rest, direction)?;
        if direction == Direction::ToInstance && !may_follow(&first, &frame) {
            return Err(WireError::MixedMessage { kind: frame.kind });
        }
        count += 1;
        if count > WIRE_FRAMES_PER_MESSAGE_MAX {
            return Err(WireError::TooManyFrames);
        }
        rest = after;
    }
    Ok(Frames { rest: datagram, direction })
}

/// Whether `frame` may share a datagram towards an instance with `first`: only pieces of the same body may.
fn may_follow(first: &Frame<'_>, frame: &Frame<'_>) -> bool {
    frame.kind == Kind::Body && !first.end && frame.id == first.id && frame.nonce == first.nonce
}

fn split_frame(bytes: &[u8], direction: Direction) -> Result<(Frame<'_>, &[u8]), WireError> {
    let Some((header, rest)) = bytes.split_first_chunk::<FRAME_HEADER_BYTES>() else {
        return Err(WireError::TruncatedHeader { remaining: bytes.len() });
    };
    let [l0, l1, l2, l3, code, flags, r0, r1, numbers @ ..] = *header;
    let payload_len = u32::from_le_bytes([l0, l1, l2, l3]);
    let Some((payload, rest)) = rest.split_at_checked(payload_len as usize) else {
        return Err(WireError::TruncatedPayload { kind: code, payload_len, remaining: rest.len() });
    };
    let kind = Kind::from_code(code).ok_or(WireError::UnknownKind { kind: code })?;
    if !kind.travels(direction) {
        return Err(WireError::WrongDirection { kind, direction });
    }
    let end = flags & FLAG_END != 0;
    let end_is_right = match kind.end_rule() {
        EndRule::Optional => true,
        EndRule::Required => end,
        EndRule::Forbidden => !end,
    };
    if flags & !FLAG_END != 0 || !end_is_right {
        return Err(WireError::BadFlags { kind, flags });
    }
    if (r0, r1) != (0, 0) {
        return Err(WireError::ReservedNotZero { kind });
    }
    if !kind.payload_bytes().contains(&payload.len()) {
        return Err(WireError::BadPayloadLength { kind, len: payload.len() });
    }
    let numbers = u128::from_le_bytes(numbers);
    // The low half is the id, the high half the nonce: both truncations are meant.
    let frame = Frame { kind, end, id: numbers as u64, nonce: (numbers >> 64) as u64, payload };
    Ok((frame, rest))
}

/// Appends one frame to a datagram in the making.
///
/// The payload's length must fit the datagram; this is the caller's to know, and debug builds check it.
pub fn push_frame(out: &mut Vec<u8>, kind: Kind, end: bool, id: u64, nonce: u64, payload: &[u8]) {
    push_header(out, kind, end, id, nonce, payload.len());
    out.extend_from_slice(payload);
    debug_assert!(out.len() <= WIRE_MESSAGE_BYTES_MAX, "{kind:?} frame overflows its datagram");
}

fn push_header(out: &mut Vec<u8>, kind: Kind, end: bool, id: u64, nonce: u64, payload_len: usize) {
    debug_assert!(kind.payload_bytes().contains(&payload_len), "{kind:?} frame with {payload_len} bytes");
    let mut header = [0; FRAME_HEADER_BYTES];
    header[..4].copy_from_slice(&(payload_len as u32).to_le_bytes());
    header[4] = kind as u8;
    header[5] = if end { FLAG_END } else { 0 };
    header[8..16].copy_from_slice(&id.to_le_bytes());
    header[16..].copy_from_slice(&nonce.to_le_bytes());
    out.extend_from_slice(&header);
}
