//! Instances that are replaced after a number of calls.

use super::*;

#[test]
fn an_instance_is_given_so_many_calls_and_ends_when_it_has_answered_them() {
    let mut stage = Stage::new();
    stage.deploy_worn(1, 0, 2, 3);
    let slot = stage.warm(1, 20 * MS);
    let second = stage.submit(1);
    assert!(stage.complete(slot, second, 20 * MS));
    assert_eq!(stage.killed(), []);
    let last = stage.submit(1);
    assert_eq!(stage.dispatched(), [(slot, last)]);
    assert!(stage.complete(slot, last, 20 * MS));
    assert_eq!(stage.killed(), [(slot, KillReason::Worn)]);
    assert!(KillReason::Worn.is_idle(), "its exit handlers run");
    stage.submit(1);
    assert_eq!((stage.dispatched().len(), stage.asked().len()), (0, 1), "the next call gets another instance");
}

#[test]
fn a_pipe_is_not_filled_beyond_what_the_instance_may_have() {
    let mut stage = Stage::new();
    stage.deploy_worn(1, 0, 1, 3);
    let slot = stage.warm(1, MS / 100);
    let calls: Vec<_> = (0..2).map(|_| stage.submit(1)).collect();
    stage.submit(1);
    assert_eq!(stage.dispatched(), [], "it is fast, and has been given its three");
    assert!(stage.complete(slot, calls[0], MS / 100));
    assert_eq!((stage.dispatched(), stage.killed()), (vec![], vec![]), "what is in its pipe is finished first");
    assert!(stage.complete(slot, calls[1], MS / 100));
    assert_eq!(stage.killed(), [(slot, KillReason::Worn)]);
}

#[test]
fn what_keeps_the_minimum_starts_while_the_worn_instance_still_works() {
    let mut stage = Stage::new();
    stage.deploy_worn(1, 1, 2, 1);
    let first = stage.asked()[0];
    stage.ready(first);
    stage.loaded(first);
    let call = stage.submit(1);
    assert_eq!(stage.dispatched(), [(first, call)]);
    let second = stage.asked()[0];
    stage.ready(second);
    stage.loaded(second);
    assert!(stage.complete(first, call, MS));
    assert_eq!(stage.killed(), [(first, KillReason::Worn)]);
    let next = stage.submit(1);
    assert_eq!(stage.dispatched(), [(second, next)], "no call waits for a start");
}

#[test]
fn with_room_for_one_instance_its_successor_starts_when_it_is_gone() {
    let mut stage = Stage::new();
    stage.deploy_worn(1, 1, 1, 1);
    let first = stage.asked()[0];
    stage.ready(first);
    stage.loaded(first);
    let call = stage.submit(1);
    let waiting = stage.submit(1);
    assert!(stage.complete(first, call, MS));
    assert_eq!((stage.killed(), stage.asked()), (vec![(first, KillReason::Worn)], vec![]));
    stage.exit(first, None, &[]);
    let second = stage.asked()[0];
    stage.ready(second);
    assert_eq!(stage.dispatched(), [(second, waiting)]);
}

#[test]
fn calls_that_come_back_unbegun_do_not_count() {
    let mut stage = Stage::new();
    stage.deploy_worn(1, 0, 1, 3);
    let slot = stage.warm(1, MS / 100);
    let (slow, behind) = (stage.submit(1), stage.submit(1));
    assert_eq!(stage.dispatched(), [(slot, behind)]);
    stage.later(11 * MS);
    assert_eq!(stage.out, [Action::TakeBack { slot }]);
    stage.step(|it, now, out| it.taken_back(slot, &[behind], now, out));
    assert!(stage.complete(slot, slow, 11 * MS));
    assert_eq!((stage.killed(), stage.dispatched()), (vec![], vec![(slot, behind)]), "it has one call to give yet");
    assert!(stage.complete(slot, behind, MS));
    assert_eq!(stage.killed(), [(slot, KillReason::Worn)]);
}

#[test]
fn an_instance_that_was_asked_to_stop_stops_although_its_last_calls_come_back() {
    let mut stage = Stage::new();
    stage.deploy_worn(1, 0, 1, 3);
    let slot = stage.warm(1, MS / 100);
    let (slow, behind) = (stage.submit(1), stage.submit(1));
    assert!(stage.step(|it, now, out| it.stop_instance(slot, now, out)));
    stage.later(11 * MS);
    stage.step(|it, now, out| it.taken_back(slot, &[behind], now, out));
    assert!(stage.complete(slot, slow, 11 * MS));
    assert_eq!(stage.killed(), [(slot, KillReason::Requested)]);
}

#[test]
fn a_call_that_waits_long_among_instances_that_come_and_go_is_not_told_of_a_slow_start() {
    let limits =
        SchedulerLimits { cold_start_timeout_ns: SECOND, slots_max: 2, pool_size: 0, ..SchedulerLimits::default() };
    let mut stage = Stage::with(limits);
    stage.deploy_worn(1, 0, 1, 1);
    let mut calls: Vec<_> = (0..4).map(|_| stage.submit(1)).collect();
    let last = calls.pop().unwrap();
    for (n, call) in calls.into_iter().enumerate() {
        let slot = stage.scheduler.slots.slot(n as u32 % 2);
        stage.ready(slot);
        stage.loaded(slot);
        stage.later(400 * MS);
        assert!(stage.complete(slot, call, 400 * MS));
        stage.exit(slot, None, &[]);
    }
    // It has waited for 1.2 s, and at this moment there is no instance.
    stage.later(10 * MS);
    assert_eq!(stage.failed(), []);
    stage.later(SECOND);
    assert_eq!(stage.failed(), [(last, InvokeError::ColdStartTimedOut { limit_ms: 1000 })]);
}

/// The replacement stayed asked for.
#[test]
fn what_stays_because_a_call_came_back_that_nobody_waits_for_is_not_replaced() {
    let mut stage = Stage::new();
    stage.deploy_worn(1, 1, 2, 2);
    let slot = stage.asked()[0];
    stage.ready(slot);
    stage.loaded(slot);
    let warm = stage.submit(1);
    stage.now += MS / 100;
    assert_eq!(stage.scheduler.stats_of_version(VersionKey(1)).unwrap().wanted, 0);
    // The function is not known to be fast before its first answer, so the second call is piped by a known time.
    stage.scheduler.versions.items[0].service_ewma_ns = MS / 100;
    let behind = stage.submit(1);
    assert_eq!(stage.dispatched(), [(slot, behind)]);
    assert_eq!(stage.scheduler.stats_of_version(VersionKey(1)).unwrap().wanted, 1);
    stage.later(11 * MS);
    stage.step(|it, now, out| it.cancel(behind, now, out));
    stage.step(|it, now, out| it.taken_back(slot, &[behind], now, out));
    assert_eq!(stage.scheduler.stats_of_version(VersionKey(1)).unwrap().wanted, 0);
    assert!(stage.complete(slot, warm, 11 * MS));
}
