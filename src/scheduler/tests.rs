//! What the scheduler does, told as stories with few actors. The storm of all of them at once is in `sim`.

mod sim;

use super::*;
use crate::call::{ExitReason, Slot};

const MS: u64 = 1_000_000;
const SECOND: u64 = 1000 * MS;

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
        let policy = FunctionPolicy { runtime: RuntimeId(0), timeout_ns: 5 * SECOND, min_instances, max_instances };
        self.step(|it, now, out| it.deploy(VersionKey(key), policy, old.map(VersionKey), now, out));
    }

    fn submit(&mut self, key: u64) -> InvocationId {
        self.step(|it, now, out| it.submit(VersionKey(key), false, now, out)).unwrap()
    }

    fn refused(&mut self, key: u64) -> InvokeError {
        self.step(|it, now, out| it.submit(VersionKey(key), false, now, out)).unwrap_err()
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
        self.step(|it, now, out| it.exited(slot, &ExitReason::Signal(9), begun, returned, now, out));
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

fn load_error() -> InvokeError {
    InvokeError::LoadFailed { kind: "ImportError".into(), message: "no module".into() }
}

// ---- The way of a call ----

#[test]
fn a_first_call_gets_a_blank_and_pays_for_the_cold_start() {
    let mut stage = Stage::new();
    stage.deploy(1, 0, 2);
    let call = stage.submit(1);
    let slot = stage.asked()[0];
    assert!(stage.dispatched().is_empty());
    stage.ready(slot);
    let expected =
        [Action::Assign { slot, version: VersionKey(1) }, Action::Dispatch { slot, invocation: call, cold: true }];
    assert_eq!(stage.out, expected);
    stage.loaded(slot);
    assert!(stage.complete(slot, call, MS));
    assert!(!stage.complete(slot, call, MS), "an answer is delivered once");
    let stats = stage.scheduler.stats_of_version(VersionKey(1)).unwrap();
    assert_eq!((stats.cold_starts, stats.completed, stats.instances.idle), (1, 1, 1));
}

#[test]
fn a_ready_blank_is_assigned_in_the_same_step() {
    let limits = SchedulerLimits { slots_max: 4, pool_size: 2, ..SchedulerLimits::default() };
    let mut stage = Stage::with(limits);
    let blanks = stage.asked();
    assert_eq!(blanks.len(), 2);
    blanks.iter().for_each(|&slot| stage.ready(slot));
    stage.deploy(1, 0, 2);
    stage.submit(1);
    assert!(matches!(
        stage.out[..],
        [Action::Assign { .. }, Action::Dispatch { cold: true, .. }, Action::MakeBlank { .. }]
    ));
}

#[test]
fn the_most_recently_used_idle_instance_is_preferred() {
    let mut stage = Stage::new();
    stage.deploy(1, 2, 2);
    let slots = stage.asked();
    for &slot in &slots {
        stage.ready(slot);
        stage.loaded(slot);
    }
    for _ in 0..3 {
        let call = stage.submit(1);
        assert_eq!(stage.out, [Action::Dispatch { slot: slots[1], invocation: call, cold: false }]);
        assert!(stage.complete(slots[1], call, 20 * MS));
    }
}

#[test]
fn calls_are_piped_to_a_busy_instance_only_while_the_function_is_fast() {
    for (service_ns, piped) in [(MS / 10, true), (20 * MS, false)] {
        let mut stage = Stage::new();
        stage.deploy(1, 0, 2);
        let slot = stage.warm(1, service_ns);
        stage.submit(1);
        stage.submit(1);
        assert_eq!(stage.dispatched().first().is_some_and(|&(to, _)| to == slot), piped, "{service_ns} ns");
        assert_eq!(stage.asked().len(), usize::from(!piped));
    }
}

#[test]
fn the_pipe_is_no_deeper_than_the_wait_allows() {
    let mut stage = Stage::new();
    stage.deploy(1, 0, 1);
    stage.warm(1, MS / 4);
    for _ in 0..6 {
        stage.submit(1);
    }
    let stats = stage.scheduler.stats_of_version(VersionKey(1)).unwrap();
    assert_eq!((stats.running, stats.queued), (4, 2));
}

#[test]
fn a_function_that_writes_raw_output_is_not_piped_to() {
    let mut stage = Stage::new();
    stage.deploy(1, 0, 1);
    let slot = stage.warm(1, MS / 10);
    let call = stage.submit(1);
    assert!(stage.step(|it, now, out| it.completed(slot, call, MS / 10, true, now, out)));
    stage.submit(1);
    stage.submit(1);
    assert_eq!(stage.scheduler.stats_of_version(VersionKey(1)).unwrap().queued, 1);
}

#[test]
fn a_big_request_gets_a_pipe_for_itself() {
    let mut stage = Stage::new();
    stage.deploy(1, 0, 1);
    let slot = stage.warm(1, MS / 10);
    let small = stage.submit(1);
    let big = stage.step(|it, now, out| it.submit(VersionKey(1), true, now, out)).unwrap();
    assert!(stage.dispatched().is_empty());
    let behind = stage.submit(1);
    assert!(stage.dispatched().is_empty(), "it must not be overtaken for ever");
    assert!(stage.complete(slot, small, MS / 10));
    assert_eq!(stage.dispatched(), [(slot, big)]);
    assert!(stage.complete(slot, big, MS / 10));
    assert_eq!(stage.dispatched(), [(slot, behind)]);
}

#[test]
fn a_burst_starts_no_more_instances_than_it_has_waiting_calls() {
    let mut stage = Stage::new();
    stage.deploy(1, 0, 8);
    let mut asked = 0;
    for calls in 1..=3 {
        stage.submit(1);
        asked += stage.asked().len();
        assert_eq!(asked, calls);
    }
}

#[test]
fn a_full_queue_and_a_full_server_refuse() {
    let limits = SchedulerLimits {
        slots_max: 1,
        pool_size: 0,
        queue_per_function_max: 2,
        invocations_max: 3,
        ..SchedulerLimits::default()
    };
    let mut stage = Stage::with(limits);
    stage.deploy(1, 0, 1);
    stage.deploy(2, 0, 1);
    stage.submit(1);
    stage.submit(1);
    assert_eq!(stage.refused(1), InvokeError::QueueFull { limit: 2 });
    stage.submit(2);
    assert_eq!(stage.refused(2), InvokeError::Overloaded { limit: 3 });
    assert_eq!(stage.refused(3), InvokeError::Deleted);
}

#[test]
fn a_cancelled_call_leaves_the_queue_or_runs_to_its_end_unheard() {
    let mut stage = Stage::new();
    stage.deploy(1, 0, 1);
    let slot = stage.warm(1, 20 * MS);
    let running = stage.submit(1);
    let queued = stage.submit(1);
    stage.step(|it, now, out| it.cancel(queued, now, out));
    stage.step(|it, now, out| it.cancel(running, now, out));
    assert!(!stage.complete(slot, running, MS));
    assert!(stage.dispatched().is_empty());
    let stats = stage.scheduler.stats_of_version(VersionKey(1)).unwrap();
    assert_eq!((stats.queued, stats.running, stats.instances.idle), (0, 0, 1));
}

#[test]
fn a_cancelled_call_may_not_run_for_ever() {
    let mut stage = Stage::new();
    stage.deploy(1, 0, 1);
    let slot = stage.warm(1, MS);
    let call = stage.submit(1);
    stage.step(|it, now, out| it.cancel(call, now, out));
    stage.later(4 * SECOND);
    assert_eq!(stage.killed(), []);
    stage.later(2 * SECOND);
    assert_eq!((stage.killed(), stage.failed()), (vec![(slot, KillReason::TimedOut)], vec![]));
}

// ---- Stalls, timeouts, crashes ----

#[test]
fn calls_behind_a_slow_one_are_taken_back_and_run_elsewhere_in_their_order() {
    let mut stage = Stage::new();
    stage.deploy(1, 0, 2);
    let slot = stage.warm(1, MS / 10);
    let calls: Vec<_> = (0..3).map(|_| stage.submit(1)).collect();
    stage.later(12 * MS);
    assert_eq!(stage.out, [Action::TakeBack { slot }]);
    let newer = stage.submit(1);
    assert!(stage.dispatched().is_empty(), "nothing is piped there while calls are asked back");
    let other = stage.asked()[0];
    stage.step(|it, now, out| it.taken_back(slot, &calls[1..], now, out));
    assert!(stage.dispatched().is_empty());
    stage.ready(other);
    assert_eq!(stage.dispatched(), [(other, calls[1])]);
    stage.loaded(other);
    assert!(stage.complete(other, calls[1], MS));
    assert_eq!(stage.dispatched(), [(other, calls[2])]);
    assert!(stage.complete(other, calls[2], MS));
    assert_eq!(stage.dispatched(), [(other, newer)]);
    assert!(stage.complete(slot, calls[0], 40 * MS));
}

#[test]
fn a_call_that_was_begun_after_all_is_not_taken_back() {
    let mut stage = Stage::new();
    stage.deploy(1, 0, 1);
    let slot = stage.warm(1, MS / 10);
    let (first, second) = (stage.submit(1), stage.submit(1));
    stage.later(12 * MS);
    assert!(stage.complete(slot, first, 12 * MS));
    stage.step(|it, now, out| it.taken_back(slot, &[], now, out));
    assert!(stage.dispatched().is_empty());
    assert!(stage.complete(slot, second, MS));
}

#[test]
fn an_unanswered_take_back_is_asked_again() {
    let mut stage = Stage::new();
    stage.deploy(1, 0, 1);
    let slot = stage.warm(1, MS / 10);
    let (first, _) = (stage.submit(1), stage.submit(1));
    stage.later(12 * MS);
    stage.complete(slot, first, 12 * MS);
    stage.later(SECOND + 2 * MS);
    assert_eq!(stage.out, [Action::TakeBack { slot }]);
}

#[test]
fn a_timeout_kills_and_spares_the_calls_behind() {
    let mut stage = Stage::new();
    stage.deploy(1, 0, 1);
    let slot = stage.warm(1, MS / 10);
    let (slow, behind) = (stage.submit(1), stage.submit(1));
    // The worker does not answer the question for them, so that they are still in the pipe at the end.
    stage.later(12 * MS);
    stage.now += SECOND;
    let newest = stage.submit(1);
    stage.now += 4 * SECOND - 12 * MS;
    stage.later(2 * MS);
    assert!(stage.failed().contains(&(slow, InvokeError::TimedOut { limit_ms: 5000 })));
    assert_eq!(stage.killed(), [(slot, KillReason::TimedOut)]);
    let _ = behind;
    stage.exit(slot, None, &[]);
    let fresh = stage.asked()[0];
    stage.ready(fresh);
    assert_eq!(stage.dispatched(), [(fresh, newest)]);
    assert!(!stage.complete(slot, slow, MS), "too late");
}

#[test]
fn a_crash_fails_the_begun_call_and_no_other() {
    let mut stage = Stage::new();
    stage.deploy(1, 0, 1);
    let slot = stage.warm(1, MS / 10);
    let calls: Vec<_> = (0..3).map(|_| stage.submit(1)).collect();
    stage.exit(slot, Some(calls[0]), &calls[1..]);
    assert_eq!(stage.failed(), [(calls[0], InvokeError::Crashed { exit: ExitReason::Signal(9) })]);
    let fresh = stage.asked()[0];
    stage.ready(fresh);
    assert_eq!(stage.dispatched(), [(fresh, calls[1])]);
    stage.exit(slot, Some(calls[0]), &calls[1..]);
    assert_eq!(stage.out, [], "a repeated exit means nothing");
}

#[test]
fn a_call_that_crossed_the_exit_on_its_way_is_run_when_it_comes_back() {
    let mut stage = Stage::new();
    stage.deploy(1, 0, 1);
    let slot = stage.warm(1, MS);
    let call = stage.submit(1);
    stage.exit(slot, None, &[]);
    assert_eq!((stage.asked(), stage.failed()), (vec![], vec![]));
    stage.step(|it, now, out| it.taken_back(slot, &[call], now, out));
    let fresh = stage.asked()[0];
    stage.ready(fresh);
    assert_eq!(stage.dispatched(), [(fresh, call)]);
}

#[test]
fn a_crash_loop_is_slowed_down_and_one_crash_is_not() {
    let mut stage = Stage::new();
    stage.deploy(1, 1, 1);
    let mut slot = stage.asked()[0];
    stage.ready(slot);
    stage.loaded(slot);
    stage.exit(slot, None, &[]);
    slot = stage.asked()[0];
    stage.ready(slot);
    stage.loaded(slot);
    stage.exit(slot, None, &[]);
    assert_eq!(stage.asked(), []);
    stage.later(50 * MS);
    assert_eq!(stage.asked(), []);
    stage.later(60 * MS);
    assert_eq!(stage.asked().len(), 1);
}

// ---- Starts that fail ----

#[test]
fn a_failed_load_fails_the_waiting_calls_until_the_pause_is_over() {
    let mut stage = Stage::new();
    stage.deploy(1, 0, 1);
    let (first, second) = (stage.submit(1), stage.submit(1));
    let slot = stage.scheduler.slots.slot(0);
    stage.ready(slot);
    stage.step(|it, now, out| it.loaded(slot, Err(load_error()), now, out));
    assert_eq!(stage.failed(), [(first, load_error()), (second, load_error())]);
    assert_eq!(stage.killed(), [(slot, KillReason::LoadFailed)]);
    assert_eq!(stage.refused(1), load_error());
    stage.exit(slot, None, &[]);
    stage.later(110 * MS);
    stage.submit(1);
    assert_eq!(stage.asked().len(), 1);
}

#[test]
fn a_failed_load_spares_calls_that_another_instance_can_serve() {
    let mut stage = Stage::new();
    stage.deploy(1, 0, 2);
    let good = stage.warm(1, 20 * MS);
    let running = stage.submit(1);
    let unlucky = stage.submit(1);
    let bad = stage.asked()[0];
    let waiting = stage.submit(1);
    stage.ready(bad);
    stage.step(|it, now, out| it.loaded(bad, Err(load_error()), now, out));
    assert_eq!(stage.failed(), [(unlucky, load_error())]);
    assert!(stage.complete(good, running, 20 * MS));
    assert_eq!(stage.dispatched(), [(good, waiting)]);
}

#[test]
fn top_level_code_that_hangs_is_cut_short() {
    let limits = SchedulerLimits { cold_start_timeout_ns: SECOND, ..SchedulerLimits::default() };
    let mut stage = Stage::with(SchedulerLimits { slots_max: 2, pool_size: 0, ..limits });
    stage.deploy(1, 0, 1);
    let call = stage.submit(1);
    let slot = stage.asked()[0];
    stage.ready(slot);
    stage.later(SECOND + 2 * MS);
    assert_eq!(stage.failed(), [(call, InvokeError::ColdStartTimedOut { limit_ms: 1000 })]);
    assert_eq!(stage.killed(), [(slot, KillReason::LoadTimedOut)]);
}

#[test]
fn a_call_is_not_made_to_wait_for_blanks_that_never_come() {
    let mut stage = Stage::new();
    stage.deploy(1, 0, 1);
    let call = stage.submit(1);
    let mut asked = stage.asked();
    for failure in 1..=3 {
        let slot = asked[0];
        stage.step(|it, now, out| it.blank_failed(slot, "fork: EAGAIN".into(), now, out));
        assert_eq!(stage.failed().is_empty(), failure < 3, "after {failure} failures");
        if failure == 3 {
            let error = InvokeError::NoInstances { reason: "fork: EAGAIN".into() };
            assert_eq!(stage.failed(), [(call, error.clone())]);
            assert_eq!(stage.refused(1), error);
        } else {
            stage.later(SECOND);
            asked = stage.asked();
        }
    }
}

#[test]
fn a_blank_that_is_late_is_replaced_and_killed_when_it_comes() {
    let mut stage = Stage::new();
    stage.deploy(1, 0, 1);
    stage.submit(1);
    let late = stage.asked()[0];
    stage.deploy(2, 0, 1);
    stage.later(6 * SECOND);
    assert_eq!(stage.failed().len(), 1);
    stage.later(5 * SECOND);
    assert_eq!(stage.killed(), [(late, KillReason::BlankTimedOut)]);
    stage.ready(late);
    assert_eq!(stage.killed(), [(late, KillReason::BlankTimedOut)]);
}

// ---- Scaling ----

#[test]
fn instances_age_out_down_to_the_minimum() {
    let mut stage = Stage::new();
    stage.deploy(1, 1, 3);
    let first = stage.asked()[0];
    stage.ready(first);
    stage.loaded(first);
    let calls: Vec<_> = (0..2).map(|_| stage.submit(1)).collect();
    let second = stage.asked()[0];
    stage.ready(second);
    stage.loaded(second);
    stage.complete(second, calls[1], 50 * MS);
    stage.now += SECOND;
    stage.complete(first, calls[0], 50 * MS);
    stage.later(599 * SECOND + 2 * MS);
    assert_eq!(stage.killed(), [(second, KillReason::Expired)]);
    stage.exit(second, None, &[]);
    stage.later(3600 * SECOND);
    assert_eq!(stage.killed(), []);
}

#[test]
fn a_full_machine_gives_up_what_is_least_missed() {
    let limits = SchedulerLimits { slots_max: 3, pool_size: 0, ..SchedulerLimits::default() };
    let mut stage = Stage::with(limits);
    for key in 1..=3 {
        stage.deploy(key, u32::from(key == 1), 1);
    }
    let kept = stage.scheduler.slots.slot(0);
    stage.ready(kept);
    stage.loaded(kept);
    stage.now += SECOND;
    let old = stage.warm(2, MS);
    stage.now += SECOND;
    stage.warm(3, MS);
    stage.deploy(4, 0, 1);
    let call = stage.submit(4);
    assert_eq!(stage.killed(), [(old, KillReason::Evicted)]);
    stage.exit(old, None, &[]);
    let slot = stage.asked()[0];
    assert_eq!((slot.index, slot.generation), (old.index, old.generation + 1));
    stage.ready(slot);
    assert_eq!(stage.dispatched(), [(slot, call)]);
}

#[test]
fn a_pool_makes_way_for_another_runtime() {
    let limits = SchedulerLimits { slots_max: 2, pool_size: 2, ..SchedulerLimits::default() };
    let mut stage = Stage::with(limits);
    let blanks = stage.asked();
    blanks.iter().for_each(|&slot| stage.ready(slot));
    let policy = FunctionPolicy { runtime: RuntimeId(7), timeout_ns: SECOND, min_instances: 0, max_instances: 1 };
    stage.step(|it, now, out| it.deploy(VersionKey(1), policy, None, now, out));
    stage.submit(1);
    assert_eq!(stage.killed().len(), 1);
    let (freed, _) = stage.killed()[0];
    stage.exit(freed, None, &[]);
    assert!(matches!(stage.out[..], [Action::MakeBlank { runtime: RuntimeId(7), .. }]));
}

#[test]
fn a_lost_exit_is_asked_for_again() {
    let mut stage = Stage::new();
    stage.deploy(1, 0, 1);
    let slot = stage.warm(1, MS);
    assert!(stage.step(|it, now, out| it.stop_instance(slot, now, out)));
    assert_eq!(stage.killed(), [(slot, KillReason::Requested)]);
    stage.later(SECOND + 2 * MS);
    assert_eq!(stage.killed(), [(slot, KillReason::Requested)]);
}

// ---- Versions and ends ----

#[test]
fn a_replaced_version_finishes_what_it_runs_and_hands_over_the_rest() {
    let mut stage = Stage::new();
    stage.deploy(1, 0, 1);
    let slot = stage.warm(1, 20 * MS);
    let running = stage.submit(1);
    let waiting = stage.submit(1);
    stage.replace(2, Some(1), 0, 1);
    let fresh = stage.asked()[0];
    stage.ready(fresh);
    assert_eq!(stage.dispatched(), [(fresh, waiting)]);
    stage.submit(1);
    assert_eq!(stage.scheduler.stats_of_version(VersionKey(2)).unwrap().queued, 1, "a stale key means the successor");
    assert!(stage.complete(slot, running, 20 * MS));
    assert_eq!(stage.killed(), [(slot, KillReason::Outdated)]);
    stage.exit(slot, None, &[]);
    assert_eq!(stage.out, [Action::Drained { version: VersionKey(1) }]);
}

#[test]
fn a_removed_version_runs_what_it_accepted() {
    let mut stage = Stage::new();
    stage.deploy(1, 1, 1);
    let call = stage.submit(1);
    let slot = stage.scheduler.slots.slot(0);
    stage.step(|it, now, out| it.remove(VersionKey(1), now, out));
    assert_eq!(stage.refused(1), InvokeError::Deleted);
    stage.ready(slot);
    assert_eq!(stage.dispatched(), [(slot, call)]);
    stage.loaded(slot);
    assert!(stage.complete(slot, call, MS));
    assert_eq!(stage.killed(), [(slot, KillReason::Outdated)]);
    stage.exit(slot, None, &[]);
    assert_eq!(stage.out, [Action::Drained { version: VersionKey(1) }]);
}

#[test]
fn an_unused_version_is_drained_at_once() {
    let mut stage = Stage::new();
    stage.deploy(1, 0, 1);
    stage.step(|it, now, out| it.remove(VersionKey(1), now, out));
    assert_eq!(stage.out, [Action::Drained { version: VersionKey(1) }]);
}

#[test]
fn a_stopped_instance_finishes_its_calls_and_is_replaced() {
    let mut stage = Stage::new();
    stage.deploy(1, 1, 2);
    let slot = stage.asked()[0];
    stage.ready(slot);
    stage.loaded(slot);
    let call = stage.submit(1);
    assert!(stage.step(|it, now, out| it.stop_instance(slot, now, out)));
    assert_eq!((stage.killed().len(), stage.asked().len()), (0, 1));
    assert!(stage.complete(slot, call, MS));
    assert_eq!(stage.killed(), [(slot, KillReason::Requested)]);
    let blank = Slot { index: 5, generation: 1 };
    assert!(!stage.step(|it, now, out| it.stop_instance(blank, now, out)));
}

#[test]
fn a_shutdown_lets_calls_finish_and_then_loses_patience() {
    let mut stage = Stage::new();
    stage.deploy(1, 1, 1);
    let slot = stage.asked()[0];
    stage.ready(slot);
    stage.loaded(slot);
    stage.replace(2, None, 0, 1);
    let call = stage.submit(1);
    stage.step(|it, now, out| it.shutdown(now, out));
    assert_eq!((stage.killed(), stage.refused(1)), (vec![], InvokeError::ShuttingDown));
    assert!(stage.complete(slot, call, MS));
    assert_eq!(stage.killed(), [(slot, KillReason::Shutdown)]);
    assert!(!stage.scheduler.is_drained());
    stage.exit(slot, None, &[]);
    assert!(stage.scheduler.is_drained());
}

#[test]
fn what_outlasts_the_drain_timeout_is_ended() {
    let limits = SchedulerLimits { drain_timeout_ns: SECOND, pool_size: 0, slots_max: 2, ..SchedulerLimits::default() };
    let mut stage = Stage::with(limits);
    stage.deploy(1, 0, 1);
    let slot = stage.warm(1, 20 * MS);
    let (running, queued) = (stage.submit(1), stage.submit(1));
    stage.step(|it, now, out| it.shutdown(now, out));
    stage.later(SECOND + 2 * MS);
    let failed = stage.failed();
    assert!([running, queued].iter().all(|&call| failed.contains(&(call, InvokeError::ShuttingDown))));
    assert_eq!(stage.killed(), [(slot, KillReason::Shutdown)]);
}
