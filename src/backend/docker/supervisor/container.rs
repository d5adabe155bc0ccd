//! One container as this thread keeps it, from its order until it is removed; and what waits for its process.
//!
//! What becomes of it is decided by `life` until it is delivered, and by `ends` from then on.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use crate::backend::docker::hardening::ContainerSpec;
use crate::backend::docker::launch::Rendezvous;
use crate::backend::docker::life::Life;
use crate::backend::recipients::Recipient;
use crate::call::{ExitReason, Slot};
use crate::sandbox::cgroup::OomWatch;
use crate::sandbox::plan::Network;
use crate::sys;

use super::ends::Removal;

/// One container, from its order until it is removed.
#[derive(Debug)]
pub(super) struct Container {
    pub(super) slot: Slot,
    pub(super) name: String,
    pub(super) spec: ContainerSpec,
    pub(super) life: Life,
    /// Until when it has to be delivered.
    pub(super) deadline: Instant,
    pub(super) recipient: Option<Recipient>,
    pub(super) network: Network,
    /// Where its process comes for its channel; none when that has been.
    pub(super) meeting: Option<Meeting>,
    /// Its process, from when it is known until the container is delivered.
    pub(super) process: Option<OwnedFd>,
    /// By which the kernel tells that its memory has run out, where the engine does not and the kernel can.
    pub(super) memory: Option<OomWatch>,
    /// Its directory on the host goes with it.
    pub(super) rendezvous: Rendezvous,
    /// Removal has been asked for, or is to be asked for at this time.
    pub(super) removal: Removal,
    /// It has been asked to be killed, and that was not answered.
    pub(super) is_kill_asked: bool,
    /// The engine or the kernel has told that a process of it was killed for want of memory.
    pub(super) is_starved: bool,
    /// How often its end was looked at without a reason for a SIGKILL.
    pub(super) exit_looks: u32,
    /// Where to put how it ended, and until when.
    pub(super) exit: Option<(Arc<OnceLock<ExitReason>>, Instant)>,
}

/// What waits for the container's process.
#[derive(Debug)]
pub(super) struct Meeting {
    pub(super) channel: OwnedFd,
    pub(super) instance_end: OwnedFd,
    pub(super) output: OwnedFd,
    pub(super) output_writer: Option<OwnedFd>,
}

impl Meeting {
    pub(super) fn prepare() -> io::Result<Meeting> {
        let (channel, instance_end) = sys::io::seqpacket_pair()?;
        sys::io::refuse_descriptors(&channel);
        let (output, output_writer) = sys::io::output_pipe()?;
        Ok(Meeting { channel, instance_end, output, output_writer: Some(output_writer) })
    }
}
