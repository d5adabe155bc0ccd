//! Bytes that a function, or a process it started, wrote to descriptors 1 and 2, made into log entries. No I/O here.
//!
//! A line that came in several writes is one entry, and a call's entries never take more than its share.

use crate::limits::{LOG_ENTRY_BYTES_MAX, LOG_INVOCATION_BYTES_MAX};
use crate::logs::LogStream;

/// The raw output of one instance.
#[derive(Debug)]
pub(super) struct RawOutput {
    /// Bytes that the running call may still log.
    left: usize,
    /// The log says already that the running call wrote more than that.
    cut: bool,
    /// A line whose end has not come yet.
    line: Vec<u8>,
    /// Whether the running call has written any.
    pub(super) in_call: bool,
    /// Whether any call has.
    pub(super) ever: bool,
}

impl RawOutput {
    pub(super) fn new() -> RawOutput {
        RawOutput { left: LOG_INVOCATION_BYTES_MAX, cut: false, line: Vec::new(), in_call: false, ever: false }
    }

    /// A call begins, with a share of its own.
    pub(super) fn begin_call(&mut self) {
        self.left = LOG_INVOCATION_BYTES_MAX;
        self.cut = false;
        self.in_call = false;
    }

    /// Takes what was written and returns the entries that it completes.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Vec<(LogStream, String)> {
        (self.in_call, self.ever) = (true, true);
        let kept = &bytes[..bytes.len().min(self.left)];
        self.left -= kept.len();
        let mut entries = Vec::new();
        for part in kept.split_inclusive(|&byte| byte == b'\n') {
            self.line.extend_from_slice(part);
            if self.line.ends_with(b"\n") {
                self.line.pop();
                while self.line.len() > LOG_ENTRY_BYTES_MAX {
                    entries.push((LogStream::Output, self.take_piece()));
                }
                entries.push((LogStream::Output, self.take_line()));
            }
            // A character that is not complete yet is at most three bytes, which stay.
            while self.line.len() > LOG_ENTRY_BYTES_MAX {
                entries.push((LogStream::Output, self.take_piece()));
            }
        }
        if kept.len() < bytes.len() && !self.cut {
            self.cut = true;
            entries.extend(self.finish_line().map(|line| (LogStream::Output, line)));
            let note = format!("[raw output cut at {LOG_INVOCATION_BYTES_MAX} bytes for this call]");
            entries.push((LogStream::System, note));
        }
        entries
    }

    /// The line that was begun, when nothing more will belong to it.
    pub(super) fn finish_line(&mut self) -> Option<String> {
        (!self.line.is_empty()).then(|| self.take_line())
    }

    fn take_line(&mut self) -> String {
        let text = String::from_utf8_lossy(&self.line).into_owned();
        self.line.clear();
        text
    }

    /// The beginning of a line that is longer than an entry, not cut within a character.
    fn take_piece(&mut self) -> String {
        let is_boundary = |&at: &usize| self.line[at] & 0xC0 != 0x80;
        let end = (LOG_ENTRY_BYTES_MAX - 3..=LOG_ENTRY_BYTES_MAX).rev().find(is_boundary);
        let piece: Vec<u8> = self.line.drain(..end.unwrap_or(LOG_ENTRY_BYTES_MAX)).collect();
        String::from_utf8_lossy(&piece).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(entries: &[(LogStream, String)]) -> Vec<&str> {
        entries.iter().map(|(_, text)| text.as_str()).collect()
    }

    #[test]
    fn a_line_in_several_writes_is_one_entry() {
        let mut raw = RawOutput::new();
        assert!(raw.push(b"be").is_empty());
        // Cut within a character.
        assert!(raw.push(b"gun \xc3").is_empty());
        assert_eq!(texts(&raw.push(b"\xa9\n\nnext\nrest")), ["begun é", "", "next"]);
        assert_eq!(raw.finish_line().as_deref(), Some("rest"));
        assert_eq!(raw.finish_line(), None);
        assert!(raw.in_call && raw.ever);
    }

    #[test]
    fn the_note_comes_once_also_when_a_write_ends_at_the_share() {
        for size in [LOG_INVOCATION_BYTES_MAX / 4, LOG_INVOCATION_BYTES_MAX / 4 + 1, 4096, 1000] {
            let mut raw = RawOutput::new();
            let writes = LOG_INVOCATION_BYTES_MAX / size + 3;
            let entries: Vec<_> = (0..writes).flat_map(|_| raw.push(&vec![b'x'; size])).collect();
            let (stream, note) = entries.last().unwrap();
            assert_eq!((*stream, note.contains("cut")), (LogStream::System, true), "{size}");
            let (_, output) = entries.split_last().unwrap();
            assert!(output.iter().all(|(stream, text)| {
                *stream == LogStream::Output && (1..=LOG_ENTRY_BYTES_MAX).contains(&text.len())
            }));
            assert_eq!(output.iter().map(|(_, text)| text.len()).sum::<usize>(), LOG_INVOCATION_BYTES_MAX, "{size}");
            raw.begin_call();
            assert_eq!(texts(&raw.push(b"next\n")), ["next"]);
        }
    }

    #[test]
    fn a_long_line_is_cut_between_characters() {
        let mut raw = RawOutput::new();
        let line = format!("a{}", "é".repeat(40_000));
        let mut entries: Vec<String> =
            line.as_bytes().chunks(777).flat_map(|part| raw.push(part)).map(|e| e.1).collect();
        entries.extend(raw.finish_line());
        assert_eq!(entries.concat(), line);
        assert!(entries.iter().all(|text| text.len() <= LOG_ENTRY_BYTES_MAX));
        // What is no UTF-8 at all is cut too.
        let entries = raw.push(&[0x80; 2 * LOG_ENTRY_BYTES_MAX + 1]);
        assert_eq!(entries.len(), 2);
    }
}
