//! What adaptive functions keep warm, and start ahead of their calls.

use super::*;

const MINUTE: u64 = 60 * SECOND;

impl Stage {
    fn deploy_adaptive(&mut self, key: u64, old: Option<u64>, min_instances: u32) {
        let policy = FunctionPolicy { idle_ttl: Some(IdleTtl::Adaptive), ..policy(min_instances, 4) };
        self.step(|it, now, out| it.deploy(VersionKey(key), policy, old.map(VersionKey), now, out));
    }

    /// Passes time as it is due, with workers that do at once what they are told.
    fn live(&mut self, by_ns: u64) -> Vec<(Slot, KillReason)> {
        let end = self.now + by_ns;
        let mut killed = Vec::new();
        while let Some(due) = self.scheduler.next_deadline_ns().filter(|&due| due <= end) {
            self.now = self.now.max(due);
            self.step(|it, now, out| it.tick(now, out));
            killed.extend(self.killed());
            self.obey();
        }
        self.now = end;
        killed
    }

    fn obey(&mut self) {
        let mut next = std::mem::take(&mut self.out);
        while !next.is_empty() {
            let (it, now, out) = (&mut self.scheduler, self.now, &mut self.out);
            for action in next {
                match action {
                    Action::MakeBlank { slot, .. } => it.blank_ready(slot, now, out),
                    Action::Assign { slot, .. } => it.loaded(slot, Ok(()), now, out),
                    Action::Kill { slot, .. } => it.exited(slot, &ExitReason::Unknown, &[], &[], now, out),
                    _ => {}
                }
            }
            next = std::mem::take(&mut self.out);
        }
    }

    /// So many calls at the same time, each answered after 50 ms. Returns how many of them were cold.
    fn call(&mut self, key: u64, width: usize) -> usize {
        let mut running = Vec::new();
        let mut cold = 0;
        for _ in 0..width {
            self.step(|it, now, out| it.submit(VersionKey(key), CallTerms::default(), now, out)).unwrap();
            while !self.out.is_empty() {
                running.extend(self.dispatched());
                cold += self.out.iter().filter(|it| matches!(it, Action::Dispatch { cold: true, .. })).count();
                let out = std::mem::take(&mut self.out);
                let mut heard = Vec::new();
                for action in out {
                    match action {
                        Action::MakeBlank { slot, .. } => self.scheduler.blank_ready(slot, self.now, &mut heard),
                        Action::Assign { slot, .. } => self.scheduler.loaded(slot, Ok(()), self.now, &mut heard),
                        _ => {}
                    }
                }
                self.out = heard;
            }
        }
        assert_eq!(running.len(), width);
        self.now += 50 * MS;
        for (slot, call) in running {
            assert!(self.complete(slot, call, 50 * MS));
            self.obey();
        }
        cold
    }

    fn idle(&self, key: u64) -> IdleStats {
        self.scheduler.idle_stats(VersionKey(key)).unwrap()
    }
}

/// An adaptive function that was called every hour for as long as it takes to learn that, just now the last time.
fn hourly(width: usize) -> Stage {
    let mut stage = Stage::new();
    stage.deploy_adaptive(1, None, 0);
    for _ in 0..6 {
        stage.call(1, width);
        stage.live(60 * MINUTE);
    }
    stage.call(1, width);
    stage
}

#[test]
fn while_nothing_is_known_an_adaptive_function_is_kept_like_any_other() {
    let mut stage = Stage::new();
    stage.deploy_adaptive(1, None, 0);
    stage.call(1, 1);
    assert_eq!(stage.live(10 * MINUTE - SECOND), []);
    assert!(matches!(stage.live(2 * SECOND)[..], [(_, KillReason::Expired)]));
    assert_eq!(stage.idle(1).levels[0].basis, IdleBasis::Unsure);
}

#[test]
fn an_hourly_function_is_ended_after_its_call_and_started_before_the_next() {
    let mut stage = hourly(1);
    assert_eq!(stage.idle(1).levels[0].basis, IdleBasis::Histogram);
    assert!(stage.idle(1).levels[0].representative);
    assert!(matches!(stage.live(SECOND)[..], [(_, KillReason::Expired)]));
    stage.live(57 * MINUTE);
    assert_eq!(stage.scheduler.instance_stats().count(), 0);
    stage.live(3 * MINUTE - SECOND);
    assert_eq!(stage.scheduler.instance_stats().count(), 1);
    assert_eq!(stage.call(1, 1), 0);
    let idle = stage.idle(1);
    assert_eq!(idle.prewarmed, idle.prewarmed_used);
}

#[test]
fn what_was_started_ahead_and_not_used_ends_with_its_window_and_is_counted() {
    let mut stage = hourly(1);
    let before = stage.idle(1);
    stage.live(70 * MINUTE);
    let after = stage.idle(1);
    assert_eq!(after.prewarmed, before.prewarmed + 1);
    assert_eq!((after.prewarmed_used, after.prewarmed_wasted), (before.prewarmed_used, 1));
    assert_eq!(stage.scheduler.instance_stats().count(), 0);
}

#[test]
fn as_many_instances_are_started_ahead_as_work_at_once() {
    let mut stage = hourly(3);
    stage.live(60 * MINUTE);
    assert_eq!(stage.scheduler.instance_stats().count(), 3);
    assert_eq!(stage.call(1, 3), 0);
}

#[test]
fn a_new_version_knows_what_the_old_one_learnt() {
    let mut stage = hourly(1);
    stage.deploy_adaptive(2, Some(1), 0);
    stage.obey();
    assert_eq!(stage.idle(2).levels[0].basis, IdleBasis::Histogram);
    stage.live(60 * MINUTE);
    assert_eq!(stage.call(2, 1), 0);
}

#[test]
fn nothing_is_ended_to_start_something_ahead() {
    let mut stage = hourly(1);
    stage.live(30 * MINUTE);
    // Eight slots, all of them taken by another function that is idle.
    let policy = FunctionPolicy { idle_ttl: Some(IdleTtl::AfterNs(3 * 60 * MINUTE)), ..policy(0, 8) };
    stage.step(|it, now, out| it.deploy(VersionKey(2), policy, None, now, out));
    stage.call(2, 8);
    assert_eq!(stage.live(60 * MINUTE), []);
    assert_eq!(stage.idle(1).prewarmed, 1, "that of the last hour it learnt from");
    // Its call is another matter.
    stage.submit(1);
    assert!(matches!(stage.killed()[..], [(_, KillReason::Evicted)]));
}

#[test]
fn the_minimum_is_kept_in_every_mode() {
    let mut stage = Stage::new();
    stage.deploy_adaptive(1, None, 2);
    stage.obey();
    for _ in 0..7 {
        stage.call(1, 3);
        stage.live(60 * MINUTE);
        assert!(stage.scheduler.instance_stats().count() >= 2);
    }
    stage.call(1, 3);
    stage.live(MINUTE);
    assert_eq!(stage.scheduler.instance_stats().count(), 2);
}

#[test]
fn a_start_ahead_that_fails_is_not_tried_again() {
    let mut stage = hourly(1);
    stage.live(SECOND);
    let mut starts = 0;
    let end = stage.now + 70 * MINUTE;
    while let Some(due) = stage.scheduler.next_deadline_ns().filter(|&due| due <= end) {
        stage.now = stage.now.max(due);
        stage.step(|it, now, out| it.tick(now, out));
        while !stage.out.is_empty() {
            let (it, now) = (&mut stage.scheduler, stage.now);
            let mut heard = Vec::new();
            for action in std::mem::take(&mut stage.out) {
                match action {
                    Action::MakeBlank { slot, .. } => it.blank_ready(slot, now, &mut heard),
                    Action::Assign { slot, .. } => {
                        starts += 1;
                        it.loaded(slot, Err(load_error()), now, &mut heard);
                    }
                    Action::Kill { slot, .. } => it.exited(slot, &ExitReason::Unknown, &[], &[], now, &mut heard),
                    _ => {}
                }
            }
            stage.out = heard;
        }
    }
    assert_eq!(starts, 1);
    assert_eq!(stage.idle(1).prewarmed_wasted, 1);
}

#[test]
fn the_mode_can_change_while_the_server_runs() {
    let mut stage = Stage::new();
    stage.deploy(1, 0, 1);
    let slot = stage.warm(1, MS);
    stage.reconfigure(|limits| limits.idle_ttl = IdleTtl::Adaptive);
    assert_eq!(stage.idle(1).ttl, IdleTtl::Adaptive);
    assert_eq!(stage.live(9 * MINUTE), []);
    stage.reconfigure(|limits| limits.idle_ttl = IdleTtl::AfterNs(5 * MINUTE));
    assert_eq!(stage.live(SECOND), [(slot, KillReason::Expired)]);
}
