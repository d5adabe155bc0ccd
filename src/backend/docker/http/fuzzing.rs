//! Any bytes of an engine, whole and in pieces: the same is heard both times, and nothing beyond the limits is held.

use super::response::{ResponseDecoder, ResponseError, ResponseEvent, ResponseHead};
use super::Method;
use crate::fuzzing::Steps;
use crate::limits::ENGINE_HEAD_BYTES_MAX;

/// How an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// It did not.
    Open,
    /// It is complete with so many bytes.
    Complete(usize),
    /// It is not one.
    Refused(ResponseError),
}

/// What was heard of an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Heard {
    pub(super) head: Option<ResponseHead>,
    pub(super) body: Vec<u8>,
    pub(super) ending: Ending,
}

/// Hears the answer to a request with this method, in these pieces; then the engine closes the connection, if it does.
pub(super) fn hear(method: Method, pieces: &[&[u8]], is_closed: bool) -> Heard {
    let mut decoder = ResponseDecoder::new(method);
    let mut heard = Heard { head: None, body: Vec::new(), ending: Ending::Open };
    let mut taken = 0;
    for piece in pieces {
        let mut rest = *piece;
        loop {
            match decoder.next(&mut rest) {
                Ok(Some(ResponseEvent::Head(head))) => {
                    assert!(heard.head.is_none() && (200..600).contains(&head.status), "{head:?} after {heard:?}");
                    heard.head = Some(head);
                }
                Ok(Some(ResponseEvent::Data(data))) => {
                    assert!(heard.head.is_some() && !data.is_empty(), "a piece of nothing after {heard:?}");
                    heard.body.extend_from_slice(data);
                }
                Ok(Some(ResponseEvent::End)) => {
                    assert!(heard.head.is_some(), "an end without a head");
                    heard.ending = Ending::Complete(taken + piece.len() - rest.len());
                    return heard;
                }
                Ok(None) => break,
                Err(error) => {
                    heard.ending = Ending::Refused(error);
                    return heard;
                }
            }
        }
        assert!(rest.is_empty(), "{} bytes are left of a piece", rest.len());
        assert!(decoder.held() < ENGINE_HEAD_BYTES_MAX, "{} bytes are held", decoder.held());
        taken += piece.len();
    }
    if is_closed {
        heard.ending = match decoder.closed() {
            Ok(()) => Ending::Complete(taken),
            Err(error) => Ending::Refused(error),
        };
    }
    heard
}

/// The first byte says what was asked and whether the engine closes the connection, the second how many cuts there are, one
/// byte each says how far the next is; the rest is sent.
pub fn engine_response(input: &[u8]) {
    let mut steps = Steps::new(input);
    let kind = steps.byte();
    let method = if kind & 1 == 0 { Method::Get } else { Method::Head };
    let is_closed = kind & 2 != 0;
    let count = usize::from(steps.byte() % 16);
    let cuts = steps.bytes(count);
    let bytes = steps.bytes(usize::MAX);

    let mut pieces = Vec::new();
    let mut rest = bytes;
    for &cut in cuts {
        let (piece, after) = rest.split_at(usize::from(cut).min(rest.len()));
        pieces.push(piece);
        rest = after;
    }
    pieces.push(rest);
    let whole = hear(method, &[bytes], is_closed);
    assert_eq!(hear(method, &pieces, is_closed), whole, "the cuts made a difference");
    assert!(whole.body.len() <= bytes.len(), "a body of more bytes than came");
}
