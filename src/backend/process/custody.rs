//! The process backend's hold on one instance: its pidfd and its cgroup.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::backend::{self, Custody, End};
use crate::call::{ExitReason, Slot};
use crate::doorbell::Line;
use crate::limits::INSTANCE_TASKS_MAX;
use crate::registry::function::FunctionConfig;
use crate::sandbox::cgroup::{Cgroup, Limits};
use crate::sys;
use crate::sys::process::ProcessEnd;

use super::supervisor::SupervisorJob;

/// Asks, a millisecond apart, until a process that is nobody's child here is given up.
const ORPHAN_TRIES_MAX: u32 = 1000;

/// What the worker holds of an instance. The process is a child of the server, so that its pidfd can be waited on.
#[derive(Debug)]
pub(super) struct ProcessCustody {
    pub(super) slot: Slot,
    pub(super) pid: u32,
    pub(super) process: OwnedFd,
    /// The process has been waited for.
    pub(super) is_reaped: bool,
    pub(super) cgroup: Option<Cgroup>,
    /// Its network namespace, to be used again.
    pub(super) network: Option<OwnedFd>,
    pub(super) supervisor: Line<SupervisorJob>,
    /// How often it has been asked for the end of a process that is not its child yet.
    pub(super) orphan_tries: u32,
    /// How it ended, once that is known: the kernel tells it only once.
    pub(super) ended: Option<ExitReason>,
    /// The limit that is in force, for the message when it is exceeded.
    pub(super) memory_bytes: u64,
}

impl Custody for ProcessCustody {
    fn set_limits(&mut self, config: &FunctionConfig) -> io::Result<backend::Limits> {
        let limits =
            Limits { memory_bytes: config.memory_bytes, cpu_millis: config.cpu_millis, tasks: INSTANCE_TASKS_MAX };
        self.memory_bytes = config.memory_bytes;
        // Without cgroups the isolation level has been checked to allow that when the server started.
        if let Some(cgroup) = &mut self.cgroup {
            cgroup.set_limits(limits).map_err(io::Error::other)?;
        }
        Ok(backend::Limits::InForce)
    }

    fn ended(&self) -> BorrowedFd<'_> {
        self.process.as_fd()
    }

    fn kill(&self) {
        if let Err(error) = sys::process::pidfd_kill(&self.process) {
            log::error!("{}: cannot be killed: {error}", self.slot);
        }
    }

    fn end(&mut self) -> End {
        if self.ended.is_none() {
            self.ended = self.collect();
        }
        self.ended.clone().map_or(End::NotYet, End::Was)
    }

    fn bury(self: Box<Self>) {
        // Removing a directory of the cgroup file system can wait for the kernel: not on a worker's time.
        let ProcessCustody { slot, pid, is_reaped, cgroup, network, supervisor, .. } = *self;
        let _ = supervisor.send(SupervisorJob::Bury { slot, pid, is_reaped, cgroup, network });
    }
}

impl ProcessCustody {
    /// Waits for the process if it has ended, and says how.
    fn collect(&mut self) -> Option<ExitReason> {
        let end = sys::process::pidfd_reap(&self.process);
        self.is_reaped |= matches!(end, Ok(Some(_)));
        match end {
            Ok(None) => None,
            Ok(Some(ProcessEnd::Status(status))) => Some(ExitReason::Status(status)),
            Ok(Some(ProcessEnd::Signal(libc::SIGKILL)))
                if self.cgroup.as_ref().is_some_and(Cgroup::ran_out_of_memory) =>
            {
                Some(ExitReason::OutOfMemory { limit_bytes: self.memory_bytes })
            }
            Ok(Some(ProcessEnd::Signal(signal))) => Some(ExitReason::Signal(signal)),
            Err(_) if self.orphan_tries < ORPHAN_TRIES_MAX => {
                // It died before its parent did, and is not this process's child until that has happened.
                self.orphan_tries += 1;
                None
            }
            Err(error) => {
                log::error!("{}: how it ended cannot be told: {error}", self.slot);
                Some(ExitReason::Unknown)
            }
        }
    }
}
