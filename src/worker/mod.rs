//! A worker thread: owns the channels of a set of instances and moves frames between them and the front.
//!
//! It does not decide anything: which instance gets which call, what happens to calls that come back, when an
//! instance has to go, all that is the scheduler's. It never blocks but in its own poll.
//!
//! Invariants:
//! - A call that came in as [`WorkerJob::Call`] leaves as exactly one of: `Completed`, `TakenBack`, or a place in
//!   `Exited` (as `begun` or among `returned`).
//! - `Exited` is the last event of a slot's tenant, except that a call sent to it in the meantime is still given
//!   back as `TakenBack`.
//! - Nothing of a function goes to an instance before its limits are in force there.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod intake;
mod output;
mod raw;
mod tenant;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Token};
use slab::Slab;

use crate::backend::{End, Instance};
use crate::call::{BlankFailure, CallRequest, ExitReason, FrontEvent, InvocationId, InvokeError, Slot, WorkerJob};
use crate::doorbell::{line, Desk, Line, DOORBELL_TOKEN};
use crate::limits::{WIRE_MESSAGE_BYTES_MAX, WORKER_OUTPUT_READ_BYTES, WORKER_QUEUE_MAX};
use crate::logs::LogSink;
use crate::registry::function::FunctionVersion;
use crate::sys::{self, executor};
use crate::vital::Vital;
use crate::watchdog::Pulse;

use tenant::{Phase, Tenant};

/// Readiness notices taken from the kernel at once.
const EVENTS_PER_WAIT: usize = 256;

/// What a worker needs to know besides its jobs.
#[derive(Debug)]
pub struct WorkerSettings {
    /// The processor the thread is pinned to, if any.
    pub cpu: Option<usize>,
    /// Largest answer of a function, in bytes. It may change: an instance keeps what it was assigned with.
    pub response_bytes_max: Arc<AtomicUsize>,
    /// By which the watchdog sees that the thread turns.
    pub pulse: Pulse,
}

/// Starts worker `number` and returns the line to it.
///
/// # Errors
/// When the kernel refuses the poll or the thread.
pub fn start(
    number: usize,
    settings: WorkerSettings,
    front: Line<FrontEvent>,
    logs: LogSink,
) -> io::Result<(Line<WorkerJob>, JoinHandle<()>)> {
    let (jobs, desk) = line(WORKER_QUEUE_MAX)?;
    let worker = Worker::new(desk, front, logs, settings.response_bytes_max);
    let thread = std::thread::Builder::new().name(format!("faas-worker-{number}")).spawn(move || {
        let _vital = vital();
        if let Some(cpu) = settings.cpu {
            if let Err(error) = sys::process::pin_current_thread(cpu) {
                log::warn!("worker {number} is not pinned to processor {cpu}: {error}");
            }
        }
        settings.pulse.begin();
        worker.run(settings.pulse);
    })?;
    Ok((jobs, thread))
}

/// The three sources of one tenant; the token is the tenant's key times three plus this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Output = 0,
    Channel = 1,
    Ended = 2,
}

fn token(key: usize, source: Source) -> Token {
    Token(key * 3 + source as usize)
}

struct Worker {
    desk: Desk<WorkerJob>,
    front: Line<FrontEvent>,
    /// Events were pushed to the front since its bell was rung last.
    front_waits: bool,
    logs: LogSink,
    tenants: Slab<Tenant>,
    /// Slot index to tenant key.
    by_slot: Vec<Option<usize>>,
    /// Tenants that had more to read than one turn allows, each once.
    again: Vec<usize>,
    /// Tenants that have ended and whose exit status is not to be had yet, and of whom nobody tells; each once, and none
    /// that is gone.
    ending: Vec<usize>,
    buffer: Vec<u8>,
    /// Raw output is read while a datagram in `buffer` is being heard, so it has a buffer of its own.
    output_buffer: Vec<u8>,
    response_bytes_max: Arc<AtomicUsize>,
}

/// A panic in a test must fail that test and not end all of them.
fn vital() -> Option<Vital> {
    (!cfg!(test)).then_some(Vital)
}

impl Worker {
    fn new(
        desk: Desk<WorkerJob>,
        front: Line<FrontEvent>,
        logs: LogSink,
        response_bytes_max: Arc<AtomicUsize>,
    ) -> Worker {
        Worker {
            desk,
            front,
            front_waits: false,
            logs,
            tenants: Slab::new(),
            by_slot: Vec::new(),
            again: Vec::new(),
            ending: Vec::new(),
            buffer: vec![0; WIRE_MESSAGE_BYTES_MAX + 1],
            output_buffer: vec![0; WORKER_OUTPUT_READ_BYTES],
            response_bytes_max,
        }
    }

    fn run(mut self, mut pulse: Pulse) {
        let mut events = Events::with_capacity(EVENTS_PER_WAIT);
        loop {
            let timeout = match (self.again.is_empty(), self.ending.is_empty()) {
                (false, _) => Some(Duration::ZERO),
                (true, false) => Some(Duration::from_millis(1)),
                (true, true) => None,
            };
            if let Err(error) = self.desk.wait(&mut events, timeout) {
                log::error!("worker poll failed: {error}");
                std::thread::sleep(Duration::from_millis(10));
                continue;
            }
            self.turn(&events);
            for key in std::mem::take(&mut self.ending) {
                self.bury(key);
            }
            while let Some(job) = self.desk.try_recv() {
                if matches!(job, WorkerJob::Shutdown) {
                    self.shut_down();
                    return;
                }
                self.take(job);
            }
            if std::mem::take(&mut self.front_waits) {
                self.front.ring();
            }
            pulse.turn();
        }
    }

    /// Serves every ready source. Raw output goes first: what a call wrote before it answered is then read before the
    /// answer is, and lands in that call's log. Ends go last, when every frame of the dead has been read.
    fn turn(&mut self, events: &Events) {
        for wanted in [Source::Output, Source::Channel, Source::Ended] {
            for event in events {
                let Token(number) = event.token();
                if event.token() == DOORBELL_TOKEN || number % 3 != wanted as usize {
                    continue;
                }
                let key = number / 3;
                if !self.tenants.contains(key) {
                    continue;
                }
                match wanted {
                    Source::Output => self.read_output(key),
                    Source::Channel => {
                        if event.is_writable() {
                            self.flush(key);
                        }
                        self.read_channel(key);
                    }
                    Source::Ended => self.bury(key),
                }
            }
            if wanted == Source::Channel {
                for key in std::mem::take(&mut self.again) {
                    self.read_output(key);
                    self.read_channel(key);
                }
            }
        }
    }

    fn take(&mut self, job: WorkerJob) {
        match job {
            WorkerJob::Adopt(instance) => self.adopt(*instance),
            WorkerJob::Assign { slot, function } => self.assign(slot, function),
            WorkerJob::LimitsSet { slot, result } => self.limits_set(slot, result),
            WorkerJob::EndKnown { slot } => {
                if let Some(key) = self.key(slot) {
                    self.bury(key);
                }
            }
            WorkerJob::Call { slot, invocation, nonce, request } => self.call(slot, invocation, nonce, request),
            WorkerJob::TakeBack { slot } => {
                let calls = match self.key(slot) {
                    Some(key) if self.tenants[key].gives_back() => self.tenants[key].take_back(),
                    _ => Vec::new(),
                };
                self.tell(FrontEvent::TakenBack { slot, calls });
            }
            WorkerJob::Stop { slot } => {
                if let Some(key) = self.key(slot) {
                    // Asked a second time, it has had its time to end by itself.
                    if self.tenants[key].stopping {
                        self.tenants[key].instance.custody.kill();
                    } else {
                        self.tenants[key].push_stop();
                        self.flush(key);
                    }
                }
            }
            WorkerJob::Kill { slot } => {
                if let Some(key) = self.key(slot) {
                    self.tenants[key].instance.custody.kill();
                }
            }
            WorkerJob::Shutdown => unreachable!("taken out by the loop"),
        }
    }

    fn key(&self, slot: Slot) -> Option<usize> {
        let key = (*self.by_slot.get(slot.index as usize)?)?;
        (self.tenants[key].instance.slot == slot).then_some(key)
    }

    /// Has the tenant read again at the next turn. Once, however many of its sources have more: one that keeps two of
    /// them full would double its share with every turn.
    fn read_again(&mut self, key: usize) {
        if !self.again.contains(&key) {
            self.again.push(key);
        }
    }

    /// Queues an event for the front; its bell is rung at the end of the turn.
    fn tell(&mut self, event: FrontEvent) {
        if let Err(full) = self.front.push(event) {
            // The queue has room for more than can be under way, so this is the front being gone, or a defect that
            // must not lose a call: wait for room.
            if self.front.send(full.into_inner()).is_err() {
                log::debug!("the front has ended; an event is dropped");
            }
        }
        self.front_waits = true;
    }

    fn adopt(&mut self, instance: Instance) {
        let slot = instance.slot;
        let entry = self.tenants.vacant_entry();
        let key = entry.key();
        let sources = [
            (instance.output.as_raw_fd(), Source::Output),
            (instance.channel.as_raw_fd(), Source::Channel),
            (instance.custody.ended().as_raw_fd(), Source::Ended),
        ];
        let registered = sources.iter().try_for_each(|(fd, source)| {
            self.desk.registry().register(&mut SourceFd(fd), token(key, *source), Interest::READABLE)
        });
        let mut tenant = Tenant::new(instance);
        if let Err(error) = registered {
            // Its end will not be told, so it is asked for until it has come: who is not waited for stays a zombie.
            tenant.instance.custody.kill();
            tenant.last_words = Some(format!("the worker cannot watch it: {error}"));
            self.ending.push(key);
        }
        entry.insert(tenant);
        let index = slot.index as usize;
        if self.by_slot.len() <= index {
            self.by_slot.resize(index + 1, None);
        }
        self.by_slot[index] = Some(key);
        // Its greeting may have come before it was watched; an edge-triggered poll reports that too.
    }

    fn assign(&mut self, slot: Slot, function: Arc<FunctionVersion>) {
        let Some(key) = self.key(slot) else { return };
        let tenant = &mut self.tenants[key];
        let limits = match tenant.instance.custody.set_limits(&function.config) {
            Ok(limits) => limits,
            Err(error) => return self.refuse(key, &error.to_string()),
        };
        if let Err(error) = tenant.push_assign(function, limits, self.response_bytes_max.load(Ordering::Relaxed)) {
            log::error!("{slot}: the function cannot be sent: {error}");
            tenant.instance.custody.kill();
            return;
        }
        self.flush(key);
    }

    fn limits_set(&mut self, slot: Slot, result: Result<(), String>) {
        let Some(key) = self.key(slot).filter(|&key| self.tenants[key].phase == Phase::Limiting) else { return };
        match result {
            Ok(()) => {
                self.tenants[key].release();
                self.flush(key);
            }
            Err(reason) => self.refuse(key, &reason),
        }
    }

    /// The limits of its function are not to be had for this instance. That is nobody's crash, so the front is told why
    /// before it hears of the end.
    fn refuse(&mut self, key: usize, reason: &str) {
        let tenant = &mut self.tenants[key];
        tenant.phase = Phase::Refused;
        tenant.instance.custody.kill();
        let slot = tenant.instance.slot;
        let reason = format!("the limits of its function cannot be set: {reason}");
        log::error!("{slot}: {reason}");
        self.tell(FrontEvent::Loaded { slot, result: Err(InvokeError::NoInstances(reason.into())) });
    }

    fn call(&mut self, slot: Slot, invocation: InvocationId, nonce: u64, request: CallRequest) {
        match self.key(slot) {
            Some(key) => {
                if self.tenants[key].pipe.is_empty() {
                    // Begun between two calls, so it is not part of this one.
                    self.finish_output_line(key);
                }
                self.tenants[key].push_call(invocation, nonce, request);
                self.flush(key);
            }
            None => self.tell(FrontEvent::TakenBack { slot, calls: vec![(invocation, request)] }),
        }
    }

    /// Sends what waits in the tenant's outbox, and watches for room only while something is left.
    fn flush(&mut self, key: usize) {
        let tenant = &mut self.tenants[key];
        let watched = tenant.waits_for_room;
        if let Err(error) = tenant.flush() {
            // The other end is closed, so its process is ending or has shut its channel down: either way it is over.
            log::debug!("{}: channel refused a datagram: {error}", tenant.instance.slot);
            tenant.instance.custody.kill();
        }
        let waits = tenant.has_unsent();
        if waits != watched {
            tenant.waits_for_room = waits;
            let interest = if waits { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
            let fd = tenant.instance.channel.as_raw_fd();
            let outcome = self.desk.registry().reregister(&mut SourceFd(&fd), token(key, Source::Channel), interest);
            if let Err(error) = outcome {
                log::error!("{}: cannot watch its channel: {error}", self.tenants[key].instance.slot);
                self.tenants[key].instance.custody.kill();
            }
        }
    }

    /// The instance has ended: reads its last words, then accounts for every call that was given to it.
    fn bury(&mut self, key: usize) {
        let exit = match self.tenants[key].instance.custody.end() {
            End::Was(exit) => exit,
            End::Awaited => return,
            End::NotYet => {
                // The poll may report the same end again before it can be told how it came.
                if !self.ending.contains(&key) {
                    self.ending.push(key);
                }
                return;
            }
        };
        self.read_output(key);
        while self.read_channel(key) {}
        self.finish_output_line(key);
        self.again.retain(|again| *again != key);
        self.ending.retain(|ending| *ending != key);
        let mut tenant = self.tenants.remove(key);
        let slot = tenant.instance.slot;
        self.by_slot[slot.index as usize] = None;
        let sources = [
            tenant.instance.output.as_raw_fd(),
            tenant.instance.channel.as_raw_fd(),
            tenant.instance.custody.ended().as_raw_fd(),
        ];
        for fd in sources {
            // Descriptors that are duplicated elsewhere stay in the poll after they are closed here.
            let _ = self.desk.registry().deregister(&mut SourceFd(&fd));
        }
        let mut returned = tenant.take_back();
        // One, unless the function's code has received what is the shim's to receive.
        let mut begun: Vec<InvocationId> = tenant.pipe.iter().map(|call| call.invocation).collect();
        if begun.is_empty() && matches!(tenant.phase, Phase::Loading | Phase::Failed) && !returned.is_empty() {
            // The call that an instance was started for shares the fate of its start: run elsewhere, it would end the
            // next one as well.
            begun.push(returned.remove(0).0);
        }
        let exit = if tenant.broke_protocol { ExitReason::ProtocolViolation } else { exit };
        let event = match tenant.phase {
            Phase::Hatching => {
                let reason = tenant.last_words.take().unwrap_or_else(|| format!("it ended with {exit:?}"));
                let refused_step = executor::step_named_in(&reason);
                FrontEvent::BlankFailed { slot, failure: BlankFailure { reason, refused_step } }
            }
            _ => FrontEvent::Exited { slot, exit, begun, returned },
        };
        tenant.instance.custody.bury();
        self.tell(event);
    }

    /// Ends every instance and waits for their ends, so that nothing is left when the server exits.
    fn shut_down(&mut self) {
        for (_, tenant) in &self.tenants {
            tenant.instance.custody.kill();
        }
        let mut events = Events::with_capacity(EVENTS_PER_WAIT);
        let limit = Instant::now() + crate::limits::KILL_WAIT;
        while !self.tenants.is_empty() && Instant::now() < limit {
            if self.desk.wait(&mut events, Some(Duration::from_millis(50))).is_err() {
                break;
            }
            let keys: Vec<usize> = self.tenants.iter().map(|(key, _)| key).collect();
            keys.into_iter().for_each(|key| self.bury(key));
            while let Some(job) = self.desk.try_recv() {
                // A blank that was in the making when the end began is ended like the others.
                if let WorkerJob::Adopt(instance) = job {
                    instance.custody.kill();
                    self.adopt(*instance);
                }
            }
        }
        if !self.tenants.is_empty() {
            log::error!("{} instances did not end within {:?}", self.tenants.len(), crate::limits::KILL_WAIT);
        }
    }
}
