//! A real worker thread with instances that the tests play themselves (`stage`), over real socket pairs. Here is the way
//! of calls and the end of instances, in `limits` what waits for the limits of a function.

mod limits;
mod stage;

use std::io::IoSlice;

use super::*;
use crate::limits::WIRE_BODY_PIECE_BYTES_MAX;
use crate::wire::{self, Kind};

use stage::{ids, Stage, PATIENCE};

#[test]
fn calls_are_answered_in_the_order_of_the_pipe() {
    let mut stage = Stage::new();
    let fake = stage.serving(0);
    for id in 1..=3 {
        stage.call(&fake, id, 10);
    }
    for id in 1..=3 {
        assert_eq!(fake.receive(), (vec![Kind::Request, Kind::Body], id));
        fake.answer(id);
        assert_eq!(stage.completed(), id);
    }
    stage.close();
    assert!(fake.fate.lock().unwrap().buried);
}

#[test]
fn what_was_claimed_stays_and_what_was_not_comes_back_in_its_order() {
    let mut stage = Stage::new();
    let fake = stage.serving(0);
    for id in 1..=4 {
        stage.call(&fake, id, 10);
    }
    assert_eq!(fake.receive().1, 1);
    assert_eq!(stage.take_back(&fake), [2, 3, 4]);
    fake.answer(1);
    assert_eq!(stage.completed(), 1);
    // Even the first, if the instance has not looked at it.
    stage.call(&fake, 5, 10);
    assert_eq!(stage.take_back(&fake), [5]);
    stage.call(&fake, 6, 0);
    assert_eq!(fake.receive(), (vec![Kind::Request], 6));
    fake.answer(6);
    assert_eq!(stage.completed(), 6);
    stage.close();
}

#[test]
fn calls_that_found_no_room_in_the_channel_come_back_too_and_later_ones_are_not_held_up() {
    let mut stage = Stage::new();
    let fake = stage.serving(0);
    for id in 1..=16 {
        stage.call(&fake, id, WIRE_BODY_PIECE_BYTES_MAX);
    }
    assert_eq!(fake.receive().1, 1);
    assert_eq!(stage.take_back(&fake), (2..=16).collect::<Vec<_>>());
    fake.answer(1);
    assert_eq!(stage.completed(), 1);
    stage.call(&fake, 17, WIRE_BODY_PIECE_BYTES_MAX);
    assert_eq!(fake.receive().1, 17);
    fake.answer(17);
    assert_eq!(stage.completed(), 17);
    stage.close();
}

#[test]
fn a_body_beyond_the_channel_s_room_arrives_whole_as_the_instance_takes_it() {
    let mut stage = Stage::new();
    let fake = stage.serving(0);
    let pieces = 64;
    stage.call(&fake, 1, pieces * WIRE_BODY_PIECE_BYTES_MAX);
    assert_eq!(fake.receive(), (vec![Kind::Request, Kind::Body], 1));
    for _ in 1..pieces {
        assert_eq!(fake.receive(), (vec![Kind::Body], 1));
    }
    fake.answer(1);
    assert_eq!(stage.completed(), 1);
    stage.close();
}

#[test]
fn a_crash_fails_the_call_that_ran_and_returns_the_others() {
    let mut stage = Stage::new();
    let fake = stage.serving(0);
    for id in 1..=4 {
        stage.call(&fake, id, 10);
    }
    // The first is answered, and the answer is still in the channel when the end is told.
    assert_eq!((fake.receive().1, fake.receive().1), (1, 2));
    fake.answer(1);
    fake.end(ExitReason::Status(7));
    assert_eq!(stage.completed(), 1);
    assert_eq!(stage.exited(), (ExitReason::Status(7), Some(2), vec![3, 4]));
    // A call that was on its way is given back, once.
    stage.call(&fake, 5, 10);
    assert!(matches!(stage.event(), FrontEvent::TakenBack { calls, .. } if ids(&calls) == [5]));
    stage.close();
}

/// The second was forgotten, and its client waited for its timeout.
#[test]
fn who_takes_two_calls_and_ends_has_begun_both() {
    let mut stage = Stage::new();
    let fake = stage.serving(0);
    for id in 1..=3 {
        stage.call(&fake, id, 10);
    }
    assert_eq!((fake.receive().1, fake.receive().1), (1, 2));
    fake.end(ExitReason::Status(7));
    match stage.event() {
        FrontEvent::Exited { begun, returned, .. } => {
            assert_eq!((begun, ids(&returned)), (vec![InvocationId(1), InvocationId(2)], vec![3]));
        }
        other => panic!("{other:?}"),
    }
    stage.close();
}

#[test]
fn a_large_call_that_was_begun_is_not_returned() {
    let mut stage = Stage::new();
    let fake = stage.serving(0);
    stage.call(&fake, 1, 64 * WIRE_BODY_PIECE_BYTES_MAX);
    assert_eq!(fake.receive().1, 1);
    fake.end(ExitReason::Signal(9));
    assert_eq!(stage.exited(), (ExitReason::Signal(9), Some(1), vec![]));
    stage.close();
}

#[test]
fn who_answers_a_call_that_does_not_run_is_ended_and_nobody_else_is() {
    let mut stage = Stage::new();
    let (liar, honest) = (stage.serving(0), stage.serving(1));
    stage.call(&liar, 1, 10);
    stage.call(&honest, 2, 10);
    liar.answer(2);
    let (exit, begun, returned) = stage.exited();
    assert_eq!((exit, begun.into_iter().chain(returned).collect()), (ExitReason::ProtocolViolation, vec![1]));
    assert_eq!(honest.receive().1, 2);
    honest.answer(2);
    assert_eq!(stage.completed(), 2);
    assert!(!honest.fate.lock().unwrap().killed);
    stage.close();
}

#[test]
fn a_forged_nonce_is_no_answer() {
    let mut stage = Stage::new();
    let fake = stage.serving(0);
    stage.call(&fake, 1, 10);
    assert_eq!(fake.receive().1, 1);
    fake.say(Kind::Response, true, 1, 0xbad, &[200, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(stage.exited(), (ExitReason::ProtocolViolation, Some(1), vec![]));
    stage.close();
}

#[test]
fn a_stop_is_sent_once_and_asked_again_it_kills() {
    let mut stage = Stage::new();
    let fake = stage.serving(0);
    stage.jobs.send(WorkerJob::Stop { slot: fake.slot }).unwrap();
    assert_eq!(fake.receive().0, [Kind::Stop]);
    assert!(!fake.fate.lock().unwrap().killed);
    stage.jobs.send(WorkerJob::Stop { slot: fake.slot }).unwrap();
    assert_eq!(stage.exited(), (ExitReason::Signal(9), None, vec![]));
    stage.close();
}

#[test]
fn an_end_of_which_somebody_tells_is_asked_for_when_it_is_told_and_not_again_and_again() {
    let mut stage = Stage::new();
    let fake = stage.serving(0);
    stage.call(&fake, 1, 10);
    fake.fate.lock().unwrap().end_is_told_later = true;
    fake.end(ExitReason::Status(7));
    let deadline = Instant::now() + PATIENCE;
    while fake.fate.lock().unwrap().asked == 0 {
        assert!(Instant::now() < deadline, "nobody asks how it ended");
        std::thread::sleep(Duration::from_millis(1));
    }
    std::thread::sleep(Duration::from_millis(100));
    stage.settle();
    assert!(fake.fate.lock().unwrap().asked <= 2, "{} times", fake.fate.lock().unwrap().asked);
    fake.fate.lock().unwrap().end_is_told_later = false;
    stage.jobs.send(WorkerJob::EndKnown { slot: fake.slot }).unwrap();
    assert_eq!(stage.exited().0, ExitReason::Status(7));
    // Of one that is gone it may be told all the same.
    stage.jobs.send(WorkerJob::EndKnown { slot: fake.slot }).unwrap();
    stage.close();
}

#[test]
fn an_end_that_is_told_twice_is_reported_once() {
    let mut stage = Stage::new();
    let fake = stage.serving(0);
    fake.fate.lock().unwrap().asks_in_vain = 2;
    fake.end(ExitReason::Status(0));
    assert_eq!(stage.exited(), (ExitReason::Status(0), None, vec![]));
    // The worker is alive, and the place is used again.
    let next = stage.serving(1);
    stage.call(&next, 1, 10);
    assert_eq!(next.receive().1, 1);
    next.answer(1);
    assert_eq!(stage.completed(), 1);
    stage.close();
}

#[test]
fn an_instance_that_keeps_channel_and_output_full_does_not_take_the_worker_for_itself() {
    let mut stage = Stage::new();
    let flood = stage.serving(0);
    let honest = stage.serving(1);
    let stop = std::sync::atomic::AtomicBool::new(false);
    nix::fcntl::fcntl(&flood.output, nix::fcntl::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK)).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let raw = [b'\n'; 4096];
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let _ = nix::unistd::write(&flood.output, &raw);
            }
        });
        scope.spawn(|| {
            let mut empty_lines = Vec::new();
            (0..64).for_each(|_| wire::push_frame(&mut empty_lines, Kind::Log, false, 0, 0, &[0]));
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let _ = sys::io::send(&flood.channel, &[IoSlice::new(&empty_lines)]);
            }
        });
        // It speaks for ever without saying anything: that is held against it like any other excess.
        let mut ended = None;
        for id in 1..=200 {
            stage.call(&honest, id, 10);
            assert_eq!(honest.receive().1, id);
            honest.answer(id);
            match stage.event() {
                FrontEvent::Completed { invocation, .. } => assert_eq!(invocation.0, id),
                FrontEvent::Exited { exit, .. } => {
                    ended = Some(exit);
                    assert_eq!(stage.completed(), id);
                }
                other => panic!("{other:?}"),
            }
        }
        let ended = ended.unwrap_or_else(|| stage.exited().0);
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(ended, ExitReason::ProtocolViolation);
    });
    stage.close();
}
