//! Where the body of an answer ends, and which of the bytes on the way are its own.
//!
//! Invariants: nothing is held; chunk extensions and trailers are bounded and dropped; the verdict does not depend on how
//! the bytes were cut. How long a body may be is not known here: who gathers it has a limit.

use std::fmt;

use crate::limits::{ENGINE_CHUNK_LINE_BYTES_MAX, ENGINE_TRAILER_BYTES_MAX};

/// How the end of a body is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is no body.
    None,
    /// It has this many bytes.
    Length(u64),
    /// It comes in chunks.
    Chunked,
    /// It ends with the connection.
    UntilClose,
}

/// Why a body is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyError {
    /// A chunk size without digits, or beyond 64 bits.
    ChunkSize,
    /// A chunk-size line longer than [`ENGINE_CHUNK_LINE_BYTES_MAX`].
    ChunkLineTooLong,
    /// A control character in a chunk extension or a trailer, or a line that CR LF does not end.
    LineEnd,
    /// A chunk is not followed by CR LF.
    ChunkEnd,
    /// Trailers of more than [`ENGINE_TRAILER_BYTES_MAX`] together.
    TrailersTooLarge,
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BodyError::ChunkSize => f.write_str("a chunk size is not valid"),
            BodyError::ChunkLineTooLong => write!(f, "a chunk-size line exceeds {ENGINE_CHUNK_LINE_BYTES_MAX} bytes"),
            BodyError::LineEnd => f.write_str("a line of its chunks is not valid"),
            BodyError::ChunkEnd => f.write_str("a chunk is not followed by an end of line"),
            BodyError::TrailersTooLarge => write!(f, "the trailer fields exceed {ENGINE_TRAILER_BYTES_MAX} bytes"),
        }
    }
}

impl std::error::Error for BodyError {}

/// A body while it comes in.
#[derive(Debug)]
pub struct BodyDecoder {
    state: State,
    /// Bytes of the current chunk-size line.
    line_len: usize,
    /// Bytes of trailers so far.
    trailer_len: usize,
}

/// What the next byte belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// A body of known length, of which something is left.
    Length { left: u64 },
    /// A body that ends with the connection.
    UntilClose,
    /// The digits of a chunk size.
    Size { size: u64, has_digit: bool },
    /// What may follow the size on its line.
    Extension { size: u64 },
    /// The LF of a chunk-size line.
    SizeLineFeed { size: u64 },
    /// A chunk's bytes, of which something is left.
    Data { left: u64 },
    /// The CR behind a chunk's bytes.
    DataReturn,
    /// The LF behind a chunk's bytes.
    DataLineFeed,
    /// A trailer line; an empty one is the last.
    Trailer { is_empty: bool },
    /// The LF of a trailer line.
    TrailerLineFeed { is_last: bool },
    /// The body is complete.
    Done,
}

impl BodyDecoder {
    /// Begins a body.
    pub fn new(framing: Framing) -> BodyDecoder {
        let state = match framing {
            Framing::None | Framing::Length(0) => State::Done,
            Framing::Length(length) => State::Length { left: length },
            Framing::Chunked => State::Size { size: 0, has_digit: false },
            Framing::UntilClose => State::UntilClose,
        };
        BodyDecoder { state, line_len: 0, trailer_len: 0 }
    }

    /// True if nothing is missing.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// True if the end of the connection would end the body, or has no meaning for it any more.
    pub fn may_end_here(&self) -> bool {
        matches!(self.state, State::Done | State::UntilClose)
    }

    /// The next bytes of the body itself at the start of `input`, which loses them and what stood before them. `None`:
    /// the body is done, or `input` is empty now.
    ///
    /// # Errors
    /// [`BodyError`]; the decoder is of no use afterwards.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<&'a [u8]>, BodyError> {
        loop {
            let left = match self.state {
                State::Done => return Ok(None),
                State::UntilClose => u64::MAX,
                State::Length { left } | State::Data { left } => left,
                _ => {
                    let Some((&byte, rest)) = input.split_first() else { return Ok(None) };
                    self.state = self.step(byte)?;
                    *input = rest;
                    continue;
                }
            };
            if input.is_empty() {
                return Ok(None);
            }
            let taken = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
            let (data, rest) = input.split_at(taken);
            *input = rest;
            self.state = match (self.state, left - taken as u64) {
                (State::Length { .. }, 0) => State::Done,
                (State::Length { .. }, left) => State::Length { left },
                (State::Data { .. }, 0) => State::DataReturn,
                (State::Data { .. }, left) => State::Data { left },
                (state, _) => state,
            };
            return Ok(Some(data));
        }
    }

    /// What follows a byte that is not the body's own.
    fn step(&mut self, byte: u8) -> Result<State, BodyError> {
        match self.state {
            State::Size { .. } | State::Extension { .. } | State::SizeLineFeed { .. } => self.step_in_size_line(byte),
            State::Trailer { .. } | State::TrailerLineFeed { .. } => self.step_in_trailers(byte),
            State::DataReturn => expect(byte, b'\r', State::DataLineFeed, BodyError::ChunkEnd),
            State::DataLineFeed => {
                self.line_len = 0;
                expect(byte, b'\n', State::Size { size: 0, has_digit: false }, BodyError::ChunkEnd)
            }
            // `next` takes the bytes of these itself.
            State::Length { .. } | State::UntilClose | State::Data { .. } | State::Done => Ok(self.state),
        }
    }

    fn step_in_size_line(&mut self, byte: u8) -> Result<State, BodyError> {
        self.line_len += 1;
        if self.line_len > ENGINE_CHUNK_LINE_BYTES_MAX {
            return Err(BodyError::ChunkLineTooLong);
        }
        match (self.state, byte) {
            (State::Size { size, .. }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                let digit = (byte as char).to_digit(16).unwrap_or_default();
                let size = size.checked_mul(16).ok_or(BodyError::ChunkSize)? + u64::from(digit);
                Ok(State::Size { size, has_digit: true })
            }
            (State::Size { size, has_digit: true } | State::Extension { size }, b'\r') => {
                Ok(State::SizeLineFeed { size })
            }
            (State::Size { size, has_digit: true }, b';' | b' ' | b'\t') => Ok(State::Extension { size }),
            (State::Size { .. }, _) => Err(BodyError::ChunkSize),
            (State::Extension { size }, _) if may_stand_in_line(byte) => Ok(State::Extension { size }),
            (State::SizeLineFeed { size: 0 }, b'\n') => Ok(State::Trailer { is_empty: true }),
            (State::SizeLineFeed { size }, b'\n') => Ok(State::Data { left: size }),
            _ => Err(BodyError::LineEnd),
        }
    }

    fn step_in_trailers(&mut self, byte: u8) -> Result<State, BodyError> {
        self.trailer_len += 1;
        if self.trailer_len > ENGINE_TRAILER_BYTES_MAX {
            return Err(BodyError::TrailersTooLarge);
        }
        match (self.state, byte) {
            (State::Trailer { is_empty }, b'\r') => Ok(State::TrailerLineFeed { is_last: is_empty }),
            (State::Trailer { .. }, _) if may_stand_in_line(byte) => Ok(State::Trailer { is_empty: false }),
            (State::TrailerLineFeed { is_last: true }, b'\n') => Ok(State::Done),
            (State::TrailerLineFeed { is_last: false }, b'\n') => Ok(State::Trailer { is_empty: true }),
            _ => Err(BodyError::LineEnd),
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

/// No control character but the tab.
fn may_stand_in_line(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}
