//! The scheduler: decides which instance runs a call, or that one must be started, or that the call waits, or that
//! it is refused.
//!
//! It is a pure state machine. It does no I/O, reads no clock and draws no random number; time is an argument, in
//! nanoseconds since the server's start. It is told what happened (`submit`, `completed`, `exited`, …) and answers
//! with [`Action`]s, to be carried out in their order. It owns which call is where and which instance is in what
//! state. It does not own requests' bytes, processes, or anything a client sees.
//!
//! The promise on which everything else stands: **an accepted call gets exactly one outcome**, which is either the
//! one `true` that [`Scheduler::completed`] returns for it, or the one [`Action::Fail`] that names it; unless
//! [`Scheduler::cancel`] says first that nobody waits. Whatever news is lost, its deadline ends it.
//!
//! How a call finds its instance, in this order:
//! 1. an idle instance of its version, the most recently used first, so that the rest can age and go;
//! 2. the pipe of the least loaded busy one, while the function is known to be fast;
//! 3. a blank that becomes an instance for it, while there are fewer starting instances than waiting calls;
//! 4. the version's bounded queue, first in, first out.
//!
//! Which file decides what: `placement` 1, 2 and 4; `scaling` 3 and the pool; `fairness` who gets room; `warmth` what
//! adaptive functions keep warm and start ahead, from what `idle` has learnt; `news` what workers report; `deadlines`
//! everything else that time does; `lifecycle` deployments and the server's end; `reconfigure` new limits; `refusals`
//! what a call is told that gets no place. The tables below them (`calls`, `slots`, `versions`, `runtimes`, `timers`,
//! `list`) decide nothing. Nothing on the way of a call allocates once the tables have grown to the load, and no step
//! depends on how many calls, instances or versions there are, but where a full server makes room.
//!
//! News may be late, repeated, forged, or about a tenant long gone: ids carry generations, and what does not match is
//! ignored. After every public entry of a debug build, `invariants` sweeps the whole state.

mod calls;
mod deadlines;
mod fairness;
mod idle;
#[cfg(debug_assertions)]
mod invariants;
mod lifecycle;
mod list;
mod news;
mod placement;
mod reconfigure;
mod refusals;
mod runtimes;
mod scaling;
mod slots;
mod stats;
mod timers;
mod types;
mod versions;
mod warmth;

#[cfg(test)]
mod tests;

pub use calls::invocation_index;
pub use idle::IdleBasis;
pub use slots::InstanceState;
pub use stats::{IdleLevelStats, IdleStats, InstanceCounts, InstanceStats, PoolStats, Trouble, VersionStats};
pub use types::{Action, CallTerms, FunctionPolicy, IdleScale, IdleTtl, KillReason, RuntimeId, SchedulerLimits};

use calls::{Calls, Place};
use runtimes::Runtime;
use slots::Slots;
use timers::{TimerId, TimerKey, Wheel};
use versions::{Phase, Versions};

use crate::call::{InvocationId, InvokeError, VersionKey};

/// For what clients are told, which is milliseconds.
const NS_PER_MS: u64 = 1_000_000;

/// See the module's documentation.
#[derive(Debug)]
pub struct Scheduler {
    limits: SchedulerLimits,
    /// The latest time it was told; time never goes back.
    now_ns: u64,
    calls: Calls,
    slots: Slots,
    versions: Versions,
    runtimes: Vec<Runtime>,
    timers: Wheel,
    drain_timer: TimerId,
    room_timer: TimerId,
    /// Nothing is kept warm any more.
    shutting_down: bool,
    /// The end has a time: see [`Scheduler::shutdown`].
    is_impatient: bool,
    /// Nothing is accepted any more.
    is_closed: bool,
    /// Recent service time of all functions' calls, an exponentially weighted mean; zero while unknown.
    service_ewma_ns: u64,
    /// Sum of the `min_instances` of the active versions.
    min_instances: u64,
    /// Instances of the function whose turn it is to get a slot, when there are too few: see `fairness`.
    claim: Option<u32>,
    /// Slots, pools or wants changed: [`Scheduler::rebalance`] must run before the entry ends.
    unbalanced: bool,
    /// Closing versions that may have lost their last call or instance during this entry.
    emptied: Vec<u32>,
    /// Public entries so far: the order in which functions began to wait, and what thins out the sweeps.
    entries: u64,
    /// Entries between two sweeps.
    #[cfg(debug_assertions)]
    sweep_every: u64,
}

/// What every step of one public entry needs: the time, and where actions go.
struct Turn<'a> {
    now_ns: u64,
    out: &'a mut Vec<Action>,
}

impl Scheduler {
    /// A scheduler that knows no function yet. The first [`Scheduler::tick`] begins to fill the default pool.
    #[must_use]
    pub fn new(limits: SchedulerLimits) -> Self {
        let limits = limits.within_bounds();
        let mut runtimes = Vec::new();
        runtimes::index_of(&mut runtimes, limits.default_runtime);
        Scheduler {
            now_ns: 0,
            calls: Calls::new(limits.invocations_max),
            slots: Slots::new(limits.slots_max),
            versions: Versions::default(),
            runtimes,
            timers: Wheel::new(),
            drain_timer: TimerId::NONE,
            room_timer: TimerId::NONE,
            shutting_down: false,
            is_impatient: false,
            is_closed: false,
            service_ewma_ns: 0,
            min_instances: 0,
            claim: None,
            unbalanced: true,
            emptied: Vec::new(),
            entries: 0,
            #[cfg(debug_assertions)]
            sweep_every: invariants::SWEEP_EVERY,
            limits,
        }
    }

    /// Accepts a call, or says why not. An accepted call's deadline is its function's timeout from now, or the shorter
    /// one that it came with; its `Dispatch` may be among the actions already.
    ///
    /// # Errors
    /// What the client is told; the call was then never accepted and gets no other outcome. `QueueFull` and
    /// `Overloaded` name the limit, `Deleted` is an unknown or removed version, `ShuttingDown` speaks for itself. A
    /// version whose start has just failed, or a runtime that makes no blanks, refuses with the failure at once.
    pub fn submit(
        &mut self,
        version: VersionKey,
        terms: CallTerms,
        now_ns: u64,
        out: &mut Vec<Action>,
    ) -> Result<InvocationId, InvokeError> {
        let mut turn = self.begin(now_ns, out);
        let verdict = self.accept(version, terms, &mut turn);
        self.finish(turn);
        verdict
    }

    fn accept(&mut self, key: VersionKey, terms: CallTerms, turn: &mut Turn) -> Result<InvocationId, InvokeError> {
        if self.is_closed {
            return Err(InvokeError::ShuttingDown);
        }
        // The caller's snapshot may be one deployment behind: the successor takes its calls.
        let named = self.versions.find(key).ok_or(InvokeError::Deleted)?;
        let v = self.versions.resolve(named);
        let version = &self.versions.items[v as usize];
        if version.phase != Phase::Active {
            return Err(InvokeError::Deleted);
        }
        if let Some(error) = self.no_place(v) {
            return Err(error);
        }
        let instance = if version.queue.is_empty() { self.pick(v, terms.exclusive, turn.now_ns) } else { None };
        if instance.is_none() {
            if version.queue.len() >= self.limits.queue_per_function_max {
                return Err(self.queue_full(v));
            }
            if let Some(error) = self.hopeless(v, turn.now_ns) {
                return Err(error);
            }
        }

        let call = self.calls.insert(v, terms, turn.now_ns, version.policy.timeout_ns);
        let id = self.calls.id(call);
        let version = &mut self.versions.items[v as usize];
        version.calls += 1;
        version.totals.accepted += 1;
        match instance {
            Some(at) => {
                self.arm_call(call, self.calls.items[call as usize].deadline_ns);
                self.dispatch(call, at, turn);
                if self.slots.items[at as usize].retiring.is_some() {
                    self.scale(v, turn);
                }
            }
            None => {
                self.enqueue(call, v, End::Back);
                self.scale(v, turn);
            }
        }
        Ok(id)
    }

    /// Nobody waits for this call any more, and it gets no outcome. If it was still queued, it is dropped; if it was
    /// sent to an instance, it runs to its end there, for no longer than its timeout.
    pub fn cancel(&mut self, invocation: InvocationId, now_ns: u64, out: &mut Vec<Action>) {
        let mut turn = self.begin(now_ns, out);
        if let Some(call) = self.calls.find(invocation) {
            self.abandon(call, &mut turn);
        }
        self.finish(turn);
    }

    fn abandon(&mut self, call: u32, turn: &mut Turn) {
        let v = self.calls.items[call as usize].version;
        match self.calls.items[call as usize].place() {
            Place::Queued => {
                self.unqueue(call);
                self.release(call);
                // An exclusive call at the front holds up those behind it, until it goes.
                self.feed(v, turn);
                self.scale(v, turn);
            }
            Place::Piped(slot) if self.is_ending(slot) => {
                self.leave_pipe(call, slot.index);
                self.release(call);
            }
            Place::Piped(slot) => {
                self.settle(call);
                self.arm_slot(slot.index);
            }
            Place::Astray(_) => self.release(call),
            Place::Vacant => {}
        }
    }

    /// When [`Scheduler::tick`] must next be called, if nothing happens before.
    #[must_use]
    pub fn next_deadline_ns(&self) -> Option<u64> {
        self.timers.next_ns()
    }

    /// Whether the shutdown is complete: every call has its outcome, every tenant is gone.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.shutting_down && self.calls.len() == 0 && self.slots.occupied() == 0
    }

    fn begin<'a>(&mut self, now_ns: u64, out: &'a mut Vec<Action>) -> Turn<'a> {
        self.now_ns = self.now_ns.max(now_ns);
        Turn { now_ns: self.now_ns, out }
    }

    /// Ends every public entry: what needs the whole picture happens once, here, and not amid a step.
    fn finish(&mut self, mut turn: Turn) {
        // Making room changes the balance again; every round frees or fills a slot, so that this ends.
        while std::mem::take(&mut self.unbalanced) {
            self.rebalance(&mut turn);
        }
        while let Some(v) = self.emptied.pop() {
            self.forget_if_drained(v, &mut turn);
        }
        self.entries += 1;
        #[cfg(debug_assertions)]
        if self.entries % self.sweep_every == 0 {
            self.check_invariants();
        }
    }

    // ---- Steps on one call that several files need ----

    fn arm_call(&mut self, call: u32, due_ns: u64) {
        self.timers.arm(&mut self.calls.items[call as usize].timer, due_ns, TimerKey::Call(call));
    }

    /// The call has its outcome, or nobody wants one; its entry waits for the worker.
    fn settle(&mut self, call: u32) {
        let entry = &mut self.calls.items[call as usize];
        entry.settled = true;
        self.timers.disarm(&mut entry.timer);
    }

    /// The call is over. It must be in no list.
    fn release(&mut self, call: u32) {
        let entry = &mut self.calls.items[call as usize];
        self.timers.disarm(&mut entry.timer);
        let v = entry.version;
        self.calls.free(call);
        self.versions.items[v as usize].calls -= 1;
        self.note_emptied(v);
    }

    /// Gives the call its outcome. The caller settles or releases it.
    fn fail(&mut self, call: u32, error: InvokeError, turn: &mut Turn) {
        debug_assert!(!self.calls.items[call as usize].settled, "call {call} has its outcome already");
        self.versions.items[self.calls.items[call as usize].version as usize].totals.failed += 1;
        turn.out.push(Action::Fail { invocation: self.calls.id(call), error });
    }

    fn note_emptied(&mut self, v: u32) {
        let version = &self.versions.items[v as usize];
        if version.phase == Phase::Closing && version.calls == 0 && version.tally.total() == 0 {
            self.emptied.push(v);
        }
    }
}

/// Which end of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Front,
    Back,
}
