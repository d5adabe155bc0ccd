//! Deployments and ends: of a version, of one instance, of the server.

use super::calls::Place;
use super::slots::InstanceState;
use super::timers::TimerKey;
use super::types::{Action, FunctionPolicy, KillReason};
use super::versions::Phase;
use super::{runtimes, End, Scheduler, Turn, NS_PER_MS};
use crate::call::{InvokeError, Slot, VersionKey};

impl Scheduler {
    /// Makes a version known, and starts the instances that it keeps warm. If it replaces another, waiting calls move
    /// over, the other's idle instances end, and its busy ones end when their calls have. A key that is known already
    /// changes nothing.
    pub fn deploy(
        &mut self,
        version: VersionKey,
        policy: FunctionPolicy,
        replaces: Option<VersionKey>,
        now_ns: u64,
        out: &mut Vec<Action>,
    ) {
        let mut turn = self.begin(now_ns, out);
        if self.versions.find(version).is_none() {
            let runtime = runtimes::index_of(&mut self.runtimes, policy.runtime);
            self.runtimes[runtime as usize].users += 1;
            self.min_instances += u64::from(policy.min_instances);
            let v = self.versions.insert(version, policy, runtime, turn.now_ns);
            self.begin_warmth(v);
            if let Some(old) = replaces.and_then(|key| self.versions.find(key)) {
                self.hand_over(old, v, &mut turn);
            }
            self.unbalanced = true;
            self.scale(v, &mut turn);
        }
        self.finish(turn);
    }

    fn hand_over(&mut self, old: u32, new: u32, turn: &mut Turn) {
        if self.versions.items[old as usize].phase != Phase::Active {
            return;
        }
        self.versions.items[old as usize].successor = Some(self.versions.items[new as usize].key);
        while let Some(call) = self.versions.items[old as usize].queue.front() {
            self.unqueue(call);
            self.enqueue(call, new, End::Back);
        }
        self.close(old, turn);
        self.hand_over_warmth(old, new, turn.now_ns);
    }

    /// Ends a version after its accepted calls: those that wait still run, on new instances if they must. New ones
    /// are refused. [`Action::Drained`] follows.
    pub fn remove(&mut self, version: VersionKey, now_ns: u64, out: &mut Vec<Action>) {
        let mut turn = self.begin(now_ns, out);
        if let Some(v) = self.versions.find(version) {
            if self.versions.items[v as usize].phase == Phase::Active {
                self.close(v, &mut turn);
            }
        }
        self.finish(turn);
    }

    fn close(&mut self, v: u32, turn: &mut Turn) {
        self.versions.items[v as usize].phase = Phase::Closing;
        self.min_instances -= u64::from(self.versions.items[v as usize].policy.min_instances);
        self.runtimes[self.versions.items[v as usize].runtime as usize].users -= 1;
        self.unbalanced = true;
        self.scale(v, turn);
        self.kill_unused(v, KillReason::Outdated, turn);
        self.note_emptied(v);
    }

    /// Ends the idle instances of a closing version, and those that load for nobody.
    fn kill_unused(&mut self, v: u32, why: KillReason, turn: &mut Turn) {
        if !self.versions.items[v as usize].queue.is_empty() {
            return;
        }
        for at in 0..self.slots.items.len() as u32 {
            let tenant = &self.slots.items[at as usize];
            let is_unused = match tenant.state() {
                InstanceState::Idle if tenant.version == v => tenant.pipe.is_empty(),
                InstanceState::Loading if tenant.version == v => self.loads_for_nobody(at),
                _ => false,
            };
            if is_unused {
                self.kill(at, why, turn);
            }
        }
    }

    /// Whether nobody waits any more for what this instance would be loaded for.
    fn loads_for_nobody(&self, at: u32) -> bool {
        let mut calls = self.slots.items[at as usize].pipe.iter(&self.calls.items);
        calls.all(|call| self.calls.items[call as usize].settled)
    }

    /// A call for which an instance loads is over. In a version that gets no more calls it may have been the last.
    pub(super) fn end_if_it_loads_for_nobody(&mut self, at: u32, turn: &mut Turn) {
        let tenant = &self.slots.items[at as usize];
        let is_last = tenant.state() == InstanceState::Loading
            && self.versions.items[tenant.version as usize].phase == Phase::Closing
            && self.versions.items[tenant.version as usize].queue.is_empty()
            && self.loads_for_nobody(at);
        if is_last {
            self.kill(at, KillReason::Outdated, turn);
        }
    }

    pub(super) fn forget_if_drained(&mut self, v: u32, turn: &mut Turn) {
        let version = &mut self.versions.items[v as usize];
        let drained = version.phase == Phase::Closing && version.calls == 0 && version.tally.total() == 0;
        if drained {
            self.timers.disarm(&mut version.timer);
            if let Some(warmth) = &mut version.warmth {
                self.timers.disarm(&mut warmth.timer);
            }
            turn.out.push(Action::Drained { version: version.key });
            self.versions.remove(v);
        }
    }

    /// Ends an instance after the calls in its pipe, or after `drain_timeout_ns` with an error for the one that still
    /// runs. Returns whether there is such an instance.
    pub fn stop_instance(&mut self, slot: Slot, now_ns: u64, out: &mut Vec<Action>) -> bool {
        let mut turn = self.begin(now_ns, out);
        let at = self.slots.find(slot).filter(|&at| self.has_version(at));
        if let Some(at) = at {
            self.retire(at, &mut turn);
        }
        self.finish(turn);
        at.is_some()
    }

    fn retire(&mut self, at: u32, turn: &mut Turn) {
        let tenant = &mut self.slots.items[at as usize];
        if tenant.state() == InstanceState::Ending || tenant.retiring == Some(KillReason::Requested) {
            return;
        }
        if tenant.pipe.is_empty() {
            return self.kill(at, KillReason::Requested, turn);
        }
        let v = tenant.version;
        tenant.drain_until_ns = turn.now_ns.saturating_add(self.limits.drain_timeout_ns);
        // What was worn goes for good now, also if its last calls should come back.
        self.set_retiring(at, Some(KillReason::Requested));
        self.reshelve(at);
        self.arm_slot(at);
        self.scale(v, turn);
    }

    /// An instance that was asked to stop runs its call for too long. What has not begun runs elsewhere.
    pub(super) fn end_retiring(&mut self, at: u32, turn: &mut Turn) {
        let limit_ms = self.limits.drain_timeout_ns / NS_PER_MS;
        if let Some(call) = self.slots.items[at as usize].pipe.front() {
            if !self.calls.items[call as usize].settled {
                self.fail(call, InvokeError::InstanceStopped { limit_ms }, turn);
                self.settle(call);
            }
        }
        self.kill(at, KillReason::DrainTimedOut, turn);
    }

    /// Begins the server's end: calls run, and what is idle ends. What still runs after `grace_ns` is ended,
    /// and nothing is accepted from then on; until then it is for the caller to say what is still let in.
    /// [`Scheduler::is_drained`] says when all that was is done.
    pub fn shutdown(&mut self, grace_ns: u64, now_ns: u64, out: &mut Vec<Action>) {
        let mut turn = self.begin(now_ns, out);
        if !self.is_impatient {
            self.is_impatient = true;
            let due_ns = turn.now_ns.saturating_add(grace_ns);
            self.timers.arm(&mut self.drain_timer, due_ns, TimerKey::Drain);
        }
        self.begin_end(&mut turn);
        self.finish(turn);
    }

    /// The same without an end to the server's patience: every call has the time that its function gives it.
    pub fn wind_down(&mut self, now_ns: u64, out: &mut Vec<Action>) {
        let mut turn = self.begin(now_ns, out);
        self.begin_end(&mut turn);
        self.finish(turn);
    }

    fn begin_end(&mut self, turn: &mut Turn) {
        if self.shutting_down {
            return;
        }
        self.shutting_down = true;
        self.unbalanced = true;
        for v in self.versions.indices().collect::<Vec<_>>() {
            self.scale(v, turn);
            self.kill_unused(v, KillReason::Shutdown, turn);
        }
    }

    /// The server's patience is over: every call fails, every tenant ends.
    pub(super) fn end_drain(&mut self, turn: &mut Turn) {
        self.is_closed = true;
        let error = InvokeError::CutShort { limit_ms: self.limits.shutdown_grace_ns / NS_PER_MS };
        for v in self.versions.indices().collect::<Vec<_>>() {
            self.fail_queue(v, &error, turn);
        }
        for call in 0..self.calls.items.len() as u32 {
            let (place, settled) = (self.calls.items[call as usize].place(), self.calls.items[call as usize].settled);
            if place == Place::Vacant || settled {
                continue;
            }
            self.fail(call, error.clone(), turn);
            match place {
                Place::Piped(slot) if self.is_ending(slot) => {
                    self.leave_pipe(call, slot.index);
                    self.release(call);
                }
                Place::Astray(_) => self.release(call),
                _ => self.settle(call),
            }
        }
        for at in 0..self.slots.items.len() as u32 {
            // A blank in the making is nobody's yet; it is killed as surplus when it is ready.
            let state = self.slots.items[at as usize].state();
            if !matches!(state, InstanceState::Free | InstanceState::Making | InstanceState::Ending) {
                self.kill(at, KillReason::Shutdown, turn);
            }
        }
    }
}
