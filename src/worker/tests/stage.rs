//! A worker with a test in the place of the front and of its instances.

use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mio::Events;

use super::super::fuzzing::function;
use super::super::*;
use crate::backend::{Custody, End, Limits};
use crate::logs::FunctionLogs;
use crate::registry::function::FunctionConfig;
use crate::wire::{self, Direction, Kind};

pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// What a fake instance's custody was asked for, and what it says.
#[derive(Debug, Default)]
pub(super) struct Fate {
    pub(super) killed: bool,
    pub(super) buried: bool,
    pub(super) exit: Option<ExitReason>,
    /// How often it was asked for the end.
    pub(super) asked: u32,
    /// Somebody else is asked for it, and tells the worker.
    pub(super) end_is_told_later: bool,
    /// Asks for the exit reason that get none, and after which the end is told a second time.
    pub(super) asks_in_vain: u32,
    pub(super) limits_fail: bool,
    /// Limits are set by somebody else, who tells the worker later.
    pub(super) limits_come_later: bool,
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

    fn end(&mut self) -> End {
        let mut fate = self.fate.lock().unwrap();
        fate.asked += 1;
        if fate.end_is_told_later {
            return End::Awaited;
        }
        if fate.asks_in_vain > 0 {
            fate.asks_in_vain -= 1;
            if fate.asks_in_vain == 0 {
                nix::unistd::write(&self.tell_end, b"x").unwrap();
            }
            return End::NotYet;
        }
        fate.exit.clone().map_or(End::NotYet, End::Was)
    }

    fn bury(self: Box<Self>) {
        self.fate.lock().unwrap().buried = true;
    }
}

/// The test's side of one instance.
pub(super) struct Fake {
    pub(super) slot: Slot,
    pub(super) channel: OwnedFd,
    pub(super) output: OwnedFd,
    tell_end: OwnedFd,
    pub(super) fate: Arc<Mutex<Fate>>,
}

impl Fake {
    pub(super) fn say(&self, kind: Kind, is_last: bool, id: u64, nonce: u64, payload: &[u8]) {
        let mut datagram = Vec::new();
        wire::push_frame(&mut datagram, kind, is_last, id, nonce, payload);
        self.send(&datagram);
    }

    pub(super) fn send(&self, datagram: &[u8]) {
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = sys::io::send(&self.channel, &[IoSlice::new(datagram)]) {
            assert!(error.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline, "{error}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The next datagram: the kinds of its frames and the id of the first.
    pub(super) fn receive(&self) -> (Vec<Kind>, u64) {
        sys::io::wait_readable(&self.channel, Instant::now() + PATIENCE).unwrap();
        let mut buffer = vec![0; WIRE_MESSAGE_BYTES_MAX + 1];
        let (length, _) = sys::io::recv(&self.channel, &mut buffer).unwrap();
        let frames: Vec<_> = wire::decode_message(&buffer[..length], Direction::ToInstance).unwrap().collect();
        (frames.iter().map(|frame| frame.kind).collect(), frames[0].id)
    }

    /// Whether nothing has been sent to it that it has not received; also when there is nobody any more who could.
    pub(super) fn hears_nothing(&self) -> bool {
        match sys::io::recv(&self.channel, &mut [0; 1]) {
            Ok((length, _)) => length == 0,
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        }
    }

    /// Answers a call with an empty 200.
    pub(super) fn answer(&self, id: u64) {
        let mut head = vec![0; 16];
        head[0] = 200;
        self.say(Kind::Response, true, id, nonce(id), &head);
    }

    pub(super) fn end(&self, exit: ExitReason) {
        self.fate.lock().unwrap().exit = Some(exit);
        nix::unistd::write(&self.tell_end, b"x").unwrap();
    }
}

fn nonce(id: u64) -> u64 {
    id ^ 0x5a5a
}

/// A worker, and the test in the place of the front.
pub(super) struct Stage {
    pub(super) jobs: Line<WorkerJob>,
    desk: Desk<FrontEvent>,
    thread: JoinHandle<()>,
    _logs: FunctionLogs,
    _home: tempfile::TempDir,
}

impl Stage {
    pub(super) fn new() -> Stage {
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

    pub(super) fn hatch(&self, index: u32, fate: Fate) -> Fake {
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
    pub(super) fn serving(&mut self, index: u32) -> Fake {
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
    pub(super) fn limiting(&mut self, index: u32) -> Fake {
        let fake = self.hatch(index, Fate { limits_come_later: true, ..Fate::default() });
        fake.say(Kind::Hello, false, 0, 0, br#"{"python":"3.11.7"}"#);
        assert!(matches!(self.event(), FrontEvent::BlankReady { .. }));
        self.jobs.send(WorkerJob::Assign { slot: fake.slot, function: function("pass") }).unwrap();
        fake
    }

    /// Waits until the worker has done what it was asked for.
    pub(super) fn settle(&mut self) {
        let nobody = Slot { index: u32::MAX, generation: 0 };
        self.jobs.send(WorkerJob::TakeBack { slot: nobody }).unwrap();
        assert!(matches!(self.event(), FrontEvent::TakenBack { slot, .. } if slot == nobody));
    }

    pub(super) fn limits_set(&self, fake: &Fake, result: Result<(), &str>) {
        let result = result.map_err(str::to_owned);
        self.jobs.send(WorkerJob::LimitsSet { slot: fake.slot, result }).unwrap();
    }

    pub(super) fn call(&self, fake: &Fake, id: u64, body: usize) {
        let parts =
            wire::RequestParts { method: b"POST", path: b"/", query: b"", request_id: b"test", body_len: body as u64 };
        let head = wire::encode_request_head(&parts, []).unwrap();
        let request = CallRequest { head, body: vec![b'x'; body] };
        let job = WorkerJob::Call { slot: fake.slot, invocation: InvocationId(id), nonce: nonce(id), request };
        self.jobs.send(job).unwrap();
    }

    pub(super) fn take_back(&mut self, fake: &Fake) -> Vec<u64> {
        self.jobs.send(WorkerJob::TakeBack { slot: fake.slot }).unwrap();
        match self.event() {
            FrontEvent::TakenBack { calls, .. } => ids(&calls),
            other => panic!("{other:?}"),
        }
    }

    /// The next thing that the worker reports.
    pub(super) fn event(&mut self) -> FrontEvent {
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

    pub(super) fn completed(&mut self) -> u64 {
        match self.event() {
            FrontEvent::Completed { invocation, result: Ok(reply), .. } if reply.status == 200 => invocation.0,
            other => panic!("{other:?}"),
        }
    }

    /// The start of an instance has failed for want of a limit.
    pub(super) fn assert_refused(&mut self) {
        match self.event() {
            FrontEvent::Loaded { result: Err(InvokeError::NoInstances(failure)), .. } => {
                assert!(failure.reason.starts_with("the limits of its function cannot be set: "), "{failure:?}");
            }
            other => panic!("{other:?}"),
        }
    }

    /// The end of an instance: how, the call that it had begun, those that it had not.
    pub(super) fn exited(&mut self) -> (ExitReason, Option<u64>, Vec<u64>) {
        match self.event() {
            FrontEvent::Exited { exit, begun, returned, .. } => {
                assert!(begun.len() <= 1, "{begun:?}");
                (exit, begun.first().map(|id| id.0), ids(&returned))
            }
            other => panic!("{other:?}"),
        }
    }

    /// Ends the worker, which fails when it has panicked.
    pub(super) fn close(self) {
        self.jobs.send(WorkerJob::Shutdown).unwrap();
        self.thread.join().unwrap();
    }
}

pub(super) fn ids(calls: &[(InvocationId, CallRequest)]) -> Vec<u64> {
    calls.iter().map(|(id, _)| id.0).collect()
}
