//! Processes: starting the plan helper, pidfds, how a process ended, adopting orphans; and the server's own limits.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sched::{sched_setaffinity, CpuSet};
use nix::sys::signal::Signal;
use nix::sys::wait::{waitid, Id, WaitPidFlag, WaitStatus};
use nix::unistd::Pid;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProcessEnd {
    /// It exited with this status.
    Status(i32),
    /// This signal ended it.
    Signal(i32),
}

/// Starts a program with a plan on its standard input and a socket as descriptor `control_fd`, in an empty
/// environment. Standard output and error both go to `output`.
///
/// The child's death signal, if its plan sets one, follows the *thread* that calls this: it has to be one that lives
/// as long as the server.
///
/// # Errors
/// When the program cannot be started.
pub fn spawn_with_plan(
    program: &Path,
    arguments: &[&OsStr],
    plan: &[u8],
    control: &OwnedFd,
    control_fd: u32,
    output: OwnedFd,
) -> io::Result<Child> {
    let plan = super::io::memory_file("faas-plan", plan)?;
    let mut command = Command::new(program);
    command.args(arguments).env_clear().stdin(plan).stdout(output.try_clone()?).stderr(Stdio::from(output));
    let (from, to) = (control.as_raw_fd(), control_fd as libc::c_int);
    let place = move || {
        // dup2 with equal numbers does nothing, not even to the close-on-exec flag, which must go.
        // SAFETY: both calls take numbers only, and `from` is open: it is borrowed from the caller beyond the spawn.
        let result = unsafe {
            if from == to {
                libc::fcntl(from, libc::F_SETFD, 0)
            } else {
                libc::dup2(from, to)
            }
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    };
    // SAFETY: in the child of a fork of a program with threads `place` makes one system call and allocates nothing.
    unsafe { command.pre_exec(place) };
    command.spawn()
}

/// A descriptor that stands for the process `pid`, a child of ours, whatever becomes of the number. It is readable
/// when the process has ended.
///
/// # Errors
/// Those of pidfd_open(2); `ESRCH` when there is no such process.
pub fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes numbers only.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_open, pid as libc::pid_t, 0) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(result as libc::c_int) })
}

/// Sends SIGKILL to the process. One that has ended already is a success.
///
/// # Errors
/// Those of pidfd_send_signal(2).
pub fn pidfd_kill(pidfd: impl AsFd) -> io::Result<()> {
    pidfd_signal(pidfd, Signal::SIGKILL)
}

/// Sends a signal to the process. One that has ended already is a success.
///
/// # Errors
/// Those of pidfd_send_signal(2).
pub fn pidfd_signal(pidfd: impl AsFd, signal: Signal) -> io::Result<()> {
    let (fd, no_info) = (pidfd.as_fd().as_raw_fd(), std::ptr::null::<libc::siginfo_t>());
    // SAFETY: `fd` is open for the length of the call, and a null siginfo makes the kernel fill in its own.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal as libc::c_int, no_info, 0) };
    match result {
        0 => Ok(()),
        _ => match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            error => Err(error),
        },
    }
}

/// Buries the process if it has ended, and says how; `None` while it runs. It must be a child of ours, by birth or
/// by adoption.
///
/// # Errors
/// `ECHILD` when it is not (yet) our child, or is buried already.
pub fn pidfd_reap(pidfd: impl AsFd) -> io::Result<Option<ProcessEnd>> {
    let status = waitid(Id::PIDFd(pidfd.as_fd()), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG)?;
    Ok(match status {
        WaitStatus::Exited(_, status) => Some(ProcessEnd::Status(status)),
        WaitStatus::Signaled(_, signal, _) => Some(ProcessEnd::Signal(signal as i32)),
        _ => None,
    })
}

/// Makes this process the parent of its orphaned descendants.
///
/// # Errors
/// Those of prctl(2).
pub fn adopt_orphans() -> io::Result<()> {
    Ok(nix::sys::prctl::set_child_subreaper(true)?)
}

/// The children of the main thread: orphans that this process has adopted, and what that thread started itself. None on
/// a kernel that does not tell (without `CONFIG_PROC_CHILDREN`).
///
/// # Errors
/// When the kernel cannot be asked, as without a free descriptor.
pub fn adopted_children() -> io::Result<Vec<u32>> {
    let text = match std::fs::read_to_string(format!("/proc/self/task/{}/children", std::process::id())) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        text => text?,
    };
    Ok(text.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect())
}

/// Buries the child with this number if it has ended, and says whether it had.
pub fn reap(pid: u32) -> bool {
    let Ok(pid) = i32::try_from(pid) else { return false };
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG;
    matches!(waitid(Id::Pid(Pid::from_raw(pid)), flags), Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)))
}

/// Ends this process now, without anything that is usually done before: no exit handler runs, no lock is taken.
pub fn exit_at_once(status: i32) -> ! {
    // SAFETY: _exit has no preconditions, and never returns.
    unsafe { libc::_exit(status) }
}

/// Raises the soft limit of open descriptors to the hard one, and says what it is now.
///
/// # Errors
/// Those of getrlimit(2) and setrlimit(2).
pub fn raise_open_files_limit() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the address is that of a writable rlimit.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: the address is that of an rlimit, which is only read.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(limit.rlim_cur)
}

/// Keeps the calling thread on one processor.
///
/// # Errors
/// `EINVAL` when there is no such processor or it is not for us.
pub fn pin_current_thread(processor: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(processor)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[allow(clippy::zombie_processes)] // it is buried through its pidfd, which is what is tested
    fn end_of(script: &str, kill: bool) -> ProcessEnd {
        let child = Command::new("/bin/sh").args(["-c", script]).spawn().unwrap();
        let pidfd = pidfd_open(child.id()).unwrap();
        if kill {
            assert_eq!(pidfd_reap(&pidfd).unwrap(), None);
            pidfd_kill(&pidfd).unwrap();
        }
        crate::sys::io::wait_readable(&pidfd, Instant::now() + Duration::from_secs(20)).unwrap();
        let end = pidfd_reap(&pidfd).unwrap().unwrap();
        pidfd_kill(&pidfd).unwrap();
        assert_eq!(pidfd_reap(&pidfd).unwrap_err().raw_os_error(), Some(libc::ECHILD));
        end
    }

    #[test]
    fn the_end_of_a_process_is_told_once_and_as_it_was() {
        assert_eq!(end_of("exit 7", false), ProcessEnd::Status(7));
        assert_eq!(end_of("kill -SEGV $$", false), ProcessEnd::Signal(libc::SIGSEGV));
        assert_eq!(end_of("sleep 60", true), ProcessEnd::Signal(libc::SIGKILL));
    }

    #[test]
    #[allow(clippy::zombie_processes)] // it is buried by its number, which is what is tested
    fn a_child_is_waited_for_by_its_number_once_it_has_ended() {
        let mut child = Command::new("/bin/cat").stdin(Stdio::piped()).spawn().unwrap();
        assert!(!reap(child.id()), "it has not ended");
        drop(child.stdin.take());
        let limit = Instant::now() + Duration::from_secs(20);
        while !reap(child.id()) {
            assert!(Instant::now() < limit, "it has not ended");
            std::thread::yield_now();
        }
        assert!(!reap(child.id()), "it was buried before");
    }

    #[test]
    fn the_limit_of_open_files_is_then_the_hard_one() {
        let limit = raise_open_files_limit().unwrap();
        assert_eq!(raise_open_files_limit().unwrap(), limit);
    }
}
