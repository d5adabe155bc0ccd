//! The ways to the end of a connection: a refusal, the end of the client, the stop of the server.
//!
//! A server that stops owes an answer to every request that was sent to it in time, also to one that is pipelined
//! behind another or has come in part only. So a stop has two steps, between which the front lets some time pass:
//! [`Conn::announce_stop`], from which on the answer behind which nothing has come says `Connection: close`, and
//! [`Conn::stop`], which closes what is idle and refuses what comes later.

use std::ops::ControlFlow::{Break, Continue};
use std::time::Instant;

use super::super::body::BodyError;
use super::super::buffer::Input;
use super::super::parse::{is_blank, Framing, RequestHead};
use super::super::phase::{Exchange, Phase};
use super::super::problem::Problem;
use super::super::response::Response;
use super::super::stamp::Stamp;
use super::super::timer::Timer;
use super::{Conn, Poll, Step, Stop};
use crate::call::InvokeError;
use crate::limits::HTTP_DRAIN_BYTES_MAX;

/// What is said to a request that comes too late.
pub(super) fn shutting_down() -> Problem {
    Problem::from(&InvokeError::ShuttingDown)
}

/// The stop of the server.
impl Conn {
    /// The server is about to stop: requests are answered as before, and the last one that has come ends the
    /// connection. One on which nothing comes stays open, since a request may be on its way.
    pub fn announce_stop(&mut self) {
        if self.stop == Stop::No {
            self.stop = Stop::Announced;
        }
    }

    /// The server stops: requests that have begun to come are still taken and answered. Without any, the connection
    /// closes. What begins later gets 503, if there is still somebody to say so to.
    pub fn stop(&mut self) {
        self.stop = Stop::Due;
        self.input.mark();
    }

    /// The server waits no longer: a request that has not come whole by now is refused.
    pub fn give_up(&mut self, now: Instant, stamp: &mut Stamp) {
        let exchange = match &self.phase {
            Phase::Body(incoming) => incoming.exchange,
            Phase::Head if !is_blank(self.input.bytes()) && self.output.tail().is_empty() => {
                Exchange::unknown(&mut stamp.ids)
            }
            _ => return,
        };
        self.refuse(shutting_down(), exchange, now, stamp);
        self.check();
    }

    /// Whether the request in hand, of which `skipped` bytes are still to be thrown away, is the connection's last.
    pub(super) fn is_last(&self, skipped: u64) -> bool {
        if self.stop == Stop::No {
            return false;
        }
        let held = self.input.bytes();
        usize::try_from(skipped).ok().and_then(|skipped| held.get(skipped..)).is_none_or(is_blank)
    }

    /// Whether what is held, and not yet begun, came after the stop.
    pub(super) fn is_late(&self) -> bool {
        self.stop == Stop::Due && !self.input.holds_marked()
    }
}

/// Refusals, and closing.
impl Conn {
    /// Sends `admit`'s response. The connection survives when the body is short and sure to come: an API client with a
    /// wrong key, or one over its rate, should not have to connect anew each time.
    pub(super) fn turn_away(
        &mut self,
        response: Response,
        head: &RequestHead,
        mut exchange: Exchange,
        now: Instant,
        stamp: &Stamp,
    ) -> Step {
        let skipped = match head.framing() {
            Framing::None => Some(0),
            Framing::Length(length) if length <= HTTP_DRAIN_BYTES_MAX as u64 && !head.expect_continue() => Some(length),
            Framing::Length(_) | Framing::Chunked => None,
        };
        exchange.keep_alive &= skipped.is_some_and(|skipped| !self.is_last(skipped));
        self.queue(response, &exchange, now, stamp);
        match skipped {
            Some(left) if exchange.keep_alive => {
                self.enter(Phase::Skip { left }, Timer::Drain { until: now + self.limits.drain_timeout });
            }
            _ => self.end(skipped != Some(0), now),
        }
        Continue(())
    }

    pub(super) fn refuse_unknown(&mut self, problem: Problem, now: Instant, stamp: &mut Stamp) -> Step {
        let exchange = Exchange::unknown(&mut stamp.ids);
        self.refuse(problem, exchange, now, stamp);
        Continue(())
    }

    pub(super) fn refuse_body(&mut self, error: BodyError, exchange: Exchange, now: Instant, stamp: &Stamp) -> Step {
        self.refuse(error.into(), exchange, now, stamp);
        Continue(())
    }

    /// Answers with a problem and ends the connection.
    pub(super) fn refuse(&mut self, problem: Problem, mut exchange: Exchange, now: Instant, stamp: &Stamp) {
        exchange.keep_alive = false;
        let request_id = exchange.request_id;
        self.queue(problem.into_response(&request_id), &exchange, now, stamp);
        self.end(true, now);
    }

    /// Ends the connection once the output is written; `has_unread` if the client may still be sending.
    pub(super) fn end(&mut self, has_unread: bool, now: Instant) {
        let held = self.input.bytes().len();
        if !has_unread && held == 0 {
            self.enter(Phase::Flush, Timer::Off);
            return;
        }
        self.input.consume(held);
        let left = HTTP_DRAIN_BYTES_MAX.saturating_sub(held);
        let timer = Timer::Drain { until: now + self.limits.drain_timeout };
        self.enter(Phase::Drain { left, half_close_reported: false }, timer);
    }

    pub(super) fn close_when(&mut self, is_over: bool) -> Step {
        if !is_over || !self.output.is_empty() {
            return Break(Poll::NeedBytes);
        }
        self.close();
        Continue(())
    }

    pub(super) fn close(&mut self) {
        self.input = Input::default();
        self.output.clear();
        self.write_deadline = None;
        self.enter(Phase::Closed, Timer::Off);
    }
}
