//! Calls to a container engine over its Unix socket, on somebody else's poll.
//!
//! Owns the connections (at most [`ENGINE_CONNECTIONS_MAX`]), the calls that wait for one, and the deadline of each call.
//! Does not own the thread, the poll or the meaning of an answer. Nothing here blocks. Connections are kept and used again,
//! the last used first; each carries one call at a time.
//!
//! | module | what it owns |
//! |---|---|
//! | `connection` | one connection: its bytes in both directions, and when it is of no use any more |
//! | `stream` | what an answer's parts become: one reply, or a stream's head, pieces and end |
//! | `call` | a call and until when it is waited for |
//!
//! Invariants:
//! - A call that was submitted ends with exactly one of [`News::Reply`], [`News::End`] and [`News::Failed`], whatever the
//!   engine does, or with [`Client::cancel`], after which nothing is heard of it.
//! - A connection whose call did not end with a complete answer is closed: the rest of that answer is nobody's.
//! - A request is sent a second time only when the engine closed a kept connection before any byte of the answer came, and
//!   only if it is safe or nothing of it was written; never a third time.
//!
//! The owner's loop: [`Client::ready`] for each event that the client [owns](Client::owns), [`Client::expire`] after every
//! wait, all of [`Client::take_news`], and a wait no longer than until [`Client::next_wake`].

mod call;
mod connection;
mod stream;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Instant;

use mio::event::Event;
use mio::net::UnixStream;
use mio::{Interest, Registry, Token};

use super::engine_error::EngineError;
use super::http::{ApiVersion, Request};
use crate::limits::{
    ENGINE_CONNECTIONS_MAX, ENGINE_CONNECT_PAUSE, ENGINE_IDLE_TIMEOUT, ENGINE_NEWS_MAX, ENGINE_QUEUE_MAX,
    ENGINE_READ_BYTES, ENGINE_STREAMS_MAX,
};

use call::Call;
use connection::{Connection, Fault, Progress};

/// Which call news are about. Never used twice by one client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(u64);

/// What has become of a call.
#[derive(Debug)]
pub enum News {
    /// The whole answer, whatever its status; of a stream, an answer that is no success.
    Reply {
        /// The call, which has ended.
        call: CallId,
        /// The answer's status.
        status: u16,
        /// Its body.
        body: Vec<u8>,
    },
    /// A stream has begun.
    Head {
        /// The call.
        call: CallId,
        /// The status, which is 2xx.
        status: u16,
    },
    /// More of a stream, at least one byte. Pieces have other bounds than what the engine wrote.
    Chunk {
        /// The call.
        call: CallId,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// A stream has ended as it should.
    End {
        /// The call, which has ended.
        call: CallId,
    },
    /// There is no answer, or no more of it.
    Failed {
        /// The call, which has ended.
        call: CallId,
        /// Why.
        error: EngineError,
    },
}

impl News {
    /// The call that it is about.
    pub fn call(&self) -> CallId {
        match self {
            News::Reply { call, .. }
            | News::Head { call, .. }
            | News::Chunk { call, .. }
            | News::End { call }
            | News::Failed { call, .. } => *call,
        }
    }
}

/// See the module's documentation.
pub struct Client {
    socket: PathBuf,
    first_token: usize,
    version: Option<ApiVersion>,
    /// By token; a place without a connection can be given one.
    connections: [Option<Connection>; ENGINE_CONNECTIONS_MAX],
    /// Calls that no connection carries yet.
    waiting: VecDeque<Call>,
    news: VecDeque<News>,
    next_call: u64,
    /// The engine's backlog is full: it is asked for no connection before.
    connect_at: Option<Instant>,
    /// Some connection has more to read than it was read from. Its socket is told of once only, so it is not forgotten.
    more_since: Option<Instant>,
    buffer: Vec<u8>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let connections = self.connections.iter().flatten().count();
        f.debug_struct("Client")
            .field("socket", &self.socket)
            .field("connections", &connections)
            .field("waiting", &self.waiting.len())
            .finish_non_exhaustive()
    }
}

impl Client {
    /// A client of the engine that listens at `socket`. It connects when there is something to ask. Tokens from
    /// `first_token` on, [`ENGINE_CONNECTIONS_MAX`] of them, are its own.
    pub fn new(socket: PathBuf, first_token: usize) -> Client {
        Client {
            socket,
            first_token,
            version: None,
            connections: std::array::from_fn(|_| None),
            waiting: VecDeque::new(),
            news: VecDeque::new(),
            next_call: 0,
            connect_at: None,
            more_since: None,
            buffer: vec![0; ENGINE_READ_BYTES],
        }
    }

    /// The version that paths begin with from now on. Before, they begin with none, and the engine takes its newest.
    pub fn set_version(&mut self, version: ApiVersion) {
        self.version = Some(version);
    }

    /// Asks, or keeps the call until a connection is free. Its end is in the news, be it that there is no room for it.
    pub fn submit(&mut self, registry: &Registry, request: Request, now: Instant) -> CallId {
        let id = CallId(self.next_call);
        self.next_call += 1;
        self.waiting.push_back(Call::new(id, request, now));
        self.dispatch(registry, now);
        // One that has to wait is the last of those that wait.
        if self.waiting.len() > ENGINE_QUEUE_MAX && self.waiting.back().is_some_and(|call| call.id == id) {
            self.waiting.pop_back();
            self.news.push_back(News::Failed { call: id, error: EngineError::Busy { limit: ENGINE_QUEUE_MAX } });
        }
        id
    }

    /// Forgets a call: nothing more is heard of it, not even what is in the news already. What the engine was asked to do
    /// may be done all the same.
    pub fn cancel(&mut self, registry: &Registry, call: CallId) {
        self.waiting.retain(|waiting| waiting.id != call);
        if let Some(place) = self.connections.iter().position(|connection| {
            connection.as_ref().and_then(Connection::call).is_some_and(|carried| carried.id == call)
        }) {
            self.close(registry, place);
        }
        self.news.retain(|news| news.call() != call);
        // Its connection's place is for the next one.
        self.dispatch(registry, Instant::now());
    }

    /// Whether an event with this token is for [`Client::ready`].
    pub fn owns(&self, token: Token) -> bool {
        self.place_of(token).is_some()
    }

    /// Goes on with the connection that the event is about.
    pub fn ready(&mut self, registry: &Registry, event: &Event, now: Instant) {
        let Some(place) = self.place_of(event.token()) else { return };
        self.advance(registry, place, now);
        self.dispatch(registry, now);
    }

    /// Does what time has brought: ends what took too long, and goes on with what was put off.
    pub fn expire(&mut self, registry: &Registry, now: Instant) {
        if self.more_since.take().is_some() {
            for place in 0..ENGINE_CONNECTIONS_MAX {
                if self.connections[place].as_ref().is_some_and(|connection| connection.has_more) {
                    self.advance(registry, place, now);
                }
            }
        }
        for place in 0..ENGINE_CONNECTIONS_MAX {
            let Some(connection) = &mut self.connections[place] else { continue };
            if connection.deadline().is_none_or(|deadline| now < deadline) {
                continue;
            }
            let overdue = connection.take_call();
            self.close(registry, place);
            self.news.extend(overdue.map(Call::timed_out));
        }
        let (overdue, waiting): (VecDeque<_>, _) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|call| call.deadline.is_some_and(|deadline| deadline <= now));
        self.waiting = waiting;
        self.news.extend(overdue.into_iter().map(Call::timed_out));
        self.dispatch(registry, now);
    }

    /// When [`Client::expire`] is to be called, if nothing else happens.
    pub fn next_wake(&self) -> Option<Instant> {
        let deadlines = self.connections.iter().flatten().filter_map(Connection::deadline);
        let waiting = self.waiting.iter().filter_map(|call| call.deadline);
        let connect = self.connect_at.filter(|_| !self.waiting.is_empty());
        // While nobody takes the news, nothing is read.
        let more = self.more_since.filter(|_| self.news.len() < ENGINE_NEWS_MAX);
        deadlines.chain(waiting).chain(connect).chain(more).min()
    }

    /// The oldest news that nobody has taken.
    pub fn take_news(&mut self) -> Option<News> {
        self.news.pop_front()
    }

    fn place_of(&self, token: Token) -> Option<usize> {
        token.0.checked_sub(self.first_token).filter(|&place| place < ENGINE_CONNECTIONS_MAX)
    }

    /// Gives waiting calls to connections, in their order, as long as there are any.
    fn dispatch(&mut self, registry: &Registry, now: Instant) {
        if self.connect_at.is_some_and(|at| at <= now) {
            self.connect_at = None;
        }
        let mut at = 0;
        while at < self.waiting.len() && self.has_room() {
            let call = &self.waiting[at];
            let must_be_new = call.is_second_try;
            // Streams may last for ever, and never take what other calls need.
            let is_held_back = call.request.is_stream() && self.streams() >= ENGINE_STREAMS_MAX;
            let place = if is_held_back { Ok(None) } else { self.find_place(registry, must_be_new, now) };
            match place {
                Ok(None) => at += 1,
                Ok(Some(place)) => {
                    let call = self.waiting.remove(at);
                    if let (Some(call), Some(connection)) = (call, &mut self.connections[place]) {
                        connection.begin(call, self.version);
                        self.advance(registry, place, now);
                    }
                    // What this one left behind may be before or behind it.
                    at = 0;
                }
                Err(source) => {
                    let error = EngineError::Unreachable { socket: self.socket.clone(), source };
                    let failed = self.waiting.remove(at).map(|call| News::Failed { call: call.id, error });
                    self.news.extend(failed);
                }
            }
        }
    }

    /// Whether another call can begin, as far as can be told without asking the kernel.
    fn has_room(&self) -> bool {
        let may_connect = self.connect_at.is_none();
        self.connections.iter().any(|connection| match connection {
            Some(connection) => connection.is_idle(),
            None => may_connect,
        })
    }

    fn streams(&self) -> usize {
        let calls = self.connections.iter().flatten().filter_map(Connection::call);
        calls.filter(|call| call.request.is_stream()).count()
    }

    /// A connection for a call: one that is kept, or a new one. `None`: there is none now.
    fn find_place(&mut self, registry: &Registry, must_be_new: bool, now: Instant) -> io::Result<Option<usize>> {
        while let Some(place) = self.last_used().filter(|_| !must_be_new) {
            if self.connections[place].as_mut().is_some_and(|kept| kept.is_quiet(&mut self.buffer)) {
                return Ok(Some(place));
            }
            self.close(registry, place);
        }
        if self.connect_at.is_some() {
            return Ok(None);
        }
        let place = match self.connections.iter().position(Option::is_none) {
            Some(place) => place,
            None => match self.last_used() {
                Some(place) => {
                    self.close(registry, place);
                    place
                }
                None => return Ok(None),
            },
        };
        let mut stream = match UnixStream::connect(&self.socket) {
            Ok(stream) => stream,
            // The backlog is full. Nothing tells when it is not any more.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.connect_at = Some(now + ENGINE_CONNECT_PAUSE);
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let token = Token(self.first_token + place);
        registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        self.connections[place] = Some(Connection::new(stream, now + ENGINE_IDLE_TIMEOUT));
        Ok(Some(place))
    }

    /// Of the connections that carry nothing, the one used last: the others can age.
    fn last_used(&self) -> Option<usize> {
        let idle = |place: &usize| self.connections[*place].as_ref().is_some_and(Connection::is_idle);
        let age = |place: &usize| self.connections[*place].as_ref().and_then(Connection::deadline);
        (0..ENGINE_CONNECTIONS_MAX).filter(idle).max_by_key(age)
    }

    /// Writes and reads what can be, and reports what came of it.
    fn advance(&mut self, registry: &Registry, place: usize, now: Instant) {
        let Some(connection) = &mut self.connections[place] else { return };
        connection.has_more = false;
        if self.news.len() >= ENGINE_NEWS_MAX {
            connection.has_more = true;
            self.more_since.get_or_insert(now);
            return;
        }
        match connection.advance(&mut self.buffer, &mut self.news, now) {
            Progress::Waits => {}
            Progress::HasMore => {
                connection.has_more = true;
                self.more_since.get_or_insert(now);
            }
            Progress::Done { is_kept: true } => connection.rest(now + ENGINE_IDLE_TIMEOUT),
            Progress::Done { is_kept: false } => self.close(registry, place),
            Progress::Broken(fault) => {
                let call = connection.take_call();
                self.close(registry, place);
                if let Some(call) = call {
                    self.fail(call, fault);
                }
            }
        }
    }

    /// The connection of this call is of no use any more.
    fn fail(&mut self, mut call: Call, fault: Fault) {
        let what = call.request.what();
        let error = match fault {
            Fault::ClosedUnheard { is_unwritten } if !call.is_second_try && (is_unwritten || call.is_safe()) => {
                call.is_second_try = true;
                return self.waiting.push_front(call);
            }
            Fault::ClosedUnheard { .. } | Fault::Closed => EngineError::Closed { what },
            Fault::Garbage(error) => EngineError::Garbage { what, detail: error.to_string() },
            Fault::TooLarge(limit) => EngineError::TooLarge { what, limit },
        };
        self.news.push_back(News::Failed { call: call.id, error });
    }

    fn close(&mut self, registry: &Registry, place: usize) {
        if let Some(connection) = self.connections[place].take() {
            connection.close(registry);
        }
    }
}
