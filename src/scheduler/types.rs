//! The scheduler's vocabulary: the limits it keeps, what it is told about a function, and what it asks for.

use crate::call::{InvocationId, InvokeError, Slot, VersionKey};
use crate::limits;

/// One interpreter (or image) from which blanks are made. Numbered by whoever wires the server; the top bit says that its
/// blanks are containers, of which fewer are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuntimeId(pub u32);

impl RuntimeId {
    const CONTAINER: u32 = 1 << 31;

    /// The runtime with this number, which is below 2^31, of those whose blanks are containers.
    #[must_use]
    pub const fn container(number: u32) -> Self {
        RuntimeId(number | Self::CONTAINER)
    }

    /// Whether its blanks are containers.
    #[must_use]
    pub const fn is_container(self) -> bool {
        self.0 & Self::CONTAINER != 0
    }

    /// Its number among those of its kind.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0 & !Self::CONTAINER
    }
}

/// When an idle instance is stopped that `min_instances` does not keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdleTtl {
    /// When it was idle for this long.
    AfterNs(u64),
    /// When no call is expected, as learnt from when calls came. Instances are started ahead of expected calls, too.
    Adaptive,
}

/// The measure of what is learnt about idle times, in nanoseconds: so that tests can live through weeks in a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdleScale {
    /// Width of a bin of the histogram.
    pub bin_ns: u64,
    /// How long an instance is kept while no pattern is known, and at least when none is started ahead.
    pub unsure_ns: u64,
    /// What was learnt counts half after this long.
    pub half_life_ns: u64,
}

impl Default for IdleScale {
    fn default() -> Self {
        IdleScale {
            bin_ns: limits::IDLE_BIN.as_nanos() as u64,
            unsure_ns: limits::IDLE_UNSURE_TTL.as_nanos() as u64,
            half_life_ns: limits::IDLE_HALF_LIFE.as_nanos() as u64,
        }
    }
}

/// Every bound and wait of the scheduler. Times are nanoseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchedulerLimits {
    /// Instances and blanks together.
    pub slots_max: usize,
    /// Blanks kept ready, or in the making, for each runtime in use whose blanks are processes.
    pub pool_size: usize,
    /// The same for each whose blanks are containers.
    pub container_pool_size: usize,
    /// Calls of one function that may wait for an instance.
    pub queue_per_function_max: usize,
    /// A call that has waited for this long for an instance is given up.
    pub queue_wait_max_ns: u64,
    /// Calls that the server holds, waiting and running.
    pub invocations_max: usize,
    /// Calls in one instance's pipe, the running one included; at most [`limits::PIPE_DEPTH_MAX`].
    pub pipe_depth_max: usize,
    /// A call is piped behind others only while it is expected to end within this time.
    pub pipe_wait_max_ns: u64,
    /// Calls behind one that has run for this long are taken back.
    pub pipe_stall_ns: u64,
    /// A function that wrote to descriptor 1 or 2 itself is not piped to for this long.
    pub raw_output_quiet_ns: u64,
    /// How long an instance stays idle whose function does not say so itself.
    pub idle_ttl: IdleTtl,
    /// By which measure [`IdleTtl::Adaptive`] learns. What was learnt by another measure is kept with that.
    pub idle_scale: IdleScale,
    /// A function's instance must be loaded this long after it was asked for.
    pub cold_start_timeout_ns: u64,
    /// A blank that is a process must be ready this long after it was asked for.
    pub blank_start_timeout_ns: u64,
    /// The same for a container.
    pub container_start_timeout_ns: u64,
    /// A request to a worker (take back, kill) that has no answer for this long is made again.
    pub ask_again_ns: u64,
    /// At least this long an idle instance is left to a function that has no more than another that needs room.
    pub eviction_grace_ns: u64,
    /// After this long an instance gives way to a function that has none, if there are more functions than slots.
    pub share_quantum_ns: u64,
    /// An instance that was asked to stop is ended when it is still busy after this long.
    pub drain_timeout_ns: u64,
    /// What a call is told that a stopping server cut short. When that is, [`Scheduler::shutdown`] is told: part of this
    /// time may have passed by then.
    ///
    /// [`Scheduler::shutdown`]: super::Scheduler::shutdown
    pub shutdown_grace_ns: u64,
    /// First pause after a failed start; doubles with each further one.
    pub backoff_min_ns: u64,
    /// Longest pause between failed starts.
    pub backoff_max_ns: u64,
    /// After so many failures in a row to make a blank, calls that need one fail at once.
    pub blank_failures_max: u32,
    /// The runtime whose pool is kept full even while no function uses it.
    pub default_runtime: RuntimeId,
}

impl Default for SchedulerLimits {
    fn default() -> Self {
        let ns = |time: std::time::Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        SchedulerLimits {
            slots_max: limits::SLOTS_DEFAULT,
            pool_size: limits::POOL_SIZE_DEFAULT,
            container_pool_size: limits::CONTAINER_POOL_SIZE_DEFAULT,
            queue_per_function_max: limits::QUEUE_PER_FUNCTION_MAX,
            queue_wait_max_ns: ns(limits::QUEUE_WAIT_MAX),
            invocations_max: limits::INVOCATIONS_MAX,
            pipe_depth_max: limits::PIPE_DEPTH_MAX,
            pipe_wait_max_ns: ns(limits::PIPE_WAIT_MAX),
            pipe_stall_ns: ns(limits::PIPE_STALL),
            raw_output_quiet_ns: ns(limits::RAW_OUTPUT_QUIET),
            idle_ttl: IdleTtl::AfterNs(ns(limits::WARM_INSTANCE_TTL_DEFAULT)),
            idle_scale: IdleScale::default(),
            cold_start_timeout_ns: ns(limits::COLD_START_TIMEOUT_DEFAULT),
            blank_start_timeout_ns: ns(limits::BLANK_START_TIMEOUT),
            container_start_timeout_ns: ns(limits::CONTAINER_BLANK_TIMEOUT),
            ask_again_ns: ns(limits::WORKER_ASK_AGAIN),
            eviction_grace_ns: ns(limits::EVICTION_GRACE),
            share_quantum_ns: ns(limits::SHARE_QUANTUM),
            drain_timeout_ns: ns(limits::DRAIN_TIMEOUT_DEFAULT),
            shutdown_grace_ns: ns(limits::SHUTDOWN_GRACE_DEFAULT),
            backoff_min_ns: ns(limits::START_BACKOFF_MIN),
            backoff_max_ns: ns(limits::START_BACKOFF_MAX),
            blank_failures_max: limits::BLANK_FAILURES_MAX,
            default_runtime: RuntimeId(0),
        }
    }
}

impl SchedulerLimits {
    /// Blanks kept ready of this runtime while it is in use.
    pub(super) fn pool_size_of(&self, runtime: RuntimeId) -> usize {
        if runtime.is_container() {
            self.container_pool_size
        } else {
            self.pool_size
        }
    }

    /// How long a blank of this runtime may take until it is ready.
    pub(super) fn blank_start_timeout_of_ns(&self, runtime: RuntimeId) -> u64 {
        if runtime.is_container() {
            self.container_start_timeout_ns
        } else {
            self.blank_start_timeout_ns
        }
    }

    /// How long to pause after the given number of failures in a row (1, 2, …).
    pub(super) fn backoff_ns(&self, failures: u32) -> u64 {
        let doublings = failures.saturating_sub(1).min(20);
        self.backoff_min_ns.saturating_mul(1 << doublings).min(self.backoff_max_ns)
    }
}

/// What the scheduler needs to know of one version of a function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunctionPolicy {
    /// Which blanks it is made from.
    pub runtime: RuntimeId,
    /// A call may take this long from its acceptance to its answer.
    pub timeout_ns: u64,
    /// Instances kept warm whatever the load.
    pub min_instances: u32,
    /// Instances at once, those that are ending included.
    pub max_instances: u32,
    /// Calls that one instance is given before it is replaced, at least 1; `u64::MAX` is no end.
    pub invocations_max: u64,
    /// How long its instances stay idle; `None` is [`SchedulerLimits::idle_ttl`].
    pub idle_ttl: Option<IdleTtl>,
}

/// What one call asks for, beside its version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CallTerms {
    /// The request is too big for one datagram: it gets an instance's pipe for itself.
    pub exclusive: bool,
    /// The caller waits no longer than this. The function's own timeout holds if it is shorter, or nothing is said.
    pub timeout_ns: Option<u64>,
}

/// What the scheduler asks its surroundings to do. Actions are to be carried out in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Make a blank; answered by `blank_ready` or `blank_failed`.
    MakeBlank {
        /// Where: a tenant with a new generation.
        slot: Slot,
        /// From what.
        runtime: RuntimeId,
    },
    /// Turn the blank into an instance of the version; answered by `loaded` or `exited`.
    Assign {
        /// Which blank.
        slot: Slot,
        /// What it becomes.
        version: VersionKey,
    },
    /// Send the call to the instance; answered by `completed`, `taken_back` or `exited`.
    Dispatch {
        /// Which instance.
        slot: Slot,
        /// Which call.
        invocation: InvocationId,
        /// The instance was started for this call, which thus pays for a cold start.
        cold: bool,
    },
    /// Take back the calls that the instance has not begun; answered by `taken_back`.
    TakeBack {
        /// Which instance.
        slot: Slot,
    },
    /// End the tenant now, whatever it does; answered by `exited`. May be asked again while no answer comes.
    Kill {
        /// Which tenant.
        slot: Slot,
        /// For the log; a worker may let an [idle](KillReason::is_idle) instance run its exit handlers first.
        why: KillReason,
    },
    /// This call has its outcome: the error. It is the only one it gets.
    Fail {
        /// Which call.
        invocation: InvocationId,
        /// What to tell its client.
        error: InvokeError,
    },
    /// The last instance and the last call of a removed or replaced version are gone; the scheduler has forgotten it.
    Drained {
        /// Which version.
        version: VersionKey,
    },
}

/// Why the scheduler ends a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KillReason {
    /// Idle longer than its function's idle time, or when no call is expected.
    Expired,
    /// Idle, and another function needs its slot.
    Evicted,
    /// The server is full, and another function that has fewer instances waits for one.
    Yielded,
    /// A blank more than the pool holds.
    Surplus,
    /// Its version was removed or replaced.
    Outdated,
    /// Somebody asked for it by `stop_instance`.
    Requested,
    /// It was given as many calls as one instance of its version may have.
    Worn,
    /// The call that it ran exceeded its timeout.
    TimedOut,
    /// The function's top-level code failed.
    LoadFailed,
    /// The function's top-level code ran longer than `cold_start_timeout`.
    LoadTimedOut,
    /// The blank was not ready in time.
    BlankTimedOut,
    /// It was asked to stop, and still ran a call after `drain_timeout`.
    DrainTimedOut,
    /// The server stops.
    Shutdown,
}

impl KillReason {
    /// Whether the instance runs nothing that must be cut short, so that it may end in its own way.
    #[must_use]
    pub fn is_idle(self) -> bool {
        use KillReason::{Evicted, Expired, Outdated, Requested, Worn, Yielded};
        matches!(self, Expired | Evicted | Outdated | Requested | Worn | Yielded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_containers_runtime_is_another_than_the_process_with_its_number() {
        for number in [0, 1, 7, u32::MAX >> 1] {
            let (container, process) = (RuntimeId::container(number), RuntimeId(number));
            assert!(container.is_container() && !process.is_container() && container != process);
            assert_eq!((container.number(), process.number()), (number, number));
        }
    }

    #[test]
    fn backoff_doubles_up_to_its_cap() {
        let limits = SchedulerLimits { backoff_min_ns: 100, backoff_max_ns: 1000, ..SchedulerLimits::default() };
        let pauses: Vec<u64> = [1, 2, 3, 4, 5, u32::MAX].iter().map(|&n| limits.backoff_ns(n)).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1000, 1000]);
    }
}
