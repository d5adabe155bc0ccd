//! The bytes of one connection in each direction.
//!
//! Both sides give their memory back when they run empty after a large message, so that an idle connection is small.

/// An empty buffer keeps its memory up to this size, in bytes: enough for the next small request or answer.
const KEPT_BYTES_MAX: usize = 4 * 1024;

/// Bytes that came and are not yet understood.
#[derive(Debug, Default)]
pub(super) struct Input {
    bytes: Vec<u8>,
    start: usize,
    /// Of the bytes that are held, so many came before the last [`Input::mark`].
    marked: usize,
}

impl Input {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        // Moving the rest to the front is cheaper than growing, and keeps a long pipeline from growing for ever.
        if self.start > 0 && self.bytes.len() + bytes.len() > self.bytes.capacity() {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Remembers which bytes are here already.
    pub(super) fn mark(&mut self) {
        self.marked = self.bytes().len();
    }

    /// Whether any byte is held that was here at the mark.
    pub(super) fn holds_marked(&self) -> bool {
        self.marked > 0
    }

    /// Drops the first `n` bytes.
    pub(super) fn consume(&mut self, n: usize) {
        self.start = (self.start + n).min(self.bytes.len());
        self.marked = self.marked.saturating_sub(n);
        if self.start == self.bytes.len() {
            self.start = 0;
            empty(&mut self.bytes);
        }
    }
}

/// Bytes that wait for the client to take them: responses, and a large last body behind them that is not copied.
#[derive(Debug, Default)]
pub(super) struct Output {
    bytes: Vec<u8>,
    tail: Vec<u8>,
    /// Bytes of `bytes` that are written.
    bytes_written: usize,
    /// Bytes of `tail` that are written; 0 while `bytes` has any left.
    tail_written: usize,
}

impl Output {
    /// What goes first.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[self.bytes_written..]
    }

    /// What goes behind it.
    pub(super) fn tail(&self) -> &[u8] {
        &self.tail[self.tail_written..]
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes().is_empty() && self.tail().is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.bytes().len() + self.tail().len()
    }

    /// Where the next response is written. Only while there is no tail: it would overtake that.
    pub(super) fn end(&mut self) -> &mut Vec<u8> {
        debug_assert!(self.tail.is_empty(), "a response would overtake the body of the one before");
        &mut self.bytes
    }

    /// Lets `body` follow without a copy.
    pub(super) fn set_tail(&mut self, body: Vec<u8>) {
        debug_assert!(self.tail.is_empty(), "a body would replace another");
        self.tail = body;
    }

    /// Drops the first `n` bytes.
    pub(super) fn consume(&mut self, n: usize) {
        let of_bytes = n.min(self.bytes().len());
        self.bytes_written += of_bytes;
        self.tail_written = (self.tail_written + n - of_bytes).min(self.tail.len());
        if self.is_empty() {
            self.clear();
        }
    }

    pub(super) fn clear(&mut self) {
        (self.bytes_written, self.tail_written) = (0, 0);
        empty(&mut self.bytes);
        self.tail = Vec::new();
    }
}

fn empty(bytes: &mut Vec<u8>) {
    if bytes.capacity() > KEPT_BYTES_MAX {
        *bytes = Vec::new();
    } else {
        bytes.clear();
    }
}
