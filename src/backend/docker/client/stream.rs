//! What the parts of an answer become: one reply at its end, or a stream's head, pieces and end.
//!
//! Pure. Invariant: it never holds more of an answer than its limit; of a stream, no more than it was given since it was
//! last [flushed](Intake::flush).

use super::super::http::body::Framing;
use super::super::http::response::ResponseHead;
use super::super::http::{ReplyKind, Request};
use super::{CallId, News};
use crate::limits::ENGINE_ERROR_BODY_BYTES_MAX;

/// The answer is larger than this limit, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Excess(pub(super) usize);

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Intake {
    call: CallId,
    reply: ReplyKind,
    status: u16,
    /// Whether it is handed on as it comes.
    pub(super) is_streaming: bool,
    /// Of a whole answer, what may be gathered.
    bytes_max: usize,
    gathered: Vec<u8>,
}

impl Intake {
    pub(super) fn new(call: CallId, request: &Request) -> Intake {
        Intake { call, reply: request.reply, status: 0, is_streaming: false, bytes_max: 0, gathered: Vec::new() }
    }

    /// The head has come. News, if it begins a stream.
    pub(super) fn head(&mut self, head: &ResponseHead) -> Result<Option<News>, Excess> {
        self.status = head.status;
        let is_success = (200..300).contains(&head.status);
        match self.reply {
            ReplyKind::Stream if is_success => {
                self.is_streaming = true;
                return Ok(Some(News::Head { call: self.call, status: head.status }));
            }
            ReplyKind::Whole { bytes_max } if is_success => self.bytes_max = bytes_max,
            // The reason of a refusal is heard, however short the answer would have been.
            ReplyKind::Whole { bytes_max } => self.bytes_max = bytes_max.max(ENGINE_ERROR_BODY_BYTES_MAX),
            ReplyKind::Stream => self.bytes_max = ENGINE_ERROR_BODY_BYTES_MAX,
        }
        match head.framing {
            Framing::Length(length) if length > self.bytes_max as u64 => Err(Excess(self.bytes_max)),
            _ => Ok(None),
        }
    }

    /// More of the body has come.
    pub(super) fn data(&mut self, bytes: &[u8]) -> Result<(), Excess> {
        if !self.is_streaming && bytes.len() > self.bytes_max - self.gathered.len() {
            return Err(Excess(self.bytes_max));
        }
        self.gathered.extend_from_slice(bytes);
        Ok(())
    }

    /// What has come of a stream since it was asked last: one piece, however many chunks it was.
    pub(super) fn flush(&mut self) -> Option<News> {
        let is_due = self.is_streaming && !self.gathered.is_empty();
        is_due.then(|| News::Chunk { call: self.call, bytes: std::mem::take(&mut self.gathered) })
    }

    /// The answer is complete.
    pub(super) fn end(&mut self) -> News {
        if self.is_streaming {
            News::End { call: self.call }
        } else {
            News::Reply { call: self.call, status: self.status, body: std::mem::take(&mut self.gathered) }
        }
    }
}
