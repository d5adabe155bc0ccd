//! Where a request's body ends: after so many bytes, or after the last chunk and its trailers.
//!
//! Invariants: a body never grows beyond the limit it was begun with; chunk extensions and trailers are checked,
//! bounded and dropped; the verdict does not depend on how the bytes were cut.

use std::fmt;

use super::parse::Framing;
use crate::limits::{
    HTTP_BODY_RESERVE_BYTES_MAX, HTTP_CHUNK_EXTENSION_BYTES_MAX, HTTP_CHUNK_LINE_BYTES_MAX, HTTP_TRAILER_BYTES_MAX,
};

/// Why a body is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyError {
    /// It is larger than this limit, in bytes.
    TooLarge(usize),
    /// A chunk size without digits, with a sign, or beyond 64 bits.
    ChunkSize,
    /// A chunk extension with a byte that may not stand there, or not ended by CR LF.
    ChunkExtension,
    /// A chunk-size line longer than [`HTTP_CHUNK_LINE_BYTES_MAX`].
    ChunkLineTooLong,
    /// Chunk extensions of more than [`HTTP_CHUNK_EXTENSION_BYTES_MAX`] together.
    ChunkExtensionsTooLong,
    /// A chunk is not followed by CR LF.
    ChunkEnd,
    /// A trailer field that is not one.
    Trailer,
    /// Trailers of more than [`HTTP_TRAILER_BYTES_MAX`] together.
    TrailersTooLarge,
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BodyError::TooLarge(limit) => write!(f, "the request body exceeds {limit} bytes"),
            BodyError::ChunkSize => f.write_str("a chunk size is not valid"),
            BodyError::ChunkExtension => f.write_str("a chunk extension is not valid"),
            BodyError::ChunkLineTooLong => write!(f, "a chunk-size line exceeds {HTTP_CHUNK_LINE_BYTES_MAX} bytes"),
            BodyError::ChunkExtensionsTooLong => {
                write!(f, "the chunk extensions exceed {HTTP_CHUNK_EXTENSION_BYTES_MAX} bytes")
            }
            BodyError::ChunkEnd => f.write_str("a chunk is not followed by an end of line"),
            BodyError::Trailer => f.write_str("a trailer field is not valid"),
            BodyError::TrailersTooLarge => write!(f, "the trailer fields exceed {HTTP_TRAILER_BYTES_MAX} bytes"),
        }
    }
}

impl std::error::Error for BodyError {}

/// A body while it comes in.
#[derive(Debug)]
pub struct BodyReader {
    body: Vec<u8>,
    bytes_max: usize,
    state: State,
    /// Bytes of the current chunk-size line.
    line_len: usize,
    /// Bytes of extensions so far.
    extension_len: usize,
    /// Bytes of trailers so far.
    trailer_len: usize,
}

/// What the next byte belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// A body of known length.
    Length { left: u64 },
    /// The digits of a chunk size.
    Size { size: u64, has_digit: bool },
    /// White space behind a size, which only an extension may follow.
    SizeSpace { size: u64 },
    /// A chunk extension.
    Extension { size: u64 },
    /// The LF of a chunk-size line.
    SizeLineFeed { size: u64 },
    /// A chunk's bytes.
    Data { left: u64 },
    /// The CR behind a chunk's bytes.
    DataReturn,
    /// The LF behind a chunk's bytes.
    DataLineFeed,
    /// The first byte of a trailer line, or the CR of the last line.
    TrailerStart,
    /// A trailer's name.
    TrailerName,
    /// A trailer's value.
    TrailerValue,
    /// The LF of a trailer line.
    TrailerLineFeed,
    /// The last LF.
    LastLineFeed,
    /// The body is complete.
    Done,
}

impl BodyReader {
    /// Begins a body that may have `bytes_max` bytes.
    ///
    /// # Errors
    /// [`BodyError::TooLarge`], when the declared length already says so.
    pub fn begin(framing: Framing, bytes_max: usize) -> Result<BodyReader, BodyError> {
        let (state, reserve) = match framing {
            Framing::None => (State::Done, 0),
            Framing::Length(length) if length > bytes_max as u64 => return Err(BodyError::TooLarge(bytes_max)),
            // The length is at most `bytes_max` here, so it fits.
            Framing::Length(length) => (State::Length { left: length }, length as usize),
            Framing::Chunked => (State::Size { size: 0, has_digit: false }, 0),
        };
        let body = Vec::with_capacity(reserve.min(HTTP_BODY_RESERVE_BYTES_MAX));
        Ok(BodyReader { body, bytes_max, state, line_len: 0, extension_len: 0, trailer_len: 0 })
    }

    /// Takes what belongs to the body from the start of `input` and says how many bytes that were: all of them,
    /// unless the body is now complete.
    ///
    /// # Errors
    /// [`BodyError`]; the reader is of no use afterwards.
    pub fn read(&mut self, input: &[u8]) -> Result<usize, BodyError> {
        let mut at = 0;
        while at < input.len() && self.state != State::Done {
            at += match self.state {
                State::Length { left } | State::Data { left } => self.take(left, &input[at..]),
                _ => {
                    self.state = self.step(input[at])?;
                    1
                }
            };
        }
        Ok(at)
    }

    /// True once the last byte was read.
    pub fn is_complete(&self) -> bool {
        self.state == State::Done
    }

    /// Bytes of the body so far.
    pub fn len(&self) -> usize {
        self.body.len()
    }

    /// True while the body has no byte.
    pub fn is_empty(&self) -> bool {
        self.body.is_empty()
    }

    /// The body, decoded.
    pub fn into_body(self) -> Vec<u8> {
        self.body
    }

    /// Takes up to `left` bytes as they are.
    fn take(&mut self, left: u64, input: &[u8]) -> usize {
        let taken = input.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        self.body.extend_from_slice(&input[..taken]);
        let left = left - taken as u64;
        self.state = match self.state {
            State::Length { .. } if left > 0 => State::Length { left },
            State::Length { .. } => State::Done,
            _ if left > 0 => State::Data { left },
            _ => State::DataReturn,
        };
        taken
    }

    /// The state behind one byte of the chunked coding's own.
    fn step(&mut self, byte: u8) -> Result<State, BodyError> {
        match self.state {
            State::Size { .. } | State::SizeSpace { .. } | State::Extension { .. } | State::SizeLineFeed { .. } => {
                self.step_in_size_line(byte)
            }
            State::DataReturn => expect(byte, b'\r', State::DataLineFeed, BodyError::ChunkEnd),
            State::DataLineFeed => {
                self.line_len = 0;
                expect(byte, b'\n', State::Size { size: 0, has_digit: false }, BodyError::ChunkEnd)
            }
            _ => self.step_in_trailers(byte),
        }
    }

    fn step_in_size_line(&mut self, byte: u8) -> Result<State, BodyError> {
        self.line_len += 1;
        if self.line_len > HTTP_CHUNK_LINE_BYTES_MAX {
            return Err(BodyError::ChunkLineTooLong);
        }
        match (self.state, byte) {
            (State::Size { size, .. }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                let digit = char::from(byte).to_digit(16).ok_or(BodyError::ChunkSize)?;
                let size = size.checked_mul(16).ok_or(BodyError::ChunkSize)? | u64::from(digit);
                Ok(State::Size { size, has_digit: true })
            }
            (State::Size { size, has_digit: true }, b'\r') => Ok(State::SizeLineFeed { size }),
            (State::Size { size, has_digit: true } | State::SizeSpace { size }, b';') => Ok(State::Extension { size }),
            (State::Size { size, has_digit: true } | State::SizeSpace { size }, b' ' | b'\t') => {
                Ok(State::SizeSpace { size })
            }
            (State::Size { .. } | State::SizeSpace { .. }, _) => Err(BodyError::ChunkSize),
            (State::Extension { size }, b'\r') => Ok(State::SizeLineFeed { size }),
            (State::Extension { .. }, _) if self.extension_len == HTTP_CHUNK_EXTENSION_BYTES_MAX => {
                Err(BodyError::ChunkExtensionsTooLong)
            }
            (State::Extension { size }, _) if may_stand_in_value(byte) => {
                self.extension_len += 1;
                Ok(State::Extension { size })
            }
            (State::SizeLineFeed { size }, b'\n') => self.begin_chunk(size),
            _ => Err(BodyError::ChunkExtension),
        }
    }

    fn begin_chunk(&self, size: u64) -> Result<State, BodyError> {
        if size == 0 {
            return Ok(State::TrailerStart);
        }
        // The body never exceeds its limit, so the difference is not negative.
        if size > (self.bytes_max - self.body.len()) as u64 {
            return Err(BodyError::TooLarge(self.bytes_max));
        }
        Ok(State::Data { left: size })
    }

    fn step_in_trailers(&mut self, byte: u8) -> Result<State, BodyError> {
        self.trailer_len += 1;
        if self.trailer_len > HTTP_TRAILER_BYTES_MAX {
            return Err(BodyError::TrailersTooLarge);
        }
        match (self.state, byte) {
            (State::TrailerStart, b'\r') => Ok(State::LastLineFeed),
            (State::LastLineFeed, b'\n') => Ok(State::Done),
            (State::TrailerStart | State::TrailerName, _) if is_token_byte(byte) => Ok(State::TrailerName),
            (State::TrailerName, b':') => Ok(State::TrailerValue),
            (State::TrailerValue, b'\r') => Ok(State::TrailerLineFeed),
            (State::TrailerValue, _) if may_stand_in_value(byte) => Ok(State::TrailerValue),
            (State::TrailerLineFeed, b'\n') => Ok(State::TrailerStart),
            _ => Err(BodyError::Trailer),
        }
    }
}

fn expect(byte: u8, wanted: u8, then: State, otherwise: BodyError) -> Result<State, BodyError> {
    if byte == wanted {
        Ok(then)
    } else {
        Err(otherwise)
    }
}

/// A `tchar` of RFC 9110: what names of fields consist of.
pub(super) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// What may stand in a field's value: no control character but the tab.
pub(super) fn may_stand_in_value(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}
