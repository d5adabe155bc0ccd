//! Empty network namespaces: nothing in them but a loopback device that is down, and no way to raise it.
//!
//! Making one costs the kernel 0.8 ms and up to 20 ms at times, and taking it down keeps it busy for longer still, so they
//! are used again. That is sound because an instance can change nothing in one (it never has a capability there), and
//! because a namespace is given back only after the instance was waited for: the kernel ends the first process of a pid
//! namespace after all others, so that nobody is left in it, and nothing to connect to. What remains are the counters of
//! `/proc/self/net`, which tell the next tenant how many packets were refused.
//!
//! Invariants: a namespace is with one instance, or idle here; a server at rest has [`NETWORKS_IDLE`] idle ones.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use nix::sched::{unshare, CloneFlags};

use crate::limits::NETWORKS_IDLE;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Networks {
    idle: Vec<OwnedFd>,
    /// Whether the last attempt to make one failed: the next is made when one is needed.
    refused: bool,
}

impl Networks {
    /// One that nobody is in; none when the kernel refuses a namespace, a thread or a descriptor.
    pub(super) fn take(&mut self) -> Option<OwnedFd> {
        self.idle.pop().or_else(|| self.make())
    }

    /// Nobody is in it any more.
    pub(super) fn give_back(&mut self, network: OwnedFd) {
        if self.idle.len() < NETWORKS_IDLE {
            self.idle.push(network);
        }
    }

    /// Whether [`refill`](Self::refill) has nothing to do.
    pub(super) fn is_full(&self) -> bool {
        self.refused || self.idle.len() >= NETWORKS_IDLE
    }

    /// Makes one if there are too few: for when nothing else is to be done.
    pub(super) fn refill(&mut self) {
        if !self.is_full() {
            let made = self.make();
            self.idle.extend(made);
        }
    }

    fn make(&mut self) -> Option<OwnedFd> {
        match make() {
            Ok(network) => {
                self.refused = false;
                Some(network)
            }
            Err(error) => {
                // Once, and not for every instance of a host that has none.
                if !std::mem::replace(&mut self.refused, true) {
                    log::warn!("an empty network namespace cannot be made: {error}");
                }
                None
            }
        }
    }
}

/// In a thread of its own, since what `unshare` changes is the calling thread.
fn make() -> io::Result<OwnedFd> {
    let maker = std::thread::Builder::new().name("faas-network".to_owned()).spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        Ok(File::open("/proc/thread-self/ns/net")?.into())
    })?;
    maker.join().unwrap_or_else(|_| Err(io::Error::other("the thread that makes a network namespace has panicked")))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn what_is_given_back_is_taken_again_and_few_are_kept() {
        if !nix::unistd::geteuid().is_root() {
            return eprintln!("SKIP network namespaces need root");
        }
        let mut networks = Networks::default();
        let first = networks.take().unwrap();
        let name = |network: &OwnedFd| std::fs::read_link(format!("/proc/self/fd/{}", network.as_raw_fd())).unwrap();
        assert_ne!(name(&first), std::fs::read_link("/proc/self/ns/net").unwrap());
        let (number, second) = (name(&first), networks.take().unwrap());
        assert_ne!(number, name(&second));
        networks.give_back(first);
        assert_eq!(name(&networks.take().unwrap()), number);
        for _ in 0..NETWORKS_IDLE + 5 {
            networks.give_back(second.try_clone().unwrap());
        }
        assert_eq!(networks.idle.len(), NETWORKS_IDLE);
    }

    #[test]
    fn what_is_given_back_while_none_can_be_made_is_kept() {
        let mut networks = Networks { refused: true, ..Networks::default() };
        assert!(networks.is_full(), "the next is made when one is needed");
        networks.give_back(File::open("/dev/null").unwrap().into());
        assert!(networks.idle.len() == 1 && networks.take().is_some());
    }

    #[test]
    fn a_few_are_made_in_advance() {
        if !nix::unistd::geteuid().is_root() {
            return eprintln!("SKIP network namespaces need root");
        }
        let mut networks = Networks::default();
        for idle in 1..=NETWORKS_IDLE {
            assert!(!networks.is_full());
            networks.refill();
            assert_eq!(networks.idle.len(), idle);
        }
        networks.refill();
        assert_eq!((networks.is_full(), networks.idle.len()), (true, NETWORKS_IDLE));
    }
}
