//! One runtime's zygote, and the blanks that are asked of it.

use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use crate::backend::recipients::Recipient;
use crate::call::Slot;
use crate::limits::{BLANK_START_TIMEOUT, START_BACKOFF_MAX, START_BACKOFF_MIN};
use crate::sandbox::cgroup::Cgroup;
use crate::sandbox::plan::Network;

use super::zygote::Zygote;

/// A blank that is wanted.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) slot: Slot,
    pub(super) recipient: Recipient,
    pub(super) network: Network,
    pub(super) ordered: Instant,
    /// Zygotes that died over it.
    pub(super) tries: u32,
    /// What a zygote that died left of it: its cgroup is used again.
    pub(super) cgroup: Option<Cgroup>,
}

/// A blank that a zygote is working on.
pub(super) struct Pending {
    pub(super) order: Order,
    pub(super) asked: Instant,
    pub(super) channel: OwnedFd,
    pub(super) instance_end: OwnedFd,
    pub(super) output: OwnedFd,
    pub(super) cgroup: Option<Cgroup>,
    pub(super) network: Option<OwnedFd>,
    /// Where the listener of its filter comes from, if that asks.
    pub(super) handover: Option<OwnedFd>,
}

/// See the module's documentation.
#[derive(Default)]
pub(super) struct Nursery {
    pub(super) zygote: Option<Zygote>,
    /// It waits for work.
    pub(super) ready: bool,
    /// One has worked here: when it is lost, the next is started without waiting for an order.
    has_worked: bool,
    pub(super) started: Option<Instant>,
    failures: u32,
    pub(super) retry_at: Option<Instant>,
    pub(super) orders: VecDeque<Order>,
    pub(super) pending: HashMap<u64, Pending>,
}

impl Nursery {
    /// The zygote has said that it waits for work.
    pub(super) fn is_ready(&mut self) {
        self.ready = true;
        self.has_worked = true;
        self.failures = 0;
        self.retry_at = None;
    }

    /// Whether there should be a zygote and is none.
    pub(super) fn wants_zygote(&self) -> bool {
        self.zygote.is_none() && (self.has_worked || !self.orders.is_empty())
    }

    /// The zygote is lost: the next one is started at once, or after a pause if this one never came to work.
    pub(super) fn note_loss(&mut self, now: Instant) {
        self.failures = if self.ready { 0 } else { self.failures.saturating_add(1) };
        if self.failures > 0 {
            let pause = START_BACKOFF_MIN * 2u32.saturating_pow(self.failures.min(16) - 1);
            self.retry_at = Some(now + pause.min(START_BACKOFF_MAX));
        }
    }

    /// Whether the zygote has had its time to start, or to make a blank that it was asked for.
    pub(super) fn is_stuck(&self, now: Instant) -> bool {
        let starting = self.zygote.is_some() && !self.ready;
        let overdue = |since: Instant| now >= since + BLANK_START_TIMEOUT;
        (starting && self.started.is_some_and(overdue)) || self.pending.values().any(|pending| overdue(pending.asked))
    }

    /// When something is due here: the zygote is stuck, or may be started again.
    pub(super) fn next_wake(&self) -> Option<Instant> {
        let overdue = self.pending.values().map(|pending| pending.asked + BLANK_START_TIMEOUT).min();
        let starting = self.started.filter(|_| !self.ready).map(|started| started + BLANK_START_TIMEOUT);
        let retry = self.retry_at.filter(|_| self.wants_zygote());
        [overdue, starting, retry].into_iter().flatten().min()
    }
}

impl Order {
    /// Whether who wants it has given it up by now.
    pub(super) fn is_stale(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.ordered) > BLANK_START_TIMEOUT + Duration::from_secs(1)
    }
}
