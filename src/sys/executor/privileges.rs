//! The steps that take power away from the calling process.

use core::ffi::CStr;

use super::kernel::{self, EBADMSG, EINVAL};

const PR_SET_PDEATHSIG: u32 = 1;
const PR_SET_DUMPABLE: u32 = 4;
const PR_SET_KEEPCAPS: u32 = 8;
const PR_CAPBSET_DROP: u32 = 24;
const PR_SET_SECUREBITS: u32 = 28;
const PR_SET_NO_NEW_PRIVS: u32 = 38;
const PR_CAP_AMBIENT: u32 = 47;
const PR_CAP_AMBIENT_CLEAR_ALL: usize = 4;

/// noroot, no_setuid_fixup and no_cap_ambient_raise set, keep_caps clear, and all four locked.
const SECUREBITS: usize = 0b1110_1111;
const CAPABILITIES_MAX: u32 = 64;

/// Lowers a limit. One that is already lower stays: raising a hard limit takes a privilege that may be missing.
pub(super) fn lower_limit(resource: u32, soft: u64, hard: u64) -> Result<(), i32> {
    let [_, present_hard] = kernel::get_limit(resource)?;
    let hard = hard.min(present_hard);
    kernel::set_limit(resource, [soft.min(hard), hard])
}

/// The group first: without uid 0 it could not be changed any more.
pub(super) fn set_ids(uid: u32, gid: u32) -> Result<(), i32> {
    kernel::setresgid(gid)?;
    kernel::setresuid(uid)
}

pub(super) fn keep_caps() -> Result<(), i32> {
    kernel::prctl(PR_SET_KEEPCAPS, 1).map(drop)
}

pub(super) fn write_proc(path: &CStr, text: &[u8]) -> Result<(), i32> {
    let fd = kernel::open(path, kernel::O_WRONLY | kernel::O_CLOEXEC, 0)?;
    let result = kernel::write_once(fd, text);
    kernel::close(fd);
    result
}

pub(super) fn dumpable(value: u32) -> Result<(), i32> {
    kernel::prctl(PR_SET_DUMPABLE, value as usize).map(drop)
}

pub(super) fn no_new_privs() -> Result<(), i32> {
    kernel::prctl(PR_SET_NO_NEW_PRIVS, 1).map(drop)
}

/// Drops every capability but those in `keep` from the bounding set, as far as this kernel knows capabilities.
pub(super) fn drop_bounding(keep: u64) -> Result<(), i32> {
    for capability in (0..CAPABILITIES_MAX).filter(|capability| keep & (1 << capability) == 0) {
        match kernel::prctl(PR_CAPBSET_DROP, capability as usize) {
            // The first number that this kernel does not know; number 0 it knows.
            Err(EINVAL) if capability > 0 => break,
            other => other?,
        };
    }
    Ok(())
}

pub(super) fn lock_securebits() -> Result<(), i32> {
    kernel::prctl(PR_SET_SECUREBITS, SECUREBITS).map(drop)
}

/// Makes `keep` the effective and permitted set, and empties the inheritable and the ambient set.
pub(super) fn set_caps(keep: u64) -> Result<(), i32> {
    let (low, high) = (keep as u32, (keep >> 32) as u32);
    kernel::capset([low, low, 0, high, high, 0])?;
    match kernel::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL) {
        // Before Linux 4.3 there is no ambient set.
        Err(EINVAL) => Ok(()),
        other => other.map(drop),
    }
}

pub(super) fn death_signal(signal: u32) -> Result<(), i32> {
    kernel::prctl(PR_SET_PDEATHSIG, signal as usize).map(drop)
}

/// Loads a filter given as the bytes of `struct sock_filter[]`. An empty one is refused here and not left to the
/// kernel: it must never pass for success.
pub(super) fn load_seccomp(filter: &[u8]) -> Result<(), i32> {
    let instructions = instructions(filter)?;
    kernel::seccomp(filter, instructions)
}

/// Loads a filter that asks, sends its listener through `socket`, and waits until the other side has taken it. Neither
/// the listener nor the socket is left open, whatever comes of it.
pub(super) fn load_seccomp_notify(socket: u32, filter: &[u8]) -> Result<(), i32> {
    let loaded = instructions(filter).and_then(|instructions| kernel::seccomp_listener(filter, instructions));
    let sent = loaded.and_then(|listener| {
        let sent = kernel::send_descriptor(socket, listener);
        kernel::close(listener);
        sent.and_then(|()| kernel::await_byte(socket))
    });
    kernel::close(socket);
    sent
}

fn instructions(filter: &[u8]) -> Result<u16, i32> {
    if filter.is_empty() || filter.len() % 8 != 0 {
        return Err(EBADMSG);
    }
    u16::try_from(filter.len() / 8).map_err(|_| EBADMSG)
}
