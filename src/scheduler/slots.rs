//! The table of slots and their tenants: blanks, and the instances that they become.
//!
//! It owns each tenant's state and the order in which free slots are used. It does not decide anything.
//!
//! Invariants: a state changes only through [`Slots::set_state`]; a slot's generation changes only when it gets a new
//! tenant; a tenant is on at most one list (free, its runtime's ready blanks, or a shelf of its version).

use super::list::{Linked, Links, List, NIL};
use super::timers::TimerId;
use super::types::KillReason;
use crate::call::Slot;

/// The life of a slot's tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum InstanceState {
    /// The slot has no tenant.
    Free,
    /// A blank was asked for.
    Making,
    /// A blank is ready.
    Blank,
    /// It was assigned and runs the function's top-level code.
    Loading,
    /// It has nothing to do.
    Idle,
    /// It has at least one call in its pipe.
    Busy,
    /// It was killed, and is not gone yet.
    Ending,
}

impl InstanceState {
    fn may_become(self, to: InstanceState) -> bool {
        use InstanceState::{Blank, Busy, Ending, Free, Idle, Loading, Making};
        matches!(
            (self, to),
            (Free, Making)
                | (Making, Blank | Free | Ending)
                | (Blank, Loading | Ending)
                | (Loading, Idle | Busy | Ending)
                | (Idle, Busy | Ending)
                | (Busy, Idle | Ending)
                | (Ending, Free)
        )
    }
}

#[derive(Debug)]
pub(super) struct Tenant {
    generation: u32,
    state: InstanceState,
    /// Why it is to be killed once its pipe is empty, and given nothing more.
    pub(super) retiring: Option<KillReason>,
    /// Calls were asked back and have not come: nothing more is piped there.
    pub(super) taking_back: bool,
    /// A call in its pipe must stay alone there.
    pub(super) exclusive: bool,
    /// Its kill was asked for a second time: it no longer counts as a slot that is about to be free.
    pub(super) overdue: bool,
    /// It was started ahead of a call that has not come yet.
    pub(super) prewarmed: bool,
    /// The shelf of its version that it is on, which is its load; `None` when it takes no calls.
    pub(super) shelf: Option<u8>,
    /// Index of its runtime.
    pub(super) runtime: u32,
    /// Index of its version; `NIL` for a blank.
    pub(super) version: u32,
    /// Calls that were sent to it, the oldest first.
    pub(super) pipe: List,
    /// When its state last changed.
    pub(super) since_ns: u64,
    /// Since when the front of its pipe has been the front.
    pub(super) head_since_ns: u64,
    /// When calls were last asked back.
    pub(super) asked_ns: u64,
    /// When it was assigned.
    pub(super) started_ns: u64,
    pub(super) last_used_ns: u64,
    pub(super) invocations: u64,
    /// Until when it may be busy, once somebody asked it to stop.
    pub(super) drain_until_ns: u64,
    pub(super) killed_for: KillReason,
    pub(super) timer: TimerId,
    pub(super) timer_due_ns: u64,
    links: Links,
}

impl Linked for Tenant {
    fn links(&self) -> Links {
        self.links
    }
    fn links_mut(&mut self) -> &mut Links {
        &mut self.links
    }
}

impl Tenant {
    fn vacant(generation: u32) -> Self {
        Tenant {
            generation,
            state: InstanceState::Free,
            retiring: None,
            taking_back: false,
            exclusive: false,
            overdue: false,
            prewarmed: false,
            shelf: None,
            runtime: NIL,
            version: NIL,
            pipe: List::EMPTY,
            since_ns: 0,
            head_since_ns: 0,
            asked_ns: 0,
            started_ns: 0,
            last_used_ns: 0,
            invocations: 0,
            drain_until_ns: u64::MAX,
            killed_for: KillReason::Surplus,
            timer: TimerId::NONE,
            timer_due_ns: u64::MAX,
            links: Links::NONE,
        }
    }

    pub(super) fn state(&self) -> InstanceState {
        self.state
    }

    /// Calls that it has answered or may still begin: what counts against its version's `invocations_max`.
    pub(super) fn given(&self) -> u64 {
        self.invocations + self.pipe.len() as u64
    }

    /// The shelf where it belongs: its load, unless it must not be given calls.
    pub(super) fn shelf_wanted(&self) -> Option<u8> {
        let usable = matches!(self.state, InstanceState::Idle | InstanceState::Busy)
            && !(self.retiring.is_some() || self.taking_back || self.exclusive);
        usable.then(|| u8::try_from(self.pipe.len()).unwrap_or(u8::MAX))
    }
}

#[derive(Debug)]
pub(super) struct Slots {
    pub(super) items: Vec<Tenant>,
    free: List,
    /// Tenants that were killed and are expected to be gone soon.
    pub(super) ending_soon: usize,
    /// Busy instances that end after their pipe, so that another function gets their slot.
    pub(super) yielding: usize,
    /// Idle instances of all versions.
    pub(super) idle: usize,
    /// Instances of all versions that have calls.
    pub(super) busy: usize,
}

impl Slots {
    pub(super) fn new(count: usize) -> Self {
        let mut items: Vec<Tenant> = (0..count).map(|_| Tenant::vacant(0)).collect();
        let mut free = List::EMPTY;
        (0..count as u32).for_each(|at| free.push_back(&mut items, at));
        Slots { items, free, ending_soon: 0, yielding: 0, idle: 0, busy: 0 }
    }

    pub(super) fn occupied(&self) -> usize {
        self.items.len() - self.free.len()
    }

    /// Slots without a tenant.
    pub(super) fn free(&self) -> usize {
        self.free.len()
    }

    /// Whether no slot is free.
    pub(super) fn is_full(&self) -> bool {
        self.free.is_empty()
    }

    /// Gives the slot that has been free the longest to a new tenant in the making. A host uid is thereby reused as
    /// late as can be, and the slots in use spread over the workers.
    pub(super) fn settle(&mut self, runtime: u32, now_ns: u64) -> Option<u32> {
        let at = self.free.pop_front(&mut self.items)?;
        let tenant = &mut self.items[at as usize];
        *tenant = Tenant { runtime, ..Tenant::vacant(tenant.generation.wrapping_add(1)) };
        self.set_state(at, InstanceState::Making, now_ns);
        Some(at)
    }

    /// Lets a slot whose tenant is gone be used again.
    pub(super) fn reopen(&mut self, at: u32) {
        debug_assert_eq!(self.items[at as usize].state, InstanceState::Free);
        self.free.push_back(&mut self.items, at);
    }

    /// The only way in which a tenant's state changes. Returns the state before.
    pub(super) fn set_state(&mut self, at: u32, to: InstanceState, now_ns: u64) -> InstanceState {
        let tenant = &mut self.items[at as usize];
        let from = tenant.state;
        debug_assert!(from.may_become(to), "slot {at}: {from:?} -> {to:?}");
        tenant.state = to;
        tenant.since_ns = now_ns;
        self.idle += usize::from(to == InstanceState::Idle);
        self.idle -= usize::from(from == InstanceState::Idle);
        self.busy += usize::from(to == InstanceState::Busy);
        self.busy -= usize::from(from == InstanceState::Busy);
        self.ending_soon += usize::from(to == InstanceState::Ending);
        self.ending_soon -= usize::from(from == InstanceState::Ending && !tenant.overdue);
        from
    }

    pub(super) fn mark_overdue(&mut self, at: u32) {
        let tenant = &mut self.items[at as usize];
        if tenant.state == InstanceState::Ending && !tenant.overdue {
            tenant.overdue = true;
            self.ending_soon -= 1;
        }
    }

    pub(super) fn slot(&self, at: u32) -> Slot {
        Slot { index: at, generation: self.items[at as usize].generation }
    }

    /// The present tenant of a slot, if it is the one that is meant.
    pub(super) fn find(&self, slot: Slot) -> Option<u32> {
        let tenant = self.items.get(slot.index as usize)?;
        let same = tenant.generation == slot.generation && tenant.state != InstanceState::Free;
        same.then_some(slot.index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_of_a_dead_tenant_does_not_reach_the_living_one() {
        let mut slots = Slots::new(1);
        let at = slots.settle(0, 0).unwrap();
        let dead = slots.slot(at);
        slots.set_state(at, InstanceState::Free, 1);
        slots.reopen(at);
        assert_eq!(slots.find(dead), None);
        let alive = slots.settle(0, 2).map(|at| slots.slot(at)).unwrap();
        assert_eq!((alive.index, alive.generation), (dead.index, dead.generation + 1));
        assert_eq!((slots.find(dead), slots.find(alive)), (None, Some(at)));
        assert_eq!(slots.find(Slot { index: 7, generation: 1 }), None);
    }

    #[test]
    fn a_slot_rests_as_long_as_there_are_others() {
        let mut slots = Slots::new(3);
        let first = slots.settle(0, 0).unwrap();
        slots.set_state(first, InstanceState::Free, 1);
        slots.reopen(first);
        let next: Vec<u32> = (0..3).map_while(|_| slots.settle(0, 2)).collect();
        assert_eq!(next, [1, 2, first]);
        assert_eq!((slots.occupied(), slots.settle(0, 3)), (3, None));
    }

    #[test]
    #[should_panic(expected = "Free -> Busy")]
    #[cfg(debug_assertions)]
    fn an_impossible_transition_is_a_bug() {
        Slots::new(1).set_state(0, InstanceState::Busy, 0);
    }
}
