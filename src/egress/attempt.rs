//! One `connect` that is being made for a function: what is tried next, and what the caller is told in the end.
//!
//! Pure: time is an argument, and sockets are somebody else's. The caller is answered exactly once, because every
//! answer consumes the attempt's owner (see `broker`).

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::limits::{EGRESS_CONNECT_TIMEOUT, EGRESS_NAME_SERVER_TIMEOUT};

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Attempt {
    /// What is tried when the present target fails.
    rest: VecDeque<SocketAddr>,
    /// Whether the caller waits for the connection.
    blocking: bool,
    /// When it is given up.
    give_up_at: Instant,
    /// When the caller wants to hear that it is still under way.
    patience_ends_at: Option<Instant>,
    /// When the present target makes room for the next one.
    next_at: Option<Instant>,
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing yet.
    Wait,
    /// Connect to this instead.
    Try(SocketAddr),
    /// Give the caller the socket, and this answer.
    Hand(Result<(), i32>),
    /// Give the caller this answer alone.
    Fail(i32),
}

impl Attempt {
    /// An attempt at the first of these addresses, of which there is at least one, and then at the others.
    pub(super) fn new(others: VecDeque<SocketAddr>, blocking: bool, patience: Option<Duration>, now: Instant) -> Self {
        let mut attempt = Attempt {
            rest: others,
            blocking,
            give_up_at: now + EGRESS_CONNECT_TIMEOUT,
            patience_ends_at: patience.map(|patience| now + patience.min(EGRESS_CONNECT_TIMEOUT)),
            next_at: None,
        };
        attempt.set_next(now);
        attempt
    }

    /// The kernel has been asked to connect: done, under way, or this error.
    pub(super) fn began(&mut self, outcome: Result<bool, i32>, now: Instant) -> Step {
        match outcome {
            Ok(true) => Step::Hand(Ok(())),
            Ok(false) if self.blocking => Step::Wait,
            // The caller watches the socket itself.
            Ok(false) => Step::Hand(Err(libc::EINPROGRESS)),
            Err(errno) => self.next(now, errno),
        }
    }

    /// The kernel has finished: connected, or this error.
    pub(super) fn finished(&mut self, outcome: Result<(), i32>, now: Instant) -> Step {
        match outcome {
            Ok(()) => Step::Hand(Ok(())),
            Err(errno) => self.next(now, errno),
        }
    }

    /// Time has passed.
    pub(super) fn passed(&mut self, now: Instant) -> Step {
        if self.patience_ends_at.is_some_and(|at| now >= at) {
            // As the kernel has it: the time that is set for sending ends the wait, not the connecting.
            Step::Hand(Err(libc::EINPROGRESS))
        } else if now >= self.give_up_at {
            Step::Fail(libc::ETIMEDOUT)
        } else if self.next_at.is_some_and(|at| now >= at) {
            self.next(now, libc::ETIMEDOUT)
        } else {
            Step::Wait
        }
    }

    /// When [`Attempt::passed`] has something to say.
    pub(super) fn deadline(&self) -> Instant {
        [self.patience_ends_at, self.next_at].into_iter().flatten().fold(self.give_up_at, Instant::min)
    }

    fn next(&mut self, now: Instant, errno: i32) -> Step {
        match self.rest.pop_front() {
            Some(address) => {
                self.set_next(now);
                Step::Try(address)
            }
            None => Step::Fail(errno),
        }
    }

    /// Only a target behind which there is another is given up before its time.
    fn set_next(&mut self, now: Instant) {
        self.next_at = (!self.rest.is_empty()).then(|| now + EGRESS_NAME_SERVER_TIMEOUT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFUSED: i32 = libc::ECONNREFUSED;

    fn attempt(others: &[&str], blocking: bool, patience: Option<Duration>, now: Instant) -> Attempt {
        Attempt::new(others.iter().map(|text| text.parse().unwrap()).collect(), blocking, patience, now)
    }

    #[test]
    fn a_caller_that_waits_hears_of_the_end_and_one_that_does_not_at_once() {
        let now = Instant::now();
        let mut waiting = attempt(&[], true, None, now);
        assert_eq!(waiting.began(Ok(false), now), Step::Wait);
        assert_eq!(waiting.passed(now + EGRESS_CONNECT_TIMEOUT - Duration::from_nanos(1)), Step::Wait);
        assert_eq!(waiting.finished(Ok(()), now), Step::Hand(Ok(())));
        assert_eq!(attempt(&[], true, None, now).finished(Err(REFUSED), now), Step::Fail(REFUSED));
        let mut busy = attempt(&[], false, None, now);
        assert_eq!(busy.began(Ok(false), now), Step::Hand(Err(libc::EINPROGRESS)));
        assert_eq!(busy.began(Ok(true), now), Step::Hand(Ok(())));
        assert_eq!(busy.began(Err(libc::ENETUNREACH), now), Step::Fail(libc::ENETUNREACH));
    }

    #[test]
    fn the_callers_own_time_ends_the_wait_and_ours_the_attempt() {
        let now = Instant::now();
        let patience = Duration::from_secs(3);
        let mut short = attempt(&[], true, Some(patience), now);
        assert_eq!(short.deadline(), now + patience);
        assert_eq!(short.passed(now + patience / 2), Step::Wait);
        assert_eq!(short.passed(now + patience), Step::Hand(Err(libc::EINPROGRESS)));
        let mut long = attempt(&[], true, None, now);
        assert_eq!(long.deadline(), now + EGRESS_CONNECT_TIMEOUT);
        assert_eq!(long.passed(now + EGRESS_CONNECT_TIMEOUT), Step::Fail(libc::ETIMEDOUT));
    }

    #[test]
    fn a_name_server_that_does_not_answer_makes_room_for_the_next() {
        let now = Instant::now();
        let servers = ["10.0.0.2:53", "10.0.0.3:53"];
        let mut attempt = attempt(&servers, true, None, now);
        assert_eq!(attempt.began(Ok(false), now), Step::Wait);
        let second = now + EGRESS_NAME_SERVER_TIMEOUT;
        assert_eq!(attempt.deadline(), second);
        assert_eq!(attempt.passed(second), Step::Try(servers[0].parse().unwrap()));
        assert_eq!(attempt.began(Err(REFUSED), second), Step::Try(servers[1].parse().unwrap()));
        assert_eq!(attempt.began(Ok(false), second), Step::Wait);
        assert_eq!(attempt.deadline(), now + EGRESS_CONNECT_TIMEOUT, "the last one has all the time");
        assert_eq!(attempt.finished(Err(REFUSED), second), Step::Fail(REFUSED));
    }
}
