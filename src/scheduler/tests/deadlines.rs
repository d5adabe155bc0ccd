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
