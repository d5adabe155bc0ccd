//! How many instances and blanks there are.

use super::*;

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
    let policy = FunctionPolicy { runtime: RuntimeId(7), ..policy(0, 1) };
    stage.step(|it, now, out| it.deploy(VersionKey(1), policy, None, now, out));
    stage.submit(1);
    assert_eq!(stage.killed().len(), 1);
    let (freed, _) = stage.killed()[0];
    stage.exit(freed, None, &[]);
    assert!(matches!(stage.out[..], [Action::MakeBlank { runtime: RuntimeId(7), .. }]));
}

#[test]
fn a_pool_of_containers_has_a_size_of_its_own() {
    let image = RuntimeId::container(0);
    let limits = SchedulerLimits { slots_max: 16, pool_size: 5, container_pool_size: 2, ..SchedulerLimits::default() };
    let mut stage = Stage::with(limits);
    assert_eq!(stage.asked().len(), 5, "of the default interpreter");
    let in_containers = |key: u64, runtime: RuntimeId, stage: &mut Stage| {
        let policy = FunctionPolicy { runtime, ..policy(0, 1) };
        stage.step(|it, now, out| it.deploy(VersionKey(key), policy, None, now, out));
        stage.out.iter().all(|it| matches!(it, Action::MakeBlank { runtime: of, .. } if *of == runtime))
    };
    assert!(in_containers(1, image, &mut stage));
    let blanks = stage.asked();
    assert_eq!(blanks.len(), 2);
    blanks.iter().for_each(|&slot| stage.ready(slot));
    // Another function of the same image shares the pool, one of another has its own.
    assert!(in_containers(2, image, &mut stage) && stage.asked().is_empty());
    assert!(in_containers(3, RuntimeId::container(1), &mut stage));
    assert_eq!(stage.asked().len(), 2);
    // A call takes one, and it is made up for.
    let call = stage.submit(1);
    assert_eq!((stage.dispatched(), stage.asked().len()), (vec![(blanks[1], call)], 1));
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

#[test]
fn an_instance_that_loads_for_nobody_counts_as_a_start_for_the_next_call() {
    let mut stage = Stage::new();
    stage.deploy(1, 1, 4);
    let slot = stage.asked()[0];
    stage.ready(slot);
    let call = stage.submit(1);
    assert_eq!(stage.out, []);
    stage.loaded(slot);
    assert_eq!(stage.out, [Action::Dispatch { slot, invocation: call, cold: false }]);
}

#[test]
fn as_much_room_is_made_as_is_needed() {
    let limits = SchedulerLimits { slots_max: 3, pool_size: 0, ..SchedulerLimits::default() };
    let mut stage = Stage::with(limits);
    stage.deploy(1, 0, 3);
    let calls: Vec<_> = (0..3).map(|_| stage.submit(1)).collect();
    let slots: Vec<_> = (0..3).map(|index| stage.scheduler.slots.slot(index)).collect();
    slots.iter().for_each(|&slot| stage.ready(slot));
    slots.iter().for_each(|&slot| stage.loaded(slot));
    for (&slot, &call) in slots.iter().zip(&calls) {
        assert!(stage.complete(slot, call, 20 * MS));
    }
    stage.deploy(2, 0, 2);
    for expected in [1, 1, 0] {
        stage.submit(2);
        assert_eq!(stage.killed().len(), expected);
    }
}

#[test]
fn blanks_go_round_the_functions_that_wait() {
    let mut stage = Stage::new();
    stage.deploy(1, 0, 8);
    stage.deploy(2, 0, 8);
    for version in [1, 1, 1, 2] {
        stage.submit(version);
    }
    let mut served = Vec::new();
    for index in 0..3 {
        stage.ready(stage.scheduler.slots.slot(index));
        served.extend(stage.out.iter().filter_map(|it| match it {
            Action::Assign { version, .. } => Some(version.0),
            _ => None,
        }));
    }
    assert_eq!(served, [1, 2, 1]);
}

#[test]
fn a_slot_that_does_not_come_free_is_not_waited_for() {
    let limits = SchedulerLimits { slots_max: 2, pool_size: 0, ..SchedulerLimits::default() };
    let mut stage = Stage::with(limits);
    stage.deploy(1, 0, 1);
    stage.deploy(2, 0, 1);
    stage.deploy(3, 0, 1);
    let stuck = stage.warm(1, MS);
    stage.now += SECOND;
    let other = stage.warm(2, MS);
    stage.submit(3);
    assert_eq!(stage.killed(), [(stuck, KillReason::Evicted)]);
    stage.later(SECOND + 2 * MS);
    assert_eq!(stage.killed(), [(stuck, KillReason::Evicted), (other, KillReason::Evicted)]);
}
