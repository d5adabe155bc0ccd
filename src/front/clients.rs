//! The connections: sockets, their protocol state, and what each of them waits for.

use std::io::{self, IoSlice, Read, Write};
use std::net::Shutdown;
use std::time::Instant;

use mio::net::TcpStream;
use slab::Slab;

use crate::call::InvocationId;
use crate::control::Attendance;
use crate::http::{Conn, RequestId};

use super::routes::Route;

/// Names a connection; a later connection in the same place has another id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ClientId(pub(super) u64);

impl ClientId {
    /// The place of the connection, which is also its token.
    pub(super) fn key(self) -> usize {
        (self.0 & 0xffff_ffff) as usize
    }
}

/// What a connection waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waiting {
    /// Its own bytes.
    Nothing,
    /// A function's answer.
    Call(InvocationId),
    /// A control thread's answer to the request with this id.
    Control(RequestId),
}

/// One connection.
pub(super) struct Client {
    pub(super) id: ClientId,
    pub(super) stream: TcpStream,
    pub(super) conn: Conn,
    pub(super) waiting: Waiting,
    /// For a control thread to see that it waits for it.
    pub(super) attendance: Option<Attendance>,
    /// Reading stopped before the socket was known to be empty, because the connection held enough. The poll is
    /// edge-triggered and will not tell again of what is there.
    has_unread: bool,
    /// What the request in the making asks for; set when its head is admitted.
    pub(super) route: Option<Admitted>,
    /// It stands in the list of those that go on at the next turn.
    pub(super) goes_on: bool,
}

/// A request head that may go on.
#[derive(Debug)]
pub(super) struct Admitted {
    pub(super) route: Route,
    /// Whether the key may see environment values and change functions.
    pub(super) manages: bool,
}

/// What reading a socket came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Read1 {
    /// Nothing more for now, or nothing more is wanted.
    Drained,
    /// The peer will send nothing more.
    Closed,
    /// The connection is broken.
    Broken,
}

impl Client {
    /// Reads what is there into the protocol state, as far as it wants any.
    ///
    /// A read that does not fill the buffer has emptied the socket, and an edge-triggered poll will tell of more; so
    /// the second read that would only say so is saved, unless the peer is known to have closed.
    pub(super) fn read(&mut self, buffer: &mut [u8], to_the_end: bool) -> Read1 {
        while self.conn.wants_read() {
            match self.stream.read(buffer) {
                Ok(0) => {
                    self.has_unread = false;
                    return Read1::Closed;
                }
                Ok(length) => {
                    self.conn.received(&buffer[..length]);
                    if length < buffer.len() && !to_the_end {
                        self.has_unread = false;
                        return Read1::Drained;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.has_unread = false;
                    return Read1::Drained;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Read1::Broken,
            }
        }
        self.has_unread = true;
        Read1::Drained
    }

    /// Whether the connection would take bytes now that it left in the socket before.
    pub(super) fn is_to_read_on(&self) -> bool {
        self.has_unread && self.conn.wants_read()
    }

    pub(super) fn has_output(&self) -> bool {
        !self.conn.output().is_empty() || !self.conn.output_tail().is_empty()
    }

    /// Writes what waits; `false` when the connection is broken.
    pub(super) fn write(&mut self, now: Instant) -> bool {
        loop {
            let (head, body) = (self.conn.output(), self.conn.output_tail());
            if head.is_empty() && body.is_empty() {
                if self.conn.take_half_close() {
                    let _ = self.stream.shutdown(Shutdown::Write);
                }
                return true;
            }
            let written = if body.is_empty() {
                self.stream.write(head)
            } else {
                self.stream.write_vectored(&[IoSlice::new(head), IoSlice::new(body)])
            };
            match written {
                Ok(0) => return false,
                Ok(length) => self.conn.wrote(length, now),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
    }
}

/// All connections.
pub(super) struct Clients {
    slab: Slab<Client>,
    next_generation: u32,
}

impl Clients {
    pub(super) fn new() -> Self {
        Clients { slab: Slab::new(), next_generation: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.slab.len()
    }

    pub(super) fn insert(&mut self, stream: TcpStream, conn: Conn) -> ClientId {
        self.next_generation = self.next_generation.wrapping_add(1);
        let entry = self.slab.vacant_entry();
        let id = ClientId(u64::from(self.next_generation) << 32 | entry.key() as u64);
        entry.insert(Client {
            id,
            stream,
            conn,
            waiting: Waiting::Nothing,
            attendance: None,
            has_unread: false,
            route: None,
            goes_on: false,
        });
        id
    }

    pub(super) fn at(&mut self, key: usize) -> Option<&mut Client> {
        self.slab.get_mut(key)
    }

    pub(super) fn get(&mut self, id: ClientId) -> Option<&mut Client> {
        self.slab.get_mut(id.key()).filter(|client| client.id == id)
    }

    pub(super) fn remove(&mut self, key: usize) -> Option<Client> {
        self.slab.try_remove(key)
    }

    pub(super) fn keys(&self) -> Vec<usize> {
        self.slab.iter().map(|(key, _)| key).collect()
    }

    /// The earliest deadline of any connection is not tracked: whoever sweeps asks each.
    pub(super) fn expired(&self, now: Instant) -> Vec<usize> {
        let due = |client: &Client| client.conn.deadline().is_some_and(|deadline| deadline <= now);
        self.slab.iter().filter(|(_, client)| due(client)).map(|(key, _)| key).collect()
    }
}
