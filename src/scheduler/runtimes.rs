//! The table of runtimes: each one's pool of blanks, and the versions that wait for one.
//!
//! There are a handful of runtimes and they are never forgotten, so finding one is a walk.

use super::list::List;
use super::timers::TimerId;
use super::types::RuntimeId;
use crate::call::BlankFailure;

#[derive(Debug)]
pub(super) struct Runtime {
    pub(super) id: RuntimeId,
    /// Blanks that wait for a function.
    pub(super) ready: List,
    /// Blanks that were asked for.
    pub(super) making: u32,
    /// Versions that wait for blanks, in the order of their turns: each gets one, then goes to the back, so that a
    /// function that floods does not starve the others.
    pub(super) wanting: List,
    /// Blanks that those versions wait for together.
    pub(super) demand: u32,
    /// Versions that would like to start instances ahead of calls, and how many: what is left when nobody waits.
    pub(super) hopeful: Vec<u32>,
    pub(super) hopes: u32,
    /// Deployed versions, closing ones excluded, that are made from it.
    pub(super) users: u32,
    /// Failures in a row to make a blank, or to keep it.
    pub(super) failures: u32,
    pub(super) failed_at_ns: u64,
    pub(super) backoff_until_ns: u64,
    pub(super) failure: BlankFailure,
    pub(super) timer: TimerId,
}

impl Runtime {
    fn new(id: RuntimeId) -> Self {
        Runtime {
            id,
            ready: List::EMPTY,
            making: 0,
            wanting: List::EMPTY,
            demand: 0,
            hopeful: Vec::new(),
            hopes: 0,
            users: 0,
            failures: 0,
            failed_at_ns: 0,
            backoff_until_ns: 0,
            failure: BlankFailure::default(),
            timer: TimerId::NONE,
        }
    }

    /// Blanks that are wanted and not even in the making.
    pub(super) fn unmet(&self) -> usize {
        // While the timer is armed there is a pause.
        if self.timer.is_armed() {
            return 0;
        }
        self.demand.saturating_sub(self.making) as usize
    }
}

/// The index of the runtime, which is added if it is new.
pub(super) fn index_of(runtimes: &mut Vec<Runtime>, id: RuntimeId) -> u32 {
    let at = runtimes.iter().position(|runtime| runtime.id == id).unwrap_or_else(|| {
        runtimes.push(Runtime::new(id));
        runtimes.len() - 1
    });
    at as u32
}
