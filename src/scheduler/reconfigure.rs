//! New limits while the server runs.
//!
//! Nothing that was accepted is lost to a smaller limit. Queues, pipes and a table of calls above a new bound take
//! nothing more and are served down to it; a pool above its new size is emptied down to it. Every wait that a limit
//! rules is measured anew, from when it began: a shorter one takes effect at once (what has waited longer than that is
//! due at the next tick), a longer one as well. Three things keep what they were given: a call its deadline, since that
//! is its function's; a pause after failures that has begun; a drain that has begun.

use super::calls::Place;
use super::types::SchedulerLimits;
use super::{Action, Scheduler};
use crate::limits::PIPE_DEPTH_MAX;

impl SchedulerLimits {
    /// The limits as the scheduler can keep them.
    pub(super) fn within_bounds(self) -> Self {
        SchedulerLimits { pipe_depth_max: self.pipe_depth_max.clamp(1, PIPE_DEPTH_MAX), ..self }
    }
}

impl Scheduler {
    /// Replaces the limits. `slots_max` and `default_runtime` are those of the start for as long as the server lives,
    /// since host user ids, cgroups and the first pool hang on them: what `limits` says of them is ignored.
    pub fn reconfigure(&mut self, limits: SchedulerLimits, now_ns: u64, out: &mut Vec<Action>) {
        let mut turn = self.begin(now_ns, out);
        let (slots_max, default_runtime) = (self.limits.slots_max, self.limits.default_runtime);
        self.limits = SchedulerLimits { slots_max, default_runtime, ..limits.within_bounds() };
        // Walks over every table: this happens when an operator asks for it, and not on the way of any call.
        for call in 0..self.calls.items.len() as u32 {
            if self.calls.items[call as usize].place() == Place::Queued {
                // At the next tick it is looked at by the new limits.
                self.arm_call(call, turn.now_ns);
            }
        }
        for v in self.versions.indices().collect::<Vec<_>>() {
            self.change_warmth(v, turn.now_ns);
        }
        for at in 0..self.slots.items.len() as u32 {
            self.arm_slot(at);
        }
        for v in self.versions.indices().collect::<Vec<_>>() {
            self.feed(v, &mut turn);
            self.scale(v, &mut turn);
        }
        self.unbalanced = true;
        self.finish(turn);
    }
}
