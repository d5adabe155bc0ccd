//! What is known of who made a call, from /proc.
//!
//! Never here: `fdinfo`. Its length is the instance's to choose (an epoll descriptor lists all that it watches, of every
//! process that shares it), and another thread can put such a descriptor in the place of the socket that was looked at.

use std::io;

/// The leader of the process to which a thread belongs.
pub(super) fn leader(thread: u32) -> io::Result<u32> {
    let text = std::fs::read_to_string(format!("/proc/{thread}/status"))?;
    let found = text.lines().find_map(|line| line.strip_prefix("Tgid:")).and_then(|id| id.trim().parse().ok());
    found.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_knows_its_leader() {
        let thread = std::thread::spawn(|| nix::unistd::gettid().as_raw() as u32).join();
        assert_ne!(thread.unwrap(), std::process::id());
        let leader = std::thread::spawn(|| leader(nix::unistd::gettid().as_raw() as u32).unwrap()).join().unwrap();
        assert_eq!(leader, std::process::id());
    }
}
