//! The clients and operators of the storm.

use super::{name_of, random_limits, Fate, Storm, RUNTIMES};
use crate::call::{InvocationId, InvokeError, Slot, VersionKey};
use crate::scheduler::tests::MS;
use crate::scheduler::{Action, CallTerms, FunctionPolicy, IdleTtl, InstanceState, Scheduler, SchedulerLimits};

impl Storm {
    pub(super) fn submit(&mut self) {
        let pick = self.dice.roll(self.versions.len().max(1) as u64) as usize;
        if let Some((key, _)) = self.versions.get(pick) {
            self.submit_to(*key);
        }
    }

    pub(super) fn submit_to(&mut self, key: VersionKey) {
        let terms = CallTerms {
            exclusive: self.dice.one_in(10),
            timeout_ns: self.dice.one_in(5).then(|| self.dice.roll(200) * MS),
        };
        let idle: Vec<Slot> = self
            .scheduler
            .instance_stats()
            .filter(|it| it.version == key && it.state == InstanceState::Idle)
            .filter(|it| it.in_pipe == 0 && !self.scheduler.slots.items[it.slot.index as usize].taking_back)
            .map(|it| it.slot)
            .collect();
        let queued = |it: &Scheduler| it.stats_of_version(key).map_or(0, |it| it.queued);
        let queued_before = queued(&self.scheduler);
        match self.scheduler.submit(key, terms, self.now, &mut self.out) {
            Ok(call) => {
                if self.loud {
                    eprintln!("{:>12} submit {key:?} -> {call:?}", self.now);
                }
                assert_eq!(self.fates.insert(call, Fate::Waiting), None, "an id is used twice");
                assert!(self.scheduler.invocations() <= self.limits.invocations_max, "one call too many");
                let to = self.out.iter().find_map(|action| match action {
                    Action::Dispatch { slot, invocation, .. } if *invocation == call => Some(*slot),
                    _ => None,
                });
                let most = queued_before.max(self.limits.queue_per_function_max);
                assert!(queued(&self.scheduler) <= most, "one more than the queue holds");
                assert!(idle.is_empty() || to.is_some_and(|to| idle.contains(&to)), "{idle:?} idle, sent to {to:?}");
            }
            Err(error) => {
                self.seen.insert(format!("Refused{}", name_of(&error)));
                assert!(
                    idle.is_empty()
                        || matches!(
                            error,
                            InvokeError::Overloaded { .. }
                                | InvokeError::ShareExceeded { .. }
                                | InvokeError::ShuttingDown
                        )
                );
            }
        }
        self.take_actions();
    }

    pub(super) fn cancel(&mut self) {
        let mut waiting: Vec<InvocationId> =
            self.fates.iter().filter(|(_, fate)| **fate == Fate::Waiting).map(|(call, _)| *call).collect();
        waiting.sort_unstable();
        let pick = self.dice.roll(waiting.len().max(1) as u64) as usize;
        if let Some(&call) = waiting.get(pick) {
            self.fates.insert(call, Fate::Cancelled);
            self.scheduler.cancel(call, self.now, &mut self.out);
            self.take_actions();
        }
    }

    pub(super) fn deploy(&mut self, replace: bool) {
        let key = VersionKey(self.next_key);
        self.next_key += 1;
        let policy = FunctionPolicy {
            runtime: RUNTIMES[self.dice.roll(RUNTIMES.len() as u64) as usize],
            timeout_ns: (1 + self.dice.roll(300)) * MS,
            min_instances: self.dice.roll(3).saturating_sub(1) as u32,
            max_instances: 1 + self.dice.roll(4) as u32,
            invocations_max: if self.dice.one_in(3) { 1 + self.dice.roll(4) } else { u64::MAX },
            idle_ttl: [None, Some(IdleTtl::AfterNs(200 * MS)), Some(IdleTtl::Adaptive)][self.dice.roll(3) as usize],
        };
        self.invocations_max.insert(key, policy.invocations_max);
        let pick = self.dice.roll(self.versions.len().max(1) as u64) as usize;
        let old = if replace && pick < self.versions.len() { Some(self.versions.remove(pick).0) } else { None };
        self.versions.push((key, policy.clone()));
        self.scheduler.deploy(key, policy, old, self.now, &mut self.out);
        self.take_actions();
    }

    pub(super) fn remove(&mut self) {
        let pick = self.dice.roll(self.versions.len().max(1) as u64) as usize;
        if pick < self.versions.len() {
            let (key, _) = self.versions.remove(pick);
            self.scheduler.remove(key, self.now, &mut self.out);
            self.take_actions();
        }
    }

    pub(super) fn stop_instance(&mut self) {
        let slots: Vec<Slot> = self.scheduler.instance_stats().map(|it| it.slot).collect();
        let pick = self.dice.roll(slots.len().max(1) as u64) as usize;
        if let Some(&slot) = slots.get(pick) {
            assert!(self.scheduler.stop_instance(slot, self.now, &mut self.out));
            self.take_actions();
        }
    }

    pub(super) fn reconfigure(&mut self) {
        let (slots_max, default_runtime) = (self.limits.slots_max, self.limits.default_runtime);
        let limits = random_limits(&mut self.dice);
        self.scheduler.reconfigure(limits.clone(), self.now, &mut self.out);
        self.limits = SchedulerLimits { slots_max, default_runtime, ..limits };
        self.seen.insert("Reconfigured".to_owned());
        self.take_actions();
    }
}
