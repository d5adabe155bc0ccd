//! The calls that have been accepted and not yet answered.
//!
//! Owns a call's request while it waits and what is needed to answer it. The scheduler makes the ids; an id of a
//! finished call never finds a later one in the same place, and a call that is not finished is never lost to one.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use crate::call::{CallRequest, InvocationId, Slot};
use crate::http::RequestId;
use crate::registry::function::FunctionVersion;
use crate::scheduler::invocation_index;

use super::clients::ClientId;

/// One accepted call.
pub(super) struct Call {
    id: InvocationId,
    /// Who waits for the answer.
    pub(super) client: ClientId,
    /// What every answer to it is stamped with.
    pub(super) request_id: RequestId,
    /// The version it was accepted for; a replacement may take it over while it waits.
    pub(super) function: Arc<FunctionVersion>,
    /// Guards against late and forged answers.
    pub(super) nonce: u64,
    /// Present while the call is not with a worker.
    pub(super) request: Option<CallRequest>,
    /// Nanoseconds since the server started.
    pub(super) accepted_ns: u64,
    /// The instance it was given to last.
    pub(super) slot: Option<Slot>,
    /// Whether an instance was started for it.
    pub(super) cold: bool,
}

/// All of them.
pub(super) struct Calls {
    /// By the scheduler's index, which is small and reused.
    places: Vec<Option<Call>>,
    /// Calls whose place was given to a later one before their failure was carried out: the scheduler is done with a
    /// call once it has decided that, and the answer to one call may let its connection's next request in while the
    /// failures of others still wait for their turn. Nearly always empty.
    displaced: Vec<Call>,
    nonces: Nonces,
}

/// Unpredictable numbers at the price of one SipHash: a counter under a random key.
struct Nonces {
    key: RandomState,
    counter: u64,
}

impl Nonces {
    fn next(&mut self) -> u64 {
        self.counter += 1;
        let mut hasher = self.key.build_hasher();
        hasher.write_u64(self.counter);
        hasher.finish()
    }
}

impl Calls {
    pub(super) fn new() -> Self {
        Calls { places: Vec::new(), displaced: Vec::new(), nonces: Nonces { key: RandomState::new(), counter: 0 } }
    }

    pub(super) fn accept(
        &mut self,
        id: InvocationId,
        client: ClientId,
        request_id: RequestId,
        function: Arc<FunctionVersion>,
        request: CallRequest,
        now_ns: u64,
    ) {
        let nonce = self.nonces.next();
        let index = invocation_index(id);
        if self.places.len() <= index {
            self.places.resize_with(index + 1, || None);
        }
        let request = Some(request);
        let (slot, cold) = (None, false);
        let call = Call { id, client, request_id, function, nonce, request, accepted_ns: now_ns, slot, cold };
        self.displaced.extend(self.places[index].replace(call));
    }

    /// A call that may still run. Not one that is displaced: all that can come to that is its failure.
    pub(super) fn get_mut(&mut self, id: InvocationId) -> Option<&mut Call> {
        self.places.get_mut(invocation_index(id))?.as_mut().filter(|call| call.id == id)
    }

    pub(super) fn finish(&mut self, id: InvocationId) -> Option<Call> {
        if self.get_mut(id).is_some() {
            return self.places[invocation_index(id)].take();
        }
        let at = self.displaced.iter().position(|call| call.id == id)?;
        Some(self.displaced.swap_remove(at))
    }
}
