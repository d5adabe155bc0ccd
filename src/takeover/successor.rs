//! The successor's half of the conversation: it asks and waits, before it serves anybody.
//!
//! Owns the socket to the predecessor until it is given to the front, and what came with the offer. What the successor
//! does between its questions is `server::succession`.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use super::message::{Introduction, Message, MessageError};
use super::{socket, TakeoverError};
use crate::limits::{TAKEOVER_GREETING_TIMEOUT, TAKEOVER_HOLD_TIMEOUT};
use crate::registry::store::SCHEMA;

/// A server whose place is to be taken.
#[derive(Debug)]
pub struct Predecessor {
    socket: OwnedFd,
    pid: u32,
    version: String,
    /// What it offers, each until it is taken.
    lock: Option<OwnedFd>,
    listener: Option<TcpListener>,
    inherits_listener: bool,
    buffer: Vec<u8>,
}

/// What came of a question.
#[derive(Debug)]
pub enum Answer<T> {
    /// The answer.
    Given(T),
    /// It has hung up. Perhaps it is dead.
    HungUp,
}

impl Predecessor {
    /// Introduces this server to the one that serves `state`; `None` when none does.
    ///
    /// # Errors
    /// When it refuses, or what it says makes no sense.
    pub fn greet(state: &Path) -> Result<Option<Predecessor>, TakeoverError> {
        let failed = |source| TakeoverError::Socket { path: socket::path(state), source };
        let Some((stream, pid)) = socket::connect(state).map_err(failed)? else { return Ok(None) };
        let mut predecessor = Predecessor {
            socket: stream,
            pid,
            version: String::new(),
            lock: None,
            listener: None,
            inherits_listener: false,
            buffer: socket::buffer(),
        };
        let hello = Introduction { pid: std::process::id(), version: version(), schema: SCHEMA };
        predecessor.say(&Message::Hello(hello))?;
        let answer = predecessor.hear("its offer", TAKEOVER_GREETING_TIMEOUT)?;
        let Answer::Given((message, descriptors)) = answer else { return Ok(None) };
        let Message::Offer(who) = message else { return Err(predecessor.misplaced("its offer", &message)) };
        if who.schema != SCHEMA {
            return Err(TakeoverError::Schema { found: who.schema, known: SCHEMA });
        }
        let [lock, listener] = <[OwnedFd; 2]>::try_from(descriptors).map_err(|descriptors| {
            let source = MessageError::Descriptors { found: descriptors.len(), expected: 2 };
            TakeoverError::Unexpected { pid, awaited: "its offer", source }
        })?;
        predecessor.version = who.version;
        predecessor.lock = Some(lock);
        predecessor.listener = Some(listener.into());
        Ok(Some(predecessor))
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// What it said of its version.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The lock of the state directory, once.
    pub fn take_lock(&mut self) -> Option<OwnedFd> {
        self.lock.take()
    }

    /// Its listener, if it is what this server is to listen on: at the same address, and on the same port or any.
    ///
    /// # Errors
    /// When the descriptor is no listener.
    pub fn take_listener(&mut self, wanted: SocketAddr) -> io::Result<Option<TcpListener>> {
        let Some(listener) = self.listener.take() else { return Ok(None) };
        self.inherits_listener = serves_as(listener.local_addr()?, wanted);
        listener.set_nonblocking(true)?;
        Ok(Some(listener).filter(|_| self.inherits_listener))
    }

    /// Asks it to change nothing any more.
    ///
    /// # Errors
    /// When it refuses, is silent, or says something else.
    pub fn freeze(&mut self) -> Result<Answer<()>, TakeoverError> {
        const AWAITED: &str = "word that nothing is changed any more";
        self.say(&Message::Freeze)?;
        match self.hear(AWAITED, TAKEOVER_HOLD_TIMEOUT)? {
            Answer::Given((Message::Frozen, _)) => Ok(Answer::Given(())),
            Answer::Given((message, _)) => Err(self.misplaced(AWAITED, &message)),
            Answer::HungUp => Ok(Answer::HungUp),
        }
    }

    /// Asks it for its place. The answer is the socket on which it sends what is still logged, if it came. From then on
    /// the state is ours.
    ///
    /// # Errors
    /// As [`freeze`](Self::freeze).
    pub fn go(&mut self) -> Result<Answer<Option<OwnedFd>>, TakeoverError> {
        const AWAITED: &str = "word that its place is ours";
        self.say(&Message::Go { inherits_listener: self.inherits_listener })?;
        // Longer than the other's own patience, so that it never sends what nobody waits for any more.
        match self.hear(AWAITED, 2 * TAKEOVER_HOLD_TIMEOUT)? {
            // There is no way back from here, also when no descriptor could be had for what is logged.
            Answer::Given((Message::Yours, mut descriptors)) => Ok(Answer::Given(descriptors.pop())),
            Answer::Given((message, _)) => Err(self.misplaced(AWAITED, &message)),
            Answer::HungUp => Ok(Answer::HungUp),
        }
    }

    /// The socket over which it will send its connections.
    pub fn into_socket(self) -> OwnedFd {
        self.socket
    }

    /// Says something. One that has hung up is no error here: what it said before can still be heard, and is why.
    fn say(&self, message: &Message) -> Result<(), TakeoverError> {
        match socket::send(&self.socket, message, &[]) {
            Ok(()) => Ok(()),
            Err(error) if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => Ok(()),
            Err(source) => Err(TakeoverError::System { action: "talk to the server that serves", source }),
        }
    }

    fn hear(
        &mut self,
        awaited: &'static str,
        patience: Duration,
    ) -> Result<Answer<(Message, Vec<OwnedFd>)>, TakeoverError> {
        let pid = self.pid;
        match socket::receive_by(&self.socket, &mut self.buffer, Instant::now() + patience) {
            Ok(None) => Ok(Answer::HungUp),
            Ok(Some((Ok(Message::Refused(reason)), _))) => Err(TakeoverError::Refused { pid, reason }),
            Ok(Some((Ok(message), descriptors))) => Ok(Answer::Given((message, descriptors))),
            Ok(Some((Err(source), _))) => Err(TakeoverError::Unexpected { pid, awaited, source }),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => Err(TakeoverError::Silent { pid, awaited }),
            Err(source) => Err(TakeoverError::System { action: "listen to the server that serves", source }),
        }
    }

    fn misplaced(&self, awaited: &'static str, message: &Message) -> TakeoverError {
        let source = MessageError::Misplaced { name: message.name() };
        TakeoverError::Unexpected { pid: self.pid, awaited, source }
    }
}

/// What a server says of its version.
pub fn version() -> String {
    env!("CARGO_PKG_VERSION").to_owned()
}

/// Whether a socket that listens at `there` is what a server wants that is to listen at `wanted`.
fn serves_as(there: SocketAddr, wanted: SocketAddr) -> bool {
    there.ip() == wanted.ip() && (wanted.port() == 0 || wanted.port() == there.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_listener_is_kept_at_the_same_address_and_when_any_port_will_do() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        for (there, wanted, is_it) in [
            ("127.0.0.1:8000", "127.0.0.1:8000", true),
            ("127.0.0.1:8000", "127.0.0.1:0", true),
            ("127.0.0.1:8000", "127.0.0.1:8001", false),
            ("127.0.0.1:8000", "0.0.0.0:8000", false),
            ("127.0.0.1:8000", "[::1]:0", false),
        ] {
            assert_eq!(serves_as(at(there), at(wanted)), is_it, "{there} {wanted}");
        }
    }
}
