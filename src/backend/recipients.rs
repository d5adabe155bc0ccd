//! Who wants blanks: where each will live, who gets it, or the news that there is none. The supervisor and the containers'
//! thread have one each.
//!
//! Owns the slots of checkers, which are behind the scheduler's. Does not make blanks, and does not decide how many there
//! are (the scheduler does).
//!
//! Invariant: a checker's slot is nobody else's until it is given back.

use crossbeam_channel::{SendError, Sender};

use crate::call::{BlankFailure, FrontEvent, Slot, WorkerJob};
use crate::doorbell::Line;
use crate::scheduler::RuntimeId;

use super::check::Throwaway;
use super::Instance;

/// A blank that another thread asks for.
#[derive(Debug)]
pub enum Wish {
    /// One for the slot's worker.
    ForWorker {
        /// Where it will live.
        slot: Slot,
        /// Which interpreter or image, with which network.
        runtime: RuntimeId,
    },
    /// One for a control thread, outside the scheduler's slots.
    ForChecker {
        /// Which interpreter or image, with which network.
        runtime: RuntimeId,
        /// Where to put it.
        answer: Sender<Result<Throwaway, String>>,
    },
}

/// Who gets a blank.
#[derive(Debug)]
pub(super) enum Recipient {
    Worker,
    Checker(Sender<Result<Throwaway, String>>),
}

/// See the module's documentation.
pub(super) struct Recipients {
    workers: Vec<Line<WorkerJob>>,
    front: Line<FrontEvent>,
    checker_slots: CheckerSlots,
}

impl Recipients {
    /// The scheduler has the slots below `slots_max`; checkers have those from there on.
    pub(super) fn new(workers: Vec<Line<WorkerJob>>, front: Line<FrontEvent>, slots_max: u32) -> Self {
        Recipients { workers, front, checker_slots: CheckerSlots::from(slots_max) }
    }

    /// Where the blank will live, of which runtime it is to be, and who gets it.
    pub(super) fn place(&mut self, wish: Wish) -> (Slot, RuntimeId, Recipient) {
        match wish {
            Wish::ForWorker { slot, runtime } => (slot, runtime, Recipient::Worker),
            Wish::ForChecker { runtime, answer } => (self.checker_slots.take(), runtime, Recipient::Checker(answer)),
        }
    }

    /// Hands the blank over. It comes back when nobody is there to receive it: to drop it waits for its end.
    pub(super) fn deliver(&self, recipient: Recipient, instance: Instance) -> Option<Throwaway> {
        match recipient {
            Recipient::Worker => {
                let sent = self.worker_of(instance.slot).send(WorkerJob::Adopt(Box::new(instance)));
                match sent.err()?.into_inner() {
                    WorkerJob::Adopt(instance) => Some(Throwaway::new(*instance)),
                    _ => None,
                }
            }
            Recipient::Checker(answer) => {
                let SendError(unsent) = answer.send(Ok(Throwaway::new(instance))).err()?;
                unsent.ok()
            }
        }
    }

    /// Tells that there is no blank. A checker's slot is not given back by that.
    pub(super) fn refuse(&self, slot: Slot, recipient: Recipient, failure: BlankFailure) {
        match recipient {
            Recipient::Worker => {
                let _ = self.front.send(FrontEvent::BlankFailed { slot, failure });
            }
            Recipient::Checker(answer) => {
                let _ = answer.send(Err(failure.reason));
            }
        }
    }

    /// Nothing is left of what lived in this slot.
    pub(super) fn give_back(&mut self, slot: Slot) {
        self.checker_slots.give_back(slot);
    }

    /// The worker to which the instance in this slot belongs. There are none where only code is checked.
    pub(super) fn worker_of(&self, slot: Slot) -> &Line<WorkerJob> {
        &self.workers[slot.index as usize % self.workers.len()]
    }
}

/// Slots that the scheduler does not know.
struct CheckerSlots {
    first: u32,
    next: u32,
    generation: u32,
    free: Vec<u32>,
}

impl CheckerSlots {
    fn from(first: u32) -> Self {
        CheckerSlots { first, next: first, generation: 0, free: Vec::new() }
    }

    fn take(&mut self) -> Slot {
        let index = self.free.pop().unwrap_or_else(|| {
            self.next += 1;
            self.next - 1
        });
        self.generation = self.generation.wrapping_add(1);
        Slot { index, generation: self.generation }
    }

    /// The scheduler's slots are passed over.
    fn give_back(&mut self, slot: Slot) {
        if slot.index >= self.first {
            self.free.push(slot.index);
        }
    }
}

#[cfg(test)]
mod tests;
