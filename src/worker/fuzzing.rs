//! An instance that says anything to its worker, while the server goes on with its own: a whole life, on real sockets.
//!
//! The input is a list of deeds, of which [`Play::step`] has the numbers: those of the server, always allowed ones, and
//! those of the instance, right and wrong. `judge` has what must hold whatever they are.

mod judge;

use std::collections::{BTreeMap, VecDeque};
use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use super::*;
use crate::backend::{Custody, End, Limits};
use crate::fuzzing::Steps;
use crate::limits::{
    FUNCTION_CPU_MILLIS_DEFAULT, FUNCTION_MEMORY_BYTES_DEFAULT, LOG_ENTRY_BYTES_MAX, PIPE_DEPTH_MAX,
    WIRE_BODY_PIECE_BYTES_MAX, WIRE_FRAMES_PER_MESSAGE_MAX,
};
use crate::registry::function::{ExecutionMode, FunctionConfig, Handler, InvocationsMax};
use crate::sandbox::plan::Network;
use crate::wire::{self, Kind, FRAME_HEADER_BYTES};

/// Deeds of one life.
const STEPS_MAX: usize = 96;
/// Text that one life writes in bulk, in bytes: more than a call may log, and not so much that the time goes there.
const BULK_BYTES_MAX: usize = 640 * 1024;
/// Largest body of an answer: small, so that the limit is met.
const ANSWER_BYTES_MAX: usize = 4096;
const SLOT: Slot = Slot { index: 0, generation: 1 };

#[derive(Debug)]
struct FakeCustody {
    ended: OwnedFd,
    is_killed: Arc<AtomicBool>,
    limits_come_later: Arc<AtomicBool>,
}

impl Custody for FakeCustody {
    fn set_limits(&mut self, _: &FunctionConfig) -> io::Result<Limits> {
        Ok(if self.limits_come_later.load(Ordering::Relaxed) { Limits::Awaited } else { Limits::InForce })
    }

    fn ended(&self) -> BorrowedFd<'_> {
        self.ended.as_fd()
    }

    fn kill(&self) {
        self.is_killed.store(true, Ordering::Relaxed);
    }

    fn end(&mut self) -> End {
        End::Was(ExitReason::Signal(libc::SIGKILL))
    }

    fn bury(self: Box<Self>) {}
}

/// What became of one input, so that the tests know that the deeds reach what they are meant to reach.
#[derive(Debug, Default)]
struct Seen {
    completed: usize,
    taken_back: usize,
    violations: usize,
}

/// What has become of limits that were not set at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LimitsFate {
    Awaited,
    Set,
    Refused,
}

/// A worker, the server's other half and the instance, all played by one thread.
struct Play {
    worker: Worker,
    key: usize,
    front: Desk<FrontEvent>,
    /// The instance's end of the channel, and of the output pipe.
    channel: OwnedFd,
    output: OwnedFd,
    is_killed: Arc<AtomicBool>,
    limits_come_later: Arc<AtomicBool>,
    /// Calls in the pipe, as the server gave them: id and nonce.
    pipe: VecDeque<(u64, u64)>,
    /// How often each call has had an end.
    ends: BTreeMap<u64, u32>,
    last_id: u64,
    greeted: bool,
    assigned: bool,
    limits: Option<LimitsFate>,
    loaded: bool,
    stopped: bool,
    /// Frames that the instance has not sent yet.
    draft: Vec<u8>,
    /// What is left of [`BULK_BYTES_MAX`].
    bulk: usize,
    /// Body bytes of the answer that is under way.
    body: Vec<u8>,
    /// How often the share of the log began anew.
    shares: u64,
    logged: u64,
    seen: Seen,
}

impl Play {
    fn new() -> Play {
        let (_, desk) = line(1).expect("a queue");
        let (front_line, front) = line(256).expect("a queue");
        let mut worker =
            Worker::new(desk, front_line, LogSink::to_nobody(), Arc::new(AtomicUsize::new(ANSWER_BYTES_MAX)));
        let (channel, instance_end) = sys::io::seqpacket_pair().expect("a channel");
        let (output, output_writer) = sys::io::output_pipe().expect("a pipe");
        nix::fcntl::fcntl(&output_writer, nix::fcntl::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK)).expect("a pipe");
        let (ended, _) = sys::io::output_pipe().expect("a pipe");
        let is_killed = Arc::new(AtomicBool::new(false));
        let limits_come_later = Arc::new(AtomicBool::new(false));
        let theirs = instance_end.try_clone().expect("a descriptor");
        let custody = Box::new(FakeCustody {
            ended,
            is_killed: Arc::clone(&is_killed),
            limits_come_later: Arc::clone(&limits_come_later),
        });
        worker.take(WorkerJob::Adopt(Box::new(Instance {
            slot: SLOT,
            pid: 1,
            channel,
            instance_end,
            output,
            custody,
        })));
        let key = worker.key(SLOT).expect("it was adopted");
        Play {
            worker,
            key,
            front,
            channel: theirs,
            output: output_writer,
            is_killed,
            limits_come_later,
            pipe: VecDeque::new(),
            ends: BTreeMap::new(),
            last_id: 0,
            greeted: false,
            assigned: false,
            limits: None,
            loaded: false,
            stopped: false,
            draft: Vec::new(),
            bulk: BULK_BYTES_MAX,
            body: Vec::new(),
            shares: 1,
            logged: 0,
            seen: Seen::default(),
        }
    }

    fn step(&mut self, deed: u8, steps: &mut Steps<'_>) {
        match deed % 20 {
            0 => self.say(Kind::Hello, 0, (0, 0), br#"{"python":"3.11.7"}"#),
            1 => self.say(Kind::Loaded, 0, (0, 0), b""),
            2 => self.assign(Limits::InForce),
            3 => self.call(steps.byte()),
            4 => self.receive(),
            5 => self.answer(usize::from(steps.byte()), steps.byte()),
            6 => {
                self.worker.take(WorkerJob::TakeBack { slot: SLOT });
                self.hear_front(&mut VecDeque::new());
            }
            7 => self.draft_frame(steps),
            8 => {
                let datagram = std::mem::take(&mut self.draft);
                self.send(&datagram);
            }
            9 => {
                let len = usize::from(steps.short());
                self.send(steps.bytes(len));
            }
            10 => self.draft_head(steps),
            11 => {
                let raw = vec![steps.byte(); self.take_bulk(usize::from(steps.short()))];
                let _ = nix::unistd::write(&self.output, &raw);
                self.worker.read_output(self.key);
            }
            // A stop is only for an instance that is given no call after it.
            12 => {
                self.stopped = true;
                self.worker.take(WorkerJob::Stop { slot: SLOT });
            }
            13 => self.worker.flush(self.key),
            14 => self.log(steps),
            15 => {
                let error: &[u8] = match steps.byte() % 4 {
                    0 => br#"{"phase":"sandbox","type":"T","message":"m"}"#,
                    1 => br#"{"phase":"load","type":"T","message":"m"}"#,
                    2 => br#"{"phase":"call","type":"T","message":"m"}"#,
                    _ => br#"{"phase":"answer","type":"too_large","message":"m"}"#,
                };
                let who = self.who(steps.byte());
                self.say(Kind::Error, 1, who, error);
            }
            16 => {
                let _ = nix::sys::socket::shutdown(self.raw_channel(), nix::sys::socket::Shutdown::Write);
                self.hear_instance(&mut VecDeque::new());
            }
            17 => self.worker.take(WorkerJob::Kill { slot: SLOT }),
            18 => self.assign(Limits::Awaited),
            _ => self.limits_set(steps.byte() % 4 != 0),
        }
    }

    fn raw_channel(&self) -> i32 {
        self.channel.as_raw_fd()
    }

    // ---- The server ----

    fn assign(&mut self, limits: Limits) {
        if self.greeted && !self.assigned {
            self.assigned = true;
            if limits == Limits::Awaited {
                self.limits = Some(LimitsFate::Awaited);
                self.limits_come_later.store(true, Ordering::Relaxed);
                // What it was sent as a blank is not what must not come now.
                while sys::io::recv(&self.channel, &mut [0; 1]).is_ok_and(|(length, _)| length > 0) {}
            }
            self.worker.take(WorkerJob::Assign { slot: SLOT, function: function("pass") });
        }
    }

    /// Also when nobody has asked for limits, or nobody any more.
    fn limits_set(&mut self, are_set: bool) {
        if self.limits == Some(LimitsFate::Awaited) {
            self.limits = Some(if are_set { LimitsFate::Set } else { LimitsFate::Refused });
        }
        let result = if are_set { Ok(()) } else { Err("no".to_owned()) };
        self.worker.take(WorkerJob::LimitsSet { slot: SLOT, result });
    }

    fn call(&mut self, size: u8) {
        // What the scheduler never does: a call for a blank, one too many, one behind a stop, a long one behind another.
        let is_long = size >= 0xfc;
        if !self.assigned || self.stopped || self.pipe.len() == PIPE_DEPTH_MAX || is_long && !self.pipe.is_empty() {
            return;
        }
        let body = match size {
            0xfc.. => vec![size; usize::from(size - 0xfa) * WIRE_BODY_PIECE_BYTES_MAX * 3],
            0xf0.. => vec![size; WIRE_BODY_PIECE_BYTES_MAX],
            _ => vec![size; usize::from(size)],
        };
        self.last_id += 1;
        let (id, nonce) = (self.last_id, nonce(self.last_id));
        let parts = wire::RequestParts {
            method: b"POST",
            path: b"/",
            query: b"",
            request_id: b"fuzz",
            body_len: body.len() as u64,
        };
        let head = wire::encode_request_head(&parts, []).expect("a short head");
        self.pipe.push_back((id, nonce));
        self.ends.insert(id, 0);
        self.shares += 1;
        let request = CallRequest { head, body };
        self.worker.take(WorkerJob::Call { slot: SLOT, invocation: InvocationId(id), nonce, request });
        self.hear_front(&mut VecDeque::new());
    }

    // ---- The instance ----

    fn receive(&mut self) {
        let mut buffer = [0; 1];
        // What it takes is cut and gone, which is all that the server can notice.
        let _ = sys::io::recv(&self.channel, &mut buffer);
    }

    fn front_id(&self) -> u64 {
        self.pipe.front().map_or(0, |call| call.0)
    }

    fn who(&self, choice: u8) -> (u64, u64) {
        let front = self.pipe.front().copied().unwrap_or((0, 0));
        match choice % 8 {
            0..=2 => front,
            3 => (0, 0),
            4 => (front.0, front.1 ^ 1),
            5 => (front.0 + 1, nonce(front.0 + 1)),
            6 => (front.0.wrapping_sub(1), nonce(front.0.wrapping_sub(1))),
            _ => (front.0 | 1 << 32, front.1),
        }
    }

    /// The call that runs gets a right answer, of which `form` says into how many datagrams it is cut.
    fn answer(&mut self, len: usize, form: u8) {
        let who = self.who(0);
        let body = vec![b'x'; len];
        let mut datagram = Vec::new();
        push_frame(&mut datagram, Kind::Response as u8, u8::from(len == 0), who, &head(200, b"a: b\r\n", len as u64));
        let mut pieces = body.chunks(len.div_ceil(usize::from(form % 4) + 1).max(1)).peekable();
        while let Some(piece) = pieces.next() {
            if form & 8 != 0 {
                self.send(&std::mem::take(&mut datagram));
            }
            push_frame(&mut datagram, Kind::Body as u8, u8::from(pieces.peek().is_none()), who, piece);
        }
        self.send(&datagram);
    }

    fn take_bulk(&mut self, len: usize) -> usize {
        let taken = len.min(self.bulk);
        self.bulk -= taken;
        taken
    }

    /// Many entries of one length, as many in a datagram as go there.
    fn log(&mut self, steps: &mut Steps<'_>) {
        let text = steps.byte();
        let len = usize::from(steps.short()) % (LOG_ENTRY_BYTES_MAX + 1);
        let (stream, count, who) = (steps.byte() % 4, steps.byte(), (self.front_id(), 0));
        let mut entry = vec![text; 1 + len];
        entry[0] = stream;
        let mut datagram = Vec::new();
        for _ in 0..count {
            if self.take_bulk(entry.len()) < entry.len() {
                break;
            }
            push_frame(&mut datagram, Kind::Log as u8, 0, who, &entry);
            let frames = datagram.len() / (FRAME_HEADER_BYTES + entry.len());
            if frames == WIRE_FRAMES_PER_MESSAGE_MAX || datagram.len() + entry.len() > WIRE_MESSAGE_BYTES_MAX / 2 {
                self.send(&std::mem::take(&mut datagram));
            }
        }
        self.send(&datagram);
    }

    fn draft_frame(&mut self, steps: &mut Steps<'_>) {
        const KINDS: [u8; 9] = [16, 17, 18, 19, 20, 21, 4, 3, 33];
        let kind = match steps.byte() {
            kind if kind & 0x80 != 0 => kind & 0x7f,
            kind => KINDS[usize::from(kind) % KINDS.len()],
        };
        let (flags, who, len) = (steps.byte() % 4, self.who(steps.byte()), usize::from(steps.byte()));
        push_frame(&mut self.draft, kind, flags, who, steps.bytes(len));
    }

    fn draft_head(&mut self, steps: &mut Steps<'_>) {
        let (flags, who, status) = (steps.byte() % 2, self.who(steps.byte()), steps.short() % 700);
        let body_len = match steps.byte() {
            0xff => u64::MAX,
            0xfe => 1 << 40,
            0xfd => ANSWER_BYTES_MAX as u64 + 1,
            0xfc => ANSWER_BYTES_MAX as u64,
            len => u64::from(len),
        };
        let len = usize::from(steps.byte());
        push_frame(&mut self.draft, Kind::Response as u8, flags, who, &head(status, steps.bytes(len), body_len));
    }

    fn say(&mut self, kind: Kind, flags: u8, who: (u64, u64), payload: &[u8]) {
        let mut datagram = Vec::new();
        push_frame(&mut datagram, kind as u8, flags, who, payload);
        self.send(&datagram);
    }

    fn send(&mut self, datagram: &[u8]) {
        if sys::io::send(&self.channel, &[IoSlice::new(datagram)]).is_ok() {
            let mut outcomes = self.expected(datagram);
            self.hear_instance(&mut outcomes);
        }
    }
}

fn nonce(id: u64) -> u64 {
    id.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1
}

/// A frame of whatever kind and flags, its length that of its payload.
fn push_frame(out: &mut Vec<u8>, kind: u8, flags: u8, (id, nonce): (u64, u64), payload: &[u8]) {
    out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    out.extend_from_slice(&[kind, flags, 0, 0]);
    out.extend_from_slice(&id.to_le_bytes());
    out.extend_from_slice(&nonce.to_le_bytes());
    out.extend_from_slice(payload);
}

fn head(status: u16, headers: &[u8], body_len: u64) -> Vec<u8> {
    let mut head = Vec::with_capacity(16 + headers.len());
    head.extend_from_slice(&status.to_le_bytes());
    head.extend_from_slice(&[0, 0]);
    head.extend_from_slice(&(headers.len() as u32).to_le_bytes());
    head.extend_from_slice(&body_len.to_le_bytes());
    head.extend_from_slice(headers);
    head
}

/// A function with this code and the least of everything.
pub(super) fn function(code: &str) -> Arc<FunctionVersion> {
    Arc::new(FunctionVersion {
        name: "f".to_owned(),
        version: 1,
        code: code.to_owned(),
        code_sha256: String::new(),
        config: FunctionConfig {
            runtime: "python3".to_owned(),
            execution_mode: ExecutionMode::Process,
            image: None,
            handler: Handler { module: "function".to_owned(), name: "handle".to_owned() },
            timeout_ms: 1000,
            memory_bytes: FUNCTION_MEMORY_BYTES_DEFAULT,
            cpu_millis: FUNCTION_CPU_MILLIS_DEFAULT,
            dependencies: Vec::new(),
            environment: BTreeMap::new(),
            min_instances: 0,
            max_instances: 1,
            max_invocations_per_instance: InvocationsMax::Unlimited,
            idle_ttl: None,
            network: Network::None,
        },
        image_id: None,
        created_at_ms: 0,
        updated_at_ms: 0,
    })
}

/// The input is a list of deeds.
pub fn worker_intake(input: &[u8]) {
    live(input);
}

fn live(input: &[u8]) -> Seen {
    let mut play = Play::new();
    let mut steps = Steps::new(input);
    for _ in 0..STEPS_MAX {
        let Some(deed) = steps.next() else { break };
        play.step(deed, &mut steps);
        play.hear_front(&mut VecDeque::new());
        play.assert_held_back();
    }
    play.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Greets, is assigned a function and has loaded it.
    const LOADED: [u8; 4] = [0, 2, 4, 1];

    #[test]
    fn right_answers_are_completed_and_nothing_is_held_against_them() {
        let input = [&LOADED[..], &[3, 10, 3, 20, 4, 5, 5, 0, 4, 5, 0, 0, 3, 0xff], &[4, 13].repeat(20), &[5, 200, 11]];
        let seen = live(&input.concat());
        assert_eq!((seen.completed, seen.violations), (3, 0), "{seen:?}");
    }

    #[test]
    fn an_excess_of_log_text_is_a_violation() {
        let seen = live(&[&LOADED[..], &[3, 10, 4, 14, b'x', 0, 0x40, 0, 30, 14, b'x', 0, 0x40, 0, 30]].concat());
        assert_eq!((seen.completed, seen.violations), (0, 1), "{seen:?}");
    }

    #[test]
    fn a_call_that_was_not_taken_comes_back() {
        let seen = live(&[&LOADED[..], &[3, 10, 3, 20, 4, 6]].concat());
        assert_eq!((seen.completed, seen.taken_back), (0, 1), "{seen:?}");
    }

    /// Greets and is assigned a function, whose limits are awaited; has a call in its pipe.
    const LIMITING: [u8; 4] = [0, 18, 3, 10];

    #[test]
    fn what_waits_for_limits_goes_when_they_are_set_and_is_run() {
        let seen = live(&[&LIMITING[..], &[13, 19, 1, 4, 1, 4, 5, 0, 0]].concat());
        assert_eq!((seen.completed, seen.taken_back, seen.violations), (1, 0, 0), "{seen:?}");
    }

    #[test]
    fn what_waits_for_limits_comes_back_and_goes_nowhere_when_they_are_refused() {
        let seen = live(&[&LIMITING[..], &[6, 3, 10, 19, 0, 19, 1, 3, 10, 6, 3, 10]].concat());
        assert_eq!((seen.completed, seen.taken_back, seen.violations), (0, 3, 0), "{seen:?}");
    }

    #[test]
    fn nothing_is_loaded_before_the_limits_are_set() {
        let seen = live(&[&LIMITING[..], &[1, 19, 1, 4, 1]].concat());
        assert_eq!((seen.completed, seen.violations), (0, 1), "{seen:?}");
    }

    #[test]
    fn a_drafted_answer_is_completed_and_one_with_a_wrong_nonce_is_a_violation() {
        for (who, completed) in [(0, 1), (4, 0)] {
            let seen = live(&[&LOADED[..], &[3, 10, 4, 10, 1, who, 200, 0, 0, 0, 8]].concat());
            assert_eq!((seen.completed, seen.violations), (completed, 1 - completed), "{seen:?}");
        }
    }
}
