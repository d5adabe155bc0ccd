//! What the other threads ask the containers' thread for.

use std::sync::{Arc, OnceLock};

use crossbeam_channel::Sender;

use crate::backend::Wish;
use crate::call::{ExitReason, Slot};

use super::images::{ImageError, Prepared};

/// What the containers' thread is asked for.
#[derive(Debug)]
pub enum ContainerJob {
    /// Make a blank.
    Make(Wish),
    /// Put these limits in force, and tell the slot's worker.
    SetLimits {
        /// Whose.
        slot: Slot,
        /// Memory in bytes, swap included.
        memory_bytes: u64,
        /// Processor time in thousandths of a processor.
        cpu_millis: u32,
    },
    /// End a container that its custodian may not send a signal to.
    Kill {
        /// Whose.
        slot: Slot,
    },
    /// Find out how a container ended.
    AskExit {
        /// Whose.
        slot: Slot,
        /// Where to put it: it is filled in any case.
        answer: Arc<OnceLock<ExitReason>>,
    },
    /// Remove a container that has ended, and all that was made for it.
    Bury {
        /// Whose.
        slot: Slot,
    },
    /// See that an image is here, and which one it is.
    PrepareImage {
        /// As the function names it.
        reference: String,
        /// Where to put it. Nothing comes before the image is here or cannot be had.
        answer: Sender<Result<Prepared, ImageError>>,
    },
    /// Remove every container, end the thread.
    Shutdown,
}
