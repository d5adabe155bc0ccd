//! What a container wrote to its own output: before its instance had a pipe of the server's, so mostly why it has none.
//!
//! `GET /containers/ID/logs` answers in frames: a header of 8 bytes (the stream, three zeros, the length of the payload as
//! a big-endian u32), then the payload. That is so because our containers have no terminal.

use super::{call, expect, percent_encoded, EngineError, Method, ReplyKind, Request};
use crate::limits;

const WHAT: &str = "GET /containers/ID/logs";
const HEADER_BYTES: usize = 8;

/// Which of a container's outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Descriptor 1.
    Stdout,
    /// Descriptor 2, and what the engine itself has to say.
    Stderr,
}

/// Asks for the last lines of both outputs.
pub fn last(id: &str, lines: u32) -> Request {
    let path = format!("/containers/{}/logs?stdout=1&stderr=1&tail={lines}", percent_encoded(id));
    let reply = ReplyKind::Whole { bytes_max: 2 * limits::CONTAINER_LOG_BYTES_MAX as usize };
    Request { reply, ..call(Method::Get, path, None) }
}

/// What was written, both outputs in the order in which they were, as far as the frames are whole.
///
/// # Errors
/// When there is no such container, or its answer is no frames.
pub fn text(status: u16, body: &[u8]) -> Result<String, EngineError> {
    expect(WHAT, status, &[200], body)?;
    let pieces = Frames::default().push(body)?;
    let bytes: Vec<u8> = pieces.into_iter().flat_map(|(_, bytes)| bytes.iter().copied()).collect();
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Takes frames apart as they come. It holds an incomplete header and nothing of a payload.
#[derive(Debug, Default)]
pub struct Frames {
    header: Vec<u8>,
    /// Of the frame whose payload is being read: its output, and the bytes that are still to come.
    open: Option<(Output, usize)>,
}

impl Frames {
    /// The pieces of payload in these bytes. A payload may come in several pieces.
    ///
    /// # Errors
    /// When a header is none. The stream is then of no more use.
    pub fn push<'a>(&mut self, mut bytes: &'a [u8]) -> Result<Vec<(Output, &'a [u8])>, EngineError> {
        let mut pieces = Vec::new();
        while !bytes.is_empty() {
            if let Some((output, left)) = &mut self.open {
                let (piece, rest) = bytes.split_at(bytes.len().min(*left));
                *left -= piece.len();
                pieces.push((*output, piece));
                bytes = rest;
                if *left == 0 {
                    self.open = None;
                }
                continue;
            }
            let (part, rest) = bytes.split_at(bytes.len().min(HEADER_BYTES - self.header.len()));
            self.header.extend_from_slice(part);
            bytes = rest;
            if self.header.len() == HEADER_BYTES {
                self.open = read_header(&self.header)?;
                self.header.clear();
            }
        }
        Ok(pieces)
    }
}

/// Output and length; nothing when the payload is empty.
fn read_header(header: &[u8]) -> Result<Option<(Output, usize)>, EngineError> {
    let [stream, 0, 0, 0, length @ ..] = header else {
        return Err(super::garbage(WHAT, "a frame of output does not begin with a stream and three zeros".to_owned()));
    };
    let output = match stream {
        0 | 1 => Output::Stdout,
        2 | 3 => Output::Stderr,
        other => return Err(super::garbage(WHAT, format!("there is no output {other}"))),
    };
    let length = length.iter().fold(0, |length, &byte| length << 8 | usize::from(byte));
    Ok((length > 0).then_some((output, length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(stream: u8, text: &str) -> Vec<u8> {
        let length = u32::try_from(text.len()).unwrap().to_be_bytes();
        [&[stream, 0, 0, 0], length.as_slice(), text.as_bytes()].concat()
    }

    fn joined(pieces: Vec<(Output, &[u8])>) -> String {
        pieces.into_iter().map(|(output, bytes)| format!("{output:?}{}", String::from_utf8_lossy(bytes))).collect()
    }

    #[test]
    fn frames_are_the_same_however_they_are_cut() {
        let bytes = [frame(1, "hello\n"), frame(2, ""), frame(2, "no module\n"), frame(1, &"x".repeat(300))].concat();
        assert_eq!(text(200, &bytes).unwrap(), format!("hello\nno module\n{}", "x".repeat(300)));
        for size in 1..40 {
            let mut frames = Frames::default();
            let (mut out, mut err) = (Vec::new(), Vec::new());
            for chunk in bytes.chunks(size) {
                for (output, piece) in frames.push(chunk).unwrap() {
                    if output == Output::Stdout { &mut out } else { &mut err }.extend_from_slice(piece);
                }
            }
            assert_eq!((out.len(), err.as_slice()), (306, b"no module\n".as_slice()), "pieces of {size}");
        }
        assert_eq!(joined(Frames::default().push(&frame(2, "a")).unwrap()), "Stderra");
    }

    #[test]
    fn what_is_no_frame_is_refused_and_a_length_alone_buys_no_memory() {
        for garbage in [&b"plain text of a terminal"[..], &[9, 0, 0, 0, 0, 0, 0, 1, 7], &[1, 0, 0, 1, 0, 0, 0, 1, 7]] {
            assert!(matches!(text(200, garbage), Err(EngineError::Garbage { .. })), "{garbage:?}");
        }
        assert_eq!(text(200, &[1, 0, 0, 0, 255, 255, 255, 255, b'a']).unwrap(), "a");
        assert_eq!(text(200, &[1, 0, 0]).unwrap(), "", "half a header is no output");
        assert!(matches!(text(404, b"{\"message\":\"no\"}"), Err(EngineError::Refused { status: 404, .. })));
    }
}
