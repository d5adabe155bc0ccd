//! The one deadline of a call, the wait for an instance, and what each is told that ran into one.

use super::*;

#[test]
fn a_callers_timeout_shortens_the_deadline_and_never_lengthens_it() {
    use TimeoutSource::{Caller, Function};
    for (asked, limit_ms, set_by) in
        [(2 * SECOND, 2000, Caller), (5 * SECOND, 5000, Function), (u64::MAX, 5000, Function)]
    {
        let mut stage = Stage::new();
        stage.deploy(1, 0, 1);
        stage.warm(1, 20 * MS);
        let running = stage.submit_within(1, asked);
        stage.later((limit_ms - 2) * MS);
        assert_eq!(stage.failed(), [], "{asked}");
        stage.later(4 * MS);
        assert_eq!(stage.failed(), [(running, InvokeError::TimedOut { limit_ms, set_by })], "{asked}");
    }
}

#[test]
fn a_call_that_its_caller_gave_up_runs_on_and_no_longer_than_its_function_may() {
    let mut stage = Stage::new();
    stage.deploy(1, 0, 1);
    let slot = stage.warm(1, 20 * MS);
    let call = stage.submit_within(1, SECOND);
    stage.later(SECOND + 2 * MS);
    assert_eq!((stage.failed().len(), stage.killed()), (1, vec![]));
    assert!(!stage.complete(slot, call, SECOND), "nobody waits for it any more");
    let second = stage.submit_within(1, SECOND);
    assert_eq!(stage.dispatched(), [(slot, second)], "the instance is as good as before");
    stage.later(SECOND + 2 * MS);
    stage.later(4 * SECOND);
    assert_eq!((stage.failed(), stage.killed()), (vec![], vec![(slot, KillReason::TimedOut)]));
}

#[test]
fn a_callers_timeout_ends_its_wait_in_the_queue_and_for_a_start() {
    let mut stage = Stage::new();
    stage.deploy(1, 0, 1);
    let starting = stage.submit_within(1, SECOND);
    let queued = stage.submit_within(1, 2 * SECOND);
    stage.ready(stage.scheduler.slots.slot(0));
    let error = |limit_ms| InvokeError::QueueTimedOut { limit_ms, set_by: TimeoutSource::Caller };
    stage.later(SECOND + 2 * MS);
    assert_eq!(stage.failed(), [(starting, error(1000))]);
    stage.later(SECOND);
    assert_eq!((stage.failed(), stage.killed()), (vec![(queued, error(2000))], vec![]));
}

/// A stage on which a call may wait for a second, with functions that may take a minute.
fn impatient_stage(slots_max: usize) -> Stage {
    let limits = SchedulerLimits { queue_wait_max_ns: SECOND, slots_max, pool_size: 0, ..SchedulerLimits::default() };
    let mut stage = Stage::with(limits);
    for key in [1, 2] {
        let policy = FunctionPolicy { timeout_ns: 60 * SECOND, ..policy(0, 2) };
        stage.step(|it, now, out| it.deploy(VersionKey(key), policy, None, now, out));
    }
    stage
}

#[test]
fn a_call_waits_for_an_instance_no_longer_than_it_may_and_is_told_what_there_was_too_little_of() {
    // Two instances are all that the function may have; or all that the server may, and the other function has them; or
    // there is room, and the blank does not come.
    let shortages = [
        (8, 1, Shortage::OfFunction { max_instances: 2 }, 3),
        (2, 2, Shortage::OfServer { max_instances: 2, kept: 0 }, 2),
        (8, 2, Shortage::OfStarts, 1),
    ];
    for (slots_max, key, shortage, retry_after_s) in shortages {
        let mut stage = impatient_stage(slots_max);
        let running: Vec<_> = (0..2).map(|_| stage.submit(1)).collect();
        for index in 0..2 {
            let slot = stage.scheduler.slots.slot(index);
            stage.ready(slot);
            stage.loaded(slot);
        }
        (stage.scheduler.service_ewma_ns, stage.scheduler.versions.items[0].service_ewma_ns) = (SECOND, 2 * SECOND);
        let waiting = stage.submit(key);
        stage.later(SECOND - 2 * MS);
        assert_eq!(stage.failed(), [], "{shortage:?}");
        stage.later(4 * MS);
        let error = InvokeError::WaitedTooLong { limit_ms: 1000, shortage, retry_after_s };
        assert_eq!(stage.failed(), [(waiting, error)], "{shortage:?}");
        assert!(running.iter().all(|&call| stage.scheduler.calls.find(call).is_some()), "those that run, run on");
    }
}

#[test]
fn a_call_that_finds_every_place_kept_for_the_minimum_of_others_is_told_so() {
    let mut stage = impatient_stage(2);
    stage.replace(3, Some(1), 3, 3);
    for index in 0..2 {
        let slot = stage.scheduler.slots.slot(index);
        stage.ready(slot);
        stage.loaded(slot);
    }
    let waiting = stage.submit(2);
    stage.later(SECOND + 2 * MS);
    let shortage = Shortage::OfServer { max_instances: 2, kept: 2 };
    let error = InvokeError::WaitedTooLong { limit_ms: 1000, shortage, retry_after_s: 1 };
    assert_eq!(stage.failed(), [(waiting, error)]);
    stage.replace(4, Some(3), 1, 1);
    assert_eq!(stage.scheduler.kept(), 1, "a version that was replaced keeps nothing");
    stage.step(|it, now, out| it.remove(VersionKey(4), now, out));
    assert_eq!(stage.scheduler.kept(), 0);
}

#[test]
fn a_call_that_has_an_instance_may_take_as_long_as_its_function_may() {
    let mut stage = impatient_stage(4);
    let starting = stage.submit(1);
    let slot = stage.asked()[0];
    stage.later(SECOND / 2);
    stage.ready(slot);
    assert_eq!(stage.dispatched(), [(slot, starting)]);
    stage.later(2 * SECOND);
    stage.loaded(slot);
    stage.later(10 * SECOND);
    assert_eq!(stage.failed(), []);
    assert!(stage.complete(slot, starting, 10 * SECOND));
}

#[test]
fn a_call_that_comes_back_from_a_pipe_has_waited_since_it_was_accepted() {
    let mut stage = impatient_stage(1);
    let slot = stage.warm(1, MS / 10);
    let (slow, behind) = (stage.submit(1), stage.submit(1));
    assert_eq!(stage.dispatched(), [(slot, behind)]);
    stage.later(SECOND / 2);
    stage.step(|it, now, out| it.taken_back(slot, &[behind], now, out));
    stage.later(SECOND / 2 + 2 * MS);
    assert_eq!(stage.failed().iter().map(|&(call, _)| call).collect::<Vec<_>>(), [behind]);
    assert!(stage.complete(slot, slow, SECOND));
}

#[test]
fn the_error_names_the_limit_that_came_first() {
    for (wait_s, cold_s, timeout_s, expected) in [
        (2, 30, 1, "QueueTimedOut"),
        (1, 30, 2, "WaitedTooLong"),
        (1, 30, 1, "WaitedTooLong"),
        (2, 1, 3, "ColdStartTimedOut"),
        (1, 1, 1, "ColdStartTimedOut"),
    ] {
        let limits = SchedulerLimits {
            queue_wait_max_ns: wait_s * SECOND,
            cold_start_timeout_ns: cold_s * SECOND,
            slots_max: 2,
            pool_size: 0,
            ..SchedulerLimits::default()
        };
        let mut stage = Stage::with(limits);
        let policy = FunctionPolicy { timeout_ns: timeout_s * SECOND, ..policy(0, 1) };
        stage.step(|it, now, out| it.deploy(VersionKey(1), policy, None, now, out));
        stage.submit(1);
        stage.later(SECOND + 2 * MS);
        let named = stage.failed().iter().any(|(_, error)| format!("{error:?}").starts_with(expected));
        assert!(named, "{expected}: {:?}", stage.failed());
    }
}

#[test]
fn a_call_that_nobody_could_start_an_instance_for_is_not_told_of_a_slow_start() {
    let limits =
        SchedulerLimits { cold_start_timeout_ns: SECOND, slots_max: 1, pool_size: 0, ..SchedulerLimits::default() };
    let mut stage = Stage::with(limits);
    for key in [1, 2] {
        let policy = FunctionPolicy { timeout_ns: 60 * SECOND, ..policy(0, 1) };
        stage.step(|it, now, out| it.deploy(VersionKey(key), policy, None, now, out));
    }
    stage.warm(1, MS);
    stage.submit(1);
    let waiting = stage.submit(2);
    stage.later(29 * SECOND);
    assert_eq!(stage.failed(), []);
    stage.later(2 * SECOND);
    let shortage = Shortage::OfServer { max_instances: 1, kept: 0 };
    let error = InvokeError::WaitedTooLong { limit_ms: 30_000, shortage, retry_after_s: 1 };
    assert_eq!(stage.failed(), [(waiting, error)]);
}
