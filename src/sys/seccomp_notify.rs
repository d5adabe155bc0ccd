//! The other side of a filter that asks: calls that wait for an answer, and looks at who made them.
//!
//! The kernel's own words are in seccomp_unotify(2). Two rules of that page are kept by the callers of this module: what
//! is read of a caller counts only if the call [is still waiting](Listener::waits) afterwards, since its process may
//! have died and its number be another's; and a call is never let through to the kernel, whose second look at the
//! caller's memory may find something else than ours did. The latter cannot even be said here.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// `PIDFD_THREAD` (Linux 6.9): of a thread that need not lead its process.
const PIDFD_THREAD: libc::c_uint = libc::O_EXCL as libc::c_uint;

/// A call that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WaitingCall {
    /// Names it; never used twice by one listener.
    pub id: u64,
    /// The thread that made it, as this process's pid namespace numbers it.
    pub thread: u32,
    /// Its system call number.
    pub number: i32,
    /// Its arguments.
    pub arguments: [u64; 6],
}

/// What the kernel gives to who loads a filter that asks.
#[derive(Debug)]
pub struct Listener(OwnedFd);

impl Listener {
    /// Takes over the descriptor of a listener.
    pub fn new(descriptor: OwnedFd) -> Self {
        Listener(descriptor)
    }

    /// The next call that waits. Must only be asked when the listener is readable: otherwise it blocks. `None` when the
    /// caller has died since.
    ///
    /// # Errors
    /// Those of ioctl(2) that do not mean the same.
    pub fn receive(&self) -> io::Result<Option<WaitingCall>> {
        // SAFETY: all zero is a valid value of this struct of integers, and what the kernel asks for.
        let mut call: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        // SAFETY: the request's argument is a writable `struct seccomp_notif`, which this is.
        let result = unsafe { libc::ioctl(self.0.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut call) };
        if result == 0 {
            let libc::seccomp_notif { id, pid: thread, data, .. } = call;
            return Ok(Some(WaitingCall { id, thread, number: data.nr, arguments: data.args }));
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::ENOENT | libc::EINTR) => Ok(None),
            _ => Err(error),
        }
    }

    /// Whether the call still waits.
    pub fn waits(&self, id: u64) -> bool {
        // SAFETY: the request's argument is the address of a number, which the kernel only reads.
        unsafe { libc::ioctl(self.0.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ID_VALID, &raw const id) == 0 }
    }

    /// Puts a duplicate of `descriptor` in the place of number `target` of the caller. It is closed on exec: whether the
    /// one before was, only /proc tells, at a price of the caller's choice. Waits until the caller's thread has done so,
    /// which takes as long as it is kept from running.
    ///
    /// # Errors
    /// `NotFound` when the call does not wait any more; those of dup2(2) in the caller.
    pub fn place(&self, id: u64, descriptor: impl AsFd, target: u32) -> io::Result<()> {
        let request = libc::seccomp_notif_addfd {
            id,
            flags: libc::SECCOMP_ADDFD_FLAG_SETFD as u32,
            srcfd: descriptor.as_fd().as_raw_fd() as u32,
            newfd: target,
            newfd_flags: libc::O_CLOEXEC as u32,
        };
        loop {
            // SAFETY: the request's argument is a `struct seccomp_notif_addfd`, which the kernel only reads.
            let result =
                unsafe { libc::ioctl(self.0.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ADDFD, &raw const request) };
            if result >= 0 {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }

    /// Answers a call in the kernel's place: 0, or an error number.
    ///
    /// # Errors
    /// `NotFound` when the call does not wait any more.
    pub fn answer(&self, id: u64, outcome: Result<(), i32>) -> io::Result<()> {
        let error = outcome.err().map_or(0, |errno| -errno);
        // With `flags` 0 the kernel does not make the call itself.
        let mut answer = libc::seccomp_notif_resp { id, val: 0, error, flags: 0 };
        // SAFETY: the request's argument is a `struct seccomp_notif_resp`, which this is.
        match unsafe { libc::ioctl(self.0.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut answer) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Reads memory of another process: as many bytes as `buffer` has.
///
/// # Errors
/// EFAULT when they are not all there, EPERM when this process may not look, ESRCH when there is no such thread.
pub fn read_memory(thread: u32, address: u64, buffer: &mut [u8]) -> io::Result<()> {
    let wanted = buffer.len();
    let local = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: wanted };
    let remote = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: wanted };
    // SAFETY: the local piece is the whole of a live, writable slice. The remote one is looked up in the other process,
    // where nothing is written.
    let read = unsafe { libc::process_vm_readv(thread as libc::pid_t, &raw const local, 1, &raw const remote, 1, 0) };
    match usize::try_from(read) {
        Ok(read) if read == wanted => Ok(()),
        Ok(_) => Err(io::Error::from_raw_os_error(libc::EFAULT)),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

/// A duplicate of descriptor `number` of another process: of the table that this thread has, or before Linux 6.9 of
/// the one that the leader of its process has.
///
/// # Errors
/// EBADF when nothing is open under that number, EPERM when this process may not look, ESRCH when there is no such
/// thread.
pub fn duplicate_of(thread: u32, leader: impl FnOnce() -> io::Result<u32>, number: u32) -> io::Result<OwnedFd> {
    let task = match pidfd_open(thread, PIDFD_THREAD) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => pidfd_open(leader()?, 0)?,
        other => other?,
    };
    // SAFETY: pidfd_getfd takes integers and touches no memory of ours.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_getfd, task.as_raw_fd(), number, 0) };
    // SAFETY: the descriptor was made by this call, as the helper demands.
    unsafe { own(result) }
}

fn pidfd_open(pid: u32, flags: libc::c_uint) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes two integers and touches no memory of ours.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_open, pid as libc::pid_t, flags) };
    // SAFETY: the descriptor was made by this call, as the helper demands.
    unsafe { own(result) }
}

/// The descriptor that a system call has made, or why it has not.
///
/// # Safety
/// `result` must come directly from a system call that returns a new descriptor, which nothing else owns.
unsafe fn own(result: libc::c_long) -> io::Result<OwnedFd> {
    match RawFd::try_from(result) {
        // SAFETY: the caller says that the descriptor is new and nobody's.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}
