//! Stalls, timeouts, crashes: what happens to the calls of an instance in trouble.

use super::*;

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
    assert!(stage
        .failed()
        .contains(&(slow, InvokeError::TimedOut { limit_ms: 5000, set_by: TimeoutSource::Function })));
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

/// They were taken for calls still on their way, and waited for their timeout.
#[test]
fn calls_that_an_instance_took_before_their_turn_end_with_it() {
    let mut stage = Stage::new();
    stage.deploy(1, 0, 1);
    let slot = stage.warm(1, MS / 10);
    let calls: Vec<_> = (0..3).map(|_| stage.submit(1)).collect();
    stage.step(|it, now, out| it.exited(slot, &ExitReason::Unknown, &calls[..2], &calls[2..], now, out));
    let crash = InvokeError::Crashed { exit: ExitReason::Unknown };
    assert_eq!(stage.failed(), [(calls[0], crash.clone()), (calls[1], crash)]);
    stage.ready(stage.asked()[0]);
    assert_eq!(stage.dispatched().iter().map(|&(_, call)| call).collect::<Vec<_>>(), [calls[2]]);
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

/// Each counted for itself, and a function whose sixteen instances were killed at once had none for ten seconds.
#[test]
fn instances_that_die_together_are_one_crash_and_are_made_up_for_at_once() {
    let mut stage = Stage::new();
    stage.deploy(1, 8, 8);
    let slots = stage.asked();
    assert_eq!(slots.len(), 8);
    for &slot in &slots {
        stage.ready(slot);
        stage.loaded(slot);
    }
    stage.later(SECOND);
    let mut fresh = Vec::new();
    for &slot in &slots {
        stage.exit(slot, None, &[]);
        fresh.extend(stage.asked());
    }
    assert_eq!(fresh.len(), 8);
    for &slot in &fresh {
        stage.ready(slot);
        stage.loaded(slot);
    }
    // These came after the crash: that they die too is a crash loop.
    stage.exit(fresh[0], None, &[]);
    assert_eq!(stage.asked(), []);
    stage.later(110 * MS);
    assert_eq!(stage.asked().len(), 1);
}

#[test]
fn an_instance_that_ran_dry_while_it_was_asked_is_asked_again() {
    let mut stage = Stage::new();
    stage.deploy(1, 0, 1);
    let slot = stage.warm(1, MS / 10);
    let (first, second) = (stage.submit(1), stage.submit(1));
    stage.later(12 * MS);
    stage.complete(slot, first, 12 * MS);
    stage.complete(slot, second, MS);
    stage.later(SECOND + 2 * MS);
    assert_eq!(stage.out, [Action::TakeBack { slot }]);
    let waiting = stage.submit(1);
    stage.step(|it, now, out| it.taken_back(slot, &[], now, out));
    assert_eq!(stage.dispatched(), [(slot, waiting)]);
}

#[test]
fn nothing_is_piped_behind_a_call_that_has_shown_to_be_slow() {
    let mut stage = Stage::new();
    stage.deploy(1, 0, 1);
    stage.warm(1, MS / 10);
    stage.submit(1);
    stage.now += 2 * MS;
    stage.submit(1);
    assert_eq!(stage.dispatched(), []);
}

#[test]
fn what_is_wrong_with_a_function_is_told_until_it_works_again() {
    let mut stage = Stage::new();
    stage.deploy(1, 1, 1);
    let told = |stage: &Stage| {
        let trouble = stage.scheduler.trouble_of_version(VersionKey(1))?;
        Some((trouble.start_failures, trouble.crashes, trouble.backoff_until_ns, trouble.error.clone()))
    };
    let mut slot = stage.asked()[0];
    stage.ready(slot);
    assert_eq!(told(&stage), None);
    stage.step(|it, now, out| it.loaded(slot, Err(load_error()), now, out));
    assert_eq!(told(&stage), Some((1, 0, Some(100 * MS), load_error())));
    stage.exit(slot, None, &[]);
    stage.later(110 * MS);
    assert_eq!(told(&stage), Some((1, 0, None, load_error())), "the pause is over, the trouble is not");
    slot = stage.asked()[0];
    stage.ready(slot);
    stage.loaded(slot);
    assert_eq!(told(&stage), None);
    stage.exit(slot, None, &[]);
    let crash = InvokeError::Crashed { exit: ExitReason::Signal(9) };
    assert_eq!(told(&stage), Some((0, 1, None, crash.clone())));
    slot = stage.asked()[0];
    stage.ready(slot);
    stage.loaded(slot);
    assert_eq!(told(&stage), Some((0, 1, None, crash)), "it loads, and may yet crash");
    let call = stage.submit(1);
    assert!(stage.complete(slot, call, MS));
    assert_eq!(told(&stage), None);
}
