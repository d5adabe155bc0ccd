//! Limits that cannot be set, or are set by somebody else: until they are in force, nothing of the function is sent.

use super::super::fuzzing::function;
use super::super::*;
use super::stage::{Fate, Stage};
use crate::limits::WIRE_BODY_PIECE_BYTES_MAX;
use crate::wire::Kind;

#[test]
fn limits_that_cannot_be_set_end_the_start_and_the_call_behind_it() {
    let mut stage = Stage::new();
    let fake = stage.hatch(0, Fate { limits_fail: true, ..Fate::default() });
    fake.say(Kind::Hello, false, 0, 0, br#"{"python":"3.11.7"}"#);
    assert!(matches!(stage.event(), FrontEvent::BlankReady { .. }));
    stage.jobs.push(WorkerJob::Assign { slot: fake.slot, function: function("pass") }).unwrap();
    stage.call(&fake, 1, 10);
    stage.assert_refused();
    let (_, begun, returned) = stage.exited();
    assert_eq!((begun, returned), (None, vec![1]));
    stage.close();
}

#[test]
fn a_function_and_its_calls_wait_for_limits_that_are_awaited() {
    let mut stage = Stage::new();
    let fake = stage.limiting(0);
    stage.call(&fake, 1, 10);
    stage.call(&fake, 2, 2 * WIRE_BODY_PIECE_BYTES_MAX);
    stage.settle();
    assert!(fake.hears_nothing());
    stage.limits_set(&fake, Ok(()));
    assert_eq!(fake.receive().0, [Kind::Assign, Kind::Body]);
    fake.say(Kind::Loaded, false, 0, 0, b"");
    assert!(matches!(stage.event(), FrontEvent::Loaded { result: Ok(()), .. }));
    assert_eq!(fake.receive(), (vec![Kind::Request, Kind::Body], 1));
    fake.answer(1);
    assert_eq!(stage.completed(), 1);
    assert_eq!((fake.receive(), fake.receive()), ((vec![Kind::Request, Kind::Body], 2), (vec![Kind::Body], 2)));
    fake.answer(2);
    assert_eq!(stage.completed(), 2);
    stage.close();
}

#[test]
fn limits_that_were_awaited_and_refused_end_the_start_and_nothing_of_the_function_was_sent() {
    let mut stage = Stage::new();
    let fake = stage.limiting(0);
    stage.call(&fake, 1, 10);
    // It lives on for a while, as one does whose end is asked for elsewhere.
    fake.fate.lock().unwrap().exit = Some(ExitReason::Signal(9));
    stage.limits_set(&fake, Err("the engine said 500"));
    stage.assert_refused();
    stage.call(&fake, 2, 10);
    // What comes twice is no permission.
    stage.limits_set(&fake, Ok(()));
    stage.settle();
    assert!(fake.hears_nothing());
    assert!(fake.fate.lock().unwrap().killed);
    fake.end(ExitReason::Signal(9));
    assert_eq!(stage.exited(), (ExitReason::Signal(9), None, vec![1, 2]));
    stage.close();
}

#[test]
fn while_limits_are_awaited_calls_come_back_and_the_function_still_goes() {
    let mut stage = Stage::new();
    let fake = stage.limiting(0);
    for id in 1..=3 {
        stage.call(&fake, id, 10);
    }
    assert_eq!(stage.take_back(&fake), [1, 2, 3]);
    stage.call(&fake, 4, 10);
    stage.limits_set(&fake, Ok(()));
    assert_eq!(fake.receive().0, [Kind::Assign, Kind::Body]);
    fake.say(Kind::Loaded, false, 0, 0, b"");
    assert!(matches!(stage.event(), FrontEvent::Loaded { result: Ok(()), .. }));
    assert_eq!(fake.receive(), (vec![Kind::Request, Kind::Body], 4));
    // Said again, it changes nothing.
    stage.limits_set(&fake, Err("too late"));
    fake.answer(4);
    assert_eq!(stage.completed(), 4);
    assert!(!fake.fate.lock().unwrap().killed);
    stage.close();
}

#[test]
fn who_dies_or_is_killed_while_limits_are_awaited_has_begun_nothing() {
    let mut stage = Stage::new();
    for kill in [false, true] {
        let fake = stage.limiting(0);
        stage.call(&fake, 1, 10);
        stage.settle();
        match kill {
            true => stage.jobs.send(WorkerJob::Kill { slot: fake.slot }).unwrap(),
            false => fake.end(ExitReason::Signal(9)),
        }
        assert_eq!(stage.exited(), (ExitReason::Signal(9), None, vec![1]));
        // The news of the limits finds nobody.
        stage.limits_set(&fake, Ok(()));
        assert!(fake.fate.lock().unwrap().buried);
    }
    stage.close();
}

#[test]
fn a_stop_waits_for_limits_too_and_asked_again_it_kills() {
    let mut stage = Stage::new();
    let (patient, stubborn) = (stage.limiting(0), stage.limiting(1));
    for fake in [&patient, &stubborn] {
        stage.jobs.send(WorkerJob::Stop { slot: fake.slot }).unwrap();
        stage.settle();
        assert!(fake.hears_nothing());
    }
    stage.limits_set(&patient, Ok(()));
    assert_eq!((patient.receive().0, patient.receive().0), (vec![Kind::Assign, Kind::Body], vec![Kind::Stop]));
    stage.jobs.send(WorkerJob::Stop { slot: stubborn.slot }).unwrap();
    assert_eq!(stage.exited(), (ExitReason::Signal(9), None, vec![]));
    assert!(stubborn.hears_nothing() && !patient.fate.lock().unwrap().killed);
    stage.close();
}

#[test]
fn who_claims_to_have_loaded_what_it_was_not_sent_is_ended() {
    let mut stage = Stage::new();
    let fake = stage.limiting(0);
    stage.settle();
    fake.say(Kind::Loaded, false, 0, 0, b"");
    assert_eq!(stage.exited(), (ExitReason::ProtocolViolation, None, vec![]));
    stage.close();
}
