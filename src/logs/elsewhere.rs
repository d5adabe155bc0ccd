//! A log service that closes its files, because another server is about to write them.
//!
//! Owns the moment between the two: the service has written out what it held and waits to be told whether it goes on,
//! or sends what is still appended to the successor. What comes meanwhile waits in the queue.
//!
//! Invariant: whoever is to decide and goes away has decided that it goes on.

use std::fmt;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use crossbeam_channel::{bounded, Receiver, Sender};

use super::LogEntry;
use crate::limits::{LOG_ELSEWHERE_TIMEOUT, TAKEOVER_HOLD_TIMEOUT};
use crate::sys::io::{wait_all, Awaited};
use crate::takeover::message::{LoggedElsewhere, Message};
use crate::takeover::socket;

/// The end of the one who decides.
#[derive(Debug)]
pub struct Decision {
    verdict: Sender<OwnedFd>,
}

impl Decision {
    /// The files are the successor's; entries go to it over this socket. Dropped instead, the service goes on.
    pub fn leave_to(self, successor: OwnedFd) {
        // The service may have lost its patience; then it goes on, and the successor reads an end.
        let _ = self.verdict.send(successor);
    }
}

/// The end of the service.
pub(super) struct Closing {
    pub(super) done: Box<dyn FnOnce() + Send>,
    verdict: Receiver<OwnedFd>,
}

impl fmt::Debug for Closing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Closing").finish_non_exhaustive()
    }
}

pub(super) fn closing(done: Box<dyn FnOnce() + Send>) -> (Decision, Closing) {
    let (sender, verdict) = bounded(1);
    (Decision { verdict: sender }, Closing { done, verdict })
}

impl Closing {
    /// Says that the files are left alone and waits for the decision.
    pub(super) fn settle(self) -> Option<Elsewhere> {
        (self.done)();
        // The conversation of the two servers ends by itself before this.
        let successor = self.verdict.recv_timeout(2 * TAKEOVER_HOLD_TIMEOUT).ok()?;
        Some(Elsewhere { successor })
    }
}

/// The process that writes the files now.
#[derive(Debug)]
pub(super) struct Elsewhere {
    successor: OwnedFd,
}

impl Elsewhere {
    /// Sends an entry; waits while the successor has many to read.
    pub(super) fn append(&self, function: &str, entry: LogEntry) -> io::Result<()> {
        let message = Message::Log(LoggedElsewhere { function: function.to_owned(), entry });
        let deadline = Instant::now() + LOG_ELSEWHERE_TIMEOUT;
        loop {
            match socket::send(&self.successor, &message, &[]) {
                Err(error) if error.kind() == ErrorKind::WouldBlock && Instant::now() < deadline => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    wait_all(&[(self.successor.as_fd(), Awaited::Output)], Some(left))?;
                }
                sent => return sent,
            }
        }
    }
}
