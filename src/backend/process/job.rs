//! What the other threads ask the supervisor for.

use std::os::fd::OwnedFd;

use crossbeam_channel::Sender;

use crate::backend::process::check::Throwaway;
use crate::call::Slot;
use crate::sandbox::cgroup::Cgroup;
use crate::scheduler::RuntimeId;

/// What the supervisor is asked for.
#[derive(Debug)]
pub enum SupervisorJob {
    /// Make a blank and give it to the slot's worker.
    MakeBlank {
        /// Where it will live.
        slot: Slot,
        /// Which interpreter.
        runtime: RuntimeId,
    },
    /// Make a blank for a control thread, outside the scheduler's slots.
    MakeChecker {
        /// Which interpreter.
        runtime: RuntimeId,
        /// Where to put it.
        answer: Sender<Result<Throwaway, String>>,
    },
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
