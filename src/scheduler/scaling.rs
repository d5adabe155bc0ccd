//! How many instances there are: starts on demand, the pool of blanks, and what is done when starts fail. Who gets room
//! when there is too little is `fairness`.
//!
//! A version's `wants` are the instances that it should start and has no blank for; a runtime's `demand` is their
//! sum. Both are recomputed whenever a call or an instance of the version changes, and the blanks in the making are
//! kept equal to demand and pool together. So a wish that goes away (another instance served the call) leaves at most
//! a blank in the pool, and a burst never starts more instances than it has waiting calls.

use super::slots::InstanceState;
use super::timers::TimerKey;
use super::types::{Action, KillReason};
use super::{Scheduler, Turn};
use crate::call::{BlankFailure, InvokeError};

impl Scheduler {
    /// Gives the version the instances that it should have: from the pool now, or by asking for blanks.
    pub(super) fn scale(&mut self, v: u32, turn: &mut Turn) {
        let runtime = self.versions.items[v as usize].runtime as usize;
        let mut wants = self.instances_missing(v, turn.now_ns);
        while wants > 0 {
            let Some(blank) = self.runtimes[runtime].ready.front() else { break };
            self.assign(blank, v, turn);
            wants = self.instances_missing(v, turn.now_ns);
        }
        self.set_wants(v, wants);
        self.hope(v, turn);
        self.fail_if_hopeless(v, turn);
    }

    /// Instances that the version should start now.
    pub(super) fn instances_missing(&self, v: u32, now_ns: u64) -> u32 {
        let version = &self.versions.items[v as usize];
        if now_ns < version.backoff_until_ns {
            return 0;
        }
        let tally = &version.tally;
        // Instances that are loading without a call will each take a waiting one.
        let unclaimed = tally.loading - tally.loading_with_call;
        let for_calls = (version.queue.len() as u32).saturating_sub(unclaimed);
        let kept = if self.is_closing(v) { 0 } else { version.policy.min_instances };
        let room = version.policy.max_instances.saturating_sub(tally.total());
        for_calls.max(kept.saturating_sub(tally.live())).min(room)
    }

    fn set_wants(&mut self, v: u32, wants: u32) {
        let version = &mut self.versions.items[v as usize];
        let before = std::mem::replace(&mut version.wants, wants);
        if before == wants {
            return;
        }
        if before == 0 {
            version.wants_since = self.entries;
        }
        let runtime = &mut self.runtimes[version.runtime as usize];
        runtime.demand = runtime.demand + wants - before;
        if before == 0 {
            runtime.wanting.push_back(&mut self.versions.items, v);
        } else if wants == 0 {
            runtime.wanting.remove(&mut self.versions.items, v);
        }
        self.unbalanced = true;
    }

    /// Turns a ready blank into an instance of the version, and gives it the oldest waiting call. Only that one: the
    /// others would fail with it if the load fails, and may find an idle instance sooner.
    pub(super) fn assign(&mut self, at: u32, v: u32, turn: &mut Turn) {
        let tenant = &mut self.slots.items[at as usize];
        let runtime = tenant.runtime;
        tenant.version = v;
        tenant.started_ns = turn.now_ns;
        tenant.last_used_ns = turn.now_ns;
        self.runtimes[runtime as usize].ready.remove(&mut self.slots.items, at);
        self.unbalanced = true;
        self.transition(at, InstanceState::Loading, turn.now_ns);
        self.arm_slot(at);
        let version = &mut self.versions.items[v as usize];
        version.totals.starts += 1;
        turn.out.push(Action::Assign { slot: self.slots.slot(at), version: version.key });
        if let Some(call) = version.queue.front() {
            self.unqueue(call);
            self.dispatch(call, at, turn);
        }
    }

    /// Brings blanks into line with demand and pools, and makes room when there is none.
    pub(super) fn rebalance(&mut self, turn: &mut Turn) {
        for r in 0..self.runtimes.len() {
            self.hand_out_blanks(r, turn);
            self.fulfil_hopes(r, turn);
            let pool = self.pool_target(r);
            while self.runtimes[r].ready.len() > pool {
                let Some(blank) = self.runtimes[r].ready.back() else { break };
                self.kill(blank, KillReason::Surplus, turn);
            }
        }
        // What calls wait for comes before any pool.
        let unmet = |it: &Self| it.runtimes.iter().map(|runtime| runtime.unmet()).sum::<usize>();
        self.claim = None;
        if self.slots.free() >= unmet(self) {
            for r in 0..self.runtimes.len() {
                self.make_blanks(r, self.runtimes[r].demand as usize, turn);
            }
        } else {
            while let Some(r) = self.neediest_runtime().filter(|_| !self.slots.is_full()) {
                self.make_blanks(r, self.runtimes[r].making as usize + 1, turn);
            }
            return self.make_room(turn);
        }
        for r in 0..self.runtimes.len() {
            let pool = self.pool_target(r);
            let wished = (self.runtimes[r].demand + self.runtimes[r].hopes) as usize;
            let target = pool + wished - self.runtimes[r].ready.len().min(pool);
            self.make_blanks(r, target, turn);
        }
    }

    /// Gives each ready blank to the version whose turn it is: while there is room for all, in turns; else by need.
    fn hand_out_blanks(&mut self, r: usize, turn: &mut Turn) {
        while !self.runtimes[r].ready.is_empty() {
            let next = if self.slots.is_full() { self.neediest_version(r) } else { self.runtimes[r].wanting.front() };
            let Some(v) = next else { return };
            let Some(blank) = self.runtimes[r].ready.front() else { return };
            self.runtimes[r].wanting.remove(&mut self.versions.items, v);
            self.runtimes[r].wanting.push_back(&mut self.versions.items, v);
            self.versions.items[v as usize].wants_since = self.entries;
            if self.instances_missing(v, turn.now_ns) > 0 {
                self.assign(blank, v, turn);
            }
            let wants = self.instances_missing(v, turn.now_ns);
            self.set_wants(v, wants);
        }
    }

    /// Asks for blanks until so many are in the making, or no slot is free.
    fn make_blanks(&mut self, r: usize, target: usize, turn: &mut Turn) {
        // The pause lasts until its timer fires, here as in what is counted as unmet, or this runtime would take a slot
        // that was found to be another's.
        if self.runtimes[r].timer.is_armed() {
            return;
        }
        while (self.runtimes[r].making as usize) < target {
            let Some(at) = self.slots.settle(r as u32, turn.now_ns) else { return };
            self.runtimes[r].making += 1;
            self.arm_slot(at);
            turn.out.push(Action::MakeBlank { slot: self.slots.slot(at), runtime: self.runtimes[r].id });
        }
    }

    fn pool_target(&self, r: usize) -> usize {
        let id = self.runtimes[r].id;
        let used = self.runtimes[r].users > 0 || id == self.limits.default_runtime;
        if used && !self.shutting_down {
            self.limits.pool_size_of(id)
        } else {
            0
        }
    }

    // ---- Failed starts ----

    /// Top-level code failed (or hung, or died): no start for a while, and whoever would need one hears why. The
    /// caller ends the instance, if it lives, and scales the version; not before, or a start would slip through.
    pub(super) fn start_failed(&mut self, v: u32, error: InvokeError, now_ns: u64) {
        let version = &mut self.versions.items[v as usize];
        version.totals.start_failures += 1;
        if let Some(warmth) = &mut version.warmth {
            warmth.expected = 0;
        }
        version.load_failures = version.load_failures.saturating_add(1);
        version.last_trouble = Some(error.clone());
        version.start_error = Some(error);
        let pause_ns = self.limits.backoff_ns(version.load_failures);
        self.back_off(v, pause_ns, now_ns);
    }

    /// An instance died by itself. The first time, a fresh one may come at once; in a crash loop there are pauses.
    /// The caller scales the version.
    pub(super) fn crashed(&mut self, v: u32, error: InvokeError, started_ns: u64, now_ns: u64) {
        let version = &mut self.versions.items[v as usize];
        version.totals.crashes += 1;
        version.last_trouble = Some(error);
        // Instances that die together, because somebody or the kernel kills them, are one crash: only the death of one
        // that came after the last crash shows that fresh ones die too.
        if version.crashes > 0 && started_ns < version.crashed_ns {
            return;
        }
        version.crashed_ns = now_ns;
        version.crashes = version.crashes.saturating_add(1);
        if version.crashes > 1 {
            let pause_ns = self.limits.backoff_ns(version.crashes - 1);
            self.back_off(v, pause_ns, now_ns);
        }
    }

    fn back_off(&mut self, v: u32, pause_ns: u64, now_ns: u64) {
        let version = &mut self.versions.items[v as usize];
        version.backoff_until_ns = version.backoff_until_ns.max(now_ns.saturating_add(pause_ns));
        self.timers.arm(&mut version.timer, version.backoff_until_ns, TimerKey::Version(v));
    }

    /// A blank could not be made, or did not live to be used.
    pub(super) fn blank_trouble(&mut self, r: u32, failure: BlankFailure, turn: &mut Turn) {
        let runtime = &mut self.runtimes[r as usize];
        runtime.failure = failure;
        runtime.failed_at_ns = turn.now_ns;
        // Blanks are asked for by the handful, and fail so: the failures of one handful count as one.
        if turn.now_ns >= runtime.backoff_until_ns {
            runtime.failures = runtime.failures.saturating_add(1);
            runtime.backoff_until_ns = turn.now_ns.saturating_add(self.limits.backoff_ns(runtime.failures));
            self.timers.arm(&mut runtime.timer, runtime.backoff_until_ns, TimerKey::Runtime(r));
        }
        self.unbalanced = true;
        for v in 0..self.versions.items.len() as u32 {
            if self.versions.items[v as usize].exists() && self.versions.items[v as usize].runtime == r {
                self.fail_if_hopeless(v, turn);
            }
        }
    }

    /// Why a call of this version that needs an instance cannot have one soon, if that is so.
    pub(super) fn hopeless(&self, v: u32, now_ns: u64) -> Option<InvokeError> {
        let version = &self.versions.items[v as usize];
        if version.tally.live() > 0 {
            return None;
        }
        if now_ns < version.backoff_until_ns && version.start_error.is_some() {
            return version.start_error.clone();
        }
        let runtime = &self.runtimes[version.runtime as usize];
        let broken = runtime.failures >= self.limits.blank_failures_max
            && now_ns < runtime.backoff_until_ns
            && runtime.ready.is_empty()
            && runtime.making == 0;
        broken.then(|| InvokeError::NoInstances(runtime.failure.clone()))
    }

    fn fail_if_hopeless(&mut self, v: u32, turn: &mut Turn) {
        if self.versions.items[v as usize].queue.is_empty() {
            return;
        }
        if let Some(error) = self.hopeless(v, turn.now_ns) {
            self.fail_queue(v, &error, turn);
        }
    }

    /// Every waiting call of the version fails in the same way.
    pub(super) fn fail_queue(&mut self, v: u32, error: &InvokeError, turn: &mut Turn) {
        while let Some(call) = self.versions.items[v as usize].queue.front() {
            self.unqueue(call);
            self.fail(call, error.clone(), turn);
            self.release(call);
        }
        let wants = self.instances_missing(v, turn.now_ns);
        self.set_wants(v, wants);
    }
}
