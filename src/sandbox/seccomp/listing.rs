//! A compiled filter as people read it: one line per instruction.
//!
//! It reads the bytes that are loaded, not what they were compiled from, so that a listing shows what the kernel gets.

use super::assemble::{AND, JUMP, JUMP_AT_LEAST, JUMP_EQUAL, LOAD_WORD, RETURN};
use super::{OFFSET_ARCH, OFFSET_NUMBER};

/// The instructions of a filter, numbered from 0; jumps name the instruction that they go to.
pub fn listing(filter: &[u8]) -> Vec<String> {
    filter.chunks_exact(8).enumerate().map(|(at, bytes)| format!("{at:>3}  {}", instruction(at, bytes))).collect()
}

fn instruction(at: usize, bytes: &[u8]) -> String {
    let code = u16::from_ne_bytes([bytes[0], bytes[1]]);
    let k = u32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
    let target = |skipped: u32| at + 1 + skipped as usize;
    let branch = |relation| {
        let (hit, miss) = (target(bytes[2].into()), target(bytes[3].into()));
        format!("if {relation} {k:#x} goto {hit} else {miss}")
    };
    match code {
        LOAD_WORD => format!("load {}", place(k)),
        AND => format!("and {k:#x}"),
        JUMP => format!("goto {}", target(k)),
        JUMP_EQUAL => branch("=="),
        JUMP_AT_LEAST => branch(">="),
        RETURN => format!("return {}", action(k)),
        other => format!("unknown instruction {other:#x}, {k:#x}"),
    }
}

/// A word of `struct seccomp_data`.
fn place(offset: u32) -> String {
    match offset {
        OFFSET_NUMBER => "the number of the call".to_owned(),
        OFFSET_ARCH => "the architecture".to_owned(),
        16.. if (offset - 16) % 8 == 0 => format!("argument {}, low half", (offset - 16) / 8),
        other => format!("offset {other}"),
    }
}

fn action(action: u32) -> String {
    match (action & 0xFFFF_0000, action & 0xFFFF) {
        (0x7FFF_0000, 0) => "allow".to_owned(),
        (0x8000_0000, 0) => "kill the process".to_owned(),
        (0x0005_0000, errno) => format!("errno {errno}"),
        (0x7FC0_0000, 0) => "ask the server".to_owned(),
        _ => format!("{action:#x}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{instance_filter, Arch};
    use super::*;

    #[test]
    fn every_instruction_of_the_filter_is_known_and_every_jump_lands_in_it() {
        for arch in [Arch::X86_64, Arch::Aarch64] {
            let lines = listing(&instance_filter(arch));
            assert!(lines[0].ends_with("load the architecture"), "{}", lines[0]);
            for (at, line) in lines.iter().enumerate() {
                assert!(!line.contains("unknown") && !line.contains("offset"), "{line}");
                let words: Vec<&str> = line.split_ascii_whitespace().collect();
                for pair in words.windows(2).filter(|pair| ["goto", "else"].contains(&pair[0])) {
                    let target: usize = pair[1].parse().unwrap();
                    assert!(target > at && target < lines.len(), "{line}");
                }
            }
        }
    }
}
