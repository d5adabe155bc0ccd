//! What the scheduler can tell about itself: read on request, counted in passing.

use super::idle::{IdleBasis, Level};
use super::slots::InstanceState;
use super::types::{IdleTtl, RuntimeId};
use super::versions::Version;
use super::Scheduler;
use crate::call::{InvokeError, Slot, VersionKey};

/// A version's instances by state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct InstanceCounts {
    /// They run the function's top-level code.
    pub loading: u32,
    /// They have nothing to do.
    pub idle: u32,
    /// They run a call.
    pub busy: u32,
    /// They were killed and are not gone yet.
    pub ending: u32,
}

/// One version's present and past, since it was deployed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VersionStats {
    /// Which version.
    pub version: VersionKey,
    /// Calls that wait for an instance.
    pub queued: usize,
    /// Calls that were sent to an instance and have not come back.
    pub running: usize,
    /// Its instances.
    pub instances: InstanceCounts,
    /// Instances that wait for a blank to be made of.
    pub wanted: u32,
    /// Calls accepted.
    pub accepted: u64,
    /// Calls answered by the function in time, errors of the function included.
    pub completed: u64,
    /// Calls that the scheduler failed, for whatever reason.
    pub failed: u64,
    /// Of those failed, the ones whose time was up.
    pub timed_out: u64,
    /// Calls for which an instance was started.
    pub cold_starts: u64,
    /// Instances started, for calls or to be kept warm.
    pub starts: u64,
    /// Starts that failed.
    pub start_failures: u64,
    /// Instances that died by themselves after they were loaded.
    pub crashes: u64,
    /// Recent service time, a moving mean; `None` before the first answer.
    pub service_ewma_ns: Option<u64>,
}

/// How a version's instances stay idle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdleStats {
    /// In which way.
    pub ttl: IdleTtl,
    /// What was learnt, for each instance of the function's stack of instances: the first is the one that is used
    /// whenever the function is, the second is used when two are. Empty while nothing was, and with a fixed time.
    pub levels: Vec<IdleLevelStats>,
    /// Instances started ahead of a call.
    pub prewarmed: u64,
    /// Of these, the ones that got a call.
    pub prewarmed_used: u64,
    /// Of these, the ones that ended without one.
    pub prewarmed_wasted: u64,
}

/// What is known of the idle times of one level of instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdleLevelStats {
    /// It is warm from this long after it was last used; zero when it is kept.
    pub warm_from_ns: u64,
    /// It is warm until this long after it was last used.
    pub warm_until_ns: u64,
    /// What these were computed from.
    pub basis: IdleBasis,
    /// Whether the histogram shows a pattern.
    pub representative: bool,
    /// Idle times counted.
    pub idle_times: u64,
}

/// Why instances of a version come slowly or not at all, from its first failure to its recovery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trouble<'a> {
    /// Starts that failed in a row.
    pub start_failures: u32,
    /// Crashes in a row, with no call answered in between. Instances that died together are one.
    pub crashes: u32,
    /// No instance is started before; `None` when the next call or wish starts one.
    pub backoff_until_ns: Option<u64>,
    /// How the last one failed.
    pub error: &'a InvokeError,
}

/// One instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InstanceStats {
    /// Which instance.
    pub slot: Slot,
    /// What it is an instance of.
    pub version: VersionKey,
    /// What it does.
    pub state: InstanceState,
    /// It ends when its pipe is empty.
    pub draining: bool,
    /// Calls in its pipe.
    pub in_pipe: usize,
    /// When it was assigned.
    pub started_ns: u64,
    /// When it last got or answered a call.
    pub last_used_ns: u64,
    /// Calls it answered.
    pub invocations: u64,
}

/// One runtime's pool of blanks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolStats {
    /// Which runtime.
    pub runtime: RuntimeId,
    /// Blanks that wait for a function.
    pub ready: usize,
    /// Blanks in the making.
    pub making: usize,
    /// Instances that wait for a blank.
    pub wanted: usize,
    /// Failures in a row to make one.
    pub failures: u32,
}

impl Scheduler {
    /// Every version that is not drained.
    pub fn version_stats(&self) -> impl Iterator<Item = VersionStats> + '_ {
        self.versions.items.iter().filter(|version| version.exists()).map(stats_of)
    }

    /// One version.
    #[must_use]
    pub fn stats_of_version(&self, version: VersionKey) -> Option<VersionStats> {
        self.versions.find(version).map(|v| stats_of(&self.versions.items[v as usize]))
    }

    /// How one version's instances stay idle, and what was learnt of its function for that.
    #[must_use]
    pub fn idle_stats(&self, version: VersionKey) -> Option<IdleStats> {
        let v = self.versions.find(version)?;
        let mut stats = IdleStats {
            ttl: self.idle_ttl(v),
            levels: Vec::new(),
            prewarmed: 0,
            prewarmed_used: 0,
            prewarmed_wasted: 0,
        };
        if let Some(warmth) = &self.versions.items[v as usize].warmth {
            stats.levels = warmth.pattern.levels().iter().map(Level::stats).collect();
            (stats.prewarmed, stats.prewarmed_used, stats.prewarmed_wasted) =
                (warmth.prewarmed, warmth.used, warmth.wasted);
        }
        Some(stats)
    }

    /// What keeps a version from having instances, if anything does.
    #[must_use]
    pub fn trouble_of_version(&self, version: VersionKey) -> Option<Trouble<'_>> {
        let version = &self.versions.items[self.versions.find(version)? as usize];
        let error = version.last_trouble.as_ref()?;
        let pauses = version.backoff_until_ns > self.now_ns;
        Some(Trouble {
            start_failures: version.load_failures,
            crashes: version.crashes,
            backoff_until_ns: pauses.then_some(version.backoff_until_ns),
            error,
        })
    }

    /// Every instance, in the order of slots; blanks are none.
    pub fn instance_stats(&self) -> impl Iterator<Item = InstanceStats> + '_ {
        (0..self.slots.items.len() as u32).filter_map(|at| self.stats_of_slot(at))
    }

    /// One instance.
    #[must_use]
    pub fn stats_of_instance(&self, slot: Slot) -> Option<InstanceStats> {
        self.slots.find(slot).and_then(|at| self.stats_of_slot(at))
    }

    /// Every runtime's pool.
    pub fn pool_stats(&self) -> impl Iterator<Item = PoolStats> + '_ {
        self.runtimes.iter().map(|runtime| PoolStats {
            runtime: runtime.id,
            ready: runtime.ready.len(),
            making: runtime.making as usize,
            wanted: runtime.demand as usize,
            failures: runtime.failures,
        })
    }

    /// Whether who lives or is to live in this slot is a container.
    #[must_use]
    pub fn is_for_container(&self, slot: Slot) -> bool {
        let tenant = self.slots.find(slot).map(|at| &self.slots.items[at as usize]);
        let runtime = tenant.and_then(|tenant| self.runtimes.get(tenant.runtime as usize));
        runtime.is_some_and(|runtime| runtime.id.is_container())
    }

    /// Calls that the server holds, waiting and running.
    #[must_use]
    pub fn invocations(&self) -> usize {
        self.calls.len()
    }

    fn stats_of_slot(&self, at: u32) -> Option<InstanceStats> {
        let tenant = &self.slots.items[at as usize];
        if tenant.state() == InstanceState::Free {
            return None;
        }
        let version = self.versions.items.get(tenant.version as usize)?;
        Some(InstanceStats {
            slot: self.slots.slot(at),
            version: version.key,
            state: tenant.state(),
            draining: tenant.retiring.is_some(),
            in_pipe: tenant.pipe.len(),
            started_ns: tenant.started_ns,
            last_used_ns: tenant.last_used_ns,
            invocations: tenant.invocations,
        })
    }
}

fn stats_of(version: &Version) -> VersionStats {
    let (tally, totals) = (&version.tally, &version.totals);
    VersionStats {
        version: version.key,
        queued: version.queue.len(),
        running: version.calls as usize - version.queue.len(),
        instances: InstanceCounts { loading: tally.loading, idle: tally.idle, busy: tally.busy, ending: tally.ending },
        wanted: version.wants,
        accepted: totals.accepted,
        completed: totals.completed,
        failed: totals.failed,
        timed_out: totals.timed_out,
        cold_starts: totals.cold_starts,
        starts: totals.starts,
        start_failures: totals.start_failures,
        crashes: totals.crashes,
        service_ewma_ns: (version.service_ewma_ns > 0).then_some(version.service_ewma_ns),
    }
}
