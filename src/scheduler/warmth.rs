//! What adaptive functions keep warm, and what is started ahead of their calls.
//!
//! [`IdlePattern`] says how many instances of a function should be warm; this file lets it hear when instances begin
//! and cease to work, ends those that are too many and starts those that are too few. Instances with a fixed idle time
//! have timers of their own instead (`deadlines`).
//!
//! A start ahead of a call is a *hope*: it takes a blank of the pool, or a free slot when nothing else wants that. It
//! never counts as a wish for which room is made, so that it ends no other function's instance, and it keeps to
//! `max_instances`. If it fails it is not tried again before the next look.
//!
//! Invariants: an active adaptive version has a [`Warmth`], whose pattern knows how many instances work; while it has
//! an idle instance that `min_instances` does not keep, its timer is armed; prewarmed instances that were neither used
//! nor wasted are there.

use super::idle::IdlePattern;
use super::timers::{TimerId, TimerKey};
use super::types::{IdleScale, IdleTtl, KillReason};
use super::versions::{Phase, Version};
use super::{Scheduler, Turn};

/// An adaptive function's memory and intentions. It goes from version to version.
#[derive(Debug)]
pub(super) struct Warmth {
    pub(super) pattern: IdlePattern,
    /// Instances that should be there since calls are expected; zero when none are.
    pub(super) expected: u32,
    /// Of these, the ones that wait for a blank.
    pub(super) hopes: u32,
    /// Instances started ahead of a call.
    pub(super) prewarmed: u64,
    /// Of these, those that got one, and those that ended without.
    pub(super) used: u64,
    pub(super) wasted: u64,
    pub(super) timer: TimerId,
    due_ns: u64,
}

impl Warmth {
    fn new(scale: IdleScale) -> Self {
        Warmth {
            pattern: IdlePattern::new(scale),
            expected: 0,
            hopes: 0,
            prewarmed: 0,
            used: 0,
            wasted: 0,
            timer: TimerId::NONE,
            due_ns: u64::MAX,
        }
    }
}

impl Version {
    /// Instances that have something to do.
    pub(super) fn working(&self) -> u32 {
        self.tally.busy + self.tally.loading_with_call
    }

    /// An instance that was started ahead got its first call, or ended without.
    pub(super) fn note_prewarmed(&mut self, used: bool) {
        if let Some(warmth) = &mut self.warmth {
            warmth.used += u64::from(used);
            warmth.wasted += u64::from(!used);
        }
    }
}

impl Scheduler {
    /// Gives a new version what its idle time needs.
    pub(super) fn begin_warmth(&mut self, v: u32) {
        if self.idle_ttl(v) == IdleTtl::Adaptive {
            self.versions.items[v as usize].warmth = Some(Box::new(Warmth::new(self.limits.idle_scale)));
        }
    }

    /// The limits have changed: whether this version is adaptive may have, too.
    pub(super) fn change_warmth(&mut self, v: u32, now_ns: u64) {
        let adaptive = self.idle_ttl(v) == IdleTtl::Adaptive && self.versions.items[v as usize].phase == Phase::Active;
        if adaptive == self.versions.items[v as usize].warmth.is_some() {
            return;
        }
        if adaptive {
            self.begin_warmth(v);
            self.note_use(v, now_ns);
            return self.see_to_warmth(v, now_ns);
        }
        self.set_hopes(v, 0);
        if let Some(mut warmth) = self.versions.items[v as usize].warmth.take() {
            self.timers.disarm(&mut warmth.timer);
        }
        for tenant in self.slots.items.iter_mut().filter(|tenant| tenant.version == v) {
            tenant.prewarmed = false;
        }
    }

    /// What was learnt of a function is true for its new version, too. The old one has just been closed: nothing of
    /// it idles or is hoped for any more, and what still works there is left to itself.
    pub(super) fn hand_over_warmth(&mut self, old: u32, new: u32, now_ns: u64) {
        let Some(mut warmth) = self.versions.items[old as usize].warmth.take() else { return };
        self.timers.disarm(&mut warmth.timer);
        if self.versions.items[new as usize].warmth.is_some() {
            warmth.due_ns = u64::MAX;
            self.versions.items[new as usize].warmth = Some(warmth);
            self.note_use(new, now_ns);
            self.arm_warmth(new, now_ns);
        }
    }

    /// The number of this version's instances that work may have changed.
    pub(super) fn note_use(&mut self, v: u32, now_ns: u64) {
        let version = &mut self.versions.items[v as usize];
        let working = version.working();
        let Some(warmth) = &mut version.warmth else { return };
        // What was expected has come; whether more is, the next look says.
        let has_come = warmth.expected > 0 && working >= warmth.expected;
        if has_come {
            warmth.expected = 0;
        }
        let due_ns = warmth.pattern.set_in_use(working, now_ns);
        if has_come {
            self.set_hopes(v, 0);
        }
        if let Some(due_ns) = due_ns {
            self.arm_warmth(v, due_ns);
        }
    }

    /// An instance rests that may be one too many.
    pub(super) fn see_to_warmth(&mut self, v: u32, now_ns: u64) {
        let Some(warmth) = &self.versions.items[v as usize].warmth else { return };
        let due_ns = now_ns.saturating_add(warmth.pattern.scale().unsure_ns);
        self.arm_warmth(v, due_ns);
    }

    /// Sees to it that the version is looked at by then, or before.
    fn arm_warmth(&mut self, v: u32, due_ns: u64) {
        let Some(warmth) = &mut self.versions.items[v as usize].warmth else { return };
        if due_ns < warmth.due_ns {
            warmth.due_ns = due_ns;
            self.timers.arm(&mut warmth.timer, due_ns, TimerKey::Idle(v));
        }
    }

    /// Ends the idle instances of an adaptive version that should not be warm now, and starts those that should be
    /// there and are not.
    pub(super) fn review_warmth(&mut self, v: u32, turn: &mut Turn) {
        let Some(warmth) = &mut self.versions.items[v as usize].warmth else { return };
        (warmth.timer, warmth.due_ns) = (TimerId::NONE, u64::MAX);
        if self.is_closing(v) {
            return;
        }
        let Some(warmth) = &mut self.versions.items[v as usize].warmth else { return };
        let warm = warmth.pattern.warm(turn.now_ns);
        warmth.expected = warmth.pattern.expected(turn.now_ns);
        let next_ns = warmth.pattern.next_change_ns(turn.now_ns);
        let version = &self.versions.items[v as usize];
        let keep = version.policy.min_instances.max(warm);
        while self.versions.items[v as usize].tally.live() > keep {
            let Some(at) = self.versions.items[v as usize].idle_oldest() else { break };
            self.kill(at, KillReason::Expired, turn);
        }
        if let Some(next_ns) = next_ns {
            self.arm_warmth(v, next_ns);
        }
        if self.versions.items[v as usize].tally.idle > 0 {
            self.see_to_warmth(v, turn.now_ns);
        }
        self.scale(v, turn);
    }

    // ---- Hopes ----

    /// Starts the instances that the version should have ahead of calls from ready blanks, or hopes for blanks.
    pub(super) fn hope(&mut self, v: u32, turn: &mut Turn) {
        if self.versions.items[v as usize].warmth.is_none() {
            return;
        }
        let runtime = self.versions.items[v as usize].runtime as usize;
        let mut hopes = self.instances_hoped_for(v, turn.now_ns);
        while hopes > 0 {
            let Some(blank) = self.runtimes[runtime].ready.front() else { break };
            self.prewarm(blank, v, turn);
            hopes = self.instances_hoped_for(v, turn.now_ns);
        }
        self.set_hopes(v, hopes);
    }

    fn instances_hoped_for(&self, v: u32, now_ns: u64) -> u32 {
        let version = &self.versions.items[v as usize];
        let Some(warmth) = &version.warmth else { return 0 };
        if now_ns < version.backoff_until_ns || self.is_closing(v) || version.phase != Phase::Active {
            return 0;
        }
        let room = version.policy.max_instances.saturating_sub(version.tally.total() + version.wants);
        warmth.expected.saturating_sub(version.tally.live() + version.wants).min(room)
    }

    fn set_hopes(&mut self, v: u32, hopes: u32) {
        let version = &mut self.versions.items[v as usize];
        let Some(warmth) = &mut version.warmth else { return };
        let before = std::mem::replace(&mut warmth.hopes, hopes);
        if before == hopes {
            return;
        }
        let runtime = &mut self.runtimes[version.runtime as usize];
        runtime.hopes = runtime.hopes + hopes - before;
        if before == 0 {
            runtime.hopeful.push(v);
        } else if hopes == 0 {
            runtime.hopeful.retain(|&other| other != v);
        }
        self.unbalanced = true;
    }

    /// Gives blanks that no waiting call wants to the versions that hope for one.
    pub(super) fn fulfil_hopes(&mut self, r: usize, turn: &mut Turn) {
        while let (Some(&v), Some(blank)) = (self.runtimes[r].hopeful.first(), self.runtimes[r].ready.front()) {
            if self.instances_hoped_for(v, turn.now_ns) > 0 {
                self.prewarm(blank, v, turn);
            }
            let hopes = self.instances_hoped_for(v, turn.now_ns);
            self.set_hopes(v, hopes);
        }
    }

    fn prewarm(&mut self, blank: u32, v: u32, turn: &mut Turn) {
        self.slots.items[blank as usize].prewarmed = true;
        if let Some(warmth) = &mut self.versions.items[v as usize].warmth {
            warmth.prewarmed += 1;
        }
        self.assign(blank, v, turn);
    }
}
