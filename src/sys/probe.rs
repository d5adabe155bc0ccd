//! Questions to the kernel that only a system call answers: what is there, without using it.
//!
//! [`in_child`] must run before the process has threads. It checks that, and refuses otherwise.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::wait::{waitpid, WaitStatus};
use nix::unistd::{fork, ForkResult};

/// What became of a job in a child process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChildOutcome {
    /// It did what it should.
    Done,
    /// A call failed.
    Failed(Errno),
    /// It could not be tried: this process has several threads, or there was no child to be had.
    NotTried,
}

/// Runs `job` in a child, so that what it changes (namespaces, mounts) ends with it.
///
/// `job` runs in a copy of this process. It should make its calls and return.
pub fn in_child(job: impl FnOnce() -> nix::Result<()>) -> ChildOutcome {
    let alone = std::fs::read_dir("/proc/self/task").is_ok_and(|tasks| tasks.count() == 1);
    if !alone {
        return ChildOutcome::NotTried;
    }
    // SAFETY: this process has exactly one thread, counted above, and it is here and starts none: no lock can be held
    // by another thread in the child, so the child may run ordinary code.
    match unsafe { fork() } {
        Ok(ForkResult::Child) => {
            let code = job().err().map_or(0, |errno| errno as i32);
            // SAFETY: _exit has no preconditions. It runs no exit handlers, which belong to the parent.
            unsafe { libc::_exit(code) }
        }
        Ok(ForkResult::Parent { child }) => loop {
            match waitpid(child, None) {
                Ok(WaitStatus::Exited(_, 0)) => break ChildOutcome::Done,
                Ok(WaitStatus::Exited(_, code)) => break ChildOutcome::Failed(Errno::from_raw(code)),
                Err(Errno::EINTR) => {}
                _ => break ChildOutcome::NotTried,
            }
        },
        Err(_) => ChildOutcome::NotTried,
    }
}

/// Whether `pidfd_open` is there (Linux 5.3).
pub fn has_pidfd() -> bool {
    // SAFETY: pidfd_open takes two integers and touches no memory of ours.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, libc::c_long::from(std::process::id()), 0) };
    let Ok(fd) = i32::try_from(fd) else { return false };
    if fd < 0 {
        return false;
    }
    // SAFETY: the call above has just made this descriptor, and nothing else knows its number. Dropped, it is closed.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
    true
}

/// Whether `mount_setattr` is there (Linux 5.12).
pub fn has_mount_setattr() -> bool {
    let no_path: *const libc::c_char = c"".as_ptr();
    let no_attributes: *const libc::c_void = std::ptr::null();
    // SAFETY: the path is a valid C string, and a size of zero, which no kernel accepts, is refused before the null
    // pointer is read.
    let result = unsafe { libc::syscall(libc::SYS_mount_setattr, -1, no_path, 0, no_attributes, 0usize) };
    result == 0 || io::Error::last_os_error().raw_os_error() != Some(libc::ENOSYS)
}

/// The version of Landlock's interface, if the kernel has it enabled (Linux 5.13).
pub fn landlock_abi() -> Option<u32> {
    const VERSION: libc::c_ulong = 1;
    let no_ruleset: *const libc::c_void = std::ptr::null();
    // SAFETY: with LANDLOCK_CREATE_RULESET_VERSION the kernel requires a null pointer and size zero, and reads nothing.
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, no_ruleset, 0usize, VERSION) };
    u32::try_from(version).ok().filter(|&version| version > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threaded_process_is_not_forked() {
        // The test harness runs this in a thread of its own.
        assert_eq!(in_child(|| Ok(())), ChildOutcome::NotTried);
    }

    #[test]
    fn the_questions_have_answers_and_leave_nothing_open() {
        let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        let before = open();
        for _ in 0..100 {
            let _ = (has_pidfd(), has_mount_setattr(), landlock_abi());
        }
        // Other tests of this process open and close files meanwhile, but not a hundred.
        assert!(open() < before + 50);
    }
}
