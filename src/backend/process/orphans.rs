//! Burying what a zygote leaves: when it dies, its child M becomes a child of the server, and nobody waits for M.
//!
//! The process group of a zygote is its own (its plan begins a session), M is in it, and an instance is until its inner
//! plan begins. So the group tells which of the server's children to look at; not `waitpid(-1)`, which would take away
//! the exit status of instances and of interpreters that other threads wait for.

use crate::sys::process::{bury, group, Group};

/// The groups of zygotes that have ended, as long as a child of the server is in them.
#[derive(Debug, Default)]
pub(super) struct Orphans {
    groups: Vec<u32>,
}

impl Orphans {
    /// A zygote with this process id has ended and was waited for.
    pub(super) fn expect(&mut self, zygote_pid: u32) {
        self.groups.push(zygote_pid);
    }

    /// Whether to ask again later.
    pub(super) fn are_left(&self) -> bool {
        !self.groups.is_empty()
    }

    /// Buries those that have ended, but none that is in somebody's custody and so is buried there.
    pub(super) fn bury(&mut self, in_custody: impl Fn(u32) -> bool) {
        self.groups.retain(|&zygote_pid| loop {
            match group(zygote_pid) {
                Ok(Group::Empty) => break false,
                Ok(Group::Alive) => break true,
                Ok(Group::Ended(pid)) if in_custody(pid) => break true,
                Ok(Group::Ended(pid)) => bury(pid),
                Err(error) => {
                    log::error!("what zygote {zygote_pid} left cannot be buried: {error}");
                    break false;
                }
            }
        });
    }
}
