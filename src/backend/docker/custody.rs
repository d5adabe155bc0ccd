//! The container backend's hold on one instance: a pidfd of the container's first process, and a line to the thread
//! that can ask the engine.
//!
//! The process is the engine's child and not the server's, so that its end is seen here at once, and how it came only the
//! engine knows.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use crate::backend::{Custody, End, Limits};
use crate::call::{ExitReason, Slot};
use crate::doorbell::Line;
use crate::limits::{FUNCTION_CPU_MILLIS_DEFAULT, FUNCTION_MEMORY_BYTES_DEFAULT};
use crate::registry::function::FunctionConfig;
use crate::sys;

use super::job::ContainerJob;

/// What the worker holds of a container.
#[derive(Debug)]
pub(super) struct ContainerCustody {
    slot: Slot,
    /// The container's first process: when it ends, everything in the container does.
    process: OwnedFd,
    containers: Line<ContainerJob>,
    /// Killed from here: how it ended is known, and need not be asked.
    is_killed: AtomicBool,
    /// Where the thread puts how it ended, once that has been asked. It does so within [`CONTAINER_EXIT_WAIT`]: the calls of
    /// this instance must not wait for an engine that hangs.
    ///
    /// [`CONTAINER_EXIT_WAIT`]: crate::limits::CONTAINER_EXIT_WAIT
    asked: Option<Arc<OnceLock<ExitReason>>>,
}

impl ContainerCustody {
    pub(super) fn new(slot: Slot, process: OwnedFd, containers: Line<ContainerJob>) -> Self {
        ContainerCustody { slot, process, containers, is_killed: AtomicBool::new(false), asked: None }
    }
}

impl Custody for ContainerCustody {
    fn set_limits(&mut self, config: &FunctionConfig) -> io::Result<Limits> {
        let FunctionConfig { memory_bytes, cpu_millis, .. } = *config;
        if (memory_bytes, cpu_millis) == (FUNCTION_MEMORY_BYTES_DEFAULT, FUNCTION_CPU_MILLIS_DEFAULT) {
            // Those that every blank is made with.
            return Ok(Limits::InForce);
        }
        let job = ContainerJob::SetLimits { slot: self.slot, memory_bytes, cpu_millis };
        self.containers.send(job).map_err(|_| io::Error::other("the thread of the containers has ended"))?;
        Ok(Limits::Awaited)
    }

    fn ended(&self) -> BorrowedFd<'_> {
        self.process.as_fd()
    }

    fn kill(&self) {
        // Of one that has ended by itself it is still asked why.
        if sys::io::wait_readable(&self.process, Instant::now()).is_err() {
            self.is_killed.store(true, Ordering::Relaxed);
        }
        if let Err(error) = sys::process::pidfd_kill(&self.process) {
            // Only root may; everybody else has to ask the engine.
            log::debug!("{}: killed by way of the engine: {error}", self.slot);
            let _ = self.containers.send(ContainerJob::Kill { slot: self.slot });
        }
    }

    fn end(&mut self) -> End {
        if self.asked.is_none() && sys::io::wait_readable(&self.process, Instant::now()).is_err() {
            return End::NotYet;
        }
        let answer = self.asked.get_or_insert_with(|| {
            let answer = Arc::new(OnceLock::new());
            let job = ContainerJob::AskExit { slot: self.slot, answer: Arc::clone(&answer) };
            if self.is_killed.load(Ordering::Relaxed) {
                let _ = answer.set(ExitReason::Signal(libc::SIGKILL));
            } else if self.containers.send(job).is_err() {
                let _ = answer.set(ExitReason::Unknown);
            }
            answer
        });
        answer.get().map_or(End::Awaited, |reason| End::Was(reason.clone()))
    }

    fn bury(self: Box<Self>) {
        let _ = self.containers.send(ContainerJob::Bury { slot: self.slot });
    }
}
