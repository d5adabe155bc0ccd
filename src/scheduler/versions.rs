//! The table of function versions: each one's queue, its instances on their shelves, and what was learnt about it.
//!
//! It owns the map from [`VersionKey`] to index, which only `submit` and the rare calls need; everything else holds
//! the index. It decides nothing.
//!
//! Invariant: an entry lives until its version is closing and has neither calls nor instances, so that every index
//! held by a call or a tenant is good.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use super::list::{Linked, Links, List};
use super::slots::{InstanceState, Tenant};
use super::timers::TimerId;
use super::types::FunctionPolicy;
use super::warmth::Warmth;
use crate::call::{InvokeError, VersionKey};
use crate::limits::PIPE_DEPTH_MAX;

/// One shelf for each load, from idle to a full pipe.
pub(super) const SHELVES: usize = PIPE_DEPTH_MAX + 1;

/// Where a version is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// The entry is free.
    Vacant,
    /// It takes new calls.
    Active,
    /// It was removed or replaced: what was accepted is finished, idle instances go at once.
    Closing,
}

/// A version's instances by state. Idle and busy ones include those that are retiring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Tally {
    pub(super) loading: u32,
    /// Of those loading, the ones that have a call in their pipe already.
    pub(super) loading_with_call: u32,
    pub(super) idle: u32,
    pub(super) busy: u32,
    pub(super) ending: u32,
    /// Of those loading or busy, the ones that end when their pipe is empty.
    pub(super) retiring: u32,
}

impl Tally {
    /// Every instance that has not gone.
    pub(super) fn total(&self) -> u32 {
        self.loading + self.idle + self.busy + self.ending
    }

    /// Instances that serve, or will when they are loaded.
    pub(super) fn live(&self) -> u32 {
        self.loading + self.idle + self.busy - self.retiring
    }

    pub(super) fn of(&mut self, state: InstanceState) -> Option<&mut u32> {
        match state {
            InstanceState::Loading => Some(&mut self.loading),
            InstanceState::Idle => Some(&mut self.idle),
            InstanceState::Busy => Some(&mut self.busy),
            InstanceState::Ending => Some(&mut self.ending),
            InstanceState::Free | InstanceState::Making | InstanceState::Blank => None,
        }
    }
}

/// What happened to a version's calls and instances since it was deployed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Totals {
    pub(super) accepted: u64,
    pub(super) completed: u64,
    pub(super) failed: u64,
    pub(super) timed_out: u64,
    pub(super) cold_starts: u64,
    pub(super) starts: u64,
    pub(super) start_failures: u64,
    pub(super) crashes: u64,
}

#[derive(Debug)]
pub(super) struct Version {
    pub(super) key: VersionKey,
    pub(super) phase: Phase,
    /// Who takes over its calls, once it is replaced.
    pub(super) successor: Option<VersionKey>,
    pub(super) policy: FunctionPolicy,
    /// Index of its runtime.
    pub(super) runtime: u32,
    /// Calls that wait for an instance, the next one first.
    pub(super) queue: List,
    /// Instances that take calls, by load; the most recently used first.
    shelves: [List; SHELVES],
    /// One bit for each shelf that is not empty.
    shelf_map: u32,
    pub(super) tally: Tally,
    /// Calls in the table that belong to this version.
    pub(super) calls: u32,
    /// Blanks that it waits for; while above zero it is on its runtime's list.
    pub(super) wants: u32,
    /// At which public entry of the scheduler it began to wait for the next one.
    pub(super) wants_since: u64,
    links: Links,
    /// Recent service time, an exponentially weighted mean; zero while unknown.
    pub(super) service_ewma_ns: u64,
    /// Not piped to before this time, since it wrote raw output.
    pub(super) pipe_not_before_ns: u64,
    pub(super) last_used_ns: u64,
    /// When one of its instances was last loaded, or last answered.
    pub(super) served_ns: u64,
    /// Starts that failed in a row.
    pub(super) load_failures: u32,
    /// Crashes with no call completed in between, each of an instance that was started after the one before.
    pub(super) crashes: u32,
    /// When the last of them was.
    pub(super) crashed_ns: u64,
    pub(super) backoff_until_ns: u64,
    /// What a call is told that would need a start during the backoff. A crash leaves none: other calls may go well,
    /// so they wait.
    pub(super) start_error: Option<InvokeError>,
    /// How the last start failed or the last instance crashed, until one loads and answers.
    pub(super) last_trouble: Option<InvokeError>,
    pub(super) timer: TimerId,
    pub(super) totals: Totals,
    /// What keeps it warm, while its idle time is adaptive.
    pub(super) warmth: Option<Box<Warmth>>,
}

impl Linked for Version {
    fn links(&self) -> Links {
        self.links
    }
    fn links_mut(&mut self) -> &mut Links {
        &mut self.links
    }
}

impl Version {
    fn new(key: VersionKey, policy: FunctionPolicy, runtime: u32, now_ns: u64) -> Self {
        Version {
            key,
            phase: Phase::Active,
            successor: None,
            policy,
            runtime,
            queue: List::EMPTY,
            shelves: [List::EMPTY; SHELVES],
            shelf_map: 0,
            tally: Tally::default(),
            calls: 0,
            wants: 0,
            wants_since: 0,
            links: Links::NONE,
            service_ewma_ns: 0,
            pipe_not_before_ns: 0,
            last_used_ns: now_ns,
            served_ns: 0,
            load_failures: 0,
            crashes: 0,
            crashed_ns: 0,
            backoff_until_ns: 0,
            start_error: None,
            last_trouble: None,
            timer: TimerId::NONE,
            totals: Totals::default(),
            warmth: None,
        }
    }

    pub(super) fn exists(&self) -> bool {
        self.phase != Phase::Vacant
    }

    /// The idle instance that was used last.
    pub(super) fn idle_newest(&self) -> Option<u32> {
        self.shelves[0].front()
    }

    /// The idle instance that was used longest ago.
    pub(super) fn idle_oldest(&self) -> Option<u32> {
        self.shelves[0].back()
    }

    /// Of the instances with the smallest load, the one whose load changed last: the least likely to be held up.
    pub(super) fn least_loaded(&self) -> Option<(u32, u64)> {
        let load = self.shelf_map.trailing_zeros();
        let at = self.shelves.get(load as usize)?.front()?;
        Some((at, u64::from(load)))
    }

    /// Moves an instance to the shelf where it belongs now.
    pub(super) fn reshelve(&mut self, tenants: &mut [Tenant], at: u32) {
        let (from, to) = (tenants[at as usize].shelf, tenants[at as usize].shelf_wanted());
        if let Some(load) = from {
            let shelf = &mut self.shelves[usize::from(load)];
            shelf.remove(tenants, at);
            if shelf.is_empty() {
                self.shelf_map &= !(1 << load);
            }
        }
        if let Some(load) = to {
            self.shelves[usize::from(load)].push_front(tenants, at);
            self.shelf_map |= 1 << load;
        }
        tenants[at as usize].shelf = to;
    }

    pub(super) fn learn_service_time(&mut self, service_ns: u64) {
        self.service_ewma_ns = with_another(self.service_ewma_ns, service_ns);
    }
}

/// The exponentially weighted mean of service times, 0 while unknown, with another one.
pub(super) fn with_another(mean_ns: u64, service_ns: u64) -> u64 {
    let service_ns = service_ns.max(1);
    match mean_ns {
        0 => service_ns,
        known => (known - known / 8 + service_ns / 8).max(1),
    }
}

/// Keys are handed out by the server itself, so that no client can choose colliding ones: one multiplication will do.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u64(u64::from(byte)));
    }
    fn write_u64(&mut self, key: u64) {
        // The multiplier is 2^64 divided by the golden ratio; the high bits are the mixed ones.
        self.0 = (self.0 ^ key).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(32);
    }
}

#[derive(Debug, Default)]
pub(super) struct Versions {
    pub(super) items: Vec<Version>,
    free: Vec<u32>,
    by_key: HashMap<VersionKey, u32, BuildHasherDefault<KeyHasher>>,
}

impl Versions {
    pub(super) fn find(&self, key: VersionKey) -> Option<u32> {
        self.by_key.get(&key).copied()
    }

    /// Adds a version whose key is not in the table.
    pub(super) fn insert(&mut self, key: VersionKey, policy: FunctionPolicy, runtime: u32, now_ns: u64) -> u32 {
        let version = Version::new(key, policy, runtime, now_ns);
        let at = match self.free.pop() {
            Some(at) => {
                self.items[at as usize] = version;
                at
            }
            None => {
                self.items.push(version);
                (self.items.len() - 1) as u32
            }
        };
        self.by_key.insert(key, at);
        at
    }

    pub(super) fn remove(&mut self, at: u32) {
        let version = &mut self.items[at as usize];
        self.by_key.remove(&version.key);
        version.phase = Phase::Vacant;
        version.start_error = None;
        version.warmth = None;
        version.last_trouble = None;
        self.free.push(at);
    }

    /// The version that is to run this one's calls now: itself, or the youngest of its successors that still exists.
    /// Successors are younger than what they replace, so that the walk ends.
    pub(super) fn resolve(&self, mut at: u32) -> u32 {
        while let Some(next) = self.items[at as usize].successor.and_then(|key| self.find(key)) {
            at = next;
        }
        at
    }

    /// The indices of all versions.
    pub(super) fn indices(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.items.len() as u32).filter(|&at| self.items[at as usize].exists())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::RuntimeId;

    fn policy() -> FunctionPolicy {
        FunctionPolicy {
            runtime: RuntimeId(0),
            timeout_ns: 1,
            min_instances: 0,
            max_instances: 1,
            invocations_max: u64::MAX,
            idle_ttl: None,
        }
    }

    #[test]
    fn calls_follow_the_successors_as_far_as_they_exist() {
        let mut versions = Versions::default();
        let at: Vec<u32> = (1..=3).map(|key| versions.insert(VersionKey(key), policy(), 0, 0)).collect();
        versions.items[at[0] as usize].successor = Some(VersionKey(2));
        versions.items[at[1] as usize].successor = Some(VersionKey(3));
        assert_eq!(versions.resolve(at[0]), at[2]);
        versions.remove(at[2]);
        assert_eq!(versions.resolve(at[0]), at[1]);
        assert_eq!((versions.find(VersionKey(3)), versions.indices().count()), (None, 2));
    }

    #[test]
    fn service_time_is_known_from_the_first_call_and_follows_slowly() {
        let mut version = Version::new(VersionKey(1), policy(), 0, 0);
        version.learn_service_time(0);
        assert_eq!(version.service_ewma_ns, 1);
        version.service_ewma_ns = 80_000;
        version.learn_service_time(160_000);
        assert_eq!(version.service_ewma_ns, 90_000);
        version.service_ewma_ns = u64::MAX;
        version.learn_service_time(u64::MAX);
        assert!(version.service_ewma_ns > u64::MAX / 2);
    }
}
