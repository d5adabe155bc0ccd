//! What the other threads ask the supervisor for.

use std::os::fd::OwnedFd;

use crate::backend::Wish;
use crate::call::Slot;
use crate::sandbox::cgroup::Cgroup;

/// What the supervisor is asked for.
#[derive(Debug)]
pub enum SupervisorJob {
    /// Make a blank.
    Make(Wish),
    /// Remove the cgroup of an instance that has ended.
    Bury {
        /// Its slot: a checker's is free again.
        slot: Slot,
        /// Its process.
        pid: u32,
        /// Whether the process has been waited for.
        is_reaped: bool,
        /// The cgroup, if it had one.
        cgroup: Option<Cgroup>,
        /// Its network namespace, if it was given one.
        network: Option<OwnedFd>,
    },
    /// End the zygotes, remove every cgroup, end the thread.
    Shutdown,
}
