//! The ends of versions, instances and the server.

use super::*;

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
fn a_stopped_instance_that_does_not_end_its_call_is_ended_and_the_calls_behind_it_run_elsewhere() {
    let limits = SchedulerLimits { drain_timeout_ns: SECOND, pool_size: 0, slots_max: 8, ..SchedulerLimits::default() };
    let mut stage = Stage::with(limits);
    stage.deploy(1, 0, 1);
    let slot = stage.warm(1, MS / 10);
    let (running, behind) = (stage.submit(1), stage.submit(1));
    assert!(stage.step(|it, now, out| it.stop_instance(slot, now, out)));
    stage.later(SECOND / 2);
    // Asked again, it gets no other second.
    assert!(stage.step(|it, now, out| it.stop_instance(slot, now, out)));
    assert_eq!((stage.killed(), stage.failed()), (vec![], vec![]));
    stage.later(SECOND / 2 + 2 * MS);
    assert_eq!(stage.failed(), [(running, InvokeError::InstanceStopped { limit_ms: 1000 })]);
    assert_eq!(stage.killed(), [(slot, KillReason::DrainTimedOut)]);
    stage.exit(slot, Some(running), &[behind]);
    let fresh = stage.asked()[0];
    stage.ready(fresh);
    assert_eq!((stage.dispatched(), stage.failed()), (vec![(fresh, behind)], vec![]));
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
    stage.step(|it, now, out| it.shutdown(SECOND, now, out));
    assert_eq!(stage.killed(), []);
    // It had been sent in time, behind another on the same connection.
    let second = stage.submit(1);
    assert!(stage.complete(slot, call, MS));
    assert_eq!((stage.dispatched(), stage.killed()), (vec![(slot, second)], vec![]));
    assert!(stage.complete(slot, second, MS));
    assert_eq!(stage.killed(), [(slot, KillReason::Shutdown)]);
    assert!(!stage.scheduler.is_drained());
    stage.exit(slot, None, &[]);
    assert!(stage.scheduler.is_drained());
    // And one for which an instance has to start.
    let third = stage.submit(1);
    let slot = stage.asked()[0];
    stage.ready(slot);
    stage.loaded(slot);
    assert!(stage.complete(slot, third, MS));
    assert_eq!(stage.killed(), [(slot, KillReason::Shutdown)]);
    stage.exit(slot, None, &[]);
    assert!(stage.scheduler.is_drained());
}

#[test]
fn a_server_that_winds_down_keeps_nothing_warm_and_gives_calls_all_their_time() {
    let mut stage = Stage::with(SchedulerLimits { pool_size: 0, ..SchedulerLimits::default() });
    let [idle, busy] = [1, 2].map(|function| {
        stage.deploy(function, 1, 1);
        let slot = stage.asked()[0];
        stage.ready(slot);
        stage.loaded(slot);
        slot
    });
    let running = stage.submit(2);
    assert_eq!(stage.dispatched(), [(busy, running)]);
    stage.step(|it, now, out| it.wind_down(now, out));
    assert_eq!(stage.killed(), [(idle, KillReason::Shutdown)], "whatever min_instances says");
    // Within the function's timeout.
    stage.later(500 * MS);
    assert_eq!((stage.failed(), stage.killed()), (vec![], vec![]));
    assert!(stage.complete(busy, running, 500 * MS));
    assert_eq!(stage.killed(), [(busy, KillReason::Shutdown)]);
    // A signal that comes all the same has its grace from then on.
    stage.step(|it, now, out| it.shutdown(SECOND, now, out));
    stage.later(SECOND + 2 * MS);
    assert_eq!(stage.refused(1), InvokeError::ShuttingDown);
}

#[test]
fn what_outlasts_the_shutdown_grace_is_ended_and_nothing_comes_after_it() {
    let limits =
        SchedulerLimits { pool_size: 0, slots_max: 2, shutdown_grace_ns: 2 * SECOND, ..SchedulerLimits::default() };
    let mut stage = Stage::with(limits);
    stage.deploy(1, 0, 1);
    let slot = stage.warm(1, 20 * MS);
    let (running, queued) = (stage.submit(1), stage.submit(1));
    stage.step(|it, now, out| it.shutdown(SECOND, now, out));
    stage.later(SECOND + 2 * MS);
    let failed = stage.failed();
    let error = InvokeError::CutShort { limit_ms: 2000 };
    assert!([running, queued].iter().all(|&call| failed.contains(&(call, error.clone()))));
    assert_eq!(stage.killed(), [(slot, KillReason::Shutdown)]);
    assert_eq!(stage.refused(1), InvokeError::ShuttingDown);
}

#[test]
fn a_replaced_version_loses_its_idle_instances_at_once() {
    let mut stage = Stage::new();
    stage.deploy(1, 0, 1);
    let slot = stage.warm(1, MS);
    stage.replace(2, Some(1), 0, 1);
    assert_eq!(stage.killed(), [(slot, KillReason::Outdated)]);
}

#[test]
fn a_replaced_version_loses_what_still_loads_for_a_call_whose_time_is_up() {
    let cold_start_timeout_ns = 60 * SECOND;
    for is_over_before in [true, false] {
        let limits =
            SchedulerLimits { slots_max: 8, pool_size: 0, cold_start_timeout_ns, ..SchedulerLimits::default() };
        let mut stage = Stage::with(limits);
        stage.deploy(1, 0, 1);
        let call = stage.submit(1);
        let slot = stage.asked()[0];
        stage.ready(slot);
        if is_over_before {
            stage.later(5 * SECOND + 2 * MS);
            assert_eq!((stage.failed().len(), stage.killed().len()), (1, 0), "it may serve who comes next");
            stage.replace(2, Some(1), 0, 1);
        } else {
            stage.replace(2, Some(1), 0, 1);
            assert_eq!(stage.killed(), [], "somebody waits for it");
            stage.later(5 * SECOND + 2 * MS);
            assert_eq!(stage.failed()[0].0, call);
        }
        assert_eq!(stage.killed(), [(slot, KillReason::Outdated)]);
        stage.exit(slot, None, &[]);
        assert!(stage.out.contains(&Action::Drained { version: VersionKey(1) }), "{:?}", stage.out);
    }
}

#[test]
fn calls_keep_their_order_when_their_version_is_replaced() {
    let mut stage = Stage::new();
    stage.deploy(1, 0, 1);
    let calls: Vec<_> = (0..3).map(|_| stage.submit(1)).collect();
    stage.replace(2, Some(1), 0, 1);
    let slot = stage.scheduler.slots.slot(0);
    stage.ready(slot);
    assert_eq!(stage.dispatched(), [(slot, calls[0])]);
    stage.loaded(slot);
    for pair in calls.windows(2) {
        assert!(stage.complete(slot, pair[0], 20 * MS));
        assert_eq!(stage.dispatched(), [(slot, pair[1])]);
    }
}
