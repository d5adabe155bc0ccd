//! Takes the bytes of a fuzzer apart into what should be done one after the other. Any bytes mean something.

/// What is left of an input.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Steps<'a>(&'a [u8]);

impl<'a> Steps<'a> {
    pub(crate) fn new(input: &'a [u8]) -> Steps<'a> {
        Steps(input)
    }

    /// The next byte; `None` at the end, which is where a conversation ends.
    pub(crate) fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// A byte, 0 behind the end.
    pub(crate) fn byte(&mut self) -> u8 {
        self.next().unwrap_or(0)
    }

    /// Two bytes, little-endian.
    pub(crate) fn short(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    /// So many bytes, or as many as there are.
    pub(crate) fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }
}
