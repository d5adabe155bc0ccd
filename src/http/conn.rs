//! One connection: which request is being read, answered or refused, and when to give up.
//!
//! Owns the order of things, the buffers and the deadlines. Does not own the socket: the front passes in what it read
//! and writes what is in [`Conn::output`].
//!
//! After every call of [`Conn::received`], [`Conn::wrote`], [`Conn::respond`], [`Conn::peer_closed`] and
//! [`Conn::expired`], the front calls [`Conn::poll`] and does what it says.
//!
//! Invariants:
//! - Requests are answered one at a time and in their order; what is pipelined behind one stays bytes until then.
//! - No byte of a body is kept, and no `100 Continue` sent, before `admit` has let its head in.
//! - What is held for a client is bounded: see [`Conn::wants_read`] and [`HTTP_OUTPUT_BYTES_MAX`].
//! - Whatever is refused is answered. Where the next request begins is then often unknown, so the connection ends,
//!   but only after the client had a chance to read why: closing with bytes unread makes the kernel send a reset,
//!   which can destroy the answer on its way. Hence the drain.

mod ending;
mod presence;

use std::mem;
use std::ops::ControlFlow::{self, Break, Continue};
use std::time::Instant;

use super::body::BodyReader;
use super::buffer::{Input, Output};
use super::parse::{is_blank, parse_head, RequestHead, Version};
use super::phase::{Exchange, Incoming, Phase};
use super::problem::Problem;
use super::response::{Connection, Response, Stamps};
use super::stamp::Stamp;
use super::timer::{HttpLimits, Timer};
use crate::limits::{HTTP_BODY_COPY_BYTES_MAX, HTTP_OUTPUT_BYTES_MAX, HTTP_PIPELINE_BYTES_MAX};
use ending::shutting_down;

/// A complete request.
#[derive(Debug)]
pub struct Request {
    /// Its head.
    pub head: RequestHead,
    /// Its body, decoded; empty when there is none.
    pub body: Vec<u8>,
}

/// What a connection wants next.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "it is taken apart at once, never stored: a box would only cost")]
pub enum Poll {
    /// Handle this request and call [`Conn::respond`].
    Request(Request),
    /// Nothing, until bytes are received or written.
    NeedBytes,
    /// Nothing, until [`Conn::respond`] is called.
    WaitingForResponse,
    /// Close the socket.
    Close,
}

/// The protocol state of one connection.
#[derive(Debug)]
pub struct Conn {
    phase: Phase,
    input: Input,
    output: Output,
    limits: HttpLimits,
    timer: Timer,
    /// While there is output: until when the client must take some of it.
    write_deadline: Option<Instant>,
    /// The client sends no more.
    is_eof: bool,
    /// How far the server's stop has come.
    stop: Stop,
}

/// How far the stop of the server has come, as a connection sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// It serves.
    No,
    /// Requests are answered still, and the answer behind which no other request has come is the last.
    Announced,
    /// The same, but only requests that had begun to come when this began; a later one is refused.
    Due,
}

/// What the front tells a connection.
impl Conn {
    /// A connection accepted at `now`.
    pub fn new(now: Instant, limits: HttpLimits) -> Conn {
        Conn {
            phase: Phase::Head,
            input: Input::default(),
            output: Output::default(),
            timer: Timer::Idle { until: now + limits.idle_timeout },
            limits,
            write_deadline: None,
            is_eof: false,
            stop: Stop::No,
        }
    }

    /// A connection that is refused before it said anything, as when there are too many.
    pub fn refused(now: Instant, limits: HttpLimits, problem: Problem, stamp: &mut Stamp) -> Conn {
        let mut conn = Conn::new(now, limits);
        let exchange = Exchange::unknown(&mut stamp.ids);
        conn.refuse(problem, exchange, now, stamp);
        conn
    }

    /// Takes bytes that were read from the socket, while [`Conn::wants_read`].
    pub fn received(&mut self, bytes: &[u8]) {
        match &mut self.phase {
            Phase::Drain { left, .. } => *left = left.saturating_sub(bytes.len()),
            Phase::Flush | Phase::Closed => {}
            _ => self.input.push(bytes),
        }
        self.check();
    }

    /// The client closed its side. Requests that came whole are still answered.
    pub fn peer_closed(&mut self) {
        self.is_eof = true;
        self.check();
    }

    /// Answers the request that [`Conn::poll`] gave. Does nothing when none is waiting, as after a client that did not
    /// take its bytes was given up.
    pub fn respond(&mut self, response: Response, now: Instant, stamp: &Stamp) {
        let Phase::Answering(mut exchange) = self.phase else { return };
        let ends_here = exchange.keep_alive && self.is_last(0);
        exchange.keep_alive &= !ends_here;
        self.queue(response, &exchange, now, stamp);
        if exchange.keep_alive {
            self.enter(Phase::Head, Timer::Off);
        } else {
            // A client that did not ask for the end may be sending its next request.
            self.end(ends_here, now);
        }
        self.check();
    }

    /// The socket took the first `n` bytes of [`Conn::output`] and [`Conn::output_tail`].
    pub fn wrote(&mut self, n: usize, now: Instant) {
        self.output.consume(n);
        self.write_deadline = (!self.output.is_empty()).then(|| now + self.limits.write_stall_timeout);
        self.check();
    }

    /// Acts on a deadline if one has passed: a slow request gets 408, an idle or stalled connection is closed.
    pub fn expired(&mut self, now: Instant, stamp: &mut Stamp) {
        if self.write_deadline.is_some_and(|deadline| deadline <= now) {
            return self.close();
        }
        if self.timer.deadline(&self.limits).is_none_or(|deadline| deadline > now) {
            return;
        }
        match self.timer {
            Timer::Off => {}
            Timer::Presence { asked, .. } => self.ask_for_presence(asked, now),
            Timer::Idle { .. } | Timer::Drain { .. } => self.close(),
            Timer::Head { .. } => {
                let problem = Problem::timeout("the request head took too long");
                let exchange = Exchange::unknown(&mut stamp.ids);
                self.refuse(problem, exchange, now, stamp);
            }
            Timer::Body { .. } => {
                let problem = Problem::timeout("the request body took too long");
                let exchange = match &self.phase {
                    Phase::Body(incoming) => incoming.exchange,
                    _ => Exchange::unknown(&mut stamp.ids),
                };
                self.refuse(problem, exchange, now, stamp);
            }
        }
        self.check();
    }
}

/// What a connection tells the front.
impl Conn {
    /// Goes on as far as it can. `admit` is asked once for each head, before anything of the body is accepted: it
    /// gives the largest body in bytes, or the response that turns the request away.
    pub fn poll<A>(&mut self, now: Instant, stamp: &mut Stamp, admit: &mut A) -> Poll
    where
        A: FnMut(&RequestHead) -> Result<usize, Response>,
    {
        loop {
            let step = match &mut self.phase {
                Phase::Head => self.poll_head(now, stamp, admit),
                Phase::Body(_) => self.poll_body(now, stamp),
                Phase::Answering(_) => {
                    self.watch_presence(now);
                    Break(Poll::WaitingForResponse)
                }
                Phase::Skip { .. } => self.poll_skip(now),
                Phase::Flush => self.close_when(true),
                Phase::Drain { left, .. } => {
                    let is_over = *left == 0 || self.is_eof;
                    self.close_when(is_over)
                }
                Phase::Closed => Break(Poll::Close),
            };
            self.check();
            if let Break(poll) = step {
                return poll;
            }
        }
    }

    /// True while more bytes of the client are of use. When false, the front leaves them in the kernel, which makes
    /// the client wait.
    pub fn wants_read(&self) -> bool {
        !self.is_eof
            && match self.phase {
                Phase::Flush | Phase::Closed => false,
                Phase::Drain { left, .. } => left > 0,
                _ => self.input.bytes().len() < HTTP_PIPELINE_BYTES_MAX,
            }
    }

    /// Whether the client waits for no answer: nothing of a request is there, or not even its whole head.
    pub fn is_between_requests(&self) -> bool {
        matches!(self.phase, Phase::Head)
    }

    /// What was received and not acted on.
    pub fn unread(&self) -> &[u8] {
        self.input.bytes()
    }

    /// Bytes for the client.
    pub fn output(&self) -> &[u8] {
        self.output.bytes()
    }

    /// Bytes for the client behind those of [`Conn::output`]: a large body, empty for most answers. The two are one
    /// vectored write.
    pub fn output_tail(&self) -> &[u8] {
        self.output.tail()
    }

    /// When [`Conn::expired`] wants to be called, unless something happens before.
    pub fn deadline(&self) -> Option<Instant> {
        let timer = self.timer.deadline(&self.limits);
        [timer, self.write_deadline].into_iter().flatten().min()
    }

    /// True once, when everything was written to a client that may still be sending: the front then shuts down the
    /// socket's write side, so that the client sees the end and stops.
    pub fn take_half_close(&mut self) -> bool {
        match &mut self.phase {
            Phase::Drain { half_close_reported, .. } if self.output.is_empty() => {
                !mem::replace(half_close_reported, true)
            }
            _ => false,
        }
    }
}

type Step = ControlFlow<Poll>;

/// The interim response that says to go on.
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// The way of a request.
impl Conn {
    fn poll_head<A>(&mut self, now: Instant, stamp: &mut Stamp, admit: &mut A) -> Step
    where
        A: FnMut(&RequestHead) -> Result<usize, Response>,
    {
        // A client that does not take its answers gets no more of them. The write deadline watches it meanwhile.
        if self.output.len() >= HTTP_OUTPUT_BYTES_MAX || !self.output.tail().is_empty() {
            self.timer = Timer::Off;
            return Break(Poll::NeedBytes);
        }
        match parse_head(self.input.bytes(), &mut stamp.ids) {
            Ok(Some((head, len))) => {
                let is_late = self.is_late();
                self.input.consume(len);
                if is_late {
                    let refusal = shutting_down().into_response(head.request_id());
                    return self.turn_away(refusal, &head, Exchange::of(&head), now, stamp);
                }
                self.begin(head, now, stamp, admit)
            }
            Ok(None) if (self.is_eof || self.stop == Stop::Due) && is_blank(self.input.bytes()) => {
                self.enter(Phase::Flush, Timer::Off);
                Continue(())
            }
            Ok(None) if self.is_late() => {
                self.end(true, now);
                Continue(())
            }
            Ok(None) if self.is_eof => {
                self.refuse_unknown(Problem::malformed("the request ends in its head"), now, stamp)
            }
            Ok(None) => {
                self.time_head(now);
                Break(Poll::NeedBytes)
            }
            Err(error) => self.refuse_unknown(error.into(), now, stamp),
        }
    }

    /// The wait for a head is idle until the head's first byte, and is not idle while an answer is still being taken.
    fn time_head(&mut self, now: Instant) {
        self.timer = match self.timer {
            _ if is_blank(self.input.bytes()) && !self.output.is_empty() => Timer::Off,
            Timer::Idle { until } if is_blank(self.input.bytes()) => Timer::Idle { until },
            _ if is_blank(self.input.bytes()) => Timer::Idle { until: now + self.limits.idle_timeout },
            Timer::Head { until } => Timer::Head { until },
            _ => Timer::Head { until: now + self.limits.head_timeout },
        };
    }

    fn begin<A>(&mut self, head: RequestHead, now: Instant, stamp: &mut Stamp, admit: &mut A) -> Step
    where
        A: FnMut(&RequestHead) -> Result<usize, Response>,
    {
        let exchange = Exchange::of(&head);
        let bytes_max = match admit(&head) {
            Ok(bytes_max) => bytes_max,
            Err(response) => return self.turn_away(response, &head, exchange, now, stamp),
        };
        let mut reader = match BodyReader::begin(head.framing(), bytes_max) {
            Ok(reader) => reader,
            Err(error) => return self.refuse_body(error, exchange, now, stamp),
        };
        // Whoever has sent some of the body already does not wait to be told to (RFC 9110, 10.1.1).
        if head.expect_continue() && !reader.is_complete() && self.input.bytes().is_empty() {
            self.output.end().extend_from_slice(CONTINUE);
            self.expect_write(now);
        }
        match reader.read(self.input.bytes()) {
            Ok(taken) => self.input.consume(taken),
            Err(error) => return self.refuse_body(error, exchange, now, stamp),
        }
        if reader.is_complete() {
            self.enter(Phase::Answering(exchange), Timer::Off);
            return Break(Poll::Request(Request { head, body: reader.into_body() }));
        }
        let timer = Timer::Body { since: now, received: reader.len() as u64 };
        self.enter(Phase::Body(Box::new(Incoming { head, reader, exchange })), timer);
        Continue(())
    }

    fn poll_body(&mut self, now: Instant, stamp: &mut Stamp) -> Step {
        let Phase::Body(incoming) = &mut self.phase else { return Continue(()) };
        let exchange = incoming.exchange;
        match incoming.reader.read(self.input.bytes()) {
            Ok(taken) => self.input.consume(taken),
            Err(error) => return self.refuse_body(error, exchange, now, stamp),
        }
        if incoming.reader.is_complete() {
            let Phase::Body(incoming) = self.enter(Phase::Answering(exchange), Timer::Off) else {
                return Continue(());
            };
            return Break(Poll::Request(Request { head: incoming.head, body: incoming.reader.into_body() }));
        }
        if let Timer::Body { received, .. } = &mut self.timer {
            *received = incoming.reader.len() as u64;
        }
        if self.is_eof {
            self.refuse(Problem::malformed("the request ends in its body"), exchange, now, stamp);
            return Continue(());
        }
        Break(Poll::NeedBytes)
    }

    fn poll_skip(&mut self, now: Instant) -> Step {
        let Phase::Skip { left } = self.phase else { return Continue(()) };
        let skipped = left.min(self.input.bytes().len() as u64);
        // It is at most the length of a buffer, so it fits.
        self.input.consume(skipped as usize);
        let left = left - skipped;
        if left == 0 {
            self.enter(Phase::Head, Timer::Off);
            return Continue(());
        }
        if self.is_eof {
            self.end(false, now);
            return Continue(());
        }
        self.phase = Phase::Skip { left };
        Break(Poll::NeedBytes)
    }
}

/// What is written, and the one way between phases.
impl Conn {
    /// Writes a response into the output.
    fn queue(&mut self, response: Response, exchange: &Exchange, now: Instant, stamp: &Stamp) {
        let connection = match (exchange.keep_alive, exchange.version) {
            (false, _) => Connection::Close,
            (true, Version::Http10) => Connection::KeepAlive,
            (true, Version::Http11) => Connection::Default,
        };
        let stamps =
            Stamps { date: &stamp.date, request_id: &exchange.request_id, connection, is_head: exchange.is_head };
        let body = response.write_head(self.output.end(), &stamps);
        if body.len() <= HTTP_BODY_COPY_BYTES_MAX {
            self.output.end().extend_from_slice(&body);
        } else {
            self.output.set_tail(body);
        }
        self.expect_write(now);
    }

    fn expect_write(&mut self, now: Instant) {
        self.write_deadline.get_or_insert(now + self.limits.write_stall_timeout);
    }

    /// The only way from one phase to another. Gives back the phase that was left.
    fn enter(&mut self, to: Phase, timer: Timer) -> Phase {
        debug_assert!(self.phase.may_become(&to), "from {:?} to {to:?}", self.phase);
        self.timer = timer;
        mem::replace(&mut self.phase, to)
    }

    /// The invariant sweep.
    fn check(&self) {
        debug_assert_eq!(
            self.write_deadline.is_none(),
            self.output.is_empty(),
            "a write deadline, and only for output"
        );
        match self.phase {
            Phase::Head | Phase::Skip { .. } => {}
            Phase::Body(_) => debug_assert!(matches!(self.timer, Timer::Body { .. }), "an untimed body"),
            Phase::Drain { .. } => debug_assert!(matches!(self.timer, Timer::Drain { .. }), "an untimed drain"),
            Phase::Answering(_) => {
                debug_assert!(matches!(self.timer, Timer::Off | Timer::Presence { .. }), "a timed wait")
            }
            Phase::Flush => debug_assert_eq!(self.timer, Timer::Off),
            Phase::Closed => debug_assert!(self.output.is_empty() && self.input.bytes().is_empty()),
        }
    }
}
