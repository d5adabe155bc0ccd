//! Too little room for all: of places, and of slots.

use super::*;

/// A stage with so many slots and functions 1, 2 and 3 that may have as many instances as they like.
fn crowded(slots_max: usize) -> Stage {
    let mut stage = Stage::with(SchedulerLimits { slots_max, pool_size: 0, ..SchedulerLimits::default() });
    for key in 1..=3 {
        let policy = FunctionPolicy { timeout_ns: 60 * SECOND, ..policy(0, 9) };
        stage.step(|it, now, out| it.deploy(VersionKey(key), policy, None, now, out));
    }
    stage
}

/// Has calls of function 1 run in these many instances, slow ones, and as many more calls wait.
fn flooded(slots_max: usize, instances: u32) -> (Stage, Vec<(Slot, InvocationId)>) {
    let mut stage = crowded(slots_max);
    let calls: Vec<_> = (0..2 * instances).map(|_| stage.submit(1)).collect();
    let running = (0..instances).map(|index| start(&mut stage, index)).zip(calls).collect();
    (stage, running)
}

/// Lets the blank that is being made in a slot become an instance.
fn start(stage: &mut Stage, index: u32) -> Slot {
    let slot = stage.scheduler.slots.slot(index);
    stage.ready(slot);
    stage.loaded(slot);
    slot
}

fn live(stage: &Stage, key: u64) -> u32 {
    let at = stage.scheduler.versions.find(VersionKey(key)).unwrap();
    stage.scheduler.versions.items[at as usize].tally.live()
}

#[test]
fn one_flood_leaves_a_quarter_of_the_places_to_others() {
    let mut stage =
        Stage::with(SchedulerLimits { slots_max: 2, pool_size: 0, invocations_max: 8, ..SchedulerLimits::default() });
    for key in [1, 2, 3] {
        stage.deploy(key, 0, 1);
    }
    let flood: Vec<_> = (0..6).map(|_| stage.submit(1)).collect();
    assert_eq!(stage.refused(1), InvokeError::ShareExceeded { held: 6, limit: 8, retry_after_s: 1 });
    stage.submit(2);
    stage.submit(3);
    assert_eq!(stage.refused(3), InvokeError::Overloaded { limit: 8, retry_after_s: 1 });
    flood[1..4].iter().for_each(|&call| stage.step(|it, now, out| it.cancel(call, now, out)));
    stage.submit(1);
}

#[test]
fn alone_a_function_may_have_a_small_server_to_its_last_place() {
    let mut stage =
        Stage::with(SchedulerLimits { slots_max: 1, pool_size: 0, invocations_max: 3, ..SchedulerLimits::default() });
    stage.deploy(1, 0, 1);
    (0..3).for_each(|_| {
        stage.submit(1);
    });
    assert_eq!(stage.refused(1), InvokeError::Overloaded { limit: 3, retry_after_s: 1 });
}

/// It waited until something else happened.
#[test]
fn what_becomes_idle_makes_room_at_once_for_a_function_that_waits() {
    let mut stage = crowded(1);
    let call = stage.submit(1);
    let slot = start(&mut stage, 0);
    stage.submit(2);
    assert_eq!(stage.killed(), []);
    assert!(stage.complete(slot, call, 20 * MS));
    assert_eq!(stage.killed(), [(slot, KillReason::Evicted)]);
}

#[test]
fn a_flood_gives_the_instance_that_completes_first_to_a_function_that_has_none() {
    let (mut stage, running) = flooded(3, 3);
    let waiting = stage.submit(2);
    assert_eq!((stage.killed(), stage.asked()), (vec![], vec![]), "nobody is cut short");
    let (slot, call) = running[1];
    assert!(stage.complete(slot, call, 20 * MS));
    assert_eq!((stage.killed(), stage.dispatched()), (vec![(slot, KillReason::Yielded)], vec![]));
    let (other, call) = running[2];
    assert!(stage.complete(other, call, 20 * MS));
    assert_eq!(stage.killed(), [], "one is enough");
    stage.exit(slot, None, &[]);
    start(&mut stage, 1);
    let again = stage.scheduler.slots.slot(1);
    assert_eq!(
        stage.scheduler.stats_of_instance(again).unwrap().version,
        VersionKey(2),
        "it goes to who waited for it"
    );
    assert!(stage.complete(again, waiting, 20 * MS));
    assert_eq!((live(&stage, 1), live(&stage, 2)), (2, 1));
}

#[test]
fn functions_that_are_equal_or_differ_by_one_leave_each_other_alone() {
    let mut stage = crowded(5);
    let mut running = Vec::new();
    for (index, key) in [1, 1, 1, 2, 2].into_iter().enumerate() {
        let call = stage.submit(key);
        running.push((start(&mut stage, index as u32), call));
    }
    (0..40).for_each(|n| {
        stage.submit(1 + n % 2);
    });
    for _ in 0..3 {
        for (slot, call) in &mut running {
            stage.now += 2 * SECOND;
            assert!(stage.complete(*slot, *call, 20 * MS));
            assert_eq!(stage.killed(), []);
            *call = stage.dispatched()[0].1;
        }
    }
    assert_eq!((live(&stage, 1), live(&stage, 2)), (3, 2));
}

#[test]
fn shares_become_equal_one_instance_after_another() {
    let (mut stage, mut running) = flooded(6, 6);
    (0..30).for_each(|n| {
        stage.submit(1 + n % 2);
    });
    for round in 0..30 {
        let (slot, call) = running.remove(0);
        assert!(stage.complete(slot, call, 20 * MS), "round {round}");
        match stage.dispatched().first() {
            Some(&(to, next)) => running.push((to, next)),
            None => {
                stage.exit(slot, None, &[]);
                stage.ready(stage.scheduler.slots.slot(slot.index));
                let next = stage.dispatched()[0];
                stage.loaded(next.0);
                running.push(next);
            }
        }
    }
    assert_eq!((live(&stage, 1), live(&stage, 2)), (3, 3));
}

#[test]
fn with_fewer_slots_than_functions_they_take_turns() {
    let (mut stage, running) = flooded(1, 1);
    (0..9).for_each(|_| {
        stage.submit(1);
    });
    let waiting = stage.submit(2);
    let (slot, call) = running[0];
    stage.now += SECOND / 2;
    assert!(stage.complete(slot, call, SECOND / 2));
    let (_, next) = stage.dispatched()[0];
    assert_eq!(stage.killed(), [], "it had no second yet");
    stage.now += SECOND;
    assert!(stage.complete(slot, next, SECOND));
    assert_eq!(stage.killed(), [(slot, KillReason::Yielded)]);
    stage.exit(slot, None, &[]);
    let slot = start(&mut stage, 0);
    stage.now += 2 * SECOND;
    assert!(stage.complete(slot, waiting, SECOND));
    assert_eq!(stage.killed(), [(slot, KillReason::Yielded)], "and back again");
}

#[test]
fn what_min_instances_keeps_is_not_given_away() {
    let mut stage = Stage::with(SchedulerLimits { slots_max: 2, pool_size: 0, ..SchedulerLimits::default() });
    stage.deploy(1, 2, 4);
    stage.deploy(2, 0, 4);
    start(&mut stage, 0);
    start(&mut stage, 1);
    let running: Vec<_> = (0..2)
        .map(|_| {
            stage.submit(1);
            stage.dispatched()[0]
        })
        .collect();
    (0..2).for_each(|_| {
        stage.submit(1);
    });
    stage.submit(2);
    stage.now += 2 * SECOND;
    for (slot, call) in running {
        assert!(stage.complete(slot, call, 20 * MS));
        assert_eq!((stage.killed().len(), stage.dispatched().len()), (0, 1));
    }
}

#[test]
fn an_instance_that_yields_finishes_its_pipe_first() {
    let mut stage = crowded(2);
    let first = stage.submit(1);
    let (fast, _) = (start(&mut stage, 0), stage.submit(1));
    let slow = start(&mut stage, 1);
    assert!(stage.complete(fast, first, MS / 10));
    let piped: Vec<_> = (0..3).map(|_| stage.submit(1)).collect();
    stage.submit(2);
    assert!(stage.complete(fast, piped[0], MS / 10));
    let draining = stage.scheduler.instance_stats().find(|it| it.draining).expect("one drains");
    assert_eq!((draining.slot, stage.killed()), (fast, vec![]));
    let _ = slow;
    stage.submit(1);
    assert!(stage.dispatched().iter().all(|&(to, _)| to != fast), "it is given nothing more");
    let left: Vec<_> = piped[1..]
        .iter()
        .copied()
        .filter(|&call| {
            stage.scheduler.calls.find(call).is_some_and(|at| stage.scheduler.calls.items[at as usize].is_with(fast))
        })
        .collect();
    for (n, &call) in left.iter().enumerate() {
        assert!(stage.complete(fast, call, MS / 10));
        assert_eq!(stage.killed().is_empty(), n + 1 < left.len());
    }
}

#[test]
fn a_free_slot_goes_to_the_neediest_of_all_runtimes() {
    let (mut stage, running) = flooded(2, 2);
    let policy = FunctionPolicy { runtime: RuntimeId(7), ..policy(0, 4) };
    stage.step(|it, now, out| it.deploy(VersionKey(7), policy, None, now, out));
    stage.submit(7);
    let (slot, call) = running[0];
    assert!(stage.complete(slot, call, 20 * MS));
    stage.exit(slot, None, &[]);
    assert!(matches!(stage.out[..], [Action::MakeBlank { runtime: RuntimeId(7), .. }]), "{:?}", stage.out);
}

#[test]
fn a_function_with_less_keeps_what_it_has_just_used_for_a_while() {
    let mut stage = crowded(3);
    let call = stage.submit(2);
    let small = start(&mut stage, 0);
    let flood: Vec<_> = (0..4).map(|_| stage.submit(1)).collect();
    let big = [start(&mut stage, 1), start(&mut stage, 2)];
    assert!(stage.complete(small, call, 20 * MS));
    assert_eq!(stage.killed(), [], "its next call may be on its way");
    let call = stage.submit(2);
    assert_eq!(stage.dispatched(), [(small, call)]);
    assert!(stage.complete(small, call, 20 * MS));
    stage.later(SECOND - 2 * MS);
    assert_eq!(stage.killed(), []);
    stage.later(4 * MS);
    assert_eq!(stage.killed(), [(small, KillReason::Evicted)]);
    assert!(big.iter().zip(flood).all(|(&slot, call)| stage.complete(slot, call, 20 * MS)));
}
