//! What the halves of the server exchange about one call: the ids, the request on its way in, the outcome on its
//! way back. The front thread and the workers share nothing else.
//!
//! Invariant: every [`InvocationId`] that the front hands out gets exactly one outcome. Late or forged answers are
//! recognised by the slot, its generation and the invocation's nonce, and dropped.

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::registry::function::FunctionVersion;
use crate::takeover::TakeoverError;

/// One accepted call, unique for the life of the server (a slab index and a generation, packed).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InvocationId(pub u64);

/// One version of one function as the scheduler knows it; never reused while the server lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VersionKey(pub u64);

/// A place for one instance, and which of its successive tenants is meant.
///
/// `index` is small and reused (it selects the host uid and the worker); `generation` grows with every tenant, so
/// that news of a dead tenant cannot be taken for news of the living one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot {
    /// Position in the slot table.
    pub index: u32,
    /// Which tenant of that position.
    pub generation: u32,
}

impl fmt::Display for Slot {
    /// The instance id that users see: `i3-17`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "i{}-{}", self.index, self.generation)
    }
}

impl std::str::FromStr for Slot {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let (index, generation) = text.strip_prefix('i').and_then(|rest| rest.split_once('-')).ok_or(())?;
        let slot = Slot { index: index.parse().map_err(|_| ())?, generation: generation.parse().map_err(|_| ())? };
        if slot.to_string() == text {
            Ok(slot)
        } else {
            Err(())
        }
    }
}

/// A request on its way to an instance, already in the form of `wire::RequestHead`.
///
/// It is owned by whoever has to answer for it: the front while it waits, the worker while it is in a pipe, and the
/// front again when the worker takes it back.
#[derive(Debug)]
pub struct CallRequest {
    /// Payload of the `Request` frame (see `wire::encode_request_head`).
    pub head: Vec<u8>,
    /// The body, decoded from its transfer coding.
    pub body: Vec<u8>,
}

/// What a function answered.
#[derive(Debug, PartialEq, Eq)]
pub struct CallReply {
    /// Status code, 200..=599.
    pub status: u16,
    /// Header fields, checked: names are tokens, values hold no control characters, none is hop-by-hop or framing.
    pub headers: Vec<(String, String)>,
    /// The body, at most `limits.max_response_body` bytes.
    pub body: Vec<u8>,
}

/// Why an accepted call has no answer of the function. `http::problem` turns it into a status and a problem body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InvokeError {
    /// The handler raised. Type and message are the function's own words, cut to a bound.
    Raised {
        /// Name of the exception's class.
        kind: String,
        /// Its message.
        message: String,
    },
    /// The function's top-level code failed, or its handler is missing, when an instance was started.
    LoadFailed {
        /// Name of the exception's class.
        kind: String,
        /// Its message.
        message: String,
    },
    /// The handler's answer has no defined form (a `set`, NaN, a bad status), in the shim's words.
    BadAnswer {
        /// What is wrong with the answer.
        message: String,
    },
    /// The answer is larger than the limit, in bytes.
    AnswerTooLarge {
        /// The limit in bytes.
        limit_bytes: u64,
    },
    /// The instance died while it ran this call.
    Crashed {
        /// How it ended.
        exit: ExitReason,
    },
    /// The time that the call had passed while it ran.
    TimedOut {
        /// The limit in milliseconds.
        limit_ms: u64,
        /// Whose limit it is.
        set_by: TimeoutSource,
    },
    /// The time that the call had passed while it still waited for an instance.
    QueueTimedOut {
        /// The limit in milliseconds.
        limit_ms: u64,
        /// Whose limit it is.
        set_by: TimeoutSource,
    },
    /// No instance could be started within `cold_start_timeout`.
    ColdStartTimedOut {
        /// The limit in milliseconds.
        limit_ms: u64,
    },
    /// The call waited for an instance for as long as `limits.max_queue_wait` lets it.
    WaitedTooLong {
        /// The limit in milliseconds.
        limit_ms: u64,
        /// What there was too little of.
        shortage: Shortage,
        /// When it may be worth trying again, in seconds.
        retry_after_s: u64,
    },
    /// The function's own queue is full.
    QueueFull {
        /// The limit, in invocations.
        limit: usize,
        /// When it may be worth trying again, in seconds.
        retry_after_s: u64,
    },
    /// The server holds as many calls as it may.
    Overloaded {
        /// The limit, in invocations.
        limit: usize,
        /// When it may be worth trying again, in seconds.
        retry_after_s: u64,
    },
    /// The function holds so many of the server's places that the rest is kept for others.
    ShareExceeded {
        /// Its calls.
        held: usize,
        /// The server's limit, in invocations.
        limit: usize,
        /// When it may be worth trying again, in seconds.
        retry_after_s: u64,
    },
    /// No instance can be started at present (the zygote is down, `fork` fails, a step of the sandbox is refused).
    NoInstances(BlankFailure),
    /// The function was deleted while the call waited.
    Deleted,
    /// Somebody stopped the instance, and the call did not end in the time that it was given then.
    InstanceStopped {
        /// `drain_timeout` in milliseconds.
        limit_ms: u64,
    },
    /// The server is stopping, and takes no more calls.
    ShuttingDown,
    /// The server is stopping, and the call did not end in the time that it was given then.
    CutShort {
        /// `shutdown_grace` in milliseconds.
        limit_ms: u64,
    },
}

/// Who set the time from a call's acceptance to its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeoutSource {
    /// The function's `timeout`.
    Function,
    /// The caller, who has less time than the function may take: the header `X-Faas-Timeout`.
    Caller,
}

/// Why there was no instance for a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shortage {
    /// The function has all that its `max_instances` allows.
    OfFunction {
        /// That limit.
        max_instances: u32,
    },
    /// The server has all that `max_concurrent_functions` allows.
    OfServer {
        /// That limit.
        max_instances: usize,
        /// So many of them are kept by the `min_instances` of functions.
        kept: usize,
    },
    /// There was room for one, and none came in time: starts are slow, or pause after failures.
    OfStarts,
}

/// Why there is no blank.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BlankFailure {
    /// In words, for the log: it may name paths.
    pub reason: String,
    /// The step of the sandbox that this host refused, if it was that. A name of our own, which anybody may be told.
    pub refused_step: Option<&'static str>,
}

impl From<String> for BlankFailure {
    fn from(reason: String) -> Self {
        Self { reason, refused_step: None }
    }
}

impl From<&str> for BlankFailure {
    fn from(reason: &str) -> Self {
        reason.to_owned().into()
    }
}

/// How an instance ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExitReason {
    /// It called `_exit` with this status.
    Status(i32),
    /// A signal with this number ended it.
    Signal(i32),
    /// The kernel ended it because it exceeded its memory limit, in bytes.
    OutOfMemory {
        /// The limit in bytes.
        limit_bytes: u64,
    },
    /// It broke the frame protocol and was killed for it.
    ProtocolViolation,
    /// The backend cannot tell.
    Unknown,
}

/// Asks a worker for something. Sent by the front thread; each worker has one bounded queue.
#[derive(Debug)]
pub enum WorkerJob {
    /// A blank exists: watch its channel. Sent by the backend's supervisor.
    Adopt(Box<crate::backend::Instance>),
    /// Turn the blank in `slot` into an instance of this function: write its limits, send its code.
    Assign {
        /// Which blank.
        slot: Slot,
        /// What it becomes.
        function: Arc<FunctionVersion>,
    },
    /// What became of limits that were awaited ([`Limits::Awaited`](crate::backend::Limits::Awaited)): what is held back
    /// goes to the instance now, or the instance ends. Sent by the backend.
    LimitsSet {
        /// Which instance.
        slot: Slot,
        /// Whether they are in force, or why not.
        result: Result<(), String>,
    },
    /// It is known how an instance ended that was [`End::Awaited`](crate::backend::End::Awaited): its custody says so now.
    /// Sent by the backend.
    EndKnown {
        /// Which instance.
        slot: Slot,
    },
    /// Send this call to the instance in `slot`.
    Call {
        /// Which instance.
        slot: Slot,
        /// Which call.
        invocation: InvocationId,
        /// Guards against late and forged answers.
        nonce: u64,
        /// The request itself.
        request: CallRequest,
    },
    /// Take back the calls that the instance has not begun.
    TakeBack {
        /// Which instance.
        slot: Slot,
    },
    /// Ask the instance to end by itself, after what is in its pipe.
    Stop {
        /// Which instance.
        slot: Slot,
    },
    /// End the instance now. Its exit is reported as [`FrontEvent::Exited`].
    Kill {
        /// Which instance.
        slot: Slot,
    },
    /// End the worker thread, after every instance it owns was killed.
    Shutdown,
}

/// Tells the front thread what happened. Sent by workers, supervisors and control threads.
#[derive(Debug)]
pub enum FrontEvent {
    /// A blank is in its sandbox and waits for a function.
    BlankReady {
        /// Where.
        slot: Slot,
        /// Its process id as the host sees it.
        pid: u32,
    },
    /// A blank could not be made; the slot is free again.
    BlankFailed {
        /// Where.
        slot: Slot,
        /// Why, for the log and for `InvokeError::NoInstances`.
        failure: BlankFailure,
    },
    /// The function's top-level code ran (or did not) in this instance.
    Loaded {
        /// Where.
        slot: Slot,
        /// The failure, if it did not.
        result: Result<(), InvokeError>,
    },
    /// The instance answered a call.
    Completed {
        /// Where.
        slot: Slot,
        /// Which call.
        invocation: InvocationId,
        /// Time between the call's being first in the pipe and its answer, in nanoseconds.
        service_ns: u64,
        /// Whether the call, or a child process of it, wrote to descriptor 1 or 2 itself.
        raw_output: bool,
        /// The answer.
        result: Result<CallReply, InvokeError>,
    },
    /// Calls that the instance had not begun come back to be run elsewhere.
    TakenBack {
        /// Where.
        slot: Slot,
        /// The calls, in their order.
        calls: Vec<(InvocationId, CallRequest)>,
    },
    /// The instance is gone, and everything of it. The slot's next tenant may come.
    Exited {
        /// Where.
        slot: Slot,
        /// How it ended.
        exit: ExitReason,
        /// Calls it had begun and not answered. One at most, unless the function itself took calls out of the channel.
        begun: Vec<InvocationId>,
        /// Calls it had not begun.
        returned: Vec<(InvocationId, CallRequest)>,
    },
    /// A control thread finished a job of the API.
    Control(Box<crate::control::ControlReply>),
    /// The configuration was read again.
    Reload(Box<crate::front::FrontUpdate>),
    /// Something of a takeover.
    Takeover(Box<TakeoverNews>),
}

/// What other threads tell the front about a takeover.
#[derive(Debug)]
pub enum TakeoverNews {
    /// In the server that is taken over: changes are held, and none is under way.
    Settled,
    /// The function logs are written out and left alone.
    LogsWritten {
        /// For which conversation.
        talk: u64,
    },
    /// In the one that takes over: it may serve.
    Open {
        /// Where its predecessor, if it lives, sends connections.
        connections: Option<OwnedFd>,
        /// Where the next successor may knock, if that could be made.
        socket: Option<OwnedFd>,
    },
    /// It will not serve.
    Failed(TakeoverError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instance_id_survives_the_way_to_text_and_back() {
        let slot = Slot { index: 3, generation: 17 };
        assert_eq!(slot.to_string().parse(), Ok(slot));
        for bad in ["", "3-17", "i3", "i03-1", "i3-", "i-1-2", "i3-17 ", "i+3-1"] {
            assert_eq!(bad.parse::<Slot>(), Err(()), "{bad}");
        }
    }
}
