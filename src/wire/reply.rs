//! A call on its way out: the response head and its headers, and the pieces put together to one outcome.

use super::error::WireError;
use super::frame::{Frame, Kind};
use super::instance::{decode_error, ErrorPhase};
use crate::call::{CallReply, InvocationId, InvokeError};
use crate::limits::{RESPONSE_BODY_BYTES_MAX, RESPONSE_HEADER_BYTES_MAX};

/// Size of the fixed part of a response head in bytes.
const HEAD_FIXED_BYTES: usize = 16;

/// Header fields of an answer that the server drops without a word: it frames the answer itself, it owns the
/// connection, and it says the date and the request id itself. `x-faas-*` and `proxy-*` go the same way.
const DROPPED_HEADERS: [&str; 9] = [
    "connection",
    "content-length",
    "date",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-request-id",
];

/// A response head, checked.
#[derive(Debug, PartialEq, Eq)]
pub struct ResponseHead {
    /// Status code, 200..=599.
    pub status: u16,
    /// The header fields that go to the client, in their order.
    pub headers: Vec<(String, String)>,
    /// Length of the body in bytes.
    pub body_len: u64,
}

/// Decodes and checks the payload of a `Response` frame.
///
/// Names must be tokens. Values may hold tabs and any text in UTF-8 (RFC 9110 calls what is not ASCII `obs-text` and
/// lets it through) but no other control character. Hop-by-hop and framing fields are dropped.
///
/// # Errors
/// [`WireError`] for lengths that do not add up, a reserved field, a status or a header line that is not allowed, and
/// [`WireError::AnswerTooLong`] for a header block over `header_bytes_max`.
pub fn decode_response_head(payload: &[u8], header_bytes_max: usize) -> Result<ResponseHead, WireError> {
    const KIND: Kind = Kind::Response;
    let Some((fixed, block)) = payload.split_first_chunk::<HEAD_FIXED_BYTES>() else {
        return Err(WireError::BadHeadLength { kind: KIND });
    };
    let [s0, s1, r0, r1, h0, h1, h2, h3, body_len @ ..] = *fixed;
    if (r0, r1) != (0, 0) {
        return Err(WireError::ReservedNotZero { kind: KIND });
    }
    if u32::from_le_bytes([h0, h1, h2, h3]) as usize != block.len() {
        return Err(WireError::BadHeadLength { kind: KIND });
    }
    if block.len() > header_bytes_max {
        return Err(WireError::AnswerTooLong {
            part: "header block",
            len: block.len() as u64,
            limit: header_bytes_max,
        });
    }
    let status = u16::from_le_bytes([s0, s1]);
    if !(200..=599).contains(&status) {
        return Err(WireError::BadStatus { status });
    }
    Ok(ResponseHead { status, headers: decode_headers(block)?, body_len: u64::from_le_bytes(body_len) })
}

fn decode_headers(mut block: &[u8]) -> Result<Vec<(String, String)>, WireError> {
    let mut headers = Vec::new();
    let mut line = 0;
    while !block.is_empty() {
        line += 1;
        let (field, rest) = split_line(block).ok_or(WireError::BadHeaderLine { line })?;
        let (name, value) = parse_field(field).ok_or(WireError::BadHeaderLine { line })?;
        if !is_dropped(name) {
            headers.push((name.to_owned(), value.to_owned()));
        }
        block = rest;
    }
    Ok(headers)
}

fn split_line(block: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = block.iter().position(|&byte| byte == b'\r')?;
    let rest = block.get(end..)?.strip_prefix(b"\r\n")?;
    Some((block.get(..end)?, rest))
}

fn parse_field(field: &[u8]) -> Option<(&str, &str)> {
    let (name, value) = std::str::from_utf8(field).ok()?.split_once(':')?;
    let value = value.trim_matches([' ', '\t']);
    let name_is_token = !name.is_empty() && name.bytes().all(is_token_byte);
    let value_is_text = value.bytes().all(|byte| byte >= 0x20 && byte != 0x7f || byte == b'\t')
        && (value.is_ascii() || !value.chars().any(|c| c.is_control() && c != '\t'));
    (name_is_token && value_is_text).then_some((name, value))
}

fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn is_dropped(name: &str) -> bool {
    let has_prefix = |prefix: &str| name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
    DROPPED_HEADERS.iter().any(|dropped| name.eq_ignore_ascii_case(dropped))
        || has_prefix("x-faas-")
        || has_prefix("proxy-")
}

/// How large an answer may be. A well-behaved shim reports `too_large` itself; whoever sends more breaks the protocol.
#[derive(Debug, Clone, Copy)]
pub struct ReplyLimits {
    /// Largest body in bytes.
    pub body_bytes_max: usize,
    /// Largest header block in bytes.
    pub header_bytes_max: usize,
}

impl Default for ReplyLimits {
    fn default() -> Self {
        Self { body_bytes_max: RESPONSE_BODY_BYTES_MAX, header_bytes_max: RESPONSE_HEADER_BYTES_MAX }
    }
}

/// Puts the frames of one call's answer together to its one outcome.
///
/// `Log` frames are not its concern: the worker takes them out first.
#[derive(Debug)]
pub struct ReplyAssembler {
    id: InvocationId,
    nonce: u64,
    limits: ReplyLimits,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Neither `Response` nor `Error` has come.
    Waiting,
    /// The head has come, the body has not ended.
    Receiving { reply: CallReply, body_len: u64 },
    /// The outcome was given out, or the exchange broke.
    Over,
}

impl ReplyAssembler {
    /// Waits for the answer to this call.
    pub fn new(id: InvocationId, nonce: u64, limits: ReplyLimits) -> Self {
        Self { id, nonce, limits, state: State::Waiting }
    }

    /// The call whose answer this is.
    pub fn id(&self) -> InvocationId {
        self.id
    }

    /// Takes the next frame; `Some` is the call's outcome, after which no frame of this call may come.
    ///
    /// # Errors
    /// A [`WireError`] ends the exchange, and should end the instance: the frame is another call's, or out of order, or
    /// malformed, or more than the limits allow.
    pub fn push(&mut self, frame: &Frame<'_>) -> Result<Option<Result<CallReply, InvokeError>>, WireError> {
        if frame.id != self.id.0 || frame.nonce != self.nonce {
            return Err(WireError::ForeignCall { id: frame.id });
        }
        // Whatever goes wrong below leaves `Over` behind.
        match (std::mem::replace(&mut self.state, State::Over), frame.kind) {
            (State::Waiting, Kind::Response) => self.begin(frame),
            (State::Waiting, Kind::Error) => self.fail(frame),
            (State::Receiving { reply, body_len }, Kind::Body) => self.extend(reply, body_len, frame),
            _ => Err(WireError::UnexpectedFrame { kind: frame.kind }),
        }
    }

    fn begin(&mut self, frame: &Frame<'_>) -> Result<Option<Result<CallReply, InvokeError>>, WireError> {
        let head = decode_response_head(frame.payload, self.limits.header_bytes_max)?;
        let mut reply = CallReply { status: head.status, headers: head.headers, body: Vec::new() };
        if frame.end {
            return finish(reply, head.body_len);
        }
        match usize::try_from(head.body_len) {
            // The declared length is a hostile number until it is within the limit; then it is worth one allocation.
            Ok(len) if len <= self.limits.body_bytes_max => reply.body.reserve_exact(len),
            _ => {
                let limit = self.limits.body_bytes_max;
                return Err(WireError::AnswerTooLong { part: "body", len: head.body_len, limit });
            }
        }
        self.state = State::Receiving { reply, body_len: head.body_len };
        Ok(None)
    }

    fn extend(
        &mut self,
        mut reply: CallReply,
        body_len: u64,
        frame: &Frame<'_>,
    ) -> Result<Option<Result<CallReply, InvokeError>>, WireError> {
        if frame.payload.is_empty() && !frame.end {
            // It brings the answer no further, and an endless row of them would keep the worker busy.
            return Err(WireError::BadPayloadLength { kind: Kind::Body, len: 0 });
        }
        let received = (reply.body.len() + frame.payload.len()) as u64;
        if received > body_len {
            return Err(WireError::BodyLengthMismatch { declared: body_len, received });
        }
        reply.body.extend_from_slice(frame.payload);
        if frame.end {
            return finish(reply, body_len);
        }
        self.state = State::Receiving { reply, body_len };
        Ok(None)
    }

    fn fail(&mut self, frame: &Frame<'_>) -> Result<Option<Result<CallReply, InvokeError>>, WireError> {
        let report = decode_error(frame)?;
        match report.phase {
            ErrorPhase::Call | ErrorPhase::Answer => {
                Ok(Some(Err(report.into_invoke_error(self.limits.body_bytes_max))))
            }
            ErrorPhase::Sandbox | ErrorPhase::Load => Err(WireError::UnexpectedFrame { kind: Kind::Error }),
        }
    }
}

fn finish(reply: CallReply, body_len: u64) -> Result<Option<Result<CallReply, InvokeError>>, WireError> {
    let received = reply.body.len() as u64;
    if received == body_len {
        Ok(Some(Ok(reply)))
    } else {
        Err(WireError::BodyLengthMismatch { declared: body_len, received })
    }
}
