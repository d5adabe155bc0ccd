//! What a connection is waiting for, and until when: absolute instants, so that a trickle of bytes buys no time.
//!
//! Owns the arithmetic. When a wait begins and what its end means is decided by `conn`.

use std::time::{Duration, Instant};

use crate::limits;

/// The time limits of a connection. The defaults are those of [`crate::limits`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HttpLimits {
    /// A head must be complete this long after its first byte.
    pub head_timeout: Duration,
    /// A body must be complete this long after its head.
    pub body_timeout: Duration,
    /// A body must arrive at this average rate, in bytes per second, at least 1, after `body_grace`.
    pub body_rate_min: u64,
    /// Time that a body gets beside what `body_rate_min` allows for the bytes that came.
    pub body_grace: Duration,
    /// A connection without a request is closed after this long.
    pub idle_timeout: Duration,
    /// A client that takes no byte of its answer for this long is closed.
    pub write_stall_timeout: Duration,
    /// What a refused request still sends is read for this long.
    pub drain_timeout: Duration,
    /// A client that sends no more is asked after this long whether it waits for its answer.
    pub presence_pause: Duration,
    /// And at most so many times, after growing pauses.
    pub presence_asked_max: u32,
}

impl Default for HttpLimits {
    fn default() -> HttpLimits {
        HttpLimits {
            head_timeout: limits::HTTP_HEAD_TIMEOUT,
            body_timeout: limits::HTTP_BODY_TIMEOUT,
            body_rate_min: limits::HTTP_BODY_RATE_MIN,
            body_grace: limits::HTTP_BODY_GRACE,
            idle_timeout: limits::HTTP_IDLE_TIMEOUT,
            write_stall_timeout: limits::HTTP_WRITE_STALL_TIMEOUT,
            drain_timeout: limits::HTTP_DRAIN_TIMEOUT,
            presence_pause: limits::HTTP_PRESENCE_PAUSE,
            presence_asked_max: limits::HTTP_PRESENCE_ASKED_MAX,
        }
    }
}

/// What is awaited from the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Timer {
    /// Nothing.
    Off,
    /// The first byte of a request.
    Idle { until: Instant },
    /// The end of a head.
    Head { until: Instant },
    /// The end of a body whose head was complete at `since`, and of which `received` bytes came.
    Body { since: Instant, received: u64 },
    /// The end of what is read only to be thrown away.
    Drain { until: Instant },
    /// The time to ask a client that sends no more whether it still waits, which was done so many times.
    Presence { until: Instant, asked: u32 },
}

impl Timer {
    /// When the wait ends.
    pub(super) fn deadline(&self, limits: &HttpLimits) -> Option<Instant> {
        match *self {
            Timer::Off => None,
            Timer::Idle { until } | Timer::Head { until } | Timer::Drain { until } => Some(until),
            Timer::Presence { until, asked } => (asked < limits.presence_asked_max).then_some(until),
            Timer::Body { since, received } => {
                let earned = limits.body_grace + Duration::from_secs(received / limits.body_rate_min.max(1));
                Some(since + earned.min(limits.body_timeout))
            }
        }
    }
}
