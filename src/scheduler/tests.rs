//! What the scheduler does, told as stories with few actors. The storm of all of them at once is in `sim`.

mod calls;
mod crowd;
mod deadlines;
mod ends;
mod fairness;
mod faults;
mod reconfigure;
mod scaling;
mod sim;
mod starts;
mod warmth;
mod wear;

use super::*;
use crate::call::{ExitReason, Shortage, Slot, TimeoutSource};

const MS: u64 = 1_000_000;
const SECOND: u64 = 1000 * MS;

/// The terms of a request that is too big for one datagram.
const BIG: CallTerms = CallTerms { exclusive: true, timeout_ns: None };

/// A scheduler, its clock, and the actions of the last step.
struct Stage {
    scheduler: Scheduler,
    now: u64,
    out: Vec<Action>,
}

impl Stage {
    fn with(limits: SchedulerLimits) -> Self {
        let mut stage = Stage { scheduler: Scheduler::new(limits), now: 0, out: Vec::new() };
        stage.scheduler.tick(0, &mut stage.out);
        stage
    }

    /// Eight slots, no pool, and time limits that no story reaches by accident.
    fn new() -> Self {
        Stage::with(SchedulerLimits { slots_max: 8, pool_size: 0, ..SchedulerLimits::default() })
    }

    fn step<T>(&mut self, act: impl FnOnce(&mut Scheduler, u64, &mut Vec<Action>) -> T) -> T {
        self.out.clear();
        act(&mut self.scheduler, self.now, &mut self.out)
    }

    fn deploy(&mut self, key: u64, min_instances: u32, max_instances: u32) {
        self.replace(key, None, min_instances, max_instances);
    }

    fn replace(&mut self, key: u64, old: Option<u64>, min_instances: u32, max_instances: u32) {
        let policy = policy(min_instances, max_instances);
        self.step(|it, now, out| it.deploy(VersionKey(key), policy, old.map(VersionKey), now, out));
    }

    /// Deploys a version whose instances are given so many calls each.
    fn deploy_worn(&mut self, key: u64, min_instances: u32, max_instances: u32, invocations_max: u64) {
        let policy = FunctionPolicy { invocations_max, ..policy(min_instances, max_instances) };
        self.step(|it, now, out| it.deploy(VersionKey(key), policy, None, now, out));
    }

    fn submit(&mut self, key: u64) -> InvocationId {
        self.step(|it, now, out| it.submit(VersionKey(key), CallTerms::default(), now, out)).unwrap()
    }

    /// Submits a call whose caller waits no longer than this.
    fn submit_within(&mut self, key: u64, timeout_ns: u64) -> InvocationId {
        let terms = CallTerms { timeout_ns: Some(timeout_ns), ..CallTerms::default() };
        self.step(|it, now, out| it.submit(VersionKey(key), terms, now, out)).unwrap()
    }

    fn refused(&mut self, key: u64) -> InvokeError {
        self.step(|it, now, out| it.submit(VersionKey(key), CallTerms::default(), now, out)).unwrap_err()
    }

    fn ready(&mut self, slot: Slot) {
        self.step(|it, now, out| it.blank_ready(slot, now, out));
    }

    fn loaded(&mut self, slot: Slot) {
        self.step(|it, now, out| it.loaded(slot, Ok(()), now, out));
    }

    fn complete(&mut self, slot: Slot, call: InvocationId, service_ns: u64) -> bool {
        self.step(|it, now, out| it.completed(slot, call, service_ns, false, now, out))
    }

    fn exit(&mut self, slot: Slot, begun: Option<InvocationId>, returned: &[InvocationId]) {
        self.step(|it, now, out| it.exited(slot, &ExitReason::Signal(9), begun.as_slice(), returned, now, out));
    }

    fn later(&mut self, by_ns: u64) {
        self.now += by_ns;
        self.step(|it, now, out| it.tick(now, out));
    }

    /// The slots of the blanks asked for in the last step.
    fn asked(&self) -> Vec<Slot> {
        self.out
            .iter()
            .filter_map(|it| if let Action::MakeBlank { slot, .. } = it { Some(*slot) } else { None })
            .collect()
    }

    fn dispatched(&self) -> Vec<(Slot, InvocationId)> {
        let pick = |it: &Action| match it {
            Action::Dispatch { slot, invocation, .. } => Some((*slot, *invocation)),
            _ => None,
        };
        self.out.iter().filter_map(pick).collect()
    }

    fn killed(&self) -> Vec<(Slot, KillReason)> {
        self.out
            .iter()
            .filter_map(|it| if let Action::Kill { slot, why } = it { Some((*slot, *why)) } else { None })
            .collect()
    }

    fn failed(&self) -> Vec<(InvocationId, InvokeError)> {
        let pick = |it: &Action| match it {
            Action::Fail { invocation, error } => Some((*invocation, error.clone())),
            _ => None,
        };
        self.out.iter().filter_map(pick).collect()
    }

    /// Has an instance of this version started for one call, and that call answered in `service_ns`.
    fn warm(&mut self, key: u64, service_ns: u64) -> Slot {
        let call = self.submit(key);
        let slot = self.asked()[0];
        self.ready(slot);
        self.loaded(slot);
        assert!(self.complete(slot, call, service_ns));
        slot
    }
}

fn policy(min_instances: u32, max_instances: u32) -> FunctionPolicy {
    let (runtime, timeout_ns) = (RuntimeId(0), 5 * SECOND);
    FunctionPolicy { runtime, timeout_ns, min_instances, max_instances, invocations_max: u64::MAX, idle_ttl: None }
}

fn load_error() -> InvokeError {
    InvokeError::LoadFailed { kind: "ImportError".into(), message: "no module".into() }
}
