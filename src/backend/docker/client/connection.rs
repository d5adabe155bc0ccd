//! One connection to the engine, which carries one call at a time.
//!
//! Invariant: whenever [`Connection::advance`] says that it waits, the kernel has said so of the socket, both ways if there
//! is something to write: the poll tells of changes only.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::time::Instant;

use mio::net::UnixStream;
use mio::Registry;

use super::super::http::{ApiVersion, ResponseDecoder, ResponseError, ResponseEvent};
use super::call::Call;
use super::stream::{Excess, Intake};
use super::News;
use crate::limits::ENGINE_READS_PER_TURN_MAX;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
    duty: Duty,
    /// It has carried a call before.
    is_reused: bool,
    /// There may be something to read of which the poll tells no more.
    pub(super) has_more: bool,
}

#[derive(Debug)]
enum Duty {
    /// Nothing is asked, and nothing is to be heard. Closed at this time.
    Idle { until: Instant },
    /// A call is under way.
    Busy(Box<Exchange>),
    /// Its call was taken away, so it can only be closed.
    Spent,
}

/// A call on its connection.
#[derive(Debug)]
struct Exchange {
    call: Call,
    output: Vec<u8>,
    written: usize,
    /// The engine takes no more of the request. What it says of that is still to be read.
    is_refused: bool,
    decoder: ResponseDecoder,
    intake: Intake,
    /// Any byte of the answer has come.
    is_heard: bool,
    /// The engine would take another request.
    keep_alive: bool,
}

/// What has come of a turn.
#[derive(Debug)]
pub(super) enum Progress {
    /// The kernel tells when it can go on.
    Waits,
    /// It can go on, but others have their turn first.
    HasMore,
    /// The answer is complete, and in the news.
    Done {
        /// The connection can carry another call.
        is_kept: bool,
    },
    /// The connection is of no use.
    Broken(Fault),
}

/// Why not.
#[derive(Debug)]
pub(super) enum Fault {
    /// The engine closed a connection that had been kept, and of the answer not one byte had come.
    ClosedUnheard {
        /// Nor was one of the request written.
        is_unwritten: bool,
    },
    /// The engine closed it.
    Closed,
    /// The answer is not one.
    Garbage(ResponseError),
    /// The answer exceeds this limit, in bytes.
    TooLarge(usize),
}

impl From<Excess> for Fault {
    fn from(Excess(limit): Excess) -> Fault {
        Fault::TooLarge(limit)
    }
}

impl Connection {
    /// One that was just made; without a call it is closed at `until`.
    pub(super) fn new(stream: UnixStream, until: Instant) -> Connection {
        Connection { stream, duty: Duty::Idle { until }, is_reused: false, has_more: false }
    }

    pub(super) fn is_idle(&self) -> bool {
        matches!(self.duty, Duty::Idle { .. })
    }

    pub(super) fn call(&self) -> Option<&Call> {
        match &self.duty {
            Duty::Busy(exchange) => Some(&exchange.call),
            Duty::Idle { .. } | Duty::Spent => None,
        }
    }

    /// When it has to be closed, by its owner.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match &self.duty {
            Duty::Busy(exchange) => exchange.call.deadline,
            Duty::Idle { until } => Some(*until),
            Duty::Spent => None,
        }
    }

    /// Whether a kept connection has neither ended nor something to say that nobody asked for, which would be taken for
    /// the next answer. Its event may still be on the way.
    pub(super) fn is_quiet(&mut self, buffer: &mut [u8]) -> bool {
        loop {
            match self.stream.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
                Ok(_) => return false,
            }
        }
    }

    /// Gives it a call, which it must not have.
    pub(super) fn begin(&mut self, call: Call, version: Option<ApiVersion>) {
        self.duty = Duty::Busy(Box::new(Exchange {
            output: call.request.encode(version),
            written: 0,
            is_refused: false,
            decoder: ResponseDecoder::new(call.request.method),
            intake: Intake::new(call.id, &call.request),
            is_heard: false,
            keep_alive: false,
            call,
        }));
    }

    /// Lets it wait for another call until then.
    pub(super) fn rest(&mut self, until: Instant) {
        self.duty = Duty::Idle { until };
        self.is_reused = true;
    }

    /// Takes its call away; it must be closed.
    pub(super) fn take_call(&mut self) -> Option<Call> {
        match std::mem::replace(&mut self.duty, Duty::Spent) {
            Duty::Busy(exchange) => Some(exchange.call),
            Duty::Idle { .. } | Duty::Spent => None,
        }
    }

    pub(super) fn close(mut self, registry: &Registry) {
        // The end of the descriptor ends its registration; that it is undone before can fail only if it was not there.
        let _ = registry.deregister(&mut self.stream);
    }

    /// Writes and reads until the kernel has no more, up to a fair share.
    pub(super) fn advance(&mut self, buffer: &mut [u8], news: &mut VecDeque<News>, now: Instant) -> Progress {
        if self.is_idle() {
            return if self.is_quiet(buffer) { Progress::Waits } else { Progress::Broken(Fault::Closed) };
        }
        let Duty::Busy(exchange) = &mut self.duty else { return Progress::Waits };
        exchange.write(&mut self.stream);
        for _ in 0..ENGINE_READS_PER_TURN_MAX {
            match self.stream.read(buffer) {
                Ok(0) => return exchange.closed(self.is_reused, news),
                Ok(length) => match exchange.take(&buffer[..length], news, now) {
                    Ok(false) => {}
                    Ok(true) => return Progress::Done { is_kept: exchange.keep_alive },
                    Err(fault) => return Progress::Broken(fault),
                },
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Progress::Waits,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The engine closed it with bytes of ours unread. That is no orderly end of anything.
                Err(_) => return Progress::Broken(exchange.fault_of_end(self.is_reused)),
            }
        }
        Progress::HasMore
    }
}

impl Exchange {
    fn write(&mut self, stream: &mut UnixStream) {
        while !self.is_refused && self.written < self.output.len() {
            match stream.write(&self.output[self.written..]) {
                Ok(length) => self.written += length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => self.is_refused = true,
            }
        }
    }

    /// Takes what came; true if the answer is complete with it.
    fn take(&mut self, bytes: &[u8], news: &mut VecDeque<News>, now: Instant) -> Result<bool, Fault> {
        self.is_heard = true;
        let outcome = self.decode(bytes, news, now);
        // What came before the fault, or before the end, is part of the stream.
        news.extend(self.intake.flush());
        if matches!(outcome, Ok(true)) {
            news.push_back(self.intake.end());
        }
        outcome
    }

    fn decode(&mut self, bytes: &[u8], news: &mut VecDeque<News>, now: Instant) -> Result<bool, Fault> {
        let mut rest = bytes;
        while let Some(event) = self.decoder.next(&mut rest).map_err(Fault::Garbage)? {
            match event {
                ResponseEvent::Head(head) => {
                    self.keep_alive = head.keep_alive;
                    news.extend(self.intake.head(&head)?);
                }
                ResponseEvent::Data(data) => self.intake.data(data)?,
                ResponseEvent::End => {
                    // Bytes behind the answer are nobody's, and an answer to half a request leaves the other half to come.
                    self.keep_alive &= rest.is_empty() && self.written == self.output.len();
                    return Ok(true);
                }
            }
            if self.intake.is_streaming {
                self.call.extend(now);
            }
        }
        Ok(false)
    }

    /// The engine sends no more.
    fn closed(&mut self, is_reused: bool, news: &mut VecDeque<News>) -> Progress {
        match self.decoder.closed() {
            Ok(()) => {
                news.push_back(self.intake.end());
                Progress::Done { is_kept: false }
            }
            Err(_) => Progress::Broken(self.fault_of_end(is_reused)),
        }
    }

    fn fault_of_end(&self, is_reused: bool) -> Fault {
        if is_reused && !self.is_heard {
            Fault::ClosedUnheard { is_unwritten: self.written == 0 }
        } else {
            Fault::Closed
        }
    }
}
