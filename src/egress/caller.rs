//! What is known of who made a call, from /proc.

use std::io;

/// `O_CLOEXEC` as /proc shows it among a descriptor's flags.
const CLOSE_ON_EXEC: u32 = libc::O_CLOEXEC as u32;

/// Whether a descriptor of this thread is closed when it becomes another program. It is a property of the thread's
/// table, so no duplicate of the descriptor tells.
pub(super) fn closes_on_exec(thread: u32, descriptor: u32) -> io::Result<bool> {
    let text = std::fs::read_to_string(format!("/proc/{thread}/fdinfo/{descriptor}"))?;
    flags(&text).map(|flags| flags & CLOSE_ON_EXEC != 0).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The leader of the process to which a thread belongs.
pub(super) fn leader(thread: u32) -> io::Result<u32> {
    let text = std::fs::read_to_string(format!("/proc/{thread}/status"))?;
    let found = text.lines().find_map(|line| line.strip_prefix("Tgid:")).and_then(|id| id.trim().parse().ok());
    found.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// In octal, as fdinfo has them.
fn flags(text: &str) -> Option<u32> {
    let line = text.lines().find_map(|line| line.strip_prefix("flags:"))?;
    u32::from_str_radix(line.trim(), 8).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn a_descriptors_table_tells_whether_it_is_closed() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let (thread, number) = (std::process::id(), file.as_raw_fd() as u32);
        assert!(closes_on_exec(thread, number).unwrap());
        nix::fcntl::fcntl(&file, nix::fcntl::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
        assert!(!closes_on_exec(thread, number).unwrap());
        assert!(closes_on_exec(thread, 1_000_000).is_err());
        assert_eq!(flags("pos:\t0\nflags:\t02100002\nmnt_id:\t15\n"), Some(0o2_100_002));
    }

    #[test]
    fn a_thread_knows_its_leader() {
        let thread = std::thread::spawn(|| nix::unistd::gettid().as_raw() as u32).join();
        assert_ne!(thread.unwrap(), std::process::id());
        let leader = std::thread::spawn(|| leader(nix::unistd::gettid().as_raw() as u32).unwrap()).join().unwrap();
        assert_eq!(leader, std::process::id());
    }
}
