//! What may be done below which path of an instance's tree, as Landlock's rights.
//!
//! The mount flags say nearly the same. This is the wall behind them: it holds if a mount should be missing or writable.

use std::path::PathBuf;

use super::Step;

const EXECUTE: u64 = 1;
const WRITE_FILE: u64 = 1 << 1;
const READ_FILE: u64 = 1 << 2;
const READ_DIR: u64 = 1 << 3;
const MAKE_CHAR: u64 = 1 << 6;
const MAKE_BLOCK: u64 = 1 << 11;
const TRUNCATE: u64 = 1 << 14;
const IOCTL_DEVICE: u64 = 1 << 15;
const ALL: u64 = (1 << 16) - 1;

const READ: u64 = READ_FILE | READ_DIR | EXECUTE;
const DEVICES: u64 = READ_FILE | READ_DIR | WRITE_FILE | TRUNCATE | IOCTL_DEVICE;
/// Everything but programs and devices.
const OWN: u64 = ALL & !(EXECUTE | MAKE_CHAR | MAKE_BLOCK | IOCTL_DEVICE);

/// The step for an instance. `deny_tcp_connect` unless it is to see the host's network.
pub(super) fn restriction(deny_tcp_connect: bool) -> Step {
    let allowed = [("/", READ), ("/dev", DEVICES), ("/dev/shm", OWN), ("/tmp", OWN)];
    Step::Landlock { allowed: allowed.map(|(path, access)| (PathBuf::from(path), access)).to_vec(), deny_tcp_connect }
}

/// Rights in a word.
pub(super) fn describe(access: u64) -> &'static str {
    match access {
        READ => "read, execute",
        DEVICES => "read, write",
        OWN => "all but execute and devices",
        _ => "some",
    }
}
