//! Streams of JSON values, one to a line: events, and the progress of a pull.

use serde::de::IgnoredAny;

use crate::backend::docker::engine_error::EngineError;
use crate::limits;

/// Gathers lines from pieces that are cut anywhere. It holds one incomplete line, which is bounded.
#[derive(Debug)]
pub struct Lines {
    what: &'static str,
    held: Vec<u8>,
}

impl Lines {
    /// Of the answer to the call that is `what`.
    pub fn new(what: &'static str) -> Self {
        Lines { what, held: Vec::new() }
    }

    /// The lines that end in these bytes, without their ends; empty ones are left out. What is a whole object already is not
    /// waited with for the end of its line.
    ///
    /// # Errors
    /// When a line is longer than [`ENGINE_LINE_BYTES_MAX`](limits::ENGINE_LINE_BYTES_MAX). The stream is then of no more
    /// use.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, EngineError> {
        let mut lines = Vec::new();
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            if self.held.len() + piece.len() > limits::ENGINE_LINE_BYTES_MAX {
                self.held = Vec::new();
                return Err(EngineError::TooLarge { what: self.what.to_owned(), limit: limits::ENGINE_LINE_BYTES_MAX });
            }
            self.held.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                lines.extend(self.take());
            }
        }
        if self.held.ends_with(b"}") && serde_json::from_slice::<IgnoredAny>(&self.held).is_ok() {
            lines.extend(self.take());
        }
        Ok(lines)
    }

    fn take(&mut self) -> Option<Vec<u8>> {
        let line = std::mem::take(&mut self.held);
        let line = line.trim_ascii();
        (!line.is_empty()).then(|| line.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_the_same_however_they_are_cut() {
        let stream = b"{\"a\":{\"}\":1}}\r\n\n{\"b\":\"\\n\"}\n  {\"c\":3}\r\n{\"d\":4}";
        let whole =
            ["{\"a\":{\"}\":1}}", "{\"b\":\"\\n\"}", "{\"c\":3}", "{\"d\":4}"].map(|line| line.as_bytes().to_vec());
        for size in 1..=stream.len() {
            let mut lines = Lines::new("GET /events");
            let seen: Vec<Vec<u8>> = stream.chunks(size).flat_map(|piece| lines.push(piece).unwrap()).collect();
            assert_eq!(seen, whole, "pieces of {size}");
            assert!(lines.held.is_empty());
        }
    }

    #[test]
    fn a_line_without_end_is_given_up_and_not_held() {
        let mut lines = Lines::new("GET /events");
        let piece = vec![b'x'; limits::ENGINE_LINE_BYTES_MAX / 2];
        lines.push(&piece).unwrap();
        lines.push(&piece).unwrap();
        let error = lines.push(b"x").unwrap_err();
        assert!(matches!(error, EngineError::TooLarge { limit: limits::ENGINE_LINE_BYTES_MAX, .. }), "{error}");
        assert!(lines.held.capacity() == 0);
    }
}
