//! New limits amid the work.

use super::*;

impl Stage {
    pub(super) fn reconfigure(&mut self, change: impl FnOnce(&mut SchedulerLimits)) {
        let mut limits = self.scheduler.limits.clone();
        change(&mut limits);
        self.step(|it, now, out| it.reconfigure(limits, now, out));
    }
}

#[test]
fn what_waits_above_a_smaller_bound_is_served_and_nothing_more_is_taken() {
    let mut stage = Stage::new();
    stage.deploy(1, 0, 1);
    let slot = stage.warm(1, 20 * MS);
    let running = stage.submit(1);
    let waiting: Vec<_> = (0..3).map(|_| stage.submit(1)).collect();
    stage.reconfigure(|limits| (limits.queue_per_function_max, limits.invocations_max) = (1, 2));
    assert_eq!((stage.out.len(), stage.scheduler.invocations()), (0, 4));
    assert_eq!(stage.refused(1), InvokeError::Overloaded { limit: 2, retry_after_s: 1 });
    stage.reconfigure(|limits| limits.invocations_max = 9);
    assert_eq!(stage.refused(1), InvokeError::QueueFull { limit: 1, retry_after_s: 1 });
    let mut before = running;
    for call in waiting {
        assert!(stage.complete(slot, before, 20 * MS));
        assert_eq!(stage.dispatched(), [(slot, call)]);
        before = call;
    }
    stage.submit(1);
}

#[test]
fn a_smaller_pool_gives_up_its_surplus_and_a_larger_one_is_filled_at_once() {
    let mut stage = Stage::with(SchedulerLimits { slots_max: 8, pool_size: 3, ..SchedulerLimits::default() });
    let blanks = stage.asked();
    blanks[..2].iter().for_each(|&slot| stage.ready(slot));
    stage.reconfigure(|limits| limits.pool_size = 1);
    assert_eq!(stage.killed(), [(blanks[0], KillReason::Surplus)]);
    stage.ready(blanks[2]);
    assert_eq!(stage.killed().len(), 1, "what was in the making is one too many when it is ready");
    stage.reconfigure(|limits| limits.pool_size = 3);
    assert_eq!(stage.asked().len(), 2);
}

#[test]
fn the_pools_of_processes_and_of_containers_change_each_for_itself() {
    let limits = SchedulerLimits { slots_max: 12, pool_size: 2, container_pool_size: 2, ..SchedulerLimits::default() };
    let mut stage = Stage::with(limits);
    let processes = stage.asked();
    let policy = FunctionPolicy { runtime: RuntimeId::container(3), ..policy(0, 1) };
    stage.step(|it, now, out| it.deploy(VersionKey(1), policy, None, now, out));
    let containers = stage.asked();
    assert_eq!((processes.len(), containers.len()), (2, 2));
    processes.iter().chain(&containers).for_each(|&slot| stage.ready(slot));
    stage.reconfigure(|limits| limits.container_pool_size = 1);
    assert_eq!((stage.killed().len(), stage.asked().len()), (1, 0));
    assert!(containers.contains(&stage.killed()[0].0));
    stage.exit(stage.killed()[0].0, None, &[]);
    stage.reconfigure(|limits| (limits.pool_size, limits.container_pool_size) = (3, 4));
    let asked = |container: bool| {
        let is_asked =
            |it: &&Action| matches!(it, Action::MakeBlank { runtime, .. } if runtime.is_container() == container);
        stage.out.iter().filter(is_asked).count()
    };
    assert_eq!((asked(false), asked(true)), (1, 3));
    stage.reconfigure(|limits| limits.container_pool_size = 0);
    assert!(stage.killed().iter().all(|(slot, _)| containers.contains(slot)) && stage.killed().len() == 1);
}

#[test]
fn a_shorter_idle_time_ends_what_has_been_idle_for_longer_and_a_longer_one_keeps_it() {
    for (ttl_s, is_killed) in [(100, true), (1200, false)] {
        let mut stage = Stage::new();
        stage.deploy(1, 0, 1);
        let slot = stage.warm(1, MS);
        stage.later(200 * SECOND);
        stage.reconfigure(|limits| limits.idle_ttl = IdleTtl::AfterNs(ttl_s * SECOND));
        stage.later(2 * MS);
        assert_eq!(stage.killed().contains(&(slot, KillReason::Expired)), is_killed, "{ttl_s} s");
        if !is_killed {
            stage.later(700 * SECOND);
            assert_eq!(stage.killed(), [], "the timer that was armed for the old time has fired by now");
        }
    }
}

#[test]
fn a_new_cold_start_timeout_holds_for_calls_and_instances_that_wait_already() {
    for (timeout_s, after_s, over) in [(1, 2, true), (60, 40, false)] {
        let mut stage = Stage::new();
        stage.reconfigure(|limits| limits.queue_wait_max_ns = 300 * SECOND);
        for key in [1, 2] {
            let policy = FunctionPolicy { timeout_ns: 300 * SECOND, ..policy(0, 1) };
            stage.step(|it, now, out| it.deploy(VersionKey(key), policy, None, now, out));
        }
        // The first one's instance loads, the second has none.
        let (first, second) = (stage.submit(1), stage.submit(2));
        let slot = stage.scheduler.slots.slot(0);
        stage.ready(slot);
        stage.later(500 * MS);
        stage.reconfigure(|limits| limits.cold_start_timeout_ns = timeout_s * SECOND);
        stage.later(after_s * SECOND);
        let failed: Vec<_> = stage.failed().into_iter().map(|(call, _)| call).collect();
        assert_eq!((failed.contains(&first), failed.contains(&second)), (over, over), "{failed:?} after {after_s} s");
        assert_eq!(stage.killed().contains(&(slot, KillReason::LoadTimedOut)), over);
    }
}

#[test]
fn a_deeper_pipe_is_filled_at_once_and_a_flatter_one_empties() {
    let mut stage = Stage::new();
    stage.reconfigure(|limits| limits.pipe_depth_max = 1);
    stage.deploy(1, 0, 1);
    let slot = stage.warm(1, MS / 10);
    let calls: Vec<_> = (0..4).map(|_| stage.submit(1)).collect();
    stage.reconfigure(|limits| limits.pipe_depth_max = 3);
    assert_eq!(stage.dispatched(), [(slot, calls[1]), (slot, calls[2])]);
    stage.reconfigure(|limits| limits.pipe_depth_max = 1);
    assert!(stage.complete(slot, calls[0], MS / 10));
    assert!(stage.complete(slot, calls[1], MS / 10));
    assert_eq!(stage.dispatched(), []);
    assert!(stage.complete(slot, calls[2], MS / 10));
    assert_eq!(stage.dispatched(), [(slot, calls[3])]);
}

#[test]
fn the_number_of_slots_and_the_first_runtime_are_those_of_the_start() {
    let mut stage = Stage::new();
    stage.reconfigure(|limits| (limits.slots_max, limits.default_runtime) = (1, RuntimeId(9)));
    assert_eq!(stage.scheduler.limits.slots_max, 8);
    stage.reconfigure(|limits| limits.pool_size = 2);
    assert!(matches!(stage.out[..], [Action::MakeBlank { runtime: RuntimeId(0), .. }, Action::MakeBlank { .. }]));
}
