//! What workers and supervisors report. All of it may be late, repeated, or about a tenant that is no more.

use super::calls::Place;
use super::slots::InstanceState;
use super::types::KillReason;
use super::versions::with_another;
use super::{Action, End, Scheduler, Turn};
use crate::call::{BlankFailure, ExitReason, InvocationId, InvokeError, Slot};

impl Scheduler {
    /// A blank waits in its sandbox.
    pub fn blank_ready(&mut self, slot: Slot, now_ns: u64, out: &mut Vec<Action>) {
        let mut turn = self.begin(now_ns, out);
        match self.slots.find(slot).map(|at| (at, self.slots.items[at as usize].state())) {
            Some((at, InstanceState::Making)) => self.take_blank(at, &mut turn),
            // It was given up, perhaps before its worker knew it.
            Some((at, InstanceState::Ending)) => {
                let why = self.slots.items[at as usize].killed_for;
                turn.out.push(Action::Kill { slot, why });
            }
            _ => {}
        }
        self.finish(turn);
    }

    fn take_blank(&mut self, at: u32, turn: &mut Turn) {
        self.transition(at, InstanceState::Blank, turn.now_ns);
        let runtime = &mut self.runtimes[self.slots.items[at as usize].runtime as usize];
        runtime.ready.push_front(&mut self.slots.items, at);
        // One good blank right after failures proves little: it may die as others did.
        if turn.now_ns.saturating_sub(runtime.failed_at_ns) >= self.limits.backoff_max_ns {
            runtime.failures = 0;
        }
        self.unbalanced = true;
    }

    /// A blank could not be made, and nothing of it is left.
    pub fn blank_failed(&mut self, slot: Slot, failure: BlankFailure, now_ns: u64, out: &mut Vec<Action>) {
        let mut turn = self.begin(now_ns, out);
        if let Some(at) = self.slots.find(slot) {
            let tenant = &self.slots.items[at as usize];
            let (state, runtime, is_blank) = (tenant.state(), tenant.runtime, !self.has_version(at));
            match state {
                InstanceState::Making => {
                    self.vacate(at, turn.now_ns);
                    self.blank_trouble(runtime, failure, &mut turn);
                }
                InstanceState::Ending if is_blank => self.vacate(at, turn.now_ns),
                _ => {}
            }
        }
        self.finish(turn);
    }

    /// The function's top-level code ran in this instance, or failed.
    pub fn loaded(&mut self, slot: Slot, result: Result<(), InvokeError>, now_ns: u64, out: &mut Vec<Action>) {
        let mut turn = self.begin(now_ns, out);
        if let Some(at) = self.slots.find(slot) {
            if self.slots.items[at as usize].state() == InstanceState::Loading {
                match result {
                    Ok(()) => self.load_succeeded(at, &mut turn),
                    Err(error) => self.load_failed(at, KillReason::LoadFailed, error, &mut turn),
                }
            }
        }
        self.finish(turn);
    }

    fn load_succeeded(&mut self, at: u32, turn: &mut Turn) {
        let tenant = &mut self.slots.items[at as usize];
        let v = tenant.version;
        self.runtimes[tenant.runtime as usize].failures = 0;
        let version = &mut self.versions.items[v as usize];
        version.load_failures = 0;
        version.start_error = None;
        version.served_ns = turn.now_ns;
        if version.crashes == 0 {
            version.backoff_until_ns = 0;
            version.last_trouble = None;
        }
        if tenant.pipe.is_empty() {
            self.become_idle(at, turn);
        } else {
            tenant.head_since_ns = turn.now_ns;
            self.transition(at, InstanceState::Busy, turn.now_ns);
            self.arm_slot(at);
        }
        self.feed(v, turn);
        self.scale(v, turn);
    }

    /// The call that caused the start fails with it; the instance is of no use.
    pub(super) fn load_failed(&mut self, at: u32, why: KillReason, error: InvokeError, turn: &mut Turn) {
        let v = self.slots.items[at as usize].version;
        self.fail_pipe(at, &error, turn);
        self.start_failed(v, error, turn.now_ns);
        self.kill(at, why, turn);
    }

    /// The instance answered a call. Returns whether the answer is the call's outcome, to be delivered; if not, it is
    /// late or nobody waits for it, and must be dropped. `raw_output` says that the function wrote to descriptor 1 or
    /// 2 itself while it ran this call.
    #[must_use]
    pub fn completed(
        &mut self,
        slot: Slot,
        invocation: InvocationId,
        service_ns: u64,
        raw_output: bool,
        now_ns: u64,
        out: &mut Vec<Action>,
    ) -> bool {
        let mut turn = self.begin(now_ns, out);
        let call = self.calls.find(invocation).filter(|&call| self.calls.items[call as usize].is_with(slot));
        let deliver = match call {
            Some(call) => self.complete(call, service_ns, raw_output, &mut turn),
            None => false,
        };
        self.finish(turn);
        deliver
    }

    fn complete(&mut self, call: u32, service_ns: u64, raw_output: bool, turn: &mut Turn) -> bool {
        let (place, settled) = (self.calls.items[call as usize].place(), self.calls.items[call as usize].settled);
        let v = self.calls.items[call as usize].version as usize;
        if let Place::Piped(slot) = place {
            // A call is sent along with the function, but nothing can be answered before that is loaded.
            if self.slots.items[slot.index as usize].state() == InstanceState::Loading {
                return false;
            }
            self.leave_pipe(call, slot.index);
            self.slots.items[slot.index as usize].invocations += 1;
        }
        let version = &mut self.versions.items[v];
        version.totals.completed += u64::from(!settled);
        version.served_ns = turn.now_ns;
        version.learn_service_time(service_ns);
        self.service_ewma_ns = with_another(self.service_ewma_ns, service_ns);
        if raw_output {
            version.pipe_not_before_ns = turn.now_ns.saturating_add(self.limits.raw_output_quiet_ns);
        }
        let crashes = std::mem::take(&mut version.crashes);
        if crashes > 0 && version.load_failures == 0 {
            version.last_trouble = None;
        }
        let recovered = crashes > 1 && version.load_failures == 0;
        if recovered {
            version.backoff_until_ns = 0;
        }
        self.release(call);
        if let Place::Piped(slot) = place {
            if self.slots.items[slot.index as usize].state() == InstanceState::Busy {
                self.progress(slot.index, turn);
            }
        }
        if recovered {
            self.scale(v as u32, turn);
        }
        !settled
    }

    /// The worker hands back calls that the instance had not begun, in their order: because it was asked to, or
    /// because they reached it after the instance's end. The caller has their requests again before this.
    pub fn taken_back(&mut self, slot: Slot, calls: &[InvocationId], now_ns: u64, out: &mut Vec<Action>) {
        let mut turn = self.begin(now_ns, out);
        let tenant = self.slots.find(slot);
        let asked = tenant.filter(|&at| self.slots.items[at as usize].taking_back);
        // An instance that may be given calls hands some back only when it was asked: a repeated answer must not take
        // back a call that was sent there again, and has begun.
        if tenant.is_none_or(|_| asked.is_some() || self.is_ending(slot)) {
            self.return_calls(slot, calls, &mut turn);
        }
        if let Some(at) = asked {
            let tenant = &mut self.slots.items[at as usize];
            tenant.taking_back = false;
            let v = tenant.version;
            match tenant.state() {
                InstanceState::Busy => self.progress(at, &mut turn),
                InstanceState::Idle => {
                    self.reshelve(at);
                    self.rest(at, &mut turn);
                    self.feed(v, &mut turn);
                    self.scale(v, &mut turn);
                }
                _ => {}
            }
        }
        self.finish(turn);
    }

    /// Puts those of the calls that are with this tenant back into their queue, ahead of all others and in their
    /// order; those nobody waits for end here.
    fn return_calls(&mut self, slot: Slot, calls: &[InvocationId], turn: &mut Turn) {
        let (mut queued_by, mut unworn) = (None, None);
        for &id in calls.iter().rev() {
            let Some(call) = self.calls.find(id).filter(|&call| self.calls.items[call as usize].is_with(slot)) else {
                continue;
            };
            if self.calls.items[call as usize].place() == Place::Piped(slot) {
                self.leave_pipe(call, slot.index);
                if self.unwear(slot.index) {
                    unworn = Some(self.slots.items[slot.index as usize].version);
                }
            }
            if self.calls.items[call as usize].settled {
                self.release(call);
            } else {
                let v = self.versions.resolve(self.calls.items[call as usize].version);
                self.enqueue(call, v, End::Front);
                queued_by = Some(v);
            }
        }
        if let Some(v) = queued_by {
            self.feed(v, turn);
            self.scale(v, turn);
        }
        // The instance that stays needs no replacement, also when nobody waits for the calls any more.
        if let Some(v) = unworn.filter(|_| unworn != queued_by) {
            self.scale(v, turn);
        }
    }

    /// The tenant and everything of it is gone. `begun` are calls that it had begun and not answered; `returned` are
    /// those that it had not begun, in their order. The caller has the requests of the latter again before this.
    pub fn exited(
        &mut self,
        slot: Slot,
        exit: &ExitReason,
        begun: &[InvocationId],
        returned: &[InvocationId],
        now_ns: u64,
        out: &mut Vec<Action>,
    ) {
        let mut turn = self.begin(now_ns, out);
        if let Some(at) = self.slots.find(slot) {
            self.bury(at, exit, begun, returned, &mut turn);
        }
        self.finish(turn);
    }

    fn bury(&mut self, at: u32, exit: &ExitReason, begun: &[InvocationId], returned: &[InvocationId], turn: &mut Turn) {
        let slot = self.slots.slot(at);
        let (was, r) = (self.slots.items[at as usize].state(), self.slots.items[at as usize].runtime);
        let v = self.slots.items[at as usize].version;
        if was == InstanceState::Blank {
            self.runtimes[r as usize].ready.remove(&mut self.slots.items, at);
        }
        if was != InstanceState::Ending {
            self.transition(at, InstanceState::Ending, turn.now_ns);
        }
        let crash = InvokeError::Crashed { exit: exit.clone() };
        if was == InstanceState::Loading {
            self.fail_pipe(at, &crash, turn);
        }
        for &id in begun {
            let Some(call) =
                self.calls.find(id).filter(|&call| self.calls.items[call as usize].place() == Place::Piped(slot))
            else {
                continue;
            };
            if !self.calls.items[call as usize].settled {
                self.fail(call, crash.clone(), turn);
            }
            self.leave_pipe(call, at);
            self.release(call);
        }
        match was {
            InstanceState::Loading => self.start_failed(v, crash, turn.now_ns),
            InstanceState::Idle | InstanceState::Busy => {
                let started_ns = self.slots.items[at as usize].started_ns;
                self.crashed(v, crash, started_ns, turn.now_ns);
            }
            _ => {}
        }
        self.strand_unnamed(at, slot, returned);
        self.return_calls(slot, returned, turn);
        self.vacate(at, turn.now_ns);
        if matches!(was, InstanceState::Making | InstanceState::Blank) {
            self.blank_trouble(r, format!("a blank ended early: {exit:?}").into(), turn);
        }
        if self.versions.items.get(v as usize).is_some() {
            self.scale(v, turn);
        }
    }

    /// Calls in the pipe that the exit does not name were still on their way: they bounce off the worker later.
    fn strand_unnamed(&mut self, at: u32, slot: Slot, returned: &[InvocationId]) {
        let mut next = self.slots.items[at as usize].pipe.front();
        while let Some(call) = next {
            next = self.slots.items[at as usize].pipe.after(&self.calls.items, call);
            if returned.contains(&self.calls.id(call)) {
                continue;
            }
            self.leave_pipe(call, at);
            if self.calls.items[call as usize].settled {
                self.release(call);
            } else {
                self.calls.set_place(call, Place::Astray(slot));
            }
        }
    }

    /// Every call in this pipe that still waits fails in the same way, and all of them end here.
    fn fail_pipe(&mut self, at: u32, error: &InvokeError, turn: &mut Turn) {
        while let Some(call) = self.slots.items[at as usize].pipe.front() {
            if !self.calls.items[call as usize].settled {
                self.fail(call, error.clone(), turn);
            }
            self.leave_pipe(call, at);
            self.release(call);
        }
    }

    /// Frees the slot of a tenant that is gone.
    fn vacate(&mut self, at: u32, now_ns: u64) {
        self.disarm_slot(at);
        self.transition(at, InstanceState::Free, now_ns);
        self.slots.reopen(at);
        self.unbalanced = true;
        if self.has_version(at) {
            self.note_emptied(self.slots.items[at as usize].version);
        }
    }

    pub(super) fn has_version(&self, at: u32) -> bool {
        self.versions.items.get(self.slots.items[at as usize].version as usize).is_some()
    }
}
