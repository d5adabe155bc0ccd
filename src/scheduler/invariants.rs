//! The sweep of debug builds: everything that must hold between two public entries, checked against the whole state.
//!
//! Counters are compared with what they count, lists with what should be in them, and the scheduler's promises
//! (no waiting call beside an idle instance, no more instances than allowed) with what is. What a limit of the server
//! bounds when something is taken on (calls, queues, the depth of a pipe) may be above it after the limit was lowered:
//! that is held by the storms of `tests::sim`, which look at the moment of taking on.

use super::calls::Place;
use super::slots::{InstanceState, Tenant};
use super::types::{IdleTtl, KillReason};
use super::versions::{Phase, Tally};
use super::Scheduler;
use crate::limits::PIPE_DEPTH_MAX;

/// Tests sweep after every entry, if they say nothing else. A debug build of the server has thousands of calls in its
/// tables, and would be of no use to anybody if it did.
pub(super) const SWEEP_EVERY: u64 = if cfg!(test) { 1 } else { 256 };

impl Scheduler {
    /// Panics if the state contradicts itself.
    pub(super) fn check_invariants(&self) {
        self.check_calls();
        self.check_tenants();
        self.check_minimum();
        self.versions.indices().for_each(|v| {
            self.check_version(v);
            self.check_warmth(v);
        });
        self.check_runtimes();
        self.check_timers();
        self.check_fairness();
        assert!(self.emptied.is_empty() && !self.unbalanced, "work was left undone");
    }

    fn check_calls(&self) {
        let mut alive = 0;
        let mut placed = vec![0u8; self.calls.items.len()];
        for v in self.versions.indices() {
            for call in self.versions.items[v as usize].queue.iter(&self.calls.items) {
                assert_eq!(self.calls.items[call as usize].place(), Place::Queued);
                assert_eq!(self.calls.items[call as usize].version, v, "a call is in another version's queue");
                placed[call as usize] += 1;
            }
        }
        for at in 0..self.slots.items.len() as u32 {
            let tenant = &self.slots.items[at as usize];
            for call in tenant.pipe.iter(&self.calls.items) {
                assert_eq!(self.calls.items[call as usize].place(), Place::Piped(self.slots.slot(at)));
                placed[call as usize] += 1;
                let is_over = self.calls.items[call as usize].settled;
                assert!(!is_over || tenant.state() != InstanceState::Ending, "call {call} is over and remembered");
            }
        }
        for (call, entry) in self.calls.items.iter().enumerate() {
            let listed = matches!(entry.place(), Place::Queued | Place::Piped(_));
            assert_eq!(placed[call], u8::from(listed), "call {call} is in {} lists", placed[call]);
            alive += usize::from(entry.place() != Place::Vacant);
            // This is the promise itself: whatever happens, the deadline of a call that waits is armed.
            let waits = entry.place() != Place::Vacant && !entry.settled;
            assert_eq!(entry.timer.is_armed(), waits, "call {call} at {:?}", entry.place());
            let held = matches!(entry.place(), Place::Piped(_) | Place::Vacant);
            assert!(held || !entry.settled, "call {call} is over, but not with a worker");
        }
        assert_eq!(alive, self.calls.len());
    }

    fn check_tenants(&self) {
        let (mut free, mut idle, mut ending_soon, mut yielding, mut busy) = (0, 0, 0, 0, 0);
        for (at, tenant) in self.slots.items.iter().enumerate() {
            let state = tenant.state();
            free += usize::from(state == InstanceState::Free);
            idle += usize::from(state == InstanceState::Idle);
            busy += usize::from(state == InstanceState::Busy);
            yielding += usize::from(tenant.retiring == Some(KillReason::Yielded));
            ending_soon += usize::from(state == InstanceState::Ending && !tenant.overdue);
            assert!(tenant.pipe.len() <= PIPE_DEPTH_MAX, "slot {at} has more calls than any pipe may");
            let may_hold = matches!(state, InstanceState::Loading | InstanceState::Busy | InstanceState::Ending);
            assert!(may_hold || tenant.pipe.is_empty(), "slot {at} is {state:?} with a call");
            assert!(state != InstanceState::Busy || !tenant.pipe.is_empty(), "slot {at} is busy with nothing");
            assert!(state != InstanceState::Loading || tenant.pipe.len() <= 1, "slot {at} loads for several");
            assert!(!tenant.exclusive || tenant.pipe.len() == 1, "slot {at}: an exclusive call has company");
            assert!(tenant.retiring.is_none() || !tenant.pipe.is_empty(), "slot {at} drains nothing");
            assert_eq!(tenant.shelf, if state == InstanceState::Free { None } else { tenant.shelf_wanted() });
            let by_version = state == InstanceState::Idle && self.idle_ttl(tenant.version) == IdleTtl::Adaptive;
            let watched = !matches!(state, InstanceState::Free | InstanceState::Blank | InstanceState::Busy)
                && (!by_version || tenant.taking_back);
            assert!(!watched || tenant.timer.is_armed(), "slot {at} is {state:?} and nobody looks");
        }
        assert_eq!(free, self.slots.items.len() - self.slots.occupied());
        let counted = (self.slots.idle, self.slots.ending_soon, self.slots.yielding, self.slots.busy);
        assert_eq!((idle, ending_soon, yielding, busy), counted);
    }

    fn check_minimum(&self) {
        let active = self.versions.indices().map(|v| &self.versions.items[v as usize]);
        let active = active.filter(|version| version.phase == Phase::Active);
        assert_eq!(self.min_instances, active.map(|version| u64::from(version.policy.min_instances)).sum::<u64>());
    }

    fn check_version(&self, v: u32) {
        let version = &self.versions.items[v as usize];
        let mut tally = Tally::default();
        for tenant in self.slots.items.iter().filter(|tenant| tenant.version == v) {
            if let Some(count) = tally.of(tenant.state()) {
                *count += 1;
            }
            tally.retiring += u32::from(tenant.retiring.is_some());
            let with_call = tenant.state() == InstanceState::Loading && !tenant.pipe.is_empty();
            tally.loading_with_call += u32::from(with_call);
            // The index of a slot whose tenant is gone may be another version's by now.
            if tenant.state() != InstanceState::Free {
                check_wear(tenant, version.policy.invocations_max);
            }
        }
        assert_eq!(tally, version.tally);
        let is_its = |place| place != Place::Vacant;
        let calls = self.calls.items.iter().filter(|call| is_its(call.place()) && call.version == v).count();
        assert_eq!(calls, version.calls as usize);
        assert!(tally.total() <= version.policy.max_instances, "more instances than allowed");
        assert!(version.queue.is_empty() || version.idle_newest().is_none(), "a call waits beside an idle instance");
        assert!(version.queue.is_empty() || version.successor.and_then(|key| self.versions.find(key)).is_none());
        assert!(version.phase == Phase::Active || calls > 0 || tally.total() > 0, "a drained version is remembered");
        assert!(tally.total() + version.wants <= version.policy.max_instances);
        let unclaimed = tally.loading - tally.loading_with_call;
        let waiting = (version.queue.len() as u32).saturating_sub(unclaimed);
        let kept = if self.is_closing(v) { 0 } else { version.policy.min_instances };
        let for_kept = kept.saturating_sub(tally.live());
        assert!(version.wants <= waiting.max(for_kept), "{} starts for {waiting} calls", version.wants);
    }

    /// What is kept warm is known, watched, and takes nothing from anybody.
    fn check_warmth(&self, v: u32) {
        let version = &self.versions.items[v as usize];
        let adaptive = self.idle_ttl(v) == IdleTtl::Adaptive;
        let Some(warmth) = &version.warmth else {
            assert!(!adaptive || version.phase == Phase::Closing, "version {v} learns nothing");
            return;
        };
        assert!(adaptive || version.phase == Phase::Closing, "version {v} learns in vain");
        let most = crate::limits::IDLE_LEVELS_MAX as u32;
        assert_eq!(warmth.pattern.in_use(), version.working().min(most), "version {v} does not know how many work");
        let closing = self.is_closing(v);
        assert!(closing || version.tally.idle == 0 || warmth.timer.is_armed(), "nobody looks at version {v}");
        assert!(!closing || warmth.hopes == 0, "a version that closes hopes");
        assert!(version.tally.total() + version.wants + warmth.hopes <= version.policy.max_instances);
        assert!(warmth.hopes <= warmth.expected, "version {v} hopes for more than it expects");
        let waiting = self.slots.items.iter().filter(|tenant| tenant.version == v && tenant.prewarmed).count() as u64;
        assert_eq!(warmth.prewarmed, warmth.used + warmth.wasted + waiting, "version {v} has miscounted");
    }

    /// Whoever waits for room waits for a slot that is coming, or there is none that is needed less.
    fn check_fairness(&self) {
        assert_eq!(self.claim, self.next_claim());
        let Some(claim) = self.claim else { return };
        for v in self.versions.indices() {
            let version = &self.versions.items[v as usize];
            let live = version.tally.live();
            let spare = version.idle_oldest().is_some() && live > version.policy.min_instances;
            assert!(!spare || live <= claim, "a function with {claim} instances waits for room beside one with {live}");
        }
        assert!(self.runtimes.iter().all(|it| it.ready.is_empty()), "a blank is kept while a function waits for room");
    }

    /// Every armed timer has an owner, so that none can fire for somebody else.
    fn check_timers(&self) {
        let calls = self.calls.items.iter().map(|call| call.timer);
        let slots = self.slots.items.iter().map(|tenant| tenant.timer);
        let versions = self.versions.items.iter().map(|version| version.timer);
        let runtimes = self.runtimes.iter().map(|runtime| runtime.timer);
        let warmths = self.versions.items.iter().filter_map(|version| Some(version.warmth.as_ref()?.timer));
        let all = calls.chain(slots).chain(versions).chain(warmths).chain(runtimes);
        let all = all.chain([self.drain_timer, self.room_timer]);
        assert_eq!(all.filter(|timer| timer.is_armed()).count(), self.timers.armed());
    }

    fn check_runtimes(&self) {
        for (r, runtime) in self.runtimes.iter().enumerate() {
            let of_it = || self.slots.items.iter().filter(|tenant| tenant.runtime == r as u32);
            let count = |state| of_it().filter(|tenant| tenant.state() == state).count();
            assert_eq!(count(InstanceState::Making), runtime.making as usize);
            assert_eq!(count(InstanceState::Blank), runtime.ready.len());
            assert!(runtime.ready.is_empty() || runtime.demand == 0, "a blank waits beside a version that wants one");
            assert!(
                runtime.ready.is_empty() || runtime.hopes == 0,
                "a blank waits beside a version that hopes for one"
            );
            let pool = self.limits.pool_size_of(runtime.id);
            assert!(runtime.ready.len() <= pool, "more blanks than the pool holds");
            let versions = || self.versions.items.iter().filter(|it| it.exists() && it.runtime == r as u32);
            assert_eq!(versions().map(|version| version.wants).sum::<u32>(), runtime.demand);
            let hopes = || versions().filter_map(|version| Some(version.warmth.as_ref()?.hopes));
            assert_eq!(hopes().sum::<u32>(), runtime.hopes);
            assert_eq!(hopes().filter(|&hopes| hopes > 0).count(), runtime.hopeful.len());
            assert_eq!(versions().filter(|version| version.wants > 0).count(), runtime.wanting.len());
            assert_eq!(versions().filter(|it| it.phase == Phase::Active).count(), runtime.users as usize);
        }
    }
}

/// An instance is given no more calls than it may have, and goes just when it was given them all.
fn check_wear(tenant: &Tenant, most: u64) {
    let given = tenant.given();
    assert!(given <= most, "an instance was given {given} calls of {most}");
    let goes = tenant.state() == InstanceState::Ending || tenant.retiring.is_some();
    assert!(given < most || goes, "a worn instance stays");
    assert!(given == most || tenant.retiring != Some(KillReason::Worn), "an instance goes before its time");
}
