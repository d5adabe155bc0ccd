//! A call on its way in: the request head, and how head and body become datagrams.

use super::error::WireError;
use super::frame::{push_frame, Kind, FRAME_HEADER_BYTES};
use crate::call::CallRequest;
use crate::limits::{HTTP_HEAD_BYTES_MAX, WIRE_BODY_PIECE_BYTES_MAX, WIRE_MESSAGE_BYTES_MAX};

/// Size of the fixed part of a request head in bytes.
const HEAD_FIXED_BYTES: usize = 20;
/// Largest request head in bytes: a full body piece must fit the same datagram.
const HEAD_BYTES_MAX: usize = WIRE_MESSAGE_BYTES_MAX - WIRE_BODY_PIECE_BYTES_MAX - 2 * FRAME_HEADER_BYTES;

const _: () = assert!(HEAD_BYTES_MAX >= HTTP_HEAD_BYTES_MAX + HEAD_FIXED_BYTES + 256);

/// What goes into a request head, as the HTTP side knows it.
#[derive(Debug, Clone, Copy)]
pub struct RequestParts<'a> {
    /// The method, as sent.
    pub method: &'a [u8],
    /// What follows `/invoke/NAME`, percent-decoded, `/` when empty.
    pub path: &'a [u8],
    /// The raw query without `?`.
    pub query: &'a [u8],
    /// The request id.
    pub request_id: &'a [u8],
    /// Length of the body in bytes.
    pub body_len: u64,
}

/// Encodes the payload of a `Request` frame. Header names are put into lower case on the way.
///
/// The HTTP parser has checked the headers: names are tokens, values hold no CR, LF or NUL.
///
/// # Errors
/// [`WireError::PartTooLong`] when a part does not fit; the limits of HTTP keep every accepted request below that.
pub fn encode_request_head<'a>(
    parts: &RequestParts<'_>,
    headers: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
) -> Result<Vec<u8>, WireError> {
    let too_long = |part, bytes: &[u8]| WireError::PartTooLong { part, len: bytes.len() };
    let method_len = u8::try_from(parts.method.len()).map_err(|_| too_long("method", parts.method))?;
    let path_len = u16::try_from(parts.path.len()).map_err(|_| too_long("path", parts.path))?;
    let query_len = u16::try_from(parts.query.len()).map_err(|_| too_long("query", parts.query))?;
    let id_len = u16::try_from(parts.request_id.len()).map_err(|_| too_long("request id", parts.request_id))?;

    let mut out = Vec::with_capacity(512);
    out.extend_from_slice(&[method_len, 0]);
    out.extend_from_slice(&path_len.to_le_bytes());
    out.extend_from_slice(&query_len.to_le_bytes());
    out.extend_from_slice(&id_len.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&parts.body_len.to_le_bytes());
    for bytes in [parts.method, parts.path, parts.query, parts.request_id] {
        out.extend_from_slice(bytes);
    }
    let headers_start = out.len();
    for (name, value) in headers {
        out.extend(name.iter().map(u8::to_ascii_lowercase));
        out.extend_from_slice(b": ");
        out.extend_from_slice(value);
        out.extend_from_slice(b"\r\n");
    }
    if out.len() > HEAD_BYTES_MAX {
        return Err(WireError::PartTooLong { part: "request head", len: out.len() });
    }
    let headers_len = (out.len() - headers_start) as u32;
    out[8..12].copy_from_slice(&headers_len.to_le_bytes());
    Ok(out)
}

/// A request head as the instance reads it. The server never decodes one outside tests and tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestHead<'a> {
    /// The method, as sent.
    pub method: &'a [u8],
    /// What follows `/invoke/NAME`, percent-decoded.
    pub path: &'a [u8],
    /// The raw query without `?`.
    pub query: &'a [u8],
    /// The request id.
    pub request_id: &'a [u8],
    /// `name: value\r\n` lines, names in lower case.
    pub headers: &'a [u8],
    /// Length of the body in bytes.
    pub body_len: u64,
}

/// Decodes the payload of a `Request` frame.
///
/// # Errors
/// [`WireError::BadHeadLength`] when the lengths do not add up to the payload,
/// [`WireError::ReservedNotZero`] when the reserved byte is set.
pub fn decode_request_head(payload: &[u8]) -> Result<RequestHead<'_>, WireError> {
    let bad_length = || WireError::BadHeadLength { kind: Kind::Request };
    let (fixed, mut rest) = payload.split_first_chunk::<HEAD_FIXED_BYTES>().ok_or_else(bad_length)?;
    let [method_len, reserved, p0, p1, q0, q1, i0, i1, h0, h1, h2, h3, body_len @ ..] = *fixed;
    if reserved != 0 {
        return Err(WireError::ReservedNotZero { kind: Kind::Request });
    }
    let mut take = |len: usize| {
        let (part, after) = rest.split_at_checked(len).ok_or_else(bad_length)?;
        rest = after;
        Ok(part)
    };
    let head = RequestHead {
        method: take(usize::from(method_len))?,
        path: take(usize::from(u16::from_le_bytes([p0, p1])))?,
        query: take(usize::from(u16::from_le_bytes([q0, q1])))?,
        request_id: take(usize::from(u16::from_le_bytes([i0, i1])))?,
        headers: take(u32::from_le_bytes([h0, h1, h2, h3]) as usize)?,
        body_len: u64::from_le_bytes(body_len),
    };
    if rest.is_empty() {
        Ok(head)
    } else {
        Err(bad_length())
    }
}

/// Whether a call travels as one datagram. One that does not may only be sent to an instance whose pipe is empty.
pub fn fits_one_message(body_len: usize) -> bool {
    body_len <= WIRE_BODY_PIECE_BYTES_MAX
}

/// Turns one call into datagrams, one after the other.
///
/// It keeps only its place, not the request, so that a worker can store both side by side while a long body waits for
/// the socket to drain. A small call is one datagram: `Request`, and `Body` with `END` behind it.
#[derive(Debug)]
pub struct RequestMessages {
    id: u64,
    nonce: u64,
    /// Body bytes already given out; `None` before the head was.
    sent: Option<usize>,
}

impl RequestMessages {
    /// Starts at the head of the call with this id and nonce.
    pub fn new(id: u64, nonce: u64) -> Self {
        Self { id, nonce, sent: None }
    }

    /// Replaces the content of `out` by the next datagram; `false`, and an empty `out`, when all were given out.
    ///
    /// A datagram that the socket did not take is the caller's to keep and send again.
    pub fn next_into(&mut self, request: &CallRequest, out: &mut Vec<u8>) -> bool {
        out.clear();
        let body = request.body.as_slice();
        let start = match self.sent {
            None => {
                push_frame(out, Kind::Request, body.is_empty(), self.id, self.nonce, &request.head);
                0
            }
            Some(sent) => sent,
        };
        let rest = body.get(start..).unwrap_or_default();
        let piece = rest.get(..WIRE_BODY_PIECE_BYTES_MAX).unwrap_or(rest);
        if !piece.is_empty() {
            push_frame(out, Kind::Body, piece.len() == rest.len(), self.id, self.nonce, piece);
        }
        self.sent = Some(start + piece.len());
        !out.is_empty()
    }
}
