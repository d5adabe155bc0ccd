//! Reads an encoded plan in place. Owns the byte format; never runs anything.
//!
//! A plan is `MAGIC`, the number of steps (u16), two zero bytes, then the steps. A step is opcode (u16), required (u8,
//! 0 or 1), a zero byte, the length of its fields (u32), its fields. All integers are little-endian. A string or a run
//! of bytes is its length (u32) and its bytes; a string's last byte is its only NUL.

use core::ffi::CStr;

use super::kernel::EBADMSG;
use super::opcode::{Opcode, MAGIC};

/// One step, not yet interpreted.
pub(super) struct Frame<'a> {
    pub(super) opcode: Opcode,
    pub(super) required: bool,
    pub(super) fields: Fields<'a>,
}

/// The steps of a plan with their positions. After damage is reported the iteration ends.
pub(super) struct Steps<'a> {
    rest: Fields<'a>,
    position: u16,
    state: State,
}

enum State {
    Header,
    Left(u16),
    Done,
}

impl<'a> Steps<'a> {
    pub(super) fn open(plan: &'a [u8]) -> Self {
        Steps { rest: Fields(plan), position: 0, state: State::Header }
    }

    fn header(&mut self) -> Result<u16, i32> {
        let magic = self.rest.take(MAGIC.len())?;
        let count = self.rest.u16()?;
        // A plan without steps would be a sandbox without walls that reports success.
        if magic != MAGIC || count == 0 || self.rest.u16()? != 0 {
            return Err(EBADMSG);
        }
        Ok(count)
    }

    fn frame(&mut self, left: u16) -> Result<Frame<'a>, i32> {
        let opcode = Opcode::from_u16(self.rest.u16()?).ok_or(EBADMSG)?;
        let required = match self.rest.u16()? {
            0 => false,
            1 => true,
            _ => return Err(EBADMSG),
        };
        let fields = Fields(self.rest.bytes()?);
        if left == 0 && !self.rest.0.is_empty() {
            return Err(EBADMSG);
        }
        Ok(Frame { opcode, required, fields })
    }

    fn advance(&mut self) -> Option<Result<Frame<'a>, i32>> {
        let left = match self.state {
            State::Header => match self.header() {
                Ok(count) => count,
                Err(errno) => return Some(Err(errno)),
            },
            State::Left(left) => left,
            State::Done => return None,
        };
        let left = left.checked_sub(1)?;
        self.state = State::Left(left);
        Some(self.frame(left))
    }
}

impl<'a> Iterator for Steps<'a> {
    type Item = (u16, Result<Frame<'a>, i32>);

    fn next(&mut self) -> Option<Self::Item> {
        let parsed = self.advance()?;
        if parsed.is_err() {
            self.state = State::Done;
        }
        let position = self.position;
        self.position = position.saturating_add(1);
        Some((position, parsed))
    }
}

/// The bytes that are still to be read. Each reader fails with `EBADMSG` when they are not what it expects; the
/// `last_` readers also insist that nothing follows.
pub(super) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], i32> {
        if length > self.0.len() {
            return Err(EBADMSG);
        }
        let (head, tail) = self.0.split_at(length);
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], i32> {
        self.take(N)?.try_into().map_err(|_| EBADMSG)
    }

    fn u16(&mut self) -> Result<u16, i32> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(super) fn u32(&mut self) -> Result<u32, i32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, i32> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn bytes(&mut self) -> Result<&'a [u8], i32> {
        let length = self.u32()? as usize;
        self.take(length)
    }

    pub(super) fn text(&mut self) -> Result<&'a CStr, i32> {
        CStr::from_bytes_with_nul(self.bytes()?).map_err(|_| EBADMSG)
    }

    pub(super) fn end(&self) -> Result<(), i32> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(EBADMSG)
        }
    }

    pub(super) fn last_u32(&mut self) -> Result<u32, i32> {
        let value = self.u32()?;
        self.end().map(|()| value)
    }

    pub(super) fn last_u64(&mut self) -> Result<u64, i32> {
        let value = self.u64()?;
        self.end().map(|()| value)
    }

    pub(super) fn last_bytes(&mut self) -> Result<&'a [u8], i32> {
        let value = self.bytes()?;
        self.end().map(|()| value)
    }

    pub(super) fn last_text(&mut self) -> Result<&'a CStr, i32> {
        let value = self.text()?;
        self.end().map(|()| value)
    }
}
