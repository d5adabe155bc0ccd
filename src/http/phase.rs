//! The phases of a connection, what each has to remember, and which may follow which.
//!
//! Owns the data and the table of transitions. When they happen is up to `conn`.

use super::body::BodyReader;
use super::parse::{RequestHead, Version};
use super::request_id::{RequestId, RequestIds};

/// What must be remembered of a request to answer it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Exchange {
    pub(super) request_id: RequestId,
    pub(super) version: Version,
    pub(super) is_head: bool,
    pub(super) keep_alive: bool,
}

impl Exchange {
    pub(super) fn of(head: &RequestHead) -> Exchange {
        let is_head = head.method() == "HEAD";
        Exchange { request_id: *head.request_id(), version: head.version(), is_head, keep_alive: head.keep_alive() }
    }

    /// For bytes that are not a request.
    pub(super) fn unknown(ids: &mut RequestIds) -> Exchange {
        Exchange { request_id: ids.make(), version: Version::Http11, is_head: false, keep_alive: false }
    }
}

/// A request whose body is still coming.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) head: RequestHead,
    pub(super) reader: BodyReader,
    pub(super) exchange: Exchange,
}

/// Where a connection is.
#[derive(Debug)]
pub(super) enum Phase {
    /// Between requests, or within a head.
    Head,
    /// Within a body. Boxed, since most bodies come with their head and never get here.
    Body(Box<Incoming>),
    /// The front has the request.
    Answering(Exchange),
    /// The request was turned away, politely: its body is skipped and the connection goes on.
    Skip { left: u64 },
    /// The last response is in the output, and the client is owed nothing else.
    Flush,
    /// The last response is in the output, and this many bytes of what the client still sends are read in vain.
    Drain { left: usize, half_close_reported: bool },
    /// Over.
    Closed,
}

impl Phase {
    /// Whether a connection may go from this phase to another. Closing is always possible.
    pub(super) fn may_become(&self, to: &Phase) -> bool {
        match (self, to) {
            (_, Phase::Closed) => true,
            (Phase::Head, Phase::Head) => false,
            (Phase::Head, _) => true,
            (Phase::Body(_), Phase::Answering(_) | Phase::Drain { .. }) => true,
            (Phase::Answering(_) | Phase::Skip { .. }, Phase::Head | Phase::Flush | Phase::Drain { .. }) => true,
            _ => false,
        }
    }
}
