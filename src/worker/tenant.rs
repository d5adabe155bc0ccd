//! One instance as its worker sees it: what was sent, what is still to be sent, what has come back.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::Instant;

use crate::backend::{Instance, Limits};
use crate::call::{CallRequest, InvocationId};
use crate::limits::{LOG_INVOCATION_BYTES_MAX, LOG_INVOCATION_ENTRIES_MAX, WIRE_MESSAGE_BYTES_MAX};
use crate::registry::function::FunctionVersion;
use crate::sys;
use crate::wire::{self, AssignHead, CodeMessages, Direction, Kind, ReplyAssembler, RequestMessages, WireError};

use super::raw::RawOutput;

/// What a well-behaved shim may log for one call, its closing notes and the traceback included, with room to spare.
const LOG_BUDGET: usize = 2 * LOG_INVOCATION_BYTES_MAX + 64 * 1024;

/// How far an instance has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Its sandbox is being built; it has not greeted yet.
    Hatching,
    /// It waits for a function.
    Blank,
    /// It has a function, whose limits are not in force yet: whatever is for it is held back.
    Limiting,
    /// Its function's limits were refused, so that nothing is sent to it any more; it is being ended.
    Refused,
    /// It has been sent its function and runs the top-level code.
    Loading,
    /// Its top-level code failed; it is of no use, and has nothing more to say.
    Failed,
    /// It answers calls.
    Serving,
}

/// A call in the pipe. The first one is the one that runs, or will run next.
#[derive(Debug)]
pub(super) struct PipedCall {
    pub(super) invocation: InvocationId,
    pub(super) nonce: u64,
    pub(super) request: CallRequest,
    /// What is left to send of it.
    messages: RequestMessages,
    /// Whether any datagram of it has been handed to the kernel.
    sent: bool,
}

/// One instance and its pipe.
#[derive(Debug)]
pub(super) struct Tenant {
    pub(super) instance: Instance,
    pub(super) phase: Phase,
    pub(super) function: Option<Arc<FunctionVersion>>,
    /// Largest body of its answers, as it was told when it was assigned.
    pub(super) response_bytes_max: usize,
    pub(super) pipe: VecDeque<PipedCall>,
    /// Datagrams that are not part of a call and not sent yet.
    pub(super) outbox: VecDeque<Vec<u8>>,
    /// Calls at the end of the pipe that are not wholly sent.
    unsent_calls: usize,
    /// A datagram that the channel had no room for.
    scratch: Vec<u8>,
    scratch_full: bool,
    /// The worker watches the channel for room.
    pub(super) waits_for_room: bool,
    /// The answer in the making.
    pub(super) reply: Option<ReplyAssembler>,
    /// Since when the first call of the pipe has been the first, and the instance able to run it.
    pub(super) running_since: Instant,
    /// What was written to descriptors 1 and 2.
    pub(super) raw: RawOutput,
    /// Bytes that log frames may still hold until the next call is answered: what the shim may send, and its notes.
    pub(super) log_budget: usize,
    /// Entries that may still be added to the log until then; what is beyond is dropped.
    pub(super) log_entries_left: usize,
    pub(super) broke_protocol: bool,
    /// It was asked to end by itself.
    pub(super) stopping: bool,
    /// What a blank said before it ended.
    pub(super) last_words: Option<String>,
}

impl Tenant {
    pub(super) fn new(instance: Instance) -> Self {
        Tenant {
            instance,
            phase: Phase::Hatching,
            function: None,
            response_bytes_max: 0,
            pipe: VecDeque::new(),
            outbox: VecDeque::new(),
            unsent_calls: 0,
            scratch: Vec::new(),
            scratch_full: false,
            waits_for_room: false,
            reply: None,
            running_since: Instant::now(),
            raw: RawOutput::new(),
            log_budget: LOG_BUDGET,
            log_entries_left: LOG_INVOCATION_ENTRIES_MAX,
            broke_protocol: false,
            stopping: false,
            last_words: None,
        }
    }

    /// Whether the call that runs has left for the instance to its last datagram.
    pub(super) fn first_is_sent(&self) -> bool {
        self.unsent_calls < self.pipe.len()
    }

    /// Whether anything waits for room in the channel.
    pub(super) fn has_unsent(&self) -> bool {
        !self.is_held() && (self.scratch_full || !self.outbox.is_empty() || self.unsent_calls > 0)
    }

    /// Whether nothing may be sent to it.
    fn is_held(&self) -> bool {
        matches!(self.phase, Phase::Limiting | Phase::Refused)
    }

    /// Whether calls can be taken out of its pipe while it lives: not while its function may still be in the channel.
    pub(super) fn gives_back(&self) -> bool {
        self.phase == Phase::Serving || self.is_held()
    }

    /// The function goes to the instance, at once or when it is [released](Self::release).
    ///
    /// # Errors
    /// When the function cannot be put into frames.
    pub(super) fn push_assign(
        &mut self,
        function: Arc<FunctionVersion>,
        limits: Limits,
        response_bytes_max: usize,
    ) -> Result<(), WireError> {
        let instance = self.instance.slot.to_string();
        let head = AssignHead {
            function: &function.name,
            version: function.version,
            module: &function.config.handler.module,
            handler: &function.config.handler.name,
            environment: &function.config.environment,
            instance: &instance,
            log_bytes_max: LOG_INVOCATION_BYTES_MAX,
            response_bytes_max,
        };
        self.outbox.extend(CodeMessages::assign(&head, &function.code)?);
        self.function = Some(function);
        self.response_bytes_max = response_bytes_max;
        match limits {
            Limits::InForce => self.release(),
            Limits::Awaited => self.phase = Phase::Limiting,
        }
        Ok(())
    }

    /// The limits are in force: what was held back may be sent, and its time begins.
    pub(super) fn release(&mut self) {
        self.phase = Phase::Loading;
        self.running_since = Instant::now();
    }

    pub(super) fn push_stop(&mut self) {
        self.stopping = true;
        self.outbox.push_back(wire::encode_stop());
    }

    pub(super) fn push_call(&mut self, invocation: InvocationId, nonce: u64, request: CallRequest) {
        if self.pipe.is_empty() {
            self.begin_first();
        }
        let messages = RequestMessages::new(invocation.0, nonce);
        self.pipe.push_back(PipedCall { invocation, nonce, request, messages, sent: false });
        self.unsent_calls += 1;
    }

    /// A new call has become the first of the pipe.
    pub(super) fn begin_first(&mut self) {
        self.raw.begin_call();
        self.start_clock();
    }

    /// The first call of the pipe runs from now on. What raw output it has had stays: an instance that has loaded its
    /// function begins with the call before it is known here that it has loaded.
    pub(super) fn start_clock(&mut self) {
        self.running_since = Instant::now();
        self.log_budget = LOG_BUDGET;
        self.log_entries_left = LOG_INVOCATION_ENTRIES_MAX;
    }

    /// Sends until everything is sent or the channel is full, in the order in which it was pushed: what is not part
    /// of a call goes before the calls, except `Stop`, which is only pushed when no call will follow. Sends nothing while
    /// it is held back.
    ///
    /// # Errors
    /// When the channel is closed.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        if self.is_held() {
            return Ok(());
        }
        loop {
            if !self.scratch_full && !self.load_scratch() {
                return Ok(());
            }
            match sys::io::send(&self.instance.channel, &[IoSlice::new(&self.scratch)]) {
                Ok(_) => self.scratch_full = false,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.scratch_full = true;
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Puts the next datagram into `scratch`; `false` when there is none.
    fn load_scratch(&mut self) -> bool {
        if let Some(message) = self.outbox.pop_front() {
            self.scratch = message;
            return true;
        }
        while self.unsent_calls > 0 {
            let index = self.pipe.len() - self.unsent_calls;
            let call = &mut self.pipe[index];
            if call.messages.next_into(&call.request, &mut self.scratch) {
                call.sent = true;
                return true;
            }
            self.unsent_calls -= 1;
        }
        false
    }

    /// Takes the calls out of the pipe that the instance has not begun, in their order.
    ///
    /// A datagram that is received here was not received by the instance, and never will be: that is what makes the
    /// call unbegun. Only for an instance that has ended, has loaded its function and has more than one call, or has been
    /// sent nothing of it.
    pub(super) fn take_back(&mut self) -> Vec<(InvocationId, CallRequest)> {
        let mut unclaimed = Vec::new();
        let mut buffer = vec![0; WIRE_MESSAGE_BYTES_MAX + 1];
        while let Ok((length, false)) = sys::io::recv(&self.instance.instance_end, &mut buffer) {
            if length == 0 {
                break;
            }
            let Ok(mut frames) = wire::decode_message(&buffer[..length], Direction::ToInstance) else { continue };
            if let Some(frame) = frames.next() {
                if frame.kind == Kind::Request {
                    unclaimed.push(InvocationId(frame.id));
                }
            }
        }
        let first_unsent = self.pipe.len() - self.unsent_calls;
        let mut kept = VecDeque::with_capacity(1);
        let mut returned = Vec::new();
        let mut kept_unsent = 0;
        for (index, call) in std::mem::take(&mut self.pipe).into_iter().enumerate() {
            let held_back = !call.sent || (self.scratch_full && index == first_unsent && call_is_whole(&call));
            if held_back || unclaimed.contains(&call.invocation) {
                returned.push((call.invocation, call.request));
            } else {
                kept_unsent += usize::from(index >= first_unsent);
                kept.push_back(call);
            }
        }
        self.pipe = kept;
        self.unsent_calls = kept_unsent;
        if !returned.is_empty() && kept_unsent == 0 {
            // Whatever the channel had no room for belonged to a call that is returned.
            self.scratch_full = false;
        }
        returned
    }
}

/// Whether the call is one datagram, so that one that is held back is the whole of it.
fn call_is_whole(call: &PipedCall) -> bool {
    wire::fits_one_message(call.request.body.len())
}
