//! A process of the server's that outlives it for a moment: it ends the containers' processes when the server has died.
//!
//! A container is the engine's child, so that no death signal of the server's reaches it, and an instance that runs a call
//! does not look at its channel. So the first process of every container is handed, as a pidfd, to this process over a
//! socket. When the socket's other end is gone, which the kernel sees to however the server ends, everything that was
//! handed over and lives is killed; as the first process of its pid namespace it takes all others along.
//!
//! Owns the process and what is said to it. Does not remove containers: their remains are the next start's to find.
//!
//! Invariants:
//! - It does nothing as long as the server lives, but to forget what has ended.
//! - It is the same program, has one thread, and runs nothing and reads nothing of any function.
//! - Only root may signal other users' processes: a server that is not has no heir.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Instant;

use nix::sys::signal::SigSet;
use nix::sys::socket::{shutdown, Shutdown};

use crate::limits::{HEIR_END_WAIT, HEIR_PAUSE};
use crate::sys;
use crate::sys::io::Awaited;

/// The first argument that makes this program the heir: for the server's own use.
pub const HEIR_COMMAND: &str = "__heir";
/// A message says nothing but what comes with it, and cannot be empty.
const MESSAGE: &[u8] = b"!";

/// The server's side. The process is started with the first container, and anew if it is gone.
#[derive(Debug, Default)]
pub(super) struct Heir {
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    socket: OwnedFd,
    process: Child,
}

impl Heir {
    /// Hands over the first process of a container.
    ///
    /// # Errors
    /// When there is no heir and none can be started, or it does not take it.
    pub(super) fn take(&mut self, process: BorrowedFd<'_>) -> io::Result<()> {
        if !nix::unistd::geteuid().is_root() {
            return Ok(());
        }
        if let Some(running) = &self.running {
            match running.hand_over(process) {
                // Anything else is about this message. To start anew would end all that it has.
                Err(error) if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {
                    log::warn!(
                        "the process that ends containers after this server is gone, and is started anew: {error}"
                    );
                    self.running = None;
                }
                done => return done,
            }
        }
        let running = Running::start()?;
        running.hand_over(process)?;
        self.running = Some(running);
        Ok(())
    }
}

impl Running {
    fn start() -> io::Result<Running> {
        let (socket, theirs) = sys::io::seqpacket_pair()?;
        // It keeps nothing open of the server's: whoever waits for the end of its output does not wait for this.
        let process = Command::new("/proc/self/exe")
            .arg(HEIR_COMMAND)
            .env_clear()
            .current_dir("/")
            .stdin(theirs)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Running { socket, process })
    }

    fn hand_over(&self, process: BorrowedFd<'_>) -> io::Result<()> {
        sys::io::send_with_descriptors(&self.socket, &[IoSlice::new(MESSAGE)], &[process])
    }
}

impl Drop for Running {
    /// What was handed over and lives goes with the server's end, also with one in good order.
    fn drop(&mut self) {
        let _ = shutdown(self.socket.as_raw_fd(), Shutdown::Both);
        let ended = sys::process::pidfd_open(self.process.id())
            .and_then(|process| sys::io::wait_readable(process, Instant::now() + HEIR_END_WAIT));
        if ended.is_err() {
            let _ = self.process.kill();
        }
        let _ = self.process.wait();
    }
}

/// The whole of `faas __heir`, with the socket as its standard input.
pub fn heir_main() -> ExitCode {
    // What a terminal or an init system sends to all of a server's processes is for the server: it has to end first.
    let _ = SigSet::all().thread_block();
    inherit(io::stdin().as_fd());
    ExitCode::SUCCESS
}

/// Waits for the end of the server at the other end of the socket, and kills what is left of what came from it.
fn inherit(server: BorrowedFd<'_>) {
    let mut left: Vec<OwnedFd> = Vec::new();
    while hear(server, &mut left) {
        let processes = left.iter().map(|process| (process.as_fd(), Awaited::Input));
        let watched: Vec<_> = std::iter::once((server, Awaited::Input)).chain(processes).collect();
        let Ok(readiness) = sys::io::wait_all(&watched, None) else {
            // For want of memory, say: the server's end it is not.
            std::thread::sleep(HEIR_PAUSE);
            continue;
        };
        let mut has_ended = readiness.iter().skip(1).map(|of_it| of_it.ready);
        left.retain(|_| !has_ended.next().unwrap_or(false));
    }
    for process in left {
        let _ = sys::process::pidfd_kill(process);
    }
}

/// Takes all that has come; whether the server is still there.
fn hear(server: BorrowedFd<'_>, left: &mut Vec<OwnedFd>) -> bool {
    loop {
        match sys::io::recv_descriptors(server, &mut [0; MESSAGE.len()]) {
            Ok((0, _)) => return false,
            Ok((_, processes)) => left.extend(processes),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => return true,
                io::ErrorKind::ConnectionReset => return false,
                _ => std::thread::sleep(HEIR_PAUSE),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn sleeper() -> (Child, OwnedFd) {
        let child = Command::new("sleep").arg("600").spawn().unwrap();
        let pidfd = sys::process::pidfd_open(child.id()).unwrap();
        (child, pidfd)
    }

    #[test]
    fn what_was_handed_over_is_killed_when_the_server_is_gone_and_not_before() {
        let (ours, theirs) = sys::io::seqpacket_pair().unwrap();
        let (mut first, first_fd) = sleeper();
        let (mut second, second_fd) = sleeper();
        let heir = std::thread::spawn(move || inherit(theirs.as_fd()));
        for process in [&first_fd, &second_fd] {
            sys::io::send_with_descriptors(&ours, &[IoSlice::new(MESSAGE)], &[process.as_fd()]).unwrap();
        }
        first.kill().unwrap();
        first.wait().unwrap();
        std::thread::sleep(Duration::from_millis(50));
        assert!(second.try_wait().unwrap().is_none(), "the server lives");
        assert!(!heir.is_finished());
        drop(ours);
        heir.join().unwrap();
        sys::io::wait_readable(&second_fd, Instant::now() + Duration::from_secs(20)).unwrap();
        second.wait().unwrap();
    }

    #[test]
    fn what_comes_with_the_last_word_of_the_server_is_killed_too() {
        let (ours, theirs) = sys::io::seqpacket_pair().unwrap();
        let (mut process, pidfd) = sleeper();
        sys::io::send_with_descriptors(&ours, &[IoSlice::new(MESSAGE)], &[pidfd.as_fd()]).unwrap();
        drop(ours);
        inherit(theirs.as_fd());
        sys::io::wait_readable(&pidfd, Instant::now() + Duration::from_secs(20)).unwrap();
        process.wait().unwrap();
    }
}
