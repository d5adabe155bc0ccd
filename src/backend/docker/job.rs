//! What the other threads ask the containers' thread for.

use std::sync::{Arc, OnceLock};

use crossbeam_channel::Sender;

use crate::backend::Wish;
use crate::call::{ExitReason, Slot};
use crate::registry::image::Reference;

use super::api::images::Image;
use super::images::{ImageError, PulledImage};
use super::registry_auth::RegistryAuth;

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
        /// Where to put it: it is filled in any case, soon, and the slot's worker is told.
        answer: Arc<OnceLock<ExitReason>>,
    },
    /// Remove a container that has ended, and all that was made for it.
    Bury {
        /// Whose.
        slot: Slot,
    },
    /// Find out which image a name means, if that is here.
    FindImage {
        /// As the function names it.
        reference: Reference,
        /// Where to put it.
        answer: Sender<Result<Option<Image>, ImageError>>,
    },
    /// Get an image that is not here.
    PullImage {
        /// As the function names it.
        reference: Reference,
        /// What its registry is to be told.
        auth: Option<RegistryAuth>,
        /// Where to put it. Nothing comes before the image is here or cannot be had.
        answer: Sender<Result<PulledImage, ImageError>>,
    },
    /// Give up every pull, and begin none any more.
    StopPulls,
    /// Remove every container, end the thread.
    Shutdown,
}
