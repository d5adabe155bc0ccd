//! Who gets room when there is too little: places for calls, and slots for instances.
//!
//! **Places.** A function may hold one more call only while it holds fewer than [`INVOCATIONS_SHARE`] times as many as
//! are free. So one that floods leaves a quarter of the places free, several leave less, and a function that holds
//! nothing is refused only by a server that is full to the last place. Nothing is reserved: alone, a function has
//! nearly all there is.
//!
//! **Slots.** When none is free and a function waits for one, the next slot goes to the function that has the fewest
//! instances, and of equals to the one that waits longest. Idle instances make room first. If there are none, whoever
//! completes a call and has at least two more than that function has to give: this instance is given nothing more and
//! ends after its pipe. Every such step makes two functions more equal, so that they end, and functions that are equal
//! or differ by one leave each other alone. What they end in is max-min fair: nobody has less than he asks for while
//! another has two more than he. `min_instances` are never taken.
//!
//! With more functions than slots some have none. They take turns: an instance that has been there for
//! `share_quantum_ns` gives way to a function without any, also if it is its function's only one.
//!
//! The one whose turn is next is the *claim*. It is found anew whenever slots or wishes change, by a walk over the
//! functions that wait, which only happens while the machine is full; what a completed call looks at is one number.

use super::slots::InstanceState;
use super::timers::TimerKey;
use super::types::KillReason;
use super::{Scheduler, Turn};
use crate::call::InvokeError;
use crate::limits::INVOCATIONS_SHARE;

/// How a function stands that waits for slots: how many instances it has, and since when it waits. The least is next.
type Standing = (u32, u64);

/// Who is next when some slots are promised already: those go round, to the least first.
fn after_promises(standings: &mut [Standing], promised: usize) -> Option<Standing> {
    let all = standings.len();
    if all == 0 {
        return None;
    }
    let (_, &mut (live, since), _) = standings.select_nth_unstable(promised % all);
    Some((live.saturating_add((promised / all) as u32), since))
}

impl Scheduler {
    /// Why a call of this version gets no place, if that is so.
    pub(super) fn no_place(&self, v: u32) -> Option<InvokeError> {
        let free = self.limits.invocations_max.saturating_sub(self.calls.len());
        if free == 0 {
            return Some(self.overloaded());
        }
        let held = self.versions.items[v as usize].calls as usize;
        (held >= free.saturating_mul(INVOCATIONS_SHARE)).then(|| self.share_exceeded(v))
    }

    /// The versions that wait for blanks of this runtime, and how each stands.
    fn waiting(&self, r: usize) -> impl Iterator<Item = (Standing, u32)> + '_ {
        let versions = &self.versions.items;
        self.runtimes[r].wanting.iter(versions).map(|v| {
            let version = &versions[v as usize];
            ((version.tally.live(), version.wants_since), v)
        })
    }

    fn standings(&self, r: usize) -> Vec<Standing> {
        self.waiting(r).map(|(standing, _)| standing).collect()
    }

    /// The runtime of whose blanks the next should be made.
    pub(super) fn neediest_runtime(&self) -> Option<usize> {
        let unmet = (0..self.runtimes.len()).filter(|&r| self.runtimes[r].unmet() > 0);
        let needs =
            unmet.filter_map(|r| Some((after_promises(&mut self.standings(r), self.runtimes[r].making as usize)?, r)));
        needs.min().map(|(_, r)| r)
    }

    /// The version that the next blank of a full machine goes to.
    pub(super) fn neediest_version(&self, r: usize) -> Option<u32> {
        // The first of those that stand alike.
        self.waiting(r).min_by_key(|&(standing, _)| standing).map(|(_, v)| v)
    }

    /// The instances of the function that is next to get a slot, when more are wished for than are free, in the making
    /// or about to be free.
    pub(super) fn next_claim(&self) -> Option<u32> {
        let unmet: usize = self.runtimes.iter().map(|runtime| runtime.unmet()).sum();
        let coming = self.slots.ending_soon + self.slots.yielding;
        if unmet <= coming || !self.slots.is_full() {
            return None;
        }
        let mut all = Vec::new();
        for r in (0..self.runtimes.len()).filter(|&r| self.runtimes[r].unmet() > 0) {
            let mut own = self.standings(r);
            // What is in the making is for the least of this runtime.
            let (rounds, rest) =
                (self.runtimes[r].making as usize / own.len(), self.runtimes[r].making as usize % own.len());
            own.select_nth_unstable(rest);
            let promised = |at: usize| (rounds + usize::from(at < rest)) as u32;
            all.extend(own.iter().enumerate().map(|(at, &(live, since))| (live.saturating_add(promised(at)), since)));
        }
        after_promises(&mut all, coming).map(|(live, _)| live)
    }

    /// Makes room for those who wait for a slot as long as there is something that nobody needs more, and finds out
    /// who is next.
    pub(super) fn make_room(&mut self, turn: &mut Turn) {
        loop {
            self.claim = self.next_claim();
            let Some(claim) = self.claim else { return };
            let (victim, why) = match self.least_missed_instance(claim, turn.now_ns) {
                Some(instance) => (instance, KillReason::Evicted),
                // No blank is left where one is wanted, so that any ready one belongs to another runtime's pool.
                None => match self.runtimes.iter().find_map(|runtime| runtime.ready.back()) {
                    Some(blank) => (blank, KillReason::Surplus),
                    None => return,
                },
            };
            self.kill(victim, why, turn);
        }
    }

    /// The oldest idle instance, beyond those kept, of the function that was used least recently. A function that has
    /// no more than the one that waits keeps what it has just used: its next call may be on its way, and would in turn
    /// have to take back what it lost. A walk over all versions, but only when the machine is full, and far cheaper
    /// than the start that it makes room for.
    fn least_missed_instance(&mut self, claim: u32, now_ns: u64) -> Option<u32> {
        if self.slots.idle == 0 {
            return None;
        }
        let (mut found, mut next_ns) = (None, u64::MAX);
        for version in self.versions.items.iter().filter(|version| version.exists()) {
            let Some(oldest) = version.idle_oldest().filter(|_| version.tally.live() > version.policy.min_instances)
            else {
                continue;
            };
            let free_ns = self.slots.items[oldest as usize].last_used_ns.saturating_add(self.limits.eviction_grace_ns);
            if version.tally.live() <= claim && now_ns < free_ns {
                next_ns = next_ns.min(free_ns);
            } else if found.is_none_or(|(least_ns, _)| version.last_used_ns < least_ns) {
                found = Some((version.last_used_ns, oldest));
            }
        }
        if found.is_none() && next_ns < u64::MAX {
            self.timers.arm(&mut self.room_timer, next_ns, TimerKey::Room);
        }
        found.map(|(_, at)| at)
    }

    /// An instance has completed a call: whether another function has more right to its slot.
    pub(super) fn must_yield(&self, at: u32, now_ns: u64) -> bool {
        let Some(claim) = self.claim else { return false };
        let tenant = &self.slots.items[at as usize];
        if tenant.retiring.is_some() || tenant.state() != InstanceState::Busy {
            return false;
        }
        let version = &self.versions.items[tenant.version as usize];
        let live = version.tally.live();
        let had_its_turn = claim == 0 && now_ns.saturating_sub(tenant.started_ns) >= self.limits.share_quantum_ns;
        live > version.policy.min_instances && (live >= claim.saturating_add(2) || had_its_turn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_promised_goes_round_to_the_least_first() {
        let standings = [(4, 1), (0, 9), (0, 2), (1, 5)];
        let next = |promised| after_promises(&mut standings.clone(), promised);
        assert_eq!([next(0), next(1), next(2)], [Some((0, 2)), Some((0, 9)), Some((1, 5))]);
        assert_eq!((next(4), after_promises(&mut [], 3)), (Some((1, 2)), None));
    }
}
