//! Starts that fail: of a blank, of a function's top-level code.

use super::*;

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
            let error = InvokeError::NoInstances("fork: EAGAIN".into());
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

#[test]
fn a_container_is_given_longer_to_be_ready_than_a_process() {
    let limits = SchedulerLimits { queue_wait_max_ns: 300 * SECOND, pool_size: 0, ..SchedulerLimits::default() };
    let limits = SchedulerLimits { container_pool_size: 0, cold_start_timeout_ns: 300 * SECOND, ..limits };
    for (runtime, limit_s) in [(RuntimeId(0), 10), (RuntimeId::container(0), 45)] {
        let mut stage = Stage::with(limits.clone());
        let policy = FunctionPolicy { runtime, timeout_ns: 300 * SECOND, ..policy(0, 1) };
        stage.step(|it, now, out| it.deploy(VersionKey(1), policy, None, now, out));
        stage.submit(1);
        let slot = stage.asked()[0];
        stage.later(limit_s * SECOND - 2 * MS);
        assert_eq!(stage.killed(), [], "{runtime:?}");
        stage.later(4 * MS);
        assert_eq!(stage.killed(), [(slot, KillReason::BlankTimedOut)], "{runtime:?}");
    }
}

#[test]
fn a_call_waits_for_its_first_instance_no_longer_than_a_start_may_take() {
    let limits = SchedulerLimits { cold_start_timeout_ns: SECOND, ..SchedulerLimits::default() };
    let mut stage = Stage::with(SchedulerLimits { slots_max: 1, pool_size: 0, ..limits });
    stage.deploy(1, 0, 1);
    let call = stage.submit(1);
    stage.later(SECOND - 2 * MS);
    assert_eq!(stage.failed(), []);
    stage.later(4 * MS);
    assert_eq!(stage.failed(), [(call, InvokeError::ColdStartTimedOut { limit_ms: 1000 })]);
}
