//! Compiles decisions over 32-bit values into classic BPF.
//!
//! Owns the encoding: jumps, their reach, the binary search. Knows no system call. Classic BPF jumps only forward, so
//! a program is built from its end to its start: whatever is jumped to is already placed, and no jump is ever patched.
//!
//! Invariant: every path ends in a `RET`, because every piece is given the labels at which it continues.

use std::collections::BTreeMap;

/// One instruction, `struct sock_filter` of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// Operation, operand kind and size.
    pub code: u16,
    /// Instructions to skip when a comparison holds.
    pub jump_true: u8,
    /// Instructions to skip when it does not.
    pub jump_false: u8,
    /// The constant operand.
    pub k: u32,
}

impl Instruction {
    /// The bytes that the kernel reads, in the byte order of the machine that loads them.
    pub fn to_bytes(self) -> [u8; 8] {
        let ([c0, c1], [k0, k1, k2, k3]) = (self.code.to_ne_bytes(), self.k.to_ne_bytes());
        [c0, c1, self.jump_true, self.jump_false, k0, k1, k2, k3]
    }
}

pub(super) const LOAD_WORD: u16 = 0x20;
pub(super) const AND: u16 = 0x54;
pub(super) const JUMP: u16 = 0x05;
pub(super) const JUMP_EQUAL: u16 = 0x15;
pub(super) const JUMP_AT_LEAST: u16 = 0x35;
pub(super) const RETURN: u16 = 0x06;

/// A placed instruction, counted from the end of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Label(usize);

/// From `start` to the start of the next range, continue at `target`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Range {
    pub(super) start: u32,
    pub(super) target: Label,
}

/// A program under construction, its last instruction first.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    reversed: Vec<Instruction>,
    returns: BTreeMap<u32, Label>,
}

impl Assembler {
    /// Ends the filter with `action`. Equal actions share one instruction.
    pub(super) fn ret(&mut self, action: u32) -> Label {
        if let Some(&label) = self.returns.get(&action) {
            return label;
        }
        let label = self.push(RETURN, 0, 0, action);
        self.returns.insert(action, label);
        label
    }

    /// Loads the word at `offset` of `struct seccomp_data`, masks it, and continues at `next`.
    pub(super) fn load(&mut self, offset: u32, mask: u32, next: Label) -> Label {
        self.fall_through(next);
        if mask != u32::MAX {
            self.push(AND, 0, 0, mask);
        }
        self.push(LOAD_WORD, 0, 0, offset)
    }

    /// Continues at the target of the range that holds the loaded word.
    ///
    /// `ranges` must not be empty; its first range is taken to begin at zero. The tree halves the ranges, so that no
    /// path is longer than the logarithm of their number: the kernel walks one path per system call number when the
    /// filter is loaded.
    pub(super) fn search(&mut self, ranges: &[Range]) -> Label {
        match ranges {
            [] => unreachable!("callers give at least the range that starts at zero"),
            [only] => only.target,
            [below, one, above] if below.target == above.target && above.start == one.start + 1 => {
                self.branch(JUMP_EQUAL, one.start, one.target, below.target)
            }
            _ => {
                let (low, high) = ranges.split_at(ranges.len() / 2);
                let at_least = self.search(high);
                let below = self.search(low);
                self.branch(JUMP_AT_LEAST, high[0].start, at_least, below)
            }
        }
    }

    /// Goes to `hit` when the loaded word compares to `value`, else to `miss`.
    pub(super) fn branch(&mut self, code: u16, value: u32, hit: Label, miss: Label) -> Label {
        // A conditional jump reaches 255 instructions; what is farther gets an unconditional one nearby. The one made
        // for `miss` moves `hit` one farther, hence the order and the spare place.
        let hit = if self.distance(hit) >= u8::MAX.into() { self.jump(hit) } else { hit };
        let miss = if self.distance(miss) > u8::MAX.into() { self.jump(miss) } else { miss };
        // Both casts keep the value: the two lines above bound the distances by 255.
        let (jump_true, jump_false) = (self.distance(hit) as u8, self.distance(miss) as u8);
        self.push(code, jump_true, jump_false, value)
    }

    /// The program in the order of execution.
    pub(super) fn finish(mut self, entry: Label) -> Vec<Instruction> {
        self.fall_through(entry);
        self.reversed.reverse();
        self.reversed
    }

    /// Makes `next` what runs after the instruction that is pushed now.
    fn fall_through(&mut self, next: Label) {
        if self.distance(next) != 0 {
            self.jump(next);
        }
    }

    fn jump(&mut self, target: Label) -> Label {
        // A program has a few hundred instructions (the kernel's cap is 4096), so the distance fits.
        let distance = self.distance(target) as u32;
        self.push(JUMP, 0, 0, distance)
    }

    /// Instructions that a jump pushed now would skip to reach `target`.
    fn distance(&self, target: Label) -> usize {
        self.reversed.len() - 1 - target.0
    }

    fn push(&mut self, code: u16, jump_true: u8, jump_false: u8, k: u32) -> Label {
        self.reversed.push(Instruction { code, jump_true, jump_false, k });
        Label(self.reversed.len() - 1)
    }
}
