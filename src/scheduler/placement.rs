//! Where a call goes: to an idle instance, into a pipe, or into its version's queue.
//!
//! Invariant: a version with a waiting call has no idle instance that could take it. Whatever makes an instance
//! available calls [`Scheduler::feed`], whatever makes a call wait tries [`Scheduler::pick`] first.

use super::calls::Place;
use super::slots::InstanceState;
use super::types::{Action, KillReason};
use super::versions::Phase;
use super::{End, Scheduler, Turn};
use crate::call::Slot;

impl Scheduler {
    /// The instance that should take a call of this version now.
    pub(super) fn pick(&self, v: u32, exclusive: bool, now_ns: u64) -> Option<u32> {
        let version = &self.versions.items[v as usize];
        if let Some(idle) = version.idle_newest() {
            return Some(idle);
        }
        if exclusive || version.service_ewma_ns == 0 || now_ns < version.pipe_not_before_ns {
            return None;
        }
        let (at, load) = version.least_loaded()?;
        let head_ran_ns = now_ns.saturating_sub(self.slots.items[at as usize].head_since_ns);
        let wait_max_ns = self.limits.pipe_wait_max_ns;
        let fits = load < self.limits.pipe_depth_max as u64
            && (load + 1).saturating_mul(version.service_ewma_ns) <= wait_max_ns
            && head_ran_ns <= wait_max_ns;
        fits.then_some(at)
    }

    /// Sends a call that is in no list to an instance. If that was the last one that the instance may have, it retires:
    /// the caller scales the version, so that what replaces it starts while it works.
    pub(super) fn dispatch(&mut self, call: u32, at: u32, turn: &mut Turn) {
        let slot = self.slots.slot(at);
        self.calls.set_place(call, Place::Piped(slot));
        let tenant = &mut self.slots.items[at as usize];
        tenant.pipe.push_back(&mut self.calls.items, call);
        tenant.exclusive = self.calls.items[call as usize].exclusive;
        tenant.last_used_ns = turn.now_ns;
        let version = &mut self.versions.items[tenant.version as usize];
        version.last_used_ns = turn.now_ns;
        let cold = tenant.state() == InstanceState::Loading;
        if tenant.pipe.len() == 1 {
            tenant.head_since_ns = turn.now_ns;
        }
        if std::mem::take(&mut tenant.prewarmed) {
            version.note_prewarmed(true);
        }
        turn.out.push(Action::Dispatch { slot, invocation: self.calls.id(call), cold });
        // It goes on no shelf any more, so this comes before it is put on one.
        let worn = tenant.given() >= version.policy.invocations_max && tenant.retiring.is_none();
        if worn {
            self.set_retiring(at, Some(KillReason::Worn));
        }
        let tenant = &mut self.slots.items[at as usize];
        let version = &mut self.versions.items[tenant.version as usize];
        match tenant.state() {
            InstanceState::Loading => {
                version.tally.loading_with_call += 1;
                version.totals.cold_starts += 1;
                let v = tenant.version;
                self.note_use(v, turn.now_ns);
            }
            InstanceState::Idle => self.transition(at, InstanceState::Busy, turn.now_ns),
            _ => {
                self.reshelve(at);
                self.arm_slot(at);
            }
        }
    }

    /// Sends waiting calls to whatever can take them, the oldest first. A call that needs a pipe for itself holds up
    /// those behind it, since they would keep the pipes filled for ever.
    pub(super) fn feed(&mut self, v: u32, turn: &mut Turn) {
        while let Some(call) = self.versions.items[v as usize].queue.front() {
            let exclusive = self.calls.items[call as usize].exclusive;
            let Some(at) = self.pick(v, exclusive, turn.now_ns) else { break };
            self.unqueue(call);
            self.dispatch(call, at, turn);
        }
    }

    /// A call left this instance's pipe: what comes next for it.
    pub(super) fn progress(&mut self, at: u32, turn: &mut Turn) {
        if self.must_yield(at, turn.now_ns) {
            self.set_retiring(at, Some(KillReason::Yielded));
            // Or it would get the slot back, for having waited longer.
            let v = self.slots.items[at as usize].version;
            self.versions.items[v as usize].wants_since = self.entries;
        }
        let tenant = &mut self.slots.items[at as usize];
        let v = tenant.version;
        if tenant.pipe.is_empty() {
            self.become_idle(at, turn);
        } else {
            tenant.head_since_ns = turn.now_ns;
            self.reshelve(at);
            self.arm_slot(at);
        }
        if !self.versions.items[v as usize].queue.is_empty() {
            self.feed(v, turn);
            self.scale(v, turn);
        }
    }

    /// The instance has nothing to do: it may serve, or has to go. The caller feeds its version.
    pub(super) fn become_idle(&mut self, at: u32, turn: &mut Turn) {
        let tenant = &mut self.slots.items[at as usize];
        tenant.last_used_ns = turn.now_ns;
        if let Some(why) = tenant.retiring {
            return self.kill(at, why, turn);
        }
        self.transition(at, InstanceState::Idle, turn.now_ns);
        self.rest(at, turn);
    }

    /// An idle instance goes at once when its version is closing and nothing waits, or else waits for its time.
    pub(super) fn rest(&mut self, at: u32, turn: &mut Turn) {
        let v = self.slots.items[at as usize].version;
        if self.is_closing(v) && self.versions.items[v as usize].queue.is_empty() {
            let why = if self.shutting_down { KillReason::Shutdown } else { KillReason::Outdated };
            return self.kill(at, why, turn);
        }
        self.see_to_warmth(v, turn.now_ns);
        // Another function may wait for room.
        self.unbalanced |= self.claim.is_some();
        self.arm_slot(at);
    }

    /// Puts a call that is in no list into the queue of version `v`, to which it belongs from here on.
    pub(super) fn enqueue(&mut self, call: u32, v: u32, end: End) {
        let entry = &mut self.calls.items[call as usize];
        let before = std::mem::replace(&mut entry.version, v);
        if before != v {
            self.versions.items[v as usize].calls += 1;
            self.versions.items[before as usize].calls -= 1;
            self.note_emptied(before);
        }
        self.calls.set_place(call, Place::Queued);
        let queue = &mut self.versions.items[v as usize].queue;
        match end {
            End::Front => queue.push_front(&mut self.calls.items, call),
            End::Back => queue.push_back(&mut self.calls.items, call),
        }
        // Also when it comes back from an instance, where only its deadline mattered.
        let due_ns = self.queued_due_ns(call);
        self.arm_call(call, due_ns);
    }

    /// Takes a queued call out of its queue. It is in no list then, and must be put somewhere or released.
    pub(super) fn unqueue(&mut self, call: u32) {
        let v = self.calls.items[call as usize].version;
        self.versions.items[v as usize].queue.remove(&mut self.calls.items, call);
    }

    /// Takes a call out of the pipe that it is in. It is in no list then.
    pub(super) fn leave_pipe(&mut self, call: u32, at: u32) {
        let tenant = &mut self.slots.items[at as usize];
        tenant.pipe.remove(&mut self.calls.items, call);
        if tenant.pipe.is_empty() {
            tenant.exclusive = false;
            if tenant.state() == InstanceState::Loading {
                self.versions.items[tenant.version as usize].tally.loading_with_call -= 1;
            }
        }
    }

    /// A call that this instance was given has come back unbegun: if it was its last, the instance has one to give
    /// again and stays, which the return value says. The caller scales the version then.
    pub(super) fn unwear(&mut self, at: u32) -> bool {
        let is_worn = self.slots.items[at as usize].retiring == Some(KillReason::Worn);
        if is_worn {
            self.set_retiring(at, None);
        }
        is_worn
    }

    /// Says why an instance of a version is to end after its pipe, or that it is not to end. The caller puts it on the
    /// shelf where it belongs then, and scales its version.
    pub(super) fn set_retiring(&mut self, at: u32, why: Option<KillReason>) {
        let tenant = &mut self.slots.items[at as usize];
        let before = std::mem::replace(&mut tenant.retiring, why);
        let retiring = &mut self.versions.items[tenant.version as usize].tally.retiring;
        *retiring += u32::from(why.is_some());
        *retiring -= u32::from(before.is_some());
        self.slots.yielding += usize::from(why == Some(KillReason::Yielded));
        self.slots.yielding -= usize::from(before == Some(KillReason::Yielded));
        // What its function has, and what is coming, count in who is next.
        self.unbalanced |= self.claim.is_some() || before == Some(KillReason::Yielded);
    }

    /// Whether what the version still has to do is all that it is kept for.
    pub(super) fn is_closing(&self, v: u32) -> bool {
        self.shutting_down || self.versions.items[v as usize].phase == Phase::Closing
    }

    pub(super) fn is_ending(&self, slot: Slot) -> bool {
        self.slots.items[slot.index as usize].state() == InstanceState::Ending
    }

    // ---- The one way in which an instance's state changes ----

    pub(super) fn transition(&mut self, at: u32, to: InstanceState, now_ns: u64) {
        let from = self.slots.set_state(at, to, now_ns);
        let tenant = &mut self.slots.items[at as usize];
        if from == InstanceState::Making {
            self.runtimes[tenant.runtime as usize].making -= 1;
        }
        if let Some(version) = self.versions.items.get_mut(tenant.version as usize) {
            let tally = &mut version.tally;
            if let Some(count) = tally.of(from) {
                *count -= 1;
            }
            if let Some(count) = tally.of(to) {
                *count += 1;
            }
            if from == InstanceState::Loading && !tenant.pipe.is_empty() {
                tally.loading_with_call -= 1;
            }
            if to == InstanceState::Ending && std::mem::take(&mut tenant.prewarmed) {
                version.note_prewarmed(false);
            }
            let (v, is_retiring) = (tenant.version, tenant.retiring.is_some());
            if to == InstanceState::Ending && is_retiring {
                self.set_retiring(at, None);
            }
            self.reshelve(at);
            self.note_use(v, now_ns);
        }
    }

    /// Puts an instance on the shelf where its load and state say it belongs.
    pub(super) fn reshelve(&mut self, at: u32) {
        let v = self.slots.items[at as usize].version;
        self.versions.items[v as usize].reshelve(&mut self.slots.items, at);
    }

    /// Ends a tenant. The calls in its pipe stay there until its exit says which of them it had begun; those that
    /// nobody waits for are forgotten at once.
    pub(super) fn kill(&mut self, at: u32, why: KillReason, turn: &mut Turn) {
        let slot = self.slots.slot(at);
        if self.slots.items[at as usize].state() == InstanceState::Blank {
            let runtime = self.slots.items[at as usize].runtime;
            self.runtimes[runtime as usize].ready.remove(&mut self.slots.items, at);
        }
        self.transition(at, InstanceState::Ending, turn.now_ns);
        self.drop_settled(at);
        let tenant = &mut self.slots.items[at as usize];
        tenant.killed_for = why;
        tenant.asked_ns = turn.now_ns;
        let v = tenant.version;
        turn.out.push(Action::Kill { slot, why });
        self.arm_slot(at);
        self.unbalanced = true;
        if self.versions.items.get(v as usize).is_some() {
            self.scale(v, turn);
        }
    }

    fn drop_settled(&mut self, at: u32) {
        let mut next = self.slots.items[at as usize].pipe.front();
        while let Some(call) = next {
            next = self.slots.items[at as usize].pipe.after(&self.calls.items, call);
            if self.calls.items[call as usize].settled {
                self.leave_pipe(call, at);
                self.release(call);
            }
        }
    }
}
