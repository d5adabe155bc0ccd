//! Everything that time does: deadlines of calls, stalled pipes, starts that take too long, idle instances that have
//! had their time, questions that nobody answered.
//!
//! A tenant has one timer for whatever it waits for next. It is moved to an earlier time when that is needed and is
//! otherwise left alone: when it fires too early, what it waits for is looked at again. So an instance that serves
//! thousands of calls a second touches the wheel a few times a second.

use super::calls::Place;
use super::slots::InstanceState;
use super::timers::TimerKey;
use super::types::{Action, IdleTtl, KillReason};
use super::{Scheduler, Turn, NS_PER_MS};
use crate::call::{InvokeError, Shortage, Slot, TimeoutSource};

impl Scheduler {
    /// Does what is due. To be called when [`Scheduler::next_deadline_ns`] has come; earlier or later does no harm.
    pub fn tick(&mut self, now_ns: u64, out: &mut Vec<Action>) {
        let mut turn = self.begin(now_ns, out);
        while let Some(key) = self.timers.pop(turn.now_ns) {
            match key {
                TimerKey::Call(call) => {
                    self.calls.items[call as usize].timer = super::TimerId::NONE;
                    self.call_is_due(call, &mut turn);
                }
                TimerKey::Slot(at) => {
                    let tenant = &mut self.slots.items[at as usize];
                    tenant.timer = super::TimerId::NONE;
                    tenant.timer_due_ns = u64::MAX;
                    self.slot_is_due(at, &mut turn);
                }
                TimerKey::Version(v) => {
                    self.versions.items[v as usize].timer = super::TimerId::NONE;
                    self.scale(v, &mut turn);
                }
                TimerKey::Idle(v) => self.review_warmth(v, &mut turn),
                TimerKey::Runtime(r) => {
                    self.runtimes[r as usize].timer = super::TimerId::NONE;
                    self.unbalanced = true;
                }
                TimerKey::Room => {
                    self.room_timer = super::TimerId::NONE;
                    self.unbalanced = true;
                }
                TimerKey::Drain => {
                    self.drain_timer = super::TimerId::NONE;
                    self.end_drain(&mut turn);
                }
            }
        }
        self.finish(turn);
    }

    // ---- Calls ----

    fn call_is_due(&mut self, call: u32, turn: &mut Turn) {
        let entry = &self.calls.items[call as usize];
        let (place, v, deadline_ns) = (entry.place(), entry.version, entry.deadline_ns);
        let past = turn.now_ns >= deadline_ns;
        match place {
            Place::Vacant => {}
            Place::Queued => match self.given_up_with(call, turn.now_ns) {
                Some(error) => {
                    self.unqueue(call);
                    self.end_in_time(call, error, turn);
                    self.feed(v, turn);
                    self.scale(v, turn);
                }
                None => {
                    let due_ns = self.queued_due_ns(call);
                    self.arm_call(call, due_ns);
                }
            },
            _ if !past => self.arm_call(call, deadline_ns),
            Place::Piped(slot) => self.piped_call_is_due(call, slot, turn),
            Place::Astray(_) => {
                let error = self.waited_in_vain(call, turn.now_ns);
                self.end_in_time(call, error, turn);
            }
        }
    }

    fn piped_call_is_due(&mut self, call: u32, slot: Slot, turn: &mut Turn) {
        let tenant = &self.slots.items[slot.index as usize];
        let is_head = tenant.pipe.front() == Some(call);
        match tenant.state() {
            InstanceState::Busy if is_head => {
                let (limit_ms, set_by) = self.timeout_of(call);
                self.count_timeout(call);
                self.fail(call, InvokeError::TimedOut { limit_ms, set_by }, turn);
                self.settle(call);
                match set_by {
                    TimeoutSource::Function => self.kill(slot.index, KillReason::TimedOut, turn),
                    // The function has done nothing wrong, and the next caller may have more patience than this one.
                    TimeoutSource::Caller => self.arm_slot(slot.index),
                }
            }
            // Whether it was begun is not known, but its time is up and nothing of the instance will answer.
            InstanceState::Ending => {
                let error = self.waited_in_vain(call, turn.now_ns);
                self.leave_pipe(call, slot.index);
                self.end_in_time(call, error, turn);
            }
            // It has not begun: the instance loads, or runs another. It is not to blame and goes on; should it get
            // to this call in the end, nobody waits for the answer.
            _ => {
                let error = self.waited_in_vain(call, turn.now_ns);
                self.count_timeout(call);
                self.fail(call, error, turn);
                self.settle(call);
                self.end_if_it_loads_for_nobody(slot.index, turn);
            }
        }
    }

    /// Fails and releases a call that is in no list.
    fn end_in_time(&mut self, call: u32, error: InvokeError, turn: &mut Turn) {
        self.count_timeout(call);
        self.fail(call, error, turn);
        self.release(call);
    }

    /// What to tell a queued call if its wait is over: of the limits that have passed, the one that says most. A start
    /// that takes too long is the cause of all else; and when the server's limit and the call's own deadline have both
    /// passed, the one that came first ended it.
    fn given_up_with(&self, call: u32, now_ns: u64) -> Option<InvokeError> {
        let (deadline_ns, wait_until_ns) = (self.calls.items[call as usize].deadline_ns, self.wait_until_ns(call));
        if self.is_cold_too_long(call, now_ns) {
            Some(self.waited_in_vain(call, now_ns))
        } else if now_ns >= wait_until_ns && wait_until_ns <= deadline_ns {
            Some(self.waited_too_long(self.calls.items[call as usize].version))
        } else {
            (now_ns >= deadline_ns).then(|| self.waited_in_vain(call, now_ns))
        }
    }

    /// Until when a call may be in a queue.
    pub(super) fn wait_until_ns(&self, call: u32) -> u64 {
        self.calls.items[call as usize].accepted_ns.saturating_add(self.limits.queue_wait_max_ns)
    }

    /// Whether the call has waited for the first instance of its version longer than a start may take. While there is
    /// no room for one, none has been started that could take long.
    fn is_cold_too_long(&self, call: u32, now_ns: u64) -> bool {
        let v = self.calls.items[call as usize].version;
        let tally = &self.versions.items[v as usize].tally;
        tally.idle + tally.busy == 0
            && now_ns >= self.cold_until_ns(call)
            && !matches!(self.shortage(v), Shortage::OfServer { .. })
    }

    /// Until when an instance may be on its way to this call. Where instances come and go with every call, none may be
    /// there at the moment although all is well: so what counts is when one last served.
    fn cold_until_ns(&self, call: u32) -> u64 {
        let entry = &self.calls.items[call as usize];
        let since_ns = entry.accepted_ns.max(self.versions.items[entry.version as usize].served_ns);
        since_ns.saturating_add(self.limits.cold_start_timeout_ns)
    }

    /// When a call that waits must be looked at next.
    pub(super) fn queued_due_ns(&self, call: u32) -> u64 {
        let over_ns = self.calls.items[call as usize].deadline_ns.min(self.wait_until_ns(call));
        let cold_until_ns = self.cold_until_ns(call);
        // Once that has passed it means nothing any more: where an instance is there, or no room for one.
        if self.now_ns < cold_until_ns {
            over_ns.min(cold_until_ns)
        } else {
            over_ns
        }
    }

    /// What to tell a call whose time passed before it was begun.
    fn waited_in_vain(&self, call: u32, now_ns: u64) -> InvokeError {
        if self.is_cold_too_long(call, now_ns) {
            InvokeError::ColdStartTimedOut { limit_ms: self.limits.cold_start_timeout_ns / NS_PER_MS }
        } else {
            let (limit_ms, set_by) = self.timeout_of(call);
            InvokeError::QueueTimedOut { limit_ms, set_by }
        }
    }

    /// The timeout under which the call was accepted, in milliseconds (its version may have another by now), and who
    /// set it.
    fn timeout_of(&self, call: u32) -> (u64, TimeoutSource) {
        let entry = &self.calls.items[call as usize];
        ((entry.deadline_ns - entry.accepted_ns) / NS_PER_MS, entry.deadline_of)
    }

    fn count_timeout(&mut self, call: u32) {
        self.versions.items[self.calls.items[call as usize].version as usize].totals.timed_out += 1;
    }

    // ---- Tenants ----

    fn slot_is_due(&mut self, at: u32, turn: &mut Turn) {
        if turn.now_ns < self.slot_due_ns(at) {
            return self.arm_slot(at);
        }
        let slot = self.slots.slot(at);
        match self.slots.items[at as usize].state() {
            InstanceState::Making => {
                let runtime = self.slots.items[at as usize].runtime;
                self.kill(at, KillReason::BlankTimedOut, turn);
                let limit_ms = self.blank_start_timeout_ns(runtime) / NS_PER_MS;
                self.blank_trouble(runtime, format!("no sandbox was ready within {limit_ms} ms").into(), turn);
            }
            InstanceState::Loading => {
                let limit_ms = self.limits.cold_start_timeout_ns / NS_PER_MS;
                self.load_failed(at, KillReason::LoadTimedOut, InvokeError::ColdStartTimedOut { limit_ms }, turn);
            }
            InstanceState::Idle if self.slots.items[at as usize].taking_back => self.take_back(at, turn),
            InstanceState::Idle => self.expire(at, turn),
            InstanceState::Busy if turn.now_ns >= self.slots.items[at as usize].drain_until_ns => {
                self.end_retiring(at, turn);
            }
            InstanceState::Busy if turn.now_ns >= self.unwanted_until_ns(at) => {
                self.kill(at, KillReason::TimedOut, turn);
            }
            InstanceState::Busy => self.take_back(at, turn),
            InstanceState::Ending => {
                self.slots.mark_overdue(at);
                let tenant = &mut self.slots.items[at as usize];
                tenant.asked_ns = turn.now_ns;
                turn.out.push(Action::Kill { slot, why: tenant.killed_for });
                self.unbalanced = true;
                self.arm_slot(at);
            }
            InstanceState::Free | InstanceState::Blank => {}
        }
    }

    /// When the tenant's present state needs a look, if nothing happens before.
    fn slot_due_ns(&self, at: u32) -> u64 {
        let tenant = &self.slots.items[at as usize];
        let limits = &self.limits;
        match tenant.state() {
            InstanceState::Free | InstanceState::Blank => u64::MAX,
            InstanceState::Making => tenant.since_ns.saturating_add(self.blank_start_timeout_ns(tenant.runtime)),
            InstanceState::Loading => tenant.since_ns.saturating_add(limits.cold_start_timeout_ns),
            InstanceState::Idle if tenant.taking_back => tenant.asked_ns.saturating_add(limits.ask_again_ns),
            InstanceState::Idle => match self.idle_ttl(tenant.version) {
                IdleTtl::AfterNs(ttl_ns) => tenant.last_used_ns.saturating_add(ttl_ns),
                // The version has a timer for all of them.
                IdleTtl::Adaptive => u64::MAX,
            },
            InstanceState::Busy if tenant.taking_back => {
                tenant.asked_ns.saturating_add(limits.ask_again_ns).min(self.cut_short_ns(at))
            }
            InstanceState::Busy if tenant.pipe.len() > 1 => {
                tenant.head_since_ns.saturating_add(limits.pipe_stall_ns).min(self.cut_short_ns(at))
            }
            InstanceState::Busy => self.cut_short_ns(at),
            InstanceState::Ending => tenant.asked_ns.saturating_add(limits.ask_again_ns),
        }
    }

    fn blank_start_timeout_ns(&self, runtime: u32) -> u64 {
        self.limits.blank_start_timeout_of_ns(self.runtimes[runtime as usize].id)
    }

    /// When a busy instance is ended whatever it does.
    fn cut_short_ns(&self, at: u32) -> u64 {
        self.unwanted_until_ns(at).min(self.slots.items[at as usize].drain_until_ns)
    }

    /// Until when an instance may run a call that nobody waits for: as long as any call may take.
    fn unwanted_until_ns(&self, at: u32) -> u64 {
        let tenant = &self.slots.items[at as usize];
        match tenant.pipe.front() {
            Some(call) if self.calls.items[call as usize].settled => {
                let timeout_ns = self.versions.items[tenant.version as usize].policy.timeout_ns;
                tenant.head_since_ns.saturating_add(timeout_ns)
            }
            _ => u64::MAX,
        }
    }

    /// Sees to it that the tenant is looked at when it is due, or before.
    pub(super) fn arm_slot(&mut self, at: u32) {
        let due_ns = self.slot_due_ns(at);
        self.arm_slot_at(at, due_ns);
    }

    /// How long instances of this version stay idle.
    pub(super) fn idle_ttl(&self, v: u32) -> IdleTtl {
        self.versions.items[v as usize].policy.idle_ttl.unwrap_or(self.limits.idle_ttl)
    }

    fn arm_slot_at(&mut self, at: u32, due_ns: u64) {
        let tenant = &mut self.slots.items[at as usize];
        if due_ns < tenant.timer_due_ns {
            tenant.timer_due_ns = due_ns;
            self.timers.arm(&mut tenant.timer, due_ns, TimerKey::Slot(at));
        }
    }

    pub(super) fn disarm_slot(&mut self, at: u32) {
        let tenant = &mut self.slots.items[at as usize];
        tenant.timer_due_ns = u64::MAX;
        self.timers.disarm(&mut tenant.timer);
    }

    /// The front of this pipe takes long, and calls wait behind it: asks for them. Nothing more goes there until the
    /// answer has come. That a call takes long is learnt now, not only when it ends, or the calls would at once be
    /// piped behind the next slow one.
    fn take_back(&mut self, at: u32, turn: &mut Turn) {
        let tenant = &mut self.slots.items[at as usize];
        tenant.taking_back = true;
        tenant.asked_ns = turn.now_ns;
        let ran_ns = turn.now_ns.saturating_sub(tenant.head_since_ns);
        if tenant.state() == InstanceState::Busy {
            let version = &mut self.versions.items[tenant.version as usize];
            version.service_ewma_ns = version.service_ewma_ns.max(ran_ns);
        }
        turn.out.push(Action::TakeBack { slot: self.slots.slot(at) });
        self.reshelve(at);
        self.arm_slot(at);
    }

    /// The instance has been idle for its time.
    fn expire(&mut self, at: u32, turn: &mut Turn) {
        let version = &self.versions.items[self.slots.items[at as usize].version as usize];
        if version.tally.live() > version.policy.min_instances {
            self.kill(at, KillReason::Expired, turn);
        } else if let IdleTtl::AfterNs(ttl_ns) = self.idle_ttl(self.slots.items[at as usize].version) {
            // Kept by `min_instances`. By then it may be one too many.
            self.arm_slot_at(at, turn.now_ns.saturating_add(ttl_ns));
        }
    }
}
