//! What a call is told that gets no place or no instance: what there was too little of, and when to try again.
//!
//! A guess about the time is made of what is known: the calls that are there, how long calls take of late, and how many
//! instances share the work. It is a guess about the past load; it is at least a second and bounded above.

use super::{Scheduler, NS_PER_MS};
use crate::call::{InvokeError, Shortage};
use crate::limits::RETRY_AFTER_MAX_S;

impl Scheduler {
    /// The server holds as many calls as it may.
    pub(super) fn overloaded(&self) -> InvokeError {
        InvokeError::Overloaded { limit: self.limits.invocations_max, retry_after_s: self.server_free_in_s() }
    }

    /// The version holds as many calls as leave room for others.
    pub(super) fn share_exceeded(&self, v: u32) -> InvokeError {
        let held = self.versions.items[v as usize].calls as usize;
        InvokeError::ShareExceeded {
            held,
            limit: self.limits.invocations_max,
            retry_after_s: self.version_free_in_s(v),
        }
    }

    /// The version's queue is full.
    pub(super) fn queue_full(&self, v: u32) -> InvokeError {
        InvokeError::QueueFull { limit: self.limits.queue_per_function_max, retry_after_s: self.version_free_in_s(v) }
    }

    /// A call of this version has waited for an instance for as long as it may.
    pub(super) fn waited_too_long(&self, v: u32) -> InvokeError {
        let shortage = self.shortage(v);
        let retry_after_s = match shortage {
            Shortage::OfFunction { .. } => self.version_free_in_s(v),
            Shortage::OfServer { .. } => self.server_free_in_s(),
            Shortage::OfStarts => seconds(self.versions.items[v as usize].backoff_until_ns.saturating_sub(self.now_ns)),
        };
        InvokeError::WaitedTooLong { limit_ms: self.limits.queue_wait_max_ns / NS_PER_MS, shortage, retry_after_s }
    }

    /// Why a call of this version that waits has no instance.
    pub(super) fn shortage(&self, v: u32) -> Shortage {
        let version = &self.versions.items[v as usize];
        let runtime = &self.runtimes[version.runtime as usize];
        if version.tally.total() >= version.policy.max_instances {
            Shortage::OfFunction { max_instances: version.policy.max_instances }
        } else if version.wants > 0 && runtime.demand > runtime.making && self.slots.is_full() {
            Shortage::OfServer { max_instances: self.slots.items.len(), kept: self.kept() }
        } else {
            Shortage::OfStarts
        }
    }

    /// The places that the `min_instances` of all functions take when all of them are there.
    #[must_use]
    pub fn kept(&self) -> usize {
        self.min_instances.min(self.slots.items.len() as u64) as usize
    }

    /// When what this version has to do now may be done.
    fn version_free_in_s(&self, v: u32) -> u64 {
        let version = &self.versions.items[v as usize];
        worked_off_in_s(version.calls.into(), version.service_ewma_ns, version.tally.live().into())
    }

    /// The same of the whole server.
    fn server_free_in_s(&self) -> u64 {
        worked_off_in_s(self.calls.len() as u64, self.service_ewma_ns, self.slots.busy as u64)
    }
}

fn worked_off_in_s(calls: u64, service_ns: u64, instances: u64) -> u64 {
    seconds(calls.saturating_mul(service_ns) / instances.max(1))
}

fn seconds(ns: u64) -> u64 {
    ns.div_ceil(1_000_000_000).clamp(1, RETRY_AFTER_MAX_S)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guess_is_the_work_divided_by_the_hands_within_a_second_and_a_minute() {
        let ms = 1_000_000;
        assert_eq!(worked_off_in_s(100, 250 * ms, 10), 3);
        assert_eq!(worked_off_in_s(100, 0, 0), 1);
        assert_eq!(worked_off_in_s(100, ms, 10), 1);
        assert_eq!(worked_off_in_s(u64::MAX, u64::MAX, 0), RETRY_AFTER_MAX_S);
    }
}
