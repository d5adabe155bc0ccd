//! The table of accepted calls.
//!
//! It owns the ids: a call's index is the low half of its [`InvocationId`], and the high half counts that index's
//! uses, so that an id of the past finds nothing. Lookups need no map. It does not own a request's bytes; whoever
//! keeps those may index a table of its own with [`invocation_index`].
//!
//! Invariant: an entry lives as long as its call may still be somewhere in a worker's hands, which can be longer than
//! until its outcome. `settled` says that the outcome is given (or that nobody wants it).

use super::list::{Linked, Links};
use super::timers::TimerId;
use super::types::CallTerms;
use crate::call::{InvocationId, Slot, TimeoutSource};

/// The position of this call in the table of calls: less than the largest `invocations_max` there has been, reused
/// after the call's end.
#[must_use]
pub fn invocation_index(id: InvocationId) -> usize {
    (id.0 & u64::from(u32::MAX)) as usize
}

/// Where a call is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// There is no call.
    Vacant,
    /// In its version's queue.
    Queued,
    /// In this instance's pipe: waiting there, running, or answered with the news on its way.
    Piped(Slot),
    /// Sent to an instance that ended before it got there: the worker will hand it back.
    Astray(Slot),
}

impl Place {
    fn may_become(self, to: Place) -> bool {
        use Place::{Astray, Piped, Queued, Vacant};
        match (self, to) {
            // From queue to queue when a version is replaced.
            (Vacant, Queued | Piped(_)) | (Queued, Queued | Piped(_) | Vacant) => true,
            (Piped(_) | Astray(_), Queued | Vacant) => true,
            (Piped(from), Astray(to)) => from == to,
            _ => false,
        }
    }
}

#[derive(Debug)]
pub(super) struct Call {
    generation: u32,
    place: Place,
    /// Its outcome is given or unwanted; the entry waits for the worker to let go of the call.
    pub(super) settled: bool,
    /// Needs an instance's pipe for itself.
    pub(super) exclusive: bool,
    /// Index of the version that is to run it.
    pub(super) version: u32,
    pub(super) accepted_ns: u64,
    pub(super) deadline_ns: u64,
    /// Who set the deadline.
    pub(super) deadline_of: TimeoutSource,
    pub(super) timer: TimerId,
    links: Links,
}

impl Linked for Call {
    fn links(&self) -> Links {
        self.links
    }
    fn links_mut(&mut self) -> &mut Links {
        &mut self.links
    }
}

impl Call {
    pub(super) fn place(&self) -> Place {
        self.place
    }

    /// Whether it was sent to this tenant and has not come back.
    pub(super) fn is_with(&self, slot: Slot) -> bool {
        self.place == Place::Piped(slot) || self.place == Place::Astray(slot)
    }
}

#[derive(Debug)]
pub(super) struct Calls {
    pub(super) items: Vec<Call>,
    free: Vec<u32>,
}

impl Calls {
    pub(super) fn new(capacity: usize) -> Self {
        Calls { items: Vec::with_capacity(capacity), free: Vec::with_capacity(capacity) }
    }

    /// Calls in the table, settled ones included.
    pub(super) fn len(&self) -> usize {
        self.items.len() - self.free.len()
    }

    /// Takes an entry. `timeout_ns` is the function's. The caller puts the call somewhere at once.
    pub(super) fn insert(&mut self, version: u32, terms: CallTerms, accepted_ns: u64, timeout_ns: u64) -> u32 {
        let (timeout_ns, deadline_of) = match terms.timeout_ns {
            Some(shorter_ns) if shorter_ns < timeout_ns => (shorter_ns, TimeoutSource::Caller),
            _ => (timeout_ns, TimeoutSource::Function),
        };
        let at = self.free.pop().unwrap_or(self.items.len() as u32);
        // Generations begin at 1, so that no invocation has the id 0, which means "none" on the wire.
        let generation = self.items.get(at as usize).map_or(1, |old| old.generation);
        let call = Call {
            generation,
            place: Place::Vacant,
            settled: false,
            exclusive: terms.exclusive,
            version,
            accepted_ns,
            deadline_ns: accepted_ns.saturating_add(timeout_ns),
            deadline_of,
            timer: TimerId::NONE,
            links: Links::NONE,
        };
        match self.items.get_mut(at as usize) {
            Some(entry) => *entry = call,
            None => self.items.push(call),
        }
        at
    }

    /// Gives the entry back; its id means nothing from here on.
    pub(super) fn free(&mut self, at: u32) {
        self.set_place(at, Place::Vacant);
        let call = &mut self.items[at as usize];
        call.generation = call.generation.wrapping_add(1).max(1);
        self.free.push(at);
    }

    pub(super) fn set_place(&mut self, at: u32, to: Place) {
        let call = &mut self.items[at as usize];
        debug_assert!(call.place.may_become(to), "call {at}: {:?} -> {to:?}", call.place);
        call.place = to;
    }

    pub(super) fn id(&self, at: u32) -> InvocationId {
        InvocationId(u64::from(self.items[at as usize].generation) << 32 | u64::from(at))
    }

    /// The entry of a call that is still in the table.
    pub(super) fn find(&self, id: InvocationId) -> Option<u32> {
        let call = self.items.get(invocation_index(id))?;
        let alive = call.place != Place::Vacant && u64::from(call.generation) == id.0 >> 32;
        alive.then_some(invocation_index(id) as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_outlives_its_call_but_finds_nothing() {
        let mut calls = Calls::new(2);
        let first = calls.insert(0, CallTerms::default(), 0, 1);
        calls.set_place(first, Place::Queued);
        let old = calls.id(first);
        assert_eq!(calls.find(old), Some(first));
        calls.free(first);
        let second = calls.insert(0, CallTerms::default(), 0, 1);
        calls.set_place(second, Place::Queued);
        assert_eq!((second, calls.find(old)), (first, None));
        assert_eq!(calls.find(calls.id(second)), Some(second));
        assert_ne!(calls.id(second).0, 0);
    }
}
