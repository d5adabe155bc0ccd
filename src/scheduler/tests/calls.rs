//! The way of a call from its acceptance to its answer, when nothing goes wrong.

use super::*;

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
    let big = stage.step(|it, now, out| it.submit(VersionKey(1), BIG, now, out)).unwrap();
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
    assert_eq!(stage.refused(1), InvokeError::QueueFull { limit: 2, retry_after_s: 1 });
    stage.submit(2);
    assert_eq!(stage.refused(2), InvokeError::Overloaded { limit: 3, retry_after_s: 1 });
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

#[test]
fn a_steady_load_grows_no_table() {
    let mut stage = Stage::new();
    stage.deploy(1, 0, 1);
    let slot = stage.warm(1, MS / 10);
    let mut sizes = None;
    for round in 0..1000 {
        let calls: Vec<_> = (0..12).map(|_| stage.submit(1)).collect();
        for call in calls {
            stage.now += MS / 10;
            assert!(stage.complete(slot, call, MS / 10), "round {round}");
        }
        let it = &stage.scheduler;
        let now = (it.calls.items.len(), it.timers.capacity());
        assert_eq!(*sizes.get_or_insert(now), now, "round {round}");
    }
}

#[test]
fn a_big_request_that_is_cancelled_no_longer_holds_up_those_behind_it() {
    let mut stage = Stage::new();
    stage.deploy(1, 0, 1);
    let slot = stage.warm(1, MS / 10);
    stage.submit(1);
    let big = stage.step(|it, now, out| it.submit(VersionKey(1), BIG, now, out)).unwrap();
    let behind = stage.submit(1);
    stage.step(|it, now, out| it.cancel(big, now, out));
    assert_eq!(stage.dispatched(), [(slot, behind)]);
}
