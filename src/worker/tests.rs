//! A real worker thread with instances that the tests play themselves, over real socket pairs.

use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mio::Events;

use super::fuzzing::function;
use super::*;
use crate::backend::{Custody, Limits};
use crate::limits::WIRE_BODY_PIECE_BYTES_MAX;
use crate::logs::FunctionLogs;
use crate::registry::function::FunctionConfig;
use crate::wire::{self, Direction, Kind};

const PATIENCE: Duration = Duration::from_secs(20);

/// What a fake instance's custody was asked for, and what it says.
#[derive(Debug, Default)]
struct Fate {
    killed: bool,
    buried: bool,
    exit: Option<ExitReason>,
    /// Asks for the exit reason that get none, and after which the end is told a second time.
    asks_in_vain: u32,
    limits_fail: bool,
    /// Limits are set by somebody else, who tells the worker later.
    limits_come_later: bool,
}

#[derive(Debug)]
struct FakeCustody {
    ended: OwnedFd,
    tell_end: OwnedFd,
    fate: Arc<Mutex<Fate>>,
}

impl Custody for FakeCustody {
    fn set_limits(&mut self, _: &FunctionConfig) -> io::Result<Limits> {
        let fate = self.fate.lock().unwrap();
        match (fate.limits_fail, fate.limits_come_later) {
            (true, _) => Err(io::ErrorKind::OutOfMemory.into()),
            (false, true) => Ok(Limits::Awaited),
            (false, false) => Ok(Limits::InForce),
        }
    }

    fn ended(&self) -> BorrowedFd<'_> {
        self.ended.as_fd()
    }

    fn kill(&self) {
        let mut fate = self.fate.lock().unwrap();
        fate.killed = true;
        if fate.exit.is_none() {
            fate.exit = Some(ExitReason::Signal(libc::SIGKILL));
            nix::unistd::write(&self.tell_end, b"x").unwrap();
        }
    }

    fn exit_reason(&mut self) -> Option<ExitReason> {
        let mut fate = self.fate.lock().unwrap();
        if fate.asks_in_vain > 0 {
            fate.asks_in_vain -= 1;
            if fate.asks_in_vain == 0 {
                nix::unistd::write(&self.tell_end, b"x").unwrap();
            }
            return None;
        }
        fate.exit.clone()
    }

    fn bury(self: Box<Self>) {
        self.fate.lock().unwrap().buried = true;
    }
}

/// The test's side of one instance.
struct Fake {
    slot: Slot,
    channel: OwnedFd,
    output: OwnedFd,
    tell_end: OwnedFd,
    fate: Arc<Mutex<Fate>>,
}

impl Fake {
    fn say(&self, kind: Kind, is_last: bool, id: u64, nonce: u64, payload: &[u8]) {
        let mut datagram = Vec::new();
        wire::push_frame(&mut datagram, kind, is_last, id, nonce, payload);
        self.send(&datagram);
    }

    fn send(&self, datagram: &[u8]) {
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = sys::io::send(&self.channel, &[IoSlice::new(datagram)]) {
            assert!(error.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline, "{error}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The next datagram: the kinds of its frames and the id of the first.
    fn receive(&self) -> (Vec<Kind>, u64) {
        sys::io::wait_readable(&self.channel, Instant::now() + PATIENCE).unwrap();
        let mut buffer = vec![0; WIRE_MESSAGE_BYTES_MAX + 1];
        let (length, _) = sys::io::recv(&self.channel, &mut buffer).unwrap();
        let frames: Vec<_> = wire::decode_message(&buffer[..length], Direction::ToInstance).unwrap().collect();
        (frames.iter().map(|frame| frame.kind).collect(), frames[0].id)
    }

    /// Whether nothing has been sent to it that it has not received; also when there is nobody any more who could.
    fn hears_nothing(&self) -> bool {
        match sys::io::recv(&self.channel, &mut [0; 1]) {
            Ok((length, _)) => length == 0,
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        }
    }

    /// Answers a call with an empty 200.
    fn answer(&self, id: u64) {
        let mut head = vec![0; 16];
        head[0] = 200;
        self.say(Kind::Response, true, id, nonce(id), &head);
    }

    fn end(&self, exit: ExitReason) {
        self.fate.lock().unwrap().exit = Some(exit);
        nix::unistd::write(&self.tell_end, b"x").unwrap();
    }
}

fn nonce(id: u64) -> u64 {
    id ^ 0x5a5a
}

/// A worker, and the test in the place of the front.
struct Stage {
    jobs: Line<WorkerJob>,
    desk: Desk<FrontEvent>,
    thread: JoinHandle<()>,
    _logs: FunctionLogs,
    _home: tempfile::TempDir,
}

impl Stage {
    fn new() -> Stage {
        let home = tempfile::tempdir().unwrap();
        let logs = FunctionLogs::start(home.path(), 100, |_| true).unwrap();
        let (front, desk) = line(1024).unwrap();
        let settings = WorkerSettings {
            cpu: None,
            response_bytes_max: Arc::new(AtomicUsize::new(1024 * 1024)),
            pulse: Pulse::unwatched(),
        };
        let (jobs, thread) = start(0, settings, front, logs.sink()).unwrap();
        Stage { jobs, desk, thread, _logs: logs, _home: home }
    }

    fn hatch(&self, index: u32, fate: Fate) -> Fake {
        let slot = Slot { index, generation: 1 };
        let (channel, instance_end) = sys::io::seqpacket_pair().unwrap();
        let (output, output_writer) = sys::io::output_pipe().unwrap();
        let (ended, tell_end) = sys::io::output_pipe().unwrap();
        let fate = Arc::new(Mutex::new(fate));
        let fake = Fake {
            slot,
            channel: instance_end.try_clone().unwrap(),
            output: output_writer,
            tell_end: tell_end.try_clone().unwrap(),
            fate: Arc::clone(&fate),
        };
        let custody = Box::new(FakeCustody { ended, tell_end, fate });
        let instance = Instance { slot, pid: 1, channel, instance_end, output, custody };
        self.jobs.send(WorkerJob::Adopt(Box::new(instance))).unwrap();
        fake
    }

    /// A fake that has its function and waits for calls.
    fn serving(&mut self, index: u32) -> Fake {
        let fake = self.hatch(index, Fate::default());
        fake.say(Kind::Hello, false, 0, 0, br#"{"python":"3.11.7"}"#);
        assert!(matches!(self.event(), FrontEvent::BlankReady { .. }));
        self.jobs.send(WorkerJob::Assign { slot: fake.slot, function: function("pass") }).unwrap();
        assert_eq!(fake.receive().0, [Kind::Assign, Kind::Body]);
        fake.say(Kind::Loaded, false, 0, 0, b"");
        assert!(matches!(self.event(), FrontEvent::Loaded { result: Ok(()), .. }));
        fake
    }

    /// A fake that has been given a function, whose limits are not in force yet.
    fn limiting(&mut self, index: u32) -> Fake {
        let fake = self.hatch(index, Fate { limits_come_later: true, ..Fate::default() });
        fake.say(Kind::Hello, false, 0, 0, br#"{"python":"3.11.7"}"#);
        assert!(matches!(self.event(), FrontEvent::BlankReady { .. }));
        self.jobs.send(WorkerJob::Assign { slot: fake.slot, function: function("pass") }).unwrap();
        fake
    }

    /// Waits until the worker has done what it was asked for.
    fn settle(&mut self) {
        let nobody = Slot { index: u32::MAX, generation: 0 };
        self.jobs.send(WorkerJob::TakeBack { slot: nobody }).unwrap();
        assert!(matches!(self.event(), FrontEvent::TakenBack { slot, .. } if slot == nobody));
    }

    fn limits_set(&self, fake: &Fake, result: Result<(), &str>) {
        let result = result.map_err(str::to_owned);
        self.jobs.send(WorkerJob::LimitsSet { slot: fake.slot, result }).unwrap();
    }

    fn call(&self, fake: &Fake, id: u64, body: usize) {
        let parts =
            wire::RequestParts { method: b"POST", path: b"/", query: b"", request_id: b"test", body_len: body as u64 };
        let head = wire::encode_request_head(&parts, []).unwrap();
        let request = CallRequest { head, body: vec![b'x'; body] };
        let job = WorkerJob::Call { slot: fake.slot, invocation: InvocationId(id), nonce: nonce(id), request };
        self.jobs.send(job).unwrap();
    }

    fn take_back(&mut self, fake: &Fake) -> Vec<u64> {
        self.jobs.send(WorkerJob::TakeBack { slot: fake.slot }).unwrap();
        match self.event() {
            FrontEvent::TakenBack { calls, .. } => ids(&calls),
            other => panic!("{other:?}"),
        }
    }

    /// The next thing that the worker reports.
    fn event(&mut self) -> FrontEvent {
        let deadline = Instant::now() + PATIENCE;
        let mut events = Events::with_capacity(4);
        loop {
            if let Some(event) = self.desk.try_recv() {
                return event;
            }
            assert!(!self.thread.is_finished(), "the worker's thread has ended");
            assert!(Instant::now() < deadline, "the worker says nothing");
            self.desk.wait(&mut events, Some(Duration::from_millis(100))).unwrap();
        }
    }

    fn completed(&mut self) -> u64 {
        match self.event() {
            FrontEvent::Completed { invocation, result: Ok(reply), .. } if reply.status == 200 => invocation.0,
            other => panic!("{other:?}"),
        }
    }

    /// The start of an instance has failed for want of a limit.
    fn assert_refused(&mut self) {
        match self.event() {
            FrontEvent::Loaded { result: Err(InvokeError::NoInstances(failure)), .. } => {
                assert!(failure.reason.starts_with("the limits of its function cannot be set: "), "{failure:?}");
            }
            other => panic!("{other:?}"),
        }
    }

    /// The end of an instance: how, the call that it had begun, those that it had not.
    fn exited(&mut self) -> (ExitReason, Option<u64>, Vec<u64>) {
        match self.event() {
            FrontEvent::Exited { exit, begun, returned, .. } => {
                assert!(begun.len() <= 1, "{begun:?}");
                (exit, begun.first().map(|id| id.0), ids(&returned))
            }
            other => panic!("{other:?}"),
        }
    }

    /// Ends the worker, which fails when it has panicked.
    fn close(self) {
        self.jobs.send(WorkerJob::Shutdown).unwrap();
        self.thread.join().unwrap();
    }
}

fn ids(calls: &[(InvocationId, CallRequest)]) -> Vec<u64> {
    calls.iter().map(|(id, _)| id.0).collect()
}

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
