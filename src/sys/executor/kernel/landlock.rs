//! The calls of Landlock.

use super::{call, call_plain, nr};

const LANDLOCK_CREATE_RULESET_VERSION: usize = 1;
const LANDLOCK_RULE_PATH_BENEATH: usize = 1;

/// The version of Landlock that this kernel has enabled.
pub(crate) fn version() -> Result<usize, i32> {
    // With this flag the kernel wants a null pointer and size zero.
    call_plain(nr::LANDLOCK_CREATE_RULESET, [0, 0, LANDLOCK_CREATE_RULESET_VERSION, 0])
}

/// A ruleset that refuses these rights of files and of the network, and these scopes, until rules allow some.
pub(crate) fn ruleset(refused: [u64; 3], version: usize) -> Result<u32, i32> {
    // The struct grew by a word with version 4 and by another with version 6.
    let words = match version {
        0..=3 => 1,
        4..=5 => 2,
        _ => 3,
    };
    // SAFETY: the address is that of three words, of which the kernel reads the first `words`.
    unsafe { call(nr::LANDLOCK_CREATE_RULESET, [refused.as_ptr() as usize, words * 8, 0, 0, 0, 0]) }.map(|fd| fd as u32)
}

/// Allows these rights for what is at or below `path_fd`.
pub(crate) fn allow(ruleset: u32, path_fd: u32, rights: u64) -> Result<(), i32> {
    #[repr(C, packed)]
    struct PathBeneath {
        rights: u64,
        path_fd: u32,
    }
    let rule = PathBeneath { rights, path_fd };
    let arguments = [ruleset as usize, LANDLOCK_RULE_PATH_BENEATH, (&raw const rule) as usize, 0, 0, 0];
    // SAFETY: `rule` has the layout of a `struct landlock_path_beneath_attr`, packed as that is, and lives on.
    unsafe { call(nr::LANDLOCK_ADD_RULE, arguments) }.map(drop)
}

/// Confines the calling process to a ruleset.
pub(crate) fn restrict(ruleset: u32, flags: usize) -> Result<(), i32> {
    call_plain(nr::LANDLOCK_RESTRICT_SELF, [ruleset as usize, flags, 0, 0]).map(drop)
}
